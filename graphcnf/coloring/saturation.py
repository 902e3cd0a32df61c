"""An order of the nodes of a graph that the categories steer.

The next node is one whose neighbours have the most different categories so far, the saturation of
Brelaz (1979, *New methods to color the vertices of a graph*); among those, one with the most edges,
then the lowest number. The order is a function of the graph and of the categories before, so the
map stays triangular. In waves, nodes whose neighbours leave them one category or none get theirs
at once, each as if the others of the wave had none yet.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from graphcnf.flows.transform import Context


class SaturationOrder:
    """The order, one step of every graph at a time.

    Attributes:
        counts: Neighbours of each category that have had their turn, (B, N, K) long.
        rank: Turn of each node, N for those that have not had one, (B, N) long. In a wave, lower
            numbers come first.
    """

    def __init__(self, adjacency: Tensor, mask: Tensor, categories: int, waves: bool = False):
        batch, nodes = mask.shape
        self.adjacency, self.categories, self.waves = adjacency, categories, waves
        self.rows = torch.arange(batch, device=mask.device)
        self.open = mask.clone()
        self.counts = torch.zeros(batch, nodes, categories, dtype=torch.long, device=mask.device)
        self.rank = torch.full((batch, nodes), nodes, device=mask.device)
        number = torch.arange(nodes, device=mask.device)
        self.tie = adjacency.sum(-1) * nodes + (nodes - 1 - number)

    def next(self) -> tuple[Tensor, Tensor]:
        """Return graphs and nodes whose turn it is, (M,) long each; none after the last turn."""
        if not len(self.open):
            return self.tie.new_zeros(0), self.tie.new_zeros(0)
        saturation = (self.counts > 0).sum(-1)
        nodes = self.open.shape[1]
        priority = (saturation * nodes * nodes + self.tie).masked_fill(~self.open, -1)
        members = F.one_hot(priority.argmax(1), nodes).bool() & self.open
        if self.waves:
            settled = self.open & (saturation >= self.categories - 1)
            members = torch.where(settled.any(1, keepdim=True), settled, members)
        graph, node = members.nonzero(as_tuple=True)
        return graph, node

    def settle(self, graph: Tensor, node: Tensor, category: Tensor) -> None:
        """Give nodes their categories, (M,) long each."""
        members = torch.zeros_like(self.open)
        members[graph, node] = True
        own = F.one_hot(category, self.categories)[:, None]
        # Not in place: whoever asked for earlier counts may have kept them.
        self.counts = self.counts.index_add(0, graph, self.adjacency[graph, node][..., None] * own)
        before = (self.rank < self.rank.shape[1]).sum(1, keepdim=True)
        turn = before + members.cumsum(1) - 1
        self.rank = torch.where(members, turn, self.rank)
        self.open = self.open & ~members


def turns(
    x: Tensor, context: Context, categories: int, waves: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the whole order for known categories x (B, N) long.

    Returns:
        The turn of each node, (B, N) long; and `counts` before the step of each turn,
        (B, turns, N, K).
    """
    assert context.adjacency is not None
    order = SaturationOrder(context.adjacency, context.mask, categories, waves)
    known = x.clamp(0, categories - 1)
    history: list[Tensor] = []
    step_of = torch.zeros_like(x)
    while len((members := order.next())[0]):
        step_of[members] = len(history)
        history.append(order.counts)
        order.settle(*members, known[members])
    steps = torch.stack(history or [order.counts])
    # Of each turn, the step that it is part of; padding takes any.
    by_turn = step_of.gather(1, order.rank.argsort(dim=1, stable=True))
    return order.rank, steps[by_turn, order.rows[:, None]]
