"""Files of data: read whole within a share of the memory, unpacked, found in installed packages."""

from __future__ import annotations

import gzip
import io
import os
import zlib
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from graphcnf.file_reading import read_file

MEMORY_SHARE = 8
"""A data file may be as large as 1/8 of the memory, since decoding it takes several times more."""

LEAST_UNPACKED = 64 << 20
"""A gzip file may unpack to so many bytes whatever its size."""

LARGEST_RATIO = 100
"""A larger gzip file may unpack to so many times its size; molecule files shrink to a twentieth."""


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


def read_data(path: str | Path) -> bytes:
    """Return the content of a regular file of up to 1/`MEMORY_SHARE` (an eighth) of the memory.

    Args:
        path: The file, or a link to it; not unpacked.

    Raises:
        OSError: The file is missing, too large, or a folder, pipe or device.
    """
    return read_file(path, memory() // MEMORY_SHARE)


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


class NotUnpacked(ValueError):
    """A gzip file is damaged or would unpack to too many bytes; the message says which."""


def unpacked_limit(data: bytes) -> int:
    """Return the largest number of bytes that compressed `data` may unpack to."""
    return max(LEAST_UNPACKED, LARGEST_RATIO * len(data))


def gunzip(data: bytes) -> bytes:
    """Unpack the content of a gzip file.

    Args:
        data: The whole content, of one or several members.

    Returns:
        The unpacked bytes.

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
