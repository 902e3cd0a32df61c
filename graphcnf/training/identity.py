"""What identifies a run of training: its settings, its model and its data.

A run is continued only with the settings, the model and the data that it began with. Its *identity*
is what is compared: tables of JSON values, `{table: {entry: value}}`. Among them are "training"
(the settings but those in `FREE`, such as the budget) and "content" (a hash of the data). The
checkpoint of a run holds its identity.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch

from graphcnf.errors import UserError
from graphcnf.training.checkpoint import checkpoint_errors
from graphcnf.training.settings import FREE, Experiment, TrainingSettings

ALWAYS = ("training", "content")
"""Tables of the identity of every run."""

PLACES = ("path", "workers")
"""Entries of `[data]` that say where and how data are read; the data themselves are compared."""

COMPARED = 8
"""Training and held-out batches that are compared if an `Experiment` does not name its data."""

DIGITS = 32
"""Hexadecimal digits of the hash of the data."""

SHOWN = 60
"""Characters of a value in a message, at most."""

DEEPEST = 8
"""Levels of nested objects that are hashed."""


def settings_identity(
    settings: TrainingSettings, tables: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Return the part of a run's identity that is known before its data are loaded: the settings.

    Entries that may change are left out: of "training" those in `FREE`, such as the budget, and of
    "data" the entries "path" and "workers" (`PLACES`).
    """
    found: dict[str, Any] = {**tables, "training": settings.to_dict()}
    for table, names in (("training", FREE), ("data", PLACES)):
        if table in found:
            found[table] = {key: v for key, v in found[table].items() if key not in names}
    return json.loads(json.dumps(found, default=lambda value: type(value).__name__))


def run_identity(
    experiment: Experiment,
    settings: TrainingSettings,
    tables: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, dict[str, Any]]:
    """Return the identity of a run: all that must be the same when it is continued.

    These are the tables of `settings_identity`, and "content" with a hash of the data. Without
    `tables`, a table "config" has the attribute `config` of the model, if that is a dictionary.
    """
    config = getattr(experiment.model, "config", None)
    tables = tables or ({"config": config} if isinstance(config, dict) else {})
    content = {"SHA-256 of the data": _data_digest(experiment, settings.seed)[:DIGITS]}
    return {**settings_identity(settings, tables), "content": content}


def check_same_run(state: Mapping[str, Any], identity: Mapping[str, Mapping[str, Any]]) -> None:
    """Check that a checkpoint is of a run with the same settings, model and data.

    A table that the checkpoint lacks is not compared, unless it is "training" or "content"
    (`ALWAYS`).
    """
    path, differences = state["path"], []
    with checkpoint_errors(path):
        for table, now in identity.items():
            if table not in (*ALWAYS, *state["run"]):
                continue
            old, new = (dict(_flat(one)) for one in (state["run"][table], now))
            for name in {**old, **new}:
                was, value = (_shown(one, name) for one in (old, new))
                if was != value:
                    shown = name if table in ALWAYS else f"{table}.{name}"
                    differences.append(f"{shown} was {was}, and is {value} now")
    if differences:
        raise UserError(
            f"{path.parent.parent} holds a run with other settings or data: "
            f"{'; '.join(differences[:3])}{' ...' if len(differences) > 3 else ''}: resume it with "
            "its own ones, or choose another folder"
        )


def check_same_parameters(state: Mapping[str, Any], model: torch.nn.Module) -> None:
    """Check that a checkpoint's weights have the names and shapes of a model's."""
    with checkpoint_errors(state["path"]):
        old, new = (
            {name: list(getattr(value, "shape", ())) for name, value in one.items()}
            for one in (state["model"], model.state_dict())
        )
        for name in {**old, **new}:
            was, now = (_shown(one, name) for one in (old, new))
            if was != now:
                raise UserError(
                    f"{state['path']} belongs to another model: the shape of {name} was {was}, and "
                    f"is {now} now"
                )


def _shown(values: Mapping[str, Any], name: str) -> str:
    """Return an entry of a table as JSON text, "not set" if it is missing."""
    if name not in values:
        return "not set"
    text = json.dumps(values[name])
    if len(text) <= SHOWN:
        return text
    return f"{text[:SHOWN]}... ({hashlib.sha256(text.encode()).hexdigest()[:8]})"


def _flat(table: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the entries of nested tables one by one."""
    for key, value in table.items():
        if isinstance(value, dict) and value:
            yield from ((f"{key}.{name}", inner) for name, inner in _flat(value))
        else:
            yield str(key), value


def _data_digest(experiment: Experiment, seed: int) -> str:
    """Return the SHA-256 of an experiment's data, in hexadecimal digits."""
    digest = hashlib.sha256()
    if experiment.data is not None:
        _hash(digest, experiment.data)
        return digest.hexdigest()
    with torch.random.fork_rng([]):
        for batches in (experiment.train_batches(0, seed, 0), experiment.eval_batches()):
            _hash(digest, list(islice(batches, COMPARED)))
    return digest.hexdigest()


def _hash(digest: Any, value: Any, depth: int = 0) -> None:
    """Add a value to a digest, part by part."""
    if isinstance(value, torch.Tensor):
        flat = value.detach().cpu().contiguous().flatten()
        digest.update(f"{value.dtype} {tuple(value.shape)};".encode())
        digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    elif isinstance(value, np.ndarray) and value.dtype != object:
        digest.update(f"{value.dtype.str} {value.shape};".encode())
        digest.update(np.ascontiguousarray(value).data if value.size else b"")
    elif value is None or isinstance(value, bool | int | float | complex | str | bytes):
        digest.update(f"{value!r};".encode())
    elif depth < DEEPEST:
        parts: dict[Any, Any]
        if is_dataclass(value):
            parts = {f.name: getattr(value, f.name) for f in fields(value) if f.compare}
        elif isinstance(value, Mapping):
            parts = dict(value)
        elif isinstance(value, list | tuple | np.ndarray):
            parts = dict(enumerate(value))
        else:
            parts = getattr(value, "__dict__", {})
        digest.update(f"{type(value).__name__} {len(parts)};".encode())
        for name, part in parts.items():
            digest.update(f"{name}:".encode())
            _hash(digest, part, depth + 1)
