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


def pytest_generate_tests(metafunc):
    """One test per case, and one per command that is given good input."""
    if "path" in metafunc.fixturenames:
        from badinput.commandlines import NOT_HERE, USUAL

        paths = [path for path in USUAL if path not in NOT_HERE]
        # Other tests play the commands, too: every run of the tests needs it no second time.
        chosen = paths if metafunc.config.getoption("fuzz_all", False) else paths[:1]
        metafunc.parametrize("path", chosen, ids=" ".join)
    if "case" not in metafunc.fixturenames:
        return
    from badinput.everything import by_family

    families = by_family(metafunc.config.getoption("fuzz_seed", SEED))
    if not metafunc.config.getoption("fuzz_all", False):
        quick = [[case for case in family if not case.starts] for family in families]
        families = [Random(SEED).sample(some, min(SAMPLE, len(some))) for some in quick]
    cases = [case for family in families for case in family]
    marks = [pytest.mark.xdist_group(f"fuzz-{k % 8}") for k in range(8)]
    metafunc.parametrize(
        "case", [pytest.param(c, id=c.name, marks=marks[k % 8]) for k, c in enumerate(cases)]
    )


@pytest.fixture(scope="session")
def stage(tmp_path_factory):
    """Where the cases are played."""
    from badinput.stage import Stage

    return Stage(tmp_path_factory.mktemp("stage"))
