"""Opening, replacing and locking of files.

Models, runs and data may come from strangers. So only *regular* files (no folder, pipe or device)
of bounded size are read, no symbolic link below a model's or run's folder is followed, and a *run*
(of training or optimization) writes only into a folder that it has marked as its own.
"""

from __future__ import annotations

import errno
import gzip
import io
import json
import os
import stat
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

from graphcnf.errors import UserError

_PLAIN = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)

WEIGHTS = Path(__file__).resolve().parent / "weights"
"""Folder of the shipped weights, with one folder per model."""

LARGEST_TEXT = 64 << 20
"""Size limit of configurations, journals and other text files, in bytes."""

MEMORY_SHARE = 8
"""A data file may be as large as 1/8 of the memory, since decoding it takes several times more."""

RUN_MARK = "run.json"
"""File that marks a folder as that of a run."""

LEAST_UNPACKED, LARGEST_RATIO = 64 << 20, 100
"""A gzip file may unpack to 64 MiB or to 100 times its size, whichever is more.

Molecule files shrink to about a twentieth.
"""


def memory() -> int:
    """Return the bytes of memory that this process may use, within its container's limit."""
    if os.name != "posix":
        return 8 << 30
    import resource

    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # no such file, or it says "max"
            limits.append(int(Path("/sys/fs/cgroup", name).read_text()))
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return min([*limits, soft] if soft != resource.RLIM_INFINITY else limits)


def expand_user(path: str | Path) -> Path:
    """Expand a leading ~ or ~name of a path.

    Raises:
        UserError: if there is no user of this name.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{path}: there is no such home directory") from None


def installed_file(package: str, *parts: str) -> Path | None:
    """Find a file in an installed package, without importing the package.

    Args:
        package: Import name of the package.
        parts: Folders and name of the file, below the package.

    Returns:
        The path, or None if there is no such package or file.
    """
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder, *parts)
        if path.is_file():
            return path
    return None


def inside(folder: str | Path, *parts: str) -> Path:
    """Return the path `folder/parts...`, which does not leave the folder by a symbolic link.

    The folder itself may be a link: its owner is the user, its content may be a stranger's.

    Args:
        folder: Folder of a model or run.
        *parts: Names of folders and of the file below it.

    Raises:
        UserError: if one of `parts` is a symbolic link.
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
    """Open a regular file, or a link to one, for reading.

    Args:
        path: The file.
        limit: Largest size in bytes; None for no limit.

    Raises:
        OSError: The file is missing, too large, or a folder, pipe or device.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _PLAIN)
    found = os.fstat(handle)
    if stat.S_ISREG(found.st_mode) and (limit is None or found.st_size <= limit):
        return open(handle, "rb")
    os.close(handle)
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "a pipe or device, no regular file", str(path))
    raise OSError(errno.EFBIG, f"{found.st_size:,} bytes, the limit is {limit:,}", str(path))


def read_file(path: str | Path, limit: int | None = None) -> bytes:
    """Return the content of a regular file.

    Args:
        path: The file.
        limit: Largest size in bytes; 1/`MEMORY_SHARE` of the memory if None.

    Raises:
        OSError: The file is missing, too large, or a folder, pipe or device.
    """
    with open_input(path, memory() // MEMORY_SHARE if limit is None else limit) as file:
        return file.read()


def read_json(path: str | Path) -> Any:
    """Return the value in a JSON file.

    Raises:
        OSError: The file is missing, larger than `LARGEST_TEXT`, or no regular file.
        ValueError: The text is not JSON.
    """
    try:
        return json.loads(read_file(path, LARGEST_TEXT))
    except RecursionError:
        raise ValueError("brackets are nested too deeply") from None


class InUse(UserError):
    """Another process is writing the same file or folder."""


class NotUnpacked(ValueError):
    """A gzip file is damaged or would unpack to too many bytes; the message says which."""


def unpacked_limit(data: bytes) -> int:
    """Return the largest number of bytes that compressed `data` may unpack to."""
    return max(LEAST_UNPACKED, LARGEST_RATIO * len(data))


def gunzip(data: bytes) -> bytes:
    """Unpack the content of a gzip file.

    Raises:
        NotUnpacked: The file is damaged, or unpacks to more than `unpacked_limit`.
    """
    limit = unpacked_limit(data)
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            content = file.read(limit + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise NotUnpacked(f"no intact gzip file: {error}") from error
    if len(content) > limit:
        raise NotUnpacked(
            f"a gzip file of {len(data):,} bytes that holds more than {limit:,}: unpack it first, "
            "if that is meant"
        )
    return content


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

    Raises:
        UserError: The file is no regular file, another process is writing it, or the block has
            raised an `OSError` about it or a hidden file of its name.
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

    Raises:
        UserError: The file is no regular file, another process is writing it, or it cannot be
            written.
    """
    with output_lock(path):
        replace_file(path, data)


def claim(folder: Path, kind: str) -> bool:
    """Create the folder of a run and mark it.

    Args:
        folder: The folder.
        kind: "training" or "optimization".

    Returns:
        True if it was marked now, False if it was marked before: the run goes on.

    Raises:
        UserError: The folder is not empty, and is not that of a run of this kind.
    """
    if is_claimed(folder, kind):
        return False
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / RUN_MARK, _mark(kind))
    return True


def is_claimed(folder: Path, kind: str) -> bool:
    """Return True if a folder is marked as that of a run of a kind, False for a new or empty one.

    Args:
        folder: The folder, which need not exist.
        kind: "training" or "optimization".

    Raises:
        UserError: The folder is not empty and not marked.
    """
    with suppress(OSError):
        if read_file(inside(folder, RUN_MARK), 1000) == _mark(kind):
            return True
    try:
        # Whoever is killed while writing the mark leaves hidden files of its name.
        others = [p for p in folder.iterdir() if not p.name.startswith(f".{RUN_MARK}.")]
    except FileNotFoundError:
        return False
    if others:
        raise UserError(
            f"{folder} is not empty and holds no {kind} run: choose another folder, nothing in "
            "this one is touched"
        )
    return False


def _mark(kind: str) -> bytes:
    """Return the content of the file that marks the folder of a run: "training", "optimization"."""
    return (json.dumps({"program": "graphcnf", "run": kind}) + "\n").encode()


def open_new(path: Path) -> Any:
    """Open a new empty binary file; an existing file or link of this name is deleted."""
    path.unlink(missing_ok=True)
    return open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _PLAIN, 0o666), "r+b")


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
