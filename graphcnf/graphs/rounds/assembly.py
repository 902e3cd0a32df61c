"""Edges between the nodes, one focus after the other, given the labels.

Graph attention over all nodes, with what is known of each pair as a bias; how well a pair fits for
each kind of edge is read out of its two ends. Nothing knows a numbering.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.categorical.causal import CausalBlock
from graphcnf.flows.readout import ReadOut, zero_init
from graphcnf.flows.transform import Context, log_term_dtype
from graphcnf.graphs.rounds.composition import COUNTED, TOLD, one_hots
from graphcnf.graphs.rounds.growth import Grown, log_orders, of_focus, of_picks, picks_of, ranks_of
from graphcnf.graphs.rounds.known import FAR, Known, known_of
from graphcnf.graphs.rounds.labels import NodeLabels
from graphcnf.graphs.rounds.offers import Offers

ROWS = 256
"""Pairs that are read out together come in multiples of this: fewer shapes, fewer kernels."""


@dataclass(frozen=True, eq=False, kw_only=True)
class PickContext(Context):
    """Context of the picks of a batch; the mask (B, N) holds as many rounds as a graph has nodes.

    Attributes:
        labels: Labels of the nodes, (B, N) long.
        chances: Uniform numbers, see `draw_chances`.
    """

    labels: Tensor
    chances: Tensor


class Assembly(nn.Module):
    """Probabilities of the partners of a focus; made for `InterleavedCoupling`.

    A position is a round, its variables are the picks of the focus: the number of the partner in
    a random numbering, or `max_nodes` for none.

    Args:
        table: Meaning of the labels.
        max_nodes: Largest number of nodes.
        width: Channels of a node.
        layers: Attention blocks.
        heads: Attention heads.
        expansion: Feed-forward hidden channels as a multiple of `width`.
        pair_width: Channels of a pair in the read-out.
        substitutes: Whether places that nothing fits may take places of another kind.
    """

    rings: Tensor

    def __init__(
        self,
        table: NodeLabels,
        *,
        max_nodes: int,
        width: int = 128,
        layers: int = 5,
        heads: int = 8,
        expansion: float = 3,
        pair_width: int = 64,
        substitutes: bool = True,
    ):
        super().__init__()
        self.table, self.max_nodes, self.heads = table, max_nodes, heads
        self.substitutes = substitutes
        kinds = len(table.kinds)
        self.picks = int(table.ends.sum(-1).max())
        self.cardinalities = [max_nodes + 1] * self.picks
        rings = F.pad(~table.bridges, (0, 1))
        self.register_buffer("rings", rings, persistent=False)
        self.labels = nn.Embedding(table.count + 1, width)
        self.nodes = nn.Embedding(max_nodes + 1, width)
        # Of the node: no part of the growing graph, part of it, part of it with all its edges.
        self.stage = nn.Embedding(3, width)
        self.places = nn.Linear(kinds * (5 + TOLD), width)
        self.all_places = nn.Linear(kinds * COUNTED, width, bias=False)
        self.parts = nn.ModuleList(nn.Embedding(max_nodes + 1, width) for _ in range(6))
        self.whole = nn.ModuleList(nn.Embedding(max_nodes + 1, width) for _ in range(3))
        # What is known of a pair: decided for an edge of some kind, decided for none, or open and
        # without a possible kind, free to choose, needed; all but the first with the distance, and
        # whether rings connect the two.
        self.states = kinds + 4 * 2 * (FAR + 2)
        self.bias = nn.Embedding(self.states, layers * heads)
        self.messages = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(layers))
        self.blocks: Sequence[CausalBlock] = nn.ModuleList(  # type: ignore[assignment]  # not generic
            CausalBlock(width, heads, expansion) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.end = nn.Linear(width, 2 * pair_width)
        self.both = nn.Linear(pair_width, pair_width, bias=False)
        self.of_state = nn.Embedding(self.states, pair_width)
        self.middle = nn.Linear(pair_width, pair_width)
        self.leave = zero_init(ReadOut(pair_width, kinds))
        tables = (self.labels, self.nodes, self.stage, self.bias, *self.parts, *self.whole)
        for embedding in tables:
            nn.init.normal_(embedding.weight, std=0.2)
        for message in self.messages:
            nn.init.zeros_(message.get_parameter("weight"))

    def offers(
        self,
        labels: Tensor,
        mask: Tensor,
        grown: Grown,
        rows: tuple[Tensor, Tensor],
        kinds: Tensor,
        ranks: Tensor,
    ) -> Offers:
        """What some nodes can pick.

        Args:
            labels: (B, N) long, the number of labels at padding.
            mask: Real nodes, (B, N) bool.
            grown: The graphs so far.
            rows: The nodes that pick: graph and node, each (R,) long.
            kinds: Of their picks, see `kinds_of_picks`.
            ranks: Random numbering, (B, N) long.
        """
        decided = grown.decided
        known = known_of(self.table, grown.free, mask, grown.kinds, decided)
        known.others &= self.substitutes
        state = self._states(known, grown.kinds, decided)
        h = self._nodes(known, labels, mask, grown)
        hidden = torch.where(mask[:, None, None], 0.0, -1e9)  # too large for float16
        bias = self.bias(state).permute(0, 3, 1, 2) + hidden
        edges = (grown.kinds > 0).to(h.dtype)
        for block, message, own in zip(
            self.blocks, self.messages, bias.split(self.heads, 1), strict=True
        ):
            h = h + message(edges @ h)
            h = block.write(h, *block.read(h), own)
        # Partners in the order of their random numbers.
        partner = ranks.argsort(1)[rows[0]]
        graph, node = (part[:, None].expand_as(partner) for part in rows)
        scores = self._read_out(self.norm(h), state, (graph, node, partner))
        scores = scores.to(log_term_dtype(scores))
        return Offers.of(known, mask, grown.reached, rows, partner, scores, kinds, self.rings)

    def as_picks(self, row: Tensor, order: Tensor, ranks: Tensor) -> tuple[Tensor, Tensor]:
        """Edges as picks: numbers of partners (R, M) long, and the log of their orders (R,).

        Args:
            row: 1 + kinds of the edges of R nodes, 0 for none, (R, N) long.
            order: Uniform numbers of the partners, (R, N).
            ranks: Random numbering, (R, N) long.
        """
        partner, kinds = picks_of(row, order, self.picks)
        value = torch.where(kinds > 0, ranks.gather(1, partner), self.max_nodes)
        value = F.pad(value, (0, self.picks - value.shape[1]), value=self.max_nodes)
        return value, log_orders(kinds, len(self.table.kinds))

    def kinds_of_picks(self, free: Tensor) -> Tensor:
        """Kind by kind as often as there are places (R, K), K for none, (R, picks) long."""
        number = torch.arange(self.picks, device=free.device)
        return (number[:, None] >= free.cumsum(1)[:, None]).sum(-1)

    def _states(self, known: Known, kinds: Tensor, decided: Tensor) -> Tensor:
        choice = torch.where(known.needed, 2, known.possible.any(-1).long())
        choice = torch.where(decided, 3, choice)
        state = (choice * 2 + known.in_ring) * (FAR + 2) + known.distance
        edge = 4 * 2 * (FAR + 2) + kinds - 1
        return torch.where(kinds > 0, edge, state)

    def _nodes(self, known: Known, labels: Tensor, mask: Tensor, grown: Grown) -> Tensor:
        like = self.places.weight
        places = [one_hots(known.open, 5, like), one_hots(known.candidates, TOLD, like)]
        h = self.labels(labels) + self.places(torch.cat(places, -1))
        h = h + self.stage(grown.reached.long() + grown.done)
        whole = self.nodes(mask.sum(1))
        whole = whole + self.all_places(one_hots(known.open.sum(1), COUNTED, like))
        whole = whole + self._looked_up(self.whole, known.whole)
        return h + whole[:, None] + self._looked_up(self.parts, known.parts)

    def _looked_up(self, tables: nn.ModuleList, values: Tensor) -> Tensor:
        """Sum of the entries for whole numbers (..., len(tables)), (..., C)."""
        each = values.clamp(0, self.max_nodes).unbind(-1)
        return sum(table(value) for table, value in zip(tables, each, strict=True))

    def _read_out(self, h: Tensor, state: Tensor, at) -> Tensor:
        """Scores (R, N, kinds) of pairs `at`, three of (R, N)."""
        shape, count = at[0].shape, at[0].numel()
        graph, i, j = (F.pad(part.flatten(), (0, -count % ROWS)) for part in at)
        nodes = self.end(h).flatten(0, 1)
        one, other = nodes[graph * h.shape[1] + i], nodes[graph * h.shape[1] + j]
        (a, b), (c, d) = one.chunk(2, -1), other.chunk(2, -1)
        e = F.relu(a + c + self.both(b * d) + self.of_state(state[graph, i, j]))
        return self.leave(F.relu(self.middle(e)))[:count].unflatten(0, shape)

    def streams_of(self, x: Tensor, context: PickContext, group: Tensor) -> Offers:
        """What all picks are read out of, given the picks x (B, N, M) of the rounds before."""
        rounds = AssemblyRounds(self, context)
        parts = []
        for g in range(x.shape[1]):
            parts.append(rounds.ask(g, None, x))
            rounds.tell(g, None, None, x)
        return Offers.cat(parts)

    def read_out(self, asked: Offers, previous: list[Tensor]) -> Tensor:
        """Logits (..., max_nodes + 1) of the pick after `previous`; the last one is no partner."""
        logits = asked.logits(previous)
        logits = F.pad(logits, (0, self.max_nodes - logits.shape[-1]), value=-math.inf)
        none = torch.where(logits.isinf().all(-1, keepdim=True), 0.0, -math.inf)
        return torch.cat([logits, none.to(logits)], -1)

    def rounds(self, context: PickContext, group: Tensor) -> AssemblyRounds:
        """The same round by round, with an object that has `ask` and `tell`."""
        return AssemblyRounds(self, context)


class AssemblyRounds:
    """One focus of every graph after the other."""

    def __init__(self, network: Assembly, context: PickContext):
        self.network, self.context = network, context
        self.grown = Grown.start(network.table, context.labels)
        self.ranks = ranks_of(context.chances, context.mask, 1)
        self.node_of = self.ranks.argsort(1)

    def turn(self, g: int) -> None:
        """Choose the focus of round g."""
        chances = of_focus(self.context.chances, g)
        self.focus, self.real = self.grown.focus(self.context.mask, chances)
        at = torch.arange(len(self.focus), device=self.focus.device)
        free = torch.where(self.real[:, None], self.grown.free[at, self.focus], 0)
        self.kinds = self.network.kinds_of_picks(free)

    def ask(self, g: int, members, known: Tensor) -> Offers:
        """What the focus of round g can pick, with an axis of one round: (B, 1, ...)."""
        self.turn(g)
        at = torch.arange(len(self.focus), device=self.focus.device), self.focus
        context = self.context
        offers = self.network.offers(
            context.labels, context.mask, self.grown, at, self.kinds, self.ranks
        )
        return offers.with_axis()

    def tell(self, g: int, members, real, known: Tensor) -> None:
        """Take the picks of round g, in `known` (B, N, M)."""
        picks, nodes = known[:, g], self.context.mask.shape[1]
        row = torch.zeros(len(picks), nodes + 1, dtype=torch.long, device=picks.device)
        there = (picks < nodes) & (self.kinds < len(self.network.table.kinds))
        partner = torch.where(there, self.node_of.gather(1, picks.clamp(max=nodes - 1)), nodes)
        row.scatter_(1, partner, torch.where(there, self.kinds + 1, 0))
        self.grown = self.grown.add(self.focus, self.real, row[:, :nodes])

    def follow(self, kinds: Tensor) -> tuple[Tensor, Tensor]:
        """The picks (B, N, M) that make the graphs of `kinds` (B, N, N), and their log orders."""
        nodes, picks = self.context.mask.shape[1], []
        total: Any = 0.0
        for g in range(nodes):
            self.turn(g)
            at = torch.arange(len(self.focus), device=self.focus.device)
            row = torch.where(self.grown.done | ~self.real[:, None], 0, kinds[at, self.focus])
            order = of_picks(self.context.chances, g)
            value, orders = self.network.as_picks(row, order, self.ranks)
            picks.append(value)
            total = total + orders
            self.grown = self.grown.add(self.focus, self.real, row)
        return torch.stack(picks, 1), total
