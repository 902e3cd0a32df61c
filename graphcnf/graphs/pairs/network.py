"""Graph-attention conditioner for node and pair latents.

Depth and width lie on the nodes. Pairs carry a small hidden vector through two small networks and
act on the nodes as attention biases, one set per block, and as a sum-pooled message; what is known
of the graph enters as attention biases and node features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphcnf.categorical.sets import EXPANSION
from graphcnf.categorical.transformer import HIDDEN, Transformer
from graphcnf.flows.modules import ReadOut, zero_init
from graphcnf.flows.transform import Context
from graphcnf.graphs.pairs.latents import dense


class PairNetwork(nn.Module):
    """Parameters of a coupling layer for nodes, and for pairs where there are any.

    Args:
        node_in: Untransformed node channels.
        node_out: Parameters per node.
        pair_in: Untransformed pair channels, 0 for a network of nodes only.
        pair_out: Parameters per pair.
        node_features: Channels of `context.features`, 0 for none.
        pair_features: Channels of `context.adjacency`, 0 for none.
        ordered: Whether the network may use the numbering of the nodes. Without it the network is
            equivariant to renumbering.
        max_nodes: Largest number of nodes.
        width: Channels of a node.
        pair_width: Channels of a pair.
        layers: Attention blocks.
        heads: Attention heads.
        reach: Largest difference of positions that is told apart.
    """

    def __init__(
        self,
        node_in: int,
        node_out: int,
        pair_in: int = 0,
        pair_out: int = 0,
        *,
        node_features: int = 0,
        pair_features: int = 0,
        ordered: bool,
        max_nodes: int,
        width: int = 64,
        pair_width: int = 16,
        layers: int = 2,
        heads: int = 8,
        reach: int = 24,
    ):
        super().__init__()
        self.ordered, self.reach = ordered, reach
        self.nodes = nn.Linear(node_in + node_features, width)
        self.size = nn.Embedding(max_nodes + 1, width)
        self.position = nn.Embedding(max_nodes, width) if ordered else None
        biases = layers * heads
        self.relative = nn.Parameter(torch.zeros(biases, 2 * reach + 1)) if ordered else None
        # A constant would cancel in the softmax.
        self.relations = nn.Linear(pair_features, biases, bias=False) if pair_features else None
        self.blocks = Transformer(width, heads, EXPANSION, layers)
        self.node_out = nn.Sequential(nn.LayerNorm(width), zero_init(ReadOut(width, node_out)))
        self.pair_in = pair_in
        if pair_in:
            self.pairs = nn.Linear(pair_in + pair_features, pair_width)
            self.pair_position = nn.Embedding(reach + 1, pair_width) if ordered else None
            self.ends = nn.Linear(width, 2 * pair_width if ordered else pair_width, bias=False)
            self.mix = nn.Sequential(nn.GELU(), nn.Linear(pair_width, pair_width), nn.GELU())
            self.pair_bias = nn.Linear(pair_width, biases)
            self.message = nn.Linear(pair_width, width)
            self.late_ends = nn.Linear(width, 2 * pair_width if ordered else pair_width, bias=False)
            self.late = nn.Sequential(nn.GELU(), nn.Linear(pair_width, 2 * pair_width), nn.GELU())
            self.pair_out = zero_init(ReadOut(2 * pair_width, pair_out))

    def _from_ends(self, linear: nn.Linear, h: Tensor, index: Tensor) -> Tensor:
        """Return the sum of maps of the nodes of each pair; two maps if nodes are ordered."""
        rows = torch.arange(len(h), device=h.device)[:, None]
        projected = linear(h)
        if not self.ordered:
            return projected[rows, index[..., 0]] + projected[rows, index[..., 1]]
        later, earlier = projected.chunk(2, -1)
        return later[rows, index[..., 0]] + earlier[rows, index[..., 1]]

    def forward(self, nodes: Tensor, context: Context, pairs=None, latents=None):
        """Return parameters (B, N, node_out), and (B, P, pair_out) if there are pairs.

        Args:
            nodes: Untransformed channels of the nodes, (B, N, node_in).
            context: Mask (B, N), features and adjacency, see `graphcnf.graphs.features`.
            pairs: Untransformed channels of the pairs, (B, P, pair_in).
            latents: `GraphLatents` that the pairs belong to.
        """
        mask = context.mask
        count = mask.shape[1]
        number = torch.arange(count, device=mask.device)
        given = [nodes]
        if context.features is not None:
            given.append(context.features.to(nodes.dtype))
        h = self.nodes(torch.cat(given, -1)) + self.size(mask.sum(1))[:, None]
        biases = len(self.blocks) * self.blocks.heads
        bias = torch.zeros(1, biases, 1, 1, device=mask.device, dtype=h.dtype)
        if self.position is not None and self.relative is not None:
            h = h + self.position(number)
            steps = (number[:, None] - number).clamp(-self.reach, self.reach) + self.reach
            bias = bias + self.relative[:, steps]
        if self.relations is not None:
            bias = bias + self.relations(context.adjacency.to(h.dtype)).permute(0, 3, 1, 2)
        bias = bias.masked_fill(~mask[:, None, None, :], HIDDEN)
        if self.pair_in:
            e = self._pair_state(h, pairs, latents, context)
            keep = latents.pair_mask[..., None]
            between = dense(self.pair_bias(e) * keep, latents.index, count)
            bias = bias + between.permute(0, 3, 1, 2)
            h = h + self._pooled(self.message(e) * keep, latents.index, count)
        h = self.blocks(h, bias)
        for_nodes = self.node_out(h)
        if not self.pair_in:
            return for_nodes
        return for_nodes, self.pair_out(
            self.late(e + self._from_ends(self.late_ends, h, latents.index))
        )

    def _pair_state(self, h, pairs, latents, context) -> Tensor:
        index = latents.index
        rows = torch.arange(len(h), device=h.device)[:, None]
        given = [pairs]
        if context.adjacency is not None:
            features = context.adjacency[rows, index[..., 0], index[..., 1]]
            given.append(features.to(pairs.dtype))
        e = self.pairs(torch.cat(given, -1)) + self._from_ends(self.ends, h, index)
        if self.pair_position is not None:
            distance = (index[..., 0] - index[..., 1]).clamp(0, self.reach)
            e = e + self.pair_position(distance)
        return self.mix(e)

    @staticmethod
    def _pooled(values: Tensor, index: Tensor, count: int) -> Tensor:
        """Sum over the pairs of a node, (B, P, C) -> (B, N, C), scaled to be of order 1."""
        both = torch.cat([values, values], 1)
        ends = torch.cat([index[..., 0], index[..., 1]], 1)
        pooled = values.new_zeros(len(values), count, values.shape[-1])
        return 0.2 * pooled.scatter_add(1, ends[..., None].expand_as(both), both)
