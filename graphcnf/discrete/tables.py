"""Tables and arrays as rows of categories, a position per column."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from pandas.api import types

from graphcnf.categorical import ColumnFlow, Rows
from graphcnf.discrete.codec import Reasons, RowCodec, Vocabulary, distinct, draw_rows
from graphcnf.errors import UserError, suggest
from graphcnf.flows import Context
from graphcnf.limits import LARGEST_ORDERS, check_integer

MOST = 1000
"""Largest number of categories of a column."""

SCORED = 256
"""Rows that are scored at a time."""


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

    @property
    def labels(self) -> list[Any]:
        """Values of the categories, intervals for bins of numbers, None for missing entries."""
        ends = [pd.Interval(low, high, "both") for _, low, high in self.bins]
        return (ends or list(self.values)) + [None] * self.missing

    def encode(self, series: pd.Series) -> np.ndarray:
        """Return categories (N,) int64, -1 for unknown values."""
        if self.bins:
            try:
                numbers = pd.to_numeric(series).to_numpy(dtype=float, na_value=np.nan)
            except (TypeError, ValueError):
                raise UserError(f"column {self.name!r} holds numbers, not {series.dtype}") from None
            codes = np.searchsorted([end for end, _, _ in self.bins[:-1]], numbers, "left")
            codes = np.where(np.isinf(numbers), -1, codes)
        else:
            codes = self.vocabulary.encode(series.astype(object))
        return np.where(series.isna(), len(self.values) if self.missing else -1, codes)

    def decode(self, codes: np.ndarray, share: np.ndarray) -> pd.Series:
        """Return the column of categories (N,); numbers divide their bins by `share` in [0, 1)."""
        absent = codes == len(self.values)
        if self.bins:
            _, low, high = np.array(self.bins)[np.where(absent, 0, codes)].T
            whole = types.is_integer_dtype(types.pandas_dtype(self.dtype))
            numbers = low + share * (high - low + whole)
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
    if np.isinf(numbers).any():
        where = np.isinf(series.to_numpy(dtype=float)).argmax()
        raise UserError(
            f"row {series.index[where]!r}, column {series.name!r}: the number "
            f"{series.iloc[where]} is infinite: replace it"
        )
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
    """Codec of the rows of a DataFrame, or of an array (N, D) of whole numbers: a `ColumnFlow`.

    What a row lacks is masked, unless missing entries are a category of the column.

    Attributes:
        columns: Vocabulary of each column; those of an array have the values seen in them.
        array: Type of the numbers of an array, as numpy writes it; None for a table.
        tensor: Whether arrays are torch's, not numpy's.
    """

    kind = "table"
    flow_class = ColumnFlow
    arguments = (ColumnFlow,)
    fixed = ("cardinalities",)

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
        absent = table[names].isna().to_numpy()
        reasons: Reasons = [None] * len(codes)
        for row, column in zip(*np.nonzero((codes < 0) & ~absent), strict=True):
            value = table[names[column]].iloc[row]
            value = value.item() if isinstance(value, np.generic) else value
            reasons[row] = f"the value {value!r} in column {names[column]!r}, which training lacked"
        codes = torch.from_numpy(codes[[reason is None for reason in reasons]])
        return Rows(codes.clamp(min=0), codes >= 0), reasons

    def decode(self, rows, seed):
        """Return the table or array of categories; `seed` places numbers within their bins."""
        shares = []
        for k in range(len(self.columns)):
            random = np.random.default_rng(np.random.SeedSequence((seed, k), spawn_key=(1,)))
            shares.append(random.random(len(rows)))
        table = self._table(rows.values.cpu().numpy(), shares)
        if self.array is None:
            return table
        array = table.astype(object).to_numpy().astype(self.array)
        return torch.from_numpy(array) if self.tensor else array

    def _table(self, codes: np.ndarray, shares: list[np.ndarray]) -> pd.DataFrame:
        parts = [c.decode(codes[:, k], shares[k]) for k, c in enumerate(self.columns)]
        return pd.concat(parts, axis=1, keys=[column.name for column in self.columns])

    def build(self, rows, chosen, /, **network):
        """Return an untrained flow that is the Chow-Liu tree of the `chosen` rows."""
        flow = ColumnFlow(self.cardinalities, **network)
        flow.network.start_from(rows.values[torch.from_numpy(chosen)])
        return flow

    def number(self, label: Any, what: str) -> int:
        """Return the number of a column; raise UserError, which begins with `what`, without it."""
        names = [column.name for column in self.columns]
        if label not in names:
            known = suggest(label, names) if isinstance(label, str) else ""
            raise UserError(f"{what}: the table has no column {label!r}{known}")
        return names.index(label)

    def given(self, values: Mapping[Any, Any]) -> Rows:
        """Return a row of the values of some columns; raise UserError for unknown ones."""
        codes = torch.full((1, len(self.columns)), -1)
        for label, value in values.items():
            column = self.columns[k := self.number(label, "given")]
            codes[0, k] = int(column.encode(pd.Series([value], dtype=object))[0])
            if codes[0, k] < 0:
                known = ", ".join(map(repr, column.values[:8])) if not column.bins else "numbers"
                raise UserError(f"given: column {label!r} has no value {value!r}; it has {known}")
        return Rows(codes.clamp(min=0), codes >= 0)

    def present(self, rows: Rows) -> Rows:
        """Return the rows with missing entries masked, also where they are a category."""
        missing = torch.tensor(
            [len(c.values) if c.missing and c.values else -1 for c in self.columns]
        )
        return Rows(rows.values, rows.mask & (rows.values != missing))

    def _conditions(self, flow: ColumnFlow, known: Rows, present: bool) -> dict[str, torch.Tensor]:
        """Return the order of columns that begins with `known` ones, and the allowed categories.

        With `present`, no other column is missing.
        """
        one = torch.nn.functional.one_hot(known.values, max(self.cardinalities)).bool()
        allowed = one | ~known.mask[..., None]
        if present:
            for k, column in enumerate(self.columns):
                if column.missing and column.values:
                    allowed[:, k, len(column.values)] &= known.mask[:, k]
        order = flow.network.ordered(torch.ones_like(known.mask), known.mask)
        return {"conditions": order.to(flow.device), "features": allowed.to(flow.device)}

    def log_prob(self, flow, rows, orders=1, given=()):
        """Return log-likelihoods of the columns that a row has given some of them, (B,) nats.

        In float64; exact for one order of the columns, or for the mean of the densities of
        `orders`.
        """
        check_integer("orders", orders, 1, LARGEST_ORDERS)
        first = torch.zeros_like(rows.mask)
        first[:, [self.number(label, "given") for label in given]] = True
        mask, known = rows.mask, Rows(rows.values, rows.mask & first)
        value = torch.zeros(orders, len(rows), dtype=torch.float64)
        there = (mask & ~first).any(1)
        if there.any():
            part, known = rows[there], known[there]
            limits = self._conditions(flow, known, False)
            for number in range(orders):
                limits["conditions"] = flow.network.ordered(part.mask, first[there], number)
                nats = flow.log_prob(part.values, Context(part.mask, **limits))
                value[number, there.cpu()] = nats.double().cpu()
        return value.logsumexp(0) - np.log(orders)

    def draw(self, flow, count, *, seed, temperature=1.0, sizes=None, known=None, present=False):
        """Return rows 0 to `count - 1` of the endless sample with this seed.

        `known` are the values that they have to have, one row for all or a row for each; with
        `present`, no other entry is missing.
        """
        if sizes is not None:
            raise UserError("sizes are for sequences and graphs: rows of a table have one")
        width = len(self.columns)

        def limits(records):
            if known is None:
                return {}
            chosen = torch.from_numpy(records if len(known) > 1 else np.zeros_like(records))
            return self._conditions(flow, known[chosen], present)

        return draw_rows(flow, count, np.eye(width + 1)[width], seed, temperature, limits)

    @torch.no_grad()
    def conditional(self, flow, known: Rows, k: int, orders: int = 1) -> np.ndarray:
        """Return probabilities (M, C) of column k given the known ones, float64; 0 if missing.

        The mean over `orders` of the known columns.
        """
        check_integer("orders", orders, 1, LARGEST_ORDERS)
        mask, first, parts = known.mask.clone(), known.mask.clone(), []
        mask[:, k], first[:, k] = True, False
        for start in range(0, len(known), SCORED):
            rows, p = slice(start, start + SCORED), 0
            own, before, x = (t[rows].to(flow.device) for t in (mask, first, known.values))
            for number in range(orders):
                context = Context(own, conditions=flow.network.ordered(own, before, number))
                p = p + flow.conditional(x, k, context).double().exp().cpu().numpy() / orders
            parts.append(p)
        every = np.concatenate(parts) if parts else np.zeros((0, max(self.cardinalities)))
        return every[:, : self.columns[k].cardinality]

    def most_probable(self, flow, known: Rows) -> pd.DataFrame:
        """Return the table with the most probable values of unknown entries, medians of numbers."""
        codes = known.values.numpy().copy()
        for k, column in enumerate(self.columns):
            rows = np.flatnonzero(~known.mask[:, k].numpy())
            if not len(rows) or not column.values:
                continue
            part = Rows(known.values[rows], known.mask[rows])
            p = self.conditional(flow, part, k)[:, : len(column.values)]
            below = p.cumsum(1) < p.sum(1, keepdims=True) / 2
            codes[rows, k] = below.sum(1) if column.bins else p.argmax(1)
        return self._table(codes, [np.full(len(codes), 0.5)] * len(self.columns))

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
