"""Bad input by the thousand: a sample of it in every test run, all of it with --fuzz-all."""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random

import pytest

# The cases are modules of their own, and tests are no package to import them from.
sys.path.insert(0, str(Path(__file__).parent))

SEED = 0
SAMPLE = 40
"""Cases of each family in a usual test run."""


def families(seed: int) -> list[list]:
    """Return all cases of a seed in a fixed order, a list for each family, each name once."""
    from badinput.commandlines import command_line_cases
    from badinput.configurations import configuration_cases
    from badinput.datafiles import data_file_cases
    from badinput.folders import damage_cases, place_cases, pruned_cases, state_cases
    from badinput.texts import escape_cases, stream_cases

    known: set[str] = set()
    found = []
    for family in (command_line_cases, configuration_cases, data_file_cases, damage_cases,
                   escape_cases, stream_cases, place_cases, state_cases, pruned_cases):  # fmt: skip
        cases = {c.name.encode("ascii", "backslashreplace").decode(): c for c in family(seed)}
        found.append([case for name, case in cases.items() if name not in known])
        known |= cases.keys()
    return found


def pytest_generate_tests(metafunc):
    """One test per case, and one per command that is given good input."""
    play_all = metafunc.config.getoption("fuzz_all", False)
    if "path" in metafunc.fixturenames:
        from badinput.commandlines import USUAL, callbacks

        # Other tests play the commands, too: every run of the tests needs it no second time.
        known = [path for path, _ in callbacks()]
        chosen = known if play_all else [*known[:1], *(p for p in known if p not in USUAL)]
        metafunc.parametrize("path", chosen, ids=" ".join)
    if "case" not in metafunc.fixturenames:
        return
    drawn = families(metafunc.config.getoption("fuzz_seed", SEED))
    if not play_all:
        quick = [[case for case in family if not case.starts] for family in drawn]
        drawn = [Random(SEED).sample(some, min(SAMPLE, len(some))) for some in quick]
    cases = [case for family in drawn for case in family]
    metafunc.parametrize("case", cases, ids=[case.name for case in cases])


@pytest.fixture(scope="session")
def stage(tmp_path_factory):
    """A place where the cases are played."""
    from badinput.stage import Stage

    return Stage(tmp_path_factory.mktemp("stage"))
