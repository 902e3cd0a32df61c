"""Counts of a sample, and how many records it needs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphcnf.sampling.records import Record


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
