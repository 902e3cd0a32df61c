"""Synthetic sets with a known optimum: permutations, and numbers with a given sum.

A *set* is given as a sequence of N categories, its *elements*. All sequences that meet the
condition are equally likely, so the *optimum*, the lowest bits per variable that a model can reach,
is `log2(number of sequences) / N` (Lippe & Gavves 2021, arXiv 2006.09790, sec. 5.2).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from graphcnf.limits import LARGEST_SEED, Range


@dataclass(frozen=True)
class SetShuffling:
    """Random permutations of N elements, as sequences of the categories 0 to N - 1.

    Training and held-out sets are drawn anew from different random streams; nothing is stored.

    Attributes:
        elements: Number N of elements of a set, at least 2.
        epoch_batches: Number of batches of an epoch of training.
        test_seed: Seed of the held-out sets.
    """

    elements: int = 16
    epoch_batches: int = 1000
    test_seed: Annotated[int, Range(0, LARGEST_SEED)] = 123

    def __post_init__(self) -> None:
        if self.elements < 2:
            raise ValueError(f"elements must be at least 2, got {self.elements}")

    @property
    def categories(self) -> int:
        """Number of categories that an element can have, which is N."""
        return self.elements

    @property
    def optimum(self) -> float:
        """Lowest bits per variable that a model can reach: `log2(number of sequences) / N`."""
        return math.lgamma(self.elements + 1) / math.log(2) / self.elements

    def draw(self, count: int, key: tuple[int, ...]) -> Tensor:
        """Draw random sets, (count, N) long, by a seed of several integers."""
        rows = np.tile(np.arange(self.elements), (count, 1))
        return torch.from_numpy(np.random.default_rng(key).permuted(rows, axis=1))

    def train_batches(
        self, batch_size: int, epoch: int, seed: int, start: int = 0
    ) -> Iterator[Tensor]:
        """Draw the sets of an epoch of training in batches, (batch_size, N) long."""
        for number in range(start, self.epoch_batches):
            yield self.draw(batch_size, (0, seed, epoch, number))

    def test_batches(self, batch_size: int, count: int = 2048) -> Iterator[Tensor]:
        """Yield the held-out sets in batches, (batch_size, N) long, always the same ones."""
        yield from self.draw(count, (1, self.test_seed)).split(batch_size)


@dataclass(frozen=True)
class SetSummation(SetShuffling):
    """N numbers from 1 to N with a given sum, in any order; category k stands for the number k + 1.

    All sequences with the sum are equally probable.

    Attributes:
        total: Sum of the numbers, from N to N².
    """

    total: int = 42

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.elements <= self.total <= self.elements**2:
            raise ValueError(
                f"total must be {self.elements} to {self.elements**2}, the sums of {self.elements} "
                f"numbers from 1 to {self.elements}, got {self.total}"
            )

    @cached_property
    def counts(self) -> list[list[int]]:
        """Numbers of sequences: `counts[n][s]` for n categories from 0 to N - 1 with the sum s.

        n is 0 to N, and s is 0 to `total` - N. The method `draw` chooses categories by them.
        """
        most = self.total - self.elements
        rows = [[1] + [0] * most]
        for _ in range(self.elements):
            before = rows[-1]
            rows.append(
                [sum(before[max(0, s - self.elements + 1) : s + 1]) for s in range(most + 1)]
            )
        return rows

    @property
    def optimum(self) -> float:
        return math.log2(self.counts[self.elements][-1]) / self.elements

    @cached_property
    def _cumulative(self) -> list[np.ndarray]:
        """Cumulative probabilities by which `draw` chooses the category of each position."""
        tables = []
        for places in range(self.elements, 0, -1):
            whole, rest = self.counts[places], self.counts[places - 1]
            table = np.zeros((len(whole), self.elements))
            for s, ways in enumerate(whole):
                for c in range(min(s + 1, self.elements) if ways else 0):
                    table[s, c] = rest[s - c] / ways
            tables.append(table.cumsum(1))
        return tables

    def draw(self, count: int, key: tuple[int, ...]) -> Tensor:
        """Draw random sequences with the sum, all with equal probability."""
        generator = np.random.default_rng(key)
        left = np.full(count, self.total - self.elements)
        out = np.empty((count, self.elements), dtype=np.int64)
        for place, cumulative in enumerate(self._cumulative):
            below = cumulative[left]
            u = generator.random((count, 1)) * below[:, -1:]
            out[:, place] = (u >= below).sum(1)
            left -= out[:, place]
        return torch.from_numpy(out)


TASKS = {"shuffling": SetShuffling, "summation": SetSummation}
