"""Support of the density: which values of a new node's variables are possible.

A *new node* is the one whose variables are decided now, one after the other; a value is possible
if some graph can follow from it. The *state* of a node says what edges it may still get
(`NodeStates`), the *label* of an edge is its category plus 1, and the other words are those of
`graphcnf.graphs.path`. What else matters is that the nodes to come find a parent:

- The *possible parents* of the next node are the last node of the path and the `reach` nodes above
  it, since a backtrack leads up at most so far.
- The *room* of a node is the largest number of later nodes that can be attached to it, to nodes
  attached to it, and so on. `ENDLESS` stands for any number. With limits on sums of edge weights, a
  node that takes a further edge has endless room, since a chain can follow. With environments, room
  can be a small number: a node that only takes two nodes without further edges has room for 2.
- `room_above_parent` is the room of the possible parents of the next node other than the new node
  and its parent, added up.

For example, let nodes a have up to 4 edges and nodes b one, all of weight 1, and let a backtrack
lead up at most 2 levels. After the path a-a-a-b, with one node to come after the next one:

    level                                    0        1        2        3
    node                                     a        a        a        b
    room                                     ENDLESS  ENDLESS  ENDLESS  0
    room_above_parent, if the parent is here 0        ENDLESS  ENDLESS  ENDLESS

To level 3 nothing can be attached, since b takes no further edge, and level 0 is out of reach. To
level 2, an a or a b can be attached. With a b, the node at level 2 has one of its four edges left;
had it none, level 1 would still have room. An a that is attached to level 2 may also close a ring
with level 1 or 0, by a closure of length 2 or 3, since nodes with room are left.

If nodes a had only up to 2 edges, `room_above_parent` would be 0 at the a of the path b-a. A new
node b would take its last edge and leave no room for the node to come, so that it must be another
a.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.graphs.path.depth_first import (
    BACKTRACK,
    CATEGORY,
    LENGTHS,
    PARENT_EDGE,
    DepthFirstCode,
    Variable,
    VariableRole,
)
from graphcnf.graphs.path.node_states import NO_NODE, UNKNOWN, NodeStates, set_tables
from graphcnf.graphs.path.paths import SEEN_LEVELS

ENDLESS = 1000
"""Room of a node that any number of nodes can follow. Rooms are added up: a sum of `ENDLESS` or
more means any number, as graphs have fewer nodes."""
ROOMS = (*range(8), ENDLESS)
"""Rooms that are told apart where a node is attached. If eight or more nodes are to come, only
endless room is accepted: a graph whose last eight nodes all hang on nodes without it is ruled
out."""
ROUNDS = 24
"""Rooms are found in rounds: after round r, those by way of chains of up to r nodes are counted.
Longer chains without endless room count less than they hold, which makes the rules stricter."""


@dataclass
class UndecidedNodes:
    """M new nodes while their variables are decided one after the other.

    Attributes:
        state: State of the node at each level of the path, (M, W) long, with the edges of the new
            node that are decided; `Support.pad` columns of `NO_NODE` come first, and levels beyond
            the path have it, too.
        room_above_parent: Column by column, the `room_above_parent` of this module if the parent of
            the new node stood there, (M, W) long: the sum of the rooms of the `reach` - 1 nodes
            above it, before the new node has any edge. It serves to choose the parent. Closures
            change rooms, so that `Support` adds them up anew for these.
        depth: Level of the previous node, (M,) long; -1 before the first one.
        to_come: Number of nodes of the graph after the new one, (M,) long.
        own_state: State of the new node, (M,) long; `NO_NODE` before its category is decided.
        possible_backtracks: Which backtracks are possible, (M, U) bool.
        possible_choices: Which edges to the parent are possible, and with each which categories of
            the new node, (M, E + 1, C) bool; empty, (M, 0, 0), before the backtrack is decided.
        possible_closures: Which lengths of the next closure are possible, and with each which
            labels of its edge, (M, L, E + 1) bool; length 0 and label 0 stand for no further
            closure. Empty before the category is decided.
        x: The variables that are decided, in the order of `DepthFirstCode`, (M,) long each.
    """

    state: Tensor
    room_above_parent: Tensor
    depth: Tensor
    to_come: Tensor
    own_state: Tensor
    possible_backtracks: Tensor
    possible_choices: Tensor
    possible_closures: Tensor
    x: tuple[Tensor, ...] = ()

    def __getitem__(self, rows: Tensor) -> UndecidedNodes:
        """Return K of the M nodes; `rows` are their indices, (K,) long."""
        tensors = {k: v[rows] for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **tensors, x=tuple(value[rows] for value in self.x))

    @property
    def count(self) -> int:
        """Number of the variables that are decided."""
        return len(self.x)

    @property
    def variable(self) -> Variable:
        """The variable that is decided next, after the `count` ones that are.

        `Variable` (`graphcnf.graphs.path.depth_first`) says what it describes, and of which edge.
        """
        return Variable.at(self.count)

    @property
    def backtrack(self) -> Tensor:
        """Backtrack of the new node, (M,) long."""
        return self.x[BACKTRACK]

    @property
    def parent_label(self) -> Tensor:
        """Label of the edge to the parent, (M,) long."""
        return self.x[PARENT_EDGE]

    @property
    def category(self) -> Tensor:
        """Category of the new node, (M,) long."""
        return self.x[CATEGORY]

    @property
    def closure_lengths(self) -> tuple[Tensor, ...]:
        """Lengths of its closures that are decided.

        Returns:
            (M,) long for each closure so far.
        """
        return self.x[LENGTHS]


def room_index(room: Tensor) -> Tensor:
    """Return the index in `ROOMS` of the smallest room that is enough.

    Args:
        room: Numbers of nodes for which room is needed, of any shape; below 0 like 0.

    Returns:
        Indices, of the same shape: up to 7 the number itself, else the index of `ENDLESS`.
    """
    return room.clamp(0, len(ROOMS) - 1)


def _sums_before(values: Tensor, count: int) -> Tensor:
    """Return in each column the sum of up to `count` columns before it: (M, W) as `values`.

    With `count` = 2, the row 1, 2, 3, 4 becomes 0, 1, 3, 5. None are added up if `count` < 1.
    """
    up_to = values.cumsum(1)
    before = F.pad(up_to, (1, 0))[:, :-1]
    too_far = F.pad(up_to, (max(count, 0) + 1, 0))[:, : values.shape[1]]
    return before - too_far


class Support(nn.Module):
    """Rules which values of a new node's variables are possible.

    Impossible values have probability 0, and the probabilities of the others sum to one. Impossible
    is

    - what is not part of the code of any graph: a backtrack or closure beyond the first node,
      closure lengths that do not increase, a label for an edge that does not exist;
    - an edge that one of its ends may not get in its state;
    - what would leave no room for the nodes to come.

    Args:
        code: The variables of a node.
        states: The states of nodes, which say what edges a node may still get.

    Attributes:
        reach: Largest backtrack.
        branches: True if the next node can have the same parent as the new one, False if paths
            never backtrack.
        pad: Number of columns of zeros in `Path.table`, enough for every backtrack and closure.
        leaf: State of a new node with only the edge to its parent, by state of the parent, label of
            the edge and category of the new node, (S, E + 1, C) long.
        room: Room of a node in each state, (S,) long.
        attaches: Whether a new node can be attached so that it and its parent together have room
            for `ROOMS[r]` nodes, (ROOMS, S, E + 1, C) bool: by r, then as `leaf`. A first node,
            which has no parent, has the entries of state `NO_NODE` and label 0.
        attaches_at: `attaches` for at least one label and category, (ROOMS, S) bool.
        takes: Whether a node in each state may get a further edge to a neighbour of each category,
            (S, C) bool.
    """

    leaf: Tensor
    room: Tensor
    attaches: Tensor
    attaches_at: Tensor
    takes: Tensor

    def __init__(self, code: DepthFirstCode, states: NodeStates):
        super().__init__()
        self.cardinalities = code.cardinalities
        self.entries = code.entries
        self.states = states
        self.reach = code.cardinalities[0] - 1
        self.branches = self.reach > 0
        # The largest backtrack from level -1, before the first node, still leads to a column.
        self.pad = max(SEEN_LEVELS, *code.longest) + 1
        self._set_tables()

    def _set_tables(self) -> None:
        """Set the tables of nodes that are attached to a parent."""
        first = self.states.first
        after = self.states.after
        # leaf[s, e, c] is after[first[c], e, category[s]].
        leaf = after[first][:, :, self.states.category].permute(2, 1, 0)
        fits = (after != UNKNOWN) & (leaf != UNKNOWN)
        fits[:, 0] = False
        room = self._rooms(fits, leaf)
        parent_room = room[after] if self.branches else 0
        attaches = torch.stack([fits & (room[leaf] + parent_room >= least) for least in ROOMS])
        # A first node has no parent.
        rooms = torch.tensor(ROOMS)[:, None]
        attaches[:, NO_NODE, 0] = (first != UNKNOWN) & (room[first] >= rooms)
        set_tables(
            self,
            leaf=leaf,
            room=room,
            attaches=attaches,
            attaches_at=attaches.flatten(2).any(2),
            takes=(after[:, 1:] != UNKNOWN).any(1),
        )

    def _rooms(self, fits: Tensor, leaf: Tensor) -> Tensor:
        """Return the room of a node in each state, (S,) long.

        Args:
            fits: Whether a new node can be attached, indexed as `leaf`.
            leaf: As the attribute.
        """
        after = self.states.after
        # A node has endless room if a chain can follow it: begin with all that get a further edge,
        # and leave out those that no chain can follow, until nothing changes.
        endless = fits.any(2).any(1)
        previous = None
        while previous is None or not torch.equal(endless, previous):
            previous = endless
            goes_on = endless[leaf] | (endless[after] & self.branches)
            endless = endless & (fits & goes_on).flatten(1).any(1)
        room = torch.where(endless, ENDLESS, 0)
        for _ in range(ROUNDS):
            previous = room
            more = torch.where(fits, 1 + room[leaf] + room[after] * self.branches, 0)
            room = torch.where(endless, ENDLESS, more.amax((1, 2)))
            if torch.equal(room, previous):
                break
        return room

    def new_nodes(self, state: Tensor, depth: Tensor, to_come: Tensor) -> UndecidedNodes:
        """Return M new nodes of which no variable is decided.

        Args:
            state: State of the node in each column of `Path.table`, (M, W) long.
            depth: Level of the previous node, (M,) long; -1 before the first one.
            to_come: Number of nodes of the graph after the new one, (M,) long.

        Returns:
            The nodes; which backtracks are possible is already known of them.
        """
        column = torch.arange(state.shape[1], device=state.device)
        state = torch.where(column <= depth[:, None] + self.pad, state, NO_NODE)
        empty = torch.zeros(len(depth), 0, 0, dtype=torch.bool, device=depth.device)
        new = UndecidedNodes(
            state=state,
            room_above_parent=_sums_before(self.room[state], self.reach - 1),
            depth=depth,
            to_come=to_come,
            own_state=torch.full_like(depth, NO_NODE),
            possible_backtracks=empty,
            possible_choices=empty,
            possible_closures=empty,
        )
        return replace(new, possible_backtracks=self._backtracks(new))

    def allowed(self, new: UndecidedNodes) -> Tensor:
        """Return which values of the next variable are possible.

        Args:
            new: The M new nodes, with the variables that are decided; `new.variable` is the next.

        Returns:
            (M, Q) bool, for the Q values of this variable; at least one in each row is possible.
        """
        every_row = torch.arange(len(new.depth), device=new.depth.device)
        match new.variable.role:
            case VariableRole.BACKTRACK:
                fits = new.possible_backtracks
            case VariableRole.PARENT_EDGE:
                fits = new.possible_choices.any(2)
            case VariableRole.CATEGORY:
                fits = new.possible_choices[every_row, new.parent_label]
            case VariableRole.LENGTH:
                fits = new.possible_closures.any(2)
            case VariableRole.CLOSING_EDGE:
                fits = new.possible_closures[every_row, new.closure_lengths[-1]]
        # Values that lead beyond the first node were left out.
        fits = F.pad(fits, (0, self.cardinalities[new.count] - fits.shape[1]))
        # No value is possible only if an earlier one was already impossible, as when a graph
        # outside of the support is scored. Its probability is 0 already; logits of -inf alone
        # would make it nan.
        return fits | ~fits.any(1, keepdim=True)

    def backtrack_columns(self, new: UndecidedNodes) -> Tensor:
        """Return the columns of the nodes to which backtracks 0, 1, 2, ... lead.

        Args:
            new: The M new nodes.

        Returns:
            Columns in `UndecidedNodes.state`, (M, U) long.
        """
        most = min(self.cardinalities[0], new.state.shape[1] - self.pad)
        back = torch.arange(most, device=new.depth.device)
        return new.depth[:, None] - back + self.pad

    def parent_column(self, new: UndecidedNodes) -> Tensor:
        """Return the column of the parent of each new node.

        Args:
            new: The M new nodes, whose backtracks are decided.

        Returns:
            Columns in `UndecidedNodes.state`, (M, 1) long.
        """
        return (new.depth - new.backtrack).clamp(min=-1)[:, None] + self.pad

    def _backtracks(self, new: UndecidedNodes) -> Tensor:
        """Return the possible backtracks of M new nodes, (M, U) bool.

        A first node has no parent, and the backtrack 0.
        """
        column = self.backtrack_columns(new)
        state = new.state.gather(1, column)
        first = new.depth[:, None].lt(0) & (column == new.depth[:, None] + self.pad)
        # The new node and its parent must have room for the nodes that do not fit elsewhere.
        needed = room_index(new.to_come[:, None] - new.room_above_parent.gather(1, column))
        return ((state != NO_NODE) | first) & self.attaches_at[needed, state]

    def _choices(self, new: UndecidedNodes) -> Tensor:
        """Return which edges and categories are possible once parents are decided.

        Args:
            new: The M new nodes.

        Returns:
            (M, E + 1, C) bool, as in `UndecidedNodes`.
        """
        column = self.parent_column(new)
        needed = room_index(new.to_come - new.room_above_parent.gather(1, column)[:, 0])
        return self.attaches[needed, new.state.gather(1, column)[:, 0]]

    def edge_columns(self, new: UndecidedNodes, length: Tensor) -> Tensor:
        """Return the columns of the nodes to which edges of new nodes lead.

        Args:
            new: The M new nodes, whose backtracks are decided.
            length: Lengths of the edges, (M, L) long; 1 for that to the parent.

        Returns:
            Columns in `UndecidedNodes.state`, (M, L) long.
        """
        return self.parent_column(new) + 1 - length

    def _closures(self, new: UndecidedNodes) -> Tensor:
        """Return which lengths of the next closure, and which labels of its edge, are possible.

        Args:
            new: The M new nodes.

        Returns:
            (M, L, E + 1) bool, as in `UndecidedNodes`. Going without a further closure,
            length 0 and label 0, is always possible.
        """
        most = min(self.cardinalities[new.count], new.state.shape[1] - self.pad)
        length = torch.arange(most, device=new.depth.device).expand(len(new.depth), -1)
        other = new.state.gather(1, self.edge_columns(new, length))
        own_takes = self.takes[new.own_state[:, None], self.states.category[other]]
        possible = own_takes & self.takes[other, new.category[:, None]] & (length >= 2)
        if new.closure_lengths:
            # Lengths increase, and after a length of 0 all are 0.
            previous = new.closure_lengths[-1][:, None]
            possible = possible & (length > previous) & (previous > 0)
        closures = possible[..., None].repeat(1, 1, self.leaf.shape[1])
        row, at_length = possible.nonzero(as_tuple=True)
        closures[row, at_length] = self._closing_labels(new, row, other[row, at_length], at_length)
        closures[:, 0, 0] = True
        return closures

    def _closing_labels(
        self, new: UndecidedNodes, row: Tensor, other: Tensor, length: Tensor
    ) -> Tensor:
        """Return by which edges closures are possible.

        Args:
            new: The M new nodes.
            row: Which of them, (K,) long.
            other: States of the nodes to which their closures lead, (K,) long.
            length: Lengths of the closures, (K,) long.

        Returns:
            By label of the edge, (K, E + 1) bool; False for label 0, no edge.
        """
        own_after, other_after = self.states.joined(new.own_state[row], other, slice(None))
        # For nodes to come, room must be left at the other nodes and both ends together. Another
        # end above the reach of the next backtrack is no possible parent.
        in_reach = (length <= self.reach)[:, None]
        room = self._room_of_others(new)[row, None] + self.room[own_after]
        room = room + torch.where(in_reach, self.room[other_after] - self.room[other][:, None], 0)
        known = (other_after != UNKNOWN) & (own_after != UNKNOWN)
        fits = known & (room >= new.to_come[row, None])
        fits[:, 0] = False
        return fits

    def _room_of_others(self, new: UndecidedNodes) -> Tensor:
        """Return the rooms of the next node's possible parents but the new node, added up, (M,)."""
        above = self.parent_column(new) - torch.arange(new.state.shape[1], device=new.state.device)
        in_reach = (above >= 0) & (above < self.reach)
        return torch.where(in_reach, self.room[new.state], 0).sum(1)

    def add(self, new: UndecidedNodes, x: Tensor) -> UndecidedNodes:
        """Return M new nodes with one more variable decided, and what is possible after it.

        The new node itself joins the path by `Path.add`, once all its variables are decided.

        Args:
            new: The M new nodes, with the variables that are decided; it stays as it is.
            x: The next variable of each, (M,) long, one that is possible.
        """
        decided = replace(new, x=(*new.x, x))
        match new.variable.role:
            case VariableRole.BACKTRACK:
                return replace(decided, possible_choices=self._choices(decided))
            case VariableRole.CATEGORY:
                alone = replace(decided, own_state=self.states.first[x])
                decided = self._with_edge(alone, decided.parent_label, torch.ones_like(x))
            case VariableRole.CLOSING_EDGE:
                decided = self._with_edge(decided, x, new.closure_lengths[-1])
            case _:
                return decided
        if decided.count == len(self.cardinalities):
            return decided
        return replace(decided, possible_closures=self._closures(decided))

    def _with_edge(self, new: UndecidedNodes, label: Tensor, length: Tensor) -> UndecidedNodes:
        """Return M new nodes after one more edge to an earlier node.

        Args:
            new: The M new nodes.
            label: Label of the edge, (M,) long; 0 for none.
            length: Its length, 1 for the edge to the parent, (M,) long.
        """
        column = self.edge_columns(new, length[:, None])
        earlier = new.state.gather(1, column)[:, 0]
        own_after, earlier_after = self.states.joined(new.own_state, earlier, label)
        state = new.state.scatter(1, column, earlier_after[:, None])
        return replace(new, state=state, own_state=own_after)
