"""Loggers of Lightning that a run may write to, beside its `metrics.csv`."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.fabric.loggers import Logger, TensorBoardLogger

from graphcnf.compute.files import inside, read_file, replace_file
from graphcnf.errors import UserError


def loggers(names: list[str], out_dir: Path, step: int) -> list[Logger]:
    """The loggers of the run in a folder that goes on from `step`.

    Raises:
        UserError: the package of one of them is not installed.
    """
    for name in names:
        if find_spec(name) is None:
            raise UserError(f'loggers = "{name}" needs its package: pip install {name}')
    make = {"tensorboard": _tensorboard, "wandb": _wandb}
    return [make[name](out_dir, step) for name in names]


def finish(made: Sequence[Logger]) -> None:
    """Write out what the loggers have."""
    for logger in made:
        logger.finalize("success")
        run: Any = getattr(logger, "experiment", None)
        if hasattr(run, "finish"):  # W&B's
            run.finish()


def _tensorboard(out_dir: Path, step: int) -> Logger:
    # What lies behind the step that the run goes on from is taken back.
    inside(out_dir, "tensorboard")
    return TensorBoardLogger(
        out_dir, name="", version="tensorboard", default_hp_metric=False, purge_step=step + 1
    )


def _wandb(out_dir: Path, step: int) -> Logger:
    from lightning.pytorch.loggers import WandbLogger

    # A run that goes on is the same one there.
    file = inside(out_dir, "wandb.id")
    known = read_file(file, 1000).decode(errors="replace").strip() if file.exists() else ""
    if not re.fullmatch("[0-9a-f]{8}", known):
        known = secrets.token_hex(4)
        replace_file(file, known.encode())
    inside(out_dir, "wandb")
    return WandbLogger(
        project="graphcnf", name=out_dir.name, save_dir=out_dir, id=known, resume="allow"
    )
