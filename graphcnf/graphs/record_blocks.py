"""Numbered records of a sample, each always computed in the same batch, by one thread.

Rounding in float32 depends on shapes and threads, and once in a while decides between categories.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from graphcnf.flows.base import record_generators
from graphcnf.flows.transform import Noise

BATCH = 256  # graphs in a batch, where a model says nothing else
BLOCK = 1024  # records in a block, but for the first ones
FIRST_BLOCKS = (0, 128, 512)  # first records of the blocks that make up the first `BLOCK` records
GPU_BLOCKS = 4  # blocks that a GPU draws at once: 4,096 records


def blocks(first: int, together: int = 1) -> Iterator[range]:
    """Yield endless blocks, from the one that holds the record `first` on, `together` as one.

    Those of the first `BLOCK` records come alone.
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
    """Return the number of blocks drawn at once; a GPU, which rounds otherwise, draws more."""
    return 1 if device.type == "cpu" else GPU_BLOCKS


def share_of(records: range, part: int, parts: int) -> range:
    """Return part 1 to `parts` of some records, cut where blocks begin, at most a block apart.

    Examples:
        >>> [share_of(range(100, 2000), part, 3) for part in (1, 2, 3)]
        [range(100, 128), range(128, 512), range(512, 2000)]
    """
    first, count = _block_number(records.start), block_count(records)
    low, high = (_block_start(first + count * k // parts) for k in (part - 1, part))
    return range(max(low, records.start), min(high, records.stop))


def block_count(records: range) -> int:
    """Return the number of the blocks that hold records, at least one."""
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
    """Return the places of graphs of sizes (M,) in batches of `size` for each block."""
    order, size = np.argsort(sizes, kind="stable"), size * together
    return [order[k : k + size] for k in range(0, len(order), size)]


def record_batches(
    wanted: range, prior: np.ndarray, seed: int, together: int = 1, size: int = BATCH
) -> Iterator[tuple[np.ndarray, np.ndarray, list[np.random.Generator]]]:
    """Yield the batches that hold the records `wanted` of the sample with this seed.

    Numbers, sizes (by the first number that a record draws and the probabilities `prior` from 0
    on) and generators of all records of a batch; graphs of like size in a block share one.
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
    """Let torch compute on a CPU with one thread: with several it rounds sums in another order."""
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class RecordNoise(Noise):
    """Noise of the encoders in which a record has its own numbers, whatever it is batched with."""

    def __init__(self, seed: int, records: Sequence[int]):
        super().__init__()
        self.seed, self.records = seed, records

    def take(self, draw):
        """Return uniform numbers in the shape of `draw()`, which draws uniform numbers as well."""

        def own():
            like, rows = draw(), []
            for record in self.records:
                # The spawn key sets these numbers apart from those that drew the record.
                key = (len(self.draws),)
                sequence = np.random.SeedSequence((self.seed, int(record)), spawn_key=key)
                # Nodes and pairs come in an order in which padding is last: it shifts no numbers.
                random = np.random.Generator(np.random.Philox(sequence))
                rows.append(random.random(tuple(like.shape[1:])))
            return torch.from_numpy(np.stack(rows)).to(like)

        return super().take(own)
