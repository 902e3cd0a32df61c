"""From labels to a graph: one node after the other gets all of its edges.

Each round has a *frontier node*, drawn uniformly among the nodes that are part of the partial graph
and have places left (the first one among all nodes). It chooses a partner for each of its places,
kind by kind; after its round all of its pairs are decided. The frontier node, and the order in
which places of the same kind are filled, are latents with a uniform density: they cost no bits, and
nothing depends on how the nodes are numbered.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from graphcnf.flows.transform import Context, Noise, take
from graphcnf.graphs.unordered.labels import NodeLabels


def uniform_count(rounds: int) -> int:
    """Return the number of uniforms of a node, which cost no bits; each round has its own."""
    return 2 + 2 * rounds


def draw_uniforms(mask: Tensor, rounds: int, noise: Noise | None = None) -> Tensor:
    """Draw the uniforms of the nodes `mask` (B, N), (B, N, `uniform_count(rounds)`) float64."""
    shape = *mask.shape, uniform_count(rounds)
    return take(noise, lambda: torch.rand(shape, dtype=torch.float64, device=mask.device))


def ranks_of(uniforms: Tensor, mask: Tensor, which: int) -> Tensor:
    """Return a random numbering of the real nodes, padding last: (B, N) long.

    The labels come in numbering 0, and numbering 1 names the partners.
    """
    return uniforms[..., which].masked_fill(~mask, 2.0).argsort(1).argsort(1)


@dataclass(frozen=True, eq=False)
class UnorderedContext(Context):
    """Context of the networks of labels and edges; a graph has as many rounds of edges as nodes.

    Attributes:
        uniforms: Uniforms of the nodes, see `draw_uniforms`.
        labels: Of the nodes, (B, N) long; None while they are drawn.
    """

    uniforms: Tensor = None  # type: ignore[assignment]  # always given
    labels: Tensor | None = None

    def __getitem__(self, rows) -> UnorderedContext:
        """Return the context of some of the graphs."""
        labels = None if self.labels is None else self.labels[rows]
        return replace(self, mask=self.mask[rows], uniforms=self.uniforms[rows], labels=labels)

    def of_frontier(self, g: int) -> Tensor:
        """Return the uniforms (B, N) of which the smallest decides on the frontier node."""
        return self.uniforms[..., 2 + g]

    def of_choices(self, g: int) -> Tensor:
        """Return the uniforms (B, N) that order partners for places of the same kind."""
        return self.uniforms[..., 1 + self.uniforms.shape[-1] // 2 + g]


@dataclass
class PartialGraph:
    """Partial graphs that grow round by round, B of them with up to N nodes.

    Attributes:
        table: Meaning of the labels.
        kinds: 1 + kind of each edge so far, 0 for none, (B, N, N) long.
        done: Nodes that had their round, (B, N) bool.
        reached: Nodes that are part of the partial graph, (B, N) bool.
        free: Places left at each node for each kind, (B, N, K) long.
    """

    table: NodeLabels
    kinds: Tensor
    done: Tensor
    reached: Tensor
    free: Tensor

    @classmethod
    def start(cls, table: NodeLabels, labels: Tensor) -> PartialGraph:
        """Return the graphs before the first round."""
        none = torch.zeros_like(labels, dtype=torch.bool)
        batch, nodes = labels.shape
        kinds = torch.zeros(batch, nodes, nodes, dtype=torch.long, device=labels.device)
        return cls(table, kinds, none, none, table.ends[labels])

    def __getitem__(self, rows) -> PartialGraph:
        """Return some of the graphs."""
        parts = self.kinds, self.done, self.reached, self.free
        return PartialGraph(self.table, *(part[rows] for part in parts))

    @property
    def decided(self) -> Tensor:
        """Pairs that are decided, (B, N, N) bool."""
        return self.done[:, :, None] | self.done[:, None]

    def frontier(self, mask: Tensor) -> Tensor:
        """Return the nodes that may be next, (B, N) bool; none where nothing is left to decide."""
        waiting = mask & ~self.done & (self.free > 0).any(-1)
        inside = waiting & self.reached
        return torch.where(inside.any(1, keepdim=True), inside, waiting)

    def next_node(self, mask: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next frontier node of each graph, (B,) long, and whether there is one."""
        frontier = self.frontier(mask)
        return uniforms.masked_fill(~frontier, 2.0).argmin(1), frontier.any(1)

    def add(self, node: Tensor, real: Tensor, row: Tensor) -> PartialGraph:
        """Return the graphs after a round.

        Where a partner has no place of the chosen kind (see `EdgeChoices`), it gives the nearest
        that it has, and the edge is of the lighter kind of the two.

        Args:
            node: The frontier node, (B,) long.
            real: Whether the graph has this round, (B,) bool.
            row: 1 + kinds of its new edges, 0 for none, (B, N) long.
        """
        at = torch.arange(len(node), device=node.device)
        itself = F.one_hot(node, row.shape[1]).bool()
        # What is decided stays: only what has probability 0 would say otherwise.
        row = torch.where(real[:, None] & ~self.done & ~itself, row, 0)
        kinds, done, reached, free = (
            part.clone() for part in (self.kinds, self.done, self.reached, self.free)
        )
        done[at, node] |= real
        reached |= row > 0
        reached[at, node] |= real
        steps = torch.arange(1, free.shape[-1] + 1, device=row.device)
        free[at, node] -= (row[..., None] == steps).sum(1)
        if free.shape[-1]:
            own = (row - 1).clamp(min=0)
            given = self.table.nearest(own, free)
            free -= F.one_hot(given, free.shape[-1]) * (row > 0)[..., None]
            row = torch.where(row > 0, 1 + self.table.lighter(own, given), 0)
        kinds[at, node] += row
        kinds[at, :, node] += row
        return PartialGraph(self.table, kinds, done, reached, free)


def choices_of(row: Tensor, order: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Return the edges of some nodes as a sequence: by kind, and by `order` within a kind.

    Args:
        row: 1 + kinds of edges, 0 for none, (R, N) long.
        order: Uniform numbers, (R, N).
        most: Number M of choices.

    Returns:
        Partners (R, M) long and 1 + kinds (R, M) long, 0 where there is none.
    """
    key = torch.where(row > 0, row.double() + 0.999 * order, torch.inf)
    partner = key.argsort(1)[:, :most]
    return partner, row.gather(1, partner)


def log_orders(kinds: Tensor, count: int) -> Tensor:
    """Return the log orders (R,) of choices of the same kinds (R, M) long."""
    steps = torch.arange(1, count + 1, device=kinds.device)
    same = (kinds[..., None] == steps).sum(1)
    return torch.lgamma(same + 1.0).sum(-1)
