"""Values that categories stand for, and their form in JSON."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from graphcnf.errors import UserError


def to_json(value: Hashable) -> Any:
    """A value of a category as plain JSON.

    Raises:
        UserError: if it is of another kind than text, whole or finite numbers, truth values, None,
            and intervals, times and tuples of such.
    """
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, pd.Interval):
        return {"interval": [to_json(value.left), to_json(value.right), value.closed]}
    if isinstance(value, pd.Timestamp):
        return {"timestamp": value.isoformat()}
    if isinstance(value, tuple):
        return {"tuple": [to_json(part) for part in value]}
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise UserError(
        f"{value!r} is of the type {type(value).__name__}, which cannot be kept as a category: "
        "turn it into text with str()"
    )


def from_json(content: Any) -> Hashable:
    """Inverse of `to_json`.

    Raises:
        ValueError: if `content` is nothing that `to_json` writes.
    """
    if not isinstance(content, dict | list):
        return content
    if isinstance(content, dict) and len(content) == 1:
        (kind, inner), *_ = content.items()
        if kind == "interval" and len(inner) == 3:
            return pd.Interval(from_json(inner[0]), from_json(inner[1]), inner[2])
        if kind == "timestamp":
            return pd.Timestamp(inner)
        if kind == "tuple":
            return tuple(from_json(part) for part in inner)
    raise ValueError(f"{content!r} is no value of a category")


class Vocabulary:
    """Distinct values; category k stands for value k.

    Args:
        values: The values.

    Raises:
        ValueError: if a value comes twice.
    """

    def __init__(self, values: Sequence[Hashable]):
        self.values = list(values)
        self.number = {value: k for k, value in enumerate(self.values)}
        if len(self.number) != len(self.values):
            raise ValueError("a value comes twice in a vocabulary")

    @classmethod
    def of(cls, values: Iterable[Hashable]) -> Vocabulary:
        """The distinct ones of some values, sorted where they can be, else first come first."""
        distinct: list[Any] = list(dict.fromkeys(values))
        try:
            distinct.sort()
        except TypeError:
            pass
        return cls(distinct)

    def __len__(self) -> int:
        return len(self.values)

    def codes(self, values: Iterable[Hashable]) -> np.ndarray:
        """Category of each value, -1 for those that are unknown, (M,) int64."""
        return np.array([self._code(value) for value in values], dtype=np.int64)

    def _code(self, value: Any) -> int:
        try:
            return self.number.get(value, -1)
        except TypeError:  # what has no hash is none of them
            return -1

    def decode(self, codes: Iterable[int]) -> list[Hashable]:
        """Value of each category."""
        return [self.values[code] for code in codes]

    def to_json(self) -> list:
        """The values as JSON."""
        return [to_json(value) for value in self.values]

    @classmethod
    def from_json(cls, content: list) -> Vocabulary:
        """Inverse of `to_json`."""
        return cls([from_json(value) for value in content])
