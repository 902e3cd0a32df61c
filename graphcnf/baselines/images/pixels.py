"""Distribution of a pixel's values: a discretised mixture of logistics.

    P(x) = sum_k w_k prod_c [ F((x_c + 1/2 - m_kc) / s_kc) - F((x_c - 1/2 - m_kc) / s_kc) ]

F is the sigmoid; the first and the last value get the tails. The mean of a channel depends
linearly on the channels before it: m_kc = mu_kc + sum_{d<c} a_kcd x_d.

References:
    Salimans et al., *PixelCNN++*, ICLR 2017, arXiv 1701.05517, sections 2.1 and 2.2.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

LOG_SCALES = (-7.0, 3.0)
"""Least and largest logarithm of a scale; the values of a pixel lie in -1 to 1."""


def parameter_count(channels: int, mixtures: int) -> int:
    """Return the number of parameters of a pixel."""
    return mixtures * (1 + 2 * channels + channels * (channels - 1) // 2)


def scaled(x: Tensor, levels: int, dtype: torch.dtype) -> Tensor:
    """Map integers 0 to levels - 1 evenly to -1 to 1."""
    return x.to(dtype) * (2 / (levels - 1)) - 1


def unscaled(value: Tensor, levels: int) -> Tensor:
    """Map -1 to 1 to the nearest integers 0 to levels - 1, uint8."""
    x = ((value + 1) * ((levels - 1) / 2)).round()
    return x.clamp(0, levels - 1).to(torch.uint8)


class PixelMixture:
    """Mixtures of all pixels of a batch.

    Args:
        parameters: (B, `parameter_count`, H, W) from a network; at zero, the components are spread
            evenly over the values.
        channels: C.
        levels: Number of values.

    Examples:
        >>> pixels = PixelMixture(torch.randn(1, parameter_count(1, 5), 1, 1), 1, levels=4)
        >>> values = torch.arange(4).view(4, 1, 1, 1)
        >>> pixels.log_prob(values).exp().sum()
        tensor(1.0000)
    """

    def __init__(self, parameters: Tensor, channels: int, levels: int):
        self.channels, self.levels = channels, levels
        mixtures = parameters.shape[1] // parameter_count(channels, 1)
        parts = parameters.unflatten(1, (-1, mixtures)).unbind(1)
        # (B, K, H, W) each.
        spread = torch.linspace(-1, 1, mixtures, device=parameters.device, dtype=parameters.dtype)
        self.logits = parts[0]
        self.means = [m + spread.view(-1, 1, 1) for m in parts[1 : 1 + channels]]
        log_scales = parts[1 + channels : 1 + 2 * channels]
        self.log_scales = [(s - 2).clamp(*LOG_SCALES) for s in log_scales]
        self.slopes = [torch.tanh(a) for a in parts[1 + 2 * channels :]]

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log-probabilities, (B, H, W) nats, of integers x (B, C, H, W)."""
        values = scaled(x, self.levels, self.logits.dtype)
        total = F.log_softmax(self.logits, 1)
        before: list[Tensor] = []
        for channel in range(self.channels):
            value, mean = values[:, channel, None], self._mean(channel, self.means, before)
            total = total + self._log_cell(value, mean, self.log_scales[channel])
            before.append(value)
        return torch.logsumexp(total, 1)

    def _log_cell(self, value: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
        """Return log[F(b) - F(a)] = log F(b) + log F(-a) + log(1 - exp(a - b))."""
        half = 1 / (self.levels - 1)
        inverse = torch.exp(-log_scale)
        first, last = value < half - 1, value > 1 - half
        below = F.logsigmoid((value + half - mean) * inverse)
        above = F.logsigmoid(-(value - half - mean) * inverse)
        between = torch.log(-torch.expm1(-2 * half * inverse))
        inside = above + between.masked_fill(last, 0)
        return below.masked_fill(last, 0) + inside.masked_fill(first, 0)

    def _mean(self, channel: int, means: list[Tensor], before: list[Tensor]) -> Tensor:
        first = channel * (channel - 1) // 2
        slopes = self.slopes[first : first + channel]
        return means[channel] + sum(a * v for a, v in zip(slopes, before, strict=True))

    def sample(self, uniform: Tensor, temperature: float = 1.0) -> Tensor:
        """Return images (B, C, H, W) uint8, a function of uniform numbers (B, 1 + C, H, W).

        The temperature divides the logits of the components, and multiplies their scales.
        """
        uniform = uniform.clamp(1e-12, 1 - 1e-12)
        shares = torch.softmax(self.logits.double() / temperature, 1).cumsum(1)
        chosen = (shares < uniform[:, :1]).sum(1, keepdim=True).clamp(max=shares.shape[1] - 1)

        before: list[Tensor] = []
        for channel in range(self.channels):
            mean = self._mean(channel, self.means, before).gather(1, chosen)
            scale = self.log_scales[channel].gather(1, chosen).exp()
            noise = torch.logit(uniform[:, 1 + channel, None]) * temperature
            value = unscaled(mean + scale * noise, self.levels)
            before.append(scaled(value, self.levels, mean.dtype))
        return unscaled(torch.cat(before, 1), self.levels)

    def mean(self) -> Tensor:
        """Return the mean image (B, C, H, W) uint8; a component's mean is clipped to the values."""
        weights = torch.softmax(self.logits, 1)
        before: list[Tensor] = []
        for channel in range(self.channels):
            mean = self._mean(channel, self.means, before).clamp(-1, 1)
            before.append((weights * mean).sum(1, keepdim=True))
        return unscaled(torch.cat(before, 1), self.levels)
