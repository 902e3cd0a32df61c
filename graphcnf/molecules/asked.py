"""Properties that molecules are asked for, and which of several molecules is the nearest."""

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
    """What `GraphCNF.sample_records` takes for properties by their names; None for none of them.

    Raises:
        UserError: The model knows no such property, or a value is no number.
    """
    if not properties:
        return None
    known = [table["name"] for table in model.targets]
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
    asked: Sequence[float | None], tables: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Return a sentence for each value beyond `FAR` standard deviations of the training data.

    Args:
        asked: A value of each property, None where nothing is asked (`asked_of`).
        tables: Name, mean and deviation of each property (`GraphCNF.targets`).
    """
    sentences = []
    for table, value in zip(tables, asked, strict=True):
        away = 0.0 if value is None else abs(value - table["mean"]) / table["deviation"]
        if away > FAR:
            sentences.append(
                f"{table['name']}={value:g} lies outside the training data, {away:.1f} standard "
                f"deviations from their mean {table['mean']:.4g}: molecules will miss it"
            )
    return sentences


def check_best_of(best_of: int, asked: Sequence[float | None] | None) -> None:
    """Whether so many candidates can be drawn for each molecule.

    Raises:
        UserError: The number is out of range, or there is nothing that they could be near to.
    """
    check_integer("best_of", best_of, 1, MOST_CANDIDATES)
    if best_of > 1 and asked is None:
        raise UserError(f"best of {best_of}: the best is the nearest to a property; ask for one")


def nearest_of(
    smiles: Sequence[str | None],
    asked: Sequence[float | None],
    tables: Sequence[Mapping[str, Any]],
    best_of: int,
) -> np.ndarray:
    """The nearest to what is asked among each `best_of` molecules in a row.

    Args:
        smiles: M * best_of of them, None where there is no valid molecule.
        asked: A value of each property, None where nothing is asked (`asked_of`).
        tables: Name and deviation of each property (`GraphCNF.targets`).
        best_of: Candidates for each molecule.

    Returns:
        Indices (M,): of the least Euclidean distance in the deviations of the training data, the
        first of equal ones; of the first candidate where none is valid.
    """
    wanted = {
        table["name"]: (value, table["deviation"])
        for table, value in zip(tables, asked, strict=True)
        if value is not None
    }
    distances = np.full(len(smiles), math.inf)
    for k, text in enumerate(smiles):
        if text is not None:
            found = described(Chem.MolFromSmiles(text), wanted)
            distances[k] = math.hypot(*((found[n] - v) / sd for n, (v, sd) in wanted.items()))
    rows = distances.reshape(-1, best_of)
    return np.arange(len(rows)) * best_of + rows.argmin(1)
