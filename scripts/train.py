"""The `train` command."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from graphcnf.compute.files import (
    expand_user,
    inside,
)
from graphcnf.errors import UserError, say
from graphcnf.scripts._options import checked_seed
from graphcnf.training.processes import is_main, started_apart
from graphcnf.training.settings import apply_overrides, load_config, load_preset

BUDGET = "Budget"
MACHINE = "Machine"


def train(
    preset: Annotated[
        str | None,
        typer.Argument(
            metavar="PRESET|FILE.toml",
            help="A preset's name or a file. May be left out with --resume and --continue-from.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run directory.", show_default="runs/PRESET")
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            help="Time budget of the whole run.",
            rich_help_panel=BUDGET,
            show_default="the preset's",
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Step budget of the whole run.", rich_help_panel=BUDGET)
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with the run in --out.",
        ),
    ] = False,
    continue_from: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN", help="Start from the plateau of another run, with a budget of its own."
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(callback=checked_seed, help="Seed of everything random.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Samples per step, of all processes together.")
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Override an entry of the preset: learning_rate=1e-3, model.width=96. Repeatable.",
        ),
    ] = None,
    devices: Annotated[
        int | None,
        typer.Option(help="Devices of a node, a process each.", rich_help_panel=MACHINE),
    ] = None,
    num_nodes: Annotated[
        int | None,
        typer.Option(
            help="Nodes; the command is started on each of them.", rich_help_panel=MACHINE
        ),
    ] = None,
    strategy: Annotated[
        str | None,
        typer.Option(help="auto, ddp ..., as Lightning names it.", rich_help_panel=MACHINE),
    ] = None,
    loggers: Annotated[
        str | None,
        typer.Option(metavar="NAME,...", help="tensorboard, wandb, beside metrics.csv."),
    ] = None,
    accelerator: Annotated[
        str | None, typer.Option(help="auto, cpu, cuda, mps ...", rich_help_panel=MACHINE)
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads of torch.", rich_help_panel=MACHINE)
    ] = None,
) -> None:
    """Train a model from a preset. A run can be killed at any moment and resumed."""
    if resume and continue_from is not None:
        raise typer.BadParameter("--resume and --continue-from exclude each other")
    out = expand_user(_run_directory(preset, out, resume, continue_from))
    earlier = out if resume else continue_from
    if earlier is not None and (earlier / "finetune.json").exists():
        raise UserError(
            f"{earlier} holds a fine-tuning: the same graphcnf finetune command goes on"
        )
    stored = inside(earlier, "config.toml") if earlier is not None else None
    if stored is not None and stored.exists() and (resume or preset is None):
        source, config = str(stored), load_config(stored)
        if preset is not None:
            _tell_what_does_not_count(load_preset(preset), config, preset)
    elif preset is not None:
        source, config = preset, load_preset(preset)
        if resume:
            say(f"note: {out} holds no run yet: starting one")
    elif earlier is not None:
        raise UserError(f"{earlier}: no run there (config.toml is missing)")
    else:
        raise typer.BadParameter("name a preset, or a .toml file")

    # A budget on the command line replaces the preset's budget of the other kind, too.
    if minutes is not None or steps is not None:
        for key in ("minutes", "steps"):
            config["training"].pop(key, None)
    config = apply_overrides(config, assignments or [])
    given = dict(minutes=minutes, steps=steps, seed=seed, batch_size=batch_size, devices=devices,
                 num_nodes=num_nodes, strategy=strategy, loggers=loggers,
                 accelerator=accelerator, threads=threads)  # fmt: skip
    config["training"].update({key: value for key, value in given.items() if value is not None})
    if not {"minutes", "steps"} & config["training"].keys():
        raise UserError("a run needs a budget: --minutes M or --steps N")
    if is_main() and not resume and (out / "metrics.csv").exists():
        raise UserError(f"{out} holds a run: resume it with --resume, or choose another --out")
    if is_main():
        say("loading data and libraries ...")
    from graphcnf.training.experiments import fit_config

    # Lightning starts further processes with this command line; they must find the same folder.
    os.environ["GRAPHCNF_RUN"] = str(out)
    result = fit_config(config, out, resume=resume, continue_from=continue_from, source=source)
    if is_main() and result.finished:
        value = result.metrics.get(result.headline)
        figure = f", held-out {result.headline} {value:.4f}" if value is not None else ""
        say(
            f"finished: {result.step} steps in {result.minutes:.1f} minutes{figure}; model in "
            f"{out / 'model'}"
        )
    if result.signal is not None:
        say(f"graphcnf train --resume --out {out} continues it")
        raise typer.Exit(128 + result.signal)


def _tell_what_does_not_count(asked: dict, config: dict, preset: str) -> None:
    """Say which entries of a preset a run that goes on as it began does not heed."""
    names = [f"[{table}]" for table in ("model", "data") if asked[table] != config[table]]
    if preset.endswith(".toml"):  # a shipped one is as it was; options have overruled it
        written, kept = asked["training"], config["training"]
        names += [key for key, value in written.items() if value != kept.get(key)]
    if names:
        say(f"note: the run goes on as it began: {', '.join(names)} of {preset} do not count")


def _run_directory(
    preset: str | None, out: Path | None, resume: bool, continue_from: Path | None
) -> Path:
    """Return the folder of the run, by default a new one in `runs` of the preset's name."""
    if "GRAPHCNF_RUN" in os.environ and os.environ.get("LOCAL_RANK", "0") != "0":
        return Path(os.environ["GRAPHCNF_RUN"])
    if out is not None:
        return out
    if started_apart():
        raise UserError("several processes share the folder of a run: name it with --out")
    if preset is None and continue_from is None:
        raise typer.BadParameter("name a preset, or the run directory with --out")
    if preset is not None and not preset.strip():
        raise typer.BadParameter("name a preset, or a .toml file")
    first = Path("runs") / Path(continue_from if preset is None else preset).stem
    if resume:
        return first
    number, folder = 1, first
    while folder.exists():
        number += 1
        folder = first.with_name(f"{first.name}-{number}")
    return folder
