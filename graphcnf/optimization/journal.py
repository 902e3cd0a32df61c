"""Answers of a score in an SQLite file, so that no call that was paid for is made again.

The process that computes an answer stores it before any other process hears of it. A kill at any
moment, also while an answer is being stored, leaves a file with all answers before it.
"""

from __future__ import annotations

import json
import math
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from graphcnf.compute.files import check_output, inside
from graphcnf.errors import UserError, printable

NAME, LOCK = "calls.sqlite", "calls.lock"
"""Database of the answers, and an empty one that the processes which add to it keep locked."""

SCHEMA = [
    'CREATE TABLE answers (smiles TEXT PRIMARY KEY, score REAL, "values" TEXT, error TEXT)',
    "CREATE TABLE goal (identity TEXT)",
]
"""Statements that make the tables; a file with other tables, views or triggers is refused."""

INVALID = (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)
"""Exceptions that stored values of a wrong type raise where they are used."""

LONGEST_ERROR = 300
"""Characters of an exception's message that are stored."""

BUSY = 60.0
"""Seconds to wait while another process stores an answer."""


@dataclass(frozen=True)
class Answer:
    """Score of a molecule, or the reason why there is none.

    Attributes:
        smiles: The molecule.
        score: NaN where there is an error.
        values: Value of each objective, by name.
        error: One line, or None.
    """

    smiles: str
    score: float
    values: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None

    @classmethod
    def failed(cls, smiles: str, error: str) -> Answer:
        """Return an answer without a score."""
        return cls(smiles, math.nan, {}, printable(" ".join(error.split()))[:LONGEST_ERROR])


class Journal:
    """Answers to one goal; several processes may add to the file at once.

    Args:
        folder: Folder of the file.
        goal: Fingerprint of the goal.

    Raises:
        UserError: The file holds answers to another goal, is damaged, or cannot be written.
    """

    def __init__(self, folder: Path, goal: str):
        self.path = inside(folder, NAME)
        # SQLite follows links, also those of the files that it keeps beside a database.
        for name in (NAME, LOCK):
            for suffix in ("", "-wal", "-shm", "-journal"):
                check_output(inside(folder, name + suffix))
        with self._reporting():
            self._database = sqlite3.connect(self.path, timeout=BUSY, isolation_level=None)
            self._lock = sqlite3.connect(folder / LOCK, timeout=0, isolation_level=None)
            # No `fsync` per answer, and a loss of power costs the last ones only.
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            with self._database:
                self._database.execute("BEGIN IMMEDIATE")
                tables = self._rows("SELECT sql FROM sqlite_master WHERE sql NOT NULL ORDER BY 1")
                if not tables:
                    for statement in SCHEMA:
                        self._database.execute(statement)
                    self._database.execute("INSERT INTO goal VALUES (?)", (goal,))
                elif [sql for (sql,) in tables] != SCHEMA:
                    raise sqlite3.DatabaseError("other tables than those of an optimisation")
            if self._rows("SELECT identity FROM goal") != [(goal,)]:
                raise UserError(
                    f"{self.path} holds the answers of another score: choose another folder"
                )

    def read(self) -> dict[str, Answer]:
        """Return all answers by molecule, in the order in which they were added."""
        with self._reporting():
            answers = [_answer(*row) for row in self._rows("SELECT * FROM answers ORDER BY rowid")]
            return {answer.smiles: answer for answer in answers}

    def add(self, answer: Answer) -> Answer:
        """Store an answer unless the molecule has one, and return the stored answer."""
        known = answer.error is None
        row = (
            answer.smiles,
            answer.score if known else None,
            json.dumps(dict(answer.values)) if known else None,
            answer.error,
        )
        with self._reporting():
            self._database.execute("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?)", row)
            (stored,) = self._rows("SELECT * FROM answers WHERE smiles = ?", (answer.smiles,))
            return _answer(*stored)

    def wait_for_writers(self, patience: float, note: Callable[[str], None]) -> None:
        """Wait for the processes of a killed run, which store the answers of their last calls.

        Args:
            patience: Seconds after which not to wait any longer.
            note: Called with a line if there is something to wait for.
        """
        until, noted = time.monotonic() + patience, False
        with self._reporting():
            while not self._alone() and time.monotonic() < until:
                if not noted:
                    note("waiting for the calls that an interrupted run left behind")
                noted = True
                time.sleep(0.1)

    def hold(self) -> None:
        """Let `wait_for_writers` wait until this process ends."""
        with self._reporting():
            self._lock.execute("BEGIN")
            self._lock.execute("SELECT * FROM sqlite_master").fetchall()

    def close(self) -> None:
        """Close the files."""
        self._database.close()
        self._lock.close()

    def _alone(self) -> bool:
        try:
            self._lock.execute("BEGIN EXCLUSIVE")
            self._lock.execute("ROLLBACK")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            return False
        return True

    def _rows(self, query: str, values: tuple = ()) -> list[tuple]:
        return self._database.execute(query, values).fetchall()

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        """Context that turns the errors of SQLite into lines that name the file."""
        try:
            yield
        except sqlite3.OperationalError as error:  # as where the disk is full
            raise UserError(f"{self.path}: {error}") from None
        except (sqlite3.DatabaseError, *INVALID) as error:
            raise UserError(
                f"{self.path} is damaged ({error}): delete it, and all calls are made again"
            ) from None


def _answer(smiles: str, score: float | None, values: str | None, error: str | None) -> Answer:
    """Return the answer in a row; raise one of `INVALID` where there is none."""
    if not (isinstance(smiles, str) and isinstance(error, str | None)):
        raise TypeError(f"{smiles!r:.40} is not text")
    if error is not None:
        return Answer.failed(smiles, error)
    numbers = {name: float(value) for name, value in json.loads(values or "").items()}
    if score is None or not all(map(math.isfinite, (float(score), *numbers.values()))):
        raise ValueError(f"{smiles!r:.40} has no finite score")
    return Answer(smiles, float(score), numbers)
