"""The one place where files are opened, replaced, locked and cleaned away.

Models, runs and data come from strangers: what is read is a regular file of bounded size, no path
below a model's or a run's folder is followed through a link, and only a folder that a run has
marked as its own is written to.
"""

from __future__ import annotations

import errno
import gzip
import io
import json
import os
import re
import stat
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

from graphcnf.compute.cpu import memory
from graphcnf.errors import UserError

_PLAIN = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
NO_LINK = getattr(os, "O_NOFOLLOW", 0) | _PLAIN

LARGEST_TEXT = 64 << 20
"""Bytes of the largest configuration, journal or other file of text."""

MEMORY_SHARE = 8
"""A data file may take 1/8 of the memory: what is made of it takes several times as much."""

RUN_MARK = "run.json"
"""File that a run writes first into its folder."""

LEAST_UNPACKED, MOST_TIMES = 64 << 20, 100
"""Bytes that a packed file may hold in any case, and times its size; data shrink to a twentieth."""


def expand_user(path: str | Path) -> Path:
    """Return the path with ~ and ~name spelt out; raises `UserError` for an unknown user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{path}: there is no such home directory") from None


def installed_file(package: str, *parts: str) -> Path | None:
    """Return a file of an installed package without importing it; None where there is none.

    Args:
        package: Name that it is imported by.
        parts: Folders and name of the file, below the package.
    """
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder, *parts)
        if path.is_file():
            return path
    return None


def inside(folder: str | Path, *parts: str) -> Path:
    """Return a path below a folder that a stranger may have made.

    Raises `UserError` where a part of it, but not the folder, is a symbolic link.
    """
    path = Path(folder)
    for part in parts:
        path = path / part
        if os.path.islink(path):
            raise UserError(
                f"{path} is a symbolic link: below the folder of a model or run none is followed"
            )
    return path


def open_input(path: str | Path, most: int | None = None) -> BinaryIO:
    """Open a regular file of at most `most` bytes, or a link to one, for reading.

    Raises:
        OSError: There is no such file, it is something else (a pipe is not waited for), or larger.
    """
    file = _regular(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _PLAIN, "rb")
    size = os.fstat(file.fileno()).st_size
    if most is not None and size > most:
        file.close()
        raise OSError(errno.EFBIG, f"{size:,} bytes, at most {most:,} are read", str(path))
    return file


def _regular(path: str | Path, flags: int, mode: str) -> Any:
    handle = os.open(path, flags, 0o666)
    kind = os.fstat(handle).st_mode
    if stat.S_ISREG(kind):
        return open(handle, mode)
    os.close(handle)
    if stat.S_ISDIR(kind):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "a pipe or device, no regular file", str(path))


def read_file(path: str | Path, most: int | None = None) -> bytes:
    """Return the content of a regular file of at most `most` bytes.

    By default, `most` is 1/`MEMORY_SHARE` of the memory. Raises OSError if the file is missing,
    larger, or no regular file.
    """
    with open_input(path, memory() // MEMORY_SHARE if most is None else most) as file:
        return file.read()


def read_json(path: str | Path) -> Any:
    """Return the value of a JSON file; raises OSError as `open_input`, ValueError for no JSON."""
    try:
        return json.loads(read_file(path, LARGEST_TEXT))
    except RecursionError:
        raise ValueError("brackets within brackets without end") from None


class NotUnpacked(ValueError):
    """Content of a gzip file that cannot be had; the message says why."""


def most_unpacked(data: bytes) -> int:
    """Return the largest number of bytes that packed `data` may unpack to."""
    return max(LEAST_UNPACKED, MOST_TIMES * len(data))


def gunzip(data: bytes) -> bytes:
    """Return the content of a gzip file; raises `NotUnpacked` where it is damaged or too large."""
    most = most_unpacked(data)
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            content = file.read(most + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise NotUnpacked(f"no intact gzip file: {error}") from error
    if len(content) > most:
        raise NotUnpacked(
            f"a gzip file of {len(data):,} bytes that holds more than {most:,}: unpack it first, "
            "if that is meant"
        )
    return content


def replace_file(path: Path, data: bytes) -> None:
    """Write `data` under a temporary name in the same folder, then rename it to `path`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open_new(temporary) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.filename is None:  # as where the disk is full
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def check_output(path: Path) -> None:
    """Raise `UserError` where replacing the file would replace a link, a pipe or a device."""
    if os.path.islink(path) or (path.exists() and not path.is_file()):
        kind = "a folder" if path.is_dir() else "a link or no regular file"
        raise UserError(f"{path} is {kind}: write to another one")


def write_file(path: Path, data: bytes) -> None:
    """Write a file that a user asked for as `replace_file`; raises `UserError`."""
    check_output(path)
    try:
        replace_file(path, data)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None


def leftovers(path: Path) -> list[Path]:
    """Return the temporary files that killed writers of `path` have left beside it."""
    name = re.compile(rf"\.{re.escape(path.name)}\.[0-9]+\.tmp")
    try:
        names = os.listdir(path.parent)
    except FileNotFoundError:
        return []
    found = [path.with_name(n) for n in names if name.fullmatch(n)]
    return [p for p in found if os.path.islink(p) or p.is_file()]


def claim(folder: Path, kind: str) -> bool:
    """Make and mark the folder of a run; return True where it was not marked before.

    `kind` is "training" or "optimization".

    Raises:
        UserError: The folder holds something, and no run of this kind.
    """
    if is_claimed(folder, kind):
        return False
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / RUN_MARK, _mark(kind))
    return True


def is_claimed(folder: Path, kind: str) -> bool:
    """Return True if a run of this kind has marked the folder; change nothing.

    Raises `UserError` if it holds something, but no such run.
    """
    with suppress(OSError):
        if read_file(inside(folder, RUN_MARK), 1000) == _mark(kind):
            return True
    try:
        others = {path.name for path in folder.iterdir()}
    except FileNotFoundError:
        return False
    if others - {path.name for path in leftovers(folder / RUN_MARK)}:
        raise UserError(
            f"{folder} is not empty and holds no {kind} run: choose another folder, nothing in "
            "this one is touched"
        )
    return False


def _mark(kind: str) -> bytes:
    return (json.dumps({"program": "graphcnf", "run": kind}) + "\n").encode()


def open_new(path: Path) -> Any:
    """Return an empty binary file of this name, in place of whatever has it."""
    path.unlink(missing_ok=True)
    return open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | NO_LINK, 0o666), "r+b")


def open_kept(path: Path) -> Any:
    """Return a binary file with what it holds, made if missing; raises OSError for a link."""
    return _regular(path, os.O_RDWR | os.O_CREAT | NO_LINK, "r+b")


@contextmanager
def file_lock(lock: Path, what: Path | str) -> Iterator[None]:
    """Keep other processes out; the kernel lets go of the lock when this one dies.

    Args:
        lock: File that is locked, and deleted at the end.
        what: Name of what is being written, for the message.

    Raises:
        UserError: Another process holds the lock, or the file is a link.
    """
    from filelock import FileLock, Timeout

    if not lock.parent.is_dir():  # FileLock would make it
        code = errno.ENOTDIR if lock.parent.exists() else errno.ENOENT
        raise OSError(code, os.strerror(code), str(lock))
    check_output(lock)
    held = FileLock(lock, timeout=0)
    try:
        # Where the kernel knows no locks, the file itself is one; FileLock would warn of it.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            held.acquire()
    except Timeout:
        raise UserError(f"{what}: another process is writing it; wait or stop it") from None
    try:
        yield
    finally:
        # Before it is released: who comes next makes a new one. Windows deletes it by itself.
        with suppress(PermissionError):
            lock.unlink(missing_ok=True)
        held.release()
