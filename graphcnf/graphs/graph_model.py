"""`GraphModel`, the base class of densities of typed graphs.

A graph model is the density of a graph given its number of nodes, and of that number. Its
*architecture* is the short name of its class, by which configurations and saved models name it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from graphcnf.categorical.categorical_flow import Bound
from graphcnf.errors import UserError
from graphcnf.files import inside
from graphcnf.flows.base import log_prob_of_sizes, size_prior
from graphcnf.flows.modules import evaluates
from graphcnf.flows.transform import Noise
from graphcnf.graphs.batch import BATCH, GraphBatch, Latents, PackedGraphs, batches
from graphcnf.graphs.record_blocks import one_thread, record_batches, together_on
from graphcnf.limits import (
    LARGEST_ORDERS,
    check_integer,
    check_range,
    check_seed,
    check_temperature,
)
from graphcnf.pretrained import (
    WEIGHTS,
    Pretrained,
    load_array,
    load_model,
    model_folder,
    save_model,
)
from graphcnf.registry import Registry, load

GRAPH_MODELS = Registry(
    "models",
    {
        "path": "graphcnf.graphs.path.path_model:PathModel",
        "unordered": "graphcnf.graphs.unordered:UnorderedModel",
        "growth": "graphcnf.graphs.node_by_node:GrowthModel",
        "pairs": "graphcnf.graphs.pairs:PairsModel",
        "graphnvp": "graphcnf.baselines.graphnvp:GraphNVPModel",
        "graphaf": "graphcnf.baselines.graphaf:GraphAFModel",
        "rvae": "graphcnf.baselines.rvae:RegularizedVAE",
        "jtvae": "graphcnf.baselines.jtvae:JunctionTreeVAE",
    },
)
"""Classes of graph models by architecture."""

COMPANIONS = {"stereo": "graphcnf.stereo.stereo_flow:StereoFlow"}
"""Classes of what `GraphModel.companions` holds, by name."""

NODE_ORDERS = ("canonical", "none")  # node orders: a canonical one that networks may use, or none


def model_class(architecture: Any, order: str | None = None) -> type[GraphModel]:
    """Return the class of graph models that has a name.

    Args:
        architecture: Name of the class in `GRAPH_MODELS`, such as "path".
        order: Node order that the class must support, of `NODE_ORDERS`; None for any.

    Raises:
        UserError: if there is no such name or node order, or the class does not support the order.
    """
    found = GRAPH_MODELS.find(architecture, "architecture")
    if order not in (None, *NODE_ORDERS):
        raise UserError(f"order must be one of {', '.join(NODE_ORDERS)}, got {order!r}")
    if order not in (None, *found.node_orders):
        raise UserError(f'architecture "{architecture}" needs order "{found.node_orders[0]}"')
    return found


def condition_row(values: Sequence[float | None]) -> Tensor:
    """Return the P conditions of a graph as a tensor (1, P), with NaN for None (unknown)."""
    return torch.tensor([[math.nan if v is None else float(v) for v in values]])


@evaluates("log_prob", "log_probs", "encode", "decode", "sample", "sample_records")
class GraphModel(Pretrained, ABC):
    """Density of typed graphs and of their numbers of nodes.

    Users build it by `for_graphs` or `from_pretrained`, and call `log_prob` and `log_probs`,
    `sample` and `sample_records`, `encode` and `decode`, `size_log_prob`, `save_pretrained`.

    A subclass writes `bounds`, `to_latents`, `base_sample` and `from_latents`. It may override
    `measure` and `options` (what depends on the training graphs, or may be configured), `knows`,
    `estimate` (what training maximises), `log_prob_of_orders`, `size_logits`, `fit_conditions` and
    `notes`; the other methods are the same for all models.

    The constructor of a subclass takes JSON values: `node_categories`, `edge_categories`,
    `max_nodes`, the arguments that `measure` returns, and options of its own; a class that supports
    both node orders also takes `order`. These arguments are saved with the weights and rebuild the
    model. Configurations name a class that is in `GRAPH_MODELS`, or an entry point of
    "graphcnf.models".

    Attributes:
        config: The architecture and the arguments of the constructor.
        metadata: JSON about the training: `size_histogram` (entry n: number of training graphs with
            n nodes), `dataset` (its name), `training` (settings of the run) and more.
        training_hashes: Sorted hashes of the training graphs, uint64, or None.
        companions: Models of what the graphs leave out, by their names in `COMPANIONS`. They are
            saved and loaded with this one, each in a folder of its name beside the weights.
        architecture: Short name of the class, see `GRAPH_MODELS`.
        node_orders: Supported node orders, of `NODE_ORDERS`; the first is the default.
        measured: Names of the constructor's arguments that `measure` returns.
        rules: The constructor's arguments that switch off rules which are not learned.
        redraws: Name of the check that makes sampling draw again what breaks a rule; "" if none
            does.
        parallel: True if the number of network evaluations is bounded for graphs of any size.
        supports_fragments: True if graphs can be grown around fragments.
        takes_conditions: True if the constructor takes `conditions`.
        batch_size: Number of graphs that are drawn together.
        unknown: Reason why `knows` rejects a graph, as messages name it.
        scores_unknown: True if `bounds` is -inf for a graph that `knows` rejects; others raise.

    Examples:
        >>> path = ([0, 1, 0], [(0, 1), (1, 2)], [0, 0])
        >>> ring = ([0, 0, 1], [(0, 1), (1, 2), (0, 2)], [0, 0, 0])
        >>> graphs = PackedGraphs.from_lists([path, ring])
        >>> model = GraphModel.for_graphs(graphs, node_categories=2, edge_categories=1)
        >>> model.log_prob(GraphBatch.collate(graphs)).shape
        torch.Size([2])
        >>> model.sample_records(0, 5, seed=0).node_counts.tolist()
        [3, 3, 3, 3, 3]
    """

    architecture: ClassVar[str] = ""
    node_orders: ClassVar[tuple[str, ...]] = ("canonical",)
    measured: ClassVar[tuple[str, ...]] = ()
    rules: ClassVar[Mapping[str, Any]] = {}
    redraws: ClassVar[str] = ""
    parallel: ClassVar[bool] = False
    supports_fragments: ClassVar[bool] = False
    takes_conditions: ClassVar[bool] = False
    batch_size: ClassVar[int] = BATCH
    unknown: str = "nothing"
    scores_unknown: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.config = {"architecture": self.architecture, **self.config}
        self.metadata = {}
        self.training_hashes: np.ndarray | None = None
        self.companions: dict[str, Pretrained] = {}

    @classmethod
    def rebuild(cls, config: Mapping[str, Any]) -> Self:
        """Build an untrained model from the `config` of another one.

        Args:
            config: Arguments of the constructor, and the `architecture`, which names the class.

        Raises:
            ValueError: if that class is not this class or a subclass of it.
            UserError: if there is no such architecture.
        """
        arguments = dict(config)
        name = arguments.pop("architecture", None)
        found = cls if name == cls.architecture else model_class(name)
        if not issubclass(found, cls):
            raise ValueError(f'a model of architecture "{name}"')
        return found(**arguments)

    @classmethod
    def options(cls) -> tuple[Callable, ...]:
        """Return the functions and classes whose arguments the table `[model]` of a preset sets."""
        return (cls,)

    @staticmethod
    def measure(graphs: PackedGraphs, **options: Any) -> dict[str, Any]:
        """Return the arguments of the constructor that depend on training graphs.

        Args:
            graphs: The training graphs.
            **options: `node_categories`, `edge_categories`, `edge_weights` and `support`, as
                `for_graphs` takes them.

        Returns:
            Arguments by the names in `measured`; none by default.
        """
        return {}

    @classmethod
    def for_graphs(
        cls,
        graphs: PackedGraphs,
        *,
        node_categories: int,
        edge_categories: int,
        metadata: dict | None = None,
        training_hashes: np.ndarray | None = None,
        architecture: str = "path",
        order: str | None = None,
        edge_weights: list[int] | None = None,
        support: bool = True,
        **arguments: Any,
    ) -> GraphModel:
        """Build an untrained model with sizes that fit all of `graphs`.

        Args:
            graphs: The graphs, in the node order that the model needs.
            node_categories: Number of categories of nodes.
            edge_categories: Number of categories of edges.
            metadata: Entries to add to the attribute `metadata`.
            training_hashes: Sorted hashes of the training graphs, uint64, for the attribute of this
                name; None if unknown.
            architecture: Name of the class; ignored when called on a class that has one.
            order: "canonical" or "none"; None for the first that the class supports.
            edge_weights: Weight of each edge category in the sum over the edges of a node, which a
                rule of the model may limit; 1 each if None.
            support: False to leave out the rules of the model.
            **arguments: Further arguments of the class.

        Raises:
            UserError: if there are no graphs, or the model cannot represent them.
        """
        found = cls if cls.architecture else model_class(architecture, order)
        if not len(graphs):
            raise UserError("there are no graphs to fit a model to")
        sizes = {"node_categories": node_categories, "edge_categories": edge_categories}
        measured = found.measure(graphs, **sizes, edge_weights=edge_weights, support=support)
        sizes |= {"max_nodes": int(graphs.node_counts.max()), **measured}
        if len(found.node_orders) > 1:
            arguments["order"] = order or found.node_orders[0]
        model = found(**sizes, **arguments)
        model.metadata = {"size_histogram": np.bincount(graphs.node_counts).tolist()}
        model.metadata |= metadata or {}
        model.training_hashes = training_hashes
        return model

    def knows(self, batch: GraphBatch) -> Tensor:
        """Return True for each graph that the model can represent, (B,) bool."""
        return batch.mask.any(1)

    @abstractmethod
    def bounds(self, batch: GraphBatch, noise: Noise | None = None) -> dict[str, Bound]:
        """Draw a lower bound on log p(graph | number of nodes) once, as a sum of terms.

        Args:
            batch: B graphs.
            noise: Tape that records the random draws, or replays them; None for no tape.

        Returns:
            Terms (B,) in nats by name; the names are those of the model's steps.
        """

    def estimate(self, batch: GraphBatch) -> dict[str, Bound]:
        """Draw what training maximises, as a sum of terms (B,) in nats by name.

        By default it is the bound of `bounds`.
        """
        return self.bounds(batch)

    @abstractmethod
    def to_latents(self, batch: GraphBatch, noise: Noise | None = None) -> Latents:
        """Encode graphs to base latents.

        Args:
            batch: B graphs that fit the model, which `encode` has checked.
            noise: Tape that records the random draws, or replays them; None for no tape.

        Returns:
            Tensors (B, ..., D) by name.
        """

    @abstractmethod
    def base_sample(self, mask: Tensor, generator: Any = None) -> Latents:
        """Draw base latents for graphs with real nodes `mask` (B, N).

        Args:
            mask: True for real nodes, (B, N) bool.
            generator: torch generator, or one numpy generator per graph; None for torch's global
                generator.
        """

    @abstractmethod
    def from_latents(
        self,
        latents: Latents,
        mask: Tensor,
        *,
        temperature: float = 1.0,
        generator: Any = None,
    ) -> GraphBatch:
        """Decode base latents to graphs; `decode` checks the arguments before.

        A class that `takes_conditions` has a further argument `conditions`, (B, P).

        Args:
            latents: Base latents by name, as `to_latents` and `base_sample` return them.
            mask: True for real nodes, (B, N) bool.
            temperature: Below 1, graphs are more probable.
            generator: Source of random numbers, where decoding draws any; as in `base_sample`.
        """

    def log_prob_of_orders(self, batch: GraphBatch, count: int) -> Tensor:
        """Return log of the sum of p(numbered graph) over `count` numberings of its nodes.

        Only "path" has this method; the others raise UserError.

        Args:
            batch: B graphs.
            count: Number of numberings, that of the batch included.

        Returns:
            (B,) nats.
        """
        raise UserError('orders must be 1 for this architecture: only "path" sums over orders')

    def size_logits(self, conditions: Tensor) -> Tensor:
        """Return what conditions add to the logarithms of the probabilities of sizes.

        Args:
            conditions: Conditions of B graphs, (B, P), NaN where unknown.

        Returns:
            Logits of 0 to `max_nodes` nodes, (B, max_nodes + 1).

        Raises:
            ValueError: if the model was trained without conditions.
        """
        raise ValueError("this model was trained without conditions")

    def fit_conditions(self, batch: GraphBatch) -> None:
        """Initialise the parameters that model conditions from a batch of training graphs.

        By default nothing is done.
        """

    def notes(self, rules: bool) -> list[str]:
        """Return sentences about sampling, as footnotes for tables of samples.

        Args:
            rules: True if the rules of the model hold in these samples.
        """
        return []

    @property
    def order(self) -> str:
        """Node order of the graphs, one of `NODE_ORDERS`."""
        return self.config.get("order", self.node_orders[0])

    @property
    def ordered(self) -> bool:
        """True if graphs must come in their canonical node order."""
        return self.order == "canonical"

    @property
    def max_nodes(self) -> int:
        """Largest number of nodes of a graph."""
        return self.config["max_nodes"]

    @property
    def conditions(self) -> list[dict[str, Any]]:
        """The `condition_statistics` of each condition: "name", "mean" and "deviation".

        Empty for a model without conditions.
        """
        return self.config.get("conditions") or []

    def with_conditions(self, tables: list[dict[str, Any]]) -> Self:
        """Return a copy of the model that takes conditions, and ignores them until it is trained.

        Args:
            tables: Name, mean and standard deviation of each condition, as `condition_statistics`
                returns them.

        Raises:
            UserError: if the model has conditions already, or its architecture takes none.
        """
        if self.conditions or not self.takes_conditions:
            raise UserError(
                'conditions need a model that draws node by node ("path") and has none yet'
            )
        return self._with_arguments(conditions=tables)

    def _with_arguments(self, **arguments: Any) -> Self:
        """Return a copy of the model with some arguments of the constructor replaced.

        Weights that both have are copied; further ones have their initial values.
        """
        other = self.rebuild({**self.config, **arguments}).to(next(self.parameters()))
        # New parameters keep their initial values.
        other.load_state_dict({**other.state_dict(), **self.state_dict()})
        other.metadata, other.training_hashes = dict(self.metadata), self.training_hashes
        other.companions = dict(self.companions)
        return other.train(self.training)

    @property
    def has_rules(self) -> bool:
        """True if the model has rules that `without_rules` leaves out."""
        given, defaults = self.config, signature(type(self)).parameters
        left_out = self.rules.items()
        return any(given.get(k, defaults[k].default) != value for k, value in left_out)

    def without_rules(self) -> Self:
        """Return a copy of the model without its rules, which are not learned by training.

        The rule of "path" limits sums of edge weights.

        Raises:
            UserError: if the model has no rule.
        """
        if not self.has_rules:
            raise UserError("this model has no support of the data that could be left out")
        return self._with_arguments(**self.rules)

    @property
    def is_raw(self) -> bool:
        """True if samples are as the density says: no rule makes sampling draw again."""
        return not (self.redraws and self.has_rules)

    def _checked(self, batch: GraphBatch) -> GraphBatch:
        """Return the batch with padding set to 0 and cut off, see `GraphBatch.checked`.

        Raises:
            ValueError: if a graph has more nodes or categories than the model.
        """
        config = self.config
        return batch.checked(self.max_nodes, config["node_categories"], config["edge_categories"])

    def log_prob(
        self, batch: GraphBatch, samples: int = 1, noise: Noise | None = None, *, orders: int = 1
    ) -> Tensor:
        """Return a lower bound on log p(graph | number of nodes), (B,) nats; -inf if it is 0.

        Divided by -(nodes * ln 2) these are bits per node, with edges but without the prior of
        sizes (`size_log_prob`).

        Args:
            batch: The graphs, in the node order that the model needs.
            samples: Number of draws of the encoder. 1 is enough for "path", whose bound is exact
                for a numbering.
            noise: Tape that records the random draws, or replays them; None for no tape.
            orders: Number of depth-first numberings whose probabilities are summed, the given one
                included, up to 1,024 ("path" only, without gradients). More tighten the bound.
        """
        check_integer("samples", samples, 1)
        check_integer("orders", orders, 1, LARGEST_ORDERS)
        batch = self._checked(batch)
        if orders > 1:
            with torch.no_grad():
                return self.log_prob_of_orders(batch, orders)
        bounds = (self.bounds(batch, noise).values() for _ in range(samples))
        draws: list[Any] = [sum(bound.value() for bound in terms) for terms in bounds]
        return torch.logsumexp(torch.stack(draws), 0) - math.log(samples)

    @torch.no_grad()
    def log_probs(
        self,
        graphs: PackedGraphs,
        noise: Callable[[np.ndarray], Noise] | None = None,
        *,
        orders: int = 1,
        conditions: Sequence[float | None] | None = None,
        size: int = BATCH,
    ) -> np.ndarray:
        """Return lower bounds on log p(graph | number of nodes) of many graphs, without gradients.

        They are scored by `log_prob`, in batches of graphs of similar size.

        Args:
            graphs: The graphs, in the node order that the model needs.
            noise: Function that takes the indices of the graphs in a batch, and returns the tape of
                random draws with which the batch is scored; None for no tape.
            orders: Number of depth-first numberings whose probabilities are summed, the given one
                included, up to 1,024 ("path" only).
            conditions: Conditions (P,) of all graphs, None for an unknown one.
            size: Number of graphs in a batch.

        Returns:
            (M,) nats, float64; -inf for graphs that the model cannot represent.
        """
        nats = np.full(len(graphs), -math.inf)
        for chosen in batches(graphs.node_counts, size):
            batch = GraphBatch.collate(graphs, chosen).to(self.device)
            if not self.scores_unknown and not (known := self.knows(batch)).all():
                batch, chosen = batch[known], chosen[known.cpu().numpy()]
            if not len(chosen):
                continue
            if conditions is not None:
                row = condition_row(conditions).to(self.device)
                batch.conditions = row.expand(len(chosen), -1)
            tape = None if noise is None else noise(chosen)
            value = self.log_prob(batch, noise=tape, orders=orders)
            nats[chosen] = value.cpu().double().numpy()
        return nats

    def training_loss(self, batch: GraphBatch, *, beta: float = 1.0):
        """Return the loss of a batch of graphs, and metrics.

        Args:
            batch: B graphs; with conditions, the loss includes the size given the conditions.
            beta: Weight of log p(x|z) in the bound, see `Bound.value`.

        Returns:
            The negative bound in nats per node, a scalar with gradients, and the metrics by name,
            each as a pair of scalars (sum over graphs, number of graphs): `bits_per_node`,
            `bits_per_graph` and, for each term of `estimate`, `bits_NAME` (per node) and
            `accuracy_NAME` (`Bound.correct`).
        """
        bounds = self.estimate(self._checked(batch))
        nodes = batch.sizes
        loss = -sum(b.value(beta).sum() for b in bounds.values()) / nodes.sum()
        if batch.conditions is not None:
            own = self.size_log_prob(nodes, batch.conditions)
            # A held-out graph may have a size that no training graph has.
            loss = loss - own[own.isfinite()].sum() / nodes.sum()
        with torch.no_grad():
            bits = {name: -b.value() / math.log(2) for name, b in bounds.items()}
            total: Any = sum(bits.values())
            sums = {"bits_per_node": total / nodes, "bits_per_graph": total}
            for name, b in bounds.items():
                sums |= {f"bits_{name}": bits[name] / nodes, f"accuracy_{name}": b.correct}
            count = torch.tensor(float(len(batch)), device=loss.device)
        return loss, {name: (value.sum(), count) for name, value in sums.items()}

    @torch.no_grad()
    def encode(self, batch: GraphBatch, noise: Noise | None = None) -> Latents:
        """Encode graphs to base latents, which `decode` turns into graphs.

        Args:
            batch: B graphs, in the node order that the model needs.
            noise: Tape that records the random draws, or replays them; None for no tape.

        Returns:
            Tensors (B, ..., D) by name.

        Raises:
            ValueError: if a graph does not fit the model.
        """
        return self.to_latents(self._checked(batch), noise)

    @torch.no_grad()
    def decode(self, latents: Latents, mask: Tensor, **options) -> GraphBatch:
        """Decode base latents to graphs.

        Args:
            latents: Base latents by name, as `encode` and `base_sample` return them.
            mask: True for real nodes, (B, N) bool.
            **options: `temperature` (below 1, graphs are more probable) and `generator` (source of
                random numbers, see `sample`).

        Raises:
            ValueError: if a graph is too large for the model.
            UserError: if the mask is not boolean, or the latents do not have the names and shapes
                that belong to the mask.
        """
        if not (isinstance(mask, Tensor) and mask.dim() == 2 and mask.dtype == torch.bool):
            raise UserError(f"mask must be a boolean tensor (B, N), got {_shape(mask)}")
        if mask[:, self.max_nodes :].any():
            largest = int(mask.sum(1).max())
            raise ValueError(f"a graph of {largest} nodes; this model knows up to {self.max_nodes}")
        mask = mask[:, : self.max_nodes]  # as in `encode`
        self._check_latents(latents, mask)
        return self.from_latents(latents, mask, **options)

    def _check_latents(self, latents: Any, mask: Tensor) -> None:
        """Raise UserError unless latents have the names and shapes that `base_sample` gives them.

        Args:
            latents: Latents of any form.
            mask: Real nodes of the graphs, (B, N) bool.
        """
        # A generator of its own, so that the state of torch's is left as it is.
        likely = self.base_sample(mask, torch.Generator(mask.device))
        if not isinstance(latents, Mapping) or set(latents) != set(likely):
            given = list(latents) if isinstance(latents, Mapping) else _shape(latents)
            raise UserError(f"latents must be a dict with {list(likely)}, got {given}")
        for name, value in latents.items():
            own, wanted = _shape(value), _shape(likely[name])
            if own != wanted:
                raise UserError(
                    f"latents[{name!r}] must be {wanted}, as the mask is {_shape(mask)}, got {own}"
                )

    def size_probabilities(
        self, sizes: tuple[int, int] | None = None, conditions: Tensor | None = None
    ) -> np.ndarray:
        """Return the probabilities of numbers of nodes: their frequencies in the training data.

        Args:
            sizes: Lowest and highest number of nodes; others get the probability 0. If no training
                graph lies in the range, all sizes in it are equally likely. None for all sizes.
            conditions: Conditions of a graph, (1, P), by which the model reweights the
                probabilities; None for none.

        Returns:
            Probabilities of 0 to `max_nodes` nodes, (max_nodes + 1,).

        Raises:
            UserError: if `sizes` is out of range.
        """
        low, high = sizes or (0, self.max_nodes)
        if sizes is not None:
            self._check(low, high, 1.0)
        counts = self.metadata.get("size_histogram", [])
        prior = size_prior(counts, self.max_nodes, low, high)
        if conditions is None:
            return prior
        with torch.no_grad():
            return self._size_log_probs(prior, conditions).exp().cpu().numpy()[0]

    def _size_log_probs(self, prior: np.ndarray, conditions: Tensor) -> Tensor:
        """Return log p(size | conditions), (B, S) nats, for a prior (S,) and conditions (B, P)."""
        more = self.size_logits(conditions.to(self.device)).double()
        return (torch.as_tensor(prior, device=more.device).log().to(more) + more).log_softmax(-1)

    def size_log_prob(self, sizes: Tensor, conditions: Tensor | None = None) -> Tensor:
        """Return the log-probabilities of numbers of nodes, see `size_probabilities`.

        Args:
            sizes: Numbers of nodes, (B,) long.
            conditions: Conditions of the graphs, (B, P), NaN where unknown; None for none.

        Returns:
            (B,) nats; -inf for a number that no training graph has.
        """
        prior = self.size_probabilities()
        log_probs = torch.as_tensor(prior, device=sizes.device).log()[None]
        if conditions is not None:
            log_probs = self._size_log_probs(prior, conditions)
        return log_prob_of_sizes(log_probs, sizes)

    def _check(self, low: int, high: int, temperature: float) -> None:
        """Raise UserError unless 1 <= low <= high <= `max_nodes` and the temperature is allowed."""
        if not 1 <= low <= high <= self.max_nodes:
            raise UserError(
                f"sizes {low}-{high}: this model draws graphs of 1 to {self.max_nodes} nodes"
            )
        check_temperature(temperature)

    @torch.no_grad()
    def sample(
        self,
        sizes: Tensor,
        *,
        temperature: float = 1.0,
        generator=None,
        conditions: Tensor | None = None,
    ) -> GraphBatch:
        """Draw one graph for each number of nodes.

        Args:
            sizes: Numbers of nodes, 1 to `max_nodes`, (B,) long.
            temperature: Below 1, graphs are more probable.
            generator: torch generator, or a list of one numpy generator per graph; None for torch's
                global generator.
            conditions: Conditions of the graphs, (B, P), NaN where unknown; None for none.

        Raises:
            UserError: for sizes or a temperature out of range.
            ValueError: for conditions of a model that takes none.
        """
        if not len(sizes):
            raise UserError("give at least one number of nodes to draw graphs of")
        self._check(int(sizes.min()), int(sizes.max()), temperature)
        sizes = sizes.to(self.device)
        mask = torch.arange(int(sizes.max()), device=self.device) < sizes[:, None]
        latents = self.base_sample(mask, generator)
        options = {"temperature": temperature, "generator": generator}
        if conditions is not None:
            if not self.conditions:
                raise ValueError("this model was trained without conditions")
            options["conditions"] = conditions.to(self.device)
        return self.from_latents(latents, mask, **options)

    def sample_records(
        self,
        first: int,
        count: int,
        *,
        seed: int,
        temperature: float = 1.0,
        sizes: tuple[int, int] | None = None,
        conditions: Sequence[float | None] | None = None,
    ) -> PackedGraphs:
        """Draw the records `first` to `first + count - 1` of the endless sample of a seed.

        A record is one graph. On one machine, seed and number determine it to the last bit: it is
        always computed in the same batch (see `graphcnf.graphs.record_blocks`), on a CPU by one
        thread.

        Args:
            first: Number of the first record, from 0.
            count: Number of records.
            seed: Seed of the sample.
            temperature: Below 1, graphs are more probable.
            sizes: Lowest and highest number of nodes; None for all sizes of the training data.
            conditions: Conditions (P,) of all records, None for an unknown one; None for none.

        Raises:
            UserError: if an argument is out of range.
        """
        check_integer("first", first)
        check_integer("count", count)
        check_seed(seed)
        if sizes is not None:
            check_range("sizes", sizes)
        row = None if conditions is None else condition_row(conditions)
        prior = self.size_probabilities(sizes, row)
        self._check(*(sizes or (1, 1)), temperature)
        wanted = range(first, first + count)
        parts: list[PackedGraphs] = []
        made: list[int] = []
        blocks = together_on(self.device), self.batch_size
        with one_thread(self.device):
            for records, drawn, generators in record_batches(wanted, prior, seed, *blocks):
                graphs = self.sample(
                    torch.as_tensor(drawn.clip(1)),
                    temperature=temperature,
                    generator=generators,
                    conditions=None if row is None else row.expand(len(drawn), -1),
                )
                parts.append(graphs.to_packed())
                made += records.tolist()
        place = {record: k for k, record in enumerate(made)}
        return PackedGraphs.concatenate(parts).subset([place[record] for record in wanted])

    def save_pretrained(self, folder: str | Path, *, half: bool = False) -> None:
        """Write `config.json`, `model.safetensors` and, if known, `training_hashes.safetensors`.

        Companions are written first, to folders of their names: `config.json` lists them.

        Args:
            folder: Folder to write to; it is created if it does not exist.
            half: True to store parameters in float16, for half the size; they are loaded as
                float32.
        """
        for name, companion in self.companions.items():
            companion.save_pretrained(inside(folder, name))
        if self.companions:
            self.metadata["companions"] = sorted(self.companions)
        hashes = self.training_hashes
        arrays = {} if hashes is None else {"training_hashes": hashes}
        save_model(self, folder, half=half, **arrays)

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path, device="cpu") -> Self:
        """Load shipped weights by name, or a folder that `save_pretrained` or training wrote.

        Args:
            name_or_folder: Name of shipped weights, such as "zinc250k", or path of the folder.
            device: Device of the model.

        Raises:
            UserError: if there is no such model, or a file is damaged.
        """
        folder = model_folder(name_or_folder, shipped=True)
        model = load_model(cls, folder, device)
        hashes = load_array(folder, "training_hashes")
        if hashes is None and folder.parent == WEIGHTS:
            # Shipped weights of one data set share the hashes of its training graphs.
            hashes = load_array(WEIGHTS / str(model.metadata.get("dataset")), "training_hashes")
        if hashes is not None and (hashes.dtype != np.uint64 or (hashes[1:] <= hashes[:-1]).any()):
            raise UserError(f"{folder}/training_hashes.safetensors must hold rising uint64 numbers")
        model.training_hashes = hashes
        model.companions = _companions(folder, model.metadata.get("companions", []))
        return model


def _companions(folder: Path, names: list[str]) -> dict[str, Pretrained]:
    """Load the companions of a model, but those whose wing is not installed.

    Args:
        folder: Folder of the model.
        names: Names of its companions, as `config.json` lists them.

    Raises:
        UserError: if a name is not in `COMPANIONS`, or files are missing or damaged.
    """
    found = {}
    for name in names:
        if name not in list(COMPANIONS):
            raise UserError(f"{folder}/config.json: unknown companion {name!r}")
        with suppress(ModuleNotFoundError):
            found[name] = load_model(load(COMPANIONS[name]), inside(folder, name))
    return found


def _shape(value: Any) -> str:
    """Describe a value in an error message, such as "a real tensor (2, 3)" or "a list"."""
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    kind = "real" if value.is_floating_point() else str(value.dtype).removeprefix("torch.")
    return f"a {kind} tensor {tuple(value.shape)}"
