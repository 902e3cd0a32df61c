"""MOSES: 1,936,962 drug-like molecules from ZINC, without charges (Polykovskiy et al. 2020).

The package molsets holds them as train, test and test_scaffolds; the molecules of the last have
scaffolds that the others lack. Only its data files are read, since its code does not run with
current releases of pandas and RDKit. For the same reason it is installed without what it depends
on, some of which cannot be built any more.
"""

from __future__ import annotations

import gzip

import numpy as np

from graphcnf.compute.files import read_file
from graphcnf.compute.parallel import Workers
from graphcnf.datasets.molecules import MoleculeDataset
from graphcnf.datasets.published import Source, load_published, package_file
from graphcnf.errors import UserError
from graphcnf.graphs.batch import PackedGraphs
from graphcnf.molecules.vocabulary import BONDS, MARK, AtomCategory, MoleculeVocabulary

ROWS = {"train": 1_584_663, "test": 176_074, "test_scaffolds": 176_225}

VOCABULARY = MoleculeVocabulary(
    (
        *(AtomCategory(symbol) for symbol in ("C", "N", "O", "S", "F", "Cl", "Br")),
        *(AtomCategory(symbol, aromatic=True) for symbol in ("C", "N", "S", "O")),
    ),
    (*BONDS, f"{MARK}SINGLE", f"{MARK}DOUBLE"),
)
"""Fixed, so that the parts can be encoded one by one."""


def read_moses(part: str) -> list[str]:
    """Return the SMILES of one part: train, test or test_scaffolds.

    Raises:
        UserError: There is no such part, or molsets is not installed or damaged.
    """
    return _source(part).smiles()


def load_moses(
    split: str = "test", *, workers: Workers = None, use_cache: bool = True
) -> MoleculeDataset:
    """Load the training molecules and one of the two sets that are held out with them.

    The first time, they are encoded (some minutes on two cores) and cached part by part.

    Args:
        split: The part to hold out, "test" or "test_scaffolds".
        workers: Processes that encode, or a cluster; None for one per core.
        use_cache: Whether to read and write the cache (`$GRAPHCNF_CACHE` or the user's cache
            folder).

    Raises:
        UserError: There is no such part, or molsets is not installed or damaged.
    """
    if split not in ("test", "test_scaffolds"):
        raise UserError(f"split must be test or test_scaffolds, got {split!r}")
    train, test = (
        load_published(
            f"moses-{part}", _source(part), vocabulary=VOCABULARY, workers=workers,
            use_cache=use_cache,
        )
        for part in ("train", split)
    )  # fmt: skip
    return MoleculeDataset(
        f"moses-{split}",
        PackedGraphs.concatenate([train.graphs, test.graphs]),
        train.smiles + test.smiles,
        VOCABULARY,
        np.concatenate([train.hashes, test.hashes]),
        test_indices=np.arange(len(train), len(train) + len(test)),
    )


def _source(part: str) -> Source:
    if part not in ROWS:
        raise UserError(f"MOSES has no part {part!r}: choose from {', '.join(ROWS)}")
    parts = "moses", "dataset", "data", f"{part}.csv.gz"
    path = package_file("MOSES", "molsets", "pip install --no-deps molsets", *parts)
    return Source(f"MOSES, {part}", "molsets", read_file(path), ROWS[part], _parse)


def _parse(content: bytes) -> list[str]:
    header, *lines = gzip.decompress(content).decode().split()
    if header != "SMILES":
        raise ValueError(f"the header must be 'SMILES', got {header!r}")
    return lines
