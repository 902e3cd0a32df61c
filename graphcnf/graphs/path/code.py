"""A node of a depth-first numbered graph as a few categories.

In a depth-first numbering the neighbours that a node has among the earlier nodes all lie on the
path from the first node to it. A node's connectivity is therefore how many levels the path steps
back before it continues with this node (0: child of the node before), and the lengths of the edges
that lead from the node further up the path (a ring of size s is closed by length s - 1, whatever
branches its nodes carry). Beside them stand the categories of the node and of these edges.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from graphcnf.graphs.batch import GraphBatch
from graphcnf.graphs.packed import PackedGraphs

KINDS = ("adjacency", "bonds", "nodes")
"""What the variables say, in the names of the three steps of the published model."""


@dataclass
class PathCode:
    """Connectivity of a batch of depth-first numbered graphs.

    Attributes:
        codes: (B, N, K) long. Entry 0: levels stepped back; entries 1 to K-1: lengths of the
            closures, increasing, 0 for none. All 0 for the first node and for padding.
        targets: The neighbour that each entry stands for, (B, N, K) long, -1 for none.
    """

    codes: Tensor
    targets: Tensor

    @classmethod
    def of(cls, adjacency: Tensor, mask: Tensor, entries: int) -> PathCode:
        """Code of depth-first numbered graphs.

        Args:
            adjacency: (B, N, N) bool, symmetric.
            mask: (B, N) bool.
            entries: K.

        Raises:
            ValueError: if a graph is not connected, not numbered depth-first, or has a node with
                more than K earlier neighbours.
        """
        batch, nodes = mask.shape
        device = mask.device
        number = torch.arange(nodes, device=device)
        earlier = adjacency & (number[:, None] > number)
        parent = torch.where(earlier, number, -1).amax(-1) if nodes else number.new_empty(batch, 0)
        if (parent[:, 1:] < 0)[mask[:, 1:]].any():
            raise ValueError("a graph is not connected, or a node has no earlier neighbour")
        if (earlier.sum(-1) > entries).any():
            raise ValueError(f"a node has more than {entries} earlier neighbours")
        depth, above = (parent >= 0).long(), parent
        for _ in range(nodes.bit_length()):  # Doubles how far up the parents are followed.
            up, real = above.clamp(min=0), above >= 0
            depth = depth + torch.where(real, depth.gather(1, up), 0)
            above = torch.where(real, above.gather(1, up), -1)
        # Where the numbering is depth-first, the path holds the last node of every depth.
        last = torch.where(depth[..., None] == number, number[:, None], -1).cummax(1).values
        level = depth[:, None].expand(-1, nodes, -1)
        on_path = last[:, :-1].gather(2, level[:, 1:]) == number
        on_path = on_path & (level[:, 1:] <= depth[:, :-1, None])
        if (earlier[:, 1:] & ~on_path).any():
            raise ValueError("a graph is not numbered depth-first: an edge leads off the path")
        # Levels are distinct along a path, so sorting by level sorts the neighbours.
        level = torch.where(earlier, depth[:, :, None] - level, nodes + 1)
        if nodes < entries:
            level = torch.nn.functional.pad(level, (0, entries - nodes), value=nodes + 1)
        lengths, targets = level.topk(entries, dim=-1, largest=False)
        absent = lengths > nodes
        codes = torch.where(absent, 0, lengths)
        before = torch.cat([depth[:, :1], depth[:, :-1]], 1)
        codes[..., 0] = before - depth + 1
        codes[:, :1] = 0
        keep = mask[..., None]
        return cls(torch.where(keep, codes, 0), torch.where(absent | ~keep, -1, targets))


class AtomCode:
    """One-to-one map of connected depth-first numbered graphs to V categories per node.

    Not every combination of categories is the code of a graph (a step back beyond the first node,
    say); `Support` knows which are. A graph has a code for each of its depth-first numberings.

    The variables of a node, in this order: levels stepped back; category of the edge to the parent
    plus 1 (0 for the first node, which has none); category of the node; then for each closure its
    length and the category of its edge plus 1, 0 and 0 for none. The methods `role` to `edges` are
    all that needs to be known of this layout elsewhere.

    Args:
        back: The path steps back 0 to back - 1 levels.
        closures: Longest closure, for each possible closure of a node.
        node_categories: Number of node categories.
        bond_categories: Number of edge categories.
    """

    def __init__(
        self, back: int, closures: list[int], *, node_categories: int, bond_categories: int
    ):
        self.entries = 1 + len(closures)
        self.cardinalities = [back, bond_categories + 1, node_categories]
        for length in closures:
            self.cardinalities += [length + 1, bond_categories + 1]

    COMMON = 4
    """Variables that are no function of others at any node: up to the length of a closure."""

    @staticmethod
    def role(k: int) -> str:
        """Return the meaning of variable k: "back", "edge", "node" or "length"."""
        return ("back", "edge", "node")[k] if k < 3 else ("edge", "length")[k % 2]

    @staticmethod
    def edge_number(k: int) -> int:
        """Return the number of the edge of variable k: 0 for the parent's, then the closures'."""
        return 0 if k < 3 else (k - 1) // 2

    @staticmethod
    def needed(k: int) -> int | None:
        """Return the variable without which (where it is 0) variable k is 0; None for none.

        A closure's edge needs its length, a further closure the one before.
        """
        return None if k < AtomCode.COMMON else k - (1 if AtomCode.role(k) == "edge" else 2)

    @staticmethod
    def back(x: Tensor) -> Tensor:
        """Return the levels stepped back, (...) long, of categories x (..., V)."""
        return x[..., 0]

    @staticmethod
    def node(x: Tensor) -> Tensor:
        """Return the node categories, (...) long, of categories x (..., V)."""
        return x[..., 2]

    @staticmethod
    def lengths(x: Tensor) -> Tensor:
        """Return the lengths of all edges, 1 for the parent's, (..., E) long, of x (..., V)."""
        return torch.cat([torch.ones_like(x[..., :1]), x[..., 3::2]], -1)

    @staticmethod
    def edges(x: Tensor) -> Tensor:
        """Return the edge categories plus 1, 0 for none, (..., E) long, of x (..., V)."""
        return torch.cat([x[..., 1:2], x[..., 4::2]], -1)

    @property
    def longest(self) -> list[int]:
        """Largest step back, and largest length of each closure: limits of `PathCode.codes`."""
        return [self.cardinalities[0] - 1, *(c - 1 for c in self.cardinalities[3::2])]

    @property
    def kinds(self) -> list[str]:
        """For each variable, which of `KINDS` it is."""
        of_role = {"back": "adjacency", "length": "adjacency", "edge": "bonds", "node": "nodes"}
        return [of_role[self.role(k)] for k in range(len(self.cardinalities))]

    @staticmethod
    def measure(graphs: PackedGraphs) -> dict:
        """Return the arguments `back` and `closures` that a set of graphs needs."""
        later = np.repeat(graphs.node_starts[:-1], graphs.edge_counts) + graphs.edges.max(1)
        most = int(np.bincount(later).max(initial=1))
        largest = torch.zeros(most, dtype=torch.long)
        for k in range(0, len(graphs), 1024):
            batch = GraphBatch.collate(graphs, range(k, min(k + 1024, len(graphs))))
            codes = PathCode.of(batch.adjacency, batch.mask, most).codes
            largest = largest.maximum(codes.amax((0, 1)))
        back, *closures = largest.tolist()
        return {"back": back + 1, "closures": closures}

    def encode(self, batch: GraphBatch) -> Tensor:
        """Categories (B, N, V) of graphs, 0 at padding.

        Raises:
            ValueError: as `PathCode.of`, or if a step back or a closure is longer than the code
                has.
        """
        path = PathCode.of(batch.adjacency, batch.mask, self.entries)
        if (path.codes > path.codes.new_tensor(self.longest)).any():
            raise ValueError("a graph has a longer step back or closure than the model knows")
        edges = batch.bonds.gather(2, path.targets.clamp(min=0))
        edges = torch.where(path.targets < 0, 0, edges)
        closures = torch.stack([path.codes[..., 1:], edges[..., 1:]], -1).flatten(-2)
        first = torch.stack([path.codes[..., 0], edges[..., 0], batch.node_types], -1)
        return torch.cat([first, closures], -1)

    def knows(self, batch: GraphBatch) -> Tensor:
        """Return whether `encode` takes a depth-first numbered graph, (B,) bool."""
        if not len(batch):
            return batch.mask.new_zeros(0)
        most = int(batch.adjacency.tril(-1).sum(-1).max())
        codes = PathCode.of(batch.adjacency, batch.mask, max(most, self.entries)).codes
        limits = codes.new_zeros(codes.shape[-1])
        limits[: self.entries] = limits.new_tensor(self.longest)
        return (codes <= limits).flatten(1).all(1) & batch.mask.any(1)

    def decode(self, x: Tensor, mask: Tensor) -> GraphBatch:
        """Graphs (B, N) of possible categories x (B, N, V)."""
        batch, nodes, _ = x.shape
        device = x.device
        rows = torch.arange(batch, device=device)
        path = torch.zeros(batch, nodes + 1, dtype=torch.long, device=device)
        bonds = torch.zeros(batch, nodes, nodes, dtype=torch.long, device=device)
        x = torch.where(mask[..., None], x, 0)
        depth = torch.zeros_like(rows)
        back, lengths, edges = self.back(x), self.lengths(x), self.edges(x)
        for i in range(1, nodes):
            depth = (depth - back[:, i]).clamp(min=0) + 1
            path[rows, depth] = i
            for length, edge in zip(lengths[:, i].unbind(-1), edges[:, i].unbind(-1), strict=True):
                far = path[rows, (depth - length).clamp(min=0)]
                # Where there is no closure, the node itself is meant, and its edge is 0.
                bonds[rows, i, far] = torch.where(length > 0, edge, bonds[rows, i, far])
        return GraphBatch(self.node(x), bonds + bonds.transpose(1, 2), mask)
