"""A benchmark as one HTML page that needs no network: figures, curves of training, samples."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from graphcnf.compute.files import write_file
from graphcnf.evaluation.formats import Column, Row, shown_columns
from graphcnf.evaluation.histograms import GENERATED, STYLE, as_svg
from graphcnf.evaluation.report import page_template, picture_source
from graphcnf.scripts.benchmarks.runs import TrainedRun


@dataclass
class Section:
    """Pictures below a heading.

    Attributes:
        title: The heading.
        pictures: Caption, and SVG text or PNG bytes, of each.
        said: A sentence above them.
        small: Whether several stand beside each other.
    """

    title: str
    pictures: list[tuple[str, str | bytes]] = field(default_factory=list)
    said: str = ""
    small: bool = True


def write_page(
    path: Path,
    title: str,
    rows: Sequence[Row],
    columns: Sequence[Column],
    notes: Sequence[str],
    sections: Sequence[Section],
) -> None:
    """Write the page; sections without pictures are left out.

    Raises:
        UserError: The file cannot be written.
    """
    page = page_template(Path(__file__).parent / "page.html").render(
        title=title,
        # A line for each figure: models are few, figures many.
        lines=shown_columns(rows, columns),
        notes=notes,
        sections=[section for section in sections if section.pictures],
        picture_source=picture_source,
        versions=f"graphcnf {version('graphcnf')}, Python {platform.python_version()}",
        date=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    )
    write_file(path, page.encode())


def curves(runs: Sequence[TrainedRun], unit: str) -> Section:
    """Bits of the batches over the minutes of training, a colour for each model.

    Args:
        runs: A run that reports no bits, as that of a GAN, has no curve.
        unit: Column of `metrics.csv`, such as "bits_per_molecule".
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import LogFormatter

    said = "Bits of the batches, each the mean since the one before."
    section = Section("Training", said=said, small=False)
    drawn = [run for run in runs if run.curve(unit)]
    names = list(dict.fromkeys(run.variant for run in drawn))
    if not names:
        return section
    words = unit.replace("_", " ")
    with pyplot.rc_context(STYLE):
        figure, axis = pyplot.subplots(figsize=(7.5, 3.6), layout="constrained")
        for run in drawn:
            minutes, bits = zip(*run.curve(unit), strict=True)
            color = GENERATED[names.index(run.variant) % len(GENERATED)]
            axis.plot(minutes, bits, color=color, lw=1.4, label=run.variant)
        axis.set(xlabel="CPU minutes", ylabel=words, yscale="log")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
        # Several seeds of a model share its entry.
        lines, labels = axis.get_legend_handles_labels()
        entries = dict(zip(labels, lines, strict=True))
        figure.legend(
            entries.values(), entries, loc="outside right upper", frameon=False, fontsize=8
        )
        section.pictures.append((f"{words} over CPU minutes", as_svg(figure)))
    return section
