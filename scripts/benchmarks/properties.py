"""Conditional generation: error of drawn molecules' properties.

The protocol of FreeGress (Ninniri et al. 2024): target values are those of 100 held-out molecules,
for one property at a time, and 10 molecules are drawn for each value.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import typer

from graphcnf.datasets import references
from graphcnf.errors import UserError
from graphcnf.evaluation.formats import Column, number, percent, text
from graphcnf.graphs import GraphCNF
from graphcnf.molecules.properties import conditions_of, property_table
from graphcnf.sampling.records import draw_block
from graphcnf.scripts._options import load_model, option
from graphcnf.scripts.benchmarks.runner import Out, Reference, published, write

VALUES, EACH = 100, 10  # held-out molecules that give values, molecules drawn for each value

COLUMNS: list[Column] = [
    ("Method", text("method")),
    ("Condition", text("condition")),
    ("Mean absolute error", number("error", 3)),
    ("Of the data", number("spread", 3)),
    ("Strict", percent("strict")),
    ("Unique", percent("unique")),
]


def properties(
    model: Annotated[
        str, typer.Argument(metavar="NAME|DIR", help="A model that was trained with properties.")
    ],
    best_of: Annotated[int, option("Samples for each molecule; the nearest is kept.", min=1)] = 1,
    conditions: Annotated[
        str | None,
        option("Properties.", metavar="NAME,...", show_default="all of the model"),
    ] = None,
    reference: Reference = None,
    out: Out = None,
) -> None:
    """Measure the error of molecules drawn with target values of a property."""
    loaded = load_model(model)
    known = [table["name"] for table in loaded.conditions]
    if not known:
        raise UserError(f"{model} was not trained with properties")
    chosen = known if conditions is None else [name.strip() for name in conditions.split(",")]
    conditions_of(loaded, dict.fromkeys(chosen, 0.0))  # raises for an unknown one
    dataset = references.load_reference(reference, loaded)
    wanted = dataset.take(references.held_out(dataset, VALUES)).smiles
    rows: list[dict[str, Any]] = []
    for name in chosen:
        targets = property_table(wanted, [name])[:, 0]
        rows.append({"method": model, **_errors(loaded, name, targets, best_of)})
        rows += published("properties", condition=name)
    kept = f"the nearest of {best_of} samples is kept" if best_of > 1 else "raw samples"
    notes = [
        f"{VALUES} held-out molecules, {EACH} samples for the value of each, temperature 1; "
        f"{kept}, errors of the strictly valid ones.",
        "Of the data: mean distance of two of the values.",
    ]
    write(out, rows, COLUMNS, notes)


def _errors(model: GraphCNF, name: str, targets: np.ndarray, best_of: int) -> dict[str, Any]:
    """Return the row of one property; target value k is drawn with seed k."""
    errors, smiles = [], []
    for k, value in enumerate(targets):
        asked = conditions_of(model, {name: float(value)})
        _, frame = draw_block(model, range(EACH), seed=k, targets=asked, best_of=best_of)
        valid = list(frame["smiles"][frame["strict"]])
        errors += list(abs(property_table(valid, [name])[:, 0] - value))
        smiles += valid
    pairs = len(targets) * (len(targets) - 1)
    return {
        "condition": name,
        "error": float(np.mean(errors)) if errors else None,
        "spread": float(abs(targets - targets[:, None]).sum()) / pairs,
        "strict": len(smiles) / (EACH * len(targets)),
        "unique": len(set(smiles)) / max(len(smiles), 1),
    }
