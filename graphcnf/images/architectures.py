"""The classical image flows, each a function that names its layers.

``simple``, ``vardeq`` and ``multiscale`` are the models of the UvA deep learning tutorial 11
(Lippe 2020). In all flows couplings with checkerboard masks run on the squeezed image, see
`graphcnf.flows.Checkerboard`, and the networks of all but Glow's get the positions of the pixels.
`simple` documents the arguments that the functions share, the others the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

from graphcnf.errors import UserError
from graphcnf.flows.base import BaseDensity, StandardLogistic, StandardNormal
from graphcnf.flows.coupling import (
    AdditiveCoupling,
    AffineCoupling,
    Coupling,
    MixtureLogisticCoupling,
)
from graphcnf.flows.dequantization import (
    Logit,
    UniformDequantization,
    VariationalDequantization,
)
from graphcnf.flows.linear import ActNorm, Affine, InvertibleLinear
from graphcnf.flows.pixels import ChannelsFirst, Checkerboard, Split, Squeeze
from graphcnf.flows.transform import Bijection, Inverse, Sequential, Transform
from graphcnf.images.networks import ConvolutionNetwork, ImageEncoder
from graphcnf.limits import Range

Shape = Sequence[int]
COUPLINGS: dict[str, type[Coupling]] = {"additive": AdditiveCoupling, "affine": AffineCoupling}


class Layers:
    """Steps in the order in which an image passes them; every method adds some.

    Couplings are of a kind: "additive", "affine" or "mixture-K", a mixture of K logistics.

    Args:
        shape: channels, height and width of the images.
        base: base density, standard normal if None.
        **network: arguments of `ConvolutionNetwork` for the couplings.

    Attributes:
        steps: the steps so far.
        shape: channels, height and width of the output of the steps.
    """

    def __init__(self, shape: Shape, base: BaseDensity | None = None, **network: Any):
        self.steps: list[Transform] = []
        self.shape = tuple(shape)
        self.base: BaseDensity = StandardNormal() if base is None else base
        self.network = {"width": 32, **network}

    def dequantize(self, levels: int, alpha: float, kind: str = "", couplings: int = 0) -> None:
        """Map integers 0 to levels - 1 to the real line.

        Args:
            levels: number of values of a pixel.
            alpha: see `graphcnf.flows.Logit`; positive, or black pixels lie at minus infinity.
            kind: kind of the couplings of the noise.
            couplings: number of couplings with checkerboard masks that make the noise, given the
                image; 0 for uniform noise. Their networks have no attention.

        Raises:
            UserError: alpha is out of range.
        """
        if not 0 < alpha < 1:
            raise UserError(f"alpha must lie between 0 and 1, got {alpha}")
        noise: Transform = UniformDequantization(levels)
        if couplings:
            channels, *size = self.shape
            network = {**self.network, "heads": 0}
            width = network["width"]
            flow = Layers(self.shape, **{**network, "context": width})
            flow.checkerboard(kind, couplings, normalise=False)
            encoder = ImageEncoder(channels, width, size=(size[0], size[1]), **network)
            noise = VariationalDequantization(levels, Sequential(*flow.steps), encoder)
        self.steps += [noise, Affine(1 / levels), Logit(alpha)]

    def squeeze(self, step: Squeeze | None = None) -> None:
        """Halve the sides: four times as many channels.

        Raises:
            UserError: a side is odd.
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
        """Add couplings of the halves of the channels.

        Args:
            kind: see the class.
            count: number of couplings.
            normalise: True for an ActNorm before each.
            mix: True for an invertible 1x1 convolution before each (Kingma & Dhariwal 2018, arXiv
                1807.03039, section 3.2). Without it, the halves alternate.
            **network: arguments of `ConvolutionNetwork` for these couplings.
        """
        for number in range(count):
            steps: list[Bijection] = [ActNorm(self.shape[0])] if normalise else []
            if mix:
                steps.append(InvertibleLinear(self.shape[0]))
            steps.append(self._coupling(kind, swap=not mix and number % 2 == 1, **network))
            self.steps += map(ChannelsFirst, steps)

    def checkerboard(self, kind: str, count: int, **options: Any) -> None:
        """Add couplings with checkerboard masks; the options are those of `couplings`."""
        shape = self.shape
        self.squeeze(Checkerboard())
        self.couplings(kind, count, **options)
        self.steps.append(Inverse(Checkerboard()))
        self.shape = shape

    def split(self, prior: str | None = None) -> None:
        """Factor out the second half of the channels.

        Args:
            prior: None for a fixed prior, or the kind of the coupling in a conditional one.
        """
        channels, height, width = self.shape
        coupling = None if prior is None else ChannelsFirst(self._coupling(prior))
        self.steps.append(Split(channels, channels // 2, base=self.base, prior=coupling))
        self.shape = (channels // 2, height, width)

    def _coupling(self, kind: str, swap: bool = False, **network: Any) -> Coupling:
        """Return a coupling of the second half given the first, or (`swap`) the reverse."""
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
        fixed, moved = channels // 2, channels - channels // 2
        if swap:
            fixed, moved = moved, fixed
        network = {**self.network, "size": tuple(size), **network}
        return cls(ConvolutionNetwork(fixed, parameters * moved, **network), **options)


def simple(
    shape: Shape, levels: int, *, coupling="affine", couplings=8, alpha=1e-5, **network
) -> Layers:
    """Return uniform dequantization and couplings with checkerboard masks.

    Args:
        shape: channels, height and width of the images; the sides must be even.
        levels: number of values of a pixel.
        coupling: kind of the couplings, see `Layers`.
        couplings: number of couplings.
        alpha: see `graphcnf.flows.Logit`.
        **network: arguments of `ConvolutionNetwork`.
    """
    return vardeq(
        shape, levels, coupling=coupling, couplings=couplings, dequantization=0, alpha=alpha,
        **network,
    )  # fmt: skip


def vardeq(
    shape: Shape,
    levels: int,
    *,
    coupling="affine",
    couplings=8,
    dequantization=4,
    alpha=1e-5,
    **network,
) -> Layers:
    """Return `simple` with variational dequantization of ``dequantization`` couplings."""
    layers = Layers(shape, **network)
    layers.dequantize(levels, alpha, coupling, dequantization)
    layers.checkerboard(coupling, couplings)
    return layers


def multiscale(
    shape: Shape,
    levels: int,
    *,
    coupling="affine",
    couplings=(2, 2, 4),
    dequantization=4,
    prior=None,
    alpha=1e-5,
    **network,
) -> Layers:
    """Return a flow of two scales: half of the dimensions leave at half the size.

    Four must divide the sides. ``couplings`` are the numbers of couplings with checkerboard masks,
    and of channels at half and at a quarter of the size. ``prior`` is the kind of the coupling that
    conditions what leaves on what stays, None for none.
    """
    checkerboards, halves, quarters = _three(couplings)
    layers = Layers(shape, **network)
    layers.dequantize(levels, alpha, coupling, dequantization)
    layers.checkerboard(coupling, checkerboards)
    layers.squeeze()
    layers.couplings(coupling, halves)
    layers.split(prior)
    layers.squeeze()
    layers.couplings(coupling, quarters)
    return layers


def realnvp(
    shape: Shape, levels: int, *, scales=2, couplings=3, block="residual", alpha=0.05, **network
) -> Layers:
    """Return affine couplings with alternating checkerboard and channel masks, at several scales.

    Half of the dimensions leave after each of the ``scales`` but the last, and 2 to their power
    must divide the sides. Each scale has ``couplings`` couplings with each kind of mask; the last
    has one more, and checkerboard masks only. ``block`` is that of `ConvolutionNetwork`.

    References:
        Dinh et al., *Density estimation using Real NVP*, ICLR 2017, arXiv 1605.08803.
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
    scales=2,
    steps=8,
    pixels: Annotated[int, Range()] = 2,
    mixtures=6,
    coupling="affine",
    prior=None,
    block="pointwise",
    layers=1,
    position=False,
    alpha=1e-5,
    **network,
) -> Layers:
    """Return steps of ActNorm, invertible 1x1 convolution and coupling, at several scales.

    Unlike in the original, the first couplings are mixture couplings with checkerboard masks, and
    nothing mixes the pixels before. A pixel's values may have several modes, such as black and
    bright: an affine map leaves them apart, and the first 1x1 convolution would make more of them.

    Half of the dimensions leave after each of the ``scales`` but the last, and 2 to their power
    must divide the sides. Each scale has ``steps`` couplings. At the first scale, ``pixels`` of
    them (at most all) are the mixture couplings, of ``mixtures`` components; with 0 it is Glow as
    published. ``coupling`` is the kind of all others, ``prior`` as in `multiscale`; ``block``,
    ``layers`` and ``position`` are those of `ConvolutionNetwork`.

    References:
        Kingma & Dhariwal, *Glow*, NeurIPS 2018, arXiv 1807.03039.
    """
    model = Layers(shape, block=block, layers=layers, position=position, **network)
    model.dequantize(levels, alpha)
    pixels = min(pixels, steps)
    if pixels:
        # Many parameters of a pixel: a 3x3 convolution to them would take longer than all else.
        model.checkerboard(f"mixture-{mixtures}", pixels, kernels=(5, 1))
    for scale in range(scales):
        model.squeeze()
        model.couplings(coupling, steps if scale else steps - pixels, mix=True)
        if scale < scales - 1:
            model.split(prior)
    return model


def flowpp(
    shape: Shape,
    levels: int,
    *,
    couplings=(4, 2, 3),
    mixtures=8,
    dequantization=4,
    heads=2,
    alpha=1e-5,
    **network,
) -> Layers:
    """Return mixture-of-logistics couplings with self-attention.

    Four must divide the sides. ``couplings`` are the numbers of couplings with checkerboard masks,
    with channel masks after a squeeze and with checkerboard masks after it, all of ``mixtures``
    components. ``heads`` are those of `ConvolutionNetwork`.

    References:
        Ho et al., *Flow++*, ICML 2019, arXiv 1902.00275.
    """
    first, channels, second = _three(couplings)
    kind = f"mixture-{mixtures}"
    layers = Layers(shape, StandardLogistic(), heads=heads, **network)
    layers.dequantize(levels, alpha, kind, dequantization)
    layers.checkerboard(kind, first)
    layers.squeeze()
    layers.couplings(kind, channels, mix=True)
    layers.checkerboard(kind, second)
    return layers


def _three(couplings: Sequence[int]) -> Sequence[int]:
    if not isinstance(couplings, Sequence) or len(couplings) != 3:
        raise UserError(f"couplings must be three numbers such as [2, 2, 4], got {couplings!r}")
    return couplings


MODELS: dict[str, Callable[..., Layers]] = {
    "simple": simple,
    "vardeq": vardeq,
    "multiscale": multiscale,
    "realnvp": realnvp,
    "glow": glow,
    "flowpp": flowpp,
}
