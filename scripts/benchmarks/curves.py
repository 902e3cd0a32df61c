"""Snapshots of training: their scores, and a plot of them over time."""

from __future__ import annotations

import importlib.util
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from graphcnf.errors import UserError
from graphcnf.evaluation.formats import Column, number, text
from graphcnf.scripts._output import check_place
from graphcnf.scripts.benchmarks.runs import (
    TrainedRun,
    molecule_bits,
    run_names,
    saved_metadata,
    worst_accuracy,
)
from graphcnf.scripts.benchmarks.scorer import Job, Scorer
from graphcnf.scripts.benchmarks.tables import DATA, QUALITY, data_rows

HOURS_FROM = 300
"""Minutes from which on the axis counts hours."""

LOGARITHMIC_FROM = 4
"""Ratio of the largest to the smallest value from which on an axis of bits is logarithmic."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, which colour-blind readers can tell apart (without its yellow)."""

MARKERS = "osD^vPX"
DATA_STYLES = (":", "-.", (0, (1, 4)))
SHARES = ("strict_validity", "largest_fragment_validity", "novelty", "uniqueness")


def check_plot(path: Path | None) -> None:
    """Raise, before the long work, what would keep a plot from being written.

    Raises:
        typer.BadParameter: The file is no PNG.
        UserError: It has no folder to be in, or matplotlib is missing.
    """
    if path is None:
        return
    if path.suffix.lower() != ".png":
        raise typer.BadParameter(f"{path} must end in .png", param_hint="'--png'")
    check_place(path)
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("--png needs matplotlib: pip install 'graphcnf[train]'")


def curves(runs: Sequence[TrainedRun], scorer: Scorer) -> list[dict[str, Any]]:
    """One row per snapshot of each run, in order of time, then one per data set.

    Returns:
        `run`, `step`, `minutes` (both counted from the start of a run that this one went on from),
        the figures on held-out molecules, and those of the `scorer`. Rows of the training data
        have no step.

    Raises:
        UserError: No run has snapshots of a model of molecules.
    """
    jobs, points = [], []
    for run, name in zip(runs, run_names(runs), strict=True):
        snapshots = [f for f in run.snapshots() if "vocabulary" in saved_metadata(f)]
        if not snapshots:
            print(f"note: {run.path} has no snapshots of a model of molecules", file=sys.stderr)
        jobs += [Job(run, folder, folder / "scores.json") for folder in snapshots]
        points += [(name, place, len(snapshots)) for place in range(1, len(snapshots) + 1)]
    if not jobs:
        raise UserError("no snapshots to score: train with --set snapshots=true")
    rows = [{"run": name, **_held_out(job)} for (name, *_), job in zip(points, jobs, strict=True)]
    for row, (name, place, of), scores in zip(rows, points, scorer(jobs), strict=True):
        print(f"{name}: scored snapshot {place} of {of}", file=sys.stderr, flush=True)
        row |= scores
    return rows + data_rows([job.run for job in jobs], scorer, "run")


def _held_out(job: Job) -> dict[str, Any]:
    record = saved_metadata(job.folder).get("training", {})
    try:
        held_out, steps, minutes = record["held_out"], record["steps"], record["minutes"]
    except KeyError as error:
        raise UserError(f"{job.folder / 'config.json'}: no record of training ({error})") from None
    return {
        "step": steps,
        "minutes": minutes,
        **molecule_bits(job.run, held_out, int(job.folder.name)),
        "worst_accuracy": worst_accuracy(held_out),
    }


COLUMNS: list[Column] = [
    ("run", text("run")),
    ("minutes", number("minutes", 1)),
    ("steps", text("step", "{:,}")),
    ("bits per node", number("bits_per_node", 3)),
    ("bits per molecule", number("bits_per_molecule", 2)),
    *QUALITY,
    ("FCD", number("fcd")),
]


def plot(rows: Sequence[dict[str, Any]], runs: Sequence[TrainedRun], path: Path) -> None:
    """Draw held-out bits, validity and, where it is known, FCD over training time, as PNG.

    Bits are per node, but per molecule where a run has a model without a node order: its bits per
    node are those of a labelling. The training data are horizontal lines.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    from graphcnf.files import replace_file

    points = [row for row in rows if "step" in row]
    data = [row for row in rows if "step" not in row]
    unit, name = (
        (60, "hours") if max(r["minutes"] for r in points) >= HOURS_FROM else (1, "minutes")
    )
    panels = _panels(points, runs)
    lines = len(panels) // 2
    with pyplot.rc_context({"font.size": 10, "axes.titlesize": 10, "axes.titlelocation": "left"}):
        # 8 inches are 800 pixels on a page, and twice as many on a sharp screen.
        figure, axes = pyplot.subplots(
            lines, 2, sharex=True, squeeze=False, figsize=(8, 0.9 + 2.6 * lines), dpi=200,
            layout="constrained",
        )  # fmt: skip
        grouped: dict[str, list[dict[str, Any]]] = {}
        for row in points:
            grouped.setdefault(row["run"], []).append(row)
        for axis, (keys, title) in zip(axes.flat, panels, strict=True):
            for k, (label, mine) in enumerate(grouped.items()):
                for key, style in zip(keys, ("-", "--"), strict=False):
                    _line(axis, mine, key, unit, k, style, label)
            for row, style in zip(data, DATA_STYLES, strict=False):
                if len(keys) == 1 and row.get(keys[0]) is not None:
                    label = row["run"].replace(DATA, "training data")
                    axis.axhline(_scaled(row, keys[0]), color="0.4", linestyle=style, label=label)
            axis.set_title(title)
            axis.grid(alpha=0.3)
            axis.set_xlim(left=0)
            axis.xaxis.set_major_locator(ticker.MaxNLocator(nbins=6))
            values = [
                _scaled(row, key) for row in points for key in keys if row.get(key) is not None
            ]
            if keys[0] in SHARES:
                axis.set_ylim(*((90, 100.5) if len(keys) > 1 and min(values) > 90 else (0, 104)))
            elif keys[0] == "fcd":
                axis.set_ylim(bottom=0)
            elif _spread(values) > LOGARITHMIC_FROM:
                axis.set_yscale("log")
                axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
                axis.yaxis.set_major_formatter("{x:g}")
                axis.yaxis.set_minor_formatter(ticker.NullFormatter())
        for axis in axes[-1]:
            axis.set_xlabel(f"training time ({name})")
        known = {}
        for axis in axes.flat:
            handles, labels = axis.get_legend_handles_labels()
            known = dict(zip(labels, handles, strict=True)) | known
        names = " and ".join(dict.fromkeys(run.data_name for run in runs))
        figure.suptitle(f"Training on {names}: {points[0]['samples']:,} raw samples per point")
        figure.legend(
            known.values(), known.keys(), loc="outside lower center", ncols=2, frameon=False
        )
        content = io.BytesIO()
        figure.savefig(content, format="png")
        pyplot.close(figure)
    replace_file(path, content.getvalue())


def _panels(
    rows: Sequence[dict[str, Any]], runs: Sequence[TrainedRun]
) -> list[tuple[tuple[str, ...], str]]:
    """Keys and title of what is drawn, an even number of them."""
    ordered = all(run.ordered for run in runs)
    bits = "bits_per_node" if ordered else "bits_per_molecule"
    panels = [((bits,), f"held-out {bits.replace('_', ' ')}")]
    if any(row["largest_fragment_validity"] != row["strict_validity"] for row in rows):
        panels += [
            (("strict_validity",), "strictly valid (%)"),
            (("largest_fragment_validity",), "largest fragment valid (%)"),
        ]
    else:
        panels += [(("strict_validity",), "strictly valid = largest fragment valid (%)")]
    if any(row.get("fcd") is not None for row in rows):
        panels += [(("fcd",), "FCD to held-out molecules")]
    if len(panels) % 2:
        panels += [(("novelty", "uniqueness"), "novel (line) and unique (dashes), % of valid")]
    return panels


def _line(
    axis, points: list[dict[str, Any]], key: str, unit: int, place: int, style: str, label: str
) -> None:
    """One run in one panel; what is not known is left out."""
    shown = [p for p in points if p.get(key) is not None]
    axis.plot(
        [p["minutes"] / unit for p in shown],
        [_scaled(p, key) for p in shown],
        style,
        color=COLOURS[place % len(COLOURS)],
        marker=MARKERS[place % len(MARKERS)],
        markersize=4,
        label=label,
    )


def _scaled(row: dict[str, Any], key: str) -> float:
    """The value to draw: shares are in per cent."""
    return row[key] * (100 if key in SHARES else 1)


def _spread(values: Sequence[float]) -> float:
    """Largest over smallest value, 0 where a logarithm does not exist."""
    return max(values) / min(values) if min(values) > 0 else 0.0
