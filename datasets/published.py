"""Published data sets of molecules that come inside of a package, which is not imported for it.

MOSES (Polykovskiy et al. 2020): 1,936,962 drug-like molecules from ZINC, without charges, as train,
test and test_scaffolds; the molecules of the last have scaffolds that the others lack. The code of
its package molsets does not run with current releases of pandas and RDKit, so it is installed
without what it depends on.

QM9 (Ramakrishnan et al. 2014): the 130,831 molecules of 1 to 9 heavy atoms C, N, O, F that pass the
authors' check of consistency, 130,744 distinct without stereo. Published models often use all
133,885.
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

from graphcnf.compute.files import installed_file, read_file
from graphcnf.compute.parallel import Workers
from graphcnf.datasets import cache
from graphcnf.datasets.molecules import MoleculeDataset, cache_path, encode
from graphcnf.errors import UserError
from graphcnf.graphs.batch import PackedGraphs
from graphcnf.molecules.vocabulary import BONDS, MARK, AtomCategory, MoleculeVocabulary

MOSES_ROWS = {"train": 1_584_663, "test": 176_074, "test_scaffolds": 176_225}
MOSES_VOCABULARY = MoleculeVocabulary(
    (
        *(AtomCategory(symbol) for symbol in ("C", "N", "O", "S", "F", "Cl", "Br")),
        *(AtomCategory(symbol, aromatic=True) for symbol in ("C", "N", "S", "O")),
    ),
    (*BONDS, f"{MARK}SINGLE", f"{MARK}DOUBLE"),
)
"""Fixed, so that the parts can be encoded one by one."""

QM9_ROWS = 130_831
QM9_PARTS = ("qm9_part1.csv", "qm9_part2.csv", "qm9_part3.csv")


@dataclass(frozen=True)
class Source:
    """The file of a published data set, from an installed package."""

    title: str  # of the data set, or of a part, for messages
    package: str  # name on the package index
    content: bytes
    rows: int  # molecules that it must hold
    parse: Callable[[bytes], list[str]]  # SMILES in the content, or ValueError

    def smiles(self) -> list[str]:
        """Return the SMILES of all molecules; raise UserError if the file is something else."""
        try:
            smiles = self.parse(self.content)
            if len(smiles) != self.rows:
                raise ValueError(f"{len(smiles)} rows instead of {self.rows}")
        except (OSError, EOFError, ValueError, zlib.error, csv.Error) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UserError(f"{self.title}: {reason}: reinstall {self.package}") from error
        return smiles


def package_file(title: str, package: str, install: str, *parts: str) -> Path:
    """Return a file of a package, imported by the first of `parts`, or raise `UserError`."""
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
    """Return a published data set with all its rows in order, encoded the first time, then cached.

    The cache file depends on the source's content. Raises `UserError` where a row cannot be
    encoded.
    """

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
    """Return one part of MOSES, a key of `MOSES_ROWS`; raises UserError without molsets."""
    if part not in MOSES_ROWS:
        raise UserError(f"MOSES has no part {part!r}: choose from {', '.join(MOSES_ROWS)}")
    parts = "moses", "dataset", "data", f"{part}.csv.gz"
    path = package_file("MOSES", "molsets", "pip install --no-deps molsets", *parts)

    def parse(content: bytes) -> list[str]:
        header, *lines = gzip.decompress(content).decode().split()
        if header != "SMILES":
            raise ValueError(f"the header must be 'SMILES', got {header!r}")
        return lines

    return Source(f"MOSES, {part}", "molsets", read_file(path), MOSES_ROWS[part], parse)


def load_moses(split: str = "test", *, workers: Workers = None) -> MoleculeDataset:
    """Load the training molecules and one of the two sets that are held out with them.

    The first time, they are encoded (some minutes on two cores) and cached part by part.

    Args:
        split: The part to hold out, "test" or "test_scaffolds".
        workers: Processes that encode, or a cluster; None for one per core.

    Raises:
        UserError: There is no such part, or molsets is not installed or damaged.
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
    """Return the three tables of QM9; raises UserError without qm9pack."""
    install = "pip install 'graphcnf[qm9]'"
    paths = [package_file("QM9", "qm9pack", install, "qm9pack", "data", p) for p in QM9_PARTS]

    def parse(content: bytes) -> list[str]:
        header, *rows = csv.reader(content.decode().splitlines())
        place = header.index("SMILES")
        # Each of the three tables has the header.
        return [row[place] for row in rows if len(row) > place and row != header]

    return Source("QM9", "qm9pack", b"\n".join(map(read_file, paths)), QM9_ROWS, parse)


def load_qm9(*, workers: Workers = None) -> MoleculeDataset:
    """Load QM9; the first time, encode it by some `workers` and cache the result.

    Raises:
        UserError: qm9pack is not installed, or its files are not QM9.
    """
    return load_published("qm9", qm9_source(), workers=workers)
