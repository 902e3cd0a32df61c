"""Edge network: edges between the nodes, one frontier node after the other, given the labels.

Graph attention over all nodes, with what is known of each pair as a bias; how well a pair fits for
each kind of edge is read out of its two ends. Nothing knows a numbering.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.categorical.autoregressive import InSequence, Network, Step
from graphcnf.categorical.transformer import HIDDEN, Transformer
from graphcnf.flows.modules import ReadOut, zero_init
from graphcnf.flows.transform import log_term_dtype
from graphcnf.graphs.unordered.choices import EdgeChoices
from graphcnf.graphs.unordered.known import FAR, Known, known_of
from graphcnf.graphs.unordered.label_network import MOST_COUNT, MOST_PLACES, one_hots
from graphcnf.graphs.unordered.labels import NodeLabels
from graphcnf.graphs.unordered.partial import (
    PartialGraph,
    UnorderedContext,
    choices_of,
    log_orders,
    ranks_of,
)

ROWS = 256
"""Pairs that are read out together come in multiples of this: fewer shapes, fewer kernels."""


class EdgeNetwork(Network):
    """Probabilities of the partners of a frontier node.

    A position is a round, its variables are the choices of the frontier node: the number of the
    partner in a random numbering, or `max_nodes` for none.

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
        self.table, self.max_nodes = table, max_nodes
        self.substitutes = substitutes
        kinds = len(table.kinds)
        self.choices = int(table.ends.sum(-1).max())
        self.cardinalities = [max_nodes + 1] * self.choices
        rings = F.pad(~table.bridges, (0, 1))
        self.register_buffer("rings", rings, persistent=False)
        self.labels = nn.Embedding(table.count + 1, width)
        self.nodes = nn.Embedding(max_nodes + 1, width)
        # Of the node: no part of the partial graph, part of it, part of it with all its edges.
        self.stage = nn.Embedding(3, width)
        self.places = nn.Linear(kinds * (5 + MOST_COUNT), width)
        self.all_places = nn.Linear(kinds * MOST_PLACES, width, bias=False)
        self.parts = nn.ModuleList(nn.Embedding(max_nodes + 1, width) for _ in range(6))
        self.whole = nn.ModuleList(nn.Embedding(max_nodes + 1, width) for _ in range(3))
        # What is known of a pair: decided for an edge of some kind, decided for none, or open and
        # without a possible kind, free to choose, needed; all but the first with the distance, and
        # whether rings connect the two.
        self.states = kinds + 4 * 2 * (FAR + 2)
        self.bias = nn.Embedding(self.states, layers * heads)
        self.messages = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(layers))
        self.blocks = Transformer(width, heads, expansion, layers)
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

    def choices_at(
        self,
        context: UnorderedContext,
        partial: PartialGraph,
        rows: tuple[Tensor, Tensor],
        kinds: Tensor,
    ) -> EdgeChoices:
        """Return the hidden states of nodes that choose.

        Args:
            context: Of the graphs, with labels.
            partial: The graphs so far.
            rows: The nodes: graph and node, each (M,) long.
            kinds: Of their choices, see `kinds_of_choices`.
        """
        assert context.labels is not None
        mask, decided = context.mask, partial.decided
        known = known_of(self.table, partial.free, mask, partial.kinds, decided)
        known.others &= self.substitutes
        state = self._states(known, partial.kinds, decided)
        h = self._nodes(known, context.labels, mask, partial)
        bias = self.bias(state).permute(0, 3, 1, 2).masked_fill(~mask[:, None, None], HIDDEN)
        edges = (partial.kinds > 0).to(h.dtype)
        for message, (block, own) in zip(self.messages, self.blocks.each(bias, 1), strict=True):
            h = block(h + message(edges @ h), own)
        # Partners in the order of their random numbers.
        partner = ranks_of(context.uniforms, mask, 1).argsort(1)[rows[0]]
        graph, node = (part[:, None].expand_as(partner) for part in rows)
        scores = self._read_out(self.norm(h), state, (graph, node, partner))
        scores = scores.to(log_term_dtype(scores))
        return EdgeChoices.of(
            known, mask, partial.reached, rows, partner, scores, kinds, self.rings
        )

    def kinds_of_choices(self, free: Tensor) -> Tensor:
        """Return kind by kind as often as there are places (R, K), K for none, (R, V) long."""
        number = torch.arange(self.choices, device=free.device)
        return (number[:, None] >= free.cumsum(1)[:, None]).sum(-1)

    def _states(self, known: Known, kinds: Tensor, decided: Tensor) -> Tensor:
        choice = torch.where(known.needed, 2, known.possible.any(-1).long())
        choice = torch.where(decided, 3, choice)
        state = (choice * 2 + known.in_ring) * (FAR + 2) + known.distance
        edge = 4 * 2 * (FAR + 2) + kinds - 1
        return torch.where(kinds > 0, edge, state)

    def _nodes(self, known: Known, labels: Tensor, mask: Tensor, partial: PartialGraph) -> Tensor:
        like = self.places.weight
        places = [one_hots(known.open, 5, like), one_hots(known.candidates, MOST_COUNT, like)]
        h = self.labels(labels) + self.places(torch.cat(places, -1))
        h = h + self.stage(partial.reached.long() + partial.done)
        whole = self.nodes(mask.sum(1))
        whole = whole + self.all_places(one_hots(known.open.sum(1), MOST_PLACES, like))
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

    def start(self, context: UnorderedContext) -> EdgeState:
        """Return the state before the first round."""
        return EdgeState(self, context)

    def logits(self, hidden: EdgeChoices) -> Tensor:
        """Return logits (M, max_nodes + 1) of the next choice; the last one is no partner."""
        logits = hidden.logits()
        logits = F.pad(logits, (0, self.max_nodes - logits.shape[-1]), value=-math.inf)
        none = torch.where(logits.isinf().all(-1, keepdim=True), 0.0, -math.inf)
        return torch.cat([logits, none.to(logits)], -1)

    def embed(self, hidden: EdgeChoices, x: Tensor) -> tuple[EdgeChoices, None]:
        """Add the choice x (M,)."""
        return hidden.add(x), None

    def next_node(self, partial: PartialGraph, context: UnorderedContext, g: int):
        """Return the frontier node of round g, whether there is one, and the kinds to choose.

        Returns:
            (B,) long, (B,) bool and (B, V) long.
        """
        node, real = partial.next_node(context.mask, context.of_frontier(g))
        at = torch.arange(len(node), device=node.device)
        free = torch.where(real[:, None], partial.free[at, node], 0)
        return node, real, self.kinds_of_choices(free)

    def edges(self, x: Tensor, kinds: Tensor, context: UnorderedContext) -> Tensor:
        """Return choices x (B, V) as 1 + kinds of edges of the frontier node, (B, N) long."""
        nodes = context.mask.shape[1]
        node_of = ranks_of(context.uniforms, context.mask, 1).argsort(1)
        row = torch.zeros(len(x), nodes + 1, dtype=torch.long, device=x.device)
        there = (x < nodes) & (kinds < len(self.table.kinds))
        partner = torch.where(there, node_of.gather(1, x.clamp(max=nodes - 1)), nodes)
        return row.scatter_(1, partner, torch.where(there, kinds + 1, 0))[:, :nodes]

    def as_choices(self, row: Tensor, order: Tensor, ranks: Tensor) -> tuple[Tensor, Tensor]:
        """Return edges as choices: numbers of partners (R, V) long, and their log orders (R,).

        Args:
            row: 1 + kinds of the edges of R nodes, 0 for none, (R, N) long.
            order: Uniforms of the partners, (R, N).
            ranks: Random numbering, (R, N) long.
        """
        partner, kinds = choices_of(row, order, self.choices)
        value = torch.where(kinds > 0, ranks.gather(1, partner), self.max_nodes)
        value = F.pad(value, (0, self.choices - value.shape[1]), value=self.max_nodes)
        return value, log_orders(kinds, len(self.table.kinds))

    def encode(self, kinds: Tensor, context: UnorderedContext) -> tuple[Tensor, Tensor]:
        """Return the choices (B, N, V) that make the graphs of `kinds`, and their log orders (B,).

        Args:
            kinds: 1 + kind of each edge, 0 for none, (B, N, N) long.
            context: With labels.
        """
        assert context.labels is not None
        partial, choices = PartialGraph.start(self.table, context.labels), []
        ranks = ranks_of(context.uniforms, context.mask, 1)
        at, total = (
            torch.arange(len(kinds), device=kinds.device),
            kinds.new_zeros(len(kinds)).float(),
        )
        for g in range(context.mask.shape[1]):
            node, real, _ = self.next_node(partial, context, g)
            row = torch.where(partial.done | ~real[:, None], 0, kinds[at, node])
            value, orders = self.as_choices(row, context.of_choices(g), ranks)
            choices.append(value)
            total = total + orders
            partial = partial.add(node, real, row)
        return torch.stack(choices, 1), total

    def decode(self, x: Tensor, context: UnorderedContext) -> Tensor:
        """Return the kinds (B, N, N) of the edges of choices x (B, N, V), see `encode`."""
        assert context.labels is not None
        partial = PartialGraph.start(self.table, context.labels)
        for g in range(context.mask.shape[1]):
            node, real, kinds = self.next_node(partial, context, g)
            partial = partial.add(node, real, self.edges(x[:, g], kinds, context))
        return partial.kinds


class EdgeState:
    """Partial graphs; not in place, since training goes through these steps as well."""

    def __init__(self, network: EdgeNetwork, context: UnorderedContext):
        assert context.labels is not None
        self.network, self.order = network, InSequence(context.mask)
        self.context = context[self.order.rows]
        self.partial = PartialGraph.start(network.table, context.labels[self.order.rows])

    def step(self) -> Step | None:
        """Return the next round of all graphs that have one."""
        at = self.order.next()
        if at is None:
            return None
        rows = slice(len(at[0]))
        self.context, self.partial = self.context[rows], self.partial[rows]
        self.current = self.network.next_node(self.partial, self.context, at[1])
        node, real, kinds = self.current
        # A graph that is complete before its last round has nothing left to choose.
        some = real.clone()
        some[0] = True
        nodes = torch.arange(int(some.sum()), device=node.device), node[some]
        choices = self.network.choices_at(
            self.context[some], self.partial[some], nodes, kinds[some]
        )
        return Step(at, choices.spread(some))

    def update(self, x: Tensor) -> None:
        """Append the choices x (M, V) of the current round."""
        node, real, kinds = self.current
        row = self.network.edges(x, kinds, self.context)
        self.partial = self.partial.add(node, real, row)
