"""Cross-validated training: copies of a model side by side, each without a part of the data.

The data are cut into *folds*. A copy of the model for each fold learns all but that one, and is
evaluated on it, while the model itself learns everything. All take the same number of steps, so
that the evaluations say after how many the model is best (Stone 1974, "Cross-validatory choice and
assessment of statistical predictions").
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
    """One step's batches of all copies of a model in `Folds`.

    Its length is that of the shortest part, and a slice of it has the same rows of all parts.

    Attributes:
        parts: The batch of each copy, such as a `GraphBatch`; None for a copy without one.
    """

    parts: list[Any]

    def __len__(self) -> int:
        return min(len(part) for part in self.parts if part is not None)

    def __getitem__(self, index) -> FoldBatch:
        return FoldBatch([part and part[index] for part in self.parts])

    def to(self, device: Any) -> FoldBatch:
        """Return a copy with the parts on a device.

        Args:
            device: A `torch.device`, or its name.
        """
        return FoldBatch([part and part.to(device) for part in self.parts])


class Folds(nn.Module):
    """A model that learns all molecules, beside a copy for each fold that learns all but the fold.

    It is `Trainable`, and is saved as the model itself.

    Args:
        model: The model, a module that is `graphcnf.training.settings.Trainable`. Its own dropout
            is changed, in place, if `dropout` is given.
        folds: Number of folds.
        dropout: Share of channels that training leaves out; None for the model's own.

    Attributes:
        models: The copies of the folds, and last the model.
    """

    def __init__(self, model: Any, folds: int, dropout: float | None):
        super().__init__()
        for module in model.modules():
            if isinstance(module, nn.Dropout) and dropout is not None:
                module.p = dropout
        self.models = nn.ModuleList([*(copy.deepcopy(model) for _ in range(folds)), model])
        self.metadata, self.save_pretrained = model.metadata, model.save_pretrained

    def training_loss(self, batch: FoldBatch, *, beta: float = 1.0):
        """Return what training minimises, and what is reported.

        Args:
            batch: A batch for each copy.
            beta: Weight of log p(x|z) in the bound, see `Bound.value`.

        Returns:
            The sum of the copies' losses, a scalar, and the metrics of the model's own
            `training_loss`, each a pair (sum over all copies, number).
        """
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
    """Return the cross-validated training of a model, of `Folds` on `FoldBatch`.

    Repeats of a molecule share a fold.

    Args:
        model: The model that is to learn all molecules.
        data: The molecules.
        folds: Number of folds, from 2 to the number of distinct molecules.
        batch_size: Molecules per step of each copy.
        held_out: The same molecules in the form in which they are evaluated; None for `data`.
        dropout: Share of channels that training leaves out; None for the model's own.

    Returns:
        The experiment. Its epoch is endless, since folds differ in length; an evaluation scores the
        copy of each fold on this fold, so that its batches score every molecule once.
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
