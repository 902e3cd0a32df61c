"""Copies of this process that are killed: nothing is imported again, as it is in a new process."""

import os
import signal
from contextlib import suppress


def in_a_copy(function):
    """Call a function in a copy of this process: its exit code, or less than 0 for a signal."""
    child = os.fork()
    if not child:
        with suppress(BaseException):
            function()
        os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_at(call, *names):
    """Let this process be killed before a call of functions of `os`, the first of which is 1."""
    calls = []

    def counted(function):
        def counting(*arguments):
            calls.append(function)
            if len(calls) == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments)

        return counting

    for name in names:
        setattr(os, name, counted(getattr(os, name)))
