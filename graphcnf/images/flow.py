"""Normalizing flows of images."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from graphcnf.errors import UserError
from graphcnf.flows.base import BaseDensity
from graphcnf.flows.transform import Context, Noise, Sequential
from graphcnf.images.model import ImageLatents, ImageModel
from graphcnf.images.models import MODELS


class ImageFlow(ImageModel):
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

    likelihood = "bound"

    def __init__(
        self, *, architecture: str, shape: Sequence[int], levels: int = 256, **options: Any
    ):
        super().__init__(architecture, shape, levels, **options)
        if architecture not in MODELS:
            raise UserError(
                f"architecture must be one of {', '.join(MODELS)}, not {architecture!r}"
            )
        try:
            _check_options(options)
            layers = MODELS[architecture](tuple(shape), levels, **options)
        except (UserError, ValueError, TypeError) as error:
            raise UserError(f"architecture {architecture}: {error}") from None
        self.flow = Sequential(*layers.steps)
        self.base: BaseDensity = layers.base
        self.latent_shape = layers.shape
        self.latent_size = math.prod(self.shape)

    def log_prob(self, x: Tensor, samples: int = 1, noise: Noise | None = None) -> Tensor:
        """Lower bound on log P(x), (B,) nats, from `samples` draws of the dequantization.

        More draws tighten the bound (Burda et al. 2016, arXiv 1509.00519).

        Args:
            x: Images (B, C, H, W) of whole numbers 0 to `levels` - 1, in an integer type.
            samples: Number of draws.
            noise: See `graphcnf.flows.Context`.

        Raises:
            ValueError: Other images than the model is for, or `samples` is not positive.
        """
        if samples < 1:
            raise ValueError(f"samples must be positive, got {samples}")
        x = self.checked(x).to(self.dtype)
        draws = []
        for _ in range(samples):
            z, log_term = self.flow(x, Context(noise=noise))
            draws.append(self.base.log_prob(z) + log_term)
        return torch.logsumexp(torch.stack(draws), 0) - math.log(samples)

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
            dtype=self.dtype,
        )
        x = self.flow.inverse(z, Context(temperature=temperature, generator=generator))
        return x.to(torch.uint8)

    @torch.no_grad()
    def encode(self, x: Tensor, noise: Noise | None = None) -> ImageLatents:
        """Latents in float64 that `decode` turns into the same images again.

        Args:
            x: Images (B, C, H, W).
            noise: See `graphcnf.flows.Context`.

        Raises:
            ValueError: Other images than the model is for.
        """
        x = self.checked(x)
        discarded: list[Tensor] = []
        z, _ = self._double().flow(x.double(), Context(noise=noise, discarded=discarded))
        return ImageLatents(z, discarded)

    @torch.no_grad()
    def decode(self, latents: ImageLatents) -> Tensor:
        """Images (B, C, H, W) uint8 of latents."""
        context = Context(discarded=list(latents.discarded))
        x = self._double().flow.inverse(latents.z.double(), context)
        return x.to(torch.uint8)

    def _double(self) -> ImageFlow:
        """A copy in float64 and evaluation mode: float32 would lose some pixel now and then."""
        return copy.deepcopy(self).double().eval()


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
    kernels = options.get("kernels", (1, 1))
    if not isinstance(kernels, list | tuple) or len(kernels) != 2:
        raise UserError(f"kernels must be two odd sizes, not {kernels!r}")
    for name in ("coupling", "block"):
        if not isinstance(options.get(name, ""), str):
            raise UserError(f"{name} must be a name, not {options[name]!r}")
    for name in ("alpha", "dropout"):
        if isinstance(options.get(name, 0.0), bool | str | list | tuple):
            raise UserError(f"{name} must be a number, not {options[name]!r}")
