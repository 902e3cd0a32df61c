"""Dequantization: integers become real numbers by added noise, so that a flow can model them.

Data x are integers, such as the brightness of pixels; the *cell* of x is the interval from x to
x + 1. Noise u from q(u|x), uniform or learned, picks a number x + u in it. A flow p of such numbers
bounds the probability P of the integers from below, tighter by a logsumexp over several draws:
`log P(x) >= E_{u~q(u|x)}[log p(x + u) - log q(u|x)]`. The log term is `-log q(u|x)`, plus
constants.
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
    """Base of the dequantizations: `z = x + m + (1 - 2 m) u`; `inverse` rounds down.

    `x (B, ..., D)` holds whole numbers from 0 to `levels - 1`, as integers or floats. m is a small
    margin at both ends of a cell, by which rounding cannot lead to another integer; it costs
    `-log2(1 - 2 m)` bits per number. Subclasses write `forward`: they draw u, and call `place`.
    """

    exact = False

    def __init__(self, levels: int = 256):
        super().__init__()
        if not 1 <= levels <= MOST_LEVELS:
            raise ValueError(f"levels must be at least 1 and at most {MOST_LEVELS}, got {levels}")
        # Above 400 levels the rounding of float32 needs a wider margin.
        self.levels, self.margin = levels, max(MARGIN, levels * 2.0**-22)

    def place(self, x: Tensor, u: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return `z = x + m + (1 - 2 m) u`, and `log|det dz/du|` of each sample, `(B,)` nats."""
        share = 1 - 2 * self.margin
        log_det = count_entries(x, mask) * (x.shape[-1] * math.log(share))
        return masked(x + (self.margin + share * u), mask), log_det

    def inverse(self, z, context=Context()):
        """Round down to whole numbers, clipped to 0 to `levels - 1`."""
        return prepare(z, context.mask).floor().clamp(0, self.levels - 1)


class UniformDequantization(Dequantization):
    """Dequantization with uniform noise `u`; the log term is constant.

    Theis et al., *A note on the evaluation of generative models*, ICLR 2016, arXiv 1511.01844.
    """

    def forward(self, x, context=Context()):
        mask, x = context.mask, prepare(x, context.mask)
        u = draw_noise(context.noise, x.shape, device=x.device, dtype=x.dtype)
        return self.place(x, u.to(x), mask)


class VariationalDequantization(Dequantization):
    """Dequantization with `u = sigmoid(f(e; x))`, `e` logistic noise.

    The bijection f is learned, so that the bound is tighter than with uniform noise.
    Ho et al., *Flow++*, ICML 2019, arXiv 1902.00275, section 3.1.

    Args:
        levels: number of values that a number can have, such as 256.
        flow: the bijection f of `(B, ..., D)`. It sees x by the features of its context: `x`
            scaled to (-1, 1), or what `encoder` makes of it.
        encoder: network that is called with the scaled `x (B, ..., D)`, and returns features
            `(B, ..., F)`; None for the scaled `x` itself as features.
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
    """Logit map `z = logit(alpha / 2 + (1 - alpha) x)` of the unit interval.

    alpha in [0, 1), if above 0, keeps `z` finite at the ends.
    Dinh et al., *Density estimation using Real NVP*, ICLR 2017, arXiv 1605.08803, section 4.1.
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
