"""GraphCNF in any order of nodes: labels of all nodes first, then the edges.

Two categorical flows (interval encoding, interleaved coupling) over variables whose order is
random: labels come in random groups, edges node by node as the graph grows (`growth`). A training
step looks at one random round of each graph (order-agnostic training: Uria et al. 2014, arXiv
1310.1757; Hoogeboom et al. 2022, arXiv 2110.02037).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.categorical import Bound, InterleavedFlow
from graphcnf.categorical.interleaved_coupling import GroupContext
from graphcnf.errors import UserError
from graphcnf.flows.base import draw_uniform
from graphcnf.flows.transform import Noise, sum_log_term
from graphcnf.graphs.batch import GraphBatch, Latents
from graphcnf.graphs.packed import PackedGraphs
from graphcnf.graphs.rounds.assembly import Assembly, AssemblyRounds, PickContext
from graphcnf.graphs.rounds.composition import Composition
from graphcnf.graphs.rounds.growth import Grown, chances_of, draw_chances, of_focus, ranks_of
from graphcnf.graphs.rounds.labels import NodeLabels


class RoundSteps(nn.Module):
    """p(graph) from the labels of its nodes and then its edges, in random order.

    Args:
        node_categories: Number of node categories.
        bond_categories: Number of edge categories.
        max_nodes: Largest number of nodes.
        edge_kinds: See `NodeLabels`.
        node_labels: See `NodeLabels`.
        edge_weights: See `NodeLabels`.
        substitutes: Whether places that nothing fits may take places of another kind, see `known`.
        node_rounds: Rounds for the labels; the edges take at most one for each node.
        nodes: Arguments of `Composition`.
        pairs: Arguments of `Assembly`.
    """

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
        composition = Composition(self.table, max_nodes=max_nodes, **(nodes or {}))
        assembly = Assembly(
            self.table, max_nodes=max_nodes, substitutes=substitutes, **(pairs or {})
        )
        self.nodes = InterleavedFlow(composition, groups=node_rounds)
        self.pairs = InterleavedFlow(assembly, groups=max_nodes)

    @staticmethod
    def measure(
        graphs: PackedGraphs,
        *,
        edge_weights: list[int] | None = None,
        support: bool = True,
        **categories,
    ) -> dict:
        """The labels and kinds of edges in a set of graphs; what is possible follows from them.

        `support`: see `substitutes` of the class.

        Raises:
            UserError: No graph has an edge.
        """
        if not len(graphs.bond_types):
            raise UserError("no graph has an edge: this coding has nothing to put together")
        sizes = {"edge_weights": edge_weights, "substitutes": support}
        return {**NodeLabels.measure(graphs), **sizes}

    without_support = {"substitutes": False}
    """Arguments of the constructor with which no place takes a place of another kind."""

    unknown = "a node with other edges or rings than nodes of the training data have"
    """Why a graph is not known, where `knows` says so."""

    def knows(self, batch: GraphBatch) -> Tensor:
        """Whether the model can represent a graph, (B,) bool."""
        return ~self.table.look_up(batch)[2].any(1) & batch.mask.any(1)

    def groups(self, mask: Tensor, chances: Tensor) -> Tensor:
        """Round in which the label of each node comes, (B, N) long."""
        ranks = ranks_of(chances, mask, 0)
        # Rounds of q + 1 nodes first, then those of q: the last ones decide as little as possible.
        sizes = mask.sum(1, keepdim=True)
        q, more = sizes // self.node_rounds, sizes % self.node_rounds
        late = (ranks - more * (q + 1)).clamp(min=0) // q.clamp(min=1)
        groups = torch.where(ranks < more * (q + 1), ranks // (q + 1), more + late)
        return groups.clamp(max=self.node_rounds - 1)

    def _encoded(self, batch: GraphBatch, chances: Tensor):
        """Values of both flows with their contexts, and the log orders of the picks."""
        mask = batch.mask
        labels, kinds = self.table.encode(batch)
        context = PickContext(mask, labels=labels, chances=chances)
        rounds = AssemblyRounds(self.pairs.network, context)
        picks, log_orders = rounds.follow(kinds)
        labels = torch.where(mask, labels, 0)[..., None]
        picks = torch.where(mask[..., None], picks, 0)
        of_nodes = GroupContext(mask, groups=self.groups(mask, chances))
        return (labels, of_nodes), (picks, context), log_orders

    def bounds(self, batch: GraphBatch, noise: Noise | None = None) -> dict[str, Bound]:
        """Log-probability of the graph given one random order, exact; all rounds are computed.

        Over orders its mean is a lower bound on log p(graph), and more of them in a logsumexp
        tighten it. The density of the latents, integrated over the intervals, is the product of the
        conditional probabilities.
        """
        chances = draw_chances(batch.mask, self.max_nodes, noise)
        nodes, pairs, log_orders = self._encoded(batch, chances)
        return {
            "nodes": Bound.exact(_log_prob(self.nodes, *nodes)),
            "bonds": Bound.exact(_log_prob(self.pairs, *pairs) + log_orders),
        }

    def estimate(self, batch: GraphBatch) -> dict[str, Bound]:
        """An estimate of `bounds` without bias from one round of labels and one of edges.

        Given what is decided, every node to come is equally likely to be next: all of them count,
        each with the share of the round.
        """
        chances = draw_chances(batch.mask, self.max_nodes)
        labels, kinds = self.table.encode(batch)
        return {
            "nodes": Bound.exact(self._estimate_nodes(batch.mask, labels, chances)),
            "bonds": Bound.exact(self._estimate_pairs(batch.mask, labels, kinds, chances)),
        }

    def _estimate_nodes(self, mask: Tensor, labels: Tensor, chances: Tensor) -> Tensor:
        network: Composition = self.nodes.network
        rounds = self.node_rounds
        group = self.groups(mask, chances)
        now = torch.randint(rounds, (len(mask), 1), device=mask.device)
        before, ours = (group < now) & mask, (group == now) & mask
        to_come = mask.sum(1) - before.sum(1)
        seen, coming = (network.count_seen(labels, part) for part in (before, mask & ~before))
        log_p = network.read_out(network(seen, to_come, mask.sum(1)), []).log_softmax(-1)
        total = torch.where(coming > 0, log_p * coming, 0.0).sum(-1)
        return total * rounds * ours.sum(1) / to_come.clamp(min=1)

    def _estimate_pairs(
        self, mask: Tensor, labels: Tensor, kinds: Tensor, chances: Tensor
    ) -> Tensor:
        network: Assembly = self.pairs.network
        sizes = mask.sum(1)
        now = (torch.rand(len(mask), device=mask.device) * sizes).long()
        grown = Grown.start(self.table, labels)
        at = torch.arange(len(mask), device=mask.device)
        for g in range(int(now.max())):
            focus, real = grown.focus(mask, of_focus(chances, g))
            row = torch.where(grown.done, 0, kinds[at, focus])
            grown = grown.add(focus, real & (g < now), row)
        frontier = grown.frontier(mask)
        graph, node = frontier.nonzero(as_tuple=True)
        rows = graph, node
        ranks = ranks_of(chances, mask, 1)
        picking = network.kinds_of_picks(grown.free[rows])
        offers = network.offers(labels, mask, grown, rows, picking, ranks)
        row = torch.where(grown.done[rows[0]], 0, kinds[rows])
        picks, total = network.as_picks(
            row, torch.rand(row.shape, device=row.device), ranks[rows[0]]
        )
        previous: list[Tensor] = []
        # No more picks than any of these nodes makes; none where all graphs are single nodes.
        most = int((picks < network.max_nodes).any(0).sum())
        for pick in picks[:, :most].unbind(1):
            logits = network.read_out(offers, previous)
            total = total - F.cross_entropy(logits, pick, reduction="none")
            previous.append(pick)
        share = sizes / frontier.sum(1).clamp(min=1)
        zero = total.new_zeros(len(mask))
        return zero.index_add(0, rows[0], total.to(zero)) * share

    def encode(self, batch: GraphBatch, noise: Noise | None = None) -> Latents:
        """Latents of the base space: nodes (B, N, 1), pairs (B, N, M); `order` of the order.

        `order` (B, N, R) holds uniform numbers, see `draw_chances`.
        """
        chances = draw_chances(batch.mask, self.max_nodes, noise)
        (labels, of_nodes), (picks, of_pairs), _ = self._encoded(batch, chances)
        return {
            "nodes": self.nodes.encode(labels, replace(of_nodes, noise=noise)),
            "pairs": self.pairs.encode(picks, replace(of_pairs, noise=noise)),
            "order": chances,
        }

    def base_sample(self, mask: Tensor, generator=None) -> Latents:
        """Draw latents for graphs with real nodes `mask` (B, N)."""
        kind = {"mask": mask, "generator": generator, "device": mask.device}
        shape = *mask.shape, chances_of(self.max_nodes)
        latents = {"order": draw_uniform(shape, dtype=torch.float64, **kind)}
        for name, flow in (("nodes", self.nodes), ("pairs", self.pairs)):
            shape = (*mask.shape, flow.encoding.latent_dim)
            latents[name] = flow.base.sample(shape, dtype=flow.encoding.like.dtype, **kind)
        return latents

    def decode(self, latents: Latents, mask: Tensor, **options) -> GraphBatch:
        """Graphs of latents; `options` are `temperature`, `sample` and `generator`."""
        return self.table.decode(*self.decode_labels(latents, mask, **options), mask)

    def decode_labels(
        self, latents: Latents, mask: Tensor, *, sample: bool = False, **draw
    ) -> tuple[Tensor, Tensor]:
        """Labels (B, N) and kinds (B, N, N) of latents, which need not fit: see `NodeLabels`."""
        chances = latents["order"]
        of_nodes = GroupContext(mask, groups=self.groups(mask, chances), **draw)
        labels = self.nodes.decode(latents["nodes"], of_nodes, sample=sample)
        labels = torch.where(mask, labels[..., 0], self.table.count)
        of_pairs = PickContext(mask, labels=labels, chances=chances, **draw)
        picks = self.pairs.decode(latents["pairs"], of_pairs, sample=sample)
        rounds = AssemblyRounds(self.pairs.network, of_pairs)
        for g in range(mask.shape[1]):
            rounds.turn(g)
            rounds.tell(g, None, None, picks)
        return labels, rounds.grown.kinds


def _log_prob(flow: InterleavedFlow, value: Tensor, context) -> Tensor:
    """Sum of the conditional log-probabilities, (B,) nats."""
    log_p = flow.coupling.log_probs(value, context)
    own = log_p.gather(-1, value[..., None])[..., 0]
    return sum_log_term(torch.where(context.mask[..., None], own, 0), context.mask)
