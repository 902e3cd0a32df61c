"""What is known of a sample after every molecule was looked at once, in bounded memory.

A sample is looked at block by block, here or elsewhere, and only what is known of a block travels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from graphcnf.molecules.distributions import SetStatistics, quantities_of, statistics_of_chunk
from graphcnf.molecules.failures import failures
from graphcnf.molecules.metrics import molecules
from graphcnf.molecules.tally import Block, Tally, share

HEAD = 10_000
"""Samples whose rows are kept, the first ones: for pictures."""


@dataclass
class Part:
    """What is known of a block.

    Attributes:
        block: What a `Tally` counts.
        statistics: Of the strictly valid samples.
        failures: How many fail for each reason.
        head: Rows of `evaluate_records` where they are among the first `HEAD`; else None.
    """

    block: Block
    statistics: SetStatistics
    failures: Counter[str]
    head: pd.DataFrame | None


@dataclass(frozen=True)
class Look:
    """How a block is looked at.

    Attributes:
        metrics: Names of distribution metrics that are wanted.
        device: Where ChemNet runs.
    """

    metrics: Sequence[str] = ()
    device: str = "cpu"

    def at(self, records: pd.DataFrame) -> Part:
        """Look at a table of `evaluate_records` whose samples are numbered throughout."""
        strict = records["strict"]
        valid = list(records["smiles"][strict])
        failed = molecules(records["smiles"][~strict])
        reasons = Counter(f.reason for mol in failed for f in failures(mol))
        among_first = len(records) > 0 and records["record"].iloc[0] < HEAD
        return Part(
            Block.of(records),
            statistics_of_chunk(quantities_of(self.metrics), self.device, (0, valid)),
            reasons,
            records if among_first else None,
        )


class Summary:
    """What is known of a sample.

    Args:
        training_hashes: What novelty is held against, None for nothing.

    Attributes:
        tally: What was counted.
        statistics: Of the strictly valid samples.
    """

    def __init__(self, training_hashes: np.ndarray | None = None):
        self.tally = Tally(training_hashes)
        self.statistics = SetStatistics(0)
        self._failures: Counter[str] = Counter()
        self._heads: list[pd.DataFrame] = []

    def add(self, part: Part) -> None:
        """Take in the next block."""
        self.tally.add(part.block)
        self.statistics.add(part.statistics)
        self._failures.update(part.failures)
        if part.head is not None:
            self._heads.append(part.head)

    @property
    def head(self) -> pd.DataFrame:
        """`evaluate_records` of the first samples."""
        return pd.concat(self._heads, ignore_index=True)[:HEAD]

    def failures(self) -> dict[str, int]:
        """How many samples fail for each reason, the most frequent first."""
        return dict(self._failures.most_common())

    def figures(self) -> dict[str, Any]:
        """`graphcnf.molecules.metrics.summarize`, and the share that is in one piece."""
        tally = self.tally
        return {**tally.figures(), "connected": share(tally.connected, tally.samples)}
