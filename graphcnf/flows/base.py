"""Base densities of flows, and random draws that do not depend on the rest of the batch.

Latents are `(B, ..., D)`: B samples, any axes of *entries*, D channels. A *mask* `(B, ...)` is True
at real entries. A *record* is one sample of a long series, such as graph number 7 of a seed. It has
a random generator of its own, so that it comes out the same whatever else is drawn with it.
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
    """Return a generator for each of the records `first` to `first + count - 1`.

    It is a function of the seed (an integer from 0, or a tuple of them) and of the number of the
    record: Philox, a counter-based generator, whose key is made of both.

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
    """Draw standard normal numbers, 0 where masked; the options are those of `draw_uniform`."""
    return _draw("normal", shape, **options)


def draw_uniform(shape: Sequence[int], **options) -> Tensor:
    """Draw uniform numbers in [0, 1), for a batch at once or by a generator for each record.

    Args:
        shape: Shape of the result, `(B, ..., D)`.
        **options: All may be left out: `device` and `dtype`, and

            - `mask`, `shape[:-1]` bool, is True at real entries; the others are 0.
            - `generator` is a torch generator for the whole batch, or a list of B numpy
              generators, one for each record. A numpy generator draws real entries only, so that
              padding does not change the numbers of a record.
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
    """Return the log-density of standard logistic numbers, `-z - 2 log(1 + exp(-z))`, nats."""
    z = z.abs()
    return -z - 2 * F.softplus(-z)


def logistic_quantile(u: Tensor) -> Tensor:
    """Turn uniform random numbers into standard logistic ones: `log(u / (1 - u))`.

    It is finite also for u = 0. Pass float64; float32 is too coarse for the tails.
    """
    return torch.logit(u.clamp(1e-16, 1 - 1e-16))


class BaseDensity(nn.Module):
    """Density of the latents of a flow, whose elements are independent."""

    def log_density(self, z: Tensor) -> Tensor:
        """Return the log-density of every single element, `(B, ..., D)` nats."""
        raise NotImplementedError

    def log_prob(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the log-density of each sample, the sum over its real entries, `(B,)` nats."""
        return sum_log_term(self.log_density(z.to(log_term_dtype(z))), mask)

    def sample(self, shape: Sequence[int], *, temperature: float = 1.0, **options) -> Tensor:
        """Draw latents from the density, multiplied by `temperature`; 0 where masked.

        The options are those of `draw_uniform`.
        """
        raise NotImplementedError


class StandardNormal(BaseDensity):
    """Base density of independent standard normal variables."""

    def log_density(self, z):
        return -0.5 * z.square() - 0.5 * math.log(2 * math.pi)

    def sample(self, shape, *, temperature=1.0, **options):
        return temperature * draw_normal(shape, **options)


class StandardLogistic(BaseDensity):
    """Independent standard logistic variables: mean 0, standard deviation `pi / sqrt(3)`."""

    def log_density(self, z):
        return logistic_log_density(z)

    def sample(self, shape, *, temperature=1.0, mask=None, dtype=None, **options):
        u = draw_uniform(shape, mask=mask, dtype=torch.float64, **options)
        z = temperature * logistic_quantile(u)
        return masked(z, mask).to(dtype or torch.get_default_dtype())
