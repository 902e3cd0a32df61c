"""Convolutional networks for couplings of images.

Like couplings, `ConvolutionNetwork` takes and returns ``(B, H, W, C)``: B images of H rows and W
columns of pixels with C channels. Inside, and in the blocks, tensors are ``(B, C, H, W)`` in
PyTorch's channels-last memory format: no copy is made, and CPUs convolve faster.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.categorical.transformer import zero_init
from graphcnf.flows.pixels import Checkerboard
from graphcnf.flows.transform import Context


def channels_last(module: nn.Module) -> None:
    """Convert the weights of a module's convolutions to channels-last memory format, in place.

    Args:
        module: The module.
    """
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in the stubs


class ConvolutionNetwork(nn.Module):
    """Network of a coupling of images: convolution, blocks, convolution.

    The last convolution is initialised with 0, so that a coupling begins as the identity.

    Args:
        inputs: channels of the input.
        outputs: channels of the output.
        size: height and width of the input.
        width: hidden channels.
        layers: number of blocks.
        block: "gated", "residual" or "pointwise".
        heads: heads of self-attention after the last block, 0 for none; must divide ``width``.
        context: channels of the context's features, 0 for none.
        position: True for a learned vector of each pixel, added after the first convolution.
        kernels: sizes of the first and the last convolution, odd.

    Raises:
        ValueError: if an argument is out of range.
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
        """Map an image to as many pixels with other channels.

        Args:
            x: Input with channels last, ``(B, H, W, inputs)``.
            context: Its features have channels first, as an `ImageEncoder` returns them: ``(B,
                context, H, W)``. They are not used if `context` was 0.

        Returns:
            ``(B, H, W, outputs)``.
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
    """Network from images ``(B, C, H, W)`` to features ``(B, F, H / 2, W / 2)``; sides are even.

    Args:
        channels: channels C of the images.
        features: number F of features.
        size: height and width of the images.
        **network: further arguments of `ConvolutionNetwork`.
    """

    def __init__(self, channels: int, features: int, *, size: tuple[int, int], **network):
        super().__init__()
        self.squeeze = Checkerboard()
        half = (size[0] // 2, size[1] // 2)
        self.network = ConvolutionNetwork(4 * channels, features, size=half, **network)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the features of images.

        Args:
            x: Images, ``(B, C, H, W)``.

        Returns:
            ``(B, F, H / 2, W / 2)``.
        """
        return self.network(self.squeeze(x)[0].movedim(1, -1)).movedim(-1, 1)


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of ``(B, C, H, W)``."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise every pixel.

        Args:
            x: ``(B, C, H, W)``.

        Returns:
            ``(B, C, H, W)``.
        """
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class GatedBlock(nn.Module):
    """Gated residual block ``h + a sigmoid(b)``, as in Flow++ (arXiv 1902.00275).

    ``(a, b) = conv1x1(silu(conv3x3(ChannelNorm(h))))``: one convolution after the other, and the
    2 C channels of the last one are halved into a and b.

    Args:
        width: Channels C.
    """

    def __init__(self, width: int):
        super().__init__()
        self.norm = ChannelNorm(width)
        self.convolution = nn.Conv2d(width, width, 3, padding=1)
        self.gate = nn.Conv2d(width, 2 * width, 1)

    def forward(self, h: Tensor) -> Tensor:
        """Apply the block.

        Args:
            h: Features, ``(B, C, H, W)``.

        Returns:
            ``(B, C, H, W)``.
        """
        u = F.silu(self.convolution(self.norm(h)))
        return h + F.glu(self.gate(u), 1)


class ResidualBlock(nn.Module):
    """``h`` plus two 3x3 convolutions of the normalised ``h``, as in RealNVP (arXiv 1605.08803).

    ``h + conv3x3(relu(conv3x3(relu(ChannelNorm(h)))))``.

    Args:
        width: Channels C.
    """

    def __init__(self, width: int):
        super().__init__()
        self.norm = ChannelNorm(width)
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, h: Tensor) -> Tensor:
        """Apply the block.

        Args:
            h: Features, ``(B, C, H, W)``.

        Returns:
            ``(B, C, H, W)``.
        """
        u = F.relu(self.first(F.relu(self.norm(h))))
        return h + self.second(u)


class PointwiseBlock(nn.Module):
    """1x1 convolution of ``relu(h)``, as in the middle of Glow's networks (arXiv 1807.03039).

    Args:
        width: Channels C.
    """

    def __init__(self, width: int):
        super().__init__()
        self.convolution = nn.Conv2d(width, width, 1)

    def forward(self, h: Tensor) -> Tensor:
        """Apply the block.

        Args:
            h: Features, ``(B, C, H, W)``, which are overwritten.

        Returns:
            ``(B, C, H, W)``.
        """
        return self.convolution(F.relu_(h))


class PixelAttention(nn.Module):
    """Gated self-attention among all pixels, ``h + a sigmoid(b)`` (arXiv 1902.00275, 3.3).

    (a, b) are a linear map of what each pixel reads from the normalised ``h``.

    Args:
        width: channels of a pixel.
        heads: attention heads; must divide the width.
        size: height and width, for a learned vector of each pixel.
    """

    def __init__(self, width: int, heads: int, size: tuple[int, int]):
        super().__init__()
        self.heads = heads
        self.norm = ChannelNorm(width)
        self.position = nn.Parameter(0.1 * torch.randn(1, width, *size))
        self.query_key_value = nn.Linear(width, 3 * width)
        self.gate = nn.Linear(width, 2 * width)

    def forward(self, h: Tensor) -> Tensor:
        """Apply the attention.

        Args:
            h: Features, ``(B, C, H, W)``.

        Returns:
            ``(B, C, H, W)``.
        """
        pixels = (self.norm(h) + self.position).flatten(2).transpose(1, 2)
        parts = self.query_key_value(pixels).unflatten(-1, (3, self.heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        read = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return h + F.glu(self.gate(read), -1).transpose(1, 2).unflatten(-1, h.shape[2:])


BLOCKS = {"gated": GatedBlock, "residual": ResidualBlock, "pointwise": PointwiseBlock}
