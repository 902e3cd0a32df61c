"""From labels to a graph: one node after the other gets all of its edges.

Each round has a *focus*, drawn uniformly among the nodes that are part of the growing graph and
have places left (the first one among all nodes). The focus picks a partner for each of its places,
kind by kind; after its round all of its pairs are decided. Which node is the focus, and in which
order places of the same kind are filled, are latents with a uniform density: they cost no bits, and
nothing depends on how the nodes are numbered.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from graphcnf.flows.transform import Noise, take
from graphcnf.graphs.rounds.labels import NodeLabels


def chances_of(rounds: int) -> int:
    """How many uniform numbers of a node decide on what costs no bits; each round has its own."""
    return 2 + 2 * rounds


def draw_chances(mask: Tensor, rounds: int, noise: Noise | None = None) -> Tensor:
    """These numbers of the nodes `mask` (B, N), (B, N, `chances_of(rounds)`) float64."""
    shape = *mask.shape, chances_of(rounds)
    return take(noise, lambda: torch.rand(shape, dtype=torch.float64, device=mask.device))


def ranks_of(chances: Tensor, mask: Tensor, which: int) -> Tensor:
    """A random numbering of the real nodes, padding last: number of each node, (B, N) long.

    The labels come in numbering 0, and numbering 1 names the partners.
    """
    return chances[..., which].masked_fill(~mask, 2.0).argsort(1).argsort(1)


def of_focus(chances: Tensor, g: int) -> Tensor:
    """Numbers (B, N) of which the smallest decides on the focus of round g."""
    return chances[..., 2 + g]


def of_picks(chances: Tensor, g: int) -> Tensor:
    """Numbers (B, N) that order partners for places of the same kind in round g."""
    return chances[..., 1 + chances.shape[-1] // 2 + g]


@dataclass
class Grown:
    """Graphs that grow, B of them with up to N nodes.

    Attributes:
        table: Meaning of the labels.
        kinds: 1 + kind of each edge so far, 0 for none, (B, N, N) long.
        done: Nodes that had their round, (B, N) bool.
        reached: Nodes that are part of the growing graph, (B, N) bool.
        free: Places left at each node for each kind, (B, N, K) long.
    """

    table: NodeLabels
    kinds: Tensor
    done: Tensor
    reached: Tensor
    free: Tensor

    @classmethod
    def start(cls, table: NodeLabels, labels: Tensor) -> Grown:
        """Nothing is decided yet."""
        none = torch.zeros_like(labels, dtype=torch.bool)
        batch, nodes = labels.shape
        kinds = torch.zeros(batch, nodes, nodes, dtype=torch.long, device=labels.device)
        return cls(table, kinds, none, none, table.ends[labels])

    @property
    def decided(self) -> Tensor:
        """Pairs that are decided, (B, N, N) bool."""
        return self.done[:, :, None] | self.done[:, None]

    def frontier(self, mask: Tensor) -> Tensor:
        """Nodes that may be the next focus, (B, N) bool; none where nothing is left to decide."""
        waiting = mask & ~self.done & (self.free > 0).any(-1)
        inside = waiting & self.reached
        return torch.where(inside.any(1, keepdim=True), inside, waiting)

    def focus(self, mask: Tensor, chances: Tensor) -> tuple[Tensor, Tensor]:
        """The next focus of each graph, (B,) long, and whether there is one, (B,) bool."""
        frontier = self.frontier(mask)
        return chances.masked_fill(~frontier, 2.0).argmin(1), frontier.any(1)

    def add(self, focus: Tensor, real: Tensor, row: Tensor) -> Grown:
        """After a round.

        Where a partner has no place of the kind that is picked (see `Offers`), it gives the nearest
        that it has, and the edge is of the lighter kind of the two.

        Args:
            focus: (B,) long.
            real: Whether the graph has this round, (B,) bool.
            row: 1 + kinds of new edges of the focus, 0 for none, (B, N) long.
        """
        at = torch.arange(len(focus), device=focus.device)
        itself = F.one_hot(focus, row.shape[1]).bool()
        # What is decided stays: only what has probability 0 would say otherwise.
        row = torch.where(real[:, None] & ~self.done & ~itself, row, 0)
        kinds, done, reached, free = (
            part.clone() for part in (self.kinds, self.done, self.reached, self.free)
        )
        done[at, focus] |= real
        reached |= row > 0
        reached[at, focus] |= real
        steps = torch.arange(1, free.shape[-1] + 1, device=row.device)
        free[at, focus] -= (row[..., None] == steps).sum(1)
        if free.shape[-1]:
            own = (row - 1).clamp(min=0)
            given = self.table.nearest(own, free)
            free -= F.one_hot(given, free.shape[-1]) * (row > 0)[..., None]
            row = torch.where(row > 0, 1 + self.table.lighter(own, given), 0)
        kinds[at, focus] += row
        kinds[at, :, focus] += row
        return Grown(self.table, kinds, done, reached, free)


def picks_of(row: Tensor, order: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The edges of some nodes as a sequence: by kind, and by `order` within a kind.

    Args:
        row: 1 + kinds of edges, 0 for none, (R, N) long.
        order: Uniform numbers, (R, N).
        most: Number M of picks.

    Returns:
        Partners (R, M) long and 1 + kinds (R, M) long, 0 where there is none.
    """
    key = torch.where(row > 0, row.double() + 0.999 * order, torch.inf)
    partner = key.argsort(1)[:, :most]
    return partner, row.gather(1, partner)


def log_orders(kinds: Tensor, count: int) -> Tensor:
    """Log of the number of orders of picks of the same kind; kinds (R, M) long -> (R,)."""
    steps = torch.arange(1, count + 1, device=kinds.device)
    same = (kinds[..., None] == steps).sum(1)
    return torch.lgamma(same + 1.0).sum(-1)
