"""Files of a run that must never be seen half written."""

from __future__ import annotations

import hashlib
import io
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from graphcnf import pretrained
from graphcnf.compute.files import replace_file
from graphcnf.errors import UserError

FORMAT = 3
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
        UserError: no such file, or not a checkpoint of this package.
    """
    try:
        head, content = (whole := path.read_bytes())[: len(MAGIC)], whole[len(MAGIC) + 32 :]
        if head != MAGIC:
            raise ValueError("another kind of file, or of an earlier version")
        if hashlib.sha256(content).digest() != whole[len(MAGIC) : len(MAGIC) + 32]:
            raise ValueError("its checksum does not match")
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint") from None
    except (ValueError, RuntimeError, OSError, EOFError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: not a readable checkpoint ({reason[:120]})") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"{path}: not a training checkpoint of this version of graphcnf")
    return state


def save_model(folder: Path, model: nn.Module) -> None:
    """Write a model as its `save_pretrained` does; the weights of one without it."""
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
    """Write a model's folder, where it is one that can be rebuilt, without its further arrays.

    A run keeps many of them; the hashes of the training molecules alone would fill a disk.
    """
    if hasattr(model, "config") and hasattr(model, "metadata"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        pretrained.save_model(model, folder)


def remove_snapshots(folder: Path, last: int) -> None:
    """Delete those of steps beyond the last one, which a run that goes on from there never took."""
    for path in folder.glob("*"):
        if path.name.isdecimal() and int(path.name) > last:
            shutil.rmtree(path)


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files that a killed run left in its folder."""
    for pattern in (".*.tmp", "checkpoints/.*.tmp"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


def random_state(device: torch.device) -> dict[str, Any]:
    """State of torch's random generators, of the CPU and of a CUDA device."""
    cuda = device.type == "cuda"
    return {
        "cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if cuda else None,
    }


def restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Undo everything drawn since `random_state`."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)
