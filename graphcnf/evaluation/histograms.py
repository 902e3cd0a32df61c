"""Histograms of generated and real molecules over each other."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from graphcnf.evaluation.counts import values_and_counts, wasserstein
from graphcnf.evaluation.metrics import Metric
from graphcnf.evaluation.reference import Distances

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

Curves = Sequence[tuple[str, Mapping[str, int], str]]
"""Label, counts and colour of each set."""


def histogram_pictures(sets: Sets) -> Iterator[tuple[str, str]]:
    """Yield title and SVG of each metric's histogram that all sets have the numbers for."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    there = [found.generated.values for _, found in sets] + [sets[0][1].reference.values]
    with pyplot.rc_context(STYLE):
        for metric in sets[0][1].metrics:
            if metric.axis and all(metric.needs.name in values for values in there):
                yield metric.axis, _picture(metric, sets)


def _picture(metric: Metric, sets: Sets) -> str:
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(4.4, 2.9), layout="constrained")
    is_density, key = metric.function is wasserstein, metric.needs.name
    generated = [
        (label, found.generated.values[key], GENERATED[number % len(GENERATED)])
        for number, (label, found) in enumerate(_labelled(sets, metric))
    ]
    draw = _density if is_density else _bars
    draw(axis, generated, sets[0][1].reference.values[key])
    axis.set_xlabel(metric.axis)
    axis.set_yticks([])
    axis.spines["left"].set_visible(False)
    value = sets[0][1].samples[0].values.get(metric.name)
    floor = sets[0][1].floor.values.get(metric.name)
    name = "Wasserstein distance" if is_density else "total variation"
    if value is not None:
        shown = f" {value:.3g}" if len(sets) == 1 else ""
        shown += f", floor {floor:.3g}" if floor is not None else ""
        axis.set_title(name + shown, fontsize=9, color="0.35")
    axis.legend(frameon=False, fontsize=9 if len(sets) == 1 else 7)
    return as_svg(figure)


def as_svg(figure) -> str:
    """Return a matplotlib figure as SVG text, the same for the same figure, and close it."""
    from matplotlib import pyplot

    content = io.StringIO()
    figure.savefig(content, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    return content.getvalue()


def _labelled(sets: Sets, metric: Metric) -> list[tuple[str, Distances]]:
    """Return each set with its label in the legend: its name and distance where there are more."""
    if len(sets) == 1:
        return [("generated", sets[0][1])]
    labels = []
    for name, found in sets:
        value = found.samples[0].values.get(metric.name)
        # A dollar sign would begin a formula.
        label = (name if len(name) <= 24 else f"…{name[-23:]}").replace("$", r"\$")
        labels.append(label if value is None else f"{label}: {value:.3g}")
    return [(label, found) for label, (_, found) in zip(labels, sets, strict=True)]


def _density(axis, generated: Curves, real: Mapping[str, int]) -> None:
    pairs = [values_and_counts(counts) for counts in (*(own for _, own, _ in generated), real)]
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


def _bars(axis, generated: Curves, real: Mapping[str, int]) -> None:
    sets = [("held-out", real, REAL), *generated]
    total = sum((Counter(counts) for _, counts, _ in sets), Counter())
    if all(key.lstrip("+-").isdigit() for key in total):
        # All numbers between those that hold at least one in a thousand of the counts.
        common = [int(key) for key, count in total.items() if 1000 * count >= total.total()]
        form = "+d" if any(key[0] in "+-" for key in total) else "d"
        shown = [f"{n:{form}}" for n in range(min(common, default=0), max(common, default=0) + 1)]
    else:
        shown = sorted(total, key=lambda k: (-total[k], k))[:CATEGORIES]
    places, width = np.arange(len(shown)), 0.84 / len(sets)
    for number, (label, counts, colour) in enumerate(sets):
        share = np.array([counts.get(k, 0) for k in shown]) / max(sum(counts.values()), 1)
        place = places + (number - (len(sets) - 1) / 2) * width
        axis.bar(place, share, width, color=colour, label=label)
    step = max(1, -(-len(shown) // CATEGORIES))
    axis.set_xticks(places[::step], shown[::step])
