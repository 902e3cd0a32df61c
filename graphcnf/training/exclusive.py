"""One training at a time in a process, whatever the number of threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from graphcnf.torch_state import own_modes

_ONE_AT_A_TIME = threading.RLock()


@contextmanager
def learning(dtype: torch.dtype = torch.float32) -> Iterator[None]:
    """Return a context for a training, which one thread at a time can enter; other threads wait.

    Weights and noise come from the one random generator that all threads share. Two trainings at
    once would mix their random numbers, and neither would be a function of its seed. Within the
    context, torch's modes and default type are those of `graphcnf.torch_state.own_modes`.
    """
    with _ONE_AT_A_TIME, own_modes(dtype):
        yield
