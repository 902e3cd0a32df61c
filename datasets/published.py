"""Published molecule data sets, read from the files of installed packages.

MOSES (Polykovskiy et al. 2020): 1,936,962 drug-like molecules from ZINC, without charges, in the
parts train, test and test_scaffolds; the scaffolds of the last part occur in no other. The package
molsets is installed without its dependencies and not imported, since its code does not run with
current releases of pandas and RDKit.

QM9 (Ramakrishnan et al. 2014): the 130,831 molecules of 1 to 9 heavy atoms C, N, O, F that pass the
authors' consistency check, 130,744 of them distinct without stereo. Published models often use all
133,885.

To *encode* molecules is to turn them into graphs; the result is cached on disk.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from graphcnf.compute.parallel import Workers
from graphcnf.data_files import installed_file, read_data
from graphcnf.datasets import cache
from graphcnf.datasets.molecules import MoleculeDataset, cache_path, encode
from graphcnf.errors import UserError
from graphcnf.graphs.batch import PackedGraphs
from graphcnf.molecules.vocabulary import AROMATIC, BONDS, AtomCategory, MoleculeVocabulary

MOSES_ROWS = {"train": 1_584_663, "test": 176_074, "test_scaffolds": 176_225}
"""Number of molecules in each part of MOSES."""

MOSES_VOCABULARY = MoleculeVocabulary(
    (
        *(AtomCategory(symbol) for symbol in ("C", "N", "O", "S", "F", "Cl", "Br")),
        *(AtomCategory(symbol, aromatic=True) for symbol in ("C", "N", "S", "O")),
    ),
    (*BONDS, f"{AROMATIC}SINGLE", f"{AROMATIC}DOUBLE"),
)
"""Vocabulary of MOSES; fixed, so that the parts can be encoded separately."""

QM9_ROWS = 130_831
QM9_PARTS = ("qm9_part1.csv", "qm9_part2.csv", "qm9_part3.csv")


@dataclass(frozen=True)
class Source:
    """The content of a published data set's file from an installed package, and how to read it.

    Attributes:
        parse: Function from `content` to the SMILES of all molecules; raises ValueError if it is
            not the expected file.
    """

    title: str
    package: str
    content: bytes
    rows: int
    parse: Callable[[bytes], list[str]]

    def smiles(self) -> list[str]:
        """Return the SMILES of all molecules, in the order of the file."""
        try:
            smiles = self.parse(self.content)
            if len(smiles) != self.rows:
                raise ValueError(f"{len(smiles)} rows instead of {self.rows}")
        except (OSError, EOFError, ValueError, zlib.error, csv.Error) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UserError(f"{self.title}: {reason}: reinstall {self.package}") from error
        return smiles


def package_file(title: str, package: str, install: str, *parts: str) -> Path:
    """Return the path of a data file in an installed package, without importing the package."""
    path = installed_file(*parts)
    if path is None:
        raise UserError(f"{title} comes with the package {package}: {install}")
    return path


def load_published(
    name: str,
    source: Source,
    *,
    vocabulary: MoleculeVocabulary | None = None,
    workers: Workers = None,
) -> MoleculeDataset:
    """Return all molecules of a published data set as graphs, encoded on first use and cached."""

    def encoded():
        smiles, title = source.smiles(), source.title
        cache.note(f"encoding {len(smiles):,} molecules of {title}; later starts take seconds")
        dataset = encode(name, smiles, vocabulary=vocabulary, workers=workers, exact=False)
        if dataset.skipped:
            first = dataset.skipped[0]
            raise UserError(f"{title}, molecule {first.line}: {first.reason}")
        return dataset.to_arrays()

    path = cache_path(name, hashlib.sha256(source.content).hexdigest())
    return MoleculeDataset.from_arrays(name, cache.cached(path, encoded))


def moses_source(part: str) -> Source:
    """Return the file of one part of MOSES, read but not yet parsed."""
    parts = "moses", "dataset", "data", f"{part}.csv.gz"
    path = package_file("MOSES", "molsets", "pip install --no-deps molsets", *parts)

    def parse(content: bytes) -> list[str]:
        header, *lines = gzip.decompress(content).decode().split()
        if header != "SMILES":
            raise ValueError(f"the header must be 'SMILES', got {header!r}")
        return lines

    return Source(f"MOSES, {part}", "molsets", read_data(path), MOSES_ROWS[part], parse)


def load_moses(split: str = "test", *, workers: Workers = None) -> MoleculeDataset:
    """Load MOSES: 1,760,737 drug-like molecules without charges, from the package molsets.

    The molecules are those of the training part and of one test part, which is held out. On first
    use, they are encoded (some minutes on two cores) and cached.

    `split` is the part to hold out, "test" or "test_scaffolds".
    """
    if split not in ("test", "test_scaffolds"):
        raise UserError(f"split must be test or test_scaffolds, got {split!r}")
    train, test = (
        load_published(
            f"moses-{part}", moses_source(part), vocabulary=MOSES_VOCABULARY, workers=workers
        )
        for part in ("train", split)
    )
    return MoleculeDataset(
        "moses" if split == "test" else "moses-scaffolds",
        PackedGraphs.concatenate([train.graphs, test.graphs]),
        train.smiles + test.smiles,
        MOSES_VOCABULARY,
        np.concatenate([train.hashes, test.hashes]),
        test_indices=np.arange(len(train), len(train) + len(test)),
    )


def qm9_source() -> Source:
    """Return the file of QM9, read but not yet parsed; in the package it is three tables."""
    install = "pip install 'graphcnf[qm9]'"
    paths = [package_file("QM9", "qm9pack", install, "qm9pack", "data", p) for p in QM9_PARTS]

    def parse(content: bytes) -> list[str]:
        header, *rows = csv.reader(content.decode().splitlines())
        place = header.index("SMILES")
        # Each of the three tables has the header.
        return [row[place] for row in rows if len(row) > place and row != header]

    return Source("QM9", "qm9pack", b"\n".join(map(read_data, paths)), QM9_ROWS, parse)


def load_qm9(*, workers: Workers = None) -> MoleculeDataset:
    """Load QM9: 130,831 molecules of up to 9 atoms, from the package qm9pack.

    On first use, they are encoded and cached. One in ten is held out, chosen by its hash.
    """
    return load_published("qm9", qm9_source(), workers=workers)
