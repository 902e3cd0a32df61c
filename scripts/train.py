"""The `graphcnf train` command: trains a model from a preset, in a folder that can be resumed.

A *preset* is a TOML file that names a model, its data and the settings of the training; shipped
ones have names. A *run* is one training in a folder.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from graphcnf.errors import UserError
from graphcnf.file_reading import expand_user, inside
from graphcnf.limits import check_seed
from graphcnf.messages import say
from graphcnf.scripts._files import Role, check_outputs, paths_of
from graphcnf.scripts._options import option
from graphcnf.training.folder import check_begun
from graphcnf.training.settings import (
    FREE,
    RUN,
    Preset,
    apply_overrides,
    by_torchrun,
    is_main,
    read_tables,
)

budget = partial(option, rich_help_panel="Budget")
on_machine = partial(option, rich_help_panel="Machine")


def train(
    preset: Annotated[
        str | None,
        typer.Argument(
            metavar="PRESET|FILE.toml",
            help="A preset's name or a file. May be left out with --resume.",
        ),
        Role.FILE,
    ] = None,
    out: Annotated[
        Path | None, option("Run directory.", show_default="runs/PRESET"), Role.RUN
    ] = None,
    minutes: Annotated[
        float | None,
        budget("Time budget of the whole run.", show_default="the preset's"),
    ] = None,
    steps: Annotated[int | None, budget("Step budget of the whole run.")] = None,
    resume: Annotated[bool, option("Continue the run in --out.", "--resume")] = False,
    seed: Annotated[int | None, option("Seed of everything random.", check=check_seed)] = None,
    assignments: Annotated[
        list[str] | None,
        option(
            "Override a setting of the preset: learning_rate=1e-3, model.width=96. Repeatable.",
            "--set",
            metavar="KEY=VALUE",
        ),
    ] = None,
    devices: Annotated[int | None, on_machine("Devices; each gets a process.")] = None,
    accelerator: Annotated[str | None, on_machine("auto, cpu, cuda, mps ...")] = None,
    threads: Annotated[int | None, on_machine("CPU threads of torch.")] = None,
) -> None:
    """Train a model from a preset. A run can be killed at any moment and resumed."""
    out = expand_user(_run_directory(preset, out, resume))
    if (out / "finetune.json").exists():
        raise UserError(f"{out} holds a fine-tuning: the same graphcnf finetune command goes on")
    source, config = _tables(preset, out, resume)
    # A budget on the command line replaces both kinds of the preset's budget.
    if minutes is not None or steps is not None:
        for key in ("minutes", "steps"):
            config["training"].pop(key, None)
    config = apply_overrides(config, assignments or [])
    given = dict(
        minutes=minutes,
        steps=steps,
        seed=seed,
        devices=devices,
        accelerator=accelerator,
        threads=threads,
    )
    config["training"].update({key: value for key, value in given.items() if value is not None})
    chosen = Preset.parse(config, source)
    start = paths_of(chosen.model.get("start"), Role.MODEL)
    check_outputs([("--out", out)], models=start, runs=[out])
    if is_main():
        check_begun(out, resume)
        say("loading data and libraries ...")
    from graphcnf.training.experiments import fit_preset

    result = fit_preset(chosen, out, resume=resume)
    if is_main() and result.finished:
        value = result.metrics.get(result.headline)
        figure = f", held-out {result.headline} {value:.4f}" if value is not None else ""
        say(
            f"finished: {result.step} steps in {result.minutes:.1f} minutes{figure}; model in "
            f"{out / 'model'}"
        )
        for sentence in result.summary:
            say(sentence)
    if result.signal is not None:
        say(f"graphcnf train --resume --out {out} continues it")
        raise typer.Exit(128 + result.signal)


def _tables(preset: str | None, out: Path, resume: bool) -> tuple[str, dict[str, dict[str, Any]]]:
    """Return the preset or file that a run is to be trained with, and its tables."""
    stored = inside(out, "config.toml")
    if resume and stored.exists():
        config = read_tables(stored)
        if preset is not None:
            written = read_tables(preset)
            fixed = {key: v for key, v in written["training"].items() if key not in FREE}
            config = {**written, "training": {**config["training"], **fixed}}
        return str(stored), config
    if preset is None and resume:
        raise UserError(f"{out}: no run there (config.toml is missing)")
    if preset is None:
        raise typer.BadParameter("name a preset, or a .toml file")
    if resume:
        say(f"note: {out} holds no run yet: starting one")
    return preset, read_tables(preset)


def _run_directory(preset: str | None, out: Path | None, resume: bool) -> Path:
    """Return the folder of the run, by default a new one in `runs`, named after the preset."""
    if RUN in os.environ and not is_main():
        return Path(os.environ[RUN])
    if out is not None:
        return out
    if by_torchrun():
        raise UserError("with torchrun, name the folder of the run with --out")
    name = (preset or "").strip()
    if not name:
        raise typer.BadParameter("name a preset or a .toml file, or the run directory with --out")
    number, folder = 1, Path("runs") / Path(name).stem
    while folder.exists() and not resume:
        number += 1
        folder = folder.with_name(f"{Path(name).stem}-{number}")
    return folder
