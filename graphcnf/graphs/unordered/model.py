"""GraphCNF in any order of nodes: labels of all nodes first, then the edges.

Labels come in random groups, edges node by node as the graph grows (`partial`). A training step
looks at one random round of each graph (order-agnostic training: Uria et al. 2014, arXiv 1310.1757;
Hoogeboom et al. 2022, arXiv 2110.02037).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from graphcnf.categorical import Bound
from graphcnf.categorical.autoregressive import AutoregressiveFlow
from graphcnf.errors import UserError
from graphcnf.flows.base import draw_uniform
from graphcnf.flows.transform import Noise
from graphcnf.graphs.batch import GraphBatch, Latents, PackedGraphs
from graphcnf.graphs.model import GraphModel, graph_model
from graphcnf.graphs.unordered.labels import NodeLabels
from graphcnf.graphs.unordered.networks import EdgeNetwork, NodeLabelNetwork
from graphcnf.graphs.unordered.partial import (
    PartialGraph,
    UnorderedContext,
    draw_uniforms,
    uniform_count,
)


@graph_model("unordered")
class UnorderedModel(GraphModel):
    """p(graph) from the labels of its nodes and then its edges, in random order.

    `edge_kinds`, `node_labels` and `edge_weights` are those of `NodeLabels`. With `substitutes`,
    places that nothing fits take places of another kind, see `partial`. Labels come in
    `node_rounds`; `nodes` and `pairs` are arguments of `NodeLabelNetwork` and `EdgeNetwork`.
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
            return [
                "support of the data: on; a place that no bond fits takes a place of another kind."
            ]
        return ["support of the data: off; places that no bond fits stay empty."]

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
        uniforms = draw_uniforms(batch.mask, self.max_nodes)
        labels, kinds = self.table.encode(batch)
        context = UnorderedContext(batch.mask, uniforms=uniforms, labels=labels)
        return {
            "nodes": Bound.exact(self._estimate_labels(context)),
            "bonds": Bound.exact(self._estimate_edges(context, kinds)),
        }

    def _estimate_labels(self, context: UnorderedContext) -> Tensor:
        network: NodeLabelNetwork = self.nodes.network
        mask, rounds = context.mask, self.node_rounds
        group = network.groups(context)
        now = torch.randint(rounds, (len(mask), 1), device=mask.device)
        before, ours = (group < now) & mask, (group == now) & mask
        to_come = mask.sum(1) - before.sum(1)
        parts = before, mask & ~before
        seen, coming = (network.one_hot(context.labels, part).sum(1) for part in parts)
        log_p = network(seen, to_come, mask.sum(1)).log_softmax(-1)
        total = torch.where(coming > 0, log_p * coming, 0.0).sum(-1)
        return total * rounds * ours.sum(1) / to_come.clamp(min=1)

    def _estimate_edges(self, context: UnorderedContext, kinds: Tensor) -> Tensor:
        network: EdgeNetwork = self.pairs.network
        mask, sizes = context.mask, context.mask.sum(1)
        now = (torch.rand(len(mask), device=mask.device) * sizes).long()
        partial = PartialGraph.start(self.table, context.labels)
        at = torch.arange(len(mask), device=mask.device)
        for g in range(int(now.max())):
            node, real = partial.next_node(mask, context.of_frontier(g))
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
        shape = *mask.shape, uniform_count(self.max_nodes)
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
