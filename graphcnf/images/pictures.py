"""Pictures of images, and images of pictures."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np

from graphcnf.compute.files import write_file
from graphcnf.errors import UserError

GREY, GAP, SMALLEST = 128, 2, 56
"""Shade and width of the lines between images, and the size that small images are enlarged to."""


def write_grid(
    images: np.ndarray, path: Path, *, levels: int = 256, columns: int | None = None
) -> None:
    """Write images (N, C, H, W) of integers as one PNG picture, row by row.

    Args:
        images: One channel (grey) or three.
        path: File to write.
        levels: Number of values of a pixel; the highest is white.
        columns: Images in a row; None for a square.

    Raises:
        UserError: Pillow is missing, or the file cannot be written.
    """
    try:
        from PIL import Image
    except ImportError:
        raise UserError("pictures need Pillow: pip install 'graphcnf[images]'") from None
    count, channels, height, width = images.shape
    if channels not in (1, 3):
        raise UserError(f"a picture must have 1 or 3 channels, got {channels}")
    columns = math.ceil(math.sqrt(count)) if columns is None else min(columns, count)
    rows = math.ceil(count / columns)
    zoom = max(1, SMALLEST // max(height, width))
    shades = (images.astype(np.uint16) * 255 // (levels - 1)).astype(np.uint8)
    tiles = np.full(
        (rows * columns, height * zoom + GAP, width * zoom + GAP, channels), GREY, np.uint8
    )
    tiles[:count, :-GAP, :-GAP] = shades.transpose(0, 2, 3, 1).repeat(zoom, 1).repeat(zoom, 2)
    canvas = tiles.reshape(rows, columns, *tiles.shape[1:]).swapaxes(1, 2)
    canvas = canvas.reshape(rows * tiles.shape[1], columns * tiles.shape[2], channels)
    canvas = np.pad(canvas, ((GAP, 0), (GAP, 0), (0, 0)), constant_values=GREY)
    buffer = io.BytesIO()
    Image.fromarray(canvas[..., 0] if channels == 1 else canvas).save(buffer, "PNG")
    write_file(path, buffer.getvalue())


def fit_picture(
    picture: np.ndarray, shape: tuple[int, int, int], levels: int, name: str
) -> np.ndarray:
    """Return a picture as an image of a model.

    Args:
        picture: (C, H, W) uint8. Grey becomes three equal channels, and the reverse, as needed.
        shape: Channels, height and width of the model's images.
        levels: Number of values of a pixel.
        name: Name of the picture in an error.

    Raises:
        UserError: Its size or its channels are not those of the model.
    """
    channels, height, width = shape
    if channels == 3 and len(picture) == 1:
        picture = picture.repeat(3, 0)
    if channels == 1 and (picture[:1] == picture).all():
        picture = picture[:1]
    if picture.shape != shape:
        raise UserError(
            f"{name}: {picture.shape[0]} channels and {picture.shape[1]} x {picture.shape[2]} "
            f"pixels; the model is for {channels} channels and {height} x {width}"
        )
    return (picture.astype(np.uint16) * levels // 256).astype(np.uint8)
