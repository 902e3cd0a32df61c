"""Links, pipes and devices in the place of files, and folders that belong to somebody else."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from badinput.case import Case
from badinput.damage import MODELS
from badinput.datafiles import READERS, program_of
from badinput.stage import Stage

TERABYTE = 1 << 40
DATA_READERS = {**READERS, "finetune": ("finetune", "{file}", "--weights", "{model}", "--steps",
                                        "1", "-n", "0", "--out", "run")}  # fmt: skip
RUNS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "resume": ("run", "graphcnf", ("train", "--resume", "--out", "x", "--steps", "3")),
    "continue": ("run", "graphcnf", ("train", "--continue-from", "x", "--out", "y", "--steps",
                 "1")),
    "sets": ("sets_run", "benchmarks", ("sets", "x")),
    "generate of a run": ("run", "graphcnf", ("generate", "--model", "x", "-n", "2", "--out",
                          "out.smi")),
    "optimize": ("optimized", "graphcnf", ("optimize", "--score", "qed", "--budget", "4",
                 "--model", "{model}", "--workers", "0", "--folder", "x")),
}  # fmt: skip
READ_BY = {
    "resume": ("config.toml", "checkpoints/last.ckpt", "checkpoints/plateau.ckpt", "metrics.csv",
               "checkpoints", "model", "snapshots", "model/config.json", "run.json"),
    "continue": ("config.toml", "checkpoints/plateau.ckpt", "checkpoints"),
    "sets": ("config.toml", "model/config.json"),
    "generate of a run": ("model", "model/config.json", "model/model.safetensors"),
    "optimize": ("calls.sqlite", "calls.sqlite-wal", "calls.lock", "state.safetensors", "run.lock",
                 "run.json"),
}  # fmt: skip
"""What each command reads or writes in a run's folder."""

WRITERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "score": (".csv", ("score", "{molecules}", "--model", "{model}", "--out")),
    "score json": (".json", ("score", "{molecules}", "--model", "{model}", "--out")),
    "evaluate": (".md", ("evaluate", "{molecules}", "--reference", "none", "--out")),
    "evaluate json": (".json", ("evaluate", "{molecules}", "--reference", "none", "--out")),
    "evaluate html": (".html", ("evaluate", "{molecules}", "--reference", "none", "--html")),
    "generate": (".smi", ("generate", "--model", "{model}", "-n", "2", "--force", "--out")),
    "analogs": (".smi", ("analogs", "CCO", "--model", "{model}", "-n", "1", "--force", "--out")),
    "interpolate": (".csv", ("interpolate", "CCO", "CCN", "--model", "{model}", "--steps", "1",
                    "--out")),
    "merge": (".smi", ("merge", "{shard}", "--force", "--out")),
    "draw images": (".png", ("images", "generate", "--model", "{images}", "-n", "2", "--out")),
}  # fmt: skip


def place_cases(seed: int) -> Iterator[Case]:
    """What is no regular file of reasonable size, wherever a file is read or written."""
    for name, (model, program, arguments) in MODELS.items():
        files = ["config.json", "model.safetensors"]
        files += ["training_hashes.safetensors"] if model == "model" else []
        for file in files:
            for label, put in IN_PLACE.items():
                yield Case(f"{name}: {file} {label}", program, arguments, (),
                           _replaced(model, file, put))  # fmt: skip
    for name, (place, program, arguments) in RUNS.items():
        for file in READ_BY[name]:
            for label, put in IN_PLACE.items():
                # A pipe that is never read is replaced like the file whose name it has.
                yield Case(f"{name}: {file} {label}", program, arguments, ("x",),
                           _replaced(place, file, put), readable=file == "model/config.json",
                           starts=name == "continue" or file == "snapshots")  # fmt: skip
    for name, arguments in DATA_READERS.items():
        given = tuple(a.replace("{file}", "x.smi") for a in arguments)
        for label, make in (("pipe", os.mkfifo), ("terabyte", _terabyte), ("zeros", _zeros)):
            yield Case(f"{name} {label}", program_of(name), given, ("x.smi",),
                       lambda stage, m=make: m(stage.work / "x.smi"))  # fmt: skip
        given = tuple(a.replace("{file}", "x.parquet") for a in arguments)
        yield Case(f"{name} parquet of one long value", program_of(name), given,
                   ("x.parquet", "characters"), _long_parquet)  # fmt: skip
    for name, (suffix, arguments) in WRITERS.items():
        for label, put in TAKEN.items():
            yield Case(f"{name} over a {label}", "graphcnf", (*arguments, f"out{suffix}"),
                       (f"out{suffix}",),
                       lambda stage, p=put, s=suffix: p(stage.work / f"out{s}"))  # fmt: skip
    yield from _folders()


def _link(path: Path) -> None:
    """The content elsewhere, and a link to it."""
    elsewhere = path.with_name(f"elsewhere-{path.name}")
    if not path.exists():  # a folder of a run that has none
        path.mkdir()
    path.rename(elsewhere)
    path.symlink_to(elsewhere.name)


def _pipe(path: Path) -> None:
    _removed(path)
    os.mkfifo(path)


def _zeros(path: Path) -> None:
    _removed(path)
    path.symlink_to("/dev/zero")


def _terabyte(path: Path) -> None:
    _removed(path)
    path.touch()
    os.truncate(path, TERABYTE)


def _removed(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


IN_PLACE: dict[str, Callable[[Path], None]] = {"link": _link, "pipe": _pipe, "zeros": _zeros}


def _taken_link(path: Path) -> None:
    path.with_name("precious").write_text("mine\n")
    path.symlink_to("precious")


TAKEN: dict[str, Callable[[Path], None]] = {
    "link": _taken_link,
    "dangling link": lambda path: path.symlink_to("nowhere"),
    "pipe": os.mkfifo,
}


def _replaced(name: str, file: str, put: Callable[[Path], None]) -> Callable[[Stage], None]:
    """Copies a model or a run to x, with something else in the place of one file."""

    def prepare(stage: Stage) -> None:
        shutil.copytree(getattr(stage, name), stage.work / "x")
        put(stage.work / "x" / file)

    return prepare


def _long_parquet(stage: Stage) -> None:
    """A few KB that stand for 20 GB."""
    import pyarrow as pa
    from pyarrow import parquet

    column = pa.DictionaryArray.from_arrays(pa.array([0] * 1_000_000), pa.array(["C" * 20_000]))
    buffer = io.BytesIO()
    parquet.write_table(pa.table({"smiles": column}), buffer)
    (stage.work / "x.parquet").write_bytes(buffer.getvalue())


FOREIGN: dict[str, dict[str, str]] = {
    "notes": {"notes.txt": "mine"},
    "a run's names": {"config.toml": "mine", "snapshots/2024/x.txt": "mine", ".notes.tmp": "mine",
                      "model/config.json": "mine", "report.json": "mine"},
    "another run.json": {"run.json": "{}", "calls.sqlite": "mine, without an end"},
    "hidden": {".git/config": "mine"},
}  # fmt: skip
"""Folders that are no run."""


def _folders() -> Iterator[Case]:
    commands = {
        "train": ("train", "{preset}", "--out", "mine"),
        "resume": ("train", "{preset}", "--resume", "--out", "mine"),
        "finetune": (*DATA_READERS["finetune"][2:-1], "mine"),
        "optimize": (*RUNS["optimize"][2][:-1], "mine"),
    }
    commands["finetune"] = ("finetune", "{molecules}", *commands["finetune"])
    for name, arguments in commands.items():
        for label, files in FOREIGN.items():

            def prepare(stage: Stage, files=files) -> None:
                for file, text in files.items():
                    path = stage.work / "mine" / file
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(text)

            yield Case(f"{name} into {label}", "graphcnf", arguments, ("mine",), prepare)
