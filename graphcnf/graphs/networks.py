"""Inputs of graph networks: structural features, and conditions of a whole graph."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.flows.modules import zero_init
from graphcnf.flows.transform import Context

MAX_DEGREE = 6
MAX_COUNT = 4
WALK_LENGTHS = 8
MAX_DISTANCE = 6
# Number of node features in `graph_context` without edge categories.
NODE_FEATURES = MAX_DEGREE + 1 + WALK_LENGTHS
# Number of pair features in `graph_context` without edge categories; one less if not `ordered`.
PAIR_FEATURES = MAX_DISTANCE + 2
# Number of sines and cosines of a condition: periods are 16, 8, 4, 2, 1, 1/2 standard deviations.
FREQUENCIES = 6
FAR = 20.0  # standard deviations from the mean at which values are clamped
RIDGE = 0.3  # ridge of the least squares for edges: an edge that was seen once adds little
UNCONDITIONAL = 0.2  # share of training graphs whose conditions are all hidden


def walk_features(adjacency: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return equivariant node features (B, N, F) of an adjacency matrix (B, N, N) bool.

    Features are the one-hot degree, and the probabilities that a random walk returns after 1 to 8
    steps (Dwivedi et al. 2022, arXiv 2110.07875), which depend on rings and their sizes.
    """
    a = adjacency.to(dtype)
    degree = a.sum(-1)
    walk = a / degree.clamp(min=1)[..., None]
    returns, power = [], walk
    for _ in range(WALK_LENGTHS):
        returns.append(power.diagonal(dim1=1, dim2=2))
        power = power @ walk
    degrees = F.one_hot(degree.long().clamp(max=MAX_DEGREE), MAX_DEGREE + 1).to(dtype)
    return torch.cat([degrees, 2 * torch.stack(returns, -1)], -1)


def graph_context(
    bonds: Tensor,
    mask: Tensor,
    categories: int = 0,
    dtype: torch.dtype = torch.float32,
    *,
    ordered: bool = True,
) -> Context:
    """Return a context with node features and pair features of graphs.

    `bonds` (B, N, N) are bool, or edge categories plus 1. `features` are `walk_features`;
    `adjacency` holds the one-hot distance of each pair (1 to 6, farther; all 0 for i = j) and, if
    nodes are `ordered`, 1 on edges to an earlier node j. With edge `categories`, `features` also
    has one-hot counts of each category at a node, and `adjacency` one-hot edge categories.
    """
    a = (bonds > 0).to(dtype)
    eye = torch.eye(mask.shape[1], device=mask.device, dtype=dtype)
    near = (a + eye).clamp(max=1)
    reached, shells, previous = near, [], eye.expand_as(a)
    for _ in range(MAX_DISTANCE):
        shells.append(reached - previous)
        previous, reached = reached, ((reached @ near) > 0).to(dtype)
    shells.append(1 - previous)
    if ordered:
        shells.append(a * torch.ones_like(eye).tril(-1))
    nodes, pairs = [walk_features(bonds > 0, dtype)], [torch.stack(shells, -1)]
    if categories:
        kinds = F.one_hot(bonds, categories + 1)[..., 1:]
        counts = F.one_hot(kinds.sum(2).clamp(max=MAX_COUNT), MAX_COUNT + 1).flatten(2)
        nodes, pairs = [*nodes, counts.to(dtype)], [*pairs, kinds.to(dtype)]
    return Context(mask, torch.cat(nodes, -1), torch.cat(pairs, -1))


def condition_tables(names: Sequence[str], values: np.ndarray) -> list[dict[str, Any]]:
    """Return name, mean and standard deviation of each column of training values (M, P)."""
    means, deviations = values.mean(0), values.std(0)
    deviations = np.where(deviations > 1e-9 * np.abs(means), deviations, 1.0)  # 1 for constants
    return [
        {"name": name, "mean": float(f"{mean:.9g}"), "deviation": float(f"{sd:.9g}")}
        for name, mean, sd in zip(names, means, deviations, strict=True)
    ]


def partly_known(values: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Replace a random part of the values (B, P) by NaN.

    A share `UNCONDITIONAL` of the rows is hidden whole; in the others, any number of known values
    from 0 to P is equally likely.
    """
    known = random.random(values.shape) < random.random((len(values), 1))
    known &= random.random((len(values), 1)) >= UNCONDITIONAL
    return np.where(known, values, np.nan)


def condition_row(values: Sequence[float | None]) -> Tensor:
    """Return conditions as a tensor (1, P), with NaN for None."""
    return torch.tensor([[math.nan if v is None else float(v) for v in values]])


class ConditionEmbedding(nn.Module):
    """Embedding of conditions, initially 0, and always 0 if all conditions are unknown."""

    means: Tensor
    deviations: Tensor

    def __init__(self, tables: Sequence[Mapping[str, Any]], width: int):
        super().__init__()
        for name in ("mean", "deviation"):
            numbers = torch.tensor([float(table[name]) for table in tables])
            self.register_buffer(f"{name}s", numbers, persistent=False)
        if not len(self.means) or not (self.deviations > 0).all():
            raise ValueError("conditions need a mean and a deviation above 0 each")
        self.enter = nn.Linear(len(tables) * (2 + 2 * FREQUENCIES), 128)
        self.leave = zero_init(nn.Linear(128, width))

    def forward(self, values: Tensor) -> Tensor:
        """Embed values (..., P), NaN where unknown, in (..., width) channels."""
        if values.shape[-1] != len(self.means):
            raise ValueError(
                f"{values.shape[-1]} conditions, but the model takes {len(self.means)}"
            )
        values = values.to(self.enter.weight.dtype)
        known = ~values.isnan()
        x = (torch.where(known, values, 0.0) - self.means) / self.deviations
        x = torch.where(known, x.clamp(-FAR, FAR), 0.0)
        steps = torch.arange(FREQUENCIES, device=x.device, dtype=x.dtype)
        angles = x[..., None] * (math.pi / 8) * 2**steps
        waves = torch.cat([angles.sin(), angles.cos()], -1) * known[..., None]
        features = torch.cat([torch.stack([x, known.to(x)], -1), waves], -1).flatten(-2)
        channels = self.leave(F.silu(self.enter(features)))
        return torch.where(known.any(-1, keepdim=True), channels, 0.0)


class Contributions(nn.Module):
    """Additive contributions of nodes and edges to the conditions of a graph.

    A node contributes by its categories, an edge by the categories and neighbours that both its
    ends have so far (`Path.links`). Conditions that are such sums (molecular weight, Crippen's
    logP) are predicted nearly exactly, others roughly. The unit of the weights is the standard
    deviation of a condition, from `tables` (`condition_tables`).
    """

    deviations: Tensor

    def __init__(
        self, cardinalities: Sequence[int], tables: Sequence[Mapping[str, Any]], width: int
    ):
        super().__init__()
        self.each = nn.ModuleList(nn.Embedding(c, len(tables)) for c in cardinalities)
        # A hashed table.
        self.edges = nn.Embedding(16_384, len(tables), padding_idx=0)
        for embedding in (*self.each, self.edges):
            nn.init.zeros_(embedding.get_parameter("weight"))
        deviations = torch.tensor([float(table["deviation"]) for table in tables])
        self.register_buffer("deviations", deviations, persistent=False)
        centred = [{**table, "mean": 0.0} for table in tables]
        self.to_come = ConditionEmbedding(centred, width)
        self.so_far = ConditionEmbedding(centred, width)

    def _rows(self, links: Tensor) -> Tensor:
        return torch.where(links > 0, links % (self.edges.num_embeddings - 1) + 1, 0)

    def of(self, x: Tensor, links: Tensor) -> Tensor:
        """Return the contributions (..., P) of nodes x (..., V) with edges `links` (..., K)."""
        added = sum(share(value) for share, value in zip(self.each, x.unbind(-1), strict=True))
        return (added + self.edges(self._rows(links)).sum(-2)) * self.deviations

    def forward(self, conditions: Tensor, added: Tensor) -> Tensor:
        """Return channels (B, M, width) for M nodes of graphs with conditions (B, P).

        They embed `added` (B, M, P), the contributions of all nodes before each of the M nodes, and
        the rest of the conditions, `conditions - added`.
        """
        anything = ~conditions.isnan().all(-1)[:, None, None]
        so_far = torch.where(anything, self.so_far(added), 0.0)
        return self.to_come(conditions[:, None] - added) + so_far

    @torch.no_grad()
    def fit(self, x: Tensor, links: Tensor, mask: Tensor, conditions: Tensor) -> None:
        """Fit the contributions of nodes by least squares, then those of edges to the residuals.

        B graphs of N nodes, real where `mask` (B, N), have categories x (B, N, V), edges `links`
        (B, N, K), see `Path.links`, and `conditions` (B, P).
        """
        from scipy.sparse import coo_array
        from scipy.sparse.linalg import lsmr

        tables = [share.get_parameter("weight") for share in self.each]
        each = zip(x.unbind(-1), tables, strict=True)
        counts = [(F.one_hot(value, len(t)) * mask[..., None]).sum(1) for value, t in each]
        seen = torch.cat(counts, -1).double()
        wanted = (conditions / self.deviations).double()
        # A small ridge, since some columns are sums of others.
        ridge = 1e-6 * len(x) * torch.eye(seen.shape[1], dtype=torch.float64, device=x.device)
        found = torch.linalg.solve(seen.T @ seen + ridge, seen.T @ wanted)
        for table, part in zip(tables, found.split([len(t) for t in tables]), strict=True):
            table.copy_(part)
        rows = torch.where(mask[..., None], self._rows(links), 0).flatten(1).cpu()
        graph, place = rows.nonzero(as_tuple=True)
        ones, shape = torch.ones(len(graph)), (len(rows), self.edges.num_embeddings)
        edges = coo_array((ones, (graph, rows[graph, place])), shape).tocsr()
        left = (wanted - seen @ found).cpu().numpy()
        fitted = [lsmr(edges, column, damp=RIDGE)[0] for column in left.T]
        self.edges.weight.copy_(torch.tensor(np.stack(fitted, 1)))
