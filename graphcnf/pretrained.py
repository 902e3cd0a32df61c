"""Models in a folder: `config.json` rebuilds a model, `model.safetensors` holds its weights.

A model keeps its constructor's arguments in `config` and what is known of its data in `metadata`,
both as plain JSON values.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Self

import numpy as np
from torch import nn

from graphcnf.errors import UserError
from graphcnf.files import replace_file

FORMAT = 1


def save_model(model: nn.Module, folder: str | Path, **arrays: np.ndarray) -> None:
    """Write a model; every file is complete before it gets its name.

    Args:
        model: Module with `config` and `metadata`.
        folder: Made if missing.
        **arrays: Further arrays, each written to a safetensors file of its name.
    """
    from safetensors.numpy import save as save_arrays
    from safetensors.torch import save

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    config = {"format": FORMAT, "model": model.config, "metadata": model.metadata}
    files = {"model.safetensors": save(weights)}
    files |= {f"{name}.safetensors": save_arrays({name: a}) for name, a in arrays.items()}
    files["config.json"] = (json.dumps(config, indent=1) + "\n").encode()
    for name, content in files.items():
        replace_file(folder / name, content)


def load_model(cls: type, folder: Path, device="cpu") -> nn.Module:
    """Rebuild a model of class `cls` from its folder, in evaluation mode.

    Raises:
        UserError: if a file is missing or damaged, or the two do not fit together.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    source = folder / "config.json"
    try:
        config = json.loads(source.read_text())
        if config["format"] != FORMAT:
            raise ValueError(f"format {config['format']}, this version reads {FORMAT}")
        model = cls(**config["model"])
        model.metadata = config["metadata"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{source}: not the config of a {cls.__name__} ({error})") from None
    weights = folder / "model.safetensors"
    try:
        model.load_state_dict(load_file(weights))
    except (OSError, SafetensorError) as error:
        raise UserError(f"{weights}: unreadable weights ({error})") from None
    except RuntimeError:
        raise UserError(f"{weights}: the weights do not fit config.json") from None
    return model.to(device).eval()


def load_array(folder: Path, name: str) -> np.ndarray | None:
    """An array that `save_model` wrote with a model, None if there is none.

    Raises:
        UserError: if the file is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = folder / f"{name}.safetensors"
    if not path.exists():
        return None
    try:
        return load_file(path)[name]
    except (OSError, SafetensorError, KeyError) as error:
        raise UserError(f"{path}: unreadable ({error})") from None


class Pretrained:
    """What a module with `config` and `metadata` needs to be kept in a folder."""

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` and `model.safetensors`."""
        save_model(self, folder)

    @classmethod
    def from_pretrained(cls, folder: str | Path, device="cpu") -> Self:
        """Load what `save_pretrained` or training wrote (a run's folder or its `model/`).

        Raises:
            UserError: if there is no such model, or its files are damaged.
        """
        folder = Path(folder).expanduser()
        if not (folder / "config.json").is_file():
            folder = folder / "model"
        return load_model(cls, folder, device)
