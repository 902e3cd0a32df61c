"""PixelCNN: an autoregressive model of images, and the mixtures of logistics of its pixels.

Pixels are drawn row by row, from left to right, each given all pixels before it. van den Oord et
al. 2016, arXiv 1606.05328. The model is here for comparison with flows of images.

- *Levels*: a pixel has in each channel one of `levels` integers, 0 to `levels` - 1. Networks see it
  as a number from -1 to 1 (`scaled`).
- The *vertical stack* is the series of convolutions that sees the rows above a pixel. The
  *horizontal stack* sees the pixels to the left in its row, and the vertical stack.
- A *mixture of logistics* is the distribution of a pixel: K weighted logistic densities, of which
  each integer gets the mass around it (`PixelMixture`).
- A *memory* caches what convolutions need of earlier pixels, so that drawing a pixel does not
  compute the whole image anew.

Shapes: B images of C channels, H rows and W columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.categorical.causal_convolution import COLUMNS, ROWS, CausalConvolution, Memory
from graphcnf.flows.base import draw_uniform
from graphcnf.flows.transform import Generators, Noise
from graphcnf.images.image_model import ImageModel
from graphcnf.images.image_networks import ChannelNorm

LOG_SCALES = (-7.0, 3.0)  # bounds of log-scales, for values from -1 to 1


def parameter_count(channels: int, mixtures: int) -> int:
    """Return how many numbers per pixel a network must output for a `PixelMixture`.

    For each component: a weight, C means, C scales, and C (C - 1) / 2 slopes that say how each mean
    depends on earlier channels.
    """
    return mixtures * (1 + 2 * channels + channels * (channels - 1) // 2)


def scaled(x: Tensor, levels: int, dtype: torch.dtype) -> Tensor:
    """Map the values 0 to `levels` - 1 of pixels linearly to numbers from -1 to 1."""
    return x.to(dtype) * (2 / (levels - 1)) - 1


def unscaled(value: Tensor, levels: int) -> Tensor:
    """Map numbers from -1 to 1 back to the nearest values of pixels: the inverse of `scaled`.

    Numbers outside of -1 to 1 are clipped; the result is uint8.
    """
    x = ((value + 1) * ((levels - 1) / 2)).round()
    return x.clamp(0, levels - 1).to(torch.uint8)


class PixelMixture:
    """Discretised mixtures of logistics, one for each pixel of a batch of images.

        P(x) = sum_k w_k prod_c [ F((x_c + h - m_kc) / s_kc) - F((x_c - h - m_kc) / s_kc) ]

    Here x_c is the value of channel c scaled to -1 to 1, h = 1 / (levels - 1) half the distance of
    neighbouring values, and F the sigmoid. The first and the last value also get the tails. The
    mean of a channel depends linearly on the channels before it: m_kc = mu_kc + sum_{d<c} a_kcd x_d
    (Salimans et al., *PixelCNN++*, 2017, arXiv 1701.05517, sections 2.1 and 2.2).

    Args:
        parameters: Outputs of a network, (B, P, H, W) with P = `parameter_count`. If they are 0,
            the means of the components are evenly spaced.

    Examples:
        >>> pixels = PixelMixture(torch.randn(1, parameter_count(1, 5), 1, 1), 1, levels=4)
        >>> values = torch.arange(4).view(4, 1, 1, 1)
        >>> pixels.log_prob(values).exp().sum()
        tensor(1.0000)
    """

    def __init__(self, parameters: Tensor, channels: int, levels: int):
        self.channels, self.levels = channels, levels
        mixtures = parameters.shape[1] // parameter_count(channels, 1)
        parts = parameters.unflatten(1, (-1, mixtures)).unbind(1)  # (B, K, H, W) each
        spread = torch.linspace(-1, 1, mixtures, device=parameters.device, dtype=parameters.dtype)
        self.logits = parts[0]
        self.means = [m + spread.view(-1, 1, 1) for m in parts[1 : 1 + channels]]
        log_scales = parts[1 + channels : 1 + 2 * channels]
        self.log_scales = [(s - 2).clamp(*LOG_SCALES) for s in log_scales]
        self.slopes = [torch.tanh(a) for a in parts[1 + 2 * channels :]]

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-probability of each pixel, all channels together, (B, H, W) nats."""
        values = scaled(x, self.levels, self.logits.dtype).split(1, 1)
        total = F.log_softmax(self.logits, 1)
        for channel, value in enumerate(values):
            mean = self._mean(channel, values[:channel])
            total = total + self._log_cell(value, mean, self.log_scales[channel])
        return torch.logsumexp(total, 1)

    def _log_cell(self, value: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
        """Return the log-probability of a channel's value in each component of the mixture."""
        half = 1 / (self.levels - 1)
        inverse = torch.exp(-log_scale)
        first, last = value < half - 1, value > 1 - half
        below = F.logsigmoid((value + half - mean) * inverse)
        above = F.logsigmoid(-(value - half - mean) * inverse)
        between = torch.log(-torch.expm1(-2 * half * inverse))
        inside = above + between.masked_fill(last, 0)
        return below.masked_fill(last, 0) + inside.masked_fill(first, 0)

    def _mean(self, channel: int, before: Sequence[Tensor]) -> Tensor:
        """Return the means of a channel in all components, given the channels before it."""
        first = channel * (channel - 1) // 2
        slopes = self.slopes[first : first + channel]
        return self.means[channel] + sum(a * v for a, v in zip(slopes, before, strict=True))

    def sample(self, uniform: Tensor, temperature: float = 1.0) -> Tensor:
        """Draw images (B, C, H, W) uint8: for each pixel a component, then its channels in turn.

        Args:
            uniform: Uniform random numbers in [0, 1), (B, 1 + C, H, W). Of each pixel, number 0
                chooses the component, number 1 + c the value of channel c.
            temperature: Divides the logits of the components, and multiplies their scales; below 1
                for more probable images.
        """
        uniform = uniform.clamp(1e-12, 1 - 1e-12)
        shares = torch.softmax(self.logits.double() / temperature, 1).cumsum(1)
        chosen = (shares < uniform[:, :1]).sum(1, keepdim=True).clamp(max=shares.shape[1] - 1)

        before: list[Tensor] = []
        for channel in range(self.channels):
            mean = self._mean(channel, before).gather(1, chosen)
            scale = self.log_scales[channel].gather(1, chosen).exp()
            noise = torch.logit(uniform[:, 1 + channel, None]) * temperature
            value = unscaled(mean + scale * noise, self.levels)
            before.append(scaled(value, self.levels, mean.dtype))
        return unscaled(torch.cat(before, 1), self.levels)

    def mean(self) -> Tensor:
        """Return the mean images, (B, C, H, W) uint8, for decoding without random numbers.

        Means of components outside of the range of values are clipped to it.
        """
        weights = torch.softmax(self.logits, 1)
        means: list[Tensor] = []  # of each channel in every component, (B, K, H, W)
        for channel in range(self.channels):
            means.append(self._mean(channel, means).clamp(-1, 1))
        mean = torch.stack([(weights * own).sum(1) for own in means], 1)
        return unscaled(mean, self.levels)


class GatedLayer(nn.Module):
    """Layer of a PixelCNN, which updates the vertical and the horizontal stack.

    An update of a stack h is `h + a sigmoid(b)`, where (a, b) come from causal convolutions of
    the normalised h.
    """

    def __init__(self, width: int):
        super().__init__()
        self.norms = nn.ModuleList(ChannelNorm(width) for _ in range(2))
        self.above = CausalConvolution(width, width, (2, 3), ROWS)
        self.left = CausalConvolution(width, width, (1, 3), COLUMNS)
        self.link = nn.Conv2d(width, width, 1)
        self.gates = nn.ModuleList(nn.Conv2d(width, 2 * width, 1) for _ in range(2))

    def vertical(self, v: Tensor, memory: Memory | None = None) -> Tensor:
        """Update the vertical stack, of the whole image or of its next row.

        `v` is (B, width, H, W). With a memory, `{convolution: its last inputs}`, updated in place,
        it is only the next row, (B, width, 1, W); {} before the first row.
        """
        u = self.above(self.norms[0](v), memory)
        return v + F.glu(self.gates[0](F.silu(u)), 1)

    def horizontal(self, h: Tensor, v: Tensor, memory: Memory | None = None) -> Tensor:
        """Update the horizontal stack, of the whole image or of its next pixel.

        `v` is the vertical stack at the same pixels, after this layer. With a memory, as in
        `vertical`, both are only the next pixel, (B, width, 1, 1); {} before the first pixel of a
        row.
        """
        u = self.left(self.norms[1](h), memory) + self.link(v)
        return h + F.glu(self.gates[1](F.silu(u)), 1)


class PixelCNN(ImageModel):
    """Autoregressive model of images, whose likelihood is exact.

    `log_prob` takes one pass of the network, `sample` a pass for each pixel. It has no latents.

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
        channels, *size = shape
        self.above = CausalConvolution(channels, width, (1, 3), ROWS)
        self.left = CausalConvolution(channels, width, (1, 2), COLUMNS)
        self.positions = nn.Parameter(torch.zeros(2, 1, width, *size))
        self.layers: Sequence[GatedLayer] = nn.ModuleList(  # type: ignore[assignment]  # not generic
            GatedLayer(width) for _ in range(layers)
        )
        self.leave = nn.Conv2d(width, parameter_count(channels, mixtures), 1)

    def _terms(self, x: Tensor, noise: Noise | None = None) -> tuple[Any, Tensor]:
        """Compute the exact log P(x) of images."""
        x = self.checked(x)
        values = scaled(x, self.levels, self.dtype)
        # Shifted by a row and by a pixel: no pixel sees itself.
        vertical = self.above(F.pad(values, (0, 0, 1, -1))) + self.positions[0]
        horizontal = self.left(F.pad(values, (1, -1))) + self.positions[1]
        for layer in self.layers:
            vertical = layer.vertical(vertical)
            horizontal = layer.horizontal(horizontal, vertical)
        return 0.0, self._pixels(horizontal).log_prob(x).sum((1, 2))

    def _pixels(self, features: Tensor) -> PixelMixture:
        return PixelMixture(self.leave(F.silu(features)).to(self.dtype), self.shape[0], self.levels)

    def _sample(self, count: int, temperature: float, generator: Generators) -> Tensor:
        """Draw images pixel by pixel."""
        channels, height, width = self.shape
        how = {"generator": generator, "device": self.device, "dtype": torch.float64}
        uniform = draw_uniform((count, 1 + channels, height, width), **how)
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
