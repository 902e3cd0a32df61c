"""Support with environments: an edge is possible only if all nodes can still be completed.

`Support` says which edges nodes may get in their states. With environments, a node must besides not
be left before its state is complete. Before an edge is allowed, `CompletingSupport` therefore asks
two questions: what does each node still need, and can the nodes to come bring it?

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
       the new node, its parent or a node above. It counts the free node and those that then
       complete it and its parent. This is asked of edges to parents only.

`CompletingSupport` has a method for each: `_serves_other_and_below`, `_serves_above`,
`_serves_new` and `_can_attach_next`.

For example, let nodes get only the edges that they have in acetamide, CC(N)=O, whose nodes are c,
c, n and o. What nodes need while they are drawn in this order:

    path     node and its edges   ends   rest
    c        c: none              0      1      a c must follow, which may get further edges
    c-c      c: c, at either end  0      0      complete, as the c of the methyl group
    c-c-n    c: c, n, at level 1  1      0      an o must follow, which gets no further edge

After the first c, a node must be to come: rest <= free is 1 <= 0 without one. After the path c-c,
an n at level 1 is possible if another node is to come after it: `free` is 1 - 1 = 0. With none to
come `free` would be -1, since the c at level 1 could not be completed any more.

The conditions are necessary, but not sufficient: drawing may come to a node that it cannot
complete, which is then left as it is. They never rule out a graph whose environments are known;
`Support` does only where its `ROOMS` say so. They could be stricter. Of the nodes above, only the
last of those with the largest rest is looked at. Nodes that must follow a node to come are not
counted. A node counts for condition 4 although it may be out of reach of backtracks.

In each stage of a new node, a value is possible if `Support` allows it and the conditions hold. If
they hold for no value, all that `Support` allows are possible. `CompletingSupport` has these rules.
To look up the conditions for every edge takes long, and most edges meet them because many nodes are
to come. `QuickCompletingSupport`, which models use, looks up fewer, with the same result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

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
from graphcnf.graphs.path.support import Support, UndecidedNodes

MOST_ALONE = 7
"""Largest number of free nodes for which `QuickCompletingSupport.attaches_alone` has entries."""


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
        larger_rest: Larger rest of the new node and its parent after their edge, indexed likewise.
        to_attach: Least number of free nodes with which one of them can be attached to a node, (S,)
            long: itself, and those that then complete it and its parent. 0 if an end can follow
            before that.
    """

    ends: Tensor
    rest: Tensor
    is_incomplete: Tensor
    used: Tensor
    lowered: Tensor
    larger_rest: Tensor
    to_attach: Tensor

    def __init__(self, states: NodeStates, attaches: Tensor, leaf: Tensor, closures: int):
        super().__init__()
        after = states.after
        gets_no_edge = (after[:, 1:] == UNKNOWN).flatten(1).all(1)
        leads_to_end = gets_no_edge[leaf].long()
        cost_if_left = torch.where(states.complete, 0, NEVER)
        missing = states.least_cost(cost_if_left, torch.where(attaches, 1, NEVER))
        ends = states.least_cost(cost_if_left, torch.where(attaches, leads_to_end, NEVER))
        # Each is the least of its own, perhaps of two different ways to complete the node. So
        # rest <= free says no more than missing <= to_come - ends of the other nodes.
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
            larger_rest=rest[after].maximum(rest[leaf]),
        )
        # Each of its closures brings the new node one edge.
        rest_to_come = rest[after].maximum(rest[leaf] - closures)
        is_free = attaches & (self.used >= 0)
        to_attach = torch.where(is_free, 1 + self.used + rest_to_come, NEVER).amin((1, 2))
        to_attach[UNKNOWN] = NEVER
        # Or ends that were missing come first, for which no free node is needed.
        cost_of_ends = torch.where(attaches & (self.used < 0), 0, NEVER)
        set_tables(self, to_attach=states.least_cost(to_attach, cost_of_ends))


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

    Examples:
        Acetamide before its last node; the nodes c, n and o are the categories 0, 1 and 2:

        >>> from graphcnf.graphs.path.paths import Path
        >>> code = DepthFirstCode(3, [2], node_categories=3, edge_categories=2)
        >>> # Each row: a category, then the categories of each edge and its neighbour.
        >>> known = [[0, 0, 0], [0, 0, 0, 0, 1, 1, 2], [1, 0, 0], [2, 1, 0]]
        >>> support = CompletingSupport(code, [1, 2], Environments([0, 1, 2], [0, 1], known))
        >>> path = Path.start(1, 4, support.pad)
        >>> for number, x in enumerate([[0, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 1, 1, 0, 0]]):
        ...     path.add(number, torch.tensor([x]), support.states)
        >>> new = support.new_nodes(path.levels.state, path.depth, to_come=torch.tensor([0]))
        >>> state = new.state[0, support.pad :][:3]
        >>> [table[state].tolist() for table in (support.needed.ends, support.needed.rest)]
        [[0, 1, 0], [0, 0, 0]]

        The c at level 1 misses an end. It must not be left, so that only a backtrack of 1 is
        possible, and then only label 2, the double edge, with category 2:

        >>> support.allowed(new).tolist()
        [[False, True, False]]
        >>> support.add(new, torch.tensor([1])).possible.nonzero().tolist()
        [[0, 2, 2]]
    """

    def __init__(self, code: DepthFirstCode, edge_weights: list[int], environments: Environments):
        super().__init__(code, environments.states(edge_weights))
        self.environments = environments
        self.needed = NeededEdges(
            self.states, self.attaches[0], self.leaf, closures=self.entries - 1
        )

    def _possible_backtracks(self, new: UndecidedNodes) -> Tensor:
        """Return the possible backtracks of M new nodes, (M, U, 1) bool; see `Support`."""
        possible = super()._possible_backtracks(new)
        # All nodes below the parent are left for good.
        column = torch.arange(new.state.shape[1], device=possible.device)
        last_incomplete = (self.needed.is_incomplete[new.state] * column).amax(1)
        leaves_complete = self._parent_columns(new) >= last_incomplete[:, None]
        fits = possible & leaves_complete[..., None]
        return _if_any(self._completable(new, fits, self._completable_backtracks), possible)

    def _possible_attachments(self, new: UndecidedNodes) -> Tensor:
        """Return the possible edges to parents, and categories with them; see `Support`."""
        possible = super()._possible_attachments(new)
        return _if_any(self._completable(new, possible, self._completable_attachments), possible)

    def _possible_closures(self, new: UndecidedNodes) -> Tensor:
        """Return the possible lengths of closures, and labels with them; see `Support`."""
        possible = super()._possible_closures(new)
        return _if_any(self._completable(new, possible, self._completable_closures), possible)

    def _completable(
        self,
        new: UndecidedNodes,
        possible: Tensor,
        look_up: Callable[[UndecidedNodes], Tensor],
    ) -> Tensor:
        """Rule out the values after which a condition of this module does not hold.

        Args:
            new: M new nodes.
            possible: Values of the variables of a stage that `Support` allows, (M, ., .) bool.
            look_up: Function of new nodes with these values as `possible`. It returns which of them
                meet the conditions.

        Returns:
            Those that meet the conditions, (M, ., .) bool; in some rows perhaps none.
        """
        return look_up(replace(new, possible=possible))

    def _free(self, new: UndecidedNodes) -> Tensor:
        """Return the number of free nodes for each of M new nodes, (M,) long.

        Before the first edge of a new node it may be -1: the node itself may be a missing end.
        Nodes below its parent are added up, too; they are complete, and miss nothing.
        """
        return new.to_come - self.needed.ends[new.state].sum(1) - self.needed.ends[new.own_state]

    def _largest_rest(self, new: UndecidedNodes) -> Tensor:
        """Return the largest rest of a node on the path or of the new node itself, (M,) long."""
        return self.needed.rest[new.state].amax(1).maximum(self.needed.rest[new.own_state])

    def _completable_backtracks(self, new: UndecidedNodes) -> Tensor:
        """Return which of the possible backtracks leave an edge that meets the conditions.

        Args:
            new: M new nodes in the stage of the backtrack.

        Returns:
            (M, U, 1) bool.
        """
        row, backtrack = new.possible[..., 0].nonzero(as_tuple=True)
        attached = new[row]
        attached = replace(attached, column=attached.column - backtrack)
        attached = replace(attached, possible=super()._possible_attachments(attached))
        fits = new.possible.clone()
        fits[row, backtrack, 0] = self._completable_attachments(attached).flatten(1).any(1)
        return fits

    def _completable_attachments(self, new: UndecidedNodes) -> Tensor:
        """Return after which of the possible edges to parents the conditions hold.

        Args:
            new: M new nodes in the stage of the attachment.

        Returns:
            By label and category, (M, E + 1, C) bool.
        """
        row, label, category = new.possible.nonzero(as_tuple=True)
        alone = self.states.first[category]
        edges = self._edges(new, row, alone, label, length=torch.ones_like(row))
        fits = new.possible.clone()
        fits[row, label, category] = self._can_attach_next(new, edges) & self._serves(new, edges)
        return fits

    def _completable_closures(self, new: UndecidedNodes) -> Tensor:
        """Return after which of the possible closures, or without one, the conditions hold.

        Args:
            new: M new nodes in the stage of a closure.

        Returns:
            By length and label, (M, L, E + 1) bool.
        """
        # Without a further closure, things stay as they are.
        without = self._largest_rest(new) <= self._free(new)
        row, length, label = new.possible[:, 1:].nonzero(as_tuple=True)
        length = length + 1
        edges = self._edges(new, row, new.own_state[row], label, length)
        fits = new.possible.clone()
        fits[:, 0, 0] = without
        fits[row, length, label] = self._serves(new, edges)
        return fits

    def _edges(
        self, new: UndecidedNodes, row: Tensor, own: Tensor, label: Tensor, length: Tensor
    ) -> PossibleEdges:
        """Return how things stand after each of K possible edges of M new nodes.

        Args:
            new: The M new nodes.
            row: Which of them gets the edge, (K,) long.
            own: States of the new nodes before the edge, (K,) long. At an edge to the parent, which
                is looked at before the category is decided, those of the category without edges.
            label: Labels of the edges, (K,) long.
            length: Their lengths, (K,) long; 1 to the parent.
        """
        column = new.column[row] - length
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

    def _serves(self, new: UndecidedNodes, edges: PossibleEdges) -> Tensor:
        """Return after which of K edges of M new nodes conditions 1 to 3 hold, (K,) bool."""
        below = self._serves_other_and_below(new, edges)
        return below & self._serves_above(new, edges) & self._serves_new(new, edges)

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
    """The same support, which looks up fewer conditions: models use it.

    What is possible is the same, which tests compare. Two rules say what meets the conditions for
    certain: `_parent_suffices`, by a table, and `_has_enough_free`, for all edges at once. For the
    latter let F be `free` and R the largest rest of a node before an edge, and the same with a
    prime after it. Other nodes than the two of the edge have at most the rest R. An edge adds
    `more` ends to a node.

        edge to a parent    free' = F - used
                            conditions 1 to 4 hold if R, rest' and to_attach are <= free'
                            that is, if F >= R + used + max(rest', to_attach)
        closure             free' >= F - more of one node - more of the other one
                            conditions 1 to 3 hold if R and rest' are <= free'
                            that is, if F >= R + (more + rest') of one node + more of the other one

    The largest of the sums behind R over all edges is `enough_free`. In condition 4, `to_attach` is
    that of any node with more room than ends: `Support` leaves room for all nodes to come at the
    new node, its parent and those above; as long as `free` is above 0, these nodes are more than
    the ends, so that one of those nodes has more room than ends.

    Args:
        code, edge_weights, environments: As of `CompletingSupport`.

    Attributes:
        enough_free: With so many free nodes, and as many more as the largest rest, the conditions
            hold.
        attaches_alone: Entry [free + 1, r, s] is True if a new node can be attached to a parent in
            state s so that these two meet all conditions, without further closures, and with the
            room `ROOMS[r]`, (`MOST_ALONE` + 2, ROOMS, S) bool.
    """

    attaches_alone: Tensor

    def __init__(self, code: DepthFirstCode, edge_weights: list[int], environments: Environments):
        super().__init__(code, edge_weights, environments)
        self.enough_free = max(1, self._enough_for_parents(), self._enough_for_closures())
        self._set_attaches_alone()

    def _enough_for_parents(self) -> int:
        """Return the largest used + max(rest', to_attach) over all edges to parents."""
        # `to_attach` is `NEVER` if such a node could not be completed: then no number is enough.
        takes_free = self.room > self.needed.ends
        to_attach = self.needed.to_attach[takes_free].amax() if takes_free.any() else 0
        enough = self.needed.used + self.needed.larger_rest.clamp(min=to_attach)
        # A first node has no parent.
        first = self.states.first[self.begins[0]]
        enough_for_first = self.needed.ends[first] + self.needed.rest[first].clamp(min=to_attach)
        return int(torch.cat([enough[self.attaches[0]], enough_for_first]).max())

    def _enough_for_closures(self) -> int:
        """Return the largest (more + rest') of one node + more of the other one."""
        after = self.states.after
        ends = self.needed.ends
        more_ends = (ends[after] - ends[:, None, None]).clamp(min=0)
        more_ends = torch.where(after == UNKNOWN, 0, more_ends)
        return int((more_ends + self.needed.rest[after]).max()) + int(more_ends.max())

    def _set_attaches_alone(self) -> None:
        """Set `attaches_alone`: the conditions of the new node and its parent, by the state."""
        needed = self.needed
        to_go_on = needed.to_attach[self.states.after].minimum(needed.to_attach[self.leaf])
        # Axes: free + 1, state of the parent, label of the edge, category of the new node.
        free_after = torch.arange(-1, MOST_ALONE + 1)[:, None, None, None] - needed.used
        alone = (free_after >= needed.larger_rest) & ((free_after == 0) | (free_after >= to_go_on))
        set_tables(self, attaches_alone=(alone[:, None] & self.attaches).flatten(3).any(3))

    def _completable(self, new, possible, look_up):
        """Look up the conditions where there are not many free nodes; see `CompletingSupport`."""
        unsure = (~self._has_enough_free(new)).nonzero()[:, 0]
        if not len(unsure):
            return possible
        fits = super()._completable(new[unsure], possible[unsure], look_up)
        return possible.index_copy(0, unsure, fits)

    def _completable_backtracks(self, new):
        """Look up edges where `_parent_suffices` has no answer; see `CompletingSupport`."""
        sure = self._parent_suffices(new)[..., None]
        unsure = replace(new, possible=new.possible & ~sure)
        return (new.possible & sure) | super()._completable_backtracks(unsure)

    def _has_enough_free(self, new: UndecidedNodes) -> Tensor:
        """Return where all that `Support` allows M new nodes meets the conditions, (M,) bool.

        The class docstring has the proof.
        """
        return self._free(new) >= self.enough_free + self._largest_rest(new)

    def _parent_suffices(self, new: UndecidedNodes) -> Tensor:
        """Return which backtracks are possible for what the parent needs alone, (M, U) bool.

        If no node has a rest, only the new node and its parent can break a condition: ends that
        nodes still need are taken off `free` already. Where `attaches_alone` is True, some edge and
        category break none. Where it is False, edges have to be looked up.
        """
        free = self._free(new)
        in_table = (free >= -1) & (free <= MOST_ALONE) & (self._largest_rest(new) == 0)
        row = free.clamp(-1, MOST_ALONE)[:, None] + 1
        parent = self._parent_columns(new)
        room = self._room_needed(new, parent)
        return in_table[:, None] & self.attaches_alone[row, room, new.state.gather(1, parent)]


def _if_any(fits: Tensor, others: Tensor) -> Tensor:
    """Return `fits` (M, ., .) bool, but rows of `others` where it allows nothing."""
    return torch.where(fits.flatten(1).any(1)[:, None, None], fits, others)
