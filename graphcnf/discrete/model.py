"""One object from a user's discrete data to samples and log-likelihoods of the same type."""

from __future__ import annotations

import math
import signal
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import networkx as nx
import numpy as np
import pandas as pd
import torch
from torch import nn

from graphcnf.arguments import check
from graphcnf.categorical import Rows
from graphcnf.compute.files import inside, read_json
from graphcnf.discrete.codec import Reasons, RowCodec, SequenceCodec, from_json, to_json
from graphcnf.discrete.graphs import GraphCodec
from graphcnf.discrete.tables import TableCodec
from graphcnf.errors import UserError
from graphcnf.flows.modules import evaluates
from graphcnf.graphs import GraphBatch
from graphcnf.graphs.batch import size_bucketed_batches
from graphcnf.limits import (
    check_integer,
    check_minutes,
    check_range,
    check_seed,
    check_temperature,
    is_number,
    plain,
)
from graphcnf.pretrained import locate
from graphcnf.training.settings import Experiment, TrainingSettings, exit_unless_main

if TYPE_CHECKING:
    from graphcnf.training.history import History

Codec = RowCodec | GraphCodec
CODECS: dict[str, Any] = {codec.kind: codec for codec in (TableCodec, SequenceCodec, GraphCodec)}

DESCRIBED = ("bins", "node_label", "edge_label")
"""Arguments that say how data are read."""

SCORED = 256
"""Items that are scored at a time."""

EVALUATIONS = 12
"""Evaluations on held-out data of a run with a time budget."""

EVALUATED = 16
"""Batches of every evaluation, the last one included, so that the best can be told apart."""


class _Fit:
    """Method that makes its model when it is called on the class, with a model's own options."""

    def __init__(self, function: Callable[..., CategoricalModel]):
        self.function, self.__doc__ = function, function.__doc__

    def __get__(self, model: CategoricalModel | None, kind) -> Callable[..., CategoricalModel]:
        if model is None:
            return self.function.__get__(kind())
        return partial(self.function, model, **model.options)


@evaluates("log_prob", "sample")
class CategoricalModel(nn.Module):
    """Density of discrete data of a user's own type; samples have that type, too.

    `CategoricalModel.fit(x, minutes=1)` trains one. `CategoricalModel(minutes=1)` has not learned
    yet, and is what scikit-learn takes as an estimator, for instance as the last step of a
    Pipeline. Data are one of

    - a pandas DataFrame. Columns are categories, or numbers and times, of which `log_prob` is a
      density in their units (of times: days, hours, ..., the largest of which all are multiples);
      whole numbers have a mass. Where some entries of a column are missing, that is
      a category of its own; elsewhere a missing entry is marginalised;
    - a list of strings, or of lists or tuples of hashable symbols. The length is part of the
      density;
    - an array (N, D) of whole numbers, numpy's or torch's;
    - a list of `nx.Graph` or `torch_geometric.data.Data` with labels: connected ones, or any with
      the `network` `{"architecture": "growth"}`.

    Args:
        **options: Arguments of `fit`.

    Attributes:
        history: Course of the training, whose `plot` draws its curves; None without one.

    Examples:
        >>> model = CategoricalModel.fit(["anna", "hannah", "otto"] * 20, steps=20)
        >>> len(model.sample(3)), model.log_prob(["anna"]).shape
        (3, (1,))
    """

    codec: Any
    flow: Any

    def __init__(self, **options):
        super().__init__()
        self.options, self.history = options, None

    @classmethod
    def _of(cls, codec: Codec, flow) -> CategoricalModel:
        return cls()._learned(codec, flow)

    def _learned(self, codec: Codec, flow, history: History | None = None) -> CategoricalModel:
        self.codec, self.flow, self.history = codec, flow, history
        self.training = flow.training
        return self

    def __getattr__(self, name: str):
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name not in ("codec", "flow"):
                raise
            raise UserError("this model has not learned from data yet: call its fit(x)") from None

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
        """Return an untrained model for data like `x`, to be trained in a loop of one's own.

        Args:
            x: The data.
            seed: Seed of the weights.
            bins: Bins of the numbers of a table, in all columns or by label, with about equally
                many numbers in each; by the number of rows when None. See `Column.of`.
            node_label: Attribute with a node's label (networkx); the only one when None.
            edge_label: The same of an edge.
            **network: Arguments of `ColumnFlow` for tables and arrays, of `RowFlow` for sequences,
                of `GraphCNF.for_graphs` for graphs.

        Raises:
            UserError: if a model cannot take such data; says what to do instead.
        """
        labels = {"node_label": node_label, "edge_label": edge_label}
        return cls._build(x, seed, 0.0, network, bins=bins, **labels)[0]

    @_Fit
    def fit(
        self,
        x,
        y: None = None,
        *,
        seed: int = 0,
        minutes: float | None = 1.0,
        steps: int | None = None,
        held_out: float | None = None,
        out: str | Path | None = None,
        network: Mapping[str, Any] | None = None,
        **options,
    ) -> CategoricalModel:
        """Train a model on `x`, with its progress on a terminal; Ctrl-C ends training early.

        On a model, its `options` are the defaults, and it is trained itself.

        Args:
            x: The data.
            y: None, what a Pipeline gives: a target is a column of `x`, see `predict_proba`.
            seed: Seed of everything random.
            minutes: Time budget. The weights that score best on held-out data are kept.
            steps: Budget in steps instead, with which the model is a function of `x` and `seed`.
            held_out: Share of the data that is scored, not trained on; when None a tenth, of fewer
                than 300 items 30 of them or a quarter.
            out: Folder of the run (log, checkpoints, model), with log lines on stderr.
            network: Arguments of the network, see `for_data`.
            **options: `bins`, `node_label` and `edge_label` of `for_data`, and further fields of
                `TrainingSettings`, such as `learning_rate`.

        Raises:
            UserError: as `for_data`, if a setting is out of range, or Lightning is not installed.
            KeyboardInterrupt: if Ctrl-C ended the run before its first evaluation.
        """
        if y is not None:
            raise UserError("y must be None: make the target a column of x")
        if not isinstance(network, Mapping | None):
            raise UserError(f'network must be a dict, {{"width": 64}}, got {network!r}')
        described = {name: options.pop(name) for name in DESCRIBED if name in options}
        if held_out is None:
            held_out = min(0.25, max(0.1, 30 / max(len(x), 1))) if hasattr(x, "__len__") else 0.1
        if not (is_number(held_out) and 0 <= held_out < 1):
            raise UserError(f"held_out must be a share of the data in [0, 1), got {held_out!r}")
        model, data = type(self)._build(x, seed, held_out, network or {}, **described)
        if not isinstance(out, str | Path | None):
            raise UserError(f"out must be the path of a folder, got {out!r}")
        settings = _settings(model.codec, seed, minutes, steps or None, held_out > 0, options)
        try:
            from graphcnf.training.loop import fit
        except ImportError as error:
            raise UserError(f"training needs {error.name}: pip install 'graphcnf[train]'") from None
        flow = model.flow
        experiment = experiment_of(model.codec, flow, data, seed, held_out, settings.batch_size)
        with tempfile.TemporaryDirectory(prefix="graphcnf-") as temporary:
            folder = Path(temporary if out is None else out)
            result = fit(experiment, settings, folder, lines=out is not None)
            exit_unless_main()
            if result.signal not in (None, signal.SIGINT):
                raise SystemExit(128 + result.signal)
            if not (folder / "model" / "config.json").exists():
                raise KeyboardInterrupt
            flow = model.codec.flow_class.from_pretrained(folder, flow.device)
            if not isinstance(model.codec, GraphCodec):
                model.codec.finish(flow, data, split(model.codec.sizes(data), seed, 0.0)[0])
                flow.save_pretrained(folder / "model")
        return self._learned(model.codec, flow, result.history)

    @classmethod
    def _build(cls, x, seed, held_out, network, **described) -> tuple[CategoricalModel, Any]:
        check_seed(seed)
        codec = _codec_for(x, network.get("architecture"), **described)
        data = _all_encoded(codec, x)
        network = {name: plain(value) for name, value in network.items()}
        check("network", network, *codec.arguments, fixed=codec.fixed)
        try:
            with torch.random.fork_rng([]):
                torch.manual_seed(int(seed))
                flow = codec.build(data, split(codec.sizes(data), seed, held_out)[0], **network)
        except (TypeError, ValueError) as error:
            raise UserError(f"network: {str(error).split('() ')[-1]}") from None
        flow.metadata["data"] = {"kind": codec.kind, **to_json(codec)}
        return cls._of(codec, flow), data

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the options, as scikit-learn's `clone` and searches ask for them."""
        return dict(self.options)

    def set_params(self, **options) -> CategoricalModel:
        """Change options; the next `fit` follows them."""
        self.options |= options
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return "codec" in vars(self)

    def __sklearn_tags__(self):
        from sklearn.utils import Tags, TargetTags

        return Tags(estimator_type=None, target_tags=TargetTags(required=False))

    @property
    def exact(self) -> bool:
        """Return True if `log_prob` is exact, False if it is a lower bound (graphs)."""
        return self.codec.exact

    def __repr__(self) -> str:
        if not self.__sklearn_is_fitted__():
            given = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
            return f"CategoricalModel({given})"
        count = sum(p.numel() for p in self.parameters())
        return f"CategoricalModel({self.codec}: {count:,} parameters)"

    def batch(self, x) -> Rows | GraphBatch:
        """Return data as `training_loss` takes them, as the `collate_fn` of a DataLoader does.

        Raises UserError if an item has probability 0, see `reasons`.
        """
        data = _all_encoded(self.codec, x, self.flow)
        return self.codec.batch(data, np.arange(len(self.codec.sizes(data))))

    def training_loss(self, x, *, beta: float = 1.0):
        """Return the negative log-likelihood in nats per position or node, given sizes; metrics.

        `x` are data, or the result of `batch`; `beta` is without effect. Metrics are pairs (sum,
        number) of which the quotient is the mean.
        """
        batch: Any = x if isinstance(x, Rows | GraphBatch) else self.batch(x)
        return self.flow.training_loss(batch.to(self.flow.device), beta=beta)

    @torch.no_grad()
    def log_prob(self, x, *, orders: int = 1, given: Sequence = ()) -> np.ndarray:
        """Return log-likelihoods, (M,) nats, with the length of a sequence or size of a graph.

        They are exact, except for graphs: those are lower bounds, for one numbering of the nodes,
        or for so many `orders` (see `GraphCNF.log_prob`). Of models without an order, such as
        "growth", they are those of a graph with numbered nodes: log(n! / |Aut|) less. Of a table,
        the density is that of one order of the columns, from which `sample` draws as well; `orders`
        gives the mean of the densities of several. A missing entry of a table is marginalised,
        unless it is a category.
        An item with probability 0 has -inf; `reasons` says why.

        Args:
            x: The data.
            orders: Orders of the nodes or columns.
            given: Columns of a table that are a condition: log p(others | given).

        Raises:
            UserError: if `x` is of another type or has other columns than the training data.
        """
        codec: Any = self.codec
        options = {"given": list(given)} if len(given) and self._table("given") else {}
        data, reasons = codec.encode(x, self.flow)
        nats = np.full(len(reasons), -math.inf)
        place = np.flatnonzero([reason is None for reason in reasons])
        by_size = np.argsort(codec.sizes(data), kind="stable")
        for start in range(0, len(by_size), SCORED):
            chosen = by_size[start : start + SCORED]
            batch = codec.batch(data, chosen).to(self.flow.device)
            nats[place[chosen]] = codec.log_prob(self.flow, batch, orders, **options).numpy()
        return nats

    def score_samples(self, x) -> np.ndarray:
        """Return `log_prob`, under the name that scikit-learn's densities have for it."""
        return self.log_prob(x)

    def _table(self, what: str) -> TableCodec:
        if not isinstance(self.codec, TableCodec) or self.codec.array is not None:
            raise UserError(f"{what} is for models of a DataFrame, not of {self.codec}")
        return self.codec

    def predict_proba(self, x: pd.DataFrame, column, *, orders: int = 1) -> pd.DataFrame:
        """Return the probabilities of the values of a column given the other columns.

        Args:
            x: Rows, with the column or without it. Other entries may be missing.
            column: Label of the column.
            orders: Orders of the known columns, over which probabilities are averaged.

        Returns:
            A row for each of `x`, and for each value of the column a column; None stands for a
            missing value, intervals for the bins of numbers.

        Raises:
            UserError: if `x` has an unknown value or other columns.
        """
        codec = self._table("predict_proba")
        k = codec.number(column, "predict_proba")
        if isinstance(x, pd.DataFrame):
            x = x.copy()
            x[column] = None
        known = _all_encoded(codec, x)
        known.mask[:, k] = False
        return pd.DataFrame(
            codec.conditional(self.flow, known, k, orders),
            index=x.index,
            columns=pd.Index(codec.columns[k].labels, dtype=object, tupleize_cols=False),
        )

    def impute(self, x: pd.DataFrame, *, seed: int = 0, draw: bool = True) -> pd.DataFrame:
        """Return the table with its missing entries filled.

        Args:
            x: Rows of the training data's columns.
            seed: Seed of the draws.
            draw: Draw all missing entries of a row from their joint probability, given the others;
                if False, take the most probable value of each of them, of numbers the median.

        Raises:
            UserError: if `x` has an unknown value or other columns.
        """
        codec = self._table("impute")
        check_seed(seed)
        known = codec.present(_all_encoded(codec, x))
        if draw:
            rows = codec.draw(self.flow, len(x), seed=seed, known=known, present=True)
            table = codec.decode(rows)
        else:
            table = codec.most_probable(self.flow, known)
        table.index, filled = x.index, x.copy()
        for name in x.columns:
            filled[name] = x[name].where(x[name].notna(), table[name]).astype(table[name].dtype)
        return filled

    def reasons(self, x) -> Reasons:
        """Return for each item the reason why it has probability 0, None if it has not."""
        return self.codec.encode(x, self.flow)[1]

    def sample(
        self,
        n: int,
        *,
        given: Mapping[Any, Any] | None = None,
        seed: int = 0,
        temperature: float = 1.0,
        sizes: tuple[int, int] | None = None,
    ):
        """Draw n items of the type of the training data.

        Args:
            n: Number of items; a larger sample begins with the same items.
            given: Values of some columns of a table: the others are drawn given these.
            seed: Seed of the sample.
            temperature: Below 1 for more probable items.
            sizes: Fewest and most symbols of a sequence, or nodes of a graph; as in the training
                data when None.

        Raises:
            UserError: if a number is out of range, or a column or value unknown.
        """
        check_integer("n", n)
        check_seed(seed)
        check_temperature(temperature)
        if sizes is not None:
            check_range("sizes", sizes)
        options: dict[str, Any] = {}
        if given:
            if not isinstance(given, Mapping):
                raise UserError(f'given must be a dict, {{"column": value}}, got {given!r}')
            options["known"] = self._table("given").given(given)
        codec: Any = self.codec
        drawn = codec.draw(self.flow, n, seed=seed, temperature=temperature, sizes=sizes, **options)
        return codec.decode(drawn)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json`, with the vocabulary, and `model.safetensors`, both checksummed."""
        self.flow.save_pretrained(folder)

    @classmethod
    def from_pretrained(cls, folder: str | Path, device="cpu") -> CategoricalModel:
        """Load a model written by `save_pretrained` or `fit(out=...)`.

        Raises:
            UserError: if there is no such model, its files are damaged, or it is another kind.
        """
        source = inside(locate(folder), "config.json")
        try:
            kind = CODECS[read_json(source)["metadata"]["data"]["kind"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{source}: no CategoricalModel ({error})") from None
        flow = kind.flow_class.from_pretrained(source.parent, device)
        try:
            content = {k: from_json(v) for k, v in flow.metadata["data"].items() if k != "kind"}
            codec = kind(**content)
            fixed = kind.fixed[0]
            if flow.config.get(fixed) != getattr(codec, fixed, None):
                raise ValueError("the vocabulary does not fit the model")
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise UserError(f"{source}: unreadable vocabulary ({error})") from None
        return cls._of(codec, flow)


def _settings(codec: Codec, seed, minutes, steps, keep_best, given: dict) -> TrainingSettings:
    """Return checked settings; a run of steps is scored at its end only."""
    table: dict[str, Any] = {**codec.settings, "seed": seed, "log_every": 100}
    if steps is not None:
        table |= {"steps": steps, "eval_minutes": 0.0}
    elif minutes is None:
        raise UserError("fit needs minutes or steps: both are None")
    else:
        check_minutes(minutes)
        table |= {
            "minutes": minutes,
            "eval_minutes": minutes / EVALUATIONS,
            "eval_batches": EVALUATED,
            "final_eval_batches": EVALUATED,
            "keep_best": keep_best,
        }
    return TrainingSettings.from_dict({**table, **given}, "fit")


def split(sizes: np.ndarray, seed: int, held_out: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of the items to train on, and of a share `held_out` of them to score."""
    order = np.random.default_rng((seed, 1)).permutation(len(sizes))
    # A row without positions has nothing to learn but its length, which the histogram has.
    order = order[sizes[order] > 0]
    count = int(round(held_out * len(order)))
    return order[count:], order[:count]


def experiment_of(
    codec: Any, flow, data, seed: int, held_out: float, batch_size: int
) -> Experiment:
    """Return an experiment: the flow, training batches of similar size, and held-out batches.

    `held_out` is the share of the items, 0 to 1, that is scored and not trained on.
    """
    sizes = codec.sizes(data)
    rest, test = split(sizes, seed, held_out)
    if not len(rest):
        raise UserError(f"{len(sizes)} items with {held_out:.0%} held out leave none to train on")
    # With nothing held out, the run is scored on training data, in random order: an evaluation
    # looks at the first batches only.
    test = test if len(test) else rest

    def train_batches(epoch, seed, start):
        for _, chosen in size_bucketed_batches(sizes[rest], batch_size, seed, epoch, start):
            yield codec.batch(data, rest[chosen])

    def eval_batches():
        for start in range(0, len(test), batch_size):
            yield codec.batch(data, test[start : start + batch_size])

    return Experiment(flow, train_batches, eval_batches, headline=codec.headline)


def _all_encoded(codec: Codec, x, flow=None) -> Any:
    """Return the encoded items; raise UserError at the first that cannot be encoded."""
    data, reasons = codec.encode(x, flow)
    for number, reason in enumerate(reasons):
        if reason is not None:
            raise UserError(f"item {number}: {reason}")
    return data


def _codec_for(x, architecture=None, bins=None, node_label=None, edge_label=None) -> Codec:
    """Return the codec for data of this type; `architecture` is that of a graph model."""
    from torch_geometric.data import Data

    if bins is not None and not isinstance(x, pd.DataFrame):
        raise UserError("bins are for the columns of a DataFrame")
    several = isinstance(x, list | tuple) and len(x) > 0
    if several and isinstance(x[0], nx.Graph | Data):
        return GraphCodec.of(x, node_label, edge_label, architecture or "path")
    if node_label is not None or edge_label is not None:
        raise UserError("node_label and edge_label are for lists of nx.Graph")
    if isinstance(x, pd.DataFrame | np.ndarray | torch.Tensor):
        return TableCodec.of(x, bins)
    if several:
        return SequenceCodec.of(x)
    hint = "give a DataFrame, a list of strings, sequences or graphs, or an array (N, D)"
    match x:
        case pd.Series():
            hint = "x.to_frame() is a table of one column, x.tolist() a list of strings"
        case str():
            hint = "read the file first, as with pd.read_csv(x) or Path(x).read_text().split()"
        case nx.Graph():
            hint = "give a list of graphs"
        case list() | tuple():
            hint = "it is empty"
    raise UserError(f"cannot learn from a {type(x).__name__}: {hint}")
