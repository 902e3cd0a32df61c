"""Similarity within and between sets of molecules, as MOSES defines it.

Polykovskiy et al. 2020, "Molecular Sets (MOSES)", arXiv 1811.12823, section 4; the details
(fingerprint, counting, what has no scaffold) are those of the code that its tables come from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from rdkit import Chem
from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator
from rdkit.Chem.rdmolops import FragmentOnBRICSBonds
from rdkit.Chem.Scaffolds import MurckoScaffold
from rdkit.DataStructs import TanimotoSimilarity

from graphcnf.molecules.optional import Unavailable

RADIUS, BITS = 2, 1024
"""Of the Morgan fingerprints."""

SCAFFOLD_RINGS = 2
"""A scaffold with fewer rings is none."""

LARGEST = 30_000
"""Molecules of a set whose fingerprints are kept, the first ones, of a reference as well; MOSES
draws as many."""

_BLOCK = 2000
"""Molecules of either set that are compared at once; bounds the memory at some 70 MB."""

_MORGAN = GetMorganGenerator(radius=RADIUS, fpSize=BITS)
_ECFP4 = GetMorganGenerator(radius=2, fpSize=2048)


def fingerprint(mol: Chem.Mol) -> np.ndarray:
    """Morgan fingerprint (radius 2, 1,024 bits, no chirality), packed, (128,) uint8."""
    return np.packbits(_MORGAN.GetFingerprintAsNumPy(mol))


def similarity_to(mol: Chem.Mol) -> Callable[[Chem.Mol], float]:
    """Tanimoto similarity to a molecule of ECFP4 fingerprints, in [0, 1].

    Morgan fingerprints of radius 2 in 2,048 bits, without chirality and counts.
    """
    own = _ECFP4.GetFingerprint(mol)
    return lambda other: TanimotoSimilarity(own, _ECFP4.GetFingerprint(other))


def brics_fragments(mol: Chem.Mol) -> list[str]:
    """SMILES of the pieces after all BRICS bonds are cut, cuts marked by numbered dummy atoms."""
    return Chem.MolToSmiles(FragmentOnBRICSBonds(mol)).split(".")


def scaffolds(mol: Chem.Mol) -> list[str]:
    """SMILES of the Bemis-Murcko scaffold; none where it has fewer than two rings."""
    core = MurckoScaffold.GetScaffoldForMol(mol)
    if core.GetRingInfo().NumRings() < SCAFFOLD_RINGS:
        return []
    return [Chem.MolToSmiles(core)]


def nearest_similarity(generated: np.ndarray, reference: np.ndarray) -> float:
    """SNN of MOSES: similarity to the nearest neighbour in the reference.

    The Tanimoto similarity of a generated molecule to the most similar reference molecule, mean
    over the generated ones. In [0, 1], higher is better (nearer to the reference); a set that
    copies the reference reaches 1.

    Args:
        generated: Packed fingerprints, (M, 128) uint8.
        reference: Packed fingerprints, (N, 128) uint8.
    """
    nearest = (
        np.maximum.reduce([block.max(1) for block in blocks]).sum(dtype=np.float64)
        for blocks in _tanimoto(generated, reference)
    )
    return math.fsum(nearest) / len(generated)


def internal_diversity(fingerprints: np.ndarray, power: int = 1) -> float:
    """IntDiv_p of MOSES: how little the molecules of one set resemble each other.

    `1 - mean_x (mean_y T(x, y)^p)^(1/p)` with the Tanimoto similarity T and every pair, that of a
    molecule with itself included. In [0, 1], higher is more diverse; good is the reference's own
    figure. The paper's formula takes the root once, of the mean over all pairs; MOSES' code, and
    so every published IntDiv_2, takes it per molecule. For p = 1 they are the same.

    Args:
        fingerprints: Packed, (M, 128) uint8.
        power: p, at least 1.
    """
    total = len(fingerprints)
    roots = (
        np.sum((sum(_power_sum(block, power) for block in blocks) / total) ** (1 / power))
        for blocks in _tanimoto(fingerprints, fingerprints)
    )
    return 1 - math.fsum(roots) / total


def count_similarity(generated: Mapping[str, int], reference: Mapping[str, int]) -> float:
    """Frag and Scaf of MOSES: cosine of the angle between two vectors of counts.

    The counts are those of BRICS fragments (Frag) or of Bemis-Murcko scaffolds (Scaf) over all
    molecules of a set. In [0, 1], higher is better; 1 means the same proportions.

    Raises:
        Unavailable: One of the sets has nothing to count.
    """
    for name, counts in (("generated", generated), ("reference", reference)):
        if not counts:
            raise Unavailable(f"none among the {name} molecules")
    shared = sum(count * reference.get(key, 0) for key, count in generated.items())
    squares = (sum(count * count for count in c.values()) for c in (generated, reference))
    return shared / math.sqrt(math.prod(squares))


def _power_sum(block: np.ndarray, power: int) -> np.ndarray:
    return (block if power == 1 else block**power).sum(axis=1, dtype=np.float64)


def _tanimoto(rows: np.ndarray, columns: np.ndarray) -> Iterator[Iterator[np.ndarray]]:
    """For one block of rows after the other, the blocks of its similarities to all columns."""
    for left in _unpacked(rows):
        yield (similarities(left, right) for right in _unpacked(columns))


def similarities(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Tanimoto similarity of each to each, float32; two empty fingerprints are alike."""
    shared = left @ right.T
    union = left.sum(1)[:, None] + right.sum(1) - shared
    return np.divide(shared, union, out=np.ones_like(shared), where=union > 0)


def _unpacked(packed: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(packed), _BLOCK):
        yield np.unpackbits(packed[start : start + _BLOCK], axis=1).astype(np.float32)
