"""Transforms of node and pair latents together, and their graph-attention conditioner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from graphcnf.categorical.sets import EXPANSION
from graphcnf.categorical.transformer import HIDDEN, Transformer
from graphcnf.flows.coupling import MixtureLogisticCoupling, halves
from graphcnf.flows.linear import ActNorm, InvertibleLinear
from graphcnf.flows.modules import ReadOut, zero_init
from graphcnf.flows.transform import Bijection, Context, Sequential, masked


@dataclass
class GraphLatents:
    """Latents of the nodes and of some pairs of nodes."""

    nodes: Tensor  # (B, N, D)
    pairs: Tensor  # (B, P, E)
    node_mask: Tensor  # (B, N) bool
    pair_mask: Tensor  # (B, P) bool
    index: Tensor  # the two nodes of each pair, the later one first, (B, P, 2) long


class NodesAndPairs(Bijection):
    """Lifts two tensor bijections to `GraphLatents`: one for the nodes, one for the pairs.

    With a network these are couplings of `swap`, both conditioned on the fixed channels of both:
    `network(nodes, context, pairs, latents)` returns their parameters, which they get as features.
    """

    def __init__(self, nodes, pairs, network: nn.Module | None = None, *, swap: bool = False):
        super().__init__()
        self.nodes, self.pairs, self.network, self.swap = nodes, pairs, network, swap

    def _contexts(self, x: GraphLatents, context: Context) -> tuple[Context, Context]:
        """Return the contexts of the two."""
        if self.network is None:
            return replace(context, mask=x.node_mask), replace(context, mask=x.pair_mask)
        # The network sees the padding, too.
        nodes, pairs = masked(x.nodes, x.node_mask), masked(x.pairs, x.pair_mask)
        nodes = nodes.tensor_split([self.nodes.split], -1)[self.swap]
        pairs = pairs.tensor_split([self.pairs.split], -1)[self.swap]
        for_nodes, for_pairs = self.network(nodes, context, pairs, x)
        return Context(x.node_mask, for_nodes), Context(x.pair_mask, for_pairs)

    def forward(self, x, context=Context()):
        """Transform both parts; the log-dets add up."""
        for_nodes, for_pairs = self._contexts(x, context)
        nodes, first = self.nodes(x.nodes, for_nodes)
        pairs, second = self.pairs(x.pairs, for_pairs)
        return replace(x, nodes=nodes, pairs=pairs), first + second

    def inverse_and_logdet(self, z, context=Context()):
        """Undo both parts."""
        for_nodes, for_pairs = self._contexts(z, context)
        nodes, first = self.nodes.inverse_and_logdet(z.nodes, for_nodes)
        pairs, second = self.pairs.inverse_and_logdet(z.pairs, for_pairs)
        return replace(z, nodes=nodes, pairs=pairs), first + second


class _Given(nn.Module):
    """Conditioner that returns the features: one network made them for two couplings."""

    def forward(self, x, context):
        return context.features


def joint_coupling(
    network: nn.Module, *, splits: Sequence[int], mixtures: Sequence[int], swap: bool
) -> NodesAndPairs:
    """Return a mixture-of-logistics coupling of nodes and pairs: `splits`, `mixtures` of each."""
    nodes, pairs = (
        MixtureLogisticCoupling(_Given(), split=split, swap=swap, mixtures=count)
        for split, count in zip(splits, mixtures, strict=True)
    )
    return NodesAndPairs(nodes, pairs, network, swap=swap)


def joint_flow(
    network, *, couplings: int, node_dim: int, pair_dim: int, node_mixtures: int, pair_mixtures: int
) -> Sequential:
    """Return blocks of actnorm, invertible linear map and joint coupling.

    `network(node_in, node_out, pair_in, pair_out)` builds a conditioner; `pair_dim` is at least 2.
    """
    layers: list[Bijection] = []
    for k in range(couplings):
        sizes, splits = [], []
        for dim, count in ((node_dim, node_mixtures), (pair_dim, pair_mixtures)):
            split, swap, fixed = halves(dim, k)
            sizes += [fixed, (dim - fixed) * (3 * count + 2)]
            splits.append(split)
        mixtures = node_mixtures, pair_mixtures
        layers += [
            NodesAndPairs(ActNorm(node_dim), ActNorm(pair_dim)),
            NodesAndPairs(InvertibleLinear(node_dim), InvertibleLinear(pair_dim)),
            joint_coupling(network(*sizes), splits=splits, mixtures=mixtures, swap=swap),
        ]
    return Sequential(*layers)


def all_pairs(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the index (B, P, 2) of all pairs of nodes, the later first, and the mask (B, P)."""
    batch, nodes = mask.shape
    index = torch.tril_indices(nodes, nodes, -1, device=mask.device).t()
    return index.expand(batch, -1, -1), mask[:, index[:, 0]] & mask[:, index[:, 1]]


def dense(values: Tensor, index: Tensor, nodes: int) -> Tensor:
    """Return a symmetric (B, N, N, ...) with the values (B, P, ...) of pairs, all distinct."""
    rows = torch.arange(len(index), device=index.device)[:, None]
    i, j = index.unbind(-1)
    out = values.new_zeros(len(values), nodes, nodes, *values.shape[2:])
    out[rows, i, j] = out[rows, j, i] = values
    return out


def of_pairs(values: Tensor, index: Tensor) -> Tensor:
    """Return the values (B, P, ...) of pairs of a dense (B, N, N, ...)."""
    rows = torch.arange(len(index), device=index.device)[:, None]
    return values[rows, index[..., 0], index[..., 1]]


class PairNetwork(nn.Module):
    """Parameters of a coupling layer for nodes, and for pairs where there are any.

    Depth and width lie on the nodes. Pairs carry a small hidden vector through two small networks
    and act on the nodes as attention biases, one set per block, and as a sum-pooled message; what
    is known of the graph (`context.features`, `context.adjacency`) enters as attention biases and
    node features. Without `ordered` the network is equivariant to renumbering; differences of
    positions are told apart up to `reach`.
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
        later, earlier = linear(h).chunk(2, -1) if self.ordered else (linear(h),) * 2
        return later[rows, index[..., 0]] + earlier[rows, index[..., 1]]

    def forward(self, nodes: Tensor, context: Context, pairs=None, latents=None):
        """Return parameters (B, N, node_out), and (B, P, pair_out) if there are pairs.

        Of untransformed channels `nodes` (B, N, node_in) and `pairs` (B, P, pair_in) of `latents`.
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
        if not self.pair_in:
            return self.node_out(self.blocks(h, bias))
        e = self._pair_state(h, pairs, latents.index, context)
        keep = latents.pair_mask[..., None]
        between = dense(self.pair_bias(e) * keep, latents.index, count)
        bias = bias + between.permute(0, 3, 1, 2)
        # Messages of the pairs of a node, scaled to be of order 1.
        messages = (self.message(e) * keep).repeat(1, 2, 1)
        ends = latents.index.transpose(1, 2).flatten(1)
        pooled = messages.new_zeros(h.shape)
        pooled = pooled.scatter_add(1, ends[..., None].expand_as(messages), messages)
        h = self.blocks(h + 0.2 * pooled, bias)
        late = self.late(e + self._from_ends(self.late_ends, h, latents.index))
        return self.node_out(h), self.pair_out(late)

    def _pair_state(self, h: Tensor, pairs: Tensor, index: Tensor, context: Context) -> Tensor:
        given = [pairs]
        if context.adjacency is not None:
            given.append(of_pairs(context.adjacency, index).to(pairs.dtype))
        e = self.pairs(torch.cat(given, -1)) + self._from_ends(self.ends, h, index)
        if self.pair_position is not None:
            distance = (index[..., 0] - index[..., 1]).clamp(0, self.reach)
            e = e + self.pair_position(distance)
        return self.mix(e)
