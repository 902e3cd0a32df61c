"""Short hashes of SMILES: a training set to hold novelty against in 8 bytes per molecule."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np

RECENT = 1 << 16
"""Single hashes that a `HashSet` gathers before it sorts them in."""


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
    """Return which `queries` are among the sorted `hashes`, bool.

    Examples:
        >>> known = hash_smiles(["CCO", "CCN"])
        >>> contains(known, hash_each(["CCN", "CCC"])).tolist()
        [True, False]
    """
    if not len(hashes):
        return np.zeros(len(queries), dtype=bool)
    places = np.minimum(np.searchsorted(hashes, queries), len(hashes) - 1)
    return hashes[places] == queries


class HashSet:
    """A growing set of 64-bit hashes in 8 bytes each.

    Sorted arrays, each more than twice as long as the next one: a hash is moved at most
    log2(size) times.

    Examples:
        >>> found = HashSet()
        >>> found.update(hash_each(["CCO", "CCN", "CCO"]))
        >>> found.add(smiles_hash("CCO")), len(found)
        (False, 2)
    """

    def __init__(self) -> None:
        self._sorted: list[np.ndarray] = []
        self._recent: set[int] = set()

    def __len__(self) -> int:
        return sum(map(len, self._sorted)) + len(self._recent)

    def add(self, hash_: int) -> bool:
        """Add one hash; return True if it is new."""
        if hash_ in self._recent:
            return False
        key = np.uint64(hash_)
        for part in self._sorted:
            place = part.searchsorted(key)
            if place < len(part) and part[place] == key:
                return False
        self._recent.add(hash_)
        if len(self._recent) >= RECENT:
            self.update(np.zeros(0, np.uint64))
        return True

    def update(self, hashes: np.ndarray) -> None:
        """Add many hashes, (M,) uint64."""
        recent = np.fromiter(self._recent, dtype=np.uint64, count=len(self._recent))
        self._recent.clear()
        new = np.union1d(recent, hashes)
        for part in self._sorted:
            new = new[~contains(part, new)]
        while self._sorted and len(self._sorted[-1]) <= 2 * len(new):
            # A stable sort merges what is sorted already.
            new = np.sort(np.concatenate([self._sorted.pop(), new]), kind="stable")
        self._sorted.append(new)

    def count_outside(self, known: np.ndarray) -> int:
        """Count the hashes that are not among the sorted hashes `known`."""
        self.update(np.zeros(0, np.uint64))
        return sum(int((~contains(known, part)).sum()) for part in self._sorted)
