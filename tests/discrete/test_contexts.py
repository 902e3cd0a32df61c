"""Counts in contexts: probabilities, and what leaving one out means."""

import numpy as np
import torch

from graphcnf.discrete import counts
from graphcnf.discrete.contexts import ContextCounts


def counted(keys, x):
    return ContextCounts.of(list(keys.T.numpy()), [x.numpy()] * keys.shape[1])


def test_a_row_that_is_left_out_is_as_if_it_had_not_been_counted():
    random = np.random.default_rng(0)
    x = torch.from_numpy(random.integers(0, 3, 40))
    # Contexts of three lengths, each a part of the shorter one.
    keys = torch.from_numpy(np.stack([np.zeros(40, int), *random.integers(1, 4, (2, 40))], 1))
    keys[:, 1:] = (keys[:, 1:] * torch.tensor([1, 10])).cumsum(1)
    p = torch.full((40, 3), 1 / 3)
    factors = torch.tensor([[2.0, 1.0, 4.0]])
    every = counted(keys, x)
    left_out = every(keys, p, factors, x)
    torch.testing.assert_close(left_out.exp().sum(1), torch.ones(40))
    assert (left_out - every(keys, p, factors)).abs().max() > 0.1
    for k in range(40):
        others = torch.arange(40) != k
        one = slice(k, k + 1)
        expected = counted(keys[others], x[others])(keys[one], p[one], factors)
        torch.testing.assert_close(left_out[one], expected)


def test_unknown_contexts_change_nothing():
    counts = counted(torch.zeros(4, 1, dtype=torch.long), torch.tensor([0, 0, 1, 2]))
    p = torch.tensor([[0.5, 0.25, 0.25]])
    for key in (-1, 7):
        torch.testing.assert_close(counts(torch.tensor([[key]]), p, torch.ones(1, 1)).exp(), p)


def test_mutual_information_of_many_categories_is_computed_in_groups(monkeypatch):
    random, sizes = np.random.default_rng(0), np.array([3, 5, 2, 9, 4])
    x = random.integers(0, sizes, (200, len(sizes)))
    whole, pointwise = counts.mutual_information(x, sizes)
    assert pointwise.shape == (23, 23)
    monkeypatch.setattr(counts, "LARGEST_PAIRS", 6)
    assert np.array_equal(counts.mutual_information(x, sizes)[0], whole)
    assert counts.Counts.of(x, sizes.tolist()).information.shape == (0, 0)
