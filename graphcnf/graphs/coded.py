"""Base of the graph models that write a graph as a sequence and score it autoregressively.

The *code* of a graph is V categories (variables) for each node in one *node order*, (B, N, V) for a
batch: a token sequence. A `GraphCode` maps graphs to codes and back, one-to-one; an
`AutoregressiveNetwork` is the distribution of codes. Scoring encodes a graph and asks the network
for the probability of its code; sampling draws a code by the network and decodes it. `CodedModel`
takes the nodes in the order of the batch. `RandomOrder` draws the order, as a latent of the model,
so that no order is preferred.

    score:   graph -> code.encode -> x -> network.log_probs -> log p
    encode:  graph -> code.encode -> x -> IntervalEncoding -> coupling -> latents
    sample:  latents -> sigmoid -> network.draw -> x -> code.decode -> graph
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar, Generic, Protocol

import torch
from torch import Tensor

from graphcnf.categorical.autoregressive import (
    AnyNetwork,
    AutoregressiveFlow,
    AutoregressiveNetwork,
)
from graphcnf.categorical.categorical_flow import Bound
from graphcnf.flows.base import draw_uniform
from graphcnf.flows.transform import Context, Generators, Noise, draw_noise
from graphcnf.graphs.batch import GraphBatch, Latents
from graphcnf.graphs.graph_model import GraphModel, StochasticModel

# What a graph consists of. `CodedModel.bounds` reports them apart, as the model of Lippe & Gavves
# 2021 has a step for each.
PARTS = ("adjacency", "edges", "nodes")


class GraphCode(Protocol):
    """One-to-one map from graphs to codes, as `DepthFirstCode` is.

    Attributes:
        cardinalities: Number of values of each of the V variables of a node.
    """

    cardinalities: list[int]

    def part(self, k: int) -> str:
        """Return which of `PARTS` variable k of a node describes."""

    def encode(self, batch: GraphBatch) -> tuple[Tensor, Tensor]:
        """Write graphs as codes, in the node order of the batch.

        Args:
            batch: B graphs.

        Returns:
            Codes (B, N, V) long, 0 at padding, and which graphs have a code, (B,) bool; the codes
            of the others mean nothing.
        """

    def decode(self, x: Tensor, mask: Tensor) -> GraphBatch:
        """Return the graphs with the codes x (B, N, V) and the real nodes `mask` (B, N)."""


class CodedModel(GraphModel, Generic[AnyNetwork]):
    """p(graph) as a product over the variables of a code, node by node.

    What is called p(graph) here is the probability of one code, that of the graph in the node order
    of the batch: a lower bound on that of the graph, which is the sum over the codes of all its
    node orders. `PathModel.log_prob_of_orders` adds up several; `RandomOrder` draws one.

    Attributes:
        network_classes: Class of the network, then the base class that takes its other arguments.
        code: Map from graphs to codes (B, N, V). A graph without a code has probability 0.
        flow: Flow over codes, which `encode` and `decode` need.
    """

    network_classes: ClassVar[tuple[Callable[..., AutoregressiveNetwork], ...]]
    code: GraphCode
    flow: AutoregressiveFlow[AnyNetwork]

    @classmethod
    def options(cls) -> tuple[Callable, ...]:
        return cls.network_classes

    @property
    def network(self) -> AnyNetwork:
        """Distribution of codes."""
        return self.flow.network

    def bounds(self, batch: GraphBatch) -> dict[str, Bound]:
        """Score the codes of graphs in the node order of the batch.

        Args:
            batch: B graphs.

        Returns:
            For each of `PARTS` ("adjacency", "edges", "nodes") the log-probability of the
            variables that it stands for, (B,) nats; together that of the code. They are exact, and
            -inf for a graph without a code. A key without variables is left out.
        """
        context = Context(batch.mask, condition_values=batch.condition_values)
        x, known = self.code.encode(batch)
        log_p = self.network.log_probs(x, context).sum(1)
        log_p = log_p.masked_fill(~known[:, None], -math.inf)
        bounds = {}
        for part in PARTS:
            variables = [k for k in range(log_p.shape[1]) if self.code.part(k) == part]
            if variables:
                bounds[part] = Bound.exact(log_p[:, variables].sum(1))
        return bounds

    def to_latents(self, batch: GraphBatch, noise: Noise | None = None) -> Latents:
        """Encode graphs to base latents, in the node order of the batch.

        Args:
            batch: B graphs.
            noise: Tape that records the random draws, or replays them; None for no tape.

        Returns:
            "nodes" (B, N, V): one latent for each variable of the code.

        Raises:
            ValueError: if a graph has no code.
        """
        context = Context(batch.mask, noise=noise, condition_values=batch.condition_values)
        x, known = self.code.encode(batch)
        if not known.all():
            raise ValueError(self.unknown)
        return {"nodes": self.flow.encode(x, context)}

    def base_sample(self, mask: Tensor, generator: Generators = None) -> Latents:
        """Draw "nodes" (B, N, V), the latents of all variables, from the base density."""
        shape = (*mask.shape, len(self.code.cardinalities))
        dtype = next(self.parameters()).dtype
        z = self.flow.base.sample(
            shape, mask=mask, generator=generator, device=mask.device, dtype=dtype
        )
        return {"nodes": z}

    def from_latents(self, latents: Latents, mask: Tensor, **draw) -> GraphBatch:
        """Decode base latents to graphs.

        Args:
            latents: "nodes" (B, N, V), as `to_latents` and `base_sample` return it.
            mask: Real nodes, (B, N) bool.
            **draw: `temperature`, `generator`, and `condition_values` (B, P), given which to draw,
                each in its own unit.

        Returns:
            B graphs, their nodes numbered in the order of the code.
        """
        x = self.flow.decode(latents["nodes"], Context(mask, **draw))
        return self.code.decode(x, mask)


class RandomOrder(CodedModel[AnyNetwork], StochasticModel):
    """`CodedModel` whose node order is random and a latent, so that no order is preferred.

    Attributes:
        draw_order: Function of adjacency (B, N, N) bool, sizes (B,) long and uniform numbers (B, N,
            max_nodes) float64. Returns node orders (B, N) long, padding last, and the logarithms of
            their probabilities, (B,) nats. New node i is old node `order[i]`.
    """

    node_orders = ("none",)
    draw_order: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]

    def _renumber(
        self, batch: GraphBatch, noise: Noise | None
    ) -> tuple[GraphBatch, Tensor, Tensor]:
        """Draw a node order of each graph.

        Args:
            batch: B graphs.
            noise: Tape that records the uniform numbers of the draw, or replays them; None for no
                tape.

        Returns:
            The renumbered graphs, the orders (B, N) long and their log-probabilities (B,), nats.
        """
        shape = (*batch.mask.shape, self.max_nodes)
        uniforms = draw_noise(noise, shape, device=batch.mask.device)
        order, log_p = self.draw_order(batch.adjacency, batch.node_counts, uniforms)
        return batch.permute(order), order, log_p

    def bounds(self, batch: GraphBatch, noise: Noise | None = None) -> dict[str, Bound]:
        """Draw a node order; return the terms of log p(graph, order) - log q(order | graph).

        The mean over orders is a lower bound on log p(graph), and a logsumexp of several draws
        tightens the bound. p is the probability of the graph with numbered nodes, other than in
        `PathModel`: each of the n! numberings of a drawn graph is equally likely, which costs log
        n!. That of the graph without numbers is larger by log(n! / |Aut|) nats.

        Args:
            batch: B graphs.
            noise: Tape that records the draw of the order, or replays it; None for no tape.

        Returns:
            Terms (B,) in nats by name: "adjacency", "edges" and "nodes" of the code in this order,
            as `CodedModel.bounds` returns them, and "order", -log q - log n!, in float64.
        """
        graphs, _, log_p = self._renumber(batch, noise)
        numberings = torch.lgamma(batch.node_counts.double() + 1)
        return {**super().bounds(graphs), "order": Bound.exact(-log_p - numberings)}

    def to_latents(self, batch: GraphBatch, noise: Noise | None = None) -> Latents:
        """Draw a node order, and encode graphs to base latents.

        Args:
            batch: B graphs.
            noise: Tape that records the random draws, or replays them; None for no tape.

        Returns:
            Two latents by name, both 0 at padding. "nodes", (B, N, V): entry k has the latents of
            the V variables of the k-th node of the drawn order. "order", (B, N, 1) float64: a
            number in [0, 1) for each node as the batch numbers it; the order is the nodes by
            ascending numbers. For the order [2, 0, 1], node 2 has the smallest number: [0.5, 0.9,
            0.1]. By "order" alone `from_latents` gives the nodes the numbers that they had.

        Raises:
            ValueError: if a graph has no code in this order.
        """
        graphs, order, _ = self._renumber(batch, noise)
        uniforms = draw_noise(noise, order.shape, device=order.device)
        # Padding is larger than all uniform numbers, and so comes last.
        ascending = uniforms.masked_fill(~batch.mask, 2.0).sort(1).values
        # `argsort` of a permutation is its inverse: that of the order [2, 0, 1] is [1, 2, 0], the
        # place of each node in the order.
        places = order.argsort(1)
        uniforms = ascending.gather(1, places).masked_fill(~batch.mask, 0.0)
        return {**super().to_latents(graphs, noise), "order": uniforms[..., None]}

    def base_sample(self, mask: Tensor, generator: Generators = None) -> Latents:
        latents = super().base_sample(mask, generator)
        uniforms = draw_uniform(
            (*mask.shape, 1),
            mask=mask,
            generator=generator,
            device=mask.device,
            dtype=torch.float64,
        )
        return {**latents, "order": uniforms}

    def from_latents(self, latents: Latents, mask: Tensor, **draw) -> GraphBatch:
        """Decode base latents to graphs.

        Args:
            latents: "nodes" (B, N, V), of the nodes in the order in which they are drawn, and
                "order" (B, N, 1): if its k-th smallest number stands at j, the k-th node that is
                drawn becomes node j of the graph.
            mask: Real nodes, (B, N) bool.
            **draw: `temperature`, `generator`, and `condition_values` (B, P), given which to draw,
                each in its own unit.

        Returns:
            B graphs, their nodes numbered as "order" says.
        """
        graphs = super().from_latents(latents, mask, **draw)
        uniforms = latents["order"][..., 0].masked_fill(~mask, 2.0)
        # Numbers [0.5, 0.9, 0.1] give the order [2, 0, 1] and its inverse, the places [1, 2, 0]:
        # node 0 of the graph was drawn as node 1.
        order = uniforms.argsort(1)
        places = order.argsort(1)
        return graphs.permute(places)
