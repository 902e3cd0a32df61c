"""Start and end of the processes of a run.

- *Run*: one training, which may use several processes, one for each device.
- *Launcher*: what starts the processes: Lightning Fabric on one machine, or `torchrun` on several.
  It tells each process its number by variables of the environment.
- *Group*: the processes through which torch exchanges tensors.
"""

from __future__ import annotations

import gc
import logging
import os
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment

from graphcnf.compute.cpu import keep_kernels, keep_memory
from graphcnf.errors import UserError
from graphcnf.training.settings import RUN, TrainingSettings, by_torchrun

LAUNCHER = ("LOCAL_RANK", "RANK", "GROUP_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR",
            "MASTER_PORT")  # fmt: skip
"""Variables of the environment by which Lightning takes a process for one of several."""

LOST_CONNECTION = ("gloo", "nccl", "connection", "peer", "timed out", "timeout", "rendezvous")
"""Words in the errors of a process whose connection to another one is lost."""


@contextmanager
def launch(settings: TrainingSettings, out_dir: Path) -> Iterator[Fabric]:
    """Return a context in which all processes of a run have been started; each executes its body.

    With several devices, Lightning starts the other processes by repeating the command line.

    The Fabric knows the device and `global_rank`. The other processes find `out_dir` by the
    environment variable GRAPHCNF_RUN (`RUN`).
    """
    # Silence advice that does not apply to a loop with its own data and files.
    for name in ("lightning_fabric", "lightning_utilities"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning_fabric\..*")
    warnings.filterwarnings("ignore", message=".*find_unused_parameters=True.*")
    foreign = _without_launcher(settings.devices, out_dir)
    try:
        fabric = _fabric(settings)
    finally:
        os.environ.update(foreign)
    if fabric.device.type == "cpu":
        keep_memory()
        keep_kernels()
    joined = not _in_group()  # otherwise the caller has made the group
    try:
        fabric.launch()
        # Otherwise Fabric kills this process if another one fails; each shall end by itself.
        getattr(fabric.strategy.launcher, "procs", []).clear()
        yield fabric
        fabric.barrier()  # wait until the first process has saved
        _leave_group(joined)
    except Exception as error:
        if joined and _in_group():
            traceback.clear_frames(error.__traceback__)  # the frames hold the parallel model
        _leave_group(joined)
        text = str(error).lower()
        lost = isinstance(error, dist.DistError) or (
            isinstance(error, RuntimeError | OSError) and any(w in text for w in LOST_CONNECTION)
        )
        if fabric.world_size == 1 or not lost:
            raise
        raise UserError(
            "another process of this run has ended, or cannot be reached; resume the run from the "
            f"last checkpoint in {out_dir}"
        ) from error


def _fabric(settings: TrainingSettings) -> Fabric:
    """Return Lightning Fabric on the devices of the settings."""
    cuda = settings.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    most = torch.cuda.device_count() if cuda else 2 * (os.cpu_count() or 1)
    if settings.devices > most and (cuda or settings.accelerator in ("auto", "cpu")):
        place = f"the {most} GPUs found" if cuda else f"{most} on this CPU"
        raise UserError(f"devices must be at most {place}, got {settings.devices}")
    world = int(os.environ["WORLD_SIZE"]) if by_torchrun() else settings.devices
    try:
        return Fabric(
            accelerator=settings.accelerator,
            devices=settings.devices,
            num_nodes=world // settings.devices,
            strategy="ddp_find_unused_parameters_true" if world > 1 else "auto",
            # Fabric detects torchrun, but would take a Slurm job for one of several tasks.
            plugins=None if by_torchrun() else [LightningEnvironment()],
        )
    except Exception as error:  # Fabric raises a different class for each accelerator
        raise UserError(
            f"accelerator {settings.accelerator!r}, devices {settings.devices}: {error}"
        ) from None


def _without_launcher(devices: int, out_dir: Path) -> dict[str, str]:
    """Remove the variables of a launcher that has not started the processes of this run."""
    if by_torchrun() or RUN in os.environ:
        return {}
    found = {name: os.environ.pop(name) for name in LAUNCHER if name in os.environ}
    if devices == 1:
        return found
    os.environ[RUN] = str(out_dir)
    return {}


def _in_group() -> bool:
    """Return True if this process is in a process group of torch."""
    return dist.is_available() and dist.is_initialized()


def _leave_group(joined: bool) -> None:
    """Destroy the process group, if this run has made it."""
    if joined and _in_group():
        gc.collect()
        group = dist.group.WORLD
        dist.destroy_process_group()
        del group
