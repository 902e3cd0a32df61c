"""Transforms of node and pair latents together."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from graphcnf.flows.coupling import MixtureLogisticCoupling, halves
from graphcnf.flows.linear import ActNorm, InvertibleLinear
from graphcnf.flows.transform import Bijection, Context, Sequential, masked


@dataclass
class GraphLatents:
    """Latents of the nodes and of some pairs of nodes.

    Attributes:
        nodes: (B, N, D).
        pairs: (B, P, E).
        node_mask: (B, N) bool.
        pair_mask: (B, P) bool.
        index: The two nodes of each pair, (B, P, 2) long, the later one first.
    """

    nodes: Tensor
    pairs: Tensor
    node_mask: Tensor
    pair_mask: Tensor
    index: Tensor

    def masked(self) -> GraphLatents:
        """Return the same with zeros at padding, whatever stands there."""
        return replace(
            self,
            nodes=masked(self.nodes, self.node_mask),
            pairs=masked(self.pairs, self.pair_mask),
        )


class NodesAndPairs(Bijection):
    """Lifts two tensor bijections to `GraphLatents`: one for the nodes, one for the pairs."""

    def __init__(self, nodes: Bijection, pairs: Bijection):
        super().__init__()
        self.nodes = nodes
        self.pairs = pairs

    def _contexts(self, x: GraphLatents, context: Context) -> tuple[Context, Context]:
        """Return the contexts of the two."""
        return replace(context, mask=x.node_mask), replace(context, mask=x.pair_mask)

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


class JointCoupling(NodesAndPairs):
    """Mixture-of-logistics coupling of nodes and pairs, both conditioned on the fixed channels.

    Args:
        network: `network(nodes, context, pairs, latents)` with the untransformed channels of both
            returns parameters for the nodes (B, N, ...) and the pairs (B, P, ...).
        node_split: Untransformed node channels (with `swap`: transformed ones).
        pair_split: The same for pairs.
        swap: Transform the first channels instead of the last.
        node_mixtures: Logistics per node channel.
        pair_mixtures: Logistics per pair channel.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        node_split: int,
        pair_split: int,
        swap: bool,
        node_mixtures: int,
        pair_mixtures: int,
    ):
        super().__init__(
            MixtureLogisticCoupling(_Given(), split=node_split, swap=swap, mixtures=node_mixtures),
            MixtureLogisticCoupling(_Given(), split=pair_split, swap=swap, mixtures=pair_mixtures),
        )
        self.network = network
        self.swap = swap

    def _contexts(self, x, context):
        """Return the parameters of both, of their untransformed channels, as features."""
        x = x.masked()  # the network sees the padding, too
        both = (self.nodes, x.nodes), (self.pairs, x.pairs)
        parts = [values.tensor_split([coupling.split], -1) for coupling, values in both]
        nodes, pairs = (part[self.swap] for part in parts)
        for_nodes, for_pairs = self.network(nodes, context, pairs, x)
        return Context(x.node_mask, for_nodes), Context(x.pair_mask, for_pairs)


def joint_flow(
    network, *, couplings: int, node_dim: int, pair_dim: int, node_mixtures: int, pair_mixtures: int
) -> Sequential:
    """Blocks of actnorm, invertible linear map and joint coupling.

    Args:
        network: `network(node_in, node_out, pair_in, pair_out)` builds a conditioner.
        couplings: Number of blocks.
        node_dim: Channels of a node.
        pair_dim: Channels of a pair, at least 2.
        node_mixtures: Logistics per node channel.
        pair_mixtures: Logistics per pair channel.
    """
    layers: list[Bijection] = []
    for k in range(couplings):
        node_split, swap, node_fixed = halves(node_dim, k)
        pair_split, _, pair_fixed = halves(pair_dim, k)
        conditioner = network(
            node_fixed,
            (node_dim - node_fixed) * (3 * node_mixtures + 2),
            pair_fixed,
            (pair_dim - pair_fixed) * (3 * pair_mixtures + 2),
        )
        layers += [
            NodesAndPairs(ActNorm(node_dim), ActNorm(pair_dim)),
            NodesAndPairs(InvertibleLinear(node_dim), InvertibleLinear(pair_dim)),
            JointCoupling(
                conditioner,
                node_split=node_split,
                pair_split=pair_split,
                swap=swap,
                node_mixtures=node_mixtures,
                pair_mixtures=pair_mixtures,
            ),
        ]
    return Sequential(*layers)


def all_pairs(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Index (B, P, 2) of all pairs of nodes, the later node first, and the mask (B, P)."""
    batch, nodes = mask.shape
    index = torch.tril_indices(nodes, nodes, -1, device=mask.device).t()
    return index.expand(batch, -1, -1), mask[:, index[:, 0]] & mask[:, index[:, 1]]


def dense(values: Tensor, index: Tensor, nodes: int) -> Tensor:
    """Symmetric (B, N, N, ...) with the values (B, P, ...) of pairs, which are distinct."""
    rows = torch.arange(len(index), device=index.device)[:, None]
    i, j = index.unbind(-1)
    out = values.new_zeros(len(values), nodes, nodes, *values.shape[2:])
    out[rows, i, j] = out[rows, j, i] = values
    return out
