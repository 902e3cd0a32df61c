"""Tables and arrays as rows of categories, a position per column."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch

from graphcnf.categorical import Rows
from graphcnf.discrete.columns import Column
from graphcnf.errors import UserError

Reasons = list[str | None]
"""Why each item is outside of what a model knows; None where it is not."""


class TableCodec:
    """Columns of a DataFrame.

    Args:
        columns: What is kept of them.
    """

    kind = "table"
    exact = True

    def __init__(self, columns: list[Column]):
        self.columns = columns

    @classmethod
    def of(cls, table: pd.DataFrame, bins: int | Mapping[Any, int] | None = None) -> TableCodec:
        """Take the columns of a table.

        Args:
            table: At least one row and one column, with distinct labels.
            bins: Bins for columns of numbers, for all of them or by label.

        Raises:
            UserError: if the table is empty, has a label twice, or a column does not fit; see
                `Column.of`.
        """
        if not table.shape[0] or not table.shape[1]:
            raise UserError(f"the table has {table.shape[0]} rows and {table.shape[1]} columns")
        _check_distinct(table)
        by_label = bins if isinstance(bins, Mapping) else dict.fromkeys(table.columns, bins)
        for label in by_label:
            if label not in table.columns:
                raise UserError(f"bins for {label!r}, but the table has no such column")
        return cls([Column.of(table[label], by_label.get(label)) for label in table.columns])

    @property
    def cardinalities(self) -> list[int]:
        """Number of categories of each column."""
        return [column.cardinality for column in self.columns]

    @property
    def wanted(self) -> str:
        """What the model takes."""
        names = ", ".join(str(column.name) for column in self.columns)
        return f"a DataFrame with the columns {names}"

    def encode(self, table: pd.DataFrame) -> tuple[Rows, Reasons]:
        """Categories of the rows, 0 where unknown, and why a row is outside.

        Raises:
            UserError: if it is no table, one with other columns, or with a column twice.
        """
        if not isinstance(table, pd.DataFrame):
            raise UserError(f"got a {type(table).__name__}; this model takes {self.wanted}")
        names = [column.name for column in self.columns]
        lacking = [name for name in names if name not in table.columns]
        further = [name for name in table.columns if name not in names]
        if lacking or further:
            what = "lacks the column" if lacking else "has the further column"
            raise UserError(f"the table {what} {(lacking or further)[0]!r}; wanted {self.wanted}")
        _check_distinct(table)
        codes = np.stack([c.encode(table[c.name]) for c in self.columns], 1)
        reasons: Reasons = [None] * len(codes)
        for row, column in zip(*np.nonzero(codes < 0), strict=True):
            name = names[column]
            value = table[name].iloc[row]
            value = value.item() if isinstance(value, np.generic) else value
            shown = "a missing value" if pd.isna(value) else f"the value {value!r}"
            reasons[row] = f"{shown} in column {name!r}, which training did not have"
        values = torch.from_numpy(codes.clip(min=0))
        return Rows(values, torch.ones_like(values, dtype=torch.bool)), reasons

    def decode(self, rows: Rows, seed: int) -> pd.DataFrame:
        """A table of categories; `seed` says where in their bins numbers lie."""
        codes = rows.values.cpu().numpy()
        parts = []
        for k, column in enumerate(self.columns):
            random = np.random.default_rng(np.random.SeedSequence((seed, k), spawn_key=(1,)))
            parts.append(column.decode(codes[:, k], random))
        table = pd.concat(parts, axis=1) if parts else pd.DataFrame()
        table.columns = pd.Index([column.name for column in self.columns])
        return table

    def __str__(self) -> str:
        columns, categories = len(self.columns), sum(self.cardinalities)
        return f"tables of {columns} columns, {categories} categories"

    def to_json(self) -> dict:
        """The columns as JSON."""
        return {"kind": self.kind, "columns": [column.to_json() for column in self.columns]}

    @classmethod
    def from_json(cls, content: dict) -> TableCodec:
        """Inverse of `to_json`."""
        return cls([Column.from_json(column) for column in content["columns"]])


def _check_distinct(table: pd.DataFrame) -> None:
    if table.columns.has_duplicates:
        twice = table.columns[table.columns.duplicated()][0]
        raise UserError(f"two columns are called {twice!r}: rename one, or drop it")


class ArrayCodec:
    """Whole numbers (N, D), as numpy or torch has them; each column has the values seen in it.

    Args:
        table: The columns.
        dtype: Type of the array, as numpy writes it.
        tensor: Whether it is one of torch.
    """

    kind = "array"
    exact = True

    def __init__(self, table: TableCodec, dtype: str, tensor: bool):
        self.table, self.dtype, self.tensor = table, np.dtype(dtype), tensor

    @classmethod
    def of(cls, array: np.ndarray | torch.Tensor) -> ArrayCodec:
        """Take the values of an array.

        Raises:
            UserError: if it has another shape or another type.
        """
        table = _frame(array).astype("category")
        tensor = isinstance(array, torch.Tensor)
        numbers = _numbers(array)
        return cls(TableCodec.of(table), str(numbers.dtype), tensor)

    @property
    def cardinalities(self) -> list[int]:
        """Number of values of each column."""
        return self.table.cardinalities

    @property
    def wanted(self) -> str:
        """What the model takes."""
        return f"an array (N, {len(self.table.columns)}) of whole numbers"

    def encode(self, array: np.ndarray | torch.Tensor) -> tuple[Rows, Reasons]:
        """Categories of the rows, and why a row is outside.

        Raises:
            UserError: if it has another shape or another type.
        """
        if not isinstance(array, np.ndarray | torch.Tensor):
            raise UserError(f"got a {type(array).__name__}; this model takes {self.wanted}")
        table = _frame(array)
        if table.shape[1] != len(self.table.columns):
            raise UserError(f"got {table.shape[1]} columns; this model takes {self.wanted}")
        return self.table.encode(table)

    def decode(self, rows: Rows, seed: int) -> np.ndarray | torch.Tensor:
        """An array of categories."""
        array = self.table.decode(rows, seed).astype(object).to_numpy().astype(self.dtype)
        return torch.from_numpy(array) if self.tensor else array

    def __str__(self) -> str:
        return f"arrays of {len(self.table.columns)} columns, {sum(self.cardinalities)} values"

    def to_json(self) -> dict:
        """The columns as JSON."""
        content = {"dtype": str(self.dtype), "tensor": self.tensor}
        return {**self.table.to_json(), **content, "kind": self.kind}

    @classmethod
    def from_json(cls, content: dict) -> ArrayCodec:
        """Inverse of `to_json`."""
        return cls(TableCodec.from_json(content), content["dtype"], content["tensor"])


def _numbers(array: np.ndarray | torch.Tensor) -> np.ndarray:
    if not isinstance(array, torch.Tensor):
        return array
    array = array.detach().cpu()
    return (array.float() if array.dtype == torch.bfloat16 else array).numpy()  # numpy has none


def _frame(array: np.ndarray | torch.Tensor) -> pd.DataFrame:
    array = _numbers(array)
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
