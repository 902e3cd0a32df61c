"""A node of a depth-first numbered graph as a few categories.

In a depth-first numbering the neighbours that a node has among the earlier nodes all lie on the
path from the first node to it. A node's connectivity is therefore how many levels the path steps
back before it continues with this node (0: child of the node before), and the lengths of the edges
that lead from the node further up the path (a ring of size s is closed by length s - 1, whatever
branches its nodes carry).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from graphcnf.graphs.batch import GraphBatch, PackedGraphs


def depth_first_code(adjacency: Tensor, mask: Tensor, entries: int) -> tuple[Tensor, Tensor]:
    """Return the code of depth-first numbered graphs, and the neighbour that each entry stands for.

    Both are (B, N, K) long, for up to K = `entries` earlier neighbours of a node. The code of a
    node is the number of levels stepped back, then the lengths of its closures, increasing; 0 for
    none, and for the first node and padding. Neighbours are -1 for none. Raises ValueError for a
    graph that is not connected, not numbered depth-first, or has a node with more earlier
    neighbours.
    """
    batch, nodes = mask.shape
    number = torch.arange(nodes, device=mask.device)
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
    level = F.pad(level, (0, max(entries - nodes, 0)), value=nodes + 1)
    lengths, targets = level.topk(entries, dim=-1, largest=False)
    absent = lengths > nodes
    codes = torch.where(absent, 0, lengths)
    codes[..., 0] = torch.cat([depth[:, :1], depth[:, :-1]], 1) - depth + 1
    codes[:, :1] = 0
    keep = mask[..., None]
    return torch.where(keep, codes, 0), torch.where(absent | ~keep, -1, targets)


class AtomCode:
    """One-to-one map of connected depth-first numbered graphs to V categories per node.

    The variables of a node, in this order: levels stepped back, from 0 to `back` - 1; category of
    the edge to the parent plus 1 (0 for the first node, which has none); category of the node; then
    for each closure its length, up to that in `closures`, and the category of its edge plus 1, 0
    and 0 for none. Not every combination is the code of a graph; `Support` knows which are.
    """

    COMMON = 4  # variables that all nodes have: up to the length of a closure

    def __init__(
        self, back: int, closures: list[int], *, node_categories: int, bond_categories: int
    ):
        self.entries = 1 + len(closures)
        self.longest = [back - 1, *closures]
        self.cardinalities = [back, bond_categories + 1, node_categories]
        for length in closures:
            self.cardinalities += [length + 1, bond_categories + 1]

    @staticmethod
    def role(k: int) -> str:
        """Return the meaning of variable k: "back", "edge", "node" or "length"."""
        return ("back", "edge", "node")[k] if k < 3 else ("edge", "length")[k % 2]

    @staticmethod
    def edge_number(k: int) -> int:
        """Return the number of the edge of variable k: 0 for the parent's, then the closures'."""
        return 0 if k < 3 else (k - 1) // 2

    @staticmethod
    def lengths(x: Tensor) -> Tensor:
        """Return the lengths of all edges, 1 for the parent's, (..., E) long, of x (..., V)."""
        return torch.cat([torch.ones_like(x[..., :1]), x[..., 3::2]], -1)

    @staticmethod
    def edges(x: Tensor) -> Tensor:
        """Return the edge categories plus 1, 0 for none, (..., E) long, of x (..., V)."""
        return torch.cat([x[..., 1:2], x[..., 4::2]], -1)

    @staticmethod
    def measure(graphs: PackedGraphs) -> dict:
        """Return the arguments `back` and `closures` that a set of graphs needs."""
        later = np.repeat(graphs.node_starts[:-1], graphs.edge_counts) + graphs.edges.max(1)
        most = int(np.bincount(later).max(initial=1))
        largest = torch.zeros(most, dtype=torch.long)
        for batch in GraphBatch.chunks(graphs):
            codes, _ = depth_first_code(batch.adjacency, batch.mask, most)
            largest = largest.maximum(codes.amax((0, 1)))
        back, *closures = largest.tolist()
        return {"back": back + 1, "closures": closures}

    def encode(self, batch: GraphBatch) -> Tensor:
        """Return categories (B, N, V) of graphs, 0 at padding; ValueError where there are none."""
        codes, targets = depth_first_code(batch.adjacency, batch.mask, self.entries)
        if (codes > codes.new_tensor(self.longest)).any():
            raise ValueError("a graph has a longer step back or closure than the model knows")
        edges = torch.where(targets < 0, 0, batch.bonds.gather(2, targets.clamp(min=0)))
        closures = torch.stack([codes[..., 1:], edges[..., 1:]], -1).flatten(-2)
        first = torch.stack([codes[..., 0], edges[..., 0], batch.node_types], -1)
        return torch.cat([first, closures], -1)

    def knows(self, batch: GraphBatch) -> Tensor:
        """Return which depth-first numbered graphs `encode` takes, (B,) bool."""
        if not len(batch):
            return batch.mask.new_zeros(0)
        most = max(int(batch.adjacency.tril(-1).sum(-1).max()), self.entries)
        codes, _ = depth_first_code(batch.adjacency, batch.mask, most)
        limits = codes.new_tensor(self.longest + [0] * (most - self.entries))
        return (codes <= limits).flatten(1).all(1) & batch.mask.any(1)

    def decode(self, x: Tensor, mask: Tensor) -> GraphBatch:
        """Return the graphs (B, N) of possible categories x (B, N, V)."""
        batch, nodes, _ = x.shape
        rows = torch.arange(batch, device=x.device)
        path = torch.zeros(batch, nodes + 1, dtype=torch.long, device=x.device)
        bonds = path.new_zeros(batch, nodes, nodes)
        x = torch.where(mask[..., None], x, 0)
        depth = torch.zeros_like(rows)
        lengths, edges = self.lengths(x), self.edges(x)
        for i in range(1, nodes):
            depth = (depth - x[:, i, 0]).clamp(min=0) + 1
            path[rows, depth] = i
            for length, edge in zip(lengths[:, i].unbind(-1), edges[:, i].unbind(-1), strict=True):
                far = path[rows, (depth - length).clamp(min=0)]
                # Where there is no closure, the node itself is meant, and its edge is 0.
                bonds[rows, i, far] = torch.where(length > 0, edge, bonds[rows, i, far])
        return GraphBatch(x[..., 2], bonds + bonds.transpose(1, 2), mask)
