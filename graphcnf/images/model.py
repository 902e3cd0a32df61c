"""`ImageModel`, the interface of every model of images, and the latents of images."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from graphcnf.arguments import check
from graphcnf.errors import UserError
from graphcnf.flows.base import Generators, record_generators
from graphcnf.flows.modules import evaluates
from graphcnf.flows.transform import Noise, log_term_dtype
from graphcnf.limits import check_integer
from graphcnf.pretrained import Pretrained

FIXED = ("inputs", "outputs", "size", "context", "shape", "levels", "architecture")
"""Arguments of the parts of a model that are no options."""

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)

BLOCK = 32  # records that are drawn together: rounding in float32 depends on the size of a batch


@dataclass
class ImageLatents:
    """Latents of images."""

    z: Tensor  # (B, ...); of a flow those that went through all layers, (B, C, H, W)
    discarded: list[Tensor] = field(default_factory=list)  # those that a flow's splits factor out


@evaluates("log_prob", "sample")
class ImageModel(Pretrained, ABC):
    """A distribution over images of integers.

    Every model draws images and defines `_sample`. A model with a likelihood sets `likelihood` and
    defines `_terms`; a model with latents sets `latent_size` and defines `encode` and `decode`.

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

    likelihood: str | None = None  # kind of `log_prob`: "exact", a (lower) "bound", or none
    latent_size: int | None = None  # numbers that an image is encoded into, None without latents

    def __init__(self, architecture: str, shape: Sequence[int], levels: int, **options: Any):
        super().__init__()
        if len(shape) != 3 or not all(isinstance(size, int) and size > 0 for size in shape):
            raise UserError(f"shape must be channels, height and width, got {list(shape)}")
        check_integer("levels", levels, 2, 256)
        check(f"architecture {architecture}", options, *self.parts(architecture), fixed=FIXED)
        self.config = {"architecture": architecture, "shape": list(shape), "levels": levels}
        self.config |= options
        self.metadata: dict = {}
        self.shape, self.levels = (shape[0], shape[1], shape[2]), levels

    @classmethod
    def parts(cls, architecture: str) -> Sequence[Callable]:
        """Return the functions and classes that take the options of an architecture."""
        return (cls,)

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
        if samples < 1:
            raise ValueError(f"samples must be positive, got {samples}")
        count = 1 if self.likelihood == "exact" else samples
        draws: list[Any] = [sum(self._terms(x, noise)) for _ in range(count)]
        return torch.logsumexp(torch.stack(draws), 0) - math.log(count)

    def _terms(self, x: Tensor, noise: Noise | None = None) -> tuple[Any, Tensor]:
        """Draw log P(x) or the bound on it once, (B,) nats: the term of a decoder, the others."""
        raise self._lacks("likelihood")

    def bits_per_dimension(self, x: Tensor, samples: int = 8) -> Tensor:
        """Return bits per pixel and channel, (B,), or an upper bound on them; see `log_prob`."""
        return -self.log_prob(x, samples) / (math.prod(self.shape) * math.log(2))

    def training_loss(self, batch: Tensor, *, beta: float = 1.0):
        """Return the negative log-likelihood, or its bound, in nats per dimension, and metrics.

        `beta` weights a decoder's term. The metrics are pairs (sum over images, number of images).
        """
        decoded, others = self._terms(batch)
        dimensions = math.prod(self.shape)
        loss = -(beta * decoded + others).mean() / dimensions
        bits = -(decoded + others).detach().sum() / (dimensions * math.log(2))
        return loss, {"bits_per_dimension": (bits, torch.tensor(float(len(batch))))}

    @torch.no_grad()
    def sample(
        self, count: int, *, temperature: float = 1.0, generator: Generators = None
    ) -> Tensor:
        """Draw images (count, C, H, W) uint8; the temperature scales all latents.

        `generator` is that of `graphcnf.flows.draw_normal`.
        """
        return self._sample(count, temperature, generator)

    @abstractmethod
    def _sample(self, count: int, temperature: float, generator: Generators) -> Tensor:
        """Draw images, see `sample`."""

    def sample_records(
        self, first: int, count: int, *, seed: int = 0, temperature: float = 1.0
    ) -> Tensor:
        """Draw records `first` to `first + count - 1` of a sample, (count, C, H, W) uint8.

        A record is a function of the seed, its number and the temperature, whatever `count` is.
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

        Raises `UserError` if the model has no latents, ValueError for images of another kind.
        """
        raise self._lacks("latents")

    def decode(self, latents: ImageLatents) -> Tensor:
        """Return images (B, C, H, W) uint8 of latents; raise `UserError` without latents."""
        raise self._lacks("latents")

    def interpolate(self, a: Tensor, b: Tensor, steps: int = 8) -> Tensor:
        """Return images (steps, C, H, W) uint8 on the line in latent space between two (C, H, W).

        Raises:
            UserError: The model has no latents.
            ValueError: Other images than the model is for, or fewer than 2 steps.
        """
        if steps < 2:
            raise ValueError(f"steps must be at least 2, got {steps}")
        latents = [self.encode(image[None]) for image in (a, b)]
        line = []
        for first, last in zip(*([one.z, *one.discarded] for one in latents), strict=True):
            share = torch.linspace(0, 1, steps).to(first).view(-1, *[1] * (first.dim() - 1))
            line.append((1 - share) * first + share * last)
        return self.decode(ImageLatents(line[0], line[1:]))

    def checked(self, x: Tensor) -> Tensor:
        """Return the images (B, C, H, W); raise ValueError for others than the model is for."""
        if x.dtype not in INTEGERS:
            raise ValueError(f"pixels must be integers such as uint8, got {x.dtype}")
        if x.dim() != 4 or tuple(x.shape[1:]) != self.shape:
            channels, height, width = self.shape
            raise ValueError(
                f"this model is for images of {channels} channels and {height} x {width} pixels, "
                f"(B, {channels}, {height}, {width}), got {tuple(x.shape)}"
            )
        if x.numel() and not 0 <= int(x.min()) <= int(x.max()) < self.levels:
            raise ValueError(
                f"pixels must lie in 0 to {self.levels - 1}, got {int(x.min())} to {int(x.max())}"
            )
        return x

    def _lacks(self, name: str) -> UserError:
        return UserError(f"a model of architecture {self.config['architecture']} has no {name}")
