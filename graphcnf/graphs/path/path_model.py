"""The graph model "path": an autoregressive flow over the codes of depth-first numbered graphs.

The *code* of a graph is V categories for each node (`DepthFirstCode`). A graph has one code for
each of its depth-first *node orders*. The model scores the code of the order that it is given;
`log_prob(orders=K)` adds up the codes of several orders.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from graphcnf.categorical.autoregressive_flow import AutoregressiveFlow
from graphcnf.categorical.categorical_flow import Bound
from graphcnf.errors import UserError
from graphcnf.graphs.batch import GraphBatch, PackedGraphs
from graphcnf.graphs.coded import CodedModel
from graphcnf.graphs.graph_model import Loss, likelihood_loss
from graphcnf.graphs.path.completion import CompletingSupport
from graphcnf.graphs.path.depth_first import DepthFirstCode
from graphcnf.graphs.path.network import PathContext, PathNetwork
from graphcnf.graphs.path.node_states import Environments
from graphcnf.graphs.path.paths import Path
from graphcnf.graphs.path.support import Support
from graphcnf.graphs.records import BLOCK
from graphcnf.limits import LARGEST_ORDERS, check_integer
from graphcnf.pretrained import keep_arguments
from graphcnf.torch_state import evaluated


def support_with_rules(
    code: DepthFirstCode,
    edge_weights: list[int],
    largest_sums: list[int] | None = None,
    environments: dict | None = None,
) -> Support:
    """Build the rules by which values of a node's variables are possible.

    Args:
        largest_sums: Limit on the sum of edge weights for each node category; None for no limit.
        environments: Environments that nodes may have (a node's category with its edges and
            neighbours), as `Environments.arguments` returns them. If given, `largest_sums` has no
            effect. None for no such rule.
    """
    categories = code.node_categories
    if len(edge_weights) != code.edge_categories or min(edge_weights) != 1:
        raise UserError(
            f"edge_weights must be {code.edge_categories} whole numbers, the smallest of them 1, "
            f"got {edge_weights}"
        )
    if environments is not None:
        known = Environments.of(environments, categories, code.edge_categories)
        return CompletingSupport(code, edge_weights, known)
    from graphcnf.graphs.path.sum_states import states_of_sums, states_without_rules

    if largest_sums is None:
        return Support(code, states_without_rules(categories, edge_weights))
    if len(largest_sums) != categories or max(largest_sums) < 2:
        raise UserError(
            f"largest_sums must be {categories} whole numbers, one of them 2 or more, "
            f"got {largest_sums}"
        )
    return Support(code, states_of_sums(largest_sums, edge_weights))


class PathModel(CodedModel[PathNetwork]):
    """Graph model whose p(graph) is a product over the nodes in depth-first order.

    Args:
        back: By how many nodes of the path the walk may go back before the next node, at most, plus
            1 (`DepthFirstCode`).
        closures: A node may close rings by edges to earlier nodes of the path. Entry k is how many
            levels up the path edge k may reach; a node has at most as many such edges as the list
            has entries (`DepthFirstCode`).
        largest_sums: Limit on the sum of the weights of a node's edges, for each node category, see
            `graphcnf.graphs.path.sum_states`; None for no limit.
        environments: Environments that nodes may have (a node's category with its edges and
            neighbours), as `Environments.arguments` returns them. If given, `largest_sums` has no
            effect. None for no such rule.
        random_orders: Share of the graphs of a training batch whose nodes are renumbered to a
            random depth-first order, which the network is told: more to learn from the same
            graphs. Drawing and scoring keep their order.
        conditions: Properties given which graphs can be drawn: "name", "mean" and "deviation" of
            each, as `condition_statistics` returns them. None for a model without conditions.
    """

    architecture = "path"
    measured_arguments = ("back", "closures", "edge_weights", "largest_sums", "environments")
    rules_off = {"largest_sums": None, "environments": None}
    batch_size = BLOCK  # Complete graphs leave the batch, so sizes may differ within it.
    why_unknown = "a longer ring or branch than the model knows"
    network_class: ClassVar[type[PathNetwork]] = PathNetwork
    code: DepthFirstCode

    @keep_arguments
    def __init__(
        self,
        *,
        node_categories: int,
        edge_categories: int,
        max_nodes: int,
        back: int,
        closures: list[int],
        edge_weights: list[int] | None = None,
        largest_sums: list[int] | None = None,
        environments: dict | None = None,
        random_orders: float = 0.0,
        conditions: list[dict] | None = None,
        **network,
    ):
        super().__init__()
        categories = {"node_categories": node_categories, "edge_categories": edge_categories}
        self.code = DepthFirstCode(back, closures, **categories)
        weights = [1] * edge_categories if edge_weights is None else edge_weights
        support = support_with_rules(self.code, weights, largest_sums, environments)
        path_network = self.network_class(
            self.code,
            support,
            max_nodes=max_nodes,
            random_orders=random_orders > 0,
            conditions=conditions,
            **network,
        )
        self.random_orders = random_orders
        if conditions is not None:
            from graphcnf.graphs.conditions import ConditionEmbedding

            self.size_network = ConditionEmbedding(conditions, max_nodes + 1)
        self.flow = AutoregressiveFlow(path_network)

    @staticmethod
    def measure(graphs: PackedGraphs, **options) -> dict:
        """Return the arguments that depend on the training graphs, the `measured_arguments`."""
        from graphcnf.graphs.path.data_rules import measured_code, measured_rules

        return {**measured_code(graphs), **measured_rules(graphs, **options)}

    def knows(self, batch: GraphBatch) -> Tensor:
        """Return True for each graph that has a code, (B,) bool."""
        return self.code.encode(batch)[1] & batch.mask.any(1)

    @evaluated
    def log_prob(self, graphs: GraphBatch | PackedGraphs, *, orders: int = 1, **options) -> Tensor:
        """Return log p(graph | number of nodes), summed over some node orders, (B,) nats.

        It is a lower bound, which is closer the more `orders` are summed. Orders that differ by a
        symmetry of the graph have the same code, which counts once.
        """
        check_integer("orders", orders, 1, LARGEST_ORDERS)
        if orders == 1:
            return super().log_prob(graphs, **options)
        from graphcnf.graphs.path.orders import renumbered

        packed = graphs.to_packed() if isinstance(graphs, GraphBatch) else graphs
        numbered, owners = renumbered(packed, orders)
        nats = np.full(len(packed), -np.inf)
        np.logaddexp.at(nats, owners, super().log_prob(numbered, **options).numpy())
        return torch.from_numpy(nats)

    def training_loss(self, batch: GraphBatch, *, beta: float = 1.0) -> Loss:
        drawn = self.training and self.random_orders
        return likelihood_loss(self, batch, self._in_random_order if drawn else self.terms, beta)

    def _in_random_order(self, batch: GraphBatch) -> dict[str, Bound]:
        """Return `terms`, for a share of the graphs in random order, which the network is told."""
        from graphcnf.graphs.random_order import depth_first

        uniforms = torch.rand(*batch.mask.shape, self.max_nodes, device=batch.mask.device)
        order, _ = depth_first(batch.adjacency, batch.node_counts, uniforms)
        renumbered = batch.permute(order)
        chosen = torch.rand(len(batch), device=batch.mask.device) < self.random_orders
        # A few random orders have no code: a longer ring or branch than the canonical one.
        chosen &= self.knows(renumbered)
        batch = replace(
            batch,
            node_types=torch.where(chosen[:, None], renumbered.node_types, batch.node_types),
            edge_labels=torch.where(
                chosen[:, None, None], renumbered.edge_labels, batch.edge_labels
            ),
        )
        values = batch.condition_values
        context = PathContext(batch.mask, condition_values=values, random_order=chosen)
        return self._terms(batch, context)

    def fit_contributions(self, batch: GraphBatch) -> None:
        """Fit the contributions of nodes and edges to the conditions, in place."""
        contributions, support = self.network.contributions, self.network.support
        assert contributions is not None and batch.condition_values is not None
        x, _ = self.code.encode(batch)
        path = Path.before_each(x, support.states, support.pad)
        links = contributions.links(x.flatten(0, 1), path).unflatten(0, batch.mask.shape)
        contributions.fit(x, links, batch.mask, batch.condition_values)
