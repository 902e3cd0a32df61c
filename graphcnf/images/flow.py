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
from graphcnf.images.architectures import MODELS
from graphcnf.images.model import ImageLatents, ImageModel
from graphcnf.limits import check_integer


class ImageFlow(ImageModel):
    """Density of images of integers: dequantization, layers, base density.

    The constructor's arguments are the configuration: they are saved with the weights and rebuild
    the model. `log_prob` is a lower bound, from draws of the dequantization.

    Args:
        architecture: "simple", "vardeq", "multiscale", "realnvp", "glow" or "flowpp".
        shape: Channels, height and width.
        levels: Number of values of a pixel, 2 to 256.
        **options: Arguments of the architecture, see `graphcnf.images.architectures`.

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
            known = ", ".join(MODELS)
            raise UserError(f"architecture must be one of {known}, got {architecture!r}")
        try:
            _check_options(options)
            layers = MODELS[architecture](tuple(shape), levels, **options)
        except (UserError, ValueError, TypeError) as error:
            raise UserError(f"architecture {architecture}: {error}") from None
        self.flow = Sequential(*layers.steps)
        self.base: BaseDensity = layers.base
        self.latent_shape = layers.shape
        self.latent_size = math.prod(self.shape)

    def _draw(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        z, log_term = self.flow(self.checked(x).to(self.dtype), Context(noise=noise))
        return self.base.log_prob(z) + log_term

    def _sample(self, count, temperature, generator):
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
        """Return latents in float64 that `decode` maps to the same images again.

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
        """Return images (B, C, H, W) uint8 of latents."""
        context = Context(discarded=list(latents.discarded))
        x = self._double().flow.inverse(latents.z.double(), context)
        return x.to(torch.uint8)

    def _double(self) -> ImageFlow:
        """Return a copy in float64 and evaluation mode: float32 would lose a pixel now and then."""
        return copy.deepcopy(self).double().eval()


def _check_options(options: dict[str, Any]) -> None:
    """Raise `UserError` for options of a wrong type, and sizes out of range."""
    if "context" in options:
        raise UserError("no option 'context': images have none")
    for name in ("scales", "steps", "dequantization", "layers", "width", "mixtures"):
        check_integer(name, options.get(name, 1), 1)
    check_integer("pixels", options.get("pixels", 1))
    couplings = options.get("couplings", 1)
    if isinstance(couplings, list | tuple):
        for number in couplings:
            check_integer("couplings", number)
    else:
        check_integer("couplings", couplings, 1)
    kernels = options.get("kernels", (1, 1))
    if not isinstance(kernels, list | tuple) or len(kernels) != 2:
        raise UserError(f"kernels must be two odd sizes, got {kernels!r}")
    for name in ("coupling", "block"):
        if not isinstance(options.get(name, ""), str):
            raise UserError(f"{name} must be a name, got {options[name]!r}")
    for name in ("alpha", "dropout"):
        if isinstance(options.get(name, 0.0), bool | str | list | tuple):
            raise UserError(f"{name} must be a number, got {options[name]!r}")
