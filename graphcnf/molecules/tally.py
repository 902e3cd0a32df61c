"""Counts of samples that come in blocks: valid, distinct, new."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from graphcnf.molecules.hashing import HashSet, contains, hash_each

CONVENTIONS = ("strict", "largest_fragment", "valence_only", "repaired")

UNIQUE_AT = (1_000, 10_000)
"""Numbers of valid samples that uniqueness is also given among, because it falls with them."""


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
    distinct: HashSet = field(default_factory=HashSet)


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
            counts.distinct.update(own)
            if self.training_hashes is not None:
                counts.novel += int((~contains(self.training_hashes, own)).sum())
            if convention == "strict" and len(self._first) < max(UNIQUE_AT):
                self._first = np.concatenate([self._first, own])[: max(UNIQUE_AT)]

    def figures(self) -> dict:
        """See `graphcnf.molecules.metrics.summarize`."""
        found: dict = {"samples": self.samples}
        for convention, counts in self._counts.items():
            prefix = "" if convention == "strict" else f"{convention}_"
            distinct = len(counts.distinct)
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
            new = None if known is None else counts.distinct.count_outside(known)
            found[f"{convention}_novel"] = None if new is None else counts.novel
            found[f"{prefix}novelty"] = None if new is None else share(counts.novel, counts.valid)
            found[f"{prefix}vun"] = None if new is None else share(new, self.samples)
            if convention == "largest_fragment":
                found["largest_fragment_atom_share"] = share(self.share_kept, counts.valid)
        return found


def share(part: float, whole: int) -> float:
    """0 where there is nothing."""
    return part / whole if whole else 0.0
