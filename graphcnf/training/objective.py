"""What every process computes of its share of a batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Objective(nn.Module):
    """Training loss and metrics of a batch; of these, gradients flow from the loss only."""

    def __init__(self, model: nn.Module, bf16: bool):
        super().__init__()
        self.model, self.bf16 = model, bf16

    def forward(self, batch: Any, beta: float, device: torch.device):
        """-> loss, metrics as `Experiment` has them."""
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            training_loss: Any = self.model.training_loss
            loss, metrics = training_loss(batch, beta=beta)
        return loss, {name: tuple(map(_detached, pair)) for name, pair in metrics.items()}


def _detached(value: Tensor | float) -> Tensor | float:
    return value.detach() if isinstance(value, Tensor) else value
