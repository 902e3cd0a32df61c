"""Which values of a node's variables are possible, given the path before it.

Graphs are numbered depth-first, and node i is encoded as V categories by `DepthFirstCode`: its
backtrack, the edge to its parent, its own category, and the lengths and edges of its closures.

- The *path* of a partly drawn graph is the nodes from the first one to the last one that was added.
  The *level* of a node on it is its distance from the first node, in edges.
- A *closure* is an edge from the new node to a node on the path that is not its parent. Its length
  is the difference of their levels.
- The *weight* of an edge belongs to its category.
- The *free degree* of a node is by how much the sum of the weights of its edges may still grow,
  up to the largest sum that its category has in the training data.

`Path` holds the paths of a batch of graphs and what is known of each node on them, `FreeDegree`
the free degree around the nodes that come next, and `Support` says which of their values fit.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.errors import UserError
from graphcnf.graphs.batch import PackedGraphs
from graphcnf.graphs.path.depth_first import DepthFirstCode

# A network sees the last `LEVELS` levels of a path. Of the node at a level it tells apart `SUMS`
# sums of edge weights and `DEGREES` degrees, and it sees the first `NEIGHBOURS` neighbours.
LEVELS, SUMS, DEGREES, NEIGHBOURS = 16, 12, 6, 5
# A neighbour is one number: (edge category + 1) * CATEGORIES + node category. There are at most 256
# node categories, see `PackedGraphs`.
CATEGORIES = 256
# Of the hash of a sequence of numbers: a prime multiplier, and the Mersenne prime 2**31 - 1, whose
# products with the multiplier fit into 64 bits.
HASH_MULTIPLIER, HASH_MODULUS = 1_000_003, 2_147_483_647
# Rows of `Path.tables`.
NODE, CATEGORY, WEIGHT, DEGREE, RING = range(5)


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
        tables: What is known of the node at each level, (5, R, W) long: its number in the graph
            plus 1 (0 for no node), its category, the sum of the weights of its edges so far, the
            number of its edges so far, and 1 if the edge to its parent lies on a ring. The first
            axis is indexed by `NODE`, `CATEGORY`, `WEIGHT`, `DEGREE` and `RING`.
        around: Neighbours so far of the node at each level, in the order in which their edges came,
            (R, W, NEIGHBOURS + 1) long: (edge category + 1) * `CATEGORIES` + node category, 0 for
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
        tables = depth.new_zeros(5, rows, pad + nodes + 1)
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

    def add(self, number: int, x: Tensor, weights: Tensor) -> Tensor:
        """Append a node to each of the first R paths, in place.

        Args:
            number: Number of the node in its graph, the same in all R graphs.
            x: Its variables, (R, V) long.
            weights: `Support.weights`, the edge weights by category plus 1.

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
        tables[:, position] = torch.stack([zero + number + 1, category, zero, zero, zero])
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
            around[node, slot] = edge * CATEGORIES + tables[CATEGORY, neighbour]
            tables[WEIGHT].index_add_(0, node, weights[edge])
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
    def before_each(cls, x: Tensor, weights: Tensor, pad: int) -> Path:
        """Return the paths before each node of complete graphs, for scoring all nodes at once.

        Args:
            x: Variables of the nodes of B graphs of up to N nodes, (B, N, V) long.
            weights: `Support.weights`, the edge weights by category plus 1.
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
            path.add(number, x[:, number], weights)
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
        tables: Entries of `Path.tables`, (5, ...) long.

    Returns:
        Level codes, (...) long: 0 for no node, else 1 plus the number of the combination of node
        category, sum of edge weights (below `SUMS`), degree (below `DEGREES`) and whether the
        node's edge to its parent lies on a ring.
    """
    node, category, weight, degree, ring = tables
    code = category * SUMS + weight.clamp(max=SUMS - 1)
    code = (code * DEGREES + degree.clamp(max=DEGREES - 1)) * 2 + ring + 1
    return torch.where(node > 0, code, 0)


# Times the largest edge weight, a sum that no node reaches, since graphs have at most 255 nodes. It
# stands in place of a limit where there is none.
UNLIMITED = 260


def limit_note(rules: bool) -> str:
    """Return a footnote for tables of samples: whether sums of edge weights were limited.

    Args:
        rules: True if they were, by `largest_sums` of `Support`.
    """
    if rules:
        return "support of the data: on; sums of edge weights are at most those in the data."
    return "support of the data: off."


@dataclass
class FreeDegree:
    """Free degree around M new nodes while their variables are decided one after the other.

    Attributes:
        free: Free degree of the node at each level of the path, (M, W) long; `Support.pad` columns
            of 0 come first.
        within: For each level, the sum of `free` over the possible parents of the node after the
            new one, if the parent of the new one is at this level and gets no edge: the level
            itself and the `reach` - 1 levels above it, (M, W) long.
        depth: Level of the previous node, (M,) long; -1 before the first one.
        last: True for the last node of a graph, (M,) bool: no node after it needs a parent.
        own: Free degree of the new node, (M,) long; arbitrary before its category is decided.
        rest: Free degree of all possible parents of the node after it, the new node included,
            (M,) long; arbitrary before its category is decided.
        x: The variables that are decided, in the order of `DepthFirstCode`, (M,) long each.
    """

    free: Tensor
    within: Tensor
    depth: Tensor
    last: Tensor
    own: Tensor
    rest: Tensor
    x: tuple[Tensor, ...] = ()

    def __getitem__(self, rows: Tensor) -> FreeDegree:
        """Return the free degree around K of the M nodes; `rows` are their indices, (K,) long."""
        names = [f.name for f in fields(self) if f.name != "x"]
        some = {name: getattr(self, name)[rows] for name in names}
        return FreeDegree(**some, x=tuple(value[rows] for value in self.x))


class Support(nn.Module):
    """Support of the density: which values of a node's variables are possible.

    Impossible values have probability 0, and the probabilities of the others sum to one. Two kinds
    of values are impossible:

    - what is not part of the code of any graph: a backtrack or closure beyond the first node,
      closure lengths that do not increase, a category for an edge that does not exist;
    - with `largest_sums`, an edge that exceeds the free degree of one of its ends, and what would
      leave no free degree to any possible parent of the next node. The second rule keeps drawing
      out of dead ends, and does not apply to the last node.

    Args:
        code: The variables of a node.
        edge_weights: Weight of each edge category, whole numbers; the smallest is 1.
        largest_sums: Limit on the sum of edge weights for each node category; None for no limit.

    Attributes:
        weights: Edge weight by category plus 1, 0 for no edge, (edge categories + 1,) long.
        sums: Largest sum of edge weights of each node category, (node categories,) long.
        reach: Largest backtrack.
        branches: 1 if the next node can have the same parent as the new one, 0 if paths never
            backtrack.
        most: The largest of `sums`.
        pad: Number of columns of zeros in `Path.tables`, enough for every backtrack and closure.
        fitting_edges: Possible edges by the largest weight that fits, (most + 2, edge categories +
            1) bool; in the last row only "no edge", as for the parent of a first node.
        fitting_nodes: Possible node categories by the sum that they must allow at least, (most + 2,
            node categories) bool.
        fitting_lengths: Possible closure lengths by `FreeDegree.rest` up to 3, (4, longest + 1)
            bool.

    Raises:
        UserError: if the arguments do not fit the code, or allow no graph of three nodes.
    """

    weights: Tensor
    sums: Tensor
    fitting_edges: Tensor
    fitting_nodes: Tensor
    fitting_lengths: Tensor

    def __init__(
        self, code: DepthFirstCode, edge_weights: list[int], largest_sums: list[int] | None
    ):
        super().__init__()
        _, edges, categories = code.cardinalities[:3]
        if len(edge_weights) != edges - 1 or min(edge_weights) != 1:
            raise UserError(
                f"edge_weights must be {edges - 1} whole numbers, the smallest of them 1, "
                f"got {edge_weights}"
            )
        if largest_sums is not None and (len(largest_sums) != categories or max(largest_sums) < 2):
            raise UserError(
                f"largest_sums must be {categories} whole numbers, one of them 2 or more, "
                f"got {largest_sums}"
            )
        self.reach = code.cardinalities[0] - 1
        self.branches = min(self.reach, 1)
        self.cardinalities = code.cardinalities
        self.limited = largest_sums is not None
        self.pad = max(LEVELS, *code.longest) + 1
        sums = largest_sums or [UNLIMITED * max(edge_weights)] * categories
        self.most = max(sums)
        weights, limits = torch.tensor([0, *edge_weights]), torch.tensor(sums)
        # A row that fits nothing is looked up only after an impossible value, see `_none_is_all`.
        limit = torch.arange(self.most + 2)[:, None]
        fitting = (weights <= limit) & (weights > 0)
        fitting[-1] = weights == 0
        # A closure takes at least 1 from the new node, and 1 from its far end, which counts if it
        # is a possible parent of the next node. At least 1 must be left, so 3 is always enough.
        length, rest = torch.arange(max(code.longest) + 1), torch.arange(4)[:, None]
        closing = (rest > 1 + (length <= self.reach).long()) & (length >= 2)
        for name, table in (
            ("weights", weights),
            ("sums", limits),
            ("fitting_edges", _none_is_all(fitting)),
            ("fitting_nodes", _none_is_all(limits >= limit)),
            ("fitting_lengths", closing | (length == 0)),
        ):
            self.register_buffer(name, table, persistent=False)

    @staticmethod
    def limits(
        graphs: PackedGraphs,
        *,
        node_categories: int,
        edge_categories: int,
        edge_weights: list[int] | None = None,
        support: bool = True,
    ) -> dict[str, list[int] | None]:
        """Measure the limits on sums of edge weights in training graphs.

        Args:
            graphs: The training graphs.
            node_categories: Number of node categories.
            edge_categories: Number of edge categories.
            edge_weights: Weight of each edge category; 1 each if None.
            support: False for no limits.

        Returns:
            Arguments of `Support`: "edge_weights", and "largest_sums", the largest sum of edge
            weights at a node of each category (0 for a category that does not occur), or None.
        """
        weights = [1] * edge_categories if edge_weights is None else list(edge_weights)
        if not support:
            return {"edge_weights": weights, "largest_sums": None}
        weight = np.asarray(weights)[graphs.edge_types]
        first = np.repeat(graphs.node_starts[:-1], graphs.edge_counts)
        sums = np.zeros(len(graphs.node_types), dtype=np.int64)
        for end in graphs.edges.T:
            np.add.at(sums, first + end, weight)
        largest = np.zeros(node_categories, dtype=np.int64)
        np.maximum.at(largest, graphs.node_types, sums)
        return {"edge_weights": weights, "largest_sums": largest.tolist()}

    def free(self, tables: Tensor) -> Tensor:
        """Return the free degree of the nodes at some levels of paths, 0 for no node.

        Args:
            tables: Entries of `Path.tables`, (5, ...) long.

        Returns:
            Free degrees, (...) long.
        """
        free = (self.sums[tables[CATEGORY]] - tables[WEIGHT]).clamp(min=0)
        return torch.where(tables[NODE] > 0, free, 0)

    def free_degree(self, free: Tensor, depth: Tensor, last: Tensor) -> FreeDegree:
        """Return the free degree around M new nodes of which no variable is decided.

        Args:
            free: Free degree of the node at each level of the path, (M, W) long.
            depth: Level of the previous node, (M,) long.
            last: True for the last node of a graph, (M,) bool.
        """
        # A window of `reach` levels: the difference of two cumulative sums.
        above = F.pad(free.cumsum(1), (1, 0))
        within = above[:, 1:] - F.pad(above, (self.reach, 0))[:, 1 : free.shape[1] + 1]
        return FreeDegree(free, within, depth, last, depth, depth)

    def allowed(self, s: FreeDegree) -> Tensor:
        """Return which values of the next variable are possible.

        With w the weight of an edge that is added, `rest` falls by w for each of its ends that is a
        possible parent of the next node; `rest` of at least 1 must be left, except after the last
        node. Where later variables matter, the best case is assumed: edges of weight 1 and the node
        category with the largest sum.

        Args:
            s: The M new nodes, with the variables that are decided.

        Returns:
            (M, C) bool; at least one value in each row is possible.
        """
        k = len(s.x)
        if k == 0:
            return self._backtracks(s)
        if k == 1:
            return self._edges_to_parent(s)
        if k == 2:
            return self._nodes(s)
        return self._lengths(s) if DepthFirstCode.role(k) == "length" else self._closing_edges(s)

    def _parent(self, s: FreeDegree) -> Tensor:
        """Return the columns in `FreeDegree.free` of the parents of M new nodes, (M, 1) long."""
        return (s.depth - s.x[0]).clamp(min=-1)[:, None] + self.pad

    def _backtracks(self, s: FreeDegree) -> Tensor:
        """Return the backtracks of M new nodes to parents with free degree, (M, C) bool."""
        value = torch.arange(self.cardinalities[0], device=s.depth.device)
        # rest = within - branches + most - 1
        enough = s.last[:, None] | (s.within > self.branches + 1 - self.most)
        fits = ((s.free > 0) & enough).gather(1, s.depth[:, None] - value + self.pad)
        fits[:, 0] |= s.depth < 0
        return _none_is_all(fits)

    def _edges_to_parent(self, s: FreeDegree) -> Tensor:
        """Return the labels of the edges of M new nodes to their parents that are possible.

        The weight of the edge must fit into the free degree of the parent, and leave some to a
        possible parent of the next node.

        Returns:
            (M, C) bool, for C labels.
        """
        parent = self._parent(s)
        # rest = left - branches * weight + most - weight
        left = s.within.gather(1, parent)[:, 0]
        limit = torch.where(s.last, self.most, (left + self.most - 1) // (1 + self.branches))
        limit = limit.minimum(s.free.gather(1, parent)[:, 0]).clamp(0, self.most)
        return self.fitting_edges[torch.where(s.depth < 0, self.most + 1, limit)]

    def _nodes(self, s: FreeDegree) -> Tensor:
        """Return the categories of M new nodes whose largest sums are large enough, (M, C) bool."""
        weight = self.weights[s.x[1]]
        # rest = left - branches * weight + sum - weight
        left = s.within.gather(1, self._parent(s).clamp(min=self.pad))[:, 0]
        need = (self.branches * weight - left + 1).clamp(min=0)
        need = weight + torch.where(s.last, 0, need)
        return self.fitting_nodes[need.clamp(max=self.most + 1)]

    def _lengths(self, s: FreeDegree) -> Tensor:
        """Return the lengths of the next closure of M new nodes that are possible, (M, C) bool.

        Both ends of the closure need free degree; 0, for no closure, is always possible.
        """
        k = len(s.x)
        value = torch.arange(self.cardinalities[k], device=s.depth.device)
        rest = torch.where(s.last, 3, s.rest.clamp(0, 3)) * (s.own > 0)
        fits = self.fitting_lengths[rest, : len(value)]
        far = s.free.gather(1, self._parent(s) + 1 - value)
        fits = fits & ((far > 0) | (value == 0))
        if k < DepthFirstCode.COMMON:
            return fits
        # Lengths increase, and after a length of 0 all are 0.
        previous = s.x[-2][:, None]
        return fits & ((value > previous) & (previous > 0) | (value == 0))

    def _closing_edges(self, s: FreeDegree) -> Tensor:
        """Return the labels of the edge of a closure of M new nodes that are possible, (M, C) bool.

        The weight of the edge must fit into the free degree of both ends; without a closure only
        label 0 is possible.
        """
        length = s.x[-1]
        # The far end is a possible parent of the next node if it is near.
        shared = 1 + (length <= self.reach).long()
        limit = torch.where(s.last, self.most, (s.rest - 1) // shared)
        far = s.free.gather(1, self._parent(s) + 1 - length[:, None])[:, 0]
        limit = limit.minimum(s.own).minimum(far).clamp(0, self.most)
        return self.fitting_edges[torch.where(length > 0, limit, self.most + 1)]

    def add(self, s: FreeDegree, x: Tensor) -> FreeDegree:
        """Return the free degree around M new nodes after one more variable is decided.

        `free` and `within` stay those before the new node: `Path.add` updates the path once all of
        its variables are decided.

        Args:
            s: The M new nodes, with the variables that are decided; it stays as it is.
            x: The next variable of each, (M,) long.
        """
        k, own, rest = len(s.x), s.own, s.rest
        role = DepthFirstCode.role(k)
        if role == "node":
            weight = self.weights[s.x[1]]
            parent = (s.depth - s.x[0]).clamp(min=0) + self.pad
            own = self.sums[x] - weight
            rest = s.within.gather(1, parent[:, None])[:, 0] - self.branches * weight + own
        elif role == "edge" and k > 1:
            weight = self.weights[x]
            own = own - weight
            rest = rest - weight * (1 + (s.x[-1] <= self.reach).long())
        return replace(s, own=own, rest=rest, x=(*s.x, x))


def _none_is_all(fits: Tensor) -> Tensor:
    """Allow all values in rows (..., C) bool that allow none.

    Such a row is looked up only after an impossible value, as when a graph outside of the support
    is scored. The probability of that graph is 0 already; logits of -inf alone would make it nan.
    """
    return fits | ~fits.any(-1, keepdim=True)
