"""Figures of trained models of molecules: by the same evaluator, of the same held-out molecules."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from graphcnf.datasets.references import cached_statistics
from graphcnf.evaluation import measures
from graphcnf.graphs.record_blocks import one_thread
from graphcnf.molecules.distributions import compare
from graphcnf.molecules.metrics import evaluate_records, summarize
from graphcnf.sampling.draw import first_blocks
from graphcnf.scripts.evaluation import named_data

if TYPE_CHECKING:
    import pandas as pd

    from graphcnf.datasets.molecules import MoleculeDataset
    from graphcnf.graphs import GraphCNF
    from graphcnf.scripts.benchmarks.runs import TrainedRun

METRICS = ("fcd", "scaf", "snn", "sa_w1", "logp_w1")
SUMMARY = ("samples", "strict_validity", "largest_fragment_validity", "uniqueness", "novelty")


def score_run(
    run: TrainedRun,
    model: GraphCNF,
    dataset: MoleculeDataset,
    *,
    samples: int,
    held_out: int,
    temperature: float,
    device: str,
) -> dict[str, Any]:
    """A row for a model.

    Args:
        run: What it was trained in; its seed is that of the samples.
        model: The run's own, or the same weights without their support.
        dataset: What it was trained on.
        samples: How many to draw, in one thread.
        held_out: Molecules whose likelihood and reconstruction are taken.
        temperature: Of the samples.
        device: Where distances are computed.
    """
    seed = run.settings.seed
    graphs = dataset.graphs.subset(named_data.held_out(dataset, held_out))
    sizes = torch.as_tensor(graphs.node_counts, dtype=torch.long)
    size_bits = -float(model.size_log_prob(sizes).mean()) / math.log(2)
    found = measures.bits(model, graphs)["bits_per_molecule"]

    def draw() -> list:
        return [
            model.sample_records(part.start, len(part), seed=seed, temperature=temperature)
            for part in first_blocks(samples)
        ]

    drawn, rate = timed(draw, samples)
    frames = [evaluate_records(part, dataset.vocabulary) for part in drawn]
    figures = run.figures()
    seen = figures["steps"] * run.settings.batch_size
    return {
        "model": run.variant,
        "seed": seed,
        "parameters": sum(p.numel() for p in model.parameters()),
        "minutes": figures["minutes"],
        "seen": seen,
        "bits": found + size_bits,
        "training_rate": seen / figures["minutes"] / 60,
        "sampling_rate": rate,
        "temperature": temperature,
        "reconstruction": measures.reconstruction(model, graphs),
        **score_frames(frames, dataset, device),
    }


def timed(draw: Callable[[], list], samples: int) -> tuple[list, float]:
    """What is drawn by one thread, and samples per second of CPU time."""
    with one_thread(torch.device("cpu")):
        began = time.process_time()
        drawn = draw()
        return drawn, samples / (time.process_time() - began)


def score_frames(
    frames: list[pd.DataFrame], dataset: MoleculeDataset, device: str
) -> dict[str, Any]:
    """Validity, uniqueness, novelty, and `METRICS` of the valid ones to held-out molecules."""
    import pandas as pd

    frame = pd.concat(frames, ignore_index=True)
    held_out = named_data.held_out(dataset, named_data.REFERENCE)
    options = {"metrics": METRICS, "device": device}
    summary = summarize(frame, dataset.training_hashes())
    found = {name: summary[name] for name in SUMMARY}
    valid = list(frame["smiles"][frame["strict"]])
    if len(valid) < 2:
        return found
    reference = cached_statistics(
        f"{dataset.name}-test", [dataset.smiles[k] for k in held_out], **options
    )
    statistics = cached_statistics("samples", valid, use_cache=False, **options)
    return {**found, **compare(statistics, reference, metrics=METRICS).values}
