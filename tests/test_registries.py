"""What is found by name is documented and tested: what was forgotten is named.

Every kind of thing that has names (metrics, scores, commands, data sets, graph models, encodings,
and the bijections that `graphcnf.flows` exports) has a table in the documentation, whose rows begin
as this module says, and tests in a folder of their own, in which the name stands.
"""

import ast
import inspect
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer
from installed import installed
from rdkit import Chem

import graphcnf.flows
from graphcnf.categorical.learned_encodings import ENCODINGS
from graphcnf.datasets import MOLECULES
from graphcnf.errors import UserError
from graphcnf.evaluation import METRICS
from graphcnf.evaluation.statistics import compare
from graphcnf.graphs.graph_model import GRAPH_MODELS
from graphcnf.molecules.properties import COUNTS, PROPERTIES
from graphcnf.optimization import SCORES
from graphcnf.optimization.objectives import Goal, parameters_of
from graphcnf.sampling.writers import TYPES
from graphcnf.scripts.cli import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
BASES = ("Bijection", "Coupling")  # of other bijections, and none themselves


def first_paragraph(text):
    """The first paragraph of a docstring as a cell of a table, without the verb."""
    line = " ".join(inspect.cleandoc(text or "").split("\n\n")[0].split())
    for verb in ("Return ", "a score: ", "Load "):
        line = line.removeprefix(verb)
    line = re.sub(r"arXiv ([\d.]+\d)", r"[arXiv \1](https://arxiv.org/abs/\1)", line)
    return line.replace("``", "`").replace("|", r"\|").removesuffix(".")


def definition(thing):
    """What the docstring of a function or class says first, or the help of several commands."""
    if isinstance(thing, typer.Typer):
        return first_paragraph(thing.info.help)
    return first_paragraph(getattr(thing, "func", thing).__doc__)


def definition_of_metric(name):
    """The string below a metric, which is at the top level of its module."""
    module, _, constant = METRICS.own[name].partition(":")
    body = ast.parse(Path(find_spec(module).origin).read_text()).body
    for line, below in zip(body, [*body[1:], None], strict=True):
        if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == constant:
            said = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            return first_paragraph(below.value.value if said else "")
    raise AssertionError(f"{module} has no {constant}")


def row(*cells):
    return "".join(f"| {cell} " for cell in cells)


def row_of_metric(name, metric):
    needs = f"`{metric.needs}`" if metric.needs else "–"
    return row(f"`{name}`", metric.title, definition_of_metric(name), metric.better, needs)


def row_of_score(name, score):
    parameters = ", ".join(f"`{one}`" for one in parameters_of(score))
    return row(f"`{name}`", parameters or "–", definition(score))


def row_of_thing(name, thing):
    return row(f"`{name}`", definition(thing))


@dataclass
class Kind:
    """Things of one kind, and where they are documented and tested.

    Attributes:
        things: The things by name.
        page: Page with the table.
        heading: How the table begins.
        tests: Folders of tests, or files, in which every name stands.
        row: Function that returns how the row of a name and its thing begins.
    """

    things: dict
    page: str
    heading: str
    tests: str
    row: callable = row_of_thing

    @property
    def rows(self):
        text = (ROOT / self.page).read_text()
        assert f"\n{self.heading}" in text, f"{self.page} has no table {self.heading!r}"
        table = text.partition(f"\n{self.heading}")[2].partition("\n\n")[0]
        return table.split("\n")[2:]


def own(registry):
    """What the package itself names, without what is installed beside it."""
    return {name: registry[name] for name in registry.own}


def bijections():
    exported = {name: getattr(graphcnf.flows, name) for name in graphcnf.flows.__all__}
    return {
        name: thing
        for name, thing in exported.items()
        if inspect.isclass(thing) and issubclass(thing, graphcnf.flows.Bijection)
    }


KINDS = {
    "metric": Kind(
        own(METRICS),
        "docs/evaluation.md",
        "| Metric | Title |",
        "evaluation",
        row_of_metric,
    ),
    "score": Kind(own(SCORES), "docs/optimising.md", "| Score |", "optimization", row_of_score),
    "command": Kind(
        own(COMMANDS), "docs/index.md", "| Command |", "scripts images training stereo"
    ),
    "data set": Kind(own(MOLECULES), "docs/evaluation.md", "| Data set |", "datasets"),
    "graph model": Kind(
        own(GRAPH_MODELS), "docs/how-it-works.md", "| Architecture |", "graphs baselines"
    ),
    "encoding": Kind(
        own(ENCODINGS), "docs/discrete-data.md", "| Encoding |", "categorical/conftest.py"
    ),
    "bijection": Kind(
        {name: thing for name, thing in bijections().items() if name not in BASES},
        "docs/how-it-works.md",
        "| Bijection |",
        "flows",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_everything_with_a_name_is_documented(kind):
    one = KINDS[kind]
    expected = {name: one.row(name, thing) for name, thing in one.things.items()}
    wrong = [
        f'{kind} "{name}" has no docstring'
        for name, beginning in expected.items()
        if "|  " in beginning
    ]
    wrong += [
        f'{one.page} lacks this row of the {kind} "{name}": {beginning}|'
        for name, beginning in expected.items()
        if not any(line.startswith(beginning) for line in one.rows)
    ]
    wrong += [
        f"{one.page} has a row that no {kind} has: {line}"
        for line in one.rows
        if not line.startswith(tuple(expected.values()))
    ]
    assert not wrong, "\n" + "\n".join(wrong)


@pytest.mark.parametrize("kind", KINDS)
def test_everything_with_a_name_is_tested(kind):
    places = [ROOT / "tests" / place for place in KINDS[kind].tests.split()]
    files = [file for place in places for file in ([place] if place.suffix else place.glob("*.py"))]
    text = "\n".join(file.read_text() for file in files)
    # A transform is built, or its class is given to a function; all others are named in quotes.
    mention = r"\b{0}\(|\({0}," if kind == "bijection" else r"[\"']{}[\"']"
    wrong = [
        f'no test in tests/{KINDS[kind].tests} names the {kind} "{name}"'
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


def test_properties_are_scores_and_stand_in_the_help():
    from graphcnf.scripts._options import Properties

    place = "_PROPERTIES of graphcnf/optimization/__init__.py"
    lacking = [name for name in PROPERTIES if name not in SCORES]
    assert not lacking, f"{place} lacks {', '.join(lacking)}"
    assert [name for name in PROPERTIES if SCORES[name] is not PROPERTIES[name]] == []
    listed = Properties.__metadata__[0].help.partition(": ")[2].rstrip(".").split(", ")
    types = [name for name in COUNTS if TYPES.get(name) != "int64"]
    assert types == [], "not in TYPES of graphcnf/sampling/writers.py"
    assert listed == list(PROPERTIES), "the help of Properties in graphcnf/scripts/_options.py"


def test_bases_are_bijections():
    assert set(BASES) <= set(bijections())


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
    assert SCORES["qed"] is PROPERTIES["qed"] and list(SCORES).count("qed") == 1
