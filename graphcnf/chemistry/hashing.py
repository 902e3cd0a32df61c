"""Hashes of SMILES in 8 bytes, to tell quickly whether a molecule is new.

Models store the hashes of their training molecules for the metric *novelty*, and a search keeps
those of the molecules that it has found. Both hold millions of molecules in little memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np

RECENT = 1 << 16
"""Hashes that a `HashSet` collects, at least, before it merges them into its sorted array."""


def hash_each(smiles: Iterable[str]) -> np.ndarray:
    """Return the 8-byte BLAKE2b hash of every SMILES, (M,) uint64, in their order.

    The bytes are read as a little-endian integer. Among a million different molecules, the
    probability of any collision is 3e-8.

    The SMILES are canonical: others of the same molecule have other hashes.
    """
    digests = b"".join(blake2b(s.encode(), digest_size=8).digest() for s in smiles)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def contains(hashes: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Return which of M hashes are among known ones, (M,) bool.

    The known `hashes` are sorted.

    Examples:
        >>> known = np.unique(hash_each(["CCO", "CCN"]))
        >>> contains(known, hash_each(["CCN", "CCC"])).tolist()
        [True, False]
    """
    if not len(hashes):
        return np.zeros(len(queries), dtype=bool)
    places = np.minimum(np.searchsorted(hashes, queries), len(hashes) - 1)
    return hashes[places] == queries


class HashSet:
    """A growing set of 64-bit hashes that needs about 8 bytes for each.

    Most hashes are in a sorted array. New ones are collected in a Python set, and merged into the
    array when there are at least 65,536 of them (`RECENT`) and an eighth as many as in the array.

    Examples:
        >>> found = HashSet()
        >>> [found.add(int(hash_)) for hash_ in hash_each(["CCO", "CCN", "CCO"])], len(found)
        ([True, True, False], 2)
    """

    def __init__(self) -> None:
        self._sorted = np.zeros(0, np.uint64)
        self._recent: set[int] = set()

    def __len__(self) -> int:
        return len(self._sorted) + len(self._recent)

    def __contains__(self, hash_: int) -> bool:
        return hash_ in self._recent or bool(
            contains(self._sorted, np.array([hash_], np.uint64))[0]
        )

    def add(self, hash_: int) -> bool:
        """Add a hash to the set; return True if it is new, False if the set had it already."""
        if hash_ in self:
            return False
        self._recent.add(hash_)
        if len(self._recent) >= max(RECENT, len(self._sorted) // 8):
            recent = np.fromiter(self._recent, np.uint64, len(self._recent))
            self._sorted = np.union1d(self._sorted, recent)
            self._recent.clear()
        return True
