"""Map a function over chunks in worker processes, without asking anything of the calling script.

`multiprocessing` with 'spawn' runs the caller's main module again, which a script without an
`if __name__ == "__main__"` guard does not survive, and 'fork' deadlocks next to the threads of
torch. Plain child processes that talk over pipes have neither problem, end with this one, and say
nothing when it is killed.
"""

from __future__ import annotations

import math
import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import Any

from graphcnf.compute.cpu import cpu_quota
from graphcnf.compute.progress import progress_bar
from graphcnf.errors import UserError

_SERVE = "from graphcnf.compute.parallel import _serve; _serve()"

GRACE = 10.0
"""Seconds that a process which answers no more has left to end by itself."""


class WorkerDied(UserError, RuntimeError):
    """A child process ended without an answer: killed, or out of memory."""


class Engine:
    """Workers that are no processes of this one, such as those of a `compute.cluster.Cluster`."""

    def ordered_map(self, function: Callable, chunks: Iterable, *, ahead: int = 2) -> Any:
        """Map a function over chunks on the workers, in order, as `OrderedMap` does."""
        raise NotImplementedError


Workers = int | Engine | None
"""Processes, or workers elsewhere; None for one process per available core."""


class OrderedMap:
    """`function(chunk)` for every chunk, in their order, computed ahead in child processes.

    A context manager, and iterable once. Work ends with the context, finished or not; when this
    process dies, the children end after the chunk that they are at. At most `workers * ahead`
    chunks are taken before their results are.

    Args:
        function: A function at the top level of an importable module, or a `functools.partial` of
            one; it is pickled and sent to every process once.
        chunks: Arguments, possibly without end; they and the results are pickled.
        workers: Processes; 1 for none but this one, which then works on demand.
        ahead: Chunks per process that are worked on before they are asked for.

    Raises:
        UserError: A process cannot be started, or, while iterating, the thread that it needs.
        WorkerDied: While iterating, after the results that are complete up to there.
        Exception: While iterating, after the results before it, what the function raised for a
            chunk, with the traceback as a note; a `RuntimeError` in place of an exception that
            cannot be pickled.
    """

    def __init__(self, function: Callable, chunks: Iterable, *, workers: int, ahead: int = 2):
        self._function = function
        self._chunks = iter(chunks)
        self._most = workers * ahead
        self._workers: list[Worker] = []
        self._idle: SimpleQueue[Worker] = SimpleQueue()
        self._threads = ThreadPoolExecutor(max(1, workers))
        if workers <= 1 or not sys.executable:
            return
        message = framed(function)
        try:
            for _ in range(workers):
                self._workers.append(Worker(message))
                self._idle.put(self._workers[-1])
        except OSError as error:
            self.__exit__()
            reason = error.strerror or error
            raise UserError(f"cannot start {workers} worker processes: {reason}") from None

    def __enter__(self) -> OrderedMap:
        return self

    def __exit__(self, *exception) -> None:
        for worker in self._workers:
            worker.kill()
        self._threads.shutdown(cancel_futures=True)
        for worker in self._workers:
            worker.close()

    def __iter__(self) -> Iterator:
        if not self._workers:
            yield from map(self._function, self._chunks)
            return
        waiting: deque[Future] = deque()
        for chunk in self._chunks:
            try:
                waiting.append(self._threads.submit(self._apply, chunk))
            except RuntimeError as error:  # as many threads as there may be
                count = len(self._workers)
                raise UserError(f"cannot start {count} worker processes: {error}") from None
            if len(waiting) == self._most:
                yield result_of(waiting.popleft().result())
        while waiting:
            yield result_of(waiting.popleft().result())

    def _apply(self, chunk: object) -> tuple[bool, bytes]:
        """Return the reply of the next worker that has nothing to do."""
        worker = self._idle.get()
        try:
            return worker.apply(chunk)
        finally:
            self._idle.put(worker)


class Worker:
    """A child process that applies one function to chunks, one at a time.

    Args:
        function: The function, as `framed` gives it.

    Raises:
        OSError: The process cannot be started.
    """

    def __init__(self, function: bytes):
        self.process = _spawn()
        self._unsent = function

    def apply(self, chunk: object) -> tuple[bool, bytes]:
        """Return whether the function returned, with the pickled result or exception.

        Raises:
            WorkerDied: The process ended without a reply.
        """
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None and stdout is not None
        try:
            stdin.writelines([self._unsent, framed(chunk)])
            stdin.flush()
            self._unsent = b""
            return pickle.load(stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            raise WorkerDied(f"a worker process died ({self._ending()})") from None

    def kill(self) -> None:
        """Kill the process, and on POSIX systems the programs that it has started."""
        with suppress(OSError):
            if os.name == "posix" and self.process.returncode is None:
                os.killpg(self.process.pid, signal.SIGKILL)
            else:
                self.process.kill()

    def close(self) -> None:
        """Close the pipes, upon which the process ends, and wait for that."""
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with suppress(OSError):
                pipe.close()
        self._ending()

    def _ending(self) -> str:
        """Return how the process ended; it is killed after `GRACE` seconds."""
        try:
            code = self.process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self.kill()
            self.process.wait()
            return "it closed its pipes"
        if code == -9:
            return "killed by signal 9: is there enough memory?"
        return f"killed by signal {-code}" if code < 0 else f"exit code {code}"


def result_of(reply: tuple[bool, bytes]) -> Any:
    """Return the result in a reply of a worker, or raise the exception in it."""
    succeeded, data = reply
    value = pickle.loads(data)
    if not succeeded:
        raise value
    return value


def ordered_map(
    function: Callable, chunks: Iterable, *, workers: int | Engine, ahead: int = 2
) -> Any:
    """`OrderedMap` in child processes, or its like on a cluster.

    Args:
        function: As `OrderedMap` takes it.
        chunks: Arguments, possibly without end; they and the results are pickled.
        workers: Number of processes, or a `graphcnf.compute.cluster.Cluster`.
        ahead: Chunks per process that are worked on before they are asked for.
    """
    if isinstance(workers, int):
        return OrderedMap(function, chunks, workers=workers, ahead=ahead)
    return workers.ordered_map(function, chunks, ahead=ahead)


def parallel_map(
    function: Callable, chunks: Sequence, *, workers: Workers = None, label: str = ""
) -> list:
    """`[function(chunk) for chunk in chunks]`, in child processes.

    Args:
        function: As `OrderedMap` takes it.
        chunks: Arguments; they and the results are pickled.
        workers: Processes; None for one per available core, 1 for none but this one; or a
            `graphcnf.compute.cluster.Cluster`.
        label: What the progress bar says (shown on a terminal only).
    """
    if workers is None or isinstance(workers, int):
        workers = min(workers or available_cores(), len(chunks))
    results = []
    with (
        progress_bar(label, len(chunks), hidden=not label) as show,
        ordered_map(function, chunks, workers=workers, ahead=4) as stream,
    ):
        for result in stream:
            results.append(result)
            show(len(results))
    return results


def chunked(items: Sequence, size: int) -> list:
    """Consecutive slices of `size` items."""
    return [items[k : k + size] for k in range(0, len(items), size)]


def available_cores() -> int:
    """Return the cores that this process may use, by its affinity and a container's quota."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, cpu_quota())))


def _spawn() -> subprocess.Popen:
    paths = os.pathsep.join(os.path.abspath(p) for p in sys.path)
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    # A group of their own: Ctrl-C and `timeout` reach this process only, which ends them.
    apart: dict[str, Any] = {"process_group": 0} if os.name == "posix" else {}
    return subprocess.Popen(
        [sys.executable, "-P", "-c", _SERVE],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, **apart,
    )  # fmt: skip


def framed(value: object) -> bytes:
    """Return pickled bytes of pickled bytes.

    A reader gets to the end even where a class or a module is missing on its side.
    """
    return pickle.dumps(pickle.dumps(value))


def _serve() -> None:
    """Apply the function that comes first on stdin to what follows.

    Stdin closes when the parent is done, or dies.
    """
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing that prints may end up among the replies
    requests = sys.stdin.buffer
    try:
        message = pickle.load(requests)
        try:
            function = pickle.loads(message)
        except Exception as error:
            function = partial(refuse, error)
        while True:
            chunk = pickle.load(requests)
            pickle.dump(answer(function, chunk), replies)
            replies.flush()
    except (EOFError, BrokenPipeError, KeyboardInterrupt, pickle.UnpicklingError):
        os._exit(0)  # without another attempt to flush


def answer(function: Callable, chunk: bytes) -> tuple[bool, bytes]:
    """Return a success flag, and the pickled result or exception."""
    try:
        return True, pickle.dumps(function(pickle.loads(chunk)))
    except Exception as error:
        error.add_note(traceback.format_exc())
        try:
            data = pickle.dumps(error)
            # Some exceptions are pickled, but never unpickled.
            pickle.loads(data)
        except Exception:
            data = pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
        return False, data


def refuse(error: Exception, chunk: object) -> None:
    """Raise the error, in the place of a function that could not be unpickled."""
    raise error
