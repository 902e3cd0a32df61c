r"""Fine-tuning of the density of stereo marks, after that of the graphs.

- *Stereo mark*: `@`, `@@`, `/` or `\` in SMILES.
- *Stereo element*: an atom or double bond that can have a mark (`graphcnf.stereo.marks`).
- *Marked molecule*: one with at least one mark. Only these are learned, since what is written
  without any mark mostly lacks the stereo that it has.

A chemist's file often has few of them; then the training is cross-validated
(`graphcnf.training.folds`).
"""

from __future__ import annotations

import copy
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from graphcnf.training.folds import fold_experiment
from graphcnf.training.settings import Experiment

if TYPE_CHECKING:
    from graphcnf.datasets.molecules import MoleculeDataset
    from graphcnf.datasets.stereo import StereoDataset

LEAST = 20
"""Fewer distinct molecules with stereo marks are not learned."""

ORDERS = 15
"""Further orders of its atoms in which each molecule is learned.

The marks of a molecule with another substituent are often read in another order.
"""


FEW = {"steps": 1000, "learning_rate": 3e-3, "eval_steps": 50}
"""Settings of the training where it is cross-validated."""


def marked_molecules(data: MoleculeDataset, few: int) -> StereoDataset | None:
    """Return the molecules of a user's data that have stereo marks, to learn the marks from.

    None if fewer than `LEAST` (20) distinct ones have marks, or `data` has no `isomers`. None are
    held out if these would be fewer than `few`.
    """
    if data.isomers is None:
        return None
    from graphcnf.datasets.stereo import encode_stereo

    found = encode_stereo(data.name, data.isomers).marked()
    if len(np.unique(found.hashes)) < LEAST:
        return None
    if len(found.split("test")) < few:
        found.test_indices = np.array([], dtype=int)
    return found


def stereo_experiment(
    stereo: Any, data: MoleculeDataset, marked: StereoDataset, folds: int, batch_size: int
) -> Experiment:
    """Build the experiment that fine-tunes a density of stereo marks on a user's molecules.

    Nothing is trained yet; `graphcnf.training.loop` does that.

    The headline is "bits_per_element" of held-out molecules; if there are none, the training is
    cross-validated. Each marked molecule is learned in 15 further orders of its atoms (`ORDERS`).
    """
    from graphcnf.datasets.stereo import encode_stereo

    model, given = copy.deepcopy(stereo).train(), stereo.metadata
    model.metadata = {
        "dataset": marked.name,
        "marks": marked.marks(),
        "weights": {"dataset": given.get("dataset"), **given.get("training", {})},
    }
    learned = encode_stereo(data.name, data.isomers, orders=ORDERS).marked()
    if len(marked.split("test")):
        held_out = partial(marked.test_batches, 4 * batch_size)
        found = Experiment(model, partial(learned.train_batches, batch_size), held_out)
    else:
        found = fold_experiment(model, learned, folds, batch_size, held_out=marked, dropout=None)
    found.headline, found.log_line, found.data = "bits_per_element", _log_line, learned
    return found


def _log_line(row: dict[str, Any]) -> str | None:
    """Return the line of the log for a row of metrics; None for a row of training batches."""
    if row["phase"] != "eval":
        return None
    return f"step {row['step']}: {row['bits_per_element']:.3f} bits per held-out stereo element"
