"""The network of GraphAF: a relational convolution over the sub-graph before a node."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from graphcnf.baselines.graphs.relational import RelationalConvolution
from graphcnf.flows.logistic_mixture import bounded_log_scale
from graphcnf.flows.readout import zero_init
from graphcnf.flows.transform import log_term_dtype, masked

MIDDLE, LOG_SCALE = 0.5, -1.0
"""Where means and log-scales start: entries of one-hot vectors with noise are in [0, 0.9) mostly,
with deviations of 0.26 and more."""


@dataclass
class SubGraph:
    """State of each graph before some of its nodes, S rows.

    Attributes:
        whole: Of the sub-graph, and of how many nodes are to come, (B, S, W).
        nodes: Of the last nodes before the row, the farthest first, (B, S, window, W).
        sent: What each of them tells the new node along an edge of each kind, 0 along none,
            (B, S, window, R + 1, W).
    """

    whole: Tensor
    nodes: Tensor
    sent: Tensor


class SubGraphNetwork(nn.Module):
    """Means and log-scales of a node, and of its edges, given the sub-graph before them.

    Args:
        node_categories: Number of node categories M.
        bond_categories: Number of edge categories R.
        max_nodes: Largest number of nodes.
        window: How many nodes back an edge reaches.
        width: Channels W.
        layers: Relational convolutions.
    """

    def __init__(
        self,
        node_categories: int,
        bond_categories: int,
        max_nodes: int,
        *,
        window: int,
        width: int,
        layers: int,
    ):
        super().__init__()
        self.window = window
        self.old, self.new = (nn.Embedding(node_categories, width) for _ in range(2))
        self.back = nn.Embedding(window + 2, width)
        self.to_come = nn.Embedding(max_nodes + 1, width)
        self.convolutions = nn.ModuleList(
            RelationalConvolution(width, bond_categories) for _ in range(layers)
        )
        self.ask = nn.Linear(width, width)
        self.send = nn.Linear(width, bond_categories * width, bias=False)
        self.node = _read_out(width, 2 * node_categories)
        self.edge = _read_out(width, 2 * (bond_categories + 1))
        for table in (self.old, self.new, self.back, self.to_come):
            nn.init.normal_(table.weight, std=0.3)

    def before(self, types: Tensor, adjacency: Tensor, sizes: Tensor, rows: Tensor) -> SubGraph:
        """The graphs before their nodes `rows`.

        Args:
            types: Node categories, (B, N) long.
            adjacency: See `relations`.
            sizes: Numbers of nodes, (B,) long.
            rows: Numbers of nodes, (B, S) long.
        """
        number = torch.arange(types.shape[1], device=rows.device)[:, None]
        back = rows[:, None] - number  # (B, N, S)
        seen = back > 0
        h = self.old(types)[:, :, None] + self.back(back.clamp(0, self.window + 1))
        h = masked(h, seen)
        for convolution in self.convolutions:
            h = masked(convolution(h, adjacency), seen)
        whole = h.sum(1) / rows.clamp(min=1)[..., None]
        whole = whole + self.to_come((sizes[:, None] - rows).clamp(min=0))
        last = rows[..., None] + torch.arange(-self.window, 0, device=rows.device)
        graph = torch.arange(len(rows), device=rows.device)[:, None, None]
        row = torch.arange(rows.shape[1], device=rows.device)[:, None]
        # Nobody asks for what would lie before the first node.
        nodes = h[graph, last.clamp(0, types.shape[1] - 1), row]
        sent = self.send(nodes).unflatten(-1, (-1, nodes.shape[-1]))
        return SubGraph(whole, nodes, torch.cat([torch.zeros_like(sent[..., :1, :]), sent], -2))

    def of_node(self, before: SubGraph) -> tuple[Tensor, Tensor]:
        """Mean and log-scale of the new node, (B, S, M) each."""
        return _mean_and_log_scale(self.node(before.whole))

    def asking(self, before: SubGraph, types: Tensor) -> Tensor:
        """State of new nodes of `types` (B, S) towards each node before, (B, S, window, W)."""
        return self.ask(before.nodes) + (before.whole + self.new(types))[:, :, None]

    def of_edge(self, asking: Tensor, told: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-scale of edges, (..., R + 1) each.

        Args:
            asking: State towards the other end, (..., W).
            told: Sum of what the new node was told along its edges to nodes before that one.
        """
        return _mean_and_log_scale(self.edge(asking + told))


def along(sent: Tensor, kinds: Tensor) -> Tensor:
    """What is sent (..., R + 1, W) along edges of `kinds` (...), 0 for none: (..., W)."""
    index = kinds[..., None, None].expand(*kinds.shape, 1, sent.shape[-1])
    return sent.gather(-2, index).squeeze(-2)


def _read_out(width: int, outputs: int) -> nn.Sequential:
    leave = zero_init(nn.Linear(width, outputs))
    return nn.Sequential(nn.ReLU(), nn.Linear(width, width), nn.ReLU(), leave)


def _mean_and_log_scale(parameters: Tensor) -> tuple[Tensor, Tensor]:
    mean, log_scale = parameters.to(log_term_dtype(parameters)).chunk(2, -1)
    return mean + MIDDLE, bounded_log_scale(log_scale + LOG_SCALE)
