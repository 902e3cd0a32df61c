"""Figures of image models on held-out images."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphcnf.scripts._images import data_of, load_image_model

if TYPE_CHECKING:
    from torch import Tensor

    from graphcnf.datasets.images import ImageDataset
    from graphcnf.images import ImageModel

DRAWS = 8
"""Draws in a bound."""

BATCH = 100
RECONSTRUCTED = 50
"""Held-out images that are encoded and decoded."""

TIMED = 64
"""Images that are drawn to take the time."""


def score_image_models(
    names: Sequence[str], *, draws: int = DRAWS, seed: int = 0, device: str = "cpu"
) -> list[dict[str, Any]]:
    """Figures of image models on the test parts of their data sets, a row per model.

    Raises:
        UserError: No such model, or its data are not there.
    """
    import torch

    rows, first = [], None
    datasets: dict[str, ImageDataset] = {}
    for name in names:
        model = load_image_model(name, device)
        data = data_of(model, name, datasets)
        bits = None
        test = data.part("test")
        some = test[:RECONSTRUCTED].to(model.device)
        row = {
            "model": Path(name).name,
            "architecture": model.config["architecture"],
            "dataset": data.name,
            "images": len(test),
            "draws": draws,
            "figure": model.likelihood or "none",
            "parameters": sum(p.numel() for p in model.parameters()),
            "training_minutes": model.metadata.get("training", {}).get("minutes"),
            "sampling_milliseconds": _sampling_milliseconds(model),
        }
        if model.likelihood is not None:
            torch.manual_seed(seed)
            bits, single = _bits(model, data, draws, name)
            row |= {**_mean("bits_per_dimension", bits), **_mean("bits_one_draw", single)}
        if model.latent_size is not None:
            back = (model.decode(model.encode(some)) == some).flatten(1).all(1)
            row |= {"reconstruction": back.cpu().double().mean().item(), "reconstructed": len(some)}
        if first is None:
            first = model.metadata.get("data"), bits
        elif first[0] == model.metadata.get("data") and None not in (bits, first[1]):
            row |= _mean("difference", bits - first[1])
        rows.append(row)
    return rows


def _bits(model: ImageModel, data: ImageDataset, draws: int, name: str) -> tuple[Any, Any]:
    """Bits per dimension of the test images with `draws` draws and with one, (M,) float64."""
    import torch

    from graphcnf.compute.progress import progress_bar

    parts = []
    with torch.no_grad(), progress_bar(f"scoring {name}", len(data.parts["test"])) as show:
        for batch in data.batches("test", BATCH):
            batch = batch.to(model.device)
            both = [model.bits_per_dimension(batch, k).cpu().double() for k in (draws, 1)]
            parts.append(torch.stack(both))
            show(sum(p.shape[1] for p in parts))
    return tuple(torch.cat(parts, 1))


def _mean(name: str, values: Tensor) -> dict[str, float]:
    """Mean and its standard error."""
    error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else None
    return {name: values.mean().item(), f"{name}_se": error}


def _sampling_milliseconds(model: ImageModel) -> float:
    model.sample(TIMED).cpu()
    began = time.perf_counter()
    # What is brought to the CPU has been drawn.
    model.sample(TIMED).cpu()
    return 1000 * (time.perf_counter() - began) / TIMED
