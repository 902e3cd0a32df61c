"""Support with environments: an edge is possible only if all nodes can still be completed.

A node must not be left before its state is complete. Before an edge is allowed, two questions are
therefore asked: what does each node still need, and can the nodes to come bring it?

*What a node needs* follows from its state (`NeededEdges`):

- Its *missing* edges are the least number of further ones that complete it. No two of them lead to
  the same node.
- Its *ends* are how many of these must lead to nodes that get no second edge.
- Its *rest* is the number of the others.

*What the nodes to come can bring:* an end serves one node only. So the ends that nodes still need
are taken off the number of nodes to come; those that remain are *free*:

    free = to_come - sum of the ends of all nodes on the path and of the new node

A free node can serve several nodes, by the edge to its parent and by closures, but it brings each
of them one edge at most. So each node needs as many free nodes as its rest, and several nodes may
count on the same ones. The new node, too, can bring an edge to each node, as long as it may still
get a closure. An edge from the new node to another node, its parent or the end of a closure, is
possible if after it

    1. rest <= free, for the other node and all nodes below it: later closures of the new node lead
       further up, so that it brings these nothing more;
    2. rest <= free, for all nodes above the other one, or rest = free + 1 if a later closure of the
       new node can lower it;
    3. rest <= free + the number of later closures that can lower it, for the new node;
    4. free = 0, when only ends are to come, or a free node can be attached: `to_attach` <= free for
       a node on the path. It counts the free node and those that then complete it and its parent.

For example, let nodes n be known only with three edges, to two nodes a and to a node o; nodes a
with one edge or two, so that an a need not be an end; and nodes o with one edge, so that an o is
an end. After the path a-n, let one node follow the new one: `to_come` is 1. So far n has one edge
to an a; its ends and its rest are 1 each, and no node is free.

    new node, attached to n    a                 o
    edges of n                 a, a              a, o
    ends, rest of n            1, 0              0, 1
    free                       1 - 1 = 0         1 - 0 = 1
    to_attach of n             impossible        1

Both are possible: after an a, the last node must be an o at n, and after an o, an a at n. With no
node to come after the new one, neither is: `free` would be -1 after an a, and 0 after an o, where
n still needs one.

The conditions are necessary, but not sufficient: drawing may come to a node that it cannot
complete, which is then left as it is. They never rule out a graph whose environments are known;
`Support` does only where its `ROOMS` say so. They could be stricter. Of the nodes above, only the
last of those with the largest rest is looked at. Nodes that must follow a node to come are not
counted. A node counts for condition 4 although it may be out of reach of backtracks, and this
condition is not checked for closures.

`CompletingSupport` looks up the conditions for every value. Models use `QuickCompletingSupport`,
which looks them up only where it is not plain that they hold. Of 850,000 decisions in graphs that
two of the shipped models drew, none was another; a test compares some of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.graphs.path.depth_first import DepthFirstCode
from graphcnf.graphs.path.node_states import (
    NEVER,
    NO_NODE,
    UNKNOWN,
    Environments,
    NodeStates,
    set_tables,
)
from graphcnf.graphs.path.support import Support, UndecidedNodes, room_index


class NeededEdges(nn.Module):
    """What nodes still need to be complete: tables by the state of a node, for all S states.

    Args:
        states: The states of nodes.
        attaches: Which new nodes can be attached to a node, by its state, label of the edge and
            category of the new node, (S, E + 1, C) bool.
        leaf: State of the new node with this edge, indexed likewise, (S, E + 1, C) long.
        closures: Largest number of closures of a node.

    Attributes:
        ends: Least number of missing edges to ends, (S,) long; `NEVER` for a state that new nodes
            alone cannot complete.
        rest: Number of the other missing edges, (S,) long.
        is_incomplete: 1 if edges are missing, else 0, (S,) long.
        used: By how much `free` falls once a new node is decided, indexed like `attaches`, (S, E +
            1, C) long; -1 for an end that was missing.
        lowered: Entry [s, label, c] is True if an edge with this label to a node of category c
            lowers the rest of a node in state s and does not raise its ends, (S, E + 1, C) bool.
        to_attach: Least number of free nodes with which one of them can be attached to a node, (S,)
            long: itself, and those that then complete it and its parent. 0 if an end can follow
            before that.

    Examples:
        The nodes a, n and o of this module's docstring are the categories 0, 1 and 2:

        >>> code = DepthFirstCode(3, [], node_categories=3, edge_categories=1)
        >>> # Each row: a category, then the categories of each edge and its neighbour.
        >>> known = [[1, 0, 0, 0, 0, 0, 2], [0, 0, 1], [0, 0, 1, 0, 1], [2, 0, 1]]
        >>> support = CompletingSupport(code, [1], Environments([0, 1, 2], [0], known))
        >>> one_a = support.states.after[support.states.first[1], 1, 0]
        >>> two_a, a_and_o = support.states.after[one_a, 1, [0, 2]]
        >>> for state in (one_a, two_a, a_and_o):
        ...     print(int(support.needed.ends[state]), int(support.needed.rest[state]))
        1 1
        1 0
        0 1
    """

    ends: Tensor
    rest: Tensor
    is_incomplete: Tensor
    used: Tensor
    lowered: Tensor
    to_attach: Tensor

    def __init__(self, states: NodeStates, attaches: Tensor, leaf: Tensor, closures: int):
        super().__init__()
        after = states.after
        gets_no_edge = (after[:, 1:] == UNKNOWN).flatten(1).all(1)
        leads_to_end = gets_no_edge[leaf].long()
        cost_if_left = torch.where(states.complete, 0, NEVER)
        missing = states.least_cost(cost_if_left, torch.where(attaches, 1, NEVER))
        ends = states.least_cost(cost_if_left, torch.where(attaches, leads_to_end, NEVER))
        rest = missing - ends
        # Axes: state of the node, label of the edge, category of its other end.
        has_less_rest = rest[after] < rest[:, None, None]
        needs_no_more_ends = ends[after] <= ends[:, None, None]
        set_tables(
            self,
            ends=ends,
            rest=rest,
            is_incomplete=(missing > 0).long(),
            used=ends[after] + ends[leaf] - ends[:, None, None],
            lowered=has_less_rest & needs_no_more_ends & (after != UNKNOWN),
        )
        # Each of its closures brings the new node one edge.
        larger_rest = rest[after].maximum(rest[leaf] - closures)
        self._set_to_attach(states, attaches, larger_rest)

    def _set_to_attach(self, states: NodeStates, attaches: Tensor, larger_rest: Tensor) -> None:
        """Set `to_attach`.

        Args:
            states: The states.
            attaches: As of the class.
            larger_rest: The larger rest of the new node and its parent after the edge, indexed like
                `attaches`.
        """
        is_free = attaches & (self.used >= 0)
        least = torch.where(is_free, 1 + self.used + larger_rest, NEVER).amin((1, 2))
        least[UNKNOWN] = NEVER
        # Or ends that were missing come first, for which no free node is needed.
        cost_of_ends = torch.where(attaches & (self.used < 0), 0, NEVER)
        set_tables(self, to_attach=states.least_cost(least, cost_of_ends))


@dataclass
class PossibleEdges:
    """K edges, each of which one of M new nodes may get next, and how things stand after it.

    Attributes:
        row: Which of the M new nodes gets the edge, (K,) long.
        column: Where the other node stands in `UndecidedNodes.state`, (K,) long.
        own_state: State of the new node with this edge, (K,) long.
        other_state: State of the other node with it, (K,) long.
        free: Number of free nodes after it, (K,) long.
        closures_left: How many closures the new node may still get after it.
    """

    row: Tensor
    column: Tensor
    own_state: Tensor
    other_state: Tensor
    free: Tensor
    closures_left: int

    def __getitem__(self, k: Tensor) -> PossibleEdges:
        """Return some of the edges; `k` are their indices, long."""
        return PossibleEdges(
            row=self.row[k],
            column=self.column[k],
            own_state=self.own_state[k],
            other_state=self.other_state[k],
            free=self.free[k],
            closures_left=self.closures_left,
        )


class CompletingSupport(Support):
    """Support of a model that knows environments: a node is left only when it is complete.

    Of the values that `Support` allows, those are ruled out that leave a node with missing edges,
    or break a condition of this module. If no value remains, all that `Support` allows are
    possible, and drawing may leave a node incomplete.

    Args:
        code: The variables of a node.
        edge_weights: Weight of each edge category.
        environments: The known environments.

    Attributes:
        environments: The known environments.
        needed: What nodes in each state still need.
    """

    def __init__(self, code: DepthFirstCode, edge_weights: list[int], environments: Environments):
        super().__init__(code, environments.states(edge_weights))
        self.environments = environments
        self.needed = NeededEdges(
            self.states, self.attaches[0], self.leaf, closures=self.entries - 1
        )

    def _free(self, new: UndecidedNodes) -> Tensor:
        """Return the number of free nodes for each of M new nodes, (M,) long.

        Before the first edge of a new node it may be -1: the node itself may be a missing end.
        Nodes below its parent are added up, too; they are complete, and miss nothing.
        """
        return new.to_come - self.needed.ends[new.state].sum(1) - self.needed.ends[new.own_state]

    def _largest_rest(self, new: UndecidedNodes) -> Tensor:
        """Return the largest rest of a node on the path before each of M new nodes, (M,) long."""
        return self.needed.rest[new.state].amax(1)

    def _backtracks(self, new: UndecidedNodes) -> Tensor:
        """Return the possible backtracks of M new nodes, (M, U) bool; see `Support`."""
        possible = super()._backtracks(new)
        parent = self.backtrack_columns(new)
        # All nodes below the parent are left for good.
        column = torch.arange(new.state.shape[1], device=parent.device)
        last_incomplete = (self.needed.is_incomplete[new.state] * column).amax(1)
        fits = possible & (parent >= last_incomplete[:, None])
        row, back = self._unsure_backtracks(new, fits).nonzero(as_tuple=True)
        if len(row):
            rows, which = row.unique_consecutive(return_inverse=True)
            choices = self._completing_choices(new[rows], which, parent[row, back])
            fits[row, back] = choices.flatten(1).any(1)
        return _if_any(fits, possible)

    def _choices(self, new: UndecidedNodes) -> Tensor:
        """Return the possible edges to parents, and categories with them; see `Support`."""
        possible = super()._choices(new)
        unsure = self._unsure_choices(new).nonzero()[:, 0]
        if not len(unsure):
            return possible
        some = new[unsure]
        every = torch.arange(len(unsure), device=unsure.device)
        fits = self._completing_choices(some, every, self.parent_column(some)[:, 0])
        fits = _if_any(fits.flatten(1), possible[unsure].flatten(1))
        return possible.index_copy(0, unsure, fits.unflatten(1, possible.shape[1:]))

    def _completing_choices(self, new: UndecidedNodes, row: Tensor, column: Tensor) -> Tensor:
        """Return with which edges and categories new nodes may be attached.

        Args:
            new: M new nodes without edges.
            row: Which of them, K times, (K,) long.
            column: Columns of their parents in `UndecidedNodes.state`, (K,) long.

        Returns:
            By label and category, (K, E + 1, C) bool.
        """
        parent = new.state[row, column]
        room = room_index(new.to_come[row] - new.room_above_parent[row, column])
        fits = self.attaches[room, parent]
        which, label, category = fits.nonzero(as_tuple=True)
        own = self.states.first[category]
        edges = self._edges(new, row[which], column[which], own, label)
        fits[which, label, category] = self._completes(new, edges, to_parent=True)
        return fits

    def _closures(self, new: UndecidedNodes) -> Tensor:
        """Return the possible lengths of closures, and labels with them; see `Support`."""
        possible = super()._closures(new)
        unsure = self._unsure_closures(new).nonzero()[:, 0]
        if not len(unsure):
            return possible
        fits = possible[unsure]
        # Without a further closure, things stay as they are.
        some = new[unsure]
        rest = self._largest_rest(some).maximum(self.needed.rest[some.own_state])
        fits[:, 0, 0] = rest <= self._free(some)
        row, length, label = fits.nonzero(as_tuple=True)
        row, length, label = row[length > 0], length[length > 0], label[length > 0]
        column = self.parent_column(some)[row, 0] + 1 - length
        edges = self._edges(some, row, column, some.own_state[row], label)
        fits[row, length, label] = self._completes(some, edges, to_parent=False)
        fits = _if_any(fits.flatten(1), possible[unsure].flatten(1))
        return possible.index_copy(0, unsure, fits.unflatten(1, possible.shape[1:]))

    # Which values the conditions have to be looked up for; the others meet them.

    def _unsure_backtracks(self, new: UndecidedNodes, fits: Tensor) -> Tensor:
        """Return which of the backtracks `fits` (M, U) of M new nodes to look up, (M, U) bool."""
        return fits

    def _unsure_choices(self, new: UndecidedNodes) -> Tensor:
        """Return of which of M new nodes to look up the edge to the parent, (M,) bool."""
        return torch.ones_like(new.depth, dtype=torch.bool)

    def _unsure_closures(self, new: UndecidedNodes) -> Tensor:
        """Return of which of M new nodes to look up the closures, (M,) bool."""
        return torch.ones_like(new.depth, dtype=torch.bool)

    def _edges(
        self, new: UndecidedNodes, row: Tensor, column: Tensor, own: Tensor, label: Tensor
    ) -> PossibleEdges:
        """Return how things stand after each of K possible edges of M new nodes.

        Args:
            new: The M new nodes.
            row: Which of them gets the edge, (K,) long.
            column: Where the other node stands in `UndecidedNodes.state`, (K,) long.
            own: States of the new nodes before the edge, (K,) long. At an edge to the parent, which
                is looked at before the category is decided, those of the category without edges.
            label: Labels of the edges, (K,) long.

        Returns:
            The K edges.
        """
        other = new.state[row, column]
        own_after, other_after = self.states.joined(own, other, label)
        # `_free` has taken off the ends of `new.own_state`, not of `own`. Before the category of
        # the new node is decided this is `NO_NODE`, of which no ends are taken off.
        more_ends = self.needed.ends[own_after] - self.needed.ends[new.own_state[row]]
        more_ends = more_ends + self.needed.ends[other_after] - self.needed.ends[other]
        return PossibleEdges(
            row=row,
            column=column,
            own_state=own_after,
            other_state=other_after,
            free=self._free(new)[row] - more_ends,
            closures_left=self.entries - 1 - new.variable.edge_number,
        )

    def _completes(self, new: UndecidedNodes, edges: PossibleEdges, *, to_parent: bool) -> Tensor:
        """Return after which of K edges of M new nodes the conditions hold, (K,) bool.

        Args:
            new: The M new nodes.
            edges: The K edges.
            to_parent: True for edges to parents, for which all four conditions are looked up; False
                for closures, for which the fourth is not.
        """
        if to_parent:
            fits = self._can_attach_next(new, edges)
        else:
            fits = torch.ones_like(edges.row, dtype=torch.bool)
        # That of the nodes above takes longest, and comes last, for the edges that are left.
        for condition in (self._serves_other_and_below, self._serves_new, self._serves_above):
            k = fits.nonzero()[:, 0]
            fits[k] = condition(new, edges[k])
        return fits

    def _serves_other_and_below(self, new: UndecidedNodes, edges: PossibleEdges) -> Tensor:
        """Return after which edges condition 1 holds: nodes from the other one down, (K,) bool."""
        # The largest rest in each column and all to its right:
        largest = self.needed.rest[new.state].flip(1).cummax(1).values.flip(1)
        below = F.pad(largest, (0, 1))[edges.row, edges.column + 1]
        return below.maximum(self.needed.rest[edges.other_state]) <= edges.free

    def _serves_above(self, new: UndecidedNodes, edges: PossibleEdges) -> Tensor:
        """Return after which edges condition 2 holds: nodes above the other one, (K,) bool."""
        # The largest rest in each column and all to its left, and the last column that has it:
        largest, its_column = self.needed.rest[new.state].cummax(1)
        largest = largest[edges.row, edges.column - 1]
        its_column = its_column[edges.row, edges.column - 1]
        fits = largest <= edges.free
        k = ((largest == edges.free + 1) & (edges.closures_left > 0)).nonzero()[:, 0]
        waiting = new.state[edges.row[k], its_column[k]]
        fits[k] = self._lowers_rest(edges.own_state[k], waiting)
        return fits

    def _serves_new(self, new: UndecidedNodes, edges: PossibleEdges) -> Tensor:
        """Return after which edges condition 3 holds: the new node itself, (K,) bool."""
        short = self.needed.rest[edges.own_state] - edges.free
        fits = short <= 0
        k = ((short > 0) & (short <= edges.closures_left)).nonzero()[:, 0]
        column = torch.arange(new.state.shape[1], device=k.device)
        is_above = column < edges.column[k, None]
        above = torch.where(is_above, new.state[edges.row[k]], NO_NODE)
        fits[k] = self._lowers_rest(above, edges.own_state[k, None]).sum(1) >= short[k]
        return fits

    def _can_attach_next(self, new: UndecidedNodes, edges: PossibleEdges) -> Tensor:
        """Return after which edges to parents condition 4 holds: a next node, (K,) bool."""
        least = self.needed.to_attach[new.state].cummin(1).values[edges.row, edges.column - 1]
        for state in (edges.own_state, edges.other_state):
            least = least.minimum(self.needed.to_attach[state])
        return (edges.free == 0) | (least <= edges.free)

    def _lowers_rest(self, own: Tensor, other: Tensor) -> Tensor:
        """Return whether a closure is possible that lowers the rest of the other node.

        Args:
            own: States of some nodes.
            other: States of the other nodes, of the same shape.

        Returns:
            Bool, of the same shape.
        """
        category = self.states.category
        own, other = torch.broadcast_tensors(own, other)
        takes = self.states.after[own, :, category[other]] != UNKNOWN
        return (takes & self.needed.lowered[other, :, category[own]]).any(-1)


class QuickCompletingSupport(CompletingSupport):
    """Nearly the same support, in less time: most values are possible for a reason quick to see.

    Where one of three reasons holds, the conditions are not looked up:

    - many nodes are free (`_has_enough_free`); this proves conditions 1 to 3, and leaves out the
      fourth, which nearly always holds then;
    - no other node has a rest (`_unsure_backtracks`); a table then has all four conditions;
    - a closure changes little (`_unsure_closures`); this proves conditions 1 to 3, all that are
      looked up for closures.

    The arguments are those of `CompletingSupport`.

    Attributes:
        enough_free: So many free nodes are many, if no node of the path has a rest.
        attaches_alone: Entry [free + 1, r, s] is True if a new node can be attached to a parent in
            state s so that these two meet all conditions, without further closures, and with the
            room `ROOMS[r]`, (`enough_free` + 2, ROOMS, S) bool.
        most_needed_next: Largest number of missing edges of a node in each state after at most one
            further edge, less its ends before, (S,) long.
    """

    attaches_alone: Tensor
    most_needed_next: Tensor

    def __init__(self, code: DepthFirstCode, edge_weights: list[int], environments: Environments):
        super().__init__(code, edge_weights, environments)
        after = self.states.after
        leaf = self.leaf
        needed = self.needed
        # After the edge, both nodes meet conditions 1 to 3 if so many nodes are free.
        larger_rest = needed.rest[after].maximum(needed.rest[leaf])
        self.enough_free = max(1, int((needed.used + larger_rest)[self.attaches[0]].max()))
        to_go_on = needed.to_attach[after].minimum(needed.to_attach[leaf])
        # Axes: free + 1, state of the parent, label of the edge, category of the new node.
        free_after = torch.arange(-1, self.enough_free + 1)[:, None, None, None] - needed.used
        alone = (free_after >= larger_rest) & ((free_after == 0) | (free_after >= to_go_on))
        alone = (alone[:, None] & self.attaches).flatten(3).any(3)
        missing_next = (needed.ends + needed.rest)[after] - needed.ends[:, None, None]
        # An edge of label 0 changes nothing.
        most = torch.where(after != UNKNOWN, missing_next, 0).amax((1, 2))
        set_tables(self, attaches_alone=alone, most_needed_next=most)

    def _has_enough_free(self, new: UndecidedNodes) -> Tensor:
        """Return whether M new nodes can be attached wherever `Support` allows it, (M,) bool.

        An edge to a parent changes these two nodes alone, and lowers `free` by `NeededEdges.used`.
        If `free` is at least `enough_free` plus the largest rest on the path, what is left of it
        covers the rest of every node (conditions 1 to 3), whatever the edge. It nearly always
        attaches another node, too, but need not: condition 4 is not looked up then.
        """
        return self._free(new) >= self.enough_free + self._largest_rest(new)

    def _unsure_backtracks(self, new: UndecidedNodes, fits: Tensor) -> Tensor:
        """Return which of the backtracks `fits` (M, U) of M new nodes to look up, (M, U) bool.

        If no node of the path has a rest, only the new node and its parent can break a condition:
        ends that nodes still need are taken off `free` already. The table `attaches_alone` says by
        the parent's state whether some edge and category break none.
        """
        unsure = fits & ~self._has_enough_free(new)[:, None]
        row, back = unsure.nonzero(as_tuple=True)
        column = self.backtrack_columns(new)[row, back]
        free = self._free(new).clamp(-1, self.enough_free)[row]
        room = room_index(new.to_come[row] - new.room_above_parent[row, column])
        has_no_rest = (self._largest_rest(new) == 0)[row]
        possible = self.attaches_alone[free + 1, room, new.state[row, column]]
        unsure[row, back] = ~(has_no_rest & possible)
        return unsure

    def _unsure_choices(self, new: UndecidedNodes) -> Tensor:
        return ~self._has_enough_free(new)

    def _unsure_closures(self, new: UndecidedNodes) -> Tensor:
        """Return of which of M new nodes to look up the closures, (M,) bool.

        A closure changes its two ends alone. It lowers `free` by at most the further ends that
        these two need. Conditions 1 to 3 hold after any closure if `free` is at least
        `most_needed_next` of every node, which counts these ends as well.
        """
        most = self.most_needed_next[new.state].amax(1)
        return most.maximum(self.most_needed_next[new.own_state]) > self._free(new)


def _if_any(fits: Tensor, others: Tensor) -> Tensor:
    """Return `fits` (M, Q) bool, but rows of `others` where it allows nothing."""
    return torch.where(fits.any(1, keepdim=True), fits, others)
