"""Dequantization, which adds noise to integers within their unit cells, and the logit map.

The *cell* of an integer x is the interval from x to x + 1. A density of x + u, with noise u in [0,
1], bounds the probability of the integers x from below:
``log P(x) >= E_{u~q(u|x)}[log p(x + u) - log q(u|x)]``, and K draws in a logsumexp tighten it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.flows.base import StandardLogistic, logistic_quantile
from graphcnf.flows.transform import (
    Bijection,
    Context,
    Transform,
    count_entries,
    draw_noise,
    masked,
    prepare,
    sum_log_term,
)

MARGIN = 1e-4  # share of a cell kept free at either end: rounding cannot reach the next cell
MOST_LEVELS = 2**18  # with more levels, float32 has too few numbers in a cell


class Dequantization(Transform):
    """Base of the dequantizations: ``z = x + m + (1 - 2 m) u``; `inverse` rounds down.

    ``x (B, ..., D)`` holds whole numbers from 0 to ``levels - 1``, in any type; `inverse` clips to
    this range. The noise u lies in [0, 1]. The margin m at either end of a cell keeps rounding from
    changing x, and costs ``-log2(1 - 2 m)`` bits per variable. Subclasses draw the noise.

    Args:
        levels: number of values of a variable.

    Raises:
        ValueError: if ``levels`` is less than 1 or greater than `MOST_LEVELS`.
    """

    exact = False

    def __init__(self, levels: int = 256):
        super().__init__()
        if not 1 <= levels <= MOST_LEVELS:
            raise ValueError(f"levels must be at least 1 and at most {MOST_LEVELS}, got {levels}")
        # Above 400 levels the rounding of float32 needs a wider margin.
        self.levels, self.margin = levels, max(MARGIN, levels * 2.0**-22)

    def place(self, x: Tensor, u: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Add noise to whole numbers: ``z = x + m + (1 - 2 m) u`` with the margin m.

        Args:
            x: whole numbers, ``(B, ..., D)``.
            u: noise in [0, 1], of the shape of ``x``.
            mask: real entries, ``(B, ...)`` bool; None if all are real.

        Returns:
            ``z (B, ..., D)``, 0 where masked, and ``log|dz/du|`` ``(B,)`` in nats.
        """
        share = 1 - 2 * self.margin
        log_det = count_entries(x, mask) * (x.shape[-1] * math.log(share))
        return masked(x + (self.margin + share * u), mask), log_det

    def inverse(self, z, context=Context()):
        """Return whole numbers 0 to ``levels - 1`` in the type of ``z``."""
        return prepare(z, context.mask).floor().clamp(0, self.levels - 1)


class UniformDequantization(Dequantization):
    """Dequantization with uniform noise ``u``.

    Theis et al., *A note on the evaluation of generative models*, ICLR 2016, arXiv 1511.01844.
    """

    def forward(self, x, context=Context()):
        mask, x = context.mask, prepare(x, context.mask)
        u = draw_noise(context.noise, x.shape, device=x.device, dtype=x.dtype)
        return self.place(x, u.to(x), mask)


class VariationalDequantization(Dequantization):
    """Dequantization with ``u = sigmoid(f(e; x))``, ``e`` logistic noise.

    The log term is ``-log q(z|x)``.
    Ho et al., *Flow++*, ICML 2019, arXiv 1902.00275, section 3.1.

    Args:
        levels: number of values of a variable.
        flow: the bijection f. The features of its context are ``x`` scaled to (-1, 1), or what
            ``encoder`` returns for it.
        encoder: network that maps the scaled ``x`` to features; None for the scaled ``x`` itself.
    """

    def __init__(self, levels: int, flow: Bijection, encoder: nn.Module | None = None):
        super().__init__(levels)
        self.flow, self.encoder, self.base = flow, encoder, StandardLogistic()

    def forward(self, x, context=Context()):
        mask, x = context.mask, prepare(x, context.mask)
        u = draw_noise(context.noise, x.shape, device=x.device)
        e = masked(logistic_quantile(u), mask).to(x)
        features = (2 * x + 1) / self.levels - 1
        if self.encoder is not None:
            features = self.encoder(features)
        y, log_det = self.flow(e, Context(mask, features))
        log_slope = F.logsigmoid(y) + F.logsigmoid(-y)
        z, log_width = self.place(x, torch.sigmoid(y), mask)
        log_q = self.base.log_prob(e, mask) - log_det - sum_log_term(log_slope, mask)
        return z, log_width - log_q


class Logit(Bijection):
    """Logit map ``z = logit(alpha / 2 + (1 - alpha) x)`` of the unit interval.

    Dinh et al., *Density estimation using Real NVP*, ICLR 2017, arXiv 1605.08803, section 4.1.

    Args:
        alpha: in [0, 1); above 0 it keeps ``z`` finite at the ends of the interval.

    Raises:
        ValueError: if ``alpha`` is not in [0, 1).
    """

    def __init__(self, alpha: float = 1e-5):
        super().__init__()
        if not 0 <= alpha < 1:
            raise ValueError(f"alpha must lie in [0, 1), got {alpha}")
        self.alpha = float(alpha)

    def forward(self, x, context=Context()):
        x = prepare(x, context.mask)
        inner = self.alpha / 2 + (1 - self.alpha) * x
        log, log_rest = torch.log(inner), torch.log1p(-inner)
        log_det = math.log1p(-self.alpha) - log - log_rest
        return masked(log - log_rest, context.mask), sum_log_term(log_det, context.mask)

    def inverse_and_logdet(self, z, context=Context()):
        z = prepare(z, context.mask)
        x = (torch.sigmoid(z) - self.alpha / 2) / (1 - self.alpha)
        log_det = F.logsigmoid(z) + F.logsigmoid(-z) - math.log1p(-self.alpha)
        return masked(x, context.mask), sum_log_term(log_det, context.mask)
