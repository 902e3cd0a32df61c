"""Tables of evaluations, for the terminal, files and the HTML report.

- An `Evaluation` is the result for one set of molecules.
- *Figures*: shares in [0, 1], counts and metrics by name; `name_sd` is the standard deviation over
  seeds.
- *Distances*: the distribution metrics of the set. Their *floor* (train-vs-test reference) is the
  value for training molecules in place of samples.
- *Convention* of validity: what counts as valid, see `graphcnf.molecules.conventions`. The
  conventions *agree* on a set if every record is the same molecule, or none, in all of them. Then
  one column shows them.
- *Row*, *column*: as in `graphcnf.evaluation.layout`; a row is a dictionary of figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from graphcnf.evaluation import METRICS
from graphcnf.evaluation.layout import (
    Column,
    Row,
    csv_text,
    json_text,
    markdown,
    number,
    percent,
    text,
)
from graphcnf.evaluation.metrics import Metric
from graphcnf.evaluation.statistics import Comparison, SetStatistics
from graphcnf.evaluation.summary import UNIQUE_AT, figure_key
from graphcnf.molecules.conventions import CONVENTIONS

AGREED = "readable and valid"
"""Name of validity where all conventions agree in every record."""

REASONS = 8
"""Number of reasons of invalidity that a footnote names."""


@dataclass
class Distances:
    """Distribution metrics of samples, compared with held-out molecules.

    Attributes:
        samples: For each seed, the values of the metrics for its samples.
        floor: The values for about as many training molecules as there are samples of the first
            seed: finite sets from the same distribution differ by this much.
        generated: Statistics of the first seed's samples.
        reference: Statistics of the held-out molecules.
    """

    metrics: dict[str, Metric]
    samples: list[Comparison]
    floor: Comparison
    training: str
    generated: SetStatistics
    reference: SetStatistics

    def notes(self) -> list[str]:
        """Return footnotes of the distances: what was compared, and what is missing and why."""
        notes = [
            f"distances: of the {self.generated.size:,} strictly valid samples"
            + (" (first seed)" if len(self.samples) > 1 else "")
            + f", repeats included, and of {self.floor.generated:,} training molecules, the floor, "
            f"to {self.reference.size:,} held-out ones, all without stereo."
        ]
        missing: dict[str, str] = {}
        for result in (self.floor, *reversed(self.samples)):
            missing |= result.missing
        for reason in dict.fromkeys(missing.values()):
            titles = [m.title for name, m in self.metrics.items() if missing.get(name) == reason]
            notes.append(f"not computed: {', '.join(titles)}: {reason}.")
        return notes


@dataclass
class Evaluation:
    """Figures of one set of molecules; `str()` of it is the tables.

    Attributes:
        figures: `Summary.figures` and further values by name, as in JSON.
        data: The same figures for molecules of the training data; None without a reference.
        notes: Footnotes, sentences.
        frame: Table of the first samples of the first seed, a row for each; the columns are those
            of `graphcnf.molecules.conventions.evaluate_records`.
        distances: Distribution metrics; None if none were asked for.
        training_hashes: Sorted hashes of the training molecules, for novelty, uint64; None if
            unknown.
    """

    figures: dict[str, Any]
    data: dict[str, Any] | None
    notes: list[str]
    frame: pd.DataFrame
    distances: Distances | None = None
    training_hashes: np.ndarray | None = None

    def __str__(self) -> str:
        return render([self], "md")

    @property
    def name(self) -> str:
        """Name in tables: of the model, file or list that was evaluated."""
        return self.figures["name"]


def tables(results: Sequence[Evaluation]) -> list[tuple[str, Sequence[Row], list[Column]]]:
    """Arrange evaluations in tables.

    Returns:
        Title, rows and columns of each table: an overview and the conventions of validity; stereo
        marks, and distances to held-out molecules, if there are such figures.
    """
    alone = f": {results[0].name}" if len(results) == 1 else ""
    shown: list[tuple[str, Sequence[Row], list[Column]]] = [
        ("Overview", *_overview(results)),
        (f"Conventions of validity{alone}", *_conventions(results)),
    ]
    marked = [result for result in results if "stereo" in result.figures]
    if marked:
        shown.append(("Stereo marks", _stereo_rows(marked), _STEREO))
    compared = [result for result in results if result.distances is not None]
    if compared:
        shown.append(("Distances to held-out molecules", *_distances(compared)))
    return shown


def render(results: Sequence[Evaluation], kind: str) -> str:
    """Return evaluations as text.

    `kind` is "md" for all tables with footnotes, "csv" for the figures of the overview, "json" for
    all figures, one object for one evaluation, a list of objects for several.
    """
    if kind == "json":
        contents = [{**r.figures, **({"training_data": r.data} if r.data else {})} for r in results]
        return json_text(contents[0] if len(contents) == 1 else contents)
    if kind == "csv":
        return csv_text(_overview_rows(results))
    texts = [(title, markdown(rows, columns)) for title, rows, columns in tables(results)]
    parts = [texts[0][1], *(f"**{title}**\n\n{shown}" for title, shown in texts[1:])]
    return "\n".join([*parts, "".join(f"- {note}\n" for note in all_notes(results))])


def all_notes(results: Sequence[Evaluation]) -> list[str]:
    """Return the distinct footnotes of all evaluations, in order.

    One that only some evaluations have begins with the name of its set.
    """
    each = [[*result.notes, *_failure_note(result)] for result in results]
    notes = [
        note if all(note in others for others in each) else f"{result.name}: {note}"
        for result, own in zip(results, each, strict=True)
        for note in own
    ]
    return list(dict.fromkeys(notes))


def _failure_note(result: Evaluation) -> list[str]:
    """Return a footnote with the most frequent reasons of invalidity."""
    reasons = result.figures["failures"]
    shown = [f"{count:,} × {reason}" for reason, count in list(reasons.items())[:REASONS]]
    more = len(reasons) - len(shown)
    shown += [f"{more} rarer reasons"] if more else []
    return [f"not strictly valid because of: {', '.join(shown)}."] if reasons else []


def conventions_agree(figures: Mapping[str, Any]) -> bool:
    """Return True if all conventions of validity count the same records as valid.

    A strictly valid record is valid, and the same molecule, in every convention. So it suffices to
    compare how many records are valid in each.
    """
    return len({figures[figure_key(convention, "valid")] for convention in CONVENTIONS}) == 1


def is_agreed(result: Evaluation) -> bool:
    """Return True for molecules of a file or list on which the conventions of validity agree.

    Samples drawn by a model are always shown in every convention, as models are compared by them.
    """
    return "unreadable" in result.figures and conventions_agree(result.figures)


def _overview(results: Sequence[Evaluation]) -> tuple[list[Row], list[Column]]:
    """Arrange the main figures of evaluations in a table."""
    rows, columns = _overview_rows(results), _OVERVIEW
    if all(map(is_agreed, results)) and all(map(conventions_agree, rows)):
        columns = [
            (AGREED, show) if title == "strict" else (title, show)
            for title, show in columns
            if title not in ("largest fragment", "valence only", "repaired")
        ]
    return rows, columns


def _overview_rows(results: Sequence[Evaluation]) -> list[Row]:
    """Return the figures of each set of molecules, then those of their training data."""
    data: dict[str, dict[str, Any]] = {}
    for result in results:
        if result.data is not None:
            # Rows that differ in distances only, through their number of molecules, count once.
            bare = {k: v for k, v in result.data.items() if k not in METRICS}
            data.setdefault(repr(bare), result.data)
    rows = list(data.values())
    if len(rows) > 1:
        for k, row in enumerate(rows):
            name = f"{row['name']}, {row['samples']:,} of {row['reference']}"
            rows[k] = {**row, "name": name}
    return [*(result.figures for result in results), *rows]


def _largest_fragment(row: Row) -> str:
    share = f"{100 * row['largest_fragment_atom_share']:.1f}"
    return f"{percent('largest_fragment_validity')(row)} ({share} % of atoms)"


_OVERVIEW: list[Column] = [
    ("", text("name")),
    ("samples", text("samples", "{:,}")),
    ("unreadable", text("unreadable", "{:,}")),
    ("strict", percent("strict_validity")),
    ("largest fragment", _largest_fragment),
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
    """Arrange validity, uniqueness and novelty in each convention of validity in a table."""
    rows: list[Row] = []
    for result in results:
        agreed = is_agreed(result)
        for convention in CONVENTIONS[:1] if agreed else CONVENTIONS:
            title = AGREED if agreed else convention.replace("_", " ")
            row: dict[str, Any] = {"name": result.name, "convention": title}
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


def _stereo_rows(results: Sequence[Evaluation]) -> list[Row]:
    """Return the stereo figures of each set, then those of the training data if they are known."""
    rows = [{"name": result.name, **result.figures["stereo"]} for result in results]
    known = next((row["training"] for row in rows if "training" in row), None)
    rows += [{"name": "training data", **known}] if known else []
    return [{**row, "mean": sum(k * p for k, p in enumerate(row["marks"]))} for row in rows]


_STEREO: list[Column] = [
    ("", text("name")),
    ("chain centres marked", percent("chain")),
    ("ring centres marked", percent("ring")),
    ("double bonds marked", percent("double")),
    ("marks per molecule", number("mean", 2)),
    ("JS distance", number("marks_jsd", 4)),
    ("unique isomers", percent("uniqueness")),
    ("novel isomers", percent("novelty")),
    ("marks kept", percent("kept")),
]


def _distances(results: Sequence[Evaluation]) -> tuple[list[Row], list[Column]]:
    """Arrange the distances to held-out molecules in a table."""
    found = [(result, result.distances) for result in results if result.distances is not None]
    metrics = found[0][1].metrics
    floors: dict[tuple[str, int], Mapping[str, Any]] = {}
    for _, own in found:
        floors.setdefault((own.training, own.floor.generated), own.floor.values)
    alone = len(floors) == 1
    shown: list[tuple[str, Mapping[str, Any]]] = [(r.name, r.figures) for r, _ in found]
    for (data, count), values in floors.items():
        title = "training molecules" if alone else f"{count:,} training molecules of {data}"
        shown.append((title, values))
    rows: list[dict[str, Any]] = [{"metric": m.title, "better": m.better} for m in metrics.values()]
    columns: list[Column] = [("metric", text("metric")), ("better", text("better"))]
    for k, (title, figures) in enumerate(shown):
        columns.append((title, number(str(k), digits=4)))
        for row, name in zip(rows, metrics, strict=True):
            row |= {str(k): figures.get(name), f"{k}_sd": figures.get(f"{name}_sd")}
    return list(rows), columns
