"""Checks that no output of a command replaces what it reads, or lies in a model or run.

- *Role*: what a command does with the files that an option or argument names. It stands in the
  `Annotated` type of the parameter. `guard` checks all commands of an app by the roles, before they
  begin.
- *App*: a `typer.Typer` object, a group of commands.
- *Run*: the folder of a training or search, which may hold models. *Data* are files of molecules,
  images or numbers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from enum import Enum
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
from typer.models import ArgumentInfo, CommandInfo, ParameterInfo

from graphcnf.errors import UserError
from graphcnf.file_reading import WEIGHTS, expand_user
from graphcnf.run_folder import RUN_MARK
from graphcnf.sampling.writers import KINDS

RUN_DEPTH = 2
"""Folders between a run and the models in it, such as `snapshots/00000100`, at most."""

MARKS = ((RUN_MARK,), ("config.json", "model.safetensors"))
"""Files of which a run, or a model, has all."""

CURVES = ("curves.svg", "curves.png")
"""Files that `plot` writes into the run that it reads."""

DATA = (*(f".{kind}" for kind in KINDS), ".png")
"""Endings of the files that a folder of data consists of, among those that commands write."""


class Role(Enum):
    """What a command does with the files that an option or argument names.

    Attributes:
        FILE: Reads a file, which may be part of the value, as in FILE:VALUE or FILE.py:FUNCTION.
            The value may also name no file at all.
        FILES: Reads a file, or the files of data that lie in a folder.
        MODEL: Reads the folder of a model or run, or shipped weights with this name.
        OUTPUT: Writes a file or folder.
        PLOT: Writes a file, which may be curves.svg or curves.png in the run that the command
            reads.
        RUN: Writes a run or model, and continues or replaces its own if it is there.
    """

    FILE = "file"
    FILES = "files"
    MODEL = "model"
    OUTPUT = "output"
    PLOT = "plot"
    RUN = "run"


def guard(app: typer.Typer) -> None:
    """Let all commands of an app check their files before they begin, by `check_outputs`.

    Args:
        app: The app, whose commands are wrapped in place.

    Raises:
        TypeError: A parameter of type `Path` has no `Role`.
    """
    for command in commands(app):
        assert command.callback is not None
        command.callback = _guarded(command.callback)


def commands(app: typer.Typer) -> Iterator[CommandInfo]:
    """Yield the commands of an app and of the apps within it.

    Args:
        app: The app.

    Yields:
        Typer's description of a command; its `callback` is the function, and may be replaced.
    """
    yield from app.registered_commands
    for group in app.registered_groups:
        if group.typer_instance is not None:
            yield from commands(group.typer_instance)


def roles_of(command: Callable[..., None]) -> dict[str, tuple[str, Role | None]]:
    """Return how users write each parameter of a command, and its `Role`.

    Args:
        command: The function of the command.

    Returns:
        `{parameter: (name, role)}` such as `{"out": ("--out", Role.OUTPUT)}`. The name of an option
        is its first one that begins with --; that of an argument is its placeholder in --help. The
        role is None for a parameter that names no file.

    Raises:
        TypeError: A parameter of type `Path` has no role.
    """
    found: dict[str, tuple[str, Role | None]] = {}
    for parameter, hint in get_type_hints(command, include_extras=True).items():
        kind, *others = get_args(hint) if get_origin(hint) is Annotated else [hint]
        role = next((one for one in others if isinstance(one, Role)), None)
        if role is None and "Path" in str(kind):
            raise TypeError(f"{parameter} of {command.__name__} needs a Role: it names a file")
        info = next((one for one in others if isinstance(one, ParameterInfo)), ParameterInfo())
        # In an `Annotated` type, the first name of an option is stored as its default.
        names = [str(name) for name in (info.default, *(info.param_decls or ()))]
        names = [name for name in names if name.startswith("--")]
        if isinstance(info, ArgumentInfo):
            names = [str(info.metavar or parameter.upper())]
        found[parameter] = (*names, f"--{parameter.replace('_', '-')}")[0], role
    return found


def _guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that first checks its outputs, also against models that it does not read."""
    roles = roles_of(command)

    @wraps(command)
    def run(*arguments: Any, **values: Any) -> None:
        named: dict[Role, list[tuple[str, Path]]] = {role: [] for role in Role}
        for parameter, (name, role) in roles.items():
            if role is not None:
                named[role] += [(name, path) for path in paths_of(values.get(parameter), role)]
        paths = {role: [path for _, path in found] for role, found in named.items()}
        data = [*filter(os.path.isfile, paths[Role.FILE]), *paths[Role.FILES]]
        models, runs = paths[Role.MODEL], paths[Role.RUN]
        check_outputs(named[Role.RUN], data, models, runs)
        drawn = [(name, path) for name, path in named[Role.PLOT] if not _is_curve(path, models)]
        for name, path in [*named[Role.OUTPUT], *drawn]:
            check_outputs([(name, path)], data, [*models, *_around(path, runs)], runs)
        command(*arguments, **values)

    return run


def check_outputs(
    written: Iterable[tuple[str, Path]],
    data: Iterable[Path] = (),
    models: Iterable[Path] = (),
    runs: Iterable[Path] = (),
) -> None:
    """Check that no output is an input, or lies in a model or run that is read.

    Files are compared by their inodes: links, relative paths and hard links lead to the same file.

    Args:
        written: Outputs, as pairs of the option that names it and the file or folder.
        data: Files and folders of data that are read.
        models: Folders of models and runs to leave as they are, or names of shipped weights.
        runs: Folders of runs that the command writes; other outputs may lie in them.

    Raises:
        typer.BadParameter: An output is an input, or lies where it must not.
    """
    own, read = set(map(_identity, runs)), set(map(_identity, data))
    folders = [folder for path in models for folder in _folders_of(path, own)]
    for option, out in written:
        identity, place = _identity(out), Path(os.path.realpath(out))
        above = [_identity(parent) for parent in place.parents]
        reason = None
        if identity in read:
            reason = f"{out} is an input file: write to another one"
        elif above and above[0] in read and place.name.lower().endswith(DATA):
            reason = f"{out} lies in {place.parent}, whose files are read: write to another folder"
        for folder in folders:
            if _identity(folder) in (identity, *above) or identity in _linked(out, folder):
                reason = f"{out} lies in {folder}, a model or run: write elsewhere"
        if reason is not None:
            raise typer.BadParameter(reason, param_hint=f"'{option}'")


def paths_of(value: Any, role: Role) -> list[Path]:
    """Return the paths of files that the value of a parameter may name.

    Args:
        value: Value of the parameter: a path, a text, a list of these, or None.
        role: Role of the parameter. With `FILE`, parts of a text between colons count as well, as
            FILE in surrogate:FILE:NAME.

    Returns:
        The distinct paths, which need not exist. A path that begins with ~ is followed by the one
        with the home folder in its place.
    """
    if value is None:
        return []
    value = getattr(value, "path", value)  # of a filter that has been read
    texts = [str(one) for one in (value if isinstance(value, list) else [value])]
    if role is Role.FILE:
        texts += [part for text in texts for part in _between_colons(text)]
    found = [Path(text) for text in texts if text and "\0" not in text]
    for path in found[:]:
        with suppress(UserError):
            found.append(expand_user(path))
    return list(dict.fromkeys(found))


def _between_colons(text: str) -> list[str]:
    """Return the parts of a text that may name a file, such as FILE in surrogate:FILE:NAME."""
    parts = text.split(":")
    starts = range(len(parts) - 1) if len(parts) <= 8 else range(1)
    ends = range(1, len(parts)) if len(parts) <= 8 else (len(parts) - 1,)
    return [":".join(parts[i:j]) for i in starts for j in ends if i < j]


def _identity(path: Path) -> Any:
    """Return a key that is equal for all names of a file or folder, such as links to it."""
    with suppress(OSError):
        found = path.stat()
        return found.st_dev, found.st_ino
    return os.path.realpath(path)


def _folders_of(model: Path, own: set[Any]) -> list[Path]:
    """Return the folders in which nothing is written while a model or run is read."""
    folder = Path(os.path.realpath(model))
    marks = (RUN_MARK, "config.json", "model/config.json")
    if not any(os.path.isfile(folder / name) for name in marks):
        return [WEIGHTS]
    runs = [one for one in (folder, *folder.parents[:RUN_DEPTH]) if os.path.isfile(one / RUN_MARK)]
    return [WEIGHTS, next((run for run in runs if _identity(run) not in own), folder)]


def _around(out: Path, own: Iterable[Path]) -> list[Path]:
    """Return the folders of models and runs in which an output lies, but for a command's own."""
    place, known = Path(os.path.realpath(out)), set(map(_identity, own))
    return [
        folder
        for folder in (place, *place.parents[: RUN_DEPTH + 1])
        if any(all(map(os.path.isfile, map(folder.joinpath, names))) for names in MARKS)
        and _identity(folder) not in known
    ]


def _linked(out: Path, folder: Path) -> set[Any]:
    """Return device and number of each file in a folder, if an output may be a hard link to one."""
    with suppress(OSError):
        if out.is_file() and out.stat().st_nlink > 1:
            return set(map(_identity, folder.rglob("*")))
    return set()


def _is_curve(out: Path, runs: Iterable[Path]) -> bool:
    """Return True if an output is curves.svg or curves.png (`CURVES`) in the folder of a run."""
    folder = Path(os.path.realpath(out)).parent
    return out.name in CURVES and _identity(folder) in map(_identity, runs)
