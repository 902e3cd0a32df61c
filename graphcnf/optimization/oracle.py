"""Calls of a score in child processes, and the journal of their answers.

An exception, a value that is no number, a hang and a crash are answers like any other: they are
stored, and the next molecule has its turn. The process that computes an answer stores it before any
other process hears of it; a kill at any moment leaves a file with all answers before it.
"""

from __future__ import annotations

import json
import math
import pickle
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cloudpickle
from rdkit import Chem

from graphcnf.compute.files import check_output, claim, file_lock, inside
from graphcnf.compute.parallel import (
    Worker,
    WorkerDied,
    Workers,
    available_cores,
    framed,
    result_of,
)
from graphcnf.errors import UserError, printable
from graphcnf.limits import is_number
from graphcnf.molecules.codec import quiet
from graphcnf.optimization.objectives import Goal, NotANumber

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

RUN_LOCK = "run.lock"
"""File that is locked while an `Oracle` uses the folder."""

BUSY, START = 60.0, 120.0
"""Seconds to wait for another process that stores an answer, and for a process to start."""


@dataclass(frozen=True)
class Answer:
    """Score of a molecule with the value of each objective, or NaN and an error of one line."""

    smiles: str
    score: float
    values: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None

    @classmethod
    def failed(cls, smiles: str, error: str | BaseException) -> Answer:
        """Return an answer without a score."""
        if isinstance(error, BaseException) and not isinstance(error, NotANumber):
            error = ": ".join(filter(None, [type(error).__name__, str(error)]))
        line = printable(" ".join(str(error).split()))[:LONGEST_ERROR]
        return cls(smiles, math.nan, {}, line)

    @classmethod
    def of_row(cls, smiles: str, score: float, values: str, error: str | None) -> Answer:
        """Return the answer in a row; raise one of `INVALID` where there is none."""
        if not (isinstance(smiles, str) and isinstance(error, str | None)):
            raise TypeError(f"{smiles!r:.40} is not text")
        if error is not None:
            return cls.failed(smiles, error)
        numbers = {name: float(value) for name, value in json.loads(values).items()}
        if not all(map(math.isfinite, (score, *numbers.values()))):
            raise ValueError(f"{smiles!r:.40} has no finite score")
        return cls(smiles, float(score), numbers)


class Journal:
    """Answers to one goal in an SQLite file, which several processes may add to at once.

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
            rows = self._rows("SELECT * FROM answers ORDER BY rowid")
            return {answer.smiles: answer for answer in (Answer.of_row(*row) for row in rows)}

    def add(self, answer: Answer) -> Answer:
        """Store an answer unless the molecule has one, and return the stored answer."""
        row: tuple = (answer.smiles, None, None, answer.error)
        if answer.error is None:
            row = (answer.smiles, answer.score, json.dumps(dict(answer.values)), None)
        with self._reporting():
            self._rows("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?)", row)
            return Answer.of_row(*self._rows("SELECT * FROM answers WHERE smiles = ?", row[:1])[0])

    def wait_for_writers(self, patience: float, note: Callable[[str], None]) -> None:
        """Wait some seconds for processes of a killed run, which store their last answers."""
        until, noted = time.monotonic() + patience, False
        with self._reporting():
            while time.monotonic() < until:
                try:
                    self._lock.execute("BEGIN EXCLUSIVE")
                    self._lock.execute("ROLLBACK")
                    return
                except sqlite3.OperationalError as error:
                    if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                        raise
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


class Oracle:
    """Scores of molecules, each computed once; a context manager.

    Args:
        goal: Objectives of the score.
        folder: Folder of the journal, which becomes that of an optimisation; the answers of an
            existing one count. None for a temporary one.
        workers: Child processes; None for one per core, 0 to compute in this process, without a
            time limit; or a cluster, each worker of which has a child process of its own (answers
            of calls that are under way when this process dies are lost, then).
        timeout: Seconds for one molecule, after which its call has failed.
        stop_on_error: True to end a run, which may go on later, with the first call that fails.
        note: Called with a line for each call that fails, and other news.

    Attributes:
        folder: The folder.
        answers: All answers, by molecule.
        calls: Calls that this object has made.

    Raises:
        UserError: The folder holds something else, or another process is using it.
    """

    def __init__(
        self,
        goal: Goal,
        folder: str | Path | None = None,
        *,
        workers: Workers = None,
        timeout: float = 600.0,
        stop_on_error: bool = False,
        note: Callable[[str], None] = lambda line: None,
    ):
        if not (is_number(timeout) and 0 < timeout < math.inf):
            raise UserError(f"timeout must be a number of seconds greater than 0, got {timeout!r}")
        self.goal, self.timeout = goal, timeout
        self.stop_on_error, self.note, self.calls = stop_on_error, note, 0
        self.workers = available_cores() if workers is None else workers
        with ExitStack() as stack:
            folder = folder or stack.enter_context(TemporaryDirectory(prefix="graphcnf-"))
            self.folder = Path(folder)
            claim(self.folder, "optimization")
            stack.enter_context(file_lock(inside(self.folder, RUN_LOCK), self.folder))
            self._journal = Journal(self.folder, goal.identity)
            stack.callback(self._journal.close)
            self._journal.wait_for_writers(timeout + START, note)
            self.answers = self._journal.read()
            self._opened = stack.pop_all()
        self._threads = ThreadPoolExecutor(isinstance(self.workers, int) and self.workers or 1)
        self._own = threading.local()
        self._processes: list[ScoreProcess] = []

    def __enter__(self) -> Oracle:
        return self

    def __exit__(self, *exception) -> None:
        # Also after an error: calls that are under way are paid for, and their answers stored.
        self._threads.shutdown(cancel_futures=True)
        for process in self._processes:
            process.close()
        self._opened.close()

    def __call__(self, molecules: Iterable[str]) -> list[Answer]:
        """Return the answers for some molecules, in their order."""
        molecules = list(molecules)
        new = [s for s in dict.fromkeys(molecules) if s not in self.answers]
        self.calls += len(new)
        for answer in self._computed(new):
            self.answers[answer.smiles] = self._journal.add(answer)
        return [self.answers[smiles] for smiles in molecules]

    def _computed(self, molecules: list[str]) -> Iterator[Answer]:
        """Yield the answers as they come."""
        if not isinstance(self.workers, int):
            score = partial(_score_on_worker, self._function, self.timeout)
            with self.workers.ordered_map(score, molecules) as answers:
                yield from answers
        elif self.workers:
            for task in as_completed([self._threads.submit(self._score, s) for s in molecules]):
                yield task.result()
        else:
            yield from (_answer_of(self.goal, smiles) for smiles in molecules)

    @cached_property
    def _function(self) -> bytes:
        """Function of a child process; functions of the calling script are sent by value."""
        goal = cloudpickle.dumps(self.goal)
        folder = self.folder if isinstance(self.workers, int) else None
        return framed(partial(_score_in_child, goal, folder, self.goal.identity))

    def _score(self, smiles: str) -> Answer:
        """Return the answer of the process that belongs to this thread."""
        if not hasattr(self._own, "process"):
            self._own.process = ScoreProcess(self._function, self.timeout)
            self._processes.append(self._own.process)
        return self._own.process(smiles)


def _answer_of(goal: Goal, smiles: str) -> Answer:
    """Return the score of a molecule, or the reason why its computation failed.

    Ctrl-C is raised, even where the goal's code caught it.
    """
    interrupted = False

    def note_interrupt(number, frame):
        nonlocal interrupted
        interrupted = True
        before(number, frame)

    # Only the handler tells Ctrl-C from a KeyboardInterrupt that the goal raises by itself.
    before = signal.getsignal(signal.SIGINT)
    listening = callable(before) and threading.current_thread() is threading.main_thread()
    if listening:
        signal.signal(signal.SIGINT, note_interrupt)
    try:
        with quiet():
            mol = Chem.MolFromSmiles(smiles)
        answer = Answer(smiles, *goal(mol, smiles))
    except BaseException as error:
        answer = Answer.failed(smiles, error)
    finally:
        if listening:
            signal.signal(signal.SIGINT, before)
    if interrupted:
        raise KeyboardInterrupt
    return answer


@lru_cache(maxsize=1)
def _opened(
    pickled: bytes, folder: Path | None, identity: str
) -> tuple[Goal | BaseException, Journal | None]:
    """Load the goal and open the journal in a child process; return both.

    An error of loading is returned in place of the goal. Without a folder the journal is None.
    """
    # Ctrl-C is for the parent; a call that is under way ends by itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    journal = Journal(folder, identity) if folder else None
    if journal:
        journal.hold()
    try:
        goal = pickle.loads(pickled)
        goal.objectives  # noqa: B018  (imports what the scores need)
        return goal, journal
    except BaseException as error:
        return error, journal


def _score_in_child(
    pickled: bytes, folder: Path | None, identity: str, smiles: str | None
) -> Answer | None:
    """Score a molecule in a child process and store the answer; for None, only load the goal."""
    goal, journal = _opened(pickled, folder, identity)
    if smiles is None:
        return None
    if isinstance(goal, BaseException):
        answer = Answer.failed(smiles, goal)
    else:
        answer = _answer_of(goal, smiles)
    return journal.add(answer) if journal else answer


class ScoreProcess:
    """A child process with a `framed` function, started again after a time-out or a crash.

    It ends after its current call where this process dies.
    """

    def __init__(self, function: bytes, timeout: float):
        self._function, self.timeout = function, timeout
        self._worker: Worker | None = None

    def __call__(self, smiles: str) -> Answer:
        """Return the answer for a molecule."""
        if self._worker is not None and self._worker.process.poll() is not None:
            self.close()  # it was killed between two calls
        try:
            if self._worker is None:
                self._worker = Worker(self._function)
                self._apply(self._worker, None, START)
            return self._apply(self._worker, smiles, self.timeout)
        except TimeoutError as error:
            return Answer.failed(smiles, str(error))
        except WorkerDied:
            self.close()
            return Answer.failed(smiles, "the process that computed it died")
        except OSError as error:
            raise UserError(f"cannot start a worker process: {error.strerror or error}") from None

    def _apply(self, worker: Worker, smiles: str | None, limit: float) -> Any:
        until = time.monotonic() + limit
        timer = threading.Timer(min(limit, threading.TIMEOUT_MAX), worker.kill)
        timer.start()
        try:
            return result_of(worker.apply(smiles))
        except WorkerDied:
            if time.monotonic() < until:
                raise
            raise TimeoutError(f"no answer within {limit:g} s") from None
        finally:
            timer.cancel()
            timer.join()
            if time.monotonic() >= until:
                self.close()

    def close(self) -> None:
        """End the process."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None


_process_of_worker = lru_cache(maxsize=1)(ScoreProcess)


def _score_on_worker(function: bytes, timeout: float, smiles: str) -> Answer:
    """Return the answer of the child process of a cluster's worker."""
    return _process_of_worker(function, timeout)(smiles)
