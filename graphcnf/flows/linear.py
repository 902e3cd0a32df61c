"""Affine and linear maps of the channels, the same at every position of a sample."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from graphcnf.flows.transform import Bijection, Context, count_entries, masked, prepare

# `ActNorm` takes channels with a smaller standard deviation as constant, and does not scale them.
SMALLEST_DEVIATION = 1e-4


class Affine(Bijection):
    """Affine map `z = scale x + shift` with two constants, which are not learned.

    Examples:
        >>> z, log_det = Affine(2.0, shift=1.0)(torch.tensor([[0.0, 1.0]]))
        >>> z.tolist(), round(log_det.item(), 4)  # 2 ln 2
        ([[1.0, 3.0]], 1.3863)
    """

    def __init__(self, scale: float = 1.0, shift: float = 0.0):
        super().__init__()
        if scale == 0 or not (math.isfinite(scale) and math.isfinite(shift)):
            raise ValueError(f"scale and shift must be finite, scale not 0, got {scale}, {shift}")
        self.scale, self.shift = float(scale), float(shift)

    def forward(self, x, context=Context()):
        x = prepare(x, context.mask)
        return masked(x * self.scale + self.shift, context.mask), self._log_det(x, context.mask)

    def inverse_and_logdet(self, z, context=Context()):
        z = prepare(z, context.mask)
        return masked((z - self.shift) / self.scale, context.mask), -self._log_det(z, context.mask)

    def _log_det(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return count_entries(x, mask) * (x.shape[-1] * math.log(abs(self.scale)))


class ActNorm(Bijection):
    """Activation normalisation `z = exp(s) (x + b)` of each of D channels.

    The map is the identity until the first forward pass in training mode on finite entries. This
    pass sets `b` and `s` so that every output channel has mean 0 and variance 1 over the real
    entries of the batch (under `torch.distributed`, of the batches of all processes). A constant
    channel is only shifted.
    Kingma & Dhariwal, *Glow*, NeurIPS 2018, arXiv 1807.03039, section 3.1.

    Examples:
        >>> normalised, _ = ActNorm(2)(5 + 3 * torch.randn(1000, 2))
        >>> normalised.std(0).round(decimals=2).tolist()
        [1.0, 1.0]
    """

    initialized: Tensor

    def __init__(self, features: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(features))
        self.log_scale = nn.Parameter(torch.zeros(features))
        self.register_buffer("initialized", torch.tensor(False))

    def forward(self, x, context=Context()):
        x = prepare(x, context.mask)
        if self.training and not self.initialized:
            self._initialize(x, context.mask)
        z = masked((x + self.bias) * torch.exp(self.log_scale).to(x.dtype), context.mask)
        return z.to(x.dtype), self._log_det(x, context.mask)

    def inverse_and_logdet(self, z, context=Context()):
        z = prepare(z, context.mask)
        x = masked(z * torch.exp(-self.log_scale) - self.bias, context.mask)
        return x.to(z.dtype), -self._log_det(z, context.mask)

    def _log_det(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return count_entries(x, mask) * self.log_scale.sum().to(x.dtype)

    @torch.no_grad()
    def _initialize(self, x: Tensor, mask: Tensor | None) -> None:
        """Set bias and scale such that outputs have mean 0 and variance 1; only if x is finite."""
        x = (x[mask] if mask is not None else x.flatten(0, -2)).double()
        count = _over_processes(x.new_tensor([len(x)]))
        mean = _over_processes(x.sum(0)) / count
        deviation = (_over_processes((x - mean).square().sum(0)) / count).sqrt()
        if not deviation.isfinite().all():
            return
        deviation[deviation < SMALLEST_DEVIATION] = 1
        self.bias.copy_(-mean)
        self.log_scale.copy_(-deviation.log())
        self.initialized.fill_(True)


class InvertibleLinear(Bijection):
    """Linear map of D channels `z = W x` with `W = P L (U + diag(sign exp(s)))`.

    The matrix W is learned in the form of its LU decomposition: P is a fixed permutation, L unit
    lower and U strictly upper triangular, s a vector. So `log|det W| = sum(s)` needs no
    determinant. W starts as a random rotation.
    Kingma & Dhariwal, *Glow*, NeurIPS 2018, arXiv 1807.03039, eq. 10 and 11.
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
        """Return the matrix W `(D, D)` in a floating type."""
        lower = self.lower.to(dtype).tril(-1)
        lower = lower + torch.eye(len(lower), dtype=dtype, device=lower.device)
        diagonal = self.sign.to(dtype) * torch.exp(self.log_diagonal.to(dtype))
        upper = self.upper.to(dtype).triu(1) + torch.diag(diagonal)
        return self.permutation.to(dtype) @ lower @ upper

    def forward(self, x, context=Context()):
        x = prepare(x, context.mask)
        with torch.autocast(x.device.type, enabled=False):
            return x @ self._weight(x.dtype).t(), self._log_det(x, context.mask)

    def inverse_and_logdet(self, z, context=Context()):
        z = prepare(z, context.mask)
        with torch.autocast(z.device.type, enabled=False):
            inverse = torch.linalg.inv(self._weight(torch.float64))
            return z @ inverse.t().to(z.dtype), -self._log_det(z, context.mask)

    def _log_det(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return count_entries(x, mask) * self.log_diagonal.sum().to(x.dtype)


def _over_processes(value: Tensor) -> Tensor:
    """Sum a tensor over the processes of a distributed run, in place, and return it."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(value)
    return value
