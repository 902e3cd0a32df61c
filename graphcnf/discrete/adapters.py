"""Base class of adapters, adapter of sequences, and values as JSON.

- *Items* are a user's data in a type of their own: rows of a table, strings, grids, graphs.
- An *adapter* translates items of one type to the *categories* of a flow (integers from 0) and
  back. It is a dataclass. Its fields are the *vocabulary*, the values that the categories stand
  for; they are stored with the model, as JSON.
- *Encoded* items are `graphcnf.discrete.rows.Rows` of categories, or
  `graphcnf.graphs.batch.PackedGraphs` for graphs. Items that cannot be encoded, such as a string
  with an unknown symbol, have probability 0, and a *reason* says why.
- A *flow* is the density of encoded items: a `graphcnf.discrete.columns.ColumnFlow` for tables, a
  `graphcnf.discrete.rows.RowFlow` for sequences, a `graphcnf.discrete.grids.GridFlow` for grids, a
  `graphcnf.graphs.graph_model.GraphModel` for graphs.
- *Counts* are frequencies in the training items, such as n-grams of sequences. Flows of tables and
  sequences add their logarithms to the logits of the network.
- *Held-out* items score the flow during training, and are not learned from.

`graphcnf.discrete.categorical_model.CategoricalModel` chooses the adapter for a user's data, and
calls its methods.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch

from graphcnf.discrete.rows import CausalAttention, RowFlow, Rows
from graphcnf.errors import UserError, type_of
from graphcnf.flows.transform import Context
from graphcnf.graphs.records import one_thread, record_batches

Reasons = list[str | None]
"""For each item the reason why its probability is 0, or None if it is positive."""

LONGEST_SEQUENCE = 1024
"""Largest length of a sequence; the cost of attention is its square."""

MANY_SYMBOLS = 100_000
"""With more symbols to learn from, a network of the default size needs no dropout."""

BATCH_SYMBOLS = 700
"""Symbols of a batch of training, on average, where there are many symbols to learn from."""

LARGEST_STARTS = 50_000_000
"""Largest number of log-probabilities by counts that are kept during training, 200 MB."""

MOST_SYMBOLS = 10_000
"""Largest number of distinct symbols."""

Items = pd.DataFrame | np.ndarray | torch.Tensor | Sequence[Any]
"""A user's data: a table, an array (N, D) or (N, H, W), or a list of sequences or of graphs."""

TYPES = {"str": str, "list": list, "tuple": tuple}


def to_json(value: Any) -> Any:
    """Convert values of a user's data to JSON, so that a vocabulary can be stored with the model.

    What JSON does not know becomes an object with a single key: {"timestamp": ISO text}, {"tuple":
    [...]}, {"interval": [left, right, closed]}. A dataclass, such as an adapter, becomes an object
    with its fields. `from_json` is the inverse.
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
    """Convert JSON that `to_json` wrote back to the values of a user's data.

    Text, numbers, bool, None, lists, tuples, `pd.Timestamp` and `pd.Interval` come back as they
    were, numbers of numpy as those of Python. A dataclass comes back as the dict of its fields.

    Anything may come from a stranger's file: of an object with a key "timestamp", "tuple" or
    "interval" the other keys are ignored; any other object must have two or more keys, and is read
    as a dict.
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


class Refused(UserError, ValueError):
    """Error for data that a model cannot take; a `ValueError` as well, for scikit-learn."""


class Vocabulary:
    """Map from distinct values to categories: value k of a list has category k."""

    def __init__(self, values: Sequence[Hashable]):
        self.number = {value: k for k, value in enumerate(values)}
        if len(self.number) != len(values):
            raise ValueError("the values of a vocabulary must be distinct")

    def encode(self, values: Iterable[Any]) -> np.ndarray:
        """Return the category of each value, (M,) int64; -1 for values unknown or not hashable."""
        return np.array([self._category(value) for value in values], dtype=np.int64)

    def _category(self, value: Any) -> int:
        try:
            return self.number.get(value, -1)
        except TypeError:  # unhashable values are unknown
            return -1


def distinct(values: Iterable[Hashable]) -> list[Any]:
    """Return distinct values, sorted if all can be compared, else by first appearance."""
    found: list[Any] = list(dict.fromkeys(values))
    try:
        found.sort()
    except TypeError:
        pass
    return found


class Adapter:
    """Base class of adapters, each for one type of a user's data.

    A subclass is a dataclass with a class method `of(data)` that builds it from training data. It
    writes `arguments`, `encode`, `decode` and `build`, whose docstrings here say what they do, and
    two further methods, which `CategoricalModel` calls as well:

    - `log_prob(flow, batch, orders=1)`: log-likelihood of each of the B items of a batch, (B,) nats
      in float64;
    - `draw(flow, count, *, seed, temperature, sizes)`: `count` encoded items.

    `SequenceAdapter` is an example.

    Attributes:
        kind: Name of the type of data in `config.json`, such as "table".
        exact: True if log-likelihoods are exact, False if they are lower bounds.
        flow_class: Class of the flow.
        headline: Name of the metric of `training_loss` by which training chooses the best weights;
            lower is better.
        settings: Training settings that differ from the defaults of `TrainingSettings`, by name.
        fixed: Names of arguments of the flow that follow from the data, so that users cannot set
            them. For a loaded model the first of them is checked: the flow's argument must equal
            the adapter's attribute of this name, if it has one.
        evaluations: Number of times that a run with a time budget scores the held-out items.
        scored: Number of items in a batch when held-out items are scored during training; the batch
            size of the training instead, if that is larger.
        patience: A run with a time budget ends early after so many evaluations in a row that are no
            better than the best one before; 0 for never.
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
    fixed: ClassVar[tuple[str, ...]]
    evaluations: ClassVar[int] = 12
    scored: ClassVar[int] = 1
    patience: ClassVar[int] = 0

    @property
    def arguments(self) -> tuple[Callable[..., Any], ...]:
        """Functions and classes whose keyword arguments users may set with `fit(network={...})`.

        Sizes are checked against their signatures.
        """
        raise NotImplementedError

    def encode(self, x: Any, flow: Any = None) -> tuple[Any, Reasons]:
        """Encode items, and leave out those that cannot be encoded.

        With a `flow`, items to which it gives probability 0 are left out as well. Returns the
        encoded items, M or fewer; and for each of the M items why it is left out, or None.
        """
        raise NotImplementedError

    def decode(self, rows: Any) -> Any:
        """Invert `encode`: turn encoded items into the user's type."""
        raise NotImplementedError

    def build(self, rows: Any, chosen: np.ndarray, /, **network: Any) -> Any:
        """Build an untrained flow, initialised from counts of the items `chosen` of `rows`.

        The keyword arguments are sizes of the network, see `arguments`.
        """
        raise NotImplementedError

    def finish(self, flow: Any, rows: Rows, chosen: np.ndarray, held_out: np.ndarray) -> None:
        """Count again after training, in place, now with the held-out items.

        During training, counts leave out the held-out items, so that these can score the flow.
        `CategoricalModel.fit` calls this at the end. An adapter whose flow has no counts overrides
        it to do nothing.

        The items to count are `chosen`, of which some are `held_out`.
        """
        flow.count(self.batch(rows, chosen))

    def sizes(self, rows: Any) -> np.ndarray:
        """Return the size of each item: positions of a sequence, known entries of a row, nodes.

        Items of similar size share a batch, and items of size 0 are not trained on.
        """
        return rows.lengths.numpy()

    def batch(self, rows: Any, chosen: np.ndarray) -> Any:
        """Gather some items in a batch, in the order of `chosen`, for `training_loss`."""
        return rows[torch.from_numpy(chosen)]


@dataclass
class SequenceAdapter(Adapter):
    """Adapter of strings, or of lists or tuples of hashable symbols, for a `RowFlow`.

    Attributes:
        symbols: The alphabet: symbol k has category k.
        container: Type of a sequence: "str", "list" or "tuple".
        longest: Largest length of a training sequence. Longer ones have probability 0.
    """

    kind = "sequences"
    flow_class = RowFlow
    arguments = (CausalAttention,)
    fixed = ("cardinality", "positions", "ngrams")

    symbols: list[Any]
    container: str
    longest: int

    def __post_init__(self) -> None:
        self.vocabulary, self.type = Vocabulary(self.symbols), TYPES[self.container]
        self.cardinality = len(self.symbols)

    @classmethod
    def of(cls, items: Sequence[Any]) -> SequenceAdapter:
        """Build the adapter for training sequences, whose symbols become the alphabet."""
        container = next((name for name, t in TYPES.items() if isinstance(items[0], t)), None)
        if container is None:
            raise UserError(
                f"item 0 is {type_of(items[0])}; a list holds strings, or lists or tuples of "
                "symbols"
            )
        for number, item in enumerate(items):
            if not isinstance(item, TYPES[container]):
                raise UserError(
                    f"item {number} is {type_of(item)}, item 0 a {container}: one type for all"
                )
            if len(item) > LONGEST_SEQUENCE:
                raise UserError(
                    f"item {number} has {len(item)} symbols, at most {LONGEST_SEQUENCE} are "
                    "learned: cut it"
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

    def encode(self, items: Sequence[Any], flow: Any = None) -> tuple[Rows, Reasons]:
        """Encode sequences, and leave out those with an unknown symbol or with too many symbols.

        With a `flow`, those of a length to which it gives probability 0 are left out as well.
        """
        what = "strings" if self.container == "str" else f"{self.container}s of symbols"
        wanted = f"this model takes a list of {what}"
        if not isinstance(items, list | tuple):
            raise UserError(f"got {type_of(items)}; {wanted}")
        prior = None if flow is None else flow.length_probabilities()
        rows: list[list[int]] = []
        reasons: Reasons = []
        for number, item in enumerate(items):
            if not isinstance(item, self.type):
                raise UserError(f"item {number} is {type_of(item)}; {wanted}")
            row = self.vocabulary.encode(item).tolist()
            reason = None
            if -1 in row:
                reason = f"the symbol {item[row.index(-1)]!r}, which no training row has"
            elif len(row) > self.longest:
                reason = f"{len(row)} symbols; the longest training row has {self.longest}"
            elif prior is not None and not prior[len(row)]:
                reason = f"{len(row)} symbols, a length that no training row has"
            else:
                rows.append(row)
            reasons.append(reason)
        return Rows.of(rows), reasons

    def decode(self, rows: Rows) -> list[Any]:
        """Invert `encode`: turn rows of categories into strings, lists or tuples of symbols."""
        items = []
        for row, length in zip(rows.values.tolist(), rows.lengths.tolist(), strict=True):
            symbols = [self.symbols[category] for category in row[:length]]
            text = self.container == "str"
            items.append("".join(map(str, symbols)) if text else self.type(symbols))
        return items

    def build(self, rows, chosen, /, **network):
        """Build an untrained flow, initialised from n-grams of the training rows.

        With more than 100,000 symbols in the training rows (`MANY_SYMBOLS`), this call changes the
        `settings` of the adapter (batch size and optimizer), and dropout is 0 instead of 0.1.
        """
        part = self.batch(rows, chosen)
        if (symbols := int(part.mask.sum())) > MANY_SYMBOLS:
            size = max(BATCH_SYMBOLS * len(part) // symbols, 1)
            larger = {"batch_size": size, "optimizer": "muon"}
            self.settings = {**self.settings, **larger}  # type: ignore[misc]
        network = {"dropout": 0.0 if symbols > MANY_SYMBOLS else 0.1, **network}
        flow = RowFlow.counting(part, self.cardinality, positions=self.longest, **network)
        if rows.values.numel() * self.cardinality <= LARGEST_STARTS:
            rows.start = flow.starts(rows, chosen)
        flow.metadata["length_histogram"] = torch.bincount(rows.lengths).tolist()
        return flow

    def batch(self, rows: Rows, chosen: np.ndarray) -> Rows:
        """Gather some sequences in a batch."""
        return super().batch(rows, chosen).cut()

    def log_prob(self, flow: RowFlow, rows: Rows, orders: int = 1) -> torch.Tensor:
        """Return the exact log-likelihood of each sequence, its length included, (B,) nats.

        `orders` must be 1, as sequences are scored from left to right. -inf is for a length to
        which `RowFlow.length_probabilities` gives 0.
        """
        if orders != 1:
            raise UserError("orders are for tables and graphs; sequences have one")
        value = flow.length_log_prob(rows.lengths).cpu().double()
        there = rows.mask.any(1)
        if there.any():
            part = rows[there]
            value[there.cpu()] += flow.log_prob(part.values, Context(part.mask)).cpu().double()
        return value

    def draw(
        self,
        flow: RowFlow,
        count: int,
        *,
        seed: int,
        temperature: float,
        sizes: tuple[int, int] | None,
    ) -> Rows:
        """Draw sequences; with the same seed, a larger `count` only appends further ones.

        `sizes` are the lowest and highest length, by default those of the training data.
        """
        prior = flow.length_probabilities(sizes)
        return draw_rows(flow, count, prior, seed, temperature)

    def __str__(self) -> str:
        what = "strings" if self.container == "str" else "sequences"
        return f"{what} of up to {self.longest} of {len(self.symbols)} symbols"


@torch.no_grad()
def draw_rows(
    flow: Any,
    count: int,
    prior: np.ndarray,
    seed: int,
    temperature: float,
    context: Callable[..., Context] = lambda records, **draw: Context(**draw),
) -> Rows:
    """Draw rows from a flow, each with a random generator of its own.

    Row k depends on the seed and on k alone, so that a larger sample begins with the same rows.

    Args:
        prior: Probabilities of the lengths 0 to N, (N + 1,). A row of length 0 is all padding.
        context: Function that makes the context for M of the rows. It is called with their numbers
            0 to `count` - 1, (M,) int64, and with the keywords `mask`, `temperature` and
            `generator`, which are fields of `Context`. By default it returns a plain `Context`.
    """
    values = torch.zeros(count, len(prior) - 1, dtype=torch.long)
    lengths = np.zeros(count, dtype=np.int64)
    with one_thread(flow.device):
        for records, drawn, generators in record_batches(range(count), prior, seed):
            lengths[records[records < count]] = drawn[records < count]
            there = np.flatnonzero(drawn)
            if not len(there):
                continue
            mask = torch.from_numpy(np.arange(drawn.max()) < drawn[there, None]).to(flow.device)
            own = {"temperature": temperature, "generator": [generators[k] for k in there]}
            given = context(records[there].clip(max=count - 1), mask=mask, **own)
            part = flow.sample(len(there), context=given).cpu()
            values = values.to(part.dtype)
            kept = records[there] < count
            values[records[there][kept], : part.shape[1]] = part[torch.from_numpy(kept)]
    return Rows(values, torch.from_numpy(np.arange(len(prior) - 1) < lengths[:, None]))
