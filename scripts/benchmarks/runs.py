"""Run directories: where they are, what they hold, and which data they were trained on."""

from __future__ import annotations

import csv
import json
import re
import statistics
from collections import Counter
from collections.abc import Sequence
from functools import cached_property, lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphcnf.errors import UserError
from graphcnf.files import at_home
from graphcnf.training.arguments import call, check
from graphcnf.training.configuration import load_config
from graphcnf.training.settings import TrainingSettings

if TYPE_CHECKING:
    from graphcnf.datasets.molecules import MoleculeDataset

EVALUATION_FACTOR = 4
"""Training evaluates on batches that are so many times as large as those it trains on."""

_SEED = re.compile(r"seed-(\d+)")
NEEDED = {"phase": str, "step": int, "minutes": float, "samples_per_second": float}
"""Columns of `metrics.csv` that every line has, though there may be nothing in them."""

_MEASURED = ("bits_", "accuracy")


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
        return load_config(self.path / "config.toml")

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
    def data_name(self) -> str:
        """Name of its data set, or of its file."""
        data = self.config["data"]
        return Path(data["path"]).name if "path" in data else str(data.get("name"))

    @property
    def data_label(self) -> str:
        """`data_name`, and the options that the data were loaded with."""
        options = {k: v for k, v in self.config["data"].items() if k not in ("name", "path")}
        return ", ".join([self.data_name, *(f"{k} = {json.dumps(v)}" for k, v in options.items())])

    @property
    def group(self) -> Path:
        """The same for runs that differ by their seed only."""
        path = self.path.resolve()
        return path.parent if _SEED.fullmatch(path.name) else path

    @cached_property
    def rows(self) -> list[dict[str, str]]:
        """Whole lines of `metrics.csv`."""
        try:
            text = (self.path / "metrics.csv").read_text(encoding="utf-8")
        except OSError:
            return []
        except UnicodeDecodeError:
            raise UserError(f"{self.path / 'metrics.csv'}: damaged, no text") from None
        whole = text[: text.rfind("\n") + 1].splitlines()
        rows = [row for row in csv.DictReader(whole) if None not in row.values()]
        for number, row in enumerate(rows, 2):
            for name, read in NEEDED.items():
                try:
                    read(row[name] or 0)
                except (KeyError, ValueError):
                    found = row.get(name, "missing")
                    raise UserError(
                        f"{self.path / 'metrics.csv'}, line {number}: damaged, {name} is {found!r}"
                    ) from None
        return rows

    @property
    def evaluations(self) -> list[dict[str, str]]:
        """Evaluations of the averaged weights, in order."""
        return [row for row in self.rows if row["phase"] == "eval"]

    def finished(self, step: int | None = None) -> bool:
        """Whether the evaluation at `step`, or the last one, is the one at the end of the budget.

        Steps are those of this run alone, not of the one that it went on from.
        """
        chosen = [r for r in self.evaluations if step is None or int(r["step"]) == step]
        if not chosen:
            return False
        # The file rounds minutes to four decimals.
        seconds = 60 * (float(chosen[-1]["minutes"]) + 5e-5)
        return self.settings.progress(int(chosen[-1]["step"]), seconds) >= 1

    def check_finished(self) -> None:
        """Raise UserError unless the budget is spent."""
        if not self.finished():
            spent = float(self.evaluations[-1]["minutes"]) if self.evaluations else 0
            raise UserError(
                f"{self.path}: the run is not finished (last evaluated after {spent:g} minutes): "
                f"graphcnf train --resume --out {self.path}"
            )

    def figures(self) -> dict[str, Any]:
        """The last evaluation, the training speed, and what was measured beside the run.

        Returns:
            `steps`, `minutes` (with those of the run that this one went on from, where the model
            tells), `samples_per_second` (median over the log), `bits_*`, `accuracy_*`,
            `worst_accuracy`, and what `benchmark.json` holds.

        Raises:
            UserError: The run has no evaluation.
        """
        if not self.evaluations:
            raise UserError(f"{self.path}: the run has no evaluation; was it interrupted?")
        last = self.evaluations[-1]
        try:
            measured = {k: float(v) for k, v in last.items() if v and k.startswith(_MEASURED)}
        except ValueError as error:
            raise UserError(f"{self.path / 'metrics.csv'}: damaged ({error})") from None
        record = saved_metadata(self.path / "model").get("training", {})
        rates = [float(row["samples_per_second"]) for row in self.rows if row["samples_per_second"]]
        return {
            "steps": int(record.get("steps", last["step"])),
            "minutes": float(record.get("minutes", last["minutes"])),
            "samples_per_second": statistics.median(rates) if rates else None,
            **measured,
            "worst_accuracy": worst_accuracy(measured),
            **read_json(self.path / "benchmark.json"),
        }

    def snapshots(self) -> list[Path]:
        """Folders of whole snapshots, in order.

        Those that a killed run left beyond the step that it was resumed from belong to an abandoned
        line of training, and are left out: `metrics.csv` has no such evaluations any more.
        """
        known = {int(row["step"]) for row in self.evaluations}
        return [
            folder
            for folder in sorted((self.path / "snapshots").glob("[0-9]*"))
            if folder.name.isdecimal()
            and int(folder.name) in known
            and all((folder / name).is_file() for name in ("config.json", "model.safetensors"))
        ]

    @property
    def ordered(self) -> bool:
        """Whether the model's likelihood is one of a molecule, not of one of its labellings."""
        return self.config["model"].get("order", "canonical") == "canonical"

    def evaluated_molecules(self, step: int | None = None) -> int:
        """Held-out molecules in the evaluation at `step`, or in the last one, at most."""
        settings = self.settings
        final = self.finished(step)
        batches = settings.final_eval_batches if final else settings.eval_batches
        return batches * EVALUATION_FACTOR * settings.batch_size


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


def run_names(runs: Sequence[TrainedRun]) -> list[str]:
    """A name for each run: of its variant, with the seed or the whole path where it needs one."""
    variants = Counter(run.variant for run in runs)
    names = []
    for run in runs:
        seed = _SEED.fullmatch(run.path.resolve().name)
        more = f", seed {seed[1]}" if seed and variants[run.variant] > 1 else ""
        names.append(run.variant + more)
    repeated = Counter(names)
    return [
        name if repeated[name] == 1 else str(run.path)
        for name, run in zip(names, runs, strict=True)
    ]


def worst_accuracy(figures: dict[str, Any]) -> float | None:
    """The lowest `accuracy*` of an evaluation, None without any."""
    return min((v for k, v in figures.items() if k.startswith("accuracy")), default=None)


def saved_metadata(folder: Path) -> dict[str, Any]:
    """What a saved model says of its data and training; nothing where there is none."""
    return read_json(folder / "config.json").get("metadata", {})


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file, empty where there is none.

    Raises:
        UserError: The file is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("no object")
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UserError(f"{path}: unreadable ({error}); delete it") from None
    return content


def molecules_of(run: TrainedRun) -> MoleculeDataset:
    """The data set that a run was trained on.

    Raises:
        UserError: Its data are no molecules, or are gone.
    """
    return _load_molecules(data_key(run))


def load_molecules(options: dict[str, Any]) -> MoleculeDataset:
    """The molecules that a `[data]` table names.

    Raises:
        UserError: The data are no molecules, or are gone.
    """
    return _load_molecules(json.dumps(options, sort_keys=True))


def data_key(run: TrainedRun) -> str:
    """Where a run's data are and how they are loaded, the same for runs on the same data."""
    options = dict(run.config["data"])
    if "path" in options:
        options["path"] = str(at_home(options["path"]).resolve())
    return json.dumps(options, sort_keys=True)


def molecule_bits(
    run: TrainedRun, figures: dict[str, Any], step: int | None = None
) -> dict[str, Any]:
    """Figures of an evaluation, with the bits per molecule those of the molecule.

    A model without a node order reports the bits of one of the molecule's labellings: what it
    spends on the choice is taken off. The bits per node, as published, stay those of a labelling.

    Args:
        run: The run.
        figures: `bits_per_molecule` and others, of the evaluation at `step`.
        step: A step of the run with an evaluation; None for the last one.
    """
    if run.ordered or "bits_per_molecule" not in figures:
        return figures
    spent = labelling_bits_of(run, step)
    return {**figures, "bits_per_molecule": figures["bits_per_molecule"] - spent}


def labelling_bits_of(run: TrainedRun, step: int | None = None) -> float:
    """Mean of log2(n!/|Aut|) over the molecules of an evaluation; arguments as `molecule_bits`."""
    return _mean_labelling_bits(data_key(run), run.evaluated_molecules(step))


@lru_cache(maxsize=2)
def _load_molecules(data: str) -> MoleculeDataset:
    options = json.loads(data)
    name = str(options.pop("name", ""))
    # Every data set of molecules is `load_<name>` in the module of its name.
    module = f"graphcnf.datasets.{name}"
    known = name.isidentifier() and find_spec(module) is not None
    load = getattr(import_module(module), f"load_{name}", None) if known else None
    if load is None:
        raise UserError(f"the data set {name!r} holds no molecules")
    check("[data]", options, load)
    return call("[data]", load, known={}, **options)


@lru_cache(maxsize=8)
def _mean_labelling_bits(data: str, count: int) -> float:
    """Mean over the held-out molecules that training evaluates first."""
    from graphcnf.graphs.symmetry import labelling_bits
    from graphcnf.scripts.evaluation.named_data import held_out

    dataset = _load_molecules(data)
    return float(labelling_bits(dataset.graphs.subset(held_out(dataset, count))).mean())
