"""Constrained optimization of penalised logP.

The protocol of Jin et al. (2018, arXiv 1802.04364): for the molecules of ZINC250k with the lowest
penalised logP, find similar molecules with a higher one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rdkit import Chem

from graphcnf.compute.files import expand_user
from graphcnf.compute.parallel import chunked, parallel_map
from graphcnf.datasets.zinc250k import zinc250k_source
from graphcnf.evaluation.formats import Column, number, percent, text
from graphcnf.molecules.codec import canonical_smiles, quiet
from graphcnf.molecules.flow import MoleculeFlow
from graphcnf.optimization.objectives import penalized_logp, similarity
from graphcnf.optimization.run import optimize
from graphcnf.optimization.search import SearchSettings
from graphcnf.scripts._options import load_model, option
from graphcnf.scripts.benchmarks.runner import Folder, Model, Out, published, write

MOLECULES = 800  # number of molecules to improve

# Genetic operators alone: with 200 calls of a fast score, neither policy nor surrogate pays off.
LEADS = SearchSettings(first=20, sampled=0, bred=1.5, steps=0, fitted=0, parents=50)

COLUMNS: list[Column] = [
    ("Method", text("method")),
    ("Similarity", number("threshold", 1)),
    ("Molecules", number("molecules", 0)),
    ("Improvement", number("improvement", 2)),
    ("Success", percent("success")),
]


class Improvement:
    """Score: improvement of penalised logP over a given molecule, penalised for dissimilarity.

    A Tanimoto similarity (Morgan, radius 2, counted) below the threshold costs 20 times the
    difference.
    """

    __name__ = "improvement"

    def __init__(self, smiles: str, threshold: float):
        self.identity = f"improvement of {smiles} at {threshold}"
        self.threshold = threshold
        self.similar = similarity(smiles)
        self.before = penalized_logp(Chem.MolFromSmiles(smiles))

    def __call__(self, mol: Chem.Mol) -> float:
        """Return the improvement minus the penalty."""
        lacking = max(0.0, self.threshold - self.similar(mol))
        return penalized_logp(mol) - self.before - 20 * lacking


def constrained(
    similarities: Annotated[
        str, option("Similarities to reach, from 0 to 1.", metavar="NUMBER,...")
    ] = "0,0.2,0.4,0.6",
    budget: Annotated[int, option("Calls for each molecule and similarity.", min=1)] = 200,
    folder: Folder = Path("runs/constrained"),
    model: Model = "zinc250k",
    out: Out = None,
) -> None:
    """Improve the penalised logP of the molecules with the lowest one, within a similarity."""
    try:
        thresholds = [float(part) for part in similarities.split(",")]
        if not all(0 <= value <= 1 for value in thresholds):
            raise ValueError
    except ValueError:
        reason = f"{similarities!r} must be numbers from 0 to 1 with commas"
        raise typer.BadParameter(reason, param_hint="'--similarities'") from None
    # Load the model first, since scoring the data set takes minutes.
    flow, folder = MoleculeFlow(load_model(model)), expand_user(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lines = zinc250k_source().read_text().split()
    pool = parallel_map(_penalized, chunked(lines, 500), label="penalised logP")
    lowest = dict.fromkeys(smiles for _, smiles in sorted(pair for part in pool for pair in part))
    chosen = list(lowest)[:MOLECULES]
    rows: list[dict[str, Any]] = []
    for threshold in thresholds:
        gains = []
        for k, smiles in enumerate(chosen):
            goal = Improvement(smiles, threshold)
            answers = optimize(
                goal,
                model=flow,
                budget=budget,
                folder=folder / f"{threshold:g}" / f"{k:03}",
                start=[smiles],
                settings=LEADS,
                workers=0,
            ).answers
            similar = [
                a.score
                for a in answers
                if a.error is None and goal.similar(Chem.MolFromSmiles(a.smiles)) >= threshold
            ]
            gains.append(max(similar, default=0.0))
        better = [gain for gain in gains if gain > 0]
        rows.append(
            {
                "method": model,
                "threshold": threshold,
                "molecules": len(gains),
                "improvement": float(np.mean(better)) if better else 0.0,
                "success": len(better) / len(gains),
            }
        )
        rows += published("constrained", threshold=threshold)
    notes = [
        f"The {len(chosen):,} lowest of {len(lines):,} molecules of ZINC250k, {budget:,} calls for "
        "each and each similarity (Tanimoto, Morgan fingerprints of radius 2, counted).",
        "Improvement: mean over the successes, as published.",
    ]
    write(out, rows, COLUMNS, notes)


def _penalized(smiles: list[str]) -> list[tuple[float, str]]:
    """Return the lowest penalised logPs with their molecules as canonical SMILES without stereo."""
    with quiet():
        mols = [Chem.MolFromSmiles(s) for s in smiles]
        mols = [Chem.MolFromSmiles(canonical_smiles(mol)) for mol in mols if mol is not None]
    return sorted((penalized_logp(mol), Chem.MolToSmiles(mol)) for mol in mols)[:MOLECULES]
