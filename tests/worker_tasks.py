"""Functions that other processes import."""

import os
import signal
import time


class Stubborn(Exception):
    """An exception that is pickled, but never unpickled."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


def slow_first(k):
    time.sleep(0.3 if k == 0 else 0.01)
    print("noise among the replies")
    return k * k, os.getpid()


def scaled(factor, k):
    return factor * k


def reciprocal(k):
    return 1 / (3 - k)


def stubborn(k):
    raise Stubborn(k, k)


def lambdas(k):
    return lambda: k


def killed_at_three(k):
    if k == 3:
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)
    return k
