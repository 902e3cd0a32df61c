"""Blocks of records drawn from a model of molecules, scored, and the processes that pay for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from graphcnf.compute.parallel import available_cores
from graphcnf.graphs import GraphBatch, GraphCNF, PackedGraphs
from graphcnf.graphs.conditions import condition_row
from graphcnf.graphs.record_blocks import (
    BLOCK,
    RecordNoise,
    batches,
    blocks,
    one_thread,
)
from graphcnf.molecules.asked import nearest_of
from graphcnf.molecules.validity import CONVENTIONS, evaluate_records, strict_smiles
from graphcnf.molecules.vocabulary import MoleculeVocabulary

if TYPE_CHECKING:
    from graphcnf.compute.cluster import Cluster

WORTHWHILE = 1000
"""Records for which another process pays: it starts in the time that half of them take."""


def draw_block(
    model: GraphCNF,
    records: range,
    *,
    seed: int,
    temperature: float = 1.0,
    sizes: tuple[int, int] | None = None,
    targets: Sequence[float | None] | None = None,
    best_of: int = 1,
    conventions: tuple[str, ...] = CONVENTIONS,
) -> tuple[PackedGraphs, pd.DataFrame]:
    """Draw records and score them.

    Args:
        model: Model of molecules.
        records: Their numbers; fastest where they are a block of `graphcnf.graphs.record_blocks`.
        seed: Seed of the sample.
        temperature: Temperature of sampling.
        sizes: Lowest and highest number of atoms; None for those of the training data.
        targets: Properties asked of every molecule, as `GraphCNF.sample_records` takes them.
        best_of: Candidates for each record, of which the nearest to the targets is kept.
        conventions: Conventions of validity; see `evaluate_records`.

    Returns:
        The graphs, and a row of `evaluate_records` for each.
    """
    options: dict[str, Any] = {"temperature": temperature, "sizes": sizes, "conditions": targets}
    vocabulary = MoleculeVocabulary.of_model(model)
    first, count = records.start * best_of, len(records) * best_of
    graphs = model.sample_records(first, count, seed=seed, **options)
    if targets is not None and best_of > 1:
        smiles = strict_smiles(graphs, vocabulary)
        graphs = graphs.subset(nearest_of(smiles, targets, model.conditions, best_of))
    frame = evaluate_records(graphs, vocabulary, first=records.start, conventions=conventions)
    return graphs, frame


def block_log_likelihoods(
    model: GraphCNF,
    graphs: PackedGraphs,
    block: range,
    *,
    seed: int,
    targets: Sequence[float | None] | None = None,
) -> np.ndarray:
    """Return lower bounds on log p(graph | number of nodes, targets) of a whole block, (M,) nats.

    Each is one draw of the bound, with noise that is a function of the seed and the record's
    number. The graphs count with the numbering that they were drawn with.

    Raises:
        ValueError: if `block` and `graphs` differ in length.
    """
    if len(block) != len(graphs):
        raise ValueError(f"a block of {len(block)} records, but {len(graphs)} graphs")
    nats = np.zeros(len(graphs))
    with torch.no_grad(), one_thread(model.device):
        for chosen in batches(graphs.node_counts):
            noise = RecordNoise(seed, [block[k] for k in chosen])
            batch = GraphBatch.collate(graphs, chosen)
            if targets is not None:
                batch.conditions = condition_row(targets).expand(len(chosen), -1)
            batch = batch.to(model.device)
            nats[chosen] = model.log_prob(batch, noise=noise).cpu().double().numpy()
    return nats


def first_blocks(number: int, together: int = 1) -> Iterator[range]:
    """Yield the blocks of the first `number` records, the last one cut."""
    needed = takewhile(lambda block: block.start < number, blocks(0, together))
    return (range(block.start, min(block.stop, number)) for block in needed)


def sampling_processes(
    model: GraphCNF, records: float, workers: int | Cluster | None = None
) -> int | Cluster:
    """Return the number of processes that draw about `records` records.

    Args:
        model: A model on a GPU is drawn from by one process.
        records: Records to draw; no process is started without a block to draw.
        workers: Processes at most, or a cluster, which is returned; None for as many as pay.
    """
    if workers is not None and not isinstance(workers, int):
        return workers
    if model.device.type != "cpu":
        return 1
    if workers is None:
        return max(1, min(available_cores(), round(records / WORTHWHILE)))
    return max(1, min(workers, ceil(records / BLOCK)))
