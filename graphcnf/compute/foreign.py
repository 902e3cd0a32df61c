"""Keep functions that the user has written from disturbing a command's output and folder."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import ExitStack, redirect_stdout, suppress


class Contained:
    """Context in which a function of the user is called: what it prints goes to stderr.

    What the function prints, or a program that it starts, would otherwise get between the data that
    a command writes to stdout. At the end, the working directory is restored, too. Stdout and
    working directory belong to all threads: the first thread in the context changes them, and the
    last one restores them. So there is one object for the whole process, `contained`; write
    `with contained:`.
    """

    def __init__(self) -> None:
        self._lock, self._inside, self._undo = threading.Lock(), 0, ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside > 1:
                return
            with suppress(OSError):  # of a working directory that is deleted
                self._undo.callback(_return_to, os.getcwd())
            _flush()
            self._undo.callback(_flush)
            with suppress(OSError):  # of a stream that is closed
                stdout = os.dup(1)
                self._undo.callback(os.close, stdout)
                self._undo.callback(os.dup2, stdout, 1)
                os.dup2(2, 1)
            self._undo.enter_context(redirect_stdout(sys.stderr))

    def __exit__(self, *exception) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._undo.close()


contained = Contained()


def _return_to(folder: str) -> None:
    """Make a folder the working directory; do nothing if it is deleted."""
    with suppress(OSError):  # of a folder that is deleted
        os.chdir(folder)


def _flush() -> None:
    """Flush stdout; do nothing if it is closed or missing."""
    with suppress(AttributeError, OSError, ValueError):  # of a stream that is closed, or none
        sys.stdout.flush()
