"""GraphCNF in any order of nodes: labels of all nodes in random groups, then the edges.

A training step looks at one random round of each graph (order-agnostic training: Uria et al. 2014,
arXiv 1310.1757; Hoogeboom et al. 2022, arXiv 2110.02037).
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.categorical import Bound
from graphcnf.categorical.autoregressive import AutoregressiveFlow, InSequence, Network, Step
from graphcnf.categorical.transformer import HIDDEN, Transformer
from graphcnf.errors import UserError
from graphcnf.flows.base import draw_uniform
from graphcnf.flows.modules import ReadOut, zero_init
from graphcnf.flows.transform import Noise, log_term_dtype
from graphcnf.graphs.batch import GraphBatch, Latents, PackedGraphs
from graphcnf.graphs.model import GraphModel, graph_model
from graphcnf.graphs.unordered.labels import (
    FAR,
    EdgeChoices,
    NodeLabels,
    PartialGraph,
    UnorderedContext,
    draw_uniforms,
    exactly,
)

# Numbers from here on are not told apart: of all places of a kind, of a node or a label.
MOST_PLACES, MOST_COUNT = 16, 8
AHEAD = 2  # nodes to come, after the one that is decided, from which on every parity is possible
# Pairs that are read out together come in multiples of this: fewer shapes, fewer kernels.
ROWS = 256


def one_hots(counts: Tensor, most: int, like: Tensor) -> Tensor:
    """Return one-hot codes of whole numbers (..., K), cut off at `most` - 1, (..., K * most)."""
    number = torch.arange(most, device=counts.device)
    return (counts.clamp(0, most - 1)[..., None] == number).flatten(-2).to(like.dtype)


class Parity(nn.Module):
    """Labels that leave each kind of edge (up to 24) an even number of ends, a few nodes ahead."""

    bits: Tensor
    own: Tensor
    reachable: Tensor

    def __init__(self, table: NodeLabels):
        super().__init__()
        kinds = table.ends.shape[1]
        self.used = kinds <= 24
        if not self.used:
            return
        bits = 1 << torch.arange(kinds)
        own = (table.ends[:-1] % 2 * bits).sum(-1)
        reachable = torch.zeros(AHEAD + 2, 1 << kinds, dtype=torch.bool)
        reachable[0, 0] = True
        for ahead in range(AHEAD):
            before = reachable[ahead].nonzero()[:, 0]
            reachable[ahead + 1, (before[:, None] ^ own.unique()).flatten()] = True
        reachable[-1] = True
        for name, part in (("bits", bits), ("own", own), ("reachable", reachable)):
            self.register_buffer(name, part, persistent=False)

    def possible(self, places: Tensor, to_come: Tensor) -> Tensor:
        """Return the possible labels (..., labels) of the next node, at least one."""
        if not self.used:
            return torch.ones((), dtype=torch.bool, device=places.device)
        now = (places.long() % 2 * self.bits).sum(-1)
        ahead = (to_come - 1).clamp(0, AHEAD + 1)
        good = self.reachable[ahead[..., None], now[..., None] ^ self.own]
        return good | ~good.any(-1, keepdim=True)


class NodeLabelNetwork(Network):
    """Probabilities of the labels of the nodes to come, given the counts of labels so far.

    Nodes come in `rounds` of several, in a random order; those of a round are independent, and
    nodes that are still to come are all alike. Residual blocks: `layers` of `width` channels.
    """

    is_category: Tensor

    def __init__(
        self, table: NodeLabels, *, max_nodes: int, rounds: int, width: int = 256, layers: int = 3
    ):
        super().__init__()
        self.table, self.max_nodes, self.rounds = table, max_nodes, rounds
        self.cardinalities = [table.count]
        kinds, categories = len(table.kinds), int(table.rows[:, 0].max()) + 1
        is_category = F.one_hot(table.rows[:, 0], categories).float()
        self.register_buffer("is_category", is_category, persistent=False)
        self.seen = nn.Linear(table.count * (MOST_COUNT + 1), width)
        self.categories = nn.Linear(categories * MOST_COUNT, width, bias=False)
        # Every edge has two ends: whether the number of places of a kind is even says much.
        self.places = nn.Linear(kinds * (MOST_PLACES + 1), width, bias=False)
        self.parity = Parity(table)
        self.nodes = nn.Embedding(max_nodes + 1, width)
        self.to_come = nn.Embedding(max_nodes + 1, width)
        self.surplus = nn.Embedding(2 * max_nodes + 1, width)
        self.bridges = nn.Embedding(2 * max_nodes + 1, width)
        self.blocks = nn.ModuleList()
        for _ in range(layers):
            enter, leave = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
            nn.init.zeros_(leave.weight)
            self.blocks.append(nn.Sequential(nn.LayerNorm(width), enter, nn.ReLU(), leave))
        self.leave = nn.Sequential(nn.LayerNorm(width), zero_init(ReadOut(width, table.count)))
        for embedding in (self.nodes, self.to_come, self.surplus, self.bridges):
            nn.init.normal_(embedding.weight, std=0.2)

    def forward(self, seen: Tensor, to_come: Tensor, sizes: Tensor) -> Tensor:
        """Return logits (..., labels), -inf where a label is impossible.

        Of counts `seen` (..., labels) so far, `to_come` (...) nodes and graphs of `sizes` (...).
        """
        like = self.leave[-1].get_parameter("weight")
        seen = seen.to(like.dtype)
        places = exactly(seen, self.table.ends[:-1])
        # A connected graph has at least as many edges as its nodes less one, and the edges in no
        # ring are at most as many as the nodes less one.
        many, few = (
            (edges.sum(-1) / 2).long() - sizes + to_come + self.max_nodes
            for edges in (places, places[..., self.table.bridges])
        )
        of_kinds = torch.cat([one_hots(places.long(), MOST_PLACES, like), places % 2 * 2 - 1], -1)
        h = self.seen(torch.cat([one_hots(seen.long(), MOST_COUNT, like), seen / 4], -1))
        h = h + self.categories(one_hots(exactly(seen, self.is_category).long(), MOST_COUNT, like))
        h = h + self.places(of_kinds) + self.nodes(sizes) + self.to_come(to_come)
        most = 2 * self.max_nodes
        h = h + self.surplus(many.clamp(0, most)) + self.bridges(few.clamp(0, most))
        for block in self.blocks:
            h = h + block(h)
        logits = self.leave(h)
        possible = self.parity.possible(places, to_come)
        return self.logits(logits).masked_fill(~possible, -math.inf)

    def groups(self, context: UnorderedContext) -> Tensor:
        """Return the round in which the label of each node comes, (B, N) long."""
        ranks = context.ranks(0)
        # Rounds of q + 1 nodes first, then those of q: the last ones decide as little as possible.
        sizes = context.mask.sum(1, keepdim=True)
        q, more = sizes // self.rounds, sizes % self.rounds
        late = (ranks - more * (q + 1)).clamp(min=0) // q.clamp(min=1)
        groups = torch.where(ranks < more * (q + 1), ranks // (q + 1), more + late)
        return groups.clamp(max=self.rounds - 1)

    def start(self, context: UnorderedContext) -> NodeLabelState:
        """Return the state before the first round."""
        return NodeLabelState(self, context)


class NodeLabelState:
    """Counts of the labels so far."""

    def __init__(self, network: NodeLabelNetwork, context: UnorderedContext):
        self.network, self.sizes, self.round = network, context.mask.sum(1), -1
        self.group = network.groups(context).masked_fill(~context.mask, network.rounds)
        self.seen = torch.zeros(len(self.group), network.table.count, device=self.group.device)

    def step(self) -> Step | None:
        """Return the nodes of the next round, with the logits of their labels."""
        self.round += 1
        if self.round >= self.network.rounds:
            return None
        self.at = graph, _ = (self.group == self.round).nonzero(as_tuple=True)
        if not len(graph):
            return None
        rows, place = graph.unique(return_inverse=True)
        seen, sizes = self.seen[rows], self.sizes[rows]
        logits = self.network(seen, sizes - seen.sum(-1).long(), sizes)
        return Step(self.at, logits[place])

    def update(self, x: Tensor) -> None:
        """Count the labels x (M, 1) of the nodes of the current round."""
        index = self.at[0], x[:, 0]
        self.seen = self.seen.index_put(index, torch.ones_like(self.seen[index]), accumulate=True)


class EdgeNetwork(Network):
    """Probabilities of the partners of a frontier node.

    Graph attention over all nodes, with what is known of each pair as a bias; how well a pair fits
    for each kind of edge is read out of its two ends. Nothing knows a numbering. A position is a
    round, its variables are the choices of the frontier node: the number of the partner in a random
    numbering, or `max_nodes` for none.
    """

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
        self.table, self.max_nodes, self.substitutes = table, max_nodes, substitutes
        kinds = len(table.kinds)
        self.choices = int(table.ends.sum(-1).max())
        self.cardinalities = [max_nodes + 1] * self.choices
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
        states = kinds + 4 * 2 * (FAR + 2)
        self.bias = nn.Embedding(states, layers * heads)
        self.messages = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(layers))
        self.blocks = Transformer(width, heads, expansion, layers)
        self.norm = nn.LayerNorm(width)
        self.end = nn.Linear(width, 2 * pair_width)
        self.both = nn.Linear(pair_width, pair_width, bias=False)
        self.of_state = nn.Embedding(states, pair_width)
        self.middle = nn.Linear(pair_width, pair_width)
        self.leave = zero_init(ReadOut(pair_width, kinds))
        tables = (self.labels, self.nodes, self.stage, self.bias, *self.parts, *self.whole)
        for embedding in tables:
            nn.init.normal_(embedding.weight, std=0.2)
        for message in self.messages:
            nn.init.zeros_(message.get_parameter("weight"))

    def choices_at(
        self, context: UnorderedContext, partial: PartialGraph, rows, kinds: Tensor
    ) -> EdgeChoices:
        """Return the hidden states of nodes `rows` (graph and node) with choices of `kinds`."""
        mask, decided = context.mask, partial.decided
        known = partial.look(mask)
        if not self.substitutes:
            known.others.zero_()
        # Of each pair, as for `bias`.
        choice = torch.where(known.needed, 2, known.possible.any(-1).long())
        state = torch.where(decided, 3, choice) * 2 + known.in_ring
        edge = 4 * 2 * (FAR + 2) + partial.kinds - 1
        state = torch.where(partial.kinds > 0, edge, state * (FAR + 2) + known.distance)
        like, free = self.places.weight, partial.free
        places = [one_hots(free, 5, like), one_hots(known.candidates, MOST_COUNT, like)]
        h = self.labels(context.labels) + self.places(torch.cat(places, -1))
        h = h + self.stage(partial.reached.long() + partial.done)
        whole = self.nodes(mask.sum(1)) + self.all_places(one_hots(free.sum(1), MOST_PLACES, like))
        values = known.whole.clamp(0, self.max_nodes).unbind(-1)
        whole = whole + sum(table(v) for table, v in zip(self.whole, values, strict=True))
        values = known.parts.clamp(0, self.max_nodes).unbind(-1)
        parts = sum(table(v) for table, v in zip(self.parts, values, strict=True))
        h = h + whole[:, None] + parts
        bias = self.bias(state).permute(0, 3, 1, 2).masked_fill(~mask[:, None, None], HIDDEN)
        edges = (partial.kinds > 0).to(h.dtype)
        for message, (block, own) in zip(self.messages, self.blocks.each(bias, 1), strict=True):
            h = block(h + message(edges @ h), own)
        # Partners in the order of their random numbers.
        partner = context.ranks(1).argsort(1)[rows[0]]
        graph, node = (part[:, None].expand_as(partner) for part in rows)
        scores = self._logits(self.norm(h), state, (graph, node, partner))
        scores = scores.to(log_term_dtype(scores))
        return EdgeChoices.of(partial, known, mask, rows, partner, scores, kinds)

    def kinds_of_choices(self, free: Tensor) -> Tensor:
        """Return kind by kind as often as there are places (R, K), K for none, (R, V) long."""
        number = torch.arange(self.choices, device=free.device)
        return (number[:, None] >= free.cumsum(1)[:, None]).sum(-1)

    def _logits(self, h: Tensor, state: Tensor, at) -> Tensor:
        """Return scores (R, N, kinds) of pairs `at`, three of (R, N)."""
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
        """Return the frontier nodes (B,) of round g, if real, and kinds (B, V) to choose."""
        node, real = partial.next_node(context, g)
        at = torch.arange(len(node), device=node.device)
        free = torch.where(real[:, None], partial.free[at, node], 0)
        return node, real, self.kinds_of_choices(free)

    def edges(self, x: Tensor, kinds: Tensor, context: UnorderedContext) -> Tensor:
        """Return choices x (B, V) as 1 + kinds of edges of the frontier node, (B, N) long."""
        nodes = context.mask.shape[1]
        row = torch.zeros(len(x), nodes + 1, dtype=torch.long, device=x.device)
        there = (x < nodes) & (kinds < len(self.table.kinds))
        partner = context.ranks(1).argsort(1).gather(1, x.clamp(max=nodes - 1))
        partner = torch.where(there, partner, nodes)
        return row.scatter_(1, partner, torch.where(there, kinds + 1, 0))[:, :nodes]

    def as_choices(self, row: Tensor, order: Tensor, ranks: Tensor) -> tuple[Tensor, Tensor]:
        """Return edges as choices: numbers of partners (R, V) long, and their log orders (R,).

        `row` (R, N) long are 1 + kinds of the edges, 0 for none; they come by kind, and by the
        uniforms `order` (R, N) of the partners within a kind. `ranks` (R, N) number the partners.
        """
        key = torch.where(row > 0, row.double() + 0.999 * order, torch.inf)
        partner = key.argsort(1)[:, : self.choices]
        value = torch.where(row > 0, ranks, self.max_nodes).gather(1, partner)
        value = F.pad(value, (0, self.choices - value.shape[1]), value=self.max_nodes)
        steps = torch.arange(1, len(self.table.kinds) + 1, device=row.device)
        same = (row.gather(1, partner)[..., None] == steps).sum(1)
        return value, torch.lgamma(same + 1.0).sum(-1)

    def encode(self, kinds: Tensor, context: UnorderedContext) -> tuple[Tensor, Tensor]:
        """Return the choices (B, N, V) of graphs of `kinds` plus 1 (B, N, N), and log orders."""
        partial, choices = PartialGraph.start(self.table, context.labels), []
        ranks, at = context.ranks(1), torch.arange(len(kinds), device=kinds.device)
        total = torch.zeros_like(at, dtype=torch.float)
        for g in range(context.mask.shape[1]):
            node, real, _ = self.next_node(partial, context, g)
            row = torch.where(partial.done | ~real[:, None], 0, kinds[at, node])
            order = context.uniforms[..., 1 + context.uniforms.shape[-1] // 2 + g]
            value, orders = self.as_choices(row, order, ranks)
            choices.append(value)
            total = total + orders
            partial = partial.add(node, real, row)
        return torch.stack(choices, 1), total

    def decode(self, x: Tensor, context: UnorderedContext) -> Tensor:
        """Return the kinds (B, N, N) of the edges of choices x (B, N, V), see `encode`."""
        partial = PartialGraph.start(self.table, context.labels)
        for g in range(context.mask.shape[1]):
            node, real, kinds = self.next_node(partial, context, g)
            partial = partial.add(node, real, self.edges(x[:, g], kinds, context))
        return partial.kinds


class EdgeState:
    """Partial graphs; not in place, since training goes through these steps as well."""

    def __init__(self, network: EdgeNetwork, context: UnorderedContext):
        self.network, self.order = network, InSequence(context.mask)
        self.context = context[self.order.rows]
        self.partial = PartialGraph.start(network.table, self.context.labels)

    def step(self) -> Step | None:
        """Return the next round of all unfinished graphs; None at the end."""
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
        graphs = self.context[some], self.partial[some]
        return Step(at, self.network.choices_at(*graphs, nodes, kinds[some]).spread(some))

    def update(self, x: Tensor) -> None:
        """Append the choices x (M, V) of the current round."""
        node, real, kinds = self.current
        row = self.network.edges(x, kinds, self.context)
        self.partial = self.partial.add(node, real, row)


@graph_model("unordered")
class UnorderedModel(GraphModel):
    """p(graph) from the labels of its nodes and then its edges, in random order.

    `edge_kinds`, `node_labels` and `edge_weights` are those of `NodeLabels`. Labels come in
    `node_rounds`; `nodes` and `pairs` are arguments of `NodeLabelNetwork` and `EdgeNetwork`. A
    sample may come to places that nothing fits: with `substitutes` they take places of another kind
    in another part, which never happens in a graph that exists.
    """

    orders = ("none",)
    measured = ("edge_kinds", "node_labels", "edge_weights")
    rules = {"substitutes": False}
    unknown = "a node with other edges or rings than nodes of the training data have"

    def __init__(
        self,
        *,
        node_categories: int,
        bond_categories: int,
        max_nodes: int,
        edge_kinds: list[list[int]],
        node_labels: list[list[int]],
        edge_weights: list[int] | None = None,
        substitutes: bool = True,
        node_rounds: int = 26,
        nodes: dict | None = None,
        pairs: dict | None = None,
    ):
        super().__init__()
        self.table = NodeLabels(edge_kinds, node_labels, edge_weights)
        self.max_nodes, self.node_rounds = max_nodes, node_rounds
        sizes = {"max_nodes": max_nodes}
        labels = NodeLabelNetwork(self.table, **sizes, rounds=node_rounds, **(nodes or {}))
        edges = EdgeNetwork(self.table, **sizes, substitutes=substitutes, **(pairs or {}))
        self.nodes, self.pairs = AutoregressiveFlow(labels), AutoregressiveFlow(edges)

    @staticmethod
    def measure(graphs: PackedGraphs, **options) -> dict:
        """Return the labels and kinds of edges in graphs; UserError where none has an edge."""
        if not len(graphs.bond_types):
            raise UserError("no graph has an edge: this model has nothing to put together")
        sizes = {"edge_weights": options["edge_weights"], "substitutes": options["support"]}
        return {**NodeLabels.measure(graphs), **sizes}

    def knows(self, batch: GraphBatch) -> Tensor:
        """Return which graphs the model can represent, (B,) bool."""
        return ~self.table.look_up(batch)[2].any(1) & batch.mask.any(1)

    def notes(self, rules: bool) -> list[str]:
        """Return a footnote on places that no edge fits."""
        if rules:
            what = "on; a place that no bond fits takes a place of another kind."
        else:
            what = "off; places that no bond fits stay empty."
        return [f"support of the data: {what}"]

    def _encoded(self, batch: GraphBatch, uniforms: Tensor):
        """Return categories of both flows, their context, and the log orders of the choices."""
        labels, kinds = self.table.encode(batch)
        context = UnorderedContext(batch.mask, uniforms=uniforms, labels=labels)
        choices, orders = self.pairs.network.encode(kinds, context)
        mask = batch.mask[..., None]
        labels, choices = (torch.where(mask, x, 0) for x in (labels[..., None], choices))
        return labels, choices, context, orders

    def bounds(self, batch: GraphBatch, noise: Noise | None = None) -> dict[str, Bound]:
        """Return log p(graph | one random order), exact; all rounds are computed.

        Over orders its mean is a lower bound on log p(graph), and more in a logsumexp tighten it.
        """
        uniforms = draw_uniforms(batch.mask, self.max_nodes, noise)
        labels, choices, context, orders = self._encoded(batch, uniforms)
        return {
            "nodes": Bound.exact(self.nodes.flow.log_prob(labels, context)),
            "bonds": Bound.exact(self.pairs.flow.log_prob(choices, context) + orders),
        }

    def estimate(self, batch: GraphBatch) -> dict[str, Bound]:
        """Return an unbiased estimate of `bounds` from one round of labels and one of edges.

        Given what is decided, every node to come is equally likely to be next: all of them count.
        """
        uniforms, mask = draw_uniforms(batch.mask, self.max_nodes), batch.mask
        labels, kinds = self.table.encode(batch)
        context = UnorderedContext(mask, uniforms=uniforms, labels=labels)
        network: NodeLabelNetwork = self.nodes.network
        group = network.groups(context)
        now = torch.randint(self.node_rounds, (len(mask), 1), device=mask.device)
        before, ours = (group < now) & mask, (group == now) & mask
        to_come = mask.sum(1) - before.sum(1)
        one_hot = F.one_hot(labels, self.table.count + 1)[..., :-1].float()
        seen, coming = ((one_hot * part[..., None]).sum(1) for part in (before, mask & ~before))
        log_p = network(seen, to_come, mask.sum(1)).log_softmax(-1)
        total = torch.where(coming > 0, log_p * coming, 0.0).sum(-1)
        total = total * self.node_rounds * ours.sum(1) / to_come.clamp(min=1)
        return {
            "nodes": Bound.exact(total),
            "bonds": Bound.exact(self._estimate_edges(context, kinds)),
        }

    def _estimate_edges(self, context: UnorderedContext, kinds: Tensor) -> Tensor:
        network: EdgeNetwork = self.pairs.network
        mask, sizes = context.mask, context.mask.sum(1)
        now = (torch.rand(len(mask), device=mask.device) * sizes).long()
        partial = PartialGraph.start(self.table, context.labels)
        at = torch.arange(len(mask), device=mask.device)
        for g in range(int(now.max())):
            node, real = partial.next_node(context, g)
            row = torch.where(partial.done, 0, kinds[at, node])
            partial = partial.add(node, real & (g < now), row)
        frontier = partial.frontier(mask)
        graph, _ = rows = frontier.nonzero(as_tuple=True)
        of_choices = network.kinds_of_choices(partial.free[rows])
        hidden = network.choices_at(context, partial, rows, of_choices)
        row = torch.where(partial.done[graph], 0, kinds[rows])
        order = torch.rand(row.shape, device=row.device)
        choices, total = network.as_choices(row, order, context.ranks(1)[graph])
        # No more choices than any of these nodes makes; none where all graphs are single nodes.
        most = int((choices < network.max_nodes).any(0).sum())
        for x in choices[:, :most].unbind(1):
            total = total - F.cross_entropy(network.logits(hidden), x, reduction="none")
            hidden, _ = network.embed(hidden, x)
        share = sizes / frontier.sum(1).clamp(min=1)
        zero = total.new_zeros(len(mask))
        return zero.index_add(0, graph, total.to(zero)) * share

    def encode(self, batch: GraphBatch, noise: Noise | None = None) -> Latents:
        """Return latents: nodes (B, N, 1), pairs (B, N, M), uniforms as order (B, N, R)."""
        uniforms = draw_uniforms(batch.mask, self.max_nodes, noise)
        labels, choices, context, _ = self._encoded(batch, uniforms)
        context = replace(context, noise=noise)
        nodes, pairs = self.nodes.encode(labels, context), self.pairs.encode(choices, context)
        return {"nodes": nodes, "pairs": pairs, "order": uniforms}

    def base_sample(self, mask: Tensor, generator=None) -> Latents:
        """Draw latents for graphs with real nodes `mask` (B, N)."""
        kind = {"mask": mask, "generator": generator, "device": mask.device}
        shape = *mask.shape, 2 + 2 * self.max_nodes
        latents = {"order": draw_uniform(shape, dtype=torch.float64, **kind)}
        for name, flow in (("nodes", self.nodes), ("pairs", self.pairs)):
            shape = (*mask.shape, flow.encoding.latent_dim)
            latents[name] = flow.base.sample(shape, dtype=flow.encoding.like.dtype, **kind)
        return latents

    def decode(self, latents: Latents, mask: Tensor, **options) -> GraphBatch:
        """Return graphs of latents; `options` are `temperature`, `sample` and `generator`."""
        return self.table.decode(*self.decode_labels(latents, mask, **options), mask)

    def decode_labels(
        self, latents: Latents, mask: Tensor, *, sample: bool = False, **draw
    ) -> tuple[Tensor, Tensor]:
        """Return labels (B, N) and kinds (B, N, N), which need not fit: see `NodeLabels`."""
        context = UnorderedContext(mask, uniforms=latents["order"], **draw)
        labels = self.nodes.decode(latents["nodes"], context, sample=sample)
        labels = torch.where(mask, labels[..., 0], self.table.count)
        context = replace(context, labels=labels)
        choices = self.pairs.decode(latents["pairs"], context, sample=sample)
        return labels, self.pairs.network.decode(choices, context)
