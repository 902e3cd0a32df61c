"""Checkpoints, models and snapshots of a run: files that are never seen half written."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from graphcnf import pretrained
from graphcnf.compute.cpu import memory
from graphcnf.compute.files import inside, leftovers, read_file, replace_file
from graphcnf.errors import UserError

MODEL_FILES = ("config.json", "model.safetensors")
"""Files of a snapshot."""

RUN_FILES = (
    *((name,) for name in ("config.toml", "metrics.csv", "finetune.json", "wandb.id")),
    *(("checkpoints", name) for name in ("last.ckpt", "plateau.ckpt")),
    ("snapshots",),
    *(
        ("model", name)
        for name in (*MODEL_FILES, "weights.safetensors", "training_hashes.safetensors")
    ),
)
"""Files of a run that are replaced again and again, by their places in its folder."""

FORMAT = 4
MAGIC = b"graphcnf checkpoint\n"


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint of tensors and plain values, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    content = buffer.getvalue()
    replace_file(path, MAGIC + hashlib.sha256(content).digest() + content)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU.

    Raises:
        UserError: no such file, or not a checkpoint of this version.
    """
    try:
        whole = read_file(path, memory() // 2)
        head, content = whole[: len(MAGIC)], whole[len(MAGIC) + 32 :]
        if head != MAGIC:
            raise ValueError("another kind of file, or of an earlier version")
        if hashlib.sha256(content).digest() != whole[len(MAGIC) : len(MAGIC) + 32]:
            raise ValueError("its checksum does not match")
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint") from None
    except Exception as error:  # whatever a hostile file brings about
        reason = getattr(error, "strerror", None) or str(error) or "damaged"
        raise UserError(
            f"{path}: not a readable checkpoint ({reason.splitlines()[0][:120]})"
        ) from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"{path}: not a training checkpoint of this version of graphcnf")
    return state


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Context that turns errors while a checkpoint is restored into one line with its name."""
    try:
        yield
    except KeyError as error:
        raise UserError(f"{path}: damaged checkpoint: it has no {error}") from None
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as e:
        reason = " ".join(str(e).split())[:160]
        raise UserError(f"{path}: damaged, or it belongs to another model: {reason}") from None


def check_finite(tensors: Iterable[torch.Tensor], what: str) -> None:
    """Raise ValueError where some of the tensors hold infinities or NaN."""
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        raise ValueError(f"{what} must be finite numbers")


def save_model(folder: Path, model: nn.Module) -> None:
    """Write a model by its `save_pretrained`, or the weights of one without it."""
    save: Any = getattr(model, "save_pretrained", None)
    if save is not None:
        save(folder)
        return
    from safetensors.torch import save as weights_of

    folder.mkdir(parents=True, exist_ok=True)
    # Copies: weights that two layers share are refused otherwise.
    weights = {k: v.detach().cpu().clone().contiguous() for k, v in model.state_dict().items()}
    replace_file(folder / "weights.safetensors", weights_of(weights))


def save_snapshot(folder: Path, model: nn.Module) -> None:
    """Write a model that `from_pretrained` can build, without its further arrays.

    A run keeps many of them; the hashes of the training molecules alone would fill a disk.
    """
    if hasattr(model, "config") and hasattr(model, "metadata"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        pretrained.save_model(model, folder)


def remove_snapshots(out_dir: Path, last: int) -> None:
    """Delete the snapshots of later steps than `last`, from which a run goes on."""
    folder = inside(out_dir, "snapshots")
    for path in folder.iterdir() if folder.is_dir() else ():
        if re.fullmatch("[0-9]{8,18}", path.name) and int(path.name) > last:
            for name in MODEL_FILES:
                file = inside(out_dir, "snapshots", path.name, name)
                for left in (file, *leftovers(file)):
                    left.unlink(missing_ok=True)
            with suppress(OSError):  # somebody has put something there
                path.rmdir()


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files that a killed run left in its folder."""
    for parts in RUN_FILES:
        for path in leftovers(inside(folder, *parts)):
            path.unlink(missing_ok=True)
