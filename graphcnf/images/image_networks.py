"""Convolutional networks that compute the parameters of couplings in flows of images.

- `ConvolutionNetwork` is the network of a coupling: a convolution, several *blocks*, a convolution.
- The kinds of *blocks* are `GatedBlock`, `ResidualBlock` and `PointwiseBlock`.
- The *context* of a network is further input besides the image: features of the image that is
  dequantized, which an `ImageEncoder` computes.

`ConvolutionNetwork` takes and returns `(B, H, W, C)`, as couplings do: B images of H rows and W
columns of pixels with C channels. All other tensors here are `(B, C, H, W)`, in PyTorch's
channels-last memory format. So no copy is made, and CPUs convolve faster.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.categorical.transformer import zero_init
from graphcnf.flows.pixels import Checkerboard
from graphcnf.flows.transform import Context


def channels_last(module: nn.Module) -> None:
    """Store the weights of a module's convolutions in channels-last memory format, in place.

    CPUs convolve faster with it; results are the same.
    """
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in the stubs


class ConvolutionNetwork(nn.Module):
    """Network of a coupling of images: a convolution, several blocks, a convolution.

    The last convolution begins with weights 0, so that a coupling begins as the identity.

    Args:
        block: Kind of the blocks: "gated", "residual" or "pointwise".
        heads: Heads of self-attention (`PixelAttention`) after the last block; 0 for none.
        position: True for a learned vector of each pixel, added after the first convolution.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        size: tuple[int, int],
        width: int = 32,
        layers: int = 2,
        block: str = "gated",
        heads: int = 0,
        context: int = 0,
        position: bool = True,
        kernels: tuple[int, int] = (3, 3),
    ):
        super().__init__()
        if block not in BLOCKS:
            raise ValueError(f"block must be one of {', '.join(BLOCKS)}, got {block!r}")
        if width % max(heads, 1):
            raise ValueError(f"heads must divide the width, got {heads} and {width}")
        first, last = kernels
        if not (first % 2 and last % 2):
            raise ValueError(f"kernels must be two odd sizes, got {kernels!r}")
        self.enter = nn.Conv2d(inputs + context, width, first, padding=first // 2)
        self.position = nn.Parameter(torch.zeros(1, width, *size)) if position else None
        self.blocks = nn.ModuleList(BLOCKS[block](width) for _ in range(layers))
        if heads:
            self.blocks.append(PixelAttention(width, heads, size))
        self.leave = zero_init(nn.Conv2d(width, outputs, last, padding=last // 2))
        self.with_context = context > 0
        self.rectified = block == "pointwise"  # ReLU, as published; its gradient needs no copy
        channels_last(self)

    def forward(self, x: Tensor, context: Context = Context()) -> Tensor:
        """Map images to as many pixels with other channels.

        The `features` of the context, with channels first, are a second input.
        """
        h = x.movedim(-1, 1)
        if self.with_context:
            h = torch.cat((h, context.features), 1)
        h = self.enter(h)
        # In place if nothing needs the old values: these passes are bound by memory.
        if self.position is not None:
            h = h.add_(self.position)
        for block in self.blocks:
            h = block(h)
        h = F.relu_(h) if self.rectified else F.silu(h, inplace=not torch.is_grad_enabled())
        return self.leave(h).movedim(1, -1)


class ImageEncoder(nn.Module):
    """Network that computes the context of variational dequantization from images.

    The features have half the size of the images: dequantization acts on squeezed images.
    """

    def __init__(self, channels: int, features: int, *, size: tuple[int, int], **network):
        super().__init__()
        self.squeeze = Checkerboard()
        half = (size[0] // 2, size[1] // 2)
        self.network = ConvolutionNetwork(4 * channels, features, size=half, **network)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the features of images, `(B, F, H / 2, W / 2)`."""
        return self.network(self.squeeze(x)[0].movedim(1, -1)).movedim(-1, 1)


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation of each pixel over its channels, for tensors `(B, C, H, W)`."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the channels of every pixel."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class GatedBlock(nn.Module):
    """Gated residual block `h + a sigmoid(b)`, as in Flow++ (Ho et al. 2019, arXiv 1902.00275).

    `(a, b) = conv1x1(silu(conv3x3(ChannelNorm(h))))`. The last convolution has 2 C output
    channels; the first half of them is a, the second b.
    """

    def __init__(self, width: int):
        super().__init__()
        self.norm = ChannelNorm(width)
        self.convolution = nn.Conv2d(width, width, 3, padding=1)
        self.gate = nn.Conv2d(width, 2 * width, 1)

    def forward(self, h: Tensor) -> Tensor:
        """Apply the block."""
        u = F.silu(self.convolution(self.norm(h)))
        return h + F.glu(self.gate(u), 1)


class ResidualBlock(nn.Module):
    """`h` plus two 3x3 convolutions of the normalised `h`, as in RealNVP (arXiv 1605.08803).

    `h + conv3x3(relu(conv3x3(relu(ChannelNorm(h)))))`.
    """

    def __init__(self, width: int):
        super().__init__()
        self.norm = ChannelNorm(width)
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, h: Tensor) -> Tensor:
        """Apply the block."""
        u = F.relu(self.first(F.relu(self.norm(h))))
        return h + self.second(u)


class PointwiseBlock(nn.Module):
    """1x1 convolution of `relu(h)`, as in the middle of Glow's networks (arXiv 1807.03039).

    It has no normalisation and no residual connection.
    """

    def __init__(self, width: int):
        super().__init__()
        self.convolution = nn.Conv2d(width, width, 1)

    def forward(self, h: Tensor) -> Tensor:
        """Apply the block; the input is overwritten, to save memory."""
        return self.convolution(F.relu_(h))


class PixelAttention(nn.Module):
    """Gated self-attention among all pixels, `h + a sigmoid(b)` (Flow++, arXiv 1902.00275, 3.3).

    Self-attention acts on the normalised `h` plus a learned vector of each pixel. A linear map of
    its output gives (a, b).
    """

    def __init__(self, width: int, heads: int, size: tuple[int, int]):
        super().__init__()
        self.heads = heads
        self.norm = ChannelNorm(width)
        self.position = nn.Parameter(0.1 * torch.randn(1, width, *size))
        self.query_key_value = nn.Linear(width, 3 * width)
        self.gate = nn.Linear(width, 2 * width)

    def forward(self, h: Tensor) -> Tensor:
        """Apply the attention."""
        pixels = (self.norm(h) + self.position).flatten(2).transpose(1, 2)
        parts = self.query_key_value(pixels).unflatten(-1, (3, self.heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        read = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return h + F.glu(self.gate(read), -1).transpose(1, 2).unflatten(-1, h.shape[2:])


BLOCKS = {"gated": GatedBlock, "residual": ResidualBlock, "pointwise": PointwiseBlock}
"""Classes of the blocks by their kind."""
