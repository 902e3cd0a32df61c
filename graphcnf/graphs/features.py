"""Node and pair features of a graph whose structure is given.

Nothing here is chemistry: degrees, random walks, distances, and counts of edge categories.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from graphcnf.flows.transform import Context

MAX_DEGREE = 6
MAX_COUNT = 4
WALK_LENGTHS = 8
MAX_DISTANCE = 6
NODE_FEATURES = MAX_DEGREE + 1 + WALK_LENGTHS
"""Channels of the node features of a graph without types."""
PAIR_FEATURES = MAX_DISTANCE + 2
"""Channels of the pair features of a graph without types; one less without an order."""


def walk_features(adjacency: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Node features (B, N, F) of the connectivity (B, N, N) bool, whatever the nodes' numbers.

    One-hot degree (capped at 6), and the probabilities that a random walk returns after 1 to 8
    steps (Dwivedi et al. 2022, arXiv 2110.07875), which tell ring membership and size.
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


def structure_context(
    adjacency: Tensor, mask: Tensor, dtype: torch.dtype = torch.float32, *, ordered: bool = True
) -> Context:
    """Return a context with features of the connectivity (B, N, N) bool.

    Features: those of `walk_features`. Adjacency (B, N, N, `PAIR_FEATURES`): one-hot distance (1 to
    6, farther; all 0 for i = j), and on edges, where nodes are `ordered`, whether j is numbered
    before i.
    """
    node = walk_features(adjacency, dtype)
    a = adjacency.to(dtype)
    nodes = mask.shape[1]
    eye = torch.eye(nodes, device=mask.device, dtype=dtype)
    near = (a + eye).clamp(max=1)
    reached, shells = near, []
    distance_zero = eye.expand_as(a)
    previous = distance_zero
    for _ in range(MAX_DISTANCE):
        shells.append(reached - previous)
        previous, reached = reached, ((reached @ near) > 0).to(dtype)
    shells.append(1 - previous)
    if ordered:
        shells.append(a * torch.ones_like(eye).tril(-1))
    return Context(mask, node, torch.stack(shells, -1))


def typed_context(
    bonds: Tensor,
    mask: Tensor,
    categories: int,
    dtype: torch.dtype = torch.float32,
    *,
    ordered: bool = True,
) -> Context:
    """Return a context with features of a graph of known edge categories, bonds (B, N, N) long.

    Besides those of `structure_context`: for every edge category the one-hot count of such edges
    at a node (capped at 4), and the one-hot category of a pair's edge.
    """
    context = structure_context(bonds > 0, mask, dtype, ordered=ordered)
    kinds = F.one_hot(bonds, categories + 1)[..., 1:]
    assert context.features is not None and context.adjacency is not None
    counts = F.one_hot(kinds.sum(2).clamp(max=MAX_COUNT), MAX_COUNT + 1).flatten(2).to(dtype)
    return replace(
        context,
        features=torch.cat([context.features, counts], -1),
        adjacency=torch.cat([context.adjacency, kinds.to(dtype)], -1),
    )
