"""Settings of torch that hold for a whole process, set aside while this package computes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

_given: list[torch.dtype] = []
"""The user's default type, once for each active context that has changed it."""

_GUARD, _ONE_AT_A_TIME = threading.Lock(), threading.RLock()


@contextmanager
def default_type(dtype: torch.dtype = torch.float32) -> Iterator[None]:
    """Return a context with a floating type as torch's default, and the CPU as default device.

    The default type is one for all threads: it is restored when the last of them leaves the
    context. A default of float32 is left as it is, since models in float64 compute with that, too.
    """
    with _GUARD:
        before = torch.get_default_dtype()
        changed = before != torch.float32 or bool(_given)
        if changed:
            _given.append(_given[0] if _given else before)
            torch.set_default_dtype(dtype)
    elsewhere = torch.get_default_device().type != "cpu"
    try:
        with torch.device("cpu") if elsewhere else nullcontext():
            yield
    finally:
        if changed:
            with _GUARD:
                before = _given.pop()
                if not _given:
                    torch.set_default_dtype(before)


@contextmanager
def own_modes(dtype: torch.dtype = torch.float32) -> Iterator[None]:
    """Return a context with gradients, outside of inference mode, and with `default_type`.

    Models are built, loaded and trained in it.

    Args:
        dtype: Floating type that is torch's default in it.
    """
    with torch.inference_mode(False), torch.enable_grad(), default_type(dtype):
        yield


@contextmanager
def learning(dtype: torch.dtype = torch.float32) -> Iterator[None]:
    """Return the context `own_modes` for one thread at a time, for which other threads wait.

    Weights and noise come from the one random generator that all threads share, so that two
    trainings at once would not be functions of their seeds.

    Args:
        dtype: Floating type that is torch's default in it.
    """
    with _ONE_AT_A_TIME, own_modes(dtype):
        yield
