"""Support that completes nodes: of a model that knows the environments of nodes.

A node on the path whose state is not complete has *missing* edges: the least number of further ones
that complete it. Nodes to come must bring them:

- Some can only lead to an *end*, a node that gets no other edge. Each takes a node to come.
- The *rest* may be closures of the nodes to come, each of which brings a node at most one.

So with L nodes to come beyond the ends that all nodes on the path need, the rest of each node on
the path must be at most L. These L nodes are *free*.

For example, let nodes n be known only with three edges: to two nodes a, and to an end o. Then n is
missing three edges at first, one of them to an end. In the path a-n with two nodes to come, one of
them must be the end o, so that L is 1, and the rest of n is 1: the other one must be an a that is
attached to n. The path a-n-a with one node to come can only go on with an o attached to n: n may
not be left by going on from the second a, nor can another node be the last one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from graphcnf.graphs.path.depth_first import DepthFirstCode, VariableRole
from graphcnf.graphs.path.node_states import MOST_EDGES, UNKNOWN, Environments
from graphcnf.graphs.path.support import Support, UndecidedNodes, room_index

NEVER = 1 << 14
"""More missing edges than any number of nodes can bring."""


class CompletingSupport(Support):
    """`Support` that leaves a node only when it is complete.

    Beyond the values that `Support` rules out, impossible is to leave a node with missing edges,
    what would leave more missing edges than the nodes to come can bring, and what would leave no
    place for the free ones of them. Where this leaves nothing, it gives way, and drawing may leave
    a node incomplete: what is checked is necessary, but not always enough.

    In `UndecidedNodes`, `ends` are those that all nodes on the path and the new one need, `rest` is
    the largest rest of a node on the path before the new one, and `last` the column in `state` of
    the last node with missing edges, 0 if all are complete.

    Args:
        code: The variables of a node.
        edge_weights: Weight of each edge category.
        environments: Arguments of `Environments`.

    Attributes:
        environments: The known environments.
        ends, rest: Missing edges of a node in each state: those to ends, and the others, (S,) long.
        helps: Kinds of edges to a neighbour of category c after which a node in state s has less
            rest and needs no more ends, (S, C) long, their bits added up.
        way_count, first_way: How many ways there are to attach a new node to a node in each state,
            and the number of the first of all A ways, (S,) long. A way is a label and a category.
        way_label, way_category, way_state: Label of the edge, and category and state of the new
            node, of each way, (A,) long.
        way_needs_free: Least number of free nodes before a way with which both ends can be
            completed, and there is as much room as `ROOMS` says, (ROOMS, A) long.
        way_uses_free: By how many free nodes there are fewer after a way, (A,) long.
        free_to_attach: Least number of free nodes with which one of them can be attached to a node
            in each state, (S,) long.
        way_leaves_to_attach: The least entry of `free_to_attach` of both ends after a way, (A,)
            long.
        surely_attaches: Whether a new node can be attached to a node in each state for certain if
            all other nodes are complete, first with -1 free nodes (the new node must be an end),
            then with 0 to `most` - 1, (most + 1, S) bool.
        most: Largest number of free nodes that a way needs.

    Raises:
        UserError: if `environments` are malformed, or not of these categories.
    """

    rest: Tensor
    helps: Tensor
    way_count: Tensor
    first_way: Tensor
    way_label: Tensor
    way_category: Tensor
    way_state: Tensor
    way_needs_free: Tensor
    way_uses_free: Tensor
    free_to_attach: Tensor
    way_leaves_to_attach: Tensor
    surely_attaches: Tensor

    def __init__(self, code: DepthFirstCode, edge_weights: list[int], environments: Any):
        known = Environments.of(environments, code.node_categories, code.edge_categories)
        super().__init__(code, known.states(edge_weights), limited=True)
        self.environments = known
        self._set_missing()
        self._set_ways()

    def _set_missing(self) -> None:
        """Set the missing edges of each state, and which kinds of closures bring some."""
        after = self.states.after
        is_end = (after[:, 1:] == UNKNOWN).flatten(1).all(1)
        attaches = self.attaches[0]
        incomplete = torch.where(self.states.complete, 0, NEVER)
        missing = self._least(incomplete, torch.where(attaches, 1, NEVER))
        ends = self._least(incomplete, torch.where(attaches, is_end[self.leaf].long(), NEVER))
        rest = missing - ends
        # Axes: state of the node, label of the edge, category of its other end.
        has_less_rest = rest[after] < rest[:, None, None]
        needs_no_more_ends = ends[after] <= ends[:, None, None]
        brings = has_less_rest & needs_no_more_ends & (after != UNKNOWN)
        helps = torch.zeros_like(self.takes)
        for label, bit in enumerate(self.kind.tolist()):
            helps |= torch.where(brings[:, label], bit, 0)
        self.set_tables(ends=ends, rest=rest, helps=helps)

    def _set_ways(self) -> None:
        """Set what each way to attach a new node needs, and leaves."""
        # Axes: state of the parent, label of the edge, category of the new node.
        after = self.states.after
        leaf = self.leaf
        attaches = self.attaches[0]
        more_ends = self.ends[after] - self.ends[:, None, None]
        used = more_ends + self.ends[leaf]
        # Each closure brings the new node an edge, and each free node one to each other node.
        needed = used + self.rest[after].maximum(self.rest[leaf] - self.entries + 1)
        to_attach = torch.where(attaches, 1 + needed, NEVER).amin((1, 2))
        to_attach[UNKNOWN] = NEVER
        to_attach = self._least(to_attach, more_ends.clamp(min=0))
        to_attach_after = to_attach[after].minimum(to_attach[leaf])
        # How many nodes are free after each way, if -1, 0, 1, ... are before it.
        self.most = max(1, int(needed[attaches].max()))
        free = torch.arange(-1, self.most)[:, None, None, None] - used
        completes_both = free >= self.rest[after].maximum(self.rest[leaf])
        finds_place = (free == 0) | (free >= to_attach_after)
        surely = attaches & completes_both & finds_place
        counts = attaches.flatten(1).sum(1)
        _, labels, categories = attaches.nonzero(as_tuple=True)
        self.set_tables(
            way_count=counts,
            first_way=counts.cumsum(0) - counts,
            way_label=labels,
            way_category=categories,
            way_state=leaf[attaches],
            way_needs_free=torch.where(self.attaches, needed, NEVER)[:, attaches],
            way_uses_free=used[attaches],
            free_to_attach=to_attach,
            way_leaves_to_attach=to_attach_after[attaches],
            surely_attaches=surely.flatten(2).any(2),
        )

    def _least(self, least: Tensor, cost: Tensor) -> Tensor:
        """Return the least cost of any number of further edges at a node in each state, (S,) long.

        Args:
            least: Cost without further ones, (S,) long.
            cost: Cost of each edge, indexed as `leaf`.
        """
        for _ in range(MOST_EDGES):
            least = least.minimum((least[self.states.after] + cost).amin((1, 2)))
        return least

    def new_nodes(self, state: Tensor, depth: Tensor, to_come: Tensor) -> UndecidedNodes:
        new = super().new_nodes(state, depth, to_come)
        ends = self.ends[new.state]
        rest = self.rest[new.state]
        column = torch.arange(state.shape[1], device=state.device)
        last = (column * (ends + rest > 0)).amax(1)
        return replace(new, ends=ends.sum(1), rest=rest.amax(1), last=last)

    def backtracks(self, new: UndecidedNodes) -> Tensor:
        possible = super().backtracks(new)
        column = self.backtrack_columns(new)
        # All nodes below the parent are left for good.
        fits = possible & (column >= new.last[:, None])
        # Only where few nodes are to come, and it is not sure, the ways to attach are compared.
        row, back = (fits & self._has_few_to_come(new)[:, None]).nonzero(as_tuple=True)
        unsure = ~self._is_sure(new, row, column[row, back])
        row = row[unsure]
        back = back[unsure]
        which, _ = self._ways_to_attach(new, row, column[row, back])
        fits[row, back] = False
        fits[row[which], back[which]] = True
        return _if_any(fits, possible)

    def attachments(self, new: UndecidedNodes) -> Tensor:
        fits = super().attachments(new)
        row = self._has_few_to_come(new).nonzero()[:, 0]
        possible = fits[row].flatten(1)
        whole = torch.zeros_like(possible)
        which, way = self._ways_to_attach(new, row, self.parent_column(new)[row, 0])
        whole[which, self.way_label[way] * fits.shape[2] + self.way_category[way]] = True
        fits[row] = _if_any(whole, possible).unflatten(1, fits.shape[1:])
        return fits

    def _free(self, new: UndecidedNodes) -> Tensor:
        """Return the numbers of free nodes: those to come beyond the ends, (M,) long."""
        return new.to_come - new.ends

    def _has_few_to_come(self, new: UndecidedNodes) -> Tensor:
        """Return where so few nodes are to come that the ways to attach new ones are compared."""
        return self._free(new) < self.most + new.rest

    def _is_sure(self, new: UndecidedNodes, row: Tensor, column: Tensor) -> Tensor:
        """Return where new nodes can be attached for certain, without comparing the ways.

        Args:
            new: The M new nodes.
            row: Which of them, K times, (K,) long.
            column: Columns of their parents in `UndecidedNodes.state`, (K,) long.

        Returns:
            (K,) bool.
        """
        free = self._free(new).clamp(-1, self.most - 1)[row]
        others_are_complete = new.rest[row] == 0
        others_have_room = new.to_come[row] <= new.room_elsewhere[row, column]
        return (
            self.surely_attaches[free + 1, new.state[row, column]]
            & others_are_complete
            & others_have_room
        )

    def _ways_to_attach(
        self, new: UndecidedNodes, row: Tensor, column: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Find the ways to attach new nodes, after which nodes to come can bring what is missing.

        Args:
            new: The M new nodes.
            row: Which of them, K times, (K,) long.
            column: Columns of their parents in `UndecidedNodes.state`, (K,) long.

        Returns:
            Which of the K, and the number of the way, (L,) long each.
        """
        free = self._free(new)[row]
        needed = room_index(new.to_come[row] - new.room_elsewhere[row, column])
        # All ways by the state of the parent, those of one of the K after those of the one before.
        parent = new.state[row, column]
        count = self.way_count[parent]
        which = torch.repeat_interleave(count)
        start = self.first_way[parent] - (count.cumsum(0) - count)
        way = torch.arange(len(which), device=row.device) + start[which]
        possible = self.way_needs_free[needed[which], way] <= free[which]
        which = which[possible]
        way = way[possible]
        free = free[which] - self.way_uses_free[way]
        whole = self._completes(new, row[which], column[which], self.way_state[way], free)
        # The free nodes must find a place: at one of both ends, or at a node above.
        above = self.free_to_attach[new.state[row]].cummin(1).values.gather(1, column[:, None] - 1)
        to_attach = self.way_leaves_to_attach[way].minimum(above[which, 0])
        whole &= (free == 0) | (free >= to_attach)
        return which[whole], way[whole]

    def _most_rest_above(
        self, new: UndecidedNodes, row: Tensor, column: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the largest rest of nodes above columns, and the column of the last that has it.

        Args:
            new: The M new nodes.
            row: Which of them, (K,) long; fastest in ascending order.
            column: Columns in `UndecidedNodes.state`, (K,) long.

        Returns:
            (K,) long each.
        """
        rows, which = row.unique_consecutive(return_inverse=True)
        # Of several with the largest rest, `cummax` names the last one.
        most, last = self.rest[new.state[rows]].cummax(1)
        return most[which, column - 1], last[which, column - 1]

    def _completes(
        self, new: UndecidedNodes, row: Tensor, column: Tensor, own: Tensor, free: Tensor
    ) -> Tensor:
        """Return whether new nodes and the nodes above some column can be completed.

        Closures of the new node can help. Of the other nodes, only the last one of those with the
        largest rest is looked at.

        Args:
            new: The M new nodes.
            row: Which of them, (K,) long; fastest in ascending order.
            column: Column above which their further closures lead, (K,) long.
            own: Their states, (K,) long.
            free: Numbers of free nodes after them, (K,) long.

        Returns:
            (K,) bool.
        """
        most, last = self._most_rest_above(new, row, column)
        fits = most <= free + self._helps(own, new.state[row, last])
        # Where the new node itself misses too many, a node above must help it.
        late = (self.rest[own] > free).nonzero()[:, 0]
        above = torch.arange(new.state.shape[1], device=row.device) < column[late, None]
        far = torch.where(above, new.state[row[late]], UNKNOWN)
        fits[late] &= self._helps(far, own[late, None]).any(1)
        return fits

    def _helps(self, own: Tensor, other: Tensor) -> Tensor:
        """Return whether a closure is possible that leaves the other node with less missing edges.

        Args:
            own: States of some nodes.
            other: States of the other nodes, of the same shape.

        Returns:
            Bool, of the same shape.
        """
        category = self.states.category
        return (self.takes[own, category[other]] & self.helps[other, category[own]]) > 0

    def allowed(self, new: UndecidedNodes) -> Tensor:
        possible = super().allowed(new)
        if new.variable.edge_number == 0:
            return possible
        most = new.rest.maximum(self.rest[new.own_state])
        row = (most > self._free(new)).nonzero()[:, 0]
        if len(row):
            fits = possible[row] & self._completing_closures(new[row])
            possible[row] = _if_any(fits, possible[row])
        return possible

    def _completing_closures(self, new: UndecidedNodes) -> Tensor:
        """Return which lengths or edges of closures pass over no node that must be completed.

        Closures of a node lead further and further up. A node on the path *waits* if its rest is
        larger than the number of free nodes, and it needs a closure of the new node.

        Args:
            new: M new nodes.

        Returns:
            (M, C) bool.
        """
        free = self._free(new)
        edge_next = new.variable.role is VariableRole.CLOSING_EDGE
        if edge_next:
            length = new.closure_lengths[-1][:, None]
        else:
            length = torch.arange(self.cardinalities[new.count], device=free.device)
            length = length.expand(len(free), -1)
        parent = self.parent_column(new)
        before = new.closure_lengths[:-1] if edge_next else new.closure_lengths
        lowest = parent[:, 0] + 1 - before[-1] if before else parent[:, 0]
        every_row = torch.arange(len(free), device=free.device)
        most, waiting = self._most_rest_above(new, every_row, lowest)

        fits = (self.closing_kinds(new, length)[..., None] & self.kind) > 0
        row, n, label = fits.nonzero(as_tuple=True)
        column = (parent + 1 - length)[row, n]
        far = new.state[row, column]
        own = new.own_state[row]
        far_after = self.states.after[far, label, new.category[row]]
        own_after = self.states.after[own, label, self.states.category[far]]
        passes_none = (most <= free)[row] | (waiting[row] <= column)
        is_enough = self.rest[far_after] <= free[row]
        completes = self._completes(new, row, column, own_after, free[row])
        fits[row, n, label] = passes_none & is_enough & completes
        if edge_next:
            return fits[:, 0] | (length == 0)
        none_waits = (most <= free) & (self.rest[new.own_state] <= free)
        return torch.cat([none_waits[:, None], fits.any(2)[:, 1:]], 1)


def _if_any(fits: Tensor, others: Tensor) -> Tensor:
    """Return `fits` (M, C) bool, but rows of `others` where it allows nothing."""
    return torch.where(fits.any(1, keepdim=True), fits, others)
