"""Paths of partly drawn graphs, and what is known of each node on them.

The words path, level, label and state are those of `graphcnf.graphs.path`, which has an example.
Each label has a *weight*.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from graphcnf.graphs.path.depth_first import DepthFirstCode
from graphcnf.graphs.path.node_states import NodeStates, packed_neighbour

# What a network sees of a path: its last levels, and the first neighbours of the node at a level.
SEEN_LEVELS = 16
SEEN_NEIGHBOURS = 5


class Levels(NamedTuple):
    """What is known of nodes on paths: one long tensor for each fact, all of the same shape.

    An entry of the tensors stands for the node at one level of one path; in the shape (R, W), rows
    are paths and columns are levels.

    Attributes:
        held_at: Position of the network's attention that holds the node: its number in the graph
            plus 1. 0 where there is no node.
        category: Category of the node.
        weight: Sum of the weights of its edges so far.
        degree: Number of its edges so far.
        on_ring: 1 if the edge to its parent, the node before it on the path, lies on a ring; else
            0.
        state: Number that says which edges the node has so far: an index of the tables of
            `NodeStates`.
    """

    held_at: Tensor
    category: Tensor
    weight: Tensor
    degree: Tensor
    on_ring: Tensor
    state: Tensor


@dataclass
class Path:
    """Depth-first paths of R partly drawn graphs.

    What is known of the nodes is kept in tables with a row of W columns for each path. The columns
    of one path, here with `pad` = 3 and its last node at level 2 (`depth`):

        column    0    1    2    3    4    5    6    ...  W - 1
        level               -1   0    1    2
        holds     0    0    0    the path       leftovers

    The zeros mean "no node": what leads beyond the first node, such as an impossible backtrack,
    reads them. Leftovers are of nodes that have left the path. Nodes at different levels of many
    paths are read or changed at once, indexed by their rows and columns.

    Attributes:
        depth: Level of the last node, (R,) long; -1 before the first one.
        table: `Levels` of all columns, one of its fields after the other, (6, R, W) long.
        neighbours: First 5 neighbours (`SEEN_NEIGHBOURS`) of the node at each level, in the order
            in which their edges came, (R, W, 6) long: a number for each, as `packed_neighbour`
            makes it; 0 for none. All later ones overwrite the last entry, which is never read.
        pad: Number of columns before that of the first node, see `Support.pad`.
    """

    depth: Tensor
    table: Tensor
    neighbours: Tensor
    pad: int

    @classmethod
    def start(cls, rows: int, nodes: int, pad: int, device: torch.device | None = None) -> Path:
        """Return empty paths, to which `add` appends nodes."""
        depth = torch.full((rows,), -1, device=device)
        table = depth.new_zeros(len(Levels._fields), rows, pad + nodes + 1)
        return cls(depth, table, depth.new_zeros(*table.shape[1:], SEEN_NEIGHBOURS + 1), pad)

    @property
    def levels(self) -> Levels:
        """What is known of the nodes in all W columns of R paths: views (R, W) of `table`.

        What is written into the views is thus written into `table`.
        """
        return Levels(*self.table.unbind())

    def select(self, rows: Tensor) -> Path:
        """Return copies of some of the paths."""
        return Path(self.depth[rows], self.table[:, rows], self.neighbours[rows], self.pad)

    def last_levels(self, rows: int) -> tuple[Levels, Tensor]:
        """Return what the network sees of paths: the nodes at their last 16 levels (`SEEN_LEVELS`).

        Returns:
            Two values: what is known of these nodes, the deepest level first, (rows, 16) each; and
            the first 5 neighbours of each (`SEEN_NEIGHBOURS`), (rows, 16, 5) long, as in the
            attribute `neighbours`. Where a path is shorter, all is 0, which says "no node".
        """
        row = torch.arange(rows, device=self.depth.device)[:, None]
        up = torch.arange(SEEN_LEVELS, device=row.device)
        column = self.depth[:rows, None] + self.pad - up
        levels = Levels(*self.table[:, row, column].unbind())
        return levels, self.neighbours[row, column][..., :SEEN_NEIGHBOURS]

    def add(self, number: int, x: Tensor, states: NodeStates) -> None:
        """Append a node to each of the first R paths, in place, with its edges to earlier nodes."""
        # The clamp only matters for impossible values, which backtrack beyond the first node.
        back = DepthFirstCode.backtracks(x)
        parent = (self.depth[: len(x)] - back).clamp(min=0 if number else -1)
        self.depth[: len(x)] = parent + 1
        row = torch.arange(len(x), device=x.device)
        column = parent + 1 + self.pad
        self._place(row, column, number, DepthFirstCode.categories(x), states)
        labels = DepthFirstCode.labels(x)
        lengths = DepthFirstCode.lengths(x)
        for k in range(labels.shape[1]):
            row = labels[:, k].nonzero()[:, 0]
            if not len(row):
                continue
            length = lengths[row, k]
            self._join(row, column[row], length, labels[row, k], states)
            if k:
                self._mark_ring(row, column[row], length)

    def _place(
        self, row: Tensor, column: Tensor, number: int, category: Tensor, states: NodeStates
    ) -> None:
        """Put a node without edges at the end of each of R paths."""
        zero = torch.zeros_like(category)
        node = Levels(
            held_at=zero + number + 1,
            category=category,
            weight=zero,
            degree=zero,
            on_ring=zero,
            state=states.first[category],
        )
        self.table[:, row, column] = torch.stack(node)
        self.neighbours[row, column] = 0

    def _join(
        self, row: Tensor, column: Tensor, length: Tensor, label: Tensor, states: NodeStates
    ) -> None:
        """Add one edge to an earlier node to each of K new nodes."""
        levels = self.levels
        # Each end of the edge gets the other one as a neighbour. No node is twice in `node`, since
        # each graph gets at most one edge here: else it could not be assigned.
        node = row.repeat(2), torch.cat([column, column - length])
        other = levels.category[node].roll(len(row))  # the new nodes and the earlier ones swapped
        label = label.repeat(2)
        slot = levels.degree[node].clamp(max=SEEN_NEIGHBOURS)
        self.neighbours[(*node, slot)] = packed_neighbour(label, other)
        levels.state[node] = states.after[levels.state[node], label, other]
        levels.weight[node] += states.weights[label]
        levels.degree[node] += 1

    def _mark_ring(self, row: Tensor, column: Tensor, length: Tensor) -> None:
        """Mark the edges that closures put on rings: those to the parents of all nodes but one."""
        up = torch.arange(int(length.max()), device=length.device)
        ring = column[:, None] - up.minimum(length[:, None] - 1)
        self.levels.on_ring[row[:, None], ring] = 1

    @classmethod
    def before_each(cls, x: Tensor, states: NodeStates, pad: int) -> Path:
        """Return the paths before each node of known graphs, for scoring all nodes at once.

        Path b * N + i is the one before node i of graph b.
        """
        batch, nodes, _ = x.shape
        path = cls.start(batch, nodes, pad, x.device)
        depth = path.depth.new_empty(batch, nodes)
        table = depth.new_empty(len(path.table), batch, nodes, path.table.shape[-1])
        neighbours = depth.new_empty(batch, nodes, *path.neighbours.shape[1:])
        for number in range(nodes):
            depth[:, number] = path.depth
            table[:, :, number] = path.table
            neighbours[:, number] = path.neighbours
            path.add(number, x[:, number], states)
        return cls(depth.flatten(), table.flatten(1, 2), neighbours.flatten(0, 1), pad)
