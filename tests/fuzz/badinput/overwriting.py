"""Outputs that would replace what a command reads, and runs of which a part is left."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from badinput.case import Case
from badinput.commandlines import USUAL
from badinput.stage import SMILES, Stage
from graphcnf.scripts._files import Role, roles_of
from graphcnf.scripts.cli import app

VALUES = {"--min-similarity": "{}:0.1", "--max-similarity": "{}:0.9", "--score": "{}:f"}
"""How an option writes the file that it reads, where that is not the whole value."""

FILE_NAMES = ("x.smi", "./x.smi", "x/../x.smi", "{work}/x.smi", "link.smi", "hard.smi",
              "way/../../x.smi")  # fmt: skip
"""Names of the file x.smi."""

RUN_FILES = ("run.json", "config.toml", "metrics.csv", "checkpoints/last.ckpt",
             "model/config.json", "model/model.safetensors", "snapshots/00000002/config.json",
             "new.csv", "model/new", "curves.svg/new")  # fmt: skip
"""Files of a run, and new ones in it."""

RUN_NAMES = ("x", "./x", "{work}/x", "model/../x", "way/..")
"""Names of the run x."""


def _placed(stage: Stage) -> None:
    """Write x.smi, the run x and the folder of data y, with links to them."""
    (stage.work / "x.smi").write_text("\n".join(SMILES[:9]) + "\n")
    shutil.copytree(stage.run, stage.work / "x")
    shutil.copytree(stage.photos, stage.work / "y")
    (stage.work / "y" / "a.smi").write_text("CCO\n")
    (stage.work / "link.smi").symlink_to("x.smi")
    (stage.work / "model").mkdir()
    (stage.work / "way").symlink_to("x/model")
    os.link(stage.work / "x.smi", stage.work / "hard.smi")
    os.link(stage.work / "x" / "model" / "config.json", stage.work / "hard.json")


def _commands() -> Iterator[tuple[tuple[str, ...], Callable]]:
    """Yield the path and the function of every command."""
    found = [((), command) for command in app.registered_commands]
    for group in app.registered_groups:
        found += [((group.name,), c) for c in group.typer_instance.registered_commands]
    for path, command in found:
        yield (*path, command.name or command.callback.__name__), command.callback


def output_cases(seed: int) -> Iterator[Case]:
    """Yield every input of every command with every output, under the names that lead there."""
    dice = Random(f"outputs {seed}")
    for path, callback in _commands():
        roles = [(name, role) for name, role in roles_of(callback).values() if role is not None]
        written = [name for name, role in roles if role in (Role.OUTPUT, Role.RUN, Role.PLOT)]
        arguments = [name for name, _ in roles_of(callback).values() if name[0] != "-"]
        for name, role in roles:
            pairs: list[tuple[str, str]] = []
            if role in (Role.FILE, Role.FILES):
                value = VALUES.get(name, "{}")
                pairs += [(value.replace("{}", dice.choice(FILE_NAMES[:4])), out)
                          for out in FILE_NAMES]  # fmt: skip
            if role is Role.FILES:
                pairs += [("y", f"y/{file}") for file in ("a.smi", "new.smi", "00.png", "x.png")]
            if role is Role.MODEL:
                models = [*RUN_NAMES, "x/model", "x/snapshots/00000002", "way"]
                pairs += [(dice.choice(models), f"{dice.choice(RUN_NAMES)}/{file}")
                          for file in RUN_FILES]  # fmt: skip
                pairs += [("way", "way/new.csv"), ("x/model", "hard.json")]
            for value, out in pairs:
                for option in written:
                    words = _with(path, arguments, name, value)
                    yield Case(f"{' '.join(path)} {name} {value} {option} {out}",
                               (*words, f"{option}={out}"), (Path(out).name,), _placed)  # fmt: skip


def _with(path: tuple[str, ...], arguments: list[str], name: str, value: str) -> tuple[str, ...]:
    """Return the usual command line with another value of an option or argument."""
    usual = USUAL[path]
    first = next((k for k, word in enumerate(usual) if word.startswith("-")), len(usual))
    words = list(usual[:first])
    if name not in arguments:
        return (*path, *words, *usual[first:], f"{name}={value}")
    number = arguments.index(name)
    words[number : number + 1] = [value]
    return (*path, *words, *usual[first:])


PARTS = ("model", "snapshots", "metrics.csv", "checkpoints", "config.toml", "run.json")
"""Files and folders of a run."""


def pruned_cases(seed: int) -> Iterator[Case]:
    """Yield runs of which some parts are left, to be begun anew or continued without a state."""
    for number in range(1, 2 ** len(PARTS)):
        left = [part for k, part in enumerate(PARTS) if number >> k & 1]

        def prepare(stage: Stage, left=left) -> None:
            shutil.copytree(stage.run, stage.work / "x")
            for part in set(PARTS) - set(left):
                path = stage.work / "x" / part
                shutil.rmtree(path) if path.is_dir() else path.unlink()

        shown = ", ".join(left)
        if {"model", "snapshots", "metrics.csv", "checkpoints"} & set(left):
            yield Case(f"train over {shown}", ("train", "{preset}", "--out", "x"), ("x",), prepare)
            yield Case(f"finetune over {shown}", ("finetune", "{molecules}", "--weights", "{model}",
                       "--steps", "1", "-n", "0", "--out", "x"), ("x",), prepare)  # fmt: skip
        if "model" in left and "checkpoints" not in left:
            yield Case(f"resume of {shown}", ("train", "{preset}", "--resume", "--out", "x"),
                       ("x",), prepare)  # fmt: skip
