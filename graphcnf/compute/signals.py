"""Prompt and orderly reactions to SIGINT and SIGTERM."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def prompt_interrupts() -> Iterator[None]:
    """Return a context in which Ctrl-C reaches Python's handler even while a library has its own.

    RDKit's substructure search installs one, which only cuts the search short. Here SIGINT is
    blocked in all threads; a waiting thread receives it and wakes the main thread by SIGURG.
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
    """Return a context in which SIGTERM raises SystemExit, as Ctrl-C raises KeyboardInterrupt."""
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
