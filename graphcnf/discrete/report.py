"""HTML page about the evaluation of a synthetic table, self-contained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.api import types

from graphcnf.compute.files import write_file

BARS = 12
"""Largest number of values or intervals that are drawn for a column."""

SQUARES = 60
"""Largest number of columns for which the matrix of pair errors is drawn."""

WORST = 10
"""Number of listed pairs, those with the largest errors."""


def write_report(
    path: str | Path,
    tables: Mapping[str, pd.DataFrame],
    dtypes: Mapping[Any, Any],
    figures: Mapping[str, float],
    shapes: Mapping[Any, float],
    trends: Mapping[tuple[Any, Any], float],
) -> None:
    """Write the page about the `figures` of `evaluate_table`; raise `UserError` if that fails.

    The `tables` "real", "synthetic" and perhaps "held_out" have numbers and times as floats;
    `dtypes` are the original types. `shapes` and `trends` are errors of columns and pairs, 0 to 1.
    """
    from jinja2 import Environment, FileSystemLoader

    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    both = tables["real"], tables["synthetic"]
    place = {name: k for k, name in enumerate(both[0].columns)}
    known = {pair: error for pair, error in trends.items() if not math.isnan(error)}
    most = max(known.values(), default=0) or 1
    worst = sorted(known, key=lambda pair: -known[pair])[:WORST]
    page = environment.get_template("report.html").render(
        counts=", ".join(f"{len(t):,} {k.replace('_', '-')} rows" for k, t in tables.items()),
        date=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        version=version("graphcnf"),
        figures=figures,
        columns=[
            _column(name, shapes[name], both[0][name], both[1][name], dtypes[name])
            for name in sorted(place, key=lambda name: -np.nan_to_num(shapes[name]))
        ],
        side=len(place),
        cells=[
            (x, y, f"{error / most:.3f}", f"{a}, {b}: {100 * error:.2f} %")
            for (a, b), error in known.items()
            for x, y in ((place[a], place[b]), (place[b], place[a]))
            if len(place) <= SQUARES
        ],
        pairs=[(*pair, f"{100 * known[pair]:.2f} %") for pair in worst],
    )
    write_file(Path(path), page.encode())


def _column(
    name: Any, error: float, real: pd.Series, synthetic: pd.Series, dtype: Any
) -> dict[str, Any]:
    """Return title and bars of a column; a bar is a label and its share in both tables."""
    parts = [part.dropna() for part in (real, synthetic)]
    if real.dtype == float and real.nunique() > BARS:
        low, high = real.quantile([0.01, 0.99])
        edges = np.linspace(low, high, BARS + 1)
        # The outer intervals also contain the numbers beyond the edges.
        parts = [pd.Series(np.searchsorted(edges[1:-1], part, "right")) for part in parts]
        labels = {
            k: f"{'from' if k else 'below'} {_shown(edges[k or 1], dtype)}" for k in range(BARS)
        }
    else:
        common = pd.concat(parts).value_counts().index[:BARS]
        ordered = sorted(common) if real.dtype == float else common
        labels = {value: _shown(value, dtype) for value in ordered}
    counts = [part.value_counts() for part in parts]
    bars = [
        (label, counts[0].get(k, 0) / len(real), counts[1].get(k, 0) / len(synthetic))
        for k, label in labels.items()
    ]
    absent = [part.isna().mean() for part in (real, synthetic)]
    bars += [("missing", *absent)] if any(absent) else []
    most = max((share for _, *shares in bars for share in shares), default=0)
    shown = "" if math.isnan(error) else f"{100 * error:.2f} %"
    return {"name": name, "error": shown, "bars": bars, "most": most or 1}


def _shown(value: Any, dtype: Any) -> str:
    """Return a value of a column as a label; times are given in nanoseconds."""
    if types.is_datetime64_any_dtype(dtype):
        return str(pd.Timestamp(int(value)))[:16]
    if types.is_timedelta64_dtype(dtype):
        return str(pd.Timedelta(int(value)).round("s"))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
