"""What the nodes on the paths of particles still need; `missing` says by which rules."""

from __future__ import annotations

import torch
from torch import Tensor

from graphcnf.design.graph_fragment import Placements
from graphcnf.design.missing import MOST_ROOM, MissingEdges, Sums
from graphcnf.design.placing import Progress
from graphcnf.graphs.path.depth_first import (
    BACKTRACK,
    CATEGORY,
    CLOSING_EDGES,
    LENGTHS,
    PARENT_EDGE,
    Variable,
    VariableRole,
)
from graphcnf.graphs.path.node_states import UNKNOWN


class MissingOnPaths:
    """What the nodes on the paths of P particles need, to check each possible next node.

    `ParticleSampler` makes it before each node, after `Progress.update_tables`.

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
        """Look up in `MissingEdges` what free nodes in some states need."""
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
        """Return whether free nodes and entries to come can still complete all free nodes."""
        attachable = self.progress.attachable(row, filled)
        more = (slice(None), *[None] * (sums.least.dim() - 1))
        free, entries, attachable = free[more], entries[more], attachable[more]
        has_room = sums.room >= free.clamp(max=MOST_ROOM)
        grows = attachable | (has_room & (sums.to_attach <= free))
        fits = torch.where(free > 0, grows, sums.most >= entries)
        return (sums.least <= entries) & fits | self.unsure[row][more]

    def choices(self, row: Tensor, level: Tensor) -> Tensor:
        """Return with which edges to the parent and which categories free nodes may come next.

        By label of the edge and category of the new node, (R, E + 1, C), for parents at `level`
        (R,) of the particles `row` (R,); level -1 for a first node.
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
        """Return whether new nodes can have a closure to a node above their parents, (R,) bool."""
        m, progress = self.missing, self.progress
        number = torch.arange(self.state.shape[1], device=row.device)
        state = self.state[row]
        takes = m.support.can_join[state, category[:, None]]
        takes = takes & m.support.can_join[own[:, None], m.states.category[state]]
        open_to = progress.is_free | (progress.attachments_at > 0) | (progress.valence_at > 0)
        return (takes & open_to[row] & (number < level[:, None])).any(1)

    def fragment_takes(self, row: Tensor, level: Tensor) -> Tensor:
        """Return by which edges the fragment lets nodes on the path get free neighbours.

        By label of the edge and category of the neighbour, (R, E + 1, C). All True if the node is a
        free one, of which the fragment says nothing.
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

        By label of the edge, (R, E + 1). All True before the first node (level -1), and for nodes
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

        By label of the edge, (R, E + 1). `previous` is not read.
        """
        row = placements.owner
        level = torch.where(placements.enters, self.progress.depth[row] - placements.back, -1)
        return self.entry_labels(row, level, placements.node)

    def allowed(self, previous: list[Tensor], cardinality: int) -> Tensor:
        """Return which values of a free node's next variable do not lead to a dead end.

        Call it for the variables in their order: the call for the edge to the parent keeps `chosen`
        for the category.
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
        """Return whether free nodes may have no further closure, (P,) bool."""
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
        """Return which backtracks of free nodes are possible, (P, cardinality) bool."""
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

        The result, (R, U), is False below a fragment node and before the first node (level -1).
        """
        progress = self.progress
        after_free = progress.is_free[row, level.clamp(min=0)] & (level >= 0)
        fits = progress.enterable[row] & after_free[:, None]
        which, node = fits.nonzero(as_tuple=True)
        if len(which):
            labels = self.entry_labels(row[which], level[which], node)
            fits[which, node] = (labels & self.missing.entering[node]).any(1)
        return fits
