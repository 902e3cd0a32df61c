"""Ctrl-C (SIGINT) and SIGTERM end a command promptly, and let it clean up.

Two contexts, each for one of the signals: `prompt_interrupts` makes Ctrl-C work while a library
computes, `termination_raises` turns SIGTERM into an exception. Both do nothing outside of the main
thread, which alone receives signals in Python.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def prompt_interrupts() -> Iterator[None]:
    """Return a context in which Ctrl-C always raises KeyboardInterrupt, also while RDKit computes.

    RDKit's substructure search replaces the handler of SIGINT by its own, which only cuts that
    search short: the user would press Ctrl-C, and the command would go on. Here SIGINT is blocked
    in all threads, so that no such handler is called. A thread waits for it and sends SIGURG to the
    main thread, whose handler calls Python's handler of SIGINT.

    Nothing is done outside of the main thread, and on systems without POSIX signals (Windows).
    """
    main = threading.main_thread()
    if not hasattr(signal, "pthread_sigmask") or threading.current_thread() is not main:
        yield
        return

    def wait() -> None:
        while signal.sigwait(both) == signal.SIGINT:
            signal.pthread_kill(main.ident, signal.SIGURG)  # type: ignore[arg-type]

    def hand_on(number, frame) -> None:
        handler = signal.getsignal(signal.SIGINT)
        if callable(handler):
            handler(signal.SIGINT, frame)

    both = {signal.SIGINT, signal.SIGURG}
    mask, before = signal.pthread_sigmask(signal.SIG_BLOCK, both), signal.getsignal(signal.SIGURG)
    signal.signal(signal.SIGURG, hand_on)
    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGURG})
    try:
        yield
    finally:
        signal.pthread_kill(waiting.ident, signal.SIGURG)  # type: ignore[arg-type]
        waiting.join()
        signal.signal(signal.SIGURG, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextmanager
def termination_raises() -> Iterator[None]:
    """Return a context in which SIGTERM raises SystemExit, as Ctrl-C raises KeyboardInterrupt.

    So a command that a scheduler stops closes its files first. The exit code is 128 + 15. Nothing
    is done outside of the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(signal_number: int, frame) -> None:
        raise SystemExit(128 + signal_number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
