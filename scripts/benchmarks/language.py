"""A model of graphs beside a language model of SMILES, both trained for the same CPU time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graphcnf.datasets.references import cached_statistics
from graphcnf.evaluation import measures
from graphcnf.evaluation.draw import first_blocks
from graphcnf.evaluation.formats import Column, number, percent, text
from graphcnf.molecules.distributions import compare
from graphcnf.molecules.metrics import evaluate_records, summarize
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

METRICS = ("fcd", "scaf", "snn", "sa_w1", "logp_w1")
HELD_OUT = 2000
"""Molecules whose likelihood is taken."""

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
        rows.append(_graphs_row(run, dataset, samples, device))
        rows.append(_rival_row(_rival(folder, seed), dataset, samples, seed, device))
    return rows


def _graphs_row(run: TrainedRun, dataset: MoleculeDataset, samples: int, device: str):
    from graphcnf.graphs import GraphCNF

    model, seed = GraphCNF.from_pretrained(run.path), run.settings.seed
    graphs = dataset.graphs.subset(named_data.held_out(dataset, HELD_OUT))
    sizes = -np.mean([model.size_log_prob(_long(graphs.node_counts)).numpy()]) / np.log(2)
    found = measures.bits(model, graphs)["bits_per_molecule"]
    drawn, rate = _timed(
        lambda: [
            model.sample_records(part.start, len(part), seed=seed) for part in first_blocks(samples)
        ],
        samples,
    )
    frames = [evaluate_records(part, dataset.vocabulary) for part in drawn]
    figures = run.figures()
    return {
        "model": run.variant,
        "seed": seed,
        "parameters": sum(p.numel() for p in model.parameters()),
        "minutes": figures["minutes"],
        "seen": figures["steps"] * run.settings.batch_size,
        "bits": found + float(sizes),
        "training_rate": figures["steps"] * run.settings.batch_size / figures["minutes"] / 60,
        "sampling_rate": rate,
        **_scores(frames, dataset, device),
    }


def _rival_row(path: Path, dataset: MoleculeDataset, samples: int, seed: int, device: str):
    from graphcnf.scripts.benchmarks.smiles_lstm import SmilesLSTM, bits_per_molecule

    model = SmilesLSTM.from_pretrained(path)
    trained = model.metadata["training"]
    chosen = named_data.held_out(dataset, HELD_OUT)
    drawn, rate = _timed(lambda: list(model.sample(samples, seed)), samples)
    return {
        "model": RIVAL,
        "seed": seed,
        "parameters": sum(p.numel() for p in model.parameters()),
        "minutes": trained["cpu_minutes"],
        "seen": trained["steps"] * trained["batch_size"],
        "bits": bits_per_molecule(model, [dataset.smiles[k] for k in chosen]),
        "training_rate": trained["molecules_per_second"],
        "sampling_rate": rate,
        **_scores([evaluate_records(drawn)], dataset, device),
    }


def _long(values: np.ndarray):
    import torch

    return torch.from_numpy(values.astype(np.int64))


def _timed(draw: Callable[[], list], samples: int) -> tuple[list, float]:
    """What is drawn by one thread, and samples per second of CPU time."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        began = time.process_time()
        drawn = draw()
        return drawn, samples / (time.process_time() - began)
    finally:
        torch.set_num_threads(threads)


def _scores(frames, dataset: MoleculeDataset, device: str) -> dict[str, Any]:
    import pandas as pd

    frame = pd.concat(frames, ignore_index=True)
    held_out = named_data.held_out(dataset, named_data.REFERENCE)
    options = {"metrics": METRICS, "device": device}
    reference = cached_statistics(
        f"{dataset.name}-test", [dataset.smiles[k] for k in held_out], **options
    )
    valid = list(frame["smiles"][frame["strict"]])
    statistics = cached_statistics("samples", valid, use_cache=False, **options)
    summary = summarize(frame, dataset.training_hashes())
    return {
        **{k: summary[k] for k in ("samples", "strict_validity", "uniqueness", "novelty")},
        **compare(statistics, reference, metrics=METRICS).values,
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
