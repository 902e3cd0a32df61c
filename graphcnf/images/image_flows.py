"""Normalizing flows of images: `ImageFlow`, and the architectures of which it is built.

- An *architecture* is a function such as `glow`, which returns a flow as `Layers`. `simple`,
  `vardeq` and `multiscale` are those of the UvA deep learning tutorial 11 (Lippe 2020).
- *Dequantization* turns integers into real numbers by noise: uniform, or *variational*, from a
  flow.
- A *coupling* transforms one half of the numbers given the other half. Its *kind* is "additive",
  "affine", or "mixture-K" for mixtures of K logistics, such as "mixture-8".
- A *checkerboard mask* halves the pixels by the colour that they would have on a chessboard. A
  *channel mask* halves the channels.
- To *squeeze* an image is to turn each 2 x 2 pixels into one pixel of four times as many channels.
- To *factor out* (split) is to take half of the channels as latents, so that later couplings have
  less to do. A *scale* is the part of a flow between two splits.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import torch
from torch import Tensor

from graphcnf.errors import UserError
from graphcnf.flows.base import BaseDensity, StandardLogistic, StandardNormal
from graphcnf.flows.composition import Inverse, SequentialBijection
from graphcnf.flows.coupling import (
    AdditiveCoupling,
    AffineCoupling,
    Coupling,
    MixtureLogisticCoupling,
)
from graphcnf.flows.dequantization import Logit, UniformDequantization, VariationalDequantization
from graphcnf.flows.linear import ActNorm, Affine, InvertibleLinear
from graphcnf.flows.pixels import ChannelsFirst, Checkerboard, MultiScale, Split, Squeeze
from graphcnf.flows.transform import Bijection, Context, Noise, Transform
from graphcnf.images.image_model import ImageModel
from graphcnf.images.image_networks import ConvolutionNetwork, ImageEncoder
from graphcnf.limits import Range

Shape = Sequence[int]
"""Channels, height and width of images."""
COUPLINGS: dict[str, type[Coupling]] = {"additive": AdditiveCoupling, "affine": AffineCoupling}
"""Couplings whose kind is a plain name; "mixture-K" is the other kind."""


class Layers:
    """Builder of a flow of images: each method appends transforms.

    Architectures use and return it: `steps` are the transforms so far, from images to latents,
    `shape` is that of the images after them, `base` the base density (standard normal if None) and
    `network` the arguments of `ConvolutionNetwork` for all couplings.
    """

    def __init__(self, shape: Shape, base: BaseDensity | None = None, **network: Any):
        self.steps: list[Transform] = []
        self.shape = tuple(shape)
        self.base: BaseDensity = StandardNormal() if base is None else base
        self.network = {"width": 32, **network}

    def dequantize(self, levels: int, alpha: float, kind: str = "", couplings: int = 0) -> None:
        """Add what turns integer pixels into real numbers: dequantization, then a logit.

        Args:
            alpha: Share of the unit interval that `Logit` leaves out at its ends, to stay finite.
            kind: Kind of the couplings of variational dequantization.
            couplings: Number of these couplings; 0 for uniform noise.
        """
        noise: Transform = UniformDequantization(levels)
        if couplings:
            channels, height, breadth = self.shape
            network = {**self.network, "heads": 0}
            width = network["width"]
            flow = Layers(self.shape, **{**network, "context": width})
            flow.checkerboard(kind, couplings, normalise=False)
            encoder = ImageEncoder(channels, width, size=(height, breadth), **network)
            couplings_only: list[Any] = flow.steps
            noise = VariationalDequantization(levels, SequentialBijection(*couplings_only), encoder)
        self.steps += [noise, Affine(1 / levels), Logit(alpha)]

    def squeeze(self, step: Squeeze | None = None) -> None:
        """Add a transform that halves height and width, and quadruples the channels.

        After a `Checkerboard`, a channel mask is a checkerboard mask.
        """
        channels, height, width = self.shape
        if height % 2 or width % 2:
            raise UserError(
                f"{height} x {width} pixels cannot be squeezed, both sides must be even: take "
                "images of another size, or a model that squeezes less often"
            )
        self.steps.append(Squeeze() if step is None else step)
        self.shape = (4 * channels, height // 2, width // 2)

    def couplings(
        self, kind: str, count: int, *, normalise: bool = True, mix: bool = False, **network: Any
    ) -> None:
        """Add couplings with channel masks: half of the channels given the other half.

        Args:
            mix: True for an invertible 1x1 convolution before each coupling, which then always
                transforms the second half instead of both by turns.
            **network: Arguments of `ConvolutionNetwork`, in place of those of the constructor.
        """
        for number in range(count):
            steps: list[Bijection] = [ActNorm(self.shape[0])] if normalise else []
            if mix:
                steps.append(InvertibleLinear(self.shape[0]))
            steps.append(self._coupling(kind, swap=not mix and number % 2 == 1, **network))
            self.steps += map(ChannelsFirst, steps)

    def checkerboard(self, kind: str, count: int, **options: Any) -> None:
        """Add couplings with checkerboard masks: pixels of one colour given the others."""
        shape = self.shape
        self.squeeze(Checkerboard())
        self.couplings(kind, count, **options)
        self.steps.append(Inverse(Checkerboard()))
        self.shape = shape

    def split(self) -> None:
        """Add a transform that factors out half of the channels as latents; see `Split`."""
        channels, height, width = self.shape
        self.steps.append(Split(channels, self.base))
        self.shape = (channels // 2, height, width)

    def _coupling(self, kind: str, swap: bool = False, **network: Any) -> Coupling:
        """Return a coupling of the second half of the channels given the first half."""
        channels, *size = self.shape
        if channels < 2:
            raise UserError("a coupling needs at least 2 channels: squeeze before")
        name, _, mixtures = kind.partition("-")
        options: dict[str, Any] = {"split": channels // 2, "swap": swap}
        if name == "mixture" and mixtures.isdecimal() and int(mixtures) > 0:
            options["mixtures"] = int(mixtures)
            cls: type[Coupling] = MixtureLogisticCoupling
            parameters = 3 * int(mixtures) + 2
        elif kind in COUPLINGS:
            cls = COUPLINGS[kind]
            parameters = cls.parameters_per_channel
        else:
            raise UserError(f"coupling must be additive, affine or mixture-8 (say), got {kind!r}")
        halves = channels // 2, channels - channels // 2
        outputs = parameters * halves[not swap]
        network = {**self.network, "size": tuple(size), **network}
        return cls(ConvolutionNetwork(halves[swap], outputs, **network), **options)


def simple(
    shape: Shape,
    levels: int,
    *,
    coupling: str = "affine",
    couplings: int = 8,
    alpha: float = 1e-5,
    **network: Any,
) -> Layers:
    """Build uniform dequantization and couplings with checkerboard masks; sides must be even."""
    options = {"coupling": coupling, "couplings": couplings, "alpha": alpha, **network}
    return vardeq(shape, levels, dequantization=0, **options)


def vardeq(
    shape: Shape,
    levels: int,
    *,
    coupling: str = "affine",
    couplings: int = 8,
    dequantization: int = 4,
    alpha: float = 1e-5,
    **network: Any,
) -> Layers:
    """Build variational dequantization and checkerboard couplings; sides must be even."""
    layers = Layers(shape, **network)
    layers.dequantize(levels, alpha, coupling, dequantization)
    layers.checkerboard(coupling, couplings)
    return layers


def multiscale(
    shape: Shape,
    levels: int,
    *,
    coupling: str = "affine",
    couplings: tuple[int, int, int] = (2, 2, 4),
    dequantization: int = 4,
    alpha: float = 1e-5,
    **network: Any,
) -> Layers:
    """Build a flow of two scales, which factors out half of the numbers at half the size.

    `couplings` are three numbers: with checkerboard masks at full size, and with channel masks at
    half and at a quarter of the size. Four must divide both sides of the images.
    """
    checkerboards, halves, quarters = couplings
    layers = Layers(shape, **network)
    layers.dequantize(levels, alpha, coupling, dequantization)
    layers.checkerboard(coupling, checkerboards)
    layers.squeeze()
    layers.couplings(coupling, halves)
    layers.split()
    layers.squeeze()
    layers.couplings(coupling, quarters)
    return layers


def realnvp(
    shape: Shape,
    levels: int,
    *,
    scales: int = 2,
    couplings: int = 3,
    block: str = "residual",
    alpha: float = 0.05,
    **network: Any,
) -> Layers:
    """Build affine couplings with checkerboard and channel masks at several scales (RealNVP).

    Each scale has couplings with checkerboard masks, then as many with channel masks at half the
    size, and then factors out half of the numbers. The last scale has only checkerboard masks, one
    coupling more, and factors out nothing (Dinh et al. 2017, arXiv 1605.08803).

    `2 ** scales` must divide both sides of the images.
    """
    layers = Layers(shape, block=block, **network)
    layers.dequantize(levels, alpha)
    for _ in range(scales - 1):
        layers.checkerboard("affine", couplings)
        layers.squeeze()
        layers.couplings("affine", couplings)
        layers.split()
    layers.checkerboard("affine", couplings + 1)
    return layers


def glow(
    shape: Shape,
    levels: int,
    *,
    scales: int = 2,
    steps: int = 8,
    pixels: Annotated[int, Range()] = 2,
    mixtures: int = 6,
    coupling: str = "affine",
    block: str = "pointwise",
    layers: int = 1,
    position: bool = False,
    alpha: float = 1e-5,
    **network: Any,
) -> Layers:
    """Build steps of ActNorm, invertible 1x1 convolution and coupling at several scales (Glow).

    Half of the numbers are factored out after each scale but the last. Unlike in the original
    (Kingma & Dhariwal 2018, arXiv 1807.03039), the first couplings have checkerboard masks and
    mixtures of logistics. The reason is that the values of a pixel may have several modes, such as
    black and bright, which an affine map cannot merge. With `pixels=0` it is Glow as published.
    `2 ** scales` must divide both sides of the images.

    Args:
        pixels: How many of the couplings of the first scale have checkerboard masks.
    """
    model = Layers(shape, block=block, layers=layers, position=position, **network)
    model.dequantize(levels, alpha)
    pixels = min(pixels, steps)
    if pixels:
        # A pixel has many parameters: a 3x3 convolution to them would take most of the time.
        model.checkerboard(f"mixture-{mixtures}", pixels, kernels=(5, 1))
    for scale in range(scales):
        model.squeeze()
        model.couplings(coupling, steps if scale else steps - pixels, mix=True)
        if scale < scales - 1:
            model.split()
    return model


def flowpp(
    shape: Shape,
    levels: int,
    *,
    couplings: tuple[int, int, int] = (4, 2, 3),
    mixtures: int = 8,
    dequantization: int = 4,
    heads: int = 2,
    alpha: float = 1e-5,
    **network: Any,
) -> Layers:
    """Build mixture-of-logistics couplings with self-attention (Flow++).

    Ho et al. 2019, arXiv 1902.00275; standard logistic base density. Four must divide both sides.

    Args:
        couplings: Three numbers: with checkerboard masks at full size; and, after a squeeze, with
            channel masks and with checkerboard masks.
    """
    first, channels, second = couplings
    kind = f"mixture-{mixtures}"
    layers = Layers(shape, StandardLogistic(), heads=heads, **network)
    layers.dequantize(levels, alpha, kind, dequantization)
    layers.checkerboard(kind, first)
    layers.squeeze()
    layers.couplings(kind, channels, mix=True)
    layers.checkerboard(kind, second)
    return layers


MODELS: dict[str, Callable[..., Layers]] = {
    "simple": simple,
    "vardeq": vardeq,
    "multiscale": multiscale,
    "realnvp": realnvp,
    "glow": glow,
    "flowpp": flowpp,
}
"""Functions that build the layers, by the name of the architecture."""


class ImageFlow(ImageModel):
    """Normalizing flow of images of integers: dequantization, invertible layers, base density.

    Each call of `log_prob` draws the noise of the dequantization, so it gives a lower bound.

    Args:
        architecture: Name of the function in this module that builds the layers, such as "glow".
        **options: Further arguments of that function.

    Attributes:
        latent_shape: Shape of the latents of an image that were not factored out.

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
        if architecture not in MODELS:
            known = ", ".join(MODELS)
            raise UserError(f"architecture must be one of {known}, got {architecture!r}")
        super().__init__(architecture, shape, levels, **options)
        try:
            layers = MODELS[architecture](tuple(shape), levels, **options)
        except (UserError, ValueError, TypeError) as error:
            raise UserError(f"architecture {architecture}: {error}") from None
        self.flow = MultiScale(*layers.steps)
        self.base: BaseDensity = layers.base
        self.latent_shape = layers.shape
        self.latent_size = math.prod(self.shape)

    @classmethod
    def parts(cls, architecture):
        return MODELS[architecture], ConvolutionNetwork

    def _terms(self, x, noise=None):
        z, log_term = self.flow(self.checked(x).to(self.dtype), Context(noise=noise))
        return 0.0, self.base.log_prob(z) + log_term

    def _sample(self, count, temperature, generator):
        options = {"temperature": temperature, "generator": generator}
        shape = (count, *self.latent_shape)
        z = self.base.sample(shape, device=self.device, dtype=self.dtype, **options)
        return self.flow.inverse(z, Context(**options)).to(torch.uint8)

    @torch.no_grad()
    def encode(self, x: Tensor, noise: Noise | None = None) -> tuple[Tensor, ...]:
        """Encode images to latents, which `decode` maps back to exactly these images.

        It computes in float64, whatever the type of the weights: float32 would change some pixels.
        """
        return self._double().flow.encode(self.checked(x).double(), Context(noise=noise))

    @torch.no_grad()
    def decode(self, latents: Sequence[Tensor]) -> Tensor:
        """Decode latents to images, computed in float64."""
        return self._double().flow.decode([z.double() for z in latents]).to(torch.uint8)

    def _double(self) -> ImageFlow:
        """Return a copy in float64 and evaluation mode: float32 would change some pixels."""
        return copy.deepcopy(self).double().eval()
