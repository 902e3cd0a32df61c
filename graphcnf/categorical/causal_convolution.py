"""Convolution of images whose pixels are given one after the other, row by row.

A *memory* keeps the last inputs of convolutions, so that images can be drawn without convolving
again what is known (Ramachandran et al. 2017, arXiv 1704.06001).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

ROWS, COLUMNS = 2, 3
"""Axes of images (B, C, H, W)."""

Memory = dict[nn.Module, Tensor]
"""Cache for drawing: `{convolution: its last inputs}`, rows or pixels (B, C, H, W)."""


class CausalConvolution(nn.Conv2d):
    """Convolution that sees no later rows (axis `ROWS`) or no later columns (axis `COLUMNS`).

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output.
        kernel: Height and width of the kernel.
        axis: `ROWS` or `COLUMNS`, the axis along which it sees only what is earlier and the place
            itself.
    """

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int], axis: int):
        padding = (0, kernel[1] // 2 if axis == ROWS else 0)
        super().__init__(inputs, outputs, kernel, padding=padding)
        self.axis, self.back = axis, kernel[axis - 2] - 1
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in the stubs

    def forward(self, h: Tensor, memory: Memory | None = None) -> Tensor:
        """Convolve an image, or its next row or pixel.

        Args:
            h: The input: of an image (B, C, H, W), of its next row (B, C, 1, W), of the next pixel
                of a row (B, C, 1, 1).
            memory: Last inputs of each convolution, `{convolution: inputs}`, updated in place.
                Begin with an empty dictionary, and pass the same one for each row or pixel, in
                their order. None for zeros before `h`, as for a whole image.

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
