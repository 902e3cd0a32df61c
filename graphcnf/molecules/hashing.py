"""Short hashes of SMILES: a training set to hold novelty against in 8 bytes per molecule."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np


def smiles_hash(smiles: str) -> int:
    """BLAKE2b of the text in 8 bytes, read as a little-endian unsigned number.

    Two of a million different molecules collide with probability 3e-8.
    """
    return int.from_bytes(blake2b(smiles.encode(), digest_size=8).digest(), "little")


def hash_each(smiles: Iterable[str]) -> np.ndarray:
    """`smiles_hash` of every entry, in order, (M,) uint64."""
    digests = b"".join(blake2b(s.encode(), digest_size=8).digest() for s in smiles)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def hash_smiles(smiles: Iterable[str]) -> np.ndarray:
    """Distinct hashes of canonical SMILES without stereo, sorted, uint64."""
    return np.unique(hash_each(smiles))


def contains(hashes: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Which `queries` are among the sorted `hashes`, bool.

    Examples:
        >>> known = hash_smiles(["CCO", "CCN"])
        >>> contains(known, hash_each(["CCN", "CCC"])).tolist()
        [True, False]
    """
    if not len(hashes):
        return np.zeros(len(queries), dtype=bool)
    places = np.minimum(np.searchsorted(hashes, queries), len(hashes) - 1)
    return hashes[places] == queries
