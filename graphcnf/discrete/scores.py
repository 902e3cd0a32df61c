"""Distances of two samples of discrete data.

All are total variations, half the sum of the absolute differences of frequencies: 0 for equal
frequencies, 1 if no value occurs in both. Finite samples of one density are apart, too; compare
with the distance of two halves of the data.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from itertools import combinations

import pandas as pd

from graphcnf.errors import UserError
from graphcnf.limits import check_integer


def total_variation(first: Iterable[Hashable], second: Iterable[Hashable]) -> float:
    """Return the total variation of the frequencies of values, in [0, 1].

    Raises:
        UserError: if there are no values.
    """
    counts = Counter(first), Counter(second)
    totals = [counter.total() for counter in counts]
    if not all(totals):
        raise UserError("one of the two samples is empty")
    values = counts[0].keys() | counts[1].keys()
    return sum(abs(counts[0][v] / totals[0] - counts[1][v] / totals[1]) for v in values) / 2


def pair_distances(first: pd.DataFrame, second: pd.DataFrame) -> pd.Series:
    """Return the total variation of each pair of columns of two tables; missing is a value.

    The mean measures how well the columns go together.

    Raises:
        UserError: if the columns differ, or are fewer than two.
    """
    if list(first.columns) != list(second.columns) or first.shape[1] < 2:
        raise UserError("pairs of columns need two tables with the same columns, at least two")
    pairs = list(combinations(first.columns, 2))
    tables = [table.astype(object).where(table.notna(), None) for table in (first, second)]
    distances = [
        total_variation(*(zip(table[a], table[b], strict=True) for table in tables))
        for a, b in pairs
    ]
    return pd.Series(distances, index=pd.MultiIndex.from_tuples(pairs))


def ngram_distance(first: Iterable[Sequence], second: Iterable[Sequence], n: int = 2) -> float:
    """Return the total variation of n-grams of sequences; start and end count as symbols.

    Raises:
        UserError: if n is not positive, or a list has no n-gram.
    """
    check_integer("n", n, 1)

    def ngrams(sequences: Iterable[Sequence]) -> Iterable[tuple]:
        for sequence in sequences:
            # One mark at either end; None is no symbol of a string.
            marked = [None, *sequence, None]
            yield from (tuple(marked[k : k + n]) for k in range(len(marked) - n + 1))

    return total_variation(ngrams(first), ngrams(second))
