"""Codec of sequences, the base of codecs of rows, and values as JSON.

A codec translates one type of data into the data of a flow and back. It is a dataclass whose fields
are the vocabulary that a model keeps. `GraphCodec` has the same attributes and methods.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch

from graphcnf.categorical import RowFlow, Rows
from graphcnf.errors import UserError
from graphcnf.flows import Context
from graphcnf.graphs.record_blocks import one_thread, record_batches

Reasons = list[str | None]
"""For each item the reason why it has probability 0 under a model, None if it has not."""

LONGEST = 1024
"""Largest number of symbols of a sequence: attention takes its square."""

MOST_SYMBOLS = 10_000
"""Largest number of different symbols."""

TYPES = {"str": str, "list": list, "tuple": tuple}


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
    """Invert `to_json`; a dataclass comes back as the dict of its fields."""
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
    """Distinct values, of which category k stands for number k; ValueError if one comes twice."""

    def __init__(self, values: Sequence[Hashable]):
        self.number = {value: k for k, value in enumerate(values)}
        if len(self.number) != len(values):
            raise ValueError("the values of a vocabulary must be distinct")

    def encode(self, values: Iterable[Any]) -> np.ndarray:
        """Return the category of each value, -1 for unknown ones, (M,) int64."""
        return np.array([self._code(value) for value in values], dtype=np.int64)

    def _code(self, value: Any) -> int:
        try:
            return self.number.get(value, -1)
        except TypeError:  # a value without a hash is unknown
            return -1


def distinct(values: Iterable[Hashable]) -> list[Any]:
    """Return the distinct values, sorted if they can be compared, else in order of appearance."""
    found: list[Any] = list(dict.fromkeys(values))
    try:
        found.sort()
    except TypeError:
        pass
    return found


class RowCodec:
    """Codec of rows of categories; subclasses encode to `Rows` and decode them.

    Attributes:
        kind: Name in `config.json`.
        exact: Whether log-likelihoods are exact, not lower bounds.
        flow_class: Class of the flow.
        headline: Metric of the flow by which its weights are chosen.
        settings: Settings of training that differ from the loop's own.
        arguments: Functions that take the arguments of the network.
        fixed: Arguments of these that follow from the data, the first one an attribute here.
    """

    kind: ClassVar[str]
    exact: ClassVar[bool] = True
    flow_class: ClassVar[Any]
    headline: ClassVar[str] = "bits_per_variable"
    settings: ClassVar[dict[str, Any]] = {
        "batch_size": 128,
        "learning_rate": 3e-3,
        "weight_decay": 0.05,
        "warmup_steps": 100,
        "decay_fraction": 0.5,
    }
    arguments: ClassVar[tuple]
    fixed: ClassVar[tuple[str, ...]]

    def encode(self, x, flow=None) -> tuple[Rows, Reasons]:
        """Encode items; those that cannot be, nor by `flow` where given, are left out.

        Returns:
            The other items as the flow's data, and for every item the reason why it is left out.

        Raises:
            UserError: if `x` is of another type.
        """
        raise NotImplementedError

    def decode(self, rows: Rows):
        """Return items of the user's type."""
        raise NotImplementedError

    def build(self, rows: Rows, chosen: np.ndarray, /, **network):
        """Return an untrained flow that starts from counts of the `chosen` rows."""
        raise NotImplementedError

    def finish(self, flow, rows: Rows, chosen: np.ndarray) -> None:
        """Replace the counts that a flow started from by those of more rows."""
        flow.count(self.batch(rows, chosen))

    def sizes(self, rows: Rows) -> np.ndarray:
        """Return the number of positions of each row, (M,)."""
        return rows.lengths.numpy()

    def batch(self, rows: Rows, chosen: np.ndarray) -> Rows:
        """Return some of the rows, as the flow's `training_loss` takes them."""
        return rows[torch.from_numpy(chosen)]


@dataclass
class SequenceCodec(RowCodec):
    """Codec of strings, and of other sequences of hashable symbols, for a `RowFlow`.

    Attributes:
        symbols: The alphabet.
        container: Type of a sequence: "str", "list" or "tuple".
        longest: Symbols of the longest sequence.
    """

    kind = "sequences"
    flow_class = RowFlow
    arguments = (RowFlow,)
    fixed = ("cardinality", "positions", "counts")

    symbols: list
    container: str
    longest: int

    def __post_init__(self) -> None:
        self.vocabulary, self.type = Vocabulary(self.symbols), TYPES[self.container]
        self.cardinality = len(self.symbols)

    @classmethod
    def of(cls, items: Sequence) -> SequenceCodec:
        """Return the codec of some sequences, at least one.

        Raises:
            UserError: if they are all empty, too long, of several types, or their symbols are too
                many or not hashable.
        """
        container = next((name for name, t in TYPES.items() if isinstance(items[0], t)), None)
        if container is None:
            raise UserError(
                f"item 0 is a {type(items[0]).__name__}; a list holds strings, or lists or tuples "
                "of symbols"
            )
        for number, item in enumerate(items):
            if not isinstance(item, TYPES[container]):
                raise UserError(
                    f"item {number} is a {type(item).__name__}, item 0 a {container}: one type for "
                    "all"
                )
            if len(item) > LONGEST:
                raise UserError(
                    f"item {number} has {len(item)} symbols, at most {LONGEST} are learned: cut it"
                )
        try:
            symbols = distinct(symbol for item in items for symbol in item)
        except TypeError:
            raise UserError("the symbols of a sequence must be hashable") from None
        if not symbols:
            raise UserError("all sequences are empty")
        if len(symbols) > MOST_SYMBOLS:
            raise UserError(f"{len(symbols)} different symbols, at most {MOST_SYMBOLS} are learned")
        return cls(symbols, container, max(len(item) for item in items))

    def encode(self, items, flow=None):
        """Encode sequences."""
        what = "strings" if self.container == "str" else f"{self.container}s of symbols"
        wanted = f"this model takes a list of {what}"
        if not isinstance(items, list | tuple):
            raise UserError(f"got a {type(items).__name__}; {wanted}")
        rows: list[list[int]] = []
        reasons: Reasons = []
        for number, item in enumerate(items):
            if not isinstance(item, self.type):
                raise UserError(f"item {number} is a {type(item).__name__}; {wanted}")
            codes = self.vocabulary.encode(item).tolist()
            reason = None
            if -1 in codes:
                reason = f"the symbol {item[codes.index(-1)]!r}, which no training row has"
            elif len(codes) > self.longest:
                reason = f"{len(codes)} symbols; the longest training row has {self.longest}"
            else:
                rows.append(codes)
            reasons.append(reason)
        return Rows.of(rows), reasons

    def decode(self, rows):
        """Return the sequences of categories."""
        items = []
        for codes, length in zip(rows.values.tolist(), rows.lengths.tolist(), strict=True):
            symbols = [self.symbols[code] for code in codes[:length]]
            text = self.container == "str"
            items.append("".join(map(str, symbols)) if text else self.type(symbols))
        return items

    def build(self, rows, chosen, /, **network):
        """Return an untrained flow that starts from the n-grams of the `chosen` rows."""
        part = self.batch(rows, chosen)
        flow = RowFlow.counting(part, self.cardinality, positions=self.longest, **network)
        flow.metadata["length_histogram"] = torch.bincount(rows.lengths).tolist()
        return flow

    def batch(self, rows, chosen):
        """Return some of the rows, cut to the longest of them."""
        return super().batch(rows, chosen).cut()

    def log_prob(self, flow: RowFlow, rows: Rows, orders: int = 1) -> torch.Tensor:
        """Return exact log-likelihoods, (B,) nats in float64."""
        if orders != 1:
            raise UserError("orders are for tables and graphs; sequences have one")
        value = flow.length_log_prob(rows.lengths).cpu().double()
        there = rows.mask.any(1)
        if there.any():
            part = rows[there]
            value[there.cpu()] += flow.log_prob(part.values, Context(part.mask)).cpu().double()
        return value

    def draw(self, flow: RowFlow, count: int, *, seed, temperature, sizes) -> Rows:
        """Return rows 0 to `count - 1` of the endless sample with this seed."""
        prior = flow.length_probabilities(sizes)
        return draw_rows(flow, count, prior, seed, temperature)

    def __str__(self) -> str:
        what = "strings" if self.container == "str" else "sequences"
        return f"{what} of up to {self.longest} of {len(self.symbols)} symbols"


@torch.no_grad()
def draw_rows(
    flow, count: int, prior: np.ndarray, seed: int, temperature: float, limits=lambda records: {}
) -> Rows:
    """Return rows 0 to `count - 1` of the endless sample of a flow with this seed.

    Their lengths have the probabilities `prior` (N + 1,); `limits` gives further fields of the
    context for numbers of records (M,).
    """
    values = torch.zeros(count, len(prior) - 1, dtype=torch.long)
    lengths = np.zeros(count, dtype=np.int64)
    with one_thread(flow.device):
        for records, drawn, generators in record_batches(range(count), prior, seed):
            lengths[records[records < count]] = drawn[records < count]
            there = np.flatnonzero(drawn)
            if not len(there):
                continue
            context = Context(
                torch.from_numpy(np.arange(drawn.max()) < drawn[there, None]).to(flow.device),
                temperature=temperature,
                generator=[generators[k] for k in there],
                **limits(records[there].clip(max=count - 1)),
            )
            part = flow.sample(len(there), context=context).cpu()
            values = values.to(part.dtype)
            kept = records[there] < count
            values[records[there][kept], : part.shape[1]] = part[torch.from_numpy(kept)]
    return Rows(values, torch.from_numpy(np.arange(len(prior) - 1) < lengths[:, None]))
