"""Calls of a score in child processes: in parallel, each with a time limit.

An exception, a value that is no number, a hang and a crash are answers like any other: they are
stored, and the next molecule has its turn.
"""

from __future__ import annotations

import pickle
import signal
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from queue import SimpleQueue

from rdkit import Chem, rdBase

from graphcnf.compute.parallel import Cluster, Worker, WorkerDied, framed, result_of
from graphcnf.errors import UserError
from graphcnf.optimization.journal import Answer, Journal
from graphcnf.optimization.objectives import Goal, NotANumber

START = 120.0
"""Seconds that a process has to start, on a busy machine."""


def answer_of(goal: Goal, smiles: str) -> Answer:
    """Return the score of a molecule, or the reason why its computation failed.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed meanwhile, even where the goal's code caught it.
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
        with rdBase.BlockLogs():
            mol = Chem.MolFromSmiles(smiles)
        answer = Answer(smiles, *goal(mol, smiles))
    except BaseException as error:
        answer = Answer.failed(smiles, _described(error))
    finally:
        if listening:
            signal.signal(signal.SIGINT, before)
    if interrupted:
        raise KeyboardInterrupt
    return answer


def _described(error: BaseException) -> str:
    if isinstance(error, NotANumber):
        return str(error)
    return ": ".join(filter(None, [type(error).__name__, str(error)]))


class Oracle:
    """Scores of molecules, each computed once; a context manager.

    Args:
        goal: Objectives of the score.
        folder: Folder of the journal; the answers of an existing one count.
        workers: Child processes; 0 to compute in this process, without a time limit; or a cluster,
            each worker of which has a child process of its own (the answers of calls that are under
            way when this process dies are lost, then).
        timeout: Seconds for one molecule, after which its call has failed.
        note: Called with a line that the user should see.

    Attributes:
        answers: All answers, by molecule.
        calls: Calls that this object has made.

    Raises:
        UserError: The journal is of another goal, or damaged.
    """

    def __init__(
        self,
        goal: Goal,
        folder: Path,
        *,
        workers: int | Cluster,
        timeout: float = 600.0,
        note: Callable[[str], None] = lambda line: None,
    ):
        self.goal, self.folder, self.workers, self.timeout = goal, folder, workers, timeout
        self._journal = Journal(folder, goal.identity)
        try:
            self._journal.wait_for_writers(timeout + START, note)
            self.answers = self._journal.read()
        except BaseException:
            self._journal.close()
            raise
        self.calls = 0
        self._name = uuid.uuid4().hex
        self._idle: SimpleQueue[ScoreProcess] = SimpleQueue()
        self._threads: ThreadPoolExecutor | None = None

    def __enter__(self) -> Oracle:
        return self

    def __exit__(self, *exception) -> None:
        # Also after an error: calls that are under way are paid for, and their answers stored.
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
        while not self._idle.empty():
            self._idle.get().close()
        self._journal.close()

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
            scorer = Scorer(self.goal)
            score = partial(_score_on_worker, self._name, scorer, self.timeout)
            with self.workers.ordered_map(score, molecules) as answers:
                yield from answers
        elif self.workers:
            for task in as_completed([self._pool().submit(self._score, s) for s in molecules]):
                yield task.result()
        else:
            yield from (answer_of(self.goal, smiles) for smiles in molecules)

    def _pool(self) -> ThreadPoolExecutor:
        if self._threads is None:
            assert isinstance(self.workers, int)
            self._threads = ThreadPoolExecutor(self.workers)
            scorer = Scorer(self.goal, self.folder)
            for _ in range(self.workers):
                self._idle.put(ScoreProcess(scorer, self.timeout))
        return self._threads

    def _score(self, smiles: str) -> Answer:
        """Return the answer of a process that has nothing else to do."""
        process = self._idle.get()
        try:
            return process(smiles)
        finally:
            self._idle.put(process)


class Scorer:
    """The function of a child process: score a molecule and store the answer.

    Args:
        goal: Objectives of the score; functions of the calling script are sent by value.
        folder: Folder of the journal; None to store nothing.
    """

    def __init__(self, goal: Goal, folder: Path | None = None):
        import cloudpickle

        self.folder, self.identity = folder, goal.identity
        self._pickled = cloudpickle.dumps(goal)
        self._goal: Goal | None = None
        self._journal: Journal | None = None

    def __call__(self, smiles: str | None) -> Answer | None:
        """Return the answer for a molecule, or None after the start that no molecule pays for."""
        if self._goal is None:
            # Ctrl-C is for the parent; a call that is under way ends by itself.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            if self._journal is None and self.folder is not None:
                self._journal = Journal(self.folder, self.identity)
                self._journal.hold()
            try:
                self._goal = pickle.loads(self._pickled)
                self._goal.objectives  # noqa: B018  (imports what the scores need)
            except BaseException as error:
                if smiles is None:
                    return None  # the first call reports it
                return self._stored(Answer.failed(smiles, _described(error)))
        return None if smiles is None else self._stored(answer_of(self._goal, smiles))

    def _stored(self, answer: Answer) -> Answer:
        return answer if self._journal is None else self._journal.add(answer)


class ScoreProcess:
    """A child process that scores molecules; it is started again after a time-out or a crash.

    It ends after its current call where this process dies.

    Args:
        scorer: The function of the process.
        timeout: Seconds for one molecule.
    """

    def __init__(self, scorer: Scorer, timeout: float):
        self._function, self.timeout = framed(scorer), timeout
        self._worker: Worker | None = None

    def __call__(self, smiles: str) -> Answer:
        """Return the answer for a molecule.

        Raises:
            UserError: The process cannot be started, or cannot store the answer.
        """
        if self._worker is not None and self._worker.process.poll() is not None:
            self.close()  # it was killed between two calls
        try:
            if self._worker is None:
                self._worker = Worker(self._function)
                self._apply(None, START)
            return self._apply(smiles, self.timeout)
        except TimeoutError as error:
            return Answer.failed(smiles, str(error))
        except WorkerDied:
            self.close()
            return Answer.failed(smiles, "the process that computed it died")
        except OSError as error:
            raise UserError(f"cannot start a worker process: {error.strerror or error}") from None

    def _apply(self, smiles: str | None, limit: float):
        worker, late = self._worker, threading.Event()
        assert worker is not None

        def expire() -> None:
            late.set()
            worker.kill()

        timer = threading.Timer(min(limit, threading.TIMEOUT_MAX), expire)
        timer.start()
        try:
            reply = worker.apply(smiles)
        except WorkerDied:
            if late.is_set():
                raise TimeoutError(f"no answer within {limit:g} s") from None
            raise
        finally:
            timer.cancel()
            timer.join()
            if late.is_set():
                self.close()
        return result_of(reply)

    def close(self) -> None:
        """End the process."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None


_processes: dict[str, ScoreProcess] = {}
"""Process of a cluster's worker, by the name of the oracle that it serves, at most one."""


def _score_on_worker(name: str, scorer: Scorer, timeout: float, smiles: str) -> Answer:
    """Return the answer of the child process of a cluster's worker."""
    if name not in _processes:
        for process in _processes.values():
            process.close()
        _processes.clear()
        _processes[name] = ScoreProcess(scorer, timeout)
    return _processes[name](smiles)
