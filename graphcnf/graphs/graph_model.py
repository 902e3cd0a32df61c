"""`GraphModel`, the base class of densities of typed graphs; `StochasticModel` with random bounds.

A graph model is the density of a graph given its number of nodes, and of that number
(`graphcnf.graphs.sizes`). Its *architecture* is the short name of its class. A *companion* is a
model of what the graphs leave out, such as stereo marks.

`graphcnf.graphs.building` builds models from training graphs, and `graphcnf.graphs.in_batches`
scores and draws many graphs.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from graphcnf.categorical.categorical_flow import Bound, total
from graphcnf.errors import UserError
from graphcnf.file_reading import WEIGHTS, inside
from graphcnf.flows.transform import Generators, Noise
from graphcnf.graphs.batch import BATCH, GraphBatch, Latents, PackedGraphs, check_latents, shape_of
from graphcnf.graphs.sizes import SizePrior
from graphcnf.limits import LARGEST_COUNT, check_integer, check_temperature, is_number
from graphcnf.pretrained import (
    Pretrained,
    check_kinds,
    check_sizes,
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
        "faces": "graphcnf.graphs.faces:FaceModel",
        "pairs": "graphcnf.graphs.pairs:PairsModel",
        "graphnvp": "graphcnf.baselines.graphnvp:GraphNVPModel",
        "graphaf": "graphcnf.baselines.graphaf:GraphAFModel",
        "rvae": "graphcnf.baselines.rvae:RegularizedVAE",
        "jtvae": "graphcnf.baselines.jtvae:JunctionTreeVAE",
    },
)
"""Classes of graph models by architecture."""

COMPANIONS = {"stereo": "graphcnf.stereo.stereo_flow:StereoFlow"}
"""Classes of companions by the names of their folders."""


class GraphModel(Pretrained, ABC):
    """Density of typed graphs and of their numbers of nodes.

    What the probability of a graph is depends on the node order of the model, see `ordered`:

    - "canonical": the graph can be drawn in several node orders. `bounds` and `log_prob` give the
      probability of drawing it in the order of the batch, which should be that of the training
      data: a lower bound on the probability of the graph, the sum over all orders.
      `graphcnf.graphs.path.orders` adds up several.
    - "none": the probability is that of the graph with numbered nodes, where all n! numberings are
      equally likely. That of the graph without numbers is larger by log(n! / |Aut|) nats.

    A subclass **writes** four methods: `bounds`, `to_latents`, `base_sample` and `from_latents`.
    It **may override** `measure` and `options` (which depend on the training graphs, or may be
    configured), `knows`, `estimate` (what training maximises) and `sampling_notes`. The other
    methods are for **users**: `log_prob`, `encode`, `decode`, `sample`, `size_prior`,
    `save_pretrained` and `from_pretrained`. A class whose `bounds` draws random numbers derives
    from `StochasticModel`.

    The constructor of a subclass takes JSON values, which become the `config`:
    `node_categories`, `edge_categories`, `max_nodes`, the arguments that `measure` returns, and
    options of its own. A class that supports both node orders also takes `order`; one that can draw
    graphs given conditions takes `conditions`, and sets `size_network`. The class is named in
    `GRAPH_MODELS`, or by an entry point of "graphcnf.models". An example stands below, a larger one
    in `tests/own_model.py`.

    Attributes:
        config: The architecture, and the arguments given to the constructor.
        metadata: JSON about the training: `size_histogram` (entry n: number of training graphs with
            n nodes), `dataset` (its name), `training` (settings of the run) and more.
        training_hashes: Sorted hashes of the training graphs, uint64, or None.
        companions: Companions by their names in `COMPANIONS`. They are saved and loaded with this
            model, each in a folder of its name beside the weights.
        size_network: Network of `size_prior`, by which values of conditions change the
            probabilities of the numbers of nodes, see `SizePrior`; None without conditions.
        architecture: Short name of the class, see `GRAPH_MODELS`.
        node_orders: Supported node orders: "canonical" (networks may use it) and "none"; the first
            is the default.
        measured_arguments: Names of the constructor's arguments that `measure` returns, which a
            preset therefore cannot set.
        why_unknown: Reason why `knows` rejects a graph, as messages name it.
        rules_off: Values of the constructor's arguments that switch off rules which are not
            learned, by name, see `graphcnf.graphs.building`.
        redraw_check: Name of the check by which sampling rejects graphs and draws them again; ""
            if there is none, and all samples are as the density says.
        batch_size: Number of graphs that `sample_records` draws together. Records depend on it to
            the last bit.

    Examples:
        >>> from graphcnf.graphs import model_for_graphs, sample_records
        >>> path = ([0, 1, 0], [(0, 1), (1, 2)], [0, 0])
        >>> ring = ([0, 0, 1], [(0, 1), (1, 2), (0, 2)], [0, 0, 0])
        >>> graphs = PackedGraphs.from_lists([path, ring])
        >>> model = model_for_graphs(graphs, node_categories=2, edge_categories=1)
        >>> model.log_prob(GraphBatch.collate(graphs)).shape
        torch.Size([2])
        >>> sample_records(model, range(5), seed=0).node_counts.tolist()
        [3, 3, 3, 3, 3]

        A model of nodes without edges. A latent is a uniform number, and each category owns a part
        of [0, 1) as wide as its probability:

        >>> from graphcnf.flows import draw_uniform
        >>> from graphcnf.pretrained import keep_arguments
        >>> class Points(GraphModel):
        ...     architecture, node_orders, why_unknown = "points", ("none",), "it has edges"
        ...     @keep_arguments
        ...     def __init__(self, *, node_categories, edge_categories, max_nodes):
        ...         super().__init__()
        ...         self.logits = nn.Parameter(torch.zeros(node_categories))
        ...     def knows(self, batch):
        ...         return (batch.edge_labels == 0).all(2).all(1)
        ...     def bounds(self, batch):
        ...         log_p = self.logits.log_softmax(0)[batch.node_types]
        ...         log_p = log_p.masked_fill(~batch.mask, 0).sum(1)
        ...         return {"nodes": Bound.exact(log_p.masked_fill(~self.knows(batch), -torch.inf))}
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

    not_sizes: ClassVar[frozenset[str]] = frozenset({"mean", "deviation"})  # of conditions
    architecture: ClassVar[str] = ""
    node_orders: ClassVar[tuple[str, ...]] = ("canonical",)
    measured_arguments: ClassVar[tuple[str, ...]] = ()
    why_unknown: str = "nothing"
    rules_off: ClassVar[Mapping[str, Any]] = {}
    redraw_check: ClassVar[str] = ""
    batch_size: ClassVar[int] = BATCH

    def __init__(self) -> None:
        super().__init__()
        if not hasattr(type(self).__init__, "__wrapped__"):
            raise TypeError(f"write @keep_arguments above the __init__ of {type(self).__name__}")
        self.metadata = {}
        self.config = {"architecture": self.architecture, **self.config}
        self.training_hashes: np.ndarray | None = None
        self.companions: dict[str, Pretrained] = {}
        self.size_network: nn.Module | None = None

    # A subclass writes these four.

    @abstractmethod
    def bounds(self, batch: GraphBatch) -> dict[str, Bound]:
        """Return log p(graph | number of nodes), or a lower bound on it, as a sum of terms.

        Args:
            batch: B graphs that fit the model, which `log_prob` has checked.

        Returns:
            Terms (B,) in nats by name: one for each part of a graph that the model scores apart.
            They are -inf for a graph that `knows` rejects.
        """

    @abstractmethod
    def to_latents(self, batch: GraphBatch, noise: Noise | None = None) -> Latents:
        """Encode graphs to base latents.

        Args:
            batch: B graphs that fit the model, which `encode` has checked.
            noise: Tape that records the random draws, or replays them; None for no tape.

        Returns:
            `{name: latents}`, (B, ..., D) each. The names, and the D of each, are up to the class,
            such as "nodes" (B, N, D).

        Raises:
            ValueError: for a graph that `knows` rejects.
        """

    @abstractmethod
    def base_sample(self, mask: Tensor, generator: Generators = None) -> Latents:
        """Draw base latents for graphs with real nodes `mask` (B, N).

        Args:
            mask: True for real nodes, (B, N) bool.
            generator: torch generator, or one numpy generator per graph; None for torch's global
                generator.

        Returns:
            `{name: latents}`, of the names and shapes that `to_latents` returns.
        """

    @abstractmethod
    def from_latents(
        self,
        latents: Latents,
        mask: Tensor,
        *,
        temperature: float = 1.0,
        generator: Generators = None,
    ) -> GraphBatch:
        """Decode base latents to graphs; `decode` checks the arguments before.

        A class that takes conditions has a further argument `condition_values`, (B, P).

        Args:
            latents: Base latents by name, as `to_latents` and `base_sample` return them.
            mask: True for real nodes, (B, N) bool.
            temperature: Below 1, graphs are more probable.
            generator: Source of random numbers, where decoding draws any; as in `base_sample`.

        Returns:
            B graphs. Rules of some models leave a graph smaller than its mask.
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
            Arguments by the names in `measured_arguments`; none by default.
        """
        return {}

    @classmethod
    def options(cls) -> tuple[Callable, ...]:
        """Return the functions and classes whose arguments the table `[model]` of a preset sets."""
        return (cls,)

    def knows(self, batch: GraphBatch) -> Tensor:
        """Return True for each graph that the model can represent, (B,) bool.

        By default these are all graphs with a node. One that is represented may still have the
        probability 0.

        Args:
            batch: B graphs that fit the sizes and categories of the model.
        """
        return batch.mask.any(1)

    def estimate(self, batch: GraphBatch) -> dict[str, Bound]:
        """Draw what training maximises, as a sum of terms (B,) in nats by name.

        By default it is the bound of `bounds`. A class may train by another estimate of it, or add
        penalties.

        Args:
            batch: B graphs that fit the model.
        """
        return self.bounds(batch)

    def sampling_notes(self, rules: bool) -> list[str]:
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
        """The conditions that graphs can be drawn given: "name", "mean" and "deviation" of each.

        Empty for a model without conditions.
        """
        return self.config.get("conditions") or []

    @property
    def size_prior(self) -> SizePrior:
        """Probabilities of the numbers of nodes, which `log_prob` takes as given."""
        counts = self.metadata.get("size_histogram", [])
        return SizePrior(counts, self.max_nodes, self.size_network)

    @evaluated
    def log_prob(self, batch: GraphBatch) -> Tensor:
        """Return log p(graph | number of nodes), or a lower bound on it, (B,) nats.

        It is -inf for graphs of probability 0. Divided by -(nodes * ln 2) these are bits per node,
        with edges but without the probability of the number of nodes (`size_prior`).

        Args:
            batch: B graphs, in the node order that the model needs.

        Returns:
            Natural logarithms of probabilities, (B,).

        Raises:
            ValueError: if a graph does not fit the model.
        """
        return total(self.bounds(batch.for_model(self.config)).values())

    def training_loss(self, batch: GraphBatch, *, beta: float = 1.0):
        """Return the loss of a batch, and metrics; see `graphcnf.graphs.training_loss`."""
        from graphcnf.graphs.training_loss import training_loss

        return training_loss(self, batch, beta=beta)

    @evaluated
    @torch.no_grad()
    def encode(self, batch: GraphBatch, noise: Noise | None = None) -> Latents:
        """Encode graphs to base latents, which `decode` turns into graphs.

        Args:
            batch: B graphs, in the node order that the model needs.
            noise: Tape that records the random draws, or replays them; None for no tape.

        Returns:
            `{name: latents}`, (B, ..., D) each, such as "nodes" (B, N, D). The `to_latents` of the
            model's class says which names there are, and what D is.

        Raises:
            ValueError: if a graph does not fit the model.
            UserError: if the weights are in half precision.
        """
        refuse_half(self)
        return self.to_latents(batch.for_model(self.config), noise)

    @evaluated
    @torch.no_grad()
    def decode(self, latents: Latents, mask: Tensor, **options) -> GraphBatch:
        """Decode base latents to graphs.

        Args:
            latents: Base latents by name, as `encode` and `base_sample` return them.
            mask: True for real nodes, (B, N) bool.
            **options: `temperature` (below 1, graphs are more probable) and `generator` (source of
                random numbers, see `sample`).

        Returns:
            B graphs of at most N nodes.

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

    @evaluated
    @torch.no_grad()
    def sample(
        self,
        node_counts: Tensor,
        *,
        temperature: float = 1.0,
        generator: Generators = None,
        condition_values: Tensor | None = None,
    ) -> GraphBatch:
        """Draw one graph for each number of nodes.

        Args:
            node_counts: Numbers of nodes, 1 to `max_nodes`, (B,) long.
            temperature: Below 1, graphs are more probable.
            generator: torch generator, or a list of one numpy generator per graph; None for torch's
                global generator.
            condition_values: Values of the P conditions of the graphs, each in its own unit, (B,
                P), NaN where unknown; None for none.

        Returns:
            B graphs, padded to the largest of the numbers.

        Raises:
            UserError: for numbers of nodes or a temperature out of range, or no number at all.
            ValueError: for conditions of a model that takes none.
        """
        if not len(node_counts):
            raise UserError("give at least one number of nodes to draw graphs of")
        self.size_prior.check_range(int(node_counts.min()), int(node_counts.max()))
        check_temperature(temperature)
        options = {}
        if condition_values is not None:
            if not self.conditions:
                raise ValueError("this model was trained without conditions")
            options["condition_values"] = condition_values.to(self.device)
        node_counts = node_counts.to(self.device)
        mask = torch.arange(int(node_counts.max()), device=self.device) < node_counts[:, None]
        latents = self.base_sample(mask, generator)
        return self.from_latents(
            latents, mask, temperature=temperature, generator=generator, **options
        )

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
        # Also if none is left: one whose package is not installed was not loaded.
        self.metadata.pop("companions", None)
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

        Returns:
            The model in evaluation mode, of the class that its `config.json` names.

        Raises:
            UserError: if there is no such model, or a file is damaged.
        """
        folder = model_folder(name_or_folder, shipped=True)
        model = load_model(cls, folder, device)
        model.training_hashes = load_training_hashes(folder, model.metadata.get("dataset"))
        model.companions = load_companions(folder, model.metadata.get("companions", []))
        return model

    # `from_pretrained` calls these two.

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
        check_sizes(arguments, found.not_sizes)
        return found(**arguments)

    def check_metadata(self, metadata: Any) -> None:
        """Raise `ValueError` for metadata, read from a file, that would fail when they are used."""
        super().check_metadata(metadata)
        check_kinds(metadata, size_histogram=list, weights=dict, companions=list)
        counts = metadata.get("size_histogram", [1])
        if not all(is_number(count) and 0 <= count <= LARGEST_COUNT for count in counts):
            raise ValueError("metadata.size_histogram is no list of counts")
        if not any(counts[: self.config["max_nodes"] + 1]):
            raise ValueError("metadata.size_histogram counts nothing that the model can draw")


class StochasticModel(GraphModel):
    """Graph model whose bound on log p(graph | number of nodes) is one draw of random numbers.

    The expectation of a draw is a lower bound on log p; the logarithm of the mean over several
    draws is a tighter one. A graph that `knows` rejects cannot be scored at all: callers such as
    `log_prob_in_batches` leave it out.
    """

    @abstractmethod
    def bounds(self, batch: GraphBatch, noise: Noise | None = None) -> dict[str, Bound]:
        """Draw a lower bound on log p(graph | number of nodes) once, as a sum of terms.

        Args:
            batch: B graphs that `knows` accepts.
            noise: Tape that records the random draws, or replays them; None for no tape.

        Returns:
            Terms (B,) in nats by name, as `GraphModel.bounds` returns them.
        """

    @evaluated
    def log_prob(self, batch: GraphBatch, samples: int = 1, noise: Noise | None = None) -> Tensor:
        """Draw a lower bound on log p(graph | number of nodes), (B,) nats.

        Args:
            batch: B graphs that `knows` accepts, in the node order that the model needs.
            samples: Number of draws whose probabilities are averaged, at least 1.
            noise: Tape that records the random draws, or replays them; None for no tape.

        Raises:
            UserError: if `samples` is out of range.
            ValueError: if a graph does not fit the model.
        """
        check_integer("samples", samples, 1)
        batch = batch.for_model(self.config)
        draws = [total(self.bounds(batch, noise).values()) for _ in range(samples)]
        return torch.logsumexp(torch.stack(draws), 0) - math.log(samples)


def load_training_hashes(folder: Path, dataset: str | None) -> np.ndarray | None:
    """Load the sorted hashes of the training graphs of a model, None if they are not known.

    Args:
        folder: Folder of the model.
        dataset: Name of its data set. Shipped weights of one data set share the hashes.

    Raises:
        UserError: if the file is damaged, or its numbers do not rise.
    """
    hashes = load_array(folder, "training_hashes")
    if hashes is None and folder.parent == WEIGHTS:
        hashes = load_array(WEIGHTS / str(dataset), "training_hashes")
    if hashes is not None and (hashes.dtype != np.uint64 or (hashes[1:] <= hashes[:-1]).any()):
        raise UserError(f"{folder}/training_hashes.safetensors must hold rising uint64 numbers")
    return hashes


def load_companions(folder: Path, names: list[str]) -> dict[str, Pretrained]:
    """Load the companions of a model: models of what its graphs leave out, such as stereo marks.

    Without the package of a companion it is skipped, since the model works without it.

    Args:
        folder: Folder of the model.
        names: Names of its companions, as `config.json` lists them.

    Returns:
        `{name: companion}`, on the CPU; {} for no names.

    Raises:
        UserError: if a name is not in `COMPANIONS`, or files are missing or damaged.
    """
    found = {}
    for name in names:
        if name not in list(COMPANIONS):  # a list, since a name from a file may be unhashable
            raise UserError(f"{folder}/config.json: unknown companion {name!r}")
        with suppress(ModuleNotFoundError):
            found[name] = load_model(load(COMPANIONS[name]), inside(folder, name))
    return found
