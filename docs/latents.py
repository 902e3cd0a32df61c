"""Draw `latents.png`: the volumes that each encoding gives the atom types of ZINC250k.

The flow here is one of single atoms: p(x) of one atom type, without its neighbours and without a
context. A good model has to give every category the share of the base density that is its share of
the data; drawn by the distribution function of the base density (u = CDF(z), uniform on the unit
square), this share is an area.

The encodings are those of `graphcnf.categorical`, with volumes that start wider than in the models,
where they would be dots. `ArgmaxEncoding` has room for four categories in two latents.
`IntervalEncoding` takes one latent, and is not trained here: its flow gives every interval the
width of its probability.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from graphcnf.categorical import CategoricalFlow, make_encoding
from graphcnf.categorical.transformer import zero_init
from graphcnf.datasets import zinc250k_rows
from graphcnf.flows import Context, coupling_stack

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE = {"separation": 14.0}
ENCODINGS: dict[str, dict[str, Any]] = {
    "mixture": WIDE, "linear": WIDE | {"flows": 2}, "variational": WIDE | {"flows": 2},
    "argmax": {},
}  # fmt: skip
"""Encodings of two latents, with their options."""

MOLECULES, STEPS, HIDDEN, BATCH, WARMUP, RATE = 5_000, 280, 24, 512, 20, 1e-2
BETA = 2.0
"""Weight of log p(x|z) in training, as models have it early on: it drives volumes apart."""

DRAWN, SCORED = 300, 2000
"""Latents of a category that are drawn as points, and from which the bits are estimated."""

RESOLUTION = 320
"""Points along a side of a panel."""

COLOURS = {"C": "#5b6573", "N": "#3465d9", "O": "#dd3a2b", "S": "#eeb90f", "F": "#57b84c",
           "N+": "#8e7be6", "Cl": "#12805c", "O-": "#ff9357", "other": "#a3487f"}  # fmt: skip
"""Colours of atom types, ions lighter; all other types are one category, "other"."""


def main() -> None:
    """Draw the volumes of two latents that each encoding gives the atom types of ZINC250k."""
    rows = zinc250k_rows()
    data = rows.take(rows.split("train")[:MOLECULES]).without_aromatic()
    named = list(COLOURS)[:-1]
    place = [named.index(n) if n in named else len(named) for n in data.vocabulary.atom_labels]
    types = torch.tensor(place)[torch.from_numpy(data.graphs.node_types).long()]
    _draw(types, STEPS).savefig(Path(__file__).with_name("latents.png"))


def shares_of(types: Tensor) -> Tensor:
    """Return the share of each category among `types` (N,) long, (K,) float64."""
    return types.bincount().double() / len(types)


class Perceptron(nn.Module):
    """Network of a coupling of two latents: one layer of hidden channels, starts at 0."""

    def __init__(self, outputs: int):
        super().__init__()
        layers = nn.Linear(1, HIDDEN), nn.GELU(), zero_init(nn.Linear(HIDDEN, outputs))
        self.layers = nn.Sequential(*layers)

    def forward(self, x, context):
        """Map (B, 1, 1) to (B, 1, outputs)."""
        return self.layers(x)


def learn(name: str, types: Tensor, steps: int) -> tuple[CategoricalFlow, float]:
    """Train a flow of two latents of an encoding; torch's global generator is left as it was.

    Args:
        name: One of `ENCODINGS`.
        types: Categories, (N,) long.
        steps: Of training.

    Returns:
        The flow, and an upper bound on the bits of an atom.
    """
    shares, options = shares_of(types), dict(ENCODINGS[name])
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        encoding = make_encoding(name, len(shares), None if name == "argmax" else 2, **options)
        if name in ("mixture", "linear"):
            encoding.log_prior.data.copy_(shares.log())
        couplings = coupling_stack(
            lambda _, outputs: Perceptron(outputs), channels=2, couplings=4, mixtures=6
        )
        flow = CategoricalFlow(encoding, couplings)
        optimizer = torch.optim.Adam(flow.parameters(), RATE)
        for step in range(steps):
            warm = min(1.0, (step + 1) / WARMUP)
            optimizer.param_groups[0]["lr"] = RATE * warm * (1 - step / steps)
            x = types[torch.randint(len(types), (BATCH, 1))]
            loss = -flow.bound(x, _all(x)).log_prob(BETA).mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(flow.parameters(), 1.0)
            optimizer.step()
        with torch.no_grad():
            x = torch.arange(len(shares)).repeat_interleave(SCORED).unsqueeze(1)
            bits = -flow.eval().bound(x, _all(x)).log_prob().double() / math.log(2)
    return flow, float(bits.view(-1, SCORED).mean(1) @ shares)


def _all(x: Tensor) -> Context:
    return Context(torch.ones_like(x, dtype=torch.bool))


@torch.no_grad()
def posterior(flow: CategoricalFlow, z: Tensor) -> np.ndarray:
    """Return p(x|z) of all categories at latents (..., 2) on the encoder's side, (..., K)."""
    encoding = flow.encoding
    if hasattr(encoding, "log_posterior"):
        return encoding.log_posterior(z).exp().numpy()
    x = encoding.decode(z.reshape(-1, 1, encoding.latent_dim)).view(z.shape[:-1])
    return np.eye(encoding.cardinalities)[x.numpy()]


@torch.no_grad()
def points(flow: CategoricalFlow) -> Tensor:
    """Return latents drawn from q(z|x), as many for each category, (K, DRAWN, 2)."""
    categories = flow.encoding.cardinalities
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        x = torch.arange(categories).repeat_interleave(DRAWN).unsqueeze(1)
        return flow.encoding.encode(x).z.view(categories, DRAWN, 2)


@torch.no_grad()
def unit_square(flow: CategoricalFlow, resolution: int) -> np.ndarray:
    """Return p(x|z) at the centres of a grid on the unit square of the base density, (R, R, K).

    The first axis is the second latent.
    """
    u = (torch.arange(resolution, dtype=torch.float64) + 0.5) / resolution
    # The base density is logistic: its distribution function is the sigmoid.
    base = torch.logit(torch.stack(torch.meshgrid(u, u, indexing="xy"), -1)).float()
    z = flow.flow.inverse(base.view(-1, 1, 2))
    return posterior(flow, z.view(resolution, resolution, 2))


def _draw(types: Tensor, steps: int) -> Figure:
    """Draw the encodings of two latents side by side, and the interval encoding below."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    figure = Figure(figsize=(12, 9.2), layout="constrained")
    figure.suptitle("Encodings turn atom types into disjoint volumes", fontsize=18, weight="bold")
    axes = figure.subplot_mosaic(
        [list(ENCODINGS), [f"{name}, flow" for name in ENCODINGS], ["interval"] * len(ENCODINGS)],
        height_ratios=(2.6, 2.6, 1),
    )
    for name in ENCODINGS:
        # Two signs tell four categories apart.
        few = types.clamp(max=3) if name == "argmax" else types
        shares = shares_of(few)
        names = [*list(COLOURS)[: len(shares) - 1], "other"]
        flow, bits = learn(name, few, steps)
        entropy = -float((shares * shares.log2()).sum())
        title = f"{name}, {len(shares)} types\nbound {bits:.2f} bits, entropy {entropy:.2f}"
        axes[name].set_title(title, loc="left")
        _draw_encoder(axes[name], flow, names)
        square = unit_square(flow, RESOLUTION) @ _rgb(names)
        axes[f"{name}, flow"].imshow(square.clip(0, 1), origin="lower", aspect="auto")
        axes[f"{name}, flow"].set(xticks=[], yticks=[])
    axes["mixture"].set_ylabel("encoder q(z|x), and what decodes to x")
    axes["mixture, flow"].set_ylabel("after the flow: area is probability")
    shares = shares_of(types)
    axes["interval"].set_title("interval, one latent", loc="left")
    _draw_line(axes["interval"], shares.numpy())
    marks = [
        Patch(color=colour, label=f"{name}  {share:.1%}")
        for (name, colour), share in zip(COLOURS.items(), shares.tolist(), strict=True)
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), frameon=False)
    return figure


def _rgb(names: Sequence[str]) -> np.ndarray:
    """Return the colours of categories, (K, 3) in 0 to 1."""
    from matplotlib.colors import to_rgb

    return np.array([to_rgb(COLOURS[name]) for name in names])


def _draw_encoder(axes: Axes, flow: CategoricalFlow, names: Sequence[str]) -> None:
    """Draw points of q(z|x) on the regions of the latents that decode to each category."""
    from matplotlib.patheffects import withStroke

    z = points(flow).numpy()
    low, high = np.quantile(z, [0.005, 0.995], (0, 1))
    x, y = (torch.linspace(low[k], high[k], RESOLUTION) for k in range(2))
    p = posterior(flow, torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).float())
    pale = 1 - 0.22 * (1 - p @ _rgb(names))
    extent = (low[0], high[0], low[1], high[1])
    axes.imshow(pale.clip(0, 1), origin="lower", extent=extent, aspect="auto")
    for drawn, name in zip(z, names, strict=True):
        axes.scatter(*drawn.T, s=4, color=COLOURS[name], alpha=0.75, linewidths=0)
        axes.text(
            *drawn.mean(0),
            name,
            fontsize=12,
            weight="bold",
            ha="center",
            va="center",
            path_effects=[withStroke(linewidth=3, foreground="white")],
        )
    axes.set(xlim=extent[:2], ylim=extent[2:], xticks=[], yticks=[])


def _draw_line(axes: Axes, shares: np.ndarray) -> None:
    """Draw bars of the intervals before and after the flow, and the map between them."""
    before, after = np.linspace(0, 1, len(shares) + 1), np.append(0, shares.cumsum())
    for k, colour in enumerate(COLOURS.values()):
        a, b, c, d = before[k], before[k + 1], after[k], after[k + 1]
        axes.fill([a, b, b, a], [0.7, 0.7, 1, 1], color=colour)
        axes.fill([c, d, d, c], [0, 0, 0.3, 0.3], color=colour)
        axes.fill([a, b, d, c], [0.7, 0.7, 0.3, 0.3], color=colour, alpha=0.3, linewidth=0)
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=[], yticks=(0.15, 0.85))
    axes.set_yticklabels(["after the flow", "encoder"])


if __name__ == "__main__":
    main()
