"""Layers of an image flow, one after the other, with the shape of what they return."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphcnf.errors import UserError
from graphcnf.flows.base import BaseDensity, StandardNormal
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
from graphcnf.flows.transform import Inverse, Sequential, Transform
from graphcnf.images.networks import ConvolutionNetwork, ImageEncoder

COUPLINGS: dict[str, type[Coupling]] = {"additive": AdditiveCoupling, "affine": AffineCoupling}


class Layers:
    """Steps in the order in which an image passes them; every method adds some.

    Args:
        shape: channels, height and width of the images.
        base: base density, standard normal if None.
        **network: arguments of `ConvolutionNetwork` for the couplings.

    Attributes:
        steps: the steps so far.
        shape: channels, height and width of what they return.
    """

    def __init__(self, shape: Sequence[int], base: BaseDensity | None = None, **network: Any):
        self.steps: list[Transform] = []
        self.shape = tuple(shape)
        self.base: BaseDensity = StandardNormal() if base is None else base
        self.network = {"width": 32, **network}

    def uniform_dequantization(self, levels: int) -> None:
        """Whole numbers 0 to levels - 1 to [0, 1) by uniform noise."""
        self.steps += [UniformDequantization(levels), Affine(1 / levels)]

    def variational_dequantization(self, levels: int, kinds: Sequence[str]) -> None:
        """The same by noise from a flow, given the image: checkerboard couplings of these kinds.

        Its networks have no attention.
        """
        channels, *size = self.shape
        network = {**self.network, "heads": 0}
        width = self.network["width"]
        flow = Layers(self.shape, **{**network, "context": width})
        flow.checkerboard()
        for number, kind in enumerate(kinds):
            flow.coupling(kind, swap=bool(number % 2))
        flow.undo(Checkerboard())
        encoder = ImageEncoder(channels, width, size=(size[0], size[1]), **network)
        step = VariationalDequantization(levels, Sequential(*flow.steps), encoder)
        self.steps += [step, Affine(1 / levels)]

    def logit(self, alpha: float) -> None:
        """From [0, 1) to the real line.

        Raises:
            UserError: alpha is not positive: without it black pixels may lie at minus infinity.
        """
        if not 0 < alpha < 1:
            raise UserError(f"alpha must lie between 0 and 1, not {alpha}")
        self.steps.append(Logit(alpha))

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

    def checkerboard(self) -> None:
        """Halve the sides; the halves of the channels are the colours of a checkerboard."""
        self.squeeze(Checkerboard())

    def undo(self, step: Squeeze) -> None:
        """Back to where a squeeze was made."""
        channels, height, width = self.shape
        self.steps.append(Inverse(step))
        self.shape = (channels // 4, 2 * height, 2 * width)

    def normalisation(self) -> None:
        """ActNorm."""
        self.steps.append(ChannelsFirst(ActNorm(self.shape[0])))

    def convolution(self) -> None:
        """Invertible 1x1 convolution (Kingma & Dhariwal 2018, arXiv 1807.03039, section 3.2)."""
        self.steps.append(ChannelsFirst(InvertibleLinear(self.shape[0])))

    def coupling(self, kind: str, *, swap: bool = False, **network: Any) -> None:
        """Transform the second half of the channels given the first, or (`swap`) the reverse.

        Args:
            kind: "additive", "affine" or "mixture-K", a mixture of K logistics.
            swap: see above.
            **network: arguments of `ConvolutionNetwork` for this one.
        """
        self.steps.append(ChannelsFirst(self._coupling(kind, swap, **network)))

    def split(self, prior: str | None = None) -> None:
        """Factor out the second half of the channels.

        Args:
            prior: None for a fixed prior, or the kind of coupling that makes a conditional one.
        """
        channels, height, width = self.shape
        coupling = None if prior is None else ChannelsFirst(self._coupling(prior))
        self.steps.append(Split(channels, channels // 2, base=self.base, prior=coupling))
        self.shape = (channels // 2, height, width)

    def _coupling(self, kind: str, swap: bool = False, **network: Any) -> Coupling:
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
            raise UserError(f"a coupling is additive, affine or mixture-8 (say), not {kind!r}")
        fixed, moved = channels // 2, channels - channels // 2
        if swap:
            fixed, moved = moved, fixed
        network = {**self.network, "size": tuple(size), **network}
        return cls(ConvolutionNetwork(fixed, parameters * moved, **network), **options)
