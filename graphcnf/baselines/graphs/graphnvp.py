"""GraphNVP: the adjacency tensor first, then the nodes given it, row by row.

A graph becomes two tensors of one-hot vectors with noise: one for each pair of nodes, over the
kinds of edges and "no edge", and one for each node. Masked couplings move one row of a tensor at a
time, given all others. Madhawa et al., *GraphNVP: An Invertible Flow Model for Generating Molecular
Graphs*, 2019, arXiv 1905.11600.

What is different here. The published tensor has independent noise at (i, j) and (j, i) and is made
symmetric in the end; here the two are one variable, so that the objective is a bound on the
likelihood of the graph: row i are the pairs that hold node i. The published loss weighs its terms
by their numbers of variables, and is none. The network of the nodes reads the row's own node beside
the mean of all. A learned diagonal scale closes the couplings of the adjacency tensor, for which
shifts alone are an option (Dinh et al. 2014, section 3.3).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.baselines.graphs.one_hot import OneHotDequantization
from graphcnf.baselines.graphs.relational import RelationalConvolution, relations
from graphcnf.categorical.context import Context
from graphcnf.categorical.flow import Bound
from graphcnf.flows.actnorm import ActNorm
from graphcnf.flows.base import StandardNormal
from graphcnf.flows.logistic_mixture import bounded_log_scale
from graphcnf.flows.transform import (
    Bijection,
    Noise,
    Sequential,
    log_term_dtype,
    masked,
    sum_log_term,
    zero_log_term,
)
from graphcnf.graphs.batch import GraphBatch, Latents
from graphcnf.graphs.codings import AnyGraph
from graphcnf.graphs.pairs.latents import all_pairs


class RowCoupling(Bijection):
    """``z_i = exp(s) x_i + t`` for the entries i of a row, ``(t, s) = network(all others)``.

    Without the scales s, where the network gives none, the log-det is 0.

    Args:
        row: Places of the row on the second axis, (K,) long; those beyond the end of a smaller
            batch do not count.
        network: Called as ``network(x, count, context)`` with x (B, L, D), 0 at the row, and the
            number of places there; returns ``(t,)`` or ``(t, s)``, each (B, count, D).
    """

    row: Tensor

    def __init__(self, row: Tensor, network: nn.Module):
        super().__init__()
        self.register_buffer("row", row, persistent=False)
        self.network = network

    def forward(self, x, *, mask=None, context=None, noise=None, discarded=None):
        """Move the row; see `Transform.forward`."""
        return self._couple(x, mask, context, lambda x, t, s: (x * torch.exp(s) + t, s))

    def inverse_and_logdet(self, z, *, mask=None, context=None):
        """Move it back."""
        return self._couple(z, mask, context, lambda z, t, s: ((z - t) * torch.exp(-s), -s))

    def _couple(self, x, mask, context, move):
        x = masked(x.to(log_term_dtype(x)), mask)
        row = self.row[self.row < x.shape[1]]
        if not len(row):
            return x, zero_log_term(x)
        shift, *scale = self.network(x.index_fill(1, row, 0), len(row), context)
        log_scale = bounded_log_scale(scale[0].to(x)) if scale else x.new_zeros(())
        moved, log_det = move(x[:, row], shift.to(x), log_scale)
        real = None if mask is None else mask[:, row]
        z = x.index_copy(1, row, masked(moved, real))
        return z, sum_log_term(log_det, real) if scale else zero_log_term(x)


class DiagonalScale(Bijection):
    """``z = exp(s) x`` with a learned s for each place and channel.

    References:
        Dinh et al., *NICE*, 2014, arXiv 1410.8516, section 3.3.
    """

    def __init__(self, places: int, channels: int):
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(places, channels))

    def forward(self, x, *, mask=None, context=None, noise=None, discarded=None):
        """Scale; see `Transform.forward`."""
        return self._scale(x, mask, 1)

    def inverse_and_logdet(self, z, *, mask=None, context=None):
        """Scale back."""
        return self._scale(z, mask, -1)

    def _scale(self, x, mask, sign: int):
        log_scale = sign * self.log_scale[: x.shape[1]].to(x)
        z = masked(x * torch.exp(log_scale), mask)
        return z, sum_log_term(log_scale.expand_as(x), mask)


class FlatNetwork(nn.Module):
    """Shifts of a row of the adjacency tensor from all of the others: a perceptron.

    It is also told how many nodes there are.

    Args:
        max_nodes: Largest number of nodes.
        channels: Channels of a pair.
        width: Channels of its two hidden layers.
        affine: Whether it gives scales beside the shifts.
    """

    def __init__(self, max_nodes: int, channels: int, width: int, affine: bool):
        super().__init__()
        self.each = 2 * channels if affine else channels
        self.enter = nn.Linear(max_nodes * (max_nodes - 1) // 2 * channels, width)
        self.sizes = nn.Embedding(max_nodes + 1, width)
        self.hidden = nn.Linear(width, width)
        self.leave = nn.Linear(width, (max_nodes - 1) * self.each)
        nn.init.normal_(self.sizes.weight, std=0.1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, x: Tensor, count: int, context: Context) -> tuple[Tensor, ...]:
        """Parameters (B, count, C) for pairs x (B, P, C), those of the first nodes first."""
        # The pairs of fewer nodes are the first ones, in and out.
        inputs, outputs = x[0].numel(), count * self.each
        h = F.linear(x.flatten(1), self.enter.weight[:, :inputs], self.enter.bias)
        h = F.relu(self.hidden(F.relu(h + self.sizes(context.mask.sum(1)))))
        out = F.linear(h, self.leave.weight[:outputs], self.leave.bias[:outputs])
        return out.unflatten(1, (count, self.each)).split(x.shape[2], -1)


class RelationalNetwork(nn.Module):
    """Shift and scale of a node's vector from those of all others and the edges: an R-GCN.

    Args:
        node: Number of the node.
        channels: Channels of a node.
        kinds: Kinds of edges.
        width: Channels inside.
        layers: Convolutions.
    """

    def __init__(self, node: int, channels: int, kinds: int, width: int, layers: int):
        super().__init__()
        self.node = node
        self.enter = nn.Linear(channels, width)
        self.convolutions = nn.ModuleList(
            RelationalConvolution(width, kinds) for _ in range(layers)
        )
        self.leave = nn.Sequential(
            nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, 2 * channels)
        )
        nn.init.zeros_(self.leave[-1].get_parameter("weight"))
        nn.init.zeros_(self.leave[-1].get_parameter("bias"))

    def forward(self, x: Tensor, count: int, context: Context) -> tuple[Tensor, Tensor]:
        """Parameters (B, 1, D) for nodes x (B, N, D); `context.pair_features` are `relations`."""
        h = masked(self.enter(x), context.mask)
        for convolution in self.convolutions:
            h = masked(convolution(h, context.pair_features), context.mask)
        mean = h.sum(1) / context.mask.sum(1, keepdim=True)
        out = self.leave(torch.cat([h[:, self.node], mean], -1))
        return out[:, None].chunk(2, -1)


class GraphNVPSteps(AnyGraph):
    """log p(graph) from the adjacency tensor, and the nodes given it.

    Args:
        node_categories: Number of node categories.
        bond_categories: Number of edge categories.
        max_nodes: Largest number of nodes, and of couplings for either tensor.
        width: Hidden channels of the couplings of the adjacency tensor.
        node_width: Hidden channels of those of the nodes.
        layers: Relational convolutions of each.
        affine: Whether the couplings of the adjacency tensor have scales beside shifts.
    """

    def __init__(
        self,
        *,
        node_categories: int,
        bond_categories: int,
        max_nodes: int,
        width: int = 128,
        node_width: int = 32,
        layers: int = 2,
        affine: bool = False,
    ):
        super().__init__()
        self.bond_categories = bond_categories
        self.node_encoding = OneHotDequantization(node_categories)
        self.pair_encoding = OneHotDequantization(bond_categories + 1)
        self.base = StandardNormal()
        kinds = bond_categories + 1
        pairs = torch.tril_indices(max_nodes, max_nodes, -1)
        self.pairs = Sequential(
            ActNorm(kinds),
            *(
                RowCoupling(
                    (pairs == node).any(0).nonzero()[:, 0],
                    FlatNetwork(max_nodes, kinds, width, affine),
                )
                for node in range(max_nodes if max_nodes > 1 else 0)
            ),
            DiagonalScale(pairs.shape[1], kinds),
        )
        self.nodes = Sequential(
            ActNorm(node_categories),
            *(
                RowCoupling(
                    torch.tensor([node]),
                    RelationalNetwork(node, node_categories, bond_categories, node_width, layers),
                )
                for node in range(max_nodes)
            ),
        )

    def _given(self, bonds: Tensor, mask: Tensor) -> Context:
        """What the couplings of the nodes know: the edges."""
        adjacency = relations(bonds, self.bond_categories, self.node_encoding.like.dtype)
        return Context(mask, pair_features=adjacency)

    def _run(self, batch: GraphBatch, noise: Noise | None):
        index, pair_mask = all_pairs(batch.mask)
        kinds = batch.bonds[:, index[0, :, 0], index[0, :, 1]]
        pair = self.pair_encoding.encode(kinds, mask=pair_mask, noise=noise)
        pairs, pair_term = self.pairs(pair.z, mask=pair_mask, context=Context(batch.mask))
        node = self.node_encoding.encode(batch.node_types, mask=batch.mask, noise=noise)
        context = self._given(batch.bonds, batch.mask)
        nodes, node_term = self.nodes(node.z, mask=batch.mask, context=context)
        bounds = {
            "adjacency": Bound(
                self.base.log_prob(pairs, pair_mask) + pair_term,
                pair.log_posterior,
                pair.log_encoder,
                pair.correct,
            ),
            "nodes": Bound(
                self.base.log_prob(nodes, batch.mask) + node_term,
                node.log_posterior,
                node.log_encoder,
                node.correct,
            ),
        }
        return {"pairs": pairs, "nodes": nodes}, bounds

    def bounds(self, batch: GraphBatch, noise: Noise | None = None) -> dict[str, Bound]:
        """One draw of the terms of the bound on log p(graph | number of nodes)."""
        return self._run(batch, noise)[1]

    def encode(self, batch: GraphBatch, noise: Noise | None = None) -> Latents:
        """Latents of the base space: all pairs (B, P, R + 1), row by row, and nodes (B, N, M)."""
        return self._run(batch, noise)[0]

    def base_sample(self, mask: Tensor, generator=None) -> Latents:
        """Draw latents for graphs with real nodes `mask` (B, N)."""
        _, pair_mask = all_pairs(mask)
        like = self.node_encoding.like
        parts = {"pairs": (pair_mask, self.pair_encoding), "nodes": (mask, self.node_encoding)}
        return {
            name: self.base.sample(
                (*real.shape, encoding.latent_dim),
                mask=real,
                generator=generator,
                device=mask.device,
                dtype=like.dtype,
            )
            for name, (real, encoding) in parts.items()
        }

    def decode(
        self, latents: Latents, mask: Tensor, *, temperature=1.0, sample=False, generator=None
    ) -> GraphBatch:
        """Graphs of latents: edges first, then nodes given them, each the largest entry.

        `temperature` scales latents (published: 0.75 for ZINC250k); `sample` changes nothing.
        """
        index, pair_mask = all_pairs(mask)
        pairs = self.pairs.inverse(
            temperature * latents["pairs"], mask=pair_mask, context=Context(mask)
        )
        bonds = mask.new_zeros(*mask.shape, mask.shape[1], dtype=torch.long)
        later, earlier = index[0].unbind(-1)
        bonds[:, later, earlier] = self.pair_encoding.decode(pairs, mask=pair_mask)
        bonds = bonds + bonds.transpose(1, 2)
        nodes = self.nodes.inverse(
            temperature * latents["nodes"], mask=mask, context=self._given(bonds, mask)
        )
        return GraphBatch(self.node_encoding.decode(nodes, mask=mask), bonds, mask)
