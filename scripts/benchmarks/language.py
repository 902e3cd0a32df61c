"""A model of graphs beside a language model of SMILES, both trained for the same CPU time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphcnf.evaluation.formats import Column, number, percent, text
from graphcnf.molecules.metrics import evaluate_records
from graphcnf.scripts.benchmarks.molecules import HELD_OUT, score_frames, score_run, timed
from graphcnf.scripts.benchmarks.runs import (
    TrainedRun,
    check_minutes,
    molecules_of,
    run_child,
    saved_metadata,
    train_run,
)
from graphcnf.scripts.evaluation import named_data

if TYPE_CHECKING:
    from graphcnf.datasets.molecules import MoleculeDataset

RIVAL = "SMILES LSTM"


def train_both(preset: str, seeds: Sequence[int], folder: Path, minutes: float) -> list[TrainedRun]:
    """Train both models with every seed, in processes of one thread; what is there stays.

    Returns:
        The runs of the preset, by seed; the rival is in `folder/smiles-lstm/seed-N`.

    Raises:
        UserError: A training failed, or a folder holds one with another budget.
    """
    runs = []
    for seed in seeds:
        place = folder / Path(preset).stem / f"seed-{seed}"
        run = train_run(preset, place, minutes=minutes, seed=seed)
        rival = _rival(folder, seed)
        if not (rival / "config.json").is_file():
            data = json.dumps(run.config["data"])
            module = "graphcnf.scripts.benchmarks.smiles_lstm"
            run_child(["-m", module, str(rival), str(minutes), str(seed), data])
        trained = saved_metadata(rival).get("training", {}).get("cpu_minutes", 0)
        check_minutes(rival, trained, minutes)
        runs.append(run)
    return runs


def _rival(folder: Path, seed: int) -> Path:
    return folder / "smiles-lstm" / f"seed-{seed}"


def compare_both(
    runs: Sequence[TrainedRun], folder: Path, *, samples: int, device: str
) -> list[dict[str, Any]]:
    """A row for each model and seed, with the same molecules and the same evaluator."""
    rows = []
    for run in runs:
        dataset = molecules_of(run)
        seed = run.settings.seed
        rows.append(score_run(run, dataset, samples=samples, device=device))
        rows.append(_rival_row(_rival(folder, seed), dataset, samples, seed, device))
    return rows


def _rival_row(path: Path, dataset: MoleculeDataset, samples: int, seed: int, device: str):
    from graphcnf.scripts.benchmarks.smiles_lstm import SmilesLSTM, bits_per_molecule

    model = SmilesLSTM.from_pretrained(path)
    trained = model.metadata["training"]
    chosen = named_data.held_out(dataset, HELD_OUT)
    drawn, rate = timed(lambda: list(model.sample(samples, seed)), samples)
    return {
        "model": RIVAL,
        "seed": seed,
        "parameters": sum(p.numel() for p in model.parameters()),
        "minutes": trained["cpu_minutes"],
        "seen": trained["steps"] * trained["batch_size"],
        "bits": bits_per_molecule(model, [dataset.smiles[k] for k in chosen]),
        "training_rate": trained["molecules_per_second"],
        "sampling_rate": rate,
        **score_frames([evaluate_records(drawn)], dataset, device),
    }


COLUMNS: list[Column] = [
    ("Model", text("model")),
    ("Seed", number("seed", 0)),
    ("CPU minutes", number("minutes", 1)),
    ("Parameters", number("parameters", 0)),
    ("Molecules seen", number("seen", 0)),
    ("Bits per molecule", number("bits", 2)),
    ("Strict", percent("strict_validity")),
    ("FCD", number("fcd", 2)),
    ("Scaf", number("scaf", 3)),
    ("SNN", number("snn", 3)),
    ("SA, W1", number("sa_w1", 3)),
    ("logP, W1", number("logp_w1", 3)),
    ("Training, molecules/s", number("training_rate", 0)),
    ("Sampling, molecules/s", number("sampling_rate", 0)),
]


def notes(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What a reader of the table has to know."""
    return [
        "CPU minutes and rates: process CPU time of one thread; of training without evaluations.",
        f"Bits: of {HELD_OUT:,} held-out molecules, an upper bound, number of atoms included.",
        f"Of {rows[0]['samples']:,} raw samples at temperature 1; distances of the valid ones to "
        f"{named_data.REFERENCE:,} held-out molecules.",
    ]
