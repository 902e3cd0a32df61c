"""Support that completes nodes: of a model that knows the environments of nodes.

A node on the path whose state is not complete has *missing* edges: the least number of further ones
that complete it. Nodes to come must bring them:

- Some can only lead to an *end*, a node that gets no other edge. Each takes a node to come.
- The *rest* may be closures of the nodes to come, each of which brings a node at most one.

So with L nodes to come beyond the ends that all nodes on the path need, the rest of each node on
the path must be at most L.

For example, let nodes n be known only with three edges: to two nodes a, and to an end o. Then n is
missing three edges at first, one of them to an end. In the path a-n with two nodes to come, one of
them must be the end o, so that L is 1, and the rest of n is 1: the other one must be an a that is
attached to n. The path a-n-a with one node to come can only go on with an o attached to n: n may
not be left by going on from the second a, nor can another node be the last one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from graphcnf.graphs.path.depth_first import DepthFirstCode, Role
from graphcnf.graphs.path.environments import MOST_EDGES, Environments
from graphcnf.graphs.path.node_states import UNKNOWN
from graphcnf.graphs.path.support import Support, UndecidedNodes

NEVER = 1 << 14
"""More missing edges than any number of nodes can bring."""


@dataclass
class Missing:
    """Missing edges around M new nodes.

    Attributes:
        ends: Ends that all nodes on the path and the new one need, (M,) long.
        rest: Largest rest of a node on the path before the new one, (M,) long.
        last: Column in `UndecidedNodes.state` of the last node with missing edges, (M,) long; -1
            if all are complete.
    """

    ends: Tensor
    rest: Tensor
    last: Tensor

    def __getitem__(self, rows: Tensor) -> Missing:
        """Return those of K of the M nodes; `rows` are their indices, (K,) long."""
        return Missing(self.ends[rows], self.rest[rows], self.last[rows])


class CompletingSupport(Support):
    """`Support` that leaves a node only when it is complete.

    Beyond the values that `Support` rules out, impossible is to leave a node with missing edges,
    and what would leave more missing edges than the nodes to come can bring. Where this leaves
    nothing, it gives way, and drawing may leave a node incomplete: what is checked is necessary,
    but not always enough.

    Args:
        code: The variables of a node.
        edge_weights: Weight of each edge category.
        environments: Arguments of `Environments`.

    Attributes:
        environments: The known environments.
        ends, rest: Missing edges of a node in each state: those to ends, and the others, (S,) long.
        change: By how many the ends change when a new node is attached, indexed as
            `Support.attaches`; `NEVER` where it cannot be.
        change_by, change_at: Its least over categories, and over edges as well.
        helps: Kinds of edges to a neighbour of category c after which a node in state s has less
            rest and needs no more ends, (S, C) long, their bits added up.
        labels: All labels, (E + 1,) long.

    Raises:
        UserError: if `environments` are none, or not of these categories.
    """

    ends: Tensor
    rest: Tensor
    change: Tensor
    change_by: Tensor
    change_at: Tensor
    helps: Tensor
    labels: Tensor

    def __init__(self, code: DepthFirstCode, edge_weights: list[int], environments: Any):
        _, edges, categories = code.cardinalities[:3]
        known = Environments.of(environments, categories, edges - 1)
        super().__init__(code, known.states(edge_weights), limited=True)
        self.environments = known
        self.set_tables(**self._missing())

    def _missing(self) -> dict[str, Tensor]:
        """Return the tables of missing edges."""
        after, leaf, fits = self.states.after, self.leaf, self.attaches[0]
        is_end = (after[:, 1:] == UNKNOWN).flatten(1).all(1)
        missing = self._least(torch.where(fits, 1, NEVER))
        ends = self._least(torch.where(fits, is_end[leaf].long(), NEVER))
        rest = missing - ends
        change = ends[after] - ends[:, None, None] + ends[leaf]
        change[UNKNOWN, 0] = ends[self.states.first]
        # The sum of two `NEVER` would not fit into 16 bits.
        change = torch.where(self.attaches, change, NEVER).clamp(max=NEVER).short()
        fewer = (rest[after] < rest[:, None, None]) & (ends[after] <= ends[:, None, None])
        fewer = fewer & (after != UNKNOWN)
        helps = torch.zeros_like(self.takes)
        for label, bit in enumerate(self.kind.tolist()):
            helps |= torch.where(fewer[:, label], bit, 0)
        return {
            "ends": ends,
            "rest": rest,
            "change": change,
            "change_by": change.amin(3),
            "change_at": change.amin((2, 3)),
            "helps": helps,
            "labels": torch.arange(len(self.kind)),
        }

    def _least(self, cost: Tensor) -> Tensor:
        """Return the least cost of further edges that complete a node in each state, (S,) long.

        Args:
            cost: Cost of each edge, indexed as `leaf`.
        """
        least = torch.where(self.states.complete, 0, NEVER)
        for _ in range(MOST_EDGES):
            least = least.minimum((least[self.states.after] + cost).amin((1, 2)))
        return least

    def new_nodes(self, state: Tensor, depth: Tensor, to_come: Tensor) -> UndecidedNodes:
        new = super().new_nodes(state, depth, to_come)
        ends, rest = self.ends[new.state], self.rest[new.state]
        column = torch.arange(state.shape[1], device=state.device)
        last = torch.where(ends + rest > 0, column, -1).amax(1)
        return replace(new, missing=Missing(ends.sum(1), rest.amax(1), last))

    def allowed(self, new: UndecidedNodes) -> Tensor:
        if not new.x:
            possible, fits = self._complete_backtracks(new)
        elif len(new.x) < 3:
            possible, fits = self._complete_nodes(new)
        else:
            possible = super().allowed(new)
            fits = possible & self._closings(new, possible)
        # Where nothing can be completed, what is possible at all; as in `Support`, never nothing.
        return _if_any(_if_any(fits, possible), torch.ones_like(fits))

    def _complete_backtracks(self, new: UndecidedNodes) -> tuple[Tensor, Tensor]:
        """Return which backtracks are possible at all, and after which all can be completed.

        Returns:
            (M, P) bool each.
        """
        column = self.columns(new)
        needed, state = self.at(new, column)
        change = self.change_at[needed, state]
        possible = self.reached(new, state) & (change < NEVER)
        # All nodes below the parent are left.
        fits = possible & (column >= new.missing.last[:, None])
        fits = fits & (change <= (new.to_come - new.missing.ends)[:, None])
        row, value = (fits & self._few(new)[:, None]).nonzero(as_tuple=True)
        at = (table[row, value, None] for table in (column, needed, state))
        fits[row, value] = self._whole(new[row], *at).flatten(1).any(1)
        return possible, fits

    def _complete_nodes(self, new: UndecidedNodes) -> tuple[Tensor, Tensor]:
        """Return which edges to the parent, or then categories, are possible, and can be completed.

        Returns:
            (M, E + 1) or (M, C) bool each.
        """
        column = self.column(new)
        needed, state = self.at(new, column)
        if len(new.x) == 1:
            change = self.change_by[needed[:, 0], state[:, 0]]
        else:
            change = self.change[needed[:, 0], state[:, 0], new.edge]
        possible = change < NEVER
        fits = possible & (change <= (new.to_come - new.missing.ends)[:, None])
        row = self._few(new).nonzero()[:, 0]
        whole = self._whole(new[row], *(table[row] for table in (column, needed, state)))
        fits[row] &= whole.any(2) if len(new.x) == 1 else whole[:, 0]
        return possible, fits

    def _few(self, new: UndecidedNodes) -> Tensor:
        """Return where so few nodes are to come that all choices for the new one are compared."""
        left = new.to_come - new.missing.ends
        return (left < new.missing.rest) | (left <= 0)

    def _whole(self, new: UndecidedNodes, column: Tensor, needed: Tensor, state: Tensor) -> Tensor:
        """Return which new nodes leave no more missing edges than nodes to come can bring.

        Closures of the new node can bring some. Of other nodes, only the last one of those with
        the largest rest is looked at.

        Args:
            new: The M new nodes.
            column: Columns of their parents in `UndecidedNodes.state`, (M, 1) long.
            needed: Room that is needed there, as `Support.at` returns it, (M, 1) long.
            state: States of their parents, (M, 1) long.

        Returns:
            (M, L, C) bool: by category, and by label of the edge to the parent, of which there are
            E + 1, or one if it is decided.
        """
        label = new.edge[:, None] if len(new.x) == 2 else self.labels
        after, leaf = self.states.after[state, label], self.leaf[state, label]
        left = (new.to_come - new.missing.ends)[:, None, None] + self.ends[state][..., None]
        left = left - self.ends[after] - self.ends[leaf]
        most, last = (table.gather(1, column - 1) for table in self.rest[new.state].cummax(1))
        far = new.state.gather(1, last)
        kinds = self.takes[leaf, self.states.category[far][..., None]]
        helped = ((kinds & self.helps[far]) > 0).long()
        fits = (self.rest[after] <= left) & (self.rest[leaf] < left + self.entries)
        return self.attaches[needed, state, label] & fits & (most[..., None] <= left + helped)

    def _closings(self, new: UndecidedNodes, possible: Tensor) -> Tensor:
        """Return which values of a closure's length or edge can be completed, (M, C) bool."""
        fits = torch.ones_like(possible)
        most = new.missing.rest.maximum(self.rest[new.own])
        rows = (most > new.to_come - new.missing.ends).nonzero()[:, 0]
        if len(rows):
            closes, done = self._close(new[rows])
            if new.variable.role is Role.LENGTH:
                fits[rows] = torch.cat([done, closes.any(2)[:, 1:]], 1)
            else:
                fits[rows] = (new.x[-1][rows, None] == 0) | closes[:, 0]
        return fits

    def _close(self, new: UndecidedNodes) -> tuple[Tensor, Tensor]:
        """Return by which closures no node is passed over that nodes to come cannot complete.

        Closures of a node lead further and further up. A node on the path *waits* if its rest is
        larger than the number of nodes to come, and it needs a closure of the new node.

        Args:
            new: M new nodes with `left` nodes to come beyond the ends.

        Returns:
            Whether a closure of each length, or of the length that is decided, may have each label,
            (M, C or 1, E + 1) bool; and whether there may be no further closure, (M, 1) bool.
        """
        k, left = len(new.x), (new.to_come - new.missing.ends)[:, None]
        column = torch.arange(new.state.shape[1], device=left.device)
        parent, edge_next = self.column(new), new.variable.role is Role.CLOSING_EDGE
        lengths = new.x[3 : k - 1 : 2] if edge_next else new.x[3:k:2]
        before = parent + 1 - lengths[-1][:, None] if lengths else parent
        waits = (column < before) & (self.rest[new.state] > left)
        nearest = torch.where(waits, column, 0).amax(1, keepdim=True)
        if edge_next:
            length = new.x[-1][:, None]
        else:
            length = torch.arange(self.cardinalities[k], device=left.device).expand(len(left), -1)
        far, category, there = self.far(new, length), new.category[:, None], parent + 1 - length
        enough = self.rest[self.states.after[far, :, category]] <= left[..., None]
        # After a closure to a lower node, the new one must still be able to get that edge.
        waiting = new.state.gather(1, nearest)
        own = self.states.after[new.own[:, None], :, self.states.category[far]]
        kinds = self.takes[own, self.states.category[waiting][..., None]]
        later = ((kinds & self.helps[waiting, category][..., None]) > 0) | (nearest == 0)[..., None]
        fits = torch.where((there == nearest)[..., None], enough, later)
        fits = fits & (there >= nearest)[..., None]
        fits = fits & ((self.closures(new, length)[..., None] & self.kind) > 0)
        return fits, (nearest == 0) & (self.rest[new.own][:, None] <= left)

    def add(self, new: UndecidedNodes, x: Tensor) -> UndecidedNodes:
        after, missing = super().add(new, x), new.missing
        role, states, ends = new.variable.role, self.states, self.ends
        if role is Role.CATEGORY:
            parent = new.state.gather(1, self.column(new))[:, 0]
            changed = ends[states.after[parent, new.edge, x]] - ends[parent] + ends[after.own]
        elif role is Role.CLOSING_EDGE:
            far = self.far(new, new.x[-1][:, None])[:, 0]
            changed = ends[states.after[far, x, new.category]] - ends[far]
            changed = changed + ends[after.own] - ends[new.own]
        else:
            return after
        return replace(after, missing=replace(missing, ends=missing.ends + changed))


def _if_any(fits: Tensor, others: Tensor) -> Tensor:
    """Return `fits` (M, C) bool, but rows of `others` where it allows nothing."""
    return torch.where(fits.any(1, keepdim=True), fits, others)
