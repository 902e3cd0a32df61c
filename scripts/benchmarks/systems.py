"""Models of molecules side by side: this package's and other systems', for the same CPU time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from graphcnf.evaluation.draw import draw_block
from graphcnf.evaluation.formats import Column, number, percent, text
from graphcnf.evaluation.tables import published_rows
from graphcnf.graphs import GraphCNF
from graphcnf.molecules.drawing import draw_grid
from graphcnf.scripts.benchmarks.molecules import score_run
from graphcnf.scripts.benchmarks.page import Section
from graphcnf.scripts.benchmarks.runs import TrainedRun, molecules_of, train_run
from graphcnf.scripts.evaluation import named_data

PRESETS = ("zinc250k", "zinc250k-unordered", "zinc250k-graphnvp", "zinc250k-graphaf",
           "zinc250k-rvae", "zinc250k-jtvae")  # fmt: skip
"""Compared if none are named."""

METHODS = {"pairs": "GraphCNF", "graphnvp": "GraphNVP", "graphaf": "GraphAF", "rvae": "R-VAE",
           "jtvae": "JT-VAE"}  # fmt: skip
"""Published systems that presets are written after, by architecture; none is reproduced."""

TEMPERATURES = {"graphnvp": 0.75, "graphaf": 0.6}
"""Of samples: published for GraphNVP, in the public implementation (DIG) for GraphAF; others 1."""

DRAWN, SHOWN = 60, 9
"""Raw samples of each model on the page, and how many of them are drawn at the most."""


def train_all(
    presets: Sequence[str], folder: Path, minutes: float, seeds: Sequence[int]
) -> list[TrainedRun]:
    """Train every preset with every seed, in processes of one thread; what is there stays.

    Returns:
        The runs of the first preset, by seed, then those of the next.

    Raises:
        UserError: As `train_run`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return [
        train_run(preset, folder / Path(preset).stem / f"seed-{seed}", minutes=minutes, seed=seed)
        for preset in presets
        for seed in seeds
    ]


def score_all(
    runs: Sequence[TrainedRun], *, samples: int, held_out: int, device: str
) -> list[dict[str, Any]]:
    """A row for each run, and one without its check for a model that draws again what breaks it."""
    published = {row["method"]: row for row in published_rows()}
    rows = []
    for run in runs:
        dataset, model = molecules_of(run), GraphCNF.from_pretrained(run.path)
        architecture = model.config["architecture"]
        variants = [("", model)]
        if not model.is_raw:
            variants = [("", model.without_rules()), (" with its check, not raw", model)]
        for suffix, each in variants:
            row = score_run(
                run, each, dataset, samples=samples, held_out=held_out, device=device,
                temperature=TEMPERATURES.get(architecture, 1.0),
            )  # fmt: skip
            row["model"] += suffix
            row["parallel"] = "yes" if model.steps.parallel else "no"
            quoted = {} if suffix else published.get(METHODS.get(architecture, ""), {})
            row |= {f"published_{k}": quoted.get(k) for k in ("validity", "reconstruction")}
            rows.append(row)
    return rows


def drawings(runs: Sequence[TrainedRun]) -> Section:
    """The first distinct valid samples of each, drawn."""
    section = Section("Samples", said=f"The first valid ones of {DRAWN} raw samples.")
    for run in runs:
        model = GraphCNF.from_pretrained(run.path)
        if not model.is_raw:
            model = model.without_rules()
        temperature = TEMPERATURES.get(model.config["architecture"], 1.0)
        _, frame = draw_block(model, range(DRAWN), seed=run.settings.seed, temperature=temperature)
        smiles = list(dict.fromkeys(frame["smiles"][frame["strict"]]))[:SHOWN]
        if smiles:
            with TemporaryDirectory() as folder:
                content = draw_grid(smiles, Path(folder, "grid.svg"), columns=3).read_text()
            section.pictures.append((f"{run.variant}: {len(smiles)} of {DRAWN}", content))
    return section


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


def notes(rows: Sequence[dict[str, Any]], held_out: int) -> list[str]:
    """What a reader of the table has to know."""
    return [
        "CPU minutes and rates: process CPU time of one thread; of training without evaluations.",
        f"Bits and reconstruction: of {held_out:,} held-out molecules; bits are upper bounds, the "
        "number of atoms included, of graphs without a numbering where the model knows none.",
        f"Of {rows[0]['samples']:,} samples; distances of the valid ones to "
        f"{named_data.REFERENCE:,} held-out molecules.",
        "Published: quoted, of the systems that the presets are written after, which differ from "
        "them in size and otherwise, were trained for longer, and mostly leave charges out.",
        "Parallel: as many evaluations of a network whatever the size of the graph.",
    ]
