"""Order of training: which graphs form the batches of an epoch.

An *epoch* is one pass through the training data. Batches hold items of similar size, so that they
need little padding. Items may be of any kind that has a size: graphs (their numbers of nodes), or
sequences (their lengths).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def size_bucketed_batches(
    node_counts: np.ndarray, batch_size: int, seed: int, epoch: int, first: int = 0
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the batches of an epoch: graphs of similar size together, the batches in random order.

    All graphs are shuffled and cut into buckets of 20 batches. Each bucket is sorted by size and
    cut into batches, and all batches are shuffled. So batches need little padding, and yet differ
    from epoch to epoch. They are a function of seed and epoch, so that a run that was stopped in
    the middle of an epoch goes on with the same batches (`first`).

    Yields:
        A pair for each batch: its number in the epoch, from 0, and the indices of its graphs in
        `node_counts`, int64, at most `batch_size` of them.
    """
    node_counts = np.asarray(node_counts)
    random = np.random.default_rng((seed, epoch))
    order = random.permutation(len(node_counts))
    # Graphs are in random order, so a stable sort by (bucket, size) leaves ties shuffled.
    order = order[np.lexsort((node_counts[order], np.arange(len(order)) // (20 * batch_size)))]
    starts = random.permutation(np.arange(0, len(order), batch_size)).tolist()
    for number in range(first, len(starts)):
        yield number, order[starts[number] : starts[number] + batch_size]
