"""Measured columns: numbers that stand beside the molecules of a file, such as pIC50.

- *Record* of a file: one molecule with what stands beside it, such as a row of a table.
- *Cell*: the value of one record in a column: a number, or empty where nothing was measured. Cells
  are text in most formats.
- *Hash* of a molecule: that of its canonical SMILES without stereo marks
  (`graphcnf.chemistry.hashing.hash_each`). Records with equal hashes are of the same molecule.

The loader of molecule files (`graphcnf.datasets.smiles_file`) calls `column_values`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graphcnf.chemistry.descriptors import PROPERTIES
from graphcnf.datasets import cache
from graphcnf.errors import UserError, suggest

FEWEST = 20
"""Fewest molecules with a value from which a column can be learned."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def check_columns(names: Sequence[str]) -> None:
    """Check the names of the measured columns that a user asks for.

    A name must not be that of a computed property such as "logp". It must be an identifier, so that
    a comparison such as "pIC50 > 7" can contain it.
    """
    for name in names:
        if name.lower() in PROPERTIES:
            raise UserError(
                f"{name} is a property that is computed: rename the column, as in {name}_measured"
            )
        if not name.isidentifier():
            raise UserError(
                f"column {name!r}: a name may have letters, digits and _, so that comparisons such "
                "as 'pIC50 > 7' can name it: rename the column"
            )
        if list(names).count(name) > 1:
            raise UserError(f"column {name} is given twice")


def read_cells(
    path: Path, name: str, others: Sequence[dict[str, Any]], numbers: Sequence[int], unit: str
) -> np.ndarray:
    """Read the values of a measured column, (R,) float64, NaN for empty cells.

    Args:
        others: For each of R records `{column: cell}`, without the SMILES.
        numbers: Number of the line or record (`unit`) of each, for messages.
    """
    known = list(dict.fromkeys(key for other in others for key in other))
    if name not in known:
        raise UserError(f"{path} has no column {name!r}{suggest(name, known)}")
    values = np.full(len(others), math.nan)
    for k, other in enumerate(others):
        cell = other.get(name)
        if isinstance(cell, float) and math.isnan(cell):  # as pandas writes an empty cell
            continue
        text = "" if cell is None else str(cell).strip()
        right = not isinstance(cell, bool) and _NUMBER.fullmatch(text)
        if right and math.isfinite(float(text)):
            values[k] = float(text)
        elif text:
            raise UserError(
                f"{path}, {unit} {numbers[k]}: {name} is {text[:40]!r}, not a finite number: write "
                "a number, or leave the cell empty"
            )
    return values


def means(values: np.ndarray, hashes: np.ndarray) -> tuple[np.ndarray, int]:
    """Give all records of a molecule the mean of their values; return also how many have several.

    NaN stands for no value.
    """
    _, number = np.unique(hashes, return_inverse=True)
    known = ~np.isnan(values)
    counts = np.bincount(number, known)
    sums = np.bincount(number, np.where(known, values, 0.0))
    mean = np.divide(sums, counts, out=np.full(len(counts), math.nan), where=counts > 0)
    return mean[number], int((counts > 1).sum())


def check_values(path: Path, name: str, values: np.ndarray, hashes: np.ndarray) -> None:
    """Check that something can be learned from a measured column."""
    known = ~np.isnan(values)
    count = len(np.unique(hashes[known]))
    if count < FEWEST:
        raise UserError(
            f"{path}: {count} molecules with a value of {name}: too few to learn from, give "
            f"{FEWEST} at least"
        )
    found = values[known]
    with np.errstate(all="ignore"):
        deviation = found.std() or np.ptp(found) == 0
        single, mean, deviation = map(np.float32, (found, found.mean(), deviation))
        if not np.isfinite((single - mean) / deviation).all():
            raise UserError(
                f"{path}: the values of {name}, {found.min():g} to {found.max():g}, have no "
                "standard deviation in single precision: give them in another unit"
            )
    if np.ptp(found) <= 1e-9 * abs(found).max():
        raise UserError(f"{path}: all values of {name} are {found[0]:g}: nothing to learn")


def column_values(
    path: Path,
    names: Sequence[str],
    records: Any,
    rows: Sequence[int],
    hashes: np.ndarray,
) -> np.ndarray:
    """Return the values of measured columns for the molecules of a data set.

    If a molecule has several records, each of them gets the mean, and a note on stderr says how
    many molecules have several values.

    `rows` are the M molecules' indices in `records`, a `graphcnf.datasets.smiles_file.FileRecords`
    with its other columns; the result is (M, P) float64, NaN where nothing was measured.
    """
    check_columns(names)
    found = []
    for name in names:
        cells = read_cells(path, name, records.others, records.numbers, records.unit)
        values, several = means(cells[list(rows)], hashes)
        check_values(path, name, values, hashes)
        if several:
            cache.note(f"{path}: {several:,} molecules have several values of {name}: their mean")
        found.append(values)
    return np.stack(found, 1)
