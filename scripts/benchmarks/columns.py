"""Benchmark of measured columns: molecules that are asked for by a column with a hidden truth.

- The *truth* is an oracle of PMO (a benchmark of optimization): the predicted activity of a
  molecule at a protein. It is hidden from the methods that are compared.
- The *column* has the true values of some hundred or thousand molecules of ZINC250k, plus noise.
  This is all that the methods know.
- *Strata*: random molecules of ZINC250k, sorted by their activity, are divided into the most active
  thirtieth, the next sixth, and the rest. A third of the molecules in the column is from each of
  these three, since otherwise few of them would be active.
- *Surrogate*: a model that predicts the column, learned from it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rdkit import Chem

from graphcnf.chemistry.surrogate import Surrogate, surrogates_of
from graphcnf.datasets.smiles_file import load_smiles_file
from graphcnf.datasets.zinc250k import zinc250k_source
from graphcnf.evaluation.layout import Column, number, percent, text
from graphcnf.file_reading import expand_user, inside
from graphcnf.file_writing import replace_file
from graphcnf.messages import say
from graphcnf.molecule_flow import MoleculeFlow
from graphcnf.molecules.codec import canonical_smiles, quiet
from graphcnf.optimization.activity import activity
from graphcnf.optimization.run import optimize
from graphcnf.scripts._options import option
from graphcnf.scripts.benchmarks.runner import Folder, Model, Out, Seed, write
from graphcnf.training.finetuning import finetune

NAME = "assay"
"""Name of the column."""

POOL, STRATA = 30_000, (1 / 30, 1 / 6)
"""Number of random molecules of ZINC250k, and shares of these that are the first two strata."""

NOISE = 0.5
"""Standard deviation of the noise, divided by that of the true values in the column."""

HIGH, CANDIDATES = 0.95, 10
"""Quantile of the column that is the target; samples of which method 3 of `columns` takes the best.
"""

CALLS = 250
"""Calls of a search after which its CPU time is looked at."""

COLUMNS: list[Column] = [
    ("Protein", text("protein")),
    ("Values", number("values", 0)),
    ("Cross-validated R²", number("r2", 2)),
    ("Method", text("method")),
    ("True mean", number("true", 4)),
    ("± standard error", number("error", 4)),
    ("Predicted mean", number("predicted", 4)),
    ("Outside the domain", percent("outside")),
    ("CPU seconds", number("seconds", 0)),
]


def columns(
    protein: Annotated[str, typer.Argument(help="Oracle: gsk3b, jnk3 or drd2.")],
    size: Annotated[int, option("Molecules with a value.", min=60)] = 300,
    draws: Annotated[int, option("Molecules of each method.", "--number", "-n", min=1)] = 200,
    steps: Annotated[
        int | None, option("Largest number of steps of both trainings.", min=1)
    ] = None,
    folder: Folder = Path("runs/columns"),
    model: Model = "zinc250k",
    seed: Seed = 0,
    out: Out = None,
) -> None:
    """Learn a column with a hidden truth, and draw molecules with high values of it.

    The table has a row for each method:

    1. samples without a target;
    2. samples with the 95th percentile of the column as target;
    3. the best of ten such samples, by the surrogate;
    4. the best of a search that maximizes the surrogate. It gets as much CPU time as fine-tuning
       and method 3 took.
    """
    truth, place = activity(protein=protein), expand_user(folder) / f"{protein}-{size}-seed-{seed}"
    table = inside(place, "column.csv")
    if not table.exists():
        place.mkdir(parents=True, exist_ok=True)
        replace_file(table, _column(truth, size, seed).encode())
    data, began = load_smiles_file(table, columns=[NAME]), time.process_time()
    flow = MoleculeFlow.from_pretrained(model)
    settings = {} if steps is None else {"steps": steps}
    result = finetune(
        flow, data, inside(place, "run"), samples=0, seed=seed, settings=settings, say=say
    )
    tuned, spent = result.flow, time.process_time() - began
    surrogate = surrogates_of(tuned.model)[NAME]
    target = float(np.quantile(data.targets[:, 0], HIGH))
    common = {"protein": protein, "values": size, "r2": result.figures["columns"][0]["r2"]}
    judge = Judge(truth, surrogate, common)
    for method, options in {
        "no target": {},
        "95th percentile": {"properties": {NAME: target}, "best_of": 1},
        "95th percentile, best of ten": {"properties": {NAME: target}, "best_of": CANDIDATES},
    }.items():
        began = time.process_time()
        drawn = tuned.sample(draws, seed=seed, stereo=False, **options).smiles
        seconds = time.process_time() - began
        judge.add(method, [s for s in drawn if s is not None], seconds + spent)
    began = time.process_time()
    best = _search(surrogate, model, inside(place, "search"), spent + seconds, seed, draws)
    judge.add("optimize", best, time.process_time() - began)
    notes = [
        f"A column of {size:,} molecules of ZINC250k: predicted activity plus noise of {NOISE:g} "
        f"standard deviations; target {target:.4f}; {draws} molecules of each method, seed {seed}.",
        "CPU seconds include fine-tuning; the search starts from the weights before it.",
    ]
    write(out, judge.rows, COLUMNS, notes)


def _column(truth: Callable[[Chem.Mol], float], size: int, seed: int) -> str:
    """Return the text of a CSV file: molecules of the three strata, with noisy values."""
    lines = random.Random(seed).sample(zinc250k_source().read_text().split(), POOL)
    with quiet():
        molecules = [Chem.MolFromSmiles(line) for line in lines]
        values = np.array([truth(mol) for mol in molecules])
    order, ends = np.argsort(-values, kind="stable"), [round(POOL * share) for share in STRATA]
    strata = np.split(order, [ends[0], sum(ends)])
    noise = np.random.default_rng(seed)
    chosen = np.concatenate([noise.permutation(rows)[: size // 3] for rows in strata])
    noisy = values[chosen] + noise.normal(0, NOISE * values[chosen].std(), len(chosen))
    rows = [f"{canonical_smiles(molecules[k])},{v:.5f}" for k, v in zip(chosen, noisy, strict=True)]
    return "\n".join([f"smiles,{NAME}", *rows]) + "\n"


class Judge:
    """Collects the rows of the table that the command prints, one for each method.

    Args:
        truth: The oracle: function from an RDKit molecule to its true activity.
        surrogate: Surrogate of the column. The methods may use it, but not the truth.
        common: `{name: value}` that all rows have, such as the protein.

    Attributes:
        rows: The rows so far, `{name in COLUMNS: value}` each.
    """

    def __init__(
        self, truth: Callable[[Chem.Mol], float], surrogate: Surrogate, common: dict[str, Any]
    ):
        self.truth, self.surrogate, self.common = truth, surrogate, common
        self.rows: list[dict[str, Any]] = []

    def add(self, method: str, smiles: Sequence[str], seconds: float) -> None:
        """Evaluate the molecules of a method by the oracle, and add a row to `rows`.

        Args:
            method: Name of the method.
            smiles: Valid SMILES of its molecules, without stereo marks, at least one.
            seconds: CPU time that the method took, that of fine-tuning included if it needs that.
        """
        true = np.array([self.truth(Chem.MolFromSmiles(s)) for s in smiles])
        row = {
            "method": method,
            "true": float(true.mean()),
            "error": float(true.std() / len(true) ** 0.5),
            "predicted": float(self.surrogate.predictions(smiles).mean()),
            "outside": self.surrogate.outside(smiles),
            "seconds": seconds,
        }
        self.rows.append({**self.common, **row})
        say(f"{method}: true mean {row['true']:.4f}, {seconds:.0f} s")


def _search(
    surrogate: Surrogate, model: str, folder: Path, seconds: float, seed: int, count: int
) -> list[str]:
    """Maximize a surrogate in a given CPU time."""

    def score(mol: Chem.Mol) -> float:
        return float(surrogate([mol])[0])

    options = {"model": model, "seed": seed, "folder": folder, "workers": 0, "stereo": False}
    surrogate([Chem.MolFromSmiles("C")])  # fits it, which fine-tuning has paid for already
    began, calls = time.process_time(), max(CALLS, count)
    result = optimize(score, budget=calls, **options)
    while len(result) == calls and time.process_time() - began < seconds:
        calls += CALLS
        result = optimize(score, budget=calls, **options)
    found = result.to_frame(count)
    return [canonical_smiles(Chem.MolFromSmiles(s)) for s in found["smiles"]]
