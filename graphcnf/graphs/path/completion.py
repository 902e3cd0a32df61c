"""Support with environments: an edge is possible only if all nodes can still be completed.

`Support` says which edges nodes may get in their states. With environments, a node must besides not
be left before its state is complete. Before an edge is allowed, `CompletingSupport` therefore asks
two questions: what does each node still need, and can the nodes to come bring it?

*What a node needs* follows from its state (`NeededEdges`):

- Its *missing* edges are the least number of further ones that complete it. No two of them lead to
  the same node.
- Its *terminals* are the least number of missing edges to terminal nodes, which get no second edge.
- Its *rest* is missing minus terminals. (Either is the least of its own, perhaps of two different
  ways to complete a node.)

*What the nodes to come can bring:* a terminal node serves one other node only. So the terminals
that nodes still need are taken off the number of nodes to come; those that remain are *free*:

    free = to_come - sum of the terminals of all nodes on the path and of the new node

A free node can serve several nodes, by the edge to its parent and by closures, but it brings each
of them one edge at most. So each node needs as many free nodes as its rest, and several nodes may
count on the same ones. The new node, too, can bring an edge to each node, as long as it may still
get a closure; closures lead further and further up. An edge from the new node to another node, its
parent or the end of a closure, is possible if after it these *requirements* hold:

    1. rest <= free, for the other node and all nodes below it;
    2. rest <= free, for all nodes above the other one, or rest = free + 1 if a later closure of the
       new node can lower it;
    3. rest <= free + the number of later closures that can lower it, for the new node;
    4. if all nodes to come are free, one of them can be attached to the new node, its parent or a
       node above, and both can be completed: `free_to_attach` < free, as it is a free node itself.
       This is asked of edges to parents only, and only where few nodes are free (`enough_free`).

`CompletingSupport` has a method for each, which says why it is necessary:
`_serves_other_and_below`, `_serves_above`, `_serves_new` and `_can_attach_next`.

For example, let nodes get only the edges that they have in acetamide, CC(N)=O, whose nodes are c,
c, n and o. What nodes need while they are drawn in this order:

    path     node and its edges   terminals   rest
    c        c: none              0           1      a c must follow, which gets further edges
    c-c      c: c, at either end  0           0      complete, as the c of the methyl group
    c-c-n    c: c, n, at level 1  1           0      an o must follow, which gets no further edge

After the first c, a node must be to come: rest <= free is 1 <= 0 without one. After the path c-c,
an n at level 1 is possible if another node is to come after it: `free` is 1 - 1 = 0. With none to
come `free` would be -1, since the c at level 1 could not be completed any more. A second c with one
node to come breaks requirement 4: that node would have to be an n or an o, and a c that gets one of
them needs the other, too.

Closures count in a ring of three, where each node c gets two edges to nodes c:

    edge                    free   1. other and below   2. above         3. new node
    second c to the first   1      first: 1 <= 1        nothing          1 <= 1
    third c to the second   0      second: 0 <= 0       first: 1 = 0+1   1 <= 0 + 1
    closure to the first    0      first, second: 0     nothing          0 <= 0

The third c is possible because it may get a closure to the first one, which lowers both rests.

The requirements are necessary, so that they never rule out a graph whose environments are known;
`Support` does only where eight or more nodes are to come (`MOST_ROOM`). They are not sufficient:
drawing may come to a node that it cannot complete, which is then left as it is. They could be
stricter: of the nodes above, only the last of those with the largest rest is looked at. Nodes that
must follow a node to come are not counted. A node counts for requirement 4 although backtracks may
not lead to it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.graphs.path.depth_first import DepthFirstCode, VariableRole
from graphcnf.graphs.path.node_states import (
    NEVER,
    NO_NODE,
    UNKNOWN,
    Environments,
    NodeStates,
    set_tables,
)
from graphcnf.graphs.path.support import Support, UndecidedNodes


class NeededEdges(nn.Module):
    """What nodes still need to be complete: tables by the state of a node, for all S states.

    Attributes:
        terminals: Least number of missing edges to terminal nodes, (S,) long; `NEVER` for a state
            that new nodes alone cannot complete.
        rest: Missing edges minus `terminals`, (S,) long.
        is_incomplete: 1 if edges are missing, else 0, (S,) long.
        lowered: Entry [s, label, c] is True if an edge with this label to a node of category c
            lowers the rest of a node in state s and does not raise its terminals, (S, E + 1, C)
            bool.
        free_to_attach: Least number of free nodes, beside the new node itself, with which it can be
            attached to a node so that both can still be completed, by the needed room and the state
            of the node, (9, S) long; `NEVER` if none can be attached. It is the
            least used + max(rest of the node, rest of the new node - `closures`) after the edge
            between them, where `used` is by how much `free` falls.
    """

    terminals: Tensor
    rest: Tensor
    is_incomplete: Tensor
    lowered: Tensor
    free_to_attach: Tensor

    def __init__(
        self, states: NodeStates, can_attach: Tensor, attached_state: Tensor, closures: int
    ):
        super().__init__()
        after = states.after
        gets_no_edge = (after[:, 1:] == UNKNOWN).flatten(1).all(1)
        leads_to_terminal = gets_no_edge[attached_state].long()
        cost_if_left = torch.where(states.complete, 0, NEVER)
        missing = states.least_cost(cost_if_left, torch.where(can_attach[0], 1, NEVER))
        cost = torch.where(can_attach[0], leads_to_terminal, NEVER)
        terminals = states.least_cost(cost_if_left, cost)
        rest = missing - terminals
        # Axes: state of the node, label of the edge, category of its other end.
        has_less_rest = rest[after] < rest[:, None, None]
        needs_no_more_terminals = terminals[after] <= terminals[:, None, None]
        # -1 for a terminal that was missing.
        used = terminals[after] + terminals[attached_state] - terminals[:, None, None]
        least_free = used + rest[after].maximum(rest[attached_state] - closures)
        set_tables(
            self,
            terminals=terminals,
            rest=rest,
            is_incomplete=(missing > 0).long(),
            lowered=has_less_rest & needs_no_more_terminals & (after != UNKNOWN),
            free_to_attach=torch.where(can_attach, least_free, NEVER).amin((2, 3)),
        )


@dataclass
class PossibleEdges:
    """K edges, each of which one of M new nodes may get next, and how things stand after it.

    Attributes:
        row: Which of the M new nodes gets the edge, (K,) long.
        column: Where the other node stands in `UndecidedNodes.state`, (K,) long.
        own_state: State of the new node with this edge, (K,) long.
        other_state: State of the other node with it, (K,) long.
        free: Number of free nodes after it, (K,) long.
        closures_left: How many closures the new node may still get after it, (K,) long.
    """

    row: Tensor
    column: Tensor
    own_state: Tensor
    other_state: Tensor
    free: Tensor
    closures_left: Tensor


class CompletingSupport(Support):
    """Support of a model that knows environments: a node is left only when it is complete.

    Of what `Support` allows, two kinds are ruled out. One is an edge after which a requirement of
    this module does not hold. The other is a backtrack that leaves a node with missing edges, or
    after which no edge is left: the parent and a node attached to it would need more free nodes
    than there are (`NeededEdges.free_to_attach`), or a node waits for a closure that none of these
    could get. If nothing remains, all that `Support` allows is possible, and drawing may leave a
    node incomplete.

    Attributes:
        environments: The known environments.
        needed: What nodes in each state still need.
        enough_free: With so many free nodes before an edge, no requirement is checked. 1 to 3 hold
            after it anyway, so that this only saves time; 4 is never asked then, which is a rule of
            its own.

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
        >>> [table[state].tolist() for table in (support.needed.terminals, support.needed.rest)]
        [[0, 1, 0], [0, 0, 0]]

        The c at level 1 misses a terminal. It must not be left, so that only a backtrack of 1 is
        possible, and then only label 2, the double edge, with category 2:

        >>> new.possible.tolist()
        [[False, True, False]]
        >>> support.add(new, torch.tensor([1])).pairs.nonzero().tolist()
        [[0, 2, 2]]
    """

    def __init__(self, code: DepthFirstCode, edge_weights: list[int], environments: Environments):
        super().__init__(code, environments.states(edge_weights))
        self.environments = environments
        self.needed = NeededEdges(
            self.states, self.can_attach, self.attached_state, len(code.closures)
        )
        # An edge takes at most the largest number of terminals off `free` for either node, and
        # after it no rest is larger than the largest one.
        self.enough_free = 2 * int(self.needed.terminals.max()) + int(self.needed.rest.max())

    def possible_backtracks(self, new: UndecidedNodes) -> Tensor:
        possible = super().possible_backtracks(new)
        return _unless_empty(self._completable_backtracks(new, possible), possible)

    def possible_edges(self, new: UndecidedNodes) -> Tensor:
        possible = super().possible_edges(new)
        few = (self._free(new) < self.enough_free).nonzero()[:, 0]
        if not len(few):  # Mostly so, and the check takes time even for no node.
            return possible
        fits = possible.clone()
        fits[few] = self._meeting_requirements(new[few], possible[few])
        return _unless_empty(fits, possible)

    def _completable_backtracks(self, new: UndecidedNodes, possible: Tensor) -> Tensor:
        """Rule out backtracks after which something remains to be done that cannot be done."""
        # All nodes below the parent are left for good.
        column = torch.arange(new.state.shape[1], device=possible.device)
        last_incomplete = (self.needed.is_incomplete[new.state] * column).amax(1)
        parent = self.parent_columns(new)
        needed_room = self.needed_room(new, parent)
        least_free = self.needed.free_to_attach[needed_room, new.state.gather(1, parent)]
        fits = (parent >= last_incomplete[:, None]) & (least_free <= self._free(new)[:, None])
        return self._serving_waiting_nodes(new, possible & fits)

    def _serving_waiting_nodes(self, new: UndecidedNodes, possible: Tensor) -> Tensor:
        """Return which backtracks leave an edge that meets the requirements."""
        waits = self.needed.rest[new.state].amax(1) > self._free(new)
        row, backtrack = (possible & waits[:, None]).nonzero(as_tuple=True)
        if not len(row):
            return possible
        moved = self.moved(replace(new[row], x=(backtrack,)))
        edges = self._meeting_requirements(moved, super().possible_edges(moved))
        fits = possible.clone()
        fits[row, backtrack] = edges.flatten(1).any(1)
        return fits

    def _meeting_requirements(self, new: UndecidedNodes, possible: Tensor) -> Tensor:
        """Return which of the possible edges meet the requirements."""
        row, first, second = possible.nonzero(as_tuple=True)
        if new.variable.role is VariableRole.PARENT_EDGE:
            alone = self.states.first[second]
            edges = self._edges(new, row, alone, label=first, length=torch.ones_like(row))
        else:
            edges = self._edges(new, row, new.own_state[row], label=second, length=first)
        fits = possible.clone()
        fits[possible] = self._serves(new, edges)
        return fits

    def _free(self, new: UndecidedNodes) -> Tensor:
        """Return the number of free nodes for each of M new nodes, (M,) long."""
        return self._free_of_path(new) - self.needed.terminals[new.own_state]

    def _free_of_path(self, new: UndecidedNodes) -> Tensor:
        """Return how many nodes would be free if the new nodes needed no terminals, (M,) long."""
        return new.to_come - self.needed.terminals[new.state].sum(1)

    def _edges(
        self, new: UndecidedNodes, row: Tensor, own: Tensor, label: Tensor, length: Tensor
    ) -> PossibleEdges:
        """Return how things stand after each of K possible edges of M new nodes."""
        terminals = self.needed.terminals
        column = new.column[row] - length
        other = new.state[row, column]
        own_after, other_after = self.states.joined(own, other, label)
        without_other = self._free_of_path(new)[row] + terminals[other]
        free = without_other - terminals[other_after] - terminals[own_after]
        closures_left = len(self.code.closures) - new.variable.edge_number
        return PossibleEdges(
            row=row,
            column=column,
            own_state=own_after,
            other_state=other_after,
            free=free,
            closures_left=torch.where(length > 0, closures_left, 0),
        )

    def _serves(self, new: UndecidedNodes, edges: PossibleEdges) -> Tensor:
        """Return after which of K edges of M new nodes all four requirements hold, (K,) bool."""
        other_and_below = self._serves_other_and_below(new, edges)
        path = other_and_below & self._serves_above(new, edges)
        return path & self._serves_new(new, edges) & self._can_attach_next(new, edges)

    def _serves_other_and_below(self, new: UndecidedNodes, edges: PossibleEdges) -> Tensor:
        """Return after which edges requirement 1 holds: nodes from the other down, (K,) bool."""
        # The largest rest in each column and all to its right:
        largest = self.needed.rest[new.state].flip(1).cummax(1).values.flip(1)
        below = F.pad(largest, (0, 1))[edges.row, edges.column + 1]
        return below.maximum(self.needed.rest[edges.other_state]) <= edges.free

    def _serves_above(self, new: UndecidedNodes, edges: PossibleEdges) -> Tensor:
        """Return after which edges requirement 2 holds: nodes above the other one, (K,) bool."""
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
        """Return after which edges requirement 3 holds: the new node itself, (K,) bool."""
        short = self.needed.rest[edges.own_state] - edges.free
        fits = short <= 0
        k = ((short > 0) & (short <= edges.closures_left)).nonzero()[:, 0]
        column = torch.arange(new.state.shape[1], device=k.device)
        is_above = column < edges.column[k, None]
        above = torch.where(is_above, new.state[edges.row[k]], NO_NODE)
        fits[k] = self._lowers_rest(above, edges.own_state[k, None]).sum(1) >= short[k]
        return fits

    def _can_attach_next(self, new: UndecidedNodes, edges: PossibleEdges) -> Tensor:
        """Return after which edges requirement 4 holds: a next node finds a parent, (K,) bool."""
        to_attach = self.needed.free_to_attach[0]  # `Support` has seen to the room
        least = to_attach[new.state].cummin(1).values[edges.row, edges.column - 1]
        for state in (edges.own_state, edges.other_state):
            least = least.minimum(to_attach[state])
        to_parent = edges.column == new.column[edges.row] - 1
        all_free = (edges.free == new.to_come[edges.row]) & (edges.free > 0)
        # The next node is a free one itself.
        return (least + 1 <= edges.free) | ~(to_parent & all_free)

    def _lowers_rest(self, own: Tensor, other: Tensor) -> Tensor:
        """Return whether a closure is possible that lowers the rest of the other node."""
        category = self.states.category
        takes = self.states.after[own, :, category[other]] != UNKNOWN
        return (takes & self.needed.lowered[other, :, category[own]]).any(-1)


def _unless_empty(fits: Tensor, possible: Tensor) -> Tensor:
    """Return `fits`, and `possible` in the rows where nothing fits; (M, ...) bool each."""
    some = fits.flatten(1).any(1)
    return torch.where(some.view(-1, *[1] * (fits.dim() - 1)), fits, possible)
