"""Transforms of images `(B, C, H, W)`, for flows with several scales.

Other transforms of this package have the channels last. Images have no padding: all of these but
`ChannelsFirst` ignore the mask.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.flows.base import BaseDensity, StandardNormal
from graphcnf.flows.composition import Sequential, SequentialBijection
from graphcnf.flows.transform import Bijection, Context, Transform, log_term_dtype, zero_log_term


class ChannelsFirst(SequentialBijection):
    """Composition of bijections of `(B, H, W, C)`, applied to images `(B, C, H, W)`.

    A transform of the last axis then acts on the channels of every pixel: `InvertibleLinear`
    becomes an invertible 1x1 convolution. A mask of the context is `(B, H, W)`.
    """

    def __init__(self, *steps: Bijection):
        Bijection.__init__(self)
        self.steps = nn.ModuleList(steps)

    @property
    def transforms(self):  # type: ignore[override]  # an attribute elsewhere
        """The bijections in order; saved weights name them `steps`."""
        return self.steps

    def forward(self, x, context=Context()):
        z, log_term = super().forward(_channels_last(x), context)
        return z.movedim(-1, 1), log_term

    def inverse(self, z, context=Context()):
        return super().inverse(_channels_last(z), context).movedim(-1, 1)

    def inverse_and_logdet(self, z, context=Context()):
        x, log_det = super().inverse_and_logdet(_channels_last(z), context)
        return x.movedim(-1, 1), log_det


class Squeeze(Bijection):
    """Rearrangement of space to channels: `(B, C, H, W)` to `(B, 4 C, H / 2, W / 2)`.

    A block of 2 x 2 pixels becomes one pixel. Channel `(2 i + j) C + c` of the output holds, of
    channel c, the pixels in row i and column j of each block (0 or 1).
    Dinh et al., *Density estimation using Real NVP*, ICLR 2017, arXiv 1605.08803, section 3.6.
    """

    order = [0, 1, 2, 3]  # numbers 2 i + j in the order of the output's channels

    def forward(self, x, context=Context()):
        """Rearrange images `(B, C, H, W)` to `(B, 4 C, H / 2, W / 2)`; the log-det is 0."""
        _check_image(x)
        height, width = x.shape[2:]
        if height % 2 or width % 2:
            raise ValueError(f"squeezing needs an even height and width, got {height} x {width}")
        # `F.pixel_unshuffle` forgets the size of an empty batch.
        z = x.to(log_term_dtype(x)).unflatten(3, (width // 2, 2)).unflatten(2, (height // 2, 2))
        z = z.permute(0, 1, 3, 5, 2, 4).flatten(2, 3)
        return z[:, :, self.order].transpose(1, 2).flatten(1, 2), zero_log_term(x)

    def inverse_and_logdet(self, z, context=Context()):
        """Rearrange `(B, 4 C, H, W)` to images `(B, C, 2 H, 2 W)`; the log-det is 0."""
        _check_image(z)
        if z.shape[1] % 4:
            raise ValueError(f"unsqueezing needs a multiple of 4 channels, got {z.shape[1]}")
        pixels = z.to(log_term_dtype(z)).unflatten(1, (4, -1)).transpose(1, 2)
        inverse = [self.order.index(k) for k in range(4)]
        return F.pixel_shuffle(pixels[:, :, inverse].flatten(1, 2), 2), zero_log_term(z)


class Checkerboard(Squeeze):
    """`Squeeze` with the output channels ordered by the colours of a checkerboard.

    The first half of them holds the pixels whose row plus column is even. A coupling that splits
    the channels in the middle is then RealNVP's coupling with a checkerboard mask.
    """

    order = [0, 3, 1, 2]


class Split(Transform):
    """Multi-scale split `z = x[:, :keep]` with the log term `log p(rest)`.

    `keep` is half of the channels, rounded up. The *rest*, `x[:, keep:]`, has a base density, from
    which `inverse` draws it; `MultiScale.encode` keeps it.
    Dinh et al., *Density estimation using Real NVP*, ICLR 2017, arXiv 1605.08803, section 3.6.
    """

    def __init__(self, channels: int, base: BaseDensity | None = None):
        super().__init__()
        if channels < 2:
            raise ValueError(f"a split needs at least 2 channels, got {channels}")
        self.channels, self.keep = channels, channels - channels // 2
        self.base: BaseDensity = StandardNormal() if base is None else base

    def divide(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the channels that are kept, and the rest."""
        if x.shape[1] != self.channels:
            raise ValueError(f"a split of {self.channels} channels got {x.shape[1]}")
        z, rest = x.to(log_term_dtype(x)).tensor_split([self.keep], 1)
        return z, rest

    def forward(self, x, context=Context()):
        z, rest = self.divide(x)
        return z, self.base.log_prob(rest)

    def inverse(self, z, context=Context()):
        """Draw the rest, and put it behind the channels that were kept."""
        z = z.to(log_term_dtype(z))
        rest = self.base.sample(
            (len(z), self.channels - self.keep, *z.shape[2:]),
            temperature=context.temperature,
            generator=context.generator,
            device=z.device,
            dtype=z.dtype,
        )
        return torch.cat((z, rest), 1)


class MultiScale(Sequential):
    """Composition in which some steps are a `Split`, whose latents are a tuple.

    `encode` and `decode` have the latents of all scales: the rest of each `Split`, in the order of
    the steps, and the output of the last step. `forward` returns that output alone, and `inverse`
    draws the others.
    """

    def encode(self, x: Tensor, context: Context = Context()) -> tuple[Tensor, ...]:
        """Map images to the latents of all scales."""
        rests = []
        for step in self.transforms:
            if isinstance(step, Split):
                x, rest = step.divide(x)
                rests.append(rest)
            else:
                x = step(x, context)[0]
        return *rests, x

    def decode(self, latents: Sequence[Tensor], context: Context = Context()) -> Tensor:
        """Map the latents of all scales back to images."""
        *rests, z = latents
        splits = sum(isinstance(step, Split) for step in self.transforms)
        if len(rests) != splits:
            raise ValueError(f"latents of {splits + 1} scales are needed, got {len(latents)}")
        for step in reversed(self.transforms):
            if isinstance(step, Split):
                z = torch.cat((z, rests.pop().to(z)), 1)
            else:
                z = step.inverse(z, context)
        return z


def _check_image(x: Tensor) -> None:
    """Raise ValueError unless x has the four axes of an image batch."""
    if x.dim() != 4:
        raise ValueError(f"an image batch has 4 axes (B, C, H, W), got {tuple(x.shape)}")


def _channels_last(x: Tensor) -> Tensor:
    """Return images `(B, C, H, W)` as `(B, H, W, C)`."""
    _check_image(x)
    return x.to(log_term_dtype(x)).movedim(1, -1)
