"""`GraphModel`, the base class of densities of typed graphs.

A graph model is the density of a graph given its number of nodes, and of that number
(`graphcnf.graphs.sizes`). `graphcnf.graphs.building` builds models from training graphs, and
`graphcnf.graphs.records` draws reproducible samples. A graph is scored by

    terms                  log p(graph | number of nodes) by part of the graph, of which the
                           log-probability is the sum; a class writes it
    log_prob               log p(graph | number of nodes), or a lower bound on it
    training_loss          what training minimises
    size_prior.log_prob    log p(number of nodes), which is in none of these

- A *companion* is a second model, of what the graphs leave out, such as stereo marks. It is saved
  and loaded with the graph model, in a folder of its own beside the weights.
- The *training hashes* are numbers that tell which graphs were in the training data, so that a
  model can say whether a drawn graph is new.
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

from graphcnf.categorical.categorical_flow import Bound
from graphcnf.errors import UserError
from graphcnf.file_reading import WEIGHTS, inside
from graphcnf.flows.transform import Generators, Noise, RecordNoise
from graphcnf.graphs.batch import (
    BATCH,
    GraphBatch,
    Latents,
    PackedGraphs,
    batches,
    check_latents,
    shape_of,
)
from graphcnf.graphs.sizes import SizePrior
from graphcnf.limits import LARGEST_COUNT, check_integer, check_temperature, is_number
from graphcnf.pretrained import (
    Pretrained,
    check_kinds,
    load_array,
    load_model,
    model_folder,
    save_model,
)
from graphcnf.registry import Registry
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
"""Classes of graph models by architecture; each is imported when it is looked up."""

COMPANIONS = Registry("companions", {"stereo": "graphcnf.stereo.stereo_flow:StereoFlow"})
"""Classes of companions, by the names of their folders."""


Loss = tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]
"""A loss with gradients, and metrics `{name: (sum, number of items)}`."""


class GraphModel(Pretrained, ABC):
    """Density of typed graphs and of their numbers of nodes.

    What the probability of a graph is depends on the node order of the model, see `ordered`:

    - "canonical": the graph can be drawn in several node orders. `log_prob` gives the probability
      of drawing it in the order of its node numbers, which should be that of the training data: a
      lower bound on the probability of the graph, the sum over all orders.
    - "none": the probability is that of the graph with numbered nodes, where all n! numberings are
      equally likely. That of the graph without numbers is larger by log(n! / |Aut|) nats.

    A subclass writes four methods and may override four, the others are for users: three comment
    lines divide the class. One whose `terms` draws random numbers is
    `stochastic`: they come from a further argument `noise`, a tape or None, and it gives the terms
    only of graphs that it `knows`.

    The constructor of a subclass takes JSON values, which become the `config`:
    `node_categories`, `edge_categories`, `max_nodes`, the arguments that `measure` returns, and
    options of its own. A class that supports both node orders also takes `order`; one that can draw
    graphs given conditions takes `conditions`, and sets `size_network`. The class is named in
    `GRAPH_MODELS`, or by an entry point of "graphcnf.models". An example stands at the end of
    `docs/own-model.md`, a larger one in `tests/own_model.py`.

    Attributes:
        config: `{"architecture": name, argument: value, ...}`: the arguments of the constructor.
        metadata: JSON values about the training: `size_histogram` (entry n: number of training
            graphs with n nodes), `dataset` (name of the data set), `training` (settings of the run)
            and more.
        training_hashes: Sorted hashes of the training graphs, (M,) uint64; None if unknown.
        companions: Models of what the graphs leave out, by name: "stereo" for stereo marks. Empty
            in a new model.
        size_network: Network of `size_prior` that reads conditions; None without them.
        max_nodes: Largest number of nodes of a graph.
        ordered: True if graphs must come in their canonical node order.
        conditions: Properties of whole graphs, given values of which graphs can be drawn:
            `{"name": text, "mean": number, "deviation": number}` each, over the training graphs.
        stochastic: True if `terms` is one draw of a lower bound, of latent variables that the class
            cannot sum over.
        architecture: Short name of the class, the same as in `GRAPH_MODELS`.
        node_orders: Supported node orders: "canonical" (networks may use it) and "none"; the first
            is the default.
        measured_arguments: Names of the constructor's arguments that `measure` returns, which a
            preset therefore cannot set.
        why_unknown: Reason why `knows` rejects a graph, as messages name it.
        rules_off: `{argument of the constructor: value}`: the values that switch off the rules of
            the class, which are measured in training graphs instead of learned.
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
    """

    registry = GRAPH_MODELS
    not_sizes: ClassVar[frozenset[str]] = frozenset({"mean", "deviation"})  # of conditions
    stochastic: ClassVar[bool] = False
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
        self.max_nodes: int = self.config["max_nodes"]
        self.ordered = self.config.get("order", self.node_orders[0]) == "canonical"
        self.conditions: list[dict[str, Any]] = self.config.get("conditions") or []

    # A subclass writes these four.

    @abstractmethod
    def terms(self, batch: GraphBatch) -> dict[str, Bound]:
        """Return log p(graph | number of nodes), or a lower bound on it, as a sum of terms.

        `{name: Bound}` has one for each part of a graph, (B,) nats; -inf where `knows` is False.
        """

    @abstractmethod
    def to_latents(self, batch: GraphBatch, noise: Noise | None = None) -> Latents:
        """Encode graphs to base latents, `{name: (B, ..., D)}`; names and D are up to the class."""

    @abstractmethod
    def base_sample(self, mask: Tensor, generator: Generators = None) -> Latents:
        """Draw base latents for graphs with a mask (B, N), as `to_latents` returns them."""

    @abstractmethod
    def from_latents(
        self,
        latents: Latents,
        mask: Tensor,
        *,
        temperature: float = 1.0,
        generator: Generators = None,
    ) -> GraphBatch:
        """Decode base latents to graphs; rules may leave one smaller than its mask.

        A class that takes conditions has a further argument `condition_values`, (B, P).
        """

    # It may override these.

    @staticmethod
    def measure(graphs: PackedGraphs, **options: Any) -> dict[str, Any]:
        """Return the arguments of the constructor that depend on training graphs."""
        return {}

    @classmethod
    def options(cls) -> tuple[Callable, ...]:
        """Return functions and classes whose arguments the table `[model]` of a preset sets."""
        return (cls,)

    def knows(self, batch: GraphBatch) -> Tensor:
        """Return True for each graph that the model can represent, (B,) bool.

        By default these are all graphs with a node. One that is represented may still have the
        probability 0.
        """
        return batch.mask.any(1)

    def training_loss(self, batch: GraphBatch, *, beta: float = 1.0) -> Loss:
        """Return what training minimises, by default the `likelihood_loss` of `terms`."""
        return likelihood_loss(self, batch, self.terms, beta)

    # These are for users.

    @property
    def size_prior(self) -> SizePrior:
        """Probabilities of the numbers of nodes, which `log_prob` takes as given."""
        counts = self.metadata.get("size_histogram", [])
        return SizePrior(counts, self.max_nodes, self.size_network)

    @evaluated
    def log_prob(
        self,
        graphs: GraphBatch | PackedGraphs,
        *,
        samples: int = 1,
        orders: int = 1,
        condition_values: Tensor | None = None,
        noise: RecordNoise | None = None,
    ) -> Tensor:
        """Return log p(graph | number of nodes), or a lower bound on it, (B,) nats.

        It is -inf for graphs of probability 0. Divided by -(nodes * ln 2) these are bits per node,
        with edges but without the probability of the number of nodes (`size_prior`). Any number of
        packed graphs is scored in batches, in float64 and without gradients.

        Args:
            samples: Draws of a bound that is random, whose mean is taken inside of the logarithm
                (Burda et al. 2016, arXiv 1509.00519); others are evaluated once.
            orders: Node orders of each graph whose probabilities are added, at most 1,024: its own
                and random ones. More than 1 need the architecture "path".
            condition_values: As in `sample`, for packed graphs; a batch has its own.
            noise: The draws of a `stochastic` model. By default those of packed graphs have the
                seed 0 and are the same for each graph, and those of a batch are new.
        """
        check_integer("samples", samples, 1)
        if orders != 1:
            raise UserError('orders must be 1 for this architecture: only "path" sums over orders')
        if isinstance(graphs, GraphBatch):
            return _log_prob(self, graphs, samples, noise)
        nats = torch.full((len(graphs),), -math.inf, dtype=torch.float64)
        noise = RecordNoise(0, np.zeros(len(graphs), dtype=int)) if noise is None else noise
        for chosen in batches(graphs.node_counts):
            batch = GraphBatch.collate(graphs, chosen).to(self.device)
            if condition_values is not None:
                batch.condition_values = condition_values[chosen].to(self.device)
            with torch.no_grad():
                log_p = _log_prob(self, batch, samples, noise.of(chosen))
            nats[chosen] = log_p.cpu().double()
        return nats

    @evaluated
    @torch.no_grad()
    def encode(self, batch: GraphBatch, noise: Noise | None = None) -> Latents:
        """Encode graphs to base latents, which `decode` turns into graphs."""
        refuse_half(self)
        return self.to_latents(batch.for_model(self.config), noise)

    @evaluated
    @torch.no_grad()
    def decode(self, latents: Latents, mask: Tensor, **options) -> GraphBatch:
        """Decode base latents to graphs; the options are those of `sample`."""
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
            temperature: Below 1, graphs are more probable.
            generator: torch generator, or a list of one numpy generator per graph; None for torch's
                global generator.
            condition_values: Values of the P conditions of the graphs, each in its own unit, (B,
                P), NaN where unknown. None if all are unknown, or for a model without conditions.
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

    # These save and load a model.

    def save_pretrained(self, folder: str | Path, *, half: bool = False) -> None:
        """Write the model to a folder, from which `from_pretrained` loads it.

        The files are `config.json`, `model.safetensors`, `training_hashes.safetensors` if the
        hashes are known, and a folder for each companion. Files that are there are replaced.
        With `half`, parameters are stored in float16; they are loaded as float32.
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
            name_or_folder: Name of shipped weights, such as "zinc250k"; path of the folder of a
                model or of a training run; or "org/name" of the Hugging Face hub.
            device: Device of the weights, such as "cuda:1".
        """
        folder = model_folder(name_or_folder, shipped=True)
        model = load_model(cls, folder, device)
        model.training_hashes = load_training_hashes(folder, model.metadata.get("dataset"))
        model.companions = load_companions(folder, model.metadata.get("companions", []))
        return model

    def check_metadata(self, metadata: Any) -> None:
        """Check metadata that were read from a file, before they become those of this model."""
        super().check_metadata(metadata)
        check_kinds(metadata, size_histogram=list, weights=dict, companions=list)
        counts = metadata.get("size_histogram", [1])
        if not all(is_number(count) and 0 <= count <= LARGEST_COUNT for count in counts):
            raise ValueError("metadata.size_histogram is no list of counts")
        if not any(counts[: self.config["max_nodes"] + 1]):
            raise ValueError("metadata.size_histogram counts nothing that the model can draw")


def _log_prob(model: GraphModel, batch: GraphBatch, samples: int, noise: Noise | None) -> Tensor:
    """Return `GraphModel.log_prob` of one batch."""
    batch = batch.for_model(model.config)
    if not model.stochastic:
        return sum_terms(model.terms(batch))
    known = model.knows(batch)
    if not known.all():
        nats = torch.full((len(batch),), -math.inf, device=known.device)
        if known.any():
            numbers = known.nonzero()[:, 0].cpu().numpy()
            part = noise.of(numbers) if isinstance(noise, RecordNoise) else noise
            log_p = _log_prob(model, batch[known], samples, part)
            nats = nats.to(log_p).masked_scatter(known, log_p)
        return nats
    draws = [sum_terms(model.terms(batch, noise)) for _ in range(samples)]  # type: ignore[call-arg]
    return torch.logsumexp(torch.stack(draws), 0) - math.log(samples)


def sum_terms(terms: Mapping[str, Bound]) -> Tensor:
    """Return log p of which `terms` are the factors, or the bound on it, (B,) nats."""
    first, *others = (term.log_prob() for term in terms.values())
    return sum(others, first)


def likelihood_loss(
    model: GraphModel,
    batch: GraphBatch,
    terms: Callable[[GraphBatch], dict[str, Bound]],
    beta: float = 1.0,
) -> Loss:
    """Return the negative log-likelihood per node of B graphs, or its bound, and metrics.

    Graphs of probability 0 are left out, unless all are; then the loss is infinite. With values of
    conditions, -log p(number of nodes | conditions) is a part of it.

    Args:
        terms: `GraphModel.terms`, or an estimate of them for training.

    Returns:
        (loss, metrics): nats per node, with gradients; and `{name: (sum over graphs, number of
        graphs)}` for "bits_per_node", "bits_per_graph", and for each of the terms "bits_TERM" (per
        node) and "accuracy_TERM" (share of variables that decode correctly).
    """
    found = terms(batch.for_model(model.config))
    possible = sum_terms(found).detach() != -math.inf
    if possible.any() and not possible.all():
        # Computed anew, since a term of -inf would make gradients NaN.
        return likelihood_loss(model, batch[possible], terms, beta)
    node_counts = batch.node_counts
    nodes = node_counts.sum()
    loss: Any = -sum(term.log_prob(beta).sum() for term in found.values()) / nodes
    if batch.condition_values is not None:
        of_sizes = model.size_prior.log_prob(node_counts, batch.condition_values)
        # A held-out graph may have a size that no training graph has.
        loss = loss - of_sizes[of_sizes.isfinite()].sum() / nodes
    with torch.no_grad():
        bits = {name: -term.log_prob() / math.log(2) for name, term in found.items()}
        total: Any = sum(bits.values())
        sums = {"bits_per_node": total / node_counts, "bits_per_graph": total}
        for name, term in found.items():
            sums[f"bits_{name}"] = bits[name] / node_counts
            sums[f"accuracy_{name}"] = term.correct
        count = torch.tensor(float(len(batch)), device=loss.device)
    return loss, {name: (value.sum(), count) for name, value in sums.items()}


def load_training_hashes(folder: Path, dataset: str | None) -> np.ndarray | None:
    """Load the sorted hashes of the training graphs of a saved model; None without a file.

    Those of shipped weights may be in the shipped folder of the data set.
    """
    hashes = load_array(folder, "training_hashes")
    if hashes is None and folder.parent == WEIGHTS:
        hashes = load_array(WEIGHTS / str(dataset), "training_hashes")
    if hashes is not None and (hashes.dtype != np.uint64 or (hashes[1:] <= hashes[:-1]).any()):
        raise UserError(f"{folder}/training_hashes.safetensors must hold rising uint64 numbers")
    return hashes


def load_companions(folder: Path, names: list[str]) -> dict[str, Pretrained]:
    """Load the companions of a model: models of what its graphs leave out, such as stereo marks.

    A companion whose package is not installed is left out, since the model works without it.
    """
    found = {}
    for name in names:
        if not isinstance(name, str) or name not in COMPANIONS:
            raise UserError(f"{folder}/config.json: unknown companion {name!r}")
        with suppress(ModuleNotFoundError):
            found[name] = load_model(COMPANIONS[name], inside(folder, name))
    return found
