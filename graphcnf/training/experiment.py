"""A model with its data, as the training loop takes them, its objective, and the end of a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class Experiment:
    """A model and its data.

    Attributes:
        model: a module with `training_loss(batch, *, beta=1.0) -> (loss, metrics)`: a scalar
            tensor, and per metric a pair of scalar tensors (numerator, denominator) that the loop
            sums over batches before it divides. The moving average of its weights is kept in a
            deep copy.
        train_batches: `train_batches(epoch, seed, start)` yields the batches of one epoch from
            number `start` on. Which batches an epoch has is a function of (epoch, seed) alone, so
            that a resumed run sees the same data in the same order. Where several processes train,
            each takes its slice `batch[rank::processes]` of every batch.
        eval_batches: yields the held-out batches, the same ones in the same order every time.
        headline: metric to minimise; None takes the first of the usual names the model reports.
        words: turns a row of metrics into a line of the log, None for no line; without it, a line
            gives every metric.
    """

    model: nn.Module
    train_batches: Callable[[int, int, int], Iterator[Any]]
    eval_batches: Callable[[], Iterable[Any]]
    headline: str | None = None
    words: Callable[[dict[str, Any]], str | None] | None = None


class Objective(nn.Module):
    """Training loss and metrics of a batch; gradients flow from the loss only."""

    def __init__(self, model: nn.Module, bf16: bool):
        super().__init__()
        self.model, self.bf16 = model, bf16

    def forward(self, batch: Any, beta: float, device: torch.device):
        """Return loss and metrics as `Experiment` has them."""
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            training_loss: Any = self.model.training_loss
            loss, metrics = training_loss(batch, beta=beta)
        return loss, {name: tuple(map(_detached, pair)) for name, pair in metrics.items()}


@dataclass
class Best:
    """First and best evaluation of the averaged weights.

    Attributes:
        first: metrics before the first step.
        metrics: metrics of the evaluation that is kept.
        step: number of steps before it, -1 before any evaluation.
        least: lowest headline so far.
        worse: number of evaluations since the one that is kept.
    """

    first: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    step: int = -1
    least: float = math.inf
    worse: int = 0

    def offer(
        self, step: int, metrics: dict[str, float], headline: str, tolerance: float = 0.0
    ) -> bool:
        """Take an evaluation, and return True where its weights are to be kept.

        Args:
            step: number of steps before it.
            metrics: its metrics.
            headline: the one to minimise.
            tolerance: share of the lowest headline by which a later evaluation may be worse and
                still be kept, if it is better than the first one.
        """
        value = _rank(metrics[headline])
        if self.step < 0:
            self.first = metrics
        near = min(self.least * (1 + tolerance), _rank(self.first[headline]))
        if self.step >= 0 and value >= max(self.least, near):
            self.worse += 1
            return False
        self.least = min(self.least, value)
        self.metrics, self.step, self.worse = metrics, step, 0
        return True


@dataclass(frozen=True)
class FitResult:
    """End of a run.

    Attributes:
        finished: whether the budget is spent, or the run has lost its patience.
        signal: number of the signal that interrupted the run, or None.
        step: steps of this run.
        minutes: minutes of this run.
        metrics: the last evaluation of the averaged weights.
        headline: the metric to minimise.
        best: first and best evaluation, where the run keeps the best weights.
    """

    finished: bool
    signal: int | None
    step: int
    minutes: float
    metrics: dict[str, float]
    headline: str
    best: Best | None = None


def _rank(value: float) -> float:
    return value if math.isfinite(value) else math.inf


def _detached(value: Tensor | float) -> Tensor | float:
    return value.detach() if isinstance(value, Tensor) else value
