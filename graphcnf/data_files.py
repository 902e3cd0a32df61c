"""Files of data: reading them whole, unpacking gzip, finding those of installed packages.

Files of data may come from strangers, and a small gzip file may unpack to a huge one. So a file is
read and unpacked only up to a limit, which depends on the memory and on the size of the file.
"""

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
"""A gzip file of any size may unpack to this many bytes."""

LARGEST_RATIO = 100
"""A gzip file may unpack to this many times its size, if that is more than `LEAST_UNPACKED`; files
of molecules shrink to a twentieth."""


def memory() -> int:
    """Return how many bytes of memory this process may use.

    This is the smallest of the machine's memory, the limit of its container, and the limit of the
    process. On systems other than POSIX it is taken to be 8 GiB.
    """
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
    """Return the content of a file of data, as it is: a gzip file is not unpacked."""
    return read_file(path, memory() // MEMORY_SHARE)


def installed_file(package: str, *parts: str) -> Path | None:
    """Find a file in an installed package without importing it; None if there is none."""
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder, *parts)
        if path.is_file():
            return path
    return None


class NotUnpacked(ValueError):
    """A gzip file is damaged, or would unpack to too many bytes; the message says which."""


def unpacked_limit(data: bytes) -> int:
    """Return the size to which a gzip file may unpack, 64 MiB or a hundred times its size."""
    return max(LEAST_UNPACKED, LARGEST_RATIO * len(data))


def gunzip(data: bytes) -> bytes:
    """Unpack gzip files that are joined, or raise `NotUnpacked` (damaged, or beyond the limit)."""
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
