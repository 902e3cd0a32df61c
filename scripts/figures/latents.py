"""What encodings of categories learn: volumes of two latents, before and after the flow.

The flow here is one of single atoms: p(x) of one atom type, without its neighbours and without a
context. That is too little to make molecules and just enough to see the method. A good model has to
give every category the share of the base density that is its share of the data, and where the base
density is drawn by its distribution function (u = CDF(z), uniform on the unit square), this share
is an area.

The encodings are those of `graphcnf.categorical`, with volumes that start wider than in the models,
where they would be dots. `ArgmaxEncoding` has room for four categories in two latents,
`IntervalEncoding` takes one latent; its flow is the `AutoregressiveCoupling`, which gives every
interval the width of its probability.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from graphcnf.categorical import CategoricalFlow, make_encoding
from graphcnf.categorical.autoregressive import AutoregressiveFlow, Network, Step
from graphcnf.compute.progress import progress_bar
from graphcnf.flows import Context, coupling_stack
from graphcnf.flows.readout import zero_init

PLANES = ("mixture", "linear", "variational", "argmax")
ENCODINGS = (*PLANES, "interval")
MOLECULES = 50_000
FREQUENT = 8
"""Categories that are shown; the rest is one more, "other"."""

SEPARATION = {"separation": 14.0}
OPTIONS: dict[str, dict[str, Any]] = {
    "mixture": SEPARATION,
    "linear": SEPARATION | {"flows": 2},
    "variational": SEPARATION | {"flows": 2},
}
COUPLINGS, MIXTURES, HIDDEN = 4, 6, 24
BATCH, WARMUP = 512, 20
LEARNING_RATES = dict.fromkeys(PLANES, 1e-2) | {"interval": 0.1}
BETA = 2.0
"""Weight of log p(x|z) in training, as models have it early on: it drives volumes apart."""

DRAWN, SCORED = 300, 2000
"""Latents of a category that are drawn as points, and from which the bits are estimated."""


@dataclass
class Atoms:
    """Types of atoms.

    Attributes:
        types: Category of each atom, (N,) long.
        names: Names of the categories, by falling frequency; the last may be "other".
        shares: Share of each category, (K,) float64.
    """

    types: Tensor
    names: list[str]
    shares: np.ndarray

    def most_frequent(self, count: int) -> Atoms:
        """The same atoms with `count` categories, and one for all others if there are any."""
        if count >= len(self.names) - (self.names[-1] == "other"):
            return self
        names = [*self.names[:count], "other"]
        shares = np.append(self.shares[:count], self.shares[count:].sum())
        return Atoms(self.types.clamp(max=count), names, shares)

    @property
    def entropy(self) -> float:
        """Entropy of an atom's category, bits."""
        return float(-(self.shares * np.log2(self.shares)).sum())


@dataclass
class Learned:
    """A trained flow and what it was trained on.

    Attributes:
        name: Name of the encoding.
        flow: The model, in evaluation mode.
        atoms: The data.
        bits: Upper bound on the bits of an atom, one draw, averaged over the data.
    """

    name: str
    flow: CategoricalFlow
    atoms: Atoms
    bits: float


def atom_types() -> Atoms:
    """Atoms of the first training molecules of ZINC250k.

    Raises:
        UserError: See `load_zinc250k`.
    """
    from graphcnf.datasets.zinc250k import load_zinc250k

    data = load_zinc250k(aromatic=False)
    types = data.graphs.subset(data.split("train")[:MOLECULES]).node_types
    counts = np.bincount(types, minlength=len(data.vocabulary.atoms))
    order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
    rank = np.zeros(len(counts), np.int64)
    rank[order] = np.arange(len(order))
    names = [data.vocabulary.atom_labels[k] for k in order]
    shares = counts[order] / counts.sum()
    return Atoms(torch.from_numpy(rank[types]), names, shares).most_frequent(FREQUENT)


class Marginal(Network):
    """Network of a coupling that knows no neighbours: one learned p(x).

    Args:
        categories: Number of categories K.
    """

    def __init__(self, categories: int):
        super().__init__()
        self.cardinalities = (categories,)
        self.log_weights = nn.Parameter(torch.zeros(categories))

    def steps(self, x, context):
        """Yield all positions in one step, each with the same logits."""
        at = context.mask.nonzero(as_tuple=True)
        yield Step(at, self.log_weights.expand(len(at[0]), -1))


class Perceptron(nn.Module):
    """Network of a coupling of two latents: one layer of hidden channels, starts at 0."""

    def __init__(self, outputs: int):
        super().__init__()
        layers = nn.Linear(1, HIDDEN), nn.GELU(), zero_init(nn.Linear(HIDDEN, outputs))
        self.layers = nn.Sequential(*layers)

    def forward(self, x, context):
        """(B, 1, 1) to (B, 1, outputs)."""
        return self.layers(x)


def build(name: str, shares: np.ndarray) -> CategoricalFlow:
    """Encoding with a flow of its latents, (B, 1) to (B, 1, D).

    Args:
        name: One of `ENCODINGS`.
        shares: Share of each category, (K,).
    """
    categories = len(shares)
    if name == "interval":
        return AutoregressiveFlow(Marginal(categories), single=True)
    options = dict(OPTIONS.get(name, {}))
    if name in ("mixture", "linear"):
        options["prior"] = shares.tolist()
    encoding = make_encoding(name, categories, None if name == "argmax" else 2, **options)
    flow = coupling_stack(
        lambda _, outputs: Perceptron(outputs), channels=2, couplings=COUPLINGS, mixtures=MIXTURES
    )
    return CategoricalFlow(encoding, flow)


def learn(
    atoms: Atoms, *, steps: int, seed: int, encodings: Sequence[str] = ENCODINGS
) -> list[Learned]:
    """Train a flow for each encoding; torch's global generator is left as it was."""
    results = []
    with torch.random.fork_rng([]), progress_bar("training", steps * len(encodings)) as show:
        for number, name in enumerate(encodings):
            torch.manual_seed(seed)
            # Two signs tell four categories apart.
            data = atoms.most_frequent(3) if name == "argmax" else atoms
            flow = build(name, data.shares)
            _train(flow, data, steps, LEARNING_RATES[name], lambda k, n=number: show(n * steps + k))
            results.append(Learned(name, flow.eval(), data, _bits(flow, data)))
    return results


def _train(flow: CategoricalFlow, atoms: Atoms, steps: int, rate: float, show) -> None:
    optimizer = torch.optim.Adam(flow.parameters(), rate)
    for step in range(steps):
        for group in optimizer.param_groups:
            warm = min(1.0, (step + 1) / WARMUP)
            group["lr"] = rate * warm * (1 - step / steps)
        x = atoms.types[torch.randint(len(atoms.types), (BATCH, 1))]
        loss = -flow.bound(x, Context(torch.ones_like(x, dtype=torch.bool))).value(BETA).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(flow.parameters(), 1.0)
        optimizer.step()
        show(step + 1)


@torch.no_grad()
def _bits(flow: CategoricalFlow, atoms: Atoms) -> float:
    """Bits of an atom: means of as many draws for each category, weighted with their shares."""
    x = torch.arange(len(atoms.names)).repeat_interleave(SCORED).unsqueeze(1)
    bits = -flow.bound(x, Context(torch.ones_like(x, dtype=torch.bool))).value() / math.log(2)
    return float(bits.view(-1, SCORED).double().mean(1) @ torch.from_numpy(atoms.shares))


@torch.no_grad()
def posterior(flow: CategoricalFlow, z: Tensor) -> np.ndarray:
    """p(x|z) of all categories at latents (..., D) on the encoder's side, (..., K)."""
    encoding = flow.encoding
    if hasattr(encoding, "log_posterior"):
        return encoding.log_posterior(z).exp().numpy()
    x = encoding.decode(z.reshape(-1, 1, encoding.latent_dim)).view(z.shape[:-1])
    return np.eye(encoding.cardinalities)[x.numpy()]


@torch.no_grad()
def points(learned: Learned, seed: int = 0) -> np.ndarray:
    """Latents drawn from q(z|x), as many for each category, (K, DRAWN, D)."""
    categories = len(learned.atoms.names)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        x = torch.arange(categories).repeat_interleave(DRAWN).unsqueeze(1)
        return learned.flow.encoding.encode(x).z.view(categories, DRAWN, -1).numpy()


@torch.no_grad()
def unit_square(flow: CategoricalFlow, resolution: int) -> np.ndarray:
    """p(x|z) at the centres of a grid on the unit square of the base density, (R, R, K).

    The first axis is the second latent.
    """
    u = (torch.arange(resolution, dtype=torch.float64) + 0.5) / resolution
    # The base density is logistic: its distribution function is the sigmoid.
    base = torch.logit(torch.stack(torch.meshgrid(u, u, indexing="xy"), -1)).float()
    z = flow.flow.inverse(base.view(-1, 1, 2))
    return posterior(flow, z.view(resolution, resolution, 2))


def widths(flow: CategoricalFlow) -> np.ndarray:
    """Widths of the intervals after the flow of an `IntervalEncoding`, (K,)."""
    return flow.flow.network.log_weights.detach().double().softmax(0).numpy()
