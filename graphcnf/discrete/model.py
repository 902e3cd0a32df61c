"""One object from a user's discrete data to samples and log-likelihoods of the same type."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd
import torch
from torch import nn

from graphcnf.categorical import RowFlow, Rows
from graphcnf.compute.files import inside, read_json
from graphcnf.discrete.densities import Density, GraphDensity, RowDensity
from graphcnf.discrete.graphs import GraphCodec
from graphcnf.discrete.sequences import SequenceCodec
from graphcnf.discrete.tables import ArrayCodec, Reasons, TableCodec
from graphcnf.errors import UserError
from graphcnf.flows.mode import evaluates
from graphcnf.graphs import GraphBatch, GraphCNF
from graphcnf.limits import check_integer, check_range, check_seed, check_temperature, plain
from graphcnf.pretrained import locate
from graphcnf.training.arguments import check

Codec = TableCodec | ArrayCodec | SequenceCodec | GraphCodec
CODECS: dict[str, type] = {c.kind: c for c in (TableCodec, ArrayCodec, SequenceCodec, GraphCodec)}

SCORED = 256
"""Items that are scored at a time."""


@evaluates("log_prob", "sample")
class CategoricalModel(nn.Module):
    """Density of discrete data in the form that it has: what goes in comes out.

    Made by `fit`, `for_data` or `from_pretrained`. Data are one of

    - a pandas DataFrame of categorical columns. What is missing is a category of its own;
    - a list of strings, or of lists or tuples of hashable symbols. The length is part of the
      density;
    - an array (N, D) of whole numbers, numpy's or torch's;
    - a list of connected `nx.Graph` or `torch_geometric.data.Data` with labels.

    Args:
        density: The flow.
        codec: What its categories mean.

    Attributes:
        exact: Whether `log_prob` is exact. Of graphs it is a lower bound: that of one numbering.

    Examples:
        >>> model = CategoricalModel.fit(["anna", "hannah", "otto"] * 20, steps=20)
        >>> len(model.sample(3)), model.log_prob(["anna"]).shape
        (3, (1,))
    """

    def __init__(self, density: Density, codec: Codec):
        if not isinstance(density, RowDensity | GraphDensity):
            raise UserError(
                "make one with CategoricalModel.fit(x), .for_data(x) or .from_pretrained(folder)"
            )
        super().__init__()
        self.flow = density.flow
        self.training = self.flow.training
        self.codec = codec

    @classmethod
    def for_data(
        cls,
        x,
        *,
        seed: int = 0,
        bins: int | Mapping[Any, int] | None = None,
        node_label: str | None = None,
        edge_label: str | None = None,
        **network,
    ) -> CategoricalModel:
        """An untrained model for data like `x`, to be trained in a loop of one's own.

        Args:
            x: The data.
            seed: Of the weights.
            bins: Bins for a table's columns of numbers, for all of them or by label: about equally
                many numbers each. Samples have numbers again, uniform in their bin; log-likelihoods
                are those of the bins.
            node_label: Attribute with a node's label (networkx); the only one when None.
            edge_label: The same of an edge.
            **network: Arguments of `RowFlow`, or of `GraphCNF.for_graphs` for graphs.

        Raises:
            UserError: if a model cannot take such data; says what to do instead.
        """
        return cls._build(x, seed, bins, node_label, edge_label, network)[0]

    @classmethod
    def fit(
        cls,
        x,
        *,
        seed: int = 0,
        minutes: float | None = 1.0,
        steps: int | None = None,
        held_out: float = 0.1,
        out: str | Path | None = None,
        bins: int | Mapping[Any, int] | None = None,
        node_label: str | None = None,
        edge_label: str | None = None,
        network: Mapping[str, Any] | None = None,
        **settings,
    ) -> CategoricalModel:
        """A model trained on `x`; shows its progress on a terminal. Ctrl-C ends training early.

        Args:
            x: The data.
            seed: Of everything random.
            minutes: Time budget. The weights kept are those that did best on what was held out.
            steps: Budget in steps instead, with which the model is a function of `x` and `seed`.
            held_out: Share of the data that is scored, not trained on.
            out: Folder of the run (log, checkpoints, model), with log lines on stderr.
            bins: See `for_data`.
            node_label: See `for_data`.
            edge_label: See `for_data`.
            network: Arguments of the network, see `for_data`.
            **settings: Further ones of `TrainingSettings`, such as `learning_rate`.

        Raises:
            UserError: as `for_data`, or a setting is out of range.
        """
        from graphcnf.discrete.fitting import train

        if not isinstance(network, Mapping | None):
            raise UserError(f'network must be a dict, {{"width": 64}}, got {network!r}')
        model, data = cls._build(x, seed, bins, node_label, edge_label, dict(network or {}))
        density = train(
            model._density(), data, seed=seed, minutes=None if steps else minutes, steps=steps,
            held_out=held_out, out=out, **settings,
        )  # fmt: skip
        return cls(density, model.codec)

    @classmethod
    def _build(cls, x, seed, bins, node_label, edge_label, network) -> tuple[CategoricalModel, Any]:
        check_seed(seed)
        codec = _codec_for(x, bins, node_label, edge_label)
        data, reasons = codec.encode(x)
        for number, reason in enumerate(reasons):
            if reason is not None:
                raise UserError(f"item {number}: {reason}")
        kind: Any = GraphDensity if isinstance(codec, GraphCodec) else RowDensity
        network = {name: plain(value) for name, value in network.items()}
        check("network", network, *kind.takes, fixed=kind.fixed)
        try:
            with torch.random.fork_rng([]):
                torch.manual_seed(int(seed))
                density = kind.build(codec, data, **network)
        except (TypeError, ValueError) as error:
            raise UserError(f"network: {str(error).split('() ')[-1]}") from None
        density.flow.metadata["data"] = codec.to_json()
        return cls(density, codec), data

    def _density(self) -> Density:
        if isinstance(self.flow, RowFlow):
            return RowDensity(self.flow)
        return GraphDensity(self.flow)

    @property
    def exact(self) -> bool:
        """Whether `log_prob` is exact, not a lower bound."""
        return self.codec.exact

    def __repr__(self) -> str:
        count = sum(p.numel() for p in self.parameters())
        return f"CategoricalModel({self.codec}: {count:,} parameters)"

    def batch(self, x) -> Rows | GraphBatch:
        """Data as `training_loss` takes them, for instance as the `collate_fn` of a DataLoader.

        Raises:
            UserError: if an item is outside of what the model knows.
        """
        data, reasons = self._encode(x)
        for number, reason in enumerate(reasons):
            if reason is not None:
                raise UserError(f"item {number}: {reason}")
        density = self._density()
        return density.batch(data, np.arange(len(reasons)))

    def training_loss(self, x, *, beta: float = 1.0):
        """Negative log-likelihood in nats per position or node, its size given, and metrics.

        Args:
            x: Data, or what `batch` made of them.
            beta: Of the training loop; without effect here.

        Returns:
            The loss, and metrics as pairs (sum, number) of which the quotient is the mean.
        """
        batch: Any = x if isinstance(x, Rows | GraphBatch) else self.batch(x)
        return self.flow.training_loss(batch.to(self.flow.device), beta=beta)

    @torch.no_grad()
    def log_prob(self, x, *, orders: int = 1) -> np.ndarray:
        """Log-likelihoods, (M,) nats, the length of a sequence and the size of a graph included.

        Exact; of graphs a lower bound, that of one numbering.

        Args:
            x: Data.
            orders: Numberings of a graph to sum over, see `GraphCNF.log_prob`.

        Returns:
            -inf where an item is outside of what the model knows; `reasons` says why.

        Raises:
            UserError: if `x` is of another type or has other columns than what was learned.
        """
        data, reasons = self._encode(x)
        nats = np.full(len(reasons), -math.inf)
        inside = np.array([reason is None for reason in reasons], dtype=bool)
        density, place = self._density(), np.flatnonzero(inside)
        # Graphs that are outside are not among the data, rows are.
        numbers = np.arange(len(place)) if isinstance(self.codec, GraphCodec) else place
        by_size = np.argsort(density.sizes(data)[numbers], kind="stable")
        for start in range(0, len(by_size), SCORED):
            chosen = by_size[start : start + SCORED]
            batch: Any = density.batch(data, numbers[chosen]).to(self.flow.device)
            nats[place[chosen]] = density.log_prob(batch, orders).cpu().numpy()
        return nats

    def reasons(self, x) -> Reasons:
        """Why each item is outside of what the model knows, None where it is not."""
        return self._encode(x)[1]

    def sample(
        self,
        n: int,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        sizes: tuple[int, int] | None = None,
    ):
        """Draw n items of the type that was learned.

        Args:
            n: Number of items; a larger one begins with the same items.
            seed: Seed of the sample.
            temperature: Below 1 for more probable items.
            sizes: Fewest and most symbols of a sequence, or nodes of a graph; as in the training
                data when None.

        Raises:
            UserError: if a number is out of range.
        """
        check_integer("n", n)
        check_seed(seed)
        check_temperature(temperature)
        if sizes is not None:
            check_range("sizes", sizes)
        drawn: Any = self._density().draw(n, seed=seed, temperature=temperature, sizes=sizes)
        return self.codec.decode(drawn, seed)

    def _encode(self, x):
        """Data as the density takes them, and why items are outside."""
        data, reasons = self.codec.encode(x)
        outside = self._density().outside(data)
        inside = iter(outside.tolist())
        if isinstance(self.codec, GraphCodec) and outside.any():
            data = data.subset(~outside)
            for number, reason in enumerate(reasons):
                if reason is None and next(inside):
                    reasons[number] = "more nodes, a longer ring or branch than the model knows"
        return data, reasons

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json`, with the vocabulary, and `model.safetensors`, both checksummed."""
        self.flow.save_pretrained(folder)

    @classmethod
    def from_pretrained(cls, folder: str | Path, device="cpu") -> CategoricalModel:
        """Load what `save_pretrained` or `fit(out=...)` wrote.

        Raises:
            UserError: if there is no such model, its files are damaged, or it is another kind.
        """
        source = inside(locate(folder), "config.json")
        try:
            kind = read_json(source)["metadata"]["data"]["kind"]
            codec: Any = CODECS[kind]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{source}: no CategoricalModel ({error})") from None
        of_graphs = codec is GraphCodec
        flow = (GraphCNF if of_graphs else RowFlow).from_pretrained(source.parent, device)
        try:
            codec = codec.from_json(flow.metadata["data"])
            fits = of_graphs or codec.cardinalities == flow.config["cardinalities"]
            if not fits:
                raise ValueError("the vocabulary does not fit the model")
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise UserError(f"{source}: unreadable vocabulary ({error})") from None
        density: Any = GraphDensity if of_graphs else RowDensity
        return cls(density(flow), codec)


def _codec_for(x, bins, node_label, edge_label) -> Codec:
    """The codec for data of this type."""
    from torch_geometric.data import Data

    if bins is not None and not isinstance(x, pd.DataFrame):
        raise UserError("bins are for the columns of a DataFrame")
    several = isinstance(x, list | tuple) and len(x) > 0
    if several and isinstance(x[0], nx.Graph | Data):
        return GraphCodec.of(x, node_label, edge_label)
    if node_label is not None or edge_label is not None:
        raise UserError("node_label and edge_label are for lists of nx.Graph")
    if isinstance(x, pd.DataFrame):
        return TableCodec.of(x, bins)
    if isinstance(x, np.ndarray | torch.Tensor):
        return ArrayCodec.of(x)
    if several:
        return SequenceCodec.of(x)
    cure = {
        pd.Series: "x.to_frame() is a table of one column, x.tolist() a list of strings",
        str: "read the file first, as with pd.read_csv(x) or Path(x).read_text().split()",
        nx.Graph: "give a list of graphs",
    }
    hint = next((text for kind, text in cure.items() if isinstance(x, kind)), None)
    if isinstance(x, list | tuple):
        hint = "it is empty"
    raise UserError(
        f"cannot learn from a {type(x).__name__}: "
        + (hint or "give a DataFrame, a list of strings, sequences or graphs, or an array (N, D)")
    )
