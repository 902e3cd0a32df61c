"""Cross-validation of fine-tuning: copies of a model, trained side by side."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count

import numpy as np
from torch import Tensor, nn

from graphcnf.graphs.batch import GraphBatch
from graphcnf.graphs.model import GraphCNF
from graphcnf.training.settings import Experiment

DROPOUT = 0.3
"""Dropout in training, which delays learning few molecules by heart."""


@dataclass
class FoldBatch:
    """Batches for copies of a model, None for a copy that has nothing to do."""

    parts: list[GraphBatch | None]

    def __len__(self) -> int:
        return min(len(part) for part in self.parts if part is not None)

    def __getitem__(self, index) -> FoldBatch:
        return FoldBatch([part and part[index] for part in self.parts])

    def to(self, device) -> FoldBatch:
        """Return the same batches on a device."""
        return FoldBatch([part and part.to(device) for part in self.parts])


class Folds(nn.Module):
    """A model that learns all molecules, and a copy for each fold that learns all but the fold.

    All take the same number of steps, and each molecule is held out by one copy (Stone 1974,
    "Cross-validatory choice and assessment of statistical predictions").

    Args:
        model: The model that is saved, which draws graphs atom by atom.
        folds: Number of copies.
    """

    def __init__(self, model: GraphCNF, folds: int):
        super().__init__()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = DROPOUT
        copies = [copy.deepcopy(model) for _ in range(folds)]
        self.models = nn.ModuleList([*copies, model])
        self.metadata, self.save_pretrained = model.metadata, model.save_pretrained

    def training_loss(self, batch: FoldBatch, *, beta: float = 1.0):
        """Return the sum of the copies' losses, and metrics over the graphs of all of them."""
        losses: list[Tensor] = []
        sums: dict[str, tuple] = {}
        for model, part in zip(self.models, batch.parts, strict=True):
            if part is None:
                continue
            loss, metrics = model.training_loss(part, beta=beta)  # type: ignore[operator]
            losses.append(loss)
            for name, (total, number) in metrics.items():
                before = sums.get(name, (0.0, 0.0))
                sums[name] = (before[0] + total, before[1] + number)
        return sum(losses), sums


def fold_experiment(model: GraphCNF, data, folds: int, batch_size: int) -> Experiment:
    """Return the training of `Folds` on a `MoleculeDataset`.

    Args:
        model: The model that is to learn all molecules.
        data: The molecules; equal ones share a fold.
        folds: Number of folds, from 2 to the number of distinct molecules.
        batch_size: Molecules per step of each copy.
    """
    distinct, number = np.unique(data.hashes, return_inverse=True)
    fold = (np.random.default_rng(0).permutation(len(distinct)) % folds)[number]
    held_out = [np.flatnonzero(fold == k) for k in range(folds)]
    sets = [replace(data, test_indices=part) for part in (*held_out, np.array([], dtype=int))]

    def train_batches(epoch: int, seed: int, start: int) -> Iterator[FoldBatch]:
        # One endless epoch: the sets differ in length, and the copies must not in steps.
        streams = [_endless(one, batch_size, seed, start) for one in sets]
        for parts in zip(*streams, strict=True):
            yield FoldBatch(list(parts))

    def test_batches() -> Iterator[FoldBatch]:
        for k, one in enumerate(sets[:-1]):
            for batch in replace(one, targets=None).test_batches(4 * batch_size):
                yield FoldBatch([batch if j == k else None for j in range(len(sets))])

    return Experiment(Folds(model, folds), train_batches, test_batches)


def _endless(data, batch_size: int, seed: int, start: int) -> Iterator[GraphBatch]:
    per_epoch = -(-len(data.split("train")) // batch_size)
    first, number = divmod(start, per_epoch)
    for epoch in count(first):
        yield from data.train_batches(batch_size, epoch, seed, number if epoch == first else 0)
