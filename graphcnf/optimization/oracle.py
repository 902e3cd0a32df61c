"""Calls of a score in processes of their own: in parallel, each with a time limit.

An exception, something that is no number, a hang and a crash are answers, too: they are kept like
the others, and the next molecule has its turn. Processes are those of loky, which, unlike
`graphcnf.compute.parallel`, sends functions that were defined in the calling script. Each looks now
and then whether who asked is still there, and ends after the call that it is at.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from rdkit import Chem, rdBase

from graphcnf.compute.files import inside
from graphcnf.compute.parallel import Engine
from graphcnf.optimization import journal
from graphcnf.optimization.journal import Answer
from graphcnf.optimization.objectives import Goal

START = 120.0
"""Seconds that processes have to start, on a busy machine."""

PULSE = 0.5
"""Seconds between a process's looks at whether its parent is still there."""


def answer_of(goal: Goal, smiles: str) -> Answer:
    """What a goal says of a molecule; an exception is an answer."""
    try:
        with rdBase.BlockLogs():
            mol = Chem.MolFromSmiles(smiles)
        score, values = goal(mol, smiles)
    except Exception as error:
        text = str(error)
        name = type(error).__name__
        return Answer.failed(smiles, text if name == "NotANumber" else f"{name}: {text}")
    return Answer(smiles, score, values)


class Oracle:
    """Asks for the scores of molecules, each once; a context manager.

    Args:
        goal: What to ask.
        folder: Where the journal `calls.jsonl` is; an existing one is gone on with.
        workers: Processes; 0 to ask in this one, without a time limit; or a cluster, each worker of
            which asks in a process of its own (the answers of calls that are under way when this
            process dies are lost, then).
        timeout: Seconds for one molecule, after which it has failed.
        tell: Gets a line when something is worth a word.

    Attributes:
        answers: All answers so far, by molecule.
        calls: Calls that this object has made.

    Raises:
        UserError: The journal is of another goal, or damaged.
    """

    def __init__(
        self,
        goal: Goal,
        folder: Path,
        *,
        workers: int | Engine,
        timeout: float = 600.0,
        tell: Callable[[str], None] = lambda line: None,
    ):
        self.goal, self.workers, self.timeout = goal, workers, timeout
        self.path = inside(folder, "calls.jsonl")
        self._lock = inside(folder, "calls.lock")
        journal.wait_for_writers(self._lock, timeout + START, tell)
        self.answers = journal.read(self.path, goal.identity)
        self.calls = 0
        self._name = uuid.uuid4().hex
        self._keeps: object = None
        self._pool: Any = None

    def __enter__(self) -> Oracle:
        return self

    def __exit__(self, *exception) -> None:
        # Also after an error: calls that are under way are paid for, and their answers kept.
        self._end(kill=False)

    def __call__(self, molecules: Iterable[str]) -> list[Answer]:
        """The answers for some molecules, in their order."""
        molecules = list(molecules)
        todo = [s for s in dict.fromkeys(molecules) if s not in self.answers]
        self.calls += len(todo)
        if not isinstance(self.workers, int):
            ask = partial(_ask_elsewhere, self._name, _Goal(self.goal), self.timeout)
            with self.workers.ordered_map(ask, todo) as answers:
                for answer in answers:
                    self._take(answer, write=True)
        elif self.workers:
            self._ask(todo, self.workers)
        else:
            for smiles in todo:
                self._take(answer_of(self.goal, smiles), write=True)
        return [self.answers[smiles] for smiles in molecules]

    def _take(self, answer: Answer, *, write: bool = False) -> None:
        if write:
            journal.append(self.path, answer)
        self.answers[answer.smiles] = answer

    def _ask(self, todo: list[str], workers: int) -> None:
        """No more calls at once than processes, so that each call's time is its own."""
        waiting, alone = deque(todo), deque[str]()
        running: dict[Future, tuple[str, float]] = {}
        late = False
        while waiting or alone or running:
            # After a crash, whoever may have caused it is asked for alone.
            source, most = (alone, 1) if alone else (waiting, workers)
            while source and len(running) < most and not late:
                fresh = self._pool is None
                pool = self._processes(workers)
                smiles = source.popleft()
                try:
                    future = pool.submit(_call, smiles)
                except BrokenProcessPool:
                    if fresh:
                        raise
                    source.appendleft(smiles)  # a process has died since the last look
                    if not running:
                        self._end(kill=True)
                    break
                running[future] = smiles, time.monotonic() + self.timeout
            done, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
            crashed = []
            for future in done:
                smiles, _ = running.pop(future)
                try:
                    self._take(future.result())
                except BrokenProcessPool:
                    crashed.append(smiles)
            if crashed:
                crashed += [smiles for smiles, _ in running.values()]
                running.clear()
                self._end(kill=True)
                self._after_crash(crashed, alone)
            now = time.monotonic()
            late = any(now > deadline for _, deadline in running.values())
            if late and all(now > deadline for _, deadline in running.values()):
                # The others have had their time, too: nothing that is paid for is cut off.
                for smiles, _ in running.values():
                    words = f"no answer within {self.timeout:g} s"
                    self._take(Answer.failed(smiles, words), write=True)
                running.clear()
                self._end(kill=True)
                late = False

    def _after_crash(self, crashed: list[str], alone: deque[str]) -> None:
        known = journal.read(self.path, self.goal.identity)
        for smiles in crashed:
            if smiles in known:
                self._take(known[smiles])
            elif len(crashed) == 1:
                words = "the process that computed it died"
                self._take(Answer.failed(smiles, words), write=True)
            else:
                alone.append(smiles)

    def _processes(self, workers: int):
        if self._pool is None:
            from loky import ProcessPoolExecutor

            self._pool = ProcessPoolExecutor(
                workers,
                initializer=_start,
                initargs=(_Goal(self.goal), self.path, self._lock, os.getpid()),
                env={"OMP_NUM_THREADS": "1"},
            )
            # The time limit of the first molecules does not pay for the start.
            ready = [self._pool.submit(_ready) for _ in range(workers)]
            wait(ready, timeout=START)
        return self._pool

    def _end(self, *, kill: bool) -> None:
        if self._pool is not None:
            with suppress(Exception):  # it may be broken already
                self._pool.shutdown(wait=True, kill_workers=kill)
            self._pool = None


class _Goal:
    """A goal that is unpickled only when it is used, so that an error there has words."""

    def __init__(self, goal: Goal):
        import cloudpickle

        self.data = cloudpickle.dumps(goal)

    def get(self) -> Goal:
        import pickle

        return pickle.loads(self.data)


_elsewhere: dict[str, Oracle] = {}


def _ask_elsewhere(key: str, goal: _Goal, timeout: float, smiles: str) -> Answer:
    """The answer of a worker of a cluster, which has an oracle of its own for each that asks."""
    if key not in _elsewhere:
        # Dask's workers are daemons, which may have no children; ours end with their parent.
        multiprocessing.current_process()._config.pop("daemon", None)  # type: ignore[attr-defined]
        for oracle in _elsewhere.values():
            oracle.__exit__()
        _elsewhere.clear()
        folder = tempfile.TemporaryDirectory(prefix="graphcnf-oracle-")
        try:
            _elsewhere[key] = Oracle(goal.get(), Path(folder.name), workers=1, timeout=timeout)
        except Exception as error:  # the goal itself does not arrive
            return Answer.failed(smiles, f"{type(error).__name__}: {error}")
        _elsewhere[key]._keeps = folder
    return _elsewhere[key]([smiles])[0]


_here: dict = {}
_busy = threading.Lock()


def _start(goal: _Goal, path: Path, lock: Path, parent: int) -> None:
    """What a process does first."""
    found = os.getppid()
    if os.name == "posix" and found != parent:  # it died meanwhile
        os._exit(0)
    journal.hold(lock)
    # Ctrl-C is for who asks; a call that is under way ends as it would.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What a score prints is not to end up among the molecules.
    with suppress(OSError):
        os.dup2(2, 1)
    _here.update(goal=goal, path=path)
    threading.Thread(target=_watch, args=(found,), daemon=True).start()


def _watch(parent: int) -> None:
    """End this process when its parent has died, but not in the midst of a call."""
    while os.getppid() == parent:
        time.sleep(PULSE)
    with _busy:
        os._exit(0)


def _goal() -> Goal:
    if isinstance(_here["goal"], _Goal):
        _here["goal"] = _here["goal"].get()
    return _here["goal"]


def _ready() -> None:
    """Import what the goal needs, which is not on the account of the first molecule."""
    with suppress(Exception):  # the first call will say it
        _goal().objectives  # noqa: B018
    time.sleep(0.05)  # for every process to have its turn


def _call(smiles: str) -> Answer:
    with _busy:
        try:
            answer = answer_of(_goal(), smiles)
        except Exception as error:  # the goal itself does not arrive
            answer = Answer.failed(smiles, f"{type(error).__name__}: {error}")
        journal.append(_here["path"], answer)
        return answer
