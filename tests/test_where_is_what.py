"""The hops that the page lists are made, in the order in which it lists them."""

import importlib
import inspect
import re
import sys
from pathlib import Path

import pytest
from test_package import CORE, ROOT, WINGS, folder

import graphcnf
from graphcnf.graphs.graph_model import GRAPH_MODELS

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


def test_every_folder_file_at_the_top_and_registry_is_on_the_page():
    rows = {line.split("`")[1]: line for line in PAGE.splitlines() if line.startswith("| `")}
    places = {part: str(folder(part).relative_to(ROOT)) for part in (*CORE, *WINGS)}
    needed = [(one, places[wing]) for wing, others in WINGS.items() for one in others]
    tops = {path.stem for path in (ROOT / "graphcnf").glob("[!_]*.py")} - {"testing"}
    needed += [(name, "graphcnf/*.py") for name in sorted(tops)]
    models = [re.match(r"graphcnf\.graphs\.(\w+)", text) for text in GRAPH_MODELS.own.values()]
    needed += [(found[1], "graphcnf/graphs") for found in models if found]
    lacking = [f"a row of `{place}`" for place in places.values() if place not in rows]
    lacking += [
        f"`{name}` in the row of `{row}`"
        for name, row in needed
        if not re.search(f"`{re.escape(name)}/?`", rows.get(row, ""))
    ]
    code = [
        path.read_text()
        for top in ("graphcnf", "datasets", "scripts")
        for path in (ROOT / top).rglob("*.py")
    ]
    tables = re.findall(r"^(\w+) = Registry\(", "\n".join(code), flags=re.MULTILINE)
    lacking += [f"the table `{name}`" for name in tables if f"`{name}`" not in PAGE]
    assert lacking == [], f"docs/where-is-what.md lacks {'; '.join(lacking)}"


@pytest.mark.parametrize("page", [*DOCS.rglob("*.md")], ids=lambda page: page.stem)
def test_names_on_pages_lead_to_their_code(page):
    text = page.read_text()
    names = set(re.findall(r"\]\[(graphcnf\.[\w.]+)\]", text))
    links = dict(re.findall(r"^\[(graphcnf\.[\w.]+)\]: (\S+)$", text, flags=re.MULTILINE))
    assert names == set(links)
    for name, link in links.items():
        thing = inspect.unwrap(found(name))
        assert (page.parent / link).resolve() == Path(inspect.getsourcefile(thing)), name
