"""One training at a time, whatever the number of threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from graphcnf.torch_state import own_modes

_ONE_AT_A_TIME = threading.RLock()


@contextmanager
def learning(dtype: torch.dtype = torch.float32) -> Iterator[None]:
    """Return the context `own_modes` for one thread at a time, for which other threads wait.

    Weights and noise come from the one random generator that all threads share, so that two
    trainings at once would not be functions of their seeds.

    Args:
        dtype: Replaces a default type other than float32, see `default_type`.
    """
    with _ONE_AT_A_TIME, own_modes(dtype):
        yield
