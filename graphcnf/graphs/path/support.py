"""Depth-first paths, and the possible values of a node's variables given the path before it."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.errors import UserError
from graphcnf.graphs.batch import PackedGraphs
from graphcnf.graphs.path.code import AtomCode

LEVELS = 16  # levels at the end of the path that are inputs of a network
SUMS, DEGREES = 12, 6  # numbers of sums of weights and of degrees that a network distinguishes
NEIGHBOURS = 5  # number of neighbours of a node that are inputs of a network, the first ones
# A neighbour is encoded as its edge times this number, plus its category, which is smaller.
CATEGORIES = 256
# Constants of the n-gram hash over path levels, and of the hash of an edge's surroundings.
HASH_MULTIPLIER, HASH_MODULUS = 1_000_003, 2_147_483_647
NODE, CATEGORY, USED, DEGREE, RING = range(5)  # rows of the tables of a `Path`


def hashed(key: Tensor, value: Tensor) -> Tensor:
    """Return the hash of a sequence extended by `value`, given the hash `key` of the sequence."""
    return (key * HASH_MULTIPLIER + value) % HASH_MODULUS


@dataclass
class Path:
    """Depth-first paths of R partial graphs: the nodes from the first to the last one.

    Tables have a column for each level of the path. `pad` columns of zeros come first, for levels
    above the first node. Entries at levels greater than `depth` are arbitrary.
    """

    depth: Tensor  # level of the last node, (R,) long; -1 before the first one
    # For the node at each level: its number plus 1 (0 for no node), its category, the sum of the
    # weights of its edges so far, their number, and 1 if the edge to its parent lies on a ring,
    # (5, R, W) long.
    tables: Tensor
    # Neighbours so far of the node at each level: (edge category + 1) * `CATEGORIES` + node
    # category, 0 for none, (R, W, NEIGHBOURS + 1) long. The last column, where all further
    # neighbours end up, is not read.
    around: Tensor
    pad: int

    @classmethod
    def start(cls, rows: int, nodes: int, pad: int, device=None) -> Path:
        """Return the paths before the first node of graphs with up to `nodes` nodes."""
        depth = torch.full((rows,), -1, device=device)
        tables = depth.new_zeros(5, rows, pad + nodes + 1)
        return cls(depth, tables, depth.new_zeros(*tables.shape[1:], NEIGHBOURS + 1), pad)

    def take(self, rows) -> Path:
        """Return the paths at the given rows."""
        return Path(self.depth[rows], self.tables[:, rows], self.around[rows], self.pad)

    def index(self, level: Tensor) -> Tensor:
        """Return the indices of levels (R, ...) of the first R paths in flattened tables."""
        rows = torch.arange(len(level), device=level.device) * self.tables.shape[-1] + self.pad
        return level + rows.reshape(-1, *[1] * (level.dim() - 1))

    def last_levels(self, rows: int) -> Tensor:
        """Return the indices of the last levels of the first R paths, (R, LEVELS); see `index`."""
        steps = torch.arange(LEVELS, device=self.depth.device)
        return self.index(self.depth[:rows, None] - steps)

    def add(self, number: int, x: Tensor, weights: Tensor) -> Tensor:
        """Append node `number`, with categories x (R, V), to the first R paths in place.

        `weights` are edge weights by category plus 1. Returns the indices of changed entries in
        flattened tables, some more than once.
        """
        # The clamp only matters for impossible values, which step back beyond the first node.
        parent = (self.depth[: len(x)] - x[:, 0]).clamp(min=0 if number else -1)
        self.depth[: len(x)] = parent + 1
        at, category = self.index(parent + 1), x[:, 2]
        tables, around = self.tables.flatten(1), self.around.flatten(0, 1)
        zero = torch.zeros_like(category)
        tables[:, at] = torch.stack([zero + number + 1, category, zero, zero, zero])
        around[at] = 0
        changed = [at]
        edges, lengths = AtomCode.edges(x), AtomCode.lengths(x)
        for k in range(edges.shape[1]):
            rows = edges[:, k].nonzero()[:, 0]
            if not len(rows):
                continue
            end, edge, length = at[rows], edges[rows, k], lengths[rows, k]
            far = end - length
            one, other, edge = torch.cat([end, far]), torch.cat([far, end]), torch.cat([edge, edge])
            slot = tables[DEGREE, one].clamp(max=NEIGHBOURS)
            around[one, slot] = edge * CATEGORIES + tables[CATEGORY, other]
            tables[USED].index_add_(0, one, weights[edge])
            tables[DEGREE].index_add_(0, one, torch.ones_like(one))
            changed.append(far)
            if k:
                steps = torch.arange(int(length.max()), device=x.device)
                ring = (end[:, None] - steps.minimum(length[:, None] - 1)).flatten()
                tables[RING].index_fill_(0, ring, 1)
                changed.append(ring)
        return torch.cat(changed)

    @classmethod
    def before_each(cls, x: Tensor, weights: Tensor, pad: int) -> Path:
        """Return the B * N paths before each node of graphs x (B, N, V), as `add` builds them."""
        batch, nodes, _ = x.shape
        number = torch.arange(nodes, device=x.device)
        level = torch.arange(nodes + 1, device=x.device)
        # As in `add`, the clamp only matters for impossible values.
        depth = (number - x[..., 0].cumsum(1)).clamp(min=0)
        # The node at a level of the path is the last one so far with this depth.
        here = depth[..., None] == level
        node = torch.where(here, number[:, None], 0).cummax(1).values
        # Earlier nodes at the ends of a node's edges: the parent, then the ends of closures.
        lengths, linked = AtomCode.lengths(x), AtomCode.edges(x)
        ends = (depth[..., None] - lengths).clamp(min=0)
        ends = torch.where(linked > 0, node.gather(2, ends), nodes)
        more = torch.stack([weights[linked], (linked > 0).long()])
        later = more.new_zeros(2, batch, nodes, nodes + 1)
        later.scatter_add_(3, ends.expand(2, -1, -1, -1), more)
        used, degree = (later.cumsum(2)[..., :-1] + more.sum(-1)[:, :, None]).gather(
            3, node.expand(2, -1, -1, -1)
        )
        closed = F.pad(lengths[..., 1:], (0, 1)).amax(-1, keepdim=True)
        on = (level > depth[..., None] - closed) & (level <= depth[..., None]) & (closed > 0)
        # A node's edge to its parent is on a ring if a closure has spanned it since it was added.
        ring = torch.where(on, number[:, None], -1).cummax(1).values >= node
        types = x[..., 2]
        category = types.gather(1, node.flatten(1)).view_as(node)
        around = _neighbours(types, linked, ends, later[1])
        around = around[torch.arange(batch, device=x.device)[:, None, None], node]
        around *= torch.arange(NEIGHBOURS + 1, device=x.device) < degree[..., None]
        tables = torch.stack([node + 1, category, used, degree, ring.long()])
        # The path before the first node is empty; that after the last node is not needed.
        return cls(
            F.pad(depth[:, :-1], (1, 0), value=-1).flatten(),
            F.pad(tables[:, :, :-1], (pad, 0, 1, 0)).flatten(1, 2),
            F.pad(around[:, :-1], (0, 0, pad, 0, 1, 0)).flatten(0, 1),
            pad,
        )

    def links(self, x: Tensor) -> Tensor:
        """Return hashes (R, E) of the edges of nodes x (R, V) that come next on the first R paths.

        There is one for the edge to the parent and one for each closure, 0 for no edge. It hashes
        the category of the edge, the categories of both nodes and their other neighbours so far.
        """
        parent = (self.depth[: len(x)] - x[:, 0]).clamp(min=0)
        own, found = x[:, 2], []
        edges, lengths = AtomCode.edges(x), AtomCode.lengths(x)
        categories, neighbours = self.tables[CATEGORY].flatten(), self.around.flatten(0, 1)
        for edge, length in zip(edges.unbind(-1), lengths.unbind(-1), strict=True):
            far = self.index(parent + 1 - length)
            other = edge * CATEGORIES + categories[far]
            around = neighbours[far][:, :NEIGHBOURS].sort(-1).values
            key = own + 1
            for part in (other, *around.unbind(-1)):
                key = hashed(key, part)
            found.append(torch.where(edge > 0, key, 0))
            own = torch.where(edge > 0, hashed(own, other), own)
        return torch.stack(found, -1)


def _neighbours(category: Tensor, linked: Tensor, ends: Tensor, later: Tensor) -> Tensor:
    """Return the neighbours of every node of complete graphs, in the format of `Path.around`.

    Nodes have a `category` (B, N). `linked` (B, N, E) are the categories plus 1 of the edges to
    earlier nodes (0 for none), `ends` (B, N, E) these nodes (N for none). `later[:, j, i]` is 1 if
    node j > i has an edge to node i. Neighbours are in the order in which their edges are added.
    """
    batch, nodes, _ = linked.shape
    own = (linked > 0).long()
    # The additional node N takes the entries without an edge.
    table = ends.new_zeros(batch, nodes + 1, NEIGHBOURS + 1)
    there = F.pad(category, (0, 1)).gather(1, ends.flatten(1)).view_as(ends)
    mine = (own.cumsum(-1) - own).clamp(max=NEIGHBOURS)
    number = torch.arange(nodes, device=ends.device)[:, None].expand_as(ends)
    before = F.pad(own.sum(-1), (0, 1))[:, None] + later.cumsum(1) - later
    theirs = before.gather(2, ends).clamp(max=NEIGHBOURS)
    rows = torch.arange(batch, device=ends.device)[:, None, None]
    table[rows, torch.where(linked > 0, number, nodes), mine] = linked * CATEGORIES + there
    table[rows, ends, theirs] = linked * CATEGORIES + category[..., None]
    return table[:, :nodes]


def level_codes(tables: Tensor) -> Tensor:
    """Return one category (...) for each level from `Path.tables` (5, ...); 0 for no node."""
    node, category, used, degree, ring = tables
    code = category * SUMS + used.clamp(max=SUMS - 1)
    code = (code * DEGREES + degree.clamp(max=DEGREES - 1)) * 2 + ring + 1
    return torch.where(node > 0, code, 0)


# In place of a limit: times the largest weight, a sum that no node of 255 nodes reaches.
UNLIMITED = 260


def limit_note(rules: bool) -> str:
    """Return a footnote on the limit on sums of edge weights, which holds with `rules`."""
    if rules:
        return "support of the data: on; no atom gets more bonds than its category has in the data."
    return "support of the data: off."


@dataclass
class FreeValence:
    """Free valence around M nodes whose variables are decided one after the other.

    The free valence of a node is what its sum of edge weights may still grow by.
    """

    free: Tensor  # of the node at each level, after `Support.pad` columns of 0, (M, W) long
    within: Tensor  # summed over a level and those above to which its child can step back, (M, W)
    depth: Tensor  # level of the previous node, (M,) long; -1 before the first one
    last: Tensor  # True for the last node of a graph, (M,) bool
    own: Tensor  # of the node itself, (M,) long; valid once its category is decided
    rest: Tensor  # summed over the possible parents of the next node, (M,) long; valid as `own`
    x: tuple[Tensor, ...] = ()  # the variables so far, (M,) long each

    def __getitem__(self, rows: Tensor) -> FreeValence:
        """Return the free valence around the nodes at the given rows."""
        names = [f.name for f in fields(self) if f.name != "x"]
        some = {name: getattr(self, name)[rows] for name in names}
        return FreeValence(**some, x=tuple(value[rows] for value in self.x))


class Support(nn.Module):
    """Support of the density: which values of a node's variables are possible.

    Values that are not part of the code of a graph are impossible: a step back or closure beyond
    the first node, closure lengths that do not increase, a category for an edge that does not
    exist. With `largest_sums` there is a limit on the sum of the edge weights of a node (for
    molecules: bond orders), the largest sum of its category in the training data. Until the last
    node, some possible parent of the next node must then keep free valence, so that drawing never
    reaches a dead end. Impossible values have probability 0 in the density, which is normalised.

    `edge_weights` are the weights of the edge categories, the smallest of them 1; `largest_sums` is
    the limit of each node category, None for no limit. Raises UserError if they do not fit the
    code, or allow no graph of three nodes.
    """

    weights: Tensor  # edge weight by category plus 1, 0 for no edge, (edge categories + 1,) long
    sums: Tensor  # largest sum of edge weights of each node category, (node categories,) long
    fitting_edges: Tensor
    fitting_nodes: Tensor
    fitting_lengths: Tensor

    def __init__(self, code: AtomCode, edge_weights: list[int], largest_sums: list[int] | None):
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
        # 1 if the next node can have the same parent as this one, 0 if paths never step back.
        self.branches = min(self.reach, 1)
        self.cardinalities = code.cardinalities
        self.limited = largest_sums is not None
        self.pad = max(LEVELS, *code.longest) + 1
        sums = largest_sums or [UNLIMITED * max(edge_weights)] * categories
        self.most = max(sums)
        weights, limits = torch.tensor([0, *edge_weights]), torch.tensor(sums)
        # Possible edges by the largest weight allowed (last row: no edge only), and possible node
        # categories by the least sum needed. Rows without any follow impossible values only.
        limit = torch.arange(self.most + 2)[:, None]
        fitting = (weights <= limit) & (weights > 0)
        fitting[-1] = weights == 0
        # Possible lengths of closures by the free valence of the possible parents, up to 3.
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
        bond_categories: int,
        edge_weights: list[int] | None = None,
        support: bool = True,
    ) -> dict[str, list[int] | None]:
        """Return arguments: `edge_weights` (1 each if None) and, with `support`, `largest_sums`."""
        weights = [1] * bond_categories if edge_weights is None else list(edge_weights)
        if not support:
            return {"edge_weights": weights, "largest_sums": None}
        weight = np.asarray(weights)[graphs.bond_types]
        first = np.repeat(graphs.node_starts[:-1], graphs.edge_counts)
        sums = np.zeros(len(graphs.node_types), dtype=np.int64)
        for end in graphs.edges.T:
            np.add.at(sums, first + end, weight)
        largest = np.zeros(node_categories, dtype=np.int64)
        np.maximum.at(largest, graphs.node_types, sums)
        return {"edge_weights": weights, "largest_sums": largest.tolist()}

    def free(self, tables: Tensor) -> Tensor:
        """Return the free valence (...) long of nodes on paths, from `Path.tables` (5, ...)."""
        free = (self.sums[tables[CATEGORY]] - tables[USED]).clamp(min=0)
        return torch.where(tables[NODE] > 0, free, 0)

    def free_valence(self, free: Tensor, depth: Tensor, last: Tensor) -> FreeValence:
        """Return the free valence around nodes before their first variable is decided."""
        below = F.pad(free.cumsum(1), (1, 0))
        within = below[:, 1:] - F.pad(below, (self.reach, 0))[:, 1 : free.shape[1] + 1]
        return FreeValence(free, within, depth, last, depth, depth)

    def allowed(self, s: FreeValence) -> Tensor:
        """Return the possible values of the next variable, (M, C) bool, at least one per row."""
        k = len(s.x)
        role = AtomCode.role(k)
        value = torch.arange(self.cardinalities[k], device=s.depth.device)
        depth, last, first = s.depth[:, None], s.last[:, None], s.depth < 0
        if role == "back":
            fits = (s.free > 0) & (last | (s.within > self.branches + 1 - self.most))
            fits = fits.gather(1, depth - value + self.pad)
            fits[:, 0] |= first
            return _none_is_all(fits)
        parent = (s.depth - s.x[0]).clamp(min=-1)[:, None] + self.pad
        if role == "length":
            rest = torch.where(s.last, 3, s.rest.clamp(0, 3)) * (s.own > 0)
            fits = self.fitting_lengths[rest, : len(value)]
            fits = fits & ((s.free.gather(1, parent + 1 - value) > 0) | (value == 0))
            if k < AtomCode.COMMON:
                return fits
            before = s.x[-2][:, None]
            return fits & ((value > before) & (before > 0) | (value == 0))
        if role == "node":
            weight = self.weights[s.x[1]]
            valence = s.within.gather(1, parent.clamp(min=self.pad))[:, 0]
            need = (self.branches * weight - valence + 1).clamp(min=0)
            need = weight + torch.where(s.last, 0, need)
            return self.fitting_nodes[need.clamp(max=self.most + 1)]
        if k == 1:
            valence = s.within.gather(1, parent)[:, 0]
            limit = torch.where(
                s.last, self.most, (valence + self.most - 1) // (1 + self.branches)
            ).minimum(s.free.gather(1, parent)[:, 0])
            return self.fitting_edges[torch.where(first, self.most + 1, limit.clamp(0, self.most))]
        length = s.x[-1]
        shared = 1 + (length <= self.reach).long()
        limit = torch.where(s.last, self.most, (s.rest - 1) // shared)
        far = s.free.gather(1, parent + 1 - length[:, None])[:, 0]
        limit = limit.minimum(s.own).minimum(far).clamp(0, self.most)
        return self.fitting_edges[torch.where(length > 0, limit, self.most + 1)]

    def add(self, s: FreeValence, x: Tensor) -> FreeValence:
        """Return the free valence after the next variable is decided as x (M,)."""
        k, own, rest = len(s.x), s.own, s.rest
        role = AtomCode.role(k)
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
    """Allow all values in rows (..., C) that allow none."""
    return fits | ~fits.any(-1, keepdim=True)
