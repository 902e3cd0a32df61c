"""Counts in contexts: probabilities, and what leaving one out means."""

import numpy as np
import torch

from graphcnf.discrete import counts
from graphcnf.discrete.contexts import ContextCounts


def counted(keys, x):
    found = ContextCounts.of(list(keys.T.numpy()), [x.numpy()] * keys.shape[1])
    return lambda keys, p, factors, x=None: found(
        keys[:, None], p, factors, x=None if x is None else x[:, None]
    )


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


def column_counts(x):
    found = counts.ColumnCounts([2, 5, 3], [[], [0], [0, 1]], [[], [2], [1, 4]])
    found.count(x)
    return found


def test_columns_of_one_table_are_counted_together():
    random = np.random.default_rng(0)
    x = torch.from_numpy(random.integers(0, [2, 5, 3], (50, 3)))
    table = column_counts(x)
    rank = torch.tensor([[0, 1, 2], [2, 0, 1]])[torch.arange(50) % 2]
    for counted in (False, True):
        together = table(x, rank, counted=counted)
        apart = torch.cat([table(x, rank, k, counted=counted) for k in range(3)], 1)
        torch.testing.assert_close(together, apart)
        totals = [part.exp().sum(1) for part in together.split([2, 5, 3], 1)]
        torch.testing.assert_close(torch.stack(totals), torch.ones(3, 50))
    # Without its parents in its row, a column has the probabilities of no parents.
    alone = counts.ColumnCounts([2, 5, 3], [[], [], []], [[], [], []])
    alone.count(x)
    torch.testing.assert_close(table(x, rank)[1::2, 2:7], alone(x, rank)[1::2, 2:7])


def test_looking_up_tables_is_as_counting(monkeypatch):
    monkeypatch.setattr(counts, "SPARSE", 1)
    random = np.random.default_rng(0)
    # 60 rows of 30 combinations: some contexts have one row, some categories occur once.
    x = torch.from_numpy(random.integers(0, [2, 5, 3], (60, 3)))
    new = torch.from_numpy(random.integers(0, [2, 5, 3], (90, 3)))
    rank = torch.rand(90, 3).argsort(1)
    looked_up = column_counts(x[:50])
    found = [looked_up(x[:50], rank[:50], counted=True), looked_up(new, rank)]
    assert looked_up._made[1] is not None
    monkeypatch.setattr(counts, "LARGEST_TABLES", 0)
    counted = column_counts(x[:50])
    expected = [counted(x[:50], rank[:50], counted=True), counted(new, rank)]
    torch.testing.assert_close(found, expected)
    assert (expected[0] - counted(x[:50], rank[:50])).abs().max() > 0.1


def test_tables_follow_counts_that_are_loaded_in_place(monkeypatch):
    monkeypatch.setattr(counts, "SPARSE", 1)
    x = torch.tensor([[0, 1, 2], [1, 0, 1], [0, 1, 2]])
    others = torch.tensor([[1, 4, 0], [0, 2, 1], [1, 4, 0]])  # as many contexts and pairs
    rank = torch.arange(3)[None]
    table, other = column_counts(x), column_counts(others)
    before = table(x, rank)
    table.load_state_dict(other.state_dict())
    torch.testing.assert_close(table(x, rank), other(x, rank))
    assert (table(x, rank) - before).abs().max() > 0.1


def test_mutual_information_is_that_of_the_smoothed_frequencies():
    random, sizes = np.random.default_rng(0), np.array([3, 5, 2])
    x = random.integers(0, sizes, (200, len(sizes)))
    x[:, 2] = x[:, 0] > 0
    shared = counts.mutual_information(x, sizes)
    p = [(np.bincount(x[:, k], minlength=n) + 0.5) / (200 + 0.5 * n) for k, n in enumerate(sizes)]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        both = np.outer(p[a], p[b])
        np.add.at(both, (x[:, a], x[:, b]), 1)
        both /= 201
        margins = np.outer(both.sum(1), both.sum(0))
        expected = (both * np.log(both / margins)).sum()
        np.testing.assert_allclose([shared[a, b], shared[b, a]], expected)


def test_normalised_logits_are_those_of_each_column():
    owner, logits = torch.tensor([0, 0, 0, 1, 2, 2]), 50 * torch.randn(20, 6)
    parts = [part.log_softmax(1) for part in logits.split([3, 1, 2], 1)]
    torch.testing.assert_close(counts.normalised(logits, owner), torch.cat(parts, 1))


def test_many_categories_are_normalised_one_column_after_the_other():
    sizes = [3, 40, 20]
    owner, logits = torch.arange(3).repeat_interleave(torch.tensor(sizes)), 50 * torch.randn(4, 63)
    assert len(owner) > counts.SPARSE * len(sizes)
    parts = [part.log_softmax(1) for part in logits.split(sizes, 1)]
    torch.testing.assert_close(counts.normalised(logits, owner), torch.cat(parts, 1))


def test_sums_of_rows_are_the_same_however_they_are_added():
    table, weight = torch.randn(100, 7), torch.rand(5, 3)
    number = torch.stack([torch.randperm(100)[:3] for _ in range(5)])
    assert len(table) > counts.SPARSE * 3
    some = counts.weighted_sum(table, number, weight)
    torch.testing.assert_close(some, (table[number] * weight[..., None]).sum(1))
    torch.testing.assert_close(
        counts.weighted_sum(table[:40], number % 40, weight)[0],
        (table[number % 40] * weight[..., None]).sum(1)[0],
    )
