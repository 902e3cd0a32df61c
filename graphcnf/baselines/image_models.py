"""A variational autoencoder (VAE) and a generative adversarial network (GAN) of images.

Both are here for comparison with flows of images. Pixels are integers from 0 to `levels` - 1;
networks see them as numbers from -1 to 1 (`graphcnf.baselines.pixelcnn.scaled`). *Latents* z are
the numbers from which an image is decoded.

Shapes: B images of C channels, H rows and W columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from graphcnf.baselines.pixelcnn import PixelMixture, parameter_count, scaled, unscaled
from graphcnf.flows.base import StandardNormal, draw_normal, draw_uniform
from graphcnf.flows.transform import Generators, Noise, draw_noise
from graphcnf.images.image_model import ImageModel
from graphcnf.images.image_networks import channels_last
from graphcnf.limits import Range

SLOPE = 0.2  # slope of the leaky ReLU below 0


def _halved(size: Sequence[int]) -> tuple[int, int]:
    """Return the size of an image after a convolution with stride 2."""
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
    """Network from images to vectors: four convolutions, two with stride 2, and a linear map.

    It is the encoder of the VAE and the discriminator of the GAN.

    `width` are the channels of the first convolution; each stride doubles them.
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
        """Map images (B, C, H, W) to vectors (B, outputs)."""
        for convolution in self.convolutions:
            x = F.leaky_relu(convolution(x), SLOPE)
        return self.leave(x.flatten(1))


class VectorToImage(nn.Module):
    """Network from vectors to images: a linear map, then four convolutions and two upsamplings.

    `width` are the channels before the last convolution. Layers of a half and of a quarter of the
    size have twice and four times as many.
    """

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
        """Map vectors (B, inputs) to images (B, outputs, H, W)."""
        h = self.enter(z).unflatten(1, (-1, *self.sizes[0]))
        *inner, last = self.convolutions
        for size, convolution in zip(self.sizes, inner, strict=True):
            h = convolution(F.leaky_relu(F.interpolate(h, size), SLOPE))
        return last(F.leaky_relu(h, SLOPE))


class VAE(ImageModel):
    """Variational autoencoder of images.

    log P(x) >= E_{z~q(z|x)} [ log P(x|z) + log p(z) - log q(z|x) ], with a standard normal prior
    p(z), and pixels that are independent given z (Kingma & Welling, ICLR 2014, arXiv 1312.6114).

    Args:
        width: Channels of the first convolution of the encoder; each stride doubles them.
        mixtures: Number of components of P(x|z), a mixture of logistics for each pixel.

    Examples:
        >>> model = VAE(shape=(1, 4, 4), levels=16, latents=3, width=4)
        >>> (z,) = model.encode(torch.randint(16, (2, 1, 4, 4)))
        >>> z.shape
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

    def _terms(self, x: Tensor, noise: Noise | None = None) -> tuple[Any, Tensor]:
        """Draw latents z of images from q(z|x), and return the two terms of the bound."""
        mean, log_sd = self._posterior(x)
        u = draw_noise(noise, mean.shape, device=mean.device)
        e = torch.special.ndtri(u.clamp(1e-12, 1 - 1e-12)).to(mean)
        z = mean + log_sd.exp() * e
        log_q = self.prior.log_prob(e) - log_sd.sum(1)
        return self._pixels(z).log_prob(x).sum((1, 2)), self.prior.log_prob(z) - log_q

    def _posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the parameters of the normal distributions q(z|x)."""
        values = scaled(self.checked(x), self.levels, self.dtype)
        return self.encoder(values).chunk(2, 1)

    def _pixels(self, z: Tensor) -> PixelMixture:
        return PixelMixture(self.decoder(z), self.shape[0], self.levels)

    def _sample(self, count: int, temperature: float, generator: Generators) -> Tensor:
        """Draw latents, then pixels given the latents, both at the temperature."""
        options: dict[str, Any] = {"generator": generator, "device": self.device}
        size = (count, self.latent_size)
        z = self.prior.sample(size, temperature=temperature, dtype=self.dtype, **options)
        channels, *sides = self.shape
        uniform = draw_uniform((count, 1 + channels, *sides), dtype=torch.float64, **options)
        return self._pixels(z).sample(uniform, temperature)

    @torch.no_grad()
    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        """Encode images to the means of q(z|x)."""
        return (self._posterior(x)[0],)

    @torch.no_grad()
    def decode(self, latents: Sequence[Tensor]) -> Tensor:
        """Decode latents to images: the mean of P(x|z), so nothing is drawn."""
        return self._pixels(latents[0]).mean()


# `GAN.encode`: number of random latents, then steps and learning rate of Adam from the nearest.
STARTS, STEPS, RATE = 256, 100, 0.1


class GAN(ImageModel):
    """Generative adversarial network of images, with a generator G and a discriminator D.

    It has no likelihood, and `encode` has to search for latents. The losses of the two players are

        discriminator:  E softplus(-D(x)) + E softplus(D(G(z))) + gamma / 2 E |grad_x D(x)|^2
        generator:      E softplus(-D(G(z)))

    Goodfellow et al. 2014 (arXiv 1406.2661), with the gradient penalty R1 of Mescheder et al. 2018
    (arXiv 1801.04406).

    Args:
        width: Channels of the first convolution of the discriminator; each stride doubles them.
        penalty: Weight gamma of the gradient penalty.

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
        channels, *size = shape
        self.latent_size, self.penalty = latents, penalty
        # Without a final tanh, whose slope vanishes for black pixels: training got stuck there.
        # `unscaled` clips to -1 to 1 instead.
        self.generator = VectorToImage(latents, channels, size, width)
        self.discriminator = ImageToVector(channels, size, 1, width)

    def training_loss(self, batch: Tensor, *, beta: float = 1.0):
        """Return the loss of a batch, whose gradient trains both players at once, and metrics."""
        real = scaled(self.checked(batch), self.levels, self.dtype)
        fake = self.generator(torch.randn(len(real), self.latent_size).to(real))
        penalty = self._gradient_penalty(real)
        scores = self.discriminator(real), self.discriminator(fake.detach())
        # Detached: the generator's loss gives the discriminator no gradient.
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
        """Return gamma / 2 E |grad_x D(x)|^2, a scalar."""
        with torch.enable_grad():  # for the held-out loss, which is computed without gradients
            real = real.detach().requires_grad_()
            score = self.discriminator(real).sum()
            (gradient,) = torch.autograd.grad(score, real, create_graph=self.training)
        return self.penalty / 2 * gradient.square().flatten(1).sum(1).mean()

    def _sample(self, count: int, temperature: float, generator: Generators) -> Tensor:
        options = {"generator": generator, "device": self.device, "dtype": self.dtype}
        z = temperature * draw_normal((count, self.latent_size), **options)
        return self.decode((z,))

    @torch.no_grad()
    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        """Search for latents whose images are near given ones.

        It is gradient descent on the squared distance, 100 steps of Adam (Zhu et al. 2016, arXiv
        1609.03552). It starts from the nearest of 256 random images (`STARTS`), which are the same
        in every call.
        """
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
        return (z.detach(),)

    @torch.no_grad()
    def decode(self, latents: Sequence[Tensor]) -> Tensor:
        """Decode latents to images by the generator."""
        return unscaled(self.generator(latents[0]), self.levels)
