"""Distances between two samples of discrete data, and evaluation of synthetic tables.

The *total variation* is half the sum of the absolute differences of frequencies: 0 for equal
frequencies, 1 if no value occurs in both samples. Two finite samples of the same distribution have
a positive one, too; compare it with that of two halves of the data.

A table is *real*, *synthetic* (drawn from a model that has learned from the real one) or *held
out*: real rows that the model has not learned from.

Figures of a synthetic table, from `evaluate_table`:

- `shape_error`, in percent: mean error of the columns. It is the Kolmogorov-Smirnov distance for
  numbers, and the total variation for categories. 0 is best.
- `trend_error`, in percent: mean error of the pairs of columns. For two columns of numbers it is
  half the difference of their Pearson correlations in both tables. For two columns of categories it
  is the total variation of their joint values. For a column of numbers and one of categories it is
  this, too, once the numbers of each table are cut into ten equal bins of their range. 0 is best.
- Both errors are as in `sdmetrics` 0.32, with two exceptions. The report of `sdmetrics` omits pairs
  with little dependence. And a column whose values are all lost has the error 100 here.
- `detection`: area under the ROC curve of a classifier that tells real from synthetic rows
  (Lopez-Paz & Oquab 2017, arXiv 1610.06545), by cross-validation. 0.5 is best: it cannot tell.
- `alpha_precision` (Alaa et al. 2022, arXiv 2102.08921): whether synthetic rows are typical. For
  balls around the mean real row, the shares of synthetic and of real rows inside are compared, for
  all sizes alpha. 1 is best.
- `beta_recall` (same paper): whether synthetic rows are as varied as real ones. It counts the real
  rows that have a synthetic row no further away than the nearest other real row. It is about 0.5
  for new rows of the same distribution, and more for copies.
- In `alpha_precision` and `beta_recall`, the squared distance of two rows is the sum of the squared
  differences of their numbers, scaled to the range of each column, plus 2 for each different
  category. Both are integrated as in the code of the paper.
- `closest`: median distance of a synthetic row to the closest real one. The distance is a mean over
  columns: of numbers the difference, scaled to their range; of categories 1 if they differ.
- With `held_out`: `closest_held_out`, the median distance of a held-out row to the closest real
  one. And `copies`, the share of synthetic rows that are closer to a real row than to a held-out
  one, with tables of equal size. 0.5 means no copying.
- With `held_out` and `target`: `utility` and `utility_real`, the accuracy on held-out rows of a
  classifier of `target` that was trained on synthetic rows, and of one trained on real rows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.api import types

from graphcnf.discrete.numbers import as_numbers, is_numeric, time_kind
from graphcnf.errors import UserError, require
from graphcnf.file_writing import check_output, write_file
from graphcnf.limits import check_integer, check_seed

MOST_ROWS = 5000
"""Largest number of rows whose distances to another table are computed."""

LEVELS = np.linspace(0, 1, 30)
"""Values of alpha and beta over which alpha-precision and beta-recall are integrated."""

BARS = 12
"""Largest number of values or intervals that are drawn for a column."""

SQUARES = 60
"""Largest number of columns for which the matrix of pair errors is drawn."""

WORST = 10
"""Number of listed pairs, those with the largest errors."""


def total_variation(first: Iterable[Hashable], second: Iterable[Hashable]) -> float:
    """Return the total variation between two samples, half the sum of |p(v) - q(v)|, in [0, 1].

    For ["a", "a", "b"] and ["a", "b", "b"] it is (|2/3 - 1/3| + |1/3 - 2/3|) / 2 = 1/3.
    """
    counts = Counter(first), Counter(second)
    totals = [counter.total() for counter in counts]
    if not all(totals):
        raise UserError("one of the two samples is empty")
    values = counts[0].keys() | counts[1].keys()
    return sum(abs(counts[0][v] / totals[0] - counts[1][v] / totals[1]) for v in values) / 2


def pair_distances(first: pd.DataFrame, second: pd.DataFrame) -> pd.Series:
    """Compare two tables by the total variation of each pair of columns.

    The values of two columns are compared jointly, so that the mean over pairs measures how well
    the dependence between columns is reproduced. A missing entry counts as a value.

    The index holds the labels of both columns.
    """
    if list(first.columns) != list(second.columns) or first.shape[1] < 2:
        raise UserError("pairs of columns need two tables with the same columns, at least two")
    pairs = list(combinations(first.columns, 2))
    tables = [table.astype(object).where(table.notna(), None) for table in (first, second)]
    distances = [
        total_variation(*(zip(table[a], table[b], strict=True) for table in tables))
        for a, b in pairs
    ]
    return pd.Series(distances, index=pd.MultiIndex.from_tuples(pairs))


def ngram_distance(
    first: Iterable[Sequence[Any]], second: Iterable[Sequence[Any]], n: int = 2
) -> float:
    """Return the total variation between the n-grams of two samples of sequences, in [0, 1].

    Start and end of a sequence count as a symbol each.
    """
    check_integer("n", n, 1)

    def ngrams(sequences: Iterable[Sequence]) -> Iterable[tuple]:
        for sequence in sequences:
            # None marks both ends.
            marked = [None, *sequence, None]
            yield from (tuple(marked[k : k + n]) for k in range(len(marked) - n + 1))

    return total_variation(ngrams(first), ngrams(second))


def evaluate_table(
    real: pd.DataFrame,
    synthetic: pd.DataFrame,
    *,
    held_out: pd.DataFrame | None = None,
    target: Any = None,
    seed: int = 0,
    html: str | Path | None = None,
) -> dict[str, float]:
    """Evaluate a synthetic table: compare it with the real table that its model has learned from.

    Figures that need a missing argument are left out; "detection" is NaN if a table has fewer than
    three rows.

    Args:
        held_out: Real rows that the model has not learned from; None for no figures about copies
            and no `utility`.
        target: Label of a column of categories that a classifier predicts from the others; None for
            no `utility`.
        seed: Seed of the classifiers, and of the choice of at most 5000 rows for distances.
        html: File to write a page to, with the figures and with histograms of all columns.

    Examples:
        >>> import pandas as pd
        >>> real = pd.DataFrame({"colour": ["red", "blue"] * 50, "size": ["S", "L"] * 50})
        >>> figures = evaluate_table(real, real)
        >>> figures["shape_error"], figures["trend_error"], figures["closest"]
        (0.0, 0.0, 0.0)
    """
    for package in ["sklearn"] + ["jinja2"] * (html is not None):
        require(package, "evaluate_table", "tables")
    if html is not None:
        check_output(Path(html))
    check_seed(seed)
    tables = {"real": real, "synthetic": synthetic}
    if held_out is not None:
        tables["held_out"] = held_out
    for name, table in tables.items():
        if not isinstance(table, pd.DataFrame) or set(table.columns) != set(real.columns):
            raise UserError(f"{name}: the columns differ from those of the real table")
        if not len(table):
            raise UserError(f"{name}: the table has no rows")
    if target is not None and target not in real.columns:
        raise UserError(f"target: the table has no column {target!r}")
    if target is not None and len(real.columns) == 1:
        raise UserError(f"target: the table has no column to predict {target!r} from")
    numeric = [c for c in real.columns if is_numeric(real[c].dtype)]
    plain = {
        name: _plain(name, table[real.columns], real, numeric) for name, table in tables.items()
    }
    if target in numeric:
        classes = pd.concat([table[target] for table in plain.values()])
        if not (classes % 1 == 0).all():
            raise UserError(
                f"target: column {target!r} holds numbers that are no classes: bin them"
            )
    mine, others = plain["real"], plain["synthetic"]
    shapes = {c: _shape_error(mine[c], others[c], c in numeric) for c in real.columns}
    trends = {
        (a, b): _trend_error(mine[[a, b]], others[[a, b]], [c for c in (a, b) if c in numeric])
        for a, b in combinations(real.columns, 2)
    }
    figures = {
        "shape_error": 100 * float(np.nanmean([*shapes.values()])),
        "trend_error": 100 * float(np.nanmean([*trends.values()])) if trends else 0.0,
    }
    floats, kinds = _as_floats(plain, numeric)
    figures["detection"] = _detection(floats["real"], floats["synthetic"], seed)
    figures |= _records(floats, kinds, seed)
    if target is not None and held_out is not None:
        for name, part in (("utility", "synthetic"), ("utility_real", "real")):
            k = list(real.columns).index(target)
            model = _classifier(seed)
            model.fit(_usable(np.delete(floats[part], k, 1)), floats[part][:, k])
            x, y = np.delete(floats["held_out"], k, 1), floats["held_out"][:, k]
            figures[name] = float((model.predict(x) == y).mean())
    if html is not None:
        _write_page(html, plain, real.dtypes, figures, shapes, trends)
    return figures


def _plain(what: str, table: pd.DataFrame, real: pd.DataFrame, numeric: list[Any]) -> pd.DataFrame:
    """Turn the columns of a table into floats or objects, so that tables of other types compare."""
    table = table.reset_index(drop=True)
    columns = {}
    for name in table.columns:
        column = table[name]
        if name not in numeric:
            columns[name] = column.astype(object).where(column.notna(), None)
            continue
        kind = time_kind(real[name])
        try:
            alike = time_kind(column) == kind and (kind or types.is_numeric_dtype(column.dtype))
            if column.notna().any() and not alike:
                raise TypeError
            columns[name] = pd.Series(as_numbers(column, 1 if kind else None))
        except (ValueError, TypeError):
            wanted = {"": "numbers", "M": "times", "m": "durations"}[kind]
            raise UserError(f"{what}: column {name!r} must hold {wanted} as the real one") from None
        if np.isinf(columns[name]).any():
            raise UserError(f"{what}: column {name!r} holds infinite numbers: replace them")
    return pd.DataFrame(columns)


def _records(floats: dict[str, np.ndarray], kinds: np.ndarray, seed: int) -> dict[str, float]:
    """Return the figures of a synthetic table that depend on distances between rows."""
    random, most = np.random.default_rng(seed), min(MOST_ROWS, *map(len, floats.values()))
    width = np.fmax.reduce(floats["real"]) - np.fmin.reduce(floats["real"])
    width = np.where(kinds | ~(width > 0), 1, width)
    scaled = {name: x / width for name, x in floats.items()}
    few = {name: x[random.permutation(len(x))[:most]] for name, x in scaled.items()}
    figures = _precision_and_recall(few["real"], few["synthetic"], kinds)
    nearest = _nearest(few["synthetic"], scaled["real"], kinds)
    figures["closest"] = float(np.median(nearest))
    if "held_out" in floats:
        far = _nearest(few["held_out"], scaled["real"], kinds)
        figures["closest_held_out"] = float(np.median(far))
        own, other = (_nearest(few["synthetic"], few[k], kinds) for k in ("real", "held_out"))
        figures["copies"] = float(((own < other) + 0.5 * (own == other)).mean())
    return figures


def _shape_error(mine: pd.Series, other: pd.Series, numeric: bool) -> float:
    """Return the `shape_error` of one column, as the module defines it, but in [0, 1]."""
    from scipy.stats import ks_2samp

    mine, other = mine.dropna(), other.dropna()
    if not len(mine) or not len(other):
        return 1.0 if len(mine) or len(other) else math.nan
    if not numeric:
        return total_variation(mine, other)
    return float(ks_2samp(mine, other, method="asymp").statistic)


def _trend_error(mine: pd.DataFrame, other: pd.DataFrame, numeric: list[Any]) -> float:
    """Return the `trend_error` of a pair of columns, as the module defines it, but in [0, 1]."""
    if len(numeric) == 2:
        both = [table.dropna() for table in (mine, other)]
        if any(len(table) < 2 or (table.nunique() == 1).any() for table in both):
            return float("nan")
        r = [np.corrcoef(table.to_numpy(), rowvar=False)[0, 1] for table in both]
        return abs(r[0] - r[1]) / 2
    tables = mine.copy(), other.copy()
    for table in tables:
        for column in numeric:
            edges = np.histogram_bin_edges(table[column].dropna())
            table[column] = np.digitize(table[column], edges)
    return total_variation(*(table.itertuples(index=False, name=None) for table in tables))


def _as_floats(
    plain: dict[str, pd.DataFrame], numeric: list[Any]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return tables as floats, with categories numbered."""
    whole = pd.concat(plain.values(), keys=plain)
    for column in whole.columns.difference(numeric):
        whole[column] = pd.factorize(whole[column])[0]
    floats = {name: whole.loc[name].to_numpy(dtype=float) for name in plain}
    return floats, np.array([c not in numeric for c in whole.columns])


def _classifier(seed: int):
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(random_state=seed, max_iter=100)


def _usable(x: np.ndarray) -> np.ndarray:
    """Set columns without any value to 0, since the classifier refuses NaN alone."""
    return np.where(np.isnan(x).all(0), 0.0, x)


def _detection(real: np.ndarray, synthetic: np.ndarray, seed: int) -> float:
    """Return the area under the ROC curve of a classifier that tells real from synthetic rows."""
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    x = _usable(np.concatenate([real, synthetic]))
    y = np.repeat([0, 1], [len(real), len(synthetic)])
    if min(len(real), len(synthetic)) < 3:
        return float("nan")
    folds = StratifiedKFold(3, shuffle=True, random_state=seed)
    score = cross_val_predict(_classifier(seed), x, y, cv=folds, method="predict_proba")
    return float(roc_auc_score(y, score[:, 1]))


def _column_distances(
    rows: np.ndarray, others: np.ndarray, kinds: np.ndarray
) -> Iterator[np.ndarray]:
    """Yield the distances of each row to all others, column by column."""
    for row in rows:
        away = np.where(kinds, others != row, abs(others - row))
        missing = np.isnan(others) != np.isnan(row)
        yield np.where(missing, 1, np.nan_to_num(away))


def _nearest(rows: np.ndarray, others: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Return the distance of each row to the closest of the others."""
    return np.array(
        [away.clip(max=1).mean(1).min() for away in _column_distances(rows, others, kinds)]
    )


def _precision_and_recall(
    real: np.ndarray, synthetic: np.ndarray, kinds: np.ndarray
) -> dict[str, float]:
    """Measure how well synthetic rows cover real ones, and stay near them."""
    weight = np.where(kinds, 2, 1)
    to_real = np.empty(len(real))
    for k, away in enumerate(_column_distances(real, real, kinds)):
        squares = away**2 @ weight
        squares[k] = np.inf
        to_real[k] = squares.min()
    to_synthetic, closest = np.empty(len(real)), np.empty(len(real), dtype=int)
    for k, away in enumerate(_column_distances(real, synthetic, kinds)):
        squares = away**2 @ weight
        closest[k], to_synthetic[k] = squares.argmin(), squares.min()
    inside = _from_centre(synthetic, real, kinds)
    precision = inside[:, None] <= np.quantile(_from_centre(real, real, kinds), LEVELS)
    around = _from_centre(synthetic, synthetic, kinds)[closest]
    near = (to_synthetic <= to_real)[:, None]
    curves = {
        "alpha_precision": precision,
        "beta_recall": near & (around[:, None] <= np.quantile(around, LEVELS)),
    }
    return {k: 1 - float(abs(LEVELS - p.mean(0)).sum() / LEVELS.sum()) for k, p in curves.items()}


def _from_centre(rows: np.ndarray, others: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Return the squared distance of each row to the mean of other rows."""
    total = np.zeros(len(rows))
    for x, mine, kind in zip(rows.T, others.T, kinds, strict=True):
        if kind:
            share = pd.Series(mine).value_counts(normalize=True)
            own = pd.Series(x).map(share).fillna(0).to_numpy()
            total += 1 - 2 * own + (share**2).sum()
        else:
            mean = np.nanmean(mine) if np.isfinite(mine).any() else 0
            total += np.nan_to_num((x - mean) ** 2, nan=1)
    return total


def _write_page(
    path: str | Path,
    tables: Mapping[str, pd.DataFrame],
    dtypes: Mapping[Any, Any],
    figures: Mapping[str, float],
    shapes: Mapping[Any, float],
    trends: Mapping[tuple[Any, Any], float],
) -> None:
    """Write the HTML page about a synthetic table."""
    from jinja2 import Environment, FileSystemLoader

    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    both = tables["real"], tables["synthetic"]
    place = {name: k for k, name in enumerate(both[0].columns)}
    known = {pair: error for pair, error in trends.items() if not math.isnan(error)}
    most = max(known.values(), default=0) or 1
    worst = sorted(known, key=lambda pair: -known[pair])[:WORST]
    page = environment.get_template("table_scores.html").render(
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
    """Return what the page shows of a column."""
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
    """Return a value of a column as text."""
    if types.is_datetime64_any_dtype(dtype):
        return str(pd.Timestamp(int(value)))[:16]
    if types.is_timedelta64_dtype(dtype):
        return str(pd.Timedelta(int(value)).round("s"))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
