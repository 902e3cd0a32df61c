"""Labels of nodes, round by round.

Nodes that are still to come are all alike, so the probabilities of their labels are a function of
how often each label was seen, and the same for all of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.flows.readout import ReadOut, zero_init
from graphcnf.flows.transform import log_term_dtype
from graphcnf.graphs.rounds.labels import NodeLabels

COUNTED, TOLD = 16, 8
"""Numbers from here on are not told apart: of all places of a kind, of a node or a label."""


def one_hots(counts: Tensor, most: int, like: Tensor) -> Tensor:
    """One-hot codes of whole numbers (..., K), cut off at `most` - 1, (..., K * most)."""
    number = torch.arange(most, device=counts.device)
    return (counts.clamp(0, most - 1)[..., None] == number).flatten(-2).to(like.dtype)


def exactly(counts: Tensor, table: Tensor) -> Tensor:
    """The product of whole numbers, whatever the autocast type."""
    with torch.autocast(counts.device.type, enabled=False):
        return counts.double().matmul(table.double()).to(counts.dtype)


class Parity(nn.Module):
    """Which labels leave every kind of edge an even number of ends, as far as one can look ahead.

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


class Composition(nn.Module):
    """Probabilities of the labels of the nodes to come, given how often each one was seen.

    Args:
        table: Meaning of the labels.
        max_nodes: Largest number of nodes.
        width: Channels.
        layers: Residual blocks.
    """

    is_category: Tensor

    def __init__(self, table: NodeLabels, *, max_nodes: int, width: int = 256, layers: int = 3):
        super().__init__()
        self.table, self.max_nodes = table, max_nodes
        self.cardinalities = [table.count]
        kinds, categories = len(table.kinds), int(table.rows[:, 0].max()) + 1
        is_category = F.one_hot(table.rows[:, 0], categories).float()
        self.register_buffer("is_category", is_category, persistent=False)
        self.seen = nn.Linear(table.count * (TOLD + 1), width)
        self.categories = nn.Linear(categories * TOLD, width, bias=False)
        # Every edge has two ends: whether the number of places of a kind is even says much.
        self.places = nn.Linear(kinds * (COUNTED + 1), width, bias=False)
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
        """Logits (..., labels).

        Args:
            seen: How many nodes have each label, (..., labels) float.
            to_come: How many nodes are still to come, (...) long.
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
        of_kinds = torch.cat([one_hots(places.long(), COUNTED, like), places % 2 * 2 - 1], -1)
        h = self.seen(torch.cat([one_hots(seen.long(), TOLD, like), seen / 4], -1))
        h = h + self.categories(one_hots(exactly(seen, self.is_category).long(), TOLD, like))
        h = h + self.places(of_kinds) + self.nodes(sizes) + self.to_come(to_come)
        most = 2 * self.max_nodes
        h = h + self.surplus(many.clamp(0, most)) + self.bridges(few.clamp(0, most))
        for block in self.blocks:
            h = h + block(h)
        logits = self.leave(h)
        possible = self.parity.possible(places, to_come)
        return logits.to(log_term_dtype(logits)).masked_fill(~possible, -math.inf)

    def count_seen(self, labels: Tensor, shown: Tensor) -> Tensor:
        """How many of the nodes `shown` (B, N) bool have each label (B, N), (B, labels) float."""
        one_hot = F.one_hot(torch.where(shown, labels, self.table.count), self.table.count + 1)
        return one_hot[..., :-1].sum(1).float()

    def streams_of(self, x: Tensor, context, group: Tensor) -> Tensor:
        """Logits (B, N, labels) of all nodes given the rounds before, for `InterleavedCoupling`."""
        mask, sizes = context.mask, context.mask.sum(1)
        rounds = int(group.max()) + 1 if group.numel() else 1
        ours = group[:, None] == torch.arange(rounds, device=group.device)[:, None]
        one_hot = F.one_hot(torch.where(mask, x[..., 0], self.table.count), self.table.count + 1)
        # Each round's own counts, and of them those of all rounds before.
        own = (ours & mask[:, None]).float() @ one_hot[..., :-1].float()
        seen = own.cumsum(1) - own
        to_come = sizes[:, None] - seen.sum(-1).long()
        logits = self(seen, to_come, sizes[:, None].expand_as(to_come))
        return logits.gather(1, group[..., None].expand(-1, -1, logits.shape[-1]))

    def read_out(self, asked: Tensor, previous: list[Tensor]) -> Tensor:
        """The logits themselves: there is one variable."""
        return asked.to(log_term_dtype(asked))

    def rounds(self, context, group: Tensor) -> CompositionRounds:
        """The same round by round, with an object that has `ask` and `tell`."""
        return CompositionRounds(self, context.mask, group)


@dataclass
class CompositionRounds:
    """One round of nodes after the other."""

    network: Composition
    mask: Tensor
    group: Tensor

    def ask(self, g: int, members: Tensor, known: Tensor) -> Tensor:
        """Logits (B, M, labels) of the nodes of round g; `known` (B, N, 1) holds those before."""
        seen = self.network.count_seen(known[..., 0], (self.group < g) & self.mask)
        sizes = self.mask.sum(1)
        logits = self.network(seen, sizes - seen.sum(-1).long(), sizes)
        return logits[:, None].expand(-1, members.shape[1], -1)

    def tell(self, g: int, members: Tensor, real: Tensor, known: Tensor) -> None:
        """Nothing to keep: counts are quickly made."""
