"""A network for the tests of couplings of images, and how modules get away from their start."""

import torch
from couplings import perturb
from torch import nn


class Convolutions(nn.Module):
    """A small network in which a pixel sees its neighbours, on (B, H, W, C)."""

    def __init__(self, inputs, outputs, hidden=8):
        super().__init__()
        self.enter = nn.Conv2d(inputs, hidden, 3, padding=1)
        self.features = nn.Linear(1, hidden)
        self.leave = nn.Conv2d(hidden, outputs, 1)

    def forward(self, x, context):
        h = self.enter(x.movedim(-1, 1))
        if context.features is not None:
            h = h + self.features(context.features.mean((1, 2, 3))[:, None])[:, :, None, None]
        return self.leave(torch.tanh(h)).movedim(1, -1)


def moved_away(module, by=0.3):
    """The module, away from its (possibly symmetric) initialisation."""
    return perturb(module, by).eval()
