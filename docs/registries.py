"""Tables of what has a name, made from the registries: `python docs/registries.py metrics`.

A page holds the marker `<!-- rows of metrics -->` in the place of a table, and below it a line that
names this command for readers of the repository. The site has the table in the place of both.
A row is made of the name, the first paragraph of the docstring, and what the thing says of itself.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer

import graphcnf.flows
from graphcnf.categorical.learned_encodings import ENCODINGS
from graphcnf.chemistry import COUNTS, PROPERTIES, RANGES
from graphcnf.datasets import MOLECULES
from graphcnf.evaluation import METRICS
from graphcnf.graphs.graph_model import GRAPH_MODELS
from graphcnf.optimization import SCORES, parameters_of
from graphcnf.registry import Registry
from graphcnf.scripts.cli import COMMANDS

MARKER = re.compile(r"^<!-- rows of ([a-z ]+) -->\n(.*)\n", re.MULTILINE)
"""A marker with the kind, and the line below it."""

NO_VERBS = ("Return ", "a score: ", "Load ")
"""How first lines of docstrings begin, and rows do not."""

BASES = ("Bijection", "Coupling")
"""Bijections that are only bases of others."""

COMMAND_PAGES = {
    "generate": "tutorial", "grow": "growing", "analogs": "analogs", "interpolate": "interpolating",
    "optimize": "optimising", "score": "tutorial", "stereoisomers": "stereo",
    "evaluate": "evaluation", "train": "training", "plot": "training", "finetune": "finetuning",
    "merge": "clusters", "push": "hub", "datasets": "training", "images": "images",
}  # fmt: skip
"""The page about a command."""


@dataclass(frozen=True)
class Kind:
    """Things of one kind.

    Attributes:
        things: The things by name.
        head: Titles of the columns.
        cells: Function from a name and its thing to the cells of its row.
    """

    things: Mapping[str, Any]
    head: tuple[str, ...]
    cells: Callable[[str, Any], tuple[str, ...]]

    def table(self) -> str:
        """Return the table as Markdown."""
        rows = [self.head, ("---",) * len(self.head)]
        rows += [self.cells(name, thing) for name, thing in self.things.items()]
        return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def first_paragraph(text: str | None) -> str:
    """Return the first paragraph of a docstring as the cell of a table, without the verb."""
    line = " ".join(inspect.cleandoc(text or "").split("\n\n")[0].split())
    for verb in NO_VERBS:
        line = line.removeprefix(verb)
    line = re.sub(r"arXiv ([\d.]+\d)", r"[arXiv \1](https://arxiv.org/abs/\1)", line)
    return line.replace("``", "`").replace("|", r"\|").removesuffix(".")


def definition(thing: Any) -> str:
    """Return what a function, class or group of commands says of itself first."""
    if isinstance(thing, typer.Typer):
        return first_paragraph(str(thing.info.help or ""))
    return first_paragraph(getattr(thing, "func", thing).__doc__)


def definition_of_metric(name: str) -> str:
    """Return the string below a metric, which is at the top level of its module."""
    module, _, constant = METRICS.own[name].partition(":")
    body = ast.parse(Path(find_spec(module).origin).read_text(encoding="utf-8")).body
    for line, below in zip(body, [*body[1:], None], strict=True):
        if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == constant:
            said = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            return first_paragraph(below.value.value if said else "")
    raise LookupError(f"{module} has no {constant}")


def of_metric(name: str, metric: Any) -> tuple[str, ...]:
    """Return the cells of a metric."""
    needs = f"`{metric.needs}`" if metric.needs else "–"
    return f"`{name}`", metric.title, definition_of_metric(name), metric.better, needs


def of_property(name: str, function: Any) -> tuple[str, ...]:
    """Return the cells of a property of molecules."""
    low, high = (f"{end:g}".replace("inf", "∞") for end in RANGES[name])
    kind = "integer" if name in COUNTS else "number"
    return f"`{name}`", definition(function), f"{kind}, {low} to {high}"


def of_score(name: str, score: Any) -> tuple[str, ...]:
    """Return the cells of a score."""
    parameters = ", ".join(f"`{one}`" for one in parameters_of(score))
    return f"`{name}`", parameters or "–", definition(score)


def of_command(name: str, command: Any) -> tuple[str, ...]:
    """Return the cells of a command."""
    page = COMMAND_PAGES.get(name)
    return f"`{name}`", definition(command), f"[{page}]({page}.md)" if page else ""


def of_thing(name: str, thing: Any) -> tuple[str, ...]:
    """Return the cells of any other thing."""
    return f"`{name}`", definition(thing)


def own(registry: Registry) -> dict[str, Any]:
    """Return what the package itself names, without what is installed beside it."""
    return {name: registry[name] for name in registry.own}


def bijections() -> dict[str, type]:
    """Return the bijections that `graphcnf.flows` exports."""
    exported = {name: getattr(graphcnf.flows, name) for name in graphcnf.flows.__all__}
    return {
        name: thing
        for name, thing in exported.items()
        if inspect.isclass(thing) and issubclass(thing, graphcnf.flows.Bijection)
    }


@cache
def kinds() -> dict[str, Kind]:
    """Return all kinds by the name that a marker has."""
    maps = {name: one for name, one in bijections().items() if name not in BASES}
    metric = ("Metric", "Title", "Definition", "Better", "Needs")
    return {
        "metrics": Kind(own(METRICS), metric, of_metric),
        "properties": Kind(PROPERTIES, ("Property", "What it is", "Values"), of_property),
        "scores": Kind(own(SCORES), ("Score", "Parameters", "What it is"), of_score),
        "commands": Kind(own(COMMANDS), ("Command", "What it does", "Page"), of_command),
        "data sets": Kind(own(MOLECULES), ("Data set", "What it is"), of_thing),
        "graph models": Kind(own(GRAPH_MODELS), ("Architecture", "Density"), of_thing),
        "encodings": Kind(own(ENCODINGS), ("Encoding", "What it is"), of_thing),
        "bijections": Kind(maps, ("Bijection", "Map"), of_thing),
    }


def with_tables(markdown: str) -> str:
    """Replace the markers of a page, and the lines below them, by the tables."""
    return MARKER.sub(lambda found: kinds()[found[1]].table(), markdown)


if __name__ == "__main__":
    chosen = " ".join(sys.argv[1:])
    if chosen not in kinds():
        sys.exit(f"python docs/registries.py KIND; KIND is one of: {', '.join(kinds())}")
    print(kinds()[chosen].table(), end="")
