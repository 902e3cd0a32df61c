"""One bad input, and the verdict on what a command made of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from badinput.stage import Stage

REFUSED = "refused"
"""One clear line, exit code 1 or 2, nothing written: the only verdict that is good."""

RAW = re.compile(r"GRAPHCNF_DEBUG|\b[A-Z]\w*(?:Error|Exception|Warning)\b")
"""What a message for a programmer holds."""

STEERS = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u202a-\\u202e]")
"""What a terminal would obey."""

LONGEST = 1000


@dataclass(frozen=True)
class Case:
    """A command line that must be refused.

    Attributes:
        name: Identifies it.
        program: "graphcnf", or "benchmarks" for the module of that name.
        arguments: Of the command; {model}, {images} ... stand for places of the stage.
        names: What the message must hold, such as the file, the key and the value.
        prepare: Writes the files that the command is given into the working folder.
        stdin: Content of standard input; None where it is closed.
        environment: Variables to set.
        stdout: Standard output: None for one that is read, "closed" or "full".
        readable: Whether the damage may have left something readable: then a success is good, too.
        starts: Whether work may have begun, so that a folder of a run is left.
        either: Texts one of which the message must hold, or else it is about something else.
    """

    name: str
    program: str
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
    """How a command ended.

    Attributes:
        code: Exit code; None where it did not end in time.
        stdout: What it wrote.
        stderr: What it told.
        crash: Exception that came through, in words.
        changed: Files that are new, gone or other than before.
    """

    code: int | None
    stdout: str
    stderr: str
    crash: str = ""
    changed: Sequence[str] = ()


def verdict(case: Case, outcome: Outcome) -> str:
    """`REFUSED`, or what is wrong, as a word and the evidence."""
    lines = outcome.stderr.splitlines()
    if outcome.code is None:
        return "hung"
    if outcome.crash or "Traceback (most recent call last)" in outcome.stderr:
        return f"traceback: {outcome.crash or lines[-1]}"
    if steering := STEERS.search(outcome.stdout + outcome.stderr):
        return f"steers the terminal with {steering[0]!r}: {outcome.stderr!r:.300}"
    if outcome.code == 0:
        return REFUSED if case.readable else f"accepted: {outcome.stderr or outcome.stdout!r:.200}"
    last = lines[-1] if lines else ""
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
