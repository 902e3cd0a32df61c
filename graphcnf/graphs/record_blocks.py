"""Reproducible records: a numbered record is always computed in the same batch, by one thread.

A *record* is one graph of a sample. It must depend on nothing but the model, the seed, its number
and the kind of device, whatever else is drawn with it. But rounding in float32 depends on the
shapes of a batch and on the number of threads, and occasionally changes a category. Records are
therefore cut into *blocks* at fixed numbers, and a block into batches of graphs of similar size; a
record is drawn by computing its whole batch.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from graphcnf.flows.base import record_generators
from graphcnf.flows.transform import Noise
from graphcnf.graphs.batch import BATCH, batches
from graphcnf.graphs.sizes import draw_sizes

BLOCK = 1024  # records in a block, from record `BLOCK` on
# First records of the blocks before that: smaller ones, since many samples are small.
FIRST_BLOCKS = (0, 128, 512)
GPU_BLOCKS = 4  # blocks that a GPU draws together: 4,096 records


def blocks(first: int, together: int = 1) -> Iterator[range]:
    """Yield ranges of records without end, from the block that holds record `first` on.

    Args:
        first: Number of a record.
        together: Number of blocks in a range; of the first `BLOCK` records, each block is a range
            of its own.

    Yields:
        Ranges of record numbers without gaps. Blocks begin at 0, 128, 512, 1024, 2048, ....
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
    """Return the number of blocks that a device draws together: 1 on a CPU, more on a GPU."""
    return 1 if device.type == "cpu" else GPU_BLOCKS


def block_number(record: int) -> int:
    """Return the number of the block, from 0, that contains a record."""
    if record < BLOCK:
        return bisect_right(FIRST_BLOCKS, record) - 1
    return len(FIRST_BLOCKS) - 1 + record // BLOCK


def block_start(number: int) -> int:
    """Return the first record of block `number`."""
    if number < len(FIRST_BLOCKS):
        return FIRST_BLOCKS[number]
    return (number - len(FIRST_BLOCKS) + 1) * BLOCK


Batches = Iterator[tuple[np.ndarray, np.ndarray, list[np.random.Generator]]]
"""Numbers and sizes of the records of each batch, int64 both, and their generators."""


def record_batches(
    wanted: range, prior: np.ndarray, seed: int, together: int = 1, size: int = BATCH
) -> Batches:
    """Yield the batches that contain some records of the sample of a seed, whole.

    Args:
        wanted: Numbers of the records.
        prior: Probabilities of sizes 0, 1, ...; they need not sum to one.
        seed: Seed of the sample.
        together: Number of blocks that are drawn together.
        size: Graphs in a batch, for each block that is drawn with it.

    Yields:
        Numbers of all records of a batch and their sizes, int64 both, and their random generators,
        which have drawn the size already.
    """
    for block in blocks(wanted.start, together):
        if block.start >= wanted.stop:
            return
        for drawn in batches_of_block(block, prior, seed, size * together):
            if ((drawn[0] >= wanted.start) & (drawn[0] < wanted.stop)).any():
                yield drawn


def batches_of_block(block: range, prior: np.ndarray, seed: int | tuple, size: int) -> Batches:
    """Draw the sizes of the records of a block, and yield its batches, of similar size.

    Each record has a random generator of its own, from the seed and its number, so that it does not
    depend on what else is drawn. The first number that it draws gives the size of the record, the
    next ones its latents.

    Args:
        block: Numbers of the records.
        prior: Probabilities of sizes 0, 1, ...; they need not sum to one.
        seed: Seed of the sample.
        size: Graphs per batch.

    Yields:
        Numbers of the records of a batch and their sizes, int64 both, and their random generators.
    """
    generators = record_generators(seed, block.start, len(block))
    sizes = draw_sizes(prior, generators)
    for chosen in batches(sizes, size):
        yield block.start + chosen, sizes[chosen], [generators[k] for k in chosen]


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """Return a context in which torch uses one thread if a device is a CPU.

    Several threads would sum in another order.
    """
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class RecordNoise(Noise):
    """Tape of encoder noise whose numbers depend on seed and record, not on the batch.

    Args:
        seed: Seed of the noise.
        records: Number of the record of each row of the batch.
    """

    def __init__(self, seed: int, records: Sequence[int]):
        super().__init__()
        self.seed = seed
        self.records = records

    def draw(self, shape, device, dtype):
        """Draw numbers in [0, 1), (B, ...): each row by a generator of its record and this draw."""
        rows = []
        for record in self.records:
            # The spawn key makes these numbers independent of those that drew the record.
            key = (len(self.draws),)
            sequence = np.random.SeedSequence((self.seed, int(record)), spawn_key=key)
            # Padding of nodes and pairs comes last, so it does not shift the numbers.
            random = np.random.Generator(np.random.Philox(sequence))
            rows.append(random.random(tuple(shape[1:])))
        return torch.from_numpy(np.stack(rows)).to(device, dtype)
