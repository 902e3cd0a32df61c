"""All cases, in a fixed order."""

from __future__ import annotations

from badinput.case import Case
from badinput.commandlines import command_line_cases
from badinput.configurations import configuration_cases
from badinput.damage import damage_cases
from badinput.datafiles import data_file_cases
from badinput.escapes import escape_cases
from badinput.streams import stream_cases

FAMILIES = (
    command_line_cases, configuration_cases, data_file_cases, damage_cases, escape_cases,
    stream_cases,
)  # fmt: skip


def all_cases(seed: int) -> list[Case]:
    """Every case of this seed, each name once."""
    found: dict[str, Case] = {}
    for family in FAMILIES:
        for case in family(seed):
            found.setdefault(case.name.encode("ascii", "backslashreplace").decode(), case)
    return list(found.values())
