"""Figures of trained runs and of the samples of their models, side by side."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graphcnf.errors import UserError
from graphcnf.evaluation import measures
from graphcnf.evaluation.formats import Column, Row, number, percent, text
from graphcnf.files import replace_file
from graphcnf.parallel import available_cores
from graphcnf.scripts.benchmarks import speed
from graphcnf.scripts.benchmarks.runs import (
    TrainedRun,
    data_key,
    labelling_bits_of,
    molecule_bits,
    read_json,
    run_names,
    saved_metadata,
)
from graphcnf.scripts.benchmarks.scorer import Job, Scorer
from graphcnf.scripts.evaluation import named_data

DATA = "training data through the same pipeline"


QUALITY: list[Column] = [
    ("worst accuracy", number("worst_accuracy", 5)),
    ("strict", percent("strict_validity")),
    ("largest fragment", percent("largest_fragment_validity")),
    ("connected", percent("connected")),
    ("valence", percent("valence")),
    ("unique", percent("uniqueness")),
    ("novel", percent("novelty")),
]
"""What the samples of a run are worth."""


def measure_sampling(run: TrainedRun, device: str, workers: int | None = None) -> None:
    """Add the speed of sampling to a run's `benchmark.json`, where it is not known yet.

    Args:
        run: The run.
        device: Where to sample.
        workers: Processes; None for one per core, or one for a GPU.
    """
    from graphcnf.scripts._sampling import load_model

    path = run.path / "benchmark.json"
    measured = read_json(path)
    if "vocabulary" not in saved_metadata(run.path / "model"):
        return
    processes = 1 if device != "cpu" else workers or available_cores()
    conditions = {"sampling_device": device, "sampling_processes": processes}
    if any(measured.get(name) != value for name, value in conditions.items()):
        found = speed.sampling_speed(
            load_model(str(run.path / "model"), device),
            processes=processes,
            seconds=speed.SAMPLING_SECONDS,
        )
        measured |= {"sampled_graphs_per_second": found.samples_per_second, **conditions}
        replace_file(path, json.dumps(measured).encode())


def compare(runs: Sequence[TrainedRun], scorer: Scorer) -> list[dict[str, Any]]:
    """One row per variant: means and standard deviations over its seeds, where there are several.

    Rows of the training data come last.

    Args:
        runs: Finished runs.
        scorer: Of their models.

    Raises:
        UserError: A run that is not finished.
    """
    for run in runs:
        run.check_finished()
    jobs = [Job(run, run.path / "model", run.path / "scores.json") for run in runs]
    groups: dict[Path, list[TrainedRun]] = {}
    figures: dict[Path, list[dict[str, Any]]] = {}
    for run, scores in zip(runs, scorer(jobs), strict=True):
        groups.setdefault(run.group, []).append(run)
        figures.setdefault(run.group, []).append(molecule_bits(run, run.figures()) | scores)
    rows = []
    for group, members in groups.items():
        names = dict.fromkeys(name for found in figures[group] for name in found)
        found = [{name: one.get(name) for name in names} for one in figures[group]]
        row = {
            "variant": members[0].variant,
            "seeds": ",".join(str(run.settings.seed) for run in members),
            **measures.mean_and_sd(found),
        }
        if not all(run.ordered for run in runs):
            row["order"] = "canonical" if members[0].ordered else "none"
        rows.append(row)
    return rows + data_rows(runs, scorer, "variant")


def data_rows(runs: Sequence[TrainedRun], scorer: Scorer, column: str) -> list[dict[str, Any]]:
    """The ceiling: a row for each data set of molecules that runs were trained on.

    Args:
        runs: The runs.
        scorer: As for the models.
        column: Where the row's name goes.

    Data that are gone are left out, with a note.
    """
    chosen = {
        data_key(run): run
        for run in runs
        if any("vocabulary" in saved_metadata(f) for f in (run.path / "model", *run.snapshots()))
    }
    rows = []
    for run in chosen.values():
        try:
            figures = scorer.data_figures(run)
        except UserError as error:
            print(f"note: no row of the training data of {run.path}: {error}", file=sys.stderr)
            continue
        name = DATA if len(chosen) == 1 else f"{DATA}: {run.data_label}"
        rows.append({column: name, **figures})
    return rows


def notes(rows: Sequence[Row], runs: Sequence[TrainedRun], scorer: Scorer) -> list[str]:
    """What a reader of a table of runs or of snapshots has to know."""
    lines = [
        "bits: of held-out molecules, averaged weights, upper bounds given the number of atoms"
        + ("; in bfloat16 where training was" if any(r.settings.bf16 for r in runs) else "")
        + "; those of the steps are per node; worst accuracy: of the decoders, there.",
        *_likelihood_notes(runs),
    ]
    if any("samples_per_second" in row for row in rows):
        lines.append("training molecules/s: median over the log; minutes: with its evaluations.")
    processes = sorted({r["sampling_processes"] for r in rows if r.get("sampling_processes")})
    if processes:
        lines.append(
            "raw samples/s: processes of one thread each, after their start; number of them: "
            f"{' or '.join(map(str, processes))}."
        )
    if any("peak_memory_mib" in row for row in rows):
        lines.append("training memory: peak of the training process, its data included.")
    if not any("strict_validity" in row for row in rows):
        return lines
    seed = "the run's seed" if scorer.seed is None else f"seed {scorer.seed}"
    lines += [
        f"shares: of {scorer.samples:,} raw samples at temperature 1, argmax decoding, {seed}; "
        "unique and novel: of the strictly valid ones.",
        "strict: sanitizes as it is and is one fragment; largest fragment: its largest fragment "
        "sanitizes; valence: sanitizes as it is, fragments allowed, no charge repaired.",
    ]
    if any(run.config["model"].get("adjacency", "path") == "path" for run in runs):
        lines.append("connected: by construction where the adjacency is coded along a path.")
    if scorer.fcd:
        lines.append(
            f"FCD: of the strictly valid samples to at most {named_data.REFERENCE:,} held-out "
            "molecules; it falls with the number of samples: compare rows with about as many valid "
            "ones."
        )
    return lines


def _likelihood_notes(runs: Sequence[TrainedRun]) -> list[str]:
    """Whose likelihoods compare, and what they are of."""
    lines = []
    named = dict(zip(run_names(runs), runs, strict=True))
    unordered = {name: labelling_bits_of(run) for name, run in named.items() if not run.ordered}
    if unordered:
        spent = ", ".join(f"{bits:.2f} for {name}" for name, bits in unordered.items())
        lines.append(
            f"{', '.join(unordered)}: no node order. The bits per node, and those of the steps, "
            "are of one labelling of a graph and do not compare with those of an ordered model. "
            "The bits per molecule are those of a labelling less log2(n!/|Aut|), the choice of it "
            f"(mean {spent}); they compare."
        )
    uncharged = [name for name, r in named.items() if r.config["data"].get("charges") is False]
    if uncharged:
        lines.append(
            f"{', '.join(uncharged)}: graphs without formal charges. The bits leave the charges "
            "out: they do not compare with those of graphs that have them. Novelty and FCD are "
            "held against the real molecules, with their charges; the row of the training data "
            "shows what such graphs can reach."
        )
    return lines


def columns(rows: Sequence[Row]) -> list[Column]:
    """Columns of the table of these rows."""
    bits = dict.fromkeys(
        name for row in rows for name in row if name.startswith("bits_") and name[-3:] != "_sd"
    )
    # Totals first: the steps add up to them.
    bits = sorted(bits, key=lambda name: not name.startswith("bits_per_"))
    # A dash where too few samples are valid.
    distance = [("FCD", lambda row: number("fcd")(row) or "–")] if "fcd" in rows[0] else []
    return [
        ("variant", text("variant")),
        ("seeds", text("seeds")),
        ("node order", text("order")),
        ("parameters", text("parameters", "{:,}")),
        ("minutes", number("minutes", 1)),
        ("steps", text("steps", "{:,}")),
        ("training molecules/s", number("samples_per_second", 1)),
        ("raw samples/s", number("sampled_graphs_per_second", 1)),
        *((name.replace("_", " "), number(name, 3)) for name in bits),
        *QUALITY,
        *distance,
        ("training memory (MiB)", number("peak_memory_mib", 0)),
    ]
