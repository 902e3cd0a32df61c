"""Summary of a sample after every molecule was looked at once, in bounded memory.

A sample is looked at block by block, here or elsewhere, and only the `Part` of a block travels.
Uniqueness is distinct / valid, novelty is (valid and not in the training set) / valid, V.U.N. is
(distinct, valid and not in the training set) / samples. A fraction of nothing is 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from graphcnf.compute.parallel import ordered_map
from graphcnf.compute.progress import progress_bar
from graphcnf.evaluation.metrics import Feature
from graphcnf.evaluation.statistics import SetStatistics, chunk_statistics
from graphcnf.molecules.hashing import HashSet, contains, hash_each
from graphcnf.molecules.validity import CONVENTIONS, failures, molecules

if TYPE_CHECKING:
    from graphcnf.compute.parallel import Cluster

HEAD = 10_000
"""Samples whose rows are kept, the first ones: for pictures."""

UNIQUE_AT = (1_000, 10_000)
"""Numbers of valid samples that uniqueness is also given among, because it falls with them."""


@dataclass
class Part:
    """Summary of a block of samples.

    Its `sums` add up: `samples`; `connected`, samples in one piece; `share_kept`, sum of the shares
    of atoms in the largest fragment, where that is valid; of a file also `came_back`, valid
    molecules that come back from their graphs unchanged, and `unreadable`, records that are no
    SMILES.
    """

    sums: Counter[str]
    hashes: dict[str, np.ndarray]  # of the valid samples in each convention
    statistics: SetStatistics  # of the strictly valid samples
    failures: Counter[str]  # samples that fail for each reason
    head: pd.DataFrame | None  # `evaluate_records` where they are among the first `HEAD`
    first_unreadable: tuple[str, str] | None = None  # place ("line 3") and text


def look_at(records: pd.DataFrame, features: tuple[Feature, ...] = (), device: str = "cpu") -> Part:
    """Summarize a table of `evaluate_records` in all conventions, numbered throughout.

    The features are those of the strictly valid molecules; the device is ChemNet's.
    """
    strict, kept = records["strict"], records["kept"]
    valid = list(records["smiles"][strict])
    hashes = {"strict": hash_each(valid)}
    for convention in CONVENTIONS[1:]:
        hashes[convention] = hash_each(s for s in records[convention] if isinstance(s, str))
    sums: Counter[str] = Counter(samples=len(records), connected=int((kept == 1).sum()))
    sums.update({"share_kept": kept[records["largest_fragment"].notna()].sum()})
    failed = molecules(records["smiles"][~strict])
    among_first = len(records) > 0 and records["record"].iloc[0] < HEAD
    return Part(
        sums,
        hashes,
        chunk_statistics(features, device, (0, valid)),
        Counter(f.reason for mol in failed for f in failures(mol)),
        records if among_first else None,
    )


class Summary:
    """Summary of a sample.

    Args:
        training_hashes: Sorted `hash_each` of the training set; None leaves novelty out (None).

    Attributes:
        sums: See `Part`, as `statistics`, `failures` and `first_unreadable`.
    """

    def __init__(self, training_hashes: np.ndarray | None = None):
        self.training_hashes = training_hashes
        self.sums: Counter[str] = Counter(samples=0)
        self.statistics = SetStatistics(0)
        self.failures: Counter[str] = Counter()
        self.first_unreadable: tuple[str, str] | None = None
        self._first = np.zeros(0, np.uint64)
        self._valid: Counter[str] = Counter()
        self._novel: Counter[str] = Counter()
        self._distinct = {convention: HashSet() for convention in CONVENTIONS}
        self._heads: list[pd.DataFrame] = []

    def add(self, part: Part) -> None:
        """Take in the next block."""
        self.sums.update(part.sums)
        for convention, own in part.hashes.items():
            self._valid[convention] += len(own)
            self._distinct[convention].update(own)
            if self.training_hashes is not None:
                self._novel[convention] += int((~contains(self.training_hashes, own)).sum())
        self._first = np.concatenate([self._first, part.hashes["strict"]])[: max(UNIQUE_AT)]
        self.statistics.add(part.statistics)
        self.failures.update(part.failures)
        self.first_unreadable = self.first_unreadable or part.first_unreadable
        self._heads += [] if part.head is None else [part.head]

    @property
    def head(self) -> pd.DataFrame:
        """`evaluate_records` of the first samples."""
        return pd.concat(self._heads, ignore_index=True)[:HEAD]

    def figures(self) -> dict[str, Any]:
        """Return the figures, fractions in [0, 1] with their denominators.

        Returns:
            `samples`; `strict_validity`, `largest_fragment_validity`, `largest_fragment_atom_share`
            (mean over samples that are valid in this convention); `uniqueness`, `novelty`, `vun` in
            the strict convention with the counts `strict_valid`, `strict_unique`, `strict_novel`;
            the same for every other convention under its name, as `largest_fragment_uniqueness`;
            `uniqueness_at_1000` and `uniqueness_at_10000`, among the first strictly valid ones,
            None where there are fewer; `connected`, the share in one piece.
        """
        samples, known = self.sums["samples"], self.training_hashes
        found: dict[str, Any] = {"samples": samples}
        for convention, distinct in self._distinct.items():
            valid = self._valid[convention]
            own: dict[str, Any] = {
                "valid": valid,
                "unique": len(distinct),
                "validity": share(valid, samples),
                "uniqueness": share(len(distinct), valid),
            }
            if convention == "strict":
                for k in UNIQUE_AT:
                    first = self._first[:k]
                    enough = len(first) == k
                    own[f"uniqueness_at_{k}"] = len(np.unique(first)) / k if enough else None
            own |= dict.fromkeys(("novel", "novelty", "vun"))
            if known is not None:
                novel = self._novel[convention]
                own |= {"novel": novel, "novelty": share(novel, valid)}
                own["vun"] = share(distinct.count_outside(known), samples)
            if convention == "largest_fragment":
                own["atom_share"] = share(self.sums["share_kept"], valid)
            found |= {figure_key(convention, name): value for name, value in own.items()}
        return {**found, "connected": share(self.sums["connected"], samples)}


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
    """Score a sample block by block, in processes or on a cluster, on which nothing depends.

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
            show(result.sums["samples"])
    return result
