"""The start of a run, on Lightning Fabric: it places the model, the devices and the processes."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import subprocess
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

import tomli_w
import torch
import torch.distributed as dist
from lightning.fabric import Fabric
from lightning.fabric.utilities.exceptions import MisconfigurationException

from graphcnf.compute.cpu import keep_kernels, keep_memory
from graphcnf.compute.files import claim, file_lock, inside
from graphcnf.errors import UserError
from graphcnf.training.checkpoint import (
    count,
    damage_named,
    load_checkpoint,
    remove_leftovers,
    seconds,
)
from graphcnf.training.experiment import Experiment, FitResult
from graphcnf.training.loggers import loggers
from graphcnf.training.processes import as_launched, environment, is_main
from graphcnf.training.run import Run
from graphcnf.training.settings import TrainingSettings

__all__ = ["FitResult", "fit"]


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
    `checkpoints/plateau.ckpt` (the state at the moment when the learning rate began to fall) and
    `model/` (the averaged weights, rewritten with every checkpoint; with `keep_best` those of the
    best evaluation).

    Args:
        experiment: model and data.
        settings: budget and everything else about the loop.
        out_dir: run directory.
        resume: go on with the run that `out_dir` holds. Where its learning rate has begun to fall
            but would not have under the present budget, the run goes on from `plateau.ckpt`.
        continue_from: another run's directory: start from its plateau with a new budget.
        config: written to `config.toml`, with `settings` as its `[training]` table.
        lines: whether stderr gets log lines; a terminal gets a bar anyhow.

    Raises:
        UserError: a directory in use, a missing or alien checkpoint, or `max_bad_steps`
            non-finite steps in a row.
    """
    out_dir = Path(out_dir)
    if settings.minutes is None and settings.steps is None:
        raise UserError("a run needs a budget: give minutes or steps")
    if settings.threads:
        torch.set_num_threads(settings.threads)
    settings = as_launched(settings)
    main_process = is_main()
    if main_process:
        claim(out_dir, "training")
    with file_lock(inside(out_dir, ".lock"), out_dir) if main_process else contextlib.nullcontext():
        return _fit(experiment, settings, out_dir, resume, continue_from, config, lines)


def _fit(experiment, settings, out_dir, resume, continue_from, config, lines) -> FitResult:
    main_process = is_main()
    state = _starting_state(settings, out_dir, resume, continue_from, main_process)
    if main_process:
        inside(out_dir, "checkpoints").mkdir(exist_ok=True)
        remove_leftovers(out_dir)
    full = tomli_w.dumps({**(config or {}), "training": settings.to_dict()})
    run = Run(experiment, settings, out_dir, state, lines, full.encode())
    if run.finished:
        return run.result()
    _quiet()
    fabric = _fabric(settings, out_dir, run.step)
    if fabric.device.type == "cpu":
        keep_memory()
        keep_kernels()
    joined = not _in_group()  # otherwise the group is the caller's
    try:
        fabric.launch()
        processes = _started(fabric)
        processes[:] = map(_Patient, processes)
        if fabric.world_size != settings.processes:
            raise UserError(
                f"{settings.processes} processes were asked for and {fabric.world_size} started: "
                "give srun or torchrun as many tasks as there are devices of all nodes"
            )
        run.train(fabric)
        fabric.barrier()  # until the first has saved
        _stop_watching(fabric)
        if joined:
            _leave_group()
    except Exception as error:
        _stop_watching(fabric)
        if joined and _in_group():
            traceback.clear_frames(error.__traceback__)  # they hold the parallel model
            _leave_group()
        if settings.processes == 1 or not _lost_connection(error):
            raise
        raise UserError(
            f"another process of this run has ended, or cannot be reached; the same command with "
            f"--resume goes on from the last checkpoint in {out_dir}"
        ) from error
    return run.result()


def _in_group() -> bool:
    return dist.is_available() and dist.is_initialized()


def _leave_group() -> None:
    """Take the group of processes down, where there is one.

    Threads of gloo need Python's lock to let go of tensors. So they have to end while Python runs,
    or they may abort the process at its end; and this thread has to wait for them without the lock,
    as the group's own destructor does, but not that of a parallel model which holds the group.
    """
    if _in_group():
        gc.collect()
        group = dist.group.WORLD
        dist.destroy_process_group()
        del group


def _stop_watching(fabric: Fabric) -> None:
    """Let every process end by itself.

    Fabric watches those that it has started, and kills this one within seconds of the end of
    another that was not a good one.
    """
    _started(fabric).clear()


def _started(fabric: Fabric) -> list[Any]:
    """The processes that Fabric has started and watches."""
    return getattr(fabric.strategy.launcher, "procs", [])


class _Patient:
    """A process whose end is told one look later.

    Fabric looks every five seconds, and kills this process at once; so it has five at least to end
    with a line that says what has happened.
    """

    def __init__(self, process: subprocess.Popen):
        self._process = process
        self._seen: int | None = None
        self.returncode: int | None = None

    def poll(self) -> int | None:
        self.returncode, self._seen = self._seen, self._process.poll()
        return self.returncode

    def send_signal(self, number: int) -> None:
        self._process.send_signal(number)


def _lost_connection(error: Exception) -> bool:
    if not isinstance(error, RuntimeError | OSError):
        return False
    text = str(error).lower()
    words = ("gloo", "nccl", "connection", "peer", "timed out", "timeout", "rendezvous")
    return isinstance(error, dist.DistError) or any(word in text for word in words)


def _fabric(settings: TrainingSettings, out_dir: Path, step: int) -> Fabric:
    devices = settings.devices
    if settings.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        if devices > torch.cuda.device_count():
            raise UserError(f"devices = {devices}: torch finds {torch.cuda.device_count()} GPUs")
    elif settings.accelerator in ("auto", "cpu") and devices > (most := 2 * (os.cpu_count() or 1)):
        raise UserError(f"devices = {devices}: a process each; on this CPU take at most {most}")
    strategy = settings.strategy
    if strategy == "auto" and settings.processes > 1:
        strategy = "ddp_find_unused_parameters_true"
    try:
        return Fabric(
            accelerator=settings.accelerator,
            devices=devices,
            num_nodes=settings.num_nodes,
            strategy=strategy,
            loggers=loggers(settings.logger_names, out_dir, step) if is_main() else [],
            plugins=environment(),
        )
    except (MisconfigurationException, ImportError, ValueError, RuntimeError) as error:
        raise UserError(
            f"accelerator {settings.accelerator!r}, devices {devices}, num_nodes "
            f"{settings.num_nodes}, strategy {settings.strategy!r}: {error}"
        ) from None


def _starting_state(settings, out_dir, resume, continue_from, main_process) -> dict | None:
    """Checkpoint to start from, with the budget counted from zero where it is a new one."""
    last = inside(out_dir, "checkpoints", "last.ckpt")
    if resume and last.exists():
        state, spent, saved = _loaded(last, settings)
        plateau = inside(out_dir, "checkpoints", "plateau.ckpt")
        same = saved == _budget(settings.to_dict())
        if state["plateau_saved"] and plateau.exists() and not same and spent < 1:
            earlier, at_plateau, _ = _loaded(plateau, settings)
            if not settings.in_decay(at_plateau):
                state = earlier
            elif main_process:
                print(
                    "the present budget does not reach beyond the plateau of this run: "
                    "the learning rate goes on falling",
                    file=sys.stderr,
                )
        return state
    if resume and last.with_name("plateau.ckpt").exists():
        raise UserError(
            f"{last}: no such checkpoint, though the run was saved before: copy plateau.ckpt there "
            "to go on from the plateau"
        )
    # A start that failed before its first checkpoint has left nothing worth keeping.
    if main_process and not resume and (last.exists() or (out_dir / "metrics.csv").exists()):
        raise UserError(f"{out_dir} holds a run: resume it with --resume, or choose another --out")
    if continue_from is None:
        return None
    source = inside(continue_from, "checkpoints", "plateau.ckpt")
    if not source.exists():
        source = inside(continue_from, "checkpoints", "last.ckpt")
    if not source.exists():
        raise UserError(f"{continue_from}: no checkpoint of a run to continue from")
    state, _, _ = _loaded(source, settings)
    state["origin_steps"] += state["step"]
    state["origin_seconds"] += state["seconds"]
    state.update(step=0, seconds=0.0, plateau_saved=False, bad_steps=0, last_eval=0.0, metrics={})
    state.update(sums={"names": [], "sums": None}, window=[0, 0.0], best=None)
    return state


def _loaded(path: Path, settings: TrainingSettings) -> tuple[dict, float, tuple]:
    """A checkpoint, the share of the budget that it has spent, and the budget that it had."""
    state = load_checkpoint(path)
    with damage_named(path):
        progress = settings.progress(count(state["step"]), seconds(state["seconds"]))
        count(state["origin_steps"]), seconds(state["origin_seconds"]), state["plateau_saved"]
        return {**state, "path": path}, progress, _budget(state["settings"])


def _budget(settings: dict) -> tuple:
    return settings.get("minutes"), settings.get("steps"), settings.get("decay_fraction")


def _quiet() -> None:
    """Silence advice that does not apply to a loop with its own data and files."""
    for name in ("lightning.fabric", "lightning.pytorch", "lightning_utilities"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\..*")
    warnings.filterwarnings("ignore", message=".*find_unused_parameters=True.*")
