"""What dequantization does: a few whole numbers, and densities that were learned of them.

The numbers are dequantized by `UniformDequantization` or `VariationalDequantization`; the density
is a mixture of logistics, the smallest flow there is on one axis. Uniform noise makes boxes, with
edges that no smooth density follows, and mass that falls beyond them is lost. Learned noise fills
the cell of each number as suits the density, so that the bound comes close to the entropy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from graphcnf.categorical.densities import ConditionalAffine
from graphcnf.categorical.dequantization import CategoryEmbedding, ConditionalMixture
from graphcnf.flows import (
    Sequential,
    StandardLogistic,
    Transform,
    UniformDequantization,
    VariationalDequantization,
    bounded_log_scale,
    logistic_mixture,
    sum_log_term,
)
from graphcnf.scripts._output import progress_bar
from graphcnf.scripts.figures.layout import INK, QUIET, caption, heading, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PROBABILITIES = (0.08, 0.27, 0.03, 0.20, 0.36, 0.06)
"""Of the numbers 0, 1, 2 ..."""

MIXTURES, EMBEDDING = 8, 8
BATCH, LEARNING_RATE = 512, 3e-2
DRAWS = 64
SCORED = 500
"""Repetitions of every number from which the bits are estimated."""

TITLES = {"uniform": "Uniform dequantization", "variational": "Variational dequantization"}
BARS, CURVES = "#d7dde5", {"uniform": "#dd3a2b", "variational": "#3465d9"}
HEIGHT = 4.9


@dataclass
class Learned:
    """A density of dequantized numbers.

    Attributes:
        name: "uniform" or "variational".
        density: See `Density`.
        bits: Upper bounds on the bits of a number, averaged over the data: of one draw of the
            noise, and of `DRAWS` draws.
    """

    name: str
    density: Density
    bits: tuple[float, float]


class Density(nn.Module):
    """p(v) of a real number v, and with a dequantization a bound on P(x).

    p is a mixture of logistics: v becomes the logit of its distribution function, which is a
    standard logistic variable. The components start at equal distances.

    Args:
        dequantization: x (B, 1, 1) to v = x + u.
        levels: Number of whole numbers.
    """

    def __init__(self, dequantization: Transform, levels: int):
        super().__init__()
        self.dequantization = dequantization
        self.levels = levels
        self.logits = nn.Parameter(torch.zeros(MIXTURES))
        self.means = nn.Parameter(levels * (torch.arange(MIXTURES) + 0.5) / MIXTURES)
        self.log_scales = nn.Parameter(torch.full((MIXTURES,), -1.5))
        self.base = StandardLogistic()

    def _logit(self, v: Tensor) -> tuple[Tensor, Tensor]:
        parts = self.logits, self.means, bounded_log_scale(self.log_scales)
        spread = (part.view(-1, 1, 1, 1).expand(-1, *v.shape) for part in parts)
        return logistic_mixture(v, *spread)

    def log_density(self, v: Tensor) -> Tensor:
        """Log p(v) for v (B, 1, 1), (B,) nats."""
        z, log_slope = self._logit(v)
        return self.base.log_prob(z) + sum_log_term(log_slope)

    @torch.no_grad()
    def cells(self) -> np.ndarray:
        """Probability that p(v) gives the cell of each number, (levels,)."""
        ends = torch.arange(self.levels + 1.0).view(-1, 1, 1)
        return torch.sigmoid(self._logit(ends)[0]).flatten().diff().numpy()

    def log_prob(self, x: Tensor, samples: int = 1) -> Tensor:
        """Lower bound on log P(x) for x (B, 1, 1), from `samples` draws of the noise, (B,)."""
        draws = []
        for _ in range(samples):
            v, log_term = self.dequantization(x)
            draws.append(self.log_density(v) + log_term)
        return torch.logsumexp(torch.stack(draws), 0) - math.log(samples)


def build(name: str, levels: int) -> Density:
    """A new density, with "uniform" or "variational" dequantization."""
    if name == "uniform":
        return Density(UniformDequantization(levels), levels)
    noise = Sequential(ConditionalMixture(4, EMBEDDING), ConditionalAffine(1, EMBEDDING))
    embedding = CategoryEmbedding(levels, EMBEDDING)
    return Density(VariationalDequantization(levels, noise, embedding), levels)


def learn(*, steps: int, seed: int) -> list[Learned]:
    """Train both densities; torch's global generator is left as it was."""
    p = torch.tensor(PROBABILITIES, dtype=torch.float64)
    results = []
    with torch.random.fork_rng([]), progress_bar("training", steps * len(TITLES)) as show:
        for number, name in enumerate(TITLES):
            torch.manual_seed(seed)
            density = build(name, len(p))
            optimizer = torch.optim.Adam(density.parameters(), LEARNING_RATE)
            for step in range(steps):
                for group in optimizer.param_groups:
                    group["lr"] = LEARNING_RATE * (1 - step / steps)
                x = torch.multinomial(p, BATCH, replacement=True).view(-1, 1, 1)
                loss = -density.log_prob(x).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                show(number * steps + step + 1)
            bits = _bits(density, p, 1), _bits(density, p, DRAWS)
            results.append(Learned(name, density.eval(), bits))
    return results


@torch.no_grad()
def _bits(density: Density, p: Tensor, samples: int) -> float:
    x = torch.arange(len(p)).repeat_interleave(SCORED).view(-1, 1, 1)
    bits = -density.log_prob(x, samples).double() / math.log(2)
    return float(bits.view(len(p), -1).mean(1) @ p)


def entropy() -> float:
    """Of `PROBABILITIES`, bits."""
    p = np.array(PROBABILITIES)
    return float(-(p * np.log2(p)).sum())


def draw_dequantization(learned: Sequence[Learned], width: int) -> Figure:
    """Draw the densities side by side.

    Args:
        learned: What `learn` returns.
        width: In pixels.
    """
    figure = new_figure(HEIGHT, width)
    heading(
        figure,
        "Dequantization turns whole numbers into a density",
        f"Bars: the true probabilities. Curves: the density that a mixture of {MIXTURES} logistics "
        "learns of numbers plus noise. Below: areas of both.\nUniform noise asks for boxes; "
        "learned noise fills each cell as suits the density, which needs the right areas only.",
    )
    draw_densities(figure, learned, top=1 - 1.62 / HEIGHT, bottom=0.86 / HEIGHT)
    return figure


def draw_densities(
    figure: Figure, learned: Sequence[Learned], *, top: float, bottom: float
) -> None:
    """Draw the panels into a part of a figure; `top` and `bottom` are shares of its height."""
    places = figure.add_gridspec(
        1, len(learned), left=0.07, right=0.985, top=top, bottom=bottom, wspace=0.14
    )
    v = torch.linspace(-0.6, len(PROBABILITIES) + 0.6, 1200, dtype=torch.float64)
    curves = []
    for one in learned:
        with torch.no_grad():
            curves.append(one.density.log_density(v.float().view(-1, 1, 1)).exp().numpy())
    highest = max(*map(np.max, curves), *PROBABILITIES)
    for place, one, curve in zip(places, learned, curves, strict=True):
        axes = figure.add_subplot(place)
        _draw_panel(axes, v.numpy(), curve, CURVES[one.name])
        axes.set(ylim=(0, 1.06 * highest))
        first, many = one.bits
        bound = f"bound {first:.3f} bits ({DRAWS} draws: {many:.3f}), entropy {entropy():.3f}"
        caption(axes, TITLES[one.name], bound)
        _row(axes, -20, "number", INK, [str(n) for n in range(len(PROBABILITIES))])
        _row(axes, -35, "true", QUIET, [f"{p:.3f}" for p in PROBABILITIES])
        _row(axes, -50, "learned", CURVES[one.name], [f"{p:.3f}" for p in one.density.cells()])


def _draw_panel(axes: Axes, v: np.ndarray, curve: np.ndarray, colour: str) -> None:
    numbers = np.arange(len(PROBABILITIES))
    axes.bar(numbers + 0.5, PROBABILITIES, 1, color=BARS, edgecolor="white", linewidth=1.5)
    axes.fill_between(v, curve, color=colour, alpha=0.15, linewidth=0)
    axes.plot(v, curve, color=colour, linewidth=2)
    axes.set_xticks([])
    axes.tick_params(length=0, labelsize=10)
    axes.set(xlim=(v[0], v[-1]))
    axes.locator_params(axis="y", nbins=4)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="y", color="#e9edf1", linewidth=1)
    axes.set_axisbelow(True)


def _row(axes: Axes, below: float, name: str, colour: str, values: Sequence[str]) -> None:
    """A line of figures, one for each cell, so many points below the panel."""
    place = {
        "xycoords": ("data", "axes fraction"),
        "textcoords": "offset points",
        "annotation_clip": False,
        "color": colour,
        "fontsize": 10,
        "va": "baseline",
    }
    axes.annotate(name, (axes.get_xlim()[0], 0), (-4, below), ha="right", **place)
    for number, value in enumerate(values):
        axes.annotate(value, (number + 0.5, 0), (0, below), ha="center", **place)
