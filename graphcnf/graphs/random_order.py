"""Base of the graph models without a preferred node order: the order is drawn, as a latent."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from graphcnf.categorical.autoregressive import AnyNetwork
from graphcnf.categorical.categorical_flow import Bound
from graphcnf.flows.base import draw_uniform
from graphcnf.flows.transform import Generators, Noise, draw_noise
from graphcnf.graphs.batch import GraphBatch, Latents
from graphcnf.graphs.coded import CodedModel
from graphcnf.graphs.graph_model import StochasticModel


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
