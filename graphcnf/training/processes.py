"""Role of this process among those of a run, read from the launcher's environment variables."""

from __future__ import annotations

import dataclasses
import os
import sys

from graphcnf.errors import UserError
from graphcnf.training.settings import TrainingSettings


def is_main() -> bool:
    """Return True in the first process of the first node, which writes files and messages."""
    if "RANK" in os.environ:
        return os.environ["RANK"] == "0"
    if by_srun():
        return os.environ.get("SLURM_PROCID", "0") == "0"
    return all(os.environ.get(name, "0") == "0" for name in ("NODE_RANK", "LOCAL_RANK"))


def started_apart() -> bool:
    """Return True where a launcher started each process, rather than the first one the others."""
    return by_torchrun() or by_srun() or "NODE_RANK" in os.environ


def as_launched(settings: TrainingSettings) -> TrainingSettings:
    """Return the settings with the processes and nodes that `torchrun` or `srun` started, if any.

    Raises:
        UserError: several nodes, and nothing says which of them this is.
    """
    if by_torchrun():
        here, everywhere = _number("LOCAL_WORLD_SIZE"), _number("WORLD_SIZE")
        return dataclasses.replace(settings, devices=here, num_nodes=everywhere // here)
    if by_srun():
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


def by_torchrun() -> bool:
    """Return True where `torchrun` started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def by_srun() -> bool:
    """Return True in one of several tasks of a Slurm step; the script of a job is none of them."""
    return _number("SLURM_STEP_NUM_TASKS") > 1


def leave_unless_main() -> None:
    """End a process that only helped the first one to train.

    The first one alone goes on with the rest of a script that all of them run.
    """
    if not is_main():
        sys.exit(0)


def _number(name: str) -> int:
    try:
        number = int(os.environ.get(name, "1"))
    except ValueError:
        number = 0
    if number < 1:
        raise UserError(
            f"{name} in the environment must be a number of processes from 1 on, got "
            f"{os.environ[name]!r}"
        )
    return number
