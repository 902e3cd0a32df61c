"""Blocks of a model's samples, drawn and scored: what every use of a sample begins with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import takewhile
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from graphcnf.compute.parallel import available_cores, ordered_map
from graphcnf.evaluation.summary import Look, Part, Summary
from graphcnf.graphs import GraphBatch, GraphCNF, PackedGraphs
from graphcnf.graphs.conditions import condition_row
from graphcnf.graphs.record_blocks import (
    BLOCK,
    RecordNoise,
    batches,
    blocks,
    one_thread,
    together_on,
)
from graphcnf.molecules.asked import nearest_of
from graphcnf.molecules.metrics import evaluate_records
from graphcnf.molecules.tally import CONVENTIONS
from graphcnf.molecules.validity import strict_smiles
from graphcnf.molecules.vocabulary import MoleculeVocabulary

if TYPE_CHECKING:
    from graphcnf.compute.cluster import Cluster

WORTHWHILE = 1000
"""Records for which another process pays: starting it takes as long as to draw half of them."""


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
        temperature: Of sampling.
        sizes: Lowest and highest number of atoms; None for those of the training data.
        targets: What is asked of every molecule, as `GraphCNF.sample_records` takes it.
        best_of: Draw so many for each record, and keep the one nearest to the targets.
        conventions: Of validity; see `evaluate_records`.

    Returns:
        The graphs, and a row for each.
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
    """Lower bounds on log p(graph | number of nodes) of a whole block of records, (M,) nats.

    Given the `targets`, too, where these were asked for.

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
    """The blocks of the first records, the last one cut."""
    needed = takewhile(lambda block: block.start < number, blocks(0, together))
    return (range(block.start, min(block.stop, number)) for block in needed)


def sampling_processes(
    model: GraphCNF, records: float, asked_for: int | Cluster | None = None
) -> int | Cluster:
    """Processes to draw about so many records: as many as asked for, or else as pay.

    Never more than there are blocks; one for a model on a GPU; a cluster where that is asked for.
    """
    if asked_for is not None and not isinstance(asked_for, int):
        return asked_for
    if model.device.type != "cpu":
        return 1
    if asked_for is None:
        return max(1, min(available_cores(), round(records / WORTHWHILE)))
    return max(1, min(asked_for, ceil(records / BLOCK)))


def draw_summary(
    model: GraphCNF,
    number: int,
    *,
    seed: int,
    temperature: float,
    look: Look,
    training_hashes: np.ndarray | None = None,
    show: Callable[[int], None],
    workers: int | Cluster | None = None,
) -> Summary:
    """Draw raw samples and look at each of them once.

    Args:
        model: Model to draw from.
        number: Number of samples, at least 1.
        seed: Seed of the sample.
        temperature: Of sampling.
        look: What to look for.
        training_hashes: What novelty is held against, None for nothing.
        show: Called with the number of samples so far.
        workers: Processes that draw and score them, or a cluster; None for one process per core,
            where it pays.

    Raises:
        WorkerDied: A process was killed.
    """
    score = partial(_look, model, seed, temperature, look)
    workers = sampling_processes(model, number, workers)
    result = Summary(training_hashes)
    with ordered_map(
        score, first_blocks(number, together_on(model.device)), workers=workers
    ) as drawn:
        for part in drawn:
            result.add(part)
            show(result.tally.samples)
    return result


def _look(model: GraphCNF, seed: int, temperature: float, look: Look, records: range) -> Part:
    return look.at(draw_block(model, records, seed=seed, temperature=temperature)[1])
