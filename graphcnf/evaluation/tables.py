"""The tables of `graphcnf evaluate`, for the terminal, files and the report."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from graphcnf.evaluation.distances import Distances, distance_table
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
from graphcnf.molecules.distributions import METRICS
from graphcnf.molecules.metrics import validity_table
from graphcnf.molecules.tally import UNIQUE_AT

CONVENTIONS = {
    "strict": "strict",
    "largest_fragment": "largest fragment",
    "valence_only": "valence only",
    "repaired": "repaired",
}


@dataclass
class Evaluation:
    """What `graphcnf evaluate` finds out about one set of molecules.

    Attributes:
        main: Figures of what is scored.
        data: The same of training data, None without any.
        notes: What a reader of the tables has to know.
        frame: `evaluate_records` of the first samples (`Summary.head`), of the first seed.
        distances: Distribution metrics, None where none were asked for.
        training_hashes: What novelty is held against, None for nothing.
    """

    main: dict[str, Any]
    data: dict[str, Any] | None
    notes: list[str]
    frame: pd.DataFrame
    distances: Distances | None = None
    training_hashes: np.ndarray | None = None


class Table(NamedTuple):
    """A table with its heading; see `formats.markdown` for rows and columns."""

    title: str
    rows: Sequence[Row]
    columns: list[Column]


def tables(results: Sequence[Evaluation], published: bool) -> list[Table]:
    """All tables of one or several evaluations, the overview first."""
    shown = [Table("Overview", overview_rows(results), overview_columns())]
    names = [result.main["name"] for result in results]
    alone = f": {names[0]}" if len(results) == 1 else ""
    shown.append(Table(f"Conventions of validity{alone}", *_conventions(results)))
    compared = [(r.main["name"], r.main, r.distances) for r in results if r.distances is not None]
    if compared:
        shown.append(Table("Distances to held-out molecules", *distance_table(compared)))
    if quotes(results, published):
        shown.append(
            Table("Published for ZINC250k, quoted", published_rows(), _published_columns())
        )
    return shown


def quotes(results: Sequence[Evaluation], published: bool) -> bool:
    """Return whether published figures are wanted and some set is held against their data."""
    return published and any(result.main["reference"] == "zinc250k" for result in results)


def overview_rows(results: Sequence[Evaluation]) -> list[Row]:
    """Figures of what is scored, then those of the training data, the same ones once."""
    data: list[Row] = []
    for result in results:
        if result.data is None:
            continue
        # The distances, whose floor depends on the number of valid molecules, are of the first.
        metrics = METRICS.keys()
        bare = {k: v for k, v in result.data.items() if k not in metrics}
        if all(bare != {k: v for k, v in row.items() if k not in metrics} for row in data):
            data.append(result.data)
    if len(data) > 1:
        data = [{**row, "name": f"{row['name']}, {row['samples']:,} of {row['reference']}"}
                for row in data]  # fmt: skip
    return [*(result.main for result in results), *data]


def render(results: Sequence[Evaluation], kind: str, published: bool) -> str:
    """Text of one or several evaluations as "md", "csv" or "json" (an object, or a list)."""
    if kind == "json":
        contents = [_content(result, published) for result in results]
        return json_text(contents[0] if len(contents) == 1 else contents)
    if kind == "csv":
        quoted = [{"name": f"{row['method']} (published)", **row} for row in published_rows()]
        shown = quoted if quotes(results, published) else []
        return csv_text([*overview_rows(results), *shown])
    first, *others = tables(results, published)
    parts = [markdown(first.rows, first.columns)]
    parts += [f"**{t.title}**\n\n{markdown(t.rows, t.columns)}" for t in others]
    parts.append("".join(f"- {note}\n" for note in all_notes(results, published)))
    return "\n".join(parts)


def _content(result: Evaluation, published: bool) -> dict[str, Any]:
    content = dict(result.main)
    if result.data is not None:
        content["training_data"] = result.data
    if quotes([result], published):
        content["published"] = published_rows()
    return content


def all_notes(results: Sequence[Evaluation], published: bool) -> list[str]:
    """What a reader of the tables has to know; what is not said of all sets names its own."""
    each = [[*result.notes, *_failure_note(result)] for result in results]
    notes = []
    for result, own in zip(results, each, strict=True):
        for note in own:
            common = all(note in others for others in each)
            shown = note if common else f"{result.main['name']}: {note}"
            if shown not in notes:
                notes.append(shown)
    if quotes(results, published):
        notes.append(
            "published: as their authors or later papers report them, without correction unless "
            "the method implies one; their conventions of validity and their data (mostly without "
            "charges) differ, and none of it was measured here."
        )
    return notes


def _failure_note(result: Evaluation) -> list[str]:
    reasons = result.main["failures"]
    shown = [f"{count:,} × {reason}" for reason, count in list(reasons.items())[:8]]
    more = len(reasons) - len(shown)
    shown += [f"{more} rarer reasons"] if more else []
    return [f"not strictly valid because of: {', '.join(shown)}."] if reasons else []


def overview_columns() -> list[Column]:
    """Columns of the first table."""

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
    rows: list[Row] = [row for result in results for row in _convention_rows(result.main)]
    columns = [
        ("counts as valid", text("convention")),
        ("valid", percent("validity", "samples")),
        ("unique", percent("uniqueness", "valid")),
        ("novel", percent("novelty", "valid")),
        ("V.U.N.", percent("vun", "samples")),
    ]
    return rows, columns if len(results) == 1 else [("", text("name")), *columns]


def _convention_rows(main: Row) -> list[dict[str, Any]]:
    rows = validity_table(main).reset_index().to_dict("records")
    for row in rows:
        prefix = "" if row["convention"] == "strict" else f"{row['convention']}_"
        row["name"] = main["name"]
        row["validity_sd"] = main.get(f"{row['convention']}_validity_sd")
        for name in ("uniqueness", "novelty", "vun"):
            row[f"{name}_sd"] = main.get(f"{prefix}{name}_sd")
        row["convention"] = CONVENTIONS[row["convention"]]
    return rows


def published_rows() -> list[dict[str, Any]]:
    """Figures for ZINC250k as published; fractions in [0, 1], None for what is not reported."""
    content = (files("graphcnf.evaluation") / "published.csv").read_text("utf-8")
    rows: list[dict[str, Any]] = []
    for line in csv.DictReader(content.splitlines()):
        row: dict[str, Any] = {key: value or None for key, value in line.items()}
        for key in ("validity", "validity_sd", "uniqueness", "novelty", "reconstruction", "fcd",
                    "nspdk"):  # fmt: skip
            row[key] = None if row[key] is None else float(row[key])
        rows.append(row)
    return rows


def _published_columns() -> list[Column]:
    return [
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
