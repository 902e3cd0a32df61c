"""Linear maps of the channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphcnf.flows.transform import Bijection, Context, count_entries, prepare


class InvertibleLinear(Bijection):
    """Linear map of the channels ``z = W x`` with ``W = P L (U + diag(sign exp(s)))``.

    P is a fixed permutation, L unit lower and U strictly upper triangular; ``log|det W| = sum(s)``.
    Starts as a random rotation. The inverse of W is computed in float64, whatever the type of z.

    References:
        Kingma & Dhariwal, *Glow*, NeurIPS 2018, arXiv 1807.03039, eq. 10 and 11.

    Args:
        features: the number of channels D.

    Examples:
        >>> linear = InvertibleLinear(3)
        >>> z, log_det = linear(torch.randn(2, 3))
        >>> bool(log_det.abs().max() < 1e-5)  # starts as a rotation
        True
    """

    permutation: Tensor
    sign: Tensor

    def __init__(self, features: int):
        super().__init__()
        rotation = torch.linalg.qr(torch.randn(features, features, dtype=torch.float64)).Q
        permutation, lower, upper = torch.linalg.lu(rotation)
        diagonal = upper.diagonal()
        dtype = torch.get_default_dtype()
        self.lower = nn.Parameter(lower.tril(-1).to(dtype))
        self.upper = nn.Parameter(upper.triu(1).to(dtype))
        self.log_diagonal = nn.Parameter(diagonal.abs().log().to(dtype))
        self.register_buffer("permutation", permutation.to(dtype))
        self.register_buffer("sign", diagonal.sign().to(dtype))

    def _weight(self, dtype: torch.dtype) -> Tensor:
        lower = self.lower.to(dtype).tril(-1)
        lower = lower + torch.eye(len(lower), dtype=dtype, device=lower.device)
        diagonal = self.sign.to(dtype) * torch.exp(self.log_diagonal.to(dtype))
        upper = self.upper.to(dtype).triu(1) + torch.diag(diagonal)
        return self.permutation.to(dtype) @ lower @ upper

    def forward(self, x, context=Context()):
        """Return ``W x``."""
        x = prepare(x, context.mask)
        with torch.autocast(x.device.type, enabled=False):
            return x @ self._weight(x.dtype).t(), self._log_det(x, context.mask)

    def inverse_and_logdet(self, z, context=Context()):
        """Return ``W^-1 z``."""
        z = prepare(z, context.mask)
        with torch.autocast(z.device.type, enabled=False):
            inverse = torch.linalg.inv(self._weight(torch.float64))
            return z @ inverse.t().to(z.dtype), -self._log_det(z, context.mask)

    def _log_det(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return count_entries(x, mask) * self.log_diagonal.sum().to(x.dtype)
