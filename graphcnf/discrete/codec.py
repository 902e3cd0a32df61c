"""The contract of codecs, and what those share whose data are rows of categories."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Self

import numpy as np
import torch

from graphcnf.categorical import RowFlow, Rows
from graphcnf.discrete.vocabulary import from_json, to_json
from graphcnf.errors import UserError
from graphcnf.flows import Context
from graphcnf.graphs.record_blocks import one_thread, record_batches
from graphcnf.limits import LARGEST_ORDERS, check_integer

Reasons = list[str | None]
"""For each item the reason why it has probability 0 under a model, None if it has not."""


class Codec(ABC):
    """Translation of one type of data into the data of a flow and back.

    A codec is a dataclass whose fields `to_json` takes: they are the vocabulary that a model keeps.
    The flow's data are `Rows` or `PackedGraphs`, all items at once.

    Attributes:
        kind: Name in `config.json`.
        exact: Whether log-likelihoods are exact, not lower bounds.
        flow_class: Class of the flow.
        headline: Metric of the flow by which its weights are chosen.
        settings: Settings of training that differ from the loop's own.
        arguments: Functions that take the arguments of the network.
        fixed: Arguments of these that follow from the data.
    """

    kind: ClassVar[str]
    exact: ClassVar[bool] = True
    flow_class: ClassVar[Any]
    headline: ClassVar[str]
    settings: ClassVar[dict[str, Any]]
    arguments: ClassVar[tuple[Callable, ...]]
    fixed: ClassVar[tuple[str, ...]]

    @property
    @abstractmethod
    def wanted(self) -> str:
        """Return the type of data for messages, as in "a list of strings"."""

    @abstractmethod
    def encode(self, x, flow=None) -> tuple[Any, Reasons]:
        """Encode items.

        Args:
            x: Items.
            flow: Where given, items that it cannot represent are left out.

        Returns:
            The items that can be encoded, as the flow's data, and for every item the reason why it
            is not among them.

        Raises:
            UserError: if `x` is of another type.
        """

    @abstractmethod
    def decode(self, data, seed: int):
        """Return items of the user's type; `seed` places numbers within their bins."""

    @abstractmethod
    def build(self, data, /, **network):
        """Return an untrained flow that represents some data."""

    @abstractmethod
    def sizes(self, data) -> np.ndarray:
        """Return the number of positions or nodes of each item, (M,)."""

    @abstractmethod
    def batch(self, data, chosen: np.ndarray):
        """Return some of the items as the flow's `training_loss` takes them."""

    @abstractmethod
    def log_prob(self, flow, batch, orders: int = 1) -> torch.Tensor:
        """Return log-likelihoods, (B,) nats in float64; lower bounds unless `exact`."""

    @abstractmethod
    def draw(self, flow, count: int, *, seed: int, temperature: float, sizes):
        """Return records 0 to `count - 1` of the sample with this seed, see `sample_records`."""

    def to_json(self) -> dict:
        """Return the vocabulary as JSON."""
        return {"kind": self.kind, **to_json(self)}

    @classmethod
    def from_json(cls, content: dict) -> Self:
        """Invert `to_json`."""
        return cls(**{k: from_json(v) for k, v in content.items() if k != "kind"})


class RowCodec(Codec):
    """Codec of rows of categories, for a `RowFlow`."""

    flow_class = RowFlow
    headline = "bits_per_variable"
    settings = {
        "batch_size": 128, "learning_rate": 3e-3, "weight_decay": 0.05, "warmup_steps": 100,
        "decay_fraction": 0.5,
    }  # fmt: skip
    arguments, fixed = (RowFlow,), ("cardinalities", "positions")

    @property
    @abstractmethod
    def cardinalities(self) -> int | list[int]:
        """Return the number of categories that all positions share, or that of each position."""

    def build(self, rows: Rows, /, **network) -> RowFlow:
        """Return an untrained flow that starts from the frequencies of the categories."""
        width = rows.mask.shape[1]
        flow = RowFlow(self.cardinalities, positions=width, **network)
        flow.metadata["length_histogram"] = torch.bincount(rows.lengths).tolist()
        shared = isinstance(self.cardinalities, int)
        counts = torch.zeros(1 if shared else width, flow.network.cardinalities[0])
        position = torch.zeros_like(rows.values) + (0 if shared else torch.arange(width))
        there = position[rows.mask], rows.values[rows.mask]
        flow.network.start_from(counts.index_put_(there, torch.ones(()), accumulate=True))
        return flow

    def sizes(self, rows: Rows) -> np.ndarray:
        """Return the number of positions of each row, (M,)."""
        return rows.lengths.numpy()

    def batch(self, rows: Rows, chosen: np.ndarray) -> Rows:
        """Return some of the rows."""
        return rows[torch.from_numpy(chosen)]

    def log_prob(self, flow: RowFlow, rows: Rows, orders: int = 1) -> torch.Tensor:
        """Return exact log-likelihoods, (B,) nats in float64."""
        check_integer("orders", orders, 1, LARGEST_ORDERS)
        if orders != 1:
            raise UserError("orders are summed for graphs; of rows the log-likelihood is exact")
        value = flow.length_log_prob(rows.lengths).cpu().double()
        there = rows.mask.any(1)
        if there.any():
            part = rows[there]
            value[there.cpu()] += flow.log_prob(part.values, Context(part.mask)).cpu().double()
        return value

    @torch.no_grad()
    def draw(self, flow: RowFlow, count: int, *, seed: int, temperature: float, sizes) -> Rows:
        """Return rows 0 to `count - 1` of the endless sample with this seed."""
        values = torch.zeros(count, flow.positions, dtype=torch.long)
        lengths = np.zeros(count, dtype=np.int64)
        prior = flow.length_probabilities(sizes)
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
                )
                part = flow.sample(len(there), context=context).cpu()
                kept = records[there] < count
                values[records[there][kept], : part.shape[1]] = part[torch.from_numpy(kept)]
        return Rows(values, torch.from_numpy(np.arange(flow.positions) < lengths[:, None]))
