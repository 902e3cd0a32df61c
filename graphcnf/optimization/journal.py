"""Every answer of a score on disk, one line each: nothing that was paid for is asked for again.

A line is written in one piece by the process that has the answer, before anybody else hears of it.
A process that dies later takes nothing with it; one that dies while it writes leaves a line without
an end, which does not count.
"""

from __future__ import annotations

import errno
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graphcnf.compute.files import NO_LINK, open_kept
from graphcnf.errors import UserError

try:
    import fcntl
except ImportError:  # Windows: who writes there ends with who asks
    fcntl = None  # type: ignore[assignment]  # a module elsewhere


NO_ANSWER = (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)
"""Exceptions that a damaged line brings about."""


@dataclass(frozen=True)
class Answer:
    """What a score said of a molecule.

    Attributes:
        smiles: The molecule.
        score: NaN where there is an error.
        values: Of each objective.
        error: Why there is no score, one line, or None.
    """

    smiles: str
    score: float
    values: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None

    @classmethod
    def failed(cls, smiles: str, error: str) -> Answer:
        """An answer without a score."""
        return cls(smiles, float("nan"), {}, " ".join(error.split())[:300])

    def line(self) -> str:
        """One line of JSON."""
        record: dict[str, Any] = {"smiles": self.smiles}
        if self.error is None:
            record |= {"score": self.score, "values": dict(self.values)}
        else:
            record["error"] = self.error
        return json.dumps(record) + "\n"

    @classmethod
    def of_line(cls, line: str) -> Answer:
        """Return the answer of a line; raises one of `NO_ANSWER` where it is none."""
        record = json.loads(line)
        if "error" in record:
            return cls.failed(str(record["smiles"]), str(record["error"]))
        values = {str(k): float(v) for k, v in record["values"].items()}
        score = float(record["score"])
        if not all(map(math.isfinite, (score, *values.values()))):
            raise ValueError("a score must be finite")
        return cls(str(record["smiles"]), score, values)


def append(path: Path, answer: Answer) -> None:
    """Add an answer; several processes may do so at once. OSError names the file."""
    handle, data = os.open(path, os.O_WRONLY | os.O_APPEND | NO_LINK), answer.line().encode()
    try:
        if os.write(handle, data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        os.close(handle)


def read(path: Path, goal: str) -> dict[str, Answer]:
    """All answers by molecule; the file is made where it is missing.

    Args:
        path: The journal.
        goal: Fingerprint of what is asked for; it stands in the first line.

    Raises:
        UserError: The journal is of another goal, or damaged.
    """
    with open_kept(path) as file:
        data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            file.truncate(len(whole))
        if not whole:
            file.seek(0)
            file.write((json.dumps({"goal": goal}) + "\n").encode())
            return {}
    first, *lines = whole.decode(errors="replace").splitlines()
    try:
        there = json.loads(first)["goal"]
    except NO_ANSWER:
        raise UserError(f"{path}, line 1: not the journal of an optimisation") from None
    if there != goal:
        raise UserError(f"{path} holds the answers of another score: choose another folder")
    answers: dict[str, Answer] = {}
    for number, line in enumerate(lines, 2):
        try:
            answer = Answer.of_line(line)
        except NO_ANSWER:
            raise UserError(
                f"{path}, line {number}: not an answer; delete the line, and its molecule is asked "
                "for again"
            ) from None
        answers.setdefault(answer.smiles, answer)
    return answers


def hold(path: Path) -> None:
    """Say until this process ends that it may still write to the journal."""
    if fcntl is not None:
        # Never closed: the lock is let go of at the end of the process.
        handle = os.open(path, os.O_RDWR | os.O_CREAT | NO_LINK, 0o666)
        fcntl.flock(handle, fcntl.LOCK_SH)


def wait_for_writers(path: Path, patience: float, tell: Callable[[str], None]) -> None:
    """Wait for processes of a run that was killed, which finish the calls that they are at.

    Args:
        path: What they `hold`.
        patience: Seconds after which to go on anyway.
        tell: Gets a line if there is something to wait for.
    """
    if fcntl is None or not path.exists():
        return
    told, until = False, time.monotonic() + patience
    with open_kept(path) as file:
        while time.monotonic() < until:
            with suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            if not told:
                tell("waiting for the calls that an interrupted run left behind")
                told = True
            time.sleep(0.1)
