"""A stream of molecules from several processes: which records count, and how far it has come."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from graphcnf.compute.parallel import ordered_map
from graphcnf.errors import UserError
from graphcnf.evaluation.draw import sampling_processes
from graphcnf.graphs.record_blocks import blocks, together_on
from graphcnf.molecules.hashing import HashSet
from graphcnf.scripts.generation.records import Recipe, Record, block_records

if TYPE_CHECKING:
    from graphcnf.compute.cluster import Cluster
    from graphcnf.graphs import GraphCNF


class Exhausted(UserError):
    """There are no further molecules of the kind that is wanted."""


@dataclass
class Progress:
    """How far the stream has come.

    Attributes:
        first: Number of the first record.
        record: Number of the next record.
        written: Records that count so far.
        valid: Valid molecules among all records so far.
        accepted: Valid molecules that are what is required.
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
    def at(cls, first: int) -> Progress:
        """Before the record of this number."""
        return cls(first=first, record=first, last=first)

    @property
    def sampled(self) -> int:
        """Records so far."""
        return self.record - self.first

    def reach(self, values: dict[str, tuple[float, float]]) -> None:
        """Count a written molecule's properties, each with the value that was asked for."""
        for name, (asked, value) in values.items():
            _, count, total, distance = self.reached.get(name, (asked, 0, 0.0, 0.0))
            self.reached[name] = [asked, count + 1, total + value, distance + abs(value - asked)]

    def figures(self, distinct: int) -> dict[str, Any]:
        """Numbers of graphs, and shares in [0, 1]: valid ones, and of these the accepted ones.

        Where properties were asked for, `asked` has for each the value, and of the written
        molecules the mean and the mean absolute error (MAE).
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
            "distinct": distinct,
            "seconds": round(self.seconds, 3),
        }

    def summary(self, distinct: int, *, selective: bool = False) -> str:
        """One line, with the share of accepted molecules where it is `selective`."""
        figures = self.figures(distinct)
        accepted = f", {figures['acceptance']:.1%} of these accepted" if selective else ""
        shown = f", {distinct:,} distinct" if distinct else ""
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
class Goal:
    """What is wanted of a sample.

    Attributes:
        records: Numbers of the records that may be drawn.
        number: How many records have to count; None for whichever do among `records`.
    """

    records: range
    number: int | None

    @property
    def unit(self) -> str:
        """What is counted."""
        return "molecules" if self.number is not None else "graphs"

    @property
    def total(self) -> int:
        """How many of them there are at the end."""
        return len(self.records) if self.number is None else self.number

    def done(self, progress: Progress) -> int:
        """How many of them there are so far."""
        return progress.sampled if self.number is None else progress.written

    def reached(self, progress: Progress) -> bool:
        """Whether there is nothing left to draw."""
        return progress.record >= self.records.stop or progress.written == self.number


def texts(
    model: GraphCNF,
    recipe: Recipe,
    goal: Goal,
    progress: Progress,
    seen: HashSet,
    *,
    workers: int | Cluster | None,
    patience: int,
) -> Iterator[str]:
    """Yield piece after piece what is to be written, until the goal is reached.

    The first block comes from this process, for the first molecules to come soon.

    Args:
        model: Model to draw from.
        recipe: What to draw and to write.
        goal: How much of it.
        progress: Where to go on; up to date whenever a piece comes.
        seen: Hashes of the molecules so far; kept up to date.
        workers: Processes, or a cluster; None for as many as pay.
        patience: Records in a row without one that counts after which the search is given up.

    Raises:
        Exhausted: It was given up.
        WorkerDied: A worker process was killed.
    """
    with closing(_blocks(model, recipe, goal, progress, workers)) as drawn:
        for records in drawn:
            parts = []
            for record in records:
                if record.number < progress.record:
                    continue
                progress.record = record.number + 1
                progress.valid += record.strict
                progress.accepted += record.accepted
                if recipe.everything or (record.accepted and seen.add(record.mark)):
                    parts.append(record.text)
                    progress.written += 1
                    progress.reach(record.reached)
                    progress.last = progress.record
                if goal.reached(progress):
                    break
            done = goal.reached(progress)
            hopeless = not done and goal.number and progress.record - progress.last >= patience
            yield "".join(parts)
            if done:
                return
            if hopeless:
                raise Exhausted(_advice(progress, bool(recipe.requirements or recipe.patterns)))


def _blocks(
    model: GraphCNF, recipe: Recipe, goal: Goal, progress: Progress, workers: int | Cluster | None
) -> Iterator[list[Record]]:
    draw = partial(block_records, model, recipe)
    together = together_on(model.device)
    there = blocks(progress.record, together)
    todo = takewhile(lambda block: block.start < goal.records.stop, there)
    if together > 1:
        low, high = progress.record, goal.records.stop
        todo = (range(max(low, block.start), min(high, block.stop)) for block in todo)
    if progress.record == 0:
        yield draw(next(todo))
    left = goal.total - goal.done(progress)
    if goal.number is not None:
        left *= max(progress.sampled, 1) / max(progress.written, 1)
    with ordered_map(draw, todo, workers=sampling_processes(model, left, workers)) as drawn:
        yield from drawn


def _advice(progress: Progress, selective: bool) -> str:
    if selective and progress.valid:
        return (
            f"{progress.accepted:,} of {progress.valid:,} valid molecules, {progress.written:,} of "
            "them distinct, are what --require and --smarts ask for: ask for -n "
            f"{progress.written}, for less, or for other sizes"
        )
    if not progress.written:
        return (
            f"none of {progress.sampled:,} sampled graphs is a valid molecule: train the model for "
            "longer, or lower --temperature"
        )
    return (
        f"only {progress.written:,} distinct valid molecules among {progress.sampled:,} sampled "
        f"graphs: ask for -n {progress.written}, other sizes or another --temperature"
    )
