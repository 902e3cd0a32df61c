"""The metrics that a command line names."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from graphcnf.errors import UserError
from graphcnf.molecules.distributions import METRICS

CHEAP = tuple(name for name in METRICS if name.endswith(("_w1", "_tv")))
"""Metrics of which a report shows the histograms."""


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
