"""Variants of models, and their training for equal time in child processes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from graphcnf.errors import UserError
from graphcnf.files import replace_file
from graphcnf.scripts.benchmarks.runs import TrainedRun, read_json
from graphcnf.scripts.benchmarks.speed import resident_mib
from graphcnf.training.configuration import apply_overrides, load_preset
from graphcnf.training.settings import TrainingSettings

PROGRAM = "from graphcnf.scripts.cli import main; main()"
INDIFFERENT = ("training.snapshots",)
"""Settings that do not change what a run becomes."""

SHARED = ("minutes", "seed", "threads")
"""Settings that no variant has for itself."""


@dataclass(frozen=True)
class Variant:
    """What to train.

    Attributes:
        name: Its row in the table, and its folder.
        preset: Name of a preset, or a file.
        assignments: Overrides as `KEY=VALUE`.
    """

    name: str
    preset: str
    assignments: tuple[str, ...] = ()


def parse_variants(presets: Sequence[str], texts: Sequence[str]) -> list[Variant]:
    """The presets as they are, and variants written `NAME:KEY=VALUE,...`.

    A variant overrides entries of the first preset, or of the one that its `preset=` names.

    Raises:
        typer.BadParameter: Another form, no preset to start from, or a name that comes twice.
    """
    variants = [Variant(Path(preset).stem, preset) for preset in presets]
    for text in texts:
        name, colon, rest = text.partition(":")
        assignments = [part.strip() for part in _split(rest)] if colon else []
        if not re.fullmatch(r"\w[\w.+-]*", name) or not all("=" in part for part in assignments):
            raise _bad_variant(text, "write NAME:KEY=VALUE,KEY=VALUE")
        keys = {part.partition("=")[0].strip().removeprefix("training.") for part in assignments}
        if keys & {*SHARED}:
            raise _bad_variant(text, f"{', '.join(SHARED)} are the same for all variants")
        named = [part.partition("=")[2] for part in assignments if part.startswith("preset=")]
        preset = [*named, *presets[:1]]
        if not preset:
            raise _bad_variant(text, "name a PRESET to start from, or write preset=PRESET in it")
        kept = tuple(part for part in assignments if not part.startswith("preset="))
        variants.append(Variant(name, preset[0], kept))
    names = [variant.name for variant in variants]
    if not names:
        raise typer.BadParameter("name a PRESET or a --variant")
    for name in names:
        if names.count(name) > 1:
            raise typer.BadParameter(f"two variants are called {name!r}: rename one")
    return variants


def _bad_variant(text: str, reason: str) -> typer.BadParameter:
    return typer.BadParameter(f"{text!r}: {reason}", param_hint="'--variant'")


def _split(text: str) -> list[str]:
    """Parts between the commas that stand in no brackets and no quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        else:
            depth += (letter in "[{") - (letter in "]}")
        if letter == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def train_variants(
    variants: Sequence[Variant],
    seeds: Sequence[int],
    folder: Path,
    *,
    minutes: float,
    threads: int | None,
    assignments: Sequence[str],
    snapshots: bool,
) -> list[TrainedRun]:
    """Train every variant with every seed in `folder/NAME/seed-N`, one after the other.

    With one seed they all see the data in the same order. Runs that are finished stay as they are,
    others are resumed. The peak memory of a training goes into its `benchmark.json`.

    Returns:
        The runs, variant by variant.

    Raises:
        UserError: A wrong setting, a folder that holds a run with other settings, or a training
            that failed or was stopped.
    """
    jobs = []
    for variant in variants:
        overrides = [*assignments, *variant.assignments]
        overrides += ["training.snapshots=true"] if snapshots else []
        for seed in seeds:
            shared = {"minutes": minutes, "seed": seed, "threads": threads or None}
            run = TrainedRun(folder / variant.name / f"seed-{seed}")
            try:
                _check_settings(run, wanted_config(variant.preset, overrides, shared))
            except UserError as error:
                raise UserError(f"{variant.name}: {error}") from None
            jobs.append((run, variant, overrides, shared))
    # Seed by seed: whoever stops early has compared all variants.
    for run, variant, overrides, shared in sorted(jobs, key=lambda job: job[3]["seed"]):
        if (run.path / "benchmark.json").is_file() and run.finished():
            print(f"{run.path}: finished before", file=sys.stderr)
            continue
        _train(run, variant, overrides, shared)
    return [TrainedRun(run.path) for run, *_ in jobs]


def wanted_config(preset: str, overrides: Sequence[str], shared: dict[str, Any]) -> dict[str, Any]:
    """What `graphcnf train` makes of a preset with these `--set` and options.

    Raises:
        UserError: An unknown preset or setting.
    """
    config = load_preset(preset)
    for budget in ("minutes", "steps"):
        config["training"].pop(budget, None)
    config = apply_overrides(config, list(overrides))
    config["training"].update({k: v for k, v in shared.items() if v is not None})
    TrainingSettings.from_dict(config["training"])
    return config


def _check_settings(run: TrainedRun, wanted: dict[str, Any]) -> None:
    """Raise UserError where the folder holds a run with other settings."""
    if not (run.path / "config.toml").is_file():
        return
    stored, wanted = _flat(run.config), _flat(wanted)
    for key in sorted({*stored, *wanted} - set(INDIFFERENT)):
        if stored.get(key) != wanted.get(key):
            raise UserError(
                f"{run.path} holds a run with {key} = {stored.get(key)}, not {wanted.get(key)}: "
                "name another --folder, or delete that run"
            )


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    full = {**config, "training": TrainingSettings.from_dict(config["training"]).to_dict()}
    return dict(_leaves(full, ""))


def _leaves(table: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _train(run: TrainedRun, variant: Variant, overrides: list[str], shared: dict) -> None:
    """Start or resume a run and wait until its budget is spent."""
    if (run.path / "config.toml").is_file():
        # What is stored there is what is wanted: it was compared.
        options = ["--resume"]
        options += [f"--set={o}" for o in overrides if o.startswith("training.snapshots=")]
    else:
        options = [variant.preset, *(f"--set={override}" for override in overrides)]
        options += [f"--{k}={v}" for k, v in shared.items() if v is not None]
    print(f"{run.path}: training", file=sys.stderr, flush=True)
    spent = run.finished()
    code, peak = run_child(["train", f"--out={run.path}", *options])
    after = TrainedRun(run.path)
    if code or not after.finished():
        raise UserError(
            f"training of {variant.name} {_reason(code)}; with --folder, the same command goes on "
            "with it"
        )
    # A child that only found its budget spent says nothing about the memory of training.
    measured = read_json(run.path / "benchmark.json")
    if not spent:
        measured["peak_memory_mib"] = peak
    replace_file(run.path / "benchmark.json", json.dumps(measured).encode())


def _reason(code: int) -> str:
    """Why a training with this exit code is not finished."""
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"failed (exit code {code}), see above" if code else "was stopped"


def run_child(arguments: list[str]) -> tuple[int, float | None]:
    """Run a graphcnf command in a process of its own.

    Returns:
        Its exit code, and its peak resident memory in MiB (None where the system does not say).
    """
    # What a run prints is progress: stdout is for the table.
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments], stdout=sys.stderr.fileno()
    )
    with _passing_on_termination(process):
        try:
            return _wait(process)
        except KeyboardInterrupt:
            # The terminal has told the child, too: let it save what it has.
            _wait(process)
            raise


def _wait(process: subprocess.Popen) -> tuple[int, float | None]:
    if not hasattr(os, "wait4"):
        return process.wait(), None
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, resident_mib(usage.ru_maxrss)


@contextmanager
def _passing_on_termination(process: subprocess.Popen) -> Iterator[None]:
    """A request to end goes to the child, which saves its run; its end then ends this process."""
    try:
        before = signal.signal(signal.SIGTERM, lambda number, frame: process.terminate())
    except ValueError:  # Signals belong to the main thread.
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
