"""Graphs as sequences: a few categories for each node of a depth-first numbered graph.

In a depth-first order, the earlier neighbours of a node all lie on the *path* from the first node
to it. This is why a few small numbers say where a node is attached:

- the *parent* of a node is the latest of its earlier neighbours, and its *level* is one more than
  that of its parent (the first node has level 0);
- the *backtrack* is the number of levels from the previous node up to the parent; 0 if the previous
  node is the parent;
- a *closure* is an edge to another node on the path. Its *length* is the difference of the levels:
  a ring of s nodes has a closure of length s - 1, whatever branches its nodes carry.

The *code* of a graph is these numbers and the categories of its edges and nodes.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from graphcnf.graphs.batch import GraphBatch

# Where the variables of a node stand: those of the edge to its parent, then two for each closure.
BACKTRACK, PARENT_EDGE, CATEGORY = range(3)
LENGTHS = slice(3, None, 2)
CLOSING_EDGES = slice(4, None, 2)

COMMON_VARIABLES = 4
"""Number of variables that every node has: up to the length of its first closure. If that is 0, all
later variables are 0."""


class VariableRole(StrEnum):
    """What a variable of a node says."""

    BACKTRACK = "backtrack"
    PARENT_EDGE = "edge to the parent"
    CATEGORY = "category of the node"
    LENGTH = "length of a closure"
    CLOSING_EDGE = "edge of a closure"


class Variable(NamedTuple):
    """One of the V variables of a node.

    Attributes:
        role: What its value says about the node.
        edge_number: Number of the edge to which it belongs: 0 for the edge to the parent, with
            which the backtrack and the node's category go, and 1, 2, ... for the closures.
    """

    role: VariableRole
    edge_number: int

    @classmethod
    def at(cls, k: int) -> Variable:
        """Return what variable k of a node says, in the order of `DepthFirstCode`."""
        first = (VariableRole.BACKTRACK, VariableRole.PARENT_EDGE, VariableRole.CATEGORY)
        if k < len(first):
            return cls(first[k], 0)
        return cls(VariableRole.LENGTH if k % 2 else VariableRole.CLOSING_EDGE, (k - 1) // 2)


def earlier_edges(adjacency: Tensor, mask: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """Find the backtrack of every node, and how far its edges to earlier nodes lead up the path.

    Returns:
        Three tensors, long:

        - backtracks, (B, N); 0 at padding;
        - lengths of the edges to earlier nodes, (B, N, J), in increasing order, so that the first
          one is 1, that of the edge to the parent; 0 where there is none, and at padding;
        - the numbers of these earlier nodes, (B, N, J); -1 where there is none, and at padding.
    """
    nodes = mask.shape[1]
    number = torch.arange(nodes, device=mask.device)
    earlier = adjacency & (number[:, None] > number)
    parent = torch.where(earlier, number, -1).amax(-1) if nodes else number.new_empty(len(mask), 0)
    if (parent[:, 1:] < 0)[mask[:, 1:]].any():
        raise ValueError("a graph is not connected, or a node has no earlier neighbour")
    if (earlier.sum(-1) > most).any():
        raise ValueError(f"a node has more than {most} earlier neighbours")
    level = _levels(parent)
    if (earlier & ~_on_path(level)).any():
        raise ValueError("a graph is not numbered depth-first: an edge leads off the path")
    # Levels are distinct along a path, so that the lengths of a node's edges are, too.
    none = nodes + 1
    length = torch.where(earlier, level[:, :, None] - level[:, None], none)
    length = F.pad(length, (0, max(most - nodes, 0)), value=none)
    lengths, numbers = length.topk(most, dim=-1, largest=False)
    absent = (lengths == none) | ~mask[..., None]
    backtrack = torch.cat([level[:, :1], level[:, :-1]], 1) - level + 1
    backtrack[:, :1] = 0
    return (
        torch.where(mask, backtrack, 0),
        torch.where(absent, 0, lengths),
        torch.where(absent, -1, numbers),
    )


def _levels(parent: Tensor) -> Tensor:
    """Return the levels (B, N) of nodes with the parents `parent` (B, N) long, -1 for none."""
    level = (parent >= 0).long()
    above = parent
    for _ in range(parent.shape[1].bit_length()):
        up = above.clamp(min=0)
        real = above >= 0
        level = level + torch.where(real, level.gather(1, up), 0)
        above = torch.where(real, above.gather(1, up), -1)
    return level


def _on_path(level: Tensor) -> Tensor:
    """Return whether node j is on the path before node i, (B, N, N) bool, from levels (B, N)."""
    number = torch.arange(level.shape[1], device=level.device)
    last = torch.where(level[..., None] == number, number[:, None], -1).cummax(1).values
    of_node = level[:, None].expand(-1, level.shape[1], -1)
    before = last[:, :-1].gather(2, of_node[:, 1:]) == number
    before = before & (of_node[:, 1:] <= level[:, :-1, None])
    return F.pad(before, (0, 0, 1, 0))


class DepthFirstCode:
    """One-to-one map from connected depth-first numbered graphs to V categories per node.

    The V variables of a node are, in this order:

    0. the backtrack, 0 to `back` - 1;
    1. the category of the edge to the parent plus 1; 0 for the first node, which has no parent;
    2. the category of the node;
    3. the length of its first closure, 0 for none;
    4. the category of the edge of this closure plus 1, 0 for none;

    and so on, two variables for each entry of `closures`. Not every combination of values is the
    code of a graph; `Support` rules out the others.

    Args:
        back: Largest backtrack plus 1.
        closures: Largest length of the first, second, ... closure of a node.

    Attributes:
        largest_backtrack: The largest backtrack.
        cardinalities: Number of values of each variable, V of them.

    Examples:
        A triangle of the nodes 0, 1 and 2, which node 2 closes, and a node that hangs on node 1:

        >>> from graphcnf.graphs import PackedGraphs
        >>> edges = [(0, 1), (1, 2), (0, 2), (1, 3)]
        >>> graphs = PackedGraphs.from_lists([([1, 0, 0, 2], edges, [0, 0, 0, 1])])
        >>> code = DepthFirstCode(2, [2], node_categories=3, edge_categories=2)
        >>> code.encode(GraphBatch.collate(graphs))[0][0].tolist()
        [[0, 0, 1, 0, 0], [0, 1, 0, 0, 0], [0, 1, 0, 2, 1], [1, 2, 2, 0, 0]]
    """

    def __init__(
        self, back: int, closures: list[int], *, node_categories: int, edge_categories: int
    ):
        self.node_categories = node_categories
        self.edge_categories = edge_categories
        self.largest_backtrack = back - 1
        self.closures = closures
        self.cardinalities = [back, edge_categories + 1, node_categories]
        for length in closures:
            self.cardinalities += [length + 1, edge_categories + 1]

    @staticmethod
    def part(k: int) -> str:
        """Return "adjacency" for backtrack and lengths, "edges" for labels, else "nodes"."""
        match Variable.at(k).role:
            case VariableRole.CATEGORY:
                return "nodes"
            case VariableRole.PARENT_EDGE | VariableRole.CLOSING_EDGE:
                return "edges"
            case _:
                return "adjacency"

    @staticmethod
    def backtracks(x: Tensor) -> Tensor:
        """Return the backtracks (...) of nodes with the variables x (..., V)."""
        return x[..., BACKTRACK]

    @staticmethod
    def categories(x: Tensor) -> Tensor:
        """Return the categories (...) of nodes with the variables x (..., V)."""
        return x[..., CATEGORY]

    @staticmethod
    def lengths(x: Tensor) -> Tensor:
        """Return how many levels each edge to an earlier node spans, (..., J) long; 0 for none.

        A first node has no parent, but the 1 of the edge to it as well.
        """
        return torch.cat([torch.ones_like(x[..., :1]), x[..., LENGTHS]], -1)

    @staticmethod
    def labels(x: Tensor) -> Tensor:
        """Return the labels of the edges of a node to earlier nodes, (..., J) long."""
        return torch.cat([x[..., PARENT_EDGE, None], x[..., CLOSING_EDGES]], -1)

    def encode(self, batch: GraphBatch) -> tuple[Tensor, Tensor]:
        """Write each graph as a code, 0 at padding; and say which graphs have one, (B,) bool."""
        earlier = batch.adjacency.tril(-1).sum(-1)
        edges = 1 + len(self.closures)  # of a node to earlier ones, at most
        most = max(edges, int(earlier.max()) if earlier.numel() else 0)
        backtrack, lengths, earlier_nodes = earlier_edges(batch.adjacency, batch.mask, most)
        closures = lengths[..., 1:]
        longest = closures.new_tensor(self.closures + [0] * (most - edges))
        known = (backtrack <= self.largest_backtrack) & (closures <= longest).all(-1)
        closures = closures.minimum(longest)[..., : edges - 1]
        backtrack = backtrack.clamp(max=self.largest_backtrack)
        earlier_nodes = earlier_nodes[..., :edges]
        labels = batch.edge_labels.gather(2, earlier_nodes.clamp(min=0))
        labels = torch.where(earlier_nodes < 0, 0, labels)
        first = torch.stack([backtrack, labels[..., 0], batch.node_types], -1)
        pairs = torch.stack([closures, labels[..., 1:]], -1).flatten(-2)
        return torch.cat([first, pairs], -1), known.all(1)

    def decode(self, x: Tensor, mask: Tensor) -> GraphBatch:
        """Return the graphs that some codes describe."""
        batch, nodes, _ = x.shape
        rows = torch.arange(batch, device=x.device)
        path = torch.zeros(batch, nodes + 1, dtype=torch.long, device=x.device)
        labels = path.new_zeros(batch, nodes, nodes)
        x = torch.where(mask[..., None], x, 0)
        depth = torch.zeros_like(rows)
        lengths = self.lengths(x)
        edges = self.labels(x)
        for i in range(1, nodes):
            depth = (depth - self.backtracks(x[:, i])).clamp(min=0) + 1
            path[rows, depth] = i
            for length, edge in zip(lengths[:, i].unbind(-1), edges[:, i].unbind(-1), strict=True):
                far = path[rows, (depth - length).clamp(min=0)]
                # Without a closure, `far` is node i itself, and its entry stays 0.
                labels[rows, i, far] = torch.where(length > 0, edge, labels[rows, i, far])
        return GraphBatch(self.categories(x), labels + labels.transpose(1, 2), mask)
