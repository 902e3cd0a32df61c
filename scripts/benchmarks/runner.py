"""What the benchmarks share: options, trained runs, published figures and output.

A *run* is the folder of one training. A *budget* is the CPU time of a training, in minutes, which
is the same for all models of a table.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from graphcnf.datasets.molecules import MoleculeDataset
from graphcnf.errors import UserError
from graphcnf.evaluation.layout import Column, Row
from graphcnf.file_reading import inside, read_json
from graphcnf.limits import check_minutes, check_seed
from graphcnf.scripts._files import Role
from graphcnf.scripts._options import option
from graphcnf.scripts._output import table_kind, write_table
from graphcnf.training.experiments import MOLECULES, load_molecules
from graphcnf.training.settings import load_preset

HERE = Path(__file__).parent


Model = Annotated[str, option("Shipped weights, or a run.", metavar="NAME|DIR"), Role.MODEL]
Samples = Annotated[int, option("Samples to score.", "--samples", "-n", min=1)]
Seed = Annotated[int, option("Seed of everything random.", check=check_seed)]
Seeds = Annotated[str, option("Seeds of training and sampling.", metavar="S,S,...")]
Presets = Annotated[
    list[str] | None,
    typer.Argument(metavar="PRESET|FILE.toml...", help="Models.", show_default="six presets"),
    Role.FILE,
]
Minutes = Annotated[float, option("CPU minutes of one thread for each run.", check=check_minutes)]
Folder = Annotated[
    Path, option("Folder of the runs: finished ones count, others are continued."), Role.RUN
]
Reference = Annotated[
    str | None,
    option("Data with held-out molecules.", metavar="NAME|FILE", show_default="the model's own"),
    Role.FILE,
]
Out = Annotated[
    Path | None,
    option(
        "File to write: .md, .csv or .json.",
        check=lambda out: table_kind(out, False, False),
        show_default="stdout",
    ),
    Role.OUTPUT,
]


def published(table: str, /, **where: str | float) -> list[dict[str, Any]]:
    """Return figures of other methods as their papers publish them.

    Args:
        table: Name of a file in the folder `published`, without .csv.
        **where: Values that a row must have, by column, such as `kind="planar"`.

    Returns:
        The rows, `{column: value}` without empty cells; the name of the method ends in
        "(published)".
    """
    file = HERE / "published" / f"{table}.csv"
    frame = pd.read_csv(file, float_precision="round_trip")
    frame["method"] += " (published)"
    rows = [row.dropna().to_dict() for _, row in frame.iterrows()]
    return [row for row in rows if where.items() <= row.items()]


def write(
    out: Path | None, rows: Sequence[Row], columns: Sequence[Column], notes: Sequence[str]
) -> None:
    """Write a table to stdout as Markdown, or to a file in the format of its name.

    Args:
        out: The file; None for stdout.
        rows: `{name: value}` of each row.
        columns: Columns of Markdown: a heading, and a function from a row to the text of its cell
            (`graphcnf.evaluation.layout`).
        notes: Footnotes of Markdown.
    """
    write_table(table_kind(out, False, False), out, rows, columns, notes)


class TrainedRun:
    """The folder of a training, finished or not.

    Args:
        path: The folder.

    Attributes:
        path: The folder.
        preset: The preset with which the training was started.
    """

    def __init__(self, path: Path):
        self.path, self.preset = path, load_preset(inside(path, "config.toml"))

    def minutes(self) -> float | None:
        """Return the minutes for which the model was trained; None if there is no model yet."""
        file = inside(self.path, "model", "config.json")
        try:
            return float(read_json(file)["metadata"]["training"]["minutes"])
        except FileNotFoundError:
            return None
        except (ValueError, LookupError, TypeError) as error:
            raise UserError(f"{file}: damaged ({error})") from None

    def molecules(self) -> MoleculeDataset:
        """Load the molecules that the run was trained on."""
        data = dict(self.preset.data)
        name = data.pop("name", None)
        if name not in MOLECULES:
            raise UserError(f"{self.path}: the data set {name!r} holds no molecules")
        return load_molecules(name, data)


def train_all(
    presets: Sequence[str], seeds: Sequence[int], folder: Path, minutes: float
) -> list[list[TrainedRun]]:
    """Train every preset with every seed, each in a process with one thread.

    Finished runs in `folder/PRESET/seed-N` are kept, interrupted ones continued.

    Args:
        presets: Names or files of presets.
        seeds: Seeds of the trainings.
        folder: Folder of the runs.
        minutes: CPU time of each training.

    Returns:
        For each preset a list of its runs, one for each seed.
    """
    return [
        [
            _train(preset, folder / Path(preset).stem / f"seed-{seed}", seed, minutes)
            for seed in seeds
        ]
        for preset in presets
    ]


def _train(preset: str, path: Path, seed: int, minutes: float) -> TrainedRun:
    """Train a preset, or continue its run, unless the run is finished."""
    begun = (path / "config.toml").is_file()
    if begun:
        run = TrainedRun(path)
        budget, trained = run.preset.training.minutes or 0, run.minutes()
        check_budget(path, budget, minutes)
        if trained is not None and trained + 5e-3 >= budget:  # rounded to two decimals
            return run
    options = [
        f"--minutes={minutes}",
        f"--seed={seed}",
        "--threads=1",
        "--set=clock=cpu",
        "--set=eval_minutes=0",
        "--set=snapshots=false",
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    resume = ["--resume"] if begun else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "graphcnf", "train", preset, f"--out={path}"]
    code = subprocess.call([*command, *options, *resume], env=environment, stdout=sys.stderr)
    if code:
        raise UserError(f"training failed (exit code {code}), see above")
    return TrainedRun(path)


def check_budget(path: Path, found: float, wanted: float) -> None:
    """Check that a training had the budget that is wanted now, so that models can be compared.

    Args:
        path: Folder of the training, for the message.
        found: Its budget in minutes.
        wanted: The wanted budget in minutes.
    """
    # The last step may exceed the budget a little.
    if abs(found - wanted) > 0.02 * wanted + 0.02:
        raise UserError(f"{path} was trained for {found:g} minutes, not {wanted:g}: delete it")
