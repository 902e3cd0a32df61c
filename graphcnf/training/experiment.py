"""What an experiment hands to the training loop, and what comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from graphcnf.training.best import Best


@dataclass
class Experiment:
    """A model and its data.

    Attributes:
        model: a module with `training_loss(batch, *, beta=1.0) -> (loss, metrics)`: a scalar
            tensor, and per metric a pair of scalar tensors (numerator, denominator) that the loop
            sums over batches before it divides.
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


@dataclass(frozen=True)
class FitResult:
    """How a run ended.

    Attributes:
        finished: whether the budget is spent, or the run has lost its patience.
        signal: number of the signal that interrupted the run, or None.
        step: steps of this run.
        minutes: minutes of this run.
        metrics: the last evaluation of the averaged weights.
        headline: the metric to minimise.
        best: first and best evaluation, where the run keeps them.
    """

    finished: bool
    signal: int | None
    step: int
    minutes: float
    metrics: dict[str, float]
    headline: str
    best: Best | None = None
