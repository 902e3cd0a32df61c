"""The hops that the page lists are made, in the order in which it lists them."""

import importlib
import inspect
import re
import sys
from pathlib import Path

import pytest

import graphcnf

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE = (DOCS / "where-is-what.md").read_text()
SECTIONS = [part for part in PAGE.split("\n## ") if "| hop |" in part]


def hops(section):
    return re.findall(r"^\| \d+ \| \[`[^`]+`\]\[([\w.]+)\]", section, flags=re.MULTILINE)


def found(name):
    """The object of a dotted name."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            thing = getattr(thing, part)
        return thing
    raise AssertionError(name)


@pytest.fixture(scope="module")
def flow():
    return graphcnf.MoleculeFlow.from_pretrained("zinc250k")


@pytest.mark.parametrize("number", [0, 1])
def test_hops_are_made_in_this_order(flow, number):
    names = hops(SECTIONS[number])
    assert 5 < len(names) <= 12
    codes = [getattr(found(name), "__wrapped__", found(name)).__code__ for name in names]
    called = []

    def record(frame, event, _):
        if event == "call" and frame.f_code in codes and frame.f_code not in called:
            called.append(frame.f_code)

    sys.setprofile(record)
    try:
        flow.log_prob("CC(=O)Nc1ccc(O)cc1") if number == 0 else flow.sample(1, seed=0)
    finally:
        sys.setprofile(None)
    assert [names[codes.index(code)] for code in called] == names


@pytest.mark.parametrize("page", [*DOCS.rglob("*.md")], ids=lambda page: page.stem)
def test_names_on_pages_lead_to_their_code(page):
    text = page.read_text()
    names = set(re.findall(r"\]\[(graphcnf\.[\w.]+)\]", text))
    links = dict(re.findall(r"^\[(graphcnf\.[\w.]+)\]: (\S+)$", text, flags=re.MULTILINE))
    assert names == set(links)
    for name, link in links.items():
        thing = inspect.unwrap(found(name))
        assert (page.parent / link).resolve() == Path(inspect.getsourcefile(thing)), name
