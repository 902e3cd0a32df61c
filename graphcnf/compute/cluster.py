"""Maps over the workers of a Dask cluster: on this machine or on others, and they come and go.

A `Cluster` takes the place of a number of processes in `graphcnf.compute.parallel`, with the same
results in the same order. What a dead worker was at is done again by another one, and who joins
gets work at once. The function, with the model in it, goes once to the scheduler and from there
once to every worker, also to those that join; then only chunks and results travel.

Dask itself unpickles what it is sent, on either side: whoever reaches a scheduler can run code on
its workers. Connect to your own only, inside a network that is yours or with TLS.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import pickle
import re
import signal
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphcnf.compute.environment import environment
from graphcnf.compute.files import LARGEST_TEXT, read_file, read_json
from graphcnf.compute.parallel import Engine, WorkerDied, answer, available_cores, refuse
from graphcnf.errors import UserError, require, say

if TYPE_CHECKING:
    from distributed import Client, Future

CONNECT = 10.0
"""Seconds in which a scheduler has to answer."""

PATIENCE = 10.0
"""Seconds without a result after which it is looked whether there are workers."""

LOCAL = {
    # A worker that died is given up after 15 s, which a busy machine takes for the imports alone.
    "distributed.deploy.lost-worker-timeout": 300.0,
    # The stacks of an hour are kept, some 100 KB for each second.
    "distributed.worker.profile.enabled": False,
}
"""Settings of Dask for a local cluster, in the place of its own."""

COUNTED = 1.0
"""Seconds for which a number of workers is taken to hold."""

_LOCK = threading.Lock()
_messages: dict[str, bytes] = {}
_served: dict[str, Callable] = {}


class Cluster(Engine):
    """Workers of Dask, in the place of a number of processes.

    Args:
        client: Connection to their scheduler.
        note: Called with a line that the user should see.
    """

    def __init__(self, client: Client, note: Callable[[str], None]):
        self.client = client
        self.note = note
        self._told: set[str] = set()
        self._count, self._counted = 0, -COUNTED

    def ordered_map(self, function: Callable, chunks: Iterable, *, ahead: int = 2) -> ClusterMap:
        """See `ClusterMap`."""
        return ClusterMap(self, function, chunks, ahead=ahead)

    def workers(self) -> int:
        """Return the number of processes at the moment."""
        if time.monotonic() - self._counted >= COUNTED:
            self._count, self._counted = len(self.client.nthreads()), time.monotonic()
        return self._count

    def tell_once(self, text: str) -> None:
        """Give the user a line, unless it was given before."""
        if text not in self._told:
            self._told.add(text)
            self.note(text)


class ClusterMap:
    """`graphcnf.compute.parallel.OrderedMap` on a cluster.

    A context manager, and iterable once. At most `ahead` chunks for every worker that there is, and
    two in any case, are taken before their results are.

    Args:
        cluster: The workers; each process of them works on one chunk at a time.
        function: As `OrderedMap` takes it.
        chunks: Arguments, possibly without end; they and the results are pickled.
        ahead: Chunks per worker that are worked on before they are asked for.

    Raises:
        WorkerDied: While iterating: the scheduler is gone, or a chunk took several workers down.
        Exception: While iterating, what the function raised for a chunk, as in `OrderedMap`.
    """

    def __init__(self, cluster: Cluster, function: Callable, chunks: Iterable, *, ahead: int = 2):
        self._cluster, self._client = cluster, cluster.client
        self._chunks, self._ahead = iter(chunks), ahead
        self._waiting: deque[Future] = deque()
        self._name = f"graphcnf-{uuid.uuid4().hex}"
        # No argument of the tasks: Dask would rather leave them all to the worker that has it.
        plugin = _plugin(self._name, pickle.dumps(function))
        with self._reached():
            self._client.register_plugin(plugin, self._name)

    def __enter__(self) -> ClusterMap:
        return self

    def __exit__(self, *exception) -> None:
        waiting = list(self._waiting)
        self._waiting.clear()
        if self._client.status == "running":
            # A scheduler that is gone as well has nothing left to clear up.
            with suppress(OSError, ValueError, CancelledError):
                self._client.cancel(waiting)
                self._client.unregister_worker_plugin(self._name)

    def __iter__(self) -> Iterator:
        for number, chunk in enumerate(self._chunks):
            key, data = f"{self._name}-{number}", pickle.dumps(chunk)
            with self._reached():
                task = self._client.submit(_work, self._name, data, key=key, pure=False)
                self._waiting.append(task)
                room = max(2, self._ahead * self._cluster.workers()) - len(self._waiting)
            if room <= 0:
                yield self._next()
        while self._waiting:
            yield self._next()

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
            if isinstance(error, CancelledError | OSError) or self._client.status != "running":
                raise WorkerDied("the Dask scheduler is gone") from None
            raise

    def _next(self) -> Any:
        with self._reached():
            where, (good, data) = self._result(self._waiting[0])
        self._waiting.popleft()
        if where != (own := _where()):
            self._cluster.tell_once(
                "workers have other versions or processors, which may round otherwise: single "
                f"results may differ from those of this machine ({where}; here {own})"
            )
        value = pickle.loads(data)
        if not good:
            raise value
        return value

    def _result(self, task: Future) -> tuple[str, tuple[bool, bytes]]:
        while True:
            try:
                return task.result(timeout=PATIENCE)
            except TimeoutError:
                if self._client.status != "running":
                    raise CancelledError from None
                if not self._cluster.workers():
                    self._cluster.tell_once("there is no Dask worker; waiting for one")


def _plugin(name: str, message: bytes) -> Any:
    """Return the plugin that Dask gives to every worker when it joins."""
    from distributed import WorkerPlugin

    class Message(WorkerPlugin):
        # It is pickled by value: only an import reaches the module of the worker.
        def setup(self, worker) -> None:
            from graphcnf.compute import cluster
            from graphcnf.compute.cpu import keep_memory

            # Dask starts workers with MALLOC_TRIM_THRESHOLD_=65536.
            keep_memory()
            cluster._messages[name] = message

        def teardown(self, worker) -> None:
            from graphcnf.compute import cluster

            cluster._messages.pop(name, None)
            cluster._served.pop(name, None)

    return Message()


def _work(name: str, chunk: bytes) -> tuple[str, tuple[bool, bytes]]:
    """Return the address of the worker, and the answer of a function to a chunk.

    One at a time: torch's number of threads belongs to the whole process.
    """
    with _LOCK:
        if name not in _served:
            try:
                _served[name] = pickle.loads(_messages[name])
            except Exception as error:
                _served[name] = partial(refuse, error)
        return _where(), answer(_served[name], chunk)


def _where() -> str:
    return json.dumps(environment())


@contextmanager
def open_workers(
    cluster: str | None,
    workers: int | None = None,
    note: Callable[[str], None] = lambda text: say(f"note: {text}"),
) -> Iterator[int | Cluster | None]:
    """Context with what `graphcnf.compute.parallel` takes for `workers`.

    Args:
        cluster: See `check_cluster`; None for no cluster.
        workers: Processes; on a cluster that is no local one, None.
        note: Called with a line that the user should see.

    Raises:
        UserError: The cluster cannot be reached or started.
    """
    if cluster is None:
        yield workers
        return
    check_cluster(cluster)
    with ExitStack() as stack:
        yield Cluster(_client(cluster, workers, stack), note)


def check_cluster(cluster: str) -> None:
    """See whether a cluster is named as it should be.

    Args:
        cluster: "local" for processes of this machine, the address of a scheduler
            (tcp://host:8786, tls://host:8786), the .json file that a scheduler has written, or a
            .yml file that describes a cluster to start.

    Raises:
        UserError: It is none of these, or Dask is missing.
    """
    if cluster != "local" and not _is_address(cluster):
        suffix = Path(cluster).suffix.lower()
        if suffix not in (".json", ".yml", ".yaml"):
            raise UserError(
                f"no cluster {cluster!r}: write local, the address of a scheduler as in "
                "tcp://host:8786, or the name of a .json or .yml file"
            )
        if not Path(cluster).is_file():
            raise UserError(f"no such file: {cluster}")
    for package in ("distributed", "cryptography"):
        require(package, "a cluster", "cluster")


def _is_address(cluster: str) -> bool:
    return re.fullmatch(r"(tcp|tls)://[^\s/]+:[0-9]{1,5}", cluster) is not None


def _client(cluster: str, workers: int | None, stack: ExitStack) -> Client:
    import dask
    from distributed import Client, LocalCluster

    # Dask tells of every worker that dies, which is no failure here, and prints a traceback where
    # the scheduler does, which is one line of ours. Its configuration gives both names a level.
    level = logging.WARNING if os.environ.get("GRAPHCNF_DEBUG") else logging.CRITICAL
    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(level)
    options: dict[str, Any] = {"set_as_default": False, "timeout": CONNECT}
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
        started = stack.enter_context(local)
        return stack.enter_context(Client(started, **options))
    if _is_address(cluster):
        options["address"] = cluster
    elif cluster.lower().endswith(".json"):
        try:
            options["address"] = str(read_json(cluster)["address"])
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(f"{cluster}: no file that a scheduler of Dask has written") from None
    else:
        options["address"] = stack.enter_context(_described(Path(cluster)))
    try:
        return stack.enter_context(Client(**options))
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"cannot reach the Dask scheduler of {cluster}: {reason:.200}") from None


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Threads and processes that are started here leave Ctrl-C to the thread that is here.

    It ends them; they would each print a traceback.
    """
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


def _described(path: Path) -> Any:
    """Return the cluster that a file describes.

    Raises:
        UserError: It cannot be started.
    """
    import yaml
    from distributed.deploy import Cluster as Deployed

    try:
        found = yaml.safe_load(read_file(path, LARGEST_TEXT).decode())
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{path}: no YAML: {' '.join(str(error).split()):.200}") from None
    keys = {"cls": str, "opts": dict, "scale": int, "adapt": dict}
    if not isinstance(found, dict) or not isinstance(found.get("cls"), str):
        raise UserError(f"{path}: names no cluster: write cls: dask_jobqueue.SLURMCluster")
    for key, value in found.items():
        if key not in keys or not isinstance(value, keys[key]):
            raise UserError(f"{path}: {key!r}: {', '.join(keys)} are what is taken")
    module, _, name = found["cls"].rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), name)
        if not issubclass(kind, Deployed):
            raise TypeError("it is no cluster of Dask")
        cluster = kind(**found.get("opts", {}))
        if "scale" in found:
            cluster.scale(found["scale"])
        if "adapt" in found:
            cluster.adapt(**found["adapt"])
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: cannot start {found['cls']}: {reason:.200}") from None
    return cluster
