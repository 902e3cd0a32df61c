"""The start of a run, on Lightning Fabric, which places the model, devices and processes."""

from __future__ import annotations

import dataclasses
import gc
import logging
import os
import subprocess
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import tomli_w
import torch
import torch.distributed as dist
from lightning.fabric import Fabric
from lightning.fabric.loggers import Logger
from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException

from graphcnf.compute.cpu import keep_kernels, keep_memory
from graphcnf.compute.files import claim, file_lock, inside
from graphcnf.errors import UserError
from graphcnf.training.checkpoint import damage_named, load_checkpoint, remove_leftovers
from graphcnf.training.experiment import Experiment, FitResult
from graphcnf.training.metrics import loggers
from graphcnf.training.processes import as_launched, by_srun, by_torchrun, is_main
from graphcnf.training.run import Counters, Run, counters_of
from graphcnf.training.settings import TrainingSettings

LOST_CONNECTION = ("gloo", "nccl", "connection", "peer", "timed out", "timeout", "rendezvous")
"""Words in the errors of processes whose partner has ended."""


def fit(
    experiment: Experiment,
    settings: TrainingSettings,
    out_dir: str | Path,
    resume: bool = False,
    *,
    continue_from: str | Path | None = None,
    config: dict[str, Any] | None = None,
    lines: bool = True,
) -> FitResult:
    """Train until the budget is spent or a signal asks to stop.

    The run directory holds `config.toml`, `metrics.csv`, `checkpoints/last.ckpt`,
    `checkpoints/plateau.ckpt` (the state when the learning rate began to fall) and `model/` (the
    averaged weights, rewritten with every checkpoint; with `keep_best`, those of the best
    evaluation at the end).

    Args:
        experiment: model and data.
        settings: budget and everything else about the loop.
        out_dir: run directory.
        resume: go on with the run that `out_dir` holds.
        continue_from: another run's directory: start from its plateau with a new budget.
        config: written to `config.toml`, with `settings` as its `[training]` table.
        lines: whether stderr gets log lines; a terminal gets a bar anyhow.

    Raises:
        UserError: a directory in use, a missing or alien checkpoint, or `max_bad_steps`
            non-finite steps in a row.

    Examples:
        >>> from functools import partial
        >>> from graphcnf.categorical import SetFlow
        >>> from graphcnf.datasets.sets import SetShuffling
        >>> data = SetShuffling(elements=4)
        >>> model = SetFlow(elements=4, categories=4, width=16, layers=1, heads=2)
        >>> batches = partial(data.train_batches, 8), partial(data.test_batches, 8)
        >>> result = fit(Experiment(model, *batches), TrainingSettings(steps=2), "runs/sets")
        >>> result.step, result.headline
        (2, 'bits_per_variable')
    """
    out_dir, main = Path(out_dir), is_main()
    if settings.minutes is None and settings.steps is None:
        raise UserError("a run needs a budget: give minutes or steps")
    if settings.threads:
        torch.set_num_threads(settings.threads)
    settings = as_launched(settings)
    if main:
        claim(out_dir, "training")
    with file_lock(inside(out_dir, ".lock"), out_dir) if main else nullcontext():
        state = _starting_state(out_dir, resume, continue_from)
        if main:
            inside(out_dir, "checkpoints").mkdir(exist_ok=True)
            remove_leftovers(out_dir)
        full = tomli_w.dumps({**(config or {}), "training": settings.to_dict()})
        run = Run(experiment, settings, out_dir, state, lines, full.encode())
        if not run.finished:
            made = loggers(settings.logger_names, out_dir, run.at.step) if main else []
            with launched(settings, out_dir, made) as fabric:
                run.train(fabric)
        return run.result()


def _starting_state(out_dir: Path, resume: bool, continue_from: str | Path | None) -> dict | None:
    """Return the checkpoint to start from, with its path, None for a start from the beginning."""
    last, plateau = (inside(out_dir, "checkpoints", f"{n}.ckpt") for n in ("last", "plateau"))
    if resume and last.exists():
        return {**load_checkpoint(last), "path": last}
    if resume and plateau.exists():
        raise UserError(
            f"{last}: no such checkpoint, though the run was saved before: continue from the "
            "plateau of this run in another folder"
        )
    # A start that failed before its first checkpoint has left nothing worth keeping.
    if is_main() and not resume and (last.exists() or (out_dir / "metrics.csv").exists()):
        raise UserError(f"{out_dir} holds a run: resume it, or choose another folder")
    if continue_from is None:
        return None
    sources = [inside(continue_from, "checkpoints", p.name) for p in (plateau, last)]
    source = next((path for path in sources if path.exists()), None)
    if source is None:
        raise UserError(f"{continue_from}: no checkpoint of a run to continue from")
    state = load_checkpoint(source)
    with damage_named(source):
        before = counters_of(state, source)
        now = Counters(
            origin_steps=before.origin_steps + before.step,
            origin_seconds=before.origin_seconds + before.seconds,
            epoch=before.epoch,
            batch=before.batch,
        )
    new = {"at": dataclasses.asdict(now), "metrics": {}, "sums": {}, "best": None}
    return {**state, **new, "path": source}


@contextmanager
def launched(settings: TrainingSettings, out_dir: Path, made: Sequence[Logger]) -> Iterator[Fabric]:
    """Context in which all processes of a run take part.

    Raises:
        UserError: the machine lacks the devices, or another process has ended.
    """
    # Advice that does not apply to a loop with its own data and files.
    for name in ("lightning.fabric", "lightning.pytorch", "lightning_utilities"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\..*")
    warnings.filterwarnings("ignore", message=".*find_unused_parameters=True.*")
    fabric = _fabric(settings, made)
    if fabric.device.type == "cpu":
        keep_memory()
        keep_kernels()
    joined = not _in_group()  # otherwise the group is the caller's
    try:
        fabric.launch()
        children = _children(fabric)
        children[:] = map(_Patient, children)
        if fabric.world_size != settings.processes:
            raise UserError(
                f"{settings.processes} processes were asked for and {fabric.world_size} started: "
                "give srun or torchrun as many tasks as there are devices of all nodes"
            )
        yield fabric
        fabric.barrier()  # until the first has saved
        _children(fabric).clear()
        if joined:
            _leave_group()
    except Exception as error:
        _children(fabric).clear()
        if joined and _in_group():
            traceback.clear_frames(error.__traceback__)  # they hold the parallel model
            _leave_group()
        if settings.processes == 1 or not _lost_connection(error):
            raise
        raise UserError(
            "another process of this run has ended, or cannot be reached; resuming the run goes on "
            f"from the last checkpoint in {out_dir}"
        ) from error


def _fabric(settings: TrainingSettings, made: Sequence[Logger]) -> Fabric:
    devices = settings.devices
    if settings.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        if devices > (most := torch.cuda.device_count()):
            raise UserError(f"devices must be at most the {most} GPUs found, got {devices}")
    elif settings.accelerator in ("auto", "cpu") and devices > (most := 2 * (os.cpu_count() or 1)):
        raise UserError(f"devices must be at most {most} on this CPU, got {devices}")
    strategy: str = settings.strategy
    if strategy == "auto" and settings.processes > 1:
        strategy = "ddp_find_unused_parameters_true"
    # Fabric itself knows torchrun; it takes a job of Slurm with one task for several.
    environment = SLURMEnvironment(auto_requeue=False) if by_srun() else LightningEnvironment()
    try:
        return Fabric(
            accelerator=settings.accelerator,
            devices=devices,
            num_nodes=settings.num_nodes,
            strategy=strategy,
            loggers=list(made),
            plugins=None if by_torchrun() else [environment],
        )
    except (MisconfigurationException, ImportError, ValueError, RuntimeError) as error:
        raise UserError(
            f"accelerator {settings.accelerator!r}, devices {devices}, num_nodes "
            f"{settings.num_nodes}, strategy {settings.strategy!r}: {error}"
        ) from None


def _in_group() -> bool:
    return dist.is_available() and dist.is_initialized()


def _leave_group() -> None:
    """Take the group of processes down, if there is one.

    Threads of gloo need Python's lock to let go of tensors. So they have to end while Python runs,
    or they may abort the process at its end; and this thread has to wait for them without the lock,
    as the group's own destructor does, but not that of a parallel model which holds the group.
    """
    if _in_group():
        gc.collect()
        group = dist.group.WORLD
        dist.destroy_process_group()
        del group


def _children(fabric: Fabric) -> list[Any]:
    """Return the processes that Fabric has started, and kills where one of them fails.

    Without them in this list, each ends by itself.
    """
    return getattr(fabric.strategy.launcher, "procs", [])


class _Patient:
    """Child process whose end is reported one poll later.

    Fabric polls every five seconds, and kills this process at once; so this one has at least five
    seconds to end with a line that says what has happened.
    """

    def __init__(self, process: subprocess.Popen):
        self._process = process
        self._seen: int | None = None
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return what the poll before this one found."""
        self.returncode, self._seen = self._seen, self._process.poll()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal to the process."""
        self._process.send_signal(number)


def _lost_connection(error: Exception) -> bool:
    if not isinstance(error, RuntimeError | OSError):
        return False
    text = str(error).lower()
    return isinstance(error, dist.DistError) or any(word in text for word in LOST_CONNECTION)
