"""`ImageModel`, the interface of all models of images.

A *pixel* has in each channel an integer from 0 to `levels` - 1, a *dimension* is one channel of one
pixel, and an *architecture* is the short name of a kind of model, such as "glow".

Shapes: B images of C channels, H rows and W columns.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from graphcnf.arguments import check
from graphcnf.errors import UserError
from graphcnf.file_reading import inside, read_json
from graphcnf.flows.base import record_generators
from graphcnf.flows.transform import Generators, Noise, log_term_dtype
from graphcnf.limits import check_integer
from graphcnf.pretrained import Pretrained, model_folder
from graphcnf.registry import Registry
from graphcnf.torch_state import evaluated

FIXED = ("inputs", "outputs", "size", "context", "shape", "levels", "architecture")
"""Parameters of the functions in `ImageModel.parts` that are no options of an architecture."""

IMAGE_MODELS = Registry(
    "image_models",
    {
        "simple": "graphcnf.images.image_flows:ImageFlow",
        "vardeq": "graphcnf.images.image_flows:ImageFlow",
        "multiscale": "graphcnf.images.image_flows:ImageFlow",
        "realnvp": "graphcnf.images.image_flows:ImageFlow",
        "glow": "graphcnf.images.image_flows:ImageFlow",
        "flowpp": "graphcnf.images.image_flows:ImageFlow",
        "pixelcnn": "graphcnf.baselines.pixelcnn:PixelCNN",
        "vae": "graphcnf.baselines.image_models:VAE",
        "gan": "graphcnf.baselines.image_models:GAN",
    },
)
"""Class of the image model for each architecture, loaded when it is first used."""

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
"""Types that tensors of images may have."""

BLOCK = 32  # records that are always drawn together: float32 rounding depends on the batch size


class ImageModel(Pretrained, ABC):
    """Base class of distributions over images whose pixels are integers.

    Every subclass defines `_sample`, and is named in `IMAGE_MODELS`. One with a likelihood sets it
    and defines `_terms`; one with latents sets `latent_size` and defines `encode` and `decode`.

    Args:
        **options: Further arguments of the subclass, checked by the signatures of `parts`.

    Attributes:
        metadata: Facts that training writes, as JSON values: `dataset`, `data` (how it was loaded),
            `checksum` of the images and `training` (settings of the run).
        likelihood: What `log_prob` returns: "exact", "bound" (a lower bound), or None for neither.
    """

    registry = IMAGE_MODELS
    likelihood: str | None = None
    latent_size: int | None = None

    def __init__(self, architecture: str, shape: Sequence[int], levels: int, **options: Any):
        super().__init__()
        if len(shape) != 3 or not all(isinstance(size, int) and size > 0 for size in shape):
            raise UserError(f"shape must be channels, height and width, got {list(shape)}")
        check_integer("levels", levels, 2, 256)
        check(f"architecture {architecture}", options, *self.parts(architecture), fixed=FIXED)
        self.config = {"architecture": architecture, "shape": list(shape), "levels": levels}
        self.config |= options
        self.metadata: dict[str, Any] = {}
        self.shape, self.levels = (shape[0], shape[1], shape[2]), levels

    @classmethod
    def parts(cls, architecture: str) -> Sequence[Callable[..., Any]]:
        """Return the functions and classes whose parameters are the options of an architecture.

        A subclass overrides it if options go to other functions, as in `ImageFlow`.
        """
        return (cls,)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the latents: float64 if the weights are float64, otherwise float32."""
        return log_term_dtype(next(self.parameters()))

    @evaluated
    def log_prob(self, x: Tensor, *, samples: int = 1, noise: Noise | None = None) -> Tensor:
        """Return log P(x), (B,) nats, or draw a lower bound on it; `likelihood` says which.

        Args:
            samples: Draws of a bound: the result is the logarithm of the mean of their importance
                weights, tighter for more of them (IWAE, Burda et al. 2016, arXiv 1509.00519).
        """
        if samples < 1:
            raise ValueError(f"samples must be positive, got {samples}")
        count = 1 if self.likelihood == "exact" else samples
        draws: list[Any] = [sum(self._terms(x, noise)) for _ in range(count)]
        return torch.logsumexp(torch.stack(draws), 0) - math.log(count)

    def _terms(self, x: Tensor, noise: Noise | None = None) -> tuple[Any, Tensor]:
        """Draw the two terms whose sum is log P(x) or a bound on it."""
        raise self._lacks("likelihood")

    def bits_per_dimension(self, x: Tensor, samples: int = 8) -> Tensor:
        """Return bits per dimension of images (-log2 P(x) / (C H W)), or an upper bound on them.

        For a bound, `samples` draws per image are taken.
        """
        return -self.log_prob(x, samples=samples) / (math.prod(self.shape) * math.log(2))

    def training_loss(
        self, batch: Tensor, *, beta: float = 1.0
    ) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
        """Return the loss of a batch and the metrics to report; the training loop calls it.

        `beta` is the weight of log P(x|z) in models with a decoder, such as the VAE.

        Returns:
            The mean negative log-likelihood, or its bound, in nats per dimension; and the metrics
            `{"bits_per_dimension": (sum over images, number of images)}`, without `beta`.
        """
        decoded, others = self._terms(batch)
        dimensions = math.prod(self.shape)
        loss = -(beta * decoded + others).mean() / dimensions
        bits = -(decoded + others).detach().sum() / (dimensions * math.log(2))
        return loss, {"bits_per_dimension": (bits, torch.tensor(float(len(batch))))}

    @evaluated
    @torch.no_grad()
    def sample(
        self, count: int, *, temperature: float = 1.0, generator: Generators = None
    ) -> Tensor:
        """Draw images, (count, C, H, W) uint8.

        Args:
            temperature: Multiplies latents, and narrows the distributions of drawn pixels.
        """
        return self._sample(count, temperature, generator)

    @abstractmethod
    def _sample(self, count: int, temperature: float, generator: Generators) -> Tensor:
        """Draw images; what `sample` calls, in evaluation mode."""

    def sample_records(
        self, first: int, count: int, *, seed: int = 0, temperature: float = 1.0
    ) -> Tensor:
        """Draw images number `first` to `first + count - 1` of a sample, (count, C, H, W) uint8.

        An image is a function of the model, the seed, its number and the temperature. So images 10
        to 19 are the same whether they are drawn alone or with others.
        """
        if first < 0 or count < 1:
            raise ValueError(f"no records {first} to {first + count - 1}")
        start = first - first % BLOCK
        drawn = [
            self.sample(BLOCK, temperature=temperature, generator=record_generators(seed, k, BLOCK))
            for k in range(start, first + count, BLOCK)
        ]
        return torch.cat(drawn)[first - start :][:count]

    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        """Encode images to latents, (B, ...) each; a model with latents overrides it.

        A flow has those of every scale, see `MultiScale`, other models have one tensor. `decode`
        maps them back, exactly in a flow, and approximately in other models.
        """
        raise self._lacks("latents")

    def decode(self, latents: Sequence[Tensor]) -> Tensor:
        """Decode latents to images, (B, C, H, W) uint8; a model with latents overrides it."""
        raise self._lacks("latents")

    def interpolate(self, a: Tensor, b: Tensor, steps: int = 8) -> Tensor:
        """Return (steps, C, H, W) images on the straight line between the latents of two.

        The ends are decoded, too, so they equal `a` and `b` only in a flow.
        """
        if steps < 2:
            raise ValueError(f"steps must be at least 2, got {steps}")
        latents = [self.encode(image[None]) for image in (a, b)]
        line = []
        for first, last in zip(*latents, strict=True):
            share = torch.linspace(0, 1, steps).to(first).view(-1, *[1] * (first.dim() - 1))
            line.append((1 - share) * first + share * last)
        return self.decode(line)

    def checked(self, x: Tensor) -> Tensor:
        """Check that images fit the model, and return them."""
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


def is_image_model(name: str) -> bool:
    """Return True if a name is that of a saved model of images."""
    with suppress(UserError, OSError, ValueError, KeyError, TypeError):
        config = read_json(inside(model_folder(name), "config.json"))
        return config["model"]["architecture"] in IMAGE_MODELS
    return False
