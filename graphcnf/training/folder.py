"""The folder of a run: when a training may begin or continue in it, and who writes it.

A *run* is one training. Its folder holds `config.toml`, `metrics.csv`, `checkpoints/` (from which
it continues), `model/` and, if asked for, `snapshots/`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from graphcnf.errors import UserError
from graphcnf.file_reading import inside
from graphcnf.file_writing import file_lock, replace_file
from graphcnf.run_folder import RUN_MARK, claim
from graphcnf.training.settings import TrainingSettings, is_main


def check_begun(folder: Path, resume: bool) -> None:
    """Check that a training may begin or continue in a folder, so that it replaces no other one.

    With `resume` but no checkpoint, the run failed before the first one, and may begin anew unless
    the folder holds a model.
    """
    if resume:
        check_replaceable(folder, "checkpoints", "model", "snapshots")
    last = inside(folder, "checkpoints", "last.ckpt")
    if resume and last.exists():
        return
    results = ("model",) if resume else ("model", "snapshots", "metrics.csv")
    there = [name for name in results if inside(folder, name).exists()]
    if there or last.exists():
        goes_on = last.exists() or there == ["metrics.csv"]
        cure = "resume it (--resume)" if goes_on else f"put back {last}"
        raise UserError(f"{folder} holds a run: {cure}, or choose another folder")


def check_replaceable(folder: Path, *names: str) -> None:
    """Check that some folders within that of a run hold nothing but plain files and folders.

    Links, pipes and devices could make the run write outside its folder.
    """
    for name in names:
        top = inside(folder, name)
        if top.exists() and not top.is_dir():
            raise UserError(f"{top} is no folder: move it away, the run writes one")
        for path in top.rglob("*"):
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise UserError(f"{path} is a link, pipe or device: a run writes only into files")


@contextmanager
def run_folder(folder: Path, resume: bool) -> Iterator[None]:
    """Return a context in which this run, and no other one, writes to a folder.

    The folder is locked by the first process of the run; the others do nothing here. If an error
    comes before anything was trained, a folder that the run has made is removed.
    """
    if not is_main():
        yield
        return
    new = claim(folder, "training")
    try:
        with file_lock(inside(folder, ".lock"), folder):
            check_begun(folder, resume)
            yield
    except Exception:
        if new:
            remove_unused(folder, "config.toml")
        raise


def remove_unused(folder: Path, *names: str) -> None:
    """Remove the folder of a run in which nothing was trained.

    The folder stays if it holds anything but the mark of a run (the file `RUN_MARK`) and `names`.
    """
    own = (RUN_MARK, *names)
    if {path.name for path in folder.iterdir()} <= {*own}:
        for name in own:
            inside(folder, name).unlink(missing_ok=True)
        folder.rmdir()


def write_settings(folder: Path, settings: TrainingSettings, tables: dict[str, Any] | None) -> None:
    """Write `config.toml` to the folder of a run, by which the run can be resumed."""
    import tomli_w

    content = tomli_w.dumps({**(tables or {}), "training": settings.to_dict()})
    replace_file(inside(folder, "config.toml"), content.encode())
