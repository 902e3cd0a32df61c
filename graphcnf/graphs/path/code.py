"""Code of a depth-first numbered graph: a few categories for each node.

In a depth-first numbering, the earlier neighbours of a node all lie on the path from the first node
to it. The connectivity of a node is therefore given by the number of levels that the path steps
back from the previous node to the parent (0: the previous node is the parent), and by the lengths
of its other edges to nodes on the path, the closures: a ring of s nodes has a closure of length
s - 1, whatever branches its nodes carry.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from graphcnf.graphs.batch import GraphBatch, PackedGraphs


def depth_first_code(adjacency: Tensor, mask: Tensor, entries: int) -> tuple[Tensor, Tensor]:
    """Return step back and closures of every node, and the neighbour at the end of each edge.

    Both are (B, N, K) long, for up to K = `entries` earlier neighbours. The first tensor has the
    number of levels stepped back, then the lengths of the closures in increasing order; 0 for no
    closure, for the first node and at padding. The second has the parent, then the neighbours at
    the ends of the closures; -1 for none. Raises ValueError if a graph is not connected or not
    numbered depth-first, or a node has more than K earlier neighbours.
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
    for _ in range(nodes.bit_length()):  # Pointer doubling: 1, 2, 4, ... levels up.
        up, real = above.clamp(min=0), above >= 0
        depth = depth + torch.where(real, depth.gather(1, up), 0)
        above = torch.where(real, above.gather(1, up), -1)
    # In a depth-first numbering, the path consists of the last node so far at every depth.
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
    """One-to-one map from connected depth-first numbered graphs to V categories per node.

    The variables of a node are, in this order: the levels stepped back, 0 to `back` - 1; the
    category of the edge to the parent plus 1 (0 for the first node, which has no parent); the
    category of the node; and for each entry of `closures`, the largest length of that closure, the
    length of the closure and the category of its edge plus 1 (0 and 0 for no closure). Not every
    combination of values is the code of a graph; `Support` rules out the others.
    """

    COMMON = 4  # variables that are decided for every node: up to the length of the first closure

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
        """Return the edge that variable k describes: 0 for the parent's, 1, 2, ... for closures."""
        return 0 if k < 3 else (k - 1) // 2

    @staticmethod
    def lengths(x: Tensor) -> Tensor:
        """Return the lengths (..., E) of the edges of nodes x (..., V); 1 for the parent's."""
        return torch.cat([torch.ones_like(x[..., :1]), x[..., 3::2]], -1)

    @staticmethod
    def edges(x: Tensor) -> Tensor:
        """Return the edge categories plus 1 (..., E) of nodes x (..., V); 0 for no edge."""
        return torch.cat([x[..., 1:2], x[..., 4::2]], -1)

    @staticmethod
    def measure(graphs: PackedGraphs) -> dict:
        """Return the smallest arguments `back` and `closures` that fit a set of graphs."""
        later = np.repeat(graphs.node_starts[:-1], graphs.edge_counts) + graphs.edges.max(1)
        most = int(np.bincount(later).max(initial=1))
        largest = torch.zeros(most, dtype=torch.long)
        for batch in GraphBatch.chunks(graphs):
            codes, _ = depth_first_code(batch.adjacency, batch.mask, most)
            largest = largest.maximum(codes.amax((0, 1)))
        back, *closures = largest.tolist()
        return {"back": back + 1, "closures": closures}

    def encode(self, batch: GraphBatch) -> Tensor:
        """Encode graphs to categories (B, N, V), 0 at padding; ValueError if a graph has none."""
        codes, targets = depth_first_code(batch.adjacency, batch.mask, self.entries)
        if (codes > codes.new_tensor(self.longest)).any():
            raise ValueError("a graph has a longer step back or closure than the model knows")
        edges = torch.where(targets < 0, 0, batch.bonds.gather(2, targets.clamp(min=0)))
        closures = torch.stack([codes[..., 1:], edges[..., 1:]], -1).flatten(-2)
        first = torch.stack([codes[..., 0], edges[..., 0], batch.node_types], -1)
        return torch.cat([first, closures], -1)

    def knows(self, batch: GraphBatch) -> Tensor:
        """Return True for depth-first numbered graphs that `encode` accepts, (B,) bool."""
        if not len(batch):
            return batch.mask.new_zeros(0)
        most = max(int(batch.adjacency.tril(-1).sum(-1).max()), self.entries)
        codes, _ = depth_first_code(batch.adjacency, batch.mask, most)
        limits = codes.new_tensor(self.longest + [0] * (most - self.entries))
        return (codes <= limits).flatten(1).all(1) & batch.mask.any(1)

    def decode(self, x: Tensor, mask: Tensor) -> GraphBatch:
        """Decode categories x (B, N, V), which must be codes of graphs."""
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
                # Without a closure, `far` is node i itself, and its entry stays 0.
                bonds[rows, i, far] = torch.where(length > 0, edge, bonds[rows, i, far])
        return GraphBatch(x[..., 2], bonds + bonds.transpose(1, 2), mask)
