"""The `train` command."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphcnf.compute.files import (
    RUN_MARK,
    claim,
    expand_user,
    file_lock,
    inside,
    is_claimed,
    read_file,
    replace_file,
)
from graphcnf.errors import UserError, require, say
from graphcnf.scripts._sampling import checked_seed
from graphcnf.training.configuration import apply_overrides, load_config, load_preset
from graphcnf.training.processes import is_main, started_apart
from graphcnf.training.settings import TrainingSettings

if TYPE_CHECKING:
    from graphcnf.training.experiment import Experiment

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
            help="Go on with the run in --out. With a larger budget, a run whose learning rate "
            "had begun to fall goes on from its plateau.",
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
    source = out if resume else continue_from
    if source is not None and (source / "finetune.json").exists():
        raise UserError(f"{source} holds a fine-tuning: the same graphcnf finetune command goes on")
    stored = inside(source, "config.toml") if source is not None else None
    if stored is not None and stored.exists() and (resume or preset is None):
        config = load_config(stored)
        if preset is not None:
            _tell_what_does_not_count(load_preset(preset), config, preset)
    elif preset is not None:
        config = load_preset(preset)
        if resume:
            say(f"note: {out} holds no run yet: starting one")
    elif source is not None:
        raise UserError(f"{source}: no run there (config.toml is missing)")
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
    where = str(stored if stored is not None and stored.exists() else preset)
    settings = TrainingSettings.from_dict(config["training"], f"{where} [training]")
    if settings.minutes is None and settings.steps is None:
        raise UserError("a run needs a budget: --minutes M or --steps N")

    require("lightning", "training", "train")
    with _begun(out, config, settings):
        if is_main():
            say("loading data and libraries ...")
        experiment = _experiment(config, where, settings.threads)
    from graphcnf.training.loop import fit

    # Lightning starts further processes with this command line; they must find the same folder.
    os.environ["GRAPHCNF_RUN"] = str(out)
    result = fit(experiment, settings, out, resume, continue_from=continue_from, config=config)
    if is_main():
        _summary(result, out)
    if result.signal is not None:
        say(f"graphcnf train --resume --out {out} continues it")
        raise typer.Exit(128 + result.signal)


@contextmanager
def _begun(out: Path, config: dict, settings: TrainingSettings) -> Iterator[None]:
    """Context in which a new run's folder says already what is to be trained.

    Loading may take minutes: whoever is stopped meanwhile goes on with --resume. Where it fails,
    the folder is left as it was.
    """
    import tomli_w

    if not is_main():
        yield
        return
    is_claimed(out, "training")
    file = inside(out, "config.toml")
    if (out / "checkpoints" / "last.ckpt").exists() or (out / "metrics.csv").exists():
        yield
        return
    content = tomli_w.dumps({**config, "training": settings.to_dict()})
    try:
        content = content.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{out}: {content[error.start - 20 : error.end]!r} in the configuration is no text"
        ) from None
    before = read_file(file) if file.exists() else None
    new = [p for p in (out, *out.parents) if not p.exists()]
    claimed = claim(out, "training")
    with file_lock(inside(out, ".lock"), out):
        replace_file(file, content)
    try:
        yield
    except Exception:
        if before is None:
            file.unlink(missing_ok=True)
            if claimed:
                (out / RUN_MARK).unlink(missing_ok=True)
            with suppress(OSError):  # somebody has put something there
                for folder in new:
                    folder.rmdir()
        else:
            replace_file(file, before)
        raise


def _experiment(config: dict, where: str, threads: int) -> Experiment:
    """Model and data; errors of the configuration begin with the name of its file."""
    from graphcnf.training.experiments import build_experiment

    if threads:
        import torch

        torch.set_num_threads(threads)
    try:
        return build_experiment(config)
    except UserError as error:
        text = str(error)
        raise UserError(f"{where} {text}" if text.startswith("[") else text) from error


def _tell_what_does_not_count(asked: dict, config: dict, preset: str) -> None:
    """A run goes on as it began, whatever became of its preset."""
    names = [f"[{table}]" for table in ("model", "data") if asked[table] != config[table]]
    if preset.endswith(".toml"):  # a shipped one is as it was; options have overruled it
        written, kept = asked["training"], config["training"]
        names += [key for key, value in written.items() if value != kept.get(key)]
    if names:
        say(f"note: the run goes on as it began: {', '.join(names)} of {preset} do not count")


def _run_directory(
    preset: str | None, out: Path | None, resume: bool, continue_from: Path | None
) -> Path:
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


def _summary(result, out: Path) -> None:
    if not result.finished:
        return
    value = result.metrics.get(result.headline)
    figure = f", held-out {result.headline} {value:.4f}" if value is not None else ""
    say(
        f"finished: {result.step} steps in {result.minutes:.1f} minutes{figure}; model in "
        f"{out / 'model'}"
    )
