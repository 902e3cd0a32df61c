"""Properties that molecules are conditioned on, and which of several molecules is the nearest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rdkit import Chem

from graphcnf.errors import UserError
from graphcnf.limits import MOST_CANDIDATES, check_integer
from graphcnf.molecules.selection import described

FAR = 3.0
"""Standard deviations from the mean beyond which the training data hold hardly a molecule."""

if TYPE_CHECKING:
    from graphcnf.graphs import GraphCNF


def asked_of(model: GraphCNF, properties: Mapping[str, float]) -> tuple[float | None, ...] | None:
    """Return the conditions of `GraphCNF.sample_records` for properties by name, or None.

    Raises:
        UserError: The model knows no such property, or a value is no number.
    """
    if not properties:
        return None
    known = [table["name"] for table in model.conditions]
    for name, value in properties.items():
        if not known:
            raise UserError(
                f"this model takes no properties: train one that does (zinc250k-properties), or "
                f"select with --require '{name} > ...'"
            )
        if name not in known:
            raise UserError(f"this model was not trained with {name!r}, but {', '.join(known)}")
        if not math.isfinite(value):
            raise UserError(f"{name} must be a number, not {value}")
    return tuple(properties.get(name) for name in known)


def outside_training(
    conditions: Sequence[float | None], tables: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Return a sentence for each value beyond `FAR` standard deviations of the training data.

    Args:
        conditions: A value of each property, None for no condition (`asked_of`).
        tables: Name, mean and deviation of each property (`GraphCNF.conditions`).
    """
    sentences = []
    for table, value in zip(tables, conditions, strict=True):
        away = 0.0 if value is None else abs(value - table["mean"]) / table["deviation"]
        if away > FAR:
            sentences.append(
                f"{table['name']}={value:g} lies outside the training data, {away:.1f} standard "
                f"deviations from their mean {table['mean']:.4g}: molecules will miss it"
            )
    return sentences


def check_best_of(best_of: int, conditions: Sequence[float | None] | None) -> None:
    """Raise where `best_of` candidates cannot be drawn for each molecule.

    Raises:
        UserError: The number is out of range, or there is nothing that they could be near to.
    """
    check_integer("best_of", best_of, 1, MOST_CANDIDATES)
    if best_of > 1 and conditions is None:
        raise UserError(f"best of {best_of}: the best is the nearest to a property; ask for one")


def nearest_of(
    smiles: Sequence[str | None],
    conditions: Sequence[float | None],
    tables: Sequence[Mapping[str, Any]],
    best_of: int,
) -> np.ndarray:
    """Return the nearest to the conditions among each `best_of` molecules in a row.

    Args:
        smiles: M * best_of of them, None where there is no valid molecule.
        conditions: A value of each property, None for no condition (`asked_of`).
        tables: Name and deviation of each property (`GraphCNF.conditions`).
        best_of: Candidates for each molecule.

    Returns:
        Indices (M,): of the least Euclidean distance in the deviations of the training data, the
        first of equal ones; of the first candidate where none is valid.
    """
    wanted = {
        table["name"]: (value, table["deviation"])
        for table, value in zip(tables, conditions, strict=True)
        if value is not None
    }
    distances = np.full(len(smiles), math.inf)
    for k, text in enumerate(smiles):
        if text is not None:
            found = described(Chem.MolFromSmiles(text), wanted)
            distances[k] = math.hypot(*((found[n] - v) / sd for n, (v, sd) in wanted.items()))
    rows = distances.reshape(-1, best_of)
    return np.arange(len(rows)) * best_of + rows.argmin(1)
