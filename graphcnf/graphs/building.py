"""Graph models that are built: from training graphs, or as copies with other arguments.

A *rule* of a model is what it may not draw although it was not learned, such as a limit on sums of
edge weights; an argument of the constructor (`GraphModel.rules_off`) switches it off. Samples are
*raw* if they are as the density says: no rule makes sampling draw again
(`GraphModel.redraw_check`).
"""

from __future__ import annotations

from inspect import signature
from typing import Any

import numpy as np
from torch.nn import functional as F

from graphcnf.errors import UserError
from graphcnf.graphs.batch import PackedGraphs
from graphcnf.graphs.graph_model import GraphModel
from graphcnf.graphs.saved_model import GRAPH_MODELS

NODE_ORDERS = ("canonical", "none")
"""Node orders: a canonical one that networks may use, or none."""


def model_class(architecture: Any, order: str | None = None) -> type[GraphModel]:
    """Return the class of graph models that has a name.

    Args:
        architecture: Name of the class in `GRAPH_MODELS`, such as "path".
        order: Node order that the class must support, "canonical" or "none"; None for any.

    Returns:
        The class, which is imported if it has not been.

    Raises:
        UserError: if there is no such name or node order, or the class does not support the order.
    """
    found = GRAPH_MODELS.find(architecture, "architecture")
    if order not in (None, *NODE_ORDERS):
        raise UserError(f"order must be one of {', '.join(NODE_ORDERS)}, got {order!r}")
    if order not in (None, *found.node_orders):
        raise UserError(f'architecture "{architecture}" needs order "{found.node_orders[0]}"')
    return found


def model_for_graphs(
    graphs: PackedGraphs,
    *,
    node_categories: int,
    edge_categories: int,
    metadata: dict | None = None,
    training_hashes: np.ndarray | None = None,
    architecture: str = "path",
    order: str | None = None,
    edge_weights: list[int] | None = None,
    merged: tuple[list[int], list[int]] | None = None,
    support: bool = True,
    **arguments: Any,
) -> GraphModel:
    """Build an untrained model with sizes that fit all of `graphs`.

    Args:
        graphs: The graphs, in the node order that the model needs.
        node_categories: Number of categories of nodes.
        edge_categories: Number of categories of edges.
        metadata: Entries to add to the attribute `metadata`.
        training_hashes: Sorted hashes of the training graphs, uint64, for the attribute of this
            name; None if unknown.
        architecture: Name of the class in `GRAPH_MODELS`.
        order: "canonical" or "none"; None for the first that the class supports.
        edge_weights: Weight of each edge category in the sum over the edges of a node, which a rule
            of the model may limit; 1 each if None.
        merged: For each node category the first one that a rule does not tell apart from it, and
            the same for edge categories. A model that goes node by node along a path then limits
            environments (`graphcnf.graphs.path.node_states`) instead of sums.
        support: False to leave out the rules of the model.
        **arguments: Further arguments of the class.

    Returns:
        The model with initial weights, in training mode; its prior of sizes is the frequencies in
        `graphs`.

    Raises:
        UserError: if there are no graphs, or the model cannot represent them.
    """
    found = model_class(architecture, order)
    if not len(graphs):
        raise UserError("there are no graphs to fit a model to")
    categories = {"node_categories": node_categories, "edge_categories": edge_categories}
    rules = {"edge_weights": edge_weights, "merged": merged, "support": support}
    measured = found.measure(graphs, **categories, **rules)
    if len(found.node_orders) > 1:
        arguments["order"] = order or found.node_orders[0]
    measured = {"max_nodes": int(graphs.node_counts.max()), **measured}
    model = found(**categories, **measured, **arguments)
    size_histogram = np.bincount(graphs.node_counts).tolist()
    model.metadata = {"size_histogram": size_histogram, **(metadata or {})}
    model.training_hashes = training_hashes
    return model


def with_arguments(model: GraphModel, **arguments: Any) -> GraphModel:
    """Return a copy of a model with some arguments of the constructor replaced.

    Weights that both have are copied; further ones have their initial values. Of a tensor that has
    become wider, the further columns are 0.

    Args:
        model: The model, which stays as it is.
        **arguments: Arguments of its constructor by name.

    Returns:
        The copy, on the same device and in the same mode, with the metadata of `model`.
    """
    other = model.rebuild({**model.config, **arguments}).to(model.device)
    weights = other.state_dict()
    for name, known in model.state_dict().items():
        missing = weights[name].shape[-1:].numel() - known.shape[-1:].numel()
        weights[name] = F.pad(known, (0, missing)) if missing else known
    other.load_state_dict(weights)
    other.metadata = dict(model.metadata)
    other.training_hashes = model.training_hashes
    other.companions = dict(model.companions)
    return other.train(model.training)


def takes_conditions(kind: type[GraphModel]) -> bool:
    """Return True for a class of models that can draw graphs given conditions."""
    return "conditions" in signature(kind).parameters


def with_conditions(model: GraphModel, conditions: list[dict[str, Any]]) -> GraphModel:
    """Return a copy of a model that takes further conditions, and ignores them until it is trained.

    Args:
        model: The model, which keeps the conditions that it has.
        conditions: The further conditions, as `graphcnf.graphs.conditions.condition_statistics`
            describes them.

    Returns:
        The copy, whose `conditions` are those of `model` and then the further ones.

    Raises:
        UserError: if the architecture takes no conditions.
    """
    if not takes_conditions(type(model)):
        raise UserError('conditions need a model that draws node by node ("path")')
    # The columns of each condition follow those of the one before.
    return with_arguments(model, conditions=[*model.conditions, *conditions])


def has_rules(model: GraphModel) -> bool:
    """Return True if a rule of a model is in force, so that `without_rules` can leave it out.

    A rule that the model was built without does not count.
    """
    defaults = signature(type(model)).parameters
    return any(
        model.config.get(name, defaults[name].default) != off
        for name, off in model.rules_off.items()
    )


def without_rules(model: GraphModel) -> GraphModel:
    """Return a copy of a model without its rules, which are not learned by training.

    The rule of "path" limits sums of edge weights, or the environments of nodes.

    Args:
        model: The model, which stays as it is.

    Raises:
        UserError: if the model has no rule.
    """
    if not has_rules(model):
        raise UserError("this model has no support of the data that could be left out")
    return with_arguments(model, **model.rules_off)


def draws_raw(model: GraphModel) -> bool:
    """Return True if samples are as the density says: no rule makes sampling draw again."""
    return not (model.redraw_check and has_rules(model))
