"""Probabilities of numbers of nodes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor


def size_prior(
    histogram: Sequence[float], max_nodes: int, sizes: tuple[int, int] | None = None
) -> np.ndarray:
    """Return the shares of the numbers of nodes 0 to `max_nodes`, as in a histogram.

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


def size_log_probs(
    prior: np.ndarray, logits: Callable[[Tensor], Tensor], conditions: Tensor | None
) -> Tensor:
    """Return log-probabilities (1 or B, max_nodes + 1) of the numbers of nodes, nats.

    Args:
        prior: `size_prior`.
        logits: Returns what conditions (B, P) add to the logarithm of the prior, before it is
            normalised again; raises ValueError where the model takes none.
        conditions: Conditions of each graph; None for none.
    """
    log_prior = torch.as_tensor(prior).log()[None]
    if conditions is None:
        return log_prior
    more = logits(conditions).double()
    return (log_prior.to(more) + more).log_softmax(-1)


def log_prob_of_sizes(log_probs: Tensor, sizes: Tensor) -> Tensor:
    """Return the own ones of `sizes` (B,) from `size_log_probs`; -inf beyond the largest."""
    known = sizes.clamp(0, log_probs.shape[-1] - 1)
    own = log_probs.to(sizes.device).expand(len(sizes), -1).gather(1, known[:, None])[:, 0]
    return torch.where(known == sizes, own, -math.inf)
