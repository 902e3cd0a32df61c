"""Sets with a given sum; permutations are tested with the training experiments."""

import itertools
import math

import pytest
import torch

from graphcnf.datasets.sets import TASKS, SetSummation


def test_the_published_task():
    data = SetSummation()
    # 2.24 in the paper.
    assert data.optimum == pytest.approx(2.2427, abs=1e-4) and data.categories == 16
    for batch in (next(data.train_batches(64, 0, 0)), *data.test_batches(512, 1024)):
        assert batch.dtype == torch.long and batch.min() >= 0
        assert ((batch + 1).sum(1) == 42).all()


@pytest.mark.parametrize("elements, total", [(2, 2), (3, 6), (4, 9), (3, 9)])
def test_every_sequence_is_equally_likely(elements, total):
    data = SetSummation(elements=elements, total=total)
    numbers = range(1, elements + 1)
    every = [s for s in itertools.product(numbers, repeat=elements) if sum(s) == total]
    assert data.optimum == pytest.approx(math.log2(len(every)) / elements)
    drawn, counts = data.draw(1000 * len(every), (3,)).unique(dim=0, return_counts=True)
    assert [tuple((row + 1).tolist()) for row in drawn] == sorted(every)
    # Binomial with mean 1000 and a standard deviation of at most 32.
    assert (counts - 1000).abs().max() < 5 * 32


def test_batches_are_reproducible():
    data = SetSummation(epoch_batches=4)
    batches = list(data.train_batches(16, 1, 2))
    assert len(batches) == 4 and not torch.equal(batches[0], batches[1])
    assert torch.equal(next(data.train_batches(16, 1, 2, start=2)), batches[2])
    assert not torch.equal(next(data.train_batches(16, 1, 3)), batches[0])


@pytest.mark.parametrize("total", [15, 257])
def test_impossible_sums(total):
    with pytest.raises(ValueError, match="total must be 16 to 256"):
        SetSummation(total=total)


def test_tasks_by_name():
    assert {name: task().elements for name, task in TASKS.items()} == {
        "shuffling": 16,
        "summation": 16,
    }
