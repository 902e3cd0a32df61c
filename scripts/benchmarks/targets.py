"""How near molecules come to the properties that are asked for.

The protocol of FreeGress (Ninniri et al. 2024): 100 held-out molecules give the values that are
asked for, each of a property alone, and 10 molecules are drawn for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from rdkit import Chem

from graphcnf.errors import UserError
from graphcnf.evaluation.draw import draw_block
from graphcnf.evaluation.formats import Column, number, percent, text
from graphcnf.molecules.asked import asked_of
from graphcnf.molecules.selection import described
from graphcnf.scripts._sampling import load_model
from graphcnf.scripts.evaluation import named_data

PUBLISHED = (
    ("FreeGress", {"logp": 0.17, "qed": 0.04, "weight": 8.96}),
    ("GrIDDD", {"logp": 0.19, "qed": 0.04, "weight": 4.89}),
    ("DiGress with guidance", {"logp": 0.74, "qed": 0.15, "weight": 20.9}),
)
"""Mean absolute errors, as published."""

COLUMNS: list[Column] = [
    ("Method", text("method")),
    ("Asked for", text("asked")),
    ("Mean absolute error", number("error", 3)),
    ("Of the data", number("spread", 3)),
    ("Strict", percent("strict")),
    ("Unique", percent("unique")),
]


def target_rows(
    name: str,
    *,
    targets: int,
    each: int,
    seed: int,
    best_of: int = 1,
    properties: Sequence[str] | None = None,
    reference: str | None = None,
) -> list[dict[str, Any]]:
    """A row for each property that is asked for, and the published ones.

    Args:
        name: Shipped weights or a folder.
        targets: Held-out molecules whose properties are asked for, one after the other.
        each: Molecules to draw for each of them.
        seed: Of the samples; each target has one of its own.
        best_of: Candidates for each molecule, of which the nearest is kept.
        properties: What to ask for; all that the model takes when None.
        reference: See `named_data.load_reference`.

    Raises:
        UserError: The model takes no properties, or not these.
    """
    model = load_model(name)
    known = [table["name"] for table in model.conditions]
    if not known:
        raise UserError(f"{name} was not trained with properties")
    chosen = known if properties is None else list(properties)
    asked_of(model, dict.fromkeys(chosen, 0.0))
    dataset = named_data.load_reference(reference, model)
    wanted = dataset.take(named_data.held_out(dataset, targets)).smiles
    values = {
        key: np.array([described(Chem.MolFromSmiles(s), [key])[key] for s in wanted])
        for key in chosen
    }
    rows = []
    for key in chosen:
        errors, smiles = [], []
        for number_, value in enumerate(values[key]):
            asked = asked_of(model, {key: float(value)})
            _, frame = draw_block(
                model, range(each), seed=seed + number_, conditions=asked, best_of=best_of
            )
            valid = list(frame["smiles"][frame["strict"]])
            errors += [abs(described(Chem.MolFromSmiles(s), [key])[key] - value) for s in valid]
            smiles += valid
        count = each * len(wanted)
        rows.append({
            "method": name,
            "asked": key,
            "error": float(np.mean(errors)) if errors else None,
            # Of two molecules of the data, neither of which was asked for.
            "spread": float(np.abs(values[key] - values[key][:, None]).sum())
            / (len(wanted) * (len(wanted) - 1)),
            "strict": len(smiles) / count,
            "unique": len(set(smiles)) / max(len(smiles), 1),
        })  # fmt: skip
        rows += [
            {"method": f"{method} (published)", "asked": key, "error": found[key]}
            for method, found in PUBLISHED
            if key in found
        ]
    return rows


def notes(targets: int, each: int, best_of: int) -> list[str]:
    """What the table needs beside it."""
    kept = f"the nearest of {best_of} samples is kept; " if best_of > 1 else "raw samples, "
    return [
        f"{targets} held-out molecules, {each} samples for the value of each, temperature 1; "
        f"{kept}errors of the strictly valid ones.",
        "Of the data: mean distance of two of the values that are asked for.",
    ]
