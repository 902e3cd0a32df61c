"""The steps of GraphCNF on a depth-first numbered graph.

Every step holds a categorical flow over variables that belong to nodes:

- adjacency: the K path codes of a node (`PathCode`), given the number of nodes;
- bonds: the categories of the edges to a node's earlier neighbours, given the connectivity;
- nodes: the category of a node, given the connectivity and all edge categories.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from graphcnf.categorical import (
    Bound,
    CategoricalFlow,
    IntervalEncoding,
    JointEncoding,
    make_encoding,
)
from graphcnf.errors import UserError
from graphcnf.graphs.attention import InterleavedAttention
from graphcnf.graphs.batch import GraphBatch
from graphcnf.graphs.features import (
    EDGE_RELATIONS,
    MAX_COUNT,
    BondEvidence,
    GraphContext,
    edge_relations,
    spread_groups,
    structure_context,
    structure_node_features,
    structure_pair_features,
    typed_context,
)
from graphcnf.graphs.interleaved import InterleavedCoupling
from graphcnf.graphs.joint import node_flow
from graphcnf.graphs.pair_network import PairNetwork
from graphcnf.graphs.path_code import NodeCode, PathCode, bonds_from_targets
from graphcnf.graphs.path_evidence import PathEvidence


def interleaved_flow(cardinalities, *, groups: int, constraint=None, **network) -> CategoricalFlow:
    """Interval encoding, interleaved coupling, standard logistic base."""
    attention = InterleavedAttention(cardinalities, **network)
    coupling = InterleavedCoupling(attention, groups=groups, constraint=constraint)
    return CategoricalFlow(IntervalEncoding(cardinalities), coupling)


def coupling_flow(
    cardinalities,
    *,
    encoding: str,
    latent_dim: int | None = None,
    couplings: int = 6,
    mixtures: int = 8,
    **network,
) -> CategoricalFlow:
    """One of the paper's encodings (or argmax) per variable, and mixture coupling layers."""
    dims = None if encoding == "argmax" else latent_dim
    encodings = JointEncoding([make_encoding(encoding, c, dims) for c in cardinalities])
    if encodings.latent_dim < 2:
        raise UserError(f"encoding {encoding!r} gives a node 1 latent; couplings need 2 or more")
    flow = node_flow(
        partial(PairNetwork, ordered=True, **network),
        couplings=couplings,
        node_dim=encodings.latent_dim,
        mixtures=mixtures,
    )
    return CategoricalFlow(encodings, flow)


class PathAdjacencyStep(nn.Module):
    """Connectivity as path codes of the nodes.

    Args:
        code: The coding.
        encoding: "interval" for an interleaved flow, or an encoding for `coupling_flow`.
        **flow: Arguments of the flow.
    """

    def __init__(self, code: PathCode, encoding: str = "interval", **flow):
        super().__init__()
        self.code = code
        self.interleaved = encoding == "interval"
        if self.interleaved:
            self.flow = interleaved_flow(
                code.cardinalities, constraint=code, evidence=PathEvidence.channels(), **flow
            )
        else:
            self.flow = coupling_flow(code.cardinalities, encoding=encoding, **flow)

    def _context(self, mask: Tensor) -> GraphContext:
        context = GraphContext(mask)
        if self.interleaved:
            groups = self.flow.flow.group_of(context)
            context.evidence = PathEvidence(groups, mask, self.code.cardinalities)
        return context

    def node_code(self, batch: GraphBatch) -> NodeCode:
        """Path code of a batch."""
        return PathCode.encode(batch.adjacency, batch.mask, self.code.variables)

    def _where(self, mask: Tensor) -> Tensor:
        """Which variables there are: the first node has none. (B, N, K), or (B, N) where equal."""
        first = torch.arange(mask.shape[1], device=mask.device) == 0
        where = mask & ~first
        if self.interleaved:
            where = where[..., None].expand(-1, -1, self.code.variables)
        return where

    def bound(self, code: NodeCode, mask: Tensor, noise=None) -> Bound:
        """Bound on the log-probability of the connectivity."""
        limits = torch.tensor(self.code.cardinalities, device=mask.device)
        if (code.codes >= limits).any():
            raise ValueError("a graph has a longer step back or closure than the model knows")
        return self.flow.bound(
            code.codes, mask=self._where(mask), context=self._context(mask), noise=noise
        )

    def encode(self, code: NodeCode, mask: Tensor, noise=None) -> Tensor:
        """Latents (B, N, K)."""
        return self.flow.encode(
            code.codes, mask=self._where(mask), context=self._context(mask), noise=noise
        )

    def decode(self, z: Tensor, mask: Tensor, **options) -> NodeCode:
        """Connectivity of latents; codes beyond the first node are cut off there."""
        codes = self.flow.decode(z, mask=self._where(mask), context=self._context(mask), **options)
        return PathCode.decode(codes, mask)


class PathBondStep(nn.Module):
    """Categories of the edges to earlier neighbours, given the connectivity."""

    def __init__(self, categories: int, variables: int, **flow):
        super().__init__()
        self.categories = categories
        self.flow = interleaved_flow(
            [categories] * variables,
            node_features=structure_node_features() + variables,
            pair_features=structure_pair_features() + EDGE_RELATIONS,
            evidence=BondEvidence.channels(variables, categories),
            **flow,
        )

    def _context(self, code: NodeCode, mask: Tensor) -> GraphContext:
        present = code.targets >= 0
        adjacency = bonds_from_targets(code.targets, present.long()) > 0
        context = structure_context(adjacency, mask, _dtype(self))
        levels = torch.log1p(code.codes.to(context.node_features.dtype))
        context.node_features = torch.cat([context.node_features, levels], -1)
        context.pair_features = torch.cat(
            [context.pair_features, edge_relations(code.targets).to(_dtype(self))], -1
        )
        context.groups = spread_groups(adjacency, mask, self.flow.flow.groups)
        context.evidence = BondEvidence(code.targets, context.groups, self.categories)
        return context

    @staticmethod
    def _values(bonds: Tensor, code: NodeCode) -> Tensor:
        return (bonds.gather(2, code.targets.clamp(min=0)) - 1).clamp(min=0)

    def bound(self, batch: GraphBatch, code: NodeCode, noise=None) -> Bound:
        """Bound on the log-probability of the edge categories."""
        values, where = self._values(batch.bonds, code), code.targets >= 0
        context = self._context(code, batch.mask)
        return self.flow.bound(values, mask=where, context=context, noise=noise)

    def encode(self, batch: GraphBatch, code: NodeCode, noise=None) -> Tensor:
        """Latents (B, N, K)."""
        values, where = self._values(batch.bonds, code), code.targets >= 0
        context = self._context(code, batch.mask)
        return self.flow.encode(values, mask=where, context=context, noise=noise)

    def decode(self, z: Tensor, code: NodeCode, mask: Tensor, **options) -> Tensor:
        """Edge categories plus 1, (B, N, N)."""
        where = code.targets >= 0
        context = self._context(code, mask)
        values = self.flow.decode(torch.where(where, z, 0), mask=where, context=context, **options)
        return bonds_from_targets(code.targets, values + 1)


class NodeStep(nn.Module):
    """Node categories, given the graph and its edge categories."""

    def __init__(self, categories: int, bond_categories: int, **flow):
        super().__init__()
        self.bond_categories = bond_categories
        self.flow = interleaved_flow(
            [categories],
            node_features=structure_node_features() + bond_categories * (MAX_COUNT + 1),
            pair_features=structure_pair_features() + bond_categories,
            **flow,
        )

    def _context(self, bonds: Tensor, mask: Tensor) -> GraphContext:
        context = typed_context(bonds, mask, self.bond_categories, _dtype(self))
        context.groups = spread_groups(context.adjacency, mask, self.flow.flow.groups)
        return context

    def bound(self, batch: GraphBatch, noise=None) -> Bound:
        """Bound on the log-probability of the node categories."""
        return self.flow.bound(
            batch.node_types[..., None],
            mask=batch.mask[..., None],
            context=self._context(batch.bonds, batch.mask),
            noise=noise,
        )

    def encode(self, batch: GraphBatch, noise=None) -> Tensor:
        """Latents (B, N, 1)."""
        return self.flow.encode(
            batch.node_types[..., None],
            mask=batch.mask[..., None],
            context=self._context(batch.bonds, batch.mask),
            noise=noise,
        )

    def decode(self, z: Tensor, bonds: Tensor, mask: Tensor, **options) -> Tensor:
        """Node categories (B, N)."""
        context = self._context(bonds, mask)
        return self.flow.decode(z, mask=mask[..., None], context=context, **options)[..., 0]


def _dtype(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype
