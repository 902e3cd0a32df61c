"""Graph models of a code: categories of each node, and an autoregressive flow over them.

Nodes come in the order of the batch, or in a random one that is a latent of the model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from graphcnf.categorical import Bound
from graphcnf.categorical.autoregressive import AutoregressiveFlow
from graphcnf.flows.base import draw_uniform
from graphcnf.flows.transform import Context, Noise, take
from graphcnf.graphs.batch import GraphBatch, Latents
from graphcnf.graphs.model import GraphModel

# The roles of a node's variables by the three steps of the published model.
STEPS = {"adjacency": ("back", "length"), "bonds": ("edge",), "nodes": ("node",)}


class CodedModel(GraphModel):
    """p(graph) as a product over the variables of a code, node by node.

    Attributes:
        code: One-to-one map of graphs to categories (B, N, V), with `encode`, `decode`, `role` and
            `cardinalities`, see `AtomCode`.
        flow: Flow over the categories.
    """

    code: Any
    flow: AutoregressiveFlow

    @property
    def network(self) -> Any:
        """Network of the conditional probabilities."""
        return self.flow.network

    def bounds(self, batch: GraphBatch, noise: Noise | None = None) -> dict[str, Bound]:
        """Return the exact log-probability of the code by `STEPS`; `noise` is not needed."""
        context = Context(batch.mask, conditions=batch.conditions)
        parts = self.flow.flow.log_probs(self.code.encode(batch), context).sum(1)
        own = [self.code.role(k) for k in range(parts.shape[1])]
        places = {s: [k for k, role in enumerate(own) if role in STEPS[s]] for s in STEPS}
        return {s: Bound.exact(parts[:, place].sum(1)) for s, place in places.items() if place}

    def encode(self, batch: GraphBatch, noise: Noise | None = None) -> Latents:
        """Return latents of the base space, (B, N, V)."""
        context = Context(batch.mask, conditions=batch.conditions, noise=noise)
        return {"atoms": self.flow.encode(self.code.encode(batch), context)}

    def base_sample(self, mask: Tensor, generator=None) -> Latents:
        """Draw latents for graphs with real nodes `mask` (B, N)."""
        shape = (*mask.shape, len(self.code.cardinalities))
        options: dict[str, Any] = {"device": mask.device, "dtype": self.network.initial.dtype}
        return {"atoms": self.flow.base.sample(shape, mask=mask, generator=generator, **options)}

    def decode(self, latents: Latents, mask: Tensor, *, sample: bool = False, **draw) -> GraphBatch:
        """Return graphs of latents, given `conditions` (B, P), temperature and generator."""
        x = self.flow.decode(latents["atoms"], Context(mask, **draw), sample=sample)
        return self.code.decode(x, mask)


class RandomOrder(CodedModel):
    """Graphs in a random order of their nodes, which is a latent: no numbering is preferred.

    Attributes:
        draw_order: Function of adjacency (B, N, N), sizes (B,) and uniforms (B, N, max_nodes) to an
            order (B, N), padding last, and its log-probability (B,). New node i is old node
            `order[i]`.
    """

    orders = ("none",)
    draw_order: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]

    def _ordered(self, batch: GraphBatch, noise: Noise | None) -> tuple[GraphBatch, Tensor, Tensor]:
        """Return graphs in an order, the order and its log-probability."""
        shape, device = (*batch.mask.shape, self.network.max_nodes), batch.mask.device
        uniforms = take(noise, lambda: torch.rand(shape, dtype=torch.float64, device=device))
        order, log_p = self.draw_order(batch.adjacency, batch.sizes, uniforms)
        return batch.permute(order), order, log_p

    def bounds(self, batch: GraphBatch, noise: Noise | None = None) -> dict[str, Bound]:
        """Return the parts of log p(graph, order) - log q(order | graph) for one draw, (B,) nats.

        Over orders its mean is a lower bound on log p(graph), and more in a logsumexp tighten it.
        The graph is that of numbered nodes, all numberings being equally likely.
        """
        graphs, _, log_p = self._ordered(batch, noise)
        numberings = torch.lgamma(batch.sizes + 1.0)
        return {**super().bounds(graphs), "order": Bound.exact(-log_p.to(numberings) - numberings)}

    def encode(self, batch: GraphBatch, noise: Noise | None = None) -> Latents:
        """Return latents of the base space: atoms (B, N, V), and order (B, N, 1), see `decode`."""
        graphs, order, _ = self._ordered(batch, noise)
        uniforms = take(noise, lambda: torch.rand_like(order, dtype=torch.float64))
        uniforms = uniforms.masked_fill(~batch.mask, 2.0).sort(1).values.gather(1, order.argsort(1))
        uniforms = uniforms.masked_fill(~batch.mask, 0.0)[..., None]
        return {**super().encode(graphs, noise), "order": uniforms}

    def base_sample(self, mask: Tensor, generator=None) -> Latents:
        """Draw latents for graphs with real nodes `mask` (B, N)."""
        latents = super().base_sample(mask, generator)
        options = {"mask": mask, "generator": generator, "device": mask.device}
        uniforms = draw_uniform((*mask.shape, 1), dtype=torch.float64, **options)
        return {**latents, "order": uniforms}

    def decode(self, latents: Latents, mask: Tensor, *, sample: bool = False, **draw) -> GraphBatch:
        """Return graphs of latents; a node's rank in "order" is its place in the order drawn."""
        graphs = super().decode(latents, mask, sample=sample, **draw)
        uniforms = latents["order"][..., 0].masked_fill(~mask, 2.0)
        return graphs.permute(uniforms.argsort(1).argsort(1))
