"""The molecules that samples are held against, by the names that commands give them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from graphcnf.datasets import MOLECULES
from graphcnf.errors import UserError, require

if TYPE_CHECKING:
    from graphcnf.datasets.molecules import MoleculeDataset
    from graphcnf.datasets.zinc250k import Zinc250kRows
    from graphcnf.graphs import GraphCNF

REFERENCE = 10_000
"""Held-out molecules that samples are compared with, at most."""

OFFICIAL = tuple(MOLECULES)
"""Data sets with a held-out part of their own."""


def load_reference(name: str | None, model: GraphCNF | None = None) -> MoleculeDataset:
    """Load one of `OFFICIAL`, or a file (in the coding of a model, where one is given).

    Without a name, it is what the model was trained on.

    Raises:
        UserError: There is no such data, or the model has other categories.
    """
    from graphcnf import datasets
    from graphcnf.molecules.vocabulary import MoleculeVocabulary

    if name is None and model is not None:
        name = model.metadata.get("dataset")
    if name is None:
        raise UserError("what the model was trained on is not known: name it with --reference")
    vocabulary = None if model is None else MoleculeVocabulary.of_model(model)
    if name in OFFICIAL:
        dataset = getattr(datasets, f"load_{name}")()
        if vocabulary is not None and not vocabulary.marked:
            dataset = dataset.without_marks()
        if vocabulary is not None and not any(atom.charge for atom in vocabulary.atoms):
            dataset = dataset.without_charges()
        if vocabulary is not None and vocabulary != dataset.vocabulary:
            raise UserError(f"the model was not trained on {name}: name its file with --reference")
        return dataset
    from graphcnf.datasets.smiles_file import load_smiles_file

    if not name or not Path(name).exists():
        raise UserError(
            f"no reference {name!r}: --reference takes {', '.join(OFFICIAL)} or a file of SMILES"
        )
    if model is None:
        return load_smiles_file(name)
    return load_smiles_file(name, vocabulary=vocabulary, max_atoms=model.max_nodes)


def load_rows(name: str, model: GraphCNF | None = None) -> MoleculeDataset | Zinc250kRows:
    """As `load_reference`, for those who take some rows: the others need not be encoded.

    Raises:
        UserError: As `load_reference`.
    """
    if name == "zinc250k":
        from graphcnf.datasets.zinc250k import zinc250k_rows
        from graphcnf.molecules.vocabulary import MoleculeVocabulary

        rows = zinc250k_rows()
        if model is None or MoleculeVocabulary.of_model(model) == rows.vocabulary:
            return rows
    return load_reference(name, model)


def held_out(dataset: MoleculeDataset | Zinc250kRows, count: int) -> np.ndarray:
    """Indices of `count` held-out molecules, the same random ones every time."""
    return np.random.default_rng(0).permutation(dataset.split("test"))[:count]


def check_chemnet_installed() -> None:
    """Raise UserError without the package that holds ChemNet."""
    require("fcd_torch", "the FCD", "fcd")
