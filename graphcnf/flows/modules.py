"""Output layers of networks, and evaluation mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import nn

from graphcnf.compute.torch_state import default_type
from graphcnf.errors import UserError

HALF = (torch.bfloat16, torch.float16)

Layer = TypeVar("Layer", bound=nn.Module)
Model = TypeVar("Model", bound=type[nn.Module])


class ReadOut(nn.Linear):
    """Linear output layer, whose outputs are parameters of a distribution.

    Optimizers with a special rule for hidden matrices, as Muon, do not apply it to this layer.
    """


def zero_init(layer: Layer) -> Layer:
    """Set weights and biases of a layer to 0, and return it."""
    nn.init.zeros_(layer.get_parameter("weight"))
    nn.init.zeros_(layer.get_parameter("bias"))
    return layer


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, and restore the mode of every submodule at the end.

    A model with weights in half precision runs under autocast to their type. torch's default type
    is that of the weights, float32 for half precision.
    """
    training = [part for part in model.modules() if part.training]
    own = next(model.parameters(), torch.empty(0, dtype=torch.float32))
    half = own.dtype in HALF
    model.eval()
    try:
        autocast: Any = torch.autocast(own.device.type, own.dtype) if half else nullcontext()
        with autocast, default_type(torch.float32 if half else own.dtype):
            yield
    finally:
        for part in training:
            part.training = True


def evaluates(*names: str) -> Callable[[Model], Model]:
    """Return a class decorator that runs the methods of these names in `evaluation_mode`.

    A method `encode` then raises UserError if the weights are in half precision.
    """

    def evaluated(method: Callable) -> Callable:
        @wraps(method)
        def call(self, *args, **options):
            own = next((p.dtype for p in self.parameters()), torch.float32)
            if method.__name__ == "encode" and own in HALF:
                raise UserError(
                    f"latents in {own} would not decode to what was encoded: use model.float()"
                )
            with evaluation_mode(self):
                return method(self, *args, **options)

        return call

    def decorate(cls: Model) -> Model:
        for name in names:
            setattr(cls, name, evaluated(getattr(cls, name)))
        return cls

    return decorate
