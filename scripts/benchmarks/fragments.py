"""Four tasks on the fragments of ten drugs: extend a motif, link, build around, decorate.

The protocol of SAFE (Noutahi et al. 2023, arXiv 2310.10773) and GenMol (Lee et al. 2025, arXiv
2501.06158): 100 molecules for each drug and task; quality is the share that is unique, has QED of
at least 0.6 and an SA score of at most 4.
"""

from __future__ import annotations

import csv
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rdkit import Chem

from graphcnf.errors import UserError, say
from graphcnf.evaluation.formats import Column, number, percent, text
from graphcnf.molecules.fragments import MATCHES
from graphcnf.molecules.growth import Growth, check_grows, fragment_of, take
from graphcnf.molecules.properties import qed, sa
from graphcnf.molecules.similarity import fingerprint, internal_diversity
from graphcnf.molecules.vocabulary import MoleculeVocabulary
from graphcnf.scripts._options import load_model

DATA = Path(__file__).resolve().parent / "fragments.csv"

TASKS = {
    "motif_extension": "grow",
    "linker_design": "link",
    "superstructure_generation": "scaffold",
    "scaffold_decoration": "decorate",
}
"""Column of the file, and how it is done; see `graphcnf.molecules.growth.WAYS`."""

PUBLISHED = {
    "motif_extension": (("SAFE-GPT", 0.961, 0.668, 0.186, 0.562),
                        ("GenMol", 0.829, 0.775, 0.301, 0.617),
                        ("InVirtuoGen", 0.690, 0.968, 0.393, 0.620)),
    "linker_design": (("SAFE-GPT", 0.766, 0.825, 0.217, 0.545),
                      ("GenMol", 1.0, 0.837, 0.219, 0.547),
                      ("InVirtuoGen", 0.604, 0.848, 0.223, 0.520)),
    "superstructure_generation": (("SAFE-GPT", 0.957, 0.830, 0.143, 0.573),
                                  ("GenMol", 0.975, 0.836, 0.348, 0.599),
                                  ("InVirtuoGen", 0.757, 0.994, 0.274, 0.730)),
    "scaffold_decoration": (("SAFE-GPT", 0.977, 0.747, 0.100, 0.575),
                            ("GenMol", 0.966, 0.827, 0.318, 0.591),
                            ("InVirtuoGen", 0.907, 0.886, 0.364, 0.560)),
}  # fmt: skip
"""Valid, unique, quality, diversity, as published in the papers on GenMol and InVirtuoGen."""

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


@dataclass(frozen=True)
class Protocol:
    """How molecules are drawn.

    Attributes:
        samples: Molecules for each drug and task.
        runs: Seeds 0, 1 ...
        particles: Walks for each molecule that is taken.
    """

    samples: int = 100
    runs: int = 3
    particles: int = 4


def fragment_rows(name: str, protocol: Protocol) -> list[dict[str, Any]]:
    """A row for each task, measured, and the published ones.

    Raises:
        UserError: The model does not draw atom by atom.
    """
    model = load_model(name)
    check_grows(model)
    with open(DATA, newline="", encoding="utf-8") as file:
        drugs = list(csv.DictReader(file))
    rows = []
    for task in TASKS:
        scores = [
            _score(model, drug["name"], task, drug[task], seed, protocol)
            for seed in range(protocol.runs)
            for drug in drugs
        ]
        keys = ("valid", "unique", "quality", "diversity", "holds", "seconds")
        mean = {key: float(np.nanmean([score[key] for score in scores])) for key in keys}
        rows.append({"task": task.replace("_", " "), "method": name, **mean})
        for method, valid, unique, quality, diversity in PUBLISHED[task]:
            rows.append({
                "task": task.replace("_", " "), "method": f"{method} (published)", "valid": valid,
                "unique": unique, "quality": quality, "diversity": diversity, "holds": None,
                "seconds": None,
            })  # fmt: skip
    return rows


def _score(model, drug: str, task: str, given: str, seed: int, protocol: Protocol) -> dict:
    began = time.process_time()
    vocabulary = MoleculeVocabulary.of_model(model)
    found, valid = [], 0.0
    try:
        fragment = fragment_of(given, TASKS[task], vocabulary)
        growth = Growth(model, vocabulary, fragment, seed=seed, particles=protocol.particles)
        found = take(growth, protocol.samples)
        valid = growth.valid / max(growth.ended, 1)
    except UserError as error:
        say(f"note: {drug}, {task}: {error}")
    seconds = (time.process_time() - began) * 100 / protocol.samples
    mols = [Chem.MolFromSmiles(one.smiles) for one in found]
    distinct = len({one.smiles for one in found})
    good = sum(qed(mol) >= 0.6 and sa(mol) <= 4 for mol in mols)
    prints = np.array([fingerprint(mol) for mol in mols])
    score = {
        "valid": valid,
        "unique": distinct / protocol.samples,
        "quality": good / protocol.samples,
        "diversity": internal_diversity(prints) if len(mols) > 1 else np.nan,
        "holds": float(np.mean([_holds(mol, given) for mol in mols])) if mols else np.nan,
        "seconds": seconds,
    }
    shown = ", ".join(f"{key} {value:.3f}" for key, value in score.items())
    say(f"{drug}, {task}, seed {seed}: {shown}")
    return score


def _holds(mol: Chem.Mol, given: str) -> bool:
    """Whether the atoms and bonds of a fragment are in a molecule, found by RDKit alone.

    The pieces of a linker's fragment have atoms of their own, but one atom may be the neighbour of
    both: with attachment points, pieces are looked for one by one.
    """
    fragment = Chem.MolFromSmiles(given)
    Chem.RemoveStereochemistry(fragment)
    for atom in fragment.GetAtoms():
        atom.SetIsotope(0)
    patterns = list(Chem.GetMolFrags(fragment, asMols=True))
    if len(patterns) > 1:
        bare = Chem.RWMol(fragment)
        for atom in [a for a in bare.GetAtoms() if not a.GetAtomicNum()]:
            bare.RemoveAtom(atom.GetIdx())
        patterns.append(bare.GetMol())
    query = Chem.AdjustQueryParameters.NoAdjustments()
    query.makeDummiesQueries = True
    patterns = [Chem.AdjustQueryProperties(pattern, query) for pattern in patterns]
    return all(mol.GetSubstructMatches(pattern, maxMatches=MATCHES) for pattern in patterns)


def notes(protocol: Protocol) -> list[str]:
    """What the table needs beside it."""
    return [
        f"{protocol.samples} distinct molecules for each of ten drugs, {protocol.runs} runs; "
        f"{protocol.particles} walks for each molecule, temperature 1, number of atoms as in "
        "the training data.",
        "Valid: of the walks that placed the whole fragment, those that are a valid molecule with "
        "it; only these are taken. Quality: unique, QED of at least 0.6, SA of at most 4.",
        "Fragment in it: found by RDKit, without stereo. Seconds: of one thread.",
    ]
