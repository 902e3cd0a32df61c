"""Labels of nodes that say which edges a node has, and graphs that are put together from them.

An edge is of a *kind*: its category and the size of the smallest ring that it is part of. A node's
*label* is its category and how many edges of each kind end there. Both are functions of the graph,
so a density of labels and kinds is one of graphs; what it puts on labels that no graph has is lost.

Each round has a *frontier node*, drawn uniformly among the nodes that are part of the partial graph
and have places left (the first one among all nodes). It chooses a partner for each of its places,
kind by kind. The frontier node, and the order in which places of the same kind are filled, are
latents with a uniform density: they cost no bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.errors import UserError
from graphcnf.flows.transform import Context, Noise, take
from graphcnf.graphs.batch import GraphBatch, PackedGraphs

# Classes of edges: in no ring, in a smallest ring of 3, 4, 5, 6 nodes, in a larger one.
RINGS = (0, 3, 4, 5, 6, 7)


def exactly(counts: Tensor, table: Tensor) -> Tensor:
    """Return the product of whole numbers, whatever the autocast type."""
    with torch.autocast(counts.device.type, enabled=False):
        return counts.double().matmul(table.double()).to(counts.dtype)


def ring_classes(adjacency: Tensor) -> Tensor:
    """Return the class of every edge of graphs (B, N, N) bool: a place in `RINGS`, 0 for no edge.

    A breadth-first search from one end of each edge to the other, without the edge itself, finds
    rings of up to 6 nodes. An edge is in a larger one if it is no bridge: its effective resistance
    in a network of unit resistors is less than 1, at most 1 - 1/n for a ring of n nodes.
    """
    graph, low, high = adjacency.triu().nonzero(as_tuple=True)
    classes = torch.zeros_like(adjacency, dtype=torch.long)
    if not len(graph):
        return classes
    batch, nodes = adjacency.shape[:2]
    counts = torch.bincount(graph, minlength=batch)
    place = torch.arange(len(graph), device=graph.device) - (counts.cumsum(0) - counts)[graph]
    steps = adjacency.float()
    # One row for each edge: the nodes that walks of some length from its lower end come to.
    front = steps.new_zeros(batch, int(counts.max()), nodes)
    front[graph, place] = steps[graph, low]
    front[graph, place, high] = 0
    conductance = adjacency.double()
    # A little of a resistor from each node to the ground: graphs may have several parts.
    grounded = torch.diag_embed(conductance.sum(1) + 1e-6) - conductance
    potential = torch.linalg.inv(grounded)
    itself = potential.diagonal(dim1=1, dim2=2)
    resistance = (itself[:, :, None] + itself[:, None] - 2 * potential)[graph, low, high]
    own = torch.where(resistance < 1 - 0.5 / nodes, RINGS[-1], 0)
    for length in range(3, RINGS[-1]):
        front = front @ steps
        # Not back over the edge itself.
        front[graph, place, low] = 0
        own = torch.where((front[graph, place, high] > 0) & (own > length), length, own)
    own = torch.where(own > 0, own - RINGS[1] + 1, 0)
    classes[graph, low, high] = classes[graph, high, low] = own
    return classes


class NodeLabels(nn.Module):
    """Graphs to labels of nodes and kinds of edges, and back.

    `edge_kinds` are category and ring class (a place in `RINGS`) of each kind, `node_labels` node
    category and number of edges of each kind of each label, `edge_weights` what an edge category
    adds to the sum of a node (1 each when None). Raises UserError where they do not fit together.
    """

    kinds: Tensor  # (K, 2)
    rows: Tensor  # (labels, 1 + K)
    place: Tensor  # 1 + kind of an edge by its category plus 1 and its ring class, 0 for none
    sizes: Tensor  # ring sizes of the kinds, (K,)
    weights: Tensor  # (K,)
    far: Tensor  # how far one kind is from another, (K, K)
    ends: Tensor  # edges of each kind of the labels, and zeros for padding, (labels + 1, K)

    def __init__(self, edge_kinds: list, node_labels: list, edge_weights: list[int] | None = None):
        super().__init__()
        widths = {len(row) for row in node_labels}
        if widths != {len(edge_kinds) + 1} or {len(kind) for kind in edge_kinds} - {2}:
            raise UserError(
                "node_labels: a node category and a number for each of edge_kinds; "
                "edge_kinds: an edge category and a ring class"
            )
        kinds = torch.tensor(edge_kinds, dtype=torch.long).reshape(-1, 2)
        if kinds.numel() and not 0 <= kinds.min() <= kinds[:, 1].max() < len(RINGS):
            raise UserError(f"edge_kinds: ring classes are 0 to {len(RINGS) - 1}")
        rows = torch.tensor(node_labels, dtype=torch.long)
        if rows.min() < 0 or len(rows.unique(dim=0)) != len(rows):
            raise UserError("node_labels: whole numbers from 0 on, every row once")
        most = int(kinds[:, 0].max()) + 1 if len(kinds) else 0
        given = [1] * most if edge_weights is None else edge_weights
        if len(given) < most:
            raise UserError(f"edge_weights: a number for each of {most} edge categories")
        weights = torch.tensor(given, dtype=torch.long)[kinds[:, 0]]
        place = torch.full((most + 1, len(RINGS)), -1)
        place[kinds[:, 0] + 1, kinds[:, 1]] = torch.arange(len(kinds))
        # By weight, then by category, by being in a ring, and by place: no two are equally far.
        far = (weights[:, None] - weights).abs()
        for value in (kinds[:, 0], (kinds[:, 1] > 0).long()):
            far = 2 * far + (value[:, None] != value)
        far = (far * max(1, len(kinds)) + torch.arange(len(kinds))).fill_diagonal_(-1)
        for name, table in (
            ("kinds", kinds),
            ("rows", rows),
            ("place", place + 1),
            ("sizes", torch.tensor(RINGS)[kinds[:, 1]]),
            ("weights", weights),
            ("far", far),
            ("ends", F.pad(rows[:, 1:], (0, 0, 0, 1))),
        ):
            self.register_buffer(name, table, persistent=False)

    @property
    def count(self) -> int:
        """Number of labels."""
        return len(self.rows)

    @property
    def bridges(self) -> Tensor:
        """Mask of the kinds that are in no ring, (K,) bool."""
        return self.kinds[:, 1] == 0

    @staticmethod
    def measure(graphs: PackedGraphs) -> dict[str, list[list[int]]]:
        """Return the tables of all labels and kinds that occur in `graphs`."""
        raw = (int(graphs.bond_types.max(initial=0)) + 1) * len(RINGS)
        found: set[tuple[int, ...]] = set()
        for batch in GraphBatch.chunks(graphs):
            kinds = (batch.bonds - 1) * len(RINGS) + ring_classes(batch.adjacency)
            graph, node, other = batch.adjacency.nonzero(as_tuple=True)
            ends = batch.node_types.new_zeros(*batch.mask.shape, raw)
            one = torch.ones_like(graph)
            ends.index_put_((graph, node, kinds[graph, node, other]), one, accumulate=True)
            rows = torch.cat([batch.node_types[..., None], ends], -1)[batch.mask]
            found |= set(map(tuple, rows.unique(dim=0).tolist()))
        table = np.array(sorted(found))
        used = np.flatnonzero(table[:, 1:].any(0))
        return {
            "edge_kinds": [[int(kind) // len(RINGS), int(kind) % len(RINGS)] for kind in used],
            "node_labels": table[:, np.concatenate([[0], used + 1])].tolist(),
        }

    def nearest(self, kinds: Tensor, free: Tensor) -> Tensor:
        """Return the kinds nearest to `kinds` (...) that have `free` (..., K) places, if any."""
        return self.far[kinds].masked_fill(free <= 0, torch.iinfo(torch.long).max).argmin(-1)

    def encode(self, batch: GraphBatch) -> tuple[Tensor, Tensor]:
        """Return labels (B, N) long, `count` at padding, and kinds (B, N, N) long, 0 for no edge.

        Raises ValueError where no label fits a node, or no kind an edge.
        """
        labels, kinds, unknown = self.look_up(batch)
        if unknown.any():
            graph, node = unknown.nonzero()[0].tolist()
            raise ValueError(
                f"node {node} of graph {graph} has a category and edges that no node of the "
                "training data has together"
            )
        return labels, kinds

    @torch.autocast("cpu", enabled=False)
    def look_up(self, batch: GraphBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Encode as `encode`; also return a mask of nodes that no label fits, (B, N) bool."""
        rings = ring_classes(batch.adjacency)
        bonds = torch.where(batch.bonds < len(self.place), batch.bonds, 0)
        kinds = torch.where(batch.adjacency, self.place[bonds, rings], 0)
        steps = torch.arange(1, len(self.kinds) + 1, device=kinds.device)
        ends = (kinds[..., None] == steps).sum(2)
        rows = torch.cat([batch.node_types[..., None], ends], -1)
        wanted, table = rows.flatten(0, 1).double(), self.rows.double()
        # Squared distances of whole numbers: exactly 0 where two rows are the same.
        apart = wanted.square().sum(1)[:, None] + table.square().sum(1) - 2 * wanted @ table.T
        nearest, label = apart.min(1)
        unknown = (nearest.view_as(batch.mask) > 0) | ((kinds == 0) & batch.adjacency).any(2)
        labels = torch.where(batch.mask, label.view_as(batch.mask), self.count)
        return labels, kinds, unknown & batch.mask

    def decode(self, labels: Tensor, kinds: Tensor, mask: Tensor) -> GraphBatch:
        """Return the graphs of labels and kinds; what a label says of edges is not looked at."""
        types = torch.where(mask, self.rows[labels.clamp(max=self.count - 1), 0], 0)
        bonds = F.pad(self.kinds[:, 0] + 1, (1, 0))[kinds]
        return GraphBatch(types, bonds, mask)


FAR = 10  # largest distance that is told apart


def draw_uniforms(mask: Tensor, rounds: int, noise: Noise | None = None) -> Tensor:
    """Draw the uniforms of the nodes `mask` (B, N), (B, N, 2 + 2 * rounds) float64."""
    shape = *mask.shape, 2 + 2 * rounds
    return take(noise, lambda: torch.rand(shape, dtype=torch.float64, device=mask.device))


@dataclass(frozen=True, eq=False)
class UnorderedContext(Context):
    """Context of the networks of labels and edges; a graph has as many rounds of edges as nodes.

    The uniforms of a node order labels and partners, then it in each round of the frontier, then
    partners for places of the same kind in each round.
    """

    uniforms: Tensor = None  # type: ignore[assignment]  # always given, see `draw_uniforms`
    labels: Tensor = None  # type: ignore[assignment]  # (B, N) long; while they are drawn none

    def __getitem__(self, rows) -> UnorderedContext:
        """Return the context of some of the graphs."""
        parts = {name: getattr(self, name)[rows] for name in ("mask", "uniforms", "labels")}
        return replace(self, **parts)

    def ranks(self, which: int) -> Tensor:
        """Return random numbering 0 (for labels) or 1 (for partners), padding last, (B, N)."""
        uniforms = self.uniforms[..., which]
        return uniforms.masked_fill(~self.mask, 2.0).argsort(1).argsort(1)


@dataclass
class PartialGraph:
    """Partial graphs that grow round by round, B of them with up to N nodes."""

    table: NodeLabels
    kinds: Tensor  # 1 + kind of each edge so far, 0 for none, (B, N, N) long
    done: Tensor  # nodes that had their round, (B, N) bool
    reached: Tensor  # nodes that are part of the partial graph, (B, N) bool
    free: Tensor  # places left at each node for each kind, (B, N, K) long

    @classmethod
    def start(cls, table: NodeLabels, labels: Tensor) -> PartialGraph:
        """Return graphs of labelled nodes before any edge is decided."""
        none = torch.zeros_like(labels, dtype=torch.bool)
        kinds = labels.new_zeros(*labels.shape, labels.shape[1])
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
        """Return a mask (B, N) of possible frontier nodes; all False once a graph is finished."""
        waiting = mask & ~self.done & (self.free > 0).any(-1)
        inside = waiting & self.reached
        return torch.where(inside.any(1, keepdim=True), inside, waiting)

    def next_node(self, context: UnorderedContext, g: int) -> tuple[Tensor, Tensor]:
        """Return the frontier nodes (B,) long of round g, False (B,) where there is none."""
        frontier = self.frontier(context.mask)
        uniforms = context.uniforms[..., 2 + g]
        return uniforms.masked_fill(~frontier, 2.0).argmin(1), frontier.any(1)

    def add(self, node: Tensor, real: Tensor, row: Tensor) -> PartialGraph:
        """Return the graphs after a round of the frontier nodes (B,), of those that are `real`.

        `row` (B, N) long are 1 + kinds of the new edges, 0 for none. Where a partner has no place
        of the chosen kind, it gives the nearest that it has, and the edge is of the lighter kind.
        """
        at = torch.arange(len(node), device=node.device)
        itself = F.one_hot(node, row.shape[1]).bool()
        # What is decided stays: only what has probability 0 would say otherwise.
        row = torch.where(real[:, None] & ~self.done & ~itself, row, 0)
        kinds, free = self.kinds.clone(), self.free.clone()
        itself = itself & real[:, None]
        done, reached = self.done | itself, self.reached | (row > 0) | itself
        steps = torch.arange(1, free.shape[-1] + 1, device=row.device)
        free[at, node] -= (row[..., None] == steps).sum(1)
        if free.shape[-1]:
            own = (row - 1).clamp(min=0)
            given = self.table.nearest(own, free)
            free -= F.one_hot(given, free.shape[-1]) * (row > 0)[..., None]
            weights = self.table.weights
            lighter = torch.where(weights[given] < weights[own], given, own)
            row = torch.where(row > 0, 1 + lighter, 0)
        kinds[at, node] += row
        kinds[at, :, node] += row
        return PartialGraph(self.table, kinds, done, reached, free)

    @torch.autocast("cpu", enabled=False)
    @torch.no_grad()
    def look(self, mask: Tensor) -> Known:
        """Return free places, parts, distances and support for the nodes `mask` (B, N).

        What is impossible for a pair, by counting, has probability 0 in the density, which stays
        normalised. No graph is excluded by that.
        """
        table, free, decided = self.table, self.free, self.decided
        itself = torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
        shown = torch.where(decided & ~itself, self.kinds, 0)
        outside = F.pad(table.bridges, (1, 0))[shown]
        distance, together = _distances(shown > 0, itself)
        in_ring = _connected(((shown > 0) & ~outside).float() + itself)

        chains, rings = free[..., table.bridges].sum(-1), free[..., ~table.bridges].sum(-1)
        size = (together & mask[:, None]).sum(2)
        count = (mask / size.clamp(min=1)).sum(1).round().long()
        connecting = count - 1 - chains.sum(1) // 2
        closing = rings.sum(1) // 2 - connecting

        undecided = ~decided & ~itself & mask[:, :, None] & mask[:, None, :]
        fits = (free > 0)[:, :, None] & (free > 0)[:, None] & undecided[..., None]
        near = in_ring[..., None] & (distance[..., None] + 1 >= table.sizes)
        near = near & (closing > 0)[:, None, None, None]
        apart = ~together[..., None] & (table.bridges | (connecting > 0)[:, None, None, None])
        fits = fits & (apart | (near & ~table.bridges))

        def sums(pairs: Tensor, value: Tensor) -> Tensor:
            return exactly(pairs.long(), value[..., None])[..., 0]

        def joined(value: Tensor) -> Tensor:
            return value[:, :, None] + torch.where(together, 0, value[:, None])

        of_chains, of_rings = sums(together, chains), sums(together, rings)
        complete = joined(of_chains + of_rings) <= 2
        complete = complete & (joined(size) < mask.sum(1)[:, None, None])
        fits = fits & ~complete[..., None]

        candidates = fits.sum(2)
        short = (free >= candidates) & (free > 0)
        demanded = fits & (short[:, :, None] | short[:, None])
        leaves = fits.any(-1) & ~together
        exits = sums(together, leaves.sum(2))
        last = (exits == 1) & (size < mask.sum(1, keepdim=True))
        demanded = demanded | (fits & (leaves & (last[:, :, None] | last[:, None]))[..., None])
        needed = demanded.any(-1)
        anywhere = (free > 0).any(-1)
        others = undecided & ~together & anywhere[:, :, None] & anywhere[:, None]
        around = (in_ring & mask[:, None]).sum(2)
        parts = [size, of_chains, of_rings, exits, around, sums(in_ring, rings)]
        return Known(
            candidates,
            torch.stack(parts, -1),
            torch.stack([count, connecting, closing], -1),
            distance,
            together,
            in_ring,
            torch.where(needed[..., None], demanded, fits),
            needed,
            others,
        )


class Known(NamedTuple):
    """State of B partly decided graphs with N nodes and K kinds of edges.

    `parts` tells of the part that a node belongs to: its nodes, its places in no ring, its places
    in rings, the open pairs that lead out of it; and the nodes and places of what edges of rings
    connect the node with. `whole`: parts of the graph, edges of rings that must still connect
    parts, and those that must close a ring.
    """

    candidates: Tensor  # open pairs that could fill the free places, (B, N, K) long
    parts: Tensor  # (B, N, 6) long
    whole: Tensor  # (B, 3) long
    distance: Tensor  # steps between two nodes, 0 for none, `FAR` + 1 for more, (B, N, N) long
    together: Tensor  # pairs of nodes of the same part, (B, N, N) bool
    in_ring: Tensor  # pairs of nodes that edges of rings connect, (B, N, N) bool
    possible: Tensor  # kinds that are possible for an open pair, (B, N, N, K) bool
    needed: Tensor  # open pairs that must be edges, (B, N, N) bool
    others: Tensor  # open pairs of two parts with places of any kind, (B, N, N) bool


def _distances(adjacency: Tensor, itself: Tensor) -> tuple[Tensor, Tensor]:
    """Return distances as in `Known`, and pairs of nodes that are connected, (B, N, N) bool."""
    steps = adjacency.float()
    reached = itself.float().expand_as(steps)
    distance = torch.zeros_like(adjacency, dtype=torch.long)
    for length in range(1, FAR + 1):
        further = (reached @ steps > 0) | (reached > 0)
        distance = torch.where(further & (reached == 0), length, distance)
        reached = further.float()
    together = _connected(reached, FAR)
    return torch.where(together & (distance == 0) & ~itself, FAR + 1, distance), together


def _connected(reached: Tensor, covered: int = 1) -> Tensor:
    """Return the closure (B, N, N) bool of what is reached in up to `covered` steps."""
    while covered < reached.shape[1] - 1:
        reached = (reached @ reached > 0).float()
        covered *= 2
    return reached > 0


@dataclass
class EdgeChoices:
    """Hidden states of M nodes that choose their partners one after the other.

    Partners come in the order of the context's random numbering.
    """

    scores: Tensor  # logits of every partner for every kind, (M, N, K)
    fits: Tensor  # possible partners for every kind, (M, N, K) bool
    others: Tensor  # partners in place of those that fit where there are none, (M, N) bool
    kinds: Tensor  # kind of each choice, K where there is none, (M, V) long
    fresh: Tensor  # partners that are no part of the partial graph yet, (M, N) bool
    budget: Tensor  # ring edges left that may lead to fresh partners, and others, (M, 2) long
    own: Tensor  # places left in the part of the node, its nodes, those of the graph, (M, 3) long
    part: Tensor  # number of the part of every partner, 0 for that of the node itself, (M, N) long
    places: Tensor  # places left in the part of a partner, (M, N) long
    sizes: Tensor  # its nodes, (M, N) long
    taken: Tensor  # partners that are chosen already, (M, N) bool
    joined: Tensor  # partners in the part of the node, by the choices so far, (M, N) bool
    rings: Tensor  # whether each kind is in rings, (K + 1,) bool
    number: int = 0  # of choices so far

    @classmethod
    def of(
        cls,
        partial: PartialGraph,
        known: Known,
        mask: Tensor,
        rows,
        partner: Tensor,
        scores: Tensor,
        kinds: Tensor,
    ) -> EdgeChoices:
        """Return the state before the first choice of nodes `rows` (graph and node, (M,) long).

        `partner` (M, N) long holds the numbers of the nodes in random order.
        """
        graph, node = (part[:, None].expand_as(partner) for part in rows)
        sizes, places = known.parts[..., 0], known.parts[..., 1] + known.parts[..., 2]
        part = known.together.int().argmax(-1)[graph, partner] + 1
        joined = known.together[graph, node, partner]
        return cls(
            scores=scores,
            fits=known.possible[graph, node, partner],
            others=known.others[graph, node, partner],
            kinds=kinds,
            fresh=~partial.reached[graph, partner],
            budget=known.whole[rows[0], 1:],
            own=torch.stack([places[rows], sizes[rows], mask.sum(1)[rows[0]]], -1),
            part=torch.where(joined, 0, part),
            places=places[graph, partner],
            sizes=sizes[graph, partner],
            taken=torch.zeros_like(joined),
            joined=joined,
            rings=F.pad(~partial.table.bridges, (0, 1)),
        )

    def spread(self, real: Tensor) -> EdgeChoices:
        """Spread the M states over R rows, where `real` (R,) bool; the others have no choices."""
        if real.all():
            return self
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, part in parts.items():
            if name not in ("rings", "number"):
                none = self.scores.shape[-1] if name == "kinds" else 0
                whole = part.new_full((len(real), *part.shape[1:]), none)
                parts[name] = whole.index_put((real.nonzero()[:, 0],), part)
        return EdgeChoices(**parts)

    def logits(self) -> Tensor:
        """Return the logits (M, N) of the next choice, -inf where impossible."""
        kind = self.kinds[:, self.number]
        at = kind.clamp(max=self.scores.shape[-1] - 1)[:, None, None]
        at = at.expand(*self.scores.shape[:-1], 1)
        own, fits = self.scores.gather(-1, at)[..., 0], self.fits.gather(-1, at)[..., 0]
        budget = self.budget > 0
        within = torch.where(self.fresh, budget[:, :1], budget[:, 1:]) | ~self.rings[kind][:, None]
        # Partners that would complete the part while nodes are outside.
        left, size, nodes = self.own[..., None].unbind(1)
        left = left + self.places.masked_fill(self.joined, 0)
        size = size + self.sizes.masked_fill(self.joined, 0)
        completing = (left <= 2) & (size < nodes)
        allowed = ~self.taken & ~completing & (kind < self.scores.shape[-1])[:, None]
        fits = fits & within & allowed
        possible = torch.where(fits.any(-1, keepdim=True), fits, self.others & allowed)
        return own.masked_fill(~possible, -math.inf)

    def add(self, x: Tensor) -> EdgeChoices:
        """Return the state after the choices x (M,): numbers of partners, N or more for none."""
        nodes = self.fresh.shape[-1]
        here = F.one_hot(x.clamp(max=nodes), nodes + 1)[..., :-1].bool()
        any_, new = here.any(-1), here & ~self.joined
        ring = self.rings[self.kinds[:, self.number]] & any_
        fresh = (here & self.fresh).any(-1)
        left, size, all_nodes = self.own.unbind(-1)
        left = left + (self.places * new).sum(-1) - 2 * any_.long()
        size = size + (self.sizes * new).sum(-1)
        return replace(
            self,
            budget=self.budget - torch.stack([ring & fresh, ring & ~fresh], -1).long(),
            own=torch.stack([left, size, all_nodes], -1),
            taken=self.taken | here,
            joined=self.joined | (self.part == (self.part * here).sum(-1, keepdim=True)),
            number=self.number + 1,
        )
