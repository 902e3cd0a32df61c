"""Many images in one PNG file, arranged as a grid."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np

from graphcnf.errors import UserError
from graphcnf.file_writing import write_file

# Grey value and width of the lines between images, and the size to which small images are enlarged.
GREY, GAP, SMALLEST = 128, 2, 56


def write_grid(
    images: np.ndarray, path: Path, *, levels: int = 256, columns: int | None = None
) -> None:
    """Write images to a PNG file, as a grid that is filled row by row.

    Args:
        images: Grey (C = 1) or RGB images (C = 3), (N, C, H, W) of integers 0 to `levels` - 1. Each
            pixel of small images is drawn as a square, as large as fits into 56 pixels per image.
        columns: Images in a row of the grid; None for about as many as there are rows.
    """
    try:
        from PIL import Image
    except ImportError:
        raise UserError("pictures need Pillow: pip install 'graphcnf[images]'") from None
    count, channels, height, width = images.shape
    if not count:
        raise UserError(f"{path}: a picture needs an image, got none")
    if channels not in (1, 3):
        raise UserError(f"a picture must have 1 or 3 channels, got {channels}")
    columns = math.ceil(math.sqrt(count)) if columns is None else min(columns, count)
    rows = math.ceil(count / columns)
    zoom = max(1, SMALLEST // max(height, width))
    shades = (images.astype(np.uint16) * 255 // (levels - 1)).astype(np.uint8)
    shades = shades.transpose(0, 2, 3, 1).repeat(zoom, 1).repeat(zoom, 2)
    across, down = width * zoom + GAP, height * zoom + GAP
    canvas = np.full((rows * down + GAP, columns * across + GAP, channels), GREY, np.uint8)
    for k, image in enumerate(shades):
        y, x = GAP + k // columns * down, GAP + k % columns * across
        canvas[y : y + height * zoom, x : x + width * zoom] = image
    buffer = io.BytesIO()
    Image.fromarray(canvas[..., 0] if channels == 1 else canvas).save(buffer, "PNG")
    write_file(path, buffer.getvalue())
