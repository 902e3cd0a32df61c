"""Histograms of generated and real molecules over each other."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping

import numpy as np

from graphcnf.scripts.evaluation.distances import Distances

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

GENERATED, REAL = "#0b6e99", "#c9ccd1"


def histogram_pictures(distances: Distances) -> Iterator[tuple[str, str]]:
    """Title and SVG of each histogram that both sets have the numbers for."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    generated, real = distances.generated.values, distances.reference.values
    settings = {"font.size": 10, "svg.fonttype": "path", "svg.hashsalt": "graphcnf",
                "axes.spines.top": False, "axes.spines.right": False}  # fmt: skip
    with pyplot.rc_context(settings):
        for key, title in PROPERTIES.items():
            if key in generated and key in real:
                yield title, _picture(title, f"{key}_w1", distances, _density, key)
        for key, title in COUNTS.items():
            if "contents" in generated and "contents" in real:
                yield title, _picture(title, f"{key}_tv", distances, _bars, key)


def _picture(title: str, metric: str, distances: Distances, draw, key: str) -> str:
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(4.4, 2.9), layout="constrained")
    draw(axis, distances.generated.values, distances.reference.values, key)
    axis.set_xlabel(title)
    axis.set_yticks([])
    axis.spines["left"].set_visible(False)
    value = distances.samples[0].get(metric)
    floor = distances.floor.get(metric)
    name = "Wasserstein distance" if metric.endswith("_w1") else "total variation"
    if value is not None:
        shown = f"{name} {value:.3g}" + (f", floor {floor:.3g}" if floor is not None else "")
        axis.set_title(shown, fontsize=9, color="0.35")
    axis.legend(frameon=False, fontsize=9)
    content = io.StringIO()
    figure.savefig(content, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    return content.getvalue()


def _density(axis, generated: Mapping, real: Mapping, key: str) -> None:
    values = np.concatenate([generated[key], real[key]])
    bins = np.linspace(*np.quantile(values, [0.001, 0.999]), BINS + 1)
    if bins[0] == bins[-1]:
        bins = BINS
    axis.hist(real[key], bins, density=True, color=REAL, label="held-out")
    axis.hist(
        generated[key], bins, density=True, histtype="step", color=GENERATED, lw=1.8,
        label="generated",
    )  # fmt: skip


def _bars(axis, generated: Mapping, real: Mapping, key: str) -> None:
    generated, real = generated["contents"][key], real["contents"][key]
    total = {k: generated.get(k, 0) + real.get(k, 0) for k in {*generated, *real}}
    if key == "atoms":
        shown = [str(n) for n in range(min(map(int, total)), max(map(int, total)) + 1)]
    else:
        shown = sorted(total, key=lambda k: (-total[k], k))[:CATEGORIES]
        if key in ("rings", "charges"):
            shown.sort(key=int)
    places, width = np.arange(len(shown)), 0.42
    for side, counts, colour, label in (
        (-1, real, REAL, "held-out"), (1, generated, GENERATED, "generated"),
    ):  # fmt: skip
        share = np.array([counts.get(k, 0) for k in shown]) / max(sum(counts.values()), 1)
        axis.bar(places + side * width / 2, share, width, color=colour, label=label)
    labels = [k.lower() for k in shown] if key == "bonds" else shown
    step = -(-len(shown) // CATEGORIES)
    axis.set_xticks(places[::step], labels[::step])
