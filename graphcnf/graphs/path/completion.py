"""Support that completes nodes: of a model that knows the environments of nodes.

A node whose state is not complete has *missing* edges: the least number of further ones that
complete it. The nodes to come after the new one must bring them, each of them at most one to any
node. Some missing edges can only lead to *ends*, nodes that get no other edge:

    ends_of(node) = the least number of further edges to ends with which it is completed
    rest_of(node) = the number of its missing edges - ends_of(node)

*Free* nodes are the nodes to come, less the ends that nodes on the path still need:

    free = to_come - sum of ends_of over the path and the new node

An end has no edge to another node. So the rest of a node comes from free nodes, one edge from each.
Once a new node is decided, two things are therefore necessary:

    1. rest_of(node) <= free, for each node on the path and for the new one;
    2. free = 0, or free_to_attach(node) <= free, for at least one of them.

`free_to_attach` is the number of free nodes that attaching one of them to a node takes, at least:
this one, and those that are then needed to complete it and its parent.

For example, let nodes n be known only with three edges, to two nodes a and to a node o; nodes a
with one edge or two, so that an a is no end; and nodes o with one edge, so that an o is an end.
After the path a-n, let one node follow the new one: `to_come` is 1. So far n has one edge to an a;
its `ends_of` and `rest_of` are 1 each, and no node is free.

    new node, attached to n    a                 o
    edges of n                 a, a              a, o
    ends_of(n), rest_of(n)     1, 0              0, 1
    free                       1 - 1 = 0         1 - 0 = 1
    free_to_attach(n)          none can be       1

Both are possible: after an a, the last node must be an o at n, and after an o, an a at n. With no
node to come after the new one, neither is: `free` would be -1 after an a, and 0 after an o, where
n still needs one.

These inequalities are necessary, not enough, and they are checked too laxly in four places: of the
nodes above the parent only the one with the largest rest is looked at; nodes that must follow a
node to come are not counted; a node above the parent counts although it may be out of reach of
backtracks; and with many free nodes (`enough_free`) the second one is not checked. They never rule
out a graph whose environments are known; `Support` does only where its `ROOMS` say so.

`CompletingSupport` asks a `Support` what is possible, and rules out what leaves a node incomplete.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.graphs.path.depth_first import DepthFirstCode, VariableRole
from graphcnf.graphs.path.node_states import MOST_EDGES, UNKNOWN, Environments, NodeStates
from graphcnf.graphs.path.support import Support, UndecidedNodes, room_index, set_tables

NEVER = 1 << 14
"""More missing edges than any number of nodes can bring."""


@dataclass(kw_only=True)
class NodesWithMissing(UndecidedNodes):
    """M new nodes whose variables are being decided, and what is missing on the paths before them.

    `CompletingSupport` makes and reads it. *Missing*, *free* and `rest_of` are explained above.

    Attributes:
        free: Number of free nodes, (M,) long; it changes with every edge of the new node. Before
            its first edge it may be -1, since the new node itself may be a missing end.
        largest_rest: Largest `rest_of` of a node on the path before the new one, (M,) long.
        last_incomplete: Column in `state` of the last node with missing edges, 0 if all are
            complete, (M,) long.
    """

    free: Tensor
    largest_rest: Tensor
    last_incomplete: Tensor


class CompletingSupport(nn.Module):
    """`NodeRules` of a model that knows environments: a node is left only when it is complete.

    Of the values that `Support` allows, those are ruled out that leave a node with missing edges,
    or break one of the two inequalities of this module. If no value remains, all that `Support`
    allows are possible, and drawing may leave a node incomplete.

    Args:
        code: The variables of a node.
        edge_weights: Weight of each edge category.
        environments: Arguments of `Environments`.

    Attributes:
        environments: The known environments.
        support: What is possible without them.
        states, pad, limited: Those of `support`.
        ends_of, rest_of: Missing edges of a node in each state: those to ends, and the others,
            (S,) long.
        is_incomplete: 1 if edges are missing, else 0, (S,) long.
        helps: By which edges `rest_of` of a node falls and `ends_of` does not rise, by its state,
            label of the edge and category of the neighbour, (S, E + 1, C) bool.
        free_used: By how much `free` falls once a new node is attached, by state of the parent,
            label of the edge and category of the new node, (S, E + 1, C) long. It is -1 for an end
            that was missing.
        larger_rest: The larger `rest_of` of the two ends of this edge, (S, E + 1, C) long.
        least_rest: The same if the new node has all closures that it can have, (S, E + 1, C) long.
        free_to_attach: Least number of free nodes with which one of them can be attached to a node
            in each state, (S,) long; and `free_to_attach_at_ends`: to one of the two ends of this
            edge, (S, E + 1, C) long.
        enough_free: If no node on the path has a rest and so many nodes are free, all that
            `Support` allows is possible, and is not looked up.
        attaches_surely: Whether a node can be attached to a parent in each state if all other nodes
            are complete, and none above the parent takes a free node, (`enough_free` + 2, ROOMS, S)
            bool, by `free` plus 1 and by the room that both ends must have. It saves looking up
            most backtracks.

    Raises:
        UserError: if `environments` are malformed, or not of these categories.

    Examples:
        The nodes a, n and o of this module's docstring are the categories 0, 1 and 2:

        >>> code = DepthFirstCode(3, [], node_categories=3, edge_categories=1)
        >>> known = [[1, 0, 0, 0, 0, 0, 2], [0, 0, 1], [0, 0, 1, 0, 1], [2, 0, 1]]
        >>> environments = {"nodes": [0, 1, 2], "edges": [0], "known": known}
        >>> support = CompletingSupport(code, [1], environments)
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
    free_used: Tensor
    larger_rest: Tensor
    least_rest: Tensor
    free_to_attach: Tensor
    free_to_attach_at_ends: Tensor
    attaches_surely: Tensor

    def __init__(self, code: DepthFirstCode, edge_weights: list[int], environments: Any):
        super().__init__()
        self.environments = Environments.of(
            environments, code.node_categories, code.edge_categories
        )
        self.support = Support(code, self.environments.states(edge_weights), limited=True)
        self.pad = self.support.pad
        self.limited = True
        self._set_missing()
        self._set_attaching()

    @property
    def states(self) -> NodeStates:
        """The states of nodes: the parts of the known environments."""
        return self.support.states

    def _set_missing(self) -> None:
        """Set the missing edges of each state, and which edges bring some."""
        after = self.states.after
        attaches = self.support.attaches[0]
        gets_no_edge = (after[:, 1:] == UNKNOWN).flatten(1).all(1)
        leads_to_end = gets_no_edge[self.support.leaf].long()
        cost_if_left = torch.where(self.states.complete, 0, NEVER)
        missing = self._least(cost_if_left, torch.where(attaches, 1, NEVER))
        ends = self._least(cost_if_left, torch.where(attaches, leads_to_end, NEVER))
        rest = missing - ends
        # Axes: state of the node, label of the edge, category of its other end.
        has_less_rest = rest[after] < rest[:, None, None]
        needs_no_more_ends = ends[after] <= ends[:, None, None]
        helps = has_less_rest & needs_no_more_ends & (after != UNKNOWN)
        is_incomplete = (missing > 0).long()
        set_tables(self, ends_of=ends, rest_of=rest, is_incomplete=is_incomplete, helps=helps)

    def _set_attaching(self) -> None:
        """Set what the inequalities need of new nodes that are attached to a parent."""
        # Axes: state of the parent, label of the edge, category of the new node.
        after = self.states.after
        leaf = self.support.leaf
        attaches = self.support.attaches[0]
        ends = self.ends_of
        rest = self.rest_of
        used = ends[after] + ends[leaf] - ends[:, None, None]
        larger_rest = rest[after].maximum(rest[leaf])
        # The new node can have `entries` - 1 closures, each of which brings it one edge itself.
        least_rest = rest[after].maximum(rest[leaf] - (self.support.entries - 1))
        to_attach = self._free_to_attach(used, least_rest)
        at_ends = to_attach[after].minimum(to_attach[leaf])
        self.enough_free = max(1, int((used + larger_rest)[attaches].max()))
        free = torch.arange(-1, self.enough_free + 1)[:, None, None, None] - used
        surely = (free >= larger_rest) & ((free == 0) | (free >= at_ends))
        set_tables(
            self,
            free_used=used,
            larger_rest=larger_rest,
            least_rest=least_rest,
            free_to_attach=to_attach,
            free_to_attach_at_ends=at_ends,
            attaches_surely=(surely[:, None] & self.support.attaches).flatten(3).any(3),
        )

    def _free_to_attach(self, used: Tensor, least_rest: Tensor) -> Tensor:
        """Return `free_to_attach`, (S,) long.

        Args:
            used: `free_used`.
            least_rest: Least number of free nodes that can complete both ends once a new node is
                attached, indexed as `free_used`.
        """
        attaches = self.support.attaches[0]
        is_missing_end = attaches & (used < 0)
        is_free = attaches & (used >= 0)
        # Once it is attached, `free` is smaller by 1 (it no longer is to come) and by `used`.
        least = torch.where(is_free, 1 + used + least_rest, NEVER).amin((1, 2))
        least[UNKNOWN] = NEVER
        # Or ends that were missing come first, for which no free node is needed.
        return self._least(least, torch.where(is_missing_end, 0, NEVER))

    def _least(self, least: Tensor, cost: Tensor) -> Tensor:
        """Return the least cost of any number of further edges at a node in each state, (S,) long.

        Args:
            least: Cost without further ones, (S,) long.
            cost: Cost of each edge, by state, label and category of the neighbour, (S, E + 1, C).
        """
        for _ in range(MOST_EDGES):
            least = least.minimum((least[self.states.after] + cost).amin((1, 2)))
        return least

    def new_nodes(self, state: Tensor, depth: Tensor, to_come: Tensor) -> NodesWithMissing:
        """Return M new nodes of which no variable is decided; arguments as of `Support`."""
        new = self.support.new_nodes(state, depth, to_come)
        on_path = new.state[:, self.pad :]
        column = torch.arange(self.pad, state.shape[1], device=state.device)
        return NodesWithMissing(
            **vars(new),
            free=to_come - self.ends_of[on_path].sum(1),
            largest_rest=self.rest_of[on_path].amax(1),
            last_incomplete=(self.is_incomplete[on_path] * column).amax(1),
        )

    def allowed(self, new: UndecidedNodes) -> Tensor:
        """Return which values of the next variable are possible, (M, Q) bool; see `Support`."""
        assert isinstance(new, NodesWithMissing)
        possible = self.support.allowed(new)
        match new.variable.role:
            case VariableRole.BACKTRACK:
                return _if_any(self._backtracks(new, possible), possible)
            case VariableRole.LENGTH | VariableRole.CLOSING_EDGE:
                rest = new.largest_rest.maximum(self.rest_of[new.own_state])
                row = (rest > new.free).nonzero()[:, 0]
                if len(row):
                    fits = possible[row] & self._closures(new[row])
                    possible[row] = _if_any(fits, possible[row])
        return possible

    def add(self, new: UndecidedNodes, x: Tensor) -> NodesWithMissing:
        """Return M new nodes after one more variable is decided; see `Support.add`."""
        assert isinstance(new, NodesWithMissing)
        added = self.support.add(new, x)
        match new.variable.role:
            case VariableRole.BACKTRACK:
                return replace(added, choices=self._choices(added))
            case VariableRole.CATEGORY:
                one = torch.ones_like(x)[:, None]
                parent = self.support.earlier_state(new, one)[:, 0]
                return replace(added, free=new.free - self.free_used[parent, new.parent_label, x])
            case VariableRole.CLOSING_EDGE:
                length = new.closure_lengths[-1][:, None]
                earlier = self.support.earlier_state(new, length)[:, 0]
                earlier_after = self.states.after[earlier, x, new.category]
                more_ends = self.ends_of[earlier_after] - self.ends_of[earlier]
                more_ends = more_ends + self.ends_of[added.own_state] - self.ends_of[new.own_state]
                return replace(added, free=new.free - more_ends)
        return added

    def _backtracks(self, new: NodesWithMissing, possible: Tensor) -> Tensor:
        """Return which of the possible backtracks of M new nodes leave no node incomplete.

        Args:
            new: The M new nodes.
            possible: What `Support` allows, (M, U) bool.

        Returns:
            (M, U) bool.
        """
        column = self.support.backtrack_columns(new)
        beyond = possible.shape[1] - column.shape[1]
        # All nodes below the parent are left for good.
        fits = possible[:, : column.shape[1]] & (column >= new.last_incomplete[:, None])
        free = new.free.clamp(-1, self.enough_free)[:, None]
        needed = room_index(new.to_come[:, None] - new.room_above_parent.gather(1, column))
        surely = self.attaches_surely[free + 1, needed, new.state.gather(1, column)]
        surely = surely & (new.largest_rest == 0)[:, None]
        unsure = self._has_few_free(new)[:, None] & ~surely
        row, back = (fits & unsure).nonzero(as_tuple=True)
        if len(row):
            fits[row, back] = self._attaching(new, row, column[row, back]).flatten(1).any(1)
        return F.pad(fits, (0, beyond))

    def _choices(self, new: NodesWithMissing) -> Tensor:
        """Return `choices` of M new nodes after which no node must stay incomplete.

        Args:
            new: The M new nodes, with the choices that `Support` allows.
        """
        assert new.choices is not None
        row = self._has_few_free(new).nonzero()[:, 0]
        if not len(row):
            return new.choices
        fits = self._attaching(new, row, self.support.parent_column(new)[row, 0])
        possible = new.choices[row].flatten(1)
        fits = _if_any(possible & fits.flatten(1), possible)
        return new.choices.index_copy(0, row, fits.unflatten(1, new.choices.shape[1:]))

    def _has_few_free(self, new: NodesWithMissing) -> Tensor:
        """Return where so few nodes are free that the inequalities may fail, (M,) bool."""
        return new.free < self.enough_free + new.largest_rest

    def _attaching(self, new: NodesWithMissing, row: Tensor, column: Tensor) -> Tensor:
        """Return with which edges and categories new nodes may be attached.

        Args:
            new: The M new nodes.
            row: Which of them, K times, (K,) long.
            column: Columns of their parents in `UndecidedNodes.state`, (K,) long.

        Returns:
            By label and category, (K, E + 1, C) bool.
        """
        parent = new.state[row, column]
        room = room_index(new.to_come[row] - new.room_above_parent[row, column])
        free = new.free[row, None, None] - self.free_used[parent]
        above = self._least_to_attach_above(new, row, column)[:, None, None]
        to_attach = self.free_to_attach_at_ends[parent].minimum(above)
        # The two inequalities for the new node and its parent: the first, then the second.
        fits = self.support.attaches[room, parent] & (self.least_rest[parent] <= free)
        fits = fits & ((free == 0) | (to_attach <= free))
        # If closures must bring edges, or nodes above the parent miss some, these are looked up.
        others_miss = (new.largest_rest[row] > 0)[:, None, None]
        unsure = fits & ((self.larger_rest[parent] > free) | others_miss)
        which, label, category = unsure.nonzero(as_tuple=True)
        leaf = self.support.leaf[parent[which], label, category]
        fits[unsure] = self._completes(new, row[which], column[which], leaf, free[unsure])
        return fits

    def _least_to_attach_above(self, new: NodesWithMissing, row: Tensor, column: Tensor) -> Tensor:
        """Return the least `free_to_attach` of the nodes above columns of paths, (K,) long."""
        to_attach = self.free_to_attach[new.state[row]].cummin(1).values
        return to_attach.gather(1, column[:, None] - 1)[:, 0]

    def _completes(
        self, new: NodesWithMissing, row: Tensor, column: Tensor, own: Tensor, free: Tensor
    ) -> Tensor:
        """Return whether new nodes and the nodes above some column can be completed.

        A closure of the new node lowers the rest of both its ends by one. Of the other nodes, only
        the last one of those with the largest rest is looked at.

        Args:
            new: The M new nodes.
            row: Which of them, (K,) long; fastest in ascending order.
            column: Column above which their further closures lead, (K,) long.
            own: States of the new nodes, (K,) long.
            free: Numbers of free nodes after them, (K,) long.

        Returns:
            (K,) bool.
        """
        largest, its_column = self._largest_rest_above(new, row, column)
        lowered = self._lowers_rest(own, new.state[row, its_column]).long()
        fits = largest - lowered <= free
        # Where the new node itself misses too many, a node above must take a closure of it.
        too_many = (self.rest_of[own] > free).nonzero()[:, 0]
        on_path = new.state[row[too_many], self.pad :]
        level = torch.arange(on_path.shape[1], device=row.device)
        far = torch.where(level < column[too_many, None] - self.pad, on_path, UNKNOWN)
        fits[too_many] &= self._lowers_rest(far, own[too_many, None]).any(1)
        return fits

    def _largest_rest_above(
        self, new: NodesWithMissing, row: Tensor, column: Tensor
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
        largest, its_column = self.rest_of[new.state[rows]].cummax(1)
        return largest[which, column - 1], its_column[which, column - 1]

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

    def _closures(self, new: NodesWithMissing) -> Tensor:
        """Return which lengths, or edges, of the next closure leave no node incomplete.

        Args:
            new: M new nodes, of which the length or the edge of a closure is next.

        Returns:
            (M, Q) bool.
        """
        if new.variable.role is VariableRole.CLOSING_EDGE:
            length = new.closure_lengths[-1][:, None]
            fits = self._edges_that_complete(new, length, new.closure_lengths[:-1])
            return fits[:, 0] | (length == 0)
        before = new.closure_lengths
        length = torch.arange(self.support.cardinalities[new.count], device=new.free.device)
        fits = self._edges_that_complete(new, length.expand(len(new.free), -1), before).any(2)
        # Length 0 is possible only if neither the new node nor one above its last closure waits.
        every_row = torch.arange(len(new.free), device=new.free.device)
        largest, _ = self._largest_rest_above(new, every_row, self._lowest_column(new, before))
        none_waits = (largest <= new.free) & (self.rest_of[new.own_state] <= new.free)
        return torch.cat([none_waits[:, None], fits[:, 1:]], 1)

    def _lowest_column(self, new: NodesWithMissing, before: tuple[Tensor, ...]) -> Tensor:
        """Return the columns above which further closures of M new nodes lead, (M,) long.

        The closures of a node lead further and further up, beginning above the parent.

        Args:
            new: The new nodes.
            before: Lengths of their closures so far, (M,) long each.
        """
        parent = self.support.parent_column(new)[:, 0]
        return parent + 1 - before[-1] if before else parent

    def _edges_that_complete(
        self, new: NodesWithMissing, length: Tensor, before: tuple[Tensor, ...]
    ) -> Tensor:
        """Return by which edges closures of some lengths leave no node incomplete.

        A node on the path *waits* if its rest is larger than the number of free nodes: then the new
        node must close an edge to it, and its closures may not pass over it.

        Args:
            new: M new nodes.
            length: Lengths, (M, L) long.
            before: Lengths of their closures so far, (M,) long each.

        Returns:
            By label, (M, L, E + 1) bool.
        """
        free = new.free
        every_row = torch.arange(len(free), device=free.device)
        lowest = self._lowest_column(new, before)
        largest, waiting = self._largest_rest_above(new, every_row, lowest)
        fits = self.support.closing_labels(new, length)
        row, n, label = fits.nonzero(as_tuple=True)
        column = (self.support.parent_column(new) + 1 - length)[row, n]
        far = new.state[row, column]
        own = new.own_state[row]
        far_after = self.states.after[far, label, new.category[row]]
        own_after = self.states.after[own, label, self.states.category[far]]
        passes_none = (largest <= free)[row] | (waiting[row] <= column)
        is_enough = self.rest_of[far_after] <= free[row]
        completes = self._completes(new, row, column, own_after, free[row])
        fits[row, n, label] = passes_none & is_enough & completes
        return fits


def _if_any(fits: Tensor, others: Tensor) -> Tensor:
    """Return `fits` (M, Q) bool, but rows of `others` where it allows nothing."""
    return torch.where(fits.any(1, keepdim=True), fits, others)
