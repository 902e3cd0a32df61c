"""The depth-first path: what the nodes so far say about the next one.

Every edge to come leads from the next node to a node on the path from the first node to it, so the
state is a table by level of the path.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from graphcnf.graphs.path.code import AtomCode

LEVELS = 16  # levels of the path, from its end, that a network sees
SUMS, DEGREES = 12, 6  # sums of weights and degrees that a network tells apart
NEIGHBOURS = 5  # neighbours of a node that a network sees, first come first served
# Node categories fit below this number: a neighbour is its edge times this plus its category.
CATEGORIES = 256
# Constants of the n-gram hash over path levels, and of the hash of an edge's surroundings.
HASH_MULTIPLIER, HASH_MODULUS = 1_000_003, 2_147_483_647
NODE, CATEGORY, USED, DEGREE, RING = range(5)  # rows of the tables of a `Path`


def hashed(key: Tensor, value: Tensor) -> Tensor:
    """Return the hash of a sequence whose hash so far is `key` and that `value` continues."""
    return (key * HASH_MULTIPLIER + value) % HASH_MODULUS


@dataclass
class Path:
    """Paths of R graphs after some of their nodes, or before each node of fewer graphs.

    Tables have a column for each level of the path. `pad` columns without a level come first, all
    0, so that a look beyond the first node finds nothing. What stands below `depth` means nothing.
    """

    depth: Tensor  # level of the last node, (R,) long; -1 before the first one
    # Number of the node plus 1 (0 for none), its category, the sum of the weights of its edges so
    # far, their number, and whether the edge to the level above lies on a ring, (5, R, W) long.
    tables: Tensor
    # Neighbours so far, as edge category plus 1 times `CATEGORIES` plus node category, 0 for none,
    # (R, W, NEIGHBOURS + 1) long; the last column, for all further ones, nothing looks at.
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
        """Return the places of levels (R, ...) of the first R paths in flattened tables."""
        rows = torch.arange(len(level), device=level.device) * self.tables.shape[-1] + self.pad
        return level + rows.reshape(-1, *[1] * (level.dim() - 1))

    def last_levels(self, rows: int) -> Tensor:
        """Return the places of the last `LEVELS` levels of the first R paths, (R, LEVELS)."""
        steps = torch.arange(LEVELS, device=self.depth.device)
        return self.index(self.depth[:rows, None] - steps)

    def add(self, number: int, x: Tensor, weights: Tensor) -> Tensor:
        """Append the node `number`, of categories x (R, V), to the first R paths, in place.

        `weights` are those of edges by category plus 1. Returns the places in flattened tables that
        have changed, some of them more than once.
        """
        # Only after what is impossible would the path step back beyond its first node.
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
        """Return the B * N paths before every node of graphs x (B, N, V), as `add` makes them."""
        batch, nodes, _ = x.shape
        number = torch.arange(nodes, device=x.device)
        level = torch.arange(nodes + 1, device=x.device)
        # As in `add`: only after what is impossible would it step back beyond the first node.
        depth = (number - x[..., 0].cumsum(1)).clamp(min=0)
        # The node at a level of the path is the last one so far with this depth.
        here = depth[..., None] == level
        node = torch.where(here, number[:, None], 0).cummax(1).values
        # Edges (later node, earlier node): one to the parent, the others at the closures' ends.
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
        # A node is on a ring if one was closed through it since it came onto the path.
        ring = torch.where(on, number[:, None], -1).cummax(1).values >= node
        types = x[..., 2]
        category = types.gather(1, node.flatten(1)).view_as(node)
        around = _neighbours(types, linked, ends, later[1])
        around = around[torch.arange(batch, device=x.device)[:, None, None], node]
        around *= torch.arange(NEIGHBOURS + 1, device=x.device) < degree[..., None]
        tables = torch.stack([node + 1, category, used, degree, ring.long()])
        # Before the first node there is nothing; after the last one nobody looks.
        return cls(
            F.pad(depth[:, :-1], (1, 0), value=-1).flatten(),
            F.pad(tables[:, :, :-1], (pad, 0, 1, 0)).flatten(1, 2),
            F.pad(around[:, :-1], (0, 0, pad, 0, 1, 0)).flatten(0, 1),
            pad,
        )

    def links(self, x: Tensor) -> Tensor:
        """Return numbers (R, E) of the edges that nodes x (R, V) after the first R paths add.

        0 for no edge: for the parent and the closures, a hash of the edge's category, of the
        categories of both nodes, and of their other neighbours so far.
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
    """Return the neighbours of every node in the end as `Path.around`, in the order they come.

    Of nodes of a `category` (B, N), with edges `linked` (B, N, E, category plus 1, 0 for none) to
    the earlier nodes `ends` (N for none); `later` [j, i] says whether j > i has one to i.
    """
    batch, nodes, _ = linked.shape
    own = (linked > 0).long()
    # One node more takes what is no edge.
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
    """Return the tables (5, ...) of a `Path` at some places as one number, 0 for no level."""
    node, category, used, degree, ring = tables
    code = category * SUMS + used.clamp(max=SUMS - 1)
    code = (code * DEGREES + degree.clamp(max=DEGREES - 1)) * 2 + ring + 1
    return torch.where(node > 0, code, 0)
