"""Causal convolution of images, for networks that score or draw pixels in raster order.

Pixels are decided row by row, and within a row from left to right; a *causal* convolution sees none
that is decided later. It is causal along one axis of images (B, C, H, W): `ROWS` (axis 2) or
`COLUMNS` (axis 3). For scoring, it is applied to the whole image at once. For drawing, it is
called with one row or one pixel after the other. A *memory* then keeps the last inputs of each
convolution, so that known pixels are not convolved again (Ramachandran et al. 2017, arXiv
1704.06001).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

ROWS, COLUMNS = 2, 3
"""Axes of images (B, C, H, W)."""

Memory = dict[nn.Module, Tensor]
"""Cache for drawing: `{convolution: its last inputs (B, C, H, W)}`, the last rows or pixels."""


class CausalConvolution(nn.Conv2d):
    """Convolution that sees no later rows (axis `ROWS`) or no later columns (axis `COLUMNS`).

    Along `axis` an output sees the input at its own index and the ones before it, as far as the
    kernel reaches. A convolution along `ROWS` also sees both sides of its column: its kernel has an
    odd width, and is centred. One along `COLUMNS` is for a kernel of height 1.

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output.
        kernel: Height and width of the kernel.
        axis: The axis along which it is causal, `ROWS` (2) or `COLUMNS` (3).
    """

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int], axis: int):
        padding = (0, kernel[1] // 2 if axis == ROWS else 0)
        super().__init__(inputs, outputs, kernel, padding=padding)
        self.axis, self.back = axis, kernel[axis - 2] - 1
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in the stubs

    def forward(self, h: Tensor, memory: Memory | None = None) -> Tensor:
        """Convolve a whole image, or the next row or pixel of an image that is being drawn.

        Args:
            h: A whole image, (B, C, H, W). A convolution along `ROWS` also takes the next row, (B,
                C, 1, W). One along `COLUMNS` also takes the next pixel of a row, (B, C, 1, 1).
            memory: Last inputs of each convolution, `{convolution: inputs}`; this call replaces
                those of this convolution. For rows, begin an image with an empty dictionary, and
                pass the same one for each row from the top. For pixels, begin each row with an
                empty one, and pass it for each pixel from the left. None for a whole image.

        Returns:
            (B, outputs, H, W), with H and W of `h`.
        """
        size = list(h.shape)
        size[self.axis] = self.back
        past = h.new_zeros(size) if memory is None or self not in memory else memory[self]
        h = torch.cat((past, h), self.axis)
        if memory is not None:
            memory[self] = h.narrow(self.axis, h.shape[self.axis] - self.back, self.back)
        return super().forward(h)
