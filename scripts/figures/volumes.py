"""The drawing of `python -m graphcnf.scripts.figures latents`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from graphcnf.scripts.figures.latents import (
    Atoms,
    Learned,
    points,
    posterior,
    unit_square,
    widths,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {
    "C": "#5b6573",
    "N": "#3465d9",
    "O": "#dd3a2b",
    "S": "#eeb90f",
    "F": "#57b84c",
    "N+": "#8e7be6",
    "Cl": "#12805c",
    "O-": "#ff9357",
    "other": "#a3487f",
}
"""As chemists colour their models, ions lighter."""

INK, QUIET = "#22272e", "#66707c"
TYPE = {
    "font.family": "sans-serif",
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": "#b6bdc6",
}
INCHES, HEIGHT = 12, 9.35
"""Size of the figure: type keeps its share of it, however many pixels it has."""

LEFT, RIGHT = 0.1, 0.985
RESOLUTION = 320
"""Points along a side of a panel."""

PALE = 0.22
"""Strength of the colour of a region behind its points."""

EDGE = 0.01
"""Share of the points of a category that may lie beyond the edge of a panel."""

ROOM = 0.034
"""Radius, as a share of the panel's side, from which on a region has room for its name."""


def draw_latents(learned: Sequence[Learned], width: int) -> Figure:
    """Draw the encodings of two latents side by side, and the interval encoding below.

    Args:
        learned: What `learn` returns for all encodings.
        width: In pixels.
    """
    *planes, line = learned
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams.update(TYPE)
    # A hair more, because matplotlib rounds the number of pixels down.
    dpi = (width + 1e-3) / INCHES
    figure = Figure(figsize=(INCHES, HEIGHT), dpi=dpi, facecolor="white")
    place = {"x": 0.035, "ha": "left", "va": "top"}
    title = "Encodings turn atom types into disjoint volumes"
    figure.text(y=1 - 0.16 / HEIGHT, s=title, fontsize=18, fontweight="bold", **place)
    figure.text(
        y=1 - 0.54 / HEIGHT, fontsize=11, color=QUIET, linespacing=1.35, **place,
        s="Upper row: latents z drawn by the encoder q(z|x), as many for each atom type, on the "
        "regions that decode to it.\nLower row: what the flow makes of these regions, such that "
        "area is probability. One small flow each, of single atoms of ZINC250k.",
    )  # fmt: skip
    grid = figure.add_gridspec(
        2, len(planes), left=LEFT, right=RIGHT, top=1 - 1.68 / HEIGHT, bottom=2.42 / HEIGHT,
        wspace=0.06, hspace=0.05,
    )  # fmt: skip
    for column, one in enumerate(planes):
        upper, lower = (figure.add_subplot(grid[row, column]) for row in range(2))
        own = [_colour(name) for name in one.atoms.names]
        _draw_encoder(upper, one, own)
        _draw_square(lower, one, own)
        # Two signs tell four apart.
        few = f", {len(own)} types" if one.name == "argmax" else ""
        _caption(upper, one.name + few, _bits(one))
        if not column:
            upper.set_ylabel("encoder", color=INK, fontsize=12, labelpad=8)
            lower.set_ylabel("after the flow", color=INK, fontsize=12, labelpad=8)
    strip = figure.add_axes((LEFT, 0.86 / HEIGHT, RIGHT - LEFT, 0.92 / HEIGHT))
    _draw_line(strip, line, [_colour(name) for name in line.atoms.names])
    _caption(strip, "interval", _bits(line) + "; one latent, its distribution function")
    _legend(figure, line.atoms)
    return figure


def _colour(name: str) -> str:
    return COLOURS.get(name, COLOURS["other"])


def _caption(axes: Axes, name: str, text: str) -> None:
    """Name of a panel and, below it in a smaller type, its figures; both above the panel."""
    above = {"xycoords": "axes fraction", "textcoords": "offset points", "annotation_clip": False}
    axes.annotate(name, (0, 1), (0, 22), fontsize=13, fontweight="bold", **above)
    axes.annotate(text, (0, 1), (0, 7), fontsize=10, color=QUIET, **above)


def _bits(one: Learned) -> str:
    return f"bound {one.bits:.2f} bits, entropy {one.atoms.entropy:.2f}"


def _mixed(p: np.ndarray, colours: Sequence[str]) -> np.ndarray:
    """Mean colour under probabilities (..., K), (..., 3) in 0 to 1."""
    from matplotlib.colors import to_rgb

    return (p @ np.array([to_rgb(colour) for colour in colours])).clip(0, 1)


def _label(name: str) -> str:
    """The charge of an ion as a superscript."""
    return name.replace("+", "\u207a").replace("-", "\u207b")


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])


def _draw_encoder(axes: Axes, one: Learned, colours: Sequence[str]) -> None:
    z = points(one)
    flat = z.reshape(-1, 2)
    low, high = np.quantile(flat, EDGE, 0), np.quantile(flat, 1 - EDGE, 0)
    low, high = low - 0.06 * (high - low), high + 0.06 * (high - low)
    x, y = (torch.linspace(low[k], high[k], RESOLUTION) for k in range(2))
    p = posterior(one.flow, torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).float())
    rgb = 1 - PALE * (1 - _mixed(p, colours))
    extent = (low[0], high[0], low[1], high[1])
    axes.imshow(rgb, origin="lower", extent=extent, aspect="auto", interpolation="bilinear")
    for drawn, colour in zip(z, colours, strict=True):
        axes.scatter(*drawn.T, s=4, color=colour, alpha=0.75, linewidths=0)
    axes.set(xlim=extent[:2], ylim=extent[2:])
    _bare(axes)
    for drawn, name in zip(z, one.atoms.names, strict=True):
        _name(axes, drawn.mean(0), _label(name), INK, "white")


def _draw_square(axes: Axes, one: Learned, colours: Sequence[str]) -> None:
    p = unit_square(one.flow, RESOLUTION)
    axes.imshow(
        _mixed(p, colours), origin="lower", extent=(0, 1, 0, 1), aspect="auto",
        interpolation="bilinear",
    )  # fmt: skip
    _bare(axes)
    region = p.argmax(-1)
    for k, (name, share) in enumerate(zip(one.atoms.names, one.atoms.shares, strict=True)):
        place, radius = middle(region == k)
        if radius >= ROOM * len(p):
            large = radius > 0.12 * len(p)
            text = f"{name}\n{share:.1%}" if large else _label(name)
            _name(axes, place, text, "white", colours[k], 14 if large else 11)


def _draw_line(axes: Axes, one: Learned, colours: Sequence[str]) -> None:
    """Bars of the intervals before and after the flow, and what joins them."""
    after = np.concatenate([[0], widths(one.flow).cumsum()])
    before = np.linspace(0, 1, len(after))
    for k, (name, colour) in enumerate(zip(one.atoms.names, colours, strict=True)):
        a, b, c, d = before[k], before[k + 1], after[k], after[k + 1]
        axes.fill_between([a, b], 0.7, 1, color=colour, linewidth=0)
        axes.fill_between([c, d], 0, 0.3, color=colour, linewidth=0)
        axes.fill([a, b, d, c], [0.7, 0.7, 0.3, 0.3], color=colour, alpha=PALE + 0.1, linewidth=0)
        _name(axes, ((a + b) / 2, 0.85), _label(name), "white", colour)
        if d - c > ROOM:
            text = f"{name}  {one.atoms.shares[k]:.1%}" if d - c > 0.3 else _label(name)
            _name(axes, ((c + d) / 2, 0.15), text, "white", colour)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.set_axis_off()
    for y, text in ((0.85, "encoder"), (0.15, "after the flow")):
        axes.annotate(
            text, (0, y), (-8, 0), textcoords="offset points", ha="right", va="center", fontsize=10,
            annotation_clip=False,
        )  # fmt: skip


def _legend(figure: Figure, atoms: Atoms) -> None:
    from matplotlib.patches import Patch

    marks = [
        Patch(color=_colour(name), label=f"{_label(name)}  {_percent(share)}")
        for name, share in zip(atoms.names, atoms.shares, strict=True)
    ]
    figure.legend(
        handles=marks, loc="lower center", bbox_to_anchor=((LEFT + RIGHT) / 2, 0.14 / HEIGHT),
        ncols=len(marks), frameon=False, fontsize=11, handlelength=0.9, handleheight=0.9,
        handletextpad=0.5, columnspacing=1.6,
    )  # fmt: skip


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 else "< 0.1%"


def _name(axes: Axes, place, text: str, colour: str, halo: str, size: float = 12) -> None:
    from matplotlib.patheffects import withStroke

    axes.text(
        *place, text, color=colour, fontsize=size, fontweight="bold", ha="center", va="center",
        path_effects=[withStroke(linewidth=3, foreground=halo)],
    )  # fmt: skip


def middle(region: np.ndarray) -> tuple[tuple[float, float], float]:
    """Point (x, y) of the unit square deepest inside a region (R, R) bool, its depth in cells.

    The edge of the square counts as an edge of the region.
    """
    from scipy.ndimage import distance_transform_edt

    depth = distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    rows, columns = np.nonzero(depth == depth.max())
    return ((columns.mean() + 0.5) / len(region), (rows.mean() + 0.5) / len(region)), depth.max()
