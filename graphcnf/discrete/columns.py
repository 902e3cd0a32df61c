"""One column of a table as categories: its values, what is missing, and numbers in bins."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from pandas.api import types

from graphcnf.discrete.vocabulary import Vocabulary, from_json, to_json
from graphcnf.errors import UserError
from graphcnf.limits import check_integer

MOST = 1000
"""Largest number of categories of a column."""


@dataclass
class Column:
    """What is kept of a column.

    Attributes:
        name: Its label.
        dtype: Its type, as pandas writes it.
        vocabulary: Its values, without what is missing. Of numbers: of the bins, 0 to K - 1.
        missing: Whether entries may be missing: a category of its own, the last one.
        categories: Type of the categories of a categorical column, and whether they are ordered.
        bins: Of numbers, each bin's upper end, and its lowest and highest number; (K, 3).
    """

    name: Any
    dtype: str
    vocabulary: Vocabulary
    missing: bool
    categories: tuple[str, bool] | None = None
    bins: list[list[float]] = field(default_factory=list)

    @classmethod
    def of(cls, series: pd.Series, bins: int | None = None) -> Column:
        """Take a column's values.

        Args:
            series: The column.
            bins: Number of bins for a column of numbers.

        Raises:
            UserError: if the column holds numbers or times and `bins` is None, or nothing, or too
                many different values.
        """
        name, dtype = series.name, series.dtype
        more: dict[str, Any]
        here, missing = series[series.notna()], bool(series.isna().any())
        if isinstance(dtype, pd.CategoricalDtype):
            values = list(dtype.categories)
            more = {"categories": (str(dtype.categories.dtype), bool(dtype.ordered))}
        elif types.is_bool_dtype(dtype):
            values, more = [False, True], {}
        elif types.is_numeric_dtype(dtype):
            if bins is None:
                raise UserError(
                    f"column {name!r} holds numbers ({dtype}): pass bins=10 to bin them, or, where "
                    f"they are names of categories, x.astype({{{name!r}: 'category'}})"
                )
            edges = _bins(here, bins)
            return cls(name, str(dtype), Vocabulary(range(len(edges))), missing, bins=edges)
        elif types.is_datetime64_any_dtype(dtype) or types.is_timedelta64_dtype(dtype):
            raise UserError(
                f"column {name!r} holds times ({dtype}): bin them with pd.cut, or leave it out"
            )
        else:
            try:
                values, more = Vocabulary.of(here.tolist()).values, {}
            except TypeError:
                raise UserError(
                    f"column {name!r} holds values that are not hashable: turn them into text, "
                    f"x[{name!r}].astype(str)"
                ) from None
        if len(values) > MOST:
            raise UserError(
                f"column {name!r} has {len(values)} different values, at most {MOST} are learned: "
                "leave it out, or merge the rare ones"
            )
        return cls(name, str(dtype), Vocabulary(values), missing, **more)

    @property
    def cardinality(self) -> int:
        """Number of categories."""
        return max(len(self.vocabulary) + self.missing, 1)

    def encode(self, series: pd.Series) -> np.ndarray:
        """Categories (N,) int64, -1 for values that the column did not have."""
        absent = series.isna().to_numpy()
        if self.bins:
            try:
                numbers = pd.to_numeric(series).to_numpy(dtype=float, na_value=np.nan)
            except (TypeError, ValueError):
                raise UserError(f"column {self.name!r} holds numbers, not {series.dtype}") from None
            ends = [end for end, _, _ in self.bins[:-1]]
            codes = np.searchsorted(ends, numbers, "left")
        else:
            codes = self.vocabulary.codes(series.astype(object))
        return np.where(absent, len(self.vocabulary) if self.missing else -1, codes)

    def decode(self, codes: np.ndarray, random: np.random.Generator) -> pd.Series:
        """A column of categories (N,).

        Args:
            codes: The categories.
            random: Where in its bin a number lies, uniformly.
        """
        absent = codes == len(self.vocabulary)
        if self.bins:
            _, low, high = np.array(self.bins)[np.where(absent, 0, codes)].T
            share = random.random(len(codes))
            if types.is_integer_dtype(types.pandas_dtype(self.dtype)):
                numbers = np.floor(low + share * (high - low + 1))
            else:
                numbers = low + share * (high - low)
            series = pd.Series(numbers).mask(absent)
        elif self.categories is not None:
            dtype, ordered = self.categories
            known = pd.Index(self.vocabulary.values, dtype=dtype, tupleize_cols=False)
            values = pd.Categorical.from_codes(np.where(absent, -1, codes), known, ordered=ordered)
            return pd.Series(values)
        else:
            values = np.empty(len(self.vocabulary) + 1, dtype=object)
            values[:-1] = self.vocabulary.values
            series = pd.Series(values[codes], dtype=object)
        return series.astype(self.dtype)

    def to_json(self) -> dict:
        """The column as JSON."""
        return {
            "name": to_json(self.name), "dtype": self.dtype, "missing": self.missing,
            "values": self.vocabulary.to_json(), "bins": self.bins,
            "categories": None if self.categories is None else list(self.categories),
        }  # fmt: skip

    @classmethod
    def from_json(cls, content: dict) -> Column:
        """Inverse of `to_json`."""
        categories = content["categories"]
        return cls(
            from_json(content["name"]), content["dtype"], Vocabulary.from_json(content["values"]),
            content["missing"], None if categories is None else tuple(categories), content["bins"],
        )  # fmt: skip


def _bins(series: pd.Series, count: int) -> list[list[float]]:
    """Bins with about equally many numbers; a frequent number has one for itself."""
    check_integer("bins", count, 1)
    numbers = np.sort(series.to_numpy(dtype=float))
    if not np.isfinite(numbers).all():
        raise UserError(f"column {series.name!r} holds infinite numbers: replace them")
    if not len(numbers):
        return []
    shares = np.linspace(0, 1, count + 1)[1:]
    ends = np.unique(np.quantile(numbers, shares, method="inverted_cdf"))
    starts = np.concatenate([[0], np.searchsorted(numbers, ends[:-1], "right")])
    lows, highs = numbers[starts], numbers[np.append(starts[1:], len(numbers)) - 1]
    whole = types.is_integer_dtype(series.dtype)
    rows = np.stack([ends, lows, highs], 1)
    return (rows.astype(int) if whole else rows).tolist()
