"""Cross-validated training: copies of a model side by side, each without a part of the data.

With few data, none can be spared to be held out. So the data are cut into *folds*. For each fold, a
copy of the model learns everything but that fold, and is evaluated on it; the model itself learns
everything. All take the same number of steps. The evaluations of the copies say after how many
steps the model is best (Stone 1974, "Cross-validatory choice and assessment of statistical
predictions").

Fine-tuning on few molecules uses it (`graphcnf.training.finetuning`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from graphcnf.training.settings import Experiment

if TYPE_CHECKING:
    from graphcnf.datasets.molecules import MoleculeDataset
    from graphcnf.datasets.stereo import StereoDataset

DROPOUT = 0.3
"""Dropout in cross-validation, which delays overfitting to few molecules."""


@dataclass
class FoldBatch:
    """The batches of one step of `Folds`: one for each copy of the model, one for the model.

    Its length is that of its shortest part; a slice has the same rows of all parts.

    A part is None for a copy that takes no part in this step; they are in the order of
    `Folds.models`.
    """

    parts: list[Any]

    def __len__(self) -> int:
        return min(len(part) for part in self.parts if part is not None)

    def __getitem__(self, index) -> FoldBatch:
        return FoldBatch([part and part[index] for part in self.parts])

    def to(self, device: Any) -> FoldBatch:
        """Return the same batches with their tensors on a device."""
        return FoldBatch([part and part.to(device) for part in self.parts])


class Folds(nn.Module):
    """A model that learns all data, beside a copy for each fold that learns all but the fold.

    The training loop trains it like any model (it is `Trainable`); saving it saves the model alone.

    Attributes:
        models: A copy for each fold, and last the model itself.
        metadata: Those of the model.
    """

    def __init__(self, model: Any, folds: int, dropout: float | None):
        super().__init__()
        for module in model.modules():
            if isinstance(module, nn.Dropout) and dropout is not None:
                module.p = dropout
        self.models = nn.ModuleList([*(copy.deepcopy(model) for _ in range(folds)), model])
        self.metadata, self.save_pretrained = model.metadata, model.save_pretrained

    def training_loss(self, batch: FoldBatch, *, beta: float = 1.0):
        """Return the sum of the losses of all models that have a batch, and of their metrics."""
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


def fold_experiment(
    model: Any,
    data: MoleculeDataset | StereoDataset,
    folds: int,
    batch_size: int,
    *,
    held_out: MoleculeDataset | StereoDataset | None = None,
    dropout: float | None = DROPOUT,
) -> Experiment:
    """Return the cross-validated training of a model: an experiment with `Folds` and `FoldBatch`.

    The molecules are divided into folds at random, equal molecules into the same fold.

    An evaluation scores every molecule once, by the copy that did not learn it. The training
    batches are one endless epoch, since folds differ in length. `held_out` are the same molecules
    as they are evaluated, such as without conditions.
    """
    distinct = np.unique(data.hashes)
    fold = np.random.default_rng(0).permutation(len(distinct)) % folds

    def divided(one) -> list[Any]:
        own = fold[np.searchsorted(distinct, one.hashes)]
        return [replace(one, test_indices=np.flatnonzero(own == k)) for k in range(folds)]

    sets = [*divided(data), replace(data, test_indices=np.array([], dtype=int))]
    evaluated = divided(data if held_out is None else held_out)

    def endless(one, seed: int, start: int) -> Iterator[Any]:
        first, start = divmod(start, -(-len(one.split("train")) // batch_size))
        for epoch in count(first):
            yield from one.train_batches(batch_size, epoch, seed, start if epoch == first else 0)

    def train_batches(epoch: int, seed: int, start: int) -> Iterator[FoldBatch]:
        # One endless epoch, since the sets differ in length and all copies take equal steps.
        for parts in zip(*(endless(one, seed, start) for one in sets), strict=True):
            yield FoldBatch(list(parts))

    def test_batches() -> Iterator[FoldBatch]:
        for k, one in enumerate(evaluated):
            for batch in one.test_batches(4 * batch_size):
                yield FoldBatch([batch if j == k else None for j in range(len(sets))])

    return Experiment(Folds(model, folds, dropout), train_batches, test_batches)
