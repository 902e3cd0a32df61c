"""Encoded data sets on disk: one checksummed npz each, written atomically.

A file's name says what it holds (loaders put a hash of everything that it depends on into it), so
the checksum covers the name, too: a copy of another data set's file under this name is no cache.
"""

from __future__ import annotations

import hashlib
import io
import os
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from graphcnf.compute.files import expand_user, leftovers, open_input, replace_file

_CHECKSUM = "checksum"
_STALE_SECONDS = 600


class DamagedCache(ValueError):
    """The file is no intact cache; the message is one line."""


def cache_folder() -> Path:
    """`$GRAPHCNF_CACHE`, or the user's cache folder for graphcnf."""
    chosen = os.environ.get("GRAPHCNF_CACHE")
    if chosen:
        return expand_user(chosen)
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("graphcnf", appauthor=False))


def note(message: str) -> None:
    """One line to stderr."""
    print(f"graphcnf: {message}", file=sys.stderr, flush=True)


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> bool:
    """Write arrays as a whole or not at all; False, with a note, where that fails."""
    content = io.BytesIO()
    np.savez_compressed(content, **arrays, **{_CHECKSUM: _digest(path.name, arrays)})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in leftovers(path):
            if time.time() - left.stat().st_mtime > _STALE_SECONDS:
                left.unlink(missing_ok=True)
        replace_file(path, content.getvalue())
    except OSError as error:
        note(f"cannot cache to {path} ({error.strerror or error}); set GRAPHCNF_CACHE to a folder")
        return False
    return True


def read(path: Path) -> dict[str, np.ndarray]:
    """Read what `write` wrote.

    Raises:
        FileNotFoundError: There is no such file.
        DamagedCache: Its content is not what was written under this name.
    """
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            open_input(path) as content,
            np.load(content, allow_pickle=False) as file,
        ):
            arrays = {name: file[name] for name in file.files}
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"no such file: {path}") from error
    # Damage surfaces as whatever zipfile, zlib and numpy's parser of headers happen to raise.
    except Exception as error:
        raise DamagedCache(str(error).splitlines()[0] if str(error) else "unreadable") from error
    checksum = arrays.pop(_CHECKSUM, None)
    if checksum is None or not np.array_equal(checksum, _digest(path.name, arrays)):
        raise DamagedCache("its checksum is not that of this content under this name")
    return arrays


def read_or_none(path: Path) -> dict[str, np.ndarray] | None:
    """As `read`; None where the file is absent or, with a note, damaged."""
    try:
        return read(path)
    except FileNotFoundError:
        return None
    except DamagedCache as error:
        note(f"cache {path} is damaged ({error}); rebuilding it")
        return None


def _digest(file_name: str, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """SHA-256 over the file's name and names, types, shapes and bytes of arrays, (32,) uint8."""
    digest = hashlib.sha256(f"{file_name};".encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape};".encode())
        digest.update(array.data if array.size else b"")
    return np.frombuffer(digest.digest(), np.uint8)
