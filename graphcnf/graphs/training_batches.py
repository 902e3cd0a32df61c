"""Batches of an epoch of training, for data of any kind that have sizes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def size_bucketed_batches(
    node_counts: np.ndarray, batch_size: int, seed: int, epoch: int, first: int = 0
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the batches of an epoch of training: graphs of similar size, in random order.

    Graphs are shuffled, cut into buckets of 20 batches, sorted by size within each bucket and cut
    into batches, which are shuffled: little padding, and still other batches in every epoch. Seed
    and epoch determine the batches, so that a run can resume.

    Args:
        node_counts: Number of nodes of each graph, (M,).
        batch_size: Graphs per batch; the last batch may have fewer.
        seed: Seed of the run.
        epoch: Number of the epoch.
        first: Number of the first batch to yield.

    Yields:
        Number of the batch, and the indices of its graphs, int64.
    """
    node_counts = np.asarray(node_counts)
    random = np.random.default_rng((seed, epoch))
    order = random.permutation(len(node_counts))
    # Graphs are in random order, so a stable sort by (bucket, size) leaves ties shuffled.
    order = order[np.lexsort((node_counts[order], np.arange(len(order)) // (20 * batch_size)))]
    starts = random.permutation(np.arange(0, len(order), batch_size)).tolist()
    for number in range(first, len(starts)):
        yield number, order[starts[number] : starts[number] + batch_size]
