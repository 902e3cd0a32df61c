"""A sample drawn onto stdout or into a file, from where an interrupted command left it."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphcnf.compute.environment import environment
from graphcnf.errors import UserError, say

if TYPE_CHECKING:
    from graphcnf.graphs import GraphCNF
    from graphcnf.molecules.hashing import HashSet
    from graphcnf.scripts.generation.partial import PartialFile
    from graphcnf.scripts.generation.records import Recipe
    from graphcnf.scripts.generation.shards import Shard
    from graphcnf.scripts.generation.stream import Goal, Progress

AGAIN = "the same command goes on from there"


def to_stdout(
    network: GraphCNF, recipe: Recipe, goal: Goal, how: dict[str, Any]
) -> tuple[Progress, int]:
    """Draw onto stdout.

    Args:
        network: Model to draw from.
        recipe: What to draw and to write.
        goal: How much of it.
        how: Further arguments of `stream.texts`.

    Returns:
        How far it came, and the number of distinct molecules.

    Raises:
        Exhausted: There are too few of them.
    """
    from graphcnf.molecules.hashing import HashSet
    from graphcnf.scripts._output import open_output
    from graphcnf.scripts.generation.records import header
    from graphcnf.scripts.generation.stream import Progress

    progress, seen = Progress.at(goal.records.start), HashSet()
    with open_output(None) as stream:

        def write(text: str) -> None:
            stream.write(text)
            stream.flush()

        stream.write(header(recipe))
        # A bar and molecules on one terminal would run into each other.
        bar = not sys.stdout.isatty()
        _draw(network, recipe, goal, how, progress, seen, write, bar=bar)
    return progress, len(seen)


def to_file(
    network: GraphCNF,
    recipe: Recipe,
    goal: Goal,
    how: dict[str, Any],
    out: Path,
    convert: Callable[[Path, Path], None] | None,
    force: bool,
    shard: Shard | None = None,
) -> tuple[Progress, int]:
    """Draw into a file, from where an interrupted command left it.

    Args:
        network: Model to draw from.
        recipe: What to draw and to write.
        goal: How much of it.
        how: Further arguments of `stream.texts`.
        out: The file.
        convert: Makes the file of the text, see `PartialFile.finish`.
        force: Whether what other options left unfinished may go.
        shard: What to say of the file beside it; None for nothing.

    Returns:
        As `to_stdout`.

    Raises:
        UserError: The file cannot be written, a process died, or there are too few molecules.
    """
    from graphcnf.compute.parallel import WorkerDied
    from graphcnf.scripts.generation.partial import partial_file
    from graphcnf.scripts.generation.records import header
    from graphcnf.scripts.generation.stream import Exhausted, Progress

    with _orderly_end(), partial_file(out, _name(network, recipe, goal)) as file:
        progress, seen = _resume(file, recipe, goal, out, force)

        def write(text: str) -> None:
            beginning = header(recipe) if file.entry is None else ""
            file.commit(beginning + text, asdict(progress))

        try:
            if not goal.reached(progress):
                _draw(network, recipe, goal, how, progress, seen, write, bar=True)
            beside = None if shard is None else partial(shard.describe, out, progress)
            file.finish(convert, beside)
        except Exhausted as error:
            if not progress.written:
                file.restart()
                raise
            raise Exhausted(f"{error} (what was found is kept; --force drops it)") from None
        except WorkerDied as error:
            raise UserError(f"{error}; {AGAIN}") from None
        except (KeyboardInterrupt, SystemExit):
            if file.entry:
                done = goal.done(Progress(**file.entry))
                say(f"interrupted after {done:,} of {goal.total:,} {goal.unit} of {out}; {AGAIN}")
            raise
    return progress, len(seen)


def _draw(
    network: GraphCNF,
    recipe: Recipe,
    goal: Goal,
    how: dict[str, Any],
    progress: Progress,
    seen: HashSet,
    write: Callable[[str], None],
    *,
    bar: bool,
) -> None:
    from graphcnf.compute.progress import progress_bar
    from graphcnf.scripts.generation.stream import texts

    began = time.perf_counter() - progress.seconds
    stream = texts(network, recipe, goal, progress, seen, **how)
    with closing(stream), progress_bar("generating", goal.total, hidden=not bar) as show:
        for text in stream:
            progress.seconds = time.perf_counter() - began
            write(text)
            show(goal.done(progress))


def _name(network: GraphCNF, recipe: Recipe, goal: Goal) -> str:
    """Fingerprint of everything that determines the molecules, apart from their number."""
    from graphcnf.scripts.generation.partial import fingerprint
    from graphcnf.scripts.generation.shards import model_digest

    # A larger number begins with the same molecules, but another part of the records does not.
    last = goal.records.stop if goal.number is None else None
    return fingerprint(
        {
            "model": model_digest(network),
            "recipe": asdict(recipe),
            "records": [goal.records.start, last],
            **environment(str(network.device)),
        }
    )


def _resume(
    file: PartialFile, recipe: Recipe, goal: Goal, out: Path, force: bool
) -> tuple[Progress, HashSet]:
    """Where the file stands, and the molecules that it has."""
    from graphcnf.molecules.hashing import HashSet
    from graphcnf.molecules.standardize import protonation_hash
    from graphcnf.scripts.generation.records import entries
    from graphcnf.scripts.generation.stream import Progress

    progress, seen, damaged = Progress.at(goal.records.start), HashSet(), file.damaged
    try:
        if file.entry:
            progress = Progress(**file.entry)
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
    elif goal.number is not None and progress.written > goal.number:
        if not force:
            raise UserError(
                f"what an interrupted command left of {out} has {progress.written:,} molecules, "
                f"more than -n {goal.number}: ask for more, or start afresh with --force"
            )
        file.restart()
        return Progress.at(goal.records.start), seen
    elif file.entry:
        say(
            f"note: going on with {out}: {goal.done(progress):,} of {goal.total:,} {goal.unit} are "
            "there"
        )
        if not recipe.everything:
            with open(file.path, encoding="utf-8", newline="") as lines:
                for entry in entries(lines, recipe):
                    seen.add(protonation_hash(entry.smiles))
    return progress, seen


@contextmanager
def _orderly_end() -> Iterator[None]:
    """SIGTERM raises SystemExit, as Ctrl-C raises KeyboardInterrupt."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(signal_number: int, frame) -> None:
        raise SystemExit(128 + signal_number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
