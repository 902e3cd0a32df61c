"""Attention networks over the elements of a set, blind to where an element stands."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphcnf.categorical.transformer import HIDDEN, Transformer
from graphcnf.flows.readout import zero_init
from graphcnf.flows.transform import Context

EXPANSION = 2
"""Hidden channels of the feed-forward part of a block, as a multiple of its width."""


class SetNetwork(nn.Module):
    """Parameters for every element from the untransformed latents of all: for `Coupling`.

    Args:
        inputs: Latents of an element that the network sees.
        outputs: Parameters of an element.
        width: Channels.
        layers: Attention blocks.
        heads: Attention heads.
    """

    def __init__(self, inputs: int, outputs: int, *, width: int, layers: int, heads: int):
        super().__init__()
        self.enter = nn.Sequential(nn.Linear(inputs, width), nn.GELU(), nn.Linear(width, width))
        self.blocks = Transformer(width, heads, EXPANSION, layers)
        self.leave = nn.Sequential(nn.LayerNorm(width), zero_init(nn.Linear(width, outputs)))

    def forward(self, x: Tensor, context: Context = Context()) -> Tensor:
        """(B, L, inputs) to (B, L, outputs)."""
        itself = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)[None, None]
        # A padded element sees itself: attention to nothing would not be a number.
        visible = torch.ones_like(itself)
        if context.mask is not None:
            visible = context.mask[:, None, None] | itself
        h = self.enter(x)
        for block in self.blocks:
            h = block(h, HIDDEN * ~visible)
        return self.leave(h)


class CausalSetNetwork(nn.Module):
    """Parameters for the k-th element from the elements before it, and from how many follow.

    Args:
        inputs: Features of an element.
        outputs: Parameters of an element.
        elements: Largest number of elements.
        width: Channels.
        layers: Attention blocks.
        heads: Attention heads.
    """

    def __init__(
        self, inputs: int, outputs: int, *, elements: int, width: int, layers: int, heads: int
    ):
        super().__init__()
        self.elements = elements
        self.enter = nn.Sequential(nn.Linear(inputs, width), nn.GELU(), nn.Linear(width, width))
        self.start = nn.Parameter(torch.zeros(1, 1, width))
        self.before = nn.Embedding(elements, width)
        self.after = nn.Embedding(elements + 1, width)
        self.blocks = Transformer(width, heads, EXPANSION, layers)
        self.leave = nn.Sequential(nn.LayerNorm(width), zero_init(nn.Linear(width, outputs)))
        for table in (self.before, self.after):
            nn.init.normal_(table.weight, std=0.1)

    def forward(self, features: Tensor, sizes: Tensor) -> Tensor:
        """Parameters of the first K + 1 elements.

        Args:
            features: Features (B, K, inputs) of the first K elements.
            sizes: Number of elements of each set, (B,) long.

        Returns:
            (B, K + 1, outputs).
        """
        batch, known = features.shape[:2]
        number = torch.arange(known + 1, device=features.device)
        entered = self.enter(features)
        h = torch.cat([self.start.expand(batch, -1, -1).to(entered.dtype), entered], 1)
        remaining = (sizes[:, None] - number).clamp(min=0)
        h = h + self.before(number) + self.after(remaining)
        visible = (number <= number[:, None])[None, None]
        for block in self.blocks:
            h = block(h, HIDDEN * ~visible)
        return self.leave(h)
