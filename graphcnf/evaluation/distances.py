"""Distribution metrics of samples, with the floor that real molecules reach beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from graphcnf.evaluation.formats import Column, Row, number, text
from graphcnf.molecules.distributions import METRICS, Comparison, SetStatistics, compare

TITLES = {
    "fcd": "FCD",
    "nspdk": "NSPDK MMD",
    "snn": "SNN",
    "frag": "Frag",
    "scaf": "Scaf",
    "int_div1": "IntDiv1",
    "int_div2": "IntDiv2",
    "pains": "free of PAINS alerts",
    "mcf": "free of MCF alerts",
    "logp_w1": "logP, Wasserstein",
    "qed_w1": "QED, Wasserstein",
    "sa_w1": "SA score, Wasserstein",
    "weight_w1": "molecular weight, Wasserstein",
    "atoms_tv": "number of atoms, total variation",
    "elements_tv": "elements, total variation",
    "charges_tv": "formal charges, total variation",
    "bonds_tv": "bond types, total variation",
    "rings_tv": "ring sizes, total variation",
}


@dataclass
class Distances:
    """Figures of sets of samples against held-out molecules.

    Attributes:
        metrics: Names, in the order of a table.
        samples: Figures of each set; None for one that could not be computed.
        floor: The same of real molecules.
        floor_molecules: Number of these.
        training: Name of the data that they are from.
        generated: Statistics of the first set.
        reference: Statistics of the held-out molecules.
        notes: What a reader of the table has to know.
    """

    metrics: tuple[str, ...]
    samples: list[dict[str, float | None]]
    floor: dict[str, float | None]
    floor_molecules: int
    training: str
    generated: SetStatistics
    reference: SetStatistics
    notes: list[str] = field(default_factory=list)


def measure(
    metrics: Sequence[str],
    samples: Sequence[SetStatistics],
    reference: SetStatistics,
    floor: Comparison,
    training: str,
) -> Distances:
    """Compare sets of valid samples with held-out molecules.

    Args:
        metrics: Names from `METRICS`.
        samples: Statistics of the valid samples, of each seed.
        reference: Statistics of the held-out molecules.
        floor: Figures of about as many training molecules as there are samples in the first set:
            what finite sets of the same molecules differ by.
        training: Name of the data that the training molecules are from.
    """
    compared = [compare(statistics, reference, metrics=metrics) for statistics in samples]
    notes = [
        f"distances: of the {samples[0].size:,} strictly valid samples"
        + (" (first seed)" if len(samples) > 1 else "")
        + f", repeats included, and of {floor.generated:,} training molecules, the floor, to "
        f"{reference.size:,} held-out ones, all without stereo; lower is better for distances, "
        "higher for SNN, Frag, Scaf and alerts; IntDiv should be that of the training molecules."
    ]
    reasons: dict[str, list[str]] = {}
    for name in metrics:
        for result in (*compared, floor):
            if name in result.missing:
                reasons.setdefault(result.missing[name], []).append(TITLES[name])
                break
    notes += [f"not computed: {', '.join(names)}: {reason}." for reason, names in reasons.items()]
    return Distances(
        tuple(metrics),
        [c.values for c in compared],
        floor.values,
        floor.generated,
        training,
        samples[0],
        reference,
        notes,
    )


def distance_table(
    results: Sequence[tuple[str, Row, Distances]],
) -> tuple[list[dict[str, Any]], list[Column]]:
    """Rows, one per metric, and columns, one per set of molecules, each with its floor.

    Sets with one floor share its column.

    Args:
        results: Name, figures and distances of each set.
    """
    metrics = results[0][2].metrics
    rows: list[dict[str, Any]] = [
        {"metric": TITLES[name], "better": METRICS[name].better} for name in metrics
    ]
    columns: list[Column] = [("metric", text("metric")), ("better", text("better"))]
    floors: dict[tuple[str, int], Distances] = {}
    for k, (title, main, found) in enumerate(results):
        key = f"set {k}"
        floors.setdefault((found.training, found.floor_molecules), found)
        columns.append((title, number(key, digits=4)))
        for row, name in zip(rows, metrics, strict=True):
            row[key] = main.get(name)
            row[f"{key}_sd"] = main.get(f"{name}_sd")
    for (data, count), found in floors.items():
        alone = len(floors) == 1
        title = "training molecules" if alone else f"{count:,} training molecules of {data}"
        columns.append((title, number(title, digits=4)))
        for row, name in zip(rows, metrics, strict=True):
            row[title] = found.floor.get(name)
    return rows, columns
