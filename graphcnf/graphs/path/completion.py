"""Support of a model that knows the environments of nodes: it completes every node.

A node whose state is not complete has *missing* edges: the least number of further ones that
complete it. No two of them lead to the same node. Some can only lead to *ends*, nodes that get no
other edge:

    ends_of(node) = the least number of further edges to ends with which it is completed
    rest_of(node) = the number of its missing edges - ends_of(node)

*Free* nodes are the nodes to come after the new one, less the ends that nodes still need:

    free = to_come - sum of ends_of over the path and the new node

An end has no edge to a second node. So the rest of a node must come from free nodes, or from the
new node while its edges are being decided, one edge from each. The closures of the new node lead
further and further up the path. So an edge from it to another node is possible only if, after this
edge,

    1. rest_of <= free, for the other node and all nodes below it, which get no edge from the new
       node any more;
    2. rest_of <= free, for all nodes above, or <= free + 1 if a closure of the new node can still
       lower it;
    3. rest_of <= free + the number of closures that can still lower it, for the new node;
    4. free = 0, or free_to_attach <= free for a node that the next one can have as its parent.

`free_to_attach` of a node is how many free nodes it takes, at least, to attach one of them to it:
this one, and those that are then needed to complete it and its parent.

For example, let nodes n be known only with three edges, to two nodes a and to a node o; nodes a
with one edge or two, so that an a is no end; and nodes o with one edge, so that an o is an end.
After the path a-n, let one node follow the new one: `to_come` is 1. So far n has one edge to an a;
its `ends_of` and `rest_of` are 1 each, and no node is free.

    new node, attached to n    a                 o
    edges of n                 a, a              a, o
    ends_of(n), rest_of(n)     1, 0              0, 1
    free                       1 - 1 = 0         1 - 0 = 1
    free_to_attach(n)          impossible        1

Both are possible: after an a, the last node must be an o at n, and after an o, an a at n. With no
node to come after the new one, neither is: `free` would be -1 after an a, and 0 after an o, where
n still needs one.

The conditions are necessary, not enough: drawing may come to a node that it cannot complete. They
never rule out a graph whose environments are known; `Support` does only where its `ROOMS` say so.
They are also laxer than they could be. Of the nodes above, only the last of those with the largest
rest is looked at. Nodes that must follow a node to come are not counted. A node counts for the
fourth condition although it may be out of reach of backtracks, and the condition is not checked for
closures.

`CompletingSupport` looks up the conditions for every value. Models use `QuickCompletingSupport`,
which looks them up only where it is not plain that they hold. Of 820,000 decisions in graphs that
two of the shipped models drew, none was another; a test compares some of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from graphcnf.graphs.path.depth_first import DepthFirstCode
from graphcnf.graphs.path.node_states import NEVER, NO_NODE, UNKNOWN, Environments, set_tables
from graphcnf.graphs.path.support import Support, UndecidedNodes, room_index


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
        ends_of, rest_of: Missing edges of a node in each state: those to ends, and the others,
            (S,) long. A state that new nodes alone cannot complete has `NEVER` ends.
        is_incomplete: 1 if edges are missing, else 0, (S,) long.
        helps: Entry [s, label, c] is True if an edge with this label to a node of category c lowers
            `rest_of` of a node in state s and does not raise its `ends_of`, (S, E + 1, C) bool.
        free_to_attach: Least number of free nodes with which one of them can be attached to a node
            in each state, (S,) long.

    Examples:
        The nodes a, n and o of this module's docstring are the categories 0, 1 and 2:

        >>> code = DepthFirstCode(3, [], node_categories=3, edge_categories=1)
        >>> # Each row: a category, then the categories of each edge and its neighbour.
        >>> known = [[1, 0, 0, 0, 0, 0, 2], [0, 0, 1], [0, 0, 1, 0, 1], [2, 0, 1]]
        >>> support = CompletingSupport(code, [1], Environments([0, 1, 2], [0], known))
        >>> one_a = support.states.after[support.states.first[1], 1, 0]
        >>> two_a, a_and_o = support.states.after[one_a, 1, [0, 2]]
        >>> for state in (one_a, two_a, a_and_o):
        ...     print(int(support.ends_of[state]), int(support.rest_of[state]))
        1 1
        1 0
        0 1
    """

    ends_of: Tensor
    rest_of: Tensor
    is_incomplete: Tensor
    helps: Tensor
    free_to_attach: Tensor

    def __init__(self, code: DepthFirstCode, edge_weights: list[int], environments: Environments):
        super().__init__(code, environments.states(edge_weights))
        self.environments = environments
        self._set_missing()
        set_tables(self, free_to_attach=self._free_to_attach())

    def _set_missing(self) -> None:
        """Set the missing edges of each state, and which edges bring some."""
        after = self.states.after
        attaches = self.attaches[0]
        gets_no_edge = (after[:, 1:] == UNKNOWN).flatten(1).all(1)
        leads_to_end = gets_no_edge[self.leaf].long()
        cost_if_left = torch.where(self.states.complete, 0, NEVER)
        missing = self.states.least_cost(cost_if_left, torch.where(attaches, 1, NEVER))
        ends = self.states.least_cost(cost_if_left, torch.where(attaches, leads_to_end, NEVER))
        rest = missing - ends
        # Axes: state of the node, label of the edge, category of its other end.
        has_less_rest = rest[after] < rest[:, None, None]
        needs_no_more_ends = ends[after] <= ends[:, None, None]
        helps = has_less_rest & needs_no_more_ends & (after != UNKNOWN)
        set_tables(
            self,
            ends_of=ends,
            rest_of=rest,
            is_incomplete=(missing > 0).long(),
            helps=helps,
        )

    def _used(self) -> Tensor:
        """Return by how much `free` falls once a new node is decided, (S, E + 1, C) long.

        By state of its parent, label of the edge and its category; -1 for an end that was missing.
        """
        ends = self.ends_of
        return ends[self.states.after] + ends[self.leaf] - ends[:, None, None]

    def _free_to_attach(self) -> Tensor:
        """Return `free_to_attach`, (S,) long."""
        used = self._used()
        attaches = self.attaches[0]
        # The new node can have `entries` - 1 closures, each of which brings it one edge itself.
        own_rest = self.rest_of[self.leaf] - (self.entries - 1)
        rest = self.rest_of[self.states.after].maximum(own_rest)
        # A free node takes itself, the `used` ones, and those that then complete both nodes.
        least = torch.where(attaches & (used >= 0), 1 + used + rest, NEVER).amin((1, 2))
        least[UNKNOWN] = NEVER
        # Or ends that were missing come first, for which no free node is needed.
        return self.states.least_cost(least, torch.where(attaches & (used < 0), 0, NEVER))

    def _free(self, new: UndecidedNodes) -> Tensor:
        """Return the number of free nodes for each of M new nodes, (M,) long.

        Before the first edge of a new node it may be -1: the node itself may be a missing end.
        Nodes below its parent are added up, too; they are complete, and miss nothing.
        """
        return new.to_come - self.ends_of[new.state].sum(1) - self.ends_of[new.own_state]

    def _largest_rest(self, new: UndecidedNodes) -> Tensor:
        """Return the largest rest on the paths before M new nodes, (M,) long."""
        return self.rest_of[new.state].amax(1)

    def _backtracks(self, new: UndecidedNodes) -> Tensor:
        """Return the possible backtracks of M new nodes, (M, U) bool; see `Support`."""
        possible = super()._backtracks(new)
        parent = self.backtrack_columns(new)
        # All nodes below the parent are left for good.
        column = torch.arange(new.state.shape[1], device=parent.device)
        last_incomplete = (self.is_incomplete[new.state] * column).amax(1)
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
        goes_on = self._fourth_condition(new, edges)
        fits[which, label, category] = self._completes(new, edges, goes_on)
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
        rest = self._largest_rest(some).maximum(self.rest_of[some.own_state])
        fits[:, 0, 0] = rest <= self._free(some)
        row, length, label = fits.nonzero(as_tuple=True)
        row, length, label = row[length > 0], length[length > 0], label[length > 0]
        column = self.parent_column(some)[row, 0] + 1 - length
        edges = self._edges(some, row, column, some.own_state[row], label)
        every = torch.ones_like(row, dtype=torch.bool)
        fits[row, length, label] = self._completes(some, edges, every)
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
            own: States of the new nodes before the edge, (K,) long.
            label: Labels of the edges, (K,) long.

        Returns:
            The K edges.
        """
        other = new.state[row, column]
        own_after, other_after = self.states.joined(own, other, label)
        more_ends = self.ends_of[own_after] - self.ends_of[new.own_state[row]]
        more_ends = more_ends + self.ends_of[other_after] - self.ends_of[other]
        return PossibleEdges(
            row=row,
            column=column,
            own_state=own_after,
            other_state=other_after,
            free=self._free(new)[row] - more_ends,
            closures_left=self.entries - 1 - new.variable.edge_number,
        )

    def _completes(self, new: UndecidedNodes, edges: PossibleEdges, fits: Tensor) -> Tensor:
        """Return after which edges of M new nodes conditions 1 to 3 hold.

        Args:
            new: The M new nodes.
            edges: The K edges.
            fits: Which of them to look at, (K,) bool.

        Returns:
            (K,) bool; False for the edges that are not looked at.
        """
        fits = fits.clone()
        # The second one takes longest, and comes last, for the edges that are left.
        for condition in (self._first_condition, self._third_condition, self._second_condition):
            k = fits.nonzero()[:, 0]
            fits[k] = condition(new, edges[k])
        return fits

    def _first_condition(self, new: UndecidedNodes, edges: PossibleEdges) -> Tensor:
        """Return after which edges condition 1 holds: nodes from the other one down, (K,) bool."""
        # The largest rest in each column and all to its right:
        largest = self.rest_of[new.state].flip(1).cummax(1).values.flip(1)
        below = F.pad(largest, (0, 1))[edges.row, edges.column + 1]
        return below.maximum(self.rest_of[edges.other_state]) <= edges.free

    def _second_condition(self, new: UndecidedNodes, edges: PossibleEdges) -> Tensor:
        """Return after which edges condition 2 holds: nodes above the other one, (K,) bool."""
        # The largest rest in each column and all to its left, and the last column that has it:
        largest, its_column = self.rest_of[new.state].cummax(1)
        largest = largest[edges.row, edges.column - 1]
        its_column = its_column[edges.row, edges.column - 1]
        fits = largest <= edges.free
        k = ((largest == edges.free + 1) & (edges.closures_left > 0)).nonzero()[:, 0]
        waiting = new.state[edges.row[k], its_column[k]]
        fits[k] = self._lowers_rest(edges.own_state[k], waiting)
        return fits

    def _third_condition(self, new: UndecidedNodes, edges: PossibleEdges) -> Tensor:
        """Return after which edges condition 3 holds: the new node itself, (K,) bool."""
        short = self.rest_of[edges.own_state] - edges.free
        fits = short <= 0
        k = ((short > 0) & (short <= edges.closures_left)).nonzero()[:, 0]
        column = torch.arange(new.state.shape[1], device=k.device)
        is_above = column < edges.column[k, None]
        above = torch.where(is_above, new.state[edges.row[k]], NO_NODE)
        fits[k] = self._lowers_rest(above, edges.own_state[k, None]).sum(1) >= short[k]
        return fits

    def _fourth_condition(self, new: UndecidedNodes, edges: PossibleEdges) -> Tensor:
        """Return after which edges to parents condition 4 holds: a next node, (K,) bool."""
        least = self.free_to_attach[new.state].cummin(1).values[edges.row, edges.column - 1]
        for state in (edges.own_state, edges.other_state):
            least = least.minimum(self.free_to_attach[state])
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
        return (takes & self.helps[other, :, category[own]]).any(-1)


class QuickCompletingSupport(CompletingSupport):
    """The same support, in less time: most values are possible for a reason that is quick to see.

    There are three such reasons:

    - *Many nodes are free.* An edge to a parent changes these two nodes alone, and lowers `free` by
      `_used`. If `free` is at least `enough_free` plus the largest rest on the path, what is left
      of it covers the rest of every node (conditions 1 to 3), whatever the edge. It nearly always
      attaches another node, too (condition 4), but need not: this condition is not looked up then.
    - *All other nodes are complete.* Then only the new node and its parent can break a condition,
      and a table by their states, `attaches_alone`, says whether some edge breaks none.
    - *A closure changes little.* It changes its two ends alone: `free` falls by at most the further
      ends that these need, and each of the two has at most `largest_rest_next` missing edges,
      counted with that. If no node on the path has more than `free`, conditions 1 to 3 hold.

    The arguments are those of `CompletingSupport`.

    Attributes:
        enough_free: So many free nodes are many, if all nodes of the path are complete.
        attaches_alone: Entry [free + 1, r, s] is True if a new node can be attached to a parent in
            state s so that these two meet all conditions, without further closures, and with the
            room `ROOMS[r]`, (`enough_free` + 2, ROOMS, S) bool.
        largest_rest_next: Largest number of missing edges of a node in each state after at most one
            further edge, less its `ends_of` before, (S,) long.
    """

    attaches_alone: Tensor
    largest_rest_next: Tensor

    def __init__(self, code: DepthFirstCode, edge_weights: list[int], environments: Environments):
        super().__init__(code, edge_weights, environments)
        after = self.states.after
        leaf = self.leaf
        used = self._used()
        # After the edge, both nodes meet conditions 1 to 3 if so many nodes are free.
        larger_rest = self.rest_of[after].maximum(self.rest_of[leaf])
        self.enough_free = max(1, int((used + larger_rest)[self.attaches[0]].max()))
        to_go_on = self.free_to_attach[after].minimum(self.free_to_attach[leaf])
        # Axes: free + 1, state of the parent, label of the edge, category of the new node.
        free_after = torch.arange(-1, self.enough_free + 1)[:, None, None, None] - used
        alone = (free_after >= larger_rest) & ((free_after == 0) | (free_after >= to_go_on))
        alone = (alone[:, None] & self.attaches).flatten(3).any(3)
        missing = (self.ends_of + self.rest_of)[after] - self.ends_of[:, None, None]
        # An edge of label 0 changes nothing.
        largest = torch.where(after != UNKNOWN, missing, 0).amax((1, 2))
        set_tables(self, attaches_alone=alone, largest_rest_next=largest)

    def _has_enough_free(self, new: UndecidedNodes) -> Tensor:
        """Return whether M new nodes can be attached wherever `Support` allows it, (M,) bool."""
        return self._free(new) >= self.enough_free + self._largest_rest(new)

    def _unsure_backtracks(self, new: UndecidedNodes, fits: Tensor) -> Tensor:
        unsure = fits & ~self._has_enough_free(new)[:, None]
        row, back = unsure.nonzero(as_tuple=True)
        column = self.backtrack_columns(new)[row, back]
        free = self._free(new).clamp(-1, self.enough_free)[row]
        room = room_index(new.to_come[row] - new.room_above_parent[row, column])
        alone = (self._largest_rest(new) == 0)[row]
        unsure[row, back] = ~(alone & self.attaches_alone[free + 1, room, new.state[row, column]])
        return unsure

    def _unsure_choices(self, new: UndecidedNodes) -> Tensor:
        return ~self._has_enough_free(new)

    def _unsure_closures(self, new: UndecidedNodes) -> Tensor:
        largest = self.largest_rest_next[new.state].amax(1)
        return largest.maximum(self.largest_rest_next[new.own_state]) > self._free(new)


def _if_any(fits: Tensor, others: Tensor) -> Tensor:
    """Return `fits` (M, Q) bool, but rows of `others` where it allows nothing."""
    return torch.where(fits.any(1, keepdim=True), fits, others)
