"""GraphCNF atom by atom: one flow over all variables of depth-first numbered nodes."""

from __future__ import annotations

from torch import Tensor

from graphcnf.categorical import Bound
from graphcnf.categorical.autoregressive import AutoregressiveFlow
from graphcnf.flows.transform import Context, Noise
from graphcnf.graphs.batch import GraphBatch, Latents
from graphcnf.graphs.conditions import ConditionEmbedding
from graphcnf.graphs.model import GraphModel, graph_model
from graphcnf.graphs.packed import PackedGraphs
from graphcnf.graphs.path.code import KINDS, AtomCode
from graphcnf.graphs.path.network import PathNetwork
from graphcnf.graphs.path.orders import log_prob_of_orders
from graphcnf.graphs.path.support import Support, limit_note
from graphcnf.graphs.path.walk import Path
from graphcnf.graphs.record_blocks import BLOCK


@graph_model("path")
class PathModel(GraphModel):
    """p(graph) as a product over its nodes in depth-first order.

    Args:
        node_categories: Number of node categories.
        bond_categories: Number of edge categories.
        max_nodes: Largest number of nodes.
        back: See `AtomCode`.
        closures: See `AtomCode`.
        edge_weights: Weight of each edge category (bond orders); 1 each when None.
        largest_sums: Largest sum of edge weights of each node category; None for no limit.
        conditions: See `graphcnf.graphs.conditions.condition_tables`; None for none.
        **network: Arguments of `PathNetwork`.
    """

    measured = ("back", "closures", "edge_weights", "largest_sums")
    rules = {"largest_sums": None}
    supports_fragments = takes_conditions = True
    batch_size = BLOCK  # Complete graphs leave a batch, so their sizes may differ.
    unknown = "a longer ring or branch than the model knows"

    def __init__(
        self,
        *,
        node_categories: int,
        bond_categories: int,
        max_nodes: int,
        back: int,
        closures: list[int],
        edge_weights: list[int] | None = None,
        largest_sums: list[int] | None = None,
        conditions: list[dict] | None = None,
        **network,
    ):
        super().__init__()
        self.code = AtomCode(
            back, closures, node_categories=node_categories, bond_categories=bond_categories
        )
        weights = [1] * bond_categories if edge_weights is None else edge_weights
        support = Support(self.code, weights, largest_sums)
        probabilities = PathNetwork(
            self.code, support, max_nodes=max_nodes, conditions=conditions, **network
        )
        # Conditions of a graph also say how many nodes it has.
        self.sizes = None if conditions is None else ConditionEmbedding(conditions, max_nodes + 1)
        self.flow = AutoregressiveFlow(probabilities)

    @property
    def network(self) -> PathNetwork:
        """Network of the conditional probabilities."""
        return self.flow.network

    @classmethod
    def options(cls):
        """Return the network, whose arguments a configuration may set."""
        return (PathNetwork,)

    @staticmethod
    def measure(graphs: PackedGraphs, **options) -> dict:
        """Return what follows from a set of graphs; `options` are those of `Support.limits`.

        Graphs of one or two nodes leave nothing to limit.
        """
        limits = Support.limits(graphs, **options)
        if graphs.node_counts.max() < 3:
            limits["largest_sums"] = None
        return {**AtomCode.measure(graphs), **limits}

    def knows(self, batch: GraphBatch) -> Tensor:
        """Return which depth-first numbered graphs the model can represent, (B,) bool."""
        return self.code.knows(batch)

    def notes(self, rules: bool) -> list[str]:
        """Return footnotes on connectivity and the limit on sums of edge weights."""
        return ["connected: by construction of the code of the connectivity.", limit_note(rules)]

    def log_prob_of_orders(self, batch: GraphBatch, count: int) -> Tensor:
        """Return the log of the summed probabilities of `count` numberings, (B,) nats."""
        return log_prob_of_orders(self, batch, count)

    def size_logits(self, conditions: Tensor) -> Tensor:
        """Return what conditions (B, P) add to the log prior of sizes, (B, max_nodes + 1)."""
        return super().size_logits(conditions) if self.sizes is None else self.sizes(conditions)

    def fit_conditions(self, batch: GraphBatch) -> None:
        """Set what nodes and edges add to the conditions by those of a batch; see `Shares`."""
        shares = self.network.shares
        assert shares is not None and batch.conditions is not None
        x = self.code.encode(batch)
        support = self.network.support
        path = Path.before_each(x, support.weights, support.pad)
        links = path.links(x.flatten(0, 1)).unflatten(0, batch.mask.shape)
        shares.fit(x, links, batch.mask, batch.conditions)

    def bounds(self, batch: GraphBatch, noise: Noise | None = None) -> dict[str, Bound]:
        """Return the exact log-probability of the code by `KINDS`; `noise` is not needed.

        An interval of the unit line is mapped to one as long as its category's probability, so the
        density of the latents, integrated over the intervals, is the product of the conditional
        probabilities: nothing is left to bound. `CategoricalFlow.bound` of the same flow gives the
        same but for the margins of the intervals.
        """
        context = Context(batch.mask, conditions=batch.conditions)
        parts = self.flow.flow.log_probs(self.code.encode(batch), context).sum(1)
        bounds = {}
        for kind in KINDS:
            chosen = [k for k, name in enumerate(self.code.kinds) if name == kind]
            bounds[kind] = Bound.exact(parts[:, chosen].sum(1))
        return bounds

    def encode(self, batch: GraphBatch, noise: Noise | None = None) -> Latents:
        """Return latents of the base space, (B, N, V)."""
        x = self.code.encode(batch)
        context = Context(batch.mask, conditions=batch.conditions, noise=noise)
        return {"atoms": self.flow.encode(x, context)}

    def base_sample(self, mask: Tensor, generator=None) -> Latents:
        """Draw latents for graphs with real nodes `mask` (B, N)."""
        shape = (*mask.shape, len(self.code.cardinalities))
        like = self.network.initial
        z = self.flow.base.sample(
            shape, mask=mask, generator=generator, device=mask.device, dtype=like.dtype
        )
        return {"atoms": z}

    def decode(
        self,
        latents: Latents,
        mask: Tensor,
        *,
        conditions: Tensor | None = None,
        sample: bool = False,
        **draw,
    ) -> GraphBatch:
        """Return graphs of latents, given `conditions` (B, P).

        `draw` are `temperature` and `generator`.
        """
        context = Context(mask, conditions=conditions, **draw)
        return self.code.decode(self.flow.decode(latents["atoms"], context, sample=sample), mask)
