"""Output layers of networks, and evaluation mode.

In *evaluation mode*, layers such as dropout stop drawing: methods that score or sample run in it,
whatever the mode of the model, and restore the mode at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import nn

from graphcnf.errors import UserError
from graphcnf.torch_state import default_type

HALF = (torch.bfloat16, torch.float16)
"""Types of weights in half precision."""

Layer = TypeVar("Layer", bound=nn.Module)
Model = TypeVar("Model", bound=type[nn.Module])


class ReadOut(nn.Linear):
    """Output head: a linear layer whose outputs are parameters of a distribution.

    The class only marks the layer: optimizers with a special rule for hidden matrices, such as
    Muon, do not apply the rule to it.
    """


def zero_init(layer: Layer) -> Layer:
    """Set weights and biases of a layer to 0, and return the layer.

    A network that ends in it starts with outputs of 0: equal probabilities, or the identity.
    """
    nn.init.zeros_(layer.get_parameter("weight"))
    nn.init.zeros_(layer.get_parameter("bias"))
    return layer


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Return a context with a model in evaluation mode, after which each module has its mode again.

    A model with weights in half precision runs under autocast to their type. torch's default type
    is that of the weights, float32 for half precision.
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


def evaluates(*names: str) -> Callable[[Model], Model]:
    """Return a class decorator that runs the methods of these names in `evaluation_mode`.

    A method `encode` then raises UserError if the weights are in half precision, since its latents
    would not decode to what was encoded.
    """

    def evaluated(method: Callable) -> Callable:
        @wraps(method)
        def call(self, *args, **options):
            dtype = next((p.dtype for p in self.parameters()), torch.float32)
            if method.__name__ == "encode" and dtype in HALF:
                raise UserError(
                    f"latents in {dtype} would not decode to what was encoded: use model.float()"
                )
            with evaluation_mode(self):
                return method(self, *args, **options)

        return call

    def decorate(cls: Model) -> Model:
        for name in names:
            setattr(cls, name, evaluated(getattr(cls, name)))
        return cls

    return decorate
