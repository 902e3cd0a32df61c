"""Conditions: properties of whole graphs, such as logP, for given values of which graphs are drawn.

- A *condition* is a property by which a model can be steered. It is described by its name and by
  its mean and standard deviation in the training data. A model has P of them.
- The *value* of a condition is a number for each graph, in the unit of the property; NaN if it is
  unknown. In training, values are *hidden* (set to NaN) at random, so that later any of them may be
  left open.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.categorical.transformer import zero_init

# A condition is embedded in this many sines and as many cosines, with periods of 16, 8, 4, 2, 1 and
# 1/2 standard deviations.
FREQUENCIES = 6
FAR = 20.0  # standard deviations from the mean at which values are clamped
UNCONDITIONAL = 0.2  # share of training graphs of which all values are hidden


def condition_statistics(names: Sequence[str], values: np.ndarray) -> list[dict[str, Any]]:
    """Describe conditions by their mean and standard deviation, as models save them.

    `{"name": text, "mean": number, "deviation": number}` of each; the deviation is 1 if all values
    are the same.
    """
    means = np.nanmean(values, 0)
    deviations = np.nanstd(values, 0)
    deviations = np.where(deviations > 1e-9 * np.abs(means), deviations, 1.0)  # 1 for constants
    return [
        {"name": name, "mean": float(f"{mean:.9g}"), "deviation": float(f"{sd:.9g}")}
        for name, mean, sd in zip(names, means, deviations, strict=True)
    ]


def hide_values(values: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Hide a random part of the values of training graphs, so that any part can be given later.

    A graph loses all values with probability 0.2 (`UNCONDITIONAL`). In the others, the number of
    values that stay is uniform from 0 to P.
    """
    known = random.random(values.shape) < random.random((len(values), 1))
    known &= random.random((len(values), 1)) >= UNCONDITIONAL
    return np.where(known, values, np.nan)


class ConditionEmbedding(nn.Module):
    """Network that embeds the values of P conditions as channels: (B, P) becomes (B, width).

    The channels are 0 if all values of a graph are unknown. With initial weights they are 0 for all
    values, so that a trained model to which conditions are added begins as it was without them.
    """

    means: Tensor
    deviations: Tensor

    def __init__(self, conditions: Sequence[Mapping[str, Any]], width: int):
        super().__init__()
        for name in ("mean", "deviation"):
            numbers = torch.tensor([float(condition[name]) for condition in conditions])
            self.register_buffer(f"{name}s", numbers, persistent=False)
        if not len(self.means) or not (self.deviations > 0).all():
            raise ValueError("conditions need a mean and a deviation above 0 each")
        self.enter = nn.Linear(len(conditions) * (2 + 2 * FREQUENCIES), 128)
        self.leave = zero_init(nn.Linear(128, width))

    def forward(self, values: Tensor) -> Tensor:
        """Embed the values of conditions.

        They are standardised first: the mean is subtracted, the difference is divided by the
        standard deviation, and the quotient is clamped to -20 to 20.
        """
        if values.shape[-1] != len(self.means):
            raise ValueError(
                f"{values.shape[-1]} conditions, but the model takes {len(self.means)}"
            )
        values = values.to(self.enter.weight.dtype)
        known = ~values.isnan()
        x = (torch.where(known, values, 0.0) - self.means) / self.deviations
        x = torch.where(known, x.clamp(-FAR, FAR), 0.0)
        steps = torch.arange(FREQUENCIES, device=x.device, dtype=x.dtype)
        angles = x[..., None] * (math.pi / 8) * 2**steps
        waves = torch.cat([angles.sin(), angles.cos()], -1) * known[..., None]
        features = torch.cat([torch.stack([x, known.to(x)], -1), waves], -1).flatten(-2)
        channels = self.leave(F.silu(self.enter(features)))
        return torch.where(known.any(-1, keepdim=True), channels, 0.0)
