"""Any number of graphs, scored or drawn in batches of graphs of similar size.

A *record* is one graph of the endless sample of a seed. `sample_records` computes it in the same
batch whatever else is drawn, see `graphcnf.graphs.record_blocks`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from graphcnf.graphs.batch import BATCH, GraphBatch, PackedGraphs, batches
from graphcnf.graphs.graph_model import GraphModel, StochasticModel
from graphcnf.graphs.record_blocks import RecordNoise, one_thread, record_batches, together_on
from graphcnf.limits import (
    check_integer,
    check_low_and_high,
    check_seed,
    check_temperature,
)
from graphcnf.torch_state import evaluated


def condition_row(values: Sequence[float | None]) -> Tensor:
    """Return the values of the P conditions of a graph as a tensor (1, P), with NaN for None.

    Args:
        values: P values, each in the condition's own unit.
    """
    return torch.tensor([[math.nan if v is None else float(v) for v in values]])


@evaluated
@torch.no_grad()
def log_prob_in_batches(
    model: GraphModel,
    graphs: PackedGraphs,
    *,
    condition_values: Sequence[float | None] | None = None,
    noise_seed: int = 0,
    noise_records: np.ndarray | None = None,
    size: int = BATCH,
) -> np.ndarray:
    """Return lower bounds on log p(graph | number of nodes) of many graphs, without gradients.

    Args:
        model: The model.
        graphs: M graphs, in the node order that the model needs.
        condition_values: Values of the conditions of all graphs, (P,), None for an unknown one;
            None for a model without conditions.
        noise_seed: Seed of the random draws of a `StochasticModel`.
        noise_records: Number of a record for each graph, (M,): equal numbers get equal draws,
            whatever the batch. None to draw from torch's global generator.
        size: Number of graphs in a batch.

    Returns:
        (M,) nats, float64; -inf for graphs that the model cannot represent.

    Raises:
        ValueError: if a graph does not fit the model, or for conditions of a model without any.
    """
    nats = np.full(len(graphs), -math.inf)
    for chosen in batches(graphs.node_counts, size):
        batch = GraphBatch.collate(graphs, chosen).to(model.device)
        if isinstance(model, StochasticModel):
            known = model.knows(batch)
            batch = batch[known]
            chosen = chosen[known.cpu().numpy()]
        if not len(chosen):
            continue
        if condition_values is not None:
            row = condition_row(condition_values).to(model.device)
            batch.condition_values = row.expand(len(chosen), -1)
        if isinstance(model, StochasticModel) and noise_records is not None:
            log_p = model.log_prob(batch, noise=RecordNoise(noise_seed, noise_records[chosen]))
        else:
            log_p = model.log_prob(batch)
        nats[chosen] = log_p.cpu().double().numpy()
    return nats


@evaluated
def sample_records(
    model: GraphModel,
    records: range,
    *,
    seed: int,
    temperature: float = 1.0,
    size_range: tuple[int, int] | None = None,
    condition_values: Sequence[float | None] | None = None,
) -> PackedGraphs:
    """Draw some records of the endless sample of a seed.

    On one machine, seed and number determine a record to the last bit: the whole batch is computed
    that contains it, on a CPU by one thread, and records that were not asked for are thrown away.

    Args:
        model: The model.
        records: Numbers of the records, from 0.
        seed: Seed of the sample.
        temperature: Below 1, graphs are more probable.
        size_range: Lowest and highest number of nodes; None for all sizes of the training data.
        condition_values: Values of the conditions of all records, each in its own unit, (P,), None
            for an unknown one; None for none.

    Returns:
        The graphs in the order of `records`.

    Raises:
        UserError: if an argument is out of range.
        ValueError: for conditions of a model that takes none.
    """
    check_integer("first record", records.start)
    check_seed(seed)
    check_temperature(temperature)
    if size_range is not None:
        check_low_and_high("size_range", size_range)
    row = None if condition_values is None else condition_row(condition_values)
    sizes = model.size_prior.probabilities(size_range, row)
    parts: list[PackedGraphs] = []
    computed: list[int] = []
    blocks_together = together_on(model.device)
    with one_thread(model.device):
        for numbers, node_counts, generators in record_batches(
            records, sizes, seed, blocks_together, model.batch_size
        ):
            graphs = model.sample(
                torch.as_tensor(node_counts),
                temperature=temperature,
                generator=generators,
                condition_values=None if row is None else row.expand(len(numbers), -1),
            )
            parts.append(graphs.to_packed())
            computed += numbers.tolist()
    place = {record: k for k, record in enumerate(computed)}
    return PackedGraphs.concatenate(parts).subset([place[record] for record in records])
