"""Training and held-out molecules with which an evaluation compares samples.

The *reference* is the data set of these molecules: one that the package knows by name, or a file.
Its training part decides what is novel; its held-out part is what distances are measured to.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from graphcnf.datasets import MOLECULES
from graphcnf.datasets.molecules import MoleculeDataset
from graphcnf.datasets.smiles_file import load_smiles_file
from graphcnf.datasets.zinc250k import Zinc250kRows, zinc250k_rows
from graphcnf.errors import UserError
from graphcnf.molecules.vocabulary import MoleculeVocabulary, vocabulary_of

if TYPE_CHECKING:
    from graphcnf.graphs.graph_model import GraphModel

HELD_OUT = 10_000
"""Largest number of held-out molecules that samples are compared with."""

Rows = MoleculeDataset | Zinc250kRows
"""A data set that is encoded as a whole, or row by row on demand."""


def load_reference(name: str | None, model: GraphModel | None = None) -> Rows:
    """Load the reference of an evaluation, by name or from a file.

    `name` is a key of `graphcnf.datasets.MOLECULES` or a file; None for the data of the model. The
    molecules are encoded in the model's categories, those of ZINC250k on demand, where possible.
    """
    if name is None and model is not None:
        own = model.metadata.get("dataset")
        name = own if own in MOLECULES else None  # no path, which a model must not name
    if name is None:
        raise UserError("the model's training data are unknown: name them with --reference")
    vocabulary = None if model is None else vocabulary_of(model)
    if name == "zinc250k":
        rows = zinc250k_rows()
        if vocabulary in (None, rows.vocabulary):
            return rows
    if name in MOLECULES:
        dataset = MOLECULES[name]()
        if vocabulary is None:
            return dataset
        # Only as needed: a data set in categories of its own would get them in another order.
        dataset = dataset if vocabulary.tells_aromatic else dataset.without_aromatic()
        if _charged(dataset.vocabulary) and not _charged(vocabulary):
            dataset = dataset.without_charges()
        if vocabulary != dataset.vocabulary:
            raise UserError(f"the model was not trained on {name}: name its file with --reference")
        return dataset
    if not name or not Path(name).exists():
        raise UserError(
            f"no reference {name!r}: --reference takes {', '.join(MOLECULES)} or a file of SMILES"
        )
    if model is None:
        return load_smiles_file(name)
    return load_smiles_file(name, vocabulary=vocabulary, max_atoms=model.max_nodes)


def _charged(vocabulary: MoleculeVocabulary) -> bool:
    """Return True if a vocabulary has a category of charged atoms."""
    return any(atom.charge for atom in vocabulary.atoms)


def held_out(dataset: Rows, count: int) -> np.ndarray:
    """Choose at most `count` held-out molecules, at random but always the same; return indices."""
    return np.random.default_rng(0).permutation(dataset.split("test"))[:count]
