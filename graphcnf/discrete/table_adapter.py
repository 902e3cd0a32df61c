"""Adapter of DataFrames and of arrays (M, N): translates their rows to categories and back.

`graphcnf.discrete.categorical_model.CategoricalModel` uses it to score, draw, predict and impute
rows by a `graphcnf.discrete.columns.ColumnFlow`.

- Each of the N columns has *categories* 0 to C - 1: its distinct values, or bins of its numbers.
- The *place* u in [0, 1) says where in its bin a number lies. *Encoded*, a number in bin k is the
  float k + u; a category that is no bin is the float k.
- *Rare* values of a column with very many values share one category. Their place says which value
  it is.
- *Missing* entries are a category of their own, the last one, in columns that had some in training.
  In the other columns they are masked, and *marginalised*: the density is that of the other
  entries.
- The *order* of a flow is the one in which it decides the columns of a row one after the other. The
  *flow's own order* is the same for all rows, and `log_prob` is the density in this order.
- An *event* is a condition on an entry that leaves several values, such as an interval. It is an
  array (N, C, 2): the lowest and the highest place that is allowed in each category of each column.
  They are 0 and 1 in a category that is allowed as a whole, and two equal numbers in one that is
  not allowed.
- *Draws with weights*: where a draw under conditions cannot be exact, several draws of a row are
  made, and one is chosen by importance weights. Their *effective number* is (sum w)^2 / sum w^2.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from pandas.api import types

from graphcnf.chunks import chunked
from graphcnf.discrete.adapters import (
    LARGEST_STARTS,
    Adapter,
    Items,
    Reasons,
    Refused,
    Vocabulary,
    distinct,
    draw_rows,
)
from graphcnf.discrete.columns import ColumnContext, ColumnFlow, ColumnMLP
from graphcnf.discrete.counts import LARGEST_PAIRS, SPARSE, Counts
from graphcnf.discrete.numbers import (
    MAX_DISTINCT,
    Bins,
    as_numbers,
    is_numeric,
    time_kind,
)
from graphcnf.discrete.rows import Rows
from graphcnf.errors import UserError, suggest, type_of
from graphcnf.flows.base import record_generators
from graphcnf.flows.transform import Context
from graphcnf.limits import LARGEST_ORDERS, check_integer
from graphcnf.messages import counted

MAX_CATEGORIES = 1000
"""Largest number of categories of a column; rare values beyond it share one."""

MANY = 2000
"""With more training rows, batches and learning rate are larger."""

WIDTH_OF_WIDE = 128
"""Hidden units where columns have many categories, in place of the default of `ColumnMLP`."""

SCORED = 2048
"""Rows that are scored at a time."""

COMBINATIONS, OF_ONE = 256, 50_000
"""Largest number of combinations of the unknown entries of a row that are enumerated. The second
number is for rows that all have the same known entries, so that they share the enumeration."""

TOGETHER = 128
"""Rows whose combinations are enumerated at a time."""

TRIES = 64
"""Draws of a row at most, of which one is chosen by its weight."""

ENOUGH = 8
"""Effective number of draws of a row at which no further draws are made."""

FEW = 4
"""Effective number of draws of a row below which a warning counts it."""

CANDIDATES = 32
"""Number of most probable categories of an unknown entry of which the density of the whole row is
evaluated, see `TableAdapter.conditional`."""

KINDS = {"": "numbers", "M": "times, as pd.Timestamp", "m": "durations, as pd.Timedelta"}
"""Names of the kinds of binned columns, see `time_kind`, for messages."""


@dataclass
class Column:
    """Vocabulary of one column of a table: encodes its values as categories and places.

    Attributes:
        dtype: Pandas type of the column, as text, such as "int64".
        values: Value of each category; the numbers 0, 1, ... for bins.
        missing: True if missing entries are a category; it comes after those of `values`.
        categories: For pandas categoricals, [type of the categories as text, True if they are
            ordered]; None for other columns.
        bins: Bins of numbers or times; None if each value is a category.
        rare: Values that share the last category of `values`, from the most to the least frequent.
            Each has an interval of places u as wide as its share of their rows. Empty if all values
            have a category of their own.
        often: Number of training rows with each of the rare values.
        kind: "M" for dates, "m" for durations, "" for anything else.
        ends: Upper ends of the intervals of places of the rare values.
        cardinality: Number of categories C, that of missing entries included.
    """

    name: Any
    dtype: str
    values: list[Any]
    missing: bool
    categories: list[Any] | None = None
    bins: Bins | None = None
    rare: list[Any] = field(default_factory=list)
    often: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        if isinstance(self.bins, dict):
            self.bins = Bins(**{**self.bins, "dtype": self.dtype})
        self.kind = time_kind(pd.Series(dtype=self.dtype))
        self.vocabulary, self.rare_vocabulary = Vocabulary(self.values), Vocabulary(self.rare)
        self.ends = np.cumsum(self.often) / max(sum(self.often), 1)
        self.cardinality = max(len(self.values) + self.missing, 1)

    @classmethod
    def of(cls, series: pd.Series, bins: int | None = None) -> Column:
        """Build the vocabulary of a column of training data.

        Numbers and times are binned if `bins` is given, if there are more than 20 distinct ones
        (`MAX_DISTINCT`), or if these occur less than three times on average. Durations are always
        binned. In all other columns each distinct value is a category; if there are more than 1000
        values (`MAX_CATEGORIES`), the rare ones share one.

        If all entries are missing, "missing" is the only category. `bins` is the number of bins to
        aim at; the default is rows^0.4, at least 4 and at most 64.
        """
        name, dtype = series.name, series.dtype
        present, missing = series[series.notna()], bool(series.isna().any())
        categories = None
        if types.is_complex_dtype(dtype):
            raise UserError(
                f"column {name!r} holds complex numbers: give the real and the imaginary parts as "
                "two columns"
            )
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
            found = Bins.of(present, bins)
            return cls(name, str(dtype), list(range(len(found.edges))), missing, bins=found)
        else:
            try:
                values = distinct(present.tolist())
            except TypeError:
                raise UserError(
                    f"column {name!r} holds values that are not hashable: turn them into text, "
                    f"x[{name!r}].astype(str)"
                ) from None
        if len(values) <= MAX_CATEGORIES:
            return cls(name, str(dtype), values, missing, categories)
        if categories is not None:
            raise UserError(
                f"column {name!r} has {len(values)} categories, at most {MAX_CATEGORIES} of a "
                f"pandas type are learned: make it text, x[{name!r}].astype(object)"
            )
        often = present.value_counts()
        rare = often[MAX_CATEGORIES - 1 :]
        kept = [value for value in values if value not in rare.index]
        kept.append(f"{len(rare):,} rare values")
        return cls(name, str(dtype), kept, missing, rare=rare.index.tolist(), often=rare.tolist())

    @property
    def labels(self) -> list[Any]:
        """What each of the C categories stands for: a value, a `pd.Interval` of numbers, or None.

        None, the last one, is for missing entries, if these are a category.
        """
        return (self.bins.labels if self.bins else list(self.values)) + [None] * self.missing

    @property
    def parts(self) -> list[int]:
        """Number of different places in each of the C categories, for `parts` of `ColumnMLP`.

        n for a bin of n integers, up to 1000. 0 for a bin of real numbers or of more integers,
        whose place counts as continuous. 1 where the flow learns no density of places: in tails,
        bins of a single value, and categories that are no bin.
        """
        # More than 1000 parts are treated as a continuous place.
        known = [int(n) for n in self.bins.parts] if self.bins else []
        parts = [1 if n < 0 else n if n <= 1000 else 0 for n in known]
        return parts + [1] * (self.cardinality - len(parts))

    @property
    def ordinal(self) -> int:
        """Number of categories that are in an order, the first ones, for `ordinal` of `ColumnMLP`.

        These are numbers, times and pandas categories that are numbers or in an order. 0 for all
        other columns, and for fewer than three categories, whose order says nothing.
        """
        dtype, ordered = self.categories or (self.dtype, False)
        count = len(self.values)
        return count if count > 2 and (ordered or is_numeric(dtype)) else 0

    def encode(self, series: pd.Series) -> np.ndarray:
        """Encode entries as k, or as k + u for a number in bin k or a rare value, (M,) float64.

        -1 stands for values that training lacked, and for missing entries unless they are a
        category.
        """
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
            encoded = self.vocabulary.encode(series.astype(object)).astype(float)
            if self.rare:
                rare = self.rare_vocabulary.encode(series.astype(object))
                middle = self.ends - np.diff(self.ends, prepend=0) / 2
                encoded = np.where(rare < 0, encoded, len(self.values) - 1 + middle[rare])
        return np.where(series.isna(), len(self.values) if self.missing else -1, encoded)

    @property
    def means(self) -> np.ndarray | None:
        """The number that each entry of `values` stands for; None if they are no numbers.

        For a bin it is the mean of the numbers in it; of times, in the unit of their `Bins`. Times
        that are categories count as no numbers.
        """
        if self.bins:
            return self.bins.means
        numbers = is_numeric(self.dtype) and not (self.kind or self.categories or self.rare)
        return np.array(self.values, dtype=float) if numbers else None

    def event(self, condition: list[Any] | tuple[Any, Any]) -> np.ndarray:
        """Translate a condition to the lowest and highest place it allows in each category, (C, 2).

        A condition is a list of allowed values, only for columns without bins, or an interval with
        both ends included, None for no end. A warning names an interval of numbers that lies
        outside the training data, and their range.
        """
        what, found = f"given: column {self.name!r}", np.zeros((self.cardinality, 2))
        if isinstance(condition, list) and self.bins:
            raise UserError(f"{what} holds {KINDS[self.kind]}: give an interval (lowest, highest)")
        if isinstance(condition, list):
            known = self.encode(pd.Series(condition, dtype=object)).astype(int)
            if (known < 0).any():
                value = condition[int((known < 0).argmax())]
                raise UserError(f"{what} has no value {value!r}")
        elif self.bins:
            least, most = self._ends(condition)
            found[: len(self.values)] = self.bins.places(least, most)
            known = np.zeros(0, dtype=int)
        else:
            known = self._between(*condition)
        if self.rare and (known == len(self.values) - 1).any():
            raise UserError(f"{what}: a list or an interval may have no rare value, only one alone")
        found[known, 1] = 1
        if (found[:, 0] == found[:, 1]).all():
            raise UserError(f"{what} has no value in {condition!r}")
        if self.bins and (least > self.bins.span[1] or most < self.bins.span[0]):
            low, high = self.bins.series(np.array(self.bins.span))
            warnings.warn(
                f"{what}: {condition!r} lies outside the training data, {low} to {high}: what is "
                "drawn there is a guess",
                stacklevel=5,
            )
        return found

    def _ends(self, interval: tuple[Any, Any]) -> list[float]:
        """Return both ends of an interval of numbers or times as numbers of the bins."""
        assert self.bins is not None
        ends = []
        for end, none in zip(interval, (-np.inf, np.inf), strict=True):
            series = pd.Series([end], dtype=object)
            try:
                if end is not None and time_kind(series) != self.kind:
                    raise TypeError
                number = none if end is None else float(as_numbers(series, self.bins.unit)[0])
                if np.isnan(number):
                    raise ValueError
                ends.append(number)
            except (TypeError, ValueError):
                raise UserError(
                    f"given: column {self.name!r} holds {KINDS[self.kind]}, not {end!r}"
                ) from None
        return ends

    def _between(self, least: Any, most: Any) -> np.ndarray:
        """Return the categories whose values lie between two values, both included."""
        values, ordered = self.values, self.categories is not None and self.categories[1]
        try:
            if ordered:  # pandas compares the numbers of categories
                values = list(range(len(values)))
                least, most = (v if v is None else self.values.index(v) for v in (least, most))
            fits = [
                (least is None or least <= value) and (most is None or value <= most)
                for value in values
            ]
        except (TypeError, ValueError):
            raise UserError(
                f"given: column {self.name!r} has values that cannot be compared with "
                f"{least!r} and {most!r}"
            ) from None
        return np.flatnonzero(fits)

    def rare_number(self, values: np.ndarray) -> np.ndarray:
        """Return the index in `rare` of encoded entries, as their place u says."""
        return np.searchsorted(self.ends, values % 1, "right").clip(max=len(self.rare) - 1)

    def decode(self, values: np.ndarray) -> pd.Series:
        """Invert `encode`: a series of the type of the training data, numbers up to rounding."""
        category = np.floor(values).astype(int)
        absent, shared = category == len(self.values), category == len(self.values) - 1
        if self.rare:
            found = len(self.values) + 1 + self.rare_number(values)
            category = np.where(shared, found, category)
        if self.bins:
            numbers = self.bins.decode(np.where(absent, 0, values))
            return self.bins.series(np.where(absent, np.nan, numbers))
        if self.categories is not None:
            dtype, ordered = self.categories
            known = pd.Index(self.values, dtype=dtype, tupleize_cols=False)
            category = np.where(absent, -1, category)
            series = pd.Series(pd.Categorical.from_codes(category, known, ordered=ordered))
        else:
            named = np.empty(len(self.values) + 1 + len(self.rare), dtype=object)
            named[: len(self.values)] = self.values
            named[len(self.values)] = None
            named[len(self.values) + 1 :] = self.rare
            series = pd.Series(named[category], dtype=object)
        return series.astype(self.dtype)


def _is_many(present: pd.Series) -> bool:
    different = present.nunique()
    return different > MAX_DISTINCT or 3 * different > len(present)


@dataclass
class TableAdapter(Adapter):
    """Adapter of the rows of a DataFrame, or of an array (M, N), for a `ColumnFlow`.

    Attributes:
        columns: Vocabulary of each of the N columns.
        array: If the training data were an array, numpy's name of its type, such as "float32"; None
            for a DataFrame. The columns of an array are labelled 0, 1, ...
        tensor: True if the training data were a torch tensor.
        target: Number of the column that has a classifier and comes last in the flow's own order;
            None for no such column.
    """

    kind = "table"
    flow_class = ColumnFlow
    arguments = (ColumnMLP,)
    fixed = ("cardinalities", "parts", "ordinal", "counts", "target")
    settings = {
        "batch_size": 32,
        "learning_rate": 2e-3,
        "weight_decay": 0.1,
        "warmup_steps": 0,
        "decay_fraction": 0.5,
        "gradient_clip": 5.0,
        "tolerance": 0.001,
        "ema_horizon": 50.0,
    }
    evaluations = 60  # the best weights of a small table come within seconds
    scored = 1024

    columns: list[Column]
    array: str | None = None
    tensor: bool = False
    target: int | None = None

    def __post_init__(self) -> None:
        self.columns = [c if isinstance(c, Column) else Column(**c) for c in self.columns]
        self.cardinalities = [column.cardinality for column in self.columns]

    @classmethod
    def of(
        cls, data: Items, bins: int | Mapping[Any, int] | None = None, target: Any = None
    ) -> TableAdapter:
        """Build the adapter from training data.

        Integers of an array are categories; its real numbers are treated as those of a DataFrame.
        `bins` is one number for all columns or `{label: number}`, see `Column.of`; `target` the
        label of the column that `predict_proba` is to predict.
        """
        is_array = not isinstance(data, pd.DataFrame)
        numbers = _frame(data) if is_array else data
        if not numbers.shape[0] or not numbers.shape[1]:
            raise Refused(f"the table has {numbers.shape[0]} rows and {numbers.shape[1]} columns")
        whole = is_array and numbers.dtypes.iloc[0].kind in "iub"
        table = numbers.astype("category") if whole else numbers
        _refuse_repeated_labels(table)
        by_label = bins if isinstance(bins, Mapping) else dict.fromkeys(table.columns, bins)
        for label in by_label:
            if label not in table.columns:
                raise UserError(f"bins for {label!r}, but the table has no such column")
        columns = [Column.of(table[label], by_label.get(label)) for label in table.columns]
        array = str(numbers.dtypes.iloc[0]) if is_array else None
        adapter = cls(columns, array, isinstance(data, torch.Tensor))
        if target is not None:
            adapter.target = adapter.number(target, "target")
        return adapter

    def encode(self, data: Items, flow: Any = None) -> tuple[Rows, Reasons]:
        """Encode the rows of a table or an array, and leave out rows with an unknown value.

        All rows of known values have a positive probability, under every flow.
        """
        encoded, unknown, table = self._encoded(data)
        reasons: Reasons = [None] * len(encoded)
        for row, column in zip(*np.nonzero(unknown), strict=True):
            reasons[row] = f"the {self._cell(table, row, column)}, which training lacked"
        found = torch.from_numpy(encoded[[reason is None for reason in reasons]])
        return Rows(found.clamp(min=0), found >= 0), reasons

    def known(self, data: Items) -> Rows:
        """Encode all rows, and mask values that training lacked: for predicting and imputing.

        A warning counts the unknown values, and names the first one.

        An array may hold floats with NaN, even if the training data were integers. The mask is
        False for unknown values, and for missing entries unless missing is a category of the
        column.
        """
        encoded, unknown, table = self._encoded(data)
        if unknown.any():
            first = self._cell(table, *(int(at[0]) for at in np.nonzero(unknown)))
            what = counted(int(unknown.sum()), "value")
            warnings.warn(
                f"{what} that training lacked count as missing, first the {first}", stacklevel=3
            )
        found = torch.from_numpy(encoded)
        return Rows(found.clamp(min=0), found >= 0)

    def _cell(self, table: pd.DataFrame, row: int, column: int) -> str:
        """Name an entry of a table for a message."""
        name = self.columns[column].name
        value = table[name].iloc[row]
        value = value.item() if isinstance(value, np.generic) else value
        return f"value {value!r} in column {name!r}"

    def _encoded(self, data: Items) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
        """Encode M rows, column by column."""
        names = [column.name for column in self.columns]
        wanted = f"a DataFrame with the columns {', '.join(map(str, names))}"
        if self.array is not None:
            wanted = f"an array (N, {len(names)})"
        kinds = pd.DataFrame if self.array is None else np.ndarray | torch.Tensor
        if not isinstance(data, kinds):
            raise UserError(f"got {type_of(data)}; this model takes {wanted}")
        table: pd.DataFrame = data if self.array is None else _frame(data)  # type: ignore[assignment]
        lacking = [name for name in names if name not in table.columns]
        further = [name for name in table.columns if name not in names]
        if lacking or further:
            what = "lacks the column" if lacking else "has the further column"
            raise UserError(f"the table {what} {(lacking or further)[0]!r}; wanted {wanted}")
        _refuse_repeated_labels(table)
        encoded = np.stack([c.encode(table[c.name]) for c in self.columns], 1).astype(float)
        return encoded, (encoded < 0) & ~table[names].isna().to_numpy(), table

    def decode(self, rows: Rows, given: Mapping[Any, Any] | None = None) -> Any:
        """Invert `encode`: turn encoded rows into a table or an array, as the training data were.

        The values in `given`, `{label: value}`, are written instead of the decoded ones, which have
        a rounding error where they were encoded as bin and place.
        """
        table = self.table(rows)
        for label, value in (given or {}).items():
            same = pd.Series([value] * len(table), index=table.index, name=label)
            table[label] = same.astype(table[label].dtype)
        return self.as_data(table)

    def as_data(self, table: pd.DataFrame) -> pd.DataFrame | np.ndarray | torch.Tensor:
        """Convert a table of values to the type of the training data."""
        if self.array is None:
            return table
        array = table.astype(object).to_numpy().astype(self.array)
        return torch.from_numpy(array) if self.tensor else array

    def table(self, rows: Rows) -> pd.DataFrame:
        """Decode rows to a table, also if the training data were an array."""
        values = rows.values.cpu().numpy()
        parts = [column.decode(values[:, k]) for k, column in enumerate(self.columns)]
        return pd.concat(parts, axis=1, keys=[column.name for column in self.columns])

    def build(self, rows: Rows, chosen: np.ndarray, /, **network: Any) -> ColumnFlow:
        """Build an untrained flow, whose density is that of counts and regression of training rows.

        Side effects: the counts are kept in the attribute `counts` of the adapter, for `finish`.
        With more than 2000 training rows (`MANY`), the adapter's `settings` get larger batches and
        a higher learning rate. The log-probabilities by counts are stored in `rows.start`, so that
        training need not look them up, unless they are more than 50 million numbers
        (`LARGEST_STARTS`).
        """
        parts = [n for column in self.columns for n in column.parts]
        if len(chosen) > MANY:
            larger = {"batch_size": 128, "learning_rate": 4e-3}
            self.settings = {**self.settings, **larger}  # type: ignore[misc]
        placed = any(column.rare for column in self.columns) or set(parts) != {1}
        own: dict[str, Any] = {"parts": parts} if placed else {}
        ordinal = [column.ordinal for column in self.columns]
        if sum(self.cardinalities) > max(LARGEST_PAIRS, SPARSE * len(self.columns)):
            network = {"width": WIDTH_OF_WIDE, **network}
        x = rows.values.numpy()[chosen].astype(int)
        self.counts = Counts.of(x, self.cardinalities, last=self.target)
        if len(rows) * sum(self.cardinalities) <= LARGEST_STARTS:
            rows.start = self.counts.starts(rows.values.long(), chosen)
        if self.target is not None:
            own["target"] = self.target
        flow = ColumnFlow(
            self.cardinalities, counts=self.counts.arguments, ordinal=ordinal, **own, **network
        )
        flow.start_from(self.counts)
        flow.fit_classifier(self.batch(rows, chosen))
        return flow

    def finish(
        self, flow: ColumnFlow, rows: Rows, chosen: np.ndarray, held_out: np.ndarray
    ) -> None:
        """Use the held-out rows after training: they choose mixture weights, then are counted too.

        The flow is changed in place. Its mixture weights are those of `ColumnFlow.weigh`; without
        held-out rows they stay. Then counts, regression and the classifier of the target, if there
        is one, are fitted anew to all of `chosen`. The parents of each column stay as `build` chose
        them, so call `build` first.
        """
        flow.weigh(self.batch(rows, held_out))
        flow.fit_classifier(self.batch(rows, chosen))
        x = rows.values.numpy()[chosen].astype(int)
        flow.start_from(Counts.of(x, self.cardinalities, self.counts), regression=False)

    def number(self, label: Any, what: str) -> int:
        """Return the number of the column with a label; `what` names the argument, for messages."""
        names = [column.name for column in self.columns]
        if label not in names:
            known = suggest(label, names) if isinstance(label, str) else ""
            raise UserError(f"{what}: the table has no column {label!r}{known}")
        return names.index(label)

    def given(self, values: Mapping[Any, Any]) -> tuple[Rows, torch.Tensor | None]:
        """Encode conditions on some columns, as `CategoricalModel.sample(given=...)` takes them.

        A condition is a value, a list of allowed values, or an interval (lowest, highest). A list
        or tuple that is itself a value of the column counts as a value.

        Returns the single values as one encoded row, masked in all other columns; and the event (N,
        C, 2) of lists and intervals, None if there are none.
        """
        encoded = torch.full((1, len(self.columns)), -1.0, dtype=torch.float64)
        event, several = self.whole, False
        for label, value in values.items():
            column = self.columns[k := self.number(label, "given")]
            with suppress(UserError):
                encoded[0, k] = float(column.encode(pd.Series([value], dtype=object))[0])
            if encoded[0, k] < 0 and isinstance(value, list | tuple):
                if isinstance(value, tuple) and len(value) != 2:
                    raise UserError(f"given: {value!r} is no interval (lowest, highest)")
                event[k, : column.cardinality] = torch.from_numpy(column.event(value))
                several = True
            elif encoded[0, k] < 0:
                known = ", ".join(map(repr, column.values[:8]))
                if column.bins:
                    known = KINDS[column.kind]
                raise UserError(f"given: column {label!r} has no value {value!r}; it has {known}")
        return Rows(encoded.clamp(min=0), encoded >= 0), event if several else None

    @property
    def whole(self) -> torch.Tensor:
        """Event that allows everything, (N, C, 2) float64."""
        return torch.tensor([0.0, 1.0], dtype=torch.float64).repeat(
            len(self.columns), max(self.cardinalities), 1
        )

    @property
    def presence(self) -> torch.Tensor:
        """Event that no entry is missing, (N, C, 2) float64.

        It allows everything but the category "missing", which has the empty range 0 to 0. Columns
        with no other category are not limited.
        """
        event = self.whole
        for k, column in enumerate(self.columns):
            if column.missing and column.values:
                event[k, len(column.values)] = 0
        return event

    def present(self, rows: Rows) -> Rows:
        """Mask all missing entries of rows, also those that are encoded as the category "missing".

        `CategoricalModel.impute` calls it, so that these entries are filled. `encode` and `known`
        treat the category "missing" as a known value.
        """
        missing = torch.tensor(
            [len(c.values) if c.missing and c.values else -1 for c in self.columns]
        )
        return Rows(rows.values, rows.mask & (rows.values.floor() != missing))

    def _context(
        self,
        flow: ColumnFlow,
        known: Rows,
        mask: torch.Tensor,
        event: torch.Tensor | None = None,
        chosen: torch.Tensor | None = None,
        **draw,
    ) -> ColumnContext:
        """Return the context in which a flow draws the unknown entries of rows, given the known."""
        known, event = known.to(flow.device), None if event is None else event.to(flow.device)
        category, most = known.values.long(), max(self.cardinalities)
        one = torch.nn.functional.one_hot(category, most).bool()
        allowed, level = one | ~known.mask[..., None], (~known.mask).long()
        if chosen is not None:
            chosen = chosen.to(flow.device)
            must = torch.nn.functional.one_hot(chosen.clamp(min=0), most).bool()
            allowed &= must | (chosen < 0)[..., None]
        if event is not None:
            low, high = event.unbind(-1)
            level += level * ((low == 0) & (high >= self.presence[..., 1].to(low))).all(1)
        order = flow.network.ordering(mask, level)
        places = torch.where(known.mask, known.values - category, torch.nan)
        return ColumnContext(mask, order=order, allowed=allowed, event=event, places=places, **draw)

    def log_prob(
        self, flow: ColumnFlow, rows: Rows, orders: int = 1, given: Sequence[Any] = ()
    ) -> torch.Tensor:
        """Return the log-likelihood of each row, also given some of its columns.

        A category or an integer contributes its probability, a real number its density per unit of
        the column, a time its density per unit of its `Bins`, such as a day.

        `orders` counts the orders of the columns in which a row is scored: the flow's own, then
        random ones, the same in every call. The densities (not their logarithms) are averaged. The
        columns in `given` come first in every order: the result is then log p(other columns | given
        columns). (B,) nats, 0 for a row without an entry to score.
        """
        check_integer("orders", orders, 1, LARGEST_ORDERS)
        given_columns = torch.zeros_like(rows.mask)
        given_columns[:, [self.number(label, "given") for label in given]] = True
        scored = rows.mask & ~given_columns
        value = torch.zeros(orders, len(rows), dtype=torch.float64)
        there = scored.any(1)
        if there.any():
            part, first = rows[there], given_columns[there]
            for number in range(orders):
                order = flow.network.ordering(part.mask, (~first).long(), number)
                nats = flow.nats(part.values, ColumnContext(part.mask, order=order))
                value[number, there.cpu()] = (nats * ~first).sum(1).double().cpu()
        return value.logsumexp(0) - np.log(orders) + self._log_density(rows, scored)

    def _log_density(self, rows: Rows, mask: torch.Tensor) -> torch.Tensor:
        """Return what turns densities of places in bins into densities of numbers."""
        values, total = rows.values.cpu().numpy(), torch.zeros(len(rows), dtype=torch.float64)
        for k, column in enumerate(self.columns):
            there = mask[:, k].cpu().numpy() & (values[:, k] < len(column.values))
            if column.bins:
                nats = column.bins.log_density(np.where(there, values[:, k], 0))
                total += torch.from_numpy(np.where(there, nats, 0))
            elif column.rare:
                there &= values[:, k] >= len(column.values) - 1
                nats = np.log(np.array(column.often) / sum(column.often))
                total += torch.from_numpy(
                    np.where(there, nats[column.rare_number(values[:, k])], 0)
                )
        return total

    @torch.no_grad()
    def completed(
        self, flow: ColumnFlow, known: Rows, seed: int, event: torch.Tensor | None
    ) -> tuple[Rows, np.ndarray]:
        """Draw the unknown entries of rows, given the known ones and an event.

        The distribution is the density of whole rows in the flow's own order, that of `log_prob`,
        given the known entries and the event.

        An unknown entry that comes after all conditions in this order is drawn as usual. The
        *early* ones, before a known entry or one that the event limits, are drawn first. If they
        have few combinations, the density of the row with each of these is evaluated, and the draw
        is exact. (In these densities, a number counts as the middle of its bin.) Else the row is
        drawn several times, and one draw is chosen by importance weights.

        Returned are the M rows with all entries, and the effective number of draws, from 1 to 64
        (`TRIES`), of those R rows that were chosen by weights, (R,).
        """
        early, random = self._early(flow, known, event), record_generators((seed, 1), 0, len(known))
        chosen = self._chosen(flow, known, early, random, event)
        todo = (early & (chosen < 0)).any(1).nonzero()[:, 0]
        own = [random[row] for row in todo.tolist()]
        found, effective = self._weighted(flow, known[todo], early[todo], own, event)
        known = Rows(known.values.index_copy(0, todo, found.values), known.mask.clone())
        known.mask[todo] = found.mask
        rows = self.draw(flow, len(known), seed=seed, known=known, event=event, chosen=chosen)
        return rows, effective

    def _early(self, flow: ColumnFlow, known: Rows, event: torch.Tensor | None) -> torch.Tensor:
        """Return which unknown columns of rows come before a condition in the flow's own order."""
        limited = torch.zeros(len(self.columns), dtype=torch.bool)
        if event is not None:
            limited = (event != self.whole).flatten(1).any(1)
        rank = flow.network.rank.cpu()
        last = torch.where(known.mask | limited, rank, -1).max(1, keepdim=True).values
        return ~known.mask & (rank <= last)

    def _chosen(
        self,
        flow: ColumnFlow,
        known: Rows,
        early: torch.Tensor,
        random: list[np.random.Generator],
        event: torch.Tensor | None,
    ) -> torch.Tensor:
        """Draw the early entries of rows by Bayes' rule: by the densities of all combinations."""
        chosen = torch.full(known.mask.shape, -1)
        for part in chunked(self._combinations(known, early, event), TOGETHER):
            sizes = [len(grid) for _, _, grid in part]
            first = torch.tensor([group[0] for group, _, _ in part]).repeat_interleave(
                torch.tensor(sizes)
            )
            x = known.values[first]
            for (_, columns, grid), own in zip(part, x.split(sizes), strict=True):
                own[:, columns] = torch.from_numpy(grid + 0.5).to(x)
            nats = self._nats(flow, Rows(x, (known.mask | early)[first]))
            ends = np.cumsum(sizes)[:-1]
            for (group, columns, grid), own in zip(part, np.split(nats, ends), strict=True):
                upper = np.exp(own - own.max()).cumsum()
                u = np.array([random[row].random() for row in group])
                found = grid[np.searchsorted(upper, u * upper[-1], "right")]
                chosen[np.ix_(group, columns)] = torch.from_numpy(found)
        return chosen

    def _combinations(
        self, known: Rows, early: torch.Tensor, event: torch.Tensor | None
    ) -> list[tuple[list[int], list[int], np.ndarray]]:
        """Return the combinations of the early entries of rows, where these are few."""
        allowed = (self.whole if event is None else event).diff(dim=2)[..., 0].numpy()
        open_ = [own[: c.cardinality] for own, c in zip(allowed, self.columns, strict=True)]
        choices = [np.flatnonzero(own) if np.isin(own, (0, 1)).all() else None for own in open_]
        values, groups = torch.where(known.mask, known.values, -1).numpy(), dict[bytes, list[int]]()
        for row in early.any(1).nonzero()[:, 0].tolist():
            groups.setdefault(values[row].tobytes(), []).append(row)
        most, found = OF_ONE if len(groups) == 1 else COMBINATIONS, []
        for group in groups.values():
            columns = early[group[0]].nonzero()[:, 0].tolist()
            own = [part for k in columns if (part := choices[k]) is not None]
            if len(own) == len(columns) and math.prod(map(len, own)) <= most:
                grid = np.stack([part.ravel() for part in np.meshgrid(*own)], 1)
                found.append((group, columns, grid))
        return found

    def _nats(self, flow: ColumnFlow, rows: Rows) -> np.ndarray:
        """Return the log-density of rows in the flow's order; masked entries are marginalised."""
        parts = [rows[k : k + SCORED].to(flow.device) for k in range(0, len(rows), SCORED)]
        nats = [flow.log_prob(p.values, Context(p.mask)).double().cpu() for p in parts]
        return torch.cat([torch.zeros(0, dtype=torch.float64), *nats]).numpy()

    def _weighted(
        self,
        flow: ColumnFlow,
        known: Rows,
        early: torch.Tensor,
        random: list[np.random.Generator],
        event: torch.Tensor | None,
    ) -> tuple[Rows, np.ndarray]:
        """Draw the early entries of rows several times, and choose a draw by importance weights."""
        rows, todo = Rows(known.values.clone(), known.mask | early), np.arange(len(known))
        total, squares = np.full((2, len(known)), -np.inf)
        for _ in range(TRIES if len(todo) else 0):
            for part in np.split(todo, range(SCORED, len(todo), SCORED)):
                own, at = [random[row] for row in part.tolist()], torch.from_numpy(part)
                drawn, w = self._drawn(flow, known[at], rows.mask[at], own, event)
                total[part] = np.logaddexp(total[part], w)
                squares[part] = np.logaddexp(squares[part], 2 * w)
                kept = np.log([one.random() for one in own]) + total[part] < w
                rows.values[at[kept]] = drawn[kept].to(rows.values)
            todo = todo[2 * total[todo] - squares[todo] < np.log(ENOUGH)]
            if not len(todo):
                break
        return rows, np.exp(2 * total - squares)

    def _drawn(
        self,
        flow: ColumnFlow,
        known: Rows,
        mask: torch.Tensor,
        random: list[np.random.Generator],
        event: torch.Tensor | None,
    ) -> tuple[torch.Tensor, np.ndarray]:
        """Draw unknown entries of rows one after the other, all inside an event."""
        context = self._context(flow, known, mask.to(flow.device), event, generator=random)
        x = flow.sample(len(known), context=context)
        nats = flow.nats(x, context, context.event).double()
        unknown = nats.cpu().masked_fill(known.mask, 0).sum(1).numpy()
        return x.cpu(), self._nats(flow, Rows(x, mask)) - unknown

    def draw(
        self,
        flow: ColumnFlow,
        count: int,
        *,
        seed: int,
        temperature: float = 1.0,
        sizes: tuple[int, int] | None = None,
        known: Rows | None = None,
        event: torch.Tensor | None = None,
        chosen: torch.Tensor | None = None,
    ) -> Rows:
        """Draw rows; with the same seed, a larger `count` only appends further rows.

        If entries are known, these come first in the order. The rows then follow the density of
        another order than the flow's own; use `completed` to draw from that of the flow's own.

        Args:
            known: Encoded entries to condition on, masked where unknown: one row for all, or a row
                for each. None to draw all entries.
            event: What each entry may be, (N, C, 2), as in `completed`; None for anything. It is a
                condition on each entry given those that were drawn before it.
            chosen: Categories that unknown entries must have, a row for each of `known`, (M, N)
                long, -1 for any category; None for any.
        """
        if sizes is not None:
            raise UserError("sizes are for sequences and graphs: rows of a table have one")
        width = len(self.columns)

        def context(records: np.ndarray, **draw) -> ColumnContext:
            if known is None:
                return ColumnContext(**draw)
            own = torch.from_numpy(records if len(known) > 1 else np.zeros_like(records))
            categories = None if chosen is None else chosen[own]
            return self._context(flow, known[own], event=event, chosen=categories, **draw)

        return draw_rows(flow, count, np.eye(width + 1)[width], seed, temperature, context)

    def within(
        self,
        flow: ColumnFlow,
        count: int,
        seed: int,
        known: Rows,
        event: torch.Tensor | None,
        given: Mapping[Any, Any],
    ) -> pd.DataFrame | np.ndarray | torch.Tensor:
        """Draw rows that meet conditions, for `CategoricalModel.sample(given=...)`.

        They are drawn by `completed`. A warning counts the rows with fewer than 4 effective draws
        (`FEW`), as the conditions are then rare together.

        `known` and `event` are the results of the method `given`. Single values are copied from the
        argument `given` to the result, without the rounding of bins.
        """
        every = torch.zeros(count, dtype=torch.long)
        rows, effective = self.completed(flow, known[every], seed, event)
        few = effective[effective < FEW]
        if len(few):
            warnings.warn(
                f"{len(few)} of {count} rows are one of {TRIES} draws by their weights, with an "
                f"effective number of {few.mean():.1f} draws: the conditions are rare together",
                stacklevel=4,
            )
        fixed = {
            label: value
            for label, value in given.items()
            if known.mask[0, self.number(label, "given")]
        }
        return self.decode(rows, fixed)

    @torch.no_grad()
    def conditional(self, flow: ColumnFlow, known: Rows, k: int) -> np.ndarray:
        """Return the probabilities of the categories of a column, given the known columns.

        First, they are evaluated in an order in which the column comes directly after the known
        ones. Then the total probability of the most probable categories, at most 32 (`CANDIDATES`),
        is divided among them anew: in proportion to the density, in the flow's own order, of the
        row with each of them. So the result agrees with `log_prob`.

        The result is (M, C); `known` column k counts as unknown.
        """
        mask, first, parts = known.mask.clone(), known.mask.clone(), []
        mask[:, k], first[:, k] = True, False
        for start in range(0, len(known), SCORED):
            rows = slice(start, start + SCORED)
            own, before, x = (t[rows].to(flow.device) for t in (mask, first, known.values))
            context = ColumnContext(own, order=flow.network.ordering(own, (~before).long()))
            parts.append(flow.conditional(x, k, context).double().exp().cpu().numpy())
        if not parts:
            return np.zeros((0, self.columns[k].cardinality))
        return self._reweighted(flow, known, k, np.concatenate(parts))

    def typical(self, flow: ColumnFlow, known: Rows, mean: bool) -> pd.DataFrame:
        """Fill each unknown entry with a typical value: its mean, median, or most probable value.

        Every entry is predicted for itself, given the known entries of its row. No entry is filled
        with "missing".

        With `mean` it is the mean where the column holds numbers (rounded if all are whole), else
        the median where they are in bins; all other entries get their most probable value. Entries
        stay missing only in a column that had no others in training.
        """
        encoded, means = known.values.numpy().copy(), dict[int, tuple[np.ndarray, np.ndarray]]()
        for k, column in enumerate(self.columns):
            rows = np.flatnonzero(~known.mask[:, k].numpy())
            if not len(rows) or not column.values:
                continue
            part = Rows(known.values[rows], known.mask[rows])
            p = self.conditional(flow, part, k)[:, : len(column.values)]
            below = p.cumsum(1) < p.sum(1, keepdims=True) / 2
            encoded[rows, k] = 0.5 + below.sum(1) if column.bins else p.argmax(1)
            if mean and (values := column.means) is not None:
                means[k] = rows, p @ values / p.sum(1)
        table = self.table(Rows(torch.from_numpy(encoded), known.mask))
        for k, (rows, value) in means.items():
            column = self.columns[k]
            if column.bins:
                own = column.bins.series(value)
            else:
                whole = pd.api.types.is_integer_dtype(column.dtype)
                own = pd.Series(value.round() if whole else value).astype(column.dtype)
            table.iloc[rows, k] = own.to_numpy()
        return table

    @torch.no_grad()
    def _reweighted(self, flow: ColumnFlow, known: Rows, k: int, p: np.ndarray) -> np.ndarray:
        """Return the probabilities of column k by Bayes' rule in the density of whole rows."""
        rows = Rows(known.values.clone(), known.mask.clone())
        rows.mask[:, k] = True
        best = (-p).argsort(1)[:, :CANDIDATES]
        nats = np.zeros(best.shape)
        for i in range(best.shape[1]):
            rows.values[:, k] = torch.from_numpy(best[:, i]) + 0.5  # the middle of a bin
            nats[:, i] = self._nats(flow, rows)
        share = np.exp(nats - nats.max(1, keepdims=True))
        share *= np.take_along_axis(p, best, 1).sum(1, keepdims=True) / share.sum(1, keepdims=True)
        p = p.copy()
        np.put_along_axis(p, best, share, 1)
        return p

    def __str__(self) -> str:
        what = "tables" if self.array is None else "arrays"
        return f"{what} of {len(self.columns)} columns, {sum(self.cardinalities)} categories"


def _refuse_repeated_labels(table: pd.DataFrame) -> None:
    """Check that no two columns have the same label."""
    if table.columns.has_duplicates:
        twice = table.columns[table.columns.duplicated()][0]
        raise UserError(f"two columns are called {twice!r}: rename one, or drop it")


def _frame(array: np.ndarray | torch.Tensor) -> pd.DataFrame:
    """Return an array of numbers as a table."""
    if isinstance(array, torch.Tensor):
        array = array.detach().cpu()
        array = (array.float() if array.dtype == torch.bfloat16 else array).numpy()
    if array.ndim != 2:
        raise Refused(
            f"an array of the shape {array.shape}: rows of equal length are (N, D), grids of "
            "integers (N, H, W); of rows that differ in length make a list"
        )
    if array.dtype.kind not in "iubf":
        raise Refused(
            f"an array of {array.dtype}: its entries must be numbers; for names use pd.DataFrame(x)"
        )
    return pd.DataFrame(array)
