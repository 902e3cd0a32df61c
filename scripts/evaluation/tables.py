"""The tables of `graphcnf evaluate`, for the terminal, files and the report."""

from __future__ import annotations

import csv
from importlib.resources import files
from typing import Any, NamedTuple

from graphcnf.molecules.metrics import UNIQUE_AT, validity_table
from graphcnf.scripts._tables import (
    Column,
    Row,
    csv_text,
    json_text,
    markdown,
    number,
    percent,
    text,
)
from graphcnf.scripts.evaluation.distances import distance_columns, distance_rows
from graphcnf.scripts.evaluation.scoring import Evaluation

CONVENTIONS = {
    "strict": "strict",
    "largest_fragment": "largest fragment",
    "valence_only": "valence only",
    "repaired": "repaired",
}


class Table(NamedTuple):
    """A table with its heading; see `_tables.markdown` for rows and columns."""

    title: str
    rows: list[Row]
    columns: list[Column]


def tables(result: Evaluation, published: bool) -> list[Table]:
    """All tables of an evaluation, the overview first."""
    rows = [result.main] if result.data is None else [result.main, result.data]
    shown = [Table("Overview", rows, overview_columns())]
    name = result.main["name"]
    shown.append(Table(f"Conventions of validity: {name}", *_conventions(result.main)))
    if result.distances is not None:
        found = distance_rows(result.main, result.data, result.distances.metrics)
        shown.append(Table("Distances to held-out molecules", found, distance_columns(name)))
    if published:
        shown.append(
            Table("Published for ZINC250k, quoted", published_rows(), _published_columns())
        )
    return shown


def render(result: Evaluation, kind: str, published: bool) -> str:
    """Text of an evaluation as "md", "csv" or "json"."""
    if kind == "json":
        content = dict(result.main)
        if result.data is not None:
            content["training_data"] = result.data
        if published:
            content["published"] = published_rows()
        return json_text(content)
    if kind == "csv":
        rows = [result.main] if result.data is None else [result.main, result.data]
        quoted = [{"name": f"{row['method']} (published)", **row} for row in published_rows()]
        return csv_text([*rows, *(quoted if published else [])])
    first, *others = tables(result, published)
    parts = [markdown(first.rows, first.columns)]
    parts += [f"**{t.title}**\n\n{markdown(t.rows, t.columns)}" for t in others]
    parts.append("".join(f"- {note}\n" for note in all_notes(result, published)))
    return "\n".join(parts)


def all_notes(result: Evaluation, published: bool) -> list[str]:
    """What a reader of the tables has to know."""
    notes = list(result.notes)
    reasons = result.main["failures"]
    if reasons:
        shown = [f"{count:,} × {reason}" for reason, count in list(reasons.items())[:8]]
        more = len(reasons) - len(shown)
        shown += [f"{more} rarer reasons"] if more else []
        notes.append(f"not strictly valid because of: {', '.join(shown)}.")
    if published:
        notes.append(
            "published: as their authors or later papers report them, without correction unless "
            "the method implies one; their conventions of validity and their data (mostly without "
            "charges) differ, and none of it was measured here."
        )
    return notes


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


def _conventions(main: Row) -> tuple[list[Row], list[Column]]:
    rows = validity_table(main).reset_index().to_dict("records")
    for row in rows:
        prefix = "" if row["convention"] == "strict" else f"{row['convention']}_"
        row["validity_sd"] = main.get(f"{row['convention']}_validity_sd")
        for name in ("uniqueness", "novelty", "vun"):
            row[f"{name}_sd"] = main.get(f"{prefix}{name}_sd")
        row["convention"] = CONVENTIONS[row["convention"]]
    columns = [
        ("counts as valid", text("convention")),
        ("valid", percent("validity", "samples")),
        ("unique", percent("uniqueness", "valid")),
        ("novel", percent("novelty", "valid")),
        ("V.U.N.", percent("vun", "samples")),
    ]
    return rows, columns


def published_rows() -> list[dict[str, Any]]:
    """Figures for ZINC250k as published; fractions in [0, 1], None for what is not reported."""
    content = (files("graphcnf.scripts.evaluation") / "published.csv").read_text("utf-8")
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
