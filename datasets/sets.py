"""Set shuffling: random permutations of a set, a task with a known optimum.

Every permutation is equally likely, so no model can do better than `log2(N!) / N` bits per
variable; a model reaches that only if it never repeats an element (Lippe & Gavves 2021, sec. 5.2).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class SetShuffling:
    """Random permutations of `elements` elements, as categories 0 to `elements - 1`.

    Training batches never end; the held-out set comes from a stream of its own, and with 16
    elements (2e13 permutations) it shares none with the training data.

    Attributes:
        elements: size N of the set, at least 2.
        epoch_batches: batches that count as one epoch.
        test_seed: seed of the held-out set.
    """

    elements: int = 16
    epoch_batches: int = 1000
    test_seed: int = 123

    def __post_init__(self) -> None:
        if self.elements < 2:
            raise ValueError(f"a set to shuffle needs at least 2 elements, not {self.elements}")

    @property
    def optimum(self) -> float:
        """Lowest possible bits per variable, `log2(N!) / N`."""
        return math.lgamma(self.elements + 1) / math.log(2) / self.elements

    def permutations(self, count: int, key: tuple[int, ...]) -> Tensor:
        """Permutations (count, N) long, a function of `key` (non-negative numbers)."""
        generator = np.random.default_rng(key)
        rows = np.tile(np.arange(self.elements), (count, 1))
        return torch.from_numpy(generator.permuted(rows, axis=1))

    def train_batches(
        self, batch_size: int, epoch: int, seed: int, start: int = 0, stride: int = 1
    ) -> Iterator[Tensor]:
        """Batches `start`, `start + stride`, ... of an epoch, each (batch_size, N) long."""
        for number in range(start, self.epoch_batches, stride):
            yield self.permutations(batch_size, (0, seed, epoch, number))

    def test_batches(self, batch_size: int, count: int = 2048) -> Iterator[Tensor]:
        """The held-out permutations in batches, the same ones every time."""
        held_out = self.permutations(count, (1, self.test_seed))
        yield from held_out.split(batch_size)
