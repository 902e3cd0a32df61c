"""Map a function over chunks in worker processes, without asking anything of the calling script.

`multiprocessing` with 'spawn' runs the caller's main module again, which a script without an
`if __name__ == "__main__"` guard does not survive, and 'fork' deadlocks next to the threads of
torch. Plain child processes that talk over pipes have neither problem.
"""

from __future__ import annotations

import os
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module

_SERVE = "from graphcnf.datasets.parallel import _serve; _serve()"


def parallel_map(
    function: Callable, chunks: Sequence, *, workers: int | None = None, label: str = ""
) -> list:
    """`[function(chunk) for chunk in chunks]`, in child processes.

    Args:
        function: A function at the top level of an importable module.
        chunks: Arguments; they and the results are pickled.
        workers: Processes; None for one per available core, 1 for none but this one.
        label: What the progress bar says (shown on a terminal only).
    """
    workers = min(workers or _cores(), len(chunks))
    results: list = [None] * len(chunks)
    with _progress(label, len(chunks)) as advance:
        if workers <= 1 or not sys.executable:
            for k, chunk in enumerate(chunks):
                results[k] = function(chunk)
                advance()
            return results
        todo: queue.SimpleQueue = queue.SimpleQueue()
        for k in range(len(chunks)):
            todo.put(k)
        errors: list[BaseException] = []
        lock = threading.Lock()

        def feed(process: subprocess.Popen) -> None:
            try:
                while not errors:
                    try:
                        k = todo.get_nowait()
                    except queue.Empty:
                        return
                    request = (function.__module__, function.__qualname__, chunks[k])
                    pickle.dump(request, process.stdin)
                    process.stdin.flush()
                    good, value = pickle.load(process.stdout)
                    if not good:
                        raise value
                    results[k] = value
                    with lock:
                        advance()
            except (EOFError, BrokenPipeError):
                errors.append(RuntimeError(f"a worker process died ({label or function})"))
            except Exception as error:
                errors.append(error)

        processes = [_spawn() for _ in range(workers)]
        try:
            threads = [threading.Thread(target=feed, args=(p,), daemon=True) for p in processes]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        except BaseException:
            for process in processes:
                process.kill()
            raise
        finally:
            for process in processes:
                process.stdin.close()
                process.wait()
                process.stdout.close()
        if errors:
            raise errors[0]
    return results


def chunked(items: Sequence, size: int) -> list:
    """Consecutive slices of `size` items."""
    return [items[k : k + size] for k in range(0, len(items), size)]


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _spawn() -> subprocess.Popen:
    paths = os.pathsep.join(os.path.abspath(p) for p in sys.path)
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-P", "-c", _SERVE],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment,
    )  # fmt: skip


def _serve() -> None:
    """Answer requests from stdin until it closes, which it also does when the parent dies."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing that prints may end up among the replies
    while True:
        try:
            module, name, chunk = pickle.load(sys.stdin.buffer)
        except (EOFError, KeyboardInterrupt):
            return
        try:
            reply = (True, getattr(import_module(module), name)(chunk))
        except KeyboardInterrupt:
            return
        except Exception as error:
            reply = (False, error)
        try:
            pickle.dump(reply, replies)
            replies.flush()
        except BrokenPipeError:
            os._exit(0)  # without another attempt to flush


@contextmanager
def _progress(label: str, total: int) -> Iterator[Callable[[], None]]:
    """Progress bar on stderr, where that is a terminal."""
    if not label or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=total)
        yield lambda: progress.advance(task)
