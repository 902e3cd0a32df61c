"""Histograms of generated and real molecules over each other."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from graphcnf.evaluation.distances import Distances
from graphcnf.molecules.properties import values_and_counts

PROPERTIES = {
    "logp": "logP",
    "qed": "QED",
    "sa": "SA score",
    "weight": "molecular weight (g/mol)",
}
COUNTS = {
    "atoms": "heavy atoms",
    "rings": "ring size",
    "elements": "element",
    "charges": "formal charge",
    "bonds": "bond type",
}
BINS = 40
CATEGORIES = 12
"""Bars of a histogram over categories; rarer ones are left out."""

REAL = "#c9ccd1"
GENERATED = ("#0b6e99", "#d1582b", "#3a8f4d", "#7a4fa3", "#b8860b", "#444444")
"""Colours of the sets, repeated where there are more."""

STYLE: Any = {
    "font.size": 10, "svg.fonttype": "path", "svg.hashsalt": "graphcnf",
    "axes.spines.top": False, "axes.spines.right": False,
}  # fmt: skip
"""Matplotlib's settings for the pictures of a page."""

Sets = Sequence[tuple[str, Distances]]
"""Name and distances of each set; the held-out molecules are the same for all."""


def histogram_pictures(sets: Sets) -> Iterator[tuple[str, str]]:
    """Title and SVG of each histogram that all sets have the numbers for."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    there = [found.generated.values for _, found in sets] + [sets[0][1].reference.values]
    with pyplot.rc_context(STYLE):
        for titles, distance, draw in ((PROPERTIES, "w1", _density), (COUNTS, "tv", _bars)):
            for key, title in titles.items():
                if all(key in values for values in there):
                    yield title, _picture(title, f"{key}_{distance}", sets, draw, key)


def _picture(title: str, metric: str, sets: Sets, draw, key: str) -> str:
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(4.4, 2.9), layout="constrained")
    real = sets[0][1].reference.values
    generated = [
        (label, found.generated.values, GENERATED[number % len(GENERATED)])
        for number, (label, found) in enumerate(_labelled(sets, metric))
    ]
    draw(axis, generated, real, key)
    axis.set_xlabel(title)
    axis.set_yticks([])
    axis.spines["left"].set_visible(False)
    value = sets[0][1].samples[0].get(metric)
    floor = sets[0][1].floor.get(metric)
    name = "Wasserstein distance" if metric.endswith("_w1") else "total variation"
    if value is not None:
        shown = f" {value:.3g}" if len(sets) == 1 else ""
        shown += f", floor {floor:.3g}" if floor is not None else ""
        axis.set_title(name + shown, fontsize=9, color="0.35")
    axis.legend(frameon=False, fontsize=9 if len(sets) == 1 else 7)
    return as_svg(figure)


def as_svg(figure) -> str:
    """A matplotlib figure as SVG text, the same for the same figure; the figure is closed."""
    from matplotlib import pyplot

    content = io.StringIO()
    figure.savefig(content, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    return content.getvalue()


def _labelled(sets: Sets, metric: str) -> list[tuple[str, Distances]]:
    """With what the legend calls each set: several by their names, with the distance."""
    if len(sets) == 1:
        return [("generated", sets[0][1])]
    labels = []
    for name, found in sets:
        value = found.samples[0].get(metric)
        labels.append(_shortened(name) if value is None else f"{_shortened(name)}: {value:.3g}")
    return [(label, found) for label, (_, found) in zip(labels, sets, strict=True)]


def _shortened(name: str) -> str:
    # A dollar sign would begin a formula.
    return (name if len(name) <= 24 else f"…{name[-23:]}").replace("$", r"\$")


def _density(axis, generated: Sequence[tuple[str, Mapping, str]], real: Mapping, key: str) -> None:
    pairs = [values_and_counts(values[key]) for values in (*(own for _, own, _ in generated), real)]
    values, weights = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    order = np.argsort(values)
    shares = np.cumsum(weights[order]) / weights.sum()
    low, high = values[order[np.searchsorted(shares, [0.001, 0.999])]]
    bins: Any = np.linspace(low, high, BINS + 1)
    if bins[0] == bins[-1]:
        bins = BINS
    values, weights = pairs.pop()
    axis.hist(values, bins, weights=weights, density=True, color=REAL, label="held-out")
    for (label, _, colour), (values, weights) in zip(generated, pairs, strict=True):
        axis.hist(
            values, bins, weights=weights, density=True, histtype="step", color=colour, lw=1.8,
            label=label,
        )  # fmt: skip


def _bars(axis, generated: Sequence[tuple[str, Mapping, str]], real: Mapping, key: str) -> None:
    sets = [("held-out", real[key], REAL)]
    sets += [(label, own[key], colour) for label, own, colour in generated]
    total: Counter[str] = Counter()
    for _, counts, _ in sets:
        total.update(counts)
    if key == "atoms" and total:
        shown = [str(n) for n in range(min(map(int, total)), max(map(int, total)) + 1)]
    else:
        shown = sorted(total, key=lambda k: (-total[k], k))[:CATEGORIES]
        if key in ("rings", "charges"):
            shown.sort(key=int)
    places, width = np.arange(len(shown)), 0.84 / len(sets)
    for number, (label, counts, colour) in enumerate(sets):
        share = np.array([counts.get(k, 0) for k in shown]) / max(sum(counts.values()), 1)
        place = places + (number - (len(sets) - 1) / 2) * width
        axis.bar(place, share, width, color=colour, label=label)
    labels = [k.lower() for k in shown] if key == "bonds" else shown
    step = max(1, -(-len(shown) // CATEGORIES))
    axis.set_xticks(places[::step], labels[::step])
