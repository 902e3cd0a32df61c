"""Node-label network: labels of nodes, round by round.

Nodes that are still to come are all alike, so the probabilities of their labels are a function of
how often each label was seen, and the same for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.categorical.autoregressive import Network, Step
from graphcnf.flows.modules import ReadOut, zero_init
from graphcnf.graphs.unordered.labels import NodeLabels
from graphcnf.graphs.unordered.partial import UnorderedContext, ranks_of

MOST_PLACES, MOST_COUNT = 16, 8
"""Numbers from here on are not told apart: of all places of a kind, of a node or a label."""


def one_hots(counts: Tensor, most: int, like: Tensor) -> Tensor:
    """One-hot codes of whole numbers (..., K), cut off at `most` - 1, (..., K * most)."""
    number = torch.arange(most, device=counts.device)
    return (counts.clamp(0, most - 1)[..., None] == number).flatten(-2).to(like.dtype)


def exactly(counts: Tensor, table: Tensor) -> Tensor:
    """Return the product of whole numbers, whatever the autocast type."""
    with torch.autocast(counts.device.type, enabled=False):
        return counts.double().matmul(table.double()).to(counts.dtype)


class Parity(nn.Module):
    """Labels that leave every kind of edge an even number of ends, a few nodes ahead.

    Args:
        table: Meaning of the labels. With more than 24 kinds of edges nothing is looked at.
    """

    AHEAD = 2
    """Nodes to come, after the one that is decided, from which on everything is possible."""

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
        reachable = torch.zeros(self.AHEAD + 2, 1 << kinds, dtype=torch.bool)
        reachable[0, 0] = True
        for ahead in range(self.AHEAD):
            before = reachable[ahead].nonzero()[:, 0]
            reachable[ahead + 1, (before[:, None] ^ own.unique()).flatten()] = True
        reachable[-1] = True
        self.register_buffer("bits", bits, persistent=False)
        self.register_buffer("own", own, persistent=False)
        self.register_buffer("reachable", reachable, persistent=False)

    def possible(self, places: Tensor, to_come: Tensor) -> Tensor:
        """For the next node, (..., labels) bool, at least one of them True.

        Args:
            places: Ends of each kind at the nodes so far, (..., kinds) of whole numbers.
            to_come: Nodes to come, the next one included, (...) long.
        """
        if not self.used:
            return torch.ones((), dtype=torch.bool, device=places.device)
        now = (places.long() % 2 * self.bits).sum(-1)
        ahead = (to_come - 1).clamp(0, self.AHEAD + 1)
        good = self.reachable[ahead[..., None], now[..., None] ^ self.own]
        return good | ~good.any(-1, keepdim=True)


class NodeLabelNetwork(Network):
    """Probabilities of the labels of the nodes to come, given the counts of labels so far.

    Nodes come in rounds of several, in a random order; those of a round are independent.

    Args:
        table: Meaning of the labels.
        max_nodes: Largest number of nodes.
        rounds: Number of rounds.
        width: Channels.
        layers: Residual blocks.
    """

    is_category: Tensor

    def __init__(
        self,
        table: NodeLabels,
        *,
        max_nodes: int,
        rounds: int,
        width: int = 256,
        layers: int = 3,
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
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.ReLU(),
                nn.Linear(2 * width, width),
            )
            for _ in range(layers)
        )  # fmt: skip
        self.leave = nn.Sequential(nn.LayerNorm(width), zero_init(ReadOut(width, table.count)))
        for block in self.blocks:
            nn.init.zeros_([*block.children()][-1].get_parameter("weight"))
        for embedding in (self.nodes, self.to_come, self.surplus, self.bridges):
            nn.init.normal_(embedding.weight, std=0.2)

    def forward(self, seen: Tensor, to_come: Tensor, sizes: Tensor) -> Tensor:
        """Return logits (..., labels), -inf where a label is impossible.

        Args:
            seen: Number of nodes with each label, (..., labels) float.
            to_come: Number of nodes still to come, (...) long.
            sizes: Number of nodes of the graph, (...) long.
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

    def count_seen(self, labels: Tensor, shown: Tensor) -> Tensor:
        """Return the counts (B, labels) float of the labels (B, N) of the nodes `shown` (B, N)."""
        one_hot = F.one_hot(torch.where(shown, labels, self.table.count), self.table.count + 1)
        return one_hot[..., :-1].sum(1).float()

    def groups(self, mask: Tensor, uniforms: Tensor) -> Tensor:
        """Return the round in which the label of each node comes, (B, N) long."""
        ranks = ranks_of(uniforms, mask, 0)
        # Rounds of q + 1 nodes first, then those of q: the last ones decide as little as possible.
        sizes = mask.sum(1, keepdim=True)
        q, more = sizes // self.rounds, sizes % self.rounds
        late = (ranks - more * (q + 1)).clamp(min=0) // q.clamp(min=1)
        groups = torch.where(ranks < more * (q + 1), ranks // (q + 1), more + late)
        return groups.clamp(max=self.rounds - 1)

    def steps(self, x: Tensor, context: UnorderedContext) -> Iterator[Step]:
        """Yield all nodes in one step."""
        mask, sizes = context.mask, context.mask.sum(1)
        group = self.groups(mask, context.uniforms)
        ours = group[:, None] == torch.arange(self.rounds, device=group.device)[:, None]
        one_hot = F.one_hot(torch.where(mask, x[..., 0], self.table.count), self.table.count + 1)
        # Each round's own counts, and of them those of all rounds before.
        own = (ours & mask[:, None]).float() @ one_hot[..., :-1].float()
        seen = own.cumsum(1) - own
        to_come = sizes[:, None] - seen.sum(-1).long()
        logits = self(seen, to_come, sizes[:, None].expand_as(to_come))
        at = mask.nonzero(as_tuple=True)
        yield Step(at, logits[at[0], group[at]])

    def start(self, context: UnorderedContext) -> NodeLabelState:
        """Return the state before the first round."""
        return NodeLabelState(self, context)


class NodeLabelState:
    """Counts of the labels so far."""

    def __init__(self, network: NodeLabelNetwork, context: UnorderedContext):
        self.network, self.sizes, self.round = network, context.mask.sum(1), -1
        group = network.groups(context.mask, context.uniforms)
        self.group = group.masked_fill(~context.mask, network.rounds)
        self.seen = torch.zeros(len(group), network.cardinalities[0], device=group.device)

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
