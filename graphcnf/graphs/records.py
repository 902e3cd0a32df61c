"""Reproducible samples of graphs: `sample_records`, and functions that cut samples into batches.

- The *sample of a seed* is endless: graphs with the numbers 0, 1, 2, .... A *record* is one of
  them. On one kind of device it depends on nothing but the model, the arguments of sampling, the
  seed and its number: records 5 to 9 are the same, whether drawn alone or as a part of a million.
- A *block* is a range of records that are drawn together: records 0 to 127, 128 to 511, 512 to
  1023, then 1024 records each.
- A *batch* is a part of a block, of graphs of similar size, which little padding makes fast.

Why blocks: rounding in float32 depends on the shape of a batch and on the number of threads, and
now and then changes a category. So batches must always be the same. To draw one record, its whole
batch is computed, on a CPU by one thread, and the other records are thrown away.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from graphcnf.flows.base import record_generators
from graphcnf.graphs.batch import BATCH, PackedGraphs, batches
from graphcnf.graphs.graph_model import GraphModel
from graphcnf.graphs.sizes import draw_sizes
from graphcnf.limits import check_integer, check_low_and_high, check_seed, check_temperature
from graphcnf.torch_state import evaluated

BLOCK = 1024  # records in a block, from record `BLOCK` on
# First records of the blocks before that: smaller ones, since many samples are small.
FIRST_BLOCKS = (0, 128, 512)
GPU_BLOCKS = 4  # blocks that a GPU draws together: 4,096 records


def condition_row(values: Sequence[float | None]) -> Tensor:
    """Return the conditions' values of one graph as a tensor: [[2.5, NaN]] for [2.5, None]."""
    return torch.tensor([[math.nan if v is None else float(v) for v in values]])


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
    """Draw graphs that are reproducible: some records of the endless sample of a seed.

    On one machine, the other arguments and the number of a record determine it to the last bit,
    whatever else is asked for. So `range(5, 10)` gives the last five graphs of `range(10)`. Cost:
    whole batches are computed, so that a few records take as long as a batch.

    Args:
        temperature: Below 1, graphs are more probable.
        size_range: Lowest and highest number of nodes; None for all sizes of the training data.
        condition_values: Values of the P conditions, the same for all records, each in its own
            unit, with None for each unknown value. None in place of the list if all are unknown, or
            for a model without conditions.
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


def blocks(first: int, together: int = 1) -> Iterator[range]:
    """Cut the endless sample into the ranges of records that are drawn together.

    The first range contains record `first`. Where `together` blocks are drawn at once, the three of
    the first 1024 records are still drawn one by one.

    Examples:
        >>> ranges = blocks(200)
        >>> next(ranges), next(ranges)
        (range(128, 512), range(512, 1024))
    """
    while True:
        number = block_number(first)
        count = 1
        if number >= len(FIRST_BLOCKS):
            number -= (number - len(FIRST_BLOCKS)) % together
            count = together
        first = block_start(number + count)
        yield range(block_start(number), first)


def together_on(device: torch.device) -> int:
    """Return the number of blocks that a device draws together: 1 on a CPU, 4 on other devices."""
    return 1 if device.type == "cpu" else GPU_BLOCKS


def block_number(record: int) -> int:
    """Return the number of the block that contains a record: 0 for the records 0 to 127."""
    if record < BLOCK:
        return bisect_right(FIRST_BLOCKS, record) - 1
    return len(FIRST_BLOCKS) - 1 + record // BLOCK


def block_start(number: int) -> int:
    """Return the number of the first record of a block: 0, 128, 512, 1024, 2048, ...."""
    if number < len(FIRST_BLOCKS):
        return FIRST_BLOCKS[number]
    return (number - len(FIRST_BLOCKS) + 1) * BLOCK


class RecordBatch(NamedTuple):
    """R records that are drawn together.

    Attributes:
        records: Numbers of the records, (R,) int64.
        node_counts: Their numbers of nodes, (R,) int64.
        generators: Their R random generators, whose first number has given the number of nodes.
    """

    records: np.ndarray
    node_counts: np.ndarray
    generators: list[np.random.Generator]


def record_batches(
    wanted: range, prior: np.ndarray, seed: int, together: int = 1, size: int = BATCH
) -> Iterator[RecordBatch]:
    """Yield the batches, whole, that must be drawn to get some records."""
    for block in blocks(wanted.start, together):
        if block.start >= wanted.stop:
            return
        for batch in batches_of_block(block, prior, seed, size * together):
            if ((batch.records >= wanted.start) & (batch.records < wanted.stop)).any():
                yield batch


def batches_of_block(
    block: range, prior: np.ndarray, seed: int | tuple, size: int
) -> Iterator[RecordBatch]:
    """Draw the numbers of nodes of the records of a block, and cut it into batches of similar size.

    Each record has a random generator of its own, made of the seed and its number, so that it does
    not depend on what else is drawn. The generator's first number gives the number of nodes, its
    next ones the latents.
    """
    generators = record_generators(seed, block.start, len(block))
    sizes = draw_sizes(prior, generators)
    for chosen in batches(sizes, size):
        yield RecordBatch(block.start + chosen, sizes[chosen], [generators[k] for k in chosen])


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """Return a context in which torch uses one thread on a CPU, so that results are reproducible.

    Several threads would add numbers in another order, and so round differently.
    """
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
