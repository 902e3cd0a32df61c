"""Models of images side by side: PixelCNN, VAE, GAN and flows, trained for the same CPU time.

Samples are compared with held-out digits by the Frechet distance of their features' moments,
|m_1 - m_2|^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2)) (Heusel et al. 2017, arXiv 1706.08500). The
features are those of a small classifier, so the figures do not compare with published ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.datasets.images import ImageDataset, images_of_model, read_digits
from graphcnf.errors import UserError
from graphcnf.evaluation.layout import Column, Row, number, text
from graphcnf.evaluation.summary import mean_and_sd
from graphcnf.file_reading import expand_user
from graphcnf.graphs.records import one_thread
from graphcnf.images.image_model import BLOCK, ImageModel
from graphcnf.images.image_scores import score_image_models
from graphcnf.images.pictures import write_grid
from graphcnf.scripts._files import Role
from graphcnf.scripts._options import option, parse_seeds
from graphcnf.scripts._output import output_kind
from graphcnf.scripts.benchmarks.runner import (
    Folder,
    Minutes,
    Out,
    Presets,
    Seeds,
    TrainedRun,
    train_all,
    write,
)
from graphcnf.training.settings import load_preset

PRESETS = ("pixelcnn", "vae", "gan", "realnvp", "glow", "flowpp")
SHOWN = 16  # samples of a model in the picture, at most

# Width, training epochs, batch size and learning rate of the classifier.
FEATURES, EPOCHS, BATCH, RATE = 64, 8, 50, 2e-3

Features = Callable[[Tensor], np.ndarray]
"""Function from integer images (N, 1, 28, 28) to features (N, `FEATURES`) float64."""


def _bits(row: Row) -> str:
    """Return the cell with a model's bits per dimension, and whether they are exact or a bound."""
    if row.get("figure") in (None, "none"):
        return row.get("figure") or ""
    error = row.get("bits_per_dimension_sd", row["bits_per_dimension_se"])
    return f"{row['bits_per_dimension']:.3f} ± {error:.3f} ({row['figure']})"


COLUMNS: list[Column] = [
    ("Model", text("model")),
    ("CPU minutes", number("training_minutes", 1)),
    ("Parameters", text("parameters", "{:,}")),
    ("Bits per dimension", _bits),
    ("Sampling, ms per image", number("sampling_milliseconds", 2)),
    ("Frechet distance", number("frechet", 1)),
    ("Latents", text("latents", "{:,}")),
]


def images(
    presets: Presets = None,
    minutes: Minutes = 10,
    seeds: Seeds = "0",
    folder: Folder = Path("runs/images-table"),
    samples: Annotated[
        int, option("Samples of each model to score.", "--samples", "-n", min=2)
    ] = 500,
    png: Annotated[Path | None, option("Picture of samples, a row per model."), Role.OUTPUT] = None,
    out: Out = None,
) -> None:
    """Compare PixelCNN, VAE, GAN and flows of images, trained for the same CPU time."""
    numbers, folder = parse_seeds(seeds), expand_user(folder)
    if png is not None:
        output_kind(png, ("png",), "--png")
    names = presets or [f"images-{name}" for name in PRESETS]
    options = [load_preset(name).data for name in names]
    for name, data in zip(names, options, strict=True):
        if data.get("name") != "images":
            raise UserError(f"{name}: its data are no images")
    found = train_all(names, numbers, folder, minutes)
    with one_thread(torch.device("cpu")):
        rows, pictures, notes = _scored(found, samples, options[0].get("path"))
    write(out, rows, COLUMNS, notes)
    if png is not None:
        write_grid(pictures.flatten(0, 1).numpy(), png, columns=pictures.shape[1])


def _scored(
    found: Sequence[Sequence[TrainedRun]], samples: int, path: str | None
) -> tuple[list[dict[str, Any]], Tensor, list[str]]:
    """Score trained models of images."""
    first = str(found[0][0].path)
    data = images_of_model(ImageModel.from_pretrained(first), first, path)
    features, accuracy = learn_features(data) if data.name == "digits" else (None, 0.0)
    test = data.part("test")
    shown = min(SHOWN, samples, len(test))
    # Evenly spaced, since the digits are sorted.
    rows, pictures = [], [test[:: len(test) // shown][:shown]]
    for runs in found:
        pairs = [_score(str(run.path), data, features, samples) for run in runs]
        rows.append({**mean_and_sd([row for row, _ in pairs]), "model": runs[0].path.parent.name})
        pictures.append(pairs[0][1][:shown])
    notes = [
        f"bits per dimension of {len(test):,} held-out images, with the standard error over "
        "images, or over seeds where there are several; a bound lies above the true value.",
        f"training and sampling: CPU time of one thread; {samples:,} samples at temperature 1, "
        f"drawn {BLOCK} at a time.",
        f"latents: numbers that an image of {test[0].numel():,} numbers is encoded into.",
    ]
    if features is not None:
        real = frechet_distance(features(data.part("validation")), features(test))
        rows.append({"model": "held-out digits", "frechet": real})
        notes.append(
            f"Frechet distance to the held-out images, by {FEATURES} features of a classifier that "
            f"names {100 * accuracy:.1f} % of the held-out digits; in the last row that of the "
            "validation part. It does not compare with distances by other features."
        )
    shades = torch.stack(pictures).int() * 255 // (data.levels - 1)
    return rows, shades.to(torch.uint8), notes


def _score(
    name: str, data: ImageDataset, features: Features | None, samples: int
) -> tuple[dict[str, Any], Tensor]:
    """Score a trained model of images."""
    model = ImageModel.from_pretrained(name)
    if model.metadata.get("checksum") != data.checksum:
        raise UserError(f"{name}: trained on other images than the models before it")
    row = score_image_models([(name, model, data.part("test"))])[0]
    seed = model.metadata["training"]["seed"]
    model.sample_records(0, 1, seed=seed)
    began = time.process_time()
    drawn = model.sample_records(0, samples, seed=seed)
    row["sampling_milliseconds"] = 1000 * (time.process_time() - began) / samples
    row["latents"] = model.latent_size
    if features is not None:
        row["frechet"] = frechet_distance(features(drawn), features(data.part("test")))
    return row, drawn


def learn_features(data: ImageDataset) -> tuple[Features, float]:
    """Train a small classifier of digits, whose hidden layer gives features of images.

    Args:
        data: The digits.

    Returns:
        (features, accuracy): function from images (M, 1, 28, 28) to their features (M, 64) float64;
        and the share of test digits that the classifier names right.
    """
    labels = torch.from_numpy(read_digits()[1]).long()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body = nn.Sequential(
            nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(32 * 7 * 7, FEATURES), nn.ReLU(),
        )  # fmt: skip
        head = nn.Linear(FEATURES, 10)
        optimizer = torch.optim.Adam([*body.parameters(), *head.parameters()], RATE)
        images = data.part("train") / (data.levels - 1)
        targets = labels[data.parts["train"]]
        for _ in range(EPOCHS):
            for chosen in torch.randperm(len(images)).split(BATCH):
                loss = F.cross_entropy(head(body(images[chosen])), targets[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    @torch.no_grad()
    def features(images: Tensor) -> np.ndarray:
        parts = [body(part / (data.levels - 1)) for part in images.split(500)]
        return torch.cat(parts).double().numpy()

    with torch.no_grad():
        named = head(body(data.part("test") / (data.levels - 1))).argmax(1)
    return features, (named == labels[data.parts["test"]]).double().mean().item()


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the Frechet distance between normal distributions fitted to two sets of features.

    It is `|m_1 - m_2|^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2))` for means m and covariances C; 0 if
    these are equal.

    Args:
        a: Features of a set of images, (N, D) float64.
        b: Features of another set, (M, D) float64.
    """
    means, covariances = zip(*((x.mean(0), np.cov(x, rowvar=False)) for x in (a, b)), strict=True)
    # Eigenvalues of a product of covariances are non-negative, except for rounding.
    product = np.linalg.eigvals(covariances[0] @ covariances[1]).real.clip(0)
    spread = np.trace(covariances[0] + covariances[1]) - 2 * np.sqrt(product).sum()
    return float(np.square(means[0] - means[1]).sum() + spread)
