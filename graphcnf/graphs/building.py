"""Build untrained graph models for training graphs, and copies of models with other arguments.

- The *architecture* is the short name of a class of graph models, such as "path". `GRAPH_MODELS`
  leads from it to the class.
- The *node order* of a model says which node numbers its graphs have: "canonical" (a function of
  the graph) or "none" (any numbers, all equally likely).
- A *rule* forbids graphs by a fixed limit that is measured in the training graphs instead of
  learned as a weight. Such a limit is the largest sum of edge weights at nodes of a category. Each
  rule is an argument of the constructor; `GraphModel.rules_off` says which value switches it off.
- A *redraw check* is a rule that is not part of the density: sampling applies it to what it has
  drawn, and drops or draws again what it rejects (`GraphModel.redraw_check`). *Raw* samples are
  those without such a check: they follow the density of the model.
"""

from __future__ import annotations

from inspect import signature
from typing import Any

import numpy as np
from torch.nn import functional as F

from graphcnf.errors import UserError
from graphcnf.graphs.batch import PackedGraphs
from graphcnf.graphs.graph_model import GRAPH_MODELS, GraphModel

NODE_ORDERS = ("canonical", "none")
"""Node orders of graph models: "canonical", which networks may use, or "none"."""


def model_class(architecture: Any, order: str | None = None) -> type[GraphModel]:
    """Find the class of graph models that has a name, and check that it supports a node order."""
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
    """Build an untrained model whose largest sizes and rules are measured in training graphs.

    Args:
        graphs: The training graphs. For a model of order "canonical", their nodes must be numbered
            in that order, such as by `graphcnf.graphs.isomorphism.canonicalise`.
        metadata: Entries to add to the attribute `metadata` of the model, JSON values.
        training_hashes: Sorted hashes of the training graphs, uint64, by which the model can say
            whether a graph is new; None if unknown.
        order: "canonical" or "none"; None for the first that the class supports.
        edge_weights: Weight of each edge category, an integer. A rule may limit the sum of weights
            over the edges of a node. 1 each if None.
        merged: If given, the rule of "path" and "unordered" limits the *environments* of nodes
            instead of sums of weights: the categories of a node, of its edges and of its neighbours
            must occur together in the training graphs. Two lists say which categories it does not
            tell apart, one of node and one of edge categories: [0, 1, 1] if 2 counts as 1. None for
            sums.
        support: False to leave out the rules of the model.
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
    """Rebuild a model with some arguments of its constructor replaced, and copy its weights.

    This is for arguments that leave the shapes of weights as they are, or add weights: rules,
    conditions. Weights of the same name are copied; new ones have their initial values. If the last
    axis of a tensor has become longer, the new columns are 0.
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
    """Return True for a class of models that can draw graphs given conditions, such as logP = 3."""
    return "conditions" in signature(kind).parameters


def with_conditions(model: GraphModel, conditions: list[dict[str, Any]]) -> GraphModel:
    """Copy a model and add conditions to it, which have no effect until the copy is trained."""
    if not takes_conditions(type(model)):
        raise UserError('conditions need a model that draws node by node ("path")')
    # The columns of each condition follow those of the one before.
    return with_arguments(model, conditions=[*model.conditions, *conditions])


def has_rules(model: GraphModel) -> bool:
    """Return True if a rule of a model is on, which `without_rules` can switch off."""
    defaults = signature(type(model)).parameters
    return any(
        model.config.get(name, defaults[name].default) != off
        for name, off in model.rules_off.items()
    )


def without_rules(model: GraphModel) -> GraphModel:
    """Copy a model and switch off its rules, to see what the learned weights draw by themselves."""
    if not has_rules(model):
        raise UserError("this model has no support of the data that could be left out")
    return with_arguments(model, **model.rules_off)


def draws_raw(model: GraphModel) -> bool:
    """Return True if samples follow the density of a model, so that they are raw.

    False if a redraw check is switched on, which `log_prob` does not know.
    """
    return not (model.redraw_check and has_rules(model))
