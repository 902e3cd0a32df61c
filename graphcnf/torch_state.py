"""Settings of torch and modes of models, set aside while this package computes.

In *evaluation mode*, layers such as dropout stop drawing: methods that score or sample run in it
(`evaluated`), whatever the mode of the model, and restore the mode at the end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import wraps
from typing import Any

import torch
from torch import nn

from graphcnf.errors import UserError

HALF = (torch.bfloat16, torch.float16)
"""Types of weights in half precision."""

_given: list[torch.dtype] = []
"""The user's default type, once for each active context that has changed it; the last one that
ends restores it."""

_GUARD = threading.Lock()


@contextmanager
def default_type(dtype: torch.dtype = torch.float32) -> Iterator[None]:
    """Return a context without the user's default type and device: on the CPU, with `dtype`.

    A default type of float32 is left as it is, since models in float64 compute with that, too; any
    other is replaced by `dtype`. There is one default for all threads: it is restored when the last
    of them leaves the context.
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
        dtype: Replaces a default type other than float32, see `default_type`.
    """
    with torch.inference_mode(False), torch.enable_grad(), default_type(dtype):
        yield


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Return a context with a model in evaluation mode, after which each module has its mode again.

    A model with weights in half precision runs under autocast to their type. A default type of
    torch other than float32 is replaced by that of the weights, float32 for half precision.
    """
    training = [module for module in model.modules() if module.training]
    like = next(model.parameters(), torch.empty(0, dtype=torch.float32))
    half = like.dtype in HALF
    model.eval()
    try:
        autocast: Any = torch.autocast(like.device.type, like.dtype) if half else nullcontext()
        with autocast, default_type(torch.float32 if half else like.dtype):
            yield
    finally:
        for module in training:
            module.training = True


def evaluated(method: Callable) -> Callable:
    """Decorate a method of an `nn.Module`, which then runs in `evaluation_mode` of that module."""

    @wraps(method)
    def in_evaluation_mode(self, *args, **options):
        with evaluation_mode(self):
            return method(self, *args, **options)

    return in_evaluation_mode


def refuse_half(model: nn.Module) -> None:
    """Raise `UserError` for weights in half precision, whose latents would not decode exactly."""
    dtype = next((p.dtype for p in model.parameters()), torch.float32)
    if dtype in HALF:
        raise UserError(
            f"latents in {dtype} would not decode to what was encoded: use model.float()"
        )
