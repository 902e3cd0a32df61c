"""Rule out choices of a particle after which its graph could not be completed any more.

It is used by `graphcnf.design.particles`, which defines particle, free node, fragment node,
placement, entry, attachment, closure, backtrack, level and label. P particles, paths of L levels, S
states, E edge and C node categories, a fragment of U nodes. Further nouns:

- *State* of a node: a number for its category together with the edges that it has so far
  (`graphcnf.graphs.path.node_states`). `UNKNOWN` is the state of no node of the training data.
- A state is *complete* if the training data has nodes with exactly these edges. The model's
  *support* (`graphcnf.graphs.path.support`) leaves a node only if further nodes can complete it.

In a graph with a fragment, most nodes to come are fragment nodes, which get no edges but those of
the fragment and attachments. So a free node on the path gets further edges only from free nodes to
come, at most one from each, and from entries, i.e. edges to fragment nodes to come at their
attachments. For a free node in a given state, let

    least_entries = least number of entries with which up to F free nodes to come complete it
    most_entries = largest number of entries that complete it without a free node
    room = largest number of free nodes that can be added at it, at these nodes, and so on

If F free nodes and A entries come after the next node, it is necessary that

    1. the sum of least_entries over the free nodes of the path is at most A;
    2. if F = 0, the sum of most_entries is at least A;
    3. if F > 0, and none can be attached to the fragment, the sum of room is at least F, and some
       free node can get a first neighbour so that F free nodes complete both.

Besides, a fragment node gets a free neighbour only if the training data has nodes with this
neighbour and all its edges of the fragment. What is ruled out would lead to a dead end, a particle
of weight 0. So more particles survive, and the weights of the others stay the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from graphcnf.graphs.path.depth_first import (
    BACKTRACK,
    CATEGORY,
    CLOSING_EDGES,
    LENGTHS,
    PARENT_EDGE,
    Variable,
    VariableRole,
)
from graphcnf.graphs.path.node_states import NEVER, UNKNOWN
from graphcnf.graphs.path.support import Support

if TYPE_CHECKING:
    from graphcnf.design.particles import GraphFragment, Placements, Progress

MOST_ROOM = 16
"""Largest value of `MissingEdges.room`, which stands for any number of free nodes from 16 on."""


class MissingEdges:
    """Tables of what a node in each state still needs, for one fragment and one model.

    `ParticleSampler` makes it once; `MissingOnPaths` looks its values up for the nodes of
    particles.

    Args:
        fragment: The fragment, of U nodes.
        support: Support of the model, with the states of its nodes.

    Attributes:
        states: The states of nodes and their transitions.
        entering: True for the labels of edges by which each fragment node may come below a free
            node, (U, E + 1) bool.
        closed: State of each fragment node with all its edges of the fragment, one for each of its
            K different results over the structures, padded with `UNKNOWN`, (U, K) long.
        is_open: True for fragment nodes whose states are not looked at, since several categories
            are possible or the data has no node like it, (U,) bool.
        completed: True for states that so many attachments (rows) to free nodes can complete,
            (attachments + 1, S) bool.
        least_entries: Least number of entries with which up to F free nodes to come complete a
            free node. Row F, column its state, (F values, S) long. 0 in state `UNKNOWN`, which
            stands for nodes that are not free.
        most_entries: Largest number of entries that complete a free node in each state without
            further free nodes, (S,) long; 0 in state `UNKNOWN`.
        room: Largest number of free nodes that can be added at a free node in each state, at these
            nodes, and so on, (S,) long; 16 (`MOST_ROOM`) stands for 16 or more.
        least_to_attach: Least number of free nodes with which a node in each state gets a further
            free neighbour, and both are completed, (S,) long.
    """

    def __init__(self, fragment: GraphFragment, support: Support):
        self.fragment = fragment
        self.support = support
        self.states = states = support.states
        after, leaf = states.after, support.attached_state
        single = fragment.plain & (states.weights == 1)
        fitting = fragment.plain & (states.weights <= fragment.valence[:, None])
        fitting[:, 0] = False
        self.entering = torch.where(fragment.attachments[:, None] > 0, single, fitting)
        self._set_fragment()
        attaches = (after != UNKNOWN) & (leaf != UNKNOWN)
        attaches[:, 0] = False
        if fragment.free_nodes is not None:
            attaches &= fragment.free_nodes
        free_edges = self._free_edges(attaches)
        self._set_entries(free_edges)
        if fragment.free_edges is not None:
            attaches &= fragment.free_edges[:, None]
        # The new node itself can have closures, each of which brings it an edge.
        fewest = free_edges.amin(0)
        closures = len(support.code.closures)
        both = fewest[after].maximum(fewest[leaf] - closures).clamp(min=0)
        self.least_to_attach = torch.where(attaches, 1 + both, NEVER).amin((1, 2))
        self.room = torch.zeros_like(states.category)
        for _ in range(MOST_ROOM):
            more = 1 + self.room[leaf] + self.room[after]
            self.room = torch.where(attaches, more, 0).amax((1, 2)).clamp(max=MOST_ROOM)

    def _set_fragment(self) -> None:
        """Set `closed` and `is_open` of the fragment nodes, and `completed`."""
        fragment, after = self.fragment, self.states.after
        category = fragment.categories.int().argmax(1)
        self.closed = self.states.first[category][:, None].repeat(1, len(fragment.structures))
        self.is_open = fragment.categories.sum(1) != 1
        labels = fragment.structures.int().argmax(2)
        several = (fragment.structures.sum(2) != 1).any(0)
        for number, (i, j) in enumerate(fragment.edges.tolist()):
            for node, other in ((i, j), (j, i)):
                self.closed[node] = after[self.closed[node], labels[:, number], category[other]]
                self.is_open[node] |= several[number] | (fragment.categories[other].sum() != 1)
        self.is_open |= (self.closed == UNKNOWN).all(1)
        # Of equal states of a node one is enough.
        self.closed = pad_sequence([row.unique() for row in self.closed], True, UNKNOWN)
        single = fragment.plain & (self.states.weights == 1)
        single = (after != UNKNOWN) & single[:, None]
        done = [self.states.complete & (torch.arange(len(after), device=after.device) != UNKNOWN)]
        for _ in range(int(fragment.attachments.max())):
            done.append((done[-1][after] & single).flatten(1).any(1))
        self.completed = torch.stack(done)

    def _set_entries(self, free_edges: Tensor) -> None:
        """Set `least_entries` and `most_entries`; `free_edges` is what `_free_edges` returns."""
        most = int(free_edges[free_edges < NEVER].max())
        number = torch.arange(most + 1, device=free_edges.device)[:, None, None]
        entry = torch.arange(len(free_edges), device=free_edges.device)[:, None]
        self.least_entries = torch.where(free_edges <= number, entry, NEVER).amin(1)
        self.most_entries = torch.where(free_edges == 0, entry, 0).amax(0)
        self.least_entries[:, UNKNOWN] = self.most_entries[UNKNOWN] = 0

    def _free_edges(self, attaches: Tensor) -> Tensor:
        """Return the least number of edges to free nodes that complete a node in each state.

        Args:
            attaches: True for edges to free nodes that are possible, by state of the node, label of
                the edge and category of the free node, (S, E + 1, C) bool.

        Returns:
            By the number of its entries, and by state, (entries + 1, S) long.
        """
        after = self.states.after
        least = torch.where(self.states.complete, 0, NEVER)
        least[UNKNOWN] = NEVER
        found = [self.states.least_cost(least, torch.where(attaches, 1, NEVER))]
        takes = self._entries()
        for _ in range(self.fragment.entries):
            found.append(torch.where(takes, found[-1][after], NEVER).amin((1, 2)))
        return torch.stack(found)

    def _entries(self) -> Tensor:
        """Return which entries free nodes may get.

        Returns:
            By state of the free node, label of the edge and category of the fragment node, (S, E +
            1, C) bool.
        """
        after = self.states.after
        takes = torch.zeros_like(after, dtype=torch.bool)
        for node in self.entering.any(1).nonzero()[:, 0].tolist():
            categories = self.fragment.categories[node]
            own = self.fragment_takes(
                self.closed[node][None],
                self.fragment.attachments[node][None] - 1,
                self.fragment.valence[node][None],
            )
            own = own | self.is_open[node]
            allowed = own[0][:, self.states.category].T  # (S, E + 1)
            takes |= (allowed & self.entering[node])[..., None] & categories
        return takes & (after != UNKNOWN)

    def fragment_takes(self, state: Tensor, attachments: Tensor, valence: Tensor) -> Tensor:
        """Return by which edges R fragment nodes may get free neighbours of which categories.

        Args:
            state: State of each node with all its edges of the fragment and those to free nodes so
                far, in K structures, (R, K) long.
            attachments: Attachments that each has left after this neighbour, (R,) long.
            valence: Free degree that each has left, (R,) long.

        Returns:
            By label of the edge and category of the neighbour, (R, E + 1, C) bool.
        """
        after = self.states.after[state]
        done = self.completed[attachments.clamp(min=0)[:, None, None, None], after]
        done = done | (valence > 0)[:, None, None, None]
        return (done & (after != UNKNOWN)).any(1)


class Sums(NamedTuple):
    """What several free nodes need together; the fields are tensors of one shape.

    Attributes:
        least: Sum of `MissingEdges.least_entries` over the nodes.
        most: Sum of `MissingEdges.most_entries`.
        room: Sum of `MissingEdges.room`.
        to_attach: Smallest `MissingEdges.least_to_attach`.
    """

    least: Tensor
    most: Tensor
    room: Tensor
    to_attach: Tensor

    def plus(self, other: Sums) -> Sums:
        """Combine with what other nodes need, elementwise.

        Sums are added; of `to_attach`, the smaller is taken.
        """
        return Sums(
            self.least + other.least,
            self.most + other.most,
            self.room + other.room,
            self.to_attach.minimum(other.to_attach),
        )

    def above(self) -> Sums:
        """Accumulate along the path: from fields (P, L), by level, to fields (P, L + 1).

        Entry l of the result is over all levels from 0 to l - 1.
        """
        least, most, room = (F.pad(x.cumsum(1), (1, 0)) for x in self[:3])
        return Sums(least, most, room, F.pad(self.to_attach, (1, 0), value=NEVER).cummin(1).values)

    def at(self, row: Tensor, level: Tensor) -> Sums:
        """Look up entries of fields (P, L + 1).

        Args:
            row: Indices of particles, (R,) long.
            level: Indices along the path, (R,) long.

        Returns:
            Fields of shape (R,).
        """
        return Sums(*(x[row, level] for x in self))


class MissingOnPaths:
    """What the nodes on the paths of P particles need, to check each possible next node.

    `ParticleSampler` makes it before each node, after `Progress.update_tables`.

    Args:
        missing: Tables by state.
        progress: The particles, whose tables are up to date.

    Attributes:
        state: State of the node at each level of the path, `UNKNOWN` beyond its end, (P, L) long.
        free_state: State of the node at each level if it is free, else `UNKNOWN`, (P, L) long.
        after_free: Sums over the levels above each level, if the next node is a free one; fields
            (P, L + 1).
        after_placed: The same if the next node is a fragment node; fields (P, L + 1).
        chosen: What `choices` returned for the backtracks that were drawn, (P, E + 1, C) bool. Set
            by `allowed`, and used by its next call.
        entries: Number A of entries to come, (P,) long.
        unsure: True for particles with an unknown number of entries, for which nothing is ruled out
            by A, (P,) bool.
    """

    def __init__(self, missing: MissingEdges, progress: Progress):
        self.missing, self.progress = missing, progress
        level = torch.arange(progress.at.shape[1], device=progress.at.device)
        on_path = level <= progress.depth[:, None]
        self.state = torch.where(on_path, progress.state, UNKNOWN)
        self.free_state = torch.where(progress.is_free, self.state, UNKNOWN)
        self.entries, self.unsure = progress.entries_to_come()
        self.after_free = self._sums(self.free_state, (progress.free - 1)[:, None]).above()
        self.after_placed = self._sums(self.free_state, progress.free[:, None]).above()

    def _sums(self, state: Tensor, free: Tensor) -> Sums:
        """Look up in `MissingEdges` what free nodes in some states need.

        Args:
            state: The states, long, of any shape.
            free: Number F of free nodes to come, of a shape that can be broadcast to that of the
                states.

        Returns:
            Fields of the shape of the states, one entry for each node.
        """
        m = self.missing
        known = free.clamp(0, len(m.least_entries) - 1)
        return Sums(
            m.least_entries[known, state],
            m.most_entries[state],
            m.room[state],
            m.least_to_attach[state],
        )

    def _enough(
        self, row: Tensor, sums: Sums, free: Tensor, entries: Tensor, filled: Tensor | int = 0
    ) -> Tensor:
        """Return whether free nodes and entries to come can still complete all free nodes.

        These are the three conditions at the beginning of this module.

        Args:
            row: Index of the particles, (R,) long.
            sums: Sums over all free nodes of the path, (R, ...).
            free: Number F of free nodes after the next node, (R,) long.
            entries: Number A of entries after the next node, (R,) long.
            filled: How many attachments to free nodes the node fills, (R,) long.

        Returns:
            Of the shape of the sums, bool.
        """
        attachable = self.progress.attachable(row, filled)
        more = (slice(None), *[None] * (sums.least.dim() - 1))
        free, entries, attachable = free[more], entries[more], attachable[more]
        has_room = sums.room >= free.clamp(max=MOST_ROOM)
        grows = attachable | (has_room & (sums.to_attach <= free))
        fits = torch.where(free > 0, grows, sums.most >= entries)
        return (sums.least <= entries) & fits | self.unsure[row][more]

    def choices(self, row: Tensor, level: Tensor) -> Tensor:
        """Return with which edges to the parent and which categories free nodes may come next.

        Args:
            row: Index of the particle, (R,) long.
            level: Level of the parent, -1 for a first node, (R,) long.

        Returns:
            By label of the edge and category of the new node, (R, E + 1, C) bool.
        """
        m, progress = self.missing, self.progress
        at = level.clamp(min=0)
        first = (level < 0)[:, None, None]
        state = torch.where(level < 0, UNKNOWN, self.state[row, at])
        after, leaf = m.states.after[state], m.support.attached_state[state]
        fits = (leaf != UNKNOWN) & ((after != UNKNOWN) | first)
        fits[:, 0] &= first[:, 0]
        fits = fits & self.fragment_takes(row, at)
        which, label, category = fits.nonzero(as_tuple=True)
        row, at = row[which], at[which]
        after, leaf = after[which, label, category], leaf[which, label, category]
        after = torch.where(progress.is_free[row, at] & (level[which] >= 0), after, UNKNOWN)
        free = progress.free[row] - 1
        of_parent = self._sums(after, free)
        sums = self.after_free.at(row, at).plus(of_parent).plus(self._sums(leaf, free))
        filled = self._attached(row, at) & (level[which] >= 0)
        enough = self._enough(row, sums, free, self.entries[row], filled.long())
        # Closures may still bring edges to the new node, and to those above its parent.
        lacking = (~enough & (of_parent.least <= self.entries[row])).nonzero()[:, 0]
        closes = self._may_close(
            row[lacking], level[which[lacking]], leaf[lacking], category[lacking]
        )
        fits[which, label, category] = enough.index_put((lacking,), closes)
        return fits

    def _attached(self, row: Tensor, level: Tensor) -> Tensor:
        """Return whether an edge to a free node fills an attachment at levels, (R,) bool."""
        return self.progress.attachments_at[row, level] > 0

    def _may_close(self, row: Tensor, level: Tensor, own: Tensor, category: Tensor) -> Tensor:
        """Return whether new nodes can have a closure to a node above their parents, (R,) bool.

        Args:
            row: Index of the particles, (R,) long.
            level: Level of the parents, (R,) long.
            own: State of the new nodes, (R,) long.
            category: Their categories, (R,) long.
        """
        m, progress = self.missing, self.progress
        number = torch.arange(self.state.shape[1], device=row.device)
        state = self.state[row]
        takes = m.support.can_join[state, category[:, None]]
        takes = takes & m.support.can_join[own[:, None], m.states.category[state]]
        open_to = progress.is_free | (progress.attachments_at > 0) | (progress.valence_at > 0)
        return (takes & open_to[row] & (number < level[:, None])).any(1)

    def fragment_takes(self, row: Tensor, level: Tensor) -> Tensor:
        """Return by which edges the fragment lets nodes on the path get free neighbours.

        Args:
            row: Index of the particle, (R,) long.
            level: Level of the node, (R,) long.

        Returns:
            By label of the edge and category of the neighbour, (R, E + 1, C) bool. All True if the
            node is a free one, of which the fragment says nothing.
        """
        progress = self.progress
        node = progress.at[row, level]
        fits = self.state.new_ones(len(row), *self.missing.states.after.shape[1:], dtype=torch.bool)
        member = ((node >= 0) & ~self.missing.is_open[node.clamp(min=0)]).nonzero()[:, 0]
        row, node = row[member], node[member]
        fits[member] = self.missing.fragment_takes(
            progress.whole[row, node],
            progress.attachments[row, node] - 1,
            progress.valence[row, node],
        )
        return fits

    def entry_labels(self, row: Tensor, level: Tensor, node: Tensor) -> Tensor:
        """Return by which edges fragment nodes may come next below free nodes.

        Args:
            row: Index of the particle, (R,) long.
            level: Level of the parent, -1 before the first node, (R,) long.
            node: Number of the fragment node, (R,) long.

        Returns:
            By label of the edge, (R, E + 1) bool. All True before the first node, and for nodes
            that are `MissingEdges.is_open`.
        """
        m, progress = self.missing, self.progress
        state = self.free_state[row, level.clamp(min=0)]
        category = m.fragment.categories[node].int().argmax(1)
        after = m.states.after[state, :, category]
        free = progress.free[row]
        sums = self.after_placed.at(row, level.clamp(min=0))
        sums = Sums(*(x[:, None] for x in sums)).plus(self._sums(after, free[:, None]))
        others = (self.entries[row] - 1).clamp(min=0)
        fits = (after != UNKNOWN) & self._enough(row, sums, free, others)
        own = m.fragment_takes(
            progress.whole[row, node],
            progress.attachments[row, node] - 1,
            progress.valence[row, node],
        )
        every = torch.arange(len(row), device=row.device)
        fits = fits & own[every, :, m.states.category[state]]
        return fits | (m.is_open[node] | (level < 0))[:, None]

    def placed(self, placements: Placements, previous: list[Tensor]) -> Tensor:
        """Return by which edges R placements may have their parents.

        Args:
            placements: The placements.
            previous: A list with one item, the backtracks of the placements, (R,) long. It is not
                read.

        Returns:
            By label of the edge, (R, E + 1) bool.
        """
        row = placements.owner
        level = torch.where(placements.enters, self.progress.depth[row] - placements.back, -1)
        return self.entry_labels(row, level, placements.node)

    def allowed(self, previous: list[Tensor], cardinality: int) -> Tensor:
        """Return which values of a free node's next variable do not lead to a dead end.

        Call it for the variables in their order: the call for the edge to the parent keeps `chosen`
        for the category.

        Args:
            previous: Values of the variables of this node that are drawn already, (P,) long each.
            cardinality: Number of values of the next variable.

        Returns:
            (P, cardinality) bool.
        """
        progress = self.progress
        everyone = torch.arange(len(progress.depth), device=progress.depth.device)
        role = Variable.at(len(previous)).role
        if role is VariableRole.BACKTRACK:
            return self._backtracks(cardinality)
        level = progress.depth - previous[BACKTRACK]
        level = torch.where(progress.depth < 0, -1, level.clamp(min=0))
        if role is VariableRole.PARENT_EDGE:
            self.chosen = self.choices(everyone, level)
            return self.chosen.any(2)
        if role is VariableRole.CATEGORY:
            return self.chosen[everyone, previous[PARENT_EDGE]]
        value = torch.arange(cardinality, device=level.device)
        if role is VariableRole.LENGTH:
            ends = self._may_end(level, previous)
            return (value > 0) | ends[:, None]
        far = (level + 1 - previous[-1]).clamp(min=0)
        takes = self.fragment_takes(everyone, far)[everyone, :, previous[CATEGORY]]
        return takes | (previous[-1] == 0)[:, None]

    def _may_end(self, level: Tensor, previous: list[Tensor]) -> Tensor:
        """Return whether free nodes may have no further closure, (P,) bool.

        Args:
            level: Levels of their parents, -1 for a first node, (P,) long.
            previous: Values of their variables so far, (P,) long each.
        """
        after = self.missing.states.after
        every = torch.arange(len(level), device=level.device)
        state = self.free_state.clone()
        category = previous[CATEGORY]
        own = self.missing.states.first[category]
        lengths = [torch.ones_like(level), *previous[LENGTHS]]
        edges = [previous[PARENT_EDGE], *previous[CLOSING_EDGES]]
        filled = torch.zeros_like(level)
        for label, length in zip(edges, lengths, strict=True):
            far = (level + 1 - length).clamp(min=0)
            filled = filled + (self._attached(every, far) & (label > 0)).long()
            other = self.missing.states.category[self.state[every, far]]
            own = after[own, label, other]
            state[every, far] = after[state[every, far], label, category]
        free = self.progress.free - 1
        above = self._sums(state, free[:, None]).above().at(every, level + 1)
        sums = above.plus(self._sums(own, free))
        return self._enough(every, sums, free, self.entries, filled)

    def _backtracks(self, cardinality: int) -> Tensor:
        """Return which backtracks of free nodes are possible, (P, cardinality) bool.

        Those after which a fragment node can come are possible as well.
        """
        progress = self.progress
        depth = progress.depth[:, None]
        value = torch.arange(cardinality, device=depth.device)
        level = depth - value
        fits = (depth < 0) & (value == 0)
        row, back = (level >= progress.floor.clamp(min=0)).nonzero(as_tuple=True)
        found = self.choices(row, level[row, back]).flatten(1).any(1) & (progress.free[row] > 0)
        found |= self.enterable(row, level[row, back]).any(1)
        return fits.index_put((row, back), found)

    def enterable(self, row: Tensor, level: Tensor) -> Tensor:
        """Return which fragment nodes may come next below free nodes, as entries.

        Args:
            row: Index of the particle, (R,) long.
            level: Level of the parent, -1 before the first node, (R,) long.

        Returns:
            (R, U) bool. All False below a fragment node and before the first node.
        """
        progress = self.progress
        after_free = progress.is_free[row, level.clamp(min=0)] & (level >= 0)
        fits = progress.enterable[row] & after_free[:, None]
        which, node = fits.nonzero(as_tuple=True)
        if len(which):
            labels = self.entry_labels(row[which], level[which], node)
            fits[which, node] = (labels & self.missing.entering[node]).any(1)
        return fits
