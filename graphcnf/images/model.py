"""`ImageModel`, the interface of every model of images, and the latents of images."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from graphcnf.errors import UserError
from graphcnf.flows.base import Generators, record_generators
from graphcnf.flows.modules import evaluates
from graphcnf.flows.transform import Noise, log_term_dtype
from graphcnf.limits import check_integer
from graphcnf.pretrained import Pretrained

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
BLOCK = 32
"""Records that are drawn together: rounding in float32 depends on the size of a batch."""


@dataclass
class ImageLatents:
    """Latents of images; a model decodes them to images, apart from noise of the pixels.

    Attributes:
        z: (B, ...); of a flow those that went through all layers, (B, C, H, W).
        discarded: Latents that a flow factored out on the way, in the order of its splits.
    """

    z: Tensor
    discarded: list[Tensor] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.z)

    def towards(self, other: ImageLatents, share: Tensor) -> ImageLatents:
        """Return points on the straight line to `other`: 0 is here, 1 is there.

        Args:
            other: Latents of as many images; those of one image go with any number of points.
            share: (B,).
        """
        share = share.to(self.z)

        def mix(a: Tensor, b: Tensor) -> Tensor:
            part = share.view(-1, *[1] * (a.dim() - 1))
            return (1 - part) * a + part * b

        pairs = zip(self.discarded, other.discarded, strict=True)
        return ImageLatents(mix(self.z, other.z), [mix(a, b) for a, b in pairs])


@evaluates("log_prob", "sample")
class ImageModel(Pretrained, ABC):
    """A distribution over images of integers.

    Every model draws images and defines `_sample`. A model with a likelihood sets `likelihood` and
    defines `_draw`; a model with latents sets `latent_size` and defines `encode` and `decode`.

    Args:
        architecture: Name of the kind of model, by which a folder's model is loaded.
        shape: Channels, height and width.
        levels: Number of values of a pixel, 2 to 256.
        **options: Further arguments of the subclass, kept with the configuration.

    Attributes:
        config: The constructor's arguments, which are saved with the weights.
        metadata: Facts about the data, JSON: `dataset`, `data`, `training`.

    Raises:
        UserError: An argument that does not fit.
    """

    likelihood: str | None = None
    """Kind of `log_prob`: "exact", a (lower) "bound", or None for none."""

    latent_size: int | None = None
    """Numbers that an image is encoded into, None for a model without latents."""

    def __init__(self, architecture: str, shape: Sequence[int], levels: int, **options: Any):
        super().__init__()
        if len(shape) != 3 or not all(isinstance(size, int) and size > 0 for size in shape):
            raise UserError(f"shape must be channels, height and width, got {list(shape)}")
        check_integer("levels", levels, 2, 256)
        self.config = {"architecture": architecture, "shape": list(shape), "levels": levels}
        self.config |= options
        self.metadata: dict = {}

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images."""
        channels, height, width = self.config["shape"]
        return channels, height, width

    @property
    def levels(self) -> int:
        """Number of values of a pixel."""
        return self.config["levels"]

    @property
    def dtype(self) -> torch.dtype:
        """Type of the latents: float64 for a model of that type, otherwise float32."""
        return log_term_dtype(next(self.parameters()))

    def log_prob(self, x: Tensor, samples: int = 1, noise: Noise | None = None) -> Tensor:
        """Return log P(x), or a lower bound on it, (B,) nats; see `likelihood`.

        Args:
            x: Images (B, C, H, W) of integers 0 to `levels` - 1, in an integer type.
            samples: Number of draws; more tighten a bound (Burda et al. 2016, arXiv 1509.00519).
            noise: Tape of a bound's draws, see `graphcnf.flows.Context`.

        Raises:
            UserError: The model has no likelihood.
            ValueError: Other images than the model is for, or `samples` is not positive.
        """
        if self.likelihood is None:
            raise self._lacks("likelihood")
        if samples < 1:
            raise ValueError(f"samples must be positive, got {samples}")
        count = 1 if self.likelihood == "exact" else samples
        draws = torch.stack([self._draw(x, noise) for _ in range(count)])
        return torch.logsumexp(draws, 0) - math.log(count)

    def _draw(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        """Draw log P(x) or the bound on it once, (B,) nats, in the mode of the model."""
        raise self._lacks("likelihood")

    def bits_per_dimension(self, x: Tensor, samples: int = 8) -> Tensor:
        """Return bits per pixel and channel, (B,), or an upper bound on them; see `log_prob`."""
        return -self.log_prob(x, samples) / (math.prod(self.shape) * math.log(2))

    def training_loss(self, batch: Tensor, *, beta: float = 1.0):
        """Return the negative log-likelihood, or its bound, in nats per dimension, and metrics.

        Args:
            batch: Images (B, C, H, W).
            beta: Weight of a decoder's term; without influence where nothing is decoded.

        Returns:
            The loss, and as a pair (sum over images, number of images) `bits_per_dimension`.
        """
        loss = -self._draw(batch).mean() / math.prod(self.shape)
        return loss, {"bits_per_dimension": bits_of(loss, len(batch))}

    @torch.no_grad()
    def sample(
        self, count: int, *, temperature: float = 1.0, generator: Generators = None
    ) -> Tensor:
        """Draw images.

        Args:
            count: Number of images.
            temperature: Below 1 for more probable images; it scales all latents.
            generator: See `graphcnf.flows.draw_normal`.

        Returns:
            (count, C, H, W) uint8.
        """
        return self._sample(count, temperature, generator)

    @abstractmethod
    def _sample(self, count: int, temperature: float, generator: Generators) -> Tensor:
        """Draw images, see `sample`."""

    def sample_records(
        self, first: int, count: int, *, seed: int = 0, temperature: float = 1.0
    ) -> Tensor:
        """Draw records `first` to `first + count - 1` of the sample with this seed.

        A record is a function of the seed, its number and the temperature, whatever `count` is.

        Returns:
            (count, C, H, W) uint8.
        """
        if first < 0 or count < 1:
            raise ValueError(f"no records {first} to {first + count - 1}")
        start = first - first % BLOCK
        drawn = [
            self.sample(BLOCK, temperature=temperature, generator=record_generators(seed, k, BLOCK))
            for k in range(start, first + count, BLOCK)
        ]
        return torch.cat(drawn)[first - start :][:count]

    def encode(self, x: Tensor) -> ImageLatents:
        """Return latents of images (B, C, H, W).

        Raises:
            UserError: The model has no latents.
            ValueError: Other images than the model is for.
        """
        raise self._lacks("latents")

    def decode(self, latents: ImageLatents) -> Tensor:
        """Return images (B, C, H, W) uint8 of latents.

        Raises:
            UserError: The model has no latents.
        """
        raise self._lacks("latents")

    def interpolate(self, a: Tensor, b: Tensor, steps: int = 8) -> Tensor:
        """Return images on the straight line in latent space between two.

        Args:
            a: The first image, (C, H, W).
            b: The last one.
            steps: Number of images, both ends included.

        Returns:
            (steps, C, H, W) uint8. The first is `a` encoded and decoded, which is `a` itself where
            encoding loses nothing, and the last likewise.

        Raises:
            UserError: The model has no latents.
            ValueError: Other images than the model is for, or fewer than 2 steps.
        """
        if steps < 2:
            raise ValueError(f"steps must be at least 2, got {steps}")
        start, end = (self.encode(image[None]) for image in (a, b))
        return self.decode(start.towards(end, torch.linspace(0, 1, steps)))

    def checked(self, x: Tensor) -> Tensor:
        """Return the images (B, C, H, W) themselves.

        Raises:
            ValueError: Other images than the model is for.
        """
        if x.dtype not in INTEGERS:
            raise ValueError(f"pixels must be integers such as uint8, got {x.dtype}")
        if x.dim() != 4 or tuple(x.shape[1:]) != self.shape:
            channels, height, width = self.shape
            raise ValueError(
                f"this model is for images of {channels} channels and {height} x {width} pixels, "
                f"(B, {channels}, {height}, {width}), got {tuple(x.shape)}"
            )
        if x.numel() and (self.levels < 256 or x.dtype != torch.uint8):
            least, most = int(x.min()), int(x.max())
            if least < 0 or most >= self.levels:
                raise ValueError(
                    f"pixels must lie in 0 to {self.levels - 1}, got {least} to {most}"
                )
        return x

    def _lacks(self, name: str) -> UserError:
        return UserError(f"a model of architecture {self.config['architecture']} has no {name}")


def check_sizes(**sizes: Any) -> None:
    """Raise `UserError` unless all sizes are integers of at least 1."""
    for name, value in sizes.items():
        check_integer(name, value, 1)


def bits_of(loss: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return bits per dimension of a mean loss in nats: sum over images, number of images."""
    return loss.detach() * (count / math.log(2)), torch.tensor(float(count))
