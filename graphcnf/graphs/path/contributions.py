"""What nodes and edges contribute to the conditions of a graph; loaded by models with conditions.

The *contribution* of a node or an edge is what it adds to the value of a condition
(`graphcnf.graphs.conditions`), as if the value were a sum over nodes and edges: a network that
draws node by node thus knows at each node how much is still to come. Sizes of tensors are those of
`graphcnf.graphs.path`; P conditions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.graphs.conditions import ConditionEmbedding
from graphcnf.graphs.path.depth_first import DepthFirstCode
from graphcnf.graphs.path.node_states import packed_neighbour
from graphcnf.graphs.path.path_layers import hashed
from graphcnf.graphs.path.paths import SEEN_NEIGHBOURS, Path

RIDGE = 0.3
"""Ridge of the least squares for edges: an edge that was seen once adds little."""


class Contributions(nn.Module):
    """Additive contributions of nodes and edges to the values of the conditions of a graph.

    For each condition, a node contributes a sum over its variables: one number for the value of
    each, from a table. An edge contributes one number, from a table with hashed rows (`links`): it
    depends on the category of the edge, and on the category and the neighbours so far of its two
    nodes. Conditions that are such sums are predicted nearly exactly, others roughly.

    `fit` computes the tables from training graphs. Then `forward` tells the network how much the
    nodes so far have contributed, and how much is left to reach the value that was asked for.

    Attributes:
        deviations: Standard deviation of each condition, in its own unit, (P,). The tables hold
            contributions divided by it.
    """

    deviations: Tensor

    def __init__(
        self, cardinalities: Sequence[int], conditions: Sequence[Mapping[str, Any]], width: int
    ):
        super().__init__()
        self.each = nn.ModuleList(nn.Embedding(c, len(conditions)) for c in cardinalities)
        # Hashes of edges share the rows of a table of fixed size; row 0 is for no edge.
        self.edges = nn.Embedding(16_384, len(conditions), padding_idx=0)
        for embedding in (*self.each, self.edges):
            nn.init.zeros_(embedding.get_parameter("weight"))
        deviations = torch.tensor([float(condition["deviation"]) for condition in conditions])
        self.register_buffer("deviations", deviations, persistent=False)
        centred = [{**condition, "mean": 0.0} for condition in conditions]
        self.to_come = ConditionEmbedding(centred, width)
        self.so_far = ConditionEmbedding(centred, width)

    @staticmethod
    def links(x: Tensor, path: Path) -> Tensor:
        """Hash the edges with which new nodes join paths.

        Two edges have the same hash, and so the same contribution, if their categories, the
        categories of both ends and the neighbours that both ends have before this edge are the
        same.
        """
        parent = (path.depth[: len(x)] - DepthFirstCode.backtracks(x)).clamp(min=0)
        new_node = DepthFirstCode.categories(x)
        row = torch.arange(len(x), device=x.device)
        hashes = []
        edges = DepthFirstCode.labels(x)
        lengths = DepthFirstCode.lengths(x)
        for edge, length in zip(edges.unbind(-1), lengths.unbind(-1), strict=True):
            earlier = row, parent + 1 - length + path.pad
            neighbour = packed_neighbour(edge, path.levels.category[earlier])
            around = path.neighbours[earlier][:, :SEEN_NEIGHBOURS].sort(-1).values
            key = new_node + 1
            for value in (neighbour, *around.unbind(-1)):
                key = hashed(key, value)
            hashes.append(torch.where(edge > 0, key, 0))
            # The next edge sees this one among the neighbours of the new node.
            new_node = torch.where(edge > 0, hashed(new_node, neighbour), new_node)
        return torch.stack(hashes, -1)

    def _edge_rows(self, links: Tensor) -> Tensor:
        """Return the rows of the table `edges` for hashes of edges, of the same shape."""
        return torch.where(links > 0, links % (self.edges.num_embeddings - 1) + 1, 0)

    def of(self, x: Tensor, links: Tensor) -> Tensor:
        """Return what nodes and their edges to earlier nodes contribute, in the same units."""
        variables = zip(self.each, x.unbind(-1), strict=True)
        of_nodes = sum(embedding(value) for embedding, value in variables)
        of_edges = self.edges(self._edge_rows(links)).sum(-2)
        return (of_nodes + of_edges) * self.deviations

    def forward(self, condition_values: Tensor, contributed: Tensor) -> Tensor:
        """Embed what nodes so far contribute to the conditions, and what is left of the values."""
        any_known = ~condition_values.isnan().all(-1)[:, None, None]
        so_far = torch.where(any_known, self.so_far(contributed), 0.0)
        return self.to_come(condition_values[:, None] - contributed) + so_far

    @torch.no_grad()
    def fit(self, x: Tensor, links: Tensor, mask: Tensor, condition_values: Tensor) -> None:
        """Fit the contributions to training graphs, in place.

        Those of nodes are found by least squares first, then those of edges for the residuals.
        """
        tables = [embedding.get_parameter("weight") for embedding in self.each]
        variables = zip(x.unbind(-1), tables, strict=True)
        counts = [
            (F.one_hot(value, len(table)) * mask[..., None]).sum(1) for value, table in variables
        ]
        seen = torch.cat(counts, -1).double()
        wanted = (condition_values / self.deviations).double()
        # A small ridge, since some columns are sums of others.
        ridge = 1e-6 * len(x) * torch.eye(seen.shape[1], dtype=torch.float64, device=x.device)
        solution = torch.linalg.solve(seen.T @ seen + ridge, seen.T @ wanted)
        for table, rows in zip(tables, solution.split([len(t) for t in tables]), strict=True):
            table.copy_(rows)
        edge_rows = torch.where(mask[..., None], self._edge_rows(links), 0).flatten(1)
        residuals = wanted - seen @ solution
        self._fit_edges(edge_rows.cpu(), residuals.cpu().numpy())

    def _fit_edges(self, edge_rows: Tensor, residuals: np.ndarray) -> None:
        """Fit the contributions of edges by least squares."""
        from scipy.sparse import coo_array
        from scipy.sparse.linalg import lsmr

        graph, column = edge_rows.nonzero(as_tuple=True)
        ones = torch.ones(len(graph))
        shape = (len(edge_rows), self.edges.num_embeddings)
        # An edge that a graph has several times counts as often.
        counts = coo_array((ones, (graph, edge_rows[graph, column])), shape).tocsr()
        fitted = [lsmr(counts, residual, damp=RIDGE)[0] for residual in residuals.T]
        self.edges.weight.copy_(torch.tensor(np.stack(fitted, 1)))


class Conditioning:
    """Conditions of B graphs, and what their nodes have contributed to them so far.

    Attributes:
        so_far: Contributions of all nodes so far, in the units of the conditions, (B, P).
    """

    def __init__(self, embedding: ConditionEmbedding, contributions: Contributions, values: Tensor):
        self.embedding = embedding
        self.contributions = contributions
        self.values = values
        self.so_far = torch.zeros_like(values)

    def of_all(self, x: Tensor, path: Path) -> Tensor:
        """Return the channels that are added to the inputs of all nodes of whole graphs."""
        of_nodes = self._of_nodes(x.flatten(0, 1), path).unflatten(0, x.shape[:2])
        before = F.pad(of_nodes.cumsum(1)[:, :-1], (0, 0, 1, 0))
        return self._channels(self.values, before)

    def of_next(self, count: int) -> Tensor:
        """Return the channels that are added to the inputs of the next nodes in drawing."""
        return self._channels(self.values[:count], self.so_far[:count, None])[:, 0]

    def add(self, x: Tensor, path: Path) -> None:
        """Add what nodes contribute that were drawn for the first R graphs."""
        self.so_far[: len(x)] += self._of_nodes(x, path)

    def select(self, rows: Tensor) -> None:
        """Replace the batch by graphs of it: `rows` are their indices, (R,) long."""
        self.values = self.values[rows]
        self.so_far = self.so_far[rows]

    def _of_nodes(self, x: Tensor, path: Path) -> Tensor:
        """Return what R nodes and their edges contribute, (R, P); arguments as of `add`."""
        return self.contributions.of(x, self.contributions.links(x, path))

    def _channels(self, values: Tensor, so_far: Tensor) -> Tensor:
        """Embed values (B, P), with what has been contributed before M positions, (B, M, P)."""
        return self.embedding(values)[:, None] + self.contributions(values, so_far)
