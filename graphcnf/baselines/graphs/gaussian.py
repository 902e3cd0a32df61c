"""Shared parts of variational autoencoders of graphs: a posterior and a message-passing encoder."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.categorical.flow import Bound
from graphcnf.flows.base import StandardNormal
from graphcnf.flows.transform import Noise, log_term_dtype, take

PRIOR = StandardNormal()
"""Density of the latents, p(z)."""


@dataclass
class Gaussian:
    """A diagonal normal density q(z|x).

    Attributes:
        mean: (B, D).
        log_scale: Logarithm of the standard deviation, (B, D).
    """

    mean: Tensor
    log_scale: Tensor

    @classmethod
    def of(cls, parameters: Tensor) -> Gaussian:
        """Build it from the output (B, 2 D) of a network; log-scales lie between -7 and 3."""
        mean, raw = parameters.to(log_term_dtype(parameters)).chunk(2, -1)
        return cls(mean, 5 * torch.tanh(raw / 5) - 2)

    def draw(self, noise: Noise | None = None) -> Tensor:
        """Return a draw mean + scale * e, with e of the standard normal density, (B, D)."""
        # The tape holds uniform numbers, as everywhere.
        u = take(noise, lambda: torch.rand_like(self.mean, dtype=torch.float64))
        e = torch.special.ndtri(u.clamp(1e-12, 1 - 1e-12)).to(self.mean)
        return self.mean + self.log_scale.exp() * e

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density, (B,) nats."""
        return PRIOR.log_prob((z - self.mean) * (-self.log_scale).exp()) - self.log_scale.sum(-1)

    def divergence(self) -> Tensor:
        """KL(q(z|x) | p(z)) to the standard normal density, (B,) nats."""
        twice = self.mean.square() + (2 * self.log_scale).exp() - 1 - 2 * self.log_scale
        return 0.5 * twice.sum(-1)

    def bound(self, z: Tensor) -> Bound:
        """Return the terms of the latents in the bound for one draw: log p(z) and log q(z|x)."""
        zero = torch.zeros_like(z[:, 0])
        return Bound(PRIOR.log_prob(z), zero, self.log_prob(z), torch.ones_like(zero))

    def expected_bound(self, weight: float = 1.0) -> Bound:
        """Return the expected terms times a weight: the divergence, for training."""
        return Bound.exact(-weight * self.divergence())


class GraphEncoder(nn.Module):
    """Node features by rounds of messages along edges, one weight matrix for each edge category.

    h_i <- h_i + MLP(h_i, sum_k sum_{j in N_k(i)} W_k h_j); the MLP normalises its input.

    Args:
        node_categories: Number of node categories.
        bond_categories: Number of edge categories.
        max_nodes: Nodes know their numbers up to here; None where the order means nothing.
        width: Channels of a node.
        layers: Rounds.
    """

    def __init__(
        self,
        node_categories: int,
        bond_categories: int,
        max_nodes: int | None,
        *,
        width: int,
        layers: int,
    ):
        super().__init__()
        self.bond_categories = bond_categories
        self.category = nn.Embedding(node_categories, width)
        self.position = None if max_nodes is None else nn.Embedding(max_nodes, width)
        self.messages = nn.ModuleList(
            nn.Linear(width, bond_categories * width, bias=False) for _ in range(layers)
        )
        self.updates = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(2 * width),
                nn.Linear(2 * width, 2 * width),
                nn.GELU(),
                nn.Linear(2 * width, width),
            )
            for _ in range(layers)
        )

    def forward(
        self, node_types: Tensor, bonds: Tensor, mask: Tensor, known: Tensor | None = None
    ) -> Tensor:
        """Features (B, N, W), 0 where masked, of the graphs of a `GraphBatch`'s tensors.

        `known` (B, N, W) is what else is known of the nodes.
        """
        h = self.category(node_types)
        h = h if known is None else h + known
        if self.position is not None:
            h = h + self.position.weight[: mask.shape[1]]
        kinds = F.one_hot(bonds, self.bond_categories + 1)[..., 1:].flatten(2).to(h.dtype)
        for message, update in zip(self.messages, self.updates, strict=True):
            sent = message(h).unflatten(-1, (self.bond_categories, -1)).flatten(1, 2)
            h = h + update(torch.cat([h, kinds @ sent.to(kinds.dtype)], -1))
        return torch.where(mask[..., None], h, 0)
