"""Base of the graph models without a preferred node order: the order is drawn at random.

- A *node order* is a permutation of the n nodes of a graph: new node i is old node `order[i]`. A
  model draws the nodes one after the other in this order.
- The order is a *latent variable*, as the noise of a variational autoencoder is: a distribution
  q(order | graph) draws one for a given graph, and log p(graph) is bounded from below by the mean
  of log p(graph, order) - log q(order | graph).
- *Base latents* are continuous variables into which graph and order are encoded. Those of the code
  have a logistic base density, those of the order are uniform.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from graphcnf.categorical.autoregressive_flow import AnyNetwork
from graphcnf.categorical.categorical_flow import Bound
from graphcnf.flows.base import draw_uniform
from graphcnf.flows.transform import Generators, Noise, draw_noise
from graphcnf.graphs.batch import GraphBatch, Latents
from graphcnf.graphs.coded import CodedModel


def bridges(adjacency: Tensor) -> Tensor:
    """Find the bridges of graphs: the edges that lie on no ring.

    All graphs are treated at once by linear algebra. With a resistor of 1 ohm on every edge, the
    resistance between the ends of a bridge is 1 ohm; between the ends of an edge on a ring of n
    nodes it is at most 1 - 1/n.
    """
    conductance = adjacency.double()
    # A small conductance from each node to the ground keeps the matrix invertible.
    grounded = torch.diag_embed(conductance.sum(1) + 1e-6) - conductance
    potential = torch.linalg.inv(grounded)
    itself = potential.diagonal(dim1=1, dim2=2)
    resistance = itself[:, :, None] + itself[:, None] - 2 * potential
    return adjacency & (resistance > 1 - 0.5 / adjacency.shape[1])


def depth_first(adjacency: Tensor, sizes: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Draw random depth-first node orders of connected graphs, in which rings come before branches.

    The first node is any node, each with the same probability. Then the walk goes on from the node
    that it visited last, or backtracks to the last one with unvisited neighbours. It chooses one of
    these neighbours, again with equal probabilities: one to which an edge on a ring leads, if there
    is any. So a ring is closed before branches grow.

    The t-th node of graph b is the possible node i with the smallest `uniforms[b, i, t]`; padding
    comes last. With each order comes its log-probability, nats.
    """
    batch, nodes = adjacency.shape[:2]
    rows, number = (torch.arange(n, device=adjacency.device) for n in (batch, nodes))
    on_ring = adjacency & ~bridges(adjacency)
    unvisited = number < sizes[:, None]
    candidates, depth = unvisited, torch.full_like(unvisited, -1, dtype=torch.long)
    order, level = [], torch.zeros_like(sizes)
    log_p = torch.zeros(batch, dtype=torch.double, device=adjacency.device)
    for t in range(nodes):
        # In a graph that is not connected, any unvisited node; after the last node, padding.
        rest = candidates.any(1, keepdim=True)
        candidates = torch.where(rest, candidates, unvisited)
        candidates = torch.where(candidates.any(1, keepdim=True), candidates, number == t)
        node = uniforms[..., t].masked_fill(~candidates, 2.0).argmin(1)
        log_p = log_p - candidates.sum(1).double().log()
        order.append(node)
        unvisited, depth = unvisited.clone(), depth.clone()
        unvisited[rows, node], depth[rows, node] = False, level
        # The walk goes on from the deepest visited node that has an edge to an unvisited one.
        ahead = adjacency & unvisited[:, None]
        last = torch.where(ahead.any(-1), depth, -1)
        level, current = last.max(1)
        level = level + 1
        candidates = ahead[rows, current] & (level > 0)[:, None]
        rings = candidates & on_ring[rows, current]
        candidates = torch.where(rings.any(1, keepdim=True), rings, candidates)
    return torch.stack(order, 1), log_p


class RandomOrder(CodedModel[AnyNetwork]):
    """Base of graph models that draw the node order at random, so that no order is preferred.

    It is a `CodedModel` for the probability of a graph given its order, and draws an order in each
    evaluation of the bound. A subclass sets `draw_order`, and what `CodedModel` needs.

    Attributes:
        draw_order: Distribution q(order | graph), a function of three tensors: adjacency (B, N, N)
            bool, numbers of nodes (B,) long, and uniform random numbers (B, N, max_nodes) float64.
            It returns node orders (B, N) long, with padding last, and log q of each, (B,) nats.
    """

    stochastic = True
    node_orders = ("none",)
    draw_order: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]

    def _renumber(
        self, batch: GraphBatch, noise: Noise | None
    ) -> tuple[GraphBatch, Tensor, Tensor]:
        """Draw a node order of each graph."""
        shape = (*batch.mask.shape, self.max_nodes)
        uniforms = draw_noise(noise, shape, device=batch.mask.device)
        order, log_p = self.draw_order(batch.adjacency, batch.node_counts, uniforms)
        return batch.permute(order), order, log_p

    def terms(self, batch: GraphBatch, noise: Noise | None = None) -> dict[str, Bound]:
        """Draw a node order of each graph; return log p(graph, order) - log q(order | graph).

        Its mean over orders is a lower bound on log p(graph); `log_prob` tightens it by several
        draws. The graph counts here as one with numbered nodes: the model numbers the nodes that it
        has drawn at random, so that each of the n! numberings is equally likely, which costs log n!
        nats. The graph without numbers is more probable by log(n! / |Aut|) nats, with |Aut| the
        number of its automorphisms.
        """
        graphs, _, log_p = self._renumber(batch, noise)
        numberings = torch.lgamma(batch.node_counts.double() + 1)
        return {**super().terms(graphs), "order": Bound.exact(-log_p - numberings)}

    def to_latents(self, batch: GraphBatch, noise: Noise | None = None) -> Latents:
        """Draw a node order of each graph, and encode graph and order to base latents."""
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
        """Decode base latents to graphs."""
        graphs = super().from_latents(latents, mask, **draw)
        uniforms = latents["order"][..., 0].masked_fill(~mask, 2.0)
        # Numbers [0.5, 0.9, 0.1] give the order [2, 0, 1] and its inverse, the places [1, 2, 0]:
        # node 0 of the graph was drawn as node 1.
        order = uniforms.argsort(1)
        places = order.argsort(1)
        return graphs.permute(places)
