"""Tables of evaluations, for the terminal, files and the report."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from graphcnf.evaluation.formats import (
    Column,
    Row,
    csv_text,
    json_text,
    markdown,
    number,
    percent,
    text,
)
from graphcnf.evaluation.metrics import METRICS
from graphcnf.evaluation.reference import Distances
from graphcnf.evaluation.summary import UNIQUE_AT, figure_key
from graphcnf.molecules.validity import CONVENTIONS

REASONS = 8
"""Reasons of failure that a footnote names."""


@dataclass
class Evaluation:
    """Figures of one set of molecules; printing one shows its tables.

    Attributes:
        figures: Figures of the set, as in JSON: see `Summary.figures`, and further ones by name.
        data: The same of training data, None without any.
        notes: Footnotes of the table.
        frame: `evaluate_records` of the first samples (`Summary.head`), of the first seed.
        distances: Distribution metrics, None where none were asked for.
        training_hashes: Hashes that novelty is held against, None for nothing.
    """

    figures: dict[str, Any]
    data: dict[str, Any] | None
    notes: list[str]
    frame: pd.DataFrame
    distances: Distances | None = None
    training_hashes: np.ndarray | None = None

    def __str__(self) -> str:
        return render([self], "md", published=False)

    @property
    def name(self) -> str:
        """Name in tables."""
        return self.figures["name"]


class Table(NamedTuple):
    """A table with its heading; see `formats.markdown` for rows and columns."""

    title: str
    rows: Sequence[Row]
    columns: list[Column]


def shorten_names(results: Sequence[Evaluation]) -> None:
    """Shorten names of models' folders to their last part, where it still tells all sets apart."""
    short = [Path(r.name).name if "seed" in r.figures else r.name for r in results]
    for result, name in zip(results, short, strict=True):
        if name and short.count(name) == 1:
            result.figures["name"] = name


def tables(results: Sequence[Evaluation], published: bool) -> list[Table]:
    """Return all tables of one or several evaluations, the overview first."""
    shown = [Table("Overview", _overview_rows(results), _overview_columns())]
    alone = f": {results[0].name}" if len(results) == 1 else ""
    shown.append(Table(f"Conventions of validity{alone}", *_conventions(results)))
    compared = [result for result in results if result.distances is not None]
    if compared:
        shown.append(Table("Distances to held-out molecules", *_distances(compared)))
    if _quotes(results, published):
        shown.append(Table("Published for ZINC250k, quoted", published_rows(), _PUBLISHED))
    return shown


def render(results: Sequence[Evaluation], kind: str, published: bool) -> str:
    """Return one or several evaluations as "md", "csv" or "json" (an object, or a list)."""
    quoted = published_rows() if _quotes(results, published) else []
    if kind == "json":
        contents = [_content(result, published) for result in results]
        return json_text(contents[0] if len(contents) == 1 else contents)
    if kind == "csv":
        rows = [{"name": f"{row['method']} (published)", **row} for row in quoted]
        return csv_text([*_overview_rows(results), *rows])
    first, *others = tables(results, published)
    parts = [markdown(first.rows, first.columns)]
    parts += [f"**{t.title}**\n\n{markdown(t.rows, t.columns)}" for t in others]
    parts.append("".join(f"- {note}\n" for note in all_notes(results, published)))
    return "\n".join(parts)


def all_notes(results: Sequence[Evaluation], published: bool) -> list[str]:
    """Return the footnotes of the tables; one that is not of all sets names its own."""
    each = [[*result.notes, *_failure_note(result)] for result in results]
    notes = []
    for result, own in zip(results, each, strict=True):
        for note in own:
            common = all(note in others for others in each)
            shown = note if common else f"{result.name}: {note}"
            if shown not in notes:
                notes.append(shown)
    if _quotes(results, published):
        notes.append(
            "published: as their authors or later papers report them, without correction unless "
            "the method implies one; their conventions of validity and their data (mostly without "
            "charges) differ, and none of it was measured here."
        )
    return notes


def published_rows() -> list[dict[str, Any]]:
    """Return figures for ZINC250k as published: fractions in [0, 1], None where not reported."""
    content = (files("graphcnf.evaluation") / "published.csv").read_text("utf-8")
    words = ("method", "source", "bits_per_node", "kind")
    return [
        {k: None if not v else v if k in words else float(v) for k, v in line.items()}
        for line in csv.DictReader(content.splitlines())
    ]


def _quotes(results: Sequence[Evaluation], published: bool) -> bool:
    """Return True if published figures are wanted and some set is held against their data."""
    return published and any(result.figures["reference"] == "zinc250k" for result in results)


def _content(result: Evaluation, published: bool) -> dict[str, Any]:
    content = dict(result.figures)
    if result.data is not None:
        content["training_data"] = result.data
    if _quotes([result], published):
        content["published"] = published_rows()
    return content


def _failure_note(result: Evaluation) -> list[str]:
    reasons = result.figures["failures"]
    shown = [f"{count:,} × {reason}" for reason, count in list(reasons.items())[:REASONS]]
    more = len(reasons) - len(shown)
    shown += [f"{more} rarer reasons"] if more else []
    return [f"not strictly valid because of: {', '.join(shown)}."] if reasons else []


def _overview_rows(results: Sequence[Evaluation]) -> list[Row]:
    """Return the figures of all sets, then those of the training data, the same ones once."""

    def bare(row: Mapping[str, Any]) -> dict[str, Any]:
        # The distances, whose floor depends on the number of valid molecules, are of the first.
        return {k: v for k, v in row.items() if k not in METRICS}

    data: list[dict[str, Any]] = []
    for result in results:
        if result.data is not None and all(bare(result.data) != bare(row) for row in data):
            data.append(result.data)
    if len(data) > 1:
        data = [{**row, "name": f"{row['name']}, {row['samples']:,} of {row['reference']}"}
                for row in data]  # fmt: skip
    return [*(result.figures for result in results), *data]


def _overview_columns() -> list[Column]:
    def kept(row: Row) -> str:
        return f"{fragments(row)} ({100 * row['largest_fragment_atom_share']:.1f} % of atoms)"

    fragments = percent("largest_fragment_validity")
    return [
        ("", text("name")),
        ("samples", text("samples", "{:,}")),
        ("unreadable", text("unreadable", "{:,}")),
        ("strict", percent("strict_validity")),
        ("largest fragment", kept),
        ("valence only", percent("valence_only_validity")),
        ("repaired", percent("repaired_validity")),
        ("connected", percent("connected")),
        ("unique", percent("uniqueness", "strict_valid")),
        *[(f"unique @{k // 1000}k", percent(f"uniqueness_at_{k}")) for k in UNIQUE_AT],
        ("novel", percent("novelty", "strict_valid")),
        ("V.U.N.", percent("vun", "samples")),
        ("reconstruction", percent("reconstruction", "reconstruction_molecules")),
        ("bits/node", number("bits_per_node", 3)),
        ("bits/molecule", number("bits_per_molecule", 2)),
        ("FCD", number("fcd")),
        ("temperature", text("temperature", "{:g}")),
        ("seed", text("seed")),
        ("decoding", text("decoding")),
    ]


def _conventions(results: Sequence[Evaluation]) -> tuple[list[Row], list[Column]]:
    rows: list[Row] = []
    for result in results:
        for convention in CONVENTIONS:
            row: dict[str, Any] = {"name": result.name, "convention": convention.replace("_", " ")}
            row["samples"] = result.figures["samples"]
            for name in ("valid", "validity", "uniqueness", "novelty", "vun"):
                key = figure_key(convention, name)
                row |= {name: result.figures[key], f"{name}_sd": result.figures.get(f"{key}_sd")}
            rows.append(row)
    columns = [
        ("counts as valid", text("convention")),
        ("valid", percent("validity", "samples")),
        ("unique", percent("uniqueness", "valid")),
        ("novel", percent("novelty", "valid")),
        ("V.U.N.", percent("vun", "samples")),
    ]
    return rows, columns if len(results) == 1 else [("", text("name")), *columns]


def _distances(results: Sequence[Evaluation]) -> tuple[list[Row], list[Column]]:
    """Return rows, one per metric, and columns, one per set of molecules, each with its floor.

    Sets with one floor share its column.
    """
    found = {k: r.distances for k, r in enumerate(results) if r.distances is not None}
    rows: list[dict[str, Any]] = [{"metric": m.title, "better": m.better} for m in found[0].metrics]
    columns: list[Column] = [("metric", text("metric")), ("better", text("better"))]
    floors: dict[tuple[str, int], Distances] = {}
    for k, own in found.items():
        floors.setdefault((own.training, own.floor.generated), own)
        columns.append((results[k].name, number(f"set {k}", digits=4)))
        for row, metric in zip(rows, own.metrics, strict=True):
            row[f"set {k}"] = results[k].figures.get(metric.name)
            row[f"set {k}_sd"] = results[k].figures.get(f"{metric.name}_sd")
    for (data, count), own in floors.items():
        alone = len(floors) == 1
        title = "training molecules" if alone else f"{count:,} training molecules of {data}"
        columns.append((title, number(title, digits=4)))
        for row, metric in zip(rows, own.metrics, strict=True):
            row[title] = own.floor.values.get(metric.name)
    return list(rows), columns


_PUBLISHED: list[Column] = [
    ("method", text("method")),
    ("kind", text("kind")),
    ("validity", percent("validity")),
    ("uniqueness", percent("uniqueness")),
    ("novelty", percent("novelty")),
    ("reconstruction", percent("reconstruction")),
    ("bits/node", text("bits_per_node")),
    ("FCD", text("fcd", "{:g}")),
    ("NSPDK MMD", text("nspdk", "{:g}")),
    ("source", text("source")),
]
