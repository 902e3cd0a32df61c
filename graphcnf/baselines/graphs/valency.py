"""The valency check of GraphAF: an edge that a node has no place for is drawn again."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphcnf.flows.base import Generators, draw_normal

DRAWS = 50
"""Draws before an edge is left out."""


class ValencyCheck(nn.Module):
    """Rejects edges that give a node more than the largest sum of edge weights of its category.

    It is a rule of sampling that no density is part of: what it lets pass is not a raw sample.

    Args:
        edge_weights: Weight of each edge category (for molecules: bond orders).
        largest_sums: Largest sum of edge weights of each node category.
    """

    weights: Tensor
    sums: Tensor

    def __init__(self, edge_weights: list[int], largest_sums: list[int]):
        super().__init__()
        self.least = min(edge_weights)
        self.register_buffer("weights", torch.tensor([0, *edge_weights]), persistent=False)
        self.register_buffer("sums", torch.tensor(largest_sums), persistent=False)

    def room(self, types: Tensor, bonds: Tensor) -> Tensor:
        """Largest weight (B,) that an edge between nodes may have.

        Args:
            types: Categories of its two ends, (B, 2) long.
            bonds: 1 + category of their edges so far, 0 for none, (B, 2, N) long.
        """
        return (self.sums[types] - self.weights[bonds].sum(-1)).amin(-1)

    def redraw(
        self, kind: Tensor, room: Tensor, mean: Tensor, log_scale: Tensor, generator: Generators
    ) -> Tensor:
        """Kinds (B,) that fit: as given, or else from up to 50 new draws, or else 0, no edge.

        Args:
            kind: 1 + category of an edge, 0 for none, (B,) long.
            room: Largest weight, (B,).
            mean: Of the edge's vector, (B, R + 1).
            log_scale: Of it, temperature included, (B, R + 1).
            generator: See `draw_normal`.
        """
        # Without any room there will be no edge, however often it is drawn.
        kind = torch.where(room < self.least, 0, kind)
        for _ in range(DRAWS):
            rows = (self.weights[kind] > room).nonzero()[:, 0]
            if not len(rows):
                return kind
            own = generator
            if generator is not None and not isinstance(generator, torch.Generator):
                own = [generator[row] for row in rows.tolist()]
            z = draw_normal(
                (len(rows), mean.shape[1]), generator=own, device=mean.device, dtype=mean.dtype
            )
            again = (mean[rows] + torch.exp(log_scale[rows]) * z).argmax(-1)
            kind = kind.index_copy(0, rows, again)
        return torch.where(self.weights[kind] > room, 0, kind)
