"""Support of the density: which values of a new node's variables are possible.

The words path, level, label and state are those of `graphcnf.graphs.path`. A *new node* is the one
whose variables are decided now, one after the other. `UndecidedNodes.possible` says which values of
the next variable are possible. The backtrack is decided by itself. The variables of an edge belong
together, so that `UndecidedNodes.pairs` says which pairs of their values are possible:

    variables                                                 what is possible is found by
    backtrack                                                 `Support.possible_backtracks`
    label of the edge to the parent, category of the node     `Support.possible_edges`
    length of a closure, label of its edge; for each closure  `Support.possible_edges`

`Support.new_nodes` begins with the backtrack. `Support.add` takes the value of a variable, and
finds what is possible for the next one. A subclass may override the two methods of the table to
rule out more values.

What is possible follows from the states of the new node and the node at the other end of the edge,
and from the number of nodes to come, which must find a parent:

- The *room* of a node is the largest number of later nodes that can be attached to it, to nodes
  attached to it, and so on; `ENDLESS` stands for any number.
- The *possible parents* of the next node are the last node of the path and as many nodes above it
  as the largest backtrack leads up. Their rooms are added up.
- The *needed room* of a new node is the number of nodes to come that do not fit at possible parents
  above its own parent: there must be room for them at these two. 8 (`MOST_ROOM`) stands for eight
  or more.

For example, acetamide, CC(N)=O, has the nodes c, c, n and o. Let nodes get only the edges that they
have in it (`Environments`). Before its last node, the path is c-c-n:

    level of the node       0           1           2
    node, with its edges    c: c        c: c, n     n: c
    room                    2: n and o  1: o        0
    backtrack to it         2           1           0
    possible                yes         yes         no: n gets no further edge

Backtrack 1 is decided. Then only label 2 (the double edge) with category o is possible. Had there
been another node to come, backtrack 1 would have been impossible if it were the largest one: the
next node could be attached neither to o nor to the full node at level 1, and the node at level 0
would be too far up.

Two special cases:

- A *first node* has no parent. The column before its own has `NO_NODE`, so that only two entries
  are possible, which stand in no table of parents: backtrack 0, and label 0 with the categories of
  `Support.can_begin`.
- *Nothing is possible* if an earlier value was impossible, as in scoring a graph outside of the
  support, whose probability is 0 already. Then all values count as possible, as logits of -inf
  alone would make it nan.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.graphs.path.depth_first import (
    LENGTHS,
    DepthFirstCode,
    Variable,
    VariableRole,
)
from graphcnf.graphs.path.node_states import NO_NODE, UNKNOWN, NodeStates, set_tables
from graphcnf.graphs.path.paths import SEEN_LEVELS

ENDLESS = 1000
"""Room of a node that any number of nodes can follow. Rooms are added up: a sum of `ENDLESS` or
more means any number, as graphs have fewer nodes."""
MOST_ROOM = 8
"""Needed room that only endless room is enough for, so that tables have few rows: a graph whose
last eight nodes all hang on nodes without it is ruled out."""
ROUNDS = 24
"""Rooms are found in rounds: after round r, those by way of chains of up to r nodes are counted.
Longer chains without endless room count less than they hold, which makes the rules stricter."""


@dataclass
class UndecidedNodes:
    """M new nodes while their variables are decided one after the other.

    Nodes of the path stand in columns, `Support.pad` of `NO_NODE` first, then level 0, 1, ...; an
    edge of length l leads to the node l columns before the new one (1 for the parent).

    Attributes:
        state: State of the node in each column, (M, W) long, with the edges of the new node that
            are decided; `NO_NODE` in `column` and to its right.
        column: Column in which the new node will stand, (M,) long. Before the backtrack is decided,
            that with backtrack 0.
        to_come: Number of nodes of the graph after the new one, (M,) long.
        own_state: State of the new node, (M,) long; `NO_NODE` before its category is decided.
        x: The variables that are decided, in the order of `DepthFirstCode`, (M,) long each.
        possible: Which of the Q values of the next variable are possible, (M, Q) bool; at least one
            in each row. Without meaning once all variables are decided.
        pairs: Before the two variables of an edge: which values of the second one are possible with
            each value of the first one, (M, ., .) bool. Values of the first one that lead beyond
            the first node are left out. None before a backtrack, and before the second of the two.
    """

    state: Tensor
    column: Tensor
    to_come: Tensor
    own_state: Tensor
    x: tuple[Tensor, ...]
    possible: Tensor
    pairs: Tensor | None = None

    def __getitem__(self, rows: Tensor) -> UndecidedNodes:
        """Return K of the M nodes; `rows` are their indices, (K,) long."""
        return UndecidedNodes(
            self.state[rows],
            self.column[rows],
            self.to_come[rows],
            self.own_state[rows],
            tuple(value[rows] for value in self.x),
            self.possible[rows],
            None if self.pairs is None else self.pairs[rows],
        )

    @property
    def variable(self) -> Variable:
        """The variable that is decided next."""
        return Variable.at(len(self.x))


class Support(nn.Module):
    """Rules which values of a new node's variables are possible.

    Impossible values have probability 0, and the probabilities of the others sum to one. Impossible
    is

    - what is not part of the code of any graph: a backtrack or closure beyond the first node,
      closure lengths that do not increase, a label for an edge that does not exist;
    - an edge that one of its ends may not get in its state;
    - what would leave no room for the nodes to come.

    Attributes:
        branches: True if the next node can have the same parent as the new one, False if paths
            never backtrack.
        pad: Number of columns before that of the first node. They are enough for every backtrack
            and closure, and for the 16 levels that the network sees (`SEEN_LEVELS`).
        attached_state: State of a new node with only the edge to its parent, by state of the
            parent, label of the edge and category of the new node, (S, E + 1, C) long.
        room: Room of a node in each state, (S,) long.
        can_attach: Whether a new node can be attached so that it and its parent together have the
            needed room, (9, S, E + 1, C) bool: by needed room, then as `attached_state`.
        can_be_parent: `can_attach` for at least one label and category, (9, S) bool.
        can_begin: Whether a graph can begin with a node of each category so that it has the needed
            room, (9, C) bool.
        can_join: Whether a node in each state may get a further edge to a neighbour of each
            category, (S, C) bool.
    """

    attached_state: Tensor
    room: Tensor
    can_attach: Tensor
    can_be_parent: Tensor
    can_begin: Tensor
    can_join: Tensor

    def __init__(self, code: DepthFirstCode, states: NodeStates):
        super().__init__()
        self.code = code
        self.states = states
        self.branches = code.largest_backtrack > 0
        # The largest backtrack from level -1, before the first node, still leads to a column.
        self.pad = max(SEEN_LEVELS, code.largest_backtrack, *code.closures) + 1
        self._set_tables()

    def _set_tables(self) -> None:
        """Set all tables, from `attached_state` to `can_join`; they follow from `states`."""
        first = self.states.first
        after = self.states.after
        # attached_state[s, e, c] is after[first[c], e, category[s]].
        attached_state = after[first][:, :, self.states.category].permute(2, 1, 0)
        fits = (after != UNKNOWN) & (attached_state != UNKNOWN)
        fits[:, 0] = False
        room = self._rooms(fits, attached_state)
        parent_room = room[after] if self.branches else 0
        enough = [*range(MOST_ROOM), ENDLESS]  # by needed room
        can_attach = torch.stack(
            [fits & (room[attached_state] + parent_room >= least) for least in enough]
        )
        set_tables(
            self,
            attached_state=attached_state,
            room=room,
            can_attach=can_attach,
            can_be_parent=can_attach.flatten(2).any(2),
            can_begin=torch.stack(
                [(first != UNKNOWN) & (room[first] >= least) for least in enough]
            ),
            can_join=(after[:, 1:] != UNKNOWN).any(1),
        )

    def _rooms(self, fits: Tensor, attached_state: Tensor) -> Tensor:
        """Return the room of a node in each state, (S,) long."""
        after = self.states.after
        # A node has endless room if a chain can follow it: begin with all that get a further edge,
        # and leave out those that no chain can follow, until nothing changes.
        endless = fits.any(2).any(1)
        previous = None
        while previous is None or not torch.equal(endless, previous):
            previous = endless
            goes_on = endless[attached_state] | (endless[after] & self.branches)
            endless = endless & (fits & goes_on).flatten(1).any(1)
        room = torch.where(endless, ENDLESS, 0)
        for _ in range(ROUNDS):
            previous = room
            more = torch.where(fits, 1 + room[attached_state] + room[after] * self.branches, 0)
            room = torch.where(endless, ENDLESS, more.amax((1, 2)))
            if torch.equal(room, previous):
                break
        return room

    def new_nodes(self, state: Tensor, depth: Tensor, to_come: Tensor) -> UndecidedNodes:
        """Return M new nodes of which no variable is decided."""
        column = depth + self.pad + 1
        new = UndecidedNodes(
            state=_before(column, state),
            column=column,
            to_come=to_come,
            own_state=torch.full_like(depth, NO_NODE),
            x=(),
            possible=torch.zeros(len(depth), 0, dtype=torch.bool, device=depth.device),
        )
        return self._with_possible(new)

    def add(self, new: UndecidedNodes, x: Tensor) -> UndecidedNodes:
        """Return M new nodes with one more variable decided, and what is possible after it.

        The new node itself joins the path by `Path.add`, once all its variables are decided.
        """
        decided = replace(new, x=(*new.x, x), pairs=None)
        match new.variable.role:
            case VariableRole.PARENT_EDGE | VariableRole.LENGTH:
                assert new.pairs is not None  # as both begin an edge
                every_row = torch.arange(len(x), device=x.device)
                return replace(decided, possible=_all_if_none(new.pairs[every_row, x]))
            case VariableRole.BACKTRACK:
                decided = self.moved(decided)
            case VariableRole.CATEGORY:
                alone = replace(decided, own_state=self.states.first[x])
                decided = self._joined(alone, label=new.x[-1], length=torch.ones_like(x))
            case VariableRole.CLOSING_EDGE:
                decided = self._joined(decided, label=x, length=new.x[-1])
        return (
            decided
            if len(decided.x) == len(self.code.cardinalities)
            else self._with_possible(decided)
        )

    def _with_possible(self, new: UndecidedNodes) -> UndecidedNodes:
        """Return M new nodes with what is possible for a backtrack, or the next edge."""
        pairs = None
        if new.variable.role is VariableRole.BACKTRACK:
            possible = self.possible_backtracks(new)
        else:
            pairs = self.possible_edges(new)
            possible = pairs.any(2)
        beyond_first = self.code.cardinalities[len(new.x)] - possible.shape[1]
        possible = _all_if_none(F.pad(possible, (0, beyond_first)))
        return replace(new, possible=possible, pairs=pairs)

    def moved(self, new: UndecidedNodes) -> UndecidedNodes:
        """Move M new nodes by their backtracks: all nodes below their parents leave the path."""
        # The clamp only matters for impossible values, which lead beyond the first node.
        column = (new.column - new.x[-1]).clamp(min=self.pad)
        return replace(new, column=column, state=_before(column, new.state))

    def _joined(self, new: UndecidedNodes, *, label: Tensor, length: Tensor) -> UndecidedNodes:
        """Return M new nodes after one more edge to an earlier node."""
        column = (new.column - length)[:, None]
        earlier = new.state.gather(1, column)[:, 0]
        own_after, earlier_after = self.states.joined(new.own_state, earlier, label)
        state = new.state.scatter(1, column, earlier_after[:, None])
        return replace(new, state=state, own_state=own_after)

    def possible_backtracks(self, new: UndecidedNodes) -> Tensor:
        """Return the possible backtracks of M new nodes, (M, U) bool.

        Those beyond the first node of all graphs are left out: U is at most the number of
        backtracks.
        """
        parent = self.parent_columns(new)
        needed = self.needed_room(new, parent)
        fits = self.can_be_parent[needed, new.state.gather(1, parent)]
        fits[:, 0] |= self._is_first(new) & self.can_begin.any(1)[needed[:, 0]]
        return fits

    def _is_first(self, new: UndecidedNodes) -> Tensor:
        """Return which of M new nodes are the first of their graphs, (M,) bool."""
        return new.column == self.pad

    def parent_columns(self, new: UndecidedNodes) -> Tensor:
        """Return the columns to which the backtracks 0, 1, ... of new nodes lead, (M, U) long."""
        most = min(self.code.largest_backtrack + 1, new.state.shape[1] - self.pad)
        backtrack = torch.arange(most, device=new.column.device)
        return new.column[:, None] - 1 - backtrack

    def possible_edges(self, new: UndecidedNodes) -> Tensor:
        """Return which edges to an earlier node M new nodes may get next: pairs of two variables.

        Returns:
            (M, ., .) bool. Before the edge to the parent: by its label and the category of the new
            node, (M, E + 1, C). Before a closure: by its length and label, (M, L, E + 1).
        """
        if new.variable.role is VariableRole.PARENT_EDGE:
            return self._possible_attachments(new)
        return self._possible_closures(new)

    def _possible_attachments(self, new: UndecidedNodes) -> Tensor:
        """Return by which edges to their parents, with which categories, new nodes may come."""
        parent = new.column[:, None] - 1
        needed = self.needed_room(new, parent)[:, 0]
        possible = self.can_attach[needed, new.state.gather(1, parent)[:, 0]]
        possible[:, 0] |= self._is_first(new)[:, None] & self.can_begin[needed]
        return possible

    def needed_room(self, new: UndecidedNodes, parent: Tensor) -> Tensor:
        """Return the needed room of M new nodes, 0 to 8 (`MOST_ROOM`), with each of K parents."""
        # Of the next node, backtrack 0 leads to the new one, 1 to its parent, others further up.
        room = self._room_above(new, parent, self.code.largest_backtrack - 1)
        return (new.to_come[:, None] - room).clamp(0, MOST_ROOM)

    def _room_above(self, new: UndecidedNodes, column: Tensor, count: int) -> Tensor:
        """Return the rooms of the `count` nodes above some columns, added up."""
        before = F.pad(self.room[new.state].cumsum(1), (1, 0))  # [:, c]: all columns before c
        first = (column - max(count, 0)).clamp(min=0)
        return before.gather(1, column) - before.gather(1, first)

    def _possible_closures(self, new: UndecidedNodes) -> Tensor:
        """Return which lengths of the next closure, and which labels of its edge, are possible."""
        most = min(self.code.cardinalities[len(new.x)], new.state.shape[1] - self.pad)
        length = torch.arange(most, device=new.column.device).expand(len(new.column), -1)
        other = new.state.gather(1, new.column[:, None] - length)
        own = new.own_state[:, None]
        category = self.states.category
        fits = (
            self.can_join[own, category[other]]
            & self.can_join[other, category[own]]
            & (length >= 2)
        )
        if lengths := new.x[LENGTHS]:
            # Lengths increase, and after a length of 0 all are 0.
            previous = lengths[-1][:, None]
            fits = fits & (length > previous) & (previous > 0)
        possible = fits[..., None].repeat(1, 1, self.attached_state.shape[1])
        row, at_length = fits.nonzero(as_tuple=True)
        possible[row, at_length] = self._closing_labels(new, row, other[row, at_length], at_length)
        possible[:, 0, 0] = True
        return possible

    def _closing_labels(
        self, new: UndecidedNodes, row: Tensor, other: Tensor, length: Tensor
    ) -> Tensor:
        """Return by which edges closures are possible."""
        own_after, other_after = self.states.joined(new.own_state[row], other, slice(None))
        # For nodes to come, room must be left at the possible parents of the next one. The other
        # end of the closure is one of these if the next backtrack can lead to it.
        most = self.code.largest_backtrack
        room = self._room_above(new, new.column[:, None], most)[row] + self.room[own_after]
        change = self.room[other_after] - self.room[other][:, None]
        room = room + torch.where(length[:, None] <= most, change, 0)
        known = (other_after != UNKNOWN) & (own_after != UNKNOWN)
        fits = known & (room >= new.to_come[row, None])
        fits[:, 0] = False
        return fits


def _before(column: Tensor, state: Tensor) -> Tensor:
    """Return the states (M, W) of nodes left of some columns (M,), and `NO_NODE` from there on."""
    number = torch.arange(state.shape[1], device=state.device)
    return torch.where(number < column[:, None], state, NO_NODE)


def _all_if_none(possible: Tensor) -> Tensor:
    """Return which of Q values are possible, (M, Q) bool, and all of a row where none is."""
    return possible | ~possible.any(1, keepdim=True)
