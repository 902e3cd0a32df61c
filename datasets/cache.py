"""Cache of arrays on disk, such as encoded data sets: npz files with a checksum.

The name of a cache file contains a hash, the *key*, of everything that determines the content: with
other data or versions, another file is used. The checksum covers content and name.
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

from graphcnf.errors import UserError
from graphcnf.file_reading import expand_user, open_input
from graphcnf.file_writing import InUse, write_file
from graphcnf.messages import say

_CHECKSUM = "checksum"


def cache_folder() -> Path:
    """Return the folder of all cache files: `$GRAPHCNF_CACHE`, or else the user's cache folder.

    The latter is the one that `platformdirs` names for "graphcnf", such as `~/.cache/graphcnf`.
    """
    chosen = os.environ.get("GRAPHCNF_CACHE")
    if chosen:
        return expand_user(chosen)

    return Path(user_cache_dir("graphcnf", appauthor=False))


def cache_file(name: str, *key) -> Path:
    """Return the path of a cache file, whether it exists or not.

    Args:
        *key: JSON values that determine the content: other values lead to another file.
    """
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
    name = "".join(c if c.isalnum() and c.isascii() or c in "-_" else "_" for c in name)[:45]
    return cache_folder() / f"{name}-{digest}.npz"


def cached(path: Path, compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return the arrays of a cache file; without an intact one, compute and write them."""
    arrays = read(path)
    if arrays is None:
        arrays = compute()
        write(path, arrays)
    return arrays


def note(message: str) -> None:
    """Print a message on stderr, as a line that begins with "graphcnf:"."""
    say(f"graphcnf: {message}")


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays to a cache file atomically.

    If that fails, a note on stderr says so, and nothing is raised: the arrays are computed again
    next time. If another process is writing the file, it is left to that process, since the content
    is the same.
    """
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
    """Return the arrays that `write` wrote to a cache file; None without an intact one.

    A file that is damaged or was renamed, since its checksum covers the name, is named on stderr.
    """
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
    """Return the checksum of a cache file: the SHA-256 of its name and its arrays, (32,) uint8."""
    digest = hashlib.sha256(f"{file_name};".encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape};".encode())
        digest.update(array.data if array.size else b"")
    return np.frombuffer(digest.digest(), np.uint8)
