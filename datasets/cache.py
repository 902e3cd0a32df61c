"""Cache of arrays on disk, such as encoded data sets: npz files with a checksum.

A file's name contains a hash of everything that determines the content. The checksum covers content
and name.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from platformdirs import user_cache_dir

from graphcnf.errors import UserError, say
from graphcnf.files import InUse, expand_user, open_input, write_file

_CHECKSUM = "checksum"


def cache_folder() -> Path:
    """Return `$GRAPHCNF_CACHE`, or the user's cache folder for graphcnf."""
    chosen = os.environ.get("GRAPHCNF_CACHE")
    if chosen:
        return expand_user(chosen)

    return Path(user_cache_dir("graphcnf", appauthor=False))


def cache_file(name: str, *key) -> Path:
    """Return the path of a cache file, whether it exists or not.

    Args:
        name: Readable beginning of the file's name.
        *key: JSON values that determine the content: other values lead to another file.
    """
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
    name = "".join(c if c.isalnum() and c.isascii() or c in "-_" else "_" for c in name)[:45]
    return cache_folder() / f"{name}-{digest}.npz"


def cached(path: Path, compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return the arrays in a cache file; without an intact file, compute and write them first.

    Args:
        path: The file, as `cache_file` returns it.
        compute: Function that returns the arrays by name.
    """
    arrays = read(path)
    if arrays is None:
        arrays = compute()
        write(path, arrays)
    return arrays


def note(message: str) -> None:
    """Print a message on stderr, as a line that begins with "graphcnf:"."""
    say(f"graphcnf: {message}")


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays to a cache file atomically; if that fails, print a note."""
    content = io.BytesIO()
    np.savez_compressed(content, **arrays, **{_CHECKSUM: _digest(path.name, arrays)})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, content.getvalue())
    except InUse:  # it writes the same
        pass
    except (OSError, UserError) as error:
        note(f"not cached ({error}); set GRAPHCNF_CACHE to a folder")


def read(path: Path) -> dict[str, np.ndarray] | None:
    """Return the arrays that `write` wrote; None if the file is absent or, with a note, damaged."""
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            open_input(path) as content,
            np.load(content, allow_pickle=False) as file,
        ):
            arrays = {name: file[name] for name in file.files}
        reason = "its checksum is not that of this content under this name"
    except (FileNotFoundError, NotADirectoryError):
        return None
    # In a damaged file, zipfile, zlib and numpy's header parser can raise anything.
    except Exception as error:
        arrays, reason = {}, (str(error) or "unreadable").splitlines()[0]
    checksum = arrays.pop(_CHECKSUM, None)
    if checksum is not None and np.array_equal(checksum, _digest(path.name, arrays)):
        return arrays
    note(f"cache {path} is damaged ({reason}); rebuilding it")
    return None


def _digest(file_name: str, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the SHA-256 of a file's name and its arrays, (32,) uint8."""
    digest = hashlib.sha256(f"{file_name};".encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape};".encode())
        digest.update(array.data if array.size else b"")
    return np.frombuffer(digest.digest(), np.uint8)
