"""Numbers that are asked of a whole graph, such as properties of a molecule."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

FREQUENCIES = 4
"""Of a number's sines and cosines: periods of 16, 8, 4 and 2 standard deviations."""

FAR = 6.0
"""Standard deviations beyond which numbers are not told apart."""

FORGOTTEN, KEPT = 0.2, 0.5
"""In training, the share of graphs that nothing is asked of, and of numbers that are asked else."""


def target_tables(names: Sequence[str], values: np.ndarray) -> list[dict[str, Any]]:
    """What a model keeps of its targets: name, mean and deviation of each.

    Args:
        names: What the columns are called.
        values: Of the training graphs, (M, P).
    """
    means, deviations = values.mean(0), values.std(0)
    return [
        {"name": name, "mean": round(float(mean), 6), "deviation": round(float(sd) or 1.0, 6)}
        for name, mean, sd in zip(names, means, deviations, strict=True)
    ]


def partly_known(values: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The values (B, P), some of them NaN: any set of them may be asked for in the end."""
    known = random.random(values.shape) < KEPT
    known &= random.random((len(values), 1)) >= FORGOTTEN
    return np.where(known, values, np.nan)


def target_row(values: Sequence[float | None]) -> Tensor:
    """What is asked of a graph, as a row (1, P); NaN for None."""
    return torch.tensor([[math.nan if v is None else float(v) for v in values]])


class TargetEmbedding(nn.Module):
    """Channels of what is asked of each graph; zero at the start, and where nothing is.

    Args:
        tables: Name, mean and deviation of each target (`target_tables`).
        width: Channels.
        hidden: Hidden channels.
    """

    means: Tensor
    deviations: Tensor

    def __init__(self, tables: Sequence[Mapping[str, Any]], width: int, hidden: int = 128):
        super().__init__()
        for name in ("mean", "deviation"):
            numbers = torch.tensor([float(table[name]) for table in tables])
            self.register_buffer(f"{name}s", numbers, persistent=False)
        if not len(self.means) or not (self.deviations > 0).all():
            raise ValueError("targets need a mean and a deviation above 0 each")
        self.enter = nn.Linear(len(tables) * (2 + 2 * FREQUENCIES), hidden)
        self.leave = nn.Linear(hidden, width)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, values: Tensor) -> Tensor:
        """Channels (B, width) of the values (B, P), NaN where nothing is asked."""
        if values.shape[-1] != len(self.means):
            raise ValueError(f"{values.shape[-1]} targets, but the model takes {len(self.means)}")
        known = ~values.isnan()
        x = (torch.where(known, values, 0.0) - self.means) / self.deviations
        x = torch.where(known, x.clamp(-FAR, FAR), 0.0)
        steps = torch.arange(FREQUENCIES, device=x.device, dtype=x.dtype)
        angles = x[..., None] * (math.pi / 8) * 2**steps
        waves = torch.cat([angles.sin(), angles.cos()], -1) * known[..., None]
        features = torch.cat([torch.stack([x, known.to(x)], -1), waves], -1).flatten(1)
        channels = self.leave(F.silu(self.enter(features)))
        return torch.where(known.any(-1, keepdim=True), channels, 0.0)
