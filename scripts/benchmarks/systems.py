"""Models of molecules side by side, this package's and others', trained for the same CPU time.

Other systems are those that `graphcnf.baselines` implements from their papers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch

from graphcnf.datasets import references
from graphcnf.datasets.molecules import MoleculeDataset
from graphcnf.errors import require
from graphcnf.evaluation.evaluate import bits, reconstruction
from graphcnf.evaluation.layout import Column, number, percent, text, transposed
from graphcnf.evaluation.statistics import compare, set_statistics
from graphcnf.evaluation.summary import summarize
from graphcnf.file_reading import expand_user
from graphcnf.graphs.batch import PackedGraphs
from graphcnf.graphs.building import draws_raw, without_rules
from graphcnf.graphs.graph_model import GraphModel
from graphcnf.graphs.records import one_thread, sample_records
from graphcnf.molecules.conventions import evaluate_records
from graphcnf.sampling.sample import first_blocks
from graphcnf.scripts._options import option, parse_seeds
from graphcnf.scripts.benchmarks.runner import (
    Folder,
    Minutes,
    Out,
    Presets,
    Samples,
    Seeds,
    TrainedRun,
    published,
    train_all,
    write,
)
from graphcnf.scripts.benchmarks.smiles_lstm import SmilesLSTM, bits_per_molecule, train_beside
from graphcnf.training.settings import load_preset

PARALLEL = {"pairs", "unordered", "rvae"}
"""Architectures whose number of network evaluations is bounded for graphs of any size."""

PRESETS = ("zinc250k", "zinc250k-unordered", "zinc250k-graphnvp", "zinc250k-graphaf",
           "zinc250k-rvae", "zinc250k-jtvae")  # fmt: skip
# Published systems that the presets imitate, by architecture.
METHODS = {
    "pairs": "GraphCNF",
    "graphnvp": "GraphNVP",
    "graphaf": "GraphAF",
    "rvae": "R-VAE",
    "jtvae": "JT-VAE",
}
# Temperatures of samples: published for GraphNVP, of DIG's implementation for GraphAF; else 1.
TEMPERATURES = {"graphnvp": 0.75, "graphaf": 0.6}

METRICS = ("fcd", "scaf", "snn", "sa_w1", "logp_w1")
SUMMARY = ("samples", "strict_validity", "largest_fragment_validity", "uniqueness", "novelty")

COLUMNS: list[Column] = [
    ("Model", text("model")),
    ("Seed", number("seed", 0)),
    ("Published validity", percent("published_validity")),
    ("Strict", percent("strict_validity")),
    ("Largest fragment", percent("largest_fragment_validity")),
    ("Unique", percent("uniqueness")),
    ("Novel", percent("novelty")),
    ("Published reconstruction", percent("published_reconstruction")),
    ("Reconstruction", percent("reconstruction")),
    ("Bits per molecule", number("bits", 2)),
    ("FCD", number("fcd", 2)),
    ("Scaf", number("scaf", 3)),
    ("SNN", number("snn", 3)),
    ("SA, W1", number("sa_w1", 3)),
    ("logP, W1", number("logp_w1", 3)),
    ("Parameters", number("parameters", 0)),
    ("CPU minutes", number("minutes", 1)),
    ("Molecules seen", number("seen", 0)),
    ("Training, molecules/s", number("training_rate", 0)),
    ("Sampling, molecules/s", number("sampling_rate", 0)),
    ("Temperature", number("temperature", 2)),
    ("Parallel", text("parallel")),
]


def systems(
    presets: Presets = None,
    minutes: Minutes = 30,
    seeds: Seeds = "0",
    language: Annotated[
        bool, option("Also an LSTM of SMILES, on the first model's data.", "--language")
    ] = False,
    folder: Folder = Path("runs/systems"),
    samples: Samples = 10_000,
    held_out: Annotated[
        int, option("Held-out molecules for bits and reconstruction.", min=1)
    ] = 2000,
    out: Out = None,
) -> None:
    """Compare this package's models with other systems, trained for the same CPU time."""
    numbers, folder = parse_seeds(seeds), expand_user(folder)
    require("fcd_torch", "the FCD", "fcd")
    names = presets or list(PRESETS)
    for name in names:
        load_preset(name)
    runs = train_all(names, numbers, folder, minutes)
    beside = runs[0] if language else []
    rivals = [train_beside(run, minutes) for run in beside]
    rows = [row for same in runs for run in same for row in _rows(run, samples, held_out)]
    pairs = zip(rivals, beside, strict=True)
    rows += [_language_row(*pair, samples, held_out) for pair in pairs]
    notes = [
        "CPU minutes and rates: process CPU time of one thread; of training without evaluations.",
        f"Bits and reconstruction: of {held_out:,} held-out molecules; bits are upper bounds, the "
        "number of atoms included, of graphs without a numbering where the model knows none.",
        f"Of {samples:,} samples; distances of the valid ones to {references.HELD_OUT:,} held-out "
        "molecules.",
        "Published: quoted, of the systems that the presets imitate; these differ in size and "
        "otherwise, were trained for longer, and mostly leave charges out.",
        "Parallel: the evaluations of a network have a bound, whatever the size of the graph.",
    ]
    # Transposed, since there are few models and many figures.
    text_table = out is None or out.suffix in (".md", ".txt")
    write(out, *(transposed(rows, COLUMNS) if text_table else (rows, COLUMNS)), notes)


def _rows(run: TrainedRun, samples: int, held_out: int) -> list[dict[str, Any]]:
    """Return the table's rows of a trained model."""
    dataset, model = run.molecules(), GraphModel.from_pretrained(run.path)
    method = METHODS.get(model.config["architecture"], "")
    known = {row["method"]: row for row in published("zinc250k")}.get(f"{method} (published)", {})
    quoted = {f"published_{k}": known.get(k) for k in ("validity", "reconstruction")}
    raw = model if draws_raw(model) else without_rules(model)
    rows = [_row(run, raw, dataset, samples, held_out) | quoted]
    if raw is not model:
        checked = _row(run, model, dataset, samples, held_out)
        rows.append(checked | {"model": f"{checked['model']} with its check, not raw"})
    return rows


def _row(
    run: TrainedRun, model: GraphModel, dataset: MoleculeDataset, samples: int, held_out: int
) -> dict[str, Any]:
    """Return the table's row of a graph model, whose samples have the seed of its training."""
    seed = model.metadata["training"]["seed"]
    temperature = TEMPERATURES.get(model.config["architecture"], 1.0)
    graphs = dataset.graphs.subset(references.held_out(dataset, held_out))
    sizes = torch.as_tensor(graphs.node_counts, dtype=torch.long)
    size_bits = -float(model.size_prior.log_prob(sizes).mean()) / math.log(2)

    def draw() -> list[PackedGraphs]:
        return [
            sample_records(model, part, seed=seed, temperature=temperature)
            for part in first_blocks(samples)
        ]

    return {
        "model": run.path.parent.name,
        "bits": bits(model, graphs)["bits_per_molecule"] + size_bits,
        "temperature": temperature,
        "parallel": "yes" if model.config["architecture"] in PARALLEL else "no",
        "reconstruction": reconstruction(model, graphs),
        **_figures(model, dataset, samples, draw),
    }


def _language_row(
    model: SmilesLSTM, run: TrainedRun, samples: int, held_out: int
) -> dict[str, Any]:
    """Return the table's row of a language model."""
    dataset, seed = run.molecules(), model.metadata["training"]["seed"]
    chosen = [dataset.smiles[k] for k in references.held_out(dataset, held_out)]
    return {
        "model": "SMILES LSTM",
        "bits": bits_per_molecule(model, chosen),
        "temperature": 1.0,
        "parallel": "no",
        **_figures(model, dataset, samples, lambda: [list(model.sample(samples, seed))]),
    }


def _figures(
    model: GraphModel | SmilesLSTM,
    dataset: MoleculeDataset,
    samples: int,
    draw: Callable[[], list[Any]],
) -> dict[str, Any]:
    """Return the figures of a row that graph models and language models share."""
    with one_thread(torch.device("cpu")):
        began = time.process_time()
        drawn = draw()
        seconds = time.process_time() - began
    frames = [evaluate_records(part, dataset.vocabulary) for part in drawn]
    trained = model.metadata["training"]
    seen = trained["steps"] * trained["batch_size"]
    frame = pd.concat(frames, ignore_index=True)
    summary = summarize(frame).figures(dataset.training_hashes())
    figures = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "seed": trained["seed"],
        "minutes": trained["minutes"],
        "seen": seen,
        "training_rate": seen / trained["minutes"] / 60,
        "sampling_rate": samples / seconds,
        **{name: summary[name] for name in SUMMARY},
    }
    valid = list(frame["smiles"][frame["strict"]])
    if len(valid) < 2:
        return figures
    held_out = [dataset.smiles[k] for k in references.held_out(dataset, references.HELD_OUT)]
    reference = set_statistics(
        held_out, label=f"{dataset.name}-test", metrics=METRICS, workers=None, use_cache=True
    )
    statistics = set_statistics(valid, label="samples", metrics=METRICS, workers=None)
    return figures | compare(statistics, reference, metrics=METRICS).values
