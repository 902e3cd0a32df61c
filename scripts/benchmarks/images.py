"""Models of images side by side: PixelCNN, VAE, GAN and flows, trained for the same CPU time."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphcnf.baselines.images.models import load_image_model
from graphcnf.datasets.images import ImageDataset, images_of_model
from graphcnf.errors import UserError, say
from graphcnf.evaluation.formats import Column, Row, number, text
from graphcnf.graphs.record_blocks import one_thread
from graphcnf.images.model import BLOCK
from graphcnf.images.pictures import write_grid
from graphcnf.images.scores import score_image_models
from graphcnf.scripts.benchmarks.digits import (
    FEATURES,
    DigitFeatures,
    frechet_distance,
    learn_features,
)
from graphcnf.scripts.benchmarks.page import Section
from graphcnf.scripts.benchmarks.runs import TrainedRun, TrainingFailed, train_run
from graphcnf.training.configuration import load_preset
from graphcnf.training.settings import TrainingSettings

PRESETS = ("pixelcnn", "vae", "gan", "realnvp", "glow", "flowpp")
"""Compared if none are named, each after `images-`."""

SHOWN = 16
"""Samples of a model in the picture, at most."""


@dataclass
class Trained:
    """The runs of a preset.

    Attributes:
        name: Of the preset.
        main: Those with the first learning rate, by seed.
        others: Those with the other learning rates.
        failed: How many ended without a model.
    """

    name: str
    main: list[TrainedRun] = field(default_factory=list)
    others: list[TrainedRun] = field(default_factory=list)
    failed: int = 0


def train_all(
    presets: Sequence[str],
    seeds: Sequence[int],
    rates: Sequence[float],
    folder: Path,
    minutes: float,
) -> list[Trained]:
    """Train every preset with every learning rate and seed; what is there stays.

    Args:
        presets: Presets of images.
        seeds: Of training.
        rates: What the preset's learning rate is multiplied with.
        folder: Gets a run directory `PRESET/seed-N`, or `PRESET-xRATE/seed-N` for a rate other
            than 1.
        minutes: CPU time of one thread for each.

    Raises:
        UserError: A preset is none of images, a run of another budget is in the way, or no run of
            a preset with the first rate has ended with a model.
    """
    usual = {preset: _learning_rate(preset) for preset in presets}
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for preset in presets:
        trained = Trained(Path(preset).stem)
        for rate, seed in product(rates, seeds):
            name = trained.name if rate == 1 else f"{trained.name}-x{rate:g}"
            place = folder / name / f"seed-{seed}"
            settings = [] if rate == 1 else [f"learning_rate={rate * usual[preset]:g}"]
            try:
                run = train_run(preset, place, minutes=minutes, seed=seed, settings=settings)
            except TrainingFailed as error:
                say(f"{place}: {error}")
                trained.failed += 1
            else:
                (trained.main if rate == rates[0] else trained.others).append(run)
        if not trained.main:
            raise UserError(f"{trained.name}: no run has ended with a model, see above")
        found.append(trained)
    return found


def _learning_rate(preset: str) -> float:
    config = load_preset(preset)
    if config["data"].get("name") != "images":
        raise UserError(f"{preset}: its data are no images")
    return TrainingSettings.from_dict(config["training"]).learning_rate


def score_all(
    found: Sequence[Trained], *, samples: int
) -> tuple[list[dict[str, Any]], DigitFeatures | None, Tensor]:
    """A row for each preset, in one thread.

    Args:
        found: What `train_all` gives.
        samples: How many to draw from each model; their seed is that of the run.

    Returns:
        The rows; the classifier, where the images are the digits; images (1 + presets, K, C, H, W)
        uint8 in shades of 0 to 255, K held-out ones, then as many samples of each preset. K is
        `SHOWN`, or how many there are.

    Raises:
        UserError: The presets are trained on different images.
    """
    with one_thread(torch.device("cpu")):
        first = found[0].main[0].path
        model = load_image_model(str(first))
        data = images_of_model(model, str(first))
        features = learn_features(data) if data.name == "digits" else None
        test = data.part("test")
        shown = min(SHOWN, samples, len(test))
        # From all over the part: the digits are in order.
        rows, pictures = [], [test[:: len(test) // shown][:shown]]
        for trained in found:
            runs = trained.main + trained.others
            scored = [_score(run, data, features, samples) for run in runs]
            rows.append(_row(trained, [row for row, _ in scored]))
            pictures.append(scored[0][1][:shown])
        if features is not None:
            held_out = {
                name: features(data.part(name), data.levels) for name in ("validation", "test")
            }
            distance = frechet_distance(held_out["validation"], held_out["test"])
            rows.append({"model": "held-out digits", "frechet": distance})
        shades = torch.stack(pictures).int() * 255 // (data.levels - 1)
        return rows, features, shades.to(torch.uint8)


def _score(
    run: TrainedRun, data: ImageDataset, features: DigitFeatures | None, samples: int
) -> tuple[dict[str, Any], Tensor]:
    """Figures of a run, and its samples."""
    name = str(run.path)
    model = load_image_model(name)
    if images_of_model(model, name).checksum != data.checksum:
        raise UserError(f"{name}: trained on other images than the models before it")
    row = score_image_models([(run.path.name, model, data.part("test"))])[0]
    seed = run.settings.seed
    model.sample_records(0, 1, seed=seed)
    began = time.process_time()
    drawn = model.sample_records(0, samples, seed=seed)
    row["sampling_milliseconds"] = 1000 * (time.process_time() - began) / samples
    row["latents"] = model.latent_size
    row["size"] = math.prod(model.shape)
    row["minutes"] = run.figures()["minutes"]
    if features is not None:
        held_out = features(data.part("test"), data.levels)
        row["frechet"] = frechet_distance(features(drawn, data.levels), held_out)
    return row, drawn


def _row(trained: Trained, scored: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One row of the scores of a preset's runs, those with the first learning rate first."""
    main = scored[: len(trained.main)]
    row = {**main[0], "model": trained.name, "runs": len(scored), "failed": trained.failed}
    for key in ("bits_per_dimension", "frechet", "sampling_milliseconds"):
        everything = [r[key] for r in scored if key in r]
        if everything:
            row[key] = statistics.fmean([r[key] for r in main])
            row |= {f"{key}_least": min(everything), f"{key}_most": max(everything)}
        if everything and len(main) > 1:
            row[f"{key}_sd"] = statistics.stdev([r[key] for r in main])
    return row


def _bits(row: Row) -> str:
    if row.get("figure") in (None, "none"):
        return row.get("figure") or ""
    error = row.get("bits_per_dimension_sd", row["bits_per_dimension_se"])
    shown = f"{row['bits_per_dimension']:.3f}"
    return f"{shown} ± {error:.3f} ({row['figure']})"


def _range(key: str, decimals: int) -> Callable[[Row], str]:
    def show(row: Row) -> str:
        if row.get(f"{key}_least") is None or row["runs"] < 2:
            return ""
        return f"{row[f'{key}_least']:.{decimals}f} to {row[f'{key}_most']:.{decimals}f}"

    return show


def _failed(row: Row) -> str:
    runs, failed = row.get("runs", 0), row.get("failed", 0)
    return "" if runs + failed < 2 else f"{failed} of {runs + failed}"


def _latents(row: Row) -> str:
    if "size" not in row:
        return ""
    return "none" if row["latents"] is None else f"{row['latents']:,} of {row['size']:,}"


def pictures(found: Sequence[Trained], shown: np.ndarray) -> Section:
    """Held-out images and samples of each preset, as `score_all` returns them, in a row each."""
    section = Section("Samples", small=False)
    with TemporaryDirectory() as folder:
        path = Path(folder, "row.png")
        for name, row in zip(["held-out images", *(one.name for one in found)], shown, strict=True):
            write_grid(row, path, columns=len(row))
            section.pictures.append((name, path.read_bytes()))
    return section


COLUMNS: list[Column] = [
    ("Model", text("model")),
    ("CPU minutes", number("minutes", 1)),
    ("Parameters", text("parameters", "{:,}")),
    ("Bits per dimension", _bits),
    ("Sampling, ms per image", number("sampling_milliseconds", 2)),
    ("Frechet distance", number("frechet", 1)),
    ("Latents", _latents),
    ("Bits, all runs", _range("bits_per_dimension", 3)),
    ("Frechet distance, all runs", _range("frechet", 1)),
    ("Runs that failed", _failed),
]


def notes(
    rows: Sequence[Row], features: DigitFeatures | None, *, samples: int, rates: Sequence[float]
) -> list[str]:
    """What a reader of the table has to know."""
    first = rows[0]
    found = [
        f"bits per dimension of {first['images']:,} held-out images, with the standard error over "
        f"images, or over seeds where there are several; a bound lies above the true value, from "
        f"{first['draws']} draws.",
        f"training and sampling: CPU time of one thread; {samples:,} samples at temperature 1, "
        f"drawn {BLOCK} at a time.",
        "latents: numbers that an image is encoded into, of so many numbers in an image.",
    ]
    if features is not None:
        found.append(
            f"Frechet distance to the held-out images, by {FEATURES} features of a classifier that "
            f"was trained on the training part and names {100 * features.accuracy:.1f} % of the "
            "held-out digits; in the last row that of the validation part, which is what images "
            "that are real come to. It does not compare with distances by other features."
        )
    if len(rates) > 1:
        shown = ", ".join(f"{rate:g}" for rate in rates)
        found.append(
            f"all runs: learning rates times {shown}; the other columns are of the first of them."
        )
    return found
