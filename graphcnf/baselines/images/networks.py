"""Convolutions from an image to a few numbers, and from a few numbers to an image.

The variational autoencoder and the adversarial network share them. They have no normalisation.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.images.networks import channels_last

SLOPE = 0.2
"""Slope of the leaky ReLU below zero."""


def halved(size: Sequence[int]) -> tuple[int, int]:
    """Return height and width after a convolution of stride 2."""
    return (size[0] + 1) // 2, (size[1] + 1) // 2


def start(layers: nn.Module) -> None:
    """Initialise weights to keep the variance of activations (He et al. 2015, 1502.01852)."""
    for parameter in layers.parameters():
        if parameter.dim() > 1:
            nn.init.kaiming_normal_(parameter, SLOPE)
        else:
            nn.init.zeros_(parameter)


class ImageToVector(nn.Module):
    """Four convolutions, two of them of stride 2, and a linear map to the outputs.

    Args:
        channels: Channels of the images.
        size: Their height and width.
        outputs: Numbers per image.
        width: Channels at the full size; there are twice and four times as many at half and at a
            quarter of it.
    """

    def __init__(self, channels: int, size: Sequence[int], outputs: int, width: int):
        super().__init__()
        height, breadth = halved(halved(size))
        self.convolutions = nn.ModuleList(
            (
                nn.Conv2d(channels, width, 3, padding=1),
                nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
                nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1),
                nn.Conv2d(4 * width, 4 * width, 3, padding=1),
            )
        )
        channels_last(self.convolutions)
        self.leave = nn.Linear(4 * width * height * breadth, outputs)
        start(self.convolutions)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, outputs)."""
        for convolution in self.convolutions:
            x = F.leaky_relu(convolution(x), SLOPE)
        return self.leave(x.flatten(1))


class VectorToImage(nn.Module):
    """Linear map to a quarter of the size, and four convolutions with two doublings of the size.

    Args:
        inputs: Numbers per image.
        outputs: Channels of the image.
        size: Height and width of the image.
        width: See `ImageToVector`.
    """

    def __init__(self, inputs: int, outputs: int, size: Sequence[int], width: int):
        super().__init__()
        self.sizes = [tuple(size), halved(size), halved(halved(size))]
        height, breadth = self.sizes[2]
        self.enter = nn.Linear(inputs, 4 * width * height * breadth)
        self.convolutions = nn.ModuleList(
            (
                nn.Conv2d(4 * width, 4 * width, 3, padding=1),
                nn.Conv2d(4 * width, 2 * width, 3, padding=1),
                nn.Conv2d(2 * width, width, 3, padding=1),
                nn.Conv2d(width, outputs, 1),
            )
        )
        channels_last(self.convolutions)
        start(self.convolutions)

    def forward(self, z: Tensor) -> Tensor:
        """Map (B, inputs) to (B, outputs, H, W)."""
        h = self.enter(z).unflatten(1, (-1, *self.sizes[2]))
        first, second, third, last = self.convolutions
        h = F.leaky_relu(first(F.leaky_relu(h, SLOPE)), SLOPE)
        h = F.leaky_relu(second(F.interpolate(h, self.sizes[1])), SLOPE)
        h = F.leaky_relu(third(F.interpolate(h, self.sizes[0])), SLOPE)
        return last(h)
