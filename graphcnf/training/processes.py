"""Which of the processes of a run this one is, as whoever started them has left it to know."""

from __future__ import annotations

import dataclasses
import os
import sys
from typing import Any

from graphcnf.errors import UserError
from graphcnf.training.settings import TrainingSettings


def is_main() -> bool:
    """Whether this is the first process of the first node: the one that writes and speaks."""
    if "RANK" in os.environ:
        return os.environ["RANK"] == "0"
    if _srun():
        return os.environ.get("SLURM_PROCID", "0") == "0"
    return all(os.environ.get(name, "0") == "0" for name in ("NODE_RANK", "LOCAL_RANK"))


def started_apart() -> bool:
    """Whether the processes of this run were started each by itself, not by one of them."""
    return _torchrun() or _srun() or "NODE_RANK" in os.environ


def as_launched(settings: TrainingSettings) -> TrainingSettings:
    """The settings with the processes and nodes of `torchrun` or `srun`, where they started this.

    Raises:
        UserError: several nodes, and nothing says which of them this is.
    """
    if _torchrun():
        here, everywhere = _number("LOCAL_WORLD_SIZE"), _number("WORLD_SIZE")
        return dataclasses.replace(settings, devices=here, num_nodes=everywhere // here)
    if _srun():
        nodes = _number("SLURM_STEP_NUM_NODES")
        here = _number("SLURM_STEP_NUM_TASKS") // nodes
        return dataclasses.replace(settings, devices=here, num_nodes=nodes)
    if settings.num_nodes > 1:
        needed = ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT")
        missing = [name for name in needed if name not in os.environ]
        if missing:
            raise UserError(
                f"num_nodes = {settings.num_nodes}: start the command on every node with srun, "
                f"with torchrun, or with {', '.join(missing)} in the environment (NODE_RANK 0, 1, "
                "... and the address and a free port of node 0)"
            )
    return settings


def _torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


def _srun() -> bool:
    """Several tasks of one step; a job's script is none of them, however many the job may have."""
    return _number("SLURM_STEP_NUM_TASKS") > 1


def environment() -> list[Any] | None:
    """What tells Fabric which of the processes this one is; None where it finds out by itself."""
    from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment

    if _torchrun():
        return None
    return [SLURMEnvironment(auto_requeue=False)] if _srun() else [LightningEnvironment()]


def leave_unless_main() -> None:
    """End a process that was there to help the first one train.

    What comes after training, in a script that all of them run, is for the first one alone.
    """
    if not is_main():
        sys.exit(0)


def _number(name: str) -> int:
    try:
        number = int(os.environ.get(name, "1"))
    except ValueError:
        number = 0
    if number < 1:
        raise UserError(f"{name}={os.environ[name]!r} in the environment is no number of processes")
    return number
