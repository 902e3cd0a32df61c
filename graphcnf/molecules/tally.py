"""Counts of samples in bounded memory: valid, distinct, new."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from graphcnf.molecules.hashing import contains, hash_each

CONVENTIONS = ("strict", "largest_fragment", "valence_only", "repaired")

UNIQUE_AT = (1_000, 10_000)
"""Numbers of valid samples that uniqueness is also given among, because it falls with them."""

KEPT = 1 << 22
"""Distinct hashes that are kept, the smallest ones: 32 MB."""


class Distinct:
    """Number of distinct hashes: exact up to `KEPT`, and then an estimate.

    Of more hashes only the smallest k are kept. The largest of these, as a share r of 2^64, tells
    how many there are: (k - 1) / r, unbiased, with a relative standard error of 1 / sqrt(k - 2),
    0.05 % (Beyer et al. 2007, "On synopses for distinct-value estimation under multiset
    operations", section 4).

    Args:
        kept: k.
    """

    def __init__(self, kept: int = KEPT):
        self.kept = kept
        self._sorted = np.zeros(0, np.uint64)
        self._new: list[np.ndarray] = []
        self._waiting, self._full = 0, False

    def add(self, hashes: np.ndarray) -> None:
        """Take in further hashes, (M,) uint64."""
        if self._full:
            hashes = hashes[hashes < self._sorted[-1]]
        self._new.append(hashes)
        self._waiting += len(hashes)
        # Sorting in large pieces costs the same for every hash, however many there are.
        if self._waiting > max(1 << 16, len(self._sorted) // 4):
            self._sort()

    def _sort(self) -> None:
        found = np.unique(np.concatenate([self._sorted, *self._new]))
        self._full = self._full or len(found) > self.kept
        self._sorted, self._new, self._waiting = found[: self.kept], [], 0

    def count(self, among: np.ndarray | None = None) -> int:
        """How many there are, or how many that are not in the sorted hashes `among`."""
        self._sort()
        kept = len(self._sorted)
        total = float(kept)
        if self._full:
            total = (kept - 1) / (float(self._sorted[-1]) / 2.0**64)
        if among is not None and kept:
            total *= float((~contains(among, self._sorted)).mean())
        return round(total)

    @property
    def exact(self) -> bool:
        """Whether no hash had to be dropped."""
        self._sort()
        return not self._full


@dataclass(frozen=True)
class Block:
    """What a `Tally` takes in of a table of `evaluate_records`.

    Attributes:
        samples: Number of samples.
        connected: How many are in one piece.
        share_kept: Sum of the shares of atoms in the largest fragment, where that is valid.
        hashes: Hashes of the valid samples in each convention.
    """

    samples: int
    connected: int
    share_kept: float
    hashes: dict[str, np.ndarray]

    @classmethod
    def of(cls, records: pd.DataFrame) -> Block:
        """Look at the table.

        Raises:
            ValueError: It lacks a convention.
        """
        for convention in CONVENTIONS[1:]:
            if convention not in records:
                raise ValueError(
                    f"the table lacks {convention!r}: evaluate_records gives all conventions"
                )
        hashes = {"strict": hash_each(records["smiles"][records["strict"]])}
        for convention in CONVENTIONS[1:]:
            hashes[convention] = hash_each(s for s in records[convention] if isinstance(s, str))
        kept = records["kept"]
        return cls(
            len(records),
            int((kept == 1).sum()),
            float(kept[records["largest_fragment"].notna()].sum()),
            hashes,
        )


@dataclass
class _Counts:
    valid: int = 0
    novel: int = 0
    distinct: Distinct = field(default_factory=Distinct)


class Tally:
    """What `graphcnf.molecules.metrics.summarize` counts, of one block after the other.

    Args:
        training_hashes: Sorted `hash_smiles` of the training set; None leaves novelty out (None).
    """

    def __init__(self, training_hashes: np.ndarray | None = None):
        self.training_hashes = training_hashes
        self.samples, self.connected, self.share_kept = 0, 0, 0.0
        self._first = np.zeros(0, np.uint64)
        self._counts: dict[str, _Counts] = {}

    def add(self, block: Block) -> None:
        """Take in further samples."""
        self.samples += block.samples
        self.connected += block.connected
        self.share_kept += block.share_kept
        for convention, own in block.hashes.items():
            counts = self._counts.setdefault(convention, _Counts())
            counts.valid += len(own)
            counts.distinct.add(own)
            if self.training_hashes is not None:
                counts.novel += int((~contains(self.training_hashes, own)).sum())
            if convention == "strict" and len(self._first) < max(UNIQUE_AT):
                self._first = np.concatenate([self._first, own])[: max(UNIQUE_AT)]

    @property
    def exact(self) -> bool:
        """Whether no figure is an estimate."""
        return all(counts.distinct.exact for counts in self._counts.values())

    def figures(self) -> dict:
        """See `graphcnf.molecules.metrics.summarize`."""
        found: dict = {"samples": self.samples}
        for convention, counts in self._counts.items():
            prefix = "" if convention == "strict" else f"{convention}_"
            # An estimate may be more than there are.
            distinct = min(counts.distinct.count(), counts.valid)
            found[f"{convention}_valid"] = counts.valid
            found[f"{convention}_unique"] = distinct
            found[f"{convention}_validity"] = share(counts.valid, self.samples)
            found[f"{prefix}uniqueness"] = share(distinct, counts.valid)
            if convention == "strict":
                for k in UNIQUE_AT:
                    enough = len(self._first) >= k
                    found[f"uniqueness_at_{k}"] = (
                        len(np.unique(self._first[:k])) / k if enough else None
                    )
            known = self.training_hashes
            new = None if known is None else min(counts.distinct.count(known), counts.novel)
            found[f"{convention}_novel"] = None if new is None else counts.novel
            found[f"{prefix}novelty"] = None if new is None else share(counts.novel, counts.valid)
            found[f"{prefix}vun"] = None if new is None else share(new, self.samples)
            if convention == "largest_fragment":
                found["largest_fragment_atom_share"] = share(self.share_kept, counts.valid)
        return found


def share(part: float, whole: int) -> float:
    """0 where there is nothing."""
    return part / whole if whole else 0.0
