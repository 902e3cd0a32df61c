"""Evaluation mode, for likelihoods and samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import wraps
from typing import TypeVar

import torch
from torch import Tensor, nn

from graphcnf.errors import UserError

HALF = (torch.bfloat16, torch.float16)

Model = TypeVar("Model", bound=type[nn.Module])


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, and each of its parts back into its own mode at the end.

    Gradients are taken as outside. Where the weights are bfloat16 or float16, networks compute in
    that type and log-probabilities in float32, by autocast.
    """
    training = [part for part in model.modules() if part.training]
    own: Tensor = next(model.parameters(), torch.empty(0))
    half = own.dtype in HALF
    model.eval()
    try:
        with torch.autocast(own.device.type, own.dtype) if half else nullcontext():
            yield
    finally:
        for part in training:
            part.training = True


def evaluates(*names: str) -> Callable[[Model], Model]:
    """Return a class decorator that runs the methods of these names in `evaluation_mode`.

    Meant for likelihoods and samples of a model with a `training_loss`: they do not depend on the
    mode of the model. `encode` raises UserError in half precision.
    """

    def decorate(cls: Model) -> Model:
        for name in names:
            setattr(cls, name, _evaluated(getattr(cls, name)))
        return cls

    return decorate


def _evaluated(method: Callable) -> Callable:
    @wraps(method)
    def evaluated(self, *args, **options):
        own = next(self.parameters()).dtype
        if method.__name__ == "encode" and own in HALF:
            raise UserError(
                f"latents in {own} would not decode to what was encoded: use model.float()"
            )
        with evaluation_mode(self):
            return method(self, *args, **options)

    return evaluated
