"""Edges between the nodes, round by round, given the labels.

Graph attention over all nodes, with what is known of each pair as a bias; the kind of the edge of a
pair, or that there is none, is read out of its two ends. Nothing knows a numbering.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.categorical.causal import CausalBlock
from graphcnf.flows.transform import log_term_dtype
from graphcnf.graphs.rounds.composition import COUNTED, TOLD, one_hots
from graphcnf.graphs.rounds.known import FAR, Known, known_of
from graphcnf.graphs.rounds.labels import NodeLabels

ROWS = 256
"""Pairs that are read out together come in multiples of this: fewer shapes, fewer kernels."""


class Assembly(nn.Module):
    """Probabilities of the kind of the edge of a pair of nodes, 0 for none.

    Args:
        table: Meaning of the labels.
        max_nodes: Largest number of nodes.
        rounds: Number of rounds.
        width: Channels of a node.
        layers: Attention blocks.
        heads: Attention heads.
        expansion: Feed-forward hidden channels as a multiple of `width`.
        pair_width: Channels of a pair in the read-out.
    """

    def __init__(
        self,
        table: NodeLabels,
        *,
        max_nodes: int,
        rounds: int,
        width: int = 128,
        layers: int = 5,
        heads: int = 8,
        expansion: float = 3,
        pair_width: int = 64,
    ):
        super().__init__()
        self.table, self.max_nodes, self.heads = table, max_nodes, heads
        kinds = len(table.kinds)
        self.cardinalities = [kinds + 1]
        self.labels = nn.Embedding(table.count + 1, width)
        self.nodes = nn.Embedding(max_nodes + 1, width)
        self.round = nn.Embedding(rounds, width)
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
        self.blocks = nn.ModuleList(CausalBlock(width, heads, expansion) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.end = nn.Linear(width, 2 * pair_width)
        self.both = nn.Linear(pair_width, pair_width, bias=False)
        self.of_state = nn.Embedding(self.states, pair_width)
        self.middle = nn.Linear(pair_width, pair_width)
        self.leave = nn.Linear(pair_width, kinds + 1)
        for embedding in (self.labels, self.nodes, self.round, self.bias, *self.parts, *self.whole):
            nn.init.normal_(embedding.weight, std=0.2)
        for message in self.messages:
            nn.init.zeros_(message.weight)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(
        self, labels: Tensor, mask: Tensor, kinds: Tensor, decided: Tensor, round: Tensor, at
    ) -> Tensor:
        """Logits (R, 1 + kinds) of R open pairs, -inf where impossible.

        Args:
            labels: (B, N) long, the number of labels at padding.
            mask: Real nodes, (B, N) bool.
            kinds: 1 + kind of each edge, 0 for none, (B, N, N) long; looked at where `decided`.
            decided: (B, N, N) bool, symmetric.
            round: Number of the round, (B,) long.
            at: None for all open pairs that may be an edge, or (graph, node, other node), each (R,)
                long.

        Returns:
            The logits, and `at`.
        """
        known = known_of(self.table, labels, mask, kinds, decided)
        state = self._states(known, kinds, decided)
        h = self._nodes(known, labels, mask, round)
        bias = self.bias(state).permute(0, 3, 1, 2).masked_fill(~mask[:, None, None], -1e9)
        edges = (decided & (kinds > 0)).to(h.dtype)
        for block, message, own in zip(
            self.blocks, self.messages, bias.split(self.heads, 1), strict=True
        ):
            h = h + message(edges @ h)
            h = block.write(h, *block.read(h), own)
        if at is None:
            at = self.open_pairs(known, mask).nonzero(as_tuple=True)
        return self._read_out(self.norm(h), known, state, at), at

    @staticmethod
    def open_pairs(known: Known, mask: Tensor) -> Tensor:
        """Pairs, the later node first, whose kind is not certain to be 0, (B, N, N) bool."""
        return known.possible.any(-1).tril(-1)

    def _states(self, known: Known, kinds: Tensor, decided: Tensor) -> Tensor:
        choice = torch.where(known.needed, 2, known.possible.any(-1).long())
        choice = torch.where(decided, 3, choice)
        state = (choice * 2 + known.in_ring) * (FAR + 2) + known.distance
        edge = 4 * 2 * (FAR + 2) + kinds - 1
        return torch.where(decided & (kinds > 0), edge, state)

    def _nodes(self, known: Known, labels: Tensor, mask: Tensor, round: Tensor) -> Tensor:
        like = self.places.weight
        places = [one_hots(known.open, 5, like), one_hots(known.candidates, TOLD, like)]
        h = self.labels(labels) + self.places(torch.cat(places, -1))
        whole = self.nodes(mask.sum(1)) + self.round(round)
        whole = whole + self.all_places(one_hots(known.open.sum(1), COUNTED, like))
        whole = whole + self._looked_up(self.whole, known.whole)
        return h + whole[:, None] + self._looked_up(self.parts, known.parts)

    def _looked_up(self, tables: nn.ModuleList, values: Tensor) -> Tensor:
        """Sum of the entries for whole numbers (..., len(tables)), (..., C)."""
        values = values.clamp(0, self.max_nodes).unbind(-1)
        return sum(table(value) for table, value in zip(tables, values, strict=True))

    def _read_out(self, h: Tensor, known: Known, state: Tensor, at) -> Tensor:
        count = len(at[0])
        graph, i, j = (F.pad(part, (0, -count % ROWS)) for part in at)
        nodes = self.end(h).flatten(0, 1)
        one, other = nodes[graph * h.shape[1] + i], nodes[graph * h.shape[1] + j]
        (a, b), (c, d) = one.chunk(2, -1), other.chunk(2, -1)
        e = F.relu(a + c + self.both(b * d) + self.of_state(state[graph, i, j]))
        logits = self.leave(F.relu(self.middle(e)))[:count]
        none = ~known.needed[at][:, None]
        possible = torch.cat([none, known.possible[at]], -1)
        return logits.to(log_term_dtype(logits)).masked_fill(~possible, -math.inf)

    def streams_of(self, x: Tensor, context: PairContext, group: Tensor) -> Tensor:
        """Logits (B, P, 1 + kinds) of all pairs given the rounds before."""
        mask = context.mask
        value = torch.where(mask, x[..., 0], 0)
        rounds = AssemblyRounds(self, context, group)
        logits = None
        for g in range(int(group.max()) + 1):
            chosen = (group == g) & mask
            own = rounds.logits(g, chosen, value)
            logits = own.new_zeros(*value.shape, own.shape[-1]) if logits is None else logits
            logits = logits.masked_scatter(chosen[..., None].expand_as(logits), own)
        return logits

    def read_out(self, asked: Tensor, previous: list[Tensor]) -> Tensor:
        """The logits themselves: there is one variable."""
        return asked.to(log_term_dtype(asked))

    def rounds(self, context: PairContext, group: Tensor) -> AssemblyRounds:
        """The same round by round, with an object that has `ask` and `tell`."""
        return AssemblyRounds(self, context, group)


@dataclass
class PairContext:
    """What the pairs of a batch belong to.

    Attributes:
        mask: Real pairs, (B, P) bool.
        groups: Round of each pair, (B, P) long.
        index: The two nodes of each pair, (B, P, 2) long, the later one first.
        labels: Of the nodes, (B, N) long.
        nodes: Real nodes, (B, N) bool.
    """

    mask: Tensor
    groups: Tensor
    index: Tensor
    labels: Tensor
    nodes: Tensor


class AssemblyRounds:
    """One round of pairs after the other."""

    def __init__(self, network: Assembly, context: PairContext, group: Tensor):
        self.network, self.context, self.group = network, context, group
        self.rows = torch.arange(len(group), device=group.device)[:, None]

    def logits(self, g: int, chosen: Tensor, value: Tensor) -> Tensor:
        """Logits (R, 1 + kinds) of the R pairs `chosen` (B, P), given `value` of the others."""
        context = self.context
        before = (self.group < g) & context.mask
        count = context.labels.shape[1]
        kinds = torch.zeros(len(value), count, count, dtype=torch.long, device=value.device)
        decided = torch.zeros_like(kinds, dtype=torch.bool)
        i, j = context.index.unbind(-1)
        shown = torch.where(before, value, 0)
        kinds[self.rows, i, j] = kinds[self.rows, j, i] = shown
        decided[self.rows, i, j] = decided[self.rows, j, i] = before
        graph, place = chosen.nonzero(as_tuple=True)
        at = graph, i[graph, place], j[graph, place]
        number = torch.full((len(value),), g, device=value.device)
        return self.network(context.labels, context.nodes, kinds, decided, number, at)[0]

    def ask(self, g: int, members: Tensor, known: Tensor) -> Tensor:
        """Logits (B, M, 1 + kinds) of round g; `known` (B, P, 1) holds the pairs before."""
        ours = (self.group == g) & self.context.mask
        own = self.logits(g, ours, known[..., 0])
        real = ours.gather(1, members)
        logits = own.new_zeros(*members.shape, own.shape[-1])
        # Members of a graph come in the order of their numbers.
        return logits.masked_scatter(real[..., None].expand_as(logits), own)

    def tell(self, g: int, members: Tensor, real: Tensor, known: Tensor) -> None:
        """Nothing to keep: all that is known is looked at anew in each round."""
