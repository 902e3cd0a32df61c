"""Variational autoencoder: latents with a standard normal prior, pixels independent given them.

    log P(x) >= E_{z~q(z|x)} [ log P(x|z) + log p(z) - log q(z|x) ]

An encoder gives mean and variance of q(z|x), a decoder the mixture of every pixel: P(x|z) is a
probability of integers. Kingma & Welling, *Auto-encoding variational Bayes*, ICLR 2014, arXiv
1312.6114.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.baselines.pixelcnn import PixelMixture, parameter_count, scaled
from graphcnf.flows.base import StandardNormal, draw_uniform
from graphcnf.flows.transform import take
from graphcnf.images.model import ImageLatents, ImageModel
from graphcnf.images.networks import channels_last

SLOPE = 0.2
"""Slope of the leaky ReLU below zero."""


def _halved(size: Sequence[int]) -> tuple[int, int]:
    """Return height and width after a convolution of stride 2."""
    return (size[0] + 1) // 2, (size[1] + 1) // 2


def _convolutions(*layers: nn.Conv2d) -> nn.ModuleList:
    """Return the layers, initialised for leaky ReLU (He et al. 2015, arXiv 1502.01852)."""
    convolutions = nn.ModuleList(layers)
    channels_last(convolutions)
    for parameter in convolutions.parameters():
        if parameter.dim() > 1:
            nn.init.kaiming_normal_(parameter, SLOPE)
        else:
            nn.init.zeros_(parameter)
    return convolutions


class ImageToVector(nn.Module):
    """Four convolutions, two of them of stride 2, and a linear map to the outputs.

    There are `width` channels at the full size, twice and four times as many at half and at a
    quarter of it.
    """

    def __init__(self, channels: int, size: Sequence[int], outputs: int, width: int):
        super().__init__()
        self.convolutions = _convolutions(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1),
            nn.Conv2d(4 * width, 4 * width, 3, padding=1),
        )
        self.leave = nn.Linear(4 * width * math.prod(_halved(_halved(size))), outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, outputs)."""
        for convolution in self.convolutions:
            x = F.leaky_relu(convolution(x), SLOPE)
        return self.leave(x.flatten(1))


class VectorToImage(nn.Module):
    """Linear map to a quarter of the size, and four convolutions with two doublings of the size."""

    def __init__(self, inputs: int, outputs: int, size: Sequence[int], width: int):
        super().__init__()
        half = _halved(size)
        self.sizes = _halved(half), half, tuple(size)
        self.enter = nn.Linear(inputs, 4 * width * math.prod(self.sizes[0]))
        self.convolutions = _convolutions(
            nn.Conv2d(4 * width, 4 * width, 3, padding=1),
            nn.Conv2d(4 * width, 2 * width, 3, padding=1),
            nn.Conv2d(2 * width, width, 3, padding=1),
            nn.Conv2d(width, outputs, 1),
        )

    def forward(self, z: Tensor) -> Tensor:
        """Map (B, inputs) to (B, outputs, H, W)."""
        h = self.enter(z).unflatten(1, (-1, *self.sizes[0]))
        *inner, last = self.convolutions
        for size, convolution in zip(self.sizes, inner, strict=True):
            h = convolution(F.leaky_relu(F.interpolate(h, size), SLOPE))
        return last(F.leaky_relu(h, SLOPE))


class VAE(ImageModel):
    """Variational autoencoder: a bound, samples in one pass, latents much smaller than an image.

    Args:
        shape: Channels, height and width.
        levels: Number of values of a pixel, at most 256.
        latents: Numbers that an image is encoded into.
        width: See `ImageToVector`.
        mixtures: Components of a pixel's mixture.
        architecture: "vae".

    Examples:
        >>> model = VAE(shape=(1, 4, 4), levels=16, latents=3, width=4)
        >>> model.encode(torch.randint(16, (2, 1, 4, 4))).z.shape
        torch.Size([2, 3])
    """

    likelihood = "bound"

    def __init__(
        self,
        *,
        shape: Sequence[int],
        levels: int = 256,
        latents: int = 32,
        width: int = 32,
        mixtures: int = 5,
        architecture: str = "vae",
    ):
        sizes = {"latents": latents, "width": width, "mixtures": mixtures}
        super().__init__(architecture, shape, levels, **sizes)
        channels, *size = shape
        self.latent_size = latents
        self.encoder = ImageToVector(channels, size, 2 * latents, width)
        self.decoder = VectorToImage(latents, parameter_count(channels, mixtures), size, width)
        self.prior = StandardNormal()

    def _terms(self, x, noise=None):
        """Draw z from q(z|x); return log P(x|z) and log p(z) - log q(z|x), (B,) each."""
        mean, log_sd = self._posterior(x)
        e = take(noise, lambda: torch.randn_like(mean))
        z = mean + log_sd.exp() * e
        log_q = self.prior.log_prob(e) - log_sd.sum(1)
        return self._pixels(z).log_prob(x).sum((1, 2)), self.prior.log_prob(z) - log_q

    def _posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log standard deviation of q(z|x), (B, latents) each."""
        values = scaled(self.checked(x), self.levels, self.dtype)
        return self.encoder(values).chunk(2, 1)

    def _pixels(self, z: Tensor) -> PixelMixture:
        return PixelMixture(self.decoder(z), self.shape[0], self.levels)

    def _sample(self, count, temperature, generator):
        """Draw latents, then pixels, both at the temperature."""
        options: dict[str, Any] = {"generator": generator, "device": self.device}
        size = (count, self.latent_size)
        z = self.prior.sample(size, temperature=temperature, dtype=self.dtype, **options)
        channels, *sides = self.shape
        uniform = draw_uniform((count, 1 + channels, *sides), dtype=torch.float64, **options)
        return self._pixels(z).sample(uniform, temperature)

    @torch.no_grad()
    def encode(self, x: Tensor) -> ImageLatents:
        """Return the means of q(z|x), (B, latents); see `ImageModel.encode`."""
        return ImageLatents(self._posterior(x)[0])

    @torch.no_grad()
    def decode(self, latents: ImageLatents) -> Tensor:
        """Return the means of P(x|z), (B, C, H, W) uint8."""
        return self._pixels(latents.z).mean()
