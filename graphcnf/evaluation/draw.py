"""Raw samples of a model drawn and described in bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from graphcnf.compute.parallel import ordered_map
from graphcnf.evaluation.summary import Look, Part, Summary
from graphcnf.graphs import GraphCNF
from graphcnf.graphs.record_blocks import together_on
from graphcnf.sampling.draw import draw_block, first_blocks, sampling_processes

if TYPE_CHECKING:
    from graphcnf.compute.cluster import Cluster


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
        temperature: Temperature of sampling.
        look: Statistics to take.
        training_hashes: Hashes of the training molecules, for novelty; None for no novelty.
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
