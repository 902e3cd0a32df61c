"""Factorized base densities, and random draws that are reproducible per record.

A *base density* is the density of the latents of a flow: independent variables of a simple
distribution. A *record* is one sample of a series, such as one graph. Each record has a random
generator of its own, so that it does not depend on the other records of its batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.flows.transform import Generators, log_term_dtype, masked, sum_log_term


def record_generators(seed: int | tuple, first: int, count: int) -> list[np.random.Generator]:
    """Return a random generator for each of the records ``first`` to ``first + count - 1``.

    A generator depends on nothing but the seed and the number of its record: Philox, a
    counter-based generator, with a key made of both.

    Args:
        seed: seed of the series, an integer or a tuple of integers from 0 on.
        first: number of the first record, from 0.
        count: number of records.

    Examples:
        >>> third = record_generators(0, 2, 1)[0].random()
        >>> record_generators(0, 0, 5)[2].random() == third
        True
    """
    return [
        np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, record))))
        for record in range(first, first + count)
    ]


def draw_normal(shape: Sequence[int], **options) -> Tensor:
    """Draw standard normal numbers; shape, options and errors are those of `draw_uniform`."""
    return _draw("normal", shape, **options)


def draw_uniform(shape: Sequence[int], **options) -> Tensor:
    """Draw uniform numbers in [0, 1).

    Args:
        shape: ``(B, ..., D)``.
        **options: ``mask``: ``shape[:-1]`` bool; masked entries are 0. ``generator``: torch
            generator for the whole batch (None for torch's global generator), or B numpy
            generators, each of which draws the real entries of its own record. ``device`` of the
            result. ``dtype`` of the result, torch's default type if None.

    Returns:
        ``(B, ..., D)``.

    Raises:
        ValueError: if the number of numpy generators is not B.
    """
    u = _draw("uniform", shape, **options)
    # numpy draws in float64, which can round to 1 in the type of the result.
    return u.clamp(max=1 - torch.finfo(u.dtype).eps / 2)


def _draw(
    kind: Literal["normal", "uniform"],
    shape: Sequence[int],
    *,
    mask: Tensor | None = None,
    generator: Generators = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Draw numbers of a distribution; the other arguments are those of `draw_uniform`."""
    dtype = dtype or torch.get_default_dtype()
    if generator is None or isinstance(generator, torch.Generator):
        # A torch generator draws on its own device only, which may differ from the result's.
        source = device if generator is None else generator.device
        draw = torch.rand if kind == "uniform" else torch.randn
        noise = draw(shape, generator=generator, device=source, dtype=dtype)
        return masked(noise.to(device), mask)

    if len(generator) != shape[0]:
        raise ValueError(f"{len(generator)} generators for a batch of {shape[0]} records")
    noise = torch.zeros(shape, dtype=torch.float64)
    real = None if mask is None else mask.cpu()
    for record, random in enumerate(generator):
        # Only real entries draw, so that padding does not shift the numbers of a record.
        size = tuple(shape[1:]) if real is None else (int(real[record].sum()), shape[-1])
        drawn = random.random(size) if kind == "uniform" else random.standard_normal(size)
        values = torch.as_tensor(drawn, dtype=torch.float64)
        if real is None:
            noise[record] = values
        elif real.dim() == 1:
            # A mask (B,) says whether the record is real: `values` has one row, or none, whose sum
            # is 0.
            noise[record] = values.sum(0)
        else:
            noise[record, real[record]] = values
    return noise.to(device=device, dtype=dtype)


def logistic_log_density(z: Tensor) -> Tensor:
    """Return the standard logistic log-density of every element, nats."""
    z = z.abs()
    return -z - 2 * F.softplus(-z)


def logistic_quantile(u: Tensor) -> Tensor:
    """Return quantiles of the standard logistic density: uniform numbers become logistic ones.

    Args:
        u: Numbers in [0, 1), float64: in float32, uniform numbers are too coarse for the tails.

    Returns:
        Of the shape and type of ``u``; finite, also for 0.
    """
    return torch.logit(u.clamp(1e-16, 1 - 1e-16))


class BaseDensity(nn.Module):
    """Factorized density of the latents of a flow; subclasses write `log_density` and `sample`."""

    def log_density(self, z: Tensor) -> Tensor:
        """Return the log-density of every element of ``z``, without a sum over elements.

        Args:
            z: latents, ``(B, ..., D)``.

        Returns:
            Nats, of the shape of ``z``.
        """
        raise NotImplementedError

    def log_prob(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the log-density of each sample, the sum over its real entries.

        Args:
            z: latents, ``(B, ..., D)``.
            mask: True for real entries, ``z.shape[:-1]`` bool; None if all are real.

        Returns:
            ``(B,)`` in nats.
        """
        return sum_log_term(self.log_density(z.to(log_term_dtype(z))), mask)

    def sample(self, shape: Sequence[int], *, temperature: float = 1.0, **options) -> Tensor:
        """Draw latents from the density, multiplied by ``temperature``.

        Args:
            shape: shape of the result, ``(B, ..., D)``.
            temperature: factor of the latents; below 1, samples of the flow are more probable.
            **options: ``mask``, ``generator``, ``device`` and ``dtype`` of `draw_uniform`.

        Returns:
            ``(B, ..., D)``, 0 where masked.
        """
        raise NotImplementedError


class StandardNormal(BaseDensity):
    """Independent standard normal variables."""

    def log_density(self, z):
        return -0.5 * z.square() - 0.5 * math.log(2 * math.pi)

    def sample(self, shape, *, temperature=1.0, **options):
        return temperature * draw_normal(shape, **options)


class StandardLogistic(BaseDensity):
    """Independent standard logistic variables, of standard deviation ``pi / sqrt(3)``."""

    def log_density(self, z):
        return logistic_log_density(z)

    def sample(self, shape, *, temperature=1.0, mask=None, dtype=None, **options):
        u = draw_uniform(shape, mask=mask, dtype=torch.float64, **options)
        z = temperature * logistic_quantile(u)
        return masked(z, mask).to(dtype or torch.get_default_dtype())
