"""Figures of a model on held-out graphs, and means over seeds."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from graphcnf.graphs import GraphBatch, GraphCNF, PackedGraphs

BATCH = 128


def mean_and_sd(summaries: Sequence[dict]) -> dict[str, Any]:
    """Return means over seeds; with more than one, standard deviations (n - 1) as `<name>_sd`.

    Counts are means, too, rounded to whole numbers.
    """
    if len(summaries) == 1:
        return dict(summaries[0])
    result: dict[str, Any] = {}
    for name, first in summaries[0].items():
        values = [summary[name] for summary in summaries]
        result[name] = None if None in values else first
        if None not in values and isinstance(first, float):
            result |= {name: statistics.fmean(values), f"{name}_sd": statistics.stdev(values)}
        elif None not in values and isinstance(first, int):
            result[name] = round(statistics.fmean(values))
    return result


def bits(model: GraphCNF, graphs: PackedGraphs, seed: int = 0) -> dict[str, float]:
    """Return mean bits per node and per molecule, given the number of nodes, from one draw.

    Means of per-molecule figures; an upper bound where the model's likelihood is a lower one. For a
    model without a node order, the bits per molecule are those of the molecule, not of one of its
    labellings; the bits per node, as published, are those of a labelling.
    """
    from graphcnf.graphs.isomorphism import labelling_bits

    total = np.zeros(len(graphs))
    with _fixed_noise(model, seed):
        for chosen in _by_size(graphs):
            batch = GraphBatch.collate(graphs, chosen).to(model.device)
            total[chosen] = -model.log_prob(batch).cpu().double().numpy() / np.log(2)
    spent = 0 if model.ordered else labelling_bits(graphs).mean()
    return {
        "bits_per_node": float((total / graphs.node_counts).mean()),
        "bits_per_molecule": float(total.mean() - spent),
    }


def reconstruction(
    model: GraphCNF, graphs: PackedGraphs, seed: int = 0, *, double: bool = True
) -> float:
    """Return the share of graphs whose latents decode to the same graph, in float64 or float32.

    A graph that comes back with other numbers of its nodes is the same graph.
    """
    from graphcnf.graphs.isomorphism import isomorphic

    exact, same = copy.deepcopy(model), 0
    if double and model.device.type == "mps":  # which has no float64
        exact = exact.cpu()
    exact = exact.double() if double else exact.float()
    with _fixed_noise(model, seed):
        for chosen in _by_size(graphs):
            batch = GraphBatch.collate(graphs, chosen).to(exact.device)
            decoded = exact.decode(exact.encode(batch), batch.mask).cleared()
            nodes = ((decoded.node_types == batch.node_types) & (decoded.mask == batch.mask)).all(1)
            equal = nodes & (decoded.bonds == batch.bonds).flatten(1).all(1)
            one, other = batch.to_packed(), decoded.to_packed()
            same += sum(
                yes or isomorphic(one.graph(k), other.graph(k))
                for k, yes in enumerate(equal.tolist())
            )
    return same / len(graphs)


def _by_size(graphs: PackedGraphs) -> Iterator[np.ndarray]:
    order = np.argsort(graphs.node_counts, kind="stable")
    for start in range(0, len(order), BATCH):
        yield order[start : start + BATCH]


@contextmanager
def _fixed_noise(model: GraphCNF, seed: int) -> Iterator[None]:
    """Let the encoder draw the same noise every time, and keep the caller's random state."""
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield
