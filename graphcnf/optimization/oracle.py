"""Call the score of a search in child processes, and store every result in a file.

A score may take hours, hang or crash. So a search (`graphcnf.optimization.run`) calls it through an
`Oracle`, never directly.

- A *call* computes the score of one molecule by a goal (`graphcnf.optimization.objectives`).
- An *answer* is the result: the score, or the reason why there is none. A call *fails* if the score
  raises an error, returns no finite number, takes too long or crashes. A failed call has an answer,
  too, and the search goes on.
- The *journal* is the SQLite file of all answers in the folder of a run.
- The *oracle* calls the score for molecules that have no answer in the journal.

The process that computes an answer stores it before it returns it. So a kill at any moment loses no
answer.
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

from graphcnf.compute.parallel import (
    Worker,
    WorkerDied,
    Workers,
    available_cores,
    framed,
    result_of,
)
from graphcnf.errors import Unavailable, UserError
from graphcnf.file_reading import inside
from graphcnf.file_writing import check_output, file_lock
from graphcnf.limits import is_number
from graphcnf.messages import LONGEST_REASON, counted, described, printable
from graphcnf.molecules.codec import quiet
from graphcnf.optimization.objectives import Goal
from graphcnf.run_folder import claim

NAME, LOCK = "calls.sqlite", "calls.lock"
"""Names of the journal, and of an empty database that processes lock while they may add answers."""

SCHEMA = [
    'CREATE TABLE answers (smiles TEXT PRIMARY KEY, score REAL, "values" TEXT, error TEXT)',
    "CREATE TABLE goal (identity TEXT)",
]
"""Statements that create the tables of the journal; a file with other tables is refused."""

INVALID = (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)
"""Exceptions that values of a wrong type in the journal can raise when they are read."""

RUN_LOCK = "run.lock"
"""File in a run's folder that is locked while an `Oracle` uses the folder."""

BUSY, START = 60.0, 120.0
"""Seconds to wait for a database that another process writes, and for a child process to start."""


@dataclass(frozen=True)
class Answer:
    """Result of a call: the score of a molecule, or the reason why it has none.

    Attributes:
        score: The number that the goal returned, which the search maximizes; NaN if the call
            failed.
        values: `{name of an objective: its score}`, before the desirability; {} if the call failed.
        error: Reason why the call failed, in one line; None if it did not fail.
    """

    smiles: str
    score: float
    values: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None

    @classmethod
    def failed(cls, smiles: str, error: str | BaseException) -> Answer:
        """Return the answer of a failed call: the score NaN and the reason in one line."""
        if isinstance(error, BaseException) and not isinstance(error, Unavailable):
            error = described(error)
        line = printable(" ".join(str(error).split()))[:LONGEST_REASON]
        return cls(smiles, math.nan, {}, line)

    @classmethod
    def of_row(cls, smiles: str, score: float, values: str, error: str | None) -> Answer:
        """Build an answer from a row of the journal; a damaged row raises one of `INVALID`."""
        if not (isinstance(smiles, str) and isinstance(error, str | None)):
            raise TypeError(f"{smiles!r:.40} is not text")
        if error is not None:
            return cls.failed(smiles, error)
        numbers = {name: float(value) for name, value in json.loads(values).items()}
        if not all(map(math.isfinite, (score, *numbers.values()))):
            raise ValueError(f"{smiles!r:.40} has no finite score")
        return cls(smiles, float(score), numbers)


class Journal:
    """SQLite file with the answers of one goal; several processes may add to it at once.

    Its folder must be on a disk of this machine. `goal` is the `Goal.identity`.
    """

    def __init__(self, folder: Path, goal: str):
        self.path = inside(folder, NAME)
        # SQLite would follow links, also in place of the files that it keeps beside a database.
        for name in (NAME, LOCK):
            for suffix in ("", "-wal", "-shm", "-journal"):
                check_output(inside(folder, name + suffix))
        with self._reporting():
            self._database = sqlite3.connect(self.path, timeout=BUSY, isolation_level=None)
            self._lock = sqlite3.connect(folder / LOCK, timeout=0, isolation_level=None)
            # No `fsync` per answer: only a loss of power can lose the last answers.
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
        """Return all answers by canonical SMILES, in the order in which they were added."""
        with self._reporting():
            rows = self._rows("SELECT * FROM answers ORDER BY rowid")
            return {answer.smiles: answer for answer in (Answer.of_row(*row) for row in rows)}

    def add(self, answer: Answer) -> Answer:
        """Store an answer, unless the molecule has one already, and return the stored one.

        It is an earlier one if another process was faster.
        """
        row: tuple[Any, ...] = (answer.smiles, None, None, answer.error)
        if answer.error is None:
            row = (answer.smiles, answer.score, json.dumps(dict(answer.values)), None)
        with self._reporting():
            self._rows("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?)", row)
            return Answer.of_row(*self._rows("SELECT * FROM answers WHERE smiles = ?", row[:1])[0])

    def remove(self, molecules: Iterable[str]) -> None:
        """Delete the answers for some molecules, so that their scores are computed again."""
        with self._reporting():
            for smiles in molecules:
                self._rows("DELETE FROM answers WHERE smiles = ?", (smiles,))

    def wait_for_writers(self, patience: float, note: Callable[[str], None]) -> None:
        """Wait until child processes of a killed run have stored the answers that they compute.

        Otherwise a continued run would make these calls a second time. Such a child has called
        `hold`.

        It returns after `patience` seconds all the same.
        """
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
        """Make `wait_for_writers` in other processes wait until this process ends.

        A child process calls it when it starts, since it will add answers.
        """
        with self._reporting():
            self._lock.execute("BEGIN")
            self._lock.execute("SELECT * FROM sqlite_master").fetchall()

    def close(self) -> None:
        """Close the databases, and release the lock of `hold`."""
        self._database.close()
        self._lock.close()

    def _rows(self, query: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """Run a statement of SQL on the database of answers."""
        return self._database.execute(query, values).fetchall()

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        """Return a context that turns errors of SQLite into errors that name the file."""
        try:
            yield
        except sqlite3.OperationalError as error:  # for example, the disk is full
            raise UserError(f"{self.path}: {error}") from None
        except (sqlite3.DatabaseError, *INVALID) as error:
            raise UserError(
                f"{self.path} is damaged ({error}): delete it, and all calls are made again"
            ) from None


class Oracle:
    """Computes scores, each once, and stores them in a journal; used in a `with` statement.

    `oracle(molecules)` returns the answers. At the end of the `with` statement, also after an
    error, the calls in progress are finished and stored.

    Args:
        folder: Folder of the run with the journal, created if it is missing. Answers that it holds
            are not computed again. None for a temporary folder.
        workers: Number of child processes; None for one per core. 0 computes in this process,
            without a time limit. A cluster is also possible: each of its workers has one child
            process; if the process of the search dies, the answers of calls in progress are lost.
        stop_on_error: True to end the search at the first failed call, which is made again when the
            run is continued. The search itself looks at this attribute.
        note: Function that receives lines for the user, such as one for each failed call.

    Attributes:
        answers: `{canonical SMILES: answer}`, those of earlier runs in the folder included.
        calls: Number of calls that this object has made.
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
        if isinstance(workers, int) and workers < 0:
            raise UserError(f"workers must be 0 or more, got {workers}")
        self.goal, self.timeout = goal, timeout
        self.stop_on_error, self.note, self.calls = stop_on_error, note, 0
        self.workers = available_cores() if workers is None else workers
        with ExitStack() as stack:
            self._is_kept = bool(folder)
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

    def __exit__(self, kind: type[BaseException] | None, *exception) -> None:
        if kind in (KeyboardInterrupt, SystemExit) and self._is_kept:
            made = f"interrupted after {counted(len(self.answers), 'call')}"
            self.note(f"{made}, kept in {self.folder}: the same command goes on from there")
        # Also after an error: finish the calls in progress and store their answers.
        self._threads.shutdown(cancel_futures=True)
        for process in self._processes:
            process.close()
        self._opened.close()

    def __call__(self, molecules: Iterable[str]) -> list[Answer]:
        """Return the answer for each molecule, in order.

        The score is called for molecules without an answer, each once; their answers are stored.

        A molecule in another SMILES than the canonical one would be computed again.
        """
        molecules = list(molecules)
        new = [s for s in dict.fromkeys(molecules) if s not in self.answers]
        self.calls += len(new)
        for answer in self._computed(new):
            self.answers[answer.smiles] = self._journal.add(answer)
        return [self.answers[smiles] for smiles in molecules]

    def forget(self, molecules: Iterable[str]) -> None:
        """Delete the answers for some molecules, so that their scores are computed again.

        They are deleted from `answers` and from the journal.
        """
        molecules = list(molecules)
        self._journal.remove(molecules)
        for smiles in molecules:
            self.answers.pop(smiles, None)

    def _computed(self, molecules: list[str]) -> Iterator[Answer]:
        """Compute answers for molecules, and yield each once it is known, in any order."""
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
        """Function of a molecule for the child processes, pickled and packed by `framed`."""
        goal = cloudpickle.dumps(self.goal)
        folder = self.folder if isinstance(self.workers, int) else None
        return framed(partial(_score_in_child, goal, folder, self.goal.identity))

    def _score(self, smiles: str) -> Answer:
        """Return the answer for a molecule, computed in the child process of this thread."""
        if not hasattr(self._own, "process"):
            self._own.process = ScoreProcess(self._function, self.timeout)
            self._processes.append(self._own.process)
        return self._own.process(smiles)


def _answer_of(goal: Goal, smiles: str) -> Answer:
    """Score a molecule in this process."""
    heard: list[int] = []

    def note_signal(number, frame):
        heard.append(number)
        before[number](number, frame)

    # Handlers, since the score may raise these exceptions without a signal.
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
        before = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in before:
        signal.signal(number, note_signal)
    try:
        with quiet():
            mol = Chem.MolFromSmiles(smiles)
        answer = Answer(smiles, *goal(mol, smiles))
    except BaseException as error:
        answer = Answer.failed(smiles, error)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if heard:
        raise KeyboardInterrupt if heard[0] == signal.SIGINT else SystemExit(128 + heard[0])
    return answer


@lru_cache(maxsize=1)
def _opened(
    pickled: bytes, folder: Path | None, identity: str
) -> tuple[Goal | BaseException, Journal | None]:
    """Load the goal and open the journal in a child process, once."""
    # The parent handles Ctrl-C; the call in progress is finished.
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
    """Score a molecule in a child process and store the answer."""
    goal, journal = _opened(pickled, folder, identity)
    if smiles is None:
        return None
    if isinstance(goal, BaseException):
        answer = Answer.failed(smiles, goal)
    else:
        answer = _answer_of(goal, smiles)
    return journal.add(answer) if journal else answer


class ScoreProcess:
    """A child process that scores molecules; it is started anew after a time-out or a crash.

    The child starts at the first call and loads the goal once. If the process that started it dies,
    the child ends after its current call.

    `function` makes an `Answer` of a SMILES, pickled and packed by
    `graphcnf.compute.parallel.framed`; given None, it only loads the goal.
    """

    def __init__(self, function: bytes, timeout: float):
        self._function, self.timeout = function, timeout
        self._worker: Worker | None = None

    def __call__(self, smiles: str) -> Answer:
        """Return the answer for a molecule, computed in the child process.

        A time-out or a crash ends the process, and gives an answer with an `error`.
        """
        if self._worker is not None and self._worker.process.poll() is not None:
            self.close()  # the process was killed between two calls
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
        """Call the function in a worker process."""
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
        """End the child process, if there is one; the next call starts another."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None


_process_of_worker = lru_cache(maxsize=1)(ScoreProcess)


def _score_on_worker(function: bytes, timeout: float, smiles: str) -> Answer:
    """Score a molecule on a cluster's worker, in the one child process that the worker keeps."""
    return _process_of_worker(function, timeout)(smiles)
