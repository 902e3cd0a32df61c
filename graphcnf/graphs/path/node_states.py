"""What edges the nodes of a partly drawn graph may still get.

- The *label* of an edge is its category plus 1; 0 stands for no edge.
- The *state* of a node says what edges it has so far, as far as this matters for what edges it may
  still get. With limits on sums of edge weights, the state is the sum so far; without rules, there
  is one state; with environments (`graphcnf.graphs.path.environments`), it is the edges so far.
- A state is *complete* if a node of a whole graph may have it.

For example, let a be a category of nodes with a limit of 4, and let all edges weigh 1. A node a
begins in the state "a, 0 of 4". Each edge takes it to the next state, and in the state "a, 4 of 4"
it may get no further edge: the state after it is `UNKNOWN`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NEIGHBOUR_BASE = 256
"""Node categories are below it, see `packed_neighbour`."""
UNKNOWN = 0
"""State of a node with edges that it may not have, and in place of no node."""


def packed_neighbour(edge: Tensor, category: Tensor) -> Tensor:
    """Return a neighbour as one number: `edge` (label or category) and its own `category`."""
    return edge * NEIGHBOUR_BASE + category


def unpacked_neighbour(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Return the edge and the category of which `packed_neighbour` has made one number."""
    return packed // NEIGHBOUR_BASE, packed % NEIGHBOUR_BASE


class NodeStates(nn.Module):
    """The S states of nodes, and how further edges change them.

    Attributes:
        weights: Weight of an edge by label, 0 for no edge, (E + 1,) long.
        first: State of a node without edges, by category, (C,) long.
        after: State after a further edge, by state, label of the edge and category of the
            neighbour, (S, E + 1, C) long; `UNKNOWN` if the node may not have this edge. Label 0
            leaves the state as it is.
        complete: Which states a node of a whole graph may have, (S,) bool; `UNKNOWN` counts as one,
            so that it does not keep a drawing from going on.
        category: Category of a node in each state, or one with the same states, (S,) long.
        sums: Largest sum of edge weights of a node, by category, (C,) long.
    """

    weights: Tensor
    first: Tensor
    after: Tensor
    complete: Tensor
    category: Tensor
    sums: Tensor

    def __init__(self, **tables: Tensor):
        super().__init__()
        for name, table in tables.items():
            self.register_buffer(name, table.contiguous(), persistent=False)


def states_of_sums(largest_sums: Sequence[int], edge_weights: Sequence[int]) -> NodeStates:
    """Return the states of nodes whose sums of edge weights are limited; all are complete.

    Args:
        largest_sums: Limit for each node category.
        edge_weights: Weight of each edge category.
    """
    sums, weights = torch.tensor(largest_sums), torch.tensor([0, *edge_weights])
    # Categories of one limit share their states: one for each sum from 0 to the limit. With the
    # limits 1 and 4, states 1 and 2 are the sums 0 and 1 of the first, and 3 to 7 the sums 0 to 4
    # of the second; an edge of weight w leads w states further, if the limit has so many.
    limits, limit_of = sums.unique(return_inverse=True)
    start = 1 + (limits + 1).cumsum(0) - (limits + 1)
    group = torch.repeat_interleave(torch.arange(len(limits)), limits + 1)
    more = 1 + torch.arange(len(group))[:, None] + weights
    after = torch.where(more <= (start + limits)[group, None], more, UNKNOWN)
    category = (limit_of == torch.arange(len(limits))[:, None]).int().argmax(1)[group]
    return NodeStates(
        weights=weights,
        first=start[limit_of],
        after=F.pad(after, (0, 0, 1, 0))[..., None].expand(-1, -1, len(sums)),
        complete=torch.ones(len(group) + 1, dtype=torch.bool),
        category=F.pad(category, (1, 0)),
        sums=sums,
    )


def states_without_rules(node_categories: int, edge_weights: Sequence[int]) -> NodeStates:
    """Return the only state of all nodes, which any edge leaves as it is.

    Args:
        node_categories: Number of node categories.
        edge_weights: Weight of each edge category.
    """
    state = torch.arange(2)  # unknown, and the only one
    return NodeStates(
        weights=torch.tensor([0, *edge_weights]),
        first=torch.ones(node_categories, dtype=torch.long),
        after=state[:, None, None].expand(-1, len(edge_weights) + 1, node_categories),
        complete=state >= 0,
        category=torch.zeros_like(state),
        # More than any node has, since graphs have at most 255 nodes.
        sums=torch.full((node_categories,), 260 * max(edge_weights)),
    )
