"""Replacing and locking of files, and cells of tables.

A file is replaced as a whole: after a crash it has the old or the new content, never a part. A
*lock* keeps other processes from writing meanwhile.
"""

from __future__ import annotations

import errno
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from graphcnf.errors import UserError
from graphcnf.file_reading import PLAIN


class InUse(UserError):
    """Another process is writing the same file or folder."""


def temporary_of(path: Path) -> Path:
    """Return the file beside another one in which `replacing` puts the new content."""
    return path.with_name(f".{path.name}.tmp")


def lock_of(path: Path) -> Path:
    """Return the file beside another one that `output_lock` locks."""
    return path.with_name(f".{path.name}.lock")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Return a context with the path of a temporary file, which replaces a file when it ends.

    After a crash the file is the old or the new one, never a part. A killed process leaves the
    temporary file, and the next call for the same file deletes it. So only one process at a time
    may be in this context for a file: hold a lock where others could be.

    Args:
        path: The file that is replaced, or made if it is missing.

    Yields:
        The temporary file, in the same folder. After an exception it is deleted, and the file stays
        as it was.

    Raises:
        OSError: The file cannot be written.
    """
    temporary = temporary_of(path)
    try:
        temporary.unlink(missing_ok=True)
        yield temporary
        with open(temporary, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.filename is None:  # for example, the disk is full
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def replace_file(path: Path, data: bytes) -> None:
    """Replace the content of a file; after a crash it has the old or the new content, never a part.

    Only one process at a time may write the file, see `replacing`.

    Args:
        path: The file.
        data: Its new content.

    Raises:
        OSError: The file cannot be written.
    """
    with replacing(path) as temporary, open_new(temporary) as file:
        file.write(data)


def check_output(path: Path) -> None:
    """Raise `UserError` if the path is a link, folder, pipe or device, which are not replaced."""
    if os.path.islink(path) or (path.exists() and not path.is_file()):
        kind = "a folder" if path.is_dir() else "a link or no regular file"
        raise UserError(f"{path} is {kind}: write to another one")


@contextmanager
def output_lock(path: Path) -> Iterator[None]:
    """Return a context in which no other process may write an output file of the user.

    Args:
        path: The file, which need not exist yet.

    Raises:
        UserError: The file is no regular file, another process is writing it, or it cannot be
            written: the `with` block has raised an `OSError` that names no file, this file, or its
            temporary or lock file. An `OSError` about another file is passed on.
    """
    check_output(path)
    try:
        with file_lock(lock_of(path), path):
            yield
    except OSError as error:
        # A full disk names no file.
        name = str(error.filename or path)
        if name != str(path) and f".{path.name}." not in name:
            raise
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None


def write_file(path: Path, data: bytes) -> None:
    """Write an output file of the user, whose content is replaced as a whole.

    Args:
        path: The file.
        data: Its content.

    Raises:
        UserError: The file is no regular file, another process is writing it, or it cannot be
            written.
    """
    with output_lock(path):
        replace_file(path, data)


def open_new(path: Path) -> BinaryIO:
    """Open a new empty binary file; an existing file or link of this name is deleted."""
    path.unlink(missing_ok=True)
    return open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | PLAIN, 0o666), "r+b")


@contextmanager
def file_lock(lock: Path, what: Path | str) -> Iterator[None]:
    """Return a context that holds a lock file; the kernel frees the lock if this process dies.

    Args:
        lock: Lock file, deleted at the end.
        what: Name of what is being written, for the message.

    Raises:
        InUse: Another process holds the lock.
        UserError: The lock file is a link.
        OSError: Its folder does not exist.
    """
    from filelock import FileLock, Timeout

    if not lock.parent.is_dir():  # FileLock would create the folder
        code = errno.ENOTDIR if lock.parent.exists() else errno.ENOENT
        raise OSError(code, os.strerror(code), str(lock))
    check_output(lock)
    held = FileLock(lock, timeout=0)
    try:
        # On file systems without locks, FileLock warns that the file itself serves as the lock.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            held.acquire()
    except Timeout:
        raise InUse(f"{what}: another process is writing it; wait or stop it") from None
    try:
        yield
    finally:
        # Delete before releasing: the next process creates a new file. On Windows release deletes.
        with suppress(PermissionError):
            lock.unlink(missing_ok=True)
        held.release()


_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def csv_cell(value: Any) -> Any:
    """Return a value as the content of a CSV cell that no spreadsheet runs as a formula.

    Text that begins with `=`, `+`, `-`, `@`, a tab or a carriage return, and is no number, gets an
    apostrophe before it.

    Args:
        value: Any value; what is no text is returned as it is.
    """
    if not isinstance(value, str) or not value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return value
    return value if _NUMBER.fullmatch(value) else f"'{value}"
