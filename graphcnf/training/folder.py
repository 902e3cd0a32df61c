"""The folder of a run: what may begin or go on in it, and who writes it."""

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
    """Check that a training may begin in a folder, so that it replaces no other one.

    Args:
        folder: The folder.
        resume: True to continue a run from its checkpoint. If there is no checkpoint, the run has
            failed before the first one and begins anew, unless there is a model.

    Raises:
        UserError: The folder holds a run, and the message says whether it can be resumed; or a part
            of a run to be resumed could not be replaced (`check_replaceable`).
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
    """Check that folders within that of a run hold only what the run can replace.

    Args:
        folder: The folder of the run.
        *names: Names of folders in it, which need not exist.

    Raises:
        UserError: One of them is no folder, or a link, pipe or device is in it.
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
    """Return a context in which the first process of a run, and no other run, writes its folder.

    After an error, a new folder is removed if nothing was trained.

    Args:
        folder: The folder.
        resume: True to continue the run in it.

    Raises:
        UserError: the folder is in use, or holds something that is not to be continued.
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

    Args:
        folder: The folder. It stays if it holds anything but the mark of a run (`RUN_MARK`) and the
            files in `names`.
        *names: Names of files that are removed with it.
    """
    own = (RUN_MARK, *names)
    if {path.name for path in folder.iterdir()} <= {*own}:
        for name in own:
            inside(folder, name).unlink(missing_ok=True)
        folder.rmdir()


def write_settings(folder: Path, settings: TrainingSettings, tables: dict[str, Any] | None) -> None:
    """Write `config.toml`, by which a run is resumed.

    Args:
        folder: Folder of the run.
        settings: Settings, which are written as `[training]`.
        tables: Other tables, such as those of a preset; None for none.
    """
    import tomli_w

    content = tomli_w.dumps({**(tables or {}), "training": settings.to_dict()})
    replace_file(inside(folder, "config.toml"), content.encode())
