"""Assertions for models whose likelihoods are bounds with fresh noise in every call."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def assert_normalised(
    log_prob: Callable[..., Tensor],
    space,
    *,
    samples: int = 1,
    repeats: int = 64,
    most_repeats: int = 4096,
    z_score: float = 4.0,
    max_error: float = 0.02,
    atol: float = 1e-4,
) -> None:
    """Check that probabilities over an enumerated discrete space sum to one.

    ``exp`` of a stochastic K-sample bound is an unbiased estimate of the probability, so the mean
    of ``sum_x exp(log_prob(x, K))`` over repeats is 1 up to its standard error. Estimates are added
    until ``z_score`` standard errors are at most ``max_error``. So, up to noise beyond the
    ``z_score``, a sum that is off by more than ``2 max_error + atol`` does not pass.

    Args:
        log_prob: called as ``log_prob(space, samples)``, returns nats ``(B,)`` with fresh noise in
            every call.
        space: a batch with every element of the space exactly once.
        samples: K.
        repeats: number of independent estimates to begin with.
        most_repeats: largest number of estimates; the test fails as inconclusive beyond it.
        z_score: how many standard errors the mean may be off.
        max_error: largest ``z_score`` standard errors at which the test decides.
        atol: allowed on top, for rounding.
    """
    totals: list[float] = []
    error = math.inf
    while error > max_error and len(totals) < most_repeats:
        with torch.no_grad():
            totals += [
                log_prob(space, samples).double().exp().sum().item()
                for _ in range(max(2, min(repeats, most_repeats - len(totals))))
            ]
        estimates = torch.tensor(totals, dtype=torch.float64)
        mean = estimates.mean().item()
        error = z_score * estimates.std().item() / math.sqrt(len(totals))
    assert abs(mean - 1) <= error + atol, f"probabilities sum to {mean:.5f} +- {error:.5f}"
    assert error <= max_error, (
        f"inconclusive: sum {mean:.4f} +- {error:.4f} after {len(totals)} repeats, with a "
        f"max_error of {max_error:g}; use more samples or allow more repeats"
    )


def assert_lower_bound(
    log_prob: Callable[..., Tensor],
    x,
    *,
    samples: Sequence[int] = (1, 8, 64),
    repeats: int = 64,
    z_score: float = 4.0,
    exact: Tensor | None = None,
    atol: float = 1e-5,
) -> None:
    """Check that the mean K-sample bound does not fall with K, nor exceeds the exact value.

    Args:
        log_prob: called as ``log_prob(x, K)``, returns nats ``(B,)`` with fresh noise in every
            call.
        x: a batch.
        samples: increasing values of K.
        repeats: number of independent evaluations of each.
        z_score: how many standard errors count as noise.
        exact: exact log-probabilities ``(B,)``, if known.
        atol: allowed on top, for rounding.
    """
    if list(samples) != sorted(set(samples)):
        raise ValueError(f"samples must increase, got {list(samples)}")
    if repeats < 2:
        raise ValueError(f"repeats must be at least 2, for a standard error, got {repeats}")
    previous, previous_error, previous_samples = -math.inf, 0.0, 0
    for count in samples:
        with torch.no_grad():
            values = torch.stack([log_prob(x, count).double().mean() for _ in range(repeats)])
        mean, error = values.mean().item(), values.std().item() / math.sqrt(repeats)
        noise = z_score * math.hypot(error, previous_error) + atol
        assert mean >= previous - noise, (
            f"the bound falls from {previous:.4f} with K={previous_samples} to {mean:.4f} with "
            f"K={count} (noise {noise:.4f})"
        )
        if exact is not None:
            limit = exact.double().mean().item()
            assert mean <= limit + z_score * error + atol, (
                f"the bound {mean:.4f} with K={count} exceeds the exact value {limit:.4f}"
            )
        previous, previous_error, previous_samples = mean, error, count
