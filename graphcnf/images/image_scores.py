"""Scores of image models on held-out images: bits per dimension, reconstruction, speed.

Of a bound on the likelihood, more *draws* give fewer bits (`ImageModel.log_prob`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from graphcnf.compute.progress import progress_bar
from graphcnf.images.image_model import ImageModel

BATCH = 100  # number of images in a batch
RECONSTRUCTED = 50  # largest number of held-out images that are encoded and decoded
TIMED = 64  # number of images that are drawn to time sampling


def score_image_models(
    models: Iterable[tuple[str, ImageModel, Tensor]], *, draws: int = 8, seed: int = 0
) -> list[dict[str, Any]]:
    """Score image models on held-out images, to compare them in one table.

    Args:
        models: Triples of name, model and held-out images (M, C, H, W) of integers.

    Returns:
        A dictionary for each model, in order, with these keys, beside `model`, its name:
        - with a likelihood, the means `bits_per_dimension`, with `draws` draws, and `bits_one_draw`
        - with latents, `reconstruction`: share, 0 to 1, of the first images that encoding and
          decoding gives back exactly; `reconstructed`: number of these images, at most 50
        - if trained on the same data as the first model, `difference`: its mean bits less those of
          the first model
        - `..._se`, standard errors of these means; None for a single image
    """
    rows, first = [], None
    for name, model, images in models:
        model.sample(TIMED).cpu()
        began = time.perf_counter()
        # The copy to the CPU waits until the images are drawn.
        model.sample(TIMED).cpu()
        row = {
            "model": name,
            "architecture": model.config["architecture"],
            "dataset": model.metadata.get("dataset"),
            "images": len(images),
            "draws": draws,
            "figure": model.likelihood or "none",
            "parameters": sum(p.numel() for p in model.parameters()),
            "training_minutes": model.metadata.get("training", {}).get("minutes"),
            "sampling_milliseconds": 1000 * (time.perf_counter() - began) / TIMED,
        }
        bits = None
        if model.likelihood is not None:
            torch.manual_seed(seed)
            bits, single = _bits(model, images, draws, name)
            row |= {**_mean("bits_per_dimension", bits), **_mean("bits_one_draw", single)}
        if model.latent_size is not None:
            some = images[:RECONSTRUCTED].to(model.device)
            back = (model.decode(model.encode(some)) == some).flatten(1).all(1)
            row |= {"reconstruction": back.cpu().double().mean().item(), "reconstructed": len(some)}
        data = model.metadata.get("data")
        if first is None:
            first = data, bits
        elif first[0] == data and bits is not None and first[1] is not None:
            row |= _mean("difference", bits - first[1])
        rows.append(row)
    return rows


@torch.no_grad()
def _bits(model: ImageModel, images: Tensor, draws: int, name: str) -> tuple[Any, Any]:
    """Return the bits per dimension of images."""
    parts: list[Tensor] = []
    with progress_bar(f"scoring {name}", len(images)) as show:
        for batch in images.to(model.device).split(BATCH):
            parts.append(torch.stack([model.bits_per_dimension(batch, k) for k in (draws, 1)]))
            show(sum(p.shape[1] for p in parts))
    return tuple(torch.cat(parts, 1).cpu().double())


def _mean(name: str, values: Tensor) -> dict[str, float | None]:
    """Return the mean of some values with its standard error."""
    error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else None
    return {name: values.mean().item(), f"{name}_se": error}
