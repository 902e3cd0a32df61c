"""Coupling over the nodes of a graph, one after the other in an order that the categories steer.

The next node is one whose neighbours have the most different categories so far, the saturation of
Brelaz (1979, *New methods to color the vertices of a graph*); among those, one with the most edges,
then the lowest number. What the neighbours of a node already say about it is settled before
anything else is decided. Which category a node gets is all learned: the order looks at how many
categories there are around a node, not at which.

The order is a function of the graph and of the categories before, so the map stays triangular:
given all categories, one pass of a network has the conditional of every node, and sampling takes
one round per node.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from graphcnf.categorical.interleaved_coupling import InterleavedCoupling
from graphcnf.flows.transform import log_term_dtype, masked
from graphcnf.graphs.features import GraphContext


class SaturationOrder:
    """The order, one node of every graph at a time.

    Args:
        adjacency: (B, N, N) bool.
        mask: (B, N) bool.
        categories: Number of categories K.

    Attributes:
        counts: Neighbours of each category that have had their turn, (B, N, K) long.
        rank: Turn of each node, N for those that have not had one, (B, N) long.
    """

    def __init__(self, adjacency: Tensor, mask: Tensor, categories: int):
        batch, nodes = mask.shape
        self.adjacency = adjacency
        self.rows = torch.arange(batch, device=mask.device)
        self.open = mask.clone()
        self.counts = torch.zeros(batch, nodes, categories, dtype=torch.long, device=mask.device)
        self.rank = torch.full((batch, nodes), nodes, device=mask.device)
        number = torch.arange(nodes, device=mask.device)
        self.tie = adjacency.sum(-1) * nodes + (nodes - 1 - number)

    def next(self) -> tuple[Tensor, Tensor]:
        """The node whose turn it is, (B,) long, and whether there is one, (B,) bool."""
        saturation = (self.counts > 0).sum(-1)
        nodes = self.open.shape[1]
        priority = saturation * nodes * nodes + self.tie
        return priority.masked_fill(~self.open, -1).argmax(1), self.open.any(1)

    def settle(self, turn: int, node: Tensor, category: Tensor, real: Tensor) -> None:
        """Give `node` (B,) its category (B,), where `real` (B,)."""
        touched = self.adjacency[self.rows, node] & real[:, None]
        own = F.one_hot(category, self.counts.shape[-1])
        # Not in place: whoever asked for earlier counts may have kept them.
        self.counts = self.counts + touched[..., None] * own[:, None]
        self.open[self.rows, node] &= ~real
        self.rank[self.rows[real], node[real]] = turn


def turns(x: Tensor, context: GraphContext, categories: int) -> tuple[Tensor, Tensor]:
    """The whole order for known categories.

    Args:
        x: Categories, (B, N) long; what is masked does not matter.
        context: With `mask` and `adjacency`.
        categories: Number of categories K.

    Returns:
        The turn of each node, (B, N) long; and `counts` before each turn, (B, turns, N, K).
    """
    assert context.adjacency is not None
    order = SaturationOrder(context.adjacency, context.mask, categories)
    known = x.clamp(0, categories - 1)
    history = []
    for turn in range(x.shape[1]):
        history.append(order.counts)
        node, real = order.next()
        order.settle(turn, node, known[order.rows, node], real)
    return order.rank, torch.stack(history, 1)


class SaturationCoupling(InterleavedCoupling):
    """Categorical coupling in the order of `SaturationOrder`; see the module's text.

    The element-wise map is that of `InterleavedCoupling`, one variable per node.

    Args:
        network: `ColoringNetwork`.
    """

    def __init__(self, network: Any):
        super().__init__(network, groups=1)

    def log_probs(self, x, context):
        """Conditional log-probabilities (B, N, 1, K) given the nodes of earlier turns."""
        categories = self.network.cardinalities[0]
        rank, counts = turns(x[..., 0], context, categories)
        h = self.network.streams_of(context, rank, counts)
        return self._conditionals(h, x)

    @torch.no_grad()
    def _invert(self, z, mask, context, temperature):
        categories = self.network.cardinalities[0]
        z = masked(z, context.mask)
        order = SaturationOrder(context.adjacency, context.mask, categories)
        rounds = self.network.rounds(context)
        out = torch.zeros_like(z)
        log_det = torch.zeros(len(z), dtype=torch.float64, device=z.device)
        u = torch.sigmoid(z.double())
        for turn in range(int(context.mask.sum(1).max())):
            node, real = order.next()
            asked = rounds.ask(node, order)
            log_p = self._variable(asked, [], temperature)
            x, value, jacobian = self._place(u[order.rows, node], log_p, 0, z)
            there = order.rows[real], node[real]
            out[there] = value[real].to(z.dtype)
            log_det = log_det + torch.where(real, jacobian[:, 0], 0.0)
            order.settle(turn, node, x[:, 0], real)
        return out, log_det.to(log_term_dtype(z))
