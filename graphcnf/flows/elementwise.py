"""Fixed elementwise maps that prepare data: no parameters, the same for every entry."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from graphcnf.flows.transform import Bijection, count_entries, log_term_dtype, masked, sum_log_term


class Affine(Bijection):
    """``z = scale x + shift`` with constants.

    Args:
        scale: finite, not 0.
        shift: finite.

    Raises:
        ValueError: if one is not.

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

    def forward(self, x, *, mask=None, context=None, noise=None, discarded=None):
        """Scale and shift; see `Transform.forward`."""
        x = x.to(log_term_dtype(x))
        return masked(x * self.scale + self.shift, mask), self._log_det(x, mask)

    def inverse_and_logdet(self, z, *, mask=None, context=None):
        """Undo `forward`."""
        z = z.to(log_term_dtype(z))
        return masked((z - self.shift) / self.scale, mask), -self._log_det(z, mask)

    def _log_det(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return count_entries(x, mask) * (x.shape[-1] * math.log(abs(self.scale)))


class Logit(Bijection):
    """``z = logit(alpha / 2 + (1 - alpha) x)``: the unit interval onto the real line.

    ``alpha`` keeps the ends of the interval finite; `inverse` reaches as far as ``alpha / (2 - 2
    alpha)`` beyond them.

    References:
        Dinh et al., *Density estimation using Real NVP*, ICLR 2017, arXiv 1605.08803, section 4.1.

    Args:
        alpha: in [0, 1).

    Raises:
        ValueError: if it lies elsewhere.
    """

    def __init__(self, alpha: float = 1e-5):
        super().__init__()
        if not 0 <= alpha < 1:
            raise ValueError(f"alpha must lie in [0, 1), got {alpha}")
        self.alpha = float(alpha)

    def forward(self, x, *, mask=None, context=None, noise=None, discarded=None):
        """Map [0, 1] to the real line; see `Transform.forward`."""
        x = masked(x.to(log_term_dtype(x)), mask)
        inner = self.alpha / 2 + (1 - self.alpha) * x
        log, log_rest = torch.log(inner), torch.log1p(-inner)
        log_det = math.log1p(-self.alpha) - log - log_rest
        return masked(log - log_rest, mask), sum_log_term(log_det, mask)

    def inverse_and_logdet(self, z, *, mask=None, context=None):
        """Undo `forward`."""
        z = masked(z.to(log_term_dtype(z)), mask)
        x = (torch.sigmoid(z) - self.alpha / 2) / (1 - self.alpha)
        log_det = F.logsigmoid(z) + F.logsigmoid(-z) - math.log1p(-self.alpha)
        return masked(x, mask), sum_log_term(log_det, mask)
