"""Measurements of time and memory."""

from __future__ import annotations

import contextlib
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from graphcnf.parallel import OrderedMap
from graphcnf.training.machine import keep_memory

if TYPE_CHECKING:
    from graphcnf.datasets.molecules import MoleculeDataset
    from graphcnf.graphs import GraphCNF
    from graphcnf.scripts.generation.records import Recipe

SAMPLING_SECONDS = 10.0
"""How long sampling is measured for a table of runs, once its processes are warm."""


class Drawn(NamedTuple):
    """What one process did with one block of records.

    Attributes:
        process: Its number.
        began: Seconds on the machine's clock, which all processes read.
        ended: The same.
        samples: Records that it drew.
        valid: Strictly valid ones among them, 0 where nobody looked.
        memory: Its peak memory so far, MiB, or None.
    """

    process: int
    began: float
    ended: float
    samples: int
    valid: int
    memory: float | None


@dataclass(frozen=True)
class SamplingSpeed:
    """How fast a model draws.

    Attributes:
        processes: How many have drawn side by side, with one thread each.
        samples_per_second: Raw graphs.
        valid_per_second: Strictly valid molecules, written as SMILES; None where not asked for.
        strict_validity: Their share; None where not asked for.
        memory_mib: Sum of the peaks of this process and of those that drew; on a GPU, its peak.
    """

    processes: int
    samples_per_second: float
    valid_per_second: float | None
    strict_validity: float | None
    memory_mib: float | None


def sampling_speed(
    model: GraphCNF, *, processes: int, seconds: float, molecules: bool = False
) -> SamplingSpeed:
    """Let processes draw blocks of records as `graphcnf generate` does.

    What counts is the time in which all of them draw at once, after each has drawn a block to warm
    up: neither their start nor their end.

    Args:
        model: The model.
        processes: How many; one is this one.
        seconds: How long to measure at least.
        molecules: Whether to sanitize the graphs and write them as SMILES, too.
    """
    from graphcnf.graphs.record_blocks import FIRST_BLOCK, blocks
    from graphcnf.scripts.generation.records import Recipe

    recipe = Recipe(
        seed=0, temperature=1.0, sizes=None, kind="smi", columns=("record", "smiles"),
        everything=False,
    )  # fmt: skip
    draw = partial(draw_timed, model, recipe if molecules else None)
    drawn: list[Drawn] = []
    with OrderedMap(draw, blocks(FIRST_BLOCK), workers=processes) as stream:
        for block in stream:
            drawn.append(block)
            window = common_window(drawn, processes)
            if window is not None and window[1] - window[0] >= seconds:
                break
    samples = rate([(d, d.samples) for d in drawn], *window)
    valid = rate([(d, d.valid) for d in drawn], *window)
    share = sum(d.valid for d in drawn) / sum(d.samples for d in drawn)
    return SamplingSpeed(
        processes=processes,
        samples_per_second=samples,
        valid_per_second=valid if molecules else None,
        strict_validity=share if molecules else None,
        memory_mib=_total_memory(drawn, str(model.device)),
    )


def draw_timed(model: GraphCNF, recipe: Recipe | None, block: range) -> Drawn:
    """Draw a block of records; with a recipe, make molecules of them as well."""
    from graphcnf.scripts.generation.records import block_records

    began, valid = time.perf_counter(), 0
    if recipe is None:
        # Packing brings the graphs to the CPU: nothing is left running on a GPU.
        model.sample_records(block.start, len(block), seed=0)
    else:
        valid = sum(record.strict for record in block_records(model, recipe, block))
    ended = time.perf_counter()
    return Drawn(os.getpid(), began, ended, len(block), valid, peak_memory())


def common_window(drawn: Sequence[Drawn], processes: int) -> tuple[float, float] | None:
    """From the first moment when all processes are warm to the last one when all have drawn.

    None where not all have drawn two blocks.
    """
    ends: dict[int, list[float]] = {}
    for block in drawn:
        ends.setdefault(block.process, []).append(block.ended)
    if len(ends) < processes or min(map(len, ends.values())) < 2:
        return None
    began, ended = max(e[0] for e in ends.values()), min(e[-1] for e in ends.values())
    return (began, ended) if ended > began else None


def rate(drawn: Sequence[tuple[Drawn, int]], began: float, ended: float) -> float:
    """Items per second in a window of time; a block on its edge counts in part."""
    items = 0.0
    for block, number in drawn:
        inside = min(ended, block.ended) - max(began, block.began)
        items += number * max(0.0, inside) / (block.ended - block.began)
    return items / (ended - began)


def _total_memory(drawn: Sequence[Drawn], device: str) -> float | None:
    if device.startswith("cuda"):
        return peak_memory(device)
    peaks = {os.getpid(): peak_memory()} | {d.process: d.memory for d in drawn}
    return None if None in peaks.values() else sum(peaks.values())


def training_rate(
    network: GraphCNF,
    dataset: MoleculeDataset,
    *,
    batch_size: int,
    steps: int,
    repeats: int,
    bf16: bool,
) -> float:
    """Training molecules per second: the median of some repeats, after one to warm up."""
    if network.device.type == "cpu":
        # As training does.
        keep_memory()
    step = training_step(network, dataset, batch_size, bf16)

    def work() -> None:
        for _ in range(steps):
            step()

    work()
    return steps * batch_size / median_seconds(work, repeats, str(network.device))


def training_step(
    network: GraphCNF, dataset: MoleculeDataset, batch_size: int, bf16: bool = False
) -> Callable[[], None]:
    """Function that does what training does for the next batch, but hardly changes the weights."""
    import torch

    from graphcnf.graphs import GraphBatch
    from graphcnf.graphs.batching import size_bucketed_batches
    from graphcnf.training.ema import ExponentialMovingAverage

    network.train()
    train = dataset.split("train")
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-6, fused=True)
    average = ExponentialMovingAverage(network, 1000)

    def batches():
        epoch = 0
        while True:
            for index in size_bucketed_batches(
                dataset.graphs.node_counts[train], batch_size, 0, epoch
            ):
                if len(index) == min(batch_size, len(train)):
                    yield GraphBatch.collate(dataset.graphs, train[index])
            epoch += 1

    stream, kind = batches(), network.device.type

    def step() -> None:
        batch = next(stream).to(network.device)
        lower = torch.autocast(kind, dtype=torch.bfloat16) if bf16 else contextlib.nullcontext()
        with lower:
            loss, _ = network.training_loss(batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        if math.isfinite(loss.item() + norm.item()):
            optimizer.step()
            average.update()

    return step


def median_seconds(work: Callable[[], None], repeats: int, device: str) -> float:
    """Median seconds of some calls."""
    import torch

    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def device_name(device: str) -> str:
    """What the machine calls a device."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"CPU ({os.cpu_count()} cores)"


def resident_mib(maximum: int) -> float:
    """MiB of what `getrusage` calls `ru_maxrss`: bytes on macOS, else KiB."""
    return maximum / (2**20 if sys.platform == "darwin" else 2**10)


def peak_memory(device: str = "cpu") -> float | None:
    """MiB of this process, or on the GPU; None where the system does not say."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        # On Linux a child's `ru_maxrss` counts from its parent's memory on, this does not.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**10
    except (OSError, ValueError):
        pass
    try:
        import resource
    except ImportError:
        return None
    return resident_mib(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
