"""Adapter of tables and arrays: rows of categories with a position per column."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from pandas.api import types

from graphcnf.discrete.adapters import Adapter, Reasons, Vocabulary, distinct, draw_rows
from graphcnf.discrete.columns import ColumnContext, ColumnFlow
from graphcnf.discrete.counts import Counts
from graphcnf.discrete.numbers import MAX_DISTINCT, Bins, default_bins, is_numeric, time_kind
from graphcnf.discrete.rows import Rows
from graphcnf.errors import UserError, suggest
from graphcnf.limits import LARGEST_ORDERS, check_integer

MAX_CATEGORIES = 1000
"""Largest number of categories of a column."""

SCORED = 256
"""Rows that are scored at a time."""

TRIES = 64
"""Draws of a row, at most, to fill its missing entries with their joint distribution."""

CANDIDATES = 32
"""Number of most probable categories for a missing entry that the density of the row decides on."""

KINDS = {"": "numbers", "M": "times, as pd.Timestamp", "m": "durations, as pd.Timedelta"}
"""Names of the kinds of binned columns, see `time_kind`, for messages."""


@dataclass
class Column:
    """Vocabulary of a column of a table.

    Attributes:
        name: Label of the column.
        dtype: Its pandas type, as text.
        values: Values of the categories; for binned numbers the indices of the bins.
        missing: True if missing entries are a category, which is the last one.
        categories: For pandas categoricals, the type of the categories, and whether they are
            ordered.
        bins: Bins of numbers or times.
    """

    name: Any
    dtype: str
    values: list[Any]
    missing: bool
    categories: list[Any] | None = None
    bins: Bins | None = None

    def __post_init__(self) -> None:
        if isinstance(self.bins, dict):
            self.bins = Bins(**{**self.bins, "dtype": self.dtype})
        self.kind = time_kind(pd.Series(dtype=self.dtype)) if self.bins else ""
        self.vocabulary = Vocabulary(self.values)
        self.cardinality = max(len(self.values) + self.missing, 1)

    @classmethod
    def of(cls, series: pd.Series, bins: int | None = None) -> Column:
        """Return the vocabulary of a column.

        Numbers and times are binned if `bins` is given, or if there are many distinct ones: more
        than `MAX_DISTINCT`, or each less than three times on average; durations always are. All
        others are categories.

        Raises:
            UserError: if the column contains unhashable values, infinite numbers, or more than
                `MAX_CATEGORIES` distinct values other than numbers.
        """
        name, dtype = series.name, series.dtype
        present, missing = series[series.notna()], bool(series.isna().any())
        categories = None
        if isinstance(dtype, pd.CategoricalDtype):
            values = list(dtype.categories)
            categories = [str(dtype.categories.dtype), bool(dtype.ordered)]
        elif types.is_bool_dtype(dtype):
            values = [False, True]
        elif (
            len(present)
            and is_numeric(dtype)
            and (bins is not None or _is_many(present) or types.is_timedelta64_dtype(dtype))
        ):
            found = Bins.of(present, default_bins(len(series)) if bins is None else bins)
            return cls(name, str(dtype), list(range(len(found.edges))), missing, bins=found)
        else:
            try:
                values = distinct(present.tolist())
            except TypeError:
                raise UserError(
                    f"column {name!r} holds values that are not hashable: turn them into text, "
                    f"x[{name!r}].astype(str)"
                ) from None
        if len(values) > MAX_CATEGORIES:
            raise UserError(
                f"column {name!r} has {len(values)} different values, at most {MAX_CATEGORIES} are "
                "learned: leave it out, or merge the rare ones"
            )
        return cls(name, str(dtype), values, missing, categories)

    @property
    def labels(self) -> list[Any]:
        """Value or interval of each category; None for missing entries."""
        return (self.bins.labels if self.bins else list(self.values)) + [None] * self.missing

    @property
    def parts(self) -> list[int]:
        """Number of equal parts of each category, of which a number is in one.

        1 for categories without places inside, 0 for a continuous place.
        """
        # More than 1000 parts are treated as a continuous place.
        known = [int(n) for n in self.bins.parts] if self.bins else []
        parts = [1 if n < 0 else n if n <= 1000 else 0 for n in known]
        return parts + [1] * (self.cardinality - len(parts))

    def encode(self, series: pd.Series) -> np.ndarray:
        """Return categories (N,) float64, for numbers plus the place in the bin; -1 if unknown."""
        if self.bins:
            try:
                if series.notna().any() and time_kind(series) != self.kind:
                    raise TypeError
                encoded = self.bins.encode(series)
            except (TypeError, ValueError):
                raise UserError(
                    f"column {self.name!r} holds {KINDS[self.kind]}, not {series.dtype}"
                ) from None
        else:
            encoded = self.vocabulary.encode(series.astype(object))
        return np.where(series.isna(), len(self.values) if self.missing else -1, encoded)

    def decode(self, values: np.ndarray) -> pd.Series:
        """Return the column of encoded values (N,)."""
        category = np.floor(values).astype(int)
        absent = category == len(self.values)
        if self.bins:
            numbers = self.bins.decode(np.where(absent, 0, values))
            return self.bins.series(np.where(absent, np.nan, numbers))
        if self.categories is not None:
            dtype, ordered = self.categories
            known = pd.Index(self.values, dtype=dtype, tupleize_cols=False)
            category = np.where(absent, -1, category)
            series = pd.Series(pd.Categorical.from_codes(category, known, ordered=ordered))
        else:
            named = np.empty(len(self.values) + 1, dtype=object)
            named[:-1] = self.values
            series = pd.Series(named[category], dtype=object)
        return series.astype(self.dtype)


def _is_many(present: pd.Series) -> bool:
    different = present.nunique()
    return different > MAX_DISTINCT or 3 * different > len(present)


@dataclass
class TableAdapter(Adapter):
    """Adapter of the rows of a DataFrame, or of an integer array (N, D), for a `ColumnFlow`.

    Missing entries are masked, unless they are a category of the column.

    Attributes:
        columns: Vocabulary of each column.
        array: For arrays, numpy's name of the type; None for tables.
        tensor: True if arrays are torch tensors.
    """

    kind = "table"
    flow_class = ColumnFlow
    arguments = (ColumnFlow,)
    fixed = ("cardinalities", "parts", "counts")

    columns: list[Column]
    array: str | None = None
    tensor: bool = False

    def __post_init__(self) -> None:
        self.columns = [c if isinstance(c, Column) else Column(**c) for c in self.columns]
        self.cardinalities = [column.cardinality for column in self.columns]

    @classmethod
    def of(cls, data, bins: int | Mapping[Any, int] | None = None) -> TableAdapter:
        """Return the adapter for a table.

        `bins` is the number of bins of numbers, for all columns or by label.

        Raises:
            UserError: if the table is empty, has a repeated label, or a column that `Column.of`
                refuses.
        """
        whole = not isinstance(data, pd.DataFrame)
        numbers = _frame(data) if whole else data
        table = numbers.astype("category") if whole else numbers
        if not table.shape[0] or not table.shape[1]:
            raise UserError(f"the table has {table.shape[0]} rows and {table.shape[1]} columns")
        _refuse_repeated_labels(table)
        by_label = bins if isinstance(bins, Mapping) else dict.fromkeys(table.columns, bins)
        for label in by_label:
            if label not in table.columns:
                raise UserError(f"bins for {label!r}, but the table has no such column")
        columns = [Column.of(table[label], by_label.get(label)) for label in table.columns]
        array = str(numbers.dtypes.iloc[0]) if whole else None
        return cls(columns, array, isinstance(data, torch.Tensor))

    def encode(self, data, flow=None):
        """Encode rows; also raise `UserError` for missing or further columns."""
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
        _refuse_repeated_labels(table)
        encoded = np.stack([c.encode(table[c.name]) for c in self.columns], 1)
        absent = table[names].isna().to_numpy()
        reasons: Reasons = [None] * len(encoded)
        for row, column in zip(*np.nonzero((encoded < 0) & ~absent), strict=True):
            value = table[names[column]].iloc[row]
            value = value.item() if isinstance(value, np.generic) else value
            reasons[row] = f"the value {value!r} in column {names[column]!r}, which training lacked"
        found = torch.from_numpy(encoded[[reason is None for reason in reasons]].astype(float))
        return Rows(found.clamp(min=0), found >= 0), reasons

    def decode(self, rows, given: Mapping[Any, Any] | None = None):
        """Return the table or array of encoded rows; `given` are the exact values of columns."""
        table = self._table(rows.values.cpu().numpy())
        for label, value in (given or {}).items():
            same = pd.Series([value] * len(table), index=table.index, name=label)
            table[label] = same.astype(table[label].dtype)
        if self.array is None:
            return table
        array = table.astype(object).to_numpy().astype(self.array)
        return torch.from_numpy(array) if self.tensor else array

    def _table(self, values: np.ndarray) -> pd.DataFrame:
        parts = [column.decode(values[:, k]) for k, column in enumerate(self.columns)]
        return pd.concat(parts, axis=1, keys=[column.name for column in self.columns])

    def build(self, rows, chosen, /, **network):
        """Return an untrained flow, initialised to the density of the `chosen` rows' counts."""
        parts = [n for column in self.columns for n in column.parts]
        own: dict[str, Any] = {"parts": parts} if set(parts) != {1} else {}
        x = rows.values.numpy()[chosen].astype(int)
        self.counts = Counts.of(x, self.cardinalities)
        flow = ColumnFlow(self.cardinalities, counts=self.counts.arguments, **own, **network)
        flow.start_from(self.counts)
        return flow

    def finish(self, flow, rows, chosen):
        """Replace the counts of `build` by those of more rows; the parents of columns stay."""
        x = rows.values.numpy()[chosen].astype(int)
        flow.start_from(Counts.of(x, self.cardinalities, self.counts))

    def number(self, label: Any, what: str) -> int:
        """Return the index of a column; if unknown, raise `UserError` that begins with `what`."""
        names = [column.name for column in self.columns]
        if label not in names:
            known = suggest(label, names) if isinstance(label, str) else ""
            raise UserError(f"{what}: the table has no column {label!r}{known}")
        return names.index(label)

    def given(self, values: Mapping[Any, Any]) -> Rows:
        """Encode values of some columns as one row, others masked; raise `UserError` if unknown."""
        encoded = torch.full((1, len(self.columns)), -1.0, dtype=torch.float64)
        for label, value in values.items():
            column = self.columns[k := self.number(label, "given")]
            with suppress(UserError):
                encoded[0, k] = float(column.encode(pd.Series([value], dtype=object))[0])
            if encoded[0, k] < 0:
                known = ", ".join(map(repr, column.values[:8]))
                if column.bins:
                    known = KINDS[column.kind]
                raise UserError(f"given: column {label!r} has no value {value!r}; it has {known}")
        return Rows(encoded.clamp(min=0), encoded >= 0)

    def present(self, rows: Rows) -> Rows:
        """Return the rows with all missing entries masked, even if they are a category."""
        missing = torch.tensor(
            [len(c.values) if c.missing and c.values else -1 for c in self.columns]
        )
        return Rows(rows.values, rows.mask & (rows.values.floor() != missing))

    def _context(
        self, flow: ColumnFlow, known: Rows, mask: torch.Tensor, present: bool = False, **draw
    ) -> ColumnContext:
        """Return the context for rows with known entries, which come first in its order.

        With `present`, "missing" is no allowed category of the other columns. `draw` are further
        fields of the context.
        """
        category, most = known.values.long(), max(self.cardinalities)
        one = torch.nn.functional.one_hot(category, most).bool()
        allowed = one | ~known.mask[..., None]
        if present:
            for k, column in enumerate(self.columns):
                if column.missing and column.values:
                    allowed[:, k, len(column.values)] &= known.mask[:, k]
        order = flow.network.ordered(torch.ones_like(known.mask), known.mask)
        places = torch.where(known.mask, known.values - category, torch.nan)
        order, allowed, places = (part.to(flow.device) for part in (order, allowed, places))
        return ColumnContext(mask, order=order, allowed=allowed, places=places, **draw)

    def log_prob(self, flow, rows, orders=1, given=()):
        """Return log p(other columns | columns `given`) of each row, (B,) nats in float64.

        Masked entries are marginalised. With several `orders` of the columns, the density is the
        mean of theirs.
        """
        check_integer("orders", orders, 1, LARGEST_ORDERS)
        first = torch.zeros_like(rows.mask)
        first[:, [self.number(label, "given") for label in given]] = True
        mask, known = rows.mask, Rows(rows.values, rows.mask & first)
        value = torch.zeros(orders, len(rows), dtype=torch.float64)
        there = (mask & ~first).any(1)
        if there.any():
            part, known = rows[there], known[there]
            context = self._context(flow, known, part.mask)
            for number in range(orders):
                order = flow.network.ordered(part.mask, first[there], number)
                nats = flow.log_prob(part.values, replace(context, order=order))
                value[number, there.cpu()] = nats.double().cpu()
        return value.logsumexp(0) - np.log(orders) + self._log_density(rows, mask & ~first)

    def _log_density(self, rows: Rows, mask: torch.Tensor) -> torch.Tensor:
        """Return the log of the factors from bins to numbers, summed over masked columns, (B,)."""
        values, total = rows.values.cpu().numpy(), torch.zeros(len(rows), dtype=torch.float64)
        for k, column in enumerate(self.columns):
            if column.bins:
                there = mask[:, k].cpu().numpy() & (values[:, k] < len(column.values))
                nats = column.bins.log_density(np.where(there, values[:, k], 0))
                total += torch.from_numpy(np.where(there, nats, 0))
        return total

    @torch.no_grad()
    def completed(self, flow: ColumnFlow, known: Rows, seed: int) -> Rows:
        """Draw the unknown entries of rows from p(entries | known ones, none is missing).

        Entries that are drawn one after the other among values other than "missing" have this
        density divided by the product w of the probabilities that an entry is not missing, each
        given the entries before it. So a row is kept with probability w, else drawn anew
        (rejection). Of a row that was rejected `TRIES` times, one of its draws is kept, with
        weights w: exact in the limit.
        """
        rows = self.draw(flow, len(known), seed=seed, known=known, present=True)
        todo, total = np.arange(len(known)), np.zeros(len(known))
        drawn = rows.values
        for number in range(TRIES):
            keys = (np.random.SeedSequence((seed, k), spawn_key=(number,)) for k in todo.tolist())
            random = [np.random.Generator(np.random.Philox(key)) for key in keys]
            if number:
                drawn = self._redrawn(flow, known[todo], random)
            w = np.exp(self._log_presence(flow, known[todo], drawn))
            total[todo] += w
            u, v = np.array([own.random(2) for own in random]).reshape(-1, 2).T
            accepted = u < w
            kept = accepted | (v * total[todo] < w)
            rows.values[torch.from_numpy(todo[kept])] = drawn[torch.from_numpy(kept)]
            todo = todo[~accepted]
            if not len(todo):
                break
        return rows

    def _redrawn(self, flow: ColumnFlow, known: Rows, random: list[np.random.Generator]):
        """Return rows (B, N) with unknown entries drawn one after the other, none missing."""
        parts = []
        for start in range(0, len(known), SCORED):
            part = slice(start, start + SCORED)
            everywhere = torch.ones_like(known.mask[part]).to(flow.device)
            context = self._context(flow, known[part], everywhere, True, generator=random[part])
            parts.append(flow.sample(len(everywhere), context=context).cpu())
        return torch.cat(parts)

    def _log_presence(self, flow: ColumnFlow, known: Rows, values: torch.Tensor) -> np.ndarray:
        """Return for each row the log of w in `completed`, up to a constant of the row, (B,).

        The first drawn entry is left out: that it is there has the same probability in every draw.
        """
        absent = [len(c.values) if c.missing and c.values else -1 for c in self.columns]
        absence = torch.tensor(absent, device=flow.device)
        parts = [np.zeros(0)]
        for start in range(0, len(known), SCORED):
            part = known[start : start + SCORED].to(flow.device)
            context = self._context(flow, part, torch.ones_like(part.mask))
            own = values[start : start + SCORED].to(flow.device)
            nats = flow.log_probs_of(own, absence.clamp(min=0), context)
            nats = torch.log1p(-nats.exp().clamp(max=1 - 1e-12))
            assert context.order is not None
            rank = context.order.argsort(1)
            counted = (absence >= 0) & (rank > part.mask.sum(1, keepdim=True))
            parts.append(torch.where(counted, nats, 0).sum(1).cpu().numpy())
        return np.concatenate(parts)

    def draw(self, flow, count, *, seed, temperature=1.0, sizes=None, known=None, present=False):
        """Return rows 0 to `count - 1` of the endless sample with this seed.

        `known` has given entries, one row for all or a row for each. With `present`, no drawn entry
        is missing: each is drawn from its values other than "missing", given those before it.

        Raises:
            UserError: if `sizes` are given.
        """
        if sizes is not None:
            raise UserError("sizes are for sequences and graphs: rows of a table have one")
        width = len(self.columns)

        def context(records: np.ndarray, **draw) -> ColumnContext:
            if known is None:
                return ColumnContext(**draw)
            chosen = torch.from_numpy(records if len(known) > 1 else np.zeros_like(records))
            return self._context(flow, known[chosen], present=present, **draw)

        return draw_rows(flow, count, np.eye(width + 1)[width], seed, temperature, context)

    @torch.no_grad()
    def conditional(self, flow, known: Rows, k: int, orders: int = 1) -> np.ndarray:
        """Return the probabilities of the values of column k given the known columns.

        Args:
            flow: The flow.
            known: M rows; the mask is True for known entries.
            k: Number of the column.
            orders: Orders of the known columns over which to average.

        Returns:
            (M, C) float64.
        """
        check_integer("orders", orders, 1, LARGEST_ORDERS)
        mask, first, parts = known.mask.clone(), known.mask.clone(), []
        mask[:, k], first[:, k] = True, False
        for start in range(0, len(known), SCORED):
            rows, p = slice(start, start + SCORED), 0
            own, before, x = (t[rows].to(flow.device) for t in (mask, first, known.values))
            for number in range(orders):
                context = ColumnContext(own, order=flow.network.ordered(own, before, number))
                p = p + flow.conditional(x, k, context).double().exp().cpu().numpy() / orders
            parts.append(p)
        every = np.concatenate(parts) if parts else np.zeros((0, max(self.cardinalities)))
        return every[:, : self.columns[k].cardinality]

    def most_probable(self, flow, known: Rows) -> pd.DataFrame:
        """Return the table with unknown entries set to the most probable value, or the median."""
        encoded = known.values.numpy().copy()
        for k, column in enumerate(self.columns):
            rows = np.flatnonzero(~known.mask[:, k].numpy())
            if not len(rows) or not column.values:
                continue
            part = Rows(known.values[rows], known.mask[rows])
            p = self.conditional(flow, part, k)[:, : len(column.values)]
            p = self._reweighted(flow, part, k, p)
            below = p.cumsum(1) < p.sum(1, keepdims=True) / 2
            encoded[rows, k] = 0.5 + below.sum(1) if column.bins else p.argmax(1)
        return self._table(encoded)

    @torch.no_grad()
    def _reweighted(self, flow, known: Rows, k: int, p: np.ndarray) -> np.ndarray:
        """Return p (M, C), redistributed among the `CANDIDATES` largest by the density of the row.

        The density of a row with each category in column k is taken in the default order of
        columns, in which counts and regressions apply. The sum over the candidates stays.
        """
        rows = Rows(known.values.clone(), known.mask.clone())
        rows.mask[:, k] = True
        best = (-p).argsort(1)[:, :CANDIDATES]
        nats = np.zeros(best.shape)
        for i in range(best.shape[1]):
            rows.values[:, k] = torch.from_numpy(best[:, i]) + 0.5  # the middle of a bin
            for start in range(0, len(known), SCORED):
                part = slice(start, start + SCORED)
                own = rows[part].to(flow.device)
                order = flow.network.ordered(own.mask)
                context = ColumnContext(own.mask, order=order)
                nats[part, i] = flow.log_prob(own.values, context).cpu()
        share = np.exp(nats - nats.max(1, keepdims=True))
        share *= np.take_along_axis(p, best, 1).sum(1, keepdims=True) / share.sum(1, keepdims=True)
        p = p.copy()
        np.put_along_axis(p, best, share, 1)
        return p

    def __str__(self) -> str:
        what = "tables" if self.array is None else "arrays"
        return f"{what} of {len(self.columns)} columns, {sum(self.cardinalities)} categories"


def _refuse_repeated_labels(table: pd.DataFrame) -> None:
    """Raise `UserError` if two columns have the same label."""
    if table.columns.has_duplicates:
        twice = table.columns[table.columns.duplicated()][0]
        raise UserError(f"two columns are called {twice!r}: rename one, or drop it")


def _frame(array: np.ndarray | torch.Tensor) -> pd.DataFrame:
    """Return an array as a table; raise `UserError` unless it is (N, D) with integers."""
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
