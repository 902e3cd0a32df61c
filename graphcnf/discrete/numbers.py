"""Numbers of a table's column as categories: each number is a bin and a place in the bin.

- The line is cut into *bins*, numbered 0 to K - 1, which are the categories of a flow.
- The *place* u of a number is how far it lies between the lower end of its bin (u = 0) and the
  upper end (u = 1).
- *Encoded*, a number in bin k is the float k + u. With the bins [0, 10) and [10, 20), the number 15
  lies in bin 1 at the place 0.5, and is encoded as 1.5.
- The *parts* of a bin are the number of different values in it: n integers, or 0 for real numbers.
- The outermost bins are *tails*, without an outer end. They hold what is smaller or larger than all
  numbers of the training data.
- The *mean excess* of the largest numbers is their mean distance from the largest of all others;
  that of the smallest numbers, from the smallest of all others. Numbers in a tail are taken to have
  the same mean distance from the training data.
- A value that occurs often among real numbers has a bin of its own, a *point mass*.
- Times are numbers of *units*; a unit is given in nanoseconds, 86,400 * 10^9 for days.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from pandas.api import types

from graphcnf.errors import UserError
from graphcnf.limits import LARGEST_SIZE, check_integer

MAX_DISTINCT = 20
"""A column with at most this many distinct numbers is categorical, unless each is rare."""

BELOW, ABOVE = -1, -2
"""Stand for the lower and the upper tail, in place of a bin's number of parts."""

UNITS = [24 * 3600 * 10**9, 3600 * 10**9, 60 * 10**9, 10**9, 10**6, 10**3]
"""Units of times in nanoseconds, down to a microsecond: float64 cannot resolve finer ones."""

OUTERMOST = 20
"""Number of the largest (or smallest) different numbers whose mean excess is taken. Also the least
number of entries in each half of a bin that is halved."""

SHAPE = 3.0
"""Shape of the tails' distribution: far away, their mass beyond the distance t falls with t^-3.

Shapes of 3 to 10 differ by less than .01 nats in the mean log-density of held-out numbers in 231
tails of four tables. It is the least whole number with which the variance of a sample is finite;
the larger it is, the sooner do distant numbers share the last place that float64 can tell from 1.
"""

LARGEST = 2**53
"""Largest whole number up to which float64 is exact."""

LARGEST_REAL = 1e300
"""Largest real number in training data. Beyond it, a tail would reach numbers that float64 cannot
hold."""


def default_bins(rows: int) -> int:
    """Choose the number of bins of a column, rows^0.4 rounded, at least 4 and at most 64.

    That is 7 for 128 rows, 16 for 1,000, 40 for 10,000.
    """
    return int(np.clip(round(rows**0.4), 4, 64))


@dataclass
class Bins:
    """Bins of the numbers or times in a column: encodes them as k + u, and knows their density.

    The flow models the bin k and the place u in [0, 1). The density of a number is p(k) p(u|k)
    du/dx; inside a bin, du/dx is 1 / width. In a tail, u is the share of the tail's mass that is
    nearer to the data. So if u is uniform, the density at the distance t from the data is
    `3 s^3 / (s + t)^4` with the scale s (Pareto type II, Lomax 1954), whose mean is s / 2. The tail
    ends where the type of the column ends (such as 127 for int8), and its mass up to there is
    scaled to 1.

    Attributes:
        edges: For each of the K bins [lower end, upper end, parts], in ascending order. The upper
            end is excluded. Parts are n for a bin of n integers, and 0 for real numbers. For a
            point mass they are 1, and both ends are its value. For a tail they are `BELOW` (-1) or
            `ABOVE` (-2); the end away from the data is one scale away from the other.
        whole: True if all numbers are integers (or times, whole units).
        span: Lowest and highest number of the training data.
        unit: Unit of times in nanoseconds; None for numbers.
        scale: For a tail, its scale s in units of the numbers; 1 for all other bins, (K,).
        lowest: Lowest number that the type of the column can hold.
        highest: Highest number that it can hold.
        mass: For a tail, its mass up to the end of the type, before it is scaled to 1; 1 for all
            other bins, (K,).
    """

    edges: list[list[float]]
    whole: bool
    span: list[float]
    unit: int | None = None
    dtype: str = "float64"

    def __post_init__(self) -> None:
        self.low, self.high, self.parts = np.array(self.edges, dtype=float).reshape(-1, 3).T
        self.lowest, self.highest = _range(self.dtype, self.unit)
        lower, upper = self.parts == BELOW, self.parts == ABOVE
        self.scale = np.where(lower | upper, self.high - self.low, 1.0)
        away = np.where(lower, self.high - self.lowest, self.highest + self.whole - self.low)
        with np.errstate(over="ignore"):
            # Mass of each tail within the type.
            self.mass = np.where(lower | upper, 1 - (1 + away / self.scale) ** -SHAPE, 1.0)

    @classmethod
    def of(cls, series: pd.Series, count: int | None = None) -> Bins:
        """Choose bins for the numbers of a column, with about equally many entries in each.

        A number that occurs often gets a bin of its own. Tails are added for numbers outside of the
        data. If no number (or duration) is negative, there is no lower tail: a bin from 0 to the
        smallest number takes its place.

        Args:
            count: Number of bins to aim at. Repeated numbers make it fewer; tails and bins of a
                single number come on top. None for `default_bins`; the outermost bins are then
                halved as long as each half has 20 entries (`OUTERMOST`), since they are wide, and
                their numbers weigh most in means and correlations.

        For times, the unit is the largest one of which all times are multiples.
        """
        halve = count is None
        if count is None:
            count = default_bins(len(series))
        check_integer("bins", count, 1, LARGEST_SIZE)
        unit = _unit(series)
        x = as_numbers(series, unit)
        if (np.abs(x) > LARGEST_REAL).any():
            row = (np.abs(x) > LARGEST_REAL).argmax()
            what = "infinite" if np.isinf(x[row]) else f"beyond {LARGEST_REAL:g}"
            raise UserError(
                f"row {series.index[row]!r}, column {series.name!r}: the number {series.iloc[row]} "
                f"is {what}: replace it"
            )
        whole = unit is not None or types.is_integer_dtype(series.dtype)
        if whole and np.abs(x).max() > LARGEST:
            row = np.abs(x).argmax()
            raise UserError(
                f"row {series.index[row]!r}, column {series.name!r}: {series.iloc[row]} is too "
                f"large, whole numbers are exact up to {LARGEST:,}; make names text: .astype(str)"
            )
        values, counts = np.unique(x, return_counts=True)
        often = values[counts >= max(2, len(x) / (2 * count))]
        rest, points = (x, often[:0]) if whole else (x[~np.isin(x, often)], often)
        halvings = int(np.log2(max(1, len(rest) / count / OUTERMOST))) if halve else 0
        outer = 0.5 ** np.arange(1, halvings + 1) / count
        levels = np.unique([*np.linspace(0, 1, count + 1), *outer, *(1 - outer)])
        if whole:
            ends = np.quantile(x, levels[1:], method="inverted_cdf")
            edges = np.unique(np.concatenate([values[:1], ends + 1, often, often + 1]))
        else:
            inner = np.quantile(rest, levels) if len(rest) else []
            # The last edge exceeds the highest number, since upper ends are excluded.
            edges = np.unique(np.concatenate([values[:1], inner, points]))
            edges = edges[edges < values[-1]]
            # A single number 0 has no bin below it: it is the start of the upper tail.
            alone = not len(edges) and values[0] == 0
            edges = np.append(edges, 0.0 if alone else np.nextafter(values[-1], np.inf))
        parts = np.diff(edges) if whole else np.zeros(len(edges) - 1)
        # A mean excess is above rounding errors.
        least = 1.0 if whole else 1e-6 * np.maximum(1.0, np.abs(edges[[0, -1]])).max()
        excesses = _mean_excess(-values[::-1]), _mean_excess(values)
        lower, upper = ((SHAPE - 1) * max(least, excess) for excess in excesses)
        if values[0] >= 0 and not types.is_datetime64_any_dtype(series.dtype):
            below = [[0.0, edges[0], edges[0] if whole else 0]] if values[0] > 0 else []
        else:
            below = [[edges[0] - lower, edges[0], BELOW]]
        above = [[edges[-1], edges[-1] + upper, ABOVE]]
        # No tail begins where the type ends.
        lowest, highest = _range(str(series.dtype), unit)
        below = below if edges[0] > lowest else []
        above = above if edges[-1] <= highest else []
        bins = [*below, *np.stack([edges[:-1], edges[1:], parts], 1).tolist(), *above]
        bins += [[p, p, 1] for p in points.tolist()]
        # A point mass comes before the bin that begins at its value.
        bins.sort(key=lambda edge: (edge[0], edge[1]))
        ends = [list(map(float, edge)) for edge in bins]
        return cls(ends, whole, values[[0, -1]].tolist(), unit, str(series.dtype))

    def encode(self, series: pd.Series) -> np.ndarray:
        """Encode each number as k + u, with its bin k and its place u in [0, 1).

        Args:
            series: Column of N numbers, or of times if the bins are those of times.

        Returns:
            Encoded numbers, (N,) float64; -1 for missing entries and for numbers that are in no
            bin, such as 0.5 among integers. Beyond 10,000 scales from the data all numbers have the
            place 1 - 1e-12, since float64 could not tell them apart in k + u.
        """
        x = as_numbers(series, self.unit)
        k = np.searchsorted(self.low, x, "right") - 1
        before = k.clip(min=1) - 1
        k = np.where((x == self.low[before]) & (self.parts[before] == 1), before, k)
        fits = (x >= self.lowest) & (x <= self.highest) & ((k >= 0) | (self.parts[0] == BELOW))
        k = k.clip(min=0)
        if self.whole:
            fits &= x % 1 == 0
        away = np.where(self.parts[k] == BELOW, self.high[k] - x - self.whole, x - self.low[k])
        away = np.where(fits, away + 0.5 * self.whole, 0)
        width = np.where(self.high > self.low, self.high - self.low, 1)[k]
        tail = (1 - (1 + away / self.scale[k]) ** -SHAPE) / self.mass[k]
        place = np.where(self.parts[k] < 0, tail, away / width)
        return np.where(fits, k + place.clip(0, 1 - 1e-12), -1.0)

    def _split(self, value: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Split encoded numbers into bins and places."""
        k = np.floor(value).astype(int)
        place = value - k
        away = self.scale[k] * ((1 - place * self.mass[k]) ** (-1 / SHAPE) - 1)
        return k, place, self.parts[k], away

    def decode(self, value: np.ndarray) -> np.ndarray:
        """Invert `encode`: return the numbers that k + u stand for, times in numbers of `unit`."""
        k, place, parts, away = self._split(value)
        low, high = self.low[k], self.high[k]
        inside = place * (high - low)
        if self.whole:
            inside, away = np.floor(inside), np.floor(away)
        found = np.where(parts == ABOVE, low + away, low + inside)
        return np.where(parts == BELOW, high - self.whole - away, found)

    def places(self, least: float, most: float) -> np.ndarray:
        """Return the part of each bin that lies in an interval of numbers, as a range of places.

        For [12, 20] and a bin [10, 20) of real numbers it is 0.2 to 1.

        The result is (K, 2): 0 and 1 for a whole bin, two equal places for a bin outside.
        """
        if self.whole:
            least, most = np.ceil(least), np.floor(most) + 1
        ends = np.array([least, most])
        away = np.where(self.parts == BELOW, self.high - ends[::-1, None], ends[:, None] - self.low)
        away = away.clip(min=0)
        tail = (1 - (1 + away / self.scale) ** -SHAPE) / self.mass
        width = np.where(self.high > self.low, self.high - self.low, 1)
        found = np.where(self.parts < 0, tail, away / width).clip(0, 1)
        inside = (self.low >= least) & (self.low <= most)
        point = self.high == self.low
        low, high = np.where(point, [np.zeros_like(width), inside], found)
        return np.stack([low, np.maximum(low, high)], 1)

    @property
    def means(self) -> np.ndarray:
        """Mean of the numbers in each bin if the place u is uniform there, (K,), in their unit.

        For a tail it is the mean of its density, without the end of the type.
        """
        middle = (self.low + self.high - self.whole * (self.parts > 0)) / 2
        tails = [self.parts == BELOW, self.parts == ABOVE]
        mean = self.scale / (SHAPE - 1)
        return np.select(tails, [self.high - mean, self.low + mean], middle)

    def log_density(self, value: np.ndarray) -> np.ndarray:
        """Return log(du/dx), which turns the density of the place u into that of the number x.

        log p(x) is the log-density of k and u under the flow, plus this.

        Returns:
            (N,) nats. For real numbers, minus the logarithm of the bin's width, per unit of the
            column (of times, per `unit`). Integers and point masses have a probability instead of
            a density: for them it is log(1 / n) in a bin of n integers, and 0 for a point mass.
            In tails, the logarithm of the tail's density or probability at x.
        """
        k, _, parts, away = self._split(value)
        width = np.where(self.high > self.low, self.high - self.low, 1)[k]
        scale = self.scale[k]
        near = 1 + np.floor(away) / scale if self.whole else 1 + away / scale
        with np.errstate(divide="ignore"):
            if self.whole:
                tail = np.log(near**-SHAPE - (near + 1 / scale) ** -SHAPE)
            else:
                tail = np.log(SHAPE / scale) - (SHAPE + 1) * np.log(near)
            tail -= np.log(self.mass[k])
        return np.where(parts < 0, tail, -np.log(np.where(parts == 1, 1, width)))

    def series(self, numbers: np.ndarray) -> pd.Series:
        """Turn numbers into a column of the pandas type of the training data, NaN into missing.

        Numbers beyond the range of the type are moved to its end.
        """
        # Rounding may lead from the tail beyond the last number.
        series = pd.Series(numbers).clip(self.lowest, self.highest)
        if self.unit is None:
            return (series.round() if self.whole else series).astype(self.dtype)
        known = series.notna()
        stamps = series.fillna(0).to_numpy().astype(np.int64) * self.unit
        kind = pd.api.types.pandas_dtype(self.dtype)
        if types.is_timedelta64_dtype(kind):
            return pd.Series(pd.to_timedelta(stamps)).where(known).astype(self.dtype)
        zone = getattr(kind, "tz", None)
        times = pd.Series(pd.to_datetime(stamps)).where(known)
        times = times.dt.tz_localize("UTC").dt.tz_convert(zone) if zone else times
        return times.astype(self.dtype)

    @property
    def labels(self) -> list[Any]:
        """What each bin holds: its number if there is only one, else a `pd.Interval`.

        Intervals include their lower end; those of tails have an infinite end. Times are in numbers
        of `unit`.
        """
        return [
            low
            if parts == 1
            else pd.Interval(
                -np.inf if parts == BELOW else low, np.inf if parts == ABOVE else high, "left"
            )
            for low, high, parts in self.edges
        ]


def _mean_excess(values: np.ndarray) -> float:
    """Return the mean excess of the largest numbers, as the module defines it."""
    count = min(OUTERMOST, max(1, len(values) // 4))
    return float(np.mean(values[-count:]) - values[max(-count - 1, -len(values))])


def is_numeric(dtype) -> bool:
    """Return True for a type of numbers (not bool), dates or durations, which can have bins."""
    times = types.is_datetime64_any_dtype(dtype) or types.is_timedelta64_dtype(dtype)
    return times or (types.is_numeric_dtype(dtype) and not types.is_bool_dtype(dtype))


def time_kind(series: pd.Series) -> str:
    """Return "m" for a column of durations, "M" for dates, "" for anything else.

    If the column is of the type object, its entries decide.
    """
    kind = getattr(series.infer_objects().dtype, "kind", "")
    return kind if kind in ("m", "M") else ""


def _range(dtype: str, unit: int | None) -> tuple[float, float]:
    """Return the lowest and the highest number that a column can hold."""
    if unit is not None:
        limit = float(np.iinfo(np.int64).max // unit)
        return -limit, limit
    kind = pd.api.types.pandas_dtype(dtype)
    limits: Any = np.dtype(getattr(kind, "numpy_dtype", kind.type))
    limits = np.iinfo(limits) if limits.kind in "iu" else np.finfo(limits)
    high = float(limits.max)
    return float(limits.min), high if int(high) <= limits.max else float(np.nextafter(high, 0))


def _unit(series: pd.Series) -> int | None:
    """Return the unit in which a column of times is best written as whole numbers."""
    if not types.is_datetime64_any_dtype(series.dtype) and not types.is_timedelta64_dtype(
        series.dtype
    ):
        return None
    stamps = _stamps(series)
    return next((unit for unit in UNITS if not (stamps % unit).any()), UNITS[-1])


def _stamps(times: pd.Series) -> np.ndarray:
    """Convert times to nanoseconds, since 1970 for dates."""
    index = pd.TimedeltaIndex if types.is_timedelta64_dtype(times.dtype) else pd.DatetimeIndex
    return index(times).as_unit("ns").asi8


def as_numbers(series: pd.Series, unit: int | None) -> np.ndarray:
    """Convert numbers, or times in `unit` nanoseconds, to floats; NaN for missing entries.

    Dates count since 1970. In the finest of `UNITS`, a microsecond, times are rounded down to whole
    units.
    """
    if unit is None:
        numbers = pd.to_numeric(series)
        if types.is_complex_dtype(numbers.dtype):
            raise TypeError("complex numbers")
        return numbers.to_numpy(dtype=float, na_value=np.nan)
    if series.dtype == object:  # a single value, or missing ones only
        series = series.infer_objects()
    if series.isna().all():
        return np.full(len(series), np.nan)
    if _unit(series) is None:
        raise TypeError("not times")
    times = _stamps(series) / unit
    return np.where(series.isna(), np.nan, np.floor(times) if unit == UNITS[-1] else times)
