"""Normalizing flows of images."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from graphcnf.errors import UserError
from graphcnf.flows.base import record_generators
from graphcnf.flows.transform import Noise, Sequential, log_term_dtype
from graphcnf.images.models import MODELS
from graphcnf.pretrained import Pretrained

WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
BLOCK = 32
"""Records that are drawn together: rounding in float32 depends on the size of a batch."""


@dataclass
class ImageLatents:
    """Everything that determines images, apart from the noise within the cells.

    Attributes:
        z: Latents that went through all layers, (B, C, H, W).
        discarded: What was factored out on the way, in the order in which it was.
    """

    z: Tensor
    discarded: list[Tensor]

    def __len__(self) -> int:
        return len(self.z)

    def towards(self, other: ImageLatents, share: Tensor) -> ImageLatents:
        """Points on the straight line to `other`: 0 is here, 1 is there.

        Args:
            other: Latents of as many images; those of one image go with any number of points.
            share: (B,).
        """
        share = share.to(self.z).view(-1, 1, 1, 1)

        def mix(a: Tensor, b: Tensor) -> Tensor:
            return (1 - share) * a + share * b

        pairs = zip(self.discarded, other.discarded, strict=True)
        return ImageLatents(mix(self.z, other.z), [mix(a, b) for a, b in pairs])


class ImageFlow(Pretrained, nn.Module):
    """Density of images of whole numbers: dequantization, layers, base density.

    The constructor's arguments are the configuration: they are saved with the weights and rebuild
    the model.

    Args:
        architecture: "simple", "vardeq", "multiscale", "realnvp", "glow" or "flowpp".
        shape: Channels, height and width.
        levels: Number of values of a pixel, at most 256.
        **options: Arguments of the architecture, see `graphcnf.images.models`.

    Attributes:
        metadata: What is known of the data, JSON: `dataset`, `data`, `training`.

    Raises:
        UserError: An argument that does not fit, or images of a size that does not.

    Examples:
        >>> sizes = {"shape": (1, 4, 4), "levels": 16, "couplings": 2, "width": 8}
        >>> model = ImageFlow(architecture="simple", **sizes)
        >>> images = torch.randint(16, (3, 1, 4, 4))
        >>> model.bits_per_dimension(images).shape
        torch.Size([3])
        >>> torch.equal(model.decode(model.encode(images)), images.to(torch.uint8))
        True
    """

    def __init__(
        self, *, architecture: str, shape: Sequence[int], levels: int = 256, **options: Any
    ):
        super().__init__()
        if architecture not in MODELS:
            raise UserError(
                f"architecture must be one of {', '.join(MODELS)}, not {architecture!r}"
            )
        if len(shape) != 3 or min(shape) < 1:
            raise UserError(f"shape must be channels, height and width, not {list(shape)}")
        if not 2 <= levels <= 256:
            raise UserError(f"levels must lie in 2 to 256, not {levels}")
        self.config = {"architecture": architecture, "shape": list(shape), "levels": levels}
        self.config |= options
        try:
            _check_options(options)
            layers = MODELS[architecture](tuple(shape), levels, **options)
        except (UserError, ValueError) as error:
            raise UserError(f"architecture {architecture}: {error}") from None
        self.flow = Sequential(*layers.steps)
        self.base = layers.base
        self.latent_shape = layers.shape
        self.metadata: dict = {}

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images."""
        return tuple(self.config["shape"])

    @property
    def levels(self) -> int:
        """Number of values of a pixel."""
        return self.config["levels"]

    @property
    def exact(self) -> bool:
        """Whether `log_prob` is the log-probability itself and not a bound on it."""
        return self.flow.exact

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def log_prob(self, x: Tensor, samples: int = 1, noise: Noise | None = None) -> Tensor:
        """Lower bound on log P(x), (B,) nats, from `samples` draws of the dequantization.

        More draws tighten the bound (Burda et al. 2016, arXiv 1509.00519).

        Args:
            x: Images (B, C, H, W) of whole numbers 0 to `levels` - 1, in an integer type.
            samples: Number of draws.
            noise: See `graphcnf.flows.Transform.forward`.

        Raises:
            ValueError: Other images than the model is for, or `samples` is not positive.
        """
        if samples < 1:
            raise ValueError(f"samples must be positive, got {samples}")
        x = self._checked(x).to(self._dtype)
        draws = []
        for _ in range(samples):
            z, log_term = self.flow(x, noise=noise)
            draws.append(self.base.log_prob(z) + log_term)
        return torch.logsumexp(torch.stack(draws), 0) - math.log(samples)

    def bits_per_dimension(self, x: Tensor, samples: int = 8) -> Tensor:
        """Upper bound on the bits per pixel and channel, (B,); see `log_prob`."""
        return -self.log_prob(x, samples) / (math.prod(self.shape) * math.log(2))

    def training_loss(self, batch: Tensor, *, beta: float = 1.0):
        """Negative bound in nats per dimension, and metrics.

        Args:
            batch: Images (B, C, H, W).
            beta: Without influence: nothing is decoded by a posterior here.

        Returns:
            The loss, and as a pair (sum over images, number of images) `bits_per_dimension`.
        """
        loss = -self.log_prob(batch).mean() / math.prod(self.shape)
        bits = loss.detach() * (len(batch) / math.log(2))
        return loss, {"bits_per_dimension": (bits, torch.tensor(float(len(batch))))}

    @torch.no_grad()
    def sample(self, count: int, *, temperature: float = 1.0, generator=None) -> Tensor:
        """Draw images.

        Args:
            count: How many.
            temperature: Scale of the latents, of those of every scale.
            generator: See `graphcnf.flows.draw_normal`.

        Returns:
            (count, C, H, W) uint8.
        """
        z = self.base.sample(
            (count, *self.latent_shape),
            temperature=temperature,
            generator=generator,
            device=self.device,
            dtype=self._dtype,
        )
        x = self.flow.inverse(z, temperature=temperature, generator=generator)
        return x.to(torch.uint8)

    @torch.no_grad()
    def sample_records(
        self, first: int, count: int, *, seed: int = 0, temperature: float = 1.0
    ) -> Tensor:
        """Records `first` to `first + count - 1` of the sample with this seed.

        A record is a function of the seed, its number and the temperature: it does not depend on
        how many are asked for.

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

    @torch.no_grad()
    def encode(self, x: Tensor, noise: Noise | None = None) -> ImageLatents:
        """Latents in float64 that `decode` turns into the same images again.

        Args:
            x: Images (B, C, H, W).
            noise: See `graphcnf.flows.Transform.forward`.

        Raises:
            ValueError: Other images than the model is for.
        """
        x, discarded = self._checked(x), []
        z, _ = self._double().flow(x.double(), noise=noise, discarded=discarded)
        return ImageLatents(z, discarded)

    @torch.no_grad()
    def decode(self, latents: ImageLatents) -> Tensor:
        """Images (B, C, H, W) uint8 of latents."""
        x = self._double().flow.inverse(latents.z.double(), discarded=list(latents.discarded))
        return x.to(torch.uint8)

    def interpolate(self, a: Tensor, b: Tensor, steps: int = 8) -> Tensor:
        """Images on the straight line in latent space between two.

        Args:
            a: The first image, (C, H, W).
            b: The last one.
            steps: Number of images, both ends included.

        Returns:
            (steps, C, H, W) uint8; the first is `a`, the last `b`.

        Raises:
            ValueError: Other images than the model is for, or fewer than 2 steps.
        """
        if steps < 2:
            raise ValueError(f"a line has at least 2 points, not {steps}")
        return self.decode(self.line(a, b, torch.linspace(0, 1, steps)))

    def line(self, a: Tensor, b: Tensor, share: Tensor) -> ImageLatents:
        """Latents on the straight line between those of two images (C, H, W).

        Args:
            a: Where the share is 0.
            b: Where it is 1.
            share: (B,).

        Raises:
            ValueError: Other images than the model is for.
        """
        start, end = (self.encode(image[None]) for image in (a, b))
        return start.towards(end, share)

    @property
    def _dtype(self) -> torch.dtype:
        """float64 for a model of that type, otherwise float32."""
        return log_term_dtype(next(self.parameters()))

    def _double(self) -> ImageFlow:
        """A copy in float64 and evaluation mode: float32 would lose some pixel now and then."""
        return copy.deepcopy(self).double().eval()

    def _checked(self, x: Tensor) -> Tensor:
        if x.dtype not in WHOLE:
            raise ValueError(f"pixels must be whole numbers such as uint8, not {x.dtype}")
        if x.dim() != 4 or tuple(x.shape[1:]) != self.shape:
            channels, height, width = self.shape
            raise ValueError(
                f"this model is for images of {channels} channels and {height} x {width} pixels, "
                f"(B, {channels}, {height}, {width}), not {tuple(x.shape)}"
            )
        if x.numel() and (self.levels < 256 or x.dtype != torch.uint8):
            least, most = int(x.min()), int(x.max())
            if least < 0 or most >= self.levels:
                raise ValueError(
                    f"pixels must lie in 0 to {self.levels - 1}, got {least} to {most}"
                )
        return x


def _check_options(options: dict[str, Any]) -> None:
    """Raise `UserError` for sizes and numbers of layers that are none."""
    if "context" in options:
        raise UserError("no option 'context': images have none")
    names = ("scales", "steps", "pixels", "couplings", "dequantization", "layers", "width")
    for name in (*names, "mixtures"):
        value = options.get(name, 1)
        several = name == "couplings" and isinstance(value, list | tuple)
        least = 0 if several or name == "pixels" else 1
        for number in value if several else [value]:
            if isinstance(number, bool) or not isinstance(number, int) or number < least:
                raise UserError(f"{name} must be whole numbers from {least} on, not {value!r}")
    for name in ("coupling", "block"):
        if not isinstance(options.get(name, ""), str):
            raise UserError(f"{name} must be a name, not {options[name]!r}")
    for name in ("alpha", "dropout"):
        if isinstance(options.get(name, 0.0), bool | str | list | tuple):
            raise UserError(f"{name} must be a number, not {options[name]!r}")
