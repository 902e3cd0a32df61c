"""One bad input, and the verdict on what a command made of it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from badinput.stage import Stage

REFUSED = "refused"
"""One clear line, exit code 1 or 2, nothing written: the only verdict that is good."""

RAW = re.compile(r"GRAPHCNF_DEBUG|\b[A-Z]\w*(?:Error|Exception|Warning)\b")
"""Words of a message for a programmer."""

STEERS = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u202a-\\u202e]")
"""Characters that a terminal would obey."""

LONGEST = 1000


@dataclass(frozen=True)
class Case:
    """A command line that must be refused.

    Attributes:
        name: Identifies it.
        arguments: Of `graphcnf`; {model}, {images} ... stand for places of the stage.
        names: Texts that the message must hold, such as the file, the key and the value.
        prepare: Writes the files that the command is given into the working folder.
        stdin: Content of standard input; None where it is closed.
        environment: Variables to set.
        stdout: Standard output: None for one that is read, "closed" or "full".
        readable: True where the damage may have left something readable, so that a success is good.
        starts: True where work may have begun, so that a folder of a run is left.
        either: Texts one of which the message must hold, or else it is about something else.
    """

    name: str
    arguments: Sequence[str]
    names: Sequence[str] = ()
    prepare: Callable[[Stage], None] | None = None
    stdin: bytes | None = b""
    environment: Sequence[tuple[str, str]] = ()
    stdout: str | None = None
    readable: bool = False
    starts: bool = False
    either: Sequence[str] = ()


@dataclass(frozen=True)
class Outcome:
    """Exit code (None where it did not end in time), output, exception and changed files."""

    code: int | None
    stdout: str
    stderr: str
    crash: str = ""
    changed: Sequence[str] = ()


def verdict(case: Case, outcome: Outcome) -> str:
    """Return `REFUSED`, or a word for the mistake and the evidence."""
    lines = outcome.stderr.splitlines()
    last = lines[-1] if lines else ""
    if outcome.code is None:
        return "hung"
    if outcome.crash or "Traceback (most recent call last)" in outcome.stderr:
        return f"traceback: {outcome.crash or last}"
    if steering := STEERS.search(outcome.stdout + outcome.stderr):
        return f"steers the terminal with {steering[0]!r}: {outcome.stderr!r:.300}"
    if outcome.code == 0:
        return REFUSED if case.readable else f"accepted: {outcome.stderr or outcome.stdout!r:.200}"
    if not last.startswith("error: ") and case.stdout is None:
        return f"no message: {outcome.stderr!r:.200}"
    if RAW.search(last):
        return f"raw: {last}"
    if outcome.code not in (1, 2) or len(last) > LONGEST:
        return f"unclear: exit code {outcome.code}, {len(last)} characters: {last:.200}"
    if sum(line.startswith("error: ") for line in lines) > 1:
        return f"several lines: {outcome.stderr:.300}"
    missing = [name for name in case.names if name not in last]
    if missing:
        return f"unnamed {', '.join(missing)}: {last}"
    if case.either and not any(text in last for text in case.either):
        return f"about something else than {' or '.join(case.either)}: {last}"
    if outcome.changed and not case.starts:
        return f"written: {', '.join(outcome.changed)}"
    return REFUSED


def written(name: str, content: str | bytes) -> Callable[[Stage], None]:
    """Return a function that writes a file, the names of places in its text filled in."""

    def prepare(stage: Stage) -> None:
        data = stage.fill(content).encode() if isinstance(content, str) else content
        path = stage.work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    return prepare


def copied(place: str, file: str, act: Callable[[Path], None]) -> Callable[[Stage], None]:
    """Return a function that copies a model or a run to x, and does something to one file of it."""

    def prepare(stage: Stage) -> None:
        shutil.copytree(getattr(stage, place), stage.work / "x")
        act(stage.work / "x" / file)

    return prepare


def changed(
    place: str, file: str, change: Callable[[bytes], bytes | None]
) -> Callable[[Stage], None]:
    """Return the same with other content of the file, None for no such file."""

    def act(path: Path) -> None:
        if path.exists():
            content = change(path.read_bytes())
            path.unlink()
            if content is not None:
                path.write_bytes(content)

    return copied(place, file, act)
