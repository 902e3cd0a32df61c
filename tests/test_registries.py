"""What is found by name is documented and tested: what was forgotten is named.

docs/registries.py makes the tables of the documentation from the registries (metrics, properties,
scores, commands, data sets, graph models, encodings, and the bijections that `graphcnf.flows`
exports). The tests of each kind are in a folder of their own, in which every name stands.
"""

import importlib.util
import inspect
import re
import sys
from pathlib import Path

import pytest
from installed import installed
from rdkit import Chem
from test_docstrings import module_of

import graphcnf.flows
from graphcnf.categorical.learned_encodings import ENCODINGS, Encoding
from graphcnf.chemistry.descriptors import PROPERTIES, qed
from graphcnf.datasets import MOLECULES
from graphcnf.errors import UserError
from graphcnf.evaluation import METRICS
from graphcnf.evaluation.metrics import Metric
from graphcnf.evaluation.statistics import compare
from graphcnf.graphs import GraphModel
from graphcnf.graphs.graph_model import GRAPH_MODELS
from graphcnf.images.image_model import IMAGE_MODELS, ImageModel
from graphcnf.optimization import SCORES
from graphcnf.optimization.objectives import Goal, parameters_of
from graphcnf.scripts.cli import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
TESTS = {
    "metrics": "evaluation",
    "properties": "optimization",
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
        cures = {"Page": "name it in COMMAND_PAGES of docs/registries.py"}
        cure = ", and ".join(sorted({cures.get(title, "write its docstring") for title in lacking}))
        assert lacking == [], f"{name!r} of {kind} lacks {lacking}: {cure}"


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
        f"{name!r} of {kind}: no test names it in quotes, in one of tests/ {TESTS[kind]}"
        for name in KINDS[kind].things
        if not re.search(mention.format(re.escape(name)), text)
    ]
    assert not wrong, "\n" + "\n".join(wrong)


def is_metric(thing):
    return isinstance(thing, Metric)


def compares_sets(thing):
    """Whether a thing is a function of the statistics of two sets, as those of metrics are."""
    return inspect.isfunction(thing) and [*parameters(thing)][:2] == ["generated", "reference"]


def is_score(thing):
    """Whether a thing is a function of a molecule, or makes one from keyword-only arguments."""
    if not inspect.isfunction(thing):
        return False
    makes = {one.kind for one in parameters(thing).values()} == {inspect.Parameter.KEYWORD_ONLY}
    numbers = thing.__annotations__.get("return") in ("float", "int")
    return makes or (numbers and [*parameters(thing)] in (["mol"], ["smiles"]))


def is_loader(thing):
    """Whether a thing is a function that loads molecules, and needs no argument for it."""
    if not inspect.isfunction(thing) or thing.__annotations__.get("return") != "MoleculeDataset":
        return False
    return all(one.default is not one.empty for one in parameters(thing).values())


def parameters(function):
    return inspect.signature(function).parameters


FUNCTIONS = [getattr(metric.function, "func", metric.function) for metric in METRICS.values()]
EXPORTED = [getattr(graphcnf.flows, name) for name in graphcnf.flows.__all__]
PLACES = [
    ("evaluation/metrics.py", is_metric, METRICS.values(), "METRICS of evaluation/__init__.py"),
    ("evaluation/metrics.py", compares_sets, FUNCTIONS, "a Metric of the same file"),
    ("optimization", is_score, SCORES.values(), "SCORES of graphcnf/optimization/__init__.py"),
    ("chemistry/descriptors.py", is_score, PROPERTIES.values(), "TABLE of the same file"),
    ("graphs", GraphModel, GRAPH_MODELS.values(), "GRAPH_MODELS of graphcnf/graphs/graph_model.py"),
    ("baselines", GraphModel, GRAPH_MODELS.values(), "GRAPH_MODELS of graphs/graph_model.py"),
    ("images", ImageModel, IMAGE_MODELS.values(), "IMAGE_MODELS of graphcnf/images/image_model.py"),
    ("baselines", ImageModel, IMAGE_MODELS.values(), "IMAGE_MODELS of images/image_model.py"),
    ("categorical", Encoding, ENCODINGS.values(), "ENCODINGS of categorical/learned_encodings.py"),
    ("../datasets", is_loader, MOLECULES.values(), "MOLECULES of datasets/__init__.py"),
    ("flows", graphcnf.flows.Transform, EXPORTED, "the exports of graphcnf/flows/__init__.py"),
]
"""A folder or file, what is looked for in it, what a table names, and where the table is."""


@pytest.mark.parametrize("name", MOLECULES.own)
def test_loaders_take_the_number_of_workers(name):
    function = MOLECULES[name]
    assert "workers" in parameters(function), (
        f"{function.__name__} lacks workers=, which commands give"
    )


@pytest.mark.parametrize(("place", "kind", "named", "where"), PLACES)
def test_what_a_folder_holds_is_named_in_its_table(place, kind, named, where):
    path = (ROOT / "graphcnf" / place).resolve()
    modules = map(module_of, sorted(path.rglob("*.py")) if path.is_dir() else [path])
    things = {
        name: thing
        for module in modules
        for name, thing in vars(module).items()
        if name[0] != "_" and getattr(thing, "__module__", "").startswith("graphcnf.")
    }
    lacking = sorted(name for name, thing in things.items() if is_forgotten(thing, kind, named))
    assert lacking == [], f"{', '.join(lacking)} of {path.relative_to(ROOT)}: name it in {where}"


def is_forgotten(thing, kind, named):
    """Whether a thing is of a kind, and neither named nor a base of a class that is."""
    if not inspect.isclass(kind):
        return kind(thing) and thing not in named
    if not (inspect.isclass(thing) and issubclass(thing, kind)):
        return False
    return not any(issubclass(one, thing) for one in named if inspect.isclass(one))


def test_no_property_or_score_has_a_second_name(zinc_smiles):
    molecules = [(Chem.MolFromSmiles(text), text) for text in zinc_smiles[:50]]
    known = {}
    for name in [name for name in SCORES.own if not parameters_of(SCORES[name])]:
        goal = Goal.of(name)
        first = known.setdefault(tuple(goal(*one)[0] for one in molecules), name)
        assert first == name, f"the scores {first!r} and {name!r} are the same: leave one out"


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
