"""Base of the graph models that write a graph as a sequence and score it autoregressively.

The *code* of a graph is V categories (variables) for each node in one *node order*, (B, N, V) for a
batch: a token sequence. A `GraphCode` maps graphs to codes and back, one-to-one; an
`AutoregressiveNetwork` is the distribution of codes. Scoring encodes a graph and asks the network
for the probability of its code; sampling draws a code by the network and decodes it. `CodedModel`
takes the nodes in the order of the batch; models without a preferred order draw it
(`graphcnf.graphs.random_order`).

    score:   graph -> code.encode -> x -> network.log_probs -> log p
    encode:  graph -> code.encode -> x -> IntervalEncoding -> coupling -> latents
    sample:  latents -> sigmoid -> network.draw -> x -> code.decode -> graph
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar, Generic, Protocol

from torch import Tensor

from graphcnf.categorical.autoregressive import AutoregressiveNetwork
from graphcnf.categorical.autoregressive_flow import AnyNetwork, AutoregressiveFlow
from graphcnf.categorical.categorical_flow import Bound
from graphcnf.flows.transform import Context, Generators, Noise
from graphcnf.graphs.batch import GraphBatch, Latents
from graphcnf.graphs.graph_model import GraphModel

# What a graph consists of. `CodedModel.terms` reports them apart, as the model of Lippe & Gavves
# 2021 has a step for each.
PARTS = ("adjacency", "edges", "nodes")


class GraphCode(Protocol):
    """What `CodedModel` asks of a one-to-one map from graphs to codes, such as `DepthFirstCode`.

    Attributes:
        cardinalities: Number of values of each of the V variables of a node.
    """

    cardinalities: list[int]

    def part(self, k: int) -> str:
        """Return the part of variable k in `CodedModel.terms`: "adjacency", "edges" or "nodes"."""

    def encode(self, batch: GraphBatch) -> tuple[Tensor, Tensor]:
        """Write graphs as codes (B, N, V), 0 at padding; and say which have one, (B,) bool."""

    def decode(self, x: Tensor, mask: Tensor) -> GraphBatch:
        """Return the graphs that some codes describe."""


class CodedModel(GraphModel, Generic[AnyNetwork]):
    """Base of graph models whose p(graph) is a product over the variables of a code, node by node.

    A graph has a code for each of its node orders, and its probability is the sum over all codes.
    This class scores one code only, that of the node order of the batch, which gives a lower bound.
    `graphcnf.graphs.path.orders` adds up several orders; `RandomOrder` draws an order at random.

    Attributes:
        network_class: Class of the network, whose arguments a preset may set.
        code: Map from graphs of up to N nodes to codes (B, N, V), with V categories (variables) for
            each node. A graph without a code has probability 0.
        flow: Flow that maps codes to latents and back. Its `network` gives the probabilities.
    """

    network_class: ClassVar[type[AutoregressiveNetwork]]
    code: GraphCode
    flow: AutoregressiveFlow[AnyNetwork]

    @classmethod
    def options(cls) -> tuple[Callable, ...]:
        """Return the classes whose arguments a preset configures."""
        bases = [c for c in cls.network_class.__mro__ if issubclass(c, AutoregressiveNetwork)]
        return tuple(bases[:-1])

    @property
    def network(self) -> AnyNetwork:
        """Network that gives the probabilities of codes; it is a part of `flow`."""
        return self.flow.network

    def terms(self, batch: GraphBatch) -> dict[str, Bound]:
        """Score the codes of graphs given their numbers of nodes, in the batch's node order."""
        context = Context(batch.mask, condition_values=batch.condition_values)
        return self._terms(batch, context)

    def _terms(self, batch: GraphBatch, context: Context) -> dict[str, Bound]:
        """Return `terms`; the network is told `context`."""
        x, known = self.code.encode(batch)
        log_p = self.network.log_probs(x, context).sum(1)
        log_p = log_p.masked_fill(~known[:, None], -math.inf)
        terms = {}
        for part in PARTS:
            variables = [k for k in range(log_p.shape[1]) if self.code.part(k) == part]
            if variables:
                terms[part] = Bound.exact(log_p[:, variables].sum(1))
        return terms

    def to_latents(self, batch: GraphBatch, noise: Noise | None = None) -> Latents:
        """Encode graphs to base latents, in the node order of the batch."""
        context = Context(batch.mask, noise=noise, condition_values=batch.condition_values)
        x, known = self.code.encode(batch)
        if not known.all():
            raise ValueError(self.why_unknown)
        return {"nodes": self.flow.encode(x, context)}

    def base_sample(self, mask: Tensor, generator: Generators = None) -> Latents:
        """Draw latents of all variables from the base density, a standard logistic."""
        shape = (*mask.shape, len(self.code.cardinalities))
        dtype = next(self.parameters()).dtype
        z = self.flow.base.sample(
            shape, mask=mask, generator=generator, device=mask.device, dtype=dtype
        )
        return {"nodes": z}

    def from_latents(self, latents: Latents, mask: Tensor, **draw) -> GraphBatch:
        """Decode base latents to graphs."""
        x = self.flow.decode(latents["nodes"], Context(mask, **draw))
        return self.code.decode(x, mask)
