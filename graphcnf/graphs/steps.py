"""The steps of GraphCNF on a depth-first numbered graph.

Every step holds a categorical flow over variables that belong to nodes:

- adjacency: the K path codes of a node (`PathCode`), given the number of nodes;
- bonds: the categories of the edges to a node's earlier neighbours, given the connectivity;
- nodes: the category of a node, given the connectivity and all edge categories.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphcnf.categorical.flow import Bound, CategoricalFlow
from graphcnf.categorical.intervals import IntervalEncoding
from graphcnf.graphs.batch import GraphBatch
from graphcnf.graphs.features import (
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
from graphcnf.graphs.interleaved import InterleavedAttention, InterleavedCoupling
from graphcnf.graphs.path_code import NodeCode, PathCode, bonds_from_targets


def interleaved_flow(cardinalities, *, groups: int, constraint=None, **network) -> CategoricalFlow:
    """Interval encoding, interleaved coupling, standard logistic base."""
    attention = InterleavedAttention(cardinalities, **network)
    coupling = InterleavedCoupling(attention, groups=groups, constraint=constraint)
    return CategoricalFlow(IntervalEncoding(cardinalities), coupling)


class PathAdjacencyStep(nn.Module):
    """Connectivity as path codes of the nodes."""

    def __init__(self, code: PathCode, **flow):
        super().__init__()
        self.code = code
        self.flow = interleaved_flow(code.cardinalities, constraint=code, **flow)

    def node_code(self, batch: GraphBatch) -> NodeCode:
        """Path code of a batch."""
        return PathCode.encode(batch.adjacency, batch.mask, self.code.variables)

    @staticmethod
    def variables_mask(mask: Tensor) -> Tensor:
        """The first node has nothing to say."""
        first = torch.arange(mask.shape[1], device=mask.device) == 0
        return mask & ~first

    def _where(self, mask: Tensor) -> Tensor:
        return self.variables_mask(mask)[..., None].expand(-1, -1, self.code.variables)

    def bound(self, code: NodeCode, mask: Tensor, noise=None) -> Bound:
        """Bound on the log-probability of the connectivity."""
        limits = torch.tensor(self.code.cardinalities, device=mask.device)
        if (code.codes >= limits).any():
            raise ValueError("a graph has a longer step back or closure than the model knows")
        return self.flow.bound(
            code.codes, mask=self._where(mask), context=GraphContext(mask), noise=noise
        )

    def encode(self, code: NodeCode, mask: Tensor, noise=None) -> Tensor:
        """Latents (B, N, K)."""
        return self.flow.encode(
            code.codes, mask=self._where(mask), context=GraphContext(mask), noise=noise
        )

    def decode(self, z: Tensor, mask: Tensor, **options) -> NodeCode:
        """Connectivity of latents; codes beyond the first node are cut off there."""
        codes = self.flow.decode(z, mask=self._where(mask), context=GraphContext(mask), **options)
        return PathCode.decode(codes, mask)


class PathBondStep(nn.Module):
    """Categories of the edges to earlier neighbours, given the connectivity."""

    def __init__(self, categories: int, variables: int, **flow):
        super().__init__()
        self.categories = categories
        self.flow = interleaved_flow(
            [categories] * variables,
            node_features=structure_node_features() + variables,
            pair_features=structure_pair_features() + 6,
            evidence=BondEvidence.channels(variables, categories),
            **flow,
        )

    def _context(self, code: NodeCode, mask: Tensor) -> GraphContext:
        present = code.targets >= 0
        adjacency = bonds_from_targets(code.targets, present.long()) > 0
        context = structure_context(adjacency, mask)
        levels = torch.log1p(code.codes.to(context.node_features.dtype))
        context.node_features = torch.cat([context.node_features, levels], -1)
        context.pair_features = torch.cat(
            [context.pair_features, edge_relations(code.targets)], -1
        )
        context.groups = spread_groups(adjacency, mask, self.flow.flow.groups)
        context.evidence = BondEvidence(code.targets, context.groups, self.categories)
        return context

    @staticmethod
    def _values(bonds: Tensor, code: NodeCode) -> Tensor:
        return (bonds.gather(2, code.targets.clamp(min=0)) - 1).clamp(min=0)

    def bound(self, bonds: Tensor, code: NodeCode, mask: Tensor, noise=None) -> Bound:
        """Bound on the log-probability of the edge categories."""
        values, where = self._values(bonds, code), code.targets >= 0
        return self.flow.bound(
            values, mask=where, context=self._context(code, mask), noise=noise
        )

    def encode(self, bonds: Tensor, code: NodeCode, mask: Tensor, noise=None) -> Tensor:
        """Latents (B, N, K)."""
        values, where = self._values(bonds, code), code.targets >= 0
        return self.flow.encode(
            values, mask=where, context=self._context(code, mask), noise=noise
        )

    def decode(self, z: Tensor, code: NodeCode, mask: Tensor, **options) -> Tensor:
        """Edge categories plus 1, (B, N, N)."""
        where = code.targets >= 0
        values = self.flow.decode(
            torch.where(where, z, 0), mask=where, context=self._context(code, mask), **options
        )
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
        context = typed_context(bonds, mask, self.bond_categories)
        context.groups = spread_groups(context.adjacency, mask, self.flow.flow.groups)
        return context

    def bound(self, node_types: Tensor, bonds: Tensor, mask: Tensor, noise=None) -> Bound:
        """Bound on the log-probability of the node categories."""
        return self.flow.bound(
            node_types[..., None],
            mask=mask[..., None],
            context=self._context(bonds, mask),
            noise=noise,
        )

    def encode(self, node_types: Tensor, bonds: Tensor, mask: Tensor, noise=None) -> Tensor:
        """Latents (B, N, 1)."""
        return self.flow.encode(
            node_types[..., None],
            mask=mask[..., None],
            context=self._context(bonds, mask),
            noise=noise,
        )

    def decode(self, z: Tensor, bonds: Tensor, mask: Tensor, **options) -> Tensor:
        """Node categories (B, N)."""
        context = self._context(bonds, mask)
        return self.flow.decode(z, mask=mask[..., None], context=context, **options)[..., 0]
