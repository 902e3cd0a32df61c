"""Which values of a node's variables are possible, given the path before it.

Graphs are numbered depth-first, and node i is encoded as V categories by `DepthFirstCode`: its
backtrack, the edge to its parent, its own category, and the lengths and edges of its closures.

- The *path* of a partly drawn graph is the nodes from the first one to the last one that was added.
  The *level* of a node on it is its distance from the first node, in edges.
- A *closure* is an edge from the new node to a node on the path that is not its parent. Its length
  is the difference of their levels.
- The *weight* of an edge belongs to its category.
- The *state* of a node says what edges it has so far, as far as this matters for what edges it may
  still get (`NodeStates`).

`Path` holds the paths of a batch of graphs and what is known of each node on them, `Surroundings`
what matters for the nodes that come next, and `Support` says which of their values are possible.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.errors import UserError
from graphcnf.graphs.batch import PackedGraphs
from graphcnf.graphs.path.depth_first import DepthFirstCode
from graphcnf.graphs.path.environments import (
    CATEGORIES,
    MOST_EDGES,
    UNKNOWN,
    Environments,
    NodeStates,
    states_of_sums,
    states_without_rules,
)

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

    def add(self, number: int, x: Tensor, support: Support) -> Tensor:
        """Append a node to each of the first R paths, in place.

        Args:
            number: Number of the node in its graph, the same in all R graphs.
            x: Its variables, (R, V) long.
            support: Its edge weights, and states of nodes.

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
            [zero + number + 1, category, zero, zero, zero, support.first[category]]
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
            tables[STATE, node] = support.after[tables[STATE, node], edge, other]
            tables[WEIGHT].index_add_(0, node, support.weights[edge])
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
    def before_each(cls, x: Tensor, support: Support) -> Path:
        """Return the paths before each node of complete graphs, for scoring all nodes at once.

        Args:
            x: Variables of the nodes of B graphs of up to N nodes, (B, N, V) long.
            support: Its edge weights, and states of nodes.

        Returns:
            B * N paths; row b * N + i is the path before node i of graph b.
        """
        batch, nodes, _ = x.shape
        path = cls.start(batch, nodes, support.pad, x.device)
        depth = path.depth.new_empty(batch, nodes)
        tables = depth.new_empty(len(path.tables), batch, nodes, path.tables.shape[-1])
        around = depth.new_empty(batch, nodes, *path.around.shape[1:])
        for number in range(nodes):
            depth[:, number], around[:, number] = path.depth, path.around
            tables[:, :, number] = path.tables
            path.add(number, x[:, number], support)
        return cls(depth.flatten(), tables.flatten(1, 2), around.flatten(0, 1), support.pad)

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


IMPOSSIBLE = 1 << 20
"""Entry of `Support.cost` where there is no such value."""
MOST_KINDS = 62  # bits of an integer
ENDLESS = 1000
"""Entry of `Support.room` for a node that any number of nodes can follow."""
NEEDS = (0, 1, 2, 3, 4, ENDLESS)
"""Nodes to come for which the new node and its parent must have room: cases of `Support.cost`."""
LAST = len(NEEDS)
"""Case of `Support.cost` for the last node of a graph."""


@dataclass
class Surroundings:
    """What matters for M new nodes while their variables are decided one after the other.

    The *room* of a node is the number of nodes that could follow by way of it, were it the only
    node with free places. *Missing* edges are the least number that it needs for its state to be
    complete. Some of them only nodes without further edges can bring (*ends*), which bring no edge
    to any other node.

    Attributes:
        state: State of the node at each level of the path, (M, W) long; `Support.pad` columns of 0
            come first, and levels beyond the path are 0.
        room: Sum of the rooms of all possible parents of the node after the new one, if the parent
            of the new one is at this level: the level itself and the `reach` - 1 levels above it,
            (M, W) long.
        lowest: Column of the last node on the path with missing edges, (M,) long; -1 for none.
        missing: Least number of ends that all nodes on the path need, (M,) long.
        excess: Largest number of missing edges of a node on the path beyond its ends, (M,) long.
        depth: Level of the previous node, (M,) long; -1 before the first one.
        to_come: Number of nodes of the graph after the new one, (M,) long.
        new: State of the new node, (M,) long; arbitrary before its category is decided.
        others: Sum of the rooms of all possible parents of the node after the new one, without the
            new one, (M,) long; arbitrary before its category is decided.
        x: The variables that are decided, in the order of `DepthFirstCode`, (M,) long each.
    """

    state: Tensor
    room: Tensor
    lowest: Tensor
    missing: Tensor
    excess: Tensor
    depth: Tensor
    to_come: Tensor
    new: Tensor
    others: Tensor
    x: tuple[Tensor, ...] = ()

    def __getitem__(self, rows: Tensor) -> Surroundings:
        """Return the surroundings of K of the M nodes; `rows` are their indices, (K,) long."""
        names = [f.name for f in fields(self) if f.name != "x"]
        some = {name: getattr(self, name)[rows] for name in names}
        return Surroundings(**some, x=tuple(value[rows] for value in self.x))


class Support(nn.Module):
    """Support of the density: which values of a node's variables are possible.

    Impossible values have probability 0, and the probabilities of the others sum to one. Impossible
    is

    - what is not part of the code of any graph: a backtrack or closure beyond the first node,
      closure lengths that do not increase, a category for an edge that does not exist;
    - an edge that one of its ends may not get in its state (`NodeStates`), and what would leave no
      room for the nodes to come;
    - with environments, to leave a node before its state is complete, and what would leave more
      missing edges than further nodes can bring.

    Where nothing else is left, drawing may leave a node incomplete: the last rule gives way.

    Args:
        code: The variables of a node.
        edge_weights: Weight of each edge category, whole numbers; the smallest is 1.
        largest_sums: Limit on the sum of edge weights for each node category; None for no limit.
        environments: Arguments of `Environments`, the known ones of nodes, in place of
            `largest_sums`; None for none.

    Attributes:
        weights: Edge weight by category plus 1, 0 for no edge, (edge categories + 1,) long.
        sums: Largest sum of edge weights of each node category, (node categories,) long.
        limited: True if there are limits on sums, or environments.
        reach: Largest backtrack.
        branches: True if the next node can have the same parent as the new one, False if paths
            never backtrack.
        pad: Number of columns of zeros in `Path.tables`, enough for every backtrack and closure.
        first, after, category: Of `NodeStates`; `after` by edge category plus 1, where 0 leaves the
            state as it is.
        lacks: Number of missing edges in each state, (S,) long.
        needs: Least number of ends among them, (S,) long.
        excess: The difference of both, (S,) long.
        leaf: State of a new node with only the edge to its parent, by state of the parent, edge
            category plus 1 and its own category, (S, E + 1, C) long.
        room: Room of a node in each state, (S,) long; `ENDLESS` without end.
        cost: By how many the ends that a graph needs grow with a new node, by case, state of its
            parent, edge category plus 1, and category of the node, (LAST + 1, S, E + 1, C) long;
            `IMPOSSIBLE` where this is no choice. In the cases of `NEEDS`, the new node and its
            parent must have room for so many nodes; in the case `LAST`, the parent must be
            complete. State 0 as the parent and no edge is for a first node.
        cost_of_edge, cost_of_back: Least of `cost` over categories, (LAST + 1, S, E + 1), and also
            over edges, (LAST + 1, S).
        takes: Edges to a neighbour of category c that a node in state s may get, (S, C) long: one
            bit for each kind of edges, see `kind`.
        keeps_room, completes: Those after which the node has room for the nodes to come, first if
            that is one, then if they are more, (2, S, C) long; and those after which it is
            complete, (S, C) long.
        helps: Those after which it has less excess, and needs no more ends, (S, C) long.
        kind: Bit for each edge category plus 1 in these tables, 0 for no edge, (E + 1,) long.

    Raises:
        UserError: if the arguments do not fit the code, or allow no graph of three nodes.
    """

    weights: Tensor
    sums: Tensor
    first: Tensor
    after: Tensor
    category: Tensor
    lacks: Tensor
    needs: Tensor
    excess: Tensor
    helps: Tensor
    leaf: Tensor
    room: Tensor
    cost: Tensor
    cost_of_edge: Tensor
    cost_of_back: Tensor
    takes: Tensor
    keeps_room: Tensor
    completes: Tensor
    kind: Tensor

    def __init__(
        self,
        code: DepthFirstCode,
        edge_weights: list[int],
        largest_sums: list[int] | None,
        environments: Any = None,
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
        self.branches = self.reach > 0
        self.cardinalities, self.entries = code.cardinalities, code.entries
        self.environments: Environments | None = None
        self.limited = largest_sums is not None or environments is not None
        self.pad = max(LEVELS, *code.longest) + 1
        if environments is not None:
            self.environments = Environments.of(environments, categories, edges - 1)
            states = self.environments.states(edge_weights)
        elif largest_sums is not None:
            states = states_of_sums(largest_sums, edge_weights)
        else:
            states = states_without_rules(categories, edge_weights)
        tables = {"weights": torch.tensor([0, *edge_weights]), "sums": states.sums}
        for name, table in {**tables, **self._tables(states)}.items():
            self.register_buffer(name, table, persistent=False)
        self.completing = bool(self.lacks.any())

    def _tables(self, states: NodeStates) -> dict[str, Tensor]:
        """Return the tables that follow from the states, by the names of the attributes."""
        first, after, complete = states.first, states.after, states.complete
        # State of a new node with only the edge to its parent, by state of the parent.
        leaf = after[first][:, :, states.category].permute(2, 1, 0)
        takes = (after != UNKNOWN) & (leaf != UNKNOWN)
        # A new node that gets no further edge can be no far end of a closure.
        lacks = self._missing(complete, torch.where(takes, 1, IMPOSSIBLE), after)
        alone = (after == UNKNOWN).flatten(1).all(1)[leaf].long()
        needs = self._missing(complete, torch.where(takes, alone, IMPOSSIBLE), after)
        room = self._rooms(takes, after, leaf)
        change = needs[after] - needs[:, None, None] + needs[leaf]
        left = room[leaf] + self.branches * room[after]
        single = torch.where(first != UNKNOWN, needs[first], IMPOSSIBLE)
        costs = [torch.where(takes & (left >= need), change, IMPOSSIBLE) for need in NEEDS]
        costs.append(torch.where(takes & complete[after], lacks[leaf], IMPOSSIBLE))
        cost = F.pad(torch.stack(costs), (0, 0, 1, 0), value=IMPOSSIBLE)
        for case, need in enumerate((*NEEDS, 0)):
            cost[case, UNKNOWN, 0] = torch.where(room[first] >= need, single, IMPOSSIBLE)
        distinct, kind = after.unique(dim=1, return_inverse=True)
        if distinct.shape[1] > MOST_KINDS:
            raise UserError(f"edges are of {distinct.shape[1]} kinds, more than {MOST_KINDS}")
        bit = (1 << torch.arange(distinct.shape[1]))[:, None]
        possible = distinct != UNKNOWN
        bits = {"takes": possible, "completes": possible & complete[distinct]}
        fewer = (lacks - needs)[distinct] < (lacks - needs)[:, None, None]
        bits["helps"] = possible & fewer & (needs[distinct] <= needs[:, None, None])
        bits["keeps_room"] = torch.stack([room[distinct] >= need for need in (1, ENDLESS)])
        itself = torch.arange(len(after))[:, None, None].expand(-1, 1, len(first))
        return {
            "first": first,
            "after": torch.cat([itself, after], 1),
            "category": states.category,
            "lacks": lacks,
            "needs": needs,
            "excess": lacks - needs,
            "leaf": torch.cat([first.expand(len(after), 1, -1), leaf], 1),
            "room": room,
            "cost": cost,
            "cost_of_edge": cost.amin(-1),
            "cost_of_back": cost.amin((2, 3)),
            "kind": F.pad(bit[kind, 0], (1, 0)),
            **{name: (table * bit).sum(-2) for name, table in bits.items()},
        }

    @staticmethod
    def _missing(complete: Tensor, cost: Tensor, after: Tensor) -> Tensor:
        """Return the least cost of further edges that make each state complete, (S,) long.

        Args:
            complete: Which states are complete, (S,) bool.
            cost: Cost of each edge, (S, E, C) long.
            after: State of the node after it, (S, E, C) long.
        """
        least = torch.where(complete, 0, IMPOSSIBLE)
        for _ in range(0 if bool(complete.all()) else MOST_EDGES):
            least = least.minimum((least[after] + cost).amin((1, 2))).clamp(max=IMPOSSIBLE)
        return least

    def _rooms(self, takes: Tensor, after: Tensor, leaf: Tensor) -> Tensor:
        """Return how many nodes can follow by way of a node in each state.

        Args:
            takes: Which edges to new nodes are possible, (S, E, C) bool.
            after: State of the node after each of them, (S, E, C) long.
            leaf: State of the new node, (S, E, C) long.

        Returns:
            (S,) long, `ENDLESS` without end.
        """
        endless, known = takes.any(2).any(1), None
        while known is None or not torch.equal(endless, known):
            known = endless
            goes_on = endless[leaf] | (endless[after] & self.branches)
            endless = endless & (takes & goes_on).flatten(1).any(1)
        room = torch.where(endless, ENDLESS, 0)
        for _ in range(2 * MOST_EDGES):
            more = torch.where(takes, 1 + room[leaf] + room[after] * self.branches, 0)
            room = torch.where(endless, ENDLESS, more.amax((1, 2)))
        return room

    @staticmethod
    def limits(
        graphs: PackedGraphs,
        *,
        node_categories: int,
        edge_categories: int,
        edge_weights: list[int] | None = None,
        support: bool = True,
        **others: Any,
    ) -> dict[str, list[int] | None]:
        """Measure the limits on sums of edge weights in training graphs.

        Args:
            graphs: The training graphs.
            node_categories: Number of node categories.
            edge_categories: Number of edge categories.
            edge_weights: Weight of each edge category; 1 each if None.
            support: False for no limits.
            **others: Options of other rules, which are ignored.

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

    def surroundings(self, state: Tensor, depth: Tensor, to_come: Tensor) -> Surroundings:
        """Return the surroundings of M new nodes of which no variable is decided.

        Args:
            state: State of the node at each level of the path, of `Path.tables`, (M, W) long.
            depth: Level of the previous node, (M,) long.
            to_come: Number of nodes of the graph after the new one, (M,) long.
        """
        column = torch.arange(state.shape[1], device=state.device)
        state = torch.where(column <= depth[:, None] + self.pad, state, UNKNOWN)
        # A window of `reach` levels: the difference of two cumulative sums.
        above = F.pad(self.room[state].cumsum(1), (1, 0))
        within = above[:, 1:] - F.pad(above, (self.reach, 0))[:, 1 : state.shape[1] + 1]
        lowest, missing, excess = depth, torch.zeros_like(depth), torch.zeros_like(depth)
        if self.completing:
            lowest = torch.where(self.lacks[state] > 0, column, -1).amax(1)
            missing, excess = self.needs[state].sum(1), self.excess[state].amax(1)
        return Surroundings(state, within, lowest, missing, excess, depth, to_come, depth, depth)

    def allowed(self, s: Surroundings) -> Tensor:
        """Return which values of the next variable are possible.

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

    def _fitting(
        self,
        s: Surroundings,
        cost: Tensor,
        others: Tensor,
        narrowed: Callable[[Surroundings, Tensor], Tensor],
        fits: Tensor | bool = True,
    ) -> Tensor:
        """Return which values leave no more missing edges than further nodes can bring.

        Where no value does, all that are possible at all are returned.

        Args:
            s: The M new nodes.
            cost: Table of costs by case, (LAST + 1, M, C) long.
            others: Room of other nodes than the new one and its parent, (M, C) or (M, 1) long.
            narrowed: Function of those of the new nodes for which it is not enough to count
                missing edges, and of their indices; returns which values they may have.
            fits: Further condition on values, (M, C) bool.
        """
        last = (s.to_come == 0)[:, None]
        need = (s.to_come[:, None] - others).clamp(0, len(NEEDS) - 1).expand_as(cost[0])
        costs = cost.gather(0, torch.where(last, LAST, need)[None])[0]
        if not self.completing:
            return _none_is_all(fits & (costs < IMPOSSIBLE))
        # Closures of the last node may complete it.
        most = torch.where(last, self.entries - 1, (s.to_come - s.missing)[:, None])
        tight = s.missing + s.excess > s.to_come
        fits = fits & (costs <= torch.where(tight[:, None], IMPOSSIBLE - 1, most))
        rows = tight.nonzero()[:, 0]
        if len(rows):
            fits[rows] &= narrowed(s[rows], rows)
        none = ~fits.any(1, keepdim=True)
        if bool(none.any()):
            possible = cost.gather(0, need[None])[0] < IMPOSSIBLE
            fits = torch.where(none, _none_is_all(possible), fits)
        return fits

    def _parent(self, s: Surroundings) -> Tensor:
        """Return the columns in `Surroundings.state` of the parents of M new nodes, (M, 1) long."""
        return (s.depth - s.x[0]).clamp(min=-1)[:, None] + self.pad

    def _others(self, s: Surroundings, column: Tensor) -> tuple[Tensor, Tensor]:
        """Return the states of possible parents, and the room of other nodes.

        Args:
            s: The M new nodes.
            column: Columns of the possible parents in `Surroundings.state`, (M, C) long.

        Returns:
            States, and rooms as in `Surroundings.others` but without the parent, (M, C) long each.
        """
        state = s.state.gather(1, column)
        return state, s.room.gather(1, column) - self.room[state]

    def _backtracks(self, s: Surroundings) -> Tensor:
        """Return the possible backtracks of M new nodes, (M, C) bool."""
        value = torch.arange(self.cardinalities[0], device=s.depth.device)
        column = s.depth[:, None] - value + self.pad
        state, others = self._others(s, column)
        # Of the columns without a node only the one before a first node can be a parent.
        fits = (state != UNKNOWN) | ((s.depth[:, None] < 0) & (value == 0))
        cost = torch.where(fits, self.cost_of_back[:, state], IMPOSSIBLE)

        def narrowed(some: Surroundings, rows: Tensor) -> Tensor:
            return self._completing(some, column[rows]).flatten(2).any(2)

        # All nodes below the parent are left.
        left = column >= s.lowest[:, None] if self.completing else True
        return self._fitting(s, cost, others, narrowed, left)

    def _edges_to_parent(self, s: Surroundings) -> Tensor:
        """Return the possible edges of M new nodes to their parents, (M, E + 1) bool."""
        state, others = self._others(s, self._parent(s))
        cost = self.cost_of_edge[:, state[:, 0]]

        def narrowed(some: Surroundings, rows: Tensor) -> Tensor:
            return self._completing(some, self._parent(some))[:, 0].any(2)

        return self._fitting(s, cost, others, narrowed)

    def _nodes(self, s: Surroundings) -> Tensor:
        """Return the possible categories of M new nodes, (M, C) bool."""
        state, others = self._others(s, self._parent(s))
        cost = self.cost[:, state[:, 0], s.x[1]]

        def narrowed(some: Surroundings, rows: Tensor) -> Tensor:
            number = torch.arange(len(rows), device=rows.device)
            return self._completing(some, self._parent(some))[number, 0, some.x[1]]

        return self._fitting(s, cost, others, narrowed)

    def _completing(self, s: Surroundings, parent: Tensor) -> Tensor:
        """Return which new nodes leave enough nodes to come for all missing edges.

        With U the missing edges that only nodes without further edges can bring, every other node
        to come brings a node at most one of its further missing edges. The new node can bring one
        by a closure, which is looked at for one node alone: the last one that misses most.

        Args:
            s: The M new nodes.
            parent: Columns of possible parents in `Surroundings.state`, (M, P) long.

        Returns:
            (M, P, E + 1, C) bool, by edge category plus 1 and category of the new node.
        """
        column = torch.arange(s.state.shape[1], device=parent.device)
        excess = torch.where(column < parent[..., None], self.excess[s.state][:, None], -1)
        most = excess.amax(2, keepdim=True)
        last = torch.where(excess == most, column, 0).amax(2)
        far = s.state.gather(1, last)
        state, others = self._others(s, parent)
        need = (s.to_come[:, None] - others).clamp(0, len(NEEDS) - 1)
        case = torch.where(s.to_come[:, None] == 0, LAST, need)
        after, leaf = self.after[state], self.leaf[state]
        further = self.needs[after] - self.needs[state][..., None, None] + self.needs[leaf]
        left = (s.to_come - s.missing)[:, None, None, None] - further
        kinds = self.helps[far][:, :, None] & self.takes[leaf, self.category[far][..., None, None]]
        fits = (self.excess[after] <= left) & (self.excess[leaf] < left + self.entries)
        fits = fits & (self.cost[case, state] < IMPOSSIBLE)
        return fits & (most[..., None] <= left + (kinds > 0))

    def _far(self, s: Surroundings, length: Tensor) -> Tensor:
        """Return the states of nodes to which closures of some lengths would lead.

        Args:
            s: The M new nodes.
            length: Lengths of closures, (M or 1, C) long.
        """
        return s.state.gather(1, self._parent(s) + 1 - length)

    def _closures(self, s: Surroundings, length: Tensor) -> Tensor:
        """Return the kinds of edges by which closures are possible.

        Args:
            s: The M new nodes.
            length: Lengths of the closures, (M or 1, C) long.

        Returns:
            (M, C) long, one bit for each kind, see `Support.kind`; 0 for no closure.
        """
        far, new, node = self._far(s, length), s.new[:, None], s.x[2][:, None]
        of_far = self.category[far]
        kinds = self.takes[far, node] & self.takes[new, of_far]
        near = length <= self.reach
        others = s.others[:, None] - torch.where(near, self.room[far], 0)
        to_come = s.to_come[:, None]
        more = (to_come > 1).long()
        kept = self.keeps_room[more, new, of_far]
        kept = kept | torch.where(near, self.keeps_room[more, far, node], 0)
        enough = torch.where(others >= to_come, -1, kept)
        kinds = kinds & torch.where(to_come == 0, self.completes[far, node], enough)
        rows = self._tight(s)
        if len(rows):
            kinds[rows] &= self._helpful(s[rows], length[rows])
        return kinds

    def _tight(self, s: Surroundings) -> Tensor:
        """Return the new nodes for whose closures it matters what edges are missing."""
        if not self.completing:
            return s.depth[:0]
        tight = s.missing + s.excess + self.lacks[s.new] > s.to_come
        return (tight | (s.to_come == 0)).nonzero()[:, 0]

    def _left(self, s: Surroundings) -> Tensor:
        """Return how many nodes to come can bring more than edges that no others bring, (M, 1)."""
        state = s.state.gather(1, self._parent(s))[:, 0]
        changed = self.needs[self.after[state, s.x[1], s.x[2]]] - self.needs[state]
        return (s.to_come - s.missing - changed - self.needs[s.new])[:, None]

    def _waiting(self, s: Surroundings) -> Tensor:
        """Return the column of the last node that must get a closure, (M, 1) long; 0 for none."""
        column = torch.arange(s.state.shape[1], device=s.depth.device)
        parent = self._parent(s)
        # Closures so far, of increasing length.
        far = parent if len(s.x) <= 4 else parent + 1 - s.x[3 + 2 * ((len(s.x) - 5) // 2)][:, None]
        must = (column < far) & (self.excess[s.state] > self._left(s))
        return torch.where(must, column, 0).amax(1, keepdim=True)

    def _helpful(self, s: Surroundings, length: Tensor) -> Tensor:
        """Return the kinds of edges of closures that leave no node which must get one.

        Args:
            s: The M new nodes.
            length: Lengths of the closures, (M, C) long.

        Returns:
            (M, C) long, one bit for each kind.
        """
        column, node, last = self._parent(s) + 1 - length, s.x[2][:, None], self._waiting(s)
        must, far = s.state.gather(1, last), self._far(s, length)
        # After a shorter closure, the new node must still be able to get the edge.
        then = self.after[s.new[:, None], :, self.category[far]]
        both = self.takes[then, self.category[must][..., None]] & self.helps[must, node][..., None]
        kinds = torch.zeros_like(far)
        for edge, fits in zip(self.kind, (both > 0).unbind(2), strict=True):
            kinds = kinds | torch.where(fits, edge, 0)
        kinds = torch.where(column == last, self.helps[far, node], kinds)
        return torch.where(last == 0, -1, torch.where(column < last, 0, kinds))

    def _lengths(self, s: Surroundings) -> Tensor:
        """Return the possible lengths of the next closure of M new nodes, (M, C) bool.

        0, for no closure, is always possible but after the last node, if one has missing edges.
        """
        k = len(s.x)
        value = torch.arange(self.cardinalities[k], device=s.depth.device)
        fits = (self._closures(s, value[None].expand(len(s.depth), -1)) > 0) & (value >= 2)
        if k >= DepthFirstCode.COMMON:
            # Lengths increase, and after a length of 0 all are 0.
            previous = s.x[-2][:, None]
            fits = fits & (value > previous) & (previous > 0)
        fits = fits | (value == 0)
        rows = self._tight(s)
        if len(rows):
            some = s[rows]
            complete = self.excess[some.new][:, None] <= self._left(some)
            fits[rows, 0] = (complete & (self._waiting(some) == 0))[:, 0]
            fits[:, 0] |= ~fits.any(1)
        return fits

    def _closing_edges(self, s: Surroundings) -> Tensor:
        """Return the possible edges of the closure of M new nodes, (M, E + 1) bool.

        Without a closure, that is no edge.
        """
        length = s.x[-1][:, None]
        kinds = self._closures(s, length)
        return _none_is_all(torch.where(length > 0, kinds & self.kind > 0, self.kind == 0))

    def add(self, s: Surroundings, x: Tensor) -> Surroundings:
        """Return the surroundings of M new nodes after one more variable is decided.

        The path stays that before the new node: `Path.add` updates it once all variables of the
        node are decided.

        Args:
            s: The M new nodes, with the variables that are decided; it stays as it is.
            x: The next variable of each, (M,) long.
        """
        k, new, others = len(s.x), s.new, s.others
        role = DepthFirstCode.role(k)
        if role == "node":
            (parent,), (others,) = (part.T for part in self._others(s, self._parent(s)))
            new = self.after[self.first[x], s.x[1], self.category[parent]]
            others = others + self.branches * self.room[self.after[parent, s.x[1], x]]
        elif role == "edge" and k > 1:
            far = self._far(s, s.x[-1][:, None])[:, 0]
            near = (s.x[-1] <= self.reach) & (x > 0)
            changed = self.room[self.after[far, x, s.x[2]]] - self.room[far]
            others = others + torch.where(near, changed, 0)
            new = self.after[new, x, self.category[far]]
        return replace(s, new=new, others=others, x=(*s.x, x))


def _none_is_all(fits: Tensor) -> Tensor:
    """Allow all values in rows (..., C) bool that allow none.

    Such a row is looked up only after an impossible value, as when a graph outside of the support
    is scored. The probability of that graph is 0 already; logits of -inf alone would make it nan.
    """
    return fits | ~fits.any(-1, keepdim=True)
