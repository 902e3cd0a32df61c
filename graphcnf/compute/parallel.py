"""Apply a function to many chunks of work, in child processes or on a Dask cluster.

- *Chunk*: one argument of the function, such as a list of molecules.
- *Worker*: a process that applies the function to chunks: a child of this process, or one of a Dask
  cluster, whose *scheduler* hands out the chunks.
- *Reply* of a worker: a pair, True and the pickled result, or False and the pickled exception.

The children are plain processes that read and write pipes, and end with this process.
`multiprocessing` would run the caller's main module again with 'spawn', and can deadlock with
'fork' beside the threads of torch.
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
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache, partial
from multiprocessing import resource_tracker
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from graphcnf.compute.cpu import cpu_quota, environment
from graphcnf.compute.progress import progress_bar
from graphcnf.errors import UserError, require
from graphcnf.file_reading import read_json
from graphcnf.messages import described, say

if TYPE_CHECKING:
    from distributed import Client
    from distributed import Future as Task

GRACE = 10.0
"""Seconds before a child process that does not end by itself is killed."""

AHEAD = 3
"""Chunks per process that are computed before their results are requested."""

CONNECT, PATIENCE = 10.0, 10.0
"""Seconds to reach a scheduler; seconds without a result until a cluster's workers are counted."""

LOCAL = {
    # Dask's 15 s are too few on a busy machine, where the imports of a new worker take as long.
    "distributed.deploy.lost-worker-timeout": 300.0,
    # The profiler keeps the stacks of an hour, some 100 KB per second.
    "distributed.worker.profile.enabled": False,
}
"""Dask settings of a local cluster that differ from Dask's defaults."""

_ADDRESS = re.compile(r"(tcp|tls)://[^\s/]+:[0-9]{1,5}")
_LOCK = threading.Lock()
_functions: dict[str, bytes] = {}
"""In a Dask worker: the pickled functions that it has received, by name."""


class WorkerDied(UserError, RuntimeError):
    """A child process, a Dask worker or the Dask scheduler died before it returned a result."""


class Cluster:
    """Workers of a Dask cluster, accepted wherever a number of processes is.

    `open_workers` makes it. If a worker dies, another one repeats its chunk; workers that join
    later get work at once. The function, with the model in it, is sent to every worker once, then
    only chunks and results are.
    """

    def __init__(self, client: Client):
        self.client = client
        self._noted: set[str] = set()

    @contextmanager
    def ordered_map(
        self, function: Callable[[Any], Any], chunks: Iterable[Any]
    ) -> Iterator[Iterator[Any]]:
        """Context with an iterator over `function(chunk)` for every chunk, in their order.

        The function `ordered_map` calls it if `workers` is a cluster.

        Raises:
            WorkerDied: Also while iterating: the scheduler died, or several workers over one chunk.
            Exception: While iterating: the function raised it.
        """
        name = f"graphcnf-{uuid.uuid4().hex}"
        # Not as an argument of the tasks: Dask prefers the worker that has the argument already.
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
            results.close()  # Dask cancels tasks whose results nobody holds
            if self.client.status == "running":
                # Fails if the scheduler dies meanwhile; then nothing is left to clean up.
                with suppress(OSError, ValueError, CancelledError):
                    self.client.unregister_worker_plugin(name)

    def _count(self) -> int:
        """Return the number of workers."""
        with self._reached():
            return len(self.client.nthreads())

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Return a context that turns errors of a lost scheduler or worker into `WorkerDied`."""
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
        """Wait for a task of `_work`, and return what the function returned."""
        with self._reached():
            while True:
                try:
                    where, reply = task.result(timeout=PATIENCE)
                    break
                # distributed raises the latter if the result comes as the time ends: the next
                # round has it.
                except (TimeoutError, UnboundLocalError):
                    if self.client.status != "running":
                        raise CancelledError from None
                    if not self._count():
                        self._note_once("there is no Dask worker; waiting for one")
        if where != (own := json.dumps(environment())):
            self._note_once(
                "workers have other package versions or processors, so rounding may differ, and "
                f"single results with it ({where}; here {own})"
            )
        return result_of(reply)

    def _note_once(self, text: str) -> None:
        """Print a note on stderr, unless it has been printed before."""
        if text not in self._noted:
            self._noted.add(text)
            say(f"note: {text}")


Workers = int | Cluster | None
"""A number of processes, a cluster, or None for one process per available core."""


@contextmanager
def ordered_map(
    function: Callable[[Any], Any], chunks: Iterable[Any], *, workers: int | Cluster
) -> Iterator[Iterator[Any]]:
    """Context with an iterator over `function(chunk)` for every chunk, in the order of the chunks.

    Up to three results per worker (`AHEAD`) are computed before they are requested. Leaving the
    context stops all work. If this process dies, each child ends after its current chunk.

    Args:
        function: A function at the top level of an importable module, or a `functools.partial` of
            one; it is pickled and sent to every process once.
        chunks: Arguments, possibly endless; they and the results are pickled.
        workers: Number of processes, or a cluster. With 1, this process computes each result when
            the iterator is asked for it.

    Raises:
        WorkerDied: While iterating: a process or the scheduler died.
        Exception: While iterating: the function raised it; its traceback is attached as a note. An
            exception that cannot be pickled becomes a `RuntimeError`.
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
        except RuntimeError as error:  # the system's limit of threads is reached
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


def _in_order(
    chunks: Iterable[Any],
    submit: Callable[[Any], Callable[[], Any]],
    most: Callable[[], int],
) -> Generator[Any]:
    """Yield the results of all chunks, in the order of the chunks."""
    waiting: deque[Callable[[], Any]] = deque()
    for chunk in chunks:
        waiting.append(submit(chunk))
        if len(waiting) >= most():
            yield waiting.popleft()()
    while waiting:
        yield waiting.popleft()()


class Worker:
    """A child process that applies one function to one chunk at a time.

    Call `apply` any number of times, then `close`.
    """

    def __init__(self, function: bytes):
        paths = os.pathsep.join(os.path.abspath(p) for p in sys.path)
        # In a process group of its own, Ctrl-C and `timeout` do not reach the child.
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
        """Apply the function to a chunk, and wait for the reply.

        The reply is True and the pickled result, or False and the pickled exception. `WorkerDied`
        is raised if the process ended without one.
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
        """Kill the process and, on POSIX systems, its own child processes."""
        with suppress(OSError):
            if os.name == "posix" and self.process.returncode is None:
                os.killpg(self.process.pid, signal.SIGKILL)
            else:
                self.process.kill()

    def close(self) -> None:
        """Close the pipes, which ends the process, and wait for its end."""
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with suppress(OSError):
                pipe.close()
        self._ending()

    def _ending(self) -> str:
        """Wait for the end of the process, and kill it after 10 seconds (`GRACE`)."""
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
    """Return the result in a reply of `Worker.apply`, or raise its exception."""
    succeeded, data = reply
    value = pickle.loads(data)
    if not succeeded:
        raise value
    return value


def parallel_map(
    function: Callable[[Any], Any],
    chunks: Sequence[Any],
    *,
    workers: Workers = None,
    label: str = "",
) -> list[Any]:
    """Apply a function to chunks in several processes, and return all results at once.

    Use `ordered_map` to read results while others are computed.

    Args:
        function: A function at the top level of an importable module, or a `functools.partial` of
            one.
        chunks: Arguments of the function; they and the results are pickled.
        workers: Number of processes, or a cluster; None for one process per available core.
        label: Text before a progress bar; "" for no bar.

    Returns:
        `[function(chunk) for chunk in chunks]`.

    Raises:
        WorkerDied: A process or the scheduler died.
        Exception: The function raised it.
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


def available_cores() -> int:
    """Return the number of cores that CPU affinity and the container's quota allow, rounded up."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, cpu_quota())))


def framed(value: object) -> bytes:
    """Return a value as a message for the pipe of a `Worker`: pickled, and its bytes pickled again.

    So the receiver can read the whole message from its pipe even if it cannot unpickle the value.
    """
    return pickle.dumps(pickle.dumps(value))


def _serve() -> None:
    """Run a `Worker`: read a function, then chunks from stdin, and write a reply for each."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not get between the replies
    requests = sys.stdin.buffer
    try:
        function = pickle.load(requests)
        while True:
            chunk = pickle.load(requests)
            pickle.dump(_answer(function, chunk), replies)
            replies.flush()
    except (EOFError, BrokenPipeError, KeyboardInterrupt, pickle.UnpicklingError):
        os._exit(0)  # skip the flush at exit: the pipe is closed


_unpickled = lru_cache(maxsize=2)(pickle.loads)


def _answer(function: bytes, chunk: bytes) -> tuple[bool, bytes]:
    """Apply a pickled function to a pickled chunk."""
    try:
        return True, pickle.dumps(_unpickled(function)(pickle.loads(chunk)))
    except Exception as error:
        error.add_note(traceback.format_exc())
        try:
            data = pickle.dumps(error)
            pickle.loads(data)  # some exceptions can be pickled but not unpickled
        except Exception:
            data = pickle.dumps(RuntimeError(described(error)))
        return False, data


def _plugin(name: str, message: bytes) -> Any:
    """Return the plugin by which every Dask worker receives a function when it joins."""
    from distributed import WorkerPlugin

    class Message(WorkerPlugin):
        # Pickled by value: only an import inside the method reaches the worker's own module.
        def setup(self, worker) -> None:
            from graphcnf.compute import cpu, parallel

            # Dask sets MALLOC_TRIM_THRESHOLD_=65536, which hands memory back early.
            cpu.keep_memory()
            parallel._functions[name] = message

        def teardown(self, worker) -> None:
            from graphcnf.compute import parallel

            parallel._functions.pop(name, None)

    return Message()


def _work(name: str, chunk: bytes) -> tuple[str, tuple[bool, bytes]]:
    """Apply a function that a Dask worker has received to a chunk."""
    with _LOCK:  # torch's number of threads is a setting of the whole process
        return json.dumps(environment()), _answer(_functions[name], chunk)


def check_cluster(cluster: str) -> None:
    """Check the name of a cluster before any work, and that Dask is installed.

    Args:
        cluster: "local" for processes of this machine, the address of a scheduler (tcp://host:8786,
            tls://host:8786), or the .json file that a scheduler has written.
    """
    if cluster != "local" and not _ADDRESS.fullmatch(cluster):
        if not cluster.lower().endswith(".json"):
            raise UserError(
                f"cluster must be local, the address of a scheduler such as tcp://host:8786, or "
                f"the .json file that a scheduler wrote, got {cluster!r}"
            )
        if not Path(cluster).is_file():
            raise UserError(f"no such file: {cluster}")
    for package in ("distributed", "cryptography"):
        require(package, "a cluster", "cluster")


@contextmanager
def open_workers(cluster: str | None, workers: int | None = None) -> Iterator[Workers]:
    """Return a context with a connection to a Dask cluster, or without one if `cluster` is None.

    At the end, the connection is closed, and a local cluster is stopped.

    Args:
        cluster: "local" to start a cluster of processes on this machine; the address of the
            scheduler of a running cluster, or the .json file that its scheduler has written; None
            for no cluster.
        workers: Number of processes of a local cluster, or those to use if there is no cluster;
            None for one per core. A running cluster has its own workers, and the number is ignored.

    Yields:
        The value for the argument `workers` of `parallel_map` and the like: a `Cluster`; without a
        cluster the given `workers`, unchanged.
    """
    if cluster is None:
        yield workers
        return
    check_cluster(cluster)
    import dask
    from distributed import Client, LocalCluster

    # A worker's death is no failure here, and the scheduler's is reported in one line: silence
    # Dask's own warnings and tracebacks. Its configuration sets a level for both names.
    level = logging.WARNING if os.environ.get("GRAPHCNF_DEBUG") else logging.CRITICAL
    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(level)
    with ExitStack() as stack:
        address: Any = cluster
        if cluster == "local":
            # Dask reads these settings whenever a worker dies, so they stay for the whole context.
            stack.enter_context(dask.config.set(LOCAL))
            with _interrupts_blocked():
                local = LocalCluster(
                    n_workers=workers or available_cores(),
                    threads_per_worker=1,
                    silence_logs=level,
                    # Other users of this machine can reach its ports; TLS keys keep them out.
                    security=True,
                    dashboard_address="127.0.0.1:0",
                    scheduler_kwargs={"dashboard": False},
                )
            address = stack.enter_context(local)
        elif not _ADDRESS.fullmatch(cluster):
            try:
                address = str(read_json(cluster)["address"])
            except (OSError, ValueError, KeyError, TypeError):
                raise UserError(f"{cluster}: not the file of a Dask scheduler") from None
        try:
            client = Client(address, set_as_default=False, timeout=CONNECT)
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"cannot reach the Dask scheduler of {cluster}: {reason:.200}"
            ) from None
        yield Cluster(stack.enter_context(client))


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Return a context in which new threads and processes start with SIGINT blocked."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # Starting the tracker unblocks SIGINT in this thread, so it has to run before.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
