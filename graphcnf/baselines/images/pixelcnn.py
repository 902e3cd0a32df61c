"""PixelCNN: every pixel given those above it and left of it.

    P(x) = prod_i P(x_i | x_1 ... x_{i-1})

A vertical stack of convolutions sees the rows above, a horizontal one the row so far and the
vertical stack: no pixel ahead, and no blind spot. Training computes all conditionals at once.
Sampling goes pixel by pixel and computes no feature twice: it caches the rows and pixels that the
convolutions still need.

References:
    van den Oord et al., *Conditional image generation with PixelCNN decoders*, NeurIPS 2016,
    arXiv 1606.05328 (the two stacks, gates);
    Salimans et al., *PixelCNN++*, ICLR 2017, arXiv 1701.05517 (mixtures of logistics, shifts);
    Ramachandran et al., *Fast generation for convolutional autoregressive models*, 2017,
    arXiv 1704.06001 (the cache of sampling).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.baselines.images.pixels import PixelMixture, parameter_count, scaled
from graphcnf.flows.base import draw_uniform
from graphcnf.images.model import ImageModel, check_sizes
from graphcnf.images.networks import ChannelNorm, channels_last

Memory = dict[nn.Module, Tensor]
"""Cache of sampling: the last inputs, rows or pixels, of each convolution."""

ROWS, COLUMNS = 2, 3
"""Axes of (B, C, H, W)."""


class PixelCNN(ImageModel):
    """Autoregressive model: exact likelihood in one pass, samples in a pass per pixel.

    Args:
        shape: Channels, height and width.
        levels: Number of values of a pixel, at most 256.
        width: Channels of the features.
        layers: Gated layers of either stack.
        mixtures: Components of a pixel's mixture.
        architecture: "pixelcnn".

    Examples:
        >>> model = PixelCNN(shape=(1, 4, 4), levels=16, width=8, layers=2)
        >>> model.sample(3).shape
        torch.Size([3, 1, 4, 4])
    """

    likelihood = "exact"

    def __init__(
        self,
        *,
        shape: Sequence[int],
        levels: int = 256,
        width: int = 32,
        layers: int = 6,
        mixtures: int = 10,
        architecture: str = "pixelcnn",
    ):
        super().__init__(architecture, shape, levels, width=width, layers=layers, mixtures=mixtures)
        check_sizes(width=width, layers=layers, mixtures=mixtures)
        channels, *size = shape
        self.above = CausalConvolution(channels, width, (1, 3), ROWS)
        self.left = CausalConvolution(channels, width, (1, 2), COLUMNS)
        self.positions = nn.Parameter(torch.zeros(2, 1, width, *size))
        self.layers: Sequence[GatedLayer] = nn.ModuleList(  # type: ignore[assignment]  # not generic
            GatedLayer(width) for _ in range(layers)
        )
        self.leave = nn.Conv2d(width, parameter_count(channels, mixtures), 1)
        for convolution in self.modules():
            if isinstance(convolution, nn.Conv2d):
                channels_last(convolution)

    def _draw(self, x, noise=None):
        """Return log P(x), (B,) nats."""
        x = self.checked(x)
        values = scaled(x, self.levels, self.dtype)
        # Shifted by a row and by a pixel: no place sees itself.
        vertical = self.above(F.pad(values, (0, 0, 1, -1))) + self.positions[0]
        horizontal = self.left(F.pad(values, (1, -1))) + self.positions[1]
        for layer in self.layers:
            vertical = layer.vertical(vertical)
            horizontal = layer.horizontal(horizontal, vertical)
        return self._pixels(horizontal).log_prob(x).sum((1, 2))

    def _pixels(self, features: Tensor) -> PixelMixture:
        return PixelMixture(self.leave(F.silu(features)).to(self.dtype), self.shape[0], self.levels)

    def _sample(self, count, temperature, generator):
        """Draw images pixel by pixel; see `PixelMixture.sample`."""
        channels, height, width = self.shape
        uniform = draw_uniform(
            (count, 1 + channels, height, width),
            generator=generator, device=self.device, dtype=torch.float64,
        )  # fmt: skip
        images = torch.zeros((count, *self.shape), dtype=torch.uint8, device=self.device)
        rows: Memory = {}
        outside = self.positions.new_zeros((count, channels, 1, width), dtype=self.dtype)
        for y in range(height):
            here = slice(y, y + 1)
            last = scaled(images[:, :, y - 1 : y], self.levels, self.dtype) if y else outside
            vertical = [self.above(last, rows) + self.positions[0, :, :, here]]
            for layer in self.layers:
                vertical.append(layer.vertical(vertical[-1], rows))
            pixels: Memory = {}
            pixel = outside[..., :1]
            for x in range(width):
                there = slice(x, x + 1)
                features = self.left(pixel, pixels) + self.positions[1, :, :, here, there]
                for layer, row in zip(self.layers, vertical[1:], strict=True):
                    features = layer.horizontal(features, row[..., there], pixels)
                drawn = self._pixels(features).sample(uniform[..., here, there], temperature)
                images[..., here, there] = drawn
                pixel = scaled(drawn, self.levels, self.dtype)
        return images


class CausalConvolution(nn.Conv2d):
    """Convolution that along one axis sees a place and those before it.

    Args:
        inputs: Channels that it sees.
        outputs: Channels that it returns.
        kernel: Rows and columns; the columns of a convolution along the rows are those around a
            place.
        axis: `ROWS` or `COLUMNS`.
    """

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int], axis: int):
        padding = (0, kernel[1] // 2 if axis == ROWS else 0)
        super().__init__(inputs, outputs, kernel, padding=padding)
        self.axis, self.back = axis, kernel[axis - 2] - 1

    def forward(self, h: Tensor, memory: Memory | None = None) -> Tensor:
        """Convolve h (B, C, H, W), which continues the rows or pixels in the memory, or zeros."""
        if memory is None:
            before = (0, 0, self.back, 0) if self.axis == ROWS else (self.back, 0)
            return super().forward(F.pad(h, before))
        if self.back:
            size = list(h.shape)
            size[self.axis] = self.back
            past = memory[self] if self in memory else h.new_zeros(size)
            h = torch.cat((past, h), self.axis)
            memory[self] = h.narrow(self.axis, h.shape[self.axis] - self.back, self.back)
        return super().forward(h)


class GatedLayer(nn.Module):
    """Layer of both stacks: ``h + a sigmoid(b)``, (a, b) of a convolution of the normalised h.

    Args:
        width: Channels.
    """

    def __init__(self, width: int):
        super().__init__()
        self.norms = nn.ModuleList(ChannelNorm(width) for _ in range(2))
        self.above = CausalConvolution(width, width, (2, 3), ROWS)
        self.left = CausalConvolution(width, width, (1, 3), COLUMNS)
        self.link = nn.Conv2d(width, width, 1)
        self.gates = nn.ModuleList(nn.Conv2d(width, 2 * width, 1) for _ in range(2))

    def vertical(self, v: Tensor, memory: Memory | None = None) -> Tensor:
        """Update rows (B, C, H, W) of the vertical stack."""
        u = self.above(self.norms[0](v), memory)
        return v + F.glu(self.gates[0](F.silu(u)), 1)

    def horizontal(self, h: Tensor, v: Tensor, memory: Memory | None = None) -> Tensor:
        """Update pixels (B, C, H, W) of the horizontal stack, given the vertical stack."""
        u = self.left(self.norms[1](h), memory) + self.link(v)
        return h + F.glu(self.gates[1](F.silu(u)), 1)
