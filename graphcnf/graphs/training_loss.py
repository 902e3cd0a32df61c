"""The loss by which graph models are trained."""

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
    """Return the loss of a batch of graphs, and metrics.

    Args:
        model: The model.
        batch: B graphs; with values of conditions, the loss includes the size given the conditions.
            If some have a probability above 0, the others do not count.
        beta: Weight of log p(x|z) in the bound, see `Bound.value`.

    Returns:
        The negative bound in nats per node, a scalar with gradients, and the metrics by name, each
        as a pair of scalars (sum over graphs, number of graphs): `bits_per_node`, `bits_per_graph`
        and, for each term of `GraphModel.estimate`, `bits_NAME` (per node) and `accuracy_NAME`
        (`Bound.correct`).
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
