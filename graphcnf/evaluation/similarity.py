"""Similarity within and between sets of molecules, as MOSES defines it.

Polykovskiy et al. 2020, "Molecular Sets (MOSES)", arXiv 1811.12823, section 4; the fingerprint is
that of the code that its tables come from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from rdkit import Chem
from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator

from graphcnf.molecules.properties import similarities

RADIUS, BITS = 2, 1024
"""Radius and length of the Morgan fingerprints."""

KEPT, COMPARED = 200_000, 30_000
"""Molecules of a set whose fingerprints are kept, and of a generated set that are compared.

The first ones. Each test part of MOSES has fewer than 200,000; its protocol compares 30,000.
"""

_BLOCK = 2000
"""Molecules of either set that are compared at once; bounds the memory at some 70 MB."""

_MORGAN = GetMorganGenerator(radius=RADIUS, fpSize=BITS)


def fingerprint(mol: Chem.Mol) -> np.ndarray:
    """Return the Morgan fingerprint (no chirality), packed, (128,) uint8."""
    return np.packbits(_MORGAN.GetFingerprintAsNumPy(mol))


def fingerprints(mols: Sequence[Chem.Mol]) -> np.ndarray:
    """Return packed fingerprints of molecules, (M, 128) uint8."""
    return np.array([fingerprint(mol) for mol in mols])


def add_fingerprints(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the fingerprints of two lists, of the first `KEPT` molecules."""
    if len(one) >= KEPT:
        return one
    return np.concatenate([one, other])[:KEPT]


def nearest_similarity(generated: np.ndarray, reference: np.ndarray) -> float:
    """Return the mean similarity to the nearest reference molecule, SNN of MOSES.

    The Tanimoto similarity of a generated molecule to the most similar reference molecule, mean
    over the generated ones. In [0, 1], higher is better (nearer to the reference); a set that
    copies the reference reaches 1.

    Args:
        generated: Packed fingerprints, (M, 128) uint8.
        reference: Packed fingerprints, (N, 128) uint8.
    """
    generated = generated[:COMPARED]
    nearest = (
        np.maximum.reduce([block.max(1) for block in blocks]).sum(dtype=np.float64)
        for blocks in _tanimoto(generated, reference)
    )
    return math.fsum(nearest) / len(generated)


def internal_diversity(generated: np.ndarray, power: int = 1) -> float:
    """Return the mean dissimilarity within one set, IntDiv_p of MOSES.

    `1 - mean_x (mean_y T(x, y)^p)^(1/p)` with the Tanimoto similarity T and every pair, that of a
    molecule with itself included. In [0, 1], higher is more diverse; good is the reference's own
    figure. The paper's formula takes the root once, of the mean over all pairs; MOSES' code, and
    so every published IntDiv_2, takes it per molecule. For p = 1 they are the same.

    Args:
        generated: Packed fingerprints, (M, 128) uint8.
        power: p, at least 1.
    """
    generated = generated[:COMPARED]
    total = len(generated)
    roots = (
        np.sum((sum(_power_sum(block, power) for block in blocks) / total) ** (1 / power))
        for blocks in _tanimoto(generated, generated)
    )
    return 1 - math.fsum(roots) / total


def _power_sum(block: np.ndarray, power: int) -> np.ndarray:
    return (block if power == 1 else block**power).sum(axis=1, dtype=np.float64)


def _tanimoto(rows: np.ndarray, columns: np.ndarray) -> Iterator[Iterator[np.ndarray]]:
    """Yield for one block of rows after the other the blocks of its similarities to all columns."""
    for left in _unpacked(rows):
        yield (similarities(left, right) for right in _unpacked(columns))


def _unpacked(packed: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(packed), _BLOCK):
        yield np.unpackbits(packed[start : start + _BLOCK], axis=1).astype(np.float32)
