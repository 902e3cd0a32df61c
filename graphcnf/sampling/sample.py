"""A sample written to a stream, or to a file from where an interrupted process left it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from graphcnf.compute.environment import environment
from graphcnf.compute.parallel import WorkerDied
from graphcnf.compute.progress import progress_bar
from graphcnf.compute.signals import termination_raises
from graphcnf.errors import UserError, say
from graphcnf.molecules.hashing import HashSet
from graphcnf.molecules.standardize import protonation_hash
from graphcnf.sampling.formats import entries, header
from graphcnf.sampling.partial_file import PartialFile, fingerprint, partial_file
from graphcnf.sampling.records import Recipe
from graphcnf.sampling.shards import Shard, model_digest
from graphcnf.sampling.stream import Exhausted, Quota, SampleCounts, texts

if TYPE_CHECKING:
    from graphcnf.compute.cluster import Cluster
    from graphcnf.graphs import GraphCNF

AGAIN = "the same command goes on from there"


def sample_to_stream(
    model: GraphCNF,
    recipe: Recipe,
    quota: Quota,
    stream: TextIO,
    *,
    workers: int | Cluster | None = None,
) -> SampleCounts:
    """Draw a sample into a text stream, and return its counts.

    Args:
        model: Model to draw from.
        recipe: Determines the records and their text.
        quota: Records to draw.
        stream: The stream, flushed after each piece.
        workers: Processes, or a cluster; None for as many as pay.

    Raises:
        Exhausted: There are too few molecules.
    """

    def write(text: str) -> None:
        stream.write(text)
        stream.flush()

    stream.write(header(recipe.kind, recipe.columns))
    counts = SampleCounts.at(quota.records.start)
    drawn = texts(model, recipe, quota, counts, HashSet(), workers)
    # A bar and molecules on one terminal would run into each other.
    _write(drawn, quota, counts, write, hidden=stream.isatty())
    return counts


def sample_to_file(
    model: GraphCNF,
    recipe: Recipe,
    quota: Quota,
    out: Path,
    *,
    convert: Callable[[Path, Path], None] | None = None,
    shard: Shard | None = None,
    force: bool = False,
    workers: int | Cluster | None = None,
) -> SampleCounts:
    """Draw a sample into a file, from where an interrupted process left it.

    Args:
        model: Model to draw from.
        recipe: Determines the records and their text.
        quota: Records to draw.
        out: The file; it is replaced when the sample is complete.
        convert: Makes the file of the text, see `PartialFile.finish`.
        shard: Description to write beside the file; None for none.
        force: True to drop what other options left unfinished.
        workers: Processes, or a cluster; None for as many as pay.

    Returns:
        The counts of the whole sample.

    Raises:
        UserError: The file cannot be written, a process died, or there are too few molecules.
    """
    with termination_raises(), partial_file(out, _name(model, recipe, quota)) as file:
        counts, seen = _resume(file, recipe, quota, out, force)

        def write(text: str) -> None:
            beginning = header(recipe.kind, recipe.columns) if file.entry is None else ""
            file.commit(beginning + text, asdict(counts))

        try:
            if not quota.is_filled(counts):
                _write(texts(model, recipe, quota, counts, seen, workers), quota, counts, write)
            file.finish(convert, None if shard is None else partial(shard.describe, out, counts))
        except Exhausted as error:
            if not counts.written:
                file.restart()
                raise
            raise Exhausted(f"{error} (what was found is kept; --force drops it)") from None
        except WorkerDied as error:
            raise UserError(f"{error}; {AGAIN}") from None
        except (KeyboardInterrupt, SystemExit):
            if file.entry:
                done = quota.progress(SampleCounts(**file.entry))
                say(f"interrupted after {done} of {out}; {AGAIN}")
            raise
    return counts


def _write(
    drawn: Iterator[str],
    quota: Quota,
    counts: SampleCounts,
    write: Callable[[str], None],
    *,
    hidden: bool = False,
) -> None:
    began = time.perf_counter() - counts.seconds
    with closing(drawn), progress_bar("generating", quota.total, hidden=hidden) as show:
        for text in drawn:
            counts.seconds = time.perf_counter() - began
            write(text)
            show(quota.done(counts))


def _name(model: GraphCNF, recipe: Recipe, quota: Quota) -> str:
    """Return the fingerprint of all that determines the molecules, apart from their number."""
    # A larger number begins with the same molecules, but another part of the records does not.
    last = quota.records.stop if quota.number is None else None
    return fingerprint(
        {
            "model": model_digest(model),
            "recipe": asdict(recipe),
            "records": [quota.records.start, last],
            **environment(str(model.device)),
        }
    )


def _resume(
    file: PartialFile, recipe: Recipe, quota: Quota, out: Path, force: bool
) -> tuple[SampleCounts, HashSet]:
    """Return the counts of the unfinished file, and the hashes of its molecules."""
    counts, seen, damaged = SampleCounts.at(quota.records.start), HashSet(), file.damaged
    try:
        if file.entry:
            counts = SampleCounts(**file.entry)
    except TypeError:  # the journal is not one of this program
        file.restart()
        damaged = True
    if file.others() and not force:
        raise UserError(
            f"a command with other options, or by other versions or on another kind of processor, "
            f"left an unfinished {out}: go on as it began, or delete what it left with --force"
        )
    if damaged:
        say(f"note: what an interrupted command left of {out} is damaged; starting afresh")
    elif quota.number is not None and counts.written > quota.number:
        if not force:
            raise UserError(
                f"what an interrupted command left of {out} has {counts.written:,} molecules, "
                f"more than -n {quota.number}: ask for more, or start afresh with --force"
            )
        file.restart()
        return SampleCounts.at(quota.records.start), seen
    elif file.entry:
        say(f"note: going on with {out}: {quota.progress(counts)} are there")
        if not recipe.everything:
            with open(file.path, encoding="utf-8", newline="") as lines:
                for entry in entries(lines, recipe.kind, recipe.columns):
                    seen.add(protonation_hash(entry.smiles))
    return counts, seen
