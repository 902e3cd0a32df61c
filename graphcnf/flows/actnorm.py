"""Normalisation of activations."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphcnf.flows.transform import Bijection, Context, count_entries, masked, prepare

# Channels whose standard deviation is below this count as constant, and keep their scale.
SMALLEST_DEVIATION = 1e-4


class ActNorm(Bijection):
    """Activation normalisation ``z = exp(s) (x + b)`` per channel.

    The first forward pass in training mode sets ``b`` and ``s`` such that every channel of its
    output has mean 0 and variance 1 over the real entries; a constant channel is only shifted. A
    batch without real entries, or with non-finite ones, does not initialise. Until then the map is
    the identity. Under `torch.distributed` the statistics are those of all processes.

    References:
        Kingma & Dhariwal, *Glow*, NeurIPS 2018, arXiv 1807.03039, section 3.1.

    Args:
        features: the number of channels D.

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
        # Spares a device synchronisation in every later pass.
        self._known_initialized = False

    def _load_from_state_dict(self, *args, **kwargs):
        self._known_initialized = False
        super()._load_from_state_dict(*args, **kwargs)

    def forward(self, x, context=Context()):
        """Return ``exp(s) (x + b)``."""
        x = prepare(x, context.mask)
        if self.training and not self._known_initialized:
            if not self.initialized:
                self._initialize(x.detach(), context.mask)
            self._known_initialized = bool(self.initialized)
        scale = torch.exp(self.log_scale).to(x.dtype)
        z = masked((x + self.bias) * scale, context.mask)
        return z.to(x.dtype), self._log_det(x, context.mask)

    def inverse_and_logdet(self, z, context=Context()):
        """Return ``exp(-s) z - b``."""
        z = prepare(z, context.mask)
        x = masked(z * torch.exp(-self.log_scale) - self.bias, context.mask)
        return x.to(z.dtype), -self._log_det(z, context.mask)

    def _log_det(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return count_entries(x, mask) * self.log_scale.sum().to(x.dtype)

    @torch.no_grad()
    def _initialize(self, x: Tensor, mask: Tensor | None) -> None:
        x = (x[mask] if mask is not None else x.flatten(0, -2)).double()
        count, total = _over_processes(x.new_tensor([len(x)]), x.sum(0))
        mean = total / count
        (squares,) = _over_processes((x - mean).square().sum(0))
        deviation = (squares / count).sqrt()
        if not deviation.isfinite().all():
            return
        deviation[deviation < SMALLEST_DEVIATION] = 1
        self.bias.copy_(-mean)
        self.log_scale.copy_(-deviation.log())
        self.initialized.fill_(True)


def _over_processes(*sums: Tensor) -> tuple[Tensor, ...]:
    """Add up sums over the processes of a distributed run."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        for value in sums:
            torch.distributed.all_reduce(value)
    return sums
