"""Glow from two packages, behind one interface: bits of the same pixels, and samples of pixels."""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Sequence
from importlib.metadata import version

import torch
from torch import Tensor, nn

from graphcnf.errors import UserError
from graphcnf.flows.transform import Noise
from graphcnf.images import ImageFlow

ALPHA = 1e-5
"""Of both models' logit, as `graphcnf.flows.elementwise.Logit` counts it."""


def check_normflows_installed() -> None:
    """Raise UserError unless normflows can be imported."""
    if importlib.util.find_spec("normflows") is None:
        raise UserError("this comparison needs normflows: pip install 'graphcnf[normflows]'")


class Glow:
    """A Glow of whole pixels: uniform dequantization, division by the levels, logit, flow.

    Both subclasses map `(x + u) / levels` by `logit(ALPHA / 2 + (1 - ALPHA) y)` and count the
    log-determinant of all of it, so that their bits are those of the pixels.

    Args:
        module: What is trained.
        shape: Channels, height and width.
        levels: Number of values of a pixel.

    Attributes:
        name: What to call it in a table.
        package: Name of its distribution.
    """

    name: str
    package: str

    def __init__(self, module: nn.Module, shape: Sequence[int], levels: int):
        self.module, self.shape, self.levels = module, tuple(shape), levels

    @property
    def parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(p.numel() for p in self.module.parameters() if p.requires_grad)

    @property
    def version(self) -> str:
        """Version of the package."""
        return version(self.package)

    def log_prob(self, x: Tensor, noise: Tensor) -> Tensor:
        """Lower bound on log P(x), (B,) nats.

        Args:
            x: Images (B, C, H, W) uint8.
            noise: Their dequantization u, uniform in [0, 1), of the same shape.
        """
        raise NotImplementedError

    def sample(self, count: int) -> Tensor:
        """Draw images, (count, C, H, W) uint8, with torch's global generator."""
        raise NotImplementedError

    def bits_per_dimension(self, x: Tensor, noises: Sequence[Tensor]) -> Tensor:
        """Upper bound on the bits per pixel and channel, (B,), from one draw per noise.

        References:
            Burda et al. 2016, arXiv 1509.00519.
        """
        draws = torch.stack([self.log_prob(x, noise) for noise in noises])
        bound = torch.logsumexp(draws, 0) - math.log(len(noises))
        return -bound / (math.prod(self.shape) * math.log(2))


class OwnGlow(Glow):
    """`graphcnf.images.ImageFlow` with the architecture "glow".

    Args:
        shape: Channels, height and width.
        levels: Number of values of a pixel.
        scales: Number of scales.
        steps: Repetitions of ActNorm, 1x1 convolution and coupling at each scale.
        width: Channels inside of the couplings' networks.
        plain: Leave out what normflows has not, mixture couplings of the pixels in place of the
            first steps.

    Raises:
        UserError: An argument that does not fit.
    """

    name = package = "graphcnf"

    def __init__(
        self,
        shape: Sequence[int],
        levels: int,
        *,
        scales: int,
        steps: int,
        width: int,
        plain: bool = False,
    ):
        module = ImageFlow(
            architecture="glow", shape=shape, levels=levels, scales=scales, steps=steps,
            width=width, alpha=ALPHA, **({"pixels": 0} if plain else {}),
        )  # fmt: skip
        super().__init__(module, shape, levels)

    def log_prob(self, x: Tensor, noise: Tensor) -> Tensor:
        """See `Glow.log_prob`."""
        tape = Noise()
        tape.draws.append(noise)
        return self.module.log_prob(x, noise=tape)

    def sample(self, count: int) -> Tensor:
        """See `Glow.sample`."""
        return self.module.sample(count)


class NormflowsGlow(Glow):
    """`normflows.MultiscaleFlow` of `GlowBlock`, put together as its example of Glow does.

    What leaves after a scale, and what is left at the end, has a trainable diagonal Gaussian, the
    unconditional form of the example's. Options of the blocks are at the package's defaults.

    References:
        Stimper et al., *normflows: A PyTorch Package for Normalizing Flows*, JOSS 2023,
        arXiv 2302.12014; `examples/glow.ipynb` of its repository.

    Args:
        shape: Channels, height and width; 2 to the power of `scales` must divide the sides.
        levels: Number of values of a pixel.
        scales: Number of scales.
        steps: `GlowBlock`s at each scale.
        width: Channels inside of the couplings' networks.

    Raises:
        UserError: normflows is not installed.
    """

    name = package = "normflows"

    def __init__(self, shape: Sequence[int], levels: int, *, scales: int, steps: int, width: int):
        check_normflows_installed()
        import normflows

        channels, height, side = shape
        bases, flows, merges = [], [], []
        # normflows counts from the latents to the image.
        for depth in range(scales, 0, -1):
            inside = channels * 2 ** (depth + 1)
            with warnings.catch_warnings():
                # Its 1x1 convolution calls a deprecated function of torch.
                warnings.simplefilter("ignore", UserWarning)
                blocks = [normflows.flows.GlowBlock(inside, width) for _ in range(steps)]
            flows.append([*blocks, normflows.flows.Squeeze()])
            last = depth == scales
            leaving = inside if last else inside // 2
            latent = (leaving, height >> depth, side >> depth)
            bases.append(normflows.distributions.DiagGaussian(latent))
            if not last:
                merges.append(normflows.flows.Merge())
        # Its logit keeps alpha free at both ends, ours half of alpha.
        logit = normflows.transforms.Logit(ALPHA / 2)
        module = normflows.MultiscaleFlow(bases, flows, merges, transform=logit, class_cond=False)
        super().__init__(module, shape, levels)

    def log_prob(self, x: Tensor, noise: Tensor) -> Tensor:
        """See `Glow.log_prob`."""
        log_density = self.module.log_prob((x + noise) / self.levels, None)
        return log_density - math.prod(self.shape) * math.log(self.levels)

    @torch.no_grad()
    def sample(self, count: int) -> Tensor:
        """See `Glow.sample`."""
        x, _ = self.module.sample(count)
        return (x * self.levels).floor().clamp(0, self.levels - 1).to(torch.uint8)
