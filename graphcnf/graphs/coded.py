"""Graph models that encode a graph as categories of its nodes, with an autoregressive flow.

Nodes come in the order of the batch, or in a random order that is a latent of the model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from graphcnf.categorical import Bound
from graphcnf.categorical.autoregressive import AutoregressiveFlow, Network
from graphcnf.flows.base import draw_uniform
from graphcnf.flows.transform import Context, Noise, take
from graphcnf.graphs.batch import GraphBatch, Latents
from graphcnf.graphs.model import GraphModel

# Roles of a node's variables in each of the three steps of the published model.
STEPS = {"adjacency": ("back", "length"), "bonds": ("edge",), "nodes": ("node",)}


class CodedModel(GraphModel):
    """p(graph) as a product over the variables of a code, node by node.

    Attributes:
        network_classes: Class of the network, then the base class that takes its other arguments.
        code: One-to-one map from graphs to categories (B, N, V), with `encode`, `decode`, `role`
            and `cardinalities`, as in `AtomCode`.
        flow: Flow over these categories.
    """

    network_classes: ClassVar[tuple[Callable[..., Network], ...]]
    code: Any
    flow: AutoregressiveFlow

    @classmethod
    def options(cls) -> tuple[Callable, ...]:
        return cls.network_classes

    @property
    def network(self) -> Any:
        """Network of the conditional probabilities."""
        return self.flow.network

    def bounds(self, batch: GraphBatch, noise: Noise | None = None) -> dict[str, Bound]:
        """Return the exact log-probability of the code, split by `STEPS`; `noise` is ignored."""
        context = Context(batch.mask, conditions=batch.conditions)
        parts = self.flow.flow.log_probs(self.code.encode(batch), context).sum(1)
        own = [self.code.role(k) for k in range(parts.shape[1])]
        places = {s: [k for k, role in enumerate(own) if role in STEPS[s]] for s in STEPS}
        return {s: Bound.exact(parts[:, place].sum(1)) for s, place in places.items() if place}

    def encode(self, batch: GraphBatch, noise: Noise | None = None) -> Latents:
        """Encode graphs to base latents: "atoms" (B, N, V)."""
        context = Context(batch.mask, conditions=batch.conditions, noise=noise)
        return {"atoms": self.flow.encode(self.code.encode(batch), context)}

    def base_sample(self, mask: Tensor, generator=None) -> Latents:
        shape = (*mask.shape, len(self.code.cardinalities))
        options: dict[str, Any] = {"device": mask.device, "dtype": self.network.initial.dtype}
        return {"atoms": self.flow.base.sample(shape, mask=mask, generator=generator, **options)}

    def decode(self, latents: Latents, mask: Tensor, **draw) -> GraphBatch:
        """Decode base latents; `draw` may have `temperature`, `generator`, `conditions` (B, P)."""
        x = self.flow.decode(latents["atoms"], Context(mask, **draw))
        return self.code.decode(x, mask)


class RandomOrder(CodedModel):
    """`CodedModel` whose node order is random and a latent, so that no numbering is preferred.

    Attributes:
        draw_order: Function from adjacency (B, N, N), sizes (B,) and uniform numbers (B, N,
            max_nodes) to an order (B, N), padding last, and its log-probability (B,). New node i is
            old node `order[i]`.
    """

    orders = ("none",)
    draw_order: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]

    def _ordered(self, batch: GraphBatch, noise: Noise | None) -> tuple[GraphBatch, Tensor, Tensor]:
        """Draw an order; return the renumbered graphs, the order and its log-probability."""
        shape, device = (*batch.mask.shape, self.network.max_nodes), batch.mask.device
        uniforms = take(noise, lambda: torch.rand(shape, dtype=torch.float64, device=device))
        order, log_p = self.draw_order(batch.adjacency, batch.sizes, uniforms)
        return batch.permute(order), order, log_p

    def bounds(self, batch: GraphBatch, noise: Noise | None = None) -> dict[str, Bound]:
        """Draw an order; return the terms of log p(graph, order) - log q(order | graph), nats.

        The mean over orders is a lower bound on log p(graph), and a logsumexp of several draws
        tightens the bound. Graphs have numbered nodes; all numberings are equally likely. The term
        "order" is in float64.
        """
        graphs, _, log_p = self._ordered(batch, noise)
        numberings = torch.lgamma(batch.sizes.double() + 1)
        return {**super().bounds(graphs), "order": Bound.exact(-log_p - numberings)}

    def encode(self, batch: GraphBatch, noise: Noise | None = None) -> Latents:
        """Encode graphs to base latents: "atoms" (B, N, V), and "order" (B, N, 1), see `decode`."""
        graphs, order, _ = self._ordered(batch, noise)
        uniforms = take(noise, lambda: torch.rand_like(order, dtype=torch.float64))
        uniforms = uniforms.masked_fill(~batch.mask, 2.0).sort(1).values.gather(1, order.argsort(1))
        uniforms = uniforms.masked_fill(~batch.mask, 0.0)[..., None]
        return {**super().encode(graphs, noise), "order": uniforms}

    def base_sample(self, mask: Tensor, generator=None) -> Latents:
        latents = super().base_sample(mask, generator)
        options = {"mask": mask, "generator": generator, "device": mask.device}
        uniforms = draw_uniform((*mask.shape, 1), dtype=torch.float64, **options)
        return {**latents, "order": uniforms}

    def decode(self, latents: Latents, mask: Tensor, **draw) -> GraphBatch:
        """Decode base latents; the node of rank k in "order" is the k-th node that is drawn."""
        graphs = super().decode(latents, mask, **draw)
        uniforms = latents["order"][..., 0].masked_fill(~mask, 2.0)
        return graphs.permute(uniforms.argsort(1).argsort(1))
