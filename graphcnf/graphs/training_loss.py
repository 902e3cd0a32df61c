"""The loss by which graph models are trained: the negative log-likelihood per node, or its bound.

A *bound* is a lower bound on log p(graph | number of nodes); for some models it is this number
itself. A model gives it as a sum of *terms*, one for each part of a graph that it scores apart,
such as "nodes" and "edges" (`GraphModel.estimate`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from graphcnf.graphs.batch import GraphBatch

if TYPE_CHECKING:
    from graphcnf.graphs.graph_model import GraphModel


def training_loss(
    model: GraphModel, batch: GraphBatch, *, beta: float = 1.0
) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
    """Compute the loss of a batch of graphs, and metrics for the log of a training run.

    The training loop calls it in training mode. Graphs of probability 0 are left out, unless all
    are, in which case the loss is infinite.

    Args:
        model: The model that is trained; its `estimate` gives the bound.
        batch: B graphs, in canonical node order if `model.ordered` is True, else in any. If it has
            values of conditions, the loss also contains -log p(number of nodes | conditions), which
            trains the network of sizes. A number that no training graph has is left out of it.
        beta: Weight of log p(x|z) in the bound, see `Bound.value`; 1 for the bound itself.

    Returns:
        Two values:

        - the loss, a scalar with gradients: the sum of the negative bounds of all graphs, divided
          by the number of all their nodes, in nats;
        - `{name: (sum over graphs, number of graphs)}`, two scalars for each metric, whose quotient
          is the mean over graphs. Names are "bits_per_node" and "bits_per_graph", and for each term
          "bits_TERM" (per node) and "accuracy_TERM" (share of variables that decode correctly,
          `Bound.correct`).

    Raises:
        ValueError: if a graph does not fit the model.
    """
    terms = model.estimate(batch.for_model(model.config))
    values: Any = sum(term.value().detach() for term in terms.values())
    possible = values != -math.inf
    if possible.any() and not possible.all():
        # Computed anew, since a term of -inf would make gradients NaN.
        return training_loss(model, batch[possible], beta=beta)
    node_counts = batch.node_counts
    nodes = node_counts.sum()
    loss: Any = -sum(term.value(beta).sum() for term in terms.values()) / nodes
    if batch.condition_values is not None:
        of_sizes = model.size_prior.log_prob(node_counts, batch.condition_values)
        # A held-out graph may have a size that no training graph has.
        loss = loss - of_sizes[of_sizes.isfinite()].sum() / nodes
    with torch.no_grad():
        bits = {name: -term.value() / math.log(2) for name, term in terms.items()}
        total: Any = sum(bits.values())
        sums = {"bits_per_node": total / node_counts, "bits_per_graph": total}
        for name, term in terms.items():
            sums[f"bits_{name}"] = bits[name] / node_counts
            sums[f"accuracy_{name}"] = term.correct
        count = torch.tensor(float(len(batch)), device=loss.device)
    return loss, {name: (value.sum(), count) for name, value in sums.items()}
