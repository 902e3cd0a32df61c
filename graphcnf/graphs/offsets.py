"""The three steps of GraphCNF on depth-first numbered graphs, each a flow over node variables."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphcnf.categorical.flow import Bound
from graphcnf.flows.transform import Noise
from graphcnf.graphs.batch import GraphBatch, Latents
from graphcnf.graphs.packed import PackedGraphs
from graphcnf.graphs.path_code import PathCode
from graphcnf.graphs.steps import NodeStep, PathAdjacencyStep, PathBondStep


class OffsetSteps(nn.Module):
    """p(graph) = p(connectivity) p(edge categories | connectivity) p(node categories | both).

    Args:
        node_categories: Number of node categories.
        bond_categories: Number of edge categories.
        max_nodes: Largest number of nodes.
        back: Number of categories of the step back along the path; see `PathCode`.
        closures: Longest closure for each possible closure of a node.
        nodes: Arguments of the flow of the node step (`width`, `layers`, `groups`, ...).
        bonds: Arguments of the flow of the bond step.
        adjacency_step: Arguments of the flow of the adjacency step.
    """

    def __init__(
        self,
        *,
        node_categories: int,
        bond_categories: int,
        max_nodes: int,
        back: int,
        closures: list[int],
        nodes: dict,
        bonds: dict,
        adjacency_step: dict,
    ):
        super().__init__()
        code = PathCode(back, closures)
        self.adjacency = PathAdjacencyStep(code, max_nodes=max_nodes, **adjacency_step)
        self.bonds = PathBondStep(bond_categories, code.variables, max_nodes=max_nodes, **bonds)
        self.nodes = NodeStep(node_categories, bond_categories, max_nodes=max_nodes, **nodes)

    @staticmethod
    def measure(graphs: PackedGraphs) -> dict:
        """The arguments `back` and `closures` that a set of graphs needs."""
        most = 1
        chunks = [range(k, min(k + 1024, len(graphs))) for k in range(0, len(graphs), 1024)]
        for chunk in chunks:
            batch = GraphBatch.collate(graphs, chunk)
            lower = batch.adjacency.tril(-1)
            most = max(most, int(lower.sum(-1).max()))
        cardinalities = torch.ones(most, dtype=torch.long)
        for chunk in chunks:
            batch = GraphBatch.collate(graphs, chunk)
            codes = PathCode.encode(batch.adjacency, batch.mask, most).codes
            cardinalities = cardinalities.maximum(codes.amax((0, 1)) + 1)
        back, *closures = cardinalities.tolist()
        return {"back": back, "closures": [c - 1 for c in closures]}

    def bounds(self, batch: GraphBatch, noise: Noise | None = None) -> dict[str, Bound]:
        """One draw of the bound of each step."""
        code = self.adjacency.node_code(batch)
        return {
            "nodes": self.nodes.bound(batch, noise),
            "bonds": self.bonds.bound(batch, code, noise),
            "adjacency": self.adjacency.bound(code, batch.mask, noise),
        }

    def encode(self, batch: GraphBatch, noise: Noise | None = None) -> Latents:
        """Latents of the base space: nodes (B, N, 1), bonds (B, N, K), adjacency (B, N, K or D)."""
        code = self.adjacency.node_code(batch)
        return {
            "nodes": self.nodes.encode(batch, noise),
            "bonds": self.bonds.encode(batch, code, noise),
            "adjacency": self.adjacency.encode(code, batch.mask, noise),
        }

    def base_sample(self, mask: Tensor, generator=None) -> Latents:
        """Draw latents for graphs with real nodes `mask` (B, N)."""
        k, dim = self.adjacency.code.variables, self.adjacency.flow.encoding.latent_dim
        z = self.adjacency.flow.base.sample(
            (*mask.shape, dim + k + 1), mask=mask, generator=generator, device=mask.device
        )
        parts = z.split((dim, k, 1), -1)
        return dict(zip(("adjacency", "bonds", "nodes"), parts, strict=True))

    def decode(self, latents: Latents, mask: Tensor, **options) -> GraphBatch:
        """Graphs of latents; `options` are `temperature`, `sample` and `generator`."""
        code = self.adjacency.decode(latents["adjacency"], mask, **options)
        bonds = self.bonds.decode(latents["bonds"], code, mask, **options)
        return GraphBatch(self.nodes.decode(latents["nodes"], bonds, mask, **options), bonds, mask)
