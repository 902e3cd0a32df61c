"""Support that completes nodes: of a model that knows the environments of nodes.

A node on the path whose state is not complete has *missing* edges: the least number of further ones
that complete it. Nodes to come must bring them:

- Some can only lead to an *end*, a node that gets no other edge. Each takes a node to come.
- The *rest* may be closures of the nodes to come, each of which brings a node at most one.

Nodes to come beyond the ends that the nodes on the path need are *free*. The rest of each node on
the path must be at most the number of free nodes.

For example, let nodes n be known only with three edges: to two nodes a, and to an end o. Then n is
missing three edges at first, one of them to an end. In the path a-n with two nodes to come, one of
them must be the end o, so that one is free, and the rest of n is 1: the free one must be an a that
is attached to n. The path a-n-a with one node to come can only go on with an o attached to n: n may
not be left by going on from the second a, nor can another node be the last one.

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
from graphcnf.graphs.path.support import Support, UndecidedNodes, needed_room, set_tables

NEVER = 1 << 14
"""More missing edges than any number of nodes can bring."""
# Answers to whether a node may be attached: no, yes, or only if a closure helps.
NO, YES, WITH_CLOSURE = range(3)


@dataclass(kw_only=True)
class NodesWithMissing(UndecidedNodes):
    """New nodes, and what is missing on the paths before them.

    Attributes:
        free: Number of free nodes, (M,) long; it changes with every edge of the new node.
        rest: Largest rest of a node on the path before the new one, (M,) long.
        last: Column in `state` of the last node with missing edges, 0 if all are complete, (M,)
            long.
    """

    free: Tensor
    rest: Tensor
    last: Tensor


class CompletingSupport(nn.Module):
    """`Support` that leaves a node only when it is complete.

    Beyond the values that `Support` rules out, impossible is to leave a node with missing edges,
    what would leave more missing edges than the nodes to come can bring, and what would leave no
    place for the free ones of them. Where this leaves nothing, it gives way, and drawing may leave
    a node incomplete: what is checked is necessary, but not always enough.

    Args:
        code: The variables of a node.
        edge_weights: Weight of each edge category.
        environments: Arguments of `Environments`.

    Attributes:
        environments: The known environments.
        support: What is possible without them.
        states, pad, limited: Those of `support`.
        ends, rest: Missing edges of a node in each state: those to ends, and the others, (S,) long.
        is_incomplete: 1 if edges are missing, else 0, (S,) long.
        helps: Kinds of edges to a neighbour of category c after which a node in state s has less
            rest and needs no more ends, (S, C) long, their bits added up.
        used: By how many free nodes there are fewer once a new node is attached, by state of the
            parent, label of the edge and category of the new node, (S, E + 1, C) long.
        to_take: Least number of free nodes with which one of them can be attached to a node in
            each state, (S,) long.
        most: From this number of free nodes on, every node that `Support` allows may be attached if
            all others are complete.
        answers: Whether a new node may be attached if all nodes above its parent are complete:
            `NO`, `YES` or `WITH_CLOSURE`. First axis: whether a node above takes free nodes; second
            axis: number of free nodes plus 1, up to `most` + 1; then as `used`.
        attaches_surely: Whether the answer is `YES` for at least one label and category, and both
            ends have as much room as `ROOMS` says, by number of free nodes plus 1,
            (`most` + 2, ROOMS, S) bool.

    Raises:
        UserError: if `environments` are malformed, or not of these categories.
    """

    ends: Tensor
    rest: Tensor
    is_incomplete: Tensor
    helps: Tensor
    used: Tensor
    to_take: Tensor
    answers: Tensor
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
        """Set the missing edges of each state, and which kinds of closures bring some."""
        after = self.states.after
        is_end = (after[:, 1:] == UNKNOWN).flatten(1).all(1)
        attaches = self.support.attaches[0]
        incomplete = torch.where(self.states.complete, 0, NEVER)
        missing = self._least(incomplete, torch.where(attaches, 1, NEVER))
        leads_to_end = is_end[self.support.leaf].long()
        ends = self._least(incomplete, torch.where(attaches, leads_to_end, NEVER))
        rest = missing - ends
        # Axes: state of the node, label of the edge, category of its other end.
        has_less_rest = rest[after] < rest[:, None, None]
        needs_no_more_ends = ends[after] <= ends[:, None, None]
        brings = has_less_rest & needs_no_more_ends & (after != UNKNOWN)
        helps = torch.zeros_like(self.support.takes)
        for label, bit in enumerate(self.support.kind.tolist()):
            helps |= torch.where(brings[:, label], bit, 0)
        set_tables(self, ends=ends, rest=rest, is_incomplete=(missing > 0).long(), helps=helps)

    def _set_attaching(self) -> None:
        """Set where new nodes may be attached, by the number of free nodes."""
        # Axes: state of the parent, label of the edge, category of the new node.
        after = self.states.after
        leaf = self.support.leaf
        attaches = self.support.attaches[0]
        more_ends = self.ends[after] - self.ends[:, None, None]
        used = more_ends + self.ends[leaf]
        # Each closure brings the new node an edge, and each free node one to each other node.
        least_rest = self.rest[after].maximum(self.rest[leaf] - self.support.entries + 1)
        # An end that was missing is no free node. Other nodes can only be attached after it.
        is_free = attaches & (used >= 0)
        is_end = attaches & (used < 0)
        to_take = torch.where(is_free, 1 + used + least_rest, NEVER).amin((1, 2))
        to_take[UNKNOWN] = NEVER
        to_take = self._least(to_take, torch.where(is_end, 0, NEVER))
        all_rest = self.rest[after].maximum(self.rest[leaf])
        self.most = max(1, int((used + all_rest)[attaches].max()))
        free_before = torch.arange(-1, self.most + 1)[:, None, None, None]
        free = free_before - used
        above_takes_free = torch.tensor([False, True])[:, None, None, None, None]
        takes_free = free >= to_take[after].minimum(to_take[leaf])
        finds_place = (free == 0) | takes_free | ((free > 0) & above_takes_free)
        answers = torch.where(free >= all_rest, YES, WITH_CLOSURE)
        answers = torch.where(attaches & (free >= least_rest) & finds_place, answers, NO)
        surely = (answers[0] == YES)[:, None]
        set_tables(
            self,
            used=used,
            to_take=to_take,
            answers=answers.to(torch.uint8),
            attaches_surely=(surely & self.support.attaches).flatten(3).any(3),
        )

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
            free=to_come - self.ends[on_path].sum(1),
            rest=self.rest[on_path].amax(1),
            last=(self.is_incomplete[on_path] * column).amax(1),
        )

    def allowed(self, new: UndecidedNodes) -> Tensor:
        """Return which values of the next variable are possible, (M, C) bool; see `Support`."""
        assert isinstance(new, NodesWithMissing)
        possible = self.support.allowed(new)
        match new.variable.role:
            case VariableRole.BACKTRACK:
                return _if_any(self._backtracks(new, possible), possible)
            case VariableRole.LENGTH | VariableRole.CLOSING_EDGE:
                rest = new.rest.maximum(self.rest[new.own_state])
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
                return replace(added, free=new.free - self.used[parent, new.parent_label, x])
            case VariableRole.CLOSING_EDGE:
                length = new.closure_lengths[-1][:, None]
                earlier = self.support.earlier_state(new, length)[:, 0]
                earlier_after = self.states.after[earlier, x, new.category]
                more_ends = self.ends[earlier_after] - self.ends[earlier]
                more_ends = more_ends + self.ends[added.own_state] - self.ends[new.own_state]
                return replace(added, free=new.free - more_ends)
        return added

    def _backtracks(self, new: NodesWithMissing, possible: Tensor) -> Tensor:
        """Return which of the possible backtracks of M new nodes leave no node incomplete.

        Args:
            new: The M new nodes.
            possible: What `Support` allows, (M, P) bool.

        Returns:
            (M, P) bool.
        """
        column = self.support.backtrack_columns(new)
        beyond = possible.shape[1] - column.shape[1]
        # All nodes below the parent are left for good.
        fits = possible[:, : column.shape[1]] & (column >= new.last[:, None])
        row, back = (fits & self._has_few_free(new)[:, None]).nonzero(as_tuple=True)
        unsure = ~self._attaches_surely(new, row, column[row, back])
        row = row[unsure]
        back = back[unsure]
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
        """Return where so few nodes are free that attaching a new one must be looked up."""
        return new.free < self.most + new.rest

    def _attaches_surely(self, new: NodesWithMissing, row: Tensor, column: Tensor) -> Tensor:
        """Return where new nodes can be attached whatever is above their parents.

        Args:
            new: The M new nodes.
            row: Which of them, K times, (K,) long.
            column: Columns of their parents in `UndecidedNodes.state`, (K,) long.

        Returns:
            (K,) bool.
        """
        needed = needed_room(new.to_come[row], new.room_elsewhere[row, column])
        free = new.free[row].clamp(-1, self.most)
        surely = self.attaches_surely[free + 1, needed, new.state[row, column]]
        return surely & (new.rest[row] == 0)

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
        to_take = self.to_take[new.state[row]].cummin(1).values.gather(1, column[:, None] - 1)
        # The new node may be a missing end, after which one more node is free.
        above_takes_free = (to_take[:, 0] <= new.free[row] + 1).long()
        free = new.free[row].clamp(-1, self.most)
        needed = needed_room(new.to_come[row], new.room_elsewhere[row, column])
        has_room = self.support.attaches[needed, parent]
        answers = self.answers[above_takes_free, free + 1, parent] * has_room
        fits = answers == YES
        # What is missing above the parent, too, is looked up way by way.
        unsure = (answers == WITH_CLOSURE) | (fits & (new.rest[row] > 0)[:, None, None])
        which, label, category = unsure.nonzero(as_tuple=True)
        leaf = self.support.leaf[parent[which], label, category]
        free = new.free[row[which]] - self.used[parent[which], label, category]
        fits[which, label, category] = self._completes(new, row[which], column[which], leaf, free)
        return fits

    def _completes(
        self, new: NodesWithMissing, row: Tensor, column: Tensor, own: Tensor, free: Tensor
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
        on_path = new.state[row[late], self.pad :]
        level = torch.arange(on_path.shape[1], device=row.device)
        far = torch.where(level < column[late, None] - self.pad, on_path, UNKNOWN)
        fits[late] &= self._helps(far, own[late, None]).any(1)
        return fits

    def _most_rest_above(
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
        most, last = self.rest[new.state[rows]].cummax(1)
        return most[which, column - 1], last[which, column - 1]

    def _helps(self, own: Tensor, other: Tensor) -> Tensor:
        """Return whether a closure is possible that leaves the other node with less missing edges.

        Args:
            own: States of some nodes.
            other: States of the other nodes, of the same shape.

        Returns:
            Bool, of the same shape.
        """
        category = self.states.category
        takes = self.support.takes[own, category[other]]
        return (takes & self.helps[other, category[own]]) > 0

    def _closures(self, new: NodesWithMissing) -> Tensor:
        """Return which lengths or edges of closures pass over no node that must be completed.

        Closures of a node lead further and further up. A node on the path *waits* if its rest is
        larger than the number of free nodes, and it needs a closure of the new node.

        Args:
            new: M new nodes.

        Returns:
            (M, C) bool.
        """
        free = new.free
        edge_next = new.variable.role is VariableRole.CLOSING_EDGE
        if edge_next:
            length = new.closure_lengths[-1][:, None]
        else:
            length = torch.arange(self.support.cardinalities[new.count], device=free.device)
            length = length.expand(len(free), -1)
        parent = self.support.parent_column(new)
        before = new.closure_lengths[:-1] if edge_next else new.closure_lengths
        lowest = parent[:, 0] + 1 - before[-1] if before else parent[:, 0]
        every_row = torch.arange(len(free), device=free.device)
        most, waiting = self._most_rest_above(new, every_row, lowest)

        fits = (self.support.closing_kinds(new, length)[..., None] & self.support.kind) > 0
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
