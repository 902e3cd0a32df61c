"""Values that categories stand for, and their form in JSON."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import pandas as pd

from graphcnf.errors import UserError


def to_json(value: Any) -> Any:
    """Return a value of a category, or a list or dataclass of values, as plain JSON.

    Raises:
        UserError: if a value is anything but text, a whole or finite number, a truth value, None,
            or an interval, time or tuple of such values.
    """
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, list):
        return [to_json(part) for part in value]
    if is_dataclass(value):
        return {part.name: to_json(getattr(value, part.name)) for part in fields(value)}
    if isinstance(value, pd.Interval):
        return {"interval": [to_json(value.left), to_json(value.right), value.closed]}
    if isinstance(value, pd.Timestamp):
        return {"timestamp": value.isoformat()}
    if isinstance(value, tuple):
        return {"tuple": to_json(list(value))}
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise UserError(
        f"{value!r} is of the type {type(value).__name__}, which cannot be kept as a category: "
        "turn it into text with str()"
    )


def from_json(content: Any) -> Any:
    """Invert `to_json`; a dataclass comes back as the dict of its fields.

    Raises:
        ValueError: if `to_json` does not write such content.
    """
    match content:
        case list():
            return [from_json(part) for part in content]
        case {"interval": [left, right, closed]}:
            return pd.Interval(from_json(left), from_json(right), closed)
        case {"timestamp": str(text)}:
            return pd.Timestamp(text)
        case {"tuple": list(parts)}:
            return tuple(from_json(parts))
        case dict() if len(content) > 1:
            return {name: from_json(part) for name, part in content.items()}
        case dict():
            raise ValueError(f"{content!r} must be a value of a category")
    return content


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
            raise ValueError("the values of a vocabulary must be distinct")

    def __len__(self) -> int:
        return len(self.values)

    def encode(self, values: Iterable[Any]) -> np.ndarray:
        """Return the category of each value, -1 for unknown ones, (M,) int64."""
        return np.array([self._code(value) for value in values], dtype=np.int64)

    def _code(self, value: Any) -> int:
        try:
            return self.number.get(value, -1)
        except TypeError:  # a value without a hash is unknown
            return -1

    def decode(self, codes: Iterable[int]) -> list[Any]:
        """Return the value of each category."""
        return [self.values[code] for code in codes]


def distinct(values: Iterable[Hashable]) -> list[Any]:
    """Return the distinct values, sorted if they can be compared, else in order of appearance."""
    found: list[Any] = list(dict.fromkeys(values))
    try:
        found.sort()
    except TypeError:
        pass
    return found
