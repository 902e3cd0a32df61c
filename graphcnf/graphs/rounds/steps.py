"""GraphCNF in a fixed number of rounds, invariant to the order of nodes.

First the label of every node, then the kind of the edge of every pair, each in random groups:
two categorical flows (interval encoding, interleaved coupling), whose groups are latents with a
uniform density. A training step looks at one random round of each graph (order-agnostic training:
Uria et al. 2014, arXiv 1310.1757; Hoogeboom et al. 2022, arXiv 2110.02037).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphcnf.categorical import Bound, CategoricalFlow, IntervalEncoding
from graphcnf.categorical.context import Context
from graphcnf.categorical.interleaved_coupling import InterleavedCoupling
from graphcnf.flows.base import draw_uniform
from graphcnf.flows.transform import Noise, sum_log_term
from graphcnf.graphs.batch import GraphBatch, Latents
from graphcnf.graphs.packed import PackedGraphs
from graphcnf.graphs.pairs.latents import all_pairs
from graphcnf.graphs.rounds.assembly import Assembly, PairContext
from graphcnf.graphs.rounds.composition import Composition
from graphcnf.graphs.rounds.labels import NodeLabels
from graphcnf.graphs.rounds.schedule import Schedule, Tournament


class RoundSteps(nn.Module):
    """p(graph) from random groups of nodes and then of pairs.

    Args:
        node_categories: Number of node categories.
        bond_categories: Number of edge categories.
        max_nodes: Largest number of nodes.
        edge_kinds: See `NodeLabels`.
        node_labels: See `NodeLabels`.
        node_rounds: Rounds for the nodes; the pairs take `max_nodes` - 1, or one more.
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
        node_rounds: int = 26,
        nodes: dict | None = None,
        pairs: dict | None = None,
    ):
        super().__init__()
        self.table = NodeLabels(edge_kinds, node_labels)
        self.tournament = Tournament(max_nodes, node_rounds)
        composition = Composition(self.table, max_nodes=max_nodes, **(nodes or {}))
        rounds = self.tournament.pair_rounds
        assembly = Assembly(self.table, max_nodes=max_nodes, rounds=rounds, **(pairs or {}))
        self.nodes = CategoricalFlow(
            IntervalEncoding(composition.cardinalities),
            InterleavedCoupling(composition, groups=node_rounds),
        )
        self.pairs = CategoricalFlow(
            IntervalEncoding(assembly.cardinalities), InterleavedCoupling(assembly, groups=rounds)
        )

    @property
    def rounds(self) -> int:
        """Evaluations of a network that a graph takes, whatever its size."""
        return self.tournament.node_rounds + self.tournament.pair_rounds

    @staticmethod
    def measure(graphs: PackedGraphs, **categories) -> dict:
        """The labels and kinds of edges in a set of graphs; what is possible follows from them."""
        return NodeLabels.measure(graphs)

    unknown = "a node with other edges or rings than nodes of the training data have"
    """Why a graph is not known, where `knows` says so."""

    def knows(self, batch: GraphBatch) -> Tensor:
        """Whether the model can represent a graph, (B,) bool."""
        return ~self.table.look_up(batch)[2].any(1)

    def _contexts(self, mask: Tensor, labels: Tensor | None, schedule: Schedule):
        """Contexts of the flow of the nodes and, if their labels are known, of the pairs."""
        of_nodes = Context(mask, groups=schedule.nodes)
        if labels is None:
            return of_nodes, None
        index, pair_mask = all_pairs(mask)
        rows = torch.arange(len(mask), device=mask.device)[:, None]
        groups = schedule.pairs[rows, index[..., 0], index[..., 1]]
        return of_nodes, PairContext(pair_mask, groups, index, labels, mask)

    def _kinds_of_pairs(self, kinds: Tensor, index: Tensor) -> Tensor:
        rows = torch.arange(len(kinds), device=kinds.device)[:, None]
        return kinds[rows, index[..., 0], index[..., 1]]

    def bounds(self, batch: GraphBatch, noise: Noise | None = None) -> dict[str, Bound]:
        """Log-probability of the graph given one random schedule, exact; all rounds are computed.

        Over schedules its mean is a lower bound on log p(graph), and more of them in a logsumexp
        tighten it. The density of the latents, integrated over the intervals, is the product of the
        conditional probabilities.
        """
        labels, kinds = self.table.encode(batch)
        draws = self.tournament.draw(batch.mask, noise)
        schedule = self.tournament.schedule(batch.mask, *draws)
        of_nodes, of_pairs = self._contexts(batch.mask, labels, schedule)
        parts = {"nodes": (self.nodes, labels, of_nodes)}
        parts["bonds"] = (self.pairs, self._kinds_of_pairs(kinds, of_pairs.index), of_pairs)
        bounds = {}
        for name, (flow, value, context) in parts.items():
            value = torch.where(context.mask, value, 0)[..., None]
            log_p = flow.flow.log_probs(value, context)[:, :, 0]
            own = log_p.gather(-1, value)[..., 0]
            bounds[name] = _bound(sum_log_term(torch.where(context.mask, own, 0), context.mask))
        return bounds

    def estimate(self, batch: GraphBatch) -> dict[str, Bound]:
        """An estimate of `bounds` without bias from one round of nodes and one of pairs.

        Given what is decided, every node or pair to come is equally likely to be next, so all of
        them count, each with the share of the round.
        """
        mask = batch.mask
        labels, kinds = self.table.encode(batch)
        draws = self.tournament.draw(mask)
        schedule = self.tournament.schedule(mask, *draws)
        return {
            "nodes": _bound(self._estimate_nodes(mask, labels, schedule)),
            "bonds": _bound(self._estimate_pairs(mask, labels, kinds, schedule)),
        }

    def _estimate_nodes(self, mask: Tensor, labels: Tensor, schedule: Schedule) -> Tensor:
        network, rounds = self.nodes.flow.network, self.tournament.node_rounds
        now = torch.randint(rounds, (len(mask), 1), device=mask.device)
        before = (schedule.nodes < now) & mask
        ours = (schedule.nodes == now) & mask
        to_come = mask.sum(1) - before.sum(1)
        seen, coming = (network.count_seen(labels, part) for part in (before, mask & ~before))
        log_p = network.read_out(network(seen, to_come, mask.sum(1)), []).log_softmax(-1)
        total = torch.where(coming > 0, log_p * coming, 0.0).sum(-1)
        return total * rounds * ours.sum(1) / to_come.clamp(min=1)

    def _estimate_pairs(
        self, mask: Tensor, labels: Tensor, kinds: Tensor, schedule: Schedule
    ) -> Tensor:
        network, rounds = self.pairs.flow.network, self.tournament.pair_rounds
        now = torch.randint(rounds, (len(mask),), device=mask.device)
        decided = schedule.pairs < now[:, None, None]
        logits, at = network(labels, mask, kinds, decided, now, None)
        own = -torch.nn.functional.cross_entropy(logits, kinds[at], reduction="none")
        total = own.new_zeros(len(mask)).index_add(0, at[0], own)
        return total * rounds / (rounds - now)

    def encode(self, batch: GraphBatch, noise: Noise | None = None) -> Latents:
        """Latents of the base space: nodes (B, N, 1), pairs (B, P, 1); uniform ones of the order.

        `order` (B, N, 2) and `rounds` (B, R, 1) are the latents of the schedule.
        """
        labels, kinds = self.table.encode(batch)
        draws = self.tournament.draw(batch.mask, noise)
        schedule = self.tournament.schedule(batch.mask, *draws)
        of_nodes, of_pairs = self._contexts(batch.mask, labels, schedule)
        value = torch.where(batch.mask, labels, 0)[..., None]
        nodes = self.nodes.encode(value, mask=batch.mask, context=of_nodes, noise=noise)
        value = self._kinds_of_pairs(kinds, of_pairs.index)[..., None]
        pairs = self.pairs.encode(value, mask=of_pairs.mask, context=of_pairs, noise=noise)
        return {"nodes": nodes, "pairs": pairs, "order": draws[0], "rounds": draws[1][..., None]}

    def base_sample(self, mask: Tensor, generator=None) -> Latents:
        """Draw latents for graphs with real nodes `mask` (B, N)."""
        _, pair_mask = all_pairs(mask)
        like = self.nodes.encoding.like
        kind = {"generator": generator, "device": mask.device}
        uniform = {**kind, "dtype": torch.float64}
        return {
            "order": draw_uniform((*mask.shape, 2), mask=mask, **uniform),
            "rounds": draw_uniform((len(mask), self.tournament.pair_rounds, 1), **uniform),
            "nodes": self.nodes.base.sample((*mask.shape, 1), mask=mask, dtype=like.dtype, **kind),
            "pairs": self.pairs.base.sample(
                (*pair_mask.shape, 1), mask=pair_mask, dtype=like.dtype, **kind
            ),
        }

    def decode(self, latents: Latents, mask: Tensor, **options) -> GraphBatch:
        """Graphs of latents; `options` are `temperature`, `sample` and `generator`."""
        return self.table.decode(*self.decode_labels(latents, mask, **options), mask)

    def decode_labels(self, latents: Latents, mask: Tensor, **options) -> tuple[Tensor, Tensor]:
        """Labels (B, N) and kinds (B, N, N) of latents, which need not fit: see `NodeLabels`."""
        schedule = self.tournament.schedule(mask, latents["order"], latents["rounds"][..., 0])
        of_nodes, _ = self._contexts(mask, None, schedule)
        labels = self.nodes.decode(latents["nodes"], mask=mask, context=of_nodes, **options)
        labels = torch.where(mask, labels[..., 0], self.table.count)
        _, of_pairs = self._contexts(mask, labels, schedule)
        value = self.pairs.decode(
            latents["pairs"], mask=of_pairs.mask, context=of_pairs, **options
        )[..., 0]
        kinds = torch.zeros(*mask.shape, mask.shape[1], dtype=torch.long, device=mask.device)
        rows = torch.arange(len(mask), device=mask.device)[:, None]
        i, j = of_pairs.index.unbind(-1)
        kinds[rows, i, j] = kinds[rows, j, i] = torch.where(of_pairs.mask, value, 0)
        return labels, kinds


def _bound(value: Tensor) -> Bound:
    zero = torch.zeros_like(value)
    return Bound(value, zero, zero, torch.ones_like(value))
