"""What an image model does: held-out images, samples, interpolation; and dequantization beside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from graphcnf.scripts._images import data_of, load_image_model, read_image
from graphcnf.scripts.figures.dequantization import Learned, draw_densities
from graphcnf.scripts.figures.layout import INCHES, INK, QUIET, heading, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEFT, RIGHT = 0.165, 0.985
GAP = 0.06
"""Paper between two images, as a share of an image's width."""

BETWEEN = 0.16
"""Paper between two rows, inches."""

TOP, PANELS = 0.75, 4.2
"""Heights of the title and of the part with the densities, inches."""


@dataclass
class ImageRows:
    """Rows of images.

    Attributes:
        title: What model it is.
        rows: Name of a row, what to say of it, and its images (N, C, H, W), 0 to levels - 1.
        levels: Number of values of a pixel.
    """

    title: str
    rows: list[tuple[str, str, np.ndarray]]
    levels: int


def image_rows(
    model: str,
    first: str,
    last: str,
    *,
    columns: int,
    temperature: float,
    seed: int,
    device: str = "cpu",
) -> ImageRows:
    """Images that a model was not trained on, its samples, and a line between two images.

    Args:
        model: Folder of an image model, or of its training run.
        first: A PNG file, or a held-out image's number.
        last: Another one.
        columns: Images in a row.
        temperature: Of the samples.
        seed: Of the samples, and of the noise that dequantizes the two images.
        device: Where to draw.

    Raises:
        UserError: There is no such model, device or image, or the model's data are not there.
    """
    network = load_image_model(model, device)
    ends = [read_image(text, network, model).to(network.device) for text in (first, last)]
    data = data_of(network, model)
    held_out = data.part("test")
    # Files are often sorted by what they show.
    spread = np.linspace(0, len(held_out) - 1, min(columns, len(held_out))).round().astype(int)
    samples = network.sample_records(0, columns, seed=seed, temperature=temperature)
    with torch.random.fork_rng():
        # The noise of the dequantization.
        torch.manual_seed(seed)
        line = network.interpolate(*ends, steps=columns)
    rows = [
        ("Data", "held-out images", held_out[spread].numpy()),
        ("Samples", f"temperature {temperature:g}", samples.cpu().numpy()),
        ("Interpolation", "from image to image\nin latent space", line.cpu().numpy()),
    ]
    kind = network.config["architecture"]
    return ImageRows(f"A normalizing flow of images: {kind} on {data.name}", rows, network.levels)


def draw_images(images: ImageRows, densities: Sequence[Learned], width: int) -> Figure:
    """Draw rows of images, and below them the densities of `graphcnf.scripts.figures`.

    Args:
        images: What `image_rows` returns.
        densities: What `graphcnf.scripts.figures.dequantization.learn` returns.
        width: In pixels.
    """
    columns = max(len(row) for _, _, row in images.rows)
    strips = [tiles(row, images.levels, columns) for _, _, row in images.rows]
    inches = INCHES * (RIGHT - LEFT)
    heights = [inches * strip.shape[0] / strip.shape[1] for strip in strips]
    height = TOP + sum(heights) + BETWEEN * len(strips) + PANELS
    figure = new_figure(height, width)
    heading(figure, images.title, "")
    y = height - TOP
    for (name, text, _), strip, tall in zip(images.rows, strips, heights, strict=True):
        y -= tall
        axes = figure.add_axes((LEFT, y / height, RIGHT - LEFT, tall / height))
        axes.imshow(strip, aspect="auto", interpolation="nearest")
        axes.set_axis_off()
        middle = (y + tall / 2) / height
        x, line = 0.035, 0.03 / height
        figure.text(x, middle + line, name, va="bottom", fontsize=13, fontweight="bold", color=INK)
        figure.text(x, middle - line, text, va="top", fontsize=10, color=QUIET)
        y -= BETWEEN
    text = "Pixels are whole numbers. Dequantization adds noise, as here to the numbers 0 to 5:"
    figure.text(0.035, (PANELS - 0.12) / height, text, va="top", fontsize=12, color=INK)
    draw_densities(figure, densities, top=(PANELS - 1.15) / height, bottom=0.86 / height)
    return figure


def tiles(images: np.ndarray, levels: int, columns: int) -> np.ndarray:
    """Images side by side, with white paper between them and in empty columns.

    Args:
        images: (N, C, H, W) of whole numbers 0 to `levels` - 1, one channel or three.
        levels: Number of values of a pixel.
        columns: Images that have room, at least N.

    Returns:
        Colours (H', W', 3) in 0 to 1. Pixels are repeated, for narrow gaps.
    """
    shades = images.transpose(0, 2, 3, 1).astype(np.float64) / (levels - 1)
    shades = np.broadcast_to(shades, (*shades.shape[:3], 3))
    zoom = max(1, round(200 / shades.shape[2]))
    shades = shades.repeat(zoom, 1).repeat(zoom, 2)
    _, height, width, _ = shades.shape
    step = width + max(1, round(GAP * width))
    paper = np.ones((height, columns * step - (step - width), 3))
    for number, image in enumerate(shades):
        paper[:, number * step : number * step + width] = image
    return paper
