"""Paths of partly drawn graphs, and what is known of each node on them.

Graphs are numbered depth-first, and node i is encoded as V categories by `DepthFirstCode`: its
backtrack, the edge to its parent, its own category, and the lengths and edges of its closures.

- The *path* of a partly drawn graph is the nodes from the first one to the last one that was added.
  The *level* of a node on it is its distance from the first node, in edges.
- A *closure* is an edge from the new node to a node on the path that is not its parent. Its length
  is the difference of their levels.
- The *label* of an edge is its category plus 1; 0 stands for no edge.
- The *weight* of an edge belongs to its label.
- The *state* of a node says what edges it has so far, as far as this matters for what edges it may
  still get (`NodeStates`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from graphcnf.graphs.path.depth_first import DepthFirstCode
from graphcnf.graphs.path.node_states import CATEGORIES, NodeStates

# A network sees the last `LEVELS` levels of a path. Of the node at a level it tells apart `SUMS`
# sums of edge weights and `DEGREES` degrees, and it sees the first `NEIGHBOURS` neighbours.
LEVELS, SUMS, DEGREES, NEIGHBOURS = 16, 12, 6, 5
# Of the hash of a sequence of numbers: a prime multiplier, and the Mersenne prime 2**31 - 1, whose
# products with the multiplier fit into 64 bits.
HASH_MULTIPLIER, HASH_MODULUS = 1_000_003, 2_147_483_647
# Rows of `Path.tables`.
NODE, CATEGORY, WEIGHT, DEGREE, RING, STATE = range(6)


def hashed(key: Tensor, value: Tensor) -> Tensor:
    """Extend hashed sequences by one number each.

    Args:
        key: Hash of each sequence; 0 for an empty one.
        value: The number to append, of the shape of `key`.

    Returns:
        Hash of each longer sequence, from 0 to `HASH_MODULUS` - 1.
    """
    return (key * HASH_MULTIPLIER + value) % HASH_MODULUS


@dataclass
class Path:
    """Depth-first paths of R partly drawn graphs.

    The tables have W columns, one for each level of a path, after `pad` columns of zeros: a
    backtrack beyond the first node then reads zeros instead of another graph's entries. Columns of
    levels greater than `depth` hold leftovers of nodes that have left the path.

    Attributes:
        depth: Level of the last node, (R,) long; -1 before the first one.
        tables: What is known of the node at each level, (6, R, W) long: its number in the graph
            plus 1 (0 for no node), its category, the sum of the weights of its edges so far, the
            number of its edges so far, 1 if the edge to its parent lies on a ring, and its state,
            see `NodeStates`. The first axis is indexed by `NODE`, `CATEGORY`, `WEIGHT`, `DEGREE`,
            `RING` and `STATE`.
        around: Neighbours so far of the node at each level, in the order in which their edges came,
            (R, W, NEIGHBOURS + 1) long: edge label * `CATEGORIES` + node category, 0 for
            none. All neighbours after the first `NEIGHBOURS` overwrite the last entry, which is
            never read.
        pad: Number of columns before that of the first node.
    """

    depth: Tensor
    tables: Tensor
    around: Tensor
    pad: int

    @classmethod
    def start(cls, rows: int, nodes: int, pad: int, device: torch.device | None = None) -> Path:
        """Return the empty paths of graphs without nodes, of which `add` appends nodes.

        Args:
            rows: Number R of graphs.
            nodes: Largest number of nodes that a graph will have.
            pad: Number of columns before that of the first node.
            device: Device of the tensors.
        """
        depth = torch.full((rows,), -1, device=device)
        tables = depth.new_zeros(6, rows, pad + nodes + 1)
        return cls(depth, tables, depth.new_zeros(*tables.shape[1:], NEIGHBOURS + 1), pad)

    def take(self, rows: Tensor) -> Path:
        """Return copies of some of the paths; `rows` are their indices (K,) long, may repeat."""
        return Path(self.depth[rows], self.tables[:, rows], self.around[rows], self.pad)

    def index(self, level: Tensor) -> Tensor:
        """Convert levels to positions in flattened tables: `row * W + pad + level`.

        Args:
            level: Levels on the first R paths, (R, ...) long.

        Returns:
            Positions in the last axis of `tables.flatten(1)`, and in the first axis of
            `around.flatten(0, 1)`; of the shape of `level`.
        """
        rows = torch.arange(len(level), device=level.device) * self.tables.shape[-1] + self.pad
        return level + rows.reshape(-1, *[1] * (level.dim() - 1))

    def last_levels(self, rows: int) -> Tensor:
        """Return the last `LEVELS` levels of the first `rows` paths, the deepest one first.

        Returns:
            Positions in flattened tables, as `index` returns them, (rows, LEVELS) long.
        """
        up = torch.arange(LEVELS, device=self.depth.device)
        return self.index(self.depth[:rows, None] - up)

    def add(self, number: int, x: Tensor, states: NodeStates) -> Tensor:
        """Append a node to each of the first R paths, in place.

        Args:
            number: Number of the node in its graph, the same in all R graphs.
            x: Its variables, (R, V) long.
            states: The states of nodes, and the weights of edges.

        Returns:
            Positions of the changed entries in flattened tables, as `index` returns them, (K,)
            long; some occur more than once. The caller updates what it has computed from these
            entries.
        """
        # The clamp only matters for impossible values, which backtrack beyond the first node.
        parent = (self.depth[: len(x)] - x[:, 0]).clamp(min=0 if number else -1)
        self.depth[: len(x)] = parent + 1
        position, category = self.index(parent + 1), x[:, 2]
        tables, around = self.tables.flatten(1), self.around.flatten(0, 1)
        zero = torch.zeros_like(category)
        tables[:, position] = torch.stack(
            [zero + number + 1, category, zero, zero, zero, states.first[category]]
        )
        around[position] = 0
        changed = [position]
        edges, lengths = DepthFirstCode.edges(x), DepthFirstCode.lengths(x)
        for k in range(edges.shape[1]):
            rows = edges[:, k].nonzero()[:, 0]
            if not len(rows):
                continue
            new_node, edge, length = position[rows], edges[rows, k], lengths[rows, k]
            earlier = new_node - length
            # Each end of the edge gets the other one as a neighbour.
            node, neighbour = torch.cat([new_node, earlier]), torch.cat([earlier, new_node])
            edge = torch.cat([edge, edge])
            slot = tables[DEGREE, node].clamp(max=NEIGHBOURS)
            other = tables[CATEGORY, neighbour]
            around[node, slot] = edge * CATEGORIES + other
            tables[STATE, node] = states.after[tables[STATE, node], edge, other]
            tables[WEIGHT].index_add_(0, node, states.weights[edge])
            tables[DEGREE].index_add_(0, node, torch.ones_like(node))
            changed.append(earlier)
            if k:
                # The closure puts the edges to their parents of all nodes below `earlier` on a
                # ring.
                up = torch.arange(int(length.max()), device=x.device)
                ring = (new_node[:, None] - up.minimum(length[:, None] - 1)).flatten()
                tables[RING].index_fill_(0, ring, 1)
                changed.append(ring)
        return torch.cat(changed)

    @classmethod
    def before_each(cls, x: Tensor, states: NodeStates, pad: int) -> Path:
        """Return the paths before each node of complete graphs, for scoring all nodes at once.

        Args:
            x: Variables of the nodes of B graphs of up to N nodes, (B, N, V) long.
            states: The states of nodes, and the weights of edges.
            pad: Number of columns before that of the first node.

        Returns:
            B * N paths; row b * N + i is the path before node i of graph b.
        """
        batch, nodes, _ = x.shape
        path = cls.start(batch, nodes, pad, x.device)
        depth = path.depth.new_empty(batch, nodes)
        tables = depth.new_empty(len(path.tables), batch, nodes, path.tables.shape[-1])
        around = depth.new_empty(batch, nodes, *path.around.shape[1:])
        for number in range(nodes):
            depth[:, number], around[:, number] = path.depth, path.around
            tables[:, :, number] = path.tables
            path.add(number, x[:, number], states)
        return cls(depth.flatten(), tables.flatten(1, 2), around.flatten(0, 1), pad)

    def links(self, x: Tensor) -> Tensor:
        """Hash the edges with which new nodes would join the first R paths.

        Two edges have the same hash if their categories, the categories of both ends and the
        neighbours that both ends have before this edge are the same. `Contributions` has a number
        for each hash.

        Args:
            x: Variables of the new nodes, (R, V) long.

        Returns:
            Hashes, (R, E) long: of the edge to the parent, then of each closure; 0 for no edge.
        """
        parent = (self.depth[: len(x)] - x[:, 0]).clamp(min=0)
        new_node, hashes = x[:, 2], []
        edges, lengths = DepthFirstCode.edges(x), DepthFirstCode.lengths(x)
        categories, neighbours = self.tables[CATEGORY].flatten(), self.around.flatten(0, 1)
        for edge, length in zip(edges.unbind(-1), lengths.unbind(-1), strict=True):
            earlier = self.index(parent + 1 - length)
            neighbour = edge * CATEGORIES + categories[earlier]
            around = neighbours[earlier][:, :NEIGHBOURS].sort(-1).values
            key = new_node + 1
            for value in (neighbour, *around.unbind(-1)):
                key = hashed(key, value)
            hashes.append(torch.where(edge > 0, key, 0))
            # The next edge sees this one among the neighbours of the new node.
            new_node = torch.where(edge > 0, hashed(new_node, neighbour), new_node)
        return torch.stack(hashes, -1)


def level_codes(tables: Tensor) -> Tensor:
    """Summarise the node at each level of a path in one number, the input of an embedding.

    Args:
        tables: Entries of `Path.tables`, (6, ...) long.

    Returns:
        Level codes, (...) long: 0 for no node, else 1 plus the number of the combination of node
        category, sum of edge weights (below `SUMS`), degree (below `DEGREES`) and whether the
        node's edge to its parent lies on a ring.
    """
    node, category, weight, degree, ring, _ = tables
    code = category * SUMS + weight.clamp(max=SUMS - 1)
    code = (code * DEGREES + degree.clamp(max=DEGREES - 1)) * 2 + ring + 1
    return torch.where(node > 0, code, 0)
