"""Files that appear whole or not at all, and locks on what is being written.

Nothing here follows a link that somebody else may have put in the way.
"""

from __future__ import annotations

import errno
import gzip
import io
import os
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from graphcnf.errors import UserError

NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


def expand_user(path: str | Path) -> Path:
    """The path, with ~ and ~name in place of a home directory spelt out.

    Raises:
        UserError: There is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{path}: there is no such home directory") from None


LEAST_UNPACKED, MOST_TIMES = 64 << 20, 100
"""A gzip file may hold so many bytes in any case, and more where it is not so many times as small.

SMILES, tables and images shrink to a third or a twentieth; what shrinks to a thousandth was made to
fill the memory.
"""


class NotUnpacked(ValueError):
    """Content of a gzip file that cannot be had; the message says why."""


def gunzip(data: bytes) -> bytes:
    """The content of a gzip file, no more of it than `LEAST_UNPACKED` and `MOST_TIMES` allow.

    Raises:
        NotUnpacked: It is damaged, or holds too much.
    """
    most = max(LEAST_UNPACKED, MOST_TIMES * len(data))
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
    """Write `data` under a temporary name in the same folder, then rename it to `path`.

    Raises:
        OSError: with the name of the file.
    """
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


def write_file(path: Path, data: bytes) -> None:
    """`replace_file` for what a user asked for.

    Raises:
        UserError: The file cannot be written.
    """
    try:
        replace_file(path, data)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None


def open_new(path: Path):
    """An empty binary file of this name, in place of whatever has it."""
    path.unlink(missing_ok=True)
    return open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | NO_LINK, 0o666), "r+b")


def open_kept(path: Path):
    """A binary file of this name, with what it holds; made if missing.

    Raises:
        OSError: It is a link.
    """
    return open(os.open(path, os.O_RDWR | os.O_CREAT | NO_LINK, 0o666), "r+b")


@contextmanager
def file_lock(lock: Path, what: Path | str) -> Iterator[None]:
    """Keep other processes out; the kernel lets go of the lock when this one dies.

    Args:
        lock: File that is locked, and deleted at the end.
        what: What is being written, for the message.

    Raises:
        UserError: Another process holds the lock.
    """
    from filelock import FileLock, Timeout

    if not lock.parent.is_dir():  # FileLock would make it
        code = errno.ENOTDIR if lock.parent.exists() else errno.ENOENT
        raise OSError(code, os.strerror(code), str(lock))
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
