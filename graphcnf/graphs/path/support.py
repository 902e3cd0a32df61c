"""Possible categories of a node, given the nodes before it and its earlier variables.

A category is impossible where it would stand for no graph: a step or a closure beyond the first
node, closures that do not grow, the category of an edge that is not there. Or where, with a table
of the largest sums, it would give a node a larger sum of edge weights than nodes of its category
ever have in the training data (for molecules: bond orders); then some node within the reach of the
next one must keep a place, while nodes are still to come, so that no graph ends in a dead end. What
is impossible has probability 0 in the density, which stays normalised.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.errors import UserError
from graphcnf.graphs.batch import PackedGraphs
from graphcnf.graphs.path.code import AtomCode
from graphcnf.graphs.path.walk import CATEGORY, LEVELS, NODE, USED

# Sum of edge weights that no node reaches, in units of the largest weight: nodes are up to 255.
UNLIMITED = 260


def limit_note(rules: bool) -> str:
    """Return a footnote on the limit on sums of edge weights, which holds with `rules`."""
    if rules:
        return "support of the data: on; no atom gets more bonds than its category has in the data."
    return "support of the data: off."


@dataclass
class Places:
    """Places for edges around M nodes that are to be decided, variable by variable.

    The place of a level is what the sum of the edge weights of its node may still grow by.
    """

    free: Tensor  # at each level of the path, after `Support.pad` columns of 0, (M, W) long
    within: Tensor  # at a level and those above that a child of it could go on from, (M, W) long
    depth: Tensor  # level of the node before, (M,) long; -1 before the first one
    last: Tensor  # True where no node comes after, (M,) bool
    own: Tensor  # left at the node itself, (M,) long; means something from its category on
    rest: Tensor  # left at all nodes that the next node could go on from, (M,) long; as `own`
    x: tuple[Tensor, ...] = ()  # the variables so far, (M,) long each

    def __getitem__(self, rows: Tensor) -> Places:
        """Return the places around some of the nodes."""
        *parts, x = (getattr(self, f.name) for f in fields(self))
        return Places(*(part[rows] for part in parts), tuple(value[rows] for value in x))


class Support(nn.Module):
    """Knows the possible categories of the nodes of a model, from tables of small numbers.

    `edge_weights` are those of the edge categories, the smallest of them 1, `largest_sums` the
    largest sum of each node category, None for no limit. Raises UserError where they do not fit the
    code, or no graph of three nodes fits them.
    """

    weights: Tensor  # of an edge by its category plus 1, 0 for none, (edge categories + 1,) long
    sums: Tensor  # largest sum of edge weights of each node category, (node categories,) long
    fitting_edges: Tensor
    fitting_nodes: Tensor
    fitting_lengths: Tensor

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
        self.pad = max(LEVELS, *code.longest) + 1
        sums = largest_sums or [UNLIMITED * max(edge_weights)] * categories
        self.most = max(sums)
        weights, limits = torch.tensor([0, *edge_weights]), torch.tensor(sums)
        # Edges by the heaviest weight that fits, in the last row no edge at all; node categories by
        # the sum that they have to reach. A row without any belongs to what was impossible before.
        limit = torch.arange(self.most + 2)[:, None]
        fitting = (weights <= limit) & (weights > 0)
        fitting[-1] = weights == 0
        # Lengths of closures by the places left to the next node, up to 3.
        length, rest = torch.arange(max(code.longest) + 1), torch.arange(4)[:, None]
        closing = (rest > 1 + (length <= self.reach).long()) & (length >= 2)
        for name, table in (
            ("weights", weights),
            ("sums", limits),
            ("fitting_edges", _none_is_all(fitting)),
            ("fitting_nodes", _none_is_all(limits >= limit)),
            ("fitting_lengths", closing | (length == 0)),
        ):
            self.register_buffer(name, table, persistent=False)

    @staticmethod
    def limits(
        graphs: PackedGraphs,
        *,
        node_categories: int,
        bond_categories: int,
        edge_weights: list[int] | None = None,
        support: bool = True,
    ) -> dict[str, list[int] | None]:
        """Return `edge_weights` (1 each when None) and, with `support`, `largest_sums`."""
        weights = [1] * bond_categories if edge_weights is None else list(edge_weights)
        if not support:
            return {"edge_weights": weights, "largest_sums": None}
        weight = np.asarray(weights)[graphs.bond_types]
        first = np.repeat(graphs.node_starts[:-1], graphs.edge_counts)
        sums = np.zeros(len(graphs.node_types), dtype=np.int64)
        for end in graphs.edges.T:
            np.add.at(sums, first + end, weight)
        largest = np.zeros(node_categories, dtype=np.int64)
        np.maximum.at(largest, graphs.node_types, sums)
        return {"edge_weights": weights, "largest_sums": largest.tolist()}

    def free(self, tables: Tensor) -> Tensor:
        """Return the places at levels of paths, (...) long, from `Path.tables` (5, ...)."""
        free = (self.sums[tables[CATEGORY]] - tables[USED]).clamp(min=0)
        return torch.where(tables[NODE] > 0, free, 0)

    def places(self, free: Tensor, depth: Tensor, last: Tensor) -> Places:
        """Return the places around nodes none of whose variables is decided; see `Places`."""
        below = F.pad(free.cumsum(1), (1, 0))
        within = below[:, 1:] - F.pad(below, (self.reach, 0))[:, 1 : free.shape[1] + 1]
        return Places(free, within, depth, last, depth, depth)

    def allowed(self, s: Places) -> Tensor:
        """Return the possible categories of the next variable, (M, C) bool, at least one."""
        k = len(s.x)
        role = AtomCode.role(k)
        value = torch.arange(self.cardinalities[k], device=s.depth.device)
        depth, last, first = s.depth[:, None], s.last[:, None], s.depth < 0
        if role == "back":
            fits = (s.free > 0) & (last | (s.within > self.branches + 1 - self.most))
            fits = fits.gather(1, depth - value + self.pad)
            fits[:, 0] |= first
            return _none_is_all(fits)
        parent = (s.depth - s.x[0]).clamp(min=-1)[:, None] + self.pad
        if role == "length":
            rest = torch.where(s.last, 3, s.rest.clamp(0, 3)) * (s.own > 0)
            fits = self.fitting_lengths[rest, : len(value)]
            fits = fits & ((s.free.gather(1, parent + 1 - value) > 0) | (value == 0))
            if k < AtomCode.COMMON:
                return fits
            before = s.x[-2][:, None]
            return fits & ((value > before) & (before > 0) | (value == 0))
        if role == "node":
            weight = self.weights[s.x[1]]
            places = s.within.gather(1, parent.clamp(min=self.pad))[:, 0]
            need = (self.branches * weight - places + 1).clamp(min=0)
            need = weight + torch.where(s.last, 0, need)
            return self.fitting_nodes[need.clamp(max=self.most + 1)]
        if k == 1:
            places = s.within.gather(1, parent)[:, 0]
            limit = torch.where(
                s.last, self.most, (places + self.most - 1) // (1 + self.branches)
            ).minimum(s.free.gather(1, parent)[:, 0])
            return self.fitting_edges[torch.where(first, self.most + 1, limit.clamp(0, self.most))]
        length = s.x[-1]
        shared = 1 + (length <= self.reach).long()
        limit = torch.where(s.last, self.most, (s.rest - 1) // shared)
        far = s.free.gather(1, parent + 1 - length[:, None])[:, 0]
        limit = limit.minimum(s.own).minimum(far).clamp(0, self.most)
        return self.fitting_edges[torch.where(length > 0, limit, self.most + 1)]

    def add(self, s: Places, x: Tensor) -> Places:
        """Return the places after the next variable x (M,)."""
        k, own, rest = len(s.x), s.own, s.rest
        role = AtomCode.role(k)
        if role == "node":
            weight = self.weights[s.x[1]]
            parent = (s.depth - s.x[0]).clamp(min=0) + self.pad
            own = self.sums[x] - weight
            rest = s.within.gather(1, parent[:, None])[:, 0] - self.branches * weight + own
        elif role == "edge" and k > 1:
            weight = self.weights[x]
            own = own - weight
            rest = rest - weight * (1 + (s.x[-1] <= self.reach).long())
        return replace(s, own=own, rest=rest, x=(*s.x, x))


def _none_is_all(fits: Tensor) -> Tensor:
    """Allow all categories in rows (..., C) that allow none."""
    return fits | ~fits.any(-1, keepdim=True)
