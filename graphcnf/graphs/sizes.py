"""Probabilities of numbers of nodes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn


def size_prior(
    histogram: Sequence[float], max_nodes: int, sizes: tuple[int, int] | None = None
) -> np.ndarray:
    """Shares of the numbers of nodes 0 to `max_nodes`, as in a histogram.

    Args:
        histogram: How many graphs have each number of nodes; uniform from 1 on where it is empty.
        max_nodes: The largest one.
        sizes: Lowest and highest number that may be; uniform where the histogram has none there.
    """
    prior = np.zeros(max_nodes + 1)
    known = np.asarray(histogram, dtype=float)
    prior[: len(known)] = known[: len(prior)]
    if sizes is not None:
        low, high = sizes
        inside = np.zeros_like(prior)
        inside[low : high + 1] = prior[low : high + 1] if prior[low : high + 1].any() else 1
        prior = inside
    elif not prior.any():
        prior[1:] = 1
    return prior / prior.sum()


def size_log_probs(prior: np.ndarray, given: nn.Module | None, targets: Tensor | None) -> Tensor:
    """Log-probabilities (1 or B, max_nodes + 1) of the numbers of nodes, nats.

    Args:
        prior: `size_prior`.
        given: What the targets (B, P) add to its logarithm, before it is normalised again.
        targets: What is asked of each graph; None for nothing.

    Raises:
        ValueError: There are targets, but nothing that is given by them.
    """
    log_prior = torch.as_tensor(prior).log()[None]
    if targets is None:
        return log_prior
    if given is None:
        raise ValueError("this model was trained without targets")
    more = given(targets).double()
    return (log_prior.to(more) + more).log_softmax(-1)


def log_prob_of_sizes(log_probs: Tensor, sizes: Tensor) -> Tensor:
    """Of the numbers of nodes (B,), from `size_log_probs`; minus infinity beyond the largest."""
    known = sizes.clamp(0, log_probs.shape[-1] - 1)
    own = log_probs.to(sizes.device).expand(len(sizes), -1).gather(1, known[:, None])[:, 0]
    return torch.where(known == sizes, own, -math.inf)
