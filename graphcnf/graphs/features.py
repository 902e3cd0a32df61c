"""Structural features of graphs, as inputs of networks that see whole graphs.

They are *equivariant*: if the nodes are renumbered, so are the features. A node has features of its
own (degree, rings around it); a pair of nodes has their distance, and the category of its edge.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from graphcnf.flows.transform import Context

MAX_DEGREE = 6  # the last degree that one-hot features distinguish
MAX_COUNT = 4  # the same for numbers of edges of one category
WALK_LENGTHS = 8  # random walks of 1 to 8 steps
MAX_DISTANCE = 6  # the last distance that one-hot features distinguish from "farther"
# Number of node features in `graph_context` without edge categories.
NODE_FEATURES = MAX_DEGREE + 1 + WALK_LENGTHS
# Number of pair features in `graph_context` without edge categories; one less if not `ordered`.
PAIR_FEATURES = MAX_DISTANCE + 2


def walk_features(adjacency: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Compute features of nodes from edges alone.

    Features are the one-hot degree, and twice the probabilities that a random walk returns after 1
    to 8 steps (Dwivedi et al. 2022, arXiv 2110.07875), which depend on rings and their sizes.

    Args:
        adjacency: Edges, (B, N, N) bool.
        dtype: Type of the result.

    Returns:
        Features, (B, N, NODE_FEATURES).
    """
    a = adjacency.to(dtype)
    degree = a.sum(-1)
    walk = a / degree.clamp(min=1)[..., None]
    returns = []
    power = walk
    for _ in range(WALK_LENGTHS):
        returns.append(power.diagonal(dim1=1, dim2=2))
        power = power @ walk
    degrees = F.one_hot(degree.long().clamp(max=MAX_DEGREE), MAX_DEGREE + 1).to(dtype)
    return torch.cat([degrees, 2 * torch.stack(returns, -1)], -1)


@dataclass(frozen=True)
class GraphContext(Context):
    """Context of a flow over the nodes of given graphs.

    Attributes:
        adjacency: Edges, (B, N, N) bool, or features of the pairs of nodes, (B, N, N, P).
    """

    adjacency: Tensor = None  # type: ignore[assignment]


def graph_context(
    labels: Tensor,
    mask: Tensor,
    categories: int = 0,
    dtype: torch.dtype = torch.float32,
    *,
    ordered: bool = True,
) -> GraphContext:
    """Return a context with node features and pair features of graphs.

    Args:
        labels: Edges, (B, N, N): bool, or edge labels, long, with 0 for no edge.
        mask: Real nodes, (B, N) bool.
        categories: Number of edge categories, 0 for edges without categories.
        dtype: Type of the features.
        ordered: True if networks may see the node order.

    Returns:
        A context with `mask`, `features` (B, N, F) and `adjacency` (B, N, N, P). Features of a node
        are `walk_features` and, with edge categories, the one-hot number of its edges of each
        category. Features of a pair (i, j) are its one-hot distance (1 to 6, farther; all 0 for
        i = j), if `ordered` a 1 on edges to an earlier node j, and with edge categories the one-hot
        category.
    """
    a = (labels > 0).to(dtype)
    eye = torch.eye(mask.shape[1], device=mask.device, dtype=dtype)
    one_step = (a + eye).clamp(max=1)
    # A shell are the pairs that one more step reaches: at distance 1, 2, ..., and farther.
    shells = []
    within = eye.expand_as(a)
    for _ in range(MAX_DISTANCE):
        reached = ((within @ one_step) > 0).to(dtype)
        shells.append(reached - within)
        within = reached
    shells.append(1 - within)
    if ordered:
        shells.append(a * torch.ones_like(eye).tril(-1))
    nodes = [walk_features(labels > 0, dtype)]
    pairs = [torch.stack(shells, -1)]
    if categories:
        kinds = F.one_hot(labels, categories + 1)[..., 1:]
        counts = F.one_hot(kinds.sum(2).clamp(max=MAX_COUNT), MAX_COUNT + 1).flatten(2)
        nodes.append(counts.to(dtype))
        pairs.append(kinds.to(dtype))
    return GraphContext(mask, torch.cat(nodes, -1), adjacency=torch.cat(pairs, -1))
