"""Summary of a sample after every molecule was looked at once, in bounded memory.

A sample is looked at block by block, here or elsewhere, and only the `Part` of a block travels.
Uniqueness is distinct / valid, novelty is (valid and not in the training set) / valid, V.U.N. is
(distinct, valid and not in the training set) / samples. A fraction of nothing is 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from graphcnf.compute.parallel import ordered_map
from graphcnf.compute.progress import progress_bar
from graphcnf.evaluation.metrics import Feature
from graphcnf.evaluation.statistics import SetStatistics, chunk_statistics
from graphcnf.molecules.failures import failures
from graphcnf.molecules.hashing import HashSet, contains, hash_each
from graphcnf.molecules.validity import CONVENTIONS, molecules

if TYPE_CHECKING:
    from graphcnf.compute.parallel import Cluster

HEAD = 10_000
"""Samples whose rows are kept, the first ones: for pictures."""

UNIQUE_AT = (1_000, 10_000)
"""Numbers of valid samples that uniqueness is also given among, because it falls with them."""


@dataclass
class Part:
    """Summary of a block of samples.

    Attributes:
        samples: Number of samples.
        connected: Number of those in one piece.
        share_kept: Sum of the shares of atoms in the largest fragment, where that is valid.
        hashes: Hashes of the valid samples in each convention.
        statistics: Statistics of the strictly valid samples.
        failures: Number of samples that fail for each reason.
        head: Rows of `evaluate_records` where they are among the first `HEAD`; else None.
        came_back: Of a file: number of valid molecules that come back from their graphs unchanged.
        unreadable: Of a file: number of records that are no SMILES.
        first_unreadable: Place ("line 3", or "line 3 of part.smi") and text of the first of these.
    """

    samples: int
    connected: int
    share_kept: float
    hashes: dict[str, np.ndarray]
    statistics: SetStatistics
    failures: Counter[str]
    head: pd.DataFrame | None
    came_back: int = 0
    unreadable: int = 0
    first_unreadable: tuple[str, str] | None = None


def look_at(records: pd.DataFrame, features: tuple[Feature, ...] = (), device: str = "cpu") -> Part:
    """Summarize a table of `evaluate_records` whose samples are numbered throughout.

    Args:
        records: The table, in all conventions.
        features: Features of the strictly valid molecules that are wanted.
        device: Device of ChemNet.

    Raises:
        ValueError: The table lacks a convention.
    """
    strict, kept = records["strict"], records["kept"]
    valid = list(records["smiles"][strict])
    hashes = {"strict": hash_each(valid)}
    for convention in CONVENTIONS[1:]:
        if convention not in records:
            raise ValueError(
                f"the table lacks {convention!r}: evaluate_records gives all conventions"
            )
        hashes[convention] = hash_each(s for s in records[convention] if isinstance(s, str))
    failed = molecules(records["smiles"][~strict])
    among_first = len(records) > 0 and records["record"].iloc[0] < HEAD
    return Part(
        len(records),
        int((kept == 1).sum()),
        float(kept[records["largest_fragment"].notna()].sum()),
        hashes,
        chunk_statistics(features, device, (0, valid)),
        Counter(f.reason for mol in failed for f in failures(mol)),
        records if among_first else None,
    )


@dataclass
class _Counts:
    valid: int = 0
    novel: int = 0
    distinct: HashSet = field(default_factory=HashSet)


class Summary:
    """Summary of a sample.

    Args:
        training_hashes: Sorted `hash_smiles` of the training set; None leaves novelty out (None).

    Attributes:
        samples: Number of samples so far.
        statistics: Statistics of the strictly valid samples.
        failures: Number of samples that fail for each reason.
        came_back: See `Part`, as `unreadable` and `first_unreadable`.
    """

    def __init__(self, training_hashes: np.ndarray | None = None):
        self.training_hashes = training_hashes
        self.samples, self._connected, self._share_kept = 0, 0, 0.0
        self.statistics = SetStatistics(0)
        self.failures: Counter[str] = Counter()
        self.came_back = self.unreadable = 0
        self.first_unreadable: tuple[str, str] | None = None
        self._first = np.zeros(0, np.uint64)
        self._counts = {convention: _Counts() for convention in CONVENTIONS}
        self._heads: list[pd.DataFrame] = []

    def add(self, part: Part) -> None:
        """Take in the next block."""
        self.samples += part.samples
        self._connected += part.connected
        self._share_kept += part.share_kept
        for convention, own in part.hashes.items():
            counts = self._counts[convention]
            counts.valid += len(own)
            counts.distinct.update(own)
            if self.training_hashes is not None:
                counts.novel += int((~contains(self.training_hashes, own)).sum())
            if convention == "strict" and len(self._first) < max(UNIQUE_AT):
                self._first = np.concatenate([self._first, own])[: max(UNIQUE_AT)]
        self.statistics.add(part.statistics)
        self.failures.update(part.failures)
        self.came_back += part.came_back
        self.unreadable += part.unreadable
        self.first_unreadable = self.first_unreadable or part.first_unreadable
        if part.head is not None:
            self._heads.append(part.head)

    @property
    def head(self) -> pd.DataFrame:
        """`evaluate_records` of the first samples."""
        return pd.concat(self._heads, ignore_index=True)[:HEAD]

    def figures(self) -> dict[str, Any]:
        """Return the figures, fractions in [0, 1] with their denominators.

        Returns:
            `samples`; `strict_validity`, `largest_fragment_validity`, `largest_fragment_atom_share`
            (mean of the share of atoms in the largest fragment over samples that are valid in this
            convention); `uniqueness`, `novelty`, `vun` in the strict convention with the counts
            `strict_valid`, `strict_unique`, `strict_novel`; the same for every other convention
            under its name, as `largest_fragment_uniqueness`; `uniqueness_at_1000` and
            `uniqueness_at_10000`, among the first strictly valid ones, None where there are fewer;
            `connected`, the share in one piece.
        """
        found: dict[str, Any] = {"samples": self.samples}
        known = self.training_hashes
        for convention, counts in self._counts.items():
            distinct = len(counts.distinct)
            own: dict[str, Any] = {
                "valid": counts.valid,
                "unique": distinct,
                "validity": share(counts.valid, self.samples),
                "uniqueness": share(distinct, counts.valid),
            }
            if convention == "strict":
                for k in UNIQUE_AT:
                    first = self._first[:k]
                    enough = len(first) == k
                    own[f"uniqueness_at_{k}"] = len(np.unique(first)) / k if enough else None
            own |= dict.fromkeys(("novel", "novelty", "vun"))
            if known is not None:
                new = counts.distinct.count_outside(known)
                own |= {"novel": counts.novel, "novelty": share(counts.novel, counts.valid)}
                own["vun"] = share(new, self.samples)
            if convention == "largest_fragment":
                own["atom_share"] = share(self._share_kept, counts.valid)
            found |= {figure_key(convention, name): value for name, value in own.items()}
        return {**found, "connected": share(self._connected, self.samples)}


def figure_key(convention: str, name: str) -> str:
    """Return the key in `Summary.figures` of a figure such as "novelty" in a convention."""
    counted = name in ("valid", "validity", "unique", "novel")
    return f"{convention}_{name}" if counted or convention != "strict" else name


def share(part: float, whole: int) -> float:
    """Return a fraction, 0 where there is nothing."""
    return part / whole if whole else 0.0


def summarize(records: pd.DataFrame, training_hashes: np.ndarray | None = None) -> dict[str, Any]:
    """Return `Summary.figures` of one table of `evaluate_records` in all conventions."""
    summary = Summary(training_hashes)
    summary.add(look_at(records))
    return summary.figures()


def summarize_blocks(
    score: Callable[[Any], Part],
    blocks: Iterable[Any],
    *,
    total: int,
    label: str,
    workers: int | Cluster,
    training_hashes: np.ndarray | None = None,
) -> Summary:
    """Score a sample block by block.

    Args:
        score: A function at the top level of a module, or a partial of one.
        blocks: Its arguments.
        total: Number of samples.
        label: Label of the progress bar.
        workers: Processes, or a cluster. The result does not depend on it.
        training_hashes: See `Summary`.

    Raises:
        WorkerDied: A process was killed.
    """
    result = Summary(training_hashes)
    with (
        progress_bar(label, total) as show,
        ordered_map(score, blocks, workers=workers) as parts,
    ):
        for part in parts:
            result.add(part)
            show(result.samples)
    return result
