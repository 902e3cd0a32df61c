"""Which categories are possible for a node, given the nodes before it and its earlier variables.

Two things make a category impossible. It would stand for no graph: a step or a closure beyond the
first node, closures that do not grow, the category of an edge that is not there. Or, where the
model has a table of the largest sums, it would give a node a larger sum of edge weights than nodes
of its category ever have in the training data (for molecules: bond orders). With such a table some
node within the reach of the next one must keep a place, while nodes are still to come, so that no
graph ends in a dead end.

What is impossible has probability 0 in the density, which stays normalised: nothing is drawn twice.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.errors import UserError
from graphcnf.graphs.packed import PackedGraphs
from graphcnf.graphs.path.code import AtomCode
from graphcnf.graphs.path.walk import Path


class Support(nn.Module):
    """Makes `Choices` for the nodes of a model.

    Args:
        code: The variables.
        edge_weights: Weight of each edge category, the smallest of them 1.
        largest_sums: Largest sum of edge weights for each node category; None for no limit.

    Raises:
        UserError: if the tables do not fit the categories, or no graph of three nodes fits them.
    """

    weights: Tensor
    sums: Tensor

    def __init__(self, code: AtomCode, edge_weights: list[int], largest_sums: list[int] | None):
        super().__init__()
        _, edges, categories = code.cardinalities[:3]
        if len(edge_weights) != edges - 1 or min(edge_weights) != 1:
            raise UserError(f"edge_weights: {edges - 1} whole numbers, the smallest of them 1")
        if largest_sums is not None and (len(largest_sums) != categories or max(largest_sums) < 2):
            raise UserError(f"largest_sums: {categories} whole numbers, one of them 2 or more")
        self.reach = code.cardinalities[0] - 1
        # Whether the next node can still go on from the parent of this one.
        self.branches = min(self.reach, 1)
        self.cardinalities = code.cardinalities
        self.limited = largest_sums is not None
        sums = largest_sums if self.limited else [0] * categories
        self.register_buffer("weights", torch.tensor([0, *edge_weights]), persistent=False)
        self.register_buffer("sums", torch.tensor(sums), persistent=False)

    @staticmethod
    def measure(graphs: PackedGraphs, node_categories: int, edge_weights: list[int]) -> list[int]:
        """The largest sum of edge weights that nodes of each category have."""
        weight = np.asarray(edge_weights)[graphs.bond_types]
        first = np.repeat(graphs.node_starts[:-1], graphs.edge_counts)
        sums = np.zeros(len(graphs.node_types), dtype=np.int64)
        for end in graphs.edges.T:
            np.add.at(sums, first + end, weight)
        largest = np.zeros(node_categories, dtype=np.int64)
        np.maximum.at(largest, graphs.node_types, sums)
        return largest.tolist()

    @classmethod
    def limits(
        cls,
        graphs: PackedGraphs,
        *,
        node_categories: int,
        bond_categories: int,
        edge_weights: list[int] | None = None,
        support: bool = True,
    ) -> dict[str, list[int] | None]:
        """What steps with such a limit take: `edge_weights`, and `largest_sums` of some graphs.

        Args:
            graphs: Every graph that is to be possible.
            node_categories: Number of node categories.
            bond_categories: Number of edge categories.
            edge_weights: Weight of each edge category; 1 each when None.
            support: Whether there is a limit; None as `largest_sums` without.
        """
        weights = [1] * bond_categories if edge_weights is None else list(edge_weights)
        sums = cls.measure(graphs, node_categories, weights) if support else None
        return {"edge_weights": weights, "largest_sums": sums}

    def choices(self, path: Path, remaining: Tensor) -> Choices:
        """For R nodes: the paths before them, and how many nodes come after each, (R,) long."""
        return Choices(self, path, remaining)


class Choices:
    """Possible categories of R nodes, variable by variable; made by `Support.choices`."""

    def __init__(self, support: Support, path: Path, remaining: Tensor):
        self.support = support
        self.depth = path.depth[:, None]
        self.first = self.depth < 0
        self.last = (remaining == 0)[:, None]
        if support.limited:
            level = torch.arange(path.node.shape[1], device=remaining.device)
            free = (support.sums[path.category] - path.used).clamp(min=0)
            self.free = torch.where(level <= self.depth, free, 0)
            self.below = F.pad(self.free.cumsum(1), (1, 0))

    def __call__(self, previous: list[Tensor]) -> Tensor:
        """Which categories of the variable after the `previous` ones, each (R,) long, are possible.

        Returns:
            (R, cardinality) bool, at least one of them True.
        """
        k = len(previous)
        value = torch.arange(self.support.cardinalities[k], device=self.depth.device)
        x = [p[:, None] for p in previous]
        if k < 3:
            fits = (self._back, self._edge, self._category)[k](value, *x)
        else:
            fits = self._closure(value, x) if k % 2 else self._closure_edge(value, x)
        # Only where what came before was impossible, or there is no node, is nothing possible.
        return fits | ~fits.any(1, keepdim=True) if self.support.limited else fits

    def _back(self, value: Tensor) -> Tensor:
        fits = value <= self.depth
        if self.support.limited:
            parent = (self.depth - value).clamp(min=0)
            rest = self._places(parent) - self.support.branches + self.support.sums.max() - 1
            fits = fits & (self.free.gather(1, parent) > 0) & (self.last | (rest > 0))
        return torch.where(self.first, value == 0, fits)

    def _edge(self, value: Tensor, back: Tensor) -> Tensor:
        fits = (value > 0).expand(len(back), -1)
        if self.support.limited:
            parent, weight = (self.depth - back).clamp(min=0), self.support.weights
            most = self.support.sums.max()
            fits = fits & (weight <= self.free.gather(1, parent)) & (weight <= most)
            rest = self._places(parent) - self.support.branches * weight + most - weight
            fits = fits & (self.last | (rest > 0))
        return torch.where(self.first, value == 0, fits)

    def _category(self, value: Tensor, back: Tensor, edge: Tensor) -> Tensor:
        if not self.support.limited:
            return torch.ones(len(back), len(value), dtype=torch.bool, device=value.device)
        weight = self.support.weights[edge]
        own = self.support.sums - weight
        rest = self._places((self.depth - back).clamp(min=0))
        rest = rest - self.support.branches * weight + own
        return (own >= 0) & (self.last | (rest > 0))

    def _closure(self, value: Tensor, x: list[Tensor]) -> Tensor:
        level = self.depth - x[0] + 1
        fits = (value >= 2) & (value <= level) & ~self.first
        if len(x) > 3:
            fits = fits & (value > x[-2]) & (x[-2] > 0)
        if self.support.limited:
            own, rest = self._left(x)
            far = self.free.gather(1, (level - value).clamp(min=0))
            rest = rest - 1 - (value <= self.support.reach).long()
            fits = fits & (own > 0) & (far > 0) & (self.last | (rest > 0))
        return fits | (value == 0)

    def _closure_edge(self, value: Tensor, x: list[Tensor]) -> Tensor:
        length = x[-1]
        fits = (value > 0).expand(len(length), -1)
        if self.support.limited:
            own, rest = self._left(x[:-1])
            weight = self.support.weights
            level = self.depth - x[0] + 1
            far = self.free.gather(1, (level - length).clamp(min=0))
            rest = rest - weight - torch.where(length <= self.support.reach, weight, 0)
            fits = fits & (weight <= own) & (weight <= far) & (self.last | (rest > 0))
        return torch.where(length == 0, value == 0, fits)

    def _places(self, parent: Tensor) -> Tensor:
        """Places at the levels up to the parent's that a child's successor can go on from."""
        window = (parent + 1 - self.support.reach).clamp(min=0)
        places = self.below.gather(1, parent + 1) - self.below.gather(1, window)
        return places.clamp(min=0)

    def _left(self, x: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Places that the node itself has left, and all within reach of the next one, (R, 1)."""
        weights = self.support.weights
        weight = weights[x[1]]
        own = self.support.sums[x[2]] - weight
        rest = self._places((self.depth - x[0]).clamp(min=0))
        rest = rest - self.support.branches * weight + own
        for length, edge in zip(x[3::2], x[4::2], strict=True):
            weight = weights[edge]
            own = own - weight
            rest = rest - weight - torch.where(length <= self.support.reach, weight, 0)
        return own, rest
