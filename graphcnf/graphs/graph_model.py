"""`GraphModel`, the base class of densities of typed graphs.

A graph model is the density of a graph given its number of nodes, and of that number. Its
*architecture* is the short name of its class, by which configurations and saved models name it.
`graphcnf.graphs.building` builds models.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from graphcnf.categorical.categorical_flow import Bound
from graphcnf.errors import UserError
from graphcnf.file_reading import inside
from graphcnf.flows.base import log_prob_of_sizes, size_prior
from graphcnf.flows.transform import Noise
from graphcnf.graphs.batch import (
    BATCH,
    GraphBatch,
    Latents,
    PackedGraphs,
    batches,
    check_latents,
    shape_of,
)
from graphcnf.graphs.record_blocks import one_thread, record_batches, together_on
from graphcnf.limits import check_integer, check_range, check_seed, check_temperature
from graphcnf.pretrained import (
    WEIGHTS,
    Pretrained,
    load_array,
    load_model,
    model_folder,
    save_model,
)
from graphcnf.registry import Registry, load
from graphcnf.torch_state import evaluated, refuse_half

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


def condition_row(values: Sequence[float | None]) -> Tensor:
    """Return the P conditions of a graph as a tensor (1, P), with NaN for None (unknown)."""
    return torch.tensor([[math.nan if v is None else float(v) for v in values]])


class GraphModel(Pretrained, ABC):
    """Density of typed graphs and of their numbers of nodes.

    What the probability of a graph is depends on the node order of the model, see `ordered`:

    - In the canonical order, it is that of the graph without node numbers, of which the order of
      the batch is one of several ways to draw it. `bounds` and `log_prob` give the probability of
      this way, a lower bound; `PathModel.log_prob` can add up several.
    - Without a node order, it is that of the graph with numbered nodes, where all n! numberings are
      equally likely. That of the graph without numbers is larger by log(n! / |Aut|) nats.

    The class has three groups of methods, in this order:

    - a subclass **writes** `bounds`, `to_latents`, `base_sample` and `from_latents`;
    - it **may override** `measure` and `options` (which depend on the training graphs, or may be
      configured), `knows`, `estimate` (what training maximises) and `notes`;
    - the others are for **users**: `log_prob` and `log_probs`, `size_log_prob` and
      `size_probabilities`, `sample` and `sample_records`, `encode` and `decode`, `training_loss`,
      `save_pretrained` and `from_pretrained`. `model_for_graphs` builds a model.

    The constructor of a subclass takes JSON values, which become the `config`:
    `node_categories`, `edge_categories`, `max_nodes`, the arguments that `measure` returns, and
    options of its own. A class that supports both node orders also takes `order`; one that can draw
    graphs given conditions takes `conditions`, and sets `sizes`. The class is named in
    `GRAPH_MODELS`, or by an entry point of "graphcnf.models". An example stands below, a larger one
    in `tests/own_model.py`.

    A subclass sets these attributes of the class, unless their defaults fit:

    - what it is called and built from: `architecture`, `node_orders`, `measured`;
    - what it cannot score: `unknown`, `scores_unknown`;
    - how it draws: `rules`, `redraws`, `parallel`, `batch_size`.

    Attributes:
        config: The architecture, and the arguments given to the constructor.
        metadata: JSON about the training: `size_histogram` (entry n: number of training graphs with
            n nodes), `dataset` (its name), `training` (settings of the run) and more.
        training_hashes: Sorted hashes of the training graphs, uint64, or None.
        companions: Models of what the graphs leave out, by their names in `COMPANIONS`. They are
            saved and loaded with this one, each in a folder of its name beside the weights.
        sizes: Network from conditions (B, P) to logits (B, max_nodes + 1), which are added to the
            log-probabilities of the numbers of nodes; None for a model without conditions.
        architecture: Short name of the class, see `GRAPH_MODELS`.
        node_orders: Supported node orders: "canonical" (networks may use it) and "none"; the first
            is the default.
        measured: Names of the constructor's arguments that `measure` returns.
        unknown: Reason why `knows` rejects a graph, as messages name it.
        scores_unknown: True if `bounds` is -inf for a graph that `knows` rejects; others raise.
        rules: Values of the constructor's arguments that switch off rules which are not learned, by
            name.
        redraws: Name of the check that makes sampling draw again what breaks a rule; "" if none
            does.
        parallel: True if the number of network evaluations is bounded for graphs of any size.
        batch_size: Number of graphs that are drawn together.

    Examples:
        >>> from graphcnf.graphs import model_for_graphs
        >>> path = ([0, 1, 0], [(0, 1), (1, 2)], [0, 0])
        >>> ring = ([0, 0, 1], [(0, 1), (1, 2), (0, 2)], [0, 0, 0])
        >>> graphs = PackedGraphs.from_lists([path, ring])
        >>> model = model_for_graphs(graphs, node_categories=2, edge_categories=1)
        >>> model.log_prob(GraphBatch.collate(graphs)).shape
        torch.Size([2])
        >>> model.sample_records(0, 5, seed=0).node_counts.tolist()
        [3, 3, 3, 3, 3]

        A model of nodes without edges. A latent is a uniform number, and each category owns a part
        of [0, 1) as wide as its probability:

        >>> from graphcnf.flows import draw_uniform
        >>> class Points(GraphModel):
        ...     architecture, node_orders = "points", ("none",)
        ...     unknown, scores_unknown = "it has edges", True
        ...     def __init__(self, *, node_categories, edge_categories, max_nodes):
        ...         super().__init__()
        ...         self.logits = nn.Parameter(torch.zeros(node_categories))
        ...     def knows(self, batch):
        ...         return (batch.edge_labels == 0).all(2).all(1)
        ...     def bounds(self, batch, noise=None):
        ...         log_p = self.logits.log_softmax(0)[batch.node_types]
        ...         log_p = log_p.masked_fill(~batch.mask, 0).sum(1)
        ...         return {"nodes": Bound.exact(log_p.masked_fill(~self.knows(batch), -math.inf))}
        ...     def to_latents(self, batch, noise=None):
        ...         p = self.logits.softmax(0)
        ...         return {"nodes": (p.cumsum(0) - p / 2)[batch.node_types]}
        ...     def base_sample(self, mask, generator=None):
        ...         shape = (*mask.shape, 1)
        ...         return {"nodes": draw_uniform(shape, mask=mask, generator=generator)[..., 0]}
        ...     def from_latents(self, latents, mask, *, temperature=1.0, generator=None):
        ...         ends = (self.logits / temperature).softmax(0).cumsum(0)[:-1]
        ...         nodes = torch.searchsorted(ends, latents["nodes"]) * mask
        ...         return GraphBatch(nodes, nodes.new_zeros(*mask.shape, mask.shape[1]), mask)
        >>> points = Points(node_categories=2, edge_categories=1, max_nodes=3)
        >>> drawn = points.sample(torch.tensor([3, 2, 3]))
        >>> points.log_prob(drawn).exp().tolist()
        [0.125, 0.25, 0.125]
        >>> decoded = points.decode(points.encode(drawn), drawn.mask)
        >>> torch.equal(decoded.node_types, drawn.node_types)
        True
    """

    architecture: ClassVar[str] = ""
    node_orders: ClassVar[tuple[str, ...]] = ("canonical",)
    measured: ClassVar[tuple[str, ...]] = ()
    rules: ClassVar[Mapping[str, Any]] = {}
    redraws: ClassVar[str] = ""
    parallel: ClassVar[bool] = False
    batch_size: ClassVar[int] = BATCH
    unknown: str = "nothing"
    scores_unknown: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        # `Pretrained` has put the arguments of the subclass's constructor there before it ran.
        self.config = {"architecture": self.architecture, **self.config}
        self.training_hashes: np.ndarray | None = None
        self.companions: dict[str, Pretrained] = {}
        self.sizes: nn.Module | None = None

    # A subclass writes these four.

    @abstractmethod
    def bounds(self, batch: GraphBatch, noise: Noise | None = None) -> dict[str, Bound]:
        """Draw a lower bound on log p(graph | number of nodes) once, as a sum of terms.

        Args:
            batch: B graphs.
            noise: Tape that records the random draws, or replays them; None for no tape.

        Returns:
            Terms (B,) in nats by name; the names are those of the model's steps.
        """

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

        A class that takes conditions has a further argument `conditions`, (B, P).

        Args:
            latents: Base latents by name, as `to_latents` and `base_sample` return them.
            mask: True for real nodes, (B, N) bool.
            temperature: Below 1, graphs are more probable.
            generator: Source of random numbers, where decoding draws any; as in `base_sample`.
        """

    # It may override these.

    @staticmethod
    def measure(graphs: PackedGraphs, **options: Any) -> dict[str, Any]:
        """Return the arguments of the constructor that depend on training graphs.

        Args:
            graphs: The training graphs.
            **options: `node_categories`, `edge_categories`, `edge_weights`, `merged`, `support`, as
                `model_for_graphs` takes them.

        Returns:
            Arguments by the names in `measured`; none by default.
        """
        return {}

    @classmethod
    def options(cls) -> tuple[Callable, ...]:
        """Return the functions and classes whose arguments the table `[model]` of a preset sets."""
        return (cls,)

    def knows(self, batch: GraphBatch) -> Tensor:
        """Return True for each graph that the model can represent, (B,) bool."""
        return batch.mask.any(1)

    def estimate(self, batch: GraphBatch) -> dict[str, Bound]:
        """Draw what training maximises, as a sum of terms (B,) in nats by name.

        By default it is the bound of `bounds`. A class may train by another estimate of it, or add
        penalties.

        Args:
            batch: B graphs that fit the model.
        """
        return self.bounds(batch)

    def notes(self, rules: bool) -> list[str]:
        """Return sentences about sampling, as footnotes for tables of samples.

        Args:
            rules: True if the rules of the model hold in these samples.
        """
        return []

    # The other methods are for users, and the same for all models.

    @property
    def ordered(self) -> bool:
        """True if graphs must come in their canonical node order."""
        return self.config.get("order", self.node_orders[0]) == "canonical"

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

    @evaluated
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
            orders: Number of depth-first numberings whose probabilities are summed; only
                `PathModel.log_prob` takes more than 1.

        Raises:
            UserError: if `samples` or `orders` is out of range.
            ValueError: if a graph does not fit the model.
        """
        check_integer("samples", samples, 1)
        if orders != 1:
            raise UserError('orders must be 1 for this architecture: only "path" sums over orders')
        batch = batch.checked(self.config)
        bounds = (self.bounds(batch, noise).values() for _ in range(samples))
        draws: list[Any] = [sum(bound.value() for bound in terms) for terms in bounds]
        return torch.logsumexp(torch.stack(draws), 0) - math.log(samples)

    @evaluated
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
            batch: B graphs; with conditions, the loss includes the size given the conditions. If
                some have a probability above 0, the others do not count.
            beta: Weight of log p(x|z) in the bound, see `Bound.value`.

        Returns:
            The negative bound in nats per node, a scalar with gradients, and the metrics by name,
            each as a pair of scalars (sum over graphs, number of graphs): `bits_per_node`,
            `bits_per_graph` and, for each term of `estimate`, `bits_NAME` (per node) and
            `accuracy_NAME` (`Bound.correct`).
        """
        bounds = self.estimate(batch.checked(self.config))
        values: Any = sum(b.value().detach() for b in bounds.values())
        possible = values != -math.inf
        if possible.any() and not possible.all():
            return self.training_loss(batch[possible], beta=beta)
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

    @evaluated
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
            UserError: if the weights are in half precision.
        """
        refuse_half(self)
        return self.to_latents(batch.checked(self.config), noise)

    @evaluated
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
            raise UserError(f"mask must be a boolean tensor (B, N), got {shape_of(mask)}")
        if mask[:, self.max_nodes :].any():
            largest = int(mask.sum(1).max())
            raise ValueError(f"a graph of {largest} nodes; this model knows up to {self.max_nodes}")
        mask = mask[:, : self.max_nodes]  # as in `encode`
        # A generator of its own, so that the state of torch's is left as it is.
        check_latents(latents, self.base_sample(mask, torch.Generator(mask.device)), mask)
        return self.from_latents(latents, mask, **options)

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
            self._check_sizes(low, high)
        prior = size_prior(self.metadata.get("size_histogram", []), self.max_nodes, low, high)
        if conditions is None:
            return prior
        with torch.no_grad():
            log_prior = torch.as_tensor(prior, device=self.device).log()[None]
            return self._sizes_given(log_prior, conditions).exp().cpu().numpy()[0]

    def _sizes_given(self, log_prior: Tensor, conditions: Tensor) -> Tensor:
        """Return log p(size | conditions), (B, S) nats, of conditions (B, P) and a prior (1, S)."""
        if self.sizes is None:
            raise ValueError("this model was trained without conditions")
        more = self.sizes(conditions.to(self.device)).double()
        return (log_prior.to(more) + more).log_softmax(-1)

    def size_log_prob(self, sizes: Tensor, conditions: Tensor | None = None) -> Tensor:
        """Return the log-probabilities of numbers of nodes, see `size_probabilities`.

        Args:
            sizes: Numbers of nodes, (B,) long.
            conditions: Conditions of the graphs, (B, P), NaN where unknown; None for none.

        Returns:
            (B,) nats; -inf for a number that no training graph has.
        """
        prior = torch.as_tensor(self.size_probabilities(), device=sizes.device).log()[None]
        log_probs = prior if conditions is None else self._sizes_given(prior, conditions)
        return log_prob_of_sizes(log_probs, sizes)

    def _check_sizes(self, low: int, high: int) -> None:
        """Raise UserError unless 1 <= low <= high <= `max_nodes`."""
        if not 1 <= low <= high <= self.max_nodes:
            raise UserError(
                f"sizes {low}-{high}: this model draws graphs of 1 to {self.max_nodes} nodes"
            )

    @evaluated
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
        self._check_sizes(int(sizes.min()), int(sizes.max()))
        check_temperature(temperature)
        sizes = sizes.to(self.device)
        mask = torch.arange(int(sizes.max()), device=self.device) < sizes[:, None]
        latents = self.base_sample(mask, generator)
        options = {"temperature": temperature, "generator": generator}
        if conditions is not None:
            if not self.conditions:
                raise ValueError("this model was trained without conditions")
            options["conditions"] = conditions.to(self.device)
        return self.from_latents(latents, mask, **options)

    @evaluated
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
        check_temperature(temperature)
        if sizes is not None:
            check_range("sizes", sizes)
        row = None if conditions is None else condition_row(conditions)
        prior = self.size_probabilities(sizes, row)
        wanted = range(first, first + count)
        parts: list[PackedGraphs] = []
        made: list[int] = []
        all_batches = record_batches(wanted, prior, seed, together_on(self.device), self.batch_size)
        with one_thread(self.device):
            for records, drawn, generators in all_batches:
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
        found = cls if name == cls.architecture else GRAPH_MODELS.find(name, "architecture")
        if not issubclass(found, cls):
            raise ValueError(f'a model of architecture "{name}"')
        return found(**arguments)

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
