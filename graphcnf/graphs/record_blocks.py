"""Reproducible records: a numbered record is always computed in the same batch, by one thread.

Rounding in float32 depends on batch shapes and threads, and occasionally changes a category.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from graphcnf.flows.base import record_generators
from graphcnf.flows.transform import Noise

BATCH = 256  # default number of graphs in a batch
BLOCK = 1024  # records in a block, from record `BLOCK` on
FIRST_BLOCKS = (0, 128, 512)  # starts of the smaller blocks of the first `BLOCK` records
GPU_BLOCKS = 4  # blocks that a GPU draws together: 4,096 records


def blocks(first: int, together: int = 1) -> Iterator[range]:
    """Yield ranges of records without end, from the block of record `first` on.

    Each range is `together` blocks, or one of the blocks of the first `BLOCK` records.
    """
    while True:
        number = _block_number(first)
        count = 1
        if number >= len(FIRST_BLOCKS):
            number -= (number - len(FIRST_BLOCKS)) % together
            count = together
        first = _block_start(number + count)
        yield range(_block_start(number), first)


def together_on(device: torch.device) -> int:
    """Return the number of blocks that a device draws together: 1 on a CPU, more on a GPU."""
    return 1 if device.type == "cpu" else GPU_BLOCKS


def share_of(records: range, part: int, parts: int) -> range:
    """Return part number `part`, 1 to `parts`, of records cut between blocks into equal parts.

    Examples:
        >>> [share_of(range(100, 2000), part, 3) for part in (1, 2, 3)]
        [range(100, 128), range(128, 512), range(512, 2000)]
    """
    first, count = _block_number(records.start), block_count(records)
    low, high = (_block_start(first + count * k // parts) for k in (part - 1, part))
    return range(max(low, records.start), min(high, records.stop))


def block_count(records: range) -> int:
    """Return the number of blocks that contain `records`, a range that is not empty."""
    return _block_number(records.stop - 1) - _block_number(records.start) + 1


def _block_number(record: int) -> int:
    if record < BLOCK:
        return bisect_right(FIRST_BLOCKS, record) - 1
    return len(FIRST_BLOCKS) - 1 + record // BLOCK


def _block_start(number: int) -> int:
    if number < len(FIRST_BLOCKS):
        return FIRST_BLOCKS[number]
    return (number - len(FIRST_BLOCKS) + 1) * BLOCK


def batches(sizes: np.ndarray, together: int = 1, size: int = BATCH) -> list[np.ndarray]:
    """Return index arrays of batches of `size * together` graphs, sorted by their sizes (M,)."""
    order, size = np.argsort(sizes, kind="stable"), size * together
    return [order[k : k + size] for k in range(0, len(order), size)]


def record_batches(
    wanted: range, prior: np.ndarray, seed: int, together: int = 1, size: int = BATCH
) -> Iterator[tuple[np.ndarray, np.ndarray, list[np.random.Generator]]]:
    """Yield the batches that contain the records `wanted` of the sample of a seed.

    A batch is the numbers, sizes and generators of its records, all from one block and of similar
    size. The first number that a generator draws gives the size, with the probabilities `prior` of
    sizes 0, 1, ...
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


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """Let torch compute on a CPU with one thread: several would sum in another order."""
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class RecordNoise(Noise):
    """Tape of encoder noise whose numbers depend on seed and record, not on the batch."""

    def __init__(self, seed: int, records: Sequence[int]):
        super().__init__()
        self.seed, self.records = seed, records

    def take(self, draw):
        """Return uniform numbers of shape and type of `draw()`, which must be uniform as well."""

        def own():
            like, rows = draw(), []
            for record in self.records:
                # The spawn key makes these numbers independent of those that drew the record.
                key = (len(self.draws),)
                sequence = np.random.SeedSequence((self.seed, int(record)), spawn_key=key)
                # Padding of nodes and pairs comes last, so it does not shift the numbers.
                random = np.random.Generator(np.random.Philox(sequence))
                rows.append(random.random(tuple(like.shape[1:])))
            return torch.from_numpy(np.stack(rows)).to(like)

        return super().take(own)
