"""Writing of files so that a crash or a second process does no harm, and cells of CSV tables.

- A file is *replaced* as a whole. The new content is written to a temporary file beside it, which
  then takes its name. After a crash the file has the old or the new content, never a part.
- A *lock* is a file beside another one. While a process holds it, other processes of this package
  do not write that file.

For an output file that a user names, call `write_file`, or `replacing` within `output_lock`. For
files in a folder that is locked already, `replace_file` is enough.
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
    """Another process holds the lock of the file or folder that is to be written."""


def temporary_of(path: Path) -> Path:
    """Return the temporary file in which `replacing` puts content: "a/.x.csv.tmp" for "a/x.csv"."""
    return path.with_name(f".{path.name}.tmp")


def lock_of(path: Path) -> Path:
    """Return the lock of a file, which `output_lock` holds: "a/.x.csv.lock" for "a/x.csv"."""
    return path.with_name(f".{path.name}.lock")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Return a context to write a temporary file, which replaces another file when it ends.

    If the context ends by an exception, the temporary file is deleted, and the other file stays as
    it was. If the process is killed, the temporary file is left over; the next call for the same
    file deletes it. So only one process at a time may be in this context for a file: hold a lock
    where others could be.

    Yields the path of the temporary file, which the caller must create and write.
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

    No lock is held: only one process at a time may write the file, see `replacing`.
    """
    with replacing(path) as temporary, open_new(temporary) as file:
        file.write(data)


def check_output(path: Path) -> None:
    """Check that a file may be written: it is a regular file, or does not exist."""
    if os.path.islink(path) or (path.exists() and not path.is_file()):
        kind = "a folder" if path.is_dir() else "a link or no regular file"
        raise UserError(f"{path} is {kind}: write to another one")


@contextmanager
def output_lock(path: Path) -> Iterator[None]:
    """Return a context for writing a file that the user named, alone and with messages for users.

    In it no other process of this package may write the file. An `OSError` about the file, such as
    a full disk, becomes a `UserError`; one about another file is passed on.
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
    """Write a file that the user named, whole or not at all, and with messages for users."""
    with output_lock(path):
        replace_file(path, data)


def open_new(path: Path) -> BinaryIO:
    """Create an empty file, and open it for reading and writing in binary mode.

    A file or link of this name is deleted before, so that a link cannot redirect what is written.
    """
    path.unlink(missing_ok=True)
    return open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | PLAIN, 0o666), "r+b")


@contextmanager
def file_lock(lock: Path, what: Path | str) -> Iterator[None]:
    """Return a context in which this process holds a lock; `InUse` if another one has it.

    If the process dies, the operating system frees the lock.
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
    """Make a value safe as a cell of a CSV file, so that no spreadsheet runs it as a formula.

    Spreadsheets take text that begins with `=`, `+`, `-`, `@`, a tab or a carriage return for a
    formula. Such text, unless it is a number, gets an apostrophe before it.

    Examples:
        >>> csv_cell("=A1"), csv_cell("-1.5"), csv_cell("CCO")
        ("'=A1", '-1.5', 'CCO')
    """
    if not isinstance(value, str) or not value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return value
    return value if _NUMBER.fullmatch(value) else f"'{value}"
