"""Causal convolution of images, for networks that score or draw pixels in raster order.

A *causal* convolution of images (B, C, H, W) sees no later rows (axis `ROWS`) or no later columns
(axis `COLUMNS`). In drawing, it is called with one row or one pixel after the other, and a *memory*
keeps its last inputs (Ramachandran et al. 2017, arXiv 1704.06001).
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

    One along `ROWS` also sees both sides of its column: its kernel has an odd width, and is
    centred. One along `COLUMNS` is for a kernel of height 1.
    """

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int], axis: int):
        padding = (0, kernel[1] // 2 if axis == ROWS else 0)
        super().__init__(inputs, outputs, kernel, padding=padding)
        self.axis, self.back = axis, kernel[axis - 2] - 1
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in the stubs

    def forward(self, h: Tensor, memory: Memory | None = None) -> Tensor:
        """Convolve a whole image, or with a memory the next row or pixel in drawing.

        The memory `{convolution: last inputs}` is updated in place. Begin with an empty one at the
        top of an image for rows (B, C, 1, W), and at the left of each row for pixels (B, C, 1, 1).
        """
        size = list(h.shape)
        size[self.axis] = self.back
        past = h.new_zeros(size) if memory is None or self not in memory else memory[self]
        h = torch.cat((past, h), self.axis)
        if memory is not None:
            memory[self] = h.narrow(self.axis, h.shape[self.axis] - self.back, self.back)
        return super().forward(h)
