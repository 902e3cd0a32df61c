"""Folders of runs: a run writes only into a folder that it has marked as its own.

A *run* is a training or an optimization that can be stopped and continued. It keeps all its files
in one folder. The *mark* of the folder is a small file, `run.json`, which says of which *kind* the
run is: "training" or "optimization". So a run never overwrites files of another origin.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from graphcnf.errors import UserError
from graphcnf.file_reading import inside, read_file
from graphcnf.file_writing import write_file

RUN_MARK = "run.json"
"""Name of the file that marks a folder as that of a run."""


def claim(folder: Path, kind: str) -> bool:
    """Create the folder of a run, and mark it; return False if a run of this kind is continued."""
    if is_claimed(folder, kind):
        return False
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / RUN_MARK, _mark(kind))
    return True


def is_claimed(folder: Path, kind: str) -> bool:
    """Return whether a folder has the mark of this kind, so that the run can be continued."""
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
