"""Dequantization: integers become continuous, by noise within the unit cell of each.

A density of the sum bounds the probability of the integers:
``log P(x) >= E_{u~q(u|x)}[log p(x + u) - log q(u|x)]``, and K draws in a logsumexp tighten it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.flows.base import StandardLogistic, draw_uniform
from graphcnf.flows.transform import (
    Bijection,
    Noise,
    Transform,
    log_term_dtype,
    masked,
    sum_log_term,
    zero_log_term,
)


class Dequantization(Transform):
    """Base of the dequantizations: ``z = x + u`` with ``0 <= u < 1``; `inverse` rounds down.

    Args:
        levels: ``x`` has whole numbers 0 to ``levels - 1``, in any type. What `inverse` finds
            outside is set to the nearest of them.
    """

    exact = False

    def __init__(self, levels: int = 256):
        super().__init__()
        if levels < 1:
            raise ValueError(f"levels must be at least 1, got {levels}")
        self.levels = levels

    def inverse(
        self, z, *, mask=None, context=None, discarded=None, temperature=1.0, generator=None
    ):
        """Whole numbers 0 to ``levels - 1`` in the type of ``z``; see `Transform.inverse`."""
        z = masked(z.to(log_term_dtype(z)), mask)
        return z.floor().clamp(0, self.levels - 1)


class UniformDequantization(Dequantization):
    """``z = x + u`` with uniform ``u`` in [0, 1); the log term is 0.

    References:
        Theis et al., *A note on the evaluation of generative models*, ICLR 2016, arXiv 1511.01844.
    """

    def forward(self, x, *, mask=None, context=None, noise=None, discarded=None):
        """Add the noise; see `Transform.forward`."""
        x = masked(x.to(log_term_dtype(x)), mask)
        draws = noise if noise is not None else Noise()
        u = draws.take(lambda: draw_uniform(x.shape, mask=mask, device=x.device, dtype=x.dtype))
        return masked(_within_cell(x, u.to(x)), mask), zero_log_term(x)


class VariationalDequantization(Dequantization):
    """``z = x + sigmoid(f(e; x))``, ``e`` logistic noise: ``u`` follows a flow that is given ``x``.

    The log term is ``-log q(u|x)``. With the identity for ``f`` it is uniform dequantization.

    References:
        Ho et al., *Flow++*, ICML 2019, arXiv 1902.00275, section 3.1.

    Args:
        levels: see `Dequantization`.
        flow: f, a bijection of the shape of ``x``; its context is what ``encoder`` returns.
        encoder: called with ``x`` scaled to (-1, 1); None hands that to ``flow`` as it is.
    """

    def __init__(self, levels: int, flow: Bijection, encoder: nn.Module | None = None):
        super().__init__(levels)
        self.flow = flow
        self.encoder = encoder
        self.base = StandardLogistic()

    def forward(self, x, *, mask=None, context=None, noise=None, discarded=None):
        """Add the noise; see `Transform.forward`. The caller's context is not used."""
        x = masked(x.to(log_term_dtype(x)), mask)
        draws = noise if noise is not None else Noise()
        e = draws.take(
            lambda: self.base.sample(x.shape, mask=mask, device=x.device, dtype=x.dtype)
        ).to(x)
        known = (2 * x + 1) / self.levels - 1
        if self.encoder is not None:
            known = self.encoder(known)
        y, log_det = self.flow(e, mask=mask, context=known)
        log_slope = F.logsigmoid(y) + F.logsigmoid(-y)
        log_q = self.base.log_prob(e, mask) - log_det - sum_log_term(log_slope, mask)
        return masked(_within_cell(x, torch.sigmoid(y)), mask), -log_q


def _within_cell(x: Tensor, u: Tensor) -> Tensor:
    """``x + u``, which rounding must not carry up to the next whole number."""
    return torch.minimum(x + u, torch.nextafter(x + 1, x))
