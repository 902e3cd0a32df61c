"""Records in their order from several processes: which of them count, and when there are enough."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from graphcnf.compute.parallel import ordered_map
from graphcnf.errors import UserError
from graphcnf.graphs.record_blocks import blocks, together_on
from graphcnf.molecules.hashing import HashSet
from graphcnf.sampling.draw import sampling_processes
from graphcnf.sampling.records import Recipe, Record, block_records

if TYPE_CHECKING:
    from graphcnf.compute.cluster import Cluster
    from graphcnf.graphs import GraphCNF

PATIENCE = 10_000
"""Records in a row without a further valid molecule after which the search is given up."""

PATIENCE_FACTOR = 10
"""Multiplies `PATIENCE` where molecules are selected."""


class Exhausted(UserError):
    """The search for further molecules was given up."""


@dataclass
class SampleCounts:
    """Counts of a sample so far; its journal and the descriptions of shards keep them.

    Attributes:
        first: Number of the first record.
        record: Number of the next record.
        written: Records that count so far.
        valid: Valid molecules among all records so far.
        accepted: Valid molecules that meet the requirements and contain the patterns.
        last: Number of the record after the last one that counts.
        seconds: Time that it took.
        reached: For each property that was asked for the value asked, the number of written
            molecules that have one, the sum of theirs, and that of their distances from it.
    """

    first: int = 0
    record: int = 0
    written: int = 0
    valid: int = 0
    accepted: int = 0
    last: int = 0
    seconds: float = 0.0
    reached: dict[str, list[float]] = field(default_factory=dict)

    @classmethod
    def at(cls, first: int) -> SampleCounts:
        """Return the counts before the record of this number."""
        return cls(first=first, record=first, last=first)

    @property
    def sampled(self) -> int:
        """Records so far."""
        return self.record - self.first

    def add(self, record: Record) -> None:
        """Count the next record."""
        self.record = record.number + 1
        self.valid += record.strict
        self.accepted += record.accepted

    def add_written(self, record: Record) -> None:
        """Count the record as one that counts, and its properties."""
        self.written += 1
        self.last = self.record
        for name, (asked, value) in record.reached.items():
            _, count, total, distance = self.reached.get(name, (asked, 0, 0.0, 0.0))
            self.reached[name] = [asked, count + 1, total + value, distance + abs(value - asked)]

    def figures(self, distinct: bool) -> dict[str, Any]:
        """Return numbers of graphs, and shares in [0, 1] of valid and of accepted ones.

        Where properties were asked for, `asked` has for each the value, and of the written
        molecules the mean and the mean absolute error (MAE).

        Args:
            distinct: True where repeats were not written; else `distinct` is 0.
        """
        asked = {
            name: {"value": value, "mean": total / count, "mae": distance / count}
            for name, (value, count, total, distance) in self.reached.items()
        }
        return {
            **({"asked": asked} if asked else {}),
            "sampled": self.sampled,
            "strict_valid": self.valid,
            "strict_validity": self.valid / max(self.sampled, 1),
            "accepted": self.accepted,
            "acceptance": self.accepted / max(self.valid, 1),
            "written": self.written,
            "distinct": self.written if distinct else 0,
            "seconds": round(self.seconds, 3),
        }

    def summary(self, distinct: bool, selective: bool) -> str:
        """Return one line, with the share of accepted molecules where it is `selective`."""
        figures = self.figures(distinct)
        accepted = f", {figures['acceptance']:.1%} of these accepted" if selective else ""
        shown = f", {figures['distinct']:,} distinct" if figures["distinct"] else ""
        for name, found in figures.get("asked", {}).items():
            shown += (
                f"; {name}={found['value']:g} asked for, mean {found['mean']:.4g}, "
                f"mean absolute error {found['mae']:.3g}"
            )
        return (
            f"sampled {self.sampled:,} graphs in {self.seconds:.1f} s: "
            f"{figures['strict_validity']:.1%} strictly valid{accepted}{shown}"
        )


@dataclass(frozen=True)
class Quota:
    """The records that may be drawn, and how many of them have to count.

    Attributes:
        records: Numbers of the records that may be drawn.
        number: Records that have to count; None for all of `records` that do.
    """

    records: range
    number: int | None

    @property
    def total(self) -> int:
        """Molecules, or without a number graphs, at the end."""
        return len(self.records) if self.number is None else self.number

    def done(self, counts: SampleCounts) -> int:
        """Return the molecules, or without a number the graphs, so far."""
        return counts.sampled if self.number is None else counts.written

    def progress(self, counts: SampleCounts) -> str:
        """Return "3 of 10 molecules"."""
        unit = "graphs" if self.number is None else "molecules"
        return f"{self.done(counts):,} of {self.total:,} {unit}"

    def is_filled(self, counts: SampleCounts) -> bool:
        """Return True where there is nothing left to draw."""
        return counts.record >= self.records.stop or counts.written == self.number


def texts(
    model: GraphCNF,
    recipe: Recipe,
    quota: Quota,
    counts: SampleCounts,
    seen: HashSet,
    workers: int | Cluster | None = None,
) -> Iterator[str]:
    """Yield the text of the sample piece after piece, until the quota is filled.

    The first block comes from this process, for the first molecules to come soon.

    Args:
        model: Model to draw from.
        recipe: Determines the records and their text.
        quota: Records to draw.
        counts: State to go on from; up to date whenever a piece comes.
        seen: Hashes of the molecules so far; kept up to date.
        workers: Processes, or a cluster; None for as many as pay.

    Raises:
        Exhausted: `PATIENCE` records in a row, or with a selection `PATIENCE_FACTOR` times as
            many, held none that counts.
        WorkerDied: A worker process was killed.
    """
    patience = PATIENCE * (PATIENCE_FACTOR if recipe.selective else 1)
    with closing(_blocks(model, recipe, quota, counts, workers)) as drawn:
        for records in drawn:
            parts = []
            for record in records:
                if record.number < counts.record:
                    continue
                counts.add(record)
                if recipe.everything or (record.accepted and seen.add(record.hash)):
                    parts.append(record.text)
                    counts.add_written(record)
                if quota.is_filled(counts):
                    break
            filled = quota.is_filled(counts)
            hopeless = not filled and quota.number and counts.record - counts.last >= patience
            yield "".join(parts)
            if filled:
                return
            if hopeless:
                raise Exhausted(_advice(counts, recipe.selective))


def _blocks(
    model: GraphCNF,
    recipe: Recipe,
    quota: Quota,
    counts: SampleCounts,
    workers: int | Cluster | None,
) -> Iterator[list[Record]]:
    draw = partial(block_records, model, recipe)
    together = together_on(model.device)
    there = blocks(counts.record, together)
    todo = takewhile(lambda block: block.start < quota.records.stop, there)
    if together > 1:
        low, high = counts.record, quota.records.stop
        todo = (range(max(low, block.start), min(high, block.stop)) for block in todo)
    if counts.record == 0:
        yield draw(next(todo))
    left: float = quota.total - quota.done(counts)
    if quota.number is not None:
        left *= max(counts.sampled, 1) / max(counts.written, 1)
    with ordered_map(draw, todo, workers=sampling_processes(model, left, workers)) as drawn:
        yield from drawn


def _advice(counts: SampleCounts, selective: bool) -> str:
    if selective and counts.valid:
        return (
            f"{counts.accepted:,} of {counts.valid:,} valid molecules, {counts.written:,} of "
            "them distinct, are what --require and --smarts ask for: ask for -n "
            f"{counts.written}, for less, or for other sizes"
        )
    if not counts.written:
        return (
            f"none of {counts.sampled:,} sampled graphs is a valid molecule: train the model for "
            "longer, or lower --temperature"
        )
    return (
        f"only {counts.written:,} distinct valid molecules among {counts.sampled:,} sampled "
        f"graphs: ask for -n {counts.written}, other sizes or another --temperature"
    )
