"""Many graphs in a few flat arrays: compact on disk, cheap to slice into batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from graphcnf.limits import MAX_NODES

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


@dataclass(eq=False, repr=False)
class PackedGraphs:
    """M typed undirected graphs without self-loops, one after the other in flat arrays.

    Attributes:
        node_counts: Nodes of each graph, (M,) int64.
        node_types: Node categories, 0-based, (sum of node counts,) uint8.
        edge_counts: Edges of each graph, (M,) int64.
        edges: Rows (i, j) with j < i, numbered within their graph, sorted by i ascending and then
            j descending (nearest earlier neighbour first), (sum of edge counts, 2) uint8.
        bond_types: Edge categories, 0-based, (sum of edge counts,) uint8.

    Examples:
        >>> triangle = ([0, 0, 1], [(0, 1), (1, 2), (0, 2)], [0, 0, 0])
        >>> edge = ([1, 1], [(0, 1)], [0])
        >>> graphs = PackedGraphs.from_lists([triangle, edge])
        >>> graphs
        PackedGraphs(2 graphs, 5 nodes, 4 edges)
        >>> graphs.node_counts.tolist()
        [3, 2]
    """

    node_counts: np.ndarray
    node_types: np.ndarray
    edge_counts: np.ndarray
    edges: np.ndarray
    bond_types: np.ndarray

    def __post_init__(self) -> None:
        nodes, edges = int(self.node_counts.sum()), int(self.edge_counts.sum())
        if len(self.node_counts) != len(self.edge_counts):
            raise ValueError(
                f"{len(self.node_counts)} node counts, but {len(self.edge_counts)} edge counts"
            )
        if len(self.node_types) != nodes:
            raise ValueError(f"{len(self.node_types)} node types for {nodes} nodes")
        if self.edges.shape != (edges, 2) or len(self.bond_types) != edges:
            raise ValueError(
                f"edges {self.edges.shape} and bond types {self.bond_types.shape} for {edges} edges"
            )

    @cached_property
    def node_starts(self) -> np.ndarray:
        """First node of each graph in `node_types`, and the total, (M + 1,) int64."""
        return np.concatenate([[0], np.cumsum(self.node_counts)]).astype(np.int64)

    @cached_property
    def edge_starts(self) -> np.ndarray:
        """First edge of each graph in `edges`, and the total, (M + 1,) int64."""
        return np.concatenate([[0], np.cumsum(self.edge_counts)]).astype(np.int64)

    def __repr__(self) -> str:
        nodes, edges = len(self.node_types), len(self.edges)
        return f"PackedGraphs({len(self)} graphs, {nodes} nodes, {edges} edges)"

    def __len__(self) -> int:
        return len(self.node_counts)

    def __eq__(self, other) -> bool:
        if not isinstance(other, PackedGraphs):
            return NotImplemented
        return all(np.array_equal(a, other.to_arrays()[k]) for k, a in self.to_arrays().items())

    __hash__ = None  # type: ignore[assignment]  # as Python wants it of what is mutable

    def graph(self, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return views of graph k: node types (n,), edges (m, 2) and bond types (m,)."""
        if not -len(self) <= k < len(self):
            raise IndexError(f"graph {k} of {len(self)}")
        k %= len(self)
        nodes = slice(self.node_starts[k], self.node_starts[k + 1])
        edges = slice(self.edge_starts[k], self.edge_starts[k + 1])
        return self.node_types[nodes], self.edges[edges], self.bond_types[edges]

    def __getitem__(self, k: int):
        """Graph k as `torch_geometric.data.Data`.

        Its `x` is (n,) long, `edge_index` (2, 2m) long with both directions of every edge and
        `edge_attr` (2m,) long.
        """
        import torch
        from torch_geometric.data import Data

        types, edges, bonds = (torch.from_numpy(a.astype(np.int64)) for a in self.graph(k))
        return Data(
            x=types,
            edge_index=torch.cat([edges, edges.flip(1)]).t().contiguous(),
            edge_attr=torch.cat([bonds, bonds]),
        )

    def subset(self, indices) -> PackedGraphs:
        """Return the graphs at `indices` (integers with repeats, or a mask (M,) bool), in order."""
        indices = np.asarray(indices)
        indices = np.flatnonzero(indices) if indices.dtype == bool else indices.astype(np.int64)
        node_counts, edge_counts = self.node_counts[indices], self.edge_counts[indices]
        nodes = _ranges(self.node_starts[:-1][indices], node_counts)
        edges = _ranges(self.edge_starts[:-1][indices], edge_counts)
        return PackedGraphs(
            node_counts, self.node_types[nodes], edge_counts, self.edges[edges],
            self.bond_types[edges],
        )  # fmt: skip

    @classmethod
    def from_lists(cls, graphs: Iterable[tuple[ArrayLike, ArrayLike, ArrayLike]]) -> PackedGraphs:
        """Pack triples (node types, edges as pairs, bond types); edges are put into order.

        Raises:
            ValueError: A graph with more than `MAX_NODES` nodes, a self-loop, an edge to a node
                that does not exist or listed twice with different types, or a category that is
                none of 0 to 255.
        """
        node_counts, edge_counts, node_types, all_edges, bond_types = [], [], [], [], []
        for k, (nodes, pairs, kinds) in enumerate(graphs):
            types, bonds = _whole(nodes), _whole(kinds)
            edges = np.asarray(pairs, np.int64).reshape(-1, 2)
            if len(edges) != len(bonds):
                raise ValueError(f"graph {k} has {len(edges)} edges, but {len(bonds)} bond types")
            if len(types) > MAX_NODES:
                raise ValueError(f"graph {k} has {len(types)} nodes, at most {MAX_NODES} fit")
            if any(len(a) and not 0 <= a.min() <= a.max() <= 255 for a in (types, bonds)):
                raise ValueError(f"graph {k} has a category outside 0 to 255")
            if len(edges) and not 0 <= edges.min() <= edges.max() < len(types):
                raise ValueError(f"graph {k} has an edge to a node it does not have")
            high, low = edges.max(1, initial=0), edges.min(1, initial=MAX_NODES)
            if (high == low).any():
                raise ValueError(f"graph {k} has a self-loop at node {high[high == low][0]}")
            rows = np.unique(np.stack([high, -low, bonds], 1), axis=0)
            if len(np.unique(rows[:, :2], axis=0)) != len(rows):
                raise ValueError(f"graph {k} has one edge with two different types")
            node_counts.append(len(types))
            edge_counts.append(len(rows))
            node_types.append(types)
            all_edges.append(rows[:, :2] * [1, -1])
            bond_types.append(rows[:, 2])
        return cls(
            np.array(node_counts, np.int64),
            np.concatenate([np.zeros(0), *node_types]).astype(np.uint8),
            np.array(edge_counts, np.int64),
            np.concatenate([np.zeros((0, 2)), *all_edges]).astype(np.uint8),
            np.concatenate([np.zeros(0), *bond_types]).astype(np.uint8),
        )

    @classmethod
    def from_data(cls, data: Iterable) -> PackedGraphs:
        """Pack `torch_geometric` graphs.

        Their `x` (n,) or (n, 1) and `edge_attr` (edges,) or (edges, 1) hold categories; an edge may
        be listed in one direction or both. Without `edge_attr` every edge has type 0.

        Raises:
            ValueError: As `from_lists`, and if `x` or `edge_attr` are no categories.
        """

        def categories(values, what):
            if values is None:
                raise ValueError(f"{what} is missing")
            values = values.cpu().numpy()
            if values.ndim > 2 or (values.ndim == 2 and values.shape[1] != 1):
                raise ValueError(
                    f"{what} of shape {values.shape} is no list of categories; of one-hot rows "
                    "take argmax(-1)"
                )
            if not np.array_equal(values, np.round(values)):
                raise ValueError(f"{what} must hold whole numbers, the categories")
            return values.reshape(-1)

        def triple(d):
            edges = d.edge_index.t().cpu().numpy()
            bonds = d.edge_attr
            bonds = np.zeros(len(edges)) if bonds is None else categories(bonds, "edge_attr")
            return categories(d.x, "x"), edges, bonds

        return cls.from_lists(triple(d) for d in data)

    @classmethod
    def concatenate(cls, parts: Sequence[PackedGraphs]) -> PackedGraphs:
        """All graphs of several sets, in order."""
        if not parts:
            return cls.from_lists([])
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)))

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return the five arrays by name, as `numpy.savez` takes them."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> PackedGraphs:
        """Inverse of `to_arrays`; further entries are ignored.

        Raises:
            KeyError: An array is missing.
            ValueError: The arrays do not fit together.
        """
        return cls(**{f.name: arrays[f.name] for f in fields(cls)})


def _ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Concatenation of `arange(start, start + count)` over all rows."""
    ends = np.cumsum(counts)
    offsets = np.repeat(starts - (ends - counts), counts)
    return np.arange(len(offsets)) + offsets


def _whole(values: ArrayLike) -> np.ndarray:
    array = np.asarray(values)
    whole = array.astype(np.int64)
    if array.dtype.kind not in "iub" and not np.array_equal(array, whole):
        raise ValueError(f"categories are whole numbers, not {array.dtype}")
    return whole
