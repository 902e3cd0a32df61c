"""States of nodes without environments: sums of edge weights up to a limit, or no rule at all.

The words label and state are those of `graphcnf.graphs.path`.

For example, let a be a category of nodes with a limit of 4, and let all edges weigh 1. A node a
begins in the state "a, 0 of 4". Each edge takes it to the next state, and in the state "a, 4 of 4"
it may get no further edge: the state after it is `UNKNOWN`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from graphcnf.graphs.path.node_states import UNKNOWN, NodeStates


def states_of_sums(largest_sums: Sequence[int], edge_weights: Sequence[int]) -> NodeStates:
    """Return the states of nodes whose sums of edge weights are limited.

    All of them are complete: nodes of whole graphs may have any of these sums.
    """
    sums = torch.tensor(largest_sums)
    weights = torch.tensor([0, *edge_weights])
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
    """Return the only state of nodes that may have any edges; a further edge does not change it."""
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
