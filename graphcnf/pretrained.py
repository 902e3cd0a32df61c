"""Models saved in a folder: `config.json` rebuilds a model, `model.safetensors` has its weights.

A model keeps the arguments of its constructor in its *config* and facts about its data, such as the
vocabulary, in its *metadata*, both JSON values. Every file contains a *checksum* of its content,
which shows that it is damaged. A folder may come from a stranger, so that its sizes and types are
checked before memory is reserved for a model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as save_arrays
from safetensors.torch import save
from torch import nn

from graphcnf.errors import UserError
from graphcnf.file_reading import LARGEST_TEXT, WEIGHTS, expand_user, inside, open_input, read_json
from graphcnf.limits import LARGEST_SIZE, LARGEST_SIZES, limited_parameters
from graphcnf.torch_state import own_modes

FORMAT = 2
"""Version of the folder's layout; a file of another version is refused."""

CHECKSUM = "sha256"
"""Key of the checksum, in `config.json` and in the metadata of safetensors files."""

LARGEST_TENSORS = 20_000
"""Largest number of tensors in a file: reading 300,000 empty ones takes 16 seconds."""

SPARE = 1 << 24
"""Number of parameters beyond the size of the weights file that a constructor may create."""

REAL = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
"""Types of weights, which are converted to each other when weights are loaded."""

Model = TypeVar("Model", bound="Pretrained")


def save_model(
    model: nn.Module, folder: str | Path, *, half: bool = False, **arrays: np.ndarray
) -> None:
    """Write a model to a folder; files are replaced atomically.

    Args:
        model: A module with `config` and `metadata`, such as a `Pretrained`.
        folder: The folder, created if missing.
        half: True to store parameters in float16, for half the size; they are loaded as float32.
        **arrays: Further arrays, each written to the safetensors file of that name; read them with
            `load_array`.

    Raises:
        UserError: if a file to be replaced is a symbolic link.
        OSError: if a file cannot be written.
    """
    from graphcnf.file_writing import replace_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    if half:  # Not buffers: these constants may not be representable.
        weights |= {k: weights[k].half() for k, _ in model.named_parameters()}
    files = {"model.safetensors": save(weights, {CHECKSUM: _digest_of_tensors(weights)})}
    for name, array in arrays.items():
        digest = {CHECKSUM: _digest_of_tensors({name: array})}
        files[f"{name}.safetensors"] = save_arrays({name: array}, digest)
    content = {"format": FORMAT, "model": model.config, "metadata": model.metadata}
    files["config.json"] = config_file(content)
    for name, data in files.items():
        replace_file(inside(folder, name), data)


def config_file(content: dict[str, Any]) -> bytes:
    """Return the bytes of `config.json`.

    Args:
        content: JSON values "format", "model" (the config) and "metadata"; a checksum is added.
    """
    # The checksum is that of the file's content, where keys are strings.
    content = json.loads(json.dumps({k: v for k, v in content.items() if k != CHECKSUM}))
    content[CHECKSUM] = _digest_of_json(content)
    return (json.dumps(content, indent=1) + "\n").encode()


def model_folder(name_or_folder: str | Path, *, shipped: bool = False) -> Path:
    """Find the folder of a model, which is downloaded if it is one of the Hugging Face hub.

    Args:
        name_or_folder: One of these, the first that exists: the folder itself; the folder of a
            training run, whose `model/` is taken; a model of the hub, "org/name" or
            "org/name@revision" (`graphcnf.hub.repository.fetch`). A text "org/name" is taken for
            the hub only if there is no folder "org" here.
        shipped: True to look first for shipped weights of this name, such as "zinc250k". All are
            for molecules; models of other data leave it False.

    Returns:
        The folder that holds `config.json`.

    Raises:
        UserError: if there is no such model.
    """
    folder = expand_user(name_or_folder)
    names = [WEIGHTS / str(name_or_folder)] if shipped else []
    for candidate in (*names, folder, inside(folder, "model")):
        if (candidate / "config.json").is_file():
            return candidate
    if str(name_or_folder).count("/") == 1 and not folder.parent.exists():
        from graphcnf.hub.repository import fetch

        return fetch(name_or_folder)
    known = ", ".join(sorted(p.parent.name for p in WEIGHTS.glob("*/config.json")))
    raise UserError(
        f"no model {str(name_or_folder)!r}: give a folder with config.json and model.safetensors"
        + (f", or one of the shipped models ({known or 'none'})" if shipped else "")
    )


@own_modes()
def load_model(cls: type[Model], folder: Path, device="cpu") -> Model:
    """Rebuild a model from its folder, in evaluation mode.

    Nothing in the folder is trusted: first the configuration is read and checked, then the model is
    built with initial weights, of which there may not be many more than the file of weights holds,
    and then this file is read.

    Args:
        cls: Class of the model, or a base class that finds it in the configuration (`rebuild`).
        folder: Folder that holds `config.json`.
        device: Device of the weights, such as "cuda:1".

    Returns:
        The model, an instance of `cls` or of a subclass.

    Raises:
        UserError: if configuration or weights are missing or damaged, or do not fit together.
    """
    source = inside(folder, "config.json")
    weights = inside(folder, "model.safetensors")
    try:
        content = _read_config(source)
        size = weights.stat().st_size if weights.exists() else 0
        # A parameter takes at least two bytes of the file.
        with limited_parameters(size // 2 + SPARE, f"{weights.name} holds {size:,} bytes"):
            model = cls.rebuild(content["model"])
        model.check_metadata(content["metadata"])
        model.metadata = content["metadata"]
    except Exception as error:  # a hostile configuration may cause any exception
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{source}: not the config of a {cls.__name__} ({reason})") from error
    _load_weights(model, weights)
    return model.to(check_device(device)).eval()


def _read_config(path: Path) -> dict[str, Any]:
    """Return the content of a `config.json` without its checksum, after checking that.

    Raises:
        OSError, TypeError, KeyError: The file cannot be read, or has another form.
        ValueError: It has another format or another checksum.
    """
    content = read_json(path)
    if content["format"] != FORMAT:
        raise ValueError(f"format {content['format']}, this version reads {FORMAT}")
    if content.pop(CHECKSUM) != _digest_of_json(content):
        raise ValueError("its checksum does not match")
    return content


def _load_weights(model: nn.Module, path: Path) -> None:
    """Set the parameters and buffers of a model to those of a file.

    Raises:
        UserError: The file is missing or damaged, does not fit the model, or holds parameters that
            are no finite numbers.
    """
    tensors = _read_checked(path, "pt")
    for name, initial in model.state_dict().items():
        kind = tensors[name].dtype if name in tensors else initial.dtype
        if kind != initial.dtype and not {kind, initial.dtype} <= REAL:
            raise UserError(f"{path}: {name} is of type {kind}, not {initial.dtype}")
    try:
        model.load_state_dict(tensors)
    except RuntimeError:
        raise UserError(f"{path}: the weights do not fit config.json") from None
    if not all(parameter.isfinite().all() for parameter in model.parameters()):
        raise UserError(f"{path}: weights that are no numbers; train again")


def check_device(device: Any) -> torch.device:
    """Return a torch device, after trying to use it.

    Args:
        device: Name such as "cuda:1", or a torch device.

    Raises:
        UserError: if there is no such device, or it is unusable.
    """
    try:
        checked = torch.device(device)
    except (RuntimeError, TypeError):
        raise UserError(f"no device {device!r}: give cpu, cuda, cuda:1 or mps") from None
    try:
        torch.zeros(1, device=checked).cpu()
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or ["not available"])[0]
        raise UserError(f"device {device!r}: {reason.partition('. ')[0][:200]}") from None
    return checked


def check_sizes(config: Any, not_sizes: Collection[str] = (), name: str = "model") -> None:
    """Raise `ValueError` for sizes in a configuration that would take all memory.

    Every number in the configuration, at any depth, is limited as if it were a size: to
    `LARGEST_SIZE`, or to what `LARGEST_SIZES` says for its name. Lists hold whole numbers.

    Args:
        config: Configuration, or a value in it, at any depth.
        not_sizes: Names whose values are not looked at, see `Pretrained.not_sizes`.
        name: Name of this value; values in a list have that of the list.
    """
    if isinstance(config, Mapping):
        for key, value in config.items():
            if key not in not_sizes:
                check_sizes(value, not_sizes, str(key))
    elif isinstance(config, list):
        for value in config:
            if isinstance(value, float):
                raise ValueError(f"{name} holds {value}, no whole number")
            check_sizes(value, not_sizes, name)
    elif isinstance(config, int | float):
        most = LARGEST_SIZES.get(name, LARGEST_SIZE)
        if not abs(config) <= most:
            raise ValueError(f"{name} = {config:,}: at most {most:,} is taken")


def check_kinds(metadata: Mapping[str, Any], **kinds: type) -> None:
    """Raise `ValueError` for an entry of metadata that is there, and is of another type.

    Args:
        metadata: The metadata.
        **kinds: Type of the entry of each name.
    """
    for name, kind in kinds.items():
        if name in metadata and not isinstance(metadata[name], kind):
            raise ValueError(f"metadata.{name} is no {kind.__name__}")


def load_array(folder: Path, name: str) -> np.ndarray | None:
    """Return an array that `save_model` wrote to a folder, None if there is none.

    Args:
        folder: The folder.
        name: Name that the array had as an argument of `save_model`.

    Raises:
        UserError: if the file is unreadable or damaged.
    """
    path = inside(folder, f"{name}.safetensors")
    if not path.exists():
        return None
    arrays = _read_checked(path, "np")
    if name not in arrays:
        raise UserError(f"{path}: unreadable (it holds no {name})")
    return arrays[name]


def _read_checked(path: Path, framework: str) -> dict[str, Any]:
    """Return the tensors of a safetensors file by name, after checking their checksum.

    Args:
        path: The file.
        framework: "pt" for torch tensors, "np" for numpy arrays.

    Raises:
        UserError: if the file is unreadable or damaged.
    """
    try:
        tensors, metadata = read_tensors(path, framework)
        right = metadata.get(CHECKSUM) == _digest_of_tensors(tensors)
    except (OSError, TypeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:120]
        raise UserError(f"{path}: unreadable ({reason})") from None
    if not right:
        raise UserError(f"{path}: damaged (its checksum does not match)")
    return tensors


def read_tensors(path: Path, framework: str = "pt") -> tuple[dict[str, Any], dict[str, str]]:
    """Read a safetensors file.

    Args:
        path: The file.
        framework: "pt" for torch tensors, "np" for numpy arrays.

    Returns:
        The tensors by name, and the metadata.

    Raises:
        OSError: if there is no such file, or it is not a regular file.
        ValueError: if the file is damaged, or has more than `LARGEST_TENSORS` tensors.
    """
    with open_input(path) as content:
        length = int.from_bytes(content.read(8), "little")
        if length > LARGEST_TEXT:
            raise ValueError(f"a header of {length:,} bytes, at most {LARGEST_TEXT:,} are read")
        # The header is a JSON object with one object for each tensor.
        if content.read(length).count(b"{") > LARGEST_TENSORS:
            raise ValueError(f"more than {LARGEST_TENSORS:,} tensors")
    try:
        with safe_open(path, framework) as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(str(error)) from None


def _digest_of_json(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of JSON values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _digest_of_tensors(tensors: Mapping[str, Any]) -> str:
    """Return the SHA-256 of names, types, shapes and contents of torch tensors or numpy arrays."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        if getattr(tensor, "dtype", None) is torch.bfloat16:  # numpy has no bfloat16
            tensor = tensor.view(torch.int16)
        array = np.ascontiguousarray(np.asarray(tensor))
        digest.update(f"{name} {array.dtype.str} {array.shape};".encode())
        digest.update(array.data if array.size else b"")
    return digest.hexdigest()


def model_digest(model: nn.Module) -> str:
    """Return the SHA-256 of the configuration, metadata and weights of a model in memory."""
    tensors = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    content = [model.config, model.metadata, _digest_of_tensors(tensors)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def keep_arguments(constructor: Callable) -> Callable:
    """Decorate the `__init__` of a `Pretrained`, so that it sets `self.config` to its arguments.

    A saved model is rebuilt from this `config` when it is loaded. It has the arguments that were
    given, by name, also those of `**options`. Those left at their defaults are not in it: a model
    that is loaded gets the defaults of the version that loads it. The `config` is there before the
    body of `__init__` runs, which may read it or add to it.

    If the `__init__` of a subclass takes other arguments than that of its base class, both are
    decorated: the `config` has the arguments of the subclass, whose `__init__` is called first.

    Args:
        constructor: The `__init__`; its arguments must be JSON values.

    Returns:
        The decorated `__init__`.
    """
    known = signature(constructor)
    further = [name for name, one in known.parameters.items() if one.kind is one.VAR_KEYWORD]

    @wraps(constructor)
    def construct(self, *args, **options):
        if "config" not in vars(self):  # else it has the arguments of a subclass
            config = known.bind(self, *args, **options).arguments
            del config["self"]
            for name in further:
                config |= config.pop(name, {})
            self.config = config
        constructor(self, *args, **options)

    return construct


class Pretrained(nn.Module):
    """Base of modules that can be saved to a folder and loaded.

    The constructor of a subclass sets `config` and `metadata`: the first by the decorator
    `keep_arguments`, or by itself.

    Attributes:
        config: Arguments of the constructor, JSON values, from which `rebuild` makes the module.
        metadata: Facts about its data, JSON values.
        not_sizes: Names in the `config`, at any depth, whose numbers do not determine how large the
            module is, such as means of data. All others are limited when a model is loaded, see
            `check_sizes`.
    """

    config: dict[str, Any]
    metadata: dict[str, Any]
    not_sizes: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def rebuild(cls, config: Mapping[str, Any]) -> Self:
        """Build a module with initial weights from the `config` of another one.

        Args:
            config: Arguments of the constructor by name, read from a stranger's file.

        Raises:
            ValueError: if a size is too large.
        """
        check_sizes(config, cls.not_sizes)
        return cls(**config)

    def check_metadata(self, metadata: Any) -> None:
        """Raise `ValueError` for metadata, read from a file, that would fail when they are used.

        A subclass whose methods read metadata checks these.

        Args:
            metadata: The metadata, any JSON value.
        """
        if not isinstance(metadata, dict):
            raise ValueError("metadata is no object")
        check_kinds(metadata, training=dict, dataset=str)

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(self.parameters()).device

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` and `model.safetensors` to a folder, which is created if missing."""
        save_model(self, folder)

    @classmethod
    def from_pretrained(cls, folder: str | Path, device="cpu") -> Self:
        """Load what `save_pretrained` or training wrote, in evaluation mode.

        Args:
            folder: Folder of a model, or of a training run; or "org/name" of the Hugging Face hub.
            device: Device of the weights, such as "cuda:1".

        Returns:
            The module.

        Raises:
            UserError: if there is no such model, or its files are damaged.
        """
        return load_model(cls, model_folder(folder), device)
