"""Processes of a run: what the launcher says of this one, and the group that they form."""

from __future__ import annotations

import dataclasses
import gc
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphcnf.compute.cpu import keep_kernels, keep_memory
from graphcnf.errors import UserError
from graphcnf.training.settings import TrainingSettings

if TYPE_CHECKING:
    from lightning.fabric import Fabric

LOST_CONNECTION = ("gloo", "nccl", "connection", "peer", "timed out", "timeout", "rendezvous")
"""Words in the errors of processes whose partner has ended."""


def is_main() -> bool:
    """Return True in the first process of the first node, which writes files and messages."""
    if "RANK" in os.environ:
        return os.environ["RANK"] == "0"
    if by_srun():
        return os.environ.get("SLURM_PROCID", "0") == "0"
    return all(os.environ.get(name, "0") == "0" for name in ("NODE_RANK", "LOCAL_RANK"))


def by_torchrun() -> bool:
    """Return True where `torchrun` started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def by_srun() -> bool:
    """Return True in one of several tasks of a Slurm step; the script of a job is none of them."""
    return _number("SLURM_STEP_NUM_TASKS") > 1


def started_apart() -> bool:
    """Return True where a launcher started each process, rather than the first one the others."""
    return by_torchrun() or by_srun() or "NODE_RANK" in os.environ


def as_launched(settings: TrainingSettings) -> TrainingSettings:
    """Return the settings with the processes and nodes that `torchrun` or `srun` started, if any.

    Raises:
        UserError: several nodes, and nothing says which of them this is.
    """
    if by_torchrun():
        here = _number("LOCAL_WORLD_SIZE")
        return dataclasses.replace(settings, devices=here, num_nodes=_number("WORLD_SIZE") // here)
    if by_srun():
        nodes = _number("SLURM_STEP_NUM_NODES")
        here = _number("SLURM_STEP_NUM_TASKS") // nodes
        return dataclasses.replace(settings, devices=here, num_nodes=nodes)
    needed = ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT")
    missing = [name for name in needed if name not in os.environ]
    if settings.num_nodes > 1 and missing:
        raise UserError(
            f"num_nodes = {settings.num_nodes}: start the command on every node with srun, "
            f"with torchrun, or with {', '.join(missing)} in the environment (NODE_RANK 0, 1, "
            "... and the address and a free port of node 0)"
        )
    return settings


def leave_unless_main() -> None:
    """End a process that only helped the first one to train, which alone goes on in a script."""
    if not is_main():
        sys.exit(0)


def _number(name: str) -> int:
    text = os.environ.get(name, "1")
    if not text.isdecimal() or int(text) < 1:
        raise UserError(
            f"{name} in the environment must be a number of processes from 1 on, got {text!r}"
        )
    return int(text)


@contextmanager
def launched(settings: TrainingSettings, out_dir: Path) -> Iterator[Fabric]:
    """Context in which all processes of a run take part, on Lightning Fabric.

    Raises:
        UserError: the machine lacks the devices, or another process has ended.
    """
    import torch.distributed as dist

    # Advice that does not apply to a loop with its own data and files.
    for name in ("lightning.fabric", "lightning.pytorch", "lightning_utilities"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\..*")
    warnings.filterwarnings("ignore", message=".*find_unused_parameters=True.*")
    fabric = _fabric(settings)
    if fabric.device.type == "cpu":
        keep_memory()
        keep_kernels()
    joined = not _in_group()  # otherwise the group is the caller's
    children: list[Any] = getattr(fabric.strategy.launcher, "procs", [])
    try:
        fabric.launch()
        children[:] = map(_Patient, children)
        if fabric.world_size != settings.processes:
            raise UserError(
                f"{settings.processes} processes were asked for and {fabric.world_size} started: "
                "give srun or torchrun as many tasks as there are devices of all nodes"
            )
        yield fabric
        fabric.barrier()  # until the first has saved
        _leave_group(children, joined)
    except Exception as error:
        if joined and _in_group():
            traceback.clear_frames(error.__traceback__)  # they hold the parallel model
        _leave_group(children, joined)
        text = str(error).lower()
        lost = isinstance(error, dist.DistError) or (
            isinstance(error, RuntimeError | OSError) and any(w in text for w in LOST_CONNECTION)
        )
        if settings.processes == 1 or not lost:
            raise
        raise UserError(
            "another process of this run has ended, or cannot be reached; resuming the run goes on "
            f"from the last checkpoint in {out_dir}"
        ) from error


def _fabric(settings: TrainingSettings) -> Fabric:
    import torch
    from lightning.fabric import Fabric
    from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment

    cuda = settings.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    most = torch.cuda.device_count() if cuda else 2 * (os.cpu_count() or 1)
    if settings.devices > most and (cuda or settings.accelerator in ("auto", "cpu")):
        place = f"the {most} GPUs found" if cuda else f"{most} on this CPU"
        raise UserError(f"devices must be at most {place}, got {settings.devices}")
    strategy: str = settings.strategy
    if strategy == "auto" and settings.processes > 1:
        strategy = "ddp_find_unused_parameters_true"
    # Fabric itself knows torchrun; it takes a job of Slurm with one task for several.
    environment = SLURMEnvironment(auto_requeue=False) if by_srun() else LightningEnvironment()
    try:
        return Fabric(
            accelerator=settings.accelerator,
            devices=settings.devices,
            num_nodes=settings.num_nodes,
            strategy=strategy,
            plugins=None if by_torchrun() else [environment],
        )
    except Exception as error:  # Fabric has an exception of its own for each
        raise UserError(
            f"accelerator {settings.accelerator!r}, devices {settings.devices}, num_nodes "
            f"{settings.num_nodes}, strategy {settings.strategy!r}: {error}"
        ) from None


def _in_group() -> bool:
    import torch.distributed as dist

    return dist.is_available() and dist.is_initialized()


def _leave_group(children: list, joined: bool) -> None:
    """Take the group of processes down, if this run has made it.

    Threads of gloo need Python's lock to let go of tensors. So they have to end while Python runs,
    or they may abort the process at its end; and this thread has to wait for them without the lock,
    as the group's own destructor does, but not that of a parallel model which holds the group.
    """
    import torch.distributed as dist

    children.clear()  # Fabric kills those in the list where one fails; now each ends by itself
    if joined and _in_group():
        gc.collect()
        group = dist.group.WORLD
        dist.destroy_process_group()
        del group


class _Patient:
    """Child process whose end is reported one poll, five seconds, later.

    Fabric kills this process at once, which so has time to end with a line on what has happened.
    """

    def __init__(self, process: Any):
        self._process, self._seen, self.returncode = process, None, None
        self.pid, self.send_signal = process.pid, process.send_signal

    def poll(self) -> int | None:
        self.returncode, self._seen = self._seen, self._process.poll()
        return self.returncode
