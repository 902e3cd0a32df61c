import numpy as np
import pytest

from graphcnf.graphs.batch import size_bucketed_batches

SIZES = np.random.default_rng(0).normal(23, 4.5, 10_007).round().clip(6, 38).astype(int)


def test_every_graph_once_with_little_padding():
    batches = list(size_bucketed_batches(SIZES, 32, seed=1, epoch=0))
    assert sorted(np.concatenate(batches)) == list(range(len(SIZES)))
    assert sorted(map(len, batches))[1:] == [32] * (len(batches) - 1)
    padded = sum(len(b) * SIZES[b].max() for b in batches)
    assert padded / SIZES.sum() < 1.05
    means = np.array([SIZES[b].mean() for b in batches])
    # Batches come in random order of size.
    assert abs(np.corrcoef(means[1:], means[:-1])[0, 1]) < 0.2


def test_deterministic_in_seed_and_epoch():
    def run(seed, epoch):
        return np.concatenate(list(size_bucketed_batches(SIZES, 32, seed, epoch))).tolist()

    assert run(1, 0) == run(1, 0)
    assert run(1, 0) != run(1, 1) != run(2, 1)


def test_small_and_bad_inputs():
    assert list(size_bucketed_batches(np.array([], int), 4, 0, 0)) == []
    assert [len(b) for b in size_bucketed_batches(np.array([3]), 4, 0, 0)] == [1]
    with pytest.raises(ValueError, match="at least 1"):
        list(size_bucketed_batches(SIZES, 0, 0, 0))
