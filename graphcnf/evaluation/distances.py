"""Distribution metrics of samples, with the floor that real molecules reach beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from graphcnf.evaluation.formats import Column, Row, text
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


Describe = Callable[..., SetStatistics]
"""`(name, smiles, *, metrics, device, use_cache)`, as `set_statistics` with a cache: the held-out
molecules are kept under their name, samples are not."""


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
    held_out: Sequence[str],
    *,
    describe: Describe,
    floor: Callable[[SetStatistics], Comparison],
    training: str,
    data: str,
    device: str,
) -> Distances:
    """Compare sets of valid samples with held-out molecules.

    Args:
        metrics: Names from `METRICS`.
        samples: Statistics of the valid samples, of each seed.
        held_out: SMILES of the molecules to compare with.
        describe: Gives the statistics of molecules.
        floor: Gives the figures of about as many training molecules as there are samples in the
            first set, from the statistics of the held-out ones.
        training: Name of the data that the training molecules are from.
        data: Short name for the cache of the held-out molecules.
        device: Where ChemNet runs.
    """
    reference = describe(f"{data}-test", held_out, metrics=metrics, device=device)
    compared = [compare(statistics, reference, metrics=metrics) for statistics in samples]
    first = samples[0]
    found = floor(reference)
    notes = [
        f"distances: of the {first.size:,} strictly valid samples"
        + (" (first seed)" if len(samples) > 1 else "")
        + f", repeats included, and of {found.generated:,} training molecules, the floor, to "
        f"{reference.size:,} held-out ones, all without stereo; lower is better for distances, "
        "higher for SNN, Frag, Scaf and alerts; IntDiv should be that of the training molecules."
    ]
    reasons: dict[str, list[str]] = {}
    for name in metrics:
        for result in (*compared, found):
            if name in result.missing:
                reasons.setdefault(result.missing[name], []).append(TITLES[name])
                break
    notes += [f"not computed: {', '.join(names)}: {reason}." for reason, names in reasons.items()]
    return Distances(
        tuple(metrics),
        [c.values for c in compared],
        found.values,
        found.generated,
        training,
        first,
        reference,
        notes,
    )


def floor_of(
    reference: SetStatistics,
    training: Sequence[str],
    *,
    describe: Describe,
    metrics: Sequence[str],
    device: str,
) -> Comparison:
    """Figures of training molecules: what finite sets of the same molecules differ by."""
    statistics = describe(
        "training molecules", training, metrics=metrics, device=device, use_cache=False
    )
    return compare(statistics, reference, metrics=metrics)


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
    for number, (title, main, found) in enumerate(results):
        floors.setdefault((found.training, found.floor_molecules), found)
        columns.append((title, significant(f"set {number}")))
        for row, name in zip(rows, metrics, strict=True):
            row[f"set {number}"] = main.get(name)
            row[f"set {number}_sd"] = main.get(f"{name}_sd")
    for (data, count), found in floors.items():
        alone = len(floors) == 1
        title = "training molecules" if alone else f"{count:,} training molecules of {data}"
        columns.append((title, significant(title)))
        for row, name in zip(rows, metrics, strict=True):
            row[title] = found.floor.get(name)
    return rows, columns


def significant(key: str, digits: int = 4):
    """Cell with a number in so many significant digits, and its standard deviation."""

    def show(row: Row) -> str:
        value, sd = row.get(key), row.get(f"{key}_sd")
        if value is None:
            return ""
        shown = f"{value:.{digits}g}"
        return shown if sd is None else f"{shown} ± {sd:.2g}"

    return show
