"""Models saved in a folder: `config.json` rebuilds a model, `model.safetensors` has its weights.

- The *config* of a model is the arguments of its constructor by name, JSON values.
- Its *metadata* are facts about its data, such as the vocabulary, JSON values, too.
- `config.json` holds both. *Safetensors* files hold weights and further arrays, and no code.
- Every file contains a *checksum* of its content, which tells that it is damaged.

`Pretrained` is the base of all models that can be saved. A folder may come from a stranger. So
sizes and types in `config.json` are checked before memory is reserved for a model, no link inside
the folder is followed, and nothing is unpickled.
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
from graphcnf.registry import Registry
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

SOURCES = Registry("sources", {"hub": "graphcnf.hub.repository:fetch"})
"""Functions that download a model by its name, and return its folder."""

Model = TypeVar("Model", bound="Pretrained")


def save_model(
    model: nn.Module, folder: str | Path, *, half: bool = False, **arrays: np.ndarray
) -> None:
    """Write a model to a folder, from which `load_model` reads it.

    Each file is replaced as a whole: after a crash it has the old or the new content.

    Further `arrays` are written to `NAME.safetensors`, for `load_array`; with `half`, parameters
    are stored in float16 and loaded as float32.
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
    """Return the bytes of a `config.json` ("format", "model", "metadata") with a new checksum."""
    # The checksum is that of the file's content, where keys are strings.
    content = json.loads(json.dumps({k: v for k, v in content.items() if k != CHECKSUM}))
    content[CHECKSUM] = _digest_of_json(content)
    return (json.dumps(content, indent=1) + "\n").encode()


def model_folder(name_or_folder: str | Path, *, shipped: bool = False) -> Path:
    """Find the folder of a model by what a user gives: a name, a path or a model of the hub.

    The first of these that exists is taken:

    - with `shipped`, shipped weights of this name, such as "zinc250k", all of molecules;
    - the folder of a model;
    - the folder of a training run, in which the model is the folder `model`;
    - a model of the Hugging Face hub, "org/name" or "org/name@revision", which is downloaded
      (`graphcnf.hub.repository.fetch`). This is tried only if there is no folder "org" here.
    """
    folder = expand_user(name_or_folder)
    names = [WEIGHTS / str(name_or_folder)] if shipped else []
    for candidate in (*names, folder, inside(folder, "model")):
        if (candidate / "config.json").is_file():
            return candidate
    if str(name_or_folder).count("/") == 1 and not folder.parent.exists():
        return SOURCES["hub"](name_or_folder)
    known = ", ".join(sorted(p.parent.name for p in WEIGHTS.glob("*/config.json")))
    raise UserError(
        f"no model {str(name_or_folder)!r}: give a folder with config.json and model.safetensors"
        + (f", or one of the shipped models ({known or 'none'})" if shipped else "")
    )


@own_modes()
def load_model(cls: type[Model], folder: Path, device="cpu") -> Model:
    """Load a model from its folder.

    Nothing in the folder is trusted. First `config.json` is read and checked. Then the model is
    built with initial weights, and refused if it has 2^24 (`SPARE`) more parameters than the file
    of weights can hold. Then this file is read.

    `cls.rebuild` builds the model, in evaluation mode, and may choose a subclass.
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
    """Read a `config.json`, and check it."""
    content = read_json(path)
    if content["format"] != FORMAT:
        raise ValueError(f"format {content['format']}, this version reads {FORMAT}")
    if content.pop(CHECKSUM) != _digest_of_json(content):
        raise ValueError("its checksum does not match")
    return content


def _load_weights(model: nn.Module, path: Path) -> None:
    """Set the parameters and buffers of a model to those of a file."""
    tensors = _read_checked(path, "pt")
    for name, initial in model.state_dict().items():
        kind = tensors[name].dtype if name in tensors else initial.dtype
        if kind != initial.dtype and not {kind, initial.dtype} <= REAL:
            raise UserError(f"{path}: {name} is of type {kind}, not {initial.dtype}")
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise UserError(f"{path}: the weights do not fit config.json") from error
    if not all(parameter.isfinite().all() for parameter in model.parameters()):
        raise UserError(f"{path}: weights that are no numbers; train again")


def check_device(device: Any) -> torch.device:
    """Return a torch device, after a small tensor was put on it, so that a bad name fails early."""
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
    """Refuse a config from a file whose numbers are so large that a model would take all memory.

    `Pretrained.rebuild` calls it before a model is built. Every number in the config, at any depth,
    is limited as if it were a size: to 100,000 (`LARGEST_SIZE`), or to what `LARGEST_SIZES` says
    for its name. Lists may hold whole numbers only.

    `not_sizes` are names whose values are not looked at; `name` is for the message.
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
    """Check the types of entries of metadata that were read from a file; missing ones pass."""
    for name, kind in kinds.items():
        if name in metadata and not isinstance(metadata[name], kind):
            raise ValueError(f"metadata.{name} is no {kind.__name__}")


def load_array(folder: Path, name: str) -> np.ndarray | None:
    """Load an array that `save_model` wrote beside the weights; None if there is no such file."""
    path = inside(folder, f"{name}.safetensors")
    if not path.exists():
        return None
    arrays = _read_checked(path, "np")
    if name not in arrays:
        raise UserError(f"{path}: unreadable (it holds no {name})")
    return arrays[name]


def _read_checked(path: Path, framework: str) -> dict[str, Any]:
    """Read a safetensors file, and check its checksum."""
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
    """Read tensors and metadata of a safetensors file, `framework` "pt" (torch) or "np".

    Its checksum is not checked here.
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
    """Return a SHA-256 of config, metadata and weights in memory, which tells two models apart."""
    tensors = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    content = [model.config, model.metadata, _digest_of_tensors(tensors)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def keep_arguments(constructor: Callable) -> Callable:
    """Decorate the `__init__` of a `Pretrained`, so that it sets `self.config` to its arguments.

    A saved model is rebuilt from this `config` when it is loaded. The `config` has the arguments
    that were given, by name, also those of `**options`. Arguments left at their defaults are not in
    it: a loaded model gets the defaults of the version that loads it. The `config` is set before
    the body of `__init__` runs, which may read it or add to it.

    A subclass with an `__init__` of its own decorates it, too, also if that of its base class is
    decorated. The `config` then has the arguments of the subclass.

    The arguments must be JSON values.
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
    """Base of all models: modules that can be saved to a folder and loaded from it.

    A subclass writes `keep_arguments` above its constructor, which sets `config`, and sets
    `metadata` in it.

    Attributes:
        config: Arguments of the constructor by name, JSON values, from which `rebuild` builds the
            model again.
        metadata: Facts about the data of the model, JSON values by name.
        registry: Classes by architecture, of a base class of several models; None for others.
        architecture: Short name of the class in `registry`; "" if it has several, which its
            constructor takes.
        not_sizes: Names in the `config`, at any depth, whose numbers do not determine how large the
            model is, such as means of data. All other numbers are limited when a model is loaded,
            see `check_sizes`.
    """

    config: dict[str, Any]
    metadata: dict[str, Any]
    registry: ClassVar[Registry | None] = None
    architecture: ClassVar[str] = ""
    not_sizes: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def rebuild(cls, config: Mapping[str, Any]) -> Self:
        """Build a model with initial weights from the `config` of another one.

        A base class with a `registry` looks up the class by the config's architecture.
        """
        found, arguments = cls, dict(config)
        name = arguments.get("architecture")
        if cls.registry is not None and (name != cls.architecture or not name):
            found = cls.registry.find(name, "architecture")
        if not issubclass(found, cls):
            raise ValueError(f'a model of architecture "{name}"')
        if found.architecture:
            del arguments["architecture"]
        check_sizes(arguments, found.not_sizes)
        return found(**arguments)

    def check_metadata(self, metadata: Any) -> None:
        """Check metadata that were read from a file, before they become those of this model.

        `load_model` calls it. A subclass whose methods read entries of the metadata overrides it,
        and checks these, so that a damaged file fails here, and not later.
        """
        if not isinstance(metadata, dict):
            raise ValueError("metadata is no object")
        check_kinds(metadata, training=dict, dataset=str)

    @property
    def device(self) -> torch.device:
        """Device of the weights, that of the first parameter."""
        return next(self.parameters()).device

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model to a folder, from which `from_pretrained` loads it."""
        save_model(self, folder)

    @classmethod
    def from_pretrained(cls, folder: str | Path, device="cpu") -> Self:
        """Load a model that `save_pretrained` or training wrote.

        The folder may be that of a training run, or "org/name" of the Hugging Face hub. The model
        is in evaluation mode.
        """
        return load_model(cls, model_folder(folder), device)
