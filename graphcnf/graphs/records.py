"""Records of a sample, drawn block by block."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from graphcnf.flows.base import record_generators
from graphcnf.graphs.packed import PackedGraphs
from graphcnf.graphs.record_blocks import BATCH, batches, blocks, one_thread, together_on

if TYPE_CHECKING:
    from graphcnf.graphs.model import GraphCNF


def record_batches(
    wanted: range, prior: np.ndarray, seed: int, together: int = 1, size: int = BATCH
) -> Iterator[tuple[np.ndarray, np.ndarray, list[np.random.Generator]]]:
    """The batches that hold some records of the sample with this seed.

    Args:
        wanted: Numbers of the records.
        prior: Probabilities of their sizes, from 0 on.
        seed: Seed of the sample.
        together: Blocks that are drawn at once.
        size: Graphs in a batch of one block.

    Yields:
        Numbers of all records of a batch, their sizes (the first number that a record draws decides
        on it), and their generators.
    """
    below = prior.cumsum()
    for block in blocks(wanted.start, together):
        if block.start >= wanted.stop:
            return
        generators = record_generators(seed, block.start, len(block))
        drawn = np.searchsorted(below, [g.random() * below[-1] for g in generators], "right")
        drawn = drawn.clip(max=len(below) - 1)
        for chosen in batches(drawn, together, size):
            records = block.start + chosen
            if ((records >= wanted.start) & (records < wanted.stop)).any():
                yield records, drawn[chosen], [generators[k] for k in chosen]


def draw_records(
    model: GraphCNF,
    wanted: range,
    prior: np.ndarray,
    seed: int,
    temperature: float,
    targets: Tensor | None = None,
) -> PackedGraphs:
    """Graphs of some records of the sample with this seed; see `GraphCNF.sample_records`.

    Args:
        model: Draws them.
        wanted: Numbers of the records.
        prior: Probabilities of the numbers of nodes, from 0 on.
        seed: Seed of the sample.
        temperature: Below 1 for more probable graphs.
        targets: What is asked of every graph, (1, P), or None.
    """
    parts: list[PackedGraphs] = []
    made: list[int] = []
    together, size = together_on(model.device), getattr(model.steps, "batch_size", BATCH)
    with one_thread(model.device):
        for records, sizes, generators in record_batches(wanted, prior, seed, together, size):
            graphs = model.sample(
                torch.as_tensor(sizes.clip(1)),
                temperature=temperature,
                generator=generators,
                targets=None if targets is None else targets.expand(len(sizes), -1),
            )
            parts.append(graphs.to_packed())
            made += records.tolist()
    place = {record: k for k, record in enumerate(made)}
    return PackedGraphs.concatenate(parts).subset([place[record] for record in wanted])
