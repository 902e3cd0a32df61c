"""A sample drawn in the order of its records, into a stream or a file that survives a kill."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import asdict
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from graphcnf.compute.environment import environment
from graphcnf.compute.parallel import WorkerDied, ordered_map
from graphcnf.compute.progress import progress_bar
from graphcnf.compute.signals import termination_raises
from graphcnf.errors import UserError, say
from graphcnf.graphs.record_blocks import blocks, together_on
from graphcnf.molecules.hashing import HashSet
from graphcnf.molecules.standardize import protonation_hash
from graphcnf.sampling.counts import Quota, SampleCounts
from graphcnf.sampling.draw import sampling_processes
from graphcnf.sampling.formats import entries, header
from graphcnf.sampling.partial_file import PartialFile, fingerprint, partial_file
from graphcnf.sampling.records import Recipe, Record, block_records
from graphcnf.sampling.shards import Shard, model_digest

if TYPE_CHECKING:
    from graphcnf.compute.cluster import Cluster
    from graphcnf.graphs import GraphCNF

AGAIN = "the same command goes on from there"

PATIENCE = 10_000
"""Records in a row without a further valid molecule after which the search is given up."""

PATIENCE_FACTOR = 10
"""Multiplies `PATIENCE` where molecules are selected."""


class Exhausted(UserError):
    """The search for further molecules was given up."""


class Sample:
    """A sample of a model of molecules.

    Args:
        model: Model to draw from.
        recipe: Determines the records and their text.
        quota: Records to draw.
        workers: Processes, or a cluster; None for as many as pay.

    Attributes:
        counts: Counts of the records so far.
        seen: Hashes of the molecules so far.
    """

    def __init__(
        self,
        model: GraphCNF,
        recipe: Recipe,
        quota: Quota,
        workers: int | Cluster | None = None,
    ):
        self.model, self.recipe, self.quota, self.workers = model, recipe, quota, workers
        self._restart()

    def _restart(self) -> None:
        self.counts, self.seen = SampleCounts.at(self.quota.records.start), HashSet()

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
        convert: Callable[[Path, Path], None] | None = None,
        shard: Shard | None = None,
        force: bool = False,
    ) -> None:
        """Draw the sample into a file, from where an interrupted process left it.

        Args:
            out: The file; it is replaced when the sample is complete.
            convert: Makes the file of the text, see `PartialFile.finish`.
            shard: Description to write beside the file; None for none.
            force: True to drop what other options left unfinished.

        Raises:
            UserError: The file cannot be written, a process died, or there are too few molecules.
        """
        with termination_raises(), partial_file(out, self._name()) as file:
            self._resume(file, out, force)
            try:
                if not self.quota.is_filled(self.counts):
                    self._write(lambda text: file.commit(text, asdict(self.counts)))
                describe = None if shard is None else partial(shard.describe, out, self.counts)
                file.finish(convert, describe)
            except Exhausted as error:
                if not self.counts.written:
                    file.restart()
                    raise
                raise Exhausted(f"{error} (what was found is kept; --force drops it)") from None
            except WorkerDied as error:
                raise UserError(f"{error}; {AGAIN}") from None
            except (KeyboardInterrupt, SystemExit):
                if file.entry:
                    done = self.quota.progress(SampleCounts(**file.entry))
                    say(f"interrupted after {done} of {out}; {AGAIN}")
                raise

    def _write(self, write: Callable[[str], None], *, hidden: bool = False) -> None:
        began = time.perf_counter() - self.counts.seconds
        bar = progress_bar("generating", self.quota.total, hidden=hidden)
        with closing(self.texts()) as drawn, bar as show:
            for text in drawn:
                self.counts.seconds = time.perf_counter() - began
                write(text)
                show(self.quota.done(self.counts))

    def texts(self) -> Generator[str]:
        """Yield the text piece after piece until the quota is filled; `counts` keep up with it.

        The first block comes from this process, for the first molecules to come soon.

        Raises:
            Exhausted: `PATIENCE` records in a row, or with a selection `PATIENCE_FACTOR` times as
                many, held none that counts.
            WorkerDied: A worker process was killed.
        """
        recipe, quota, counts = self.recipe, self.quota, self.counts
        patience = PATIENCE * (PATIENCE_FACTOR if recipe.selective else 1)
        beginning = "" if counts.sampled else header(recipe.kind, recipe.columns)
        with closing(self._blocks()) as drawn:
            for records in drawn:
                parts, beginning = [beginning], ""
                for record in records:
                    if record.number < counts.record:
                        continue
                    counts.add(record)
                    is_new = record.hash is not None and self.seen.add(record.hash)
                    if recipe.everything or is_new:
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

    def _blocks(self) -> Generator[list[Record]]:
        quota, counts = self.quota, self.counts
        draw = partial(block_records, self.model, self.recipe)
        together = together_on(self.model.device)
        there = blocks(counts.record, together)
        todo: Iterator[range] = takewhile(lambda block: block.start < quota.records.stop, there)
        if together > 1:
            low, high = counts.record, quota.records.stop
            todo = (range(max(low, block.start), min(high, block.stop)) for block in todo)
        if counts.record == 0:
            yield draw(next(todo))
        left: float = quota.total - quota.done(counts)
        if quota.number is not None:
            left *= max(counts.sampled, 1) / max(counts.written, 1)
        processes = sampling_processes(self.model, left, self.workers)
        with ordered_map(draw, todo, workers=processes) as drawn:
            yield from drawn

    def _name(self) -> str:
        """Return the fingerprint of all that determines the molecules, apart from their number."""
        # A larger number begins with the same molecules, but another part of the records does not.
        last = self.quota.records.stop if self.quota.number is None else None
        return fingerprint(
            {
                "model": model_digest(self.model),
                "recipe": asdict(self.recipe),
                "records": [self.quota.records.start, last],
                **environment(str(self.model.device)),
            }
        )

    def _resume(self, file: PartialFile, out: Path, force: bool) -> None:
        """Take up the counts of the unfinished file, and the hashes of its molecules."""
        recipe, quota, damaged = self.recipe, self.quota, file.damaged
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
        elif quota.number is not None and self.counts.written > quota.number:
            if not force:
                raise UserError(
                    f"what an interrupted command left of {out} has {self.counts.written:,} "
                    f"molecules, more than -n {quota.number}: ask for more, or start afresh with "
                    "--force"
                )
            file.restart()
            self._restart()
        elif file.entry:
            say(f"note: going on with {out}: {quota.progress(self.counts)} are there")
            if not recipe.everything:
                with open(file.path, encoding="utf-8", newline="") as lines:
                    for entry in entries(lines, recipe.kind, recipe.columns):
                        self.seen.add(protonation_hash(entry.smiles))


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
