"""Models in a folder: `config.json` rebuilds a model, `model.safetensors` holds its weights.

A model keeps its constructor's arguments in `config` and what is known of its data in `metadata`,
both as plain JSON values. Every file holds a checksum of its content: a flipped bit is found when
it is read.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import torch
from torch import nn

from graphcnf.errors import UserError
from graphcnf.files import at_home, replace_file
from graphcnf.limits import size_fault

WEIGHTS = Path(__file__).resolve().parent / "weights"
"""Where the shipped weights are, a folder each."""

FORMAT = 2
CHECKSUM = "sha256"

VALUES = frozenset({"mean", "deviation", "prior", "separation", "spread", "drift"})
"""Names in a configuration of what is no size."""


RENAMED = {
    ".network.start": ".network.initial",
    ".network.logits.": ".network.outputs.",
    ".network.asked.": ".network.conditions.",
}
"""Parts of the names of parameters in older files, and their names now."""


Model = TypeVar("Model", bound=nn.Module)


def save_model(
    model: nn.Module, folder: str | Path, *, half: bool = False, **arrays: np.ndarray
) -> None:
    """Write a model; every file is complete before it gets its name.

    Args:
        model: Module with `config` and `metadata`.
        folder: Made if missing.
        half: Round parameters to float16, for half the size; they are loaded in float32.
        **arrays: Further arrays, each written to a safetensors file of its name.
    """
    from safetensors.numpy import save as save_arrays
    from safetensors.torch import save

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    if half:  # Buffers are constants, and may be too large or too fine for it.
        weights |= {k: weights[k].half() for k, _ in model.named_parameters()}
    config = {"format": FORMAT, "model": model.config, "metadata": model.metadata}
    files = {"model.safetensors": save(weights, {CHECKSUM: _digest_of_tensors(weights)})}
    for name, array in arrays.items():
        alone = {name: array}
        digest = {CHECKSUM: _digest_of_tensors(alone)}
        files[f"{name}.safetensors"] = save_arrays(alone, digest)
    files["config.json"] = config_file(config)
    for name, content in files.items():
        replace_file(folder / name, content)


def config_file(content: dict[str, Any]) -> bytes:
    """What `config.json` holds: `format`, `model` and `metadata`, with their checksum."""
    # As it is read again: keys are text.
    content = json.loads(json.dumps({k: v for k, v in content.items() if k != CHECKSUM}))
    content[CHECKSUM] = _digest_of_json(content)
    return (json.dumps(content, indent=1) + "\n").encode()


def locate(name_or_folder: str | Path, *, shipped: bool = False) -> Path:
    """Folder of a model: a model's folder, or that of a training run.

    Args:
        name_or_folder: Its path, or its name.
        shipped: Whether names of shipped weights, all of them molecule models, come first.

    Raises:
        UserError: There is none.
    """
    folder = at_home(name_or_folder)
    names = [WEIGHTS / str(name_or_folder)] if shipped else []
    for candidate in (*names, folder, folder / "model"):
        if (candidate / "config.json").is_file():
            return candidate
    known = ", ".join(sorted(p.parent.name for p in WEIGHTS.glob("*/config.json")))
    raise UserError(
        f"no model {str(name_or_folder)!r}: give a folder with config.json and model.safetensors"
        + (f", or one of the shipped models ({known or 'none'})" if shipped else "")
    )


def load_model(cls: type[Model], folder: Path, device="cpu") -> Model:
    """Rebuild a model of class `cls` from its folder, in evaluation mode.

    Raises:
        UserError: if a file is missing or damaged, or the two do not fit together.
    """
    source = folder / "config.json"
    try:
        config = json.loads(source.read_text())
        if config["format"] != FORMAT:
            raise ValueError(f"format {config['format']}, this version reads {FORMAT}")
        if config.pop(CHECKSUM) != _digest_of_json(config):
            raise ValueError("its checksum does not match")
        _check_sizes(config["model"])
        _check_metadata(config["metadata"])
        model = cls(**config["model"])
        model.metadata = config["metadata"]
    except Exception as error:  # whatever a hostile configuration brings about
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{source}: not the config of a {cls.__name__} ({reason})") from error
    weights = folder / "model.safetensors"
    try:
        model.load_state_dict(renamed(_read(weights, "pt"), model))
    except RuntimeError:
        raise UserError(f"{weights}: the weights do not fit config.json") from None
    if not all(parameter.isfinite().all() for parameter in model.parameters()):
        raise UserError(f"{weights}: weights that are no numbers; train again")
    return model.to(device).eval()


def renamed(tensors: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """Return the tensors by the names that a model has for them, see `RENAMED`."""
    known, found = model.state_dict().keys(), {}
    for name, tensor in tensors.items():
        for old, new in {} if name in known else RENAMED.items():
            name = name.replace(old, new)
        found[name] = tensor
    return found


def _check_sizes(config: Any, name: str = "model") -> None:
    """Refuse what would take all memory or never end, before anything is built."""
    if name in VALUES:
        return
    if isinstance(config, Mapping):
        for key, value in config.items():
            _check_sizes(value, str(key))
    elif isinstance(config, list):
        for value in config:
            if isinstance(value, float):
                raise ValueError(f"{name} holds {value}, no whole number")
            _check_sizes(value, name)
    elif isinstance(config, int | float):
        fault = size_fault(name, config)
        if fault is not None:
            raise ValueError(fault)


def _check_metadata(metadata: Any) -> None:
    """Refuse what would fail where it is used, long after it was read."""
    kinds: dict[str, type] = {
        "training": dict, "vocabulary": dict, "dataset": str, "size_histogram": list,
        "likelihood_quantiles": list, "weights": dict, "codec": int,
    }  # fmt: skip
    if not isinstance(metadata, dict):
        raise ValueError("metadata is no object")
    for name, kind in kinds.items():
        if not isinstance(metadata.get(name, kind()), kind):
            raise ValueError(f"metadata.{name} is no {kind.__name__}")
    if not all(_is_count(value) for value in metadata.get("size_histogram", [])):
        raise ValueError("metadata.size_histogram is no list of counts")
    for group in metadata.get("likelihood_quantiles", []):
        numbers = [group["largest"], *group["quantiles"]]
        if len(numbers) < 2 or not all(isinstance(q, int | float) for q in numbers):
            raise ValueError("metadata.likelihood_quantiles holds something else than numbers")
        if not np.isfinite(numbers).all():
            raise ValueError("metadata.likelihood_quantiles holds numbers that are not finite")


def _is_count(value: Any) -> bool:
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    return numeric and 0 <= value < math.inf


def load_array(folder: Path, name: str) -> np.ndarray | None:
    """An array that `save_model` wrote with a model, None if there is none.

    Raises:
        UserError: if the file is damaged.
    """
    path = folder / f"{name}.safetensors"
    if not path.exists():
        return None
    arrays = _read(path, "np")
    if name not in arrays:
        raise UserError(f"{path}: unreadable (it holds no {name})")
    return arrays[name]


def _read(path: Path, framework: str) -> dict[str, Any]:
    """Tensors of a safetensors file, "pt" or "np", whose checksum is right."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework) as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            checksum = (file.metadata() or {}).get(CHECKSUM)
        right = checksum == _digest_of_tensors(tensors)
    except (OSError, SafetensorError, TypeError, ValueError) as error:
        raise UserError(f"{path}: unreadable ({' '.join(str(error).split())[:120]})") from None
    if not right:
        raise UserError(f"{path}: damaged (its checksum does not match)")
    return tensors


def _digest_of_json(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _digest_of_tensors(tensors: Mapping[str, Any]) -> str:
    """SHA-256 over names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        if getattr(tensor, "dtype", None) is torch.bfloat16:  # which numpy has not
            tensor = tensor.view(torch.int16)
        array = np.ascontiguousarray(np.asarray(tensor))
        digest.update(f"{name} {array.dtype.str} {array.shape};".encode())
        digest.update(array.data if array.size else b"")
    return digest.hexdigest()


class Pretrained(nn.Module):
    """What a module with `config` and `metadata` needs to be kept in a folder."""

    config: dict[str, Any]
    metadata: dict[str, Any]

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` and `model.safetensors`."""
        save_model(self, folder)

    @classmethod
    def from_pretrained(cls, folder: str | Path, device="cpu") -> Self:
        """Load what `save_pretrained` or training wrote (a run's folder or its `model/`).

        Raises:
            UserError: if there is no such model, or its files are damaged.
        """
        return load_model(cls, locate(folder), device)
