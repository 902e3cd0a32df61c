"""Settings of torch and modes of models, which are set aside while this package computes.

- The *default type* and *default device* of torch are those of new tensors. A user may have set
  them to float64 or a GPU; this package computes in float32 on the CPU unless told otherwise, and
  restores them at the end.
- In *training mode*, layers such as dropout draw random numbers; in *evaluation mode* they do not.
  Methods that score or sample run in evaluation mode, and restore the mode of the model.
- *Half precision* are float16 and bfloat16.
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
    """Return a context in which new tensors have one type and are on the CPU.

    Torch has one default type for all threads: the user's is restored when the last thread leaves
    the context. `dtype` is ignored if the user's default type is float32, with which models in
    float64 compute correctly, too.
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
    """Return a context for building, loading or training models, whatever modes the user has set.

    Gradients are on, torch's inference mode is off, and new tensors are on the CPU.
    """
    with torch.inference_mode(False), torch.enable_grad(), default_type(dtype):
        yield


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Return a context with a model in evaluation mode; at the end each layer has its mode again.

    If the weights are in half precision, torch's autocast to their type is on in the context. If
    the user's default type is not float32, it is replaced by that of the weights (float32 for half
    precision).
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
    """Decorate a method of an `nn.Module`, so that it runs with the module in evaluation mode."""

    @wraps(method)
    def in_evaluation_mode(self, *args, **options):
        with evaluation_mode(self):
            return method(self, *args, **options)

    return in_evaluation_mode


def refuse_half(model: nn.Module) -> None:
    """Check that a model can encode data so that they decode exactly: not in half precision."""
    dtype = next((p.dtype for p in model.parameters()), torch.float32)
    if dtype in HALF:
        raise UserError(
            f"latents in {dtype} would not decode to what was encoded: use model.float()"
        )
