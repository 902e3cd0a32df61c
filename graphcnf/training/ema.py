"""Exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from graphcnf.training.checkpoint import check_finite, count


class ExponentialMovingAverage:
    """Moving average `a <- d a + (1 - d) w` of a module's parameters.

    The decay of update t = 0, 1, ... is `d = min(1 - 1 / horizon, t / (t + 9))`: the first update
    copies the weights, and early averages look back over the last tenth of the run, so that they
    do not lag behind initialisation.

    Args:
        module: the module to follow; its parameters must not be replaced afterwards.
        horizon: number of updates that the average looks back, at least 1.
    """

    def __init__(self, module: nn.Module, horizon: float):
        self.horizon = horizon
        self.updates = 0
        self.names = [name for name, _ in module.named_parameters()]
        self.parameters = [parameter for _, parameter in module.named_parameters()]
        self.average = [parameter.detach().clone() for parameter in self.parameters]

    @property
    def decay(self) -> float:
        """Decay of the next update."""
        return min(1.0 - 1.0 / self.horizon, self.updates / (self.updates + 9.0))

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the present weights."""
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - self.decay)
        self.updates += 1

    @contextmanager
    def applied(self, average: list[Tensor] | None = None) -> Iterator[None]:
        """Give the module the averaged weights inside the `with` block (swapped, not copied).

        Args:
            average: Another average, such as an earlier one, in the order of the parameters.
        """
        average = self.average if average is None else average
        self._swap(average)
        try:
            yield
        finally:
            self._swap(average)

    def _swap(self, average: list[Tensor]) -> None:
        for index, parameter in enumerate(self.parameters):
            parameter.data, average[index] = average[index], parameter.data

    def state_dict(self) -> dict[str, int | dict[str, Tensor]]:
        """Average by parameter name, and the number of updates."""
        return {
            "updates": self.updates,
            "average": dict(zip(self.names, self.average, strict=True)),
        }

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` gave; raises ValueError or KeyError where that is none."""
        self.updates = count(state["updates"])
        for name, average in zip(self.names, self.average, strict=True):
            average.copy_(state["average"][name])
        check_finite(self.average, "averaged weights")
