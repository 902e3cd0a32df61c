"""The report of `graphcnf evaluate --html`: one page that needs no other file.

A *set* is one `Evaluation`: the molecules of a file or a sample, with figures and distances. The
page has headline figures (*cards*) and, of a single set, the sections of a review
(`graphcnf.chemistry.page`); then the tables of `tables.py`, a histogram for each metric with an
axis, drawings of invalid molecules by reason, and a table of valid molecules.
"""

from __future__ import annotations

import base64
import io
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graphcnf.chemistry import descriptors
from graphcnf.chemistry.hashing import contains, hash_each
from graphcnf.chemistry.page import (
    CARDS,
    Card,
    Shown,
    drawing,
    render,
    review_cards,
    sections,
    shown_row,
)
from graphcnf.chemistry.review import Review, review
from graphcnf.errors import Unavailable
from graphcnf.evaluation.layout import number, percent, shown_columns
from graphcnf.evaluation.metrics import Metric, values_and_counts, wasserstein
from graphcnf.evaluation.tables import AGREED, Distances, Evaluation, all_notes, is_agreed, tables
from graphcnf.file_writing import write_file
from graphcnf.molecules.codec import parse
from graphcnf.molecules.conventions import failures, read_unsanitized

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOLECULES = 200
"""Number of molecules in the table of valid ones, which the sets share equally."""

REASONS, PER_REASON = 6, 4
"""Number of reasons of invalidity that are illustrated, and of drawings for each."""

NEEDS = ("matplotlib",)
"""Packages that the report needs."""

FIGURES = {
    "strictly valid": percent("strict_validity"),
    "unique": percent("uniqueness"),
    "novel": percent("novelty"),
    "FCD": number("fcd"),
}
"""Headline figures by label: the function from the figures of a set to the text of one of them."""

BINS = 40
"""Bins of a histogram over numbers."""

CATEGORIES = 12
"""Bars of a histogram over categories at most; rarer ones are left out."""

REAL = "#c9ccd1"
"""Colour of held-out molecules."""

GENERATED = ("#0b6e99", "#d1582b", "#3a8f4d", "#7a4fa3", "#b8860b", "#444444")
"""Colours of the sets, repeated if there are more sets."""

STYLE: Any = {
    "font.size": 10,
    "svg.fonttype": "path",
    "svg.hashsalt": "graphcnf",
    "axes.spines.top": False,
    "axes.spines.right": False,
}

Curves = Sequence[tuple[str, Mapping[str, int], str]]
"""Label, histogram and colour of each set, the held-out molecules first."""


def write_report(results: Sequence[Evaluation], path: Path, known: Sequence[str] = ()) -> None:
    """Write the HTML page about one or several sets of molecules.

    Beside drawn molecules of a set, the nearest of the `known` SMILES are drawn.
    """
    tabled = [
        {"title": title, "columns": shown_columns(rows, columns)}
        for title, rows, columns in tables(results)
    ]
    # The overview has many columns, so it is transposed.
    tabled[0]["columns"] = [list(cells) for cells in zip(*tabled[0]["columns"], strict=True)]
    name = ", ".join(result.name for result in results)
    most, several = -(-MOLECULES // len(results)), len(results) > 1
    distinct = [result.figures["strict_unique"] for result in results]
    failed = [{"name": r.name, "reasons": _failures(r)} for r in results]
    rows = [row for result in results for row in _molecule_rows(result, most, several)]
    found = None
    if rows and not several:
        found = review([row["smiles"] for row in rows], known=known)
    shown = [shown_row(_filled(row, rows)) for row in rows]
    page = render(
        Path(__file__).with_name("report.html"),
        title=f"{name}: evaluation of generated molecules",
        heading=name,
        note="Evaluation of generated molecules",
        several=several,
        cards=[] if several else _cards(results[0], found),
        sections=found and sections(shown, found, "QED", len(known)),
        tables=tabled,
        notes=all_notes(results),
        histograms=list(_histograms(results)),
        failures=[entry for entry in failed if entry["reasons"]],
        molecules=shown,
        molecules_shown=sum(min(most, count) for count in distinct),
        molecules_there=sum(distinct),
    )
    write_file(path, page.encode())


def _cards(result: Evaluation, found: Review | None) -> list[Card]:
    """Return the headline figures of a set, with those of the training data below."""
    data, titles = result.data or {}, {"strictly valid": AGREED} if is_agreed(result) else {}
    cards = []
    for label, show in FIGURES.items():
        if value := show(result.figures):
            of_data = show(data)
            cards.append(Card(titles.get(label, label), value, of_data and f"data {of_data}"))
    return (cards + (review_cards(found, "QED") if found else []))[:CARDS]


def _filled(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a row of a table without the columns that are empty in all rows."""
    return {key: v for key, v in row.items() if any(one[key] is not None for one in rows)}


def _failures(result: Evaluation) -> list[dict[str, Any]]:
    """Return why molecules of a set are not strictly valid, the most frequent reason first."""
    failed = result.frame[~result.frame["strict"]]
    pictures: dict[str, list[Shown]] = defaultdict(list)
    reasons = list(result.figures["failures"])[:REASONS]
    for record, smiles in zip(failed["record"], failed["smiles"], strict=True):
        mol = read_unsanitized(smiles)
        for reason, atoms in failures(mol).items():
            drawn = pictures[reason]
            wanted = reason in reasons and len(drawn) < PER_REASON
            if mol is not None and mol.GetNumAtoms() and wanted:
                drawn.append(Shown(smiles, drawing(mol, atoms), note=f"record {record}"))
    return [
        {"reason": reason, "count": count, "pictures": pictures[reason]}
        for reason, count in result.figures["failures"].items()
    ]


def _molecule_rows(result: Evaluation, most: int, several: bool) -> Iterator[dict[str, Any]]:
    """Yield the rows of the table of molecules for one set: its first distinct valid molecules."""
    frame = result.frame[result.frame["strict"]]
    counts = frame["smiles"].value_counts()
    first = frame.drop_duplicates("smiles").head(most)
    hashes, known = hash_each(first["smiles"]), result.training_hashes
    is_known = [None] * len(first) if known is None else contains(known, hashes).tolist()
    for record, smiles, there in zip(first["record"], first["smiles"], is_known, strict=True):
        mol = parse(smiles)
        try:
            sa = round(descriptors.sa(mol), 2)
        except Unavailable:
            sa = None
        yield {
            "smiles": smiles,
            "set": result.name if several else None,
            "record": int(record),
            "times": int(counts[smiles]),
            "atoms": mol.GetNumAtoms(),
            "rings": mol.GetRingInfo().NumRings(),
            "weight": round(descriptors.weight(mol), 1),
            "logP": round(descriptors.logp(mol), 2),
            "QED": round(descriptors.qed(mol), 3),
            "SA": sa,
            "novel": {None: None, True: "no", False: "yes"}[there],
        }


def _source(svg: str) -> str:
    """Return an SVG image as a data URL, so that identifiers in several images cannot clash."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"


def _histograms(results: Sequence[Evaluation]) -> Iterator[dict[str, str]]:
    """Draw a histogram for each metric whose `Metric.axis` is not empty."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    groups: dict[str, list[tuple[str, Distances]]] = defaultdict(list)
    for result in results:
        if result.distances is not None:
            groups[result.figures["reference"]].append((result.name, result.distances))
    for sets in groups.values():
        there = [found.generated.values for _, found in sets] + [sets[0][1].reference.values]
        for name, metric in sets[0][1].metrics.items():
            if metric.axis and all(metric.statistic.name in values for values in there):
                with pyplot.rc_context(STYLE):
                    yield {"title": metric.axis, "source": _source(_picture(name, metric, sets))}


def _picture(name: str, metric: Metric, sets: Sequence[tuple[str, Distances]]) -> str:
    """Return the SVG of a metric's histogram."""
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(4.4, 2.9), layout="constrained")
    is_density, key = metric.function is wasserstein, metric.statistic.name
    first, alone = sets[0][1], len(sets) == 1
    curves = [("held-out", first.reference.values[key], REAL)]
    for k, (title, found) in enumerate(sets):
        # Matplotlib would read a dollar sign as the start of a formula.
        label = "generated" if alone else title[-24:].replace("$", r"\$")
        curves.append((label, found.generated.values[key], GENERATED[k % len(GENERATED)]))
    (_density if is_density else _bars)(axis, curves)
    axis.set_xlabel(metric.axis)
    axis.set_yticks([])
    axis.spines["left"].set_visible(False)
    value, floor = (found.values.get(name) for found in (first.samples[0], first.floor))
    if value is not None:
        title = "Wasserstein distance" if is_density else "total variation"
        title += f" {value:.3g}" if alone else ""
        title += f", floor {floor:.3g}" if floor is not None else ""
        axis.set_title(title, fontsize=9, color="0.35")
    axis.legend(frameon=False, fontsize=9 if alone else 7)
    content = io.StringIO()
    figure.savefig(content, format="svg", transparent=True, metadata={"Date": None})
    pyplot.close(figure)
    return content.getvalue()


def _density(axis: Axes, curves: Curves) -> None:
    """Draw histograms of numbers, between the quantiles 0.001 and 0.999 of all sets together."""
    pairs = [values_and_counts(counts) for _, counts, _ in curves]
    values, weights = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    order = np.argsort(values)
    shares = np.cumsum(weights[order]) / weights.sum()
    low, high = values[order[np.searchsorted(shares, [0.001, 0.999])]]
    bins: Any = BINS if low == high else np.linspace(low, high, BINS + 1)
    for (label, _, colour), (values, weights) in zip(curves, pairs, strict=True):
        line: dict[str, Any] = {"histtype": "step", "lw": 1.8} if colour != REAL else {}
        axis.hist(values, bins, weights=weights, density=True, color=colour, label=label, **line)


def _bars(axis: Axes, curves: Curves) -> None:
    """Draw the share of each category as a bar per set."""
    total = sum((Counter(counts) for _, counts, _ in curves), Counter())
    if all(key.lstrip("+-").isdigit() for key in total):
        common = [key for key, count in total.items() if 1000 * count >= total.total()]
        shown = sorted(common, key=int)
    else:
        shown = [key for key, _ in total.most_common(CATEGORIES)]
    places, width = np.arange(len(shown)), 0.84 / len(curves)
    for k, (label, counts, colour) in enumerate(curves):
        share = np.array([counts.get(key, 0) for key in shown]) / max(sum(counts.values()), 1)
        place = places + (k - (len(curves) - 1) / 2) * width
        axis.bar(place, share, width, color=colour, label=label)
    step = max(1, -(-len(shown) // CATEGORIES))
    axis.set_xticks(places[::step], shown[::step])
