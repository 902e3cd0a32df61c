"""A sample drawn in the order of its records, into a stream or a file that survives a kill."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, TextIO

from graphcnf.compute.cpu import environment
from graphcnf.compute.parallel import WorkerDied, Workers, ordered_map
from graphcnf.compute.partial_file import PartialFile, fingerprint, partial_file
from graphcnf.compute.progress import progress_bar
from graphcnf.compute.signals import termination_raises
from graphcnf.errors import UserError, say
from graphcnf.graphs import GraphCNF
from graphcnf.graphs.record_blocks import blocks, together_on
from graphcnf.molecules.filters import passing_shares, passing_text
from graphcnf.molecules.hashing import HashSet
from graphcnf.molecules.standardize import protonation_hash
from graphcnf.pretrained import model_digest
from graphcnf.sampling.formats import Conversion, entries, header
from graphcnf.sampling.records import (
    Recipe,
    Record,
    block_records,
    sampling_processes,
)

AGAIN = "the same command goes on from there"

PATIENCE = 10_000
"""Records in a row without a further valid molecule after which the search is given up."""

PATIENCE_FACTOR = 10
"""Multiplies `PATIENCE` where there are filters."""


class Exhausted(UserError):
    """The search for further molecules was given up."""


@dataclass
class SampleCounts:
    """Counts of a sample so far; its journal and the descriptions of shards keep them.

    `reached` holds four numbers for each property that was asked for: the value asked for, the
    number of written molecules with that property, the sum of their values, and the sum of the
    distances of their values from the one asked for.
    """

    first: int = 0  # number of the first record
    record: int = 0  # number of the next record
    written: int = 0  # records that count
    valid: int = 0
    last: int = 0  # number of the record after the last one that counts
    seconds: float = 0.0
    outcomes: dict[str, int] = field(default_factory=dict)  # valid ones by `Filters.refusal`
    reached: dict[str, list[float]] = field(default_factory=dict)

    @property
    def sampled(self) -> int:
        """Number of records drawn so far."""
        return self.record - self.first

    def add(self, record: Record, written: bool) -> None:
        """Count the next record, and its properties where it is written."""
        self.record = record.number + 1
        if record.strict:
            self.valid += 1
            self.outcomes[record.refusal] = self.outcomes.get(record.refusal, 0) + 1
        if not written:
            return
        self.written += 1
        self.last = self.record
        for name, (asked, value) in record.reached.items():
            _, count, total, distance = self.reached.get(name, (asked, 0, 0.0, 0.0))
            self.reached[name] = [asked, count + 1, total + value, distance + abs(value - asked)]

    def figures(self, distinct: bool, filters: Collection[str]) -> dict[str, Any]:
        """Return numbers of graphs, and shares in [0, 1] of valid ones and of those that pass.

        Where properties were asked for, `asked` has for each the value, and of the written
        molecules the mean and the mean absolute error (MAE). `distinct` is 0 with repeats, and
        `filters` are the names of `Filters.checks`.
        """
        asked = {
            name: {"value": value, "mean": total / count, "mae": distance / count}
            for name, (value, count, total, distance) in self.reached.items()
        }
        accepted = self.outcomes.get("", 0)
        return {
            **({"asked": asked} if asked else {}),
            "sampled": self.sampled,
            "strict_valid": self.valid,
            "strict_validity": self.valid / max(self.sampled, 1),
            "accepted": accepted,
            "acceptance": accepted / max(self.valid, 1),
            **({"filters": passing_shares(filters, self.outcomes)} if filters else {}),
            "written": self.written,
            "distinct": self.written if distinct else 0,
            "seconds": round(self.seconds, 3),
        }

    def summary(self, distinct: bool, filters: Collection[str]) -> str:
        """Return one line, with the share that passes each filter."""
        figures = self.figures(distinct, filters)
        passed = passing_text(filters, self.outcomes)
        shown = f", of these {passed}" if passed else ""
        shown += f", {self.written:,} distinct" if distinct and self.written else ""
        for name, found in figures.get("asked", {}).items():
            shown += (
                f"; {name}={found['value']:g} asked for, mean {found['mean']:.4g}, "
                f"mean absolute error {found['mae']:.3g}"
            )
        return (
            f"sampled {self.sampled:,} graphs in {self.seconds:.1f} s: "
            f"{figures['strict_validity']:.1%} strictly valid{shown}"
        )


class Sample:
    """A sample of a model of molecules, with the `counts` of its records so far.

    Args:
        model: Model to draw from.
        recipe: Determines the records and their text.
        records: Numbers of the records that may be drawn.
        number: Records that have to count; None for all of `records` that do.
        workers: Processes, or a cluster; None for as many as pay.
    """

    def __init__(
        self,
        model: GraphCNF,
        recipe: Recipe,
        records: range,
        number: int | None = None,
        workers: Workers = None,
    ) -> None:
        self.model, self.recipe, self.workers = model, recipe, workers
        self.records, self.number = records, number
        self._total = len(records) if number is None else number
        self._restart()

    def _restart(self) -> None:
        first = self.records.start
        self.counts, self._seen = SampleCounts(first=first, record=first, last=first), HashSet()

    def _done(self) -> int:
        return self.counts.sampled if self.number is None else self.counts.written

    def _progress(self) -> str:
        unit = "graphs" if self.number is None else "molecules"
        return f"{self._done():,} of {self._total:,} {unit}"

    def _is_filled(self) -> bool:
        return self.counts.record >= self.records.stop or self.counts.written == self.number

    def write(self, stream: TextIO) -> None:
        """Draw the sample into a text stream, which is flushed after each piece.

        Raises:
            Exhausted: There are too few molecules.
        """

        def write(text: str) -> None:
            stream.write(text)
            stream.flush()

        # A bar and molecules on one terminal would run into each other.
        self._write(write, hidden=stream.isatty())

    def save(
        self,
        out: Path,
        *,
        convert: Conversion = None,
        beside: Callable[[Path], None] | None = None,
        force: bool = False,
    ) -> None:
        """Draw the sample into a file, from where an interrupted process left it.

        The file is replaced when the sample is complete (`PartialFile.finish`); `force` drops what
        other options left unfinished.

        Raises:
            UserError: The file cannot be written, a process died, or there are too few molecules.
        """
        # A larger number begins with the same molecules, but another part of the records does not.
        last = self.records.stop if self.number is None else None
        name = fingerprint(
            {
                "model": model_digest(self.model),
                "recipe": self.recipe.to_dict(),
                "records": [self.records.start, last],
                **environment(str(self.model.device)),
            }
        )
        with termination_raises(), partial_file(out, name) as file:
            self._resume(file, out, force)
            try:
                if not self._is_filled():
                    self._write(lambda text: file.commit(text, asdict(self.counts)))
                file.finish(convert, beside)
            except Exhausted as error:
                if not self.counts.written:
                    file.restart()
                    raise
                raise Exhausted(f"{error} (what was found is kept; --force drops it)") from None
            except WorkerDied as error:
                raise UserError(f"{error}; {AGAIN}") from None
            except (KeyboardInterrupt, SystemExit):
                if file.entry:
                    self.counts = SampleCounts(**file.entry)
                    say(f"interrupted after {self._progress()} of {out}; {AGAIN}")
                raise

    def _write(self, write: Callable[[str], None], *, hidden: bool = False) -> None:
        began = time.perf_counter() - self.counts.seconds
        bar = progress_bar("generating", self._total, hidden=hidden)
        with closing(self._texts()) as drawn, bar as show:
            for text in drawn:
                self.counts.seconds = time.perf_counter() - began
                write(text)
                show(self._done())

    def _texts(self) -> Generator[str]:
        """Yield the text piece after piece until there is enough; `counts` keep up with it."""
        recipe, counts = self.recipe, self.counts
        patience = PATIENCE * (PATIENCE_FACTOR if recipe.filters else 1)
        beginning = "" if counts.sampled else header(recipe.kind, recipe.columns)
        with closing(self._blocks()) as drawn:
            for records in drawn:
                parts, beginning = [beginning], ""
                for record in records:
                    if record.number < counts.record:
                        continue
                    is_new = record.hash is not None and self._seen.add(record.hash)
                    written = recipe.everything or is_new
                    counts.add(record, written)
                    parts += [record.text] if written else []
                    if self._is_filled():
                        break
                yield "".join(parts)
                if self._is_filled():
                    return
                if self.number is not None and counts.record - counts.last >= patience:
                    raise Exhausted(_advice(counts, recipe.filters.checks))

    def _blocks(self) -> Generator[list[Record]]:
        """Yield drawn blocks, the first of them from this process: it is there soon."""
        counts, stop = self.counts, self.records.stop
        draw = partial(block_records, self.model, self.recipe)
        together = together_on(self.model.device)
        there = blocks(counts.record, together)
        todo: Iterator[range] = takewhile(lambda block: block.start < stop, there)
        if together > 1:
            low = counts.record
            todo = (range(max(low, block.start), min(stop, block.stop)) for block in todo)
        if counts.record == 0:
            yield draw(next(todo))
        left: float = self._total - self._done()
        if self.number is not None:
            left *= max(counts.sampled, 1) / max(counts.written, 1)
        processes = sampling_processes(self.model, left, self.workers)
        with ordered_map(draw, todo, workers=processes) as drawn:
            yield from drawn

    def _resume(self, file: PartialFile, out: Path, force: bool) -> None:
        """Take up the counts of the unfinished file, and the hashes of its molecules."""
        recipe, number, damaged = self.recipe, self.number, file.damaged
        self._restart()
        try:
            if file.entry:
                self.counts = SampleCounts(**file.entry)
        except TypeError:  # the journal is not one of this program
            file.restart()
            damaged = True
        if file.others() and not force:
            raise UserError(
                f"a command with other options, or by other versions or on another kind of "
                f"processor, left an unfinished {out}: go on as it began, or delete what it left "
                "with --force"
            )
        if damaged:
            say(f"note: what an interrupted command left of {out} is damaged; starting afresh")
        elif number is not None and self.counts.written > number:
            if not force:
                raise UserError(
                    f"what an interrupted command left of {out} has {self.counts.written:,} "
                    f"molecules, more than -n {number}: ask for more, or start afresh with --force"
                )
            file.restart()
            self._restart()
        elif file.entry:
            say(f"note: going on with {out}: {self._progress()} are there")
            if not recipe.everything:
                with open(file.path, encoding="utf-8", newline="") as lines:
                    for _, smiles in entries(lines, recipe.kind, recipe.columns):
                        self._seen.add(protonation_hash(smiles))


def _advice(counts: SampleCounts, filters: Collection[str]) -> str:
    if filters and counts.valid:
        return (
            f"of {counts.valid:,} valid molecules {passing_text(filters, counts.outcomes)}, "
            f"{counts.written:,} of them distinct, and no further one comes up: ask for -n "
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
