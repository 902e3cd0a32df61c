"""Run directories: training in processes of one thread, and figures of finished runs."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from graphcnf.compute.files import inside, read_file
from graphcnf.datasets.molecules import MoleculeDataset
from graphcnf.errors import UserError
from graphcnf.training.experiments import MOLECULES, load_molecules
from graphcnf.training.settings import TrainingSettings, load_config


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

    @cached_property
    def last(self) -> dict[str, float]:
        """Figures of the last evaluation of the averaged weights, none before the first one.

        `step`, `minutes` and what the model reports, such as `bits_per_variable`.
        """
        file = inside(self.path, "metrics.csv")
        try:
            lines = read_file(file).decode()
            # A kill while a line is being written leaves it without its line end.
            rows = csv.DictReader(lines[: lines.rfind("\n") + 1].splitlines())
            found = [row for row in rows if row.get("phase") == "eval" and None not in row]
            figures = {k: float(v) for k, v in found[-1].items() if v and k != "phase"}
            return {"step": figures["step"], "minutes": figures["minutes"], **figures}
        except (FileNotFoundError, IndexError):
            return {}
        except (ValueError, KeyError) as error:
            raise UserError(f"{file}: damaged ({error})") from None

    @property
    def progress(self) -> float:
        """Share of the budget that was spent at the last evaluation, at least 1 at the end."""
        if not self.last:
            return 0.0
        settings = TrainingSettings.from_dict(self.config["training"])
        # The file rounds minutes to four decimals.
        return settings.progress(int(self.last["step"]), 60 * (self.last["minutes"] + 5e-5))

    def check_finished(self) -> None:
        """Raise `UserError` unless the last evaluation is the one at the end of the budget."""
        if self.progress < 1:
            raise UserError(
                f"{self.path}: the run is not finished (last evaluated after "
                f"{int(100 * self.progress)} % of its budget): graphcnf train --resume --out "
                f"{self.path}"
            )

    def molecules(self) -> MoleculeDataset:
        """Load the data set that the run was trained on.

        Raises:
            UserError: The data are no molecules, or are gone.
        """
        data = dict(self.config["data"])
        name = data.pop("name", None)
        if name not in MOLECULES:
            raise UserError(f"{self.path}: the data set {name!r} holds no molecules")
        return load_molecules(name, data)


def train_all(
    presets: Sequence[str], seeds: Sequence[int], folder: Path, minutes: float
) -> list[list[TrainedRun]]:
    """Train every preset with every seed, in processes of one thread.

    A finished run is kept, an interrupted one is continued.

    Args:
        presets: Names or files.
        seeds: Of training.
        folder: Gets a run directory `PRESET/seed-N` for each run.
        minutes: CPU time for each.

    Returns:
        The runs of each preset, in the order of the seeds.

    Raises:
        UserError: A training failed, or a run of another budget is in the way.
    """
    return [
        [_train(preset, folder / Path(preset).stem / f"seed-{seed}", seed, minutes)
         for seed in seeds]
        for preset in presets
    ]  # fmt: skip


def _train(preset: str, path: Path, seed: int, minutes: float) -> TrainedRun:
    run, begun = TrainedRun(path), (path / "config.toml").is_file()
    if begun:
        check_minutes(path, run.config["training"].get("minutes", 0), minutes)
    if run.progress < 1:
        options = [f"--minutes={minutes}", f"--seed={seed}", "--threads=1"]
        for setting in ("clock=cpu", "eval_minutes=0", "snapshots=false"):
            options.append(f"--set={setting}")
        if begun:
            options.append("--resume")
        path.parent.mkdir(parents=True, exist_ok=True)
        run_child(["-m", "graphcnf", "train", preset, f"--out={path}", *options])
    run = TrainedRun(path)
    run.check_finished()
    return run


def check_minutes(path: Path, found: float, wanted: float) -> None:
    """Raise `UserError` where a training had another budget."""
    # The last step may take a little longer.
    if abs(found - wanted) > 0.02 * wanted + 0.02:
        raise UserError(f"{path} was trained for {found:g} minutes, not {wanted:g}: delete it")


def run_child(arguments: Sequence[str]) -> None:
    """Run Python with these arguments in a process of one thread.

    Raises:
        UserError: It ended with an error.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    code = subprocess.call([sys.executable, *arguments], env=environment, stdout=sys.stderr)
    if code:
        raise UserError(f"training failed (exit code {code}), see above")


def find_runs(places: Sequence[Path]) -> list[TrainedRun]:
    """Return the named runs, and those up to two levels deep in named folders, in order.

    Raises:
        UserError: A place that holds no run.
    """
    found: dict[Path, None] = {}
    for place in places:
        levels = ("metrics.csv", "*/metrics.csv", "*/*/metrics.csv")
        runs = sorted(file.parent for level in levels for file in place.glob(level))
        if not runs:
            raise UserError(f"{place}: no run there (a run directory has a metrics.csv)")
        found |= dict.fromkeys(runs)
    return [TrainedRun(path) for path in found]
