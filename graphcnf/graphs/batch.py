"""Typed graphs in two forms: packed in flat arrays for storage, padded in tensors for networks.

`PackedGraphs` hold a whole data set without padding, in numpy arrays. `GraphBatch` holds the graphs
of one batch as tensors of one size, as networks need them; `GraphBatch.collate` makes it.

- Graphs are undirected, without self-loops, and have at most one edge between two nodes.
- A *category* is the type of a node or of an edge: an integer from 0. Nodes and edges are numbered
  apart.
- The *label* of a pair of nodes is the category of its edge plus 1, and 0 where there is no edge.
- *Node numbers* are 0, 1, ... within each graph; the *node order* is what these numbers say.
- In a batch of B graphs, N is the number of nodes of the largest one. A *mask* (B, N) is True at
  *real* nodes; the rest of a smaller graph is *padding*.
- *Latents* are the continuous variables into which a model encodes graphs.
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

from graphcnf.errors import UserError, type_of, with_article
from graphcnf.limits import MAX_NODES

BATCH = 256  # default number of graphs in a batch

Latents = dict[str, Tensor]
"""Latents of B graphs by name, (B, ..., D) each, such as {"nodes": (B, N, D)} for D latents of each
of N nodes.

The names are up to the class of the model. The latents are those at the end of the flow, where
their density is the base density."""


@dataclass(eq=False, repr=False)
class PackedGraphs:
    """M typed undirected graphs, stored one after the other in flat arrays without padding.

    `from_lists` packs graphs of any node numbers, and sorts their edges; the constructor takes
    arrays as they are. `len(graphs)` is M, and `graphs[k]` a graph of PyTorch Geometric.

    Attributes:
        node_counts: Number of nodes of each graph, (M,) int64.
        node_types: Node categories, those of graph 0 first, (sum of `node_counts`,) uint8.
        edge_counts: Number of edges of each graph, (M,) int64.
        edges: Edges, those of graph 0 first, (sum of `edge_counts`, 2) uint8: pairs (i, j) of node
            numbers within the graph, with j < i. In each graph they are sorted by ascending i;
            those of one i by descending j.
        edge_types: Category of each edge of `edges`, (sum of `edge_counts`,) uint8.

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
        """Where each graph begins in `node_types`, (M + 1,) int64; the last number is the total."""
        return np.append(0, self.node_counts).cumsum()

    @cached_property
    def edge_starts(self) -> np.ndarray:
        """Where each graph begins in `edges`, (M + 1,) int64; the last number is their total."""
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
        """Return node categories (n,), edges (m, 2) and edge categories (m,) of a graph (views)."""
        if not -len(self) <= k < len(self):
            raise IndexError(f"graph {k} of {len(self)}")
        k %= len(self)
        nodes = slice(self.node_starts[k], self.node_starts[k + 1])
        edges = slice(self.edge_starts[k], self.edge_starts[k + 1])
        return self.node_types[nodes], self.edges[edges], self.edge_types[edges]

    def subset(self, indices) -> PackedGraphs:
        """Copy some of the graphs, by indices, which may repeat, or by a mask (M,) bool."""
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
        """Pack graphs that are given as lists or arrays, and sort their edges.

        Each is three lists: node categories; edges as pairs, in any order and direction; edge
        categories. An edge that is listed twice, both times with the same category, is packed once.
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
    def concatenate(cls, parts: Sequence[PackedGraphs]) -> PackedGraphs:
        """Join several sets of graphs to one."""
        if not parts:
            return cls.from_lists([])
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)))

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return the five arrays by the names of the attributes, to save them."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> PackedGraphs:
        """Build the graphs from the arrays that `to_arrays` returned."""
        return cls(**{f.name: arrays[f.name] for f in fields(cls)})


def _ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the indices of all items of several runs of an array, one run after the other."""
    before = np.cumsum(counts) - counts
    return np.arange(counts.sum()) + np.repeat(starts - before, counts)


def _to_integers(values: ArrayLike) -> np.ndarray:
    """Return categories as int64."""
    array = np.asarray(values)
    whole = array.astype(np.int64)
    if array.dtype.kind not in "iub" and not np.array_equal(array, whole):
        raise ValueError(f"categories must be whole numbers, got {array.dtype}")
    return whole


def _sort_edges(
    k: int, node_types: np.ndarray, pairs: ArrayLike, categories: ArrayLike
) -> np.ndarray:
    """Check a graph, and return its edges without duplicates in the order of `PackedGraphs`."""
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
    """B typed undirected graphs as tensors, padded to N nodes each; the real nodes come first.

    `len(batch)` is B, and `batch[index]` some of the graphs, with the same padding.

    Attributes:
        node_types: Node categories, (B, N) long; 0 at padding.
        edge_labels: Labels, (B, N, N) long, symmetric: the category of the edge between two nodes
            plus 1, 0 for no edge.
        mask: True for real nodes, (B, N) bool.
        condition_values: Values of P properties of each graph, such as logP, given which a model
            scores and draws graphs (`graphcnf.graphs.conditions`): (B, P), NaN where unknown; None
            for a model without conditions.

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
        """Return some of the graphs, by a slice, indices or a mask, with the same padding."""
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
        """Return which graphs are connected, (B,) bool; one without nodes is."""
        reached = torch.zeros_like(self.mask)
        reached[:, :1] = True
        for _ in range(self.mask.shape[1]):
            reached = reached | (self.adjacency & reached[:, None]).any(-1)
        return (reached | ~self.mask).all(1)

    def clear_padding(self) -> GraphBatch:
        """Return the graphs with 0 at padding, in `node_types` and in `edge_labels`."""
        real = self.mask[:, :, None] & self.mask[:, None, :]
        types = torch.where(self.mask, self.node_types, 0)
        return replace(self, node_types=types, edge_labels=torch.where(real, self.edge_labels, 0))

    def for_model(self, config: Mapping[str, Any]) -> GraphBatch:
        """Check that a model can take the graphs, and set their padding to 0.

        Padding beyond "max_nodes" nodes is cut off.
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
        """Return the batch with its tensors on a device, such as "cuda:1"."""
        return self._map(lambda tensor: tensor.to(device))

    def permute(self, order: Tensor) -> GraphBatch:
        """Renumber the nodes: new node i of graph b is the old node `order[b, i]`.

        The mask is permuted as well: to keep real nodes first, `order` must list padding last.
        """
        rows = torch.arange(len(self), device=order.device)[:, None]
        labels = self.edge_labels[rows[..., None], order[:, :, None], order[:, None, :]]
        types = self.node_types[rows, order]
        return replace(self, node_types=types, edge_labels=labels, mask=self.mask[rows, order])

    @classmethod
    def collate(cls, packed: PackedGraphs, indices=None) -> GraphBatch:
        """Build a batch of packed graphs, all or those of `indices`, padded to the largest."""
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
        """Go through packed graphs in consecutive batches of `size` graphs."""
        for start in range(0, len(packed), size):
            yield cls.collate(packed, range(len(packed))[start : start + size])

    def to_packed(self) -> PackedGraphs:
        """Return the graphs packed in flat arrays, without padding and `condition_values`."""
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


def check_latents(latents: Any, wanted: Latents, mask: Tensor) -> None:
    """Check that latents which a user gives have the right names and shapes."""
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
    """Describe the type and shape of any value for an error message.

    Examples:
        >>> shape_of(torch.zeros(2, 3)), shape_of([1, 2])
        ('a real tensor (2, 3)', 'a list')
    """
    if not isinstance(value, Tensor):
        return type_of(value)
    kind = "real" if value.is_floating_point() else str(value.dtype).removeprefix("torch.")
    return f"{with_article(kind)} tensor {tuple(value.shape)}"


def batches(sizes: np.ndarray, size: int = BATCH) -> list[np.ndarray]:
    """Sort graphs by size, and cut their indices into batches that need little padding.

    Examples:
        >>> [batch.tolist() for batch in batches(np.array([5, 3, 9]), size=2)]
        [[1, 0], [2]]
    """
    order = np.argsort(sizes, kind="stable")
    return [order[k : k + size] for k in range(0, len(order), size)]
