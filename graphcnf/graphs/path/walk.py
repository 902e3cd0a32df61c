"""The walk along the depth-first path: what the nodes so far say about the next one.

Every edge to come leads from the next node to a node on the path from the first node to it, so the
state is a table by level of the path: which node is there, its category, its neighbours so far, the
sum of the weights of its edges (for a molecule: bond orders), and whether the edge to the level
above lies on a ring.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LEVELS = 16
"""Levels of the path, from its end, that a network is told about."""

SUMS, DEGREES = 12, 6
"""Sums of weights and degrees that a network tells apart."""

NEIGHBOURS = 5
"""Neighbours of a node that a network is told about, first come first served."""

KINDS = 256
"""Node categories fit below this number: a neighbour is its edge times this plus its category."""


MIXED, PRIME = 1_000_003, 2_147_483_647
"""Of the hashes of what a network is told as one thing."""


@dataclass
class Path:
    """Paths after some of the nodes, of B graphs (or of every node of B graphs).

    Attributes:
        depth: Level of the last node, (B,) long; -1 before the first one.
        node: Number of the node at each level, (B, L) long.
        category: Its category, (B, L) long.
        used: Sum of the weights of its edges so far, (B, L) long.
        degree: Number of its edges so far, (B, L) long.
        around: Its neighbours so far, as edge category plus 1 times `KINDS` plus node category, 0
            for none, (B, L, NEIGHBOURS) long.
        ring: Whether the edge to the level above lies on a ring, (B, L) bool.

    What stands at levels below `depth` is left over and means nothing.
    """

    depth: Tensor
    node: Tensor
    category: Tensor
    used: Tensor
    degree: Tensor
    around: Tensor
    ring: Tensor

    @classmethod
    def start(cls, batch: int, nodes: int, device=None) -> Path:
        """Before the first node of graphs with up to so many nodes."""
        table = torch.zeros(batch, nodes + 1, dtype=torch.long, device=device)
        depth = torch.full((batch,), -1, device=device)
        around = table[..., None].expand(-1, -1, NEIGHBOURS)
        return cls(depth, table, table, table, table, around, table.bool())

    def add(self, number: int, x: Tensor, weights: Tensor) -> Path:
        """The paths after the node `number`.

        Args:
            number: The same for all graphs.
            x: Its categories (B, V), in the order of `AtomCode`, all possible ones.
            weights: Weight of an edge by its category plus 1, 0 for none, (edge categories + 1,).
        """
        edge, category = x[:, 1], x[:, 2:3]
        parent = (self.depth[:, None] - x[:, :1]).clamp(min=0)
        at = parent + 1 if number else parent
        node = self.node.scatter(1, at, torch.full_like(at, number))
        types = self.category.scatter(1, at, category)
        ring = self.ring.scatter(1, at, False)
        used, degree = self.used.scatter(1, at, 0), self.degree.scatter(1, at, 0)
        rows = torch.arange(len(x), device=x.device)[:, None]
        around = self.around.clone()
        around[rows, at] = 0
        level = torch.arange(node.shape[1], device=x.device)
        ends = [(parent, edge[:, None])]
        ends += [
            ((at - x[:, k : k + 1]).clamp(min=0), x[:, k + 1 : k + 2])
            for k in range(3, x.shape[1], 2)
        ]
        for far, edge in ends:
            linked = edge > 0
            if not linked.any():
                continue
            for one, other in ((at, far), (far, at)):
                slot = degree.gather(1, one)
                free = linked & (slot < NEIGHBOURS)
                slot = slot.clamp(max=NEIGHBOURS - 1)
                code = edge * KINDS + types.gather(1, other)
                around[rows, one, slot] = torch.where(free, code, around[rows, one, slot])
                used = used.scatter_add(1, one, weights[edge])
                degree = degree.scatter_add(1, one, linked.long())
            if far is not parent:
                ring = ring | ((level > far) & (level <= at) & linked)
        return Path(at[:, 0], node, types, used, degree, around, ring)

    @classmethod
    def before_each(cls, x: Tensor, weights: Tensor) -> Path:
        """The paths before every node of graphs with the categories x (B, N, V), B * N rows.

        As `add`, node by node, but for all nodes at once.
        """
        batch, nodes, variables = x.shape
        number = torch.arange(nodes, device=x.device)
        level = torch.arange(nodes + 1, device=x.device)
        depth = number - x[..., 0].cumsum(1)
        # The node at a level of the path is the last one so far with this depth.
        here = depth[..., None] == level
        node = torch.where(here, number[:, None], 0).cummax(1).values
        # Edges (later node, earlier node): one to the parent, the others at the closures' ends.
        lengths = [torch.ones_like(depth), *x[..., 3::2].unbind(-1)]
        edges = [x[..., 1], *x[..., 4::2].unbind(-1)]
        ends = torch.stack([depth - length for length in lengths], -1).clamp(min=0)
        linked = torch.stack(edges, -1)
        ends = torch.where(linked > 0, node.gather(2, ends), nodes)
        more = torch.stack([weights[linked], (linked > 0).long()])
        later = more.new_zeros(2, batch, nodes, nodes + 1)
        later.scatter_add_(3, ends.expand(2, -1, -1, -1), more)
        table = (later.cumsum(2)[..., :-1] + more.sum(-1)[:, :, None]).gather(
            3, node.expand(2, -1, -1, -1)
        )
        closed = torch.stack(lengths[1:], -1).amax(-1) if len(lengths) > 1 else 0 * depth
        on = (level > (depth - closed)[..., None]) & (level <= depth[..., None])
        # A node is on a ring if one was closed through it since it came onto the path.
        ring = (
            torch.where(on & (closed > 0)[..., None], number[:, None], -1).cummax(1).values >= node
        )
        category = x[..., 2].gather(1, node.flatten(1)).view_as(node)
        around = cls._neighbours(x[..., 2], linked, ends, later[1])
        around = around[torch.arange(batch, device=x.device)[:, None, None], node]
        so_far = torch.arange(NEIGHBOURS, device=x.device) < table[1][..., None]
        start = cls.start(batch, nodes, x.device)
        after = depth, node, category, *table, around * so_far, ring
        names = cls.__dataclass_fields__
        return cls(*(
            torch.cat([getattr(start, name)[:, None], part[:, :-1]], 1).flatten(0, 1)
            for name, part in zip(names, after, strict=True)
        ))  # fmt: skip

    @staticmethod
    def _neighbours(category: Tensor, linked: Tensor, ends: Tensor, later: Tensor) -> Tensor:
        """Neighbours of every node in the end, in the order in which they come.

        Args:
            category: Of the nodes, (B, N) long.
            linked: Categories of the edges to earlier nodes plus 1, 0 for none, (B, N, K) long.
            ends: Those nodes, N for none, (B, N, K) long.
            later: Whether node j has an edge to the earlier node i, [j, i], (B, N, N + 1) long.

        Returns:
            As `around`, (B, N, NEIGHBOURS) long.
        """
        batch, nodes, entries = linked.shape
        own = (linked > 0).long()
        # One node more takes what is no edge, one place more what is too much.
        table = torch.zeros(batch, nodes + 1, NEIGHBOURS + 1, dtype=torch.long, device=ends.device)
        padded = torch.nn.functional.pad(category, (0, 1))
        there = linked * KINDS + padded.gather(1, ends.flatten(1)).view_as(ends)
        mine = (own.cumsum(-1) - own).clamp(max=NEIGHBOURS)
        number = torch.arange(nodes, device=ends.device)[:, None].expand_as(ends)
        before = torch.nn.functional.pad(own.sum(-1), (0, 1))[:, None] + later.cumsum(1) - later
        theirs = before.gather(2, ends).clamp(max=NEIGHBOURS)
        here = linked * KINDS + category[..., None]
        rows = torch.arange(batch, device=ends.device)[:, None, None]
        table[rows, torch.where(linked > 0, number, nodes), mine] = there
        table[rows, ends, theirs] = here
        return table[:, :nodes, :NEIGHBOURS]

    def links(self, x: Tensor) -> Tensor:
        """A number for each edge that a node would add, with what is at both its ends so far.

        Args:
            x: Categories (B, V) of the nodes.

        Returns:
            (B, K) long, 0 for no edge: for the edge to the parent and the closures, a hash of its
            category, of the categories of both nodes, and of their other neighbours so far.
        """
        rows = torch.arange(len(x), device=x.device)
        parent = (self.depth - x[:, 0]).clamp(min=0)
        ends = [(x[:, 1], parent)]
        ends += [
            (x[:, k + 1], (parent + 1 - x[:, k]).clamp(min=0)) for k in range(3, x.shape[1], 2)
        ]
        own, found = x[:, 2], []
        for edge, level in ends:
            other = edge * KINDS + self.category[rows, level]
            around = self.around[rows, level].sort(-1).values
            key = own + 1
            for part in (other, *around.unbind(-1)):
                key = (key * MIXED + part) % PRIME
            found.append(torch.where(edge > 0, key, 0))
            own = torch.where(edge > 0, (own * MIXED + other) % PRIME, own)
        return torch.stack(found, -1)

    def rows(self, index: Tensor) -> Path:
        """The paths at some rows."""
        return Path(*(getattr(self, name)[index] for name in self.__dataclass_fields__))

    def features(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """What a network is told of the last `LEVELS` levels, the last node first.

        Returns:
            Node category times `SUMS` plus sum of the weights, as far as `SUMS` tells sums apart;
            degree times 2 plus ring, as far as `DEGREES` tells degrees apart; the neighbours, with
            an axis more; the numbers of the nodes; each (B, LEVELS) long. And whether there is such
            a level, (B, LEVELS) bool.
        """
        level = self.depth[:, None] - torch.arange(LEVELS, device=self.depth.device)
        there = level >= 0
        level = level.clamp(min=0)
        both = self.category.gather(1, level) * SUMS
        both = both + self.used.gather(1, level).clamp(max=SUMS - 1)
        degree = 2 * self.degree.gather(1, level).clamp(max=DEGREES - 1)
        degree = degree + self.ring.gather(1, level)
        around = self.around.gather(1, level[..., None].expand(-1, -1, NEIGHBOURS))
        return both, degree, around, self.node.gather(1, level), there
