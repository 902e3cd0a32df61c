"""Files of optional packages, and the error where they are missing."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path


class Unavailable(ValueError):
    """A figure cannot be computed; the message says why in one line."""


def installed_file(package: str, *parts: str) -> Path | None:
    """Return a file of an installed package without importing it; None where there is none.

    Args:
        package: Name that it is imported by.
        parts: Folders and name of the file, below the package.
    """
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder, *parts)
        if path.is_file():
            return path
    return None
