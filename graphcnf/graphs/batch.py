"""Typed graphs, packed in flat arrays for storage or padded in a batch of tensors for networks.

Graphs are undirected and without self-loops. Each node has one category (its type), and so has
each edge. Categories are numbered from 0 on. The *label* of an edge is its category plus 1, so that
0 can say "no edge".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from graphcnf.errors import UserError
from graphcnf.limits import MAX_NODES

BATCH = 256  # default number of graphs in a batch

Latents = dict[str, Tensor]
"""Latents of a batch of graphs in the base space of a model, by name, (B, ..., D) each."""


@dataclass(eq=False, repr=False)
class PackedGraphs:
    """M typed undirected graphs, concatenated in flat arrays.

    Attributes:
        node_counts: Number of nodes of each graph, (M,) int64.
        node_types: Node categories of all graphs, (sum of `node_counts`,) uint8.
        edge_counts: Number of edges of each graph, (M,) int64.
        edges: Edges of all graphs, (sum of `edge_counts`, 2) uint8: rows (i, j) of node numbers
            within the graph, with j < i, sorted by ascending i, then descending j.
        edge_types: Edge categories in the same order, (sum of `edge_counts`,) uint8.

    Raises:
        ValueError: if the arrays do not have these shapes.

    Examples:
        >>> triangle = ([0, 0, 1], [(0, 1), (1, 2), (0, 2)], [0, 0, 0])
        >>> PackedGraphs.from_lists([triangle, ([1, 1], [(0, 1)], [0])])
        PackedGraphs(2 graphs, 5 nodes, 4 edges)
    """

    node_counts: np.ndarray
    node_types: np.ndarray
    edge_counts: np.ndarray
    edges: np.ndarray
    edge_types: np.ndarray

    def __post_init__(self) -> None:
        graphs = len(self.node_counts)
        nodes = int(self.node_counts.sum())
        edges = int(self.edge_counts.sum())
        wanted = [(graphs,), (nodes,), (graphs,), (edges, 2), (edges,)]
        shapes = [getattr(self, field.name).shape for field in fields(self)]
        if shapes != wanted:
            raise ValueError(f"arrays must have the shapes {wanted}, got {shapes}")

    @cached_property
    def node_starts(self) -> np.ndarray:
        """Index of the first node of each graph in `node_types`, and the total, (M + 1,) int64."""
        return np.append(0, self.node_counts).cumsum()

    @cached_property
    def edge_starts(self) -> np.ndarray:
        """Index of the first edge of each graph in `edges`, and the total, (M + 1,) int64."""
        return np.append(0, self.edge_counts).cumsum()

    def __repr__(self) -> str:
        counts = f"{len(self)} graphs, {len(self.node_types)} nodes, {len(self.edges)} edges"
        return f"PackedGraphs({counts})"

    def __len__(self) -> int:
        return len(self.node_counts)

    def __eq__(self, other) -> bool:
        if not isinstance(other, PackedGraphs):
            return NotImplemented
        return all(np.array_equal(a, other.to_arrays()[k]) for k, a in self.to_arrays().items())

    __hash__ = None  # type: ignore[assignment]  # mutable, so not hashable

    def graph(self, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return views of graph k, which may count from the end.

        Returns:
            Node categories (n,), edges (m, 2) and edge categories (m,), uint8 each.

        Raises:
            IndexError: if there is no such graph.
        """
        if not -len(self) <= k < len(self):
            raise IndexError(f"graph {k} of {len(self)}")
        k %= len(self)
        nodes = slice(self.node_starts[k], self.node_starts[k + 1])
        edges = slice(self.edge_starts[k], self.edge_starts[k + 1])
        return self.node_types[nodes], self.edges[edges], self.edge_types[edges]

    def __getitem__(self, k: int):
        """Return graph k as `torch_geometric.data.Data`, with both directions of every edge.

        Node categories are in `x` (n,), those of edges in `edge_attr` (2 m,), both long.
        """
        from graphcnf.exchange.pyg import data_of

        return data_of(*self.graph(k))

    def subset(self, indices) -> PackedGraphs:
        """Return some of the graphs, in the order of `indices`.

        Args:
            indices: Integers, which may repeat, or a mask (M,) bool.

        Returns:
            Copies of these graphs; none for an empty list.
        """
        chosen = np.arange(len(self))[np.asarray(indices, None if len(indices) else np.int64)]
        node_counts = self.node_counts[chosen]
        edge_counts = self.edge_counts[chosen]
        nodes = _ranges(self.node_starts[chosen], node_counts)
        edges = _ranges(self.edge_starts[chosen], edge_counts)
        return PackedGraphs(
            node_counts=node_counts,
            node_types=self.node_types[nodes],
            edge_counts=edge_counts,
            edges=self.edges[edges],
            edge_types=self.edge_types[edges],
        )

    @classmethod
    def from_lists(cls, graphs: Iterable[tuple[ArrayLike, ArrayLike, ArrayLike]]) -> PackedGraphs:
        """Pack graphs, and sort their edges.

        Args:
            graphs: Triples of node categories (n,), edges as pairs of node numbers (m, 2), in any
                order and direction, and edge categories (m,).

        Returns:
            As many graphs, in their order, with the node numbers that were given. An edge that is
            listed twice with one category is there once.

        Raises:
            ValueError: for more than `MAX_NODES` nodes, a self-loop, an edge to a node that does
                not exist, an edge listed twice with different categories, or a category that is not
                a whole number from 0 to 255.
        """
        node_types: list[np.ndarray] = []
        edges: list[np.ndarray] = []
        edge_types: list[np.ndarray] = []
        for k, (nodes, pairs, categories) in enumerate(graphs):
            types = _to_integers(nodes)
            rows = _sort_edges(k, types, pairs, categories)
            node_types.append(types)
            edges.append(rows[:, :2])
            edge_types.append(rows[:, 2])
        # The empty arrays give the results their shapes even without graphs.
        return cls(
            node_counts=np.array([len(types) for types in node_types], np.int64),
            node_types=np.concatenate([np.zeros(0), *node_types]).astype(np.uint8),
            edge_counts=np.array([len(types) for types in edge_types], np.int64),
            edges=np.concatenate([np.zeros((0, 2)), *edges]).astype(np.uint8),
            edge_types=np.concatenate([np.zeros(0), *edge_types]).astype(np.uint8),
        )

    @classmethod
    def from_data(cls, data: Iterable) -> PackedGraphs:
        """Pack graphs of `torch_geometric`; see `graphcnf.exchange.pyg.from_pyg`."""
        from graphcnf.exchange.pyg import from_pyg

        return from_pyg(data)

    @classmethod
    def concatenate(cls, parts: Sequence[PackedGraphs]) -> PackedGraphs:
        """Return the graphs of all parts as one set, in order; an empty set for no parts."""
        if not parts:
            return cls.from_lists([])
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)))

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return `{name of an attribute: its array}`, for `numpy.savez`."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> PackedGraphs:
        """Build the graphs from the arrays that `to_arrays` returned.

        Args:
            arrays: The arrays by name; other names are ignored.

        Raises:
            KeyError: if an array is missing.
            ValueError: if an array has another shape.
        """
        return cls(**{f.name: arrays[f.name] for f in fields(cls)})


def _ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the indices of all items of several runs of an array, one run after the other.

    Args:
        starts: Index of the first item of each run.
        counts: Number of items of each run.
    """
    before = np.cumsum(counts) - counts
    return np.arange(counts.sum()) + np.repeat(starts - before, counts)


def _to_integers(values: ArrayLike) -> np.ndarray:
    """Return categories as int64; ValueError if one is not a whole number."""
    array = np.asarray(values)
    whole = array.astype(np.int64)
    if array.dtype.kind not in "iub" and not np.array_equal(array, whole):
        raise ValueError(f"categories must be whole numbers, got {array.dtype}")
    return whole


def _sort_edges(
    k: int, node_types: np.ndarray, pairs: ArrayLike, categories: ArrayLike
) -> np.ndarray:
    """Check a graph, and return its edges without duplicates in the order of `PackedGraphs`.

    Args:
        k: Number of the graph, for messages.
        node_types: Node categories, (n,) int64.
        pairs: Edges as pairs of node numbers, (m, 2).
        categories: Edge categories, (m,).

    Returns:
        Rows (i, j, category) with j < i, int64.

    Raises:
        ValueError: if the arguments are no graph; see `PackedGraphs.from_lists`.
    """
    edge_types = _to_integers(categories)
    edges = np.asarray(pairs, np.int64).reshape(-1, 2)
    if len(edges) != len(edge_types):
        raise ValueError(f"graph {k} has {len(edges)} edges, but {len(edge_types)} edge types")
    if len(node_types) > MAX_NODES:
        raise ValueError(f"graph {k} has {len(node_types)} nodes, at most {MAX_NODES} fit")
    for types in (node_types, edge_types):
        if len(types) and not 0 <= types.min() <= types.max() <= 255:
            raise ValueError(f"graph {k} has a category outside 0 to 255")
    if len(edges) and not 0 <= edges.min() <= edges.max() < len(node_types):
        raise ValueError(f"graph {k} has an edge to a node it does not have")
    high = edges.max(1, initial=0)
    low = edges.min(1, initial=MAX_NODES)
    if (high == low).any():
        raise ValueError(f"graph {k} has a self-loop at node {high[high == low][0]}")
    # `unique` sorts rows in ascending order: by i, then by descending j.
    rows = np.unique(np.stack([high, -low, edge_types], 1), axis=0)
    if len(np.unique(rows[:, :2], axis=0)) != len(rows):
        raise ValueError(f"graph {k} has one edge with two different types")
    return rows * [1, -1, 1]


@dataclass
class GraphBatch:
    """B typed undirected graphs, padded to N nodes each; the real nodes come first.

    Attributes:
        node_types: Node categories, (B, N) long; 0 where masked.
        edge_labels: Edge categories plus 1, 0 for no edge, (B, N, N) long, symmetric.
        mask: True for real nodes, (B, N) bool.
        condition_values: Values of the P conditions of each graph (`graphcnf.graphs.conditions`),
            (B, P), NaN where unknown; None for none at all.

    Examples:
        >>> graphs = PackedGraphs.from_lists([([0, 1], [(0, 1)], [0]), ([1], [], [])])
        >>> batch = GraphBatch.collate(graphs)
        >>> batch.node_types.tolist(), batch.node_counts.tolist()
        ([[0, 1], [1, 0]], [2, 1])
    """

    node_types: Tensor
    edge_labels: Tensor
    mask: Tensor
    condition_values: Tensor | None = None

    def __len__(self) -> int:
        return len(self.mask)

    def __getitem__(self, index) -> GraphBatch:
        """Return some of the graphs, with the same padding.

        Args:
            index: A slice, indices (R,) long, or a mask (B,) bool.
        """
        return self._map(lambda tensor: tensor[index])

    def _map(self, function: Callable[[Tensor], Tensor]) -> GraphBatch:
        """Return the batch with a function applied to every tensor that is not None."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        return GraphBatch(**{k: function(t) for k, t in tensors.items() if t is not None})

    @property
    def node_counts(self) -> Tensor:
        """Number of nodes of each graph, (B,) long."""
        return self.mask.sum(1)

    @property
    def adjacency(self) -> Tensor:
        """Pairs of nodes that share an edge, (B, N, N) bool."""
        return self.edge_labels > 0

    def connected(self) -> Tensor:
        """Return True for each graph that is connected, (B,) bool."""
        reached = torch.zeros_like(self.mask)
        reached[:, :1] = True
        for _ in range(self.mask.shape[1]):
            reached = reached | (self.adjacency & reached[:, None]).any(-1)
        return (reached | ~self.mask).all(1)

    def clear_padding(self) -> GraphBatch:
        """Return the graphs with padding set to 0."""
        real = self.mask[:, :, None] & self.mask[:, None, :]
        types = torch.where(self.mask, self.node_types, 0)
        return replace(self, node_types=types, edge_labels=torch.where(real, self.edge_labels, 0))

    def for_model(self, config: Mapping[str, Any]) -> GraphBatch:
        """Return the graphs as a model expects them, with padding set to 0 and cut off.

        Args:
            config: The `config` of the model, of which "max_nodes", beyond which padding is cut
                off, "node_categories" and "edge_categories" are read.

        Raises:
            ValueError: if a graph has no node, more than "max_nodes" nodes, a category out of
                range, or a self-loop, or if `edge_labels` is not symmetric.

        Returns:
            B graphs of at most "max_nodes" nodes.
        """
        nodes = config["max_nodes"]
        if self.mask[:, nodes:].any():
            largest = int(self.node_counts.max())
            raise ValueError(f"a graph of {largest} nodes; this model knows up to {nodes}")
        batch = replace(
            self,
            node_types=self.node_types[:, :nodes],
            edge_labels=self.edge_labels[:, :nodes, :nodes],
            mask=self.mask[:, :nodes],
        ).clear_padding()
        if not batch.mask.any(1).all():
            raise ValueError("a graph has no nodes")
        for what, values, most in (
            ("node", batch.node_types, config["node_categories"] - 1),
            ("edge", batch.edge_labels - 1, config["edge_categories"] - 1),
        ):
            if values.numel() and int(values.max()) > most:
                raise ValueError(f"{what} category {int(values.max())}; known are 0 to {most}")
        if (batch.node_types < 0).any() or (batch.edge_labels < 0).any():
            raise ValueError("a category is negative")
        loops = batch.edge_labels.diagonal(dim1=1, dim2=2)
        if (batch.edge_labels != batch.edge_labels.mT).any() or loops.any():
            raise ValueError("edge labels must be symmetric, with 0 from a node to itself")
        return batch

    def to(self, device) -> GraphBatch:
        """Return the batch on another device."""
        return self._map(lambda tensor: tensor.to(device))

    def permute(self, order: Tensor) -> GraphBatch:
        """Return the graphs with other node numbers.

        Args:
            order: Permutation of the nodes of each graph, (B, N) long: new node i of graph b is old
                node `order[b, i]`.

        Returns:
            The same graphs; their mask is permuted as well, so that padding may come first.
        """
        rows = torch.arange(len(self), device=order.device)[:, None]
        labels = self.edge_labels[rows[..., None], order[:, :, None], order[:, None, :]]
        types = self.node_types[rows, order]
        return replace(self, node_types=types, edge_labels=labels, mask=self.mask[rows, order])

    @classmethod
    def collate(cls, packed: PackedGraphs, indices=None) -> GraphBatch:
        """Pad packed graphs into a batch.

        Args:
            packed: The graphs.
            indices: Which of the graphs: integers, which may repeat, or a mask bool; None for all.

        Returns:
            The graphs, padded to the number N of nodes of the largest one, at least 1, on the CPU.
        """
        part = packed if indices is None else packed.subset(np.asarray(indices))
        # No graph at all gives a batch of width 1: networks cannot reshape one of width 0.
        width = int(part.node_counts.max(initial=1))
        mask = np.arange(width)[None] < part.node_counts[:, None]
        node_types = np.zeros((len(part), width), dtype=np.int64)
        node_types[mask] = part.node_types
        graph = np.repeat(np.arange(len(part)), part.edge_counts)
        i, j = part.edges.T
        edge_labels = np.zeros((len(part), width, width), dtype=np.int64)
        edge_labels[graph, i, j] = part.edge_types.astype(np.int64) + 1
        edge_labels[graph, j, i] = edge_labels[graph, i, j]
        return cls(*(torch.from_numpy(array) for array in (node_types, edge_labels, mask)))

    @classmethod
    def chunks(cls, packed: PackedGraphs, size: int = 1024) -> Iterator[GraphBatch]:
        """Yield packed graphs in padded batches of at most `size` graphs, in order."""
        for start in range(0, len(packed), size):
            yield cls.collate(packed, range(len(packed))[start : start + size])

    def to_packed(self) -> PackedGraphs:
        """Return the graphs in flat arrays, with edges sorted; their padding is dropped."""
        mask = self.mask.cpu().numpy()
        lower = np.tril(self.edge_labels.cpu().numpy(), -1)
        # Reversed columns make nonzero() list the nearest earlier neighbour first.
        graph, i, back = np.nonzero(lower[:, :, ::-1])
        j = mask.shape[1] - 1 - back
        return PackedGraphs(
            node_counts=mask.sum(1).astype(np.int64),
            node_types=self.node_types.cpu().numpy()[mask].astype(np.uint8),
            edge_counts=np.bincount(graph, minlength=len(mask)).astype(np.int64),
            edges=np.stack([i, j], 1).astype(np.uint8),
            edge_types=(lower[graph, i, j] - 1).astype(np.uint8),
        )

    def to_pyg(self) -> list:
        """Return the graphs as `torch_geometric.data.Data`; see `graphcnf.exchange.pyg.to_pyg`."""
        from graphcnf.exchange.pyg import to_pyg

        return to_pyg(self.to_packed())


def check_latents(latents: Any, wanted: Latents, mask: Tensor) -> None:
    """Raise `UserError` unless latents have the names and shapes that belong to a mask.

    Args:
        latents: Latents of any form.
        wanted: Latents of the right names and shapes.
        mask: Real nodes of the graphs, (B, N) bool.
    """
    if not isinstance(latents, Mapping) or set(latents) != set(wanted):
        given = list(latents) if isinstance(latents, Mapping) else shape_of(latents)
        raise UserError(f"latents must be a dict with {list(wanted)}, got {given}")
    for name, value in latents.items():
        right = shape_of(wanted[name])
        if shape_of(value) != right:
            raise UserError(
                f"latents[{name!r}] must be {right}, as the mask is {shape_of(mask)}, "
                f"got {shape_of(value)}"
            )


def shape_of(value: Any) -> str:
    """Describe a value in an error message, such as "a real tensor (2, 3)" or "a list"."""
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    kind = "real" if value.is_floating_point() else str(value.dtype).removeprefix("torch.")
    return f"a {kind} tensor {tuple(value.shape)}"


def batches(sizes: np.ndarray, size: int = BATCH) -> list[np.ndarray]:
    """Cut graphs into batches of similar size.

    Args:
        sizes: Numbers of nodes of the graphs, (M,).
        size: Graphs per batch.

    Returns:
        Indices of the graphs of each batch, smaller graphs first; int64.
    """
    order = np.argsort(sizes, kind="stable")
    return [order[k : k + size] for k in range(0, len(order), size)]
