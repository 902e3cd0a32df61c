"""How fast a model trains and samples in one process, to hold one version against another."""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from graphcnf.evaluation.formats import Column, number, text
from graphcnf.graphs.record_blocks import FIRST_BLOCK, blocks
from graphcnf.machine import keep_kernels, keep_memory
from graphcnf.scripts._sampling import load_model
from graphcnf.scripts.evaluation.named_data import load_reference
from graphcnf.training.ema import ExponentialMovingAverage

if TYPE_CHECKING:
    from graphcnf.datasets.molecules import MoleculeDataset
    from graphcnf.graphs import GraphCNF

STEPS = 20
"""Training steps whose time is taken at once."""

COLUMNS: list[Column] = [
    ("model", text("model")),
    ("parameters", text("parameters", "{:,}")),
    ("device", text("device")),
    ("training molecules/s", number("training_molecules_per_second", 1)),
    ("raw samples/s", number("samples_per_second", 1)),
]


def measure(
    name: str, reference: str | None, *, batch_size: int, repeats: int, bf16: bool, device: str
) -> dict[str, Any]:
    """Measure a model: whole training steps on real batches, and blocks of records.

    Args:
        name: Shipped weights, or a folder.
        reference: Molecules to train on; None for those that the model was trained on.
        batch_size: Molecules per training step.
        repeats: Blocks of either kind; the median counts, after one to warm up.
        bf16: Whether to train under bfloat16 autocast.
        device: Where to work.

    Raises:
        UserError: There is no such model, device or data.
    """
    keep_kernels()
    model = load_model(name, device)
    dataset = load_reference(reference, model)
    todo = blocks(FIRST_BLOCK)

    def draw() -> int:
        # Packing brings the graphs to the CPU: nothing is left running on a GPU.
        block = next(todo)
        return len(model.sample_records(block.start, len(block), seed=0))

    sampled = median_rate(draw, repeats)
    if model.device.type == "cpu":
        keep_memory()
    step = training_step(model, dataset, batch_size, bf16)
    return {
        "model": Path(name).name or name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "device": torch.cuda.get_device_name(device) if model.device.type == "cuda" else device,
        "training_molecules_per_second": median_rate(
            lambda: sum(step() for _ in range(STEPS)), repeats
        ),
        "samples_per_second": sampled,
    }


def median_rate(work: Callable[[], int], repeats: int) -> float:
    """Median over the repeats of what `work` counts, by the seconds that it takes."""
    work()
    rates = []
    for _ in range(repeats):
        began = time.perf_counter()
        count = work()
        rates.append(count / (time.perf_counter() - began))
    return statistics.median(rates)


def training_step(
    model: GraphCNF, dataset: MoleculeDataset, batch_size: int, bf16: bool = False
) -> Callable[[], int]:
    """Function that does what training does for the next batch, but hardly changes the weights.

    It returns the number of molecules in the batch, and ends when the device is done.
    """
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-6, fused=True)
    average = ExponentialMovingAverage(model, 1000)

    epochs = (dataset.train_batches(batch_size, epoch, 0) for epoch in count())
    stream, kind = chain.from_iterable(epochs), model.device.type

    def step() -> int:
        batch = next(stream).to(model.device)
        lower = torch.autocast(kind, dtype=torch.bfloat16) if bf16 else contextlib.nullcontext()
        with lower:
            loss, _ = model.training_loss(batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        if math.isfinite(loss.item() + norm.item()):
            optimizer.step()
            average.update()
        return len(batch)

    return step


def notes(*, batch_size: int, repeats: int, bf16: bool) -> list[str]:
    """What a reader of the table has to know."""
    return [
        f"training: whole steps on real batches of {batch_size}, "
        f"{'bfloat16 autocast' if bf16 else 'float32'}, {torch.get_num_threads()} threads; "
        f"sampling: blocks of records as graphcnf generate draws them, one process; medians of "
        f"{repeats} repeats.",
    ]
