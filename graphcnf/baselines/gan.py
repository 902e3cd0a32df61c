"""Generative adversarial network: a generator against a discriminator, without likelihood.

    discriminator:  E softplus(-D(x)) + E softplus(D(G(z))) + gamma / 2 E |grad_x D(x)|^2
    generator:      E softplus(-D(G(z)))

The non-saturating loss is that of Goodfellow et al. 2014 (arXiv 1406.2661), the penalty R1 of
Mescheder et al. 2018 (arXiv 1801.04406), the descent to an image's latents of Zhu et al. 2016
(arXiv 1609.03552).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from graphcnf.baselines.pixelcnn import scaled, unscaled
from graphcnf.baselines.vae import ImageToVector, VectorToImage
from graphcnf.errors import UserError
from graphcnf.flows.base import draw_normal
from graphcnf.images.model import ImageLatents, ImageModel
from graphcnf.limits import Range

STARTS, STEPS, RATE = 256, 100, 0.1
"""Search of an image's latents: random starts, then steps and rate of Adam from the nearest."""


class GAN(ImageModel):
    """Adversarial network: samples in one pass, no likelihood; latents of an image are searched.

    Args:
        shape: Channels, height and width.
        levels: Number of values of a pixel, at most 256.
        latents: Numbers that the generator maps to an image.
        width: See `graphcnf.baselines.vae.ImageToVector`.
        penalty: gamma.
        architecture: "gan".

    Examples:
        >>> model = GAN(shape=(1, 4, 4), levels=16, latents=3, width=4)
        >>> loss, metrics = model.training_loss(torch.randint(16, (2, 1, 4, 4)))
        >>> sorted(metrics)
        ['discriminator_loss', 'generator_loss', 'gradient_penalty']
    """

    latent_size: int

    def __init__(
        self,
        *,
        shape: Sequence[int],
        levels: int = 256,
        latents: int = 64,
        width: int = 32,
        penalty: Annotated[float, Range()] = 10.0,
        architecture: str = "gan",
    ):
        super().__init__(architecture, shape, levels, latents=latents, width=width, penalty=penalty)
        if not penalty >= 0:
            raise UserError(f"penalty must be at least 0, got {penalty}")
        channels, *size = shape
        self.latent_size, self.penalty = latents, penalty
        # Without a tanh, which has no slope where all pixels are black: training got stuck there.
        # `unscaled` clips to -1 to 1.
        self.generator = VectorToImage(latents, channels, size, width)
        self.discriminator = ImageToVector(channels, size, 1, width)

    def training_loss(self, batch: Tensor, *, beta: float = 1.0):
        """Return the sum of both players' losses, whose gradient gives each player its own.

        The metrics are its three parts as pairs (sum over images, number of images).
        """
        real = scaled(self.checked(batch), self.levels, self.dtype)
        fake = self.generator(torch.randn(len(real), self.latent_size).to(real))
        penalty = self._gradient_penalty(real)
        scores = self.discriminator(real), self.discriminator(fake.detach())
        # The generator's loss gives the discriminator no gradient.
        held = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        generator = F.softplus(-functional_call(self.discriminator, held, (fake,)))
        parts = {
            "discriminator_loss": (F.softplus(-scores[0]) + F.softplus(scores[1])).mean(),
            "generator_loss": generator.mean(),
            "gradient_penalty": penalty,
        }
        count = torch.tensor(float(len(batch)))
        metrics = {name: (part.detach() * count, count) for name, part in parts.items()}
        return sum(parts.values()), metrics

    def _gradient_penalty(self, real: Tensor) -> Tensor:
        with torch.enable_grad():  # the held-out loss needs it as well
            real = real.detach().requires_grad_()
            score = self.discriminator(real).sum()
            (gradient,) = torch.autograd.grad(score, real, create_graph=self.training)
        return self.penalty / 2 * gradient.square().flatten(1).sum(1).mean()

    def _sample(self, count, temperature, generator):
        """Draw latents, scaled by the temperature."""
        options = {"generator": generator, "device": self.device, "dtype": self.dtype}
        z = temperature * draw_normal((count, self.latent_size), **options)
        return self.decode(ImageLatents(z))

    @torch.no_grad()
    def encode(self, x: Tensor) -> ImageLatents:
        """Return latents whose images are near x, by descent from the nearest of fixed draws."""
        x = scaled(self.checked(x), self.levels, self.dtype)
        draws = torch.randn(STARTS, self.latent_size, generator=torch.Generator().manual_seed(0))
        draws = draws.to(x)
        nearest = torch.cdist(x.flatten(1), self.generator(draws).flatten(1)).argmin(1)
        z = draws[nearest].requires_grad_()
        optimizer = torch.optim.Adam([z], RATE)
        for _ in range(STEPS):
            with torch.enable_grad():
                distance = (self.generator(z) - x).square().sum()
                (z.grad,) = torch.autograd.grad(distance, z)
            optimizer.step()
        return ImageLatents(z.detach())

    @torch.no_grad()
    def decode(self, latents: ImageLatents) -> Tensor:
        """Return images (B, C, H, W) uint8 of latents."""
        return unscaled(self.generator(latents.z), self.levels)
