"""QM9: 130,831 molecules of 1 to 9 heavy atoms C, N, O, F, 130,744 distinct without stereo.

Ramakrishnan et al. 2014. These are the molecules that pass the authors' check of consistency,
133,885 less 3,054. The package qm9pack holds them as tables in three parts; it is not imported.
Published models often use all 133,885, so compare with that in mind.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from graphcnf.compute.files import open_input
from graphcnf.compute.parallel import Workers
from graphcnf.datasets import cache
from graphcnf.datasets.molecules import MoleculeDataset, official_rows
from graphcnf.errors import UserError
from graphcnf.molecules.optional import installed_file

ROWS = 130_831
PARTS = ("qm9_part1.csv", "qm9_part2.csv", "qm9_part3.csv")


def qm9_sources() -> list[Path]:
    """The tables inside the installed package qm9pack, which is not imported for it.

    Raises:
        UserError: qm9pack is not installed, or lacks a file.
    """
    paths = [installed_file("qm9pack", "data", part) for part in PARTS]
    if None in paths:
        raise UserError("QM9 comes with the package qm9pack: pip install 'graphcnf[qm9]'")
    return paths


def read_qm9() -> list[str]:
    """SMILES of all molecules, in the order of their numbers.

    Raises:
        UserError: qm9pack is not installed, or its files are not QM9.
    """
    import pandas as pd

    smiles: list[str] = []
    for path in qm9_sources():
        try:
            with open_input(path) as file:
                smiles += list(pd.read_csv(file, usecols=["SMILES"], dtype=str)["SMILES"])
        except ValueError as error:  # also pandas' own parser errors
            reason = str(error).splitlines()[0]
            raise UserError(f"{path} is no table of QM9 ({reason}): reinstall qm9pack") from error
    if len(smiles) != ROWS:
        raise UserError(f"QM9 has {len(smiles)} rows instead of {ROWS}: reinstall qm9pack")
    return smiles


def load_qm9(*, workers: Workers = None, use_cache: bool = True) -> MoleculeDataset:
    """Load QM9; the first time, encode it and cache the result.

    Args:
        workers: Processes that encode, or a cluster; None for one per core.
        use_cache: Whether to read and write the cache (`$GRAPHCNF_CACHE` or the user's cache
            folder).

    Raises:
        UserError: qm9pack is not installed, or its files are not QM9.
    """
    digest = hashlib.sha256()
    for source in qm9_sources():
        with open_input(source) as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())

    def rows() -> list[str]:
        cache.note("encoding QM9; later starts take a second")
        return read_qm9()

    return official_rows(
        "qm9", digest.hexdigest(), rows, "QM9, molecule", workers=workers, use_cache=use_cache
    )
