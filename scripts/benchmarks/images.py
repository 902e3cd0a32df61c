"""Glow of this package and of normflows: speed, and bits after the same training time."""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from graphcnf.datasets.images import ImageDataset, load_images
from graphcnf.errors import UserError
from graphcnf.evaluation.formats import Column, Row, number, text
from graphcnf.scripts._image_scores import BATCH, DRAWS, _mean
from graphcnf.scripts._output import progress_bar
from graphcnf.scripts.benchmarks.images_glow import (
    Glow,
    NormflowsGlow,
    OwnGlow,
    check_normflows_installed,
)
from graphcnf.training.configuration import load_preset
from graphcnf.training.ema import ExponentialMovingAverage
from graphcnf.training.machine import keep_memory
from graphcnf.training.settings import TrainingSettings

PRESET = "images-glow"
"""Both models are trained with its learning rate, schedule, clipping and average."""

STEPS = 20
"""Training steps in a block whose time is taken."""

SAMPLES = 64
"""Images that are drawn at once."""

DRAWN = 4
"""How often, in a block whose time is taken."""

WARM = 3
"""Training steps, or draws, before the first of them."""

TRAINED = 5.0
"""Seconds that a model trains before it is the other one's turn."""


class Training:
    """Adam on a `Glow`, with a clock that runs during its own steps only.

    Two of these on the same data with the same settings see the same batches with the same
    dequantization, in the same order.

    Args:
        glow: The model.
        dataset: Its training part is taken.
        settings: Minutes, batch size, seed, learning rate and its schedule, clipping, average.

    Attributes:
        seconds: Time spent in steps.
        steps: How many.
        images: How many were seen.
    """

    def __init__(self, glow: Glow, dataset: ImageDataset, settings: TrainingSettings):
        self.glow, self.settings = glow, settings
        self.weights = [p for p in glow.module.parameters() if p.requires_grad]
        # Without weight decay: which tensors it concerns would depend on a package's shapes.
        self.optimizer = torch.optim.Adam(self.weights, lr=settings.learning_rate, fused=True)
        self.average = ExponentialMovingAverage(glow.module, settings.ema_horizon)
        self.batches = batches(dataset, settings.batch_size, settings.seed)
        self.seconds, self.steps, self.images, self.bad_in_a_row = 0.0, 0, 0, 0
        glow.module.train()

    def step(self) -> None:
        """One optimisation step; a step with a non-finite loss or gradient changes nothing.

        Raises:
            UserError: Too many of those in a row.
        """
        x, noise = next(self.batches)
        began = time.perf_counter()
        settings = self.settings
        rate = settings.learning_rate_at(self.steps, settings.progress(self.steps, self.seconds))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = -self.glow.log_prob(x, noise).mean() / math.prod(self.glow.shape)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.weights, settings.gradient_clip or math.inf)
        if math.isfinite(loss.item() + norm.item()):
            self.optimizer.step()
            self.average.update()
            self.bad_in_a_row = 0
        else:
            self.bad_in_a_row += 1
        self.seconds += time.perf_counter() - began
        self.steps += 1
        self.images += len(x)
        if self.bad_in_a_row >= settings.max_bad_steps:
            raise UserError(
                f"{self.glow.name}: {self.bad_in_a_row} steps in a row had a non-finite loss or "
                f"gradient (the last is step {self.steps}): lower --learning-rate"
            )

    def until(self, seconds: float) -> None:
        """Train until the clock shows so many seconds; the last step may go past them."""
        while self.seconds < seconds:
            self.step()


def batches(dataset: ImageDataset, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless training images (B, C, H, W) uint8, and the noise that dequantizes them."""
    generator, epoch = torch.Generator().manual_seed(seed), 0
    while True:
        for x in dataset.train_batches(size, epoch, seed):
            yield x, torch.rand(x.shape, generator=generator)
        epoch += 1


def train_in_turn(trainings: Sequence[Training], block: float = TRAINED) -> None:
    """Train for the minutes of the settings, each on its own clock, in alternating blocks.

    Args:
        trainings: What to train.
        block: Seconds of a block.
    """
    total = 60 * trainings[0].settings.minutes
    with progress_bar("training", len(trainings) * total) as show:
        for k in range(1, math.ceil(total / block) + 1):
            for training in trainings:
                training.until(min(total, k * block))
                show(sum(t.seconds for t in trainings))


def interleaved(
    works: Sequence[Callable[[], None]], repeats: int, label: str = "timing"
) -> list[list[float]]:
    """Seconds of `repeats` calls of each work: the first, the second, the first, the second ..."""
    seconds: list[list[float]] = [[] for _ in works]
    with progress_bar(label, repeats) as show:
        for done in range(repeats):
            for work, mine in zip(works, seconds, strict=True):
                began = time.perf_counter()
                work()
                mine.append(time.perf_counter() - began)
            show(done + 1)
    return seconds


def compare(
    *,
    minutes: float,
    scales: int = 2,
    steps: int = 8,
    width: int = 64,
    plain: bool = False,
    batch_size: int = 32,
    learning_rate: float | None = None,
    threads: int | None = None,
    seed: int = 0,
    repeats: int = 7,
) -> list[dict[str, Any]]:
    """Measure both models on the digits, one after the other in blocks, in this process.

    Args:
        minutes: To train each model, on its own clock.
        scales: Of both models.
        steps: Of the flow, at each scale.
        width: Channels inside of the couplings' networks.
        plain: See `OwnGlow`.
        batch_size: Images per training step.
        learning_rate: Of both; None for the preset's.
        threads: CPU threads; None for torch's choice.
        seed: Of the initial weights, the order of the batches and all noise.
        repeats: Pairs of blocks whose time is taken.

    Returns:
        A row per model, this package's first. `bits_per_dimension` is on the test images,
        `validation_bits` on the validation images, both with `_se`, the standard error of the mean
        over images. `difference` is the second model's bits minus the first one's, image by image.
        `training_ratio` and `sampling_ratio` are the medians over the pairs of blocks of the second
        model's speed by the first one's, with `_least` and `_most`.

    Raises:
        UserError: normflows or the digits are missing, an argument does not fit, or a training
            diverges.
    """
    settings = replace(
        TrainingSettings.from_dict(load_preset(PRESET)["training"]),
        minutes=minutes, batch_size=batch_size, seed=seed,
    )  # fmt: skip
    if learning_rate is not None:
        settings = replace(settings, learning_rate=learning_rate)
    check_normflows_installed()
    dataset = load_images()
    size = {"scales": scales, "steps": steps, "width": width}

    def build() -> list[Glow]:
        torch.manual_seed(seed)
        own = OwnGlow(dataset.shape, dataset.levels, plain=plain, **size)
        torch.manual_seed(seed)
        return [own, NormflowsGlow(dataset.shape, dataset.levels, **size)]

    with _threads(threads), torch.random.fork_rng(devices=[]):
        # As training does.
        keep_memory()
        training_seconds = _training_seconds(build(), dataset, settings, repeats)
        trainings = [Training(glow, dataset, settings) for glow in build()]
        train_in_turn(trainings)
        rows, bits = [], []
        for training in trainings:
            with training.average.applied():
                scores = [score(training.glow, dataset, part, seed) for part in PARTS]
            bits.append(scores[0])
            rows.append(
                {
                    "model": training.glow.name,
                    "version": training.glow.version,
                    "parameters": training.glow.parameters,
                    "training_seconds": training.seconds,
                    "training_steps": training.steps,
                    "epochs": training.images / len(dataset.parts["train"]),
                    **_mean("bits_per_dimension", scores[0]),
                    **_mean("validation_bits", scores[1]),
                }
            )
        sampling_seconds = _sampling_seconds(trainings, repeats)
        count = torch.get_num_threads()
    rows[1] |= _mean("difference", bits[1] - bits[0])
    size_of_batch = min(batch_size, len(dataset.parts["train"]))
    _add_speeds(rows, "training", training_seconds, STEPS * size_of_batch)
    _add_speeds(rows, "sampling", sampling_seconds, DRAWN * SAMPLES)
    shared = {
        "dataset": dataset.name, "images": len(bits[0]), "draws": DRAWS, "minutes": minutes, **size,
        "plain": plain, "batch_size": batch_size, "learning_rate": settings.learning_rate,
        "threads": count, "seed": seed, "repeats": repeats,
    }  # fmt: skip
    return [row | shared for row in rows]


PARTS = ("test", "validation")


@torch.no_grad()
def score(glow: Glow, dataset: ImageDataset, part: str, seed: int, draws: int = DRAWS) -> Tensor:
    """Bits per dimension (M,) float64 of a part's images.

    The noise is a function of the seed alone: two models are compared on the same draws.
    """
    glow.module.eval()
    generator, parts = torch.Generator().manual_seed(seed), []
    for x in dataset.batches(part, BATCH):
        noises = [torch.rand(x.shape, generator=generator) for _ in range(draws)]
        parts.append(glow.bits_per_dimension(x, noises).double())
    return torch.cat(parts)


def _training_seconds(
    glows: Sequence[Glow], dataset: ImageDataset, settings: TrainingSettings, repeats: int
) -> list[list[float]]:
    """Seconds of blocks of training steps of new models."""
    trainings = [Training(glow, dataset, settings) for glow in glows]
    for training in trainings:
        for _ in range(WARM):
            training.step()

    def block(training: Training) -> Callable[[], None]:
        def work() -> None:
            for _ in range(STEPS):
                training.step()

        return work

    return interleaved([block(training) for training in trainings], repeats, "timing training")


def _sampling_seconds(trainings: Sequence[Training], repeats: int) -> list[list[float]]:
    """Seconds of blocks of draws from the averaged weights."""

    def block(glow: Glow) -> Callable[[], None]:
        def work() -> None:
            for _ in range(DRAWN):
                glow.sample(SAMPLES)

        return work

    with contextlib.ExitStack() as stack:
        for training in trainings:
            stack.enter_context(training.average.applied())
            training.glow.module.eval()
            for _ in range(WARM):
                training.glow.sample(SAMPLES)
        return interleaved([block(t.glow) for t in trainings], repeats, "timing sampling")


def _add_speeds(
    rows: Sequence[dict[str, Any]], what: str, seconds: Sequence[Sequence[float]], images: int
) -> None:
    """Add images per second, and for the second row its speed by the first one's."""
    for row, mine in zip(rows, seconds, strict=True):
        row[f"{what}_images_per_second"] = images / statistics.median(mine)
    ratios = [first / second for first, second in zip(*seconds, strict=True)]
    rows[1] |= {
        f"{what}_ratio": statistics.median(ratios),
        f"{what}_ratio_least": min(ratios),
        f"{what}_ratio_most": max(ratios),
    }


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _with_error(key: str, sign: str = "") -> Callable[[Row], str]:
    def show(row: Row) -> str:
        value, error = row.get(key), row.get(f"{key}_se")
        if value is None:
            return ""
        return f"{value:{sign}.4f}" + ("" if error is None else f" ± {error:.4f}")

    return show


def _ratio(key: str) -> Callable[[Row], str]:
    def show(row: Row) -> str:
        if row.get(key) is None:
            return ""
        return f"{row[key]:.2f} ({row[f'{key}_least']:.2f} to {row[f'{key}_most']:.2f})"

    return show


COLUMNS: list[Column] = [
    ("Glow of", lambda row: f"{row['model']} {row['version']}"),
    ("parameters", text("parameters", "{:,}")),
    ("training images/s", number("training_images_per_second", 1)),
    ("training ratio", _ratio("training_ratio")),
    ("sampling images/s", number("sampling_images_per_second", 1)),
    ("sampling ratio", _ratio("sampling_ratio")),
    ("training steps", text("training_steps", "{:,}")),
    ("bits per dimension", _with_error("bits_per_dimension")),
    ("difference to the first", _with_error("difference", "+")),
]


def notes(rows: Sequence[Row]) -> list[str]:
    """What a reader of the table has to know."""
    row = rows[0]
    own = "" if row["plain"] else "graphcnf's mixture couplings of the pixels as its first steps, "
    return [
        f"both: {row['scales']} scales of {row['steps']} steps, {row['width']} channels inside, "
        "batches of "
        f"{row['batch_size']} in the same order with the same noise, Adam at "
        f"{row['learning_rate']:g} with the schedule, clipping and averaging of the preset "
        f"{PRESET}, float32 on {row['threads']} CPU thread{'s' * (row['threads'] > 1)}, "
        f"{row['minutes']:g} minutes for each in alternating blocks of {TRAINED:g} s.",
        f"what differs: {own}normflows' trainable Gaussian of the latents and its sigmoid scales.",
        f"images/s: median of {row['repeats']} blocks of {STEPS} training steps, or of {DRAWN} "
        f"draws of {SAMPLES} images, in turn with the other model's; ratios: speed by the first "
        "model's in the block before, median and range over the pairs.",
        f"bits per dimension: of {row['images']} held-out images, the bound of {row['draws']} "
        "draws of the dequantization; the difference is image by image with the same noise; "
        "standard errors are over images, for one training of each model.",
    ]
