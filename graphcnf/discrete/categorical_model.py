"""`CategoricalModel` learns the distribution of discrete data in a user's own type, and samples it.

- *Items* are what the data consist of: rows of a pandas DataFrame or of an array (N, D); strings,
  or lists or tuples of symbols; grids, an array (N, H, W) of integers; graphs of networkx or
  torch-geometric.
- An *adapter* translates items to categories (integers) and back; a *flow* is the density of the
  categories (`graphcnf.discrete.adapters`). *Encoded* items are what the adapter gives the flow.
- *Held-out* items score the model during training, and are not learned from.
- A missing entry is *marginalised* if the log-likelihood is that of the other entries alone.
- The *order* is the one in which the columns of a row, or the nodes of a graph, are decided one
  after the other.
- *Options* are keyword arguments of `fit`, such as `minutes` or `network`.
"""

from __future__ import annotations

import math
import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import networkx as nx
import numpy as np
import pandas as pd
import torch
from torch import nn

from graphcnf.arguments import check
from graphcnf.discrete.adapters import (
    Adapter,
    Items,
    Reasons,
    Refused,
    SequenceAdapter,
    from_json,
    to_json,
)
from graphcnf.discrete.graph_adapter import GraphAdapter, graphs_in
from graphcnf.discrete.grid_adapter import GridAdapter
from graphcnf.discrete.rows import Rows
from graphcnf.discrete.table_adapter import Column, TableAdapter
from graphcnf.errors import UserError, type_of
from graphcnf.file_reading import inside, read_json
from graphcnf.graphs.batch import GraphBatch
from graphcnf.graphs.training_batches import size_bucketed_batches
from graphcnf.limits import (
    LARGEST_SIZE,
    check_integer,
    check_low_and_high,
    check_minutes,
    check_seed,
    check_temperature,
    is_number,
    plain,
)
from graphcnf.pretrained import model_folder
from graphcnf.torch_state import evaluated, evaluation_mode
from graphcnf.training.exclusive import learning
from graphcnf.training.settings import (
    Experiment,
    TrainingSettings,
    exit_unless_main,
    trainable_here,
)

if TYPE_CHECKING:
    from graphcnf.training.history import History
    from graphcnf.training.loop import FitResult

ADAPTERS: dict[str, Any] = {
    one.kind: one for one in (TableAdapter, SequenceAdapter, GridAdapter, GraphAdapter)
}
"""Adapter classes by kind."""

ADAPTER_OPTIONS = ("bins", "target", "node_label", "edge_label")
"""Arguments of `fit` for the adapter."""

STATISTICS = ("draw", "median", "mean")
"""What `impute` fills missing entries with."""

SCORED = 256
"""Items that are scored at a time."""

OTHER = "damaged, or saved by another version; fit the model anew"
"""What is said of a saved model that cannot be read."""

EVALUATING = 0.1
"""Largest share of a time budget that evaluations take."""


class _Fit:
    """Descriptor of `fit`, which can be called on the class and on a model.

    On the class it creates the model first; on a model, the model's options are the defaults.
    """

    def __init__(self, function: Callable[..., CategoricalModel]):
        self.function, self.__doc__ = function, function.__doc__

    def __get__(self, model: CategoricalModel | None, kind) -> Callable[..., CategoricalModel]:
        if model is None:
            return self.function.__get__(kind())
        return partial(self.function, model, **model.options)


class CategoricalModel(nn.Module):
    """Generative model of tables, strings, grids or graphs: scores such data, and samples new ones.

    `CategoricalModel.fit(x, minutes=1)` trains a model. `CategoricalModel(minutes=1)` is an
    untrained estimator for scikit-learn, for instance as the last step of a Pipeline. `log_prob`
    returns the log-likelihoods (N,) of N items in nats, and `sample` returns new items in the type
    of `x`. Data `x` are one of

    - a pandas DataFrame. Text, bools, pandas categoricals and numbers with few distinct values are
      categories, whose log-likelihood is a log-probability. Other integers have a log-probability,
      too; real numbers have a log-density per unit of the column. Times have a log-density per the
      largest unit (days, hours, ...) of which all times are multiples. If a column had missing
      entries in training, "missing" is a category of it; in other columns, a missing entry is
      marginalised;
    - a list of strings, or of lists or tuples of hashable symbols. The log-likelihood includes that
      of the length;
    - an array (N, D) of numpy or torch: of integers, which are categories, or of real numbers, for
      which the same holds as in a DataFrame;
    - an array (N, H, W) of integers: grids, such as images of few values, whose pixels are
      categories;
    - a list of `nx.Graph` or `torch_geometric.data.Data` with labels, or a `Batch` or `Dataset` of
      the latter. The graphs must be connected, unless `fit` is called with
      `network={"architecture": "growth"}`, a model that adds node by node and may start new parts.

    Attributes:
        adapter: Adapter of the training data, see `graphcnf.discrete.adapters`.
        history: Metrics over the course of training, with a method `plot`; None before training.

    Examples:
        >>> model = CategoricalModel.fit(["anna", "hannah", "otto"] * 20, steps=20)
        >>> len(model.sample(3)), model.log_prob(["anna"]).shape
        (3, (1,))
    """

    adapter: Any
    flow: Any

    def __init__(self, **options):
        super().__init__()
        self.options, self.history = options, None

    def _learned(self, adapter: Adapter, flow, history: History | None = None) -> CategoricalModel:
        self.adapter, self.flow, self.history = adapter, flow, history
        self.training = flow.training
        return self

    def __getattr__(self, name: str):
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name not in ("adapter", "flow"):
                raise
            raise UserError("this model has not learned from data yet: call its fit(x)") from None

    @classmethod
    def for_data(
        cls,
        x: Items,
        *,
        seed: int = 0,
        bins: int | Mapping[Any, int] | None = None,
        node_label: str | None = None,
        edge_label: str | None = None,
        **network,
    ) -> CategoricalModel:
        """Build an untrained model for data like `x`, for a training loop of your own.

        The vocabulary and the initial counts are taken from all of `x`. The weights are random.

        Args:
            bins: Only for a DataFrame: number of bins into which the numbers of a column are
                divided, for all columns or as `{label of a column: number}`. Bins contain about
                equally many numbers. None to bin only columns with many different numbers, into
                rows^0.4 bins, 4 to 64.
            node_label: Only for graphs of networkx: name of the node attribute to learn, such as
                "element". None to take the only attribute that nodes have; if they have none,
                all nodes count as alike.
            edge_label: Likewise, name of the edge attribute to learn.
            **network: Sizes of the network by name, such as `width`: arguments of
                `graphcnf.discrete.columns.ColumnMLP` for tables and arrays, of
                `graphcnf.discrete.rows.CausalAttention` for sequences, of
                `graphcnf.discrete.grids.GatedPixelCNN` for grids, of
                `graphcnf.graphs.building.model_for_graphs` for graphs.

        Train its `parameters()` by the first result of `training_loss`, which takes items or what
        `batch` makes of them.
        """
        labels = {"node_label": node_label, "edge_label": edge_label}
        return cls._build(graphs_in(x), seed, 0.0, network, bins=bins, **labels)[0]

    @_Fit
    @learning()
    def fit(
        self,
        x: Items,
        y: Any = None,
        *,
        seed: int = 0,
        minutes: float | None = 1.0,
        steps: int | None = None,
        held_out: float | None = None,
        out: str | Path | None = None,
        network: Mapping[str, Any] | None = None,
        **options,
    ) -> CategoricalModel:
        """Train a model on `x`; Ctrl-C ends training early, and the model so far is returned.

        Called on the class, it makes a new model. Called on a model, it trains that one from the
        beginning, and options that were given to its constructor are the defaults.

        Args:
            y: Ignored, as by scikit-learn's density estimators. To predict a target, make it a
                column of `x`, and name it by `target`.
            minutes: Time budget: minutes of wall time, or of CPU time with `clock="cpu"`. The
                weights that score best on held-out items are kept. For graphs, training ends early
                with a warning if four evaluations in a row (of twelve in all) are no better.
            steps: Budget in training steps, used instead of `minutes` if it is given. The result
                then depends on `x` and the arguments alone, not on the speed of the machine; the
                weights at the end are kept.
            held_out: Share of the items to score and not to train on, in [0, 1). None for a tenth
                or, of fewer than 300 items, for 30 of them, but at most a quarter.
            out: Folder for the files of the run (log, checkpoints, model); progress is then printed
                to stderr. None to write no files.
            network: Sizes of the network by name, such as `{"width": 64}`; `for_data` says where
                they are listed.
            **options: `bins`, `node_label` and `edge_label` as in `for_data`; `target`, the label
                of the column of a table (its number in an array) that `predict_proba` is to predict
                best; and fields of `graphcnf.training.settings.TrainingSettings`, such as
                `learning_rate`. The target comes after all other columns in the model's order, and
                its density given them is in part a logistic regression.

        Raises:
            KeyboardInterrupt: if Ctrl-C ended the run before its first evaluation.
            SystemExit: if another signal, such as SIGTERM, ended the run.
        """
        x = graphs_in(x)
        if not isinstance(network, Mapping | None):
            raise UserError(f'network must be a dict, {{"width": 64}}, got {network!r}')
        for_adapter = {name: options.pop(name) for name in ADAPTER_OPTIONS if name in options}
        if held_out is None:
            held_out = min(0.25, max(0.1, 30 / max(len(x), 1))) if hasattr(x, "__len__") else 0.1
        if not (is_number(held_out) and 0 <= held_out < 1):
            raise UserError(f"held_out must be a share of the data in [0, 1), got {held_out!r}")
        model, data = type(self)._build(x, seed, held_out, network or {}, **for_adapter)
        if not isinstance(out, str | Path | None):
            raise UserError(f"out must be the path of a folder, got {out!r}")
        settings = _settings(model.adapter, seed, minutes, steps, held_out > 0, options)
        try:
            from graphcnf.training.loop import fit
        except ImportError as error:
            raise UserError(f"training needs {error.name}: pip install 'graphcnf[train]'") from None
        flow = model.flow
        seconds = math.inf if steps is not None or minutes is None else 60 * minutes * EVALUATING
        adapter, size = model.adapter, settings.batch_size
        experiment = experiment_of(adapter, flow, data, seed, held_out, size, seconds)
        if math.isfinite(seconds) and "eval_minutes" not in options:
            least = min(_scoring(experiment) for _ in range(2)) / 60 / EVALUATING
            settings = replace(settings, eval_minutes=max(settings.eval_minutes, least))
        with tempfile.TemporaryDirectory(prefix="graphcnf-") as temporary:
            folder = Path(temporary if out is None else out)
            result = fit(experiment, settings, folder, lines=out is not None)
            exit_unless_main()
            if settings.patience and result.best and result.best.worse >= settings.patience:
                _warn_of_early_end(result, settings.minutes)
            if result.signal not in (None, signal.SIGINT):
                raise SystemExit(128 + result.signal)
            if not (folder / "model" / "config.json").exists():
                raise KeyboardInterrupt
            flow = model.adapter.flow_class.from_pretrained(folder, flow.device)
            if not isinstance(model.adapter, GraphAdapter):
                sizes = model.adapter.sizes(data)
                every, unseen = split(sizes, seed, 0.0)[0], split(sizes, seed, held_out)[1]
                model.adapter.finish(flow, data, every, unseen)
                flow.save_pretrained(folder / "model")
        return self._learned(model.adapter, flow, result.history)

    @classmethod
    @learning()
    def _build(
        cls, x: Items, seed: int, held_out: float, network: Mapping[str, Any], **for_adapter: Any
    ) -> tuple[CategoricalModel, Any]:
        """Build an untrained model for data, initialised from counts of the training items."""
        check_seed(seed)
        adapter = _adapter_for(x, network.get("architecture", "path"), **for_adapter)
        data = _all_encoded(adapter, x)
        network = {name: plain(value) for name, value in network.items()}
        check("network", network, *adapter.arguments, fixed=adapter.fixed)
        try:
            with torch.random.fork_rng([]), trainable_here():
                torch.manual_seed(int(seed))
                flow = adapter.build(data, split(adapter.sizes(data), seed, held_out)[0], **network)
        except (TypeError, ValueError) as error:
            raise UserError(f"network: {str(error).split('() ')[-1]}") from None
        flow.metadata["data"] = {"kind": adapter.kind, **to_json(adapter)}
        return cls()._learned(adapter, flow), data

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the options given to the constructor, without those at their default."""
        return dict(self.options)

    def set_params(self, **options) -> CategoricalModel:
        """Change options of the next `fit`, in place, as scikit-learn's searches do."""
        self.options |= options
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return "adapter" in vars(self)

    def __sklearn_tags__(self):
        from sklearn.utils import InputTags, Tags, TargetTags

        # Whether an entry is missing is a category, or marginalised.
        inputs = InputTags(categorical=True, string=True, allow_nan=True)
        kind = "density_estimator"
        return Tags(kind, target_tags=TargetTags(required=False), input_tags=inputs)

    @property
    def exact(self) -> bool:
        """True if `log_prob` is exact, False if it is a lower bound (graphs)."""
        return self.adapter.exact

    def __repr__(self) -> str:
        if not self.__sklearn_is_fitted__():
            given = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
            return f"CategoricalModel({given})"
        count = sum(p.numel() for p in self.parameters())
        return f"CategoricalModel({self.adapter}: {count:,} parameters)"

    def batch(self, x: Items) -> Rows | GraphBatch:
        """Encode items as a batch for `training_loss`; it may be a DataLoader's `collate_fn`."""
        data = _all_encoded(self.adapter, x, self.flow)
        return self.adapter.batch(data, np.arange(len(self.adapter.sizes(data))))

    def training_loss(
        self, x: Items | Rows | GraphBatch, *, beta: float = 1.0
    ) -> tuple[torch.Tensor, dict[str, tuple[torch.Tensor, torch.Tensor]]]:
        """Return the loss of a batch and its metrics, for a training loop of your own.

        The loss is the negative log-likelihood given the lengths or sizes, in nats per position,
        column or node; `beta` is without effect. Metrics are `{name: (sum, number)}`, where the
        mean is sum / number, such as "bits_per_variable".
        """
        batch: Any = x if isinstance(x, Rows | GraphBatch) else self.batch(x)
        return self.flow.training_loss(batch.to(self.flow.device), beta=beta)

    @evaluated
    @torch.no_grad()
    def log_prob(self, x: Items, *, orders: int = 1, given: Sequence[Any] = ()) -> np.ndarray:
        """Return the log-likelihood of each item, including that of its length or size.

        - Sequences and grids: exact.
        - Tables and arrays: exact, in one order of the columns, which `sample` draws in as well.
          With several `orders`, the densities of these orders are averaged. Missing entries are
          marginalised, unless they are a category.
        - Graphs: lower bounds, since a graph has many node orders, of which one or several are
          scored (`GraphModel.log_prob`). Models without a node order, such as "growth", give the
          log-likelihood of the graph with its nodes numbered; that of the graph itself is larger by
          log(n! / |Aut|).

        Args:
            orders: Number of orders of the columns or nodes to average over, 1 to 1024. Must be 1
                for sequences and grids.
            given: Labels of columns of a table to condition on: the result is then log p(other
                columns | given columns).

        Returns:
            (M,) nats, float64; -inf for items with probability 0: `reasons` says why. Categories
            and integers contribute a log-probability, a real number in a table a log-density per
            unit of the column. A time contributes a log-density per day, hour, minute, ...: the
            largest of these units of which all times of the column in training are multiples.
        """
        adapter: Any = self.adapter
        options = {"given": list(given)} if len(given) and self._table("given") else {}
        data, reasons = adapter.encode(x, self.flow)
        nats = np.full(len(reasons), -math.inf)
        place = np.flatnonzero([reason is None for reason in reasons])
        by_size = np.argsort(adapter.sizes(data), kind="stable")
        for start in range(0, len(by_size), SCORED):
            chosen = by_size[start : start + SCORED]
            batch = adapter.batch(data, chosen).to(self.flow.device)
            nats[place[chosen]] = adapter.log_prob(self.flow, batch, orders, **options).numpy()
        return nats

    def score_samples(self, x: Items) -> np.ndarray:
        """Return `log_prob(x)`: scikit-learn calls it by this name."""
        return self.log_prob(x)

    def score(self, x: Items, y: Any = None) -> float:
        """Return the mean of `log_prob`, nats per item, which searches of scikit-learn maximize."""
        return float(self.log_prob(x).mean())

    @property
    def n_features_in_(self) -> int:
        """Number of columns of the table or array that the model was trained on."""
        return len(self._columns)

    @property
    def feature_names_in_(self) -> np.ndarray:
        """Labels of the columns of the table that the model was trained on, (D,) object."""
        if vars(self)["adapter"].array is not None:
            raise AttributeError("feature_names_in_")
        return np.array([column.name for column in self._columns], dtype=object)

    @property
    def _columns(self) -> list[Column]:
        """Columns of the table or array that the model was trained on."""
        return getattr(vars(self).get("adapter"), "columns")  # noqa: B009

    def _table(self, what: str) -> TableAdapter:
        """Return the adapter of a model of a DataFrame or an array."""
        if not isinstance(self.adapter, TableAdapter):
            raise UserError(f"{what} is for models of a DataFrame or array, not of {self.adapter}")
        return self.adapter

    def predict_proba(self, x: Items, column: Any) -> pd.DataFrame:
        """Predict a column of a table or array: the probabilities of its values.

        They are those given all other entries of the row. The density of the whole row is evaluated
        with each value v in the column: p(v | others) is proportional to exp(`log_prob`) of the row
        with v. So the probabilities agree with `log_prob` and with rows that `sample` draws, also
        with `given`. They may differ from `log_prob(given=...)`, which decides the given columns
        before all others. Other missing entries are marginalised. A column that was the `target` of
        `fit` is predicted best.

        Args:
            x: Rows with the columns of the training data. The column to predict may be absent (in
                an array it has any value). Other entries may be missing, in an array of floats as
                NaN. Values that the training data lacked count as missing, with a warning.

        Returns:
            A table of probabilities with a row for each row of `x` and a column for each value.
            Columns are labelled by the value; by a `pd.Interval` for a bin of numbers; by None for
            "missing". Each row sums to 1.
        """
        adapter = self._table("predict_proba")
        k = adapter.number(column, "predict_proba")
        if isinstance(x, pd.DataFrame):
            x = x.copy()
            x[column] = None
        elif isinstance(x, np.ndarray | torch.Tensor) and x.ndim == 2 and k < x.shape[1]:
            x = np.array(x, dtype=float)
            x[:, k] = np.nan
        known = adapter.known(x)
        known.mask[:, k] = False
        return pd.DataFrame(
            adapter.conditional(self.flow, known, k),
            index=x.index if isinstance(x, pd.DataFrame) else None,
            columns=pd.Index(adapter.columns[k].labels, dtype=object, tupleize_cols=False),
        )

    def impute(self, x: Items, *, seed: int = 0, statistic: str = "draw"):
        """Fill the missing entries of a table or an array, or the missing pixels of grids.

        Args:
            x: Rows with the columns of the training data. An array holds floats, with NaN for
                missing entries. Values that the training data lacked count as missing, with a
                warning. For grids, floats (M, H, W) with NaN for missing pixels.
            statistic: What an entry is filled with.

                - "draw": all missing entries of a row are drawn together, from their distribution
                  given the known ones; "missing" is never drawn, even if it is a category of the
                  column. The draw is exact or by weights, as in `sample(given=...)`.
                  For grids, it is exact if all missing pixels follow the known ones in raster
                  order. Else a particle filter draws, and a warning counts grids for which it had
                  too few effective particles. "draw" is the only statistic for grids.
                - "median": each entry for itself gets its median, if it is a number in bins, or
                  else its most probable value.
                - "mean": each entry for itself gets its mean, if it is a number or a time in bins,
                  or else its most probable value. The mean has the least squared error; it is
                  rounded in columns of whole numbers.
        """
        check_seed(seed)
        if isinstance(self.adapter, GridAdapter):
            if statistic != "draw":
                raise UserError(f'statistic must be "draw" for grids, got {statistic!r}')
            known = self.adapter.known(x)
            return self.adapter.decode(self.adapter.completed(self.flow, known, seed))
        adapter = self._table("impute")
        if statistic not in STATISTICS:
            known_names = ", ".join(map(repr, STATISTICS))
            raise UserError(f"statistic must be one of {known_names}, got {statistic!r}")
        known = adapter.present(adapter.known(x))
        if statistic == "draw":
            drawn, _ = adapter.completed(self.flow, known, seed, adapter.presence)
            table = adapter.table(drawn)
        else:
            table = adapter.typical(self.flow, known, statistic == "mean")
        if not isinstance(x, pd.DataFrame):
            return adapter.as_data(table)
        table.index, filled = x.index, x.copy()
        there = pd.DataFrame(known.mask.numpy(), index=x.index, columns=table.columns)
        for name in x.columns:
            # As objects: the categories of `x` may be fewer.
            own, drawn_ones = x[name].astype(object), table[name].astype(object)
            filled[name] = own.where(there[name], drawn_ones).astype(table[name].dtype)
        return filled

    def reasons(self, x: Items) -> Reasons:
        """Say why items have probability 0, such as a value that the training data lacked.

        The text is None where the probability is positive.
        """
        return self.adapter.encode(x, self.flow)[1]

    @evaluated
    def sample(
        self,
        n: int,
        *,
        given: Mapping[Any, Any] | np.ndarray | torch.Tensor | None = None,
        seed: int = 0,
        temperature: float = 1.0,
        sizes: tuple[int, int] | None = None,
    ):
        """Draw n items of the type of the training data, also under conditions.

        Rows of a table with conditions have the density of `log_prob`, restricted to the rows that
        meet the conditions. The draw is exact if the unknown columns that the model decides before
        a condition have at most 50,000 combinations of values. Else each row is chosen among up to
        64 draws by importance weights, and a warning counts the rows for which fewer than 4 draws
        were effective. With a temperature other than 1, the given columns are instead decided
        first.

        Args:
            n: Number of items; with the same seed, a larger sample begins with the same items.
            given: Conditions on a table or array: `{label or number of a column: condition}`, where
                a condition is a value, a list of allowed values, or an interval (lowest, highest),
                both included, with None for no end. For grids, one grid (H, W) of floats with NaN
                for pixels to draw, see `impute`. None for no condition.
            temperature: 1 for the distribution of the model; below 1 for more probable items.
            sizes: Lowest and highest length of sequences, or number of nodes of graphs, both
                included. None for any, with the distribution of the training data.
        """
        check_integer("n", n)
        check_seed(seed)
        check_temperature(temperature)
        if sizes is not None:
            check_low_and_high("sizes", sizes)
        options: dict[str, Any] = {"temperature": temperature, "sizes": sizes}
        if isinstance(self.adapter, GridAdapter) and given is not None:
            if temperature != 1:
                raise UserError("temperature must be 1 with given pixels")
            return self.impute(np.repeat(np.asarray(given)[None], n, 0), seed=seed)
        if not isinstance(given, Mapping | None):
            raise UserError(f'given must be a dict, {{"column": value}}, got {given!r}')
        if given:
            table = self._table("given")
            options["known"], event = table.given(given)
            if temperature == 1:
                return table.within(self.flow, n, seed, options["known"], event, given)
            if event is not None:
                raise UserError("temperature must be 1 with a list or an interval in given")
        adapter: Any = self.adapter
        drawn = adapter.draw(self.flow, n, seed=seed, **options)
        return adapter.decode(drawn, given) if given else adapter.decode(drawn)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model to a folder, from which `from_pretrained` loads it.

        The files are `config.json` with the vocabulary, and `model.safetensors` with the weights,
        both with checksums.
        """
        self.flow.save_pretrained(folder)

    def push_to_hub(self, name: str, *, licence: str, **options: Any) -> str:
        """Upload the model with a model card to the Hugging Face hub.

        `options` are `private`, `intended`, `limits` and `figures` of
        `graphcnf.hub.repository.push`. Returns "org/name@commit", from which `from_pretrained`
        loads exactly this model.
        """
        from graphcnf.hub.repository import push

        return push(self.flow, name, licence=licence, **options)

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str = "cpu") -> CategoricalModel:
        """Load a model that `save_pretrained` or `fit(out=...)` wrote, or one of the hub.

        The folder may be "org/name" of the Hugging Face hub; `history` is then None.
        """
        source = inside(model_folder(folder), "config.json")
        try:
            kind = ADAPTERS[read_json(source)["metadata"]["data"]["kind"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{source}: no CategoricalModel ({error})") from None
        try:
            flow = kind.flow_class.from_pretrained(source.parent, device)
        except UserError as error:
            # Arguments or weights that this version does not know.
            if isinstance(error.__cause__, TypeError | RuntimeError):
                raise UserError(f"{error}: {OTHER}") from None
            raise
        try:
            content = {k: from_json(v) for k, v in flow.metadata["data"].items() if k != "kind"}
            adapter = kind(**content)
            fixed = kind.fixed[0]
            if flow.config.get(fixed) != getattr(adapter, fixed, None):
                raise ValueError("the vocabulary does not fit the model")
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise UserError(f"{source}: unreadable vocabulary ({error}): {OTHER}") from None
        return cls()._learned(adapter, flow)


def _settings(
    adapter: Adapter,
    seed: int,
    minutes: float | None,
    steps: int | None,
    keep_best: bool,
    given: dict[str, Any],
) -> TrainingSettings:
    """Return the settings of a training of `fit`."""
    table: dict[str, Any] = {**adapter.settings, "seed": seed, "log_every": 100}
    if minutes is not None:
        check_minutes(minutes)
    if steps is not None:
        table |= {"steps": steps, "eval_minutes": 0.0}
    elif minutes is None:
        raise UserError("fit needs minutes or steps: both are None")
    else:
        table |= {
            "minutes": minutes,
            "eval_minutes": minutes / adapter.evaluations,
            # As many as `experiment_of` gives.
            "eval_batches": LARGEST_SIZE,
            "final_eval_batches": LARGEST_SIZE,
            "keep_best": keep_best,
            "patience": adapter.patience * keep_best,
        }
    return TrainingSettings.from_dict({**table, **given}, "fit")


def _warn_of_early_end(result: FitResult, minutes: float | None) -> None:
    """Warn that held-out data got worse in training, which has ended before its time."""
    assert result.best is not None
    best, last = (m.get(result.headline, math.nan) for m in (result.best.metrics, result.metrics))
    warnings.warn(
        f"held-out {result.headline} rose from {best:.3g} at step {result.best.step} to {last:.3g} "
        f"at step {result.step}: training ended after {result.minutes:.2g} of {minutes:g} minutes, "
        f"and the weights of step {result.best.step} are kept; more items, or a smaller network, "
        "would learn longer",
        stacklevel=4,
    )


def split(sizes: np.ndarray, seed: int, held_out: float) -> tuple[np.ndarray, np.ndarray]:
    """Split items at random into indices to train on and those to hold out, a share `held_out`.

    Items of size 0 are left out of both.
    """
    order = np.random.default_rng((seed, 1)).permutation(len(sizes))
    # Empty items are left out: their lengths are in the histogram already.
    order = order[sizes[order] > 0]
    count = int(round(held_out * len(order)))
    if count == len(order):
        raise Refused(f"{len(sizes)} items with {held_out:.0%} held out leave none to train on")
    return order[count:], order[:count]


def experiment_of(
    adapter: Adapter,
    flow: Any,
    data: Any,
    seed: int,
    held_out: float,
    batch_size: int,
    evaluating: float = math.inf,
) -> Experiment:
    """Build what `graphcnf.training.loop.fit` trains: a flow with its batches and its main metric.

    `held_out` is the share of the items to score, see `split`; with 0, training items are scored.
    Evaluations together take `evaluating` seconds of CPU time: the first finds out how many batches
    fit, and all later ones score the same batches, so that they can be compared. Training batches
    hold items of similar sizes.
    """
    sizes = adapter.sizes(data)
    rest, test = split(sizes, seed, held_out)
    # With nothing held out, training data are scored; `rest` is in random order, of which an
    # evaluation takes the first batches.
    test = test if len(test) else rest

    def train_batches(epoch, seed, start):
        for _, chosen in size_bucketed_batches(sizes[rest], batch_size, seed, epoch, start):
            yield adapter.batch(data, rest[chosen])

    seconds, counts = evaluating / (adapter.evaluations + 2), list[int]()

    def eval_batches():
        begin, number = time.process_time(), 0
        size = max(batch_size, adapter.scored)
        for start in range(0, len(test), size):
            spent = time.process_time() - begin
            if number == counts[0] if counts else number and spent > seconds:
                break
            yield adapter.batch(data, test[start : start + size])
            number += 1
        counts[:] = counts or [number]

    return Experiment(flow, train_batches, eval_batches, headline=adapter.headline)


@torch.no_grad()
def _scoring(experiment: Experiment) -> float:
    """Evaluate an untrained model once, and return the seconds of CPU time that this takes."""
    begin = time.process_time()
    flow: Any = experiment.model
    with evaluation_mode(flow):
        for batch in experiment.eval_batches():
            flow.training_loss(batch.to(flow.device))
    return time.process_time() - begin


def _all_encoded(adapter: Adapter, x: Items, flow: Any = None) -> Any:
    """Encode items, all of which must have an encoding."""
    data, reasons = adapter.encode(x, flow)
    for number, reason in enumerate(reasons):
        if reason is not None:
            raise UserError(f"item {number}: {reason}")
    return data


def _adapter_for(
    x: Items,
    architecture: str = "path",
    bins: int | Mapping[Any, int] | None = None,
    target: Any = None,
    node_label: str | None = None,
    edge_label: str | None = None,
) -> Adapter:
    """Build the adapter for the type and the values of a user's data."""
    from torch_geometric.data import Data

    if bins is not None and not isinstance(x, pd.DataFrame):
        raise UserError("bins are for the columns of a DataFrame")
    several = isinstance(x, list | tuple) and len(x) > 0
    grids = isinstance(x, np.ndarray | torch.Tensor) and x.ndim == 3
    if target is not None and (several or grids):
        raise UserError("target is a column of a DataFrame or of an array (N, D)")
    if several and isinstance(x[0], nx.Graph | Data):
        return GraphAdapter.of(x, node_label, edge_label, architecture)
    if node_label is not None or edge_label is not None:
        raise UserError("node_label and edge_label are for lists of nx.Graph")
    if grids:
        return GridAdapter.of(x)
    if isinstance(x, pd.DataFrame | np.ndarray | torch.Tensor):
        return TableAdapter.of(x, bins, target)
    if several:
        return SequenceAdapter.of(x)
    hint = (
        "give a DataFrame, a list of strings, sequences or graphs, or an array (N, D) or (N, H, W)"
    )
    match x:
        case pd.Series():
            hint = "x.to_frame() is a table of one column, x.tolist() a list of strings"
        case str():
            hint = "read the file first, as with pd.read_csv(x) or Path(x).read_text().split()"
        case nx.Graph():
            hint = "give a list of graphs"
        case list() | tuple():
            hint = "it is empty"
    if hasattr(x, "nnz"):
        hint = "it is sparse: give x.toarray()"
    raise Refused(f"cannot learn from {type_of(x)}: {hint}")
