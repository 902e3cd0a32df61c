"""Figures as PNG files: paper, type, and how they are written."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from typing import TYPE_CHECKING

from graphcnf.errors import UserError
from graphcnf.scripts._output import check_place, output_kind

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INCHES = 12
"""Width of every figure: type keeps its share of the picture, however many pixels it has."""

INK = "#22272e"
QUIET = "#66707c"
"""Colour of what explains: second lines, names of axes."""

TYPE = {
    "font.family": "sans-serif",
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": "#b6bdc6",
    "axes.labelcolor": QUIET,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
}


def check_figure(path: Path) -> None:
    """Raise, before the long work, what would keep a figure from being written.

    Raises:
        typer.BadParameter: The file is no PNG.
        UserError: It has no folder to be in, or matplotlib is missing.
    """
    output_kind(path, ("png",))
    check_place(path)
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("figures need matplotlib: pip install 'graphcnf[train]'")


def new_figure(height: float, width: int) -> Figure:
    """White paper, without pyplot, which would keep every figure alive.

    Args:
        height: In inches, beside a width of `INCHES`.
        width: In pixels.
    """
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.use("Agg")
    matplotlib.rcParams.update(TYPE)
    # A hair more, because matplotlib rounds the number of pixels down.
    return Figure(figsize=(INCHES, height), dpi=(width + 1e-3) / INCHES, facecolor="white")


def heading(figure: Figure, title: str, text: str) -> None:
    """Title and, in a smaller type, what the figure shows, at the top left.

    Args:
        figure: Where to write.
        title: One line.
        text: Lines that end 0.95 inches below the top, if there are two.
    """
    height = figure.get_figheight()
    place = {"x": 0.035, "ha": "left", "va": "top"}
    figure.text(y=1 - 0.16 / height, s=title, fontsize=18, fontweight="bold", **place)
    figure.text(y=1 - 0.54 / height, s=text, fontsize=11, color=QUIET, linespacing=1.35, **place)


def caption(axes: Axes, name: str, text: str) -> None:
    """Name of a panel and, below it in a smaller type, its figures; both above the panel."""
    above = {"xycoords": "axes fraction", "textcoords": "offset points", "annotation_clip": False}
    axes.annotate(name, (0, 1), (0, 22), fontsize=13, fontweight="bold", **above)
    axes.annotate(text, (0, 1), (0, 7), fontsize=10, color=QUIET, **above)


def save(figure: Figure, path: Path) -> None:
    """Write a figure under a temporary name, then rename it.

    Raises:
        UserError: The file cannot be written.
    """
    from graphcnf.files import replace_file

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    try:
        replace_file(path, buffer.getvalue())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
