"""Permutations of a set, and sets with a given sum."""

import itertools
import math

import pytest
import torch

from graphcnf.datasets.sets import SetShuffling, SetSummation


def test_the_published_task():
    data = SetSummation()
    # 2.24 in the paper.
    assert data.optimum == pytest.approx(2.2427, abs=1e-4) and data.categories == 16
    for batch in (next(data.train_batches(64, 0, 0)), *data.test_batches(512, 1024)):
        assert batch.dtype == torch.long and batch.min() >= 0
        assert ((batch + 1).sum(1) == 42).all()


@pytest.mark.parametrize("total", [None, 2, 6, 9])
@pytest.mark.parametrize("elements", [2, 3, 4])
def test_every_sequence_is_equally_likely(elements, total):
    if total is not None and not elements <= total <= elements**2:
        with pytest.raises(ValueError, match=f"total must be {elements} to {elements**2}"):
            SetSummation(elements=elements, total=total)
        return
    numbers = range(1, elements + 1)
    if total is None:
        data, every = SetShuffling(elements=elements), list(itertools.permutations(numbers))
    else:
        data = SetSummation(elements=elements, total=total)
        every = [s for s in itertools.product(numbers, repeat=elements) if sum(s) == total]
    assert data.optimum == pytest.approx(math.log2(len(every)) / elements)
    drawn, counts = data.draw(1000 * len(every), (3,)).unique(dim=0, return_counts=True)
    assert [tuple((row + 1).tolist()) for row in drawn] == sorted(every)
    # Binomial with mean 1000 and a standard deviation of at most 32.
    assert (counts - 1000).abs().max() < 5 * 32


@pytest.mark.parametrize("task", [SetShuffling, SetSummation])
def test_batches_are_reproducible_and_differ(task):
    data = task(epoch_batches=4)
    batches = list(data.train_batches(16, 1, 2))
    assert len(batches) == 4 and not torch.equal(batches[0], batches[1])
    assert torch.equal(next(data.train_batches(16, 1, 2, start=2)), batches[2])
    assert not torch.equal(next(data.train_batches(16, 1, 3)), batches[0])
    assert not torch.equal(next(data.train_batches(16, 2, 2)), batches[0])
    held_out = {tuple(row) for b in data.test_batches(32) for row in b.tolist()}
    assert held_out.isdisjoint(tuple(row) for b in batches for row in b.tolist())
    assert len(held_out) == 2048
