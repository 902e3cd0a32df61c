"""Run directories: where they are, what they hold, and which data they were trained on."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphcnf.compute.files import inside, read_file, read_json
from graphcnf.errors import UserError
from graphcnf.training.configuration import load_config
from graphcnf.training.settings import TrainingSettings

if TYPE_CHECKING:
    from graphcnf.datasets.molecules import MoleculeDataset

_SEED = re.compile(r"seed-(\d+)")
NEEDED = {"phase": str, "step": int, "minutes": float}
"""Columns of `metrics.csv` that every line has, though there may be nothing in them."""


class TrainingFailed(UserError):
    """A training ended without a model."""


class TrainedRun:
    """A run directory, as training has left it or is writing it.

    Args:
        path: The directory, with `config.toml` and `metrics.csv`.
    """

    def __init__(self, path: Path):
        self.path = path

    @cached_property
    def config(self) -> dict[str, Any]:
        """Tables `model`, `data` and `training`."""
        return load_config(inside(self.path, "config.toml"))

    @property
    def settings(self) -> TrainingSettings:
        """The `training` table."""
        return TrainingSettings.from_dict(self.config["training"])

    @property
    def variant(self) -> str:
        """Name of what was trained: of the run, or of the folder of its `seed-N`."""
        path = self.path.resolve()
        return path.parent.name if _SEED.fullmatch(path.name) else path.name

    @property
    def evaluations(self) -> list[dict[str, str]]:
        """Evaluations of the averaged weights, in order."""
        return [row for row in self._lines if row["phase"] == "eval"]

    def curve(self, name: str) -> list[tuple[float, float]]:
        """Minutes, and a metric of the batches of training, as far as it was written down."""
        lines = (row for row in self._lines if row["phase"] == "train" and row.get(name))
        try:
            return [(float(row["minutes"]), float(row[name])) for row in lines]
        except ValueError as error:
            raise UserError(f"{self.path / 'metrics.csv'}: damaged ({error})") from None

    @cached_property
    def _lines(self) -> list[dict[str, str]]:
        """Whole lines of `metrics.csv`."""
        file = inside(self.path, "metrics.csv")
        try:
            text = read_file(file).decode()
        except OSError:
            return []
        except UnicodeDecodeError:
            raise UserError(f"{file}: damaged, no text") from None
        whole = text[: text.rfind("\n") + 1].splitlines()
        rows = [row for row in csv.DictReader(whole) if None not in row.values()]
        for number, row in enumerate(rows, 2):
            for name, read in NEEDED.items():
                try:
                    read(row[name] or 0)
                except (KeyError, ValueError):
                    found = row.get(name, "missing")
                    raise UserError(
                        f"{file}, line {number}: damaged, {name} is {found!r}"
                    ) from None
        return rows

    @property
    def progress(self) -> float:
        """Share of the budget that was spent at the last evaluation, at least 1 at the end."""
        if not self.evaluations:
            return 0.0
        last = self.evaluations[-1]
        # The file rounds minutes to four decimals.
        return self.settings.progress(int(last["step"]), 60 * (float(last["minutes"]) + 5e-5))

    def check_finished(self) -> None:
        """Raise UserError unless the last evaluation is the one at the end of the budget."""
        if self.progress < 1:
            raise UserError(
                f"{self.path}: the run is not finished (last evaluated after "
                f"{int(100 * self.progress)} % of its budget): graphcnf train --resume --out "
                f"{self.path}"
            )

    def figures(self) -> dict[str, Any]:
        """`bits_*` of the last evaluation, `steps` and `minutes`.

        Steps and minutes are with those of the run that this one went on from, where the model
        tells.

        Raises:
            UserError: The run has no evaluation.
        """
        if not self.evaluations:
            raise UserError(f"{self.path}: the run has no evaluation; was it interrupted?")
        last = self.evaluations[-1]
        try:
            bits = {k: float(v) for k, v in last.items() if v and k.startswith("bits_")}
        except ValueError as error:
            raise UserError(f"{self.path / 'metrics.csv'}: damaged ({error})") from None
        record = saved_metadata(inside(self.path, "model")).get("training", {})
        return {
            "steps": int(record.get("steps", last["step"])),
            "minutes": float(record.get("minutes", last["minutes"])),
            **bits,
        }


def train_run(
    preset: str, path: Path, *, minutes: float, seed: int, settings: Sequence[str] = ()
) -> TrainedRun:
    """Train in a process of one thread for so many minutes of CPU time.

    What is there stays, and what was interrupted goes on.

    Args:
        preset: Its name or file.
        path: The run's directory.
        minutes: The budget.
        seed: Of the training.
        settings: Further entries of the preset, as `graphcnf train --set` takes them.

    Raises:
        TrainingFailed: It did.
        UserError: The directory holds a run with another budget.
    """
    run, begun = TrainedRun(path), (path / "config.toml").is_file()
    if begun:
        check_minutes(path, run.settings.minutes or 0, minutes)
    if run.progress < 1:
        options = [f"--minutes={minutes}", f"--seed={seed}", "--threads=1"]
        fixed = ("clock=cpu", "eval_minutes=0", "snapshots=false", *settings)
        options += [f"--set={setting}" for setting in fixed]
        if begun:
            options.append("--resume")
        run_child(["-m", "graphcnf", "train", preset, f"--out={path}", *options])
    run = TrainedRun(path)
    run.check_finished()
    return run


def check_minutes(path: Path, found: float, wanted: float) -> None:
    """Raise `UserError` where a training had another budget than is wanted."""
    # The last step may take a little longer.
    if abs(found - wanted) > 0.02 * wanted + 0.02:
        raise UserError(f"{path} was trained for {found:g} minutes, not {wanted:g}: delete it")


def run_child(arguments: Sequence[str]) -> None:
    """Run Python with these arguments in a process of one thread.

    Raises:
        TrainingFailed: It ended with an error.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    code = subprocess.call([sys.executable, *arguments], env=environment, stdout=sys.stderr)
    if code:
        raise TrainingFailed(f"training failed (exit code {code}), see above")


def find_runs(places: Sequence[Path]) -> list[TrainedRun]:
    """Runs that are named, and those in folders that are named (up to two levels deep), in order.

    Raises:
        UserError: A place that holds no run.
    """
    found: dict[Path, None] = {}
    for place in places:
        inside = [place] if (place / "metrics.csv").is_file() else []
        if not inside:
            files = [*place.glob("*/metrics.csv"), *place.glob("*/*/metrics.csv")]
            inside = sorted(file.parent for file in files)
        if not inside:
            raise UserError(f"{place}: no run there (a run directory has a metrics.csv)")
        found |= dict.fromkeys(inside)
    return [TrainedRun(path) for path in found]


def saved_metadata(folder: Path) -> dict[str, Any]:
    """What a saved model says of its data and training; nothing where there is none.

    Raises:
        UserError: Its file is damaged.
    """
    path = inside(folder, "config.json")
    try:
        return read_json(path).get("metadata", {})
    except FileNotFoundError:
        return {}
    except (AttributeError, ValueError) as error:
        raise UserError(f"{path}: unreadable ({error})") from None


def molecules_of(run: TrainedRun) -> MoleculeDataset:
    """The data set that a run was trained on.

    Raises:
        UserError: The data are no molecules, or are gone.
    """
    from graphcnf.training.experiments import MOLECULES, load_molecules

    data = dict(run.config["data"])
    name = data.pop("name", None)
    if name not in MOLECULES:
        raise UserError(f"{run.path}: the data set {name!r} holds no molecules")
    return load_molecules(name, data)
