"""Experiment configurations: TOML presets, overrides, and the file a run keeps of them."""

from __future__ import annotations

import re
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

from graphcnf.compute.files import LARGEST_TEXT, read_file
from graphcnf.errors import UserError, suggest
from graphcnf.training.settings import TrainingSettings

TABLES = ("model", "data", "training")


def preset_names() -> list[str]:
    """Names of the presets that ship with the package, sorted."""
    folder = resources.files("graphcnf.training.presets")
    return sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".toml"))


def load_preset(name_or_path: str | Path) -> dict[str, Any]:
    """Read a shipped preset by name, or any TOML file by path.

    Returns:
        A dict with the tables `model`, `data` and `training`; the last one is checked.

    Raises:
        UserError: unknown preset, unreadable or broken file, unknown table or setting.

    Examples:
        >>> load_preset("set-shuffling")["data"]["name"]
        'sets'
    """
    text_name = str(name_or_path)
    if text_name in preset_names():
        resource = resources.files("graphcnf.training.presets") / f"{text_name}.toml"
        return parse_config(resource.read_text(encoding="utf-8"), f"preset {text_name}")
    path = Path(name_or_path)
    if path.suffix != ".toml" and not path.is_file():
        raise UserError(
            f"unknown preset {text_name!r}{suggest(text_name, preset_names())}"
            " (a file of your own must end in .toml)"
        )
    return load_config(path)


def load_config(path: Path) -> dict[str, Any]:
    """Read a configuration file; the errors are those of `load_preset`."""
    try:
        text = read_file(path, LARGEST_TEXT).decode()
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file; a preset is written in TOML") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    return parse_config(text, str(path))


def parse_config(text: str, source: str) -> dict[str, Any]:
    """Parse and check the text of a configuration; `source` names it in errors."""
    try:
        config = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"^(.*) \(at line (\d+), column (\d+)\)$", str(error))
        if found:
            message, line, column = found.groups()
            raise UserError(f"{source}, line {line}, column {column}: {message}") from None
        raise UserError(f"{source}: {error}") from None
    except RecursionError:
        raise UserError(f"{source}: brackets within brackets without end") from None
    for key, value in config.items():
        if key not in TABLES:
            raise UserError(f"{source}: unknown entry {key!r}{suggest(key, list(TABLES))}")
        if not isinstance(value, dict):
            raise UserError(f"{source}: {key!r} must be a table, written [{key}]")
    config = {table: config.get(table, {}) for table in TABLES}
    TrainingSettings.from_dict(config["training"], f"{source} [training]")
    return config


def apply_overrides(config: dict[str, Any], assignments: list[str]) -> dict[str, Any]:
    """Return `config` with `key=value` assignments applied.

    A key is `table.name` (`model.width=96`); without a table it means `[training]`. A value is
    read as TOML, or as plain text where that fails.

    Raises:
        UserError: an assignment without `=` or with an unknown table.
    """
    result = {table: dict(values) for table, values in config.items()}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--set {assignment}: write it as key=value")
        *path, name = key.strip().split(".")
        table = path.pop(0) if path else "training"
        if table not in TABLES:
            raise UserError(
                f"--set {assignment}: unknown table {table!r}{suggest(table, [*TABLES])}"
            )
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except (tomllib.TOMLDecodeError, RecursionError):
            value = text.strip()
        target = result[table]
        for part in path:
            inner = target.get(part, {})
            if not isinstance(inner, dict):
                raise UserError(f"--set {assignment}: {part!r} is a value, not a table")
            target[part] = target = dict(inner)
        target[name] = value
    return result
