"""The best averaged weights of a run so far."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from graphcnf.training.checkpoint import check_finite, count, figures
from graphcnf.training.ema import ExponentialMovingAverage


class Best:
    """Held-out figures of the start, and the averaged weights of the best evaluation since.

    Attributes:
        first: Metrics of the evaluation before the first step.
        metrics: Metrics of the best evaluation.
        step: After how many steps it was made, -1 before any.
        worse: Evaluations since, none of them better.
        average: The weights, in the order of the model's parameters.
    """

    def __init__(self, step: int = -1, metrics: dict | None = None, average: list | None = None):
        self.first: dict[str, float] = {}
        self.metrics: dict[str, float] = metrics or {}
        self.step, self.worse = step, 0
        self.average: list[Tensor] = average or []

    def offer(
        self, step: int, metrics: dict[str, float], headline: str, ema: ExponentialMovingAverage
    ) -> None:
        """Take an evaluation of the averaged weights, and copy them where it is the best one."""
        if self.step < 0:
            self.first = metrics
        if self.step < 0 or _rank(metrics[headline]) < _rank(self.metrics[headline]):
            self.metrics, self.step, self.worse = metrics, step, 0
            self.average = [tensor.clone() for tensor in ema.average]
        else:
            self.worse += 1

    def state_dict(self) -> dict[str, Any]:
        """Everything, for a checkpoint."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave; raises ValueError where that is none."""
        if state.keys() != vars(self).keys():
            raise ValueError(f"the best weights come with {', '.join(vars(self))}")
        self.first, self.metrics = figures(state["first"]), figures(state["metrics"])
        self.step, self.worse = count(state["step"] + 1) - 1, count(state["worse"])
        check_finite(state["average"], "best weights")
        self.average = list(state["average"])


def _rank(value: float) -> float:
    return value if math.isfinite(value) else math.inf
