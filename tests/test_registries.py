"""What is found by name is documented and tested: what was forgotten is named.

docs/registries.py makes the tables of the documentation from the registries (metrics, scores,
commands, data sets, graph models, encodings, and the bijections that `graphcnf.flows` exports). The
tests of each kind are in a folder of their own, in which every name stands.
"""

import importlib.util
import re
import sys
from pathlib import Path

import pytest
from installed import installed
from rdkit import Chem

from graphcnf.errors import UserError
from graphcnf.evaluation import METRICS
from graphcnf.evaluation.statistics import compare
from graphcnf.molecules.descriptors import qed
from graphcnf.optimization import SCORES
from graphcnf.optimization.objectives import Goal
from graphcnf.scripts.cli import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
TESTS = {
    "metrics": "evaluation",
    "scores": "optimization",
    "commands": "scripts images training stereo",
    "data sets": "datasets",
    "graph models": "graphs baselines",
    "encodings": "categorical/conftest.py",
    "bijections": "flows",
}
"""Folders of tests, or files, in which every name of a kind stands."""


def load(path):
    """A file of the documentation as a module."""
    spec = importlib.util.spec_from_file_location(f"documentation_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


registries = load(ROOT / "docs" / "registries.py")
KINDS = registries.kinds()
PAGES = {page.name: page.read_text() for page in sorted((ROOT / "docs").glob("*.md"))}


@pytest.mark.parametrize("kind", KINDS)
def test_everything_with_a_name_has_a_definition(kind):
    for name, thing in KINDS[kind].things.items():
        cells = KINDS[kind].cells(name, thing)
        lacking = [title for title, cell in zip(KINDS[kind].head, cells, strict=True) if not cell]
        assert lacking == [], f"{name!r} of {kind} lacks {lacking}: write its docstring"


def test_every_kind_has_its_table_in_one_page():
    found = [kind for text in PAGES.values() for kind, _ in registries.MARKER.findall(text)]
    assert sorted(found) == sorted(KINDS)
    shown = "".join(map(registries.with_tables, PAGES.values()))
    assert "<!-- rows of" not in shown and "registries.py" not in shown
    for kind in KINDS.values():
        assert kind.table() in shown
        assert len({line.count(" | ") for line in kind.table().splitlines()}) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_everything_with_a_name_is_tested(kind):
    places = [ROOT / "tests" / place for place in TESTS[kind].split()]
    files = [file for place in places for file in ([place] if place.suffix else place.glob("*.py"))]
    text = "\n".join(file.read_text() for file in files)
    # A transform is built, or its class is given to a function; all others are named in quotes.
    mention = r"\b{0}\(|\({0}," if kind == "bijections" else r"[\"']{}[\"']"
    wrong = [
        f"no test in tests/{TESTS[kind]} names {name!r} of {kind}"
        for name in KINDS[kind].things
        if not re.search(mention.format(re.escape(name)), text)
    ]
    assert not wrong, "\n" + "\n".join(wrong)


def test_no_page_counts_the_metrics():
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    assert [page.name for page in pages if re.search(r"\d+ metrics", page.read_text())] == []


def test_the_measured_table_of_metrics_has_their_titles_and_directions():
    known = {(metric.title, metric.better) for metric in METRICS.values()}
    table = (ROOT / "docs" / "evaluation.md").read_text().partition("\n| | better |")[2]
    rows = [line.split(" | ")[:2] for line in table.partition("\n\n")[0].split("\n")[2:]]
    assert len(rows) > 10
    assert {(title.removeprefix("| "), better) for title, better in rows} <= known


def test_bases_are_bijections():
    assert set(registries.BASES) <= set(registries.bijections())


@pytest.fixture
def own_parts(tmp_path):
    names = {
        "graphcnf.metrics": {"oxygen_tv": "own_parts:OXYGEN_TV", "snn": "own_parts:OXYGEN_TV"},
        "graphcnf.scores": {
            "oxygens": "own_parts:oxygens",
            "near": "own_parts:near",
            "qed": "own_parts:oxygens",
        },
    }
    code = (ROOT / "tests" / "own_parts.py").read_text()
    with installed(tmp_path, "own_parts", code, names, METRICS, SCORES):
        yield


def test_an_installed_package_adds_a_metric(own_parts):
    assert compare(["CO"], ["CC", "CO"], metrics=["oxygen_tv"]).values == {"oxygen_tv": 0.5}
    assert METRICS["snn"].title == "SNN" and list(METRICS).count("snn") == 1


def test_an_installed_package_adds_a_score(own_parts):
    goal = Goal([{"score": "oxygens"}, {"score": "near", "to": "3", "clip": [-3, 0]}], "arithmetic")
    assert goal(Chem.MolFromSmiles("OCCO"), "OCCO") == ((2 + 2 / 3) / 2, {"oxygens": 2, "near": -1})
    with pytest.raises(UserError, match="near needs 'to'"):
        Goal.of("near")
    assert SCORES["qed"] is qed and list(SCORES).count("qed") == 1


def test_every_module_of_commands_is_named_as_one():
    modules = {path.stem for path in (ROOT / "scripts").glob("[!_]*.py")} - {"cli"}
    assert modules <= set(COMMANDS), "name them in COMMANDS of scripts/cli.py"
