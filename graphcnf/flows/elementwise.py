"""Fixed elementwise maps that prepare data: no parameters, the same for every entry."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from graphcnf.flows.transform import (
    Bijection,
    Context,
    count_entries,
    masked,
    prepare,
    sum_log_term,
)


class Affine(Bijection):
    """Affine map ``z = scale x + shift`` with constants.

    Args:
        scale: finite, not 0.
        shift: finite.

    Examples:
        >>> z, log_det = Affine(2.0, shift=1.0)(torch.tensor([[0.0, 1.0]]))
        >>> z.tolist(), round(log_det.item(), 4)  # 2 ln 2
        ([[1.0, 3.0]], 1.3863)
    """

    def __init__(self, scale: float = 1.0, shift: float = 0.0):
        super().__init__()
        if scale == 0 or not (math.isfinite(scale) and math.isfinite(shift)):
            raise ValueError(f"no invertible map: {scale} x + {shift}")
        self.scale = float(scale)
        self.shift = float(shift)

    def forward(self, x, context=Context()):
        """Return ``scale x + shift``."""
        x = prepare(x, context.mask)
        return masked(x * self.scale + self.shift, context.mask), self._log_det(x, context.mask)

    def inverse_and_logdet(self, z, context=Context()):
        """Return ``(z - shift) / scale``."""
        z = prepare(z, context.mask)
        return masked((z - self.shift) / self.scale, context.mask), -self._log_det(z, context.mask)

    def _log_det(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return count_entries(x, mask) * (x.shape[-1] * math.log(abs(self.scale)))


class Logit(Bijection):
    """Logit map ``z = logit(alpha / 2 + (1 - alpha) x)`` of the unit interval.

    ``alpha`` keeps the ends of the interval finite; `inverse` reaches as far as ``alpha / (2 - 2
    alpha)`` beyond them.

    References:
        Dinh et al., *Density estimation using Real NVP*, ICLR 2017, arXiv 1605.08803, section 4.1.

    Args:
        alpha: in [0, 1).
    """

    def __init__(self, alpha: float = 1e-5):
        super().__init__()
        if not 0 <= alpha < 1:
            raise ValueError(f"alpha must lie in [0, 1), got {alpha}")
        self.alpha = float(alpha)

    def forward(self, x, context=Context()):
        """Map [0, 1] to the real line."""
        x = prepare(x, context.mask)
        inner = self.alpha / 2 + (1 - self.alpha) * x
        log, log_rest = torch.log(inner), torch.log1p(-inner)
        log_det = math.log1p(-self.alpha) - log - log_rest
        return masked(log - log_rest, context.mask), sum_log_term(log_det, context.mask)

    def inverse_and_logdet(self, z, context=Context()):
        """Map the real line to [0, 1]."""
        z = prepare(z, context.mask)
        x = (torch.sigmoid(z) - self.alpha / 2) / (1 - self.alpha)
        log_det = F.logsigmoid(z) + F.logsigmoid(-z) - math.log1p(-self.alpha)
        return masked(x, context.mask), sum_log_term(log_det, context.mask)
