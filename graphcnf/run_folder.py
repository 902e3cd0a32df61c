"""Folders of runs, which write only into a folder that they have marked as their own.

A *run* is a training or an optimization that can be continued.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from graphcnf.errors import UserError
from graphcnf.file_reading import inside, read_file
from graphcnf.file_writing import write_file

RUN_MARK = "run.json"
"""File that marks a folder as that of a run."""


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
