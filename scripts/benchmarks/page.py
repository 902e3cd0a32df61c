"""A benchmark as one HTML page that needs no network: figures, curves of training, samples."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from graphcnf.evaluation.formats import Column, Row, shown_columns
from graphcnf.evaluation.histograms import GENERATED, STYLE, as_svg
from graphcnf.evaluation.report import page_template, picture_source
from graphcnf.files import write_file
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
        sections=[
            {
                "title": section.title,
                "said": section.said,
                "small": section.small,
                "pictures": [
                    {"caption": caption, "source": picture_source(content)}
                    for caption, content in section.pictures
                ],
            }
            for section in sections
            if section.pictures
        ],
        versions=f"graphcnf {version('graphcnf')}, Python {platform.python_version()}",
        date=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    )
    write_file(path, page.encode())


def curves(runs: Sequence[TrainedRun]) -> Section:
    """Bits of the batches over the minutes of training, a picture for each unit.

    A run that reports no bits, as that of a GAN, has no curve.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import LogFormatter

    by_unit: dict[str, list[tuple[str, list[float], list[float]]]] = {}
    for run in runs:
        for unit in ("bits_per_molecule", "bits_per_dimension"):
            points = run.curve(unit)
            if points:
                minutes, bits = (list(numbers) for numbers in zip(*points, strict=True))
                by_unit.setdefault(unit, []).append((run.variant, minutes, bits))
    section = Section("Training", said="Bits of the batches, each the mean since the one before.")
    for unit, lines in by_unit.items():
        words = unit.replace("_", " ")
        with pyplot.rc_context(STYLE):
            figure, axis = pyplot.subplots(figsize=(6, 3.6), layout="constrained")
            for number, (name, minutes, bits) in enumerate(lines):
                axis.plot(
                    minutes, bits, color=GENERATED[number % len(GENERATED)], lw=1.4, label=name
                )
            axis.set(xlabel="CPU minutes", ylabel=words, yscale="log")
            axis.yaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
            axis.legend(frameon=False, fontsize=8)
            section.pictures.append((f"{words} over CPU minutes", as_svg(figure)))
    return section
