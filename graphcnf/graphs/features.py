"""Structural features of graphs, as inputs of networks that see whole graphs.

The model "pairs" (`graphcnf.graphs.pairs`) decides node categories given all edges, and edge
categories given which pairs have an edge. Its networks get these features of what is given.

- *Node features* describe a node: its degree, rings around it, categories of its edges.
- *Pair features* describe two nodes: their distance in the graph, the category of their edge.
- The features are *equivariant*: if the nodes are renumbered, so are the features. The one
  exception tells which node of an edge has the smaller number, and is there only if `ordered`.
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
    """Compute node features (B, N, 15) from edges: the degree, and how random walks return.

    The degree is one-hot, 0 to 6 or more. The other eight features are twice the probabilities that
    a random walk from the node is back at it after 1, 2, ..., 8 steps. They depend on rings and
    their sizes (Dwivedi et al. 2022, arXiv 2110.07875).
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
    """What the networks of a flow over nodes are told about the graphs, besides their input.

    `Context` has the mask and the node features; this class adds the pairs of nodes.

    Attributes:
        adjacency: Edges, (B, N, N) bool, or features of all pairs of nodes, (B, N, N, P); None
            where a network sees no edges.
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
    """Compute node features and pair features of graphs, as the context of a flow.

    Returns:
        A context with the mask and two tensors:

        - `features` (B, N, F), of the nodes: `walk_features`; then, for each of the C categories,
          the number of such edges of the node, one-hot (0 to 4 or more).
        - `adjacency` (B, N, N, P), of the pairs (i, j): the distance, one-hot (1 to 6, farther; all
          0 for i = j); then, if `ordered`, 1 for an edge whose j is smaller than i, else 0; then
          the edge category, one-hot (C numbers).
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
