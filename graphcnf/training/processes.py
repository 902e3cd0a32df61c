"""The group that the processes of a run form."""

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
from graphcnf.training.settings import TrainingSettings, by_torchrun

LOST_CONNECTION = ("gloo", "nccl", "connection", "peer", "timed out", "timeout", "rendezvous")
"""Words in the errors of processes whose partner has ended."""


@contextmanager
def launched(settings: TrainingSettings, out_dir: Path) -> Iterator[Fabric]:
    """Context in which all processes of a run take part, on Lightning Fabric.

    Raises:
        UserError: the machine lacks the devices, or another process has ended.
    """
    # Advice that does not apply to a loop with its own data and files.
    for name in ("lightning_fabric", "lightning_utilities"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning_fabric\..*")
    warnings.filterwarnings("ignore", message=".*find_unused_parameters=True.*")
    fabric = _fabric(settings)
    if fabric.device.type == "cpu":
        keep_memory()
        keep_kernels()
    joined = not _in_group()  # otherwise the group is the caller's
    try:
        fabric.launch()
        # Fabric kills this process where one that it started fails; now each ends by itself.
        getattr(fabric.strategy.launcher, "procs", []).clear()
        yield fabric
        fabric.barrier()  # until the first has saved
        _leave_group(joined)
    except Exception as error:
        if joined and _in_group():
            traceback.clear_frames(error.__traceback__)  # they hold the parallel model
        _leave_group(joined)
        text = str(error).lower()
        lost = isinstance(error, dist.DistError) or (
            isinstance(error, RuntimeError | OSError) and any(w in text for w in LOST_CONNECTION)
        )
        if fabric.world_size == 1 or not lost:
            raise
        raise UserError(
            "another process of this run has ended, or cannot be reached; resuming the run goes on "
            f"from the last checkpoint in {out_dir}"
        ) from error


def _fabric(settings: TrainingSettings) -> Fabric:
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
            # Fabric knows torchrun; a job of Slurm it would take for one of several tasks.
            plugins=None if by_torchrun() else [LightningEnvironment()],
        )
    except Exception as error:  # Fabric has an exception of its own for each
        raise UserError(
            f"accelerator {settings.accelerator!r}, devices {settings.devices}: {error}"
        ) from None


def _in_group() -> bool:
    return dist.is_available() and dist.is_initialized()


def _leave_group(joined: bool) -> None:
    """Take the group of processes down, if this run has made it.

    Threads of gloo need Python's lock to let go of tensors. So they have to end while Python runs,
    or they may abort the process at its end; and this thread has to wait for them without the lock,
    as the group's own destructor does, but not that of a parallel model which holds the group.
    """
    if joined and _in_group():
        gc.collect()
        group = dist.group.WORLD
        dist.destroy_process_group()
        del group
