"""Distribution metrics of samples, with the floor that real molecules reach beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import typer

from graphcnf.datasets.references import cached_statistics
from graphcnf.errors import UserError
from graphcnf.molecules.distributions import METRICS, SetStatistics, compare
from graphcnf.scripts._tables import Column, Row, text

CHEAP = tuple(name for name in METRICS if name.endswith(("_w1", "_tv")))
"""Metrics of which a report shows the histograms."""

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
        generated: Statistics of the first set.
        reference: Statistics of the held-out molecules.
        notes: What a reader of the table has to know.
    """

    metrics: tuple[str, ...]
    samples: list[dict[str, float | None]]
    floor: dict[str, float | None]
    generated: SetStatistics
    reference: SetStatistics
    notes: list[str] = field(default_factory=list)


def parse_metrics(value: str | None, fcd: bool) -> tuple[str, ...]:
    """Names of metrics from "all", "none" or a list with commas; FCD with `fcd`.

    Raises:
        typer.BadParameter: There is no such metric.
    """
    if value == "all":
        return tuple(METRICS)
    names = [] if value in (None, "none") else [part.strip() for part in value.split(",")]
    for name in names:
        if name not in METRICS:
            raise typer.BadParameter(
                f"no metric {name!r}: write all or some of {', '.join(METRICS)}",
                param_hint="'--metrics'",
            )
    return tuple(name for name in METRICS if name in names or (fcd and name == "fcd"))


def measure(
    metrics: Sequence[str],
    valid: Sequence[Sequence[str]],
    held_out: Sequence[str],
    training: Sequence[str],
    *,
    data: str,
    device: str,
) -> Distances:
    """Compare sets of valid samples with held-out molecules.

    Args:
        metrics: Names from `METRICS`.
        valid: SMILES of the valid samples, a set per seed.
        held_out: SMILES of the molecules to compare with.
        training: SMILES of as many training molecules as there are samples in the first set.
        data: Short name of the data for the cache of the held-out molecules.
        device: Where ChemNet runs.
    """
    reference = cached_statistics(f"{data}-test", held_out, metrics=metrics, device=device)
    compared, first = [], None
    for number, smiles in enumerate(valid, 1):
        label = "samples" if len(valid) == 1 else f"samples {number} of {len(valid)}"
        statistics = _statistics(label, smiles, metrics, device)
        first = first or statistics
        compared.append(compare(statistics, reference, metrics=metrics))
    floor = compare(
        _statistics("training molecules", training, metrics, device), reference, metrics=metrics
    )
    notes = [
        f"distances: of the {first.size:,} strictly valid samples"
        + (" (first seed)" if len(valid) > 1 else "")
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
        tuple(metrics), [c.values for c in compared], floor.values, first, reference, notes
    )


def _statistics(label: str, smiles, metrics, device: str) -> SetStatistics:
    return cached_statistics(label, smiles, metrics=metrics, device=device, use_cache=False)


def check_needs(metrics: Sequence[str], dataset) -> None:
    """Raise UserError where there is nothing to compare with."""
    if not metrics:
        return
    flag = "--fcd" if tuple(metrics) == ("fcd",) else "--metrics"
    if dataset is None:
        raise UserError(f"{flag} needs the training data: name them with --reference")
    if len(dataset.split("test")) < 2:
        raise UserError(
            f"{flag} needs held-out molecules, {dataset.name} has too few: name some with --test"
        )


def distance_rows(main: Row, data: Row, metrics: Sequence[str]) -> list[dict[str, Any]]:
    """One row per metric, for a table in which sets of molecules are columns."""
    return [
        {
            "metric": TITLES[name],
            "better": METRICS[name].better,
            "samples": main.get(name),
            "samples_sd": main.get(f"{name}_sd"),
            "floor": data.get(name),
        }
        for name in metrics
    ]


def distance_columns(name: str) -> list[Column]:
    """Columns of `distance_rows`."""
    return [
        ("metric", text("metric")),
        ("better", text("better")),
        (name, significant("samples")),
        ("training molecules", significant("floor")),
    ]


def significant(key: str, digits: int = 4):
    """Cell with a number in so many significant digits, and its standard deviation."""

    def show(row: Row) -> str:
        value, sd = row.get(key), row.get(f"{key}_sd")
        if value is None:
            return ""
        shown = f"{value:.{digits}g}"
        return shown if sd is None else f"{shown} ± {sd:.2g}"

    return show
