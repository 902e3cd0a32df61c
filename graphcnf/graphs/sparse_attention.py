"""The two streams as message passing of torch_geometric over the known edges of a graph.

Needs a graph whose connectivity is given, so it serves the bond and the node step. A layer sees the
direct neighbours only: information travels one edge per layer, where dense attention reaches every
node at once, but cost and memory grow with the edges instead of the pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch_geometric.nn import TransformerConv

from graphcnf.errors import UserError


class SparseBlock(nn.Module):
    """Pre-norm block with a `TransformerConv` whose sources are nodes of the content stream.

    Shi et al., *Masked Label Prediction*, IJCAI 2021, arXiv 2009.03509, eq. 3-4.

    Args:
        width: Channels.
        heads: Attention heads; must divide `width`.
        expansion: Hidden channels of the feed-forward part, as a multiple of `width`.
        edge_width: Channels of an edge.
    """

    def __init__(self, width: int, heads: int, expansion: float, edge_width: int):
        super().__init__()
        if width % heads:
            raise ValueError(f"heads must divide the width, got {heads} and {width}")
        self.norm = nn.LayerNorm(width)
        self.conv = TransformerConv((width, width), width // heads, heads, edge_dim=edge_width)
        self.out = nn.Linear(width, width)
        hidden = int(expansion * width)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)
        )
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.feed_forward[-1].weight)

    def forward(self, x: Tensor, sources: Tensor, edges: Tensor, channels: Tensor) -> Tensor:
        """Update targets x (T, C) from sources (S, C) along edges (2, E) with channels (E, D)."""
        x = x + self.out(self.conv((self.norm(sources), self.norm(x)), edges, channels))
        return x + self.feed_forward(x)


class SparseStreams(nn.Module):
    """Content and query stream over edges; the sparse counterpart of a stack of `TwoStreamBlock`.

    A message of the content stream goes from a node of the same or an earlier group, one of the
    query stream from the content of an earlier group. Edges carry the pair features of the context
    and the difference of the two positions.

    Args:
        width: Channels of a node.
        layers: Blocks.
        heads: Attention heads.
        expansion: Feed-forward hidden channels as a multiple of `width`.
        pair_features: Channels of the known features of a pair of nodes, 0 for none.
        reach: Largest difference of positions that is told apart.
        edge_width: Channels of an edge.
    """

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        *,
        expansion: float = 2,
        pair_features: int = 0,
        reach: int = 24,
        edge_width: int = 32,
    ):
        super().__init__()
        self.reach = reach
        self.relative = nn.Embedding(2 * reach + 1, edge_width)
        self.pairs = nn.Linear(pair_features, edge_width) if pair_features else None
        self.blocks = nn.ModuleList(
            SparseBlock(width, heads, expansion, edge_width) for _ in range(layers)
        )
        nn.init.normal_(self.relative.weight, std=0.3)

    def forward(self, content: Tensor, asked: Tensor, context, group: Tensor) -> Tensor:
        """Query stream (B, N, C) after all blocks.

        Args:
            content: Input of the content stream, (B, N, C).
            asked: Input of the query stream, (B, N, C).
            context: With `mask` (B, N), `adjacency` (B, N, N) and, as configured, `pair_features`.
            group: Group of each node, (B, N) long.

        Raises:
            UserError: if the context knows no edges.
        """
        if context.adjacency is None:
            raise UserError('attention "pyg" needs a known graph: use "dense" in this step')
        batch, nodes = context.mask.shape
        real = context.mask[:, :, None] & context.mask[:, None, :]
        graph, target, source = (context.adjacency & real).nonzero(as_tuple=True)
        difference = (target - source).clamp(-self.reach, self.reach) + self.reach
        channels = self.relative(difference)
        if self.pairs is not None:
            channels = channels + self.pairs(context.pair_features[graph, target, source])
        ahead = group[graph, source] - group[graph, target]
        edges = torch.stack([graph * nodes + source, graph * nodes + target])
        # Targets of the query stream are numbered behind those of the content stream.
        query_edges, query_channels = edges[:, ahead < 0], channels[ahead < 0]
        shift = edges.new_tensor([[0], [batch * nodes]])
        both = torch.cat([edges[:, ahead <= 0], query_edges + shift], 1)
        both_channels = torch.cat([channels[ahead <= 0], query_channels])
        stack = torch.cat([content.flatten(0, 1), asked.flatten(0, 1)])
        for block in self.blocks[:-1]:
            stack = block(stack, stack[: batch * nodes], both, both_channels)
        sources, x = stack.split(batch * nodes)
        x = self.blocks[-1](x, sources, query_edges, query_channels)
        return x.unflatten(0, (batch, nodes))


class RepeatedRounds:
    """Streams of one group after the other, computed anew each time; see `CachedRounds`."""

    def __init__(self, network: nn.Module, context, group: Tensor):
        self.network, self.context, self.group = network, context, group

    def ask(self, g: int, members: Tensor, known: Tensor) -> Tensor:
        """Query stream (B, M, C) of `members` (B, M) of group g, given `known` (B, N, V)."""
        rows = torch.arange(len(members), device=members.device)[:, None]
        return self.network.streams_of(known, self.context, self.group)[rows, members]

    def tell(self, g: int, members: Tensor, real: Tensor, known: Tensor) -> None:
        """Nothing is kept."""
