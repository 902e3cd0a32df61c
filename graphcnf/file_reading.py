"""Opening of files for reading, and where shipped weights are.

Folders of models and of runs, and files of data, may come from strangers. So only *regular* files
are read (no folder, pipe or device), up to a limit of their size. A symbolic link that a user names
is followed, but none inside a folder of a model or run: it could lead to any file of the user.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

from graphcnf.errors import UserError

WEIGHTS = Path(__file__).resolve().parent / "weights"
"""Folder of the shipped weights, with one folder per model."""

LARGEST_TEXT = 64 << 20
"""Size limit of configurations, journals and other text files, in bytes."""

PLAIN = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
"""Flags of every opened file: not inherited by child processes, line ends left as they are."""


def expand_user(path: str | Path) -> Path:
    """Replace a leading ~ or ~name of a path by the home directory, as a shell does."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{path}: there is no such home directory") from None


def inside(folder: str | Path, *parts: str) -> Path:
    """Join a folder and names below it, and check that no symbolic link leads out of the folder.

    The folder itself may be a link, since the user named it; its content may be a stranger's.
    """
    path = Path(folder)
    for part in parts:
        path = path / part
        if os.path.islink(path):
            raise UserError(
                f"{path} is a symbolic link: links inside the folder of a model or run are not "
                "followed"
            )
    return path


def open_input(path: str | Path, limit: int | None = None) -> BinaryIO:
    """Open a regular file of at most `limit` bytes, or a link to one; all else is an OSError."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | PLAIN)
    found = os.fstat(handle)
    if stat.S_ISREG(found.st_mode) and (limit is None or found.st_size <= limit):
        return open(handle, "rb")
    os.close(handle)
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "a pipe or device, no regular file", str(path))
    raise OSError(errno.EFBIG, f"{found.st_size:,} bytes, the limit is {limit:,}", str(path))


def read_file(path: str | Path, limit: int) -> bytes:
    """Return the content of a regular file, or of one to which a link leads."""
    with open_input(path, limit) as file:
        return file.read()


def read_json(path: str | Path) -> Any:
    """Return the value in a JSON file of up to 64 MiB."""
    try:
        return json.loads(read_file(path, LARGEST_TEXT))
    except RecursionError:
        raise ValueError("brackets are nested too deeply") from None
