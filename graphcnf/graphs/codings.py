"""The codings that a `GraphCNF` can be built on: each is a module of steps, found by its name.

Those of `graphcnf.baselines` are named here, not imported: a model's configuration says which one
is loaded.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Protocol

from torch import Tensor, nn

from graphcnf.categorical.flow import Bound
from graphcnf.errors import UserError, suggest
from graphcnf.flows.transform import Noise
from graphcnf.graphs.batch import GraphBatch, Latents
from graphcnf.graphs.packed import PackedGraphs

CODINGS = {
    "path": "graphcnf.graphs.path.steps:PathSteps",
    "pairs": "graphcnf.graphs.pairs.steps:PairSteps",
    "rounds": "graphcnf.graphs.unordered.steps:RoundSteps",
    "graphnvp": "graphcnf.baselines.graphs.graphnvp:GraphNVPSteps",
    "graphaf": "graphcnf.baselines.graphs.graphaf:GraphAFSteps",
    "rvae": "graphcnf.baselines.graphs.rvae:RegularizedSteps",
    "jtvae": "graphcnf.baselines.junction_tree.jtvae:JunctionTreeSteps",
}
"""Where the steps of each coding are."""

ORDERS = ("canonical", "none")
NEEDED = {"pairs": ORDERS, "rounds": ("none",)}
"""The orders of nodes that a coding goes with, where it is not the canonical one alone."""


class Steps(Protocol):
    """What a coding offers; its constructor takes `measure`'s sizes and options of its own.

    `estimate(batch)`, where there is one, stands in for `bounds` in training. `without_support`,
    where there is one, are arguments of the constructor that leave a rule out.
    """

    unknown: str
    """Why a graph is not known, where `knows` says so."""

    @staticmethod
    def measure(graphs: PackedGraphs, **categories: Any) -> dict[str, Any]:
        """Arguments of the constructor that follow from a set of graphs."""

    def knows(self, batch: GraphBatch) -> Tensor:
        """Whether the model can represent a graph, (B,) bool."""

    def bounds(self, batch: GraphBatch, noise: Noise | None = None) -> dict[str, Bound]:
        """One draw of the terms of the bound on log p(graph | number of nodes), by name."""

    def encode(self, batch: GraphBatch, noise: Noise | None = None) -> Latents:
        """Latents of the base space."""

    def base_sample(self, mask: Tensor, generator: Any = None) -> Latents:
        """Latents drawn from the base density, for nodes `mask` (B, N)."""

    def decode(self, latents: Latents, mask: Tensor, **options: Any) -> GraphBatch:
        """Graphs of latents; options are `temperature`, `sample` and `generator`."""


class AnyGraph(nn.Module):
    """Steps that know every graph of known categories, whatever its size."""

    unknown = "nothing"
    """Why a graph is not known."""

    @staticmethod
    def measure(graphs: PackedGraphs, **categories: Any) -> dict[str, Any]:
        """No sizes of the coding's own."""
        return {}

    @staticmethod
    def knows(batch: GraphBatch) -> Tensor:
        """All graphs, (B,) bool."""
        return batch.mask.any(1)


def steps_class(coding: str) -> type[Steps]:
    """The class of a coding's steps.

    Raises:
        UserError: There is no such coding.
    """
    if coding not in CODINGS:
        known = suggest(str(coding), list(CODINGS)) or f"; known: {', '.join(CODINGS)}"
        raise UserError(f"adjacency must be the name of a coding, not {coding!r}{known}")
    module, name = CODINGS[coding].split(":")
    return getattr(import_module(module), name)


def check_order(coding: str, order: str) -> None:
    """Raise `UserError` where a coding does not go with an order of the nodes."""
    if order not in ORDERS:
        raise UserError(f"order must be one of {', '.join(ORDERS)}, not {order!r}")
    needed = NEEDED.get(coding, ("canonical",))
    if order not in needed:
        raise UserError(f'adjacency "{coding}" needs order "{needed[0]}"')
