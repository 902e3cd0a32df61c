"""QM9: 130,831 molecules of 1 to 9 heavy atoms C, N, O, F, 130,744 distinct without stereo.

Ramakrishnan et al. 2014. These are the molecules that pass the authors' check of consistency,
133,885 less 3,054. The package qm9pack holds them as tables in three parts; it is not imported.
Published models often use all 133,885, so compare with that in mind.
"""

from __future__ import annotations

import csv

from graphcnf.compute.files import read_file
from graphcnf.compute.parallel import Workers
from graphcnf.datasets.molecules import MoleculeDataset
from graphcnf.datasets.published import Source, load_published, package_file

ROWS = 130_831
PARTS = ("qm9_part1.csv", "qm9_part2.csv", "qm9_part3.csv")


def read_qm9() -> list[str]:
    """Return the SMILES of all molecules, in the order of their numbers.

    Raises:
        UserError: qm9pack is not installed, or its files are not QM9.
    """
    return _source().smiles()


def load_qm9(*, workers: Workers = None, use_cache: bool = True) -> MoleculeDataset:
    """Load QM9; the first time, encode it and cache the result.

    Args:
        workers: Processes that encode, or a cluster; None for one per core.
        use_cache: Whether to read and write the cache (`$GRAPHCNF_CACHE` or the user's cache
            folder).

    Raises:
        UserError: qm9pack is not installed, or its files are not QM9.
    """
    return load_published("qm9", _source(), workers=workers, use_cache=use_cache)


def _source() -> Source:
    install = "pip install 'graphcnf[qm9]'"
    paths = [package_file("QM9", "qm9pack", install, "qm9pack", "data", part) for part in PARTS]
    return Source("QM9", "qm9pack", b"\n".join(map(read_file, paths)), ROWS, _parse)


def _parse(content: bytes) -> list[str]:
    header, *rows = csv.reader(content.decode().splitlines())
    place = header.index("SMILES")
    # Each of the three tables has the header.
    return [row[place] for row in rows if len(row) > place and row != header]
