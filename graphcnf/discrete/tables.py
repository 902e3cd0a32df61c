"""Tables and arrays as rows of categories, a position per column."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from pandas.api import types

from graphcnf.categorical import Rows
from graphcnf.discrete.codec import Reasons, RowCodec, Vocabulary, distinct
from graphcnf.errors import UserError
from graphcnf.limits import check_integer

MOST = 1000
"""Largest number of categories of a column."""


@dataclass
class Column:
    """Vocabulary of a column of a table.

    Attributes:
        name: Its label.
        dtype: Its type, as pandas writes it.
        values: Its values other than missing ones; for numbers the numbers of the K bins.
        missing: Whether missing entries are a category, the last one.
        categories: For categorical columns the type of the categories, and whether they are
            ordered.
        bins: For numbers the upper end, the lowest and the highest number of each bin, (K, 3).
    """

    name: Any
    dtype: str
    values: list[Any]
    missing: bool
    categories: list[Any] | None = None
    bins: list[list[float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.vocabulary = Vocabulary(self.values)
        self.cardinality = max(len(self.values) + self.missing, 1)

    @classmethod
    def of(cls, series: pd.Series, bins: int | None = None) -> Column:
        """Return the vocabulary of a column, of numbers with a number of bins.

        Raises:
            UserError: if the column holds numbers or times and `bins` is None, unhashable values,
                or more than `MOST` different values.
        """
        name, dtype = series.name, series.dtype
        present, missing = series[series.notna()], bool(series.isna().any())
        categories = None
        if isinstance(dtype, pd.CategoricalDtype):
            values = list(dtype.categories)
            categories = [str(dtype.categories.dtype), bool(dtype.ordered)]
        elif types.is_bool_dtype(dtype):
            values = [False, True]
        elif types.is_numeric_dtype(dtype):
            if bins is None:
                raise UserError(
                    f"column {name!r} holds numbers ({dtype}): pass bins=10 to bin them, or, where "
                    f"they are names of categories, x.astype({{{name!r}: 'category'}})"
                )
            edges = _bins(present, bins)
            return cls(name, str(dtype), list(range(len(edges))), missing, bins=edges)
        elif types.is_datetime64_any_dtype(dtype) or types.is_timedelta64_dtype(dtype):
            raise UserError(
                f"column {name!r} holds times ({dtype}): bin them with pd.cut, or leave it out"
            )
        else:
            try:
                values = distinct(present.tolist())
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
        return cls(name, str(dtype), values, missing, categories)

    def encode(self, series: pd.Series) -> np.ndarray:
        """Return categories (N,) int64, -1 for unknown values."""
        if self.bins:
            try:
                numbers = pd.to_numeric(series).to_numpy(dtype=float, na_value=np.nan)
            except (TypeError, ValueError):
                raise UserError(f"column {self.name!r} holds numbers, not {series.dtype}") from None
            codes = np.searchsorted([end for end, _, _ in self.bins[:-1]], numbers, "left")
        else:
            codes = self.vocabulary.encode(series.astype(object))
        return np.where(series.isna(), len(self.values) if self.missing else -1, codes)

    def decode(self, codes: np.ndarray, random: np.random.Generator) -> pd.Series:
        """Return the column of categories (N,); numbers are drawn uniformly from their bins."""
        absent = codes == len(self.values)
        if self.bins:
            _, low, high = np.array(self.bins)[np.where(absent, 0, codes)].T
            whole = types.is_integer_dtype(types.pandas_dtype(self.dtype))
            numbers = low + random.random(len(codes)) * (high - low + whole)
            series = pd.Series(np.floor(numbers) if whole else numbers).mask(absent)
        elif self.categories is not None:
            dtype, ordered = self.categories
            known = pd.Index(self.values, dtype=dtype, tupleize_cols=False)
            codes = np.where(absent, -1, codes)
            series = pd.Series(pd.Categorical.from_codes(codes, known, ordered=ordered))
        else:
            values = np.empty(len(self.values) + 1, dtype=object)
            values[:-1] = self.values
            series = pd.Series(values[codes], dtype=object)
        return series.astype(self.dtype)


def _bins(series: pd.Series, count: int) -> list[list[float]]:
    """Return bins with about equally many numbers; a frequent number has a bin of its own."""
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
    rows = np.stack([ends, lows, highs], 1)
    return (rows.astype(int) if types.is_integer_dtype(series.dtype) else rows).tolist()


@dataclass
class TableCodec(RowCodec):
    """Codec of the rows of a DataFrame, or of an array (N, D) of whole numbers.

    Attributes:
        columns: Vocabulary of each column; those of an array have the values seen in them.
        array: Type of the numbers of an array, as numpy writes it; None for a table.
        tensor: Whether arrays are torch's, not numpy's.
    """

    kind = "table"

    columns: list[Column]
    array: str | None = None
    tensor: bool = False

    def __post_init__(self) -> None:
        self.columns = [c if isinstance(c, Column) else Column(**c) for c in self.columns]
        self.cardinalities = [column.cardinality for column in self.columns]

    @classmethod
    def of(cls, data, bins: int | Mapping[Any, int] | None = None) -> TableCodec:
        """Return the codec of a table with bins for columns of numbers, all of them or by label.

        Raises:
            UserError: if the table is empty, has a label twice, or a column does not fit; see
                `Column.of`.
        """
        whole = not isinstance(data, pd.DataFrame)
        numbers = _frame(data) if whole else data
        table = numbers.astype("category") if whole else numbers
        if not table.shape[0] or not table.shape[1]:
            raise UserError(f"the table has {table.shape[0]} rows and {table.shape[1]} columns")
        _check_distinct(table)
        by_label = bins if isinstance(bins, Mapping) else dict.fromkeys(table.columns, bins)
        for label in by_label:
            if label not in table.columns:
                raise UserError(f"bins for {label!r}, but the table has no such column")
        columns = [Column.of(table[label], by_label.get(label)) for label in table.columns]
        array = str(numbers.dtypes.iloc[0]) if whole else None
        return cls(columns, array, isinstance(data, torch.Tensor))

    def encode(self, data, flow=None):
        """Encode rows; raise UserError if they have other columns, too."""
        names = [column.name for column in self.columns]
        wanted = f"a DataFrame with the columns {', '.join(map(str, names))}"
        if self.array is not None:
            wanted = f"an array (N, {len(names)}) of whole numbers"
        kinds = pd.DataFrame if self.array is None else np.ndarray | torch.Tensor
        if not isinstance(data, kinds):
            raise UserError(f"got a {type(data).__name__}; this model takes {wanted}")
        table = data if self.array is None else _frame(data)
        lacking = [name for name in names if name not in table.columns]
        further = [name for name in table.columns if name not in names]
        if lacking or further:
            what = "lacks the column" if lacking else "has the further column"
            raise UserError(f"the table {what} {(lacking or further)[0]!r}; wanted {wanted}")
        _check_distinct(table)
        codes = np.stack([c.encode(table[c.name]) for c in self.columns], 1)
        reasons: Reasons = [None] * len(codes)
        for row, column in zip(*np.nonzero(codes < 0), strict=True):
            value = table[names[column]].iloc[row]
            value = value.item() if isinstance(value, np.generic) else value
            shown = "a missing value" if pd.isna(value) else f"the value {value!r}"
            reasons[row] = f"{shown} in column {names[column]!r}, which training did not have"
        values = torch.from_numpy(codes[(codes >= 0).all(1)])
        return Rows(values, torch.ones_like(values, dtype=torch.bool)), reasons

    def decode(self, rows, seed):
        """Return the table or array of categories; `seed` places numbers within their bins."""
        codes = rows.values.cpu().numpy()
        parts = []
        for k, column in enumerate(self.columns):
            random = np.random.default_rng(np.random.SeedSequence((seed, k), spawn_key=(1,)))
            parts.append(column.decode(codes[:, k], random))
        table = pd.concat(parts, axis=1)
        table.columns = pd.Index([column.name for column in self.columns])
        if self.array is None:
            return table
        array = table.astype(object).to_numpy().astype(self.array)
        return torch.from_numpy(array) if self.tensor else array

    def __str__(self) -> str:
        what = "tables" if self.array is None else "arrays"
        return f"{what} of {len(self.columns)} columns, {sum(self.cardinalities)} categories"


def _check_distinct(table: pd.DataFrame) -> None:
    if table.columns.has_duplicates:
        twice = table.columns[table.columns.duplicated()][0]
        raise UserError(f"two columns are called {twice!r}: rename one, or drop it")


def _frame(array: np.ndarray | torch.Tensor) -> pd.DataFrame:
    """Return the table of an array; raise UserError unless it is (N, D) of whole numbers."""
    if isinstance(array, torch.Tensor):
        array = array.detach().cpu()
        array = (array.float() if array.dtype == torch.bfloat16 else array).numpy()
    if array.ndim != 2:
        raise UserError(
            f"an array of the shape {array.shape}: rows of equal length are (N, D); of rows that "
            "differ in length make a list"
        )
    if array.dtype.kind not in "iub":
        raise UserError(
            f"an array of {array.dtype}: categories are whole numbers; for names, or numbers to "
            "be binned, use pd.DataFrame(x)"
        )
    return pd.DataFrame(array)
