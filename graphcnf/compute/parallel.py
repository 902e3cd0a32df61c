"""Map a function over chunks, in child processes or on the workers of a Dask cluster.

`multiprocessing` with 'spawn' runs the caller's main module again, 'fork' deadlocks next to the
threads of torch; plain child processes that talk over pipes do neither, and end with this one.
"""

from __future__ import annotations

import json
import logging
import math
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import traceback
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache, partial
from multiprocessing import resource_tracker
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from graphcnf.compute.cpu import cpu_quota, environment
from graphcnf.compute.files import read_json
from graphcnf.compute.progress import progress_bar
from graphcnf.errors import UserError, require, say

if TYPE_CHECKING:
    from distributed import Client
    from distributed import Future as Task

GRACE = 10.0
"""Seconds that a process which answers no more has left to end by itself."""

AHEAD = 3
"""Chunks per process that are worked on before they are asked for."""

CONNECT, PATIENCE = 10.0, 10.0
"""Seconds to reach a scheduler, and without a result until the workers of a cluster are counted."""

LOCAL = {
    # A worker that died is given up after 15 s, which a busy machine takes for the imports alone.
    "distributed.deploy.lost-worker-timeout": 300.0,
    # The stacks of an hour are kept, some 100 KB for each second.
    "distributed.worker.profile.enabled": False,
}
"""Settings of Dask for a local cluster, in the place of its own."""

_ADDRESS = re.compile(r"(tcp|tls)://[^\s/]+:[0-9]{1,5}")
_LOCK = threading.Lock()
_functions: dict[str, bytes] = {}
"""Pickled functions in a process that is a worker of a cluster."""


class WorkerDied(UserError, RuntimeError):
    """A process ended without an answer: killed, out of memory, or the scheduler of a cluster."""


class Cluster:
    """Workers of Dask, in the place of a number of processes.

    Another worker repeats the chunk of one that died; workers that join get work at once. The
    function, with the model in it, goes to every worker once; then only chunks and results travel.

    Args:
        client: Connection to their scheduler.
    """

    def __init__(self, client: Client):
        self.client = client
        self._noted: set[str] = set()

    @contextmanager
    def ordered_map(self, function: Callable, chunks: Iterable) -> Iterator[Iterator]:
        """Apply a function to tasks as the function `ordered_map` does."""
        name = f"graphcnf-{uuid.uuid4().hex}"
        # No argument of the tasks: Dask would rather leave them all to the worker that has it.
        plugin = _plugin(name, pickle.dumps(function))
        with self._reached():
            self.client.register_plugin(plugin, name)

        def submit(chunk: object) -> Callable[[], Any]:
            data = pickle.dumps(chunk)
            with self._reached():
                return partial(self._result, self.client.submit(_work, name, data, pure=False))

        results = _in_order(chunks, submit, lambda: max(2, AHEAD * self._count()))
        try:
            yield results
        finally:
            results.close()  # Dask drops what nobody waits for
            if self.client.status == "running":
                # A scheduler that is gone as well has nothing left to clear up.
                with suppress(OSError, ValueError, CancelledError):
                    self.client.unregister_worker_plugin(name)

    def _count(self) -> int:
        with self._reached():
            return len(self.client.nthreads())

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Turn errors of Dask into errors of this package."""
        from distributed.scheduler import KilledWorker

        try:
            yield
        except KilledWorker:
            raise WorkerDied(
                "several workers died over the same piece of work: is there enough memory?"
            ) from None
        except Exception as error:
            if isinstance(error, CancelledError | OSError) or self.client.status != "running":
                raise WorkerDied("the Dask scheduler is gone") from None
            raise

    def _result(self, task: Task) -> Any:
        with self._reached():
            while True:
                try:
                    where, reply = task.result(timeout=PATIENCE)
                    break
                except TimeoutError:
                    if self.client.status != "running":
                        raise CancelledError from None
                    if not self._count():
                        self._note_once("there is no Dask worker; waiting for one")
        if where != (own := json.dumps(environment())):
            self._note_once(
                "workers have other versions or processors, which may round otherwise: single "
                f"results may differ from those of this machine ({where}; here {own})"
            )
        return result_of(reply)

    def _note_once(self, text: str) -> None:
        if text not in self._noted:
            self._noted.add(text)
            say(f"note: {text}")


Workers = int | Cluster | None
"""Processes, or workers elsewhere; None for one process per available core."""


@contextmanager
def ordered_map(
    function: Callable, chunks: Iterable, *, workers: int | Cluster
) -> Iterator[Iterator]:
    """Context with an iterator over `function(chunk)` for every chunk, in order, computed ahead.

    At most `workers * AHEAD` chunks are pending at a time. Leaving the context stops all work. When
    this process dies, each child ends after its current chunk.

    Args:
        function: A function at the top level of an importable module, or a `functools.partial` of
            one; it is pickled and sent to every process once.
        chunks: Arguments, possibly without end; they and the results are pickled.
        workers: Number of processes, or a cluster. With 1, this process computes each result when
            it is asked for.

    Raises:
        UserError: A process cannot be started or, while iterating, a thread.
        WorkerDied: While iterating, in place of a result: a process or the scheduler died.
        Exception: While iterating, in place of a result: what the function raised, with its
            traceback as a note; a `RuntimeError` for an exception that cannot be pickled.
    """
    if not isinstance(workers, int):
        with workers.ordered_map(function, chunks) as results:
            yield results
        return
    if workers <= 1 or not sys.executable:
        yield map(function, chunks)
        return
    started: list[Worker] = []
    idle: SimpleQueue[Worker] = SimpleQueue()
    threads = ThreadPoolExecutor(workers)

    def apply(chunk: object) -> tuple[bool, bytes]:
        worker = idle.get()
        try:
            return worker.apply(chunk)
        finally:
            idle.put(worker)

    def submit(chunk: object) -> Callable[[], Any]:
        try:
            task = threads.submit(apply, chunk)
        except RuntimeError as error:  # as many threads as there may be
            raise UserError(f"cannot start {workers} worker processes: {error}") from None
        return lambda: result_of(task.result())

    try:
        message = framed(function)
        try:
            for _ in range(workers):
                started.append(Worker(message))
                idle.put(started[-1])
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"cannot start {workers} worker processes: {reason}") from None
        yield _in_order(chunks, submit, lambda: workers * AHEAD)
    finally:
        for worker in started:
            worker.kill()
        threads.shutdown(cancel_futures=True)
        for worker in started:
            worker.close()


def _in_order(chunks: Iterable, submit: Callable, most: Callable[[], int]) -> Any:
    """Yield results in the order of the chunks, with at most `most()` tasks pending.

    `submit(chunk)` starts a task and returns a function that waits for its result.
    """
    waiting: deque[Callable[[], Any]] = deque()
    for chunk in chunks:
        waiting.append(submit(chunk))
        if len(waiting) >= most():
            yield waiting.popleft()()
    while waiting:
        yield waiting.popleft()()


class Worker:
    """A child process that applies one function, as `framed` gives it, to one chunk at a time.

    Raises:
        OSError: The process cannot be started.
    """

    def __init__(self, function: bytes):
        paths = os.pathsep.join(os.path.abspath(p) for p in sys.path)
        # A group of their own: Ctrl-C and `timeout` reach this process only, which ends them.
        apart: dict[str, Any] = {"process_group": 0} if os.name == "posix" else {}
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", f"from {__name__} import _serve; _serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
            **apart,
        )
        self._unsent = function

    def apply(self, chunk: object) -> tuple[bool, bytes]:
        """Return a success flag, and the pickled result or exception.

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
        """Say how the process ended, which is killed after `GRACE` seconds."""
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


def parallel_map(
    function: Callable, chunks: Sequence, *, workers: Workers = None, label: str = ""
) -> list:
    """Return `[function(chunk) for chunk in chunks]`, computed as by `ordered_map`.

    `workers` None takes one process per available core; a `label` shows a bar on a terminal.
    """
    if workers is None or isinstance(workers, int):
        workers = min(workers or available_cores(), len(chunks))
    results = []
    with (
        progress_bar(label, len(chunks), hidden=not label) as show,
        ordered_map(function, chunks, workers=workers) as stream,
    ):
        for result in stream:
            results.append(result)
            show(len(results))
    return results


def chunked(items: Sequence, size: int) -> list:
    """Return consecutive slices of `size` items."""
    return [items[k : k + size] for k in range(0, len(items), size)]


def available_cores() -> int:
    """Return the cores that this process may use, by its affinity and a container's quota."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, cpu_quota())))


def framed(value: object) -> bytes:
    """Return pickled bytes of pickled bytes, read to the end even where a class is missing."""
    return pickle.dumps(pickle.dumps(value))


def _serve() -> None:
    """Apply the function that comes first on stdin to what follows, until the parent closes it."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing that prints may end up among the replies
    requests = sys.stdin.buffer
    try:
        function = pickle.load(requests)
        while True:
            chunk = pickle.load(requests)
            pickle.dump(_answer(function, chunk), replies)
            replies.flush()
    except (EOFError, BrokenPipeError, KeyboardInterrupt, pickle.UnpicklingError):
        os._exit(0)  # without another attempt to flush


_unpickled = lru_cache(maxsize=2)(pickle.loads)


def _answer(function: bytes, chunk: bytes) -> tuple[bool, bytes]:
    """Return a success flag, and the pickled result or exception."""
    try:
        return True, pickle.dumps(_unpickled(function)(pickle.loads(chunk)))
    except Exception as error:
        error.add_note(traceback.format_exc())
        try:
            data = pickle.dumps(error)
            pickle.loads(data)  # some exceptions are pickled, but never unpickled
        except Exception:
            data = pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
        return False, data


def _plugin(name: str, message: bytes) -> Any:
    """Return the plugin that Dask gives to every worker when it joins."""
    from distributed import WorkerPlugin

    class Message(WorkerPlugin):
        # It is pickled by value: only an import reaches the module of the worker.
        def setup(self, worker) -> None:
            from graphcnf.compute import cpu, parallel

            # Dask starts workers with MALLOC_TRIM_THRESHOLD_=65536.
            cpu.keep_memory()
            parallel._functions[name] = message

        def teardown(self, worker) -> None:
            from graphcnf.compute import parallel

            parallel._functions.pop(name, None)

    return Message()


def _work(name: str, chunk: bytes) -> tuple[str, tuple[bool, bytes]]:
    """Return the versions of a worker, and the answer of a function to a chunk."""
    with _LOCK:  # torch's number of threads belongs to the whole process
        return json.dumps(environment()), _answer(_functions[name], chunk)


def check_cluster(cluster: str) -> None:
    """Raise `UserError` where a cluster is not named as it should be, or Dask is missing.

    Args:
        cluster: "local" for processes of this machine, the address of a scheduler
            (tcp://host:8786, tls://host:8786), or the .json file that a scheduler has written.
    """
    if cluster != "local" and not _ADDRESS.fullmatch(cluster):
        if not cluster.lower().endswith(".json"):
            raise UserError(
                f"no cluster {cluster!r}: write local, the address of a scheduler as in "
                "tcp://host:8786, or the name of the .json file that it wrote"
            )
        if not Path(cluster).is_file():
            raise UserError(f"no such file: {cluster}")
    for package in ("distributed", "cryptography"):
        require(package, "a cluster", "cluster")


@contextmanager
def open_workers(cluster: str | None, workers: int | None = None) -> Iterator[Workers]:
    """Open a cluster, as `check_cluster` knows it, and yield its workers.

    Args:
        cluster: None for no cluster, which yields `workers`.
        workers: Number of processes; None for one per core, and for a remote cluster.

    Raises:
        UserError: The cluster cannot be reached or started.
    """
    if cluster is None:
        yield workers
        return
    check_cluster(cluster)
    import dask
    from distributed import Client, LocalCluster

    # Dask tells of every worker that dies, which is no failure here, and prints a traceback where
    # the scheduler does, which is one line of ours. Its configuration gives both names a level.
    level = logging.WARNING if os.environ.get("GRAPHCNF_DEBUG") else logging.CRITICAL
    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(level)
    with ExitStack() as stack:
        address: Any = cluster
        if cluster == "local":
            # It is read whenever a worker dies.
            stack.enter_context(dask.config.set(LOCAL))
            with _deaf_to_interrupts():
                local = LocalCluster(
                    n_workers=workers or available_cores(),
                    threads_per_worker=1,
                    silence_logs=level,
                    # Others on this machine can reach its ports: keys of its own keep them out.
                    security=True,
                    dashboard_address="127.0.0.1:0",
                    scheduler_kwargs={"dashboard": False},
                )
            address = stack.enter_context(local)
        elif not _ADDRESS.fullmatch(cluster):
            try:
                address = str(read_json(cluster)["address"])
            except (OSError, ValueError, KeyError, TypeError):
                raise UserError(f"{cluster}: not the file of a scheduler of Dask") from None
        try:
            client = Client(address, set_as_default=False, timeout=CONNECT)
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"cannot reach the Dask scheduler of {cluster}: {reason:.200}"
            ) from None
        yield Cluster(stack.enter_context(client))


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Context in which new threads and processes leave Ctrl-C to this thread, which ends them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # It would be started with the first process, and hear of Ctrl-C for that thread.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
