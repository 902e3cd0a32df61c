"""All cases, in a fixed order."""

from __future__ import annotations

from badinput.case import Case
from badinput.commandlines import command_line_cases
from badinput.configurations import configuration_cases
from badinput.damage import damage_cases
from badinput.datafiles import data_file_cases
from badinput.places import place_cases
from badinput.state import state_cases
from badinput.streams import stream_cases

FAMILIES = (
    command_line_cases, configuration_cases, data_file_cases, damage_cases, stream_cases,
    place_cases, state_cases,
)  # fmt: skip


def all_cases(seed: int) -> list[Case]:
    """Every case of this seed, each name once."""
    return [case for family in by_family(seed) for case in family]


def by_family(seed: int) -> list[list[Case]]:
    """The same, a list for each family."""
    found: dict[str, Case] = {}
    families: list[list[Case]] = []
    for family in FAMILIES:
        before = len(found)
        for case in family(seed):
            found.setdefault(case.name.encode("ascii", "backslashreplace").decode(), case)
        families.append(list(found.values())[before:])
    return families
