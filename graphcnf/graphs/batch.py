"""Padded batches of typed graphs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from graphcnf.graphs.packed import PackedGraphs

Latents = dict[str, Tensor]
"""Latents of a batch in the base space, by name; each (B, ..., D)."""


@dataclass
class GraphBatch:
    """A padded batch of typed undirected graphs.

    Attributes:
        node_types: Node categories, (B, N) long; 0 where masked.
        bonds: 1 + category of the edge between two nodes, 0 where there is none; (B, N, N) long,
            symmetric, zero diagonal.
        mask: True for real nodes, (B, N) bool; the real nodes come first.
        conditions: Conditioning variables of each graph, (B, P), NaN where unknown; or None.

    Examples:
        >>> graphs = PackedGraphs.from_lists([([0, 1], [(0, 1)], [0]), ([1], [], [])])
        >>> batch = GraphBatch.collate(graphs)
        >>> batch.node_types.tolist(), batch.sizes.tolist()
        ([[0, 1], [1, 0]], [2, 1])
    """

    node_types: Tensor
    bonds: Tensor
    mask: Tensor
    conditions: Tensor | None = None

    def __len__(self) -> int:
        return len(self.mask)

    def __getitem__(self, index) -> GraphBatch:
        """Return some of the graphs, by a slice, numbers or a mask; their padding stays."""
        return self._each(lambda part: part[index])

    def _each(self, function: Callable[[Tensor], Tensor]) -> GraphBatch:
        there = {f.name: getattr(self, f.name) for f in fields(self)}
        return GraphBatch(**{k: function(part) for k, part in there.items() if part is not None})

    @property
    def sizes(self) -> Tensor:
        """Nodes of each graph, (B,) long."""
        return self.mask.sum(1)

    @property
    def adjacency(self) -> Tensor:
        """Return whether two nodes share an edge, (B, N, N) bool."""
        return self.bonds > 0

    def cleared(self) -> GraphBatch:
        """Return the same graphs with zeros at padding, whatever stands there."""
        real = self.mask[:, :, None] & self.mask[:, None, :]
        return replace(
            self,
            node_types=torch.where(self.mask, self.node_types, 0),
            bonds=torch.where(real, self.bonds, 0),
        )

    def narrowed(self, nodes: int) -> GraphBatch:
        """Return the same graphs padded to at most so many nodes; none may have more."""
        return replace(
            self,
            node_types=self.node_types[:, :nodes],
            bonds=self.bonds[:, :nodes, :nodes],
            mask=self.mask[:, :nodes],
        )

    def check(self, node_categories: int, bond_categories: int) -> None:
        """See whether a cleared batch holds simple graphs of some categories.

        Raises:
            ValueError: A graph has no node, another category, an edge from a node to itself, or
                one that only one of its ends has.
        """
        if not self.mask.any(1).all():
            raise ValueError("a graph has no nodes")
        for what, values, most in (
            ("node", self.node_types, node_categories - 1),
            ("edge", self.bonds - 1, bond_categories - 1),
        ):
            if values.numel() and int(values.max()) > most:
                raise ValueError(f"{what} category {int(values.max())}; known are 0 to {most}")
        if (self.node_types < 0).any() or (self.bonds < 0).any():
            raise ValueError("a category is negative")
        if (self.bonds != self.bonds.mT).any() or self.bonds.diagonal(dim1=1, dim2=2).any():
            raise ValueError("bonds must be symmetric, with 0 from a node to itself")

    def to(self, device) -> GraphBatch:
        """Move every tensor."""
        return self._each(lambda part: part.to(device))

    def permute(self, order: Tensor) -> GraphBatch:
        """Renumber the nodes: new node i is old node `order[b, i]`; (B, N) long."""
        rows = torch.arange(len(self), device=order.device)[:, None]
        bonds = self.bonds[rows[..., None], order[:, :, None], order[:, None, :]]
        types, mask = self.node_types[rows, order], self.mask[rows, order]
        return replace(self, node_types=types, bonds=bonds, mask=mask)

    @classmethod
    def collate(cls, packed: PackedGraphs, indices=None) -> GraphBatch:
        """Batch the graphs `indices` (all when None) of a packed set."""
        part = packed if indices is None else packed.subset(np.asarray(indices))
        counts, edge_counts = part.node_counts, part.edge_counts
        batch, most = len(counts), int(counts.max(initial=0))
        mask = np.arange(most)[None] < counts[:, None]
        types = np.zeros((batch, most), dtype=np.int64)
        types[mask] = part.node_types
        bonds = np.zeros((batch, most, most), dtype=np.int64)
        graph = np.repeat(np.arange(batch), edge_counts)
        i, j = part.edges[:, 0], part.edges[:, 1]
        bonds[graph, i, j] = bonds[graph, j, i] = part.bond_types.astype(np.int64) + 1
        return cls(torch.from_numpy(types), torch.from_numpy(bonds), torch.from_numpy(mask))

    def to_packed(self) -> PackedGraphs:
        """Return the graphs in flat arrays, edges sorted by node and nearest neighbour first."""
        mask, bonds = self.mask.cpu().numpy(), self.bonds.cpu().numpy()
        lower = np.tril(bonds, -1)
        # Reversed columns make nonzero() list the nearest earlier neighbour first.
        graph, i, back = np.nonzero(lower[:, :, ::-1])
        j = bonds.shape[-1] - 1 - back
        return PackedGraphs(
            node_counts=mask.sum(1).astype(np.int64),
            node_types=self.node_types.cpu().numpy()[mask].astype(np.uint8),
            edge_counts=np.bincount(graph, minlength=len(mask)).astype(np.int64),
            edges=np.stack([i, j], 1).astype(np.uint8),
            bond_types=(lower[graph, i, j] - 1).astype(np.uint8),
        )
