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

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from graphcnf.design.graph_fragment import GraphFragment
from graphcnf.graphs.path.node_states import NEVER, UNKNOWN
from graphcnf.graphs.path.support import Support

MOST_ROOM = 16
"""Largest value of `MissingEdges.room`, which stands for any number of free nodes from 16 on."""


class MissingEdges:
    """Tables of what a node in each state still needs, for one fragment and one model.

    `ParticleSampler` makes it once.

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
        """Return the least number of edges to free nodes that complete a node in each state."""
        after = self.states.after
        least = torch.where(self.states.complete, 0, NEVER)
        least[UNKNOWN] = NEVER
        found = [self.states.least_cost(least, torch.where(attaches, 1, NEVER))]
        takes = self._entries()
        for _ in range(self.fragment.entries):
            found.append(torch.where(takes, found[-1][after], NEVER).amin((1, 2)))
        return torch.stack(found)

    def _entries(self) -> Tensor:
        """Return which entries free nodes may get."""
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

        By label of the edge and category of the neighbour, (R, E + 1, C).

        Args:
            state: State of each with all its edges of the fragment and those to free nodes so far,
                in K structures, (R, K).
            attachments: Attachments that each has left after this neighbour, (R,).
            valence: Free degree that each has left, (R,).
        """
        after = self.states.after[state]
        done = self.completed[attachments.clamp(min=0)[:, None, None, None], after]
        done = done | (valence > 0)[:, None, None, None]
        return (done & (after != UNKNOWN)).any(1)


class Sums(NamedTuple):
    """What several free nodes need together; the fields are tensors of one shape.

    Each field adds up that of `MissingEdges`, but `to_attach` is the smallest.
    """

    least: Tensor
    most: Tensor
    room: Tensor
    to_attach: Tensor

    def plus(self, other: Sums) -> Sums:
        """Combine with what other nodes need, elementwise."""
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
        """Look up entries of fields (P, L + 1) by particle and index along the path."""
        return Sums(*(x[row, level] for x in self))
