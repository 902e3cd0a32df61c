"""Muon: momentum whose matrices are made orthogonal before they are added to the weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the iteration; they let small singular values grow fastest (Jordan et al. 2024, Muon)."""


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) with Nesterov momentum and decoupled weight decay.

    Updates have the size of those of AdamW, so that both go with the same learning rate and decay:
    `0.2 * sqrt(max(rows, columns))` times an orthogonal matrix (Liu et al. 2025, arXiv 2502.16982).
    `torch.optim.Muon` iterates in bfloat16 always, which processors without it take ten times as
    long for; here it is used where the hardware has it. Matrices of one shape go together.

    Args:
        matrices: Parameters of two dimensions.
        lr: Learning rate.
        weight_decay: Share of the weights that a step takes away is `lr * weight_decay`.
        momentum: Of the moving sum of gradients.
        iterations: Newton-Schulz iterations.
    """

    def __init__(
        self,
        matrices: Iterable[Tensor],
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        iterations: int = 5,
    ):
        defaults = dict(lr=lr, weight_decay=weight_decay, momentum=momentum, iterations=iterations)
        super().__init__(matrices, defaults)

    @torch.no_grad()
    def step(self, closure=None) -> None:  # type: ignore[override]  # never a closure
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            alike = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    alike[matrix.shape].append(matrix)
            for shape, matrices in alike.items():
                self._update(matrices, 0.2 * max(shape) ** 0.5, group)

    def _update(self, matrices: list[Tensor], size: float, group: dict) -> None:
        for matrix in matrices:
            if "momentum" not in self.state[matrix]:
                self.state[matrix]["momentum"] = torch.zeros_like(matrix)
        buffers = [self.state[matrix]["momentum"] for matrix in matrices]
        gradients = [matrix.grad for matrix in matrices if matrix.grad is not None]
        torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
        ahead = torch._foreach_lerp(gradients, buffers, group["momentum"])
        updates = orthogonal(torch.stack(ahead), group["iterations"])
        torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(matrices, list(updates.unbind()), alpha=-group["lr"] * size)


def orthogonal(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Matrices (K, rows, columns) with the same singular vectors and singular values near 1."""
    rows, columns = matrices.shape[1:]
    x = matrices.to(torch.bfloat16 if _has_bfloat16(matrices.device) else torch.float32)
    if rows > columns:
        x = x.transpose(1, 2)
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(iterations):
        square = x @ x.transpose(1, 2)
        x = a * x + torch.baddbmm(square, square, square, beta=b, alpha=c) @ x
    return (x.transpose(1, 2) if rows > columns else x).to(matrices.dtype)


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return device.type == "cpu" and supported is not None and supported()
