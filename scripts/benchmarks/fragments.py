"""Four tasks on the fragments of ten drugs: extend a motif, link, build around, decorate.

The protocol of SAFE (Noutahi et al. 2023, arXiv 2310.10773) and GenMol (Lee et al. 2025, arXiv
2501.06158): 100 molecules for each drug and task; quality is the share that is unique, has QED of
at least 0.6 and an SA score of at most 4.
"""

from __future__ import annotations

import csv
import time
from itertools import islice
from typing import Any

import numpy as np
from rdkit import Chem

from graphcnf.errors import UserError, say
from graphcnf.evaluation.formats import Column, number, percent, text
from graphcnf.evaluation.metrics import fingerprints, internal_diversity
from graphcnf.graphs import GraphCNF
from graphcnf.molecules.growth import Growth, check_grows, read_fragment
from graphcnf.molecules.properties import qed, sa
from graphcnf.molecules.vocabulary import MoleculeVocabulary
from graphcnf.scripts._options import load_model
from graphcnf.scripts.benchmarks.runner import HERE, Model, Out, Samples, published, write

TASKS = {
    "motif_extension": "grow",
    "linker_design": "link",
    "superstructure_generation": "scaffold",
    "scaffold_decoration": "decorate",
}
"""Task in `graphcnf.molecules.growth.TASKS` for each column of `fragments.csv`."""

SEEDS, PARTICLES = range(3), 4  # runs of each drug and task, and particles for each molecule

COLUMNS: list[Column] = [
    ("Task", text("task")),
    ("Method", text("method")),
    ("Valid", percent("valid")),
    ("Unique", percent("unique")),
    ("Quality", percent("quality")),
    ("Diversity", number("diversity", 3)),
    ("Fragment in it", percent("holds")),
    ("s per 100", number("seconds", 1)),
]


def fragments(
    model: Model = "zinc250k",
    samples: Samples = 100,
    out: Out = None,
) -> None:
    """Extend, link, build around and decorate the fragments of ten drugs."""
    loaded = load_model(model)
    check_grows(loaded)
    with open(HERE / "fragments.csv", newline="", encoding="utf-8") as file:
        drugs = list(csv.DictReader(file))
    rows: list[dict[str, Any]] = []
    for column in TASKS:
        scores = [_score(loaded, drug, column, seed, samples) for seed in SEEDS for drug in drugs]
        mean = {key: float(np.nanmean([score[key] for score in scores])) for key in scores[0]}
        task = column.replace("_", " ")
        rows.append({"task": task, "method": model, **mean})
        rows += published("fragments", task=task)
    notes = [
        f"{samples} distinct molecules for each of ten drugs, {len(SEEDS)} runs; {PARTICLES} "
        "particles per molecule, temperature 1, number of atoms as in the training data.",
        "Valid: share of valid molecules among particles with the whole fragment; only these are "
        "taken. Quality: unique, QED of at least 0.6, SA of at most 4.",
        "Fragment in it: found by RDKit, without stereo. Seconds: of one thread.",
    ]
    write(out, rows, COLUMNS, notes)


def _score(
    model: GraphCNF, drug: dict[str, str], column: str, seed: int, samples: int
) -> dict[str, float]:
    """Return the figures of one drug and task; a fragment that fails counts as 0."""
    began = time.process_time()
    vocabulary = MoleculeVocabulary.of_model(model)
    found, valid = [], 0.0
    try:
        fragment = read_fragment(drug[column], TASKS[column], vocabulary)
        growth = Growth(model, vocabulary, fragment, seed=seed, particles=PARTICLES)
        found = list(islice(growth.molecules(), samples))
        valid = growth.valid / max(growth.placed, 1)
    except UserError as error:
        say(f"note: {drug['name']}, {column}: {error}")
    seconds = (time.process_time() - began) * 100 / samples
    mols = [Chem.MolFromSmiles(one.smiles) for one in found]
    prints = fingerprints(mols)
    score = {
        "valid": valid,
        "unique": len({one.smiles for one in found}) / samples,
        "quality": sum(qed(mol) >= 0.6 and sa(mol) <= 4 for mol in mols) / samples,
        "diversity": internal_diversity(prints) if len(mols) > 1 else np.nan,
        "holds": float(np.mean([bool(fragment.match(mol)) for mol in mols])) if mols else np.nan,
        "seconds": seconds,
    }
    shown = ", ".join(f"{key} {value:.3f}" for key, value in score.items())
    say(f"{drug['name']}, {column}, seed {seed}: {shown}")
    return score
