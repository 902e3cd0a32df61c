"""Sample graphs in which all free nodes form one connected part, the linker of a fragment.

It extends `graphcnf.design.particles` for the tasks "link" and "close". That module defines free
node, fragment node, particle, placement, entry, level, closure, attachment, component and variable;
P particles, R placements. Further nouns:

- *Linker*: all free nodes of a complete graph. Every attachment of the fragment leads to it. It
  joins the components of the fragment, or closes a ring where one component has several
  attachments.
- *Piece*: free nodes of an unfinished graph that are connected with each other through free nodes
  so far. It is numbered by the lowest level of its nodes. The topmost piece on the path becomes
  the linker. Below it, a fragment node may get a free neighbour that is not connected to the linker
  yet; such a piece is *loose* until a closure joins it.
- *Join*: a closure from a fragment node to a free node.

In any depth-first order, all free nodes come below the first one of them. So no particle steps back
above the linker while an attachment is to be filled, nor above a loose piece. Every depth-first
order of a graph with a linker can be drawn.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from graphcnf.design.graph_fragment import FREE, GraphFragment, Placements
from graphcnf.design.missing import MissingEdges
from graphcnf.design.placing import Enterable, Progress
from graphcnf.graphs.path.depth_first import (
    BACKTRACK,
    LENGTHS,
    PARENT_EDGE,
    Variable,
    VariableRole,
)

NO_PIECE = -1  # at the level of a fragment node


class LinkedFragment(GraphFragment):
    """Fragment whose attachments all lead to one connected part of free nodes, the linker.

    `make_fragment(..., linked=True)` makes it. Its attributes are those of `GraphFragment`.
    """

    @property
    def fewest_free(self) -> int:
        """Least number of free nodes: the largest number of attachments at one fragment node.

        Each free node can be at an attachment of every fragment node, but only at one of each.
        """
        return int(self.attachments.max())

    @property
    def closed_ring(self) -> int:
        """Size of the largest ring that the linker cannot avoid to close; 0 for none.

        A model whose training data has no ring of that size cannot draw the linker, so this is
        checked before.

        A component with several attachments makes rings: from one attachment through the fragment
        to another one, and back through the linker. For each attachment, the smallest ring is that
        to the nearest other one, with one linker node; for example, two attachments that are three
        edges apart make a ring of four fragment nodes and a linker node, 5. (Two attachments at one
        node make a ring of this node and two of the linker, 3.) The largest of these is returned.
        """
        attached = self.attachments > 0
        near = torch.eye(len(self), dtype=torch.bool)
        # True for nodes from which no other attachment has been met yet.
        alone = attached & (self.attachments < 2)
        ring = 3 * int((attached & ~alone).any())
        for steps in range(1, len(self)):
            near = near | (near.long() @ self.adjacency.long() > 0)
            met = alone & ((near & attached).sum(1) > 1)
            ring = max(ring, (steps + 2) * int(met.any()))
            alone = alone & ~met
        return ring

    @property
    def entries(self) -> int:
        """Largest number of entries: every attachment can be one."""
        return int(self.attachments.sum())


class LinkedProgress(Progress):
    """The P particles of a draw with a `LinkedFragment`, step by step.

    It also knows the piece of each free node on the path, and so which closures join a loose piece
    to the linker. Its `rings` are those of the linker by itself, without those that it closes over
    the fragment.

    Attributes:
        piece: Piece of the free node at each level of the path, -1 (`NO_PIECE`) for a fragment
            node, (P, levels) long.
        linker: Piece that becomes the linker, -1 before there is a free node, (P,) long. Set by
            `update_tables`.
    """

    TABLES = (*Progress.TABLES, "piece")

    def __init__(self, sizes: Tensor, missing: MissingEdges):
        super().__init__(sizes, missing)
        self.piece = torch.full_like(self.at, NO_PIECE)

    @property
    def complete(self) -> Tensor:
        """True for particles with the whole fragment, all attachments and one piece, (P,) bool."""
        linker, deepest = self._pieces()
        return super().complete & (deepest <= linker)

    def _pieces(self) -> tuple[Tensor, Tensor]:
        """Return the topmost and the deepest piece on the path of each particle."""
        on_path = torch.arange(self.piece.shape[1], device=self.piece.device)
        here = (on_path <= self.depth[:, None]) & (self.at == FREE)
        deepest = torch.where(here, self.piece, NO_PIECE).amax(1)
        topmost = torch.where(here, self.piece, self.piece.shape[1]).amin(1)
        return torch.where(here.any(1), topmost, NO_PIECE), deepest

    def entries_to_come(self) -> tuple[Tensor, Tensor]:
        """Return how many entries are to come: the attachments of nodes that are not placed."""
        waiting = torch.where(self.unplaced, self.attachments, 0).sum(1)
        return waiting, torch.zeros_like(waiting, dtype=torch.bool)

    def update_tables(self, state: Tensor) -> None:
        """Compute what the next node may be, like `Progress.update_tables`, but of a linker.

        It also sets `linker`. `floor` is raised, so that the path cannot step back above a loose
        piece, or above the linker while attachments are to be filled. `enterable` is replaced: a
        fragment node may follow a free node only at an attachment.
        """
        super().update_tables(state)
        self.linker, deepest = self._pieces()
        unfinished = (deepest > self.linker) | (self.attachments > 0).any(1)
        stays = torch.where(unfinished, deepest, NO_PIECE)
        self.floor = self.floor.maximum(stays[:, None])
        placed = (self.level >= 0).float() @ self.fragment.adjacency.float()
        self.enterable = self.unplaced & (self.attachments > 0) & (placed <= self.closures)

    def free_fits(self, back: Tensor) -> Tensor:
        """Return from which backtracks a free node may be drawn, so that enough free nodes remain.

        One free node fills at most one attachment of each fragment node. So a fragment node on the
        path with k attachments left needs k free nodes.
        """
        parent = self.depth[:, None] - back
        fits = self.grows_at.gather(1, parent.clamp(min=0)) | (parent < 0)
        # No two attachments of one node lead to the same free node.
        needed = torch.where(self.level >= 0, self.attachments, 0).amax(1).clamp(min=1)
        return fits & (self.free >= needed)[:, None]

    def mask(self, previous: list[Tensor], cardinality: int) -> Tensor:
        """Return which values the next variable of a free node may have.

        Unlike in `Progress`, closures can be forced: where a free node is the last that can fill an
        attachment, or the last that can join a loose piece to the linker.
        """
        role = Variable.at(len(previous)).role
        if role is VariableRole.LENGTH:
            return self._lengths(previous, cardinality)
        fits = super().mask(previous, cardinality)
        if role is VariableRole.CATEGORY:
            return fits & self._categories(previous)
        if role is VariableRole.CLOSING_EDGE:
            far = (self.depth - previous[BACKTRACK] + 1 - previous[-1]).clamp(min=0)[:, None]
            fills = (previous[-1][:, None] > 0) & (self.attachments_at.gather(1, far) > 0)
            return fits & (~fills | self._single)
        return fits

    @property
    def _single(self) -> Tensor:
        """True for the edges that may fill an attachment, (edge categories + 1,) bool."""
        return self.fragment.plain & (self.weights == 1)

    def _lengths(self, previous: list[Tensor], cardinality: int) -> Tensor:
        """Return the possible lengths of the next closure of a free node."""
        value = torch.arange(cardinality, device=self.depth.device)[None]
        level = (self.depth - previous[BACKTRACK] + 1)[:, None]
        far = (level - value).clamp(min=0)
        pieces, made = self._joined(level, previous)
        same = torch.stack([self.piece.gather(1, far) == own for own in pieces]).any(0)
        room = (self.rings + made < self.fragment.new_rings[1])[:, None]
        fits = torch.where(self.is_free.gather(1, far), ~same | room,
                           self.attachments_at.gather(1, far) > 0)  # fmt: skip
        forced = self._forced(level, previous)
        number = torch.arange(forced.shape[1], device=forced.device)
        nearest = torch.where(forced, level - number, forced.shape[1]).amin(1, keepdim=True)
        must = forced.any(1, keepdim=True) | self._must_join(pieces)
        return (self.depth < 0)[:, None] | torch.where(value == 0, ~must, fits & (value <= nearest))

    def _joined(self, level: Tensor, previous: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Return the pieces that a free node is part of, and how many rings it closes."""
        up = (level - 1).clamp(min=0)
        after_free = (level > 0) & self.is_free.gather(1, up)
        pieces = [torch.where(after_free, self.piece.gather(1, up), level)]
        made = torch.zeros_like(self.rings)
        for length in previous[LENGTHS]:
            far = (level - length[:, None]).clamp(min=0)
            joins = (length[:, None] > 0) & self.is_free.gather(1, far)
            piece = torch.where(joins, self.piece.gather(1, far), NO_PIECE - 1)
            made = made + torch.stack([piece == own for own in pieces]).any(0)[:, 0].long()
            pieces.append(piece)
        return pieces, made

    def _must_join(self, pieces: list[Tensor]) -> Tensor:
        """Return for which particles the next free node must get a closure to the linker."""
        linker = self.linker[:, None]
        joined = torch.stack([own == linker for own in pieces]).any(0) | (linker == NO_PIECE)
        return ~joined & (self.free == 1)[:, None]

    def _forced(self, level: Tensor, previous: list[Tensor]) -> Tensor:
        """Return the levels of the path to which the next free node must still close."""
        number = torch.arange(self.at.shape[1], device=level.device)
        above = number < level - 1
        if Variable.at(len(previous)).edge_number > 1:
            above = number < level - previous[-2][:, None].clamp(min=1)
        waiting = (self.attachments_at > 0) & (self.attachments_at >= self.free[:, None])
        return above & waiting

    def _categories(self, previous: list[Tensor]) -> Tensor:
        """Return the categories of free nodes that allow all closures that the node must have."""
        level = (self.depth - previous[BACKTRACK] + 1)[:, None]
        joins = self._must_join(self._joined(level, previous)[0])[:, 0].long()
        needed = self.weights[previous[PARENT_EDGE]] + self._forced(level, previous).sum(1) + joins
        return self.support.states.sums >= needed[:, None]

    def entries(
        self, back: Tensor, uniform: Tensor, guide: Tensor, enterable: Enterable
    ) -> tuple[Placements, Tensor] | None:
        """Choose, in each particle that allows it, a fragment node to come below a free node.

        Unlike in `Progress`, fragment neighbours of that node may be on the path already, to which
        it then has closures, so that it closes rings. Args are those of `Progress.entries`.
        """
        entry = super().entries(back, uniform, guide, enterable)
        if entry is None:
            return None
        found, among = entry
        level = (self.depth[found.owner] - found.back + 1)[:, None]
        near = self.fragment.adjacency[found.node] & (self.level[found.owner] >= 0)
        none = self.at.shape[1] + 1
        lengths, order = torch.where(near, level - self.level[found.owner], none).sort(1)
        edges = self.fragment.edge_between[found.node].gather(1, order)
        edges, lengths = torch.where(lengths < none, edges, -1), lengths % none
        room = (0, max(self.closures - lengths.shape[1], 0))
        found.lengths = F.pad(lengths, room)[:, : self.closures]
        found.edges[:, 1:] = F.pad(edges, room, value=-1)[:, : self.closures]
        return found, among

    def placement_mask(
        self, placements: Placements, previous: list[Tensor], cardinality: int
    ) -> Tensor:
        """Return which values the next variable of each placement may have.

        Unlike in `Progress`, a fragment node with attachments may have joins, closures to free
        nodes, beside the closures to fragment nodes that its placement has.
        """
        fits = super().placement_mask(placements, previous, cardinality)
        role, number = Variable.at(len(previous))
        if role is VariableRole.LENGTH:
            return self._with_joins(placements, previous, fits)
        if role is VariableRole.CLOSING_EDGE:
            joins = (placements.lengths[:, number - 1] > 0) & (placements.edges[:, number] < 0)
            single = self._leave_enough(placements, previous, self._single.expand_as(fits))
            return torch.where(joins[:, None], single, fits)
        return fits

    def _with_joins(self, placements: Placements, previous: list[Tensor], fits: Tensor) -> Tensor:
        """Add the lengths of joins to the possible lengths of the placements' next closure."""
        number = Variable.at(len(previous)).edge_number
        owner = placements.owner
        value = torch.arange(fits.shape[1], device=fits.device)[None]
        level = (self.depth[owner] - placements.back + 1)[:, None]
        made = (placements.edges[:, 1:number] < 0) & (placements.lengths[:, : number - 1] > 0)
        filled = (placements.enters & (level[:, 0] > 0)).long() + made.sum(1)
        left = (self.attachments[owner, placements.node] - filled)[:, None]
        wanted = placements.lengths[:, number - 1, None]
        last = previous[-2][:, None] if number > 1 else 1
        joins = self.is_free[owner].gather(1, (level - value).clamp(min=0)) & (value <= level)
        joins &= (value > last) & ((wanted == 0) | (value < wanted)) & (left > 0)
        joins &= placements.lengths[:, -1:] == 0
        must = (left > 0) & (self.free[owner] == 0)[:, None]
        return joins | fits & ~((value == 0) & must)

    def narrow(self, placements: Placements, previous: list[Tensor]) -> None:
        """Insert a join where one was drawn, and rule out structures, in place.

        `ParticleSampler` calls it after each variable. Structures that contradict a label of an
        edge are no longer `alive`.
        """
        role, number = Variable.at(len(previous) - 1)
        if previous and role is VariableRole.LENGTH:
            drawn = previous[-1]
            lengths, edges = placements.lengths, placements.edges
            joins = ((drawn > 0) & (drawn != lengths[:, number - 1]))[:, None]
            before, after = lengths[:, : number - 1], lengths[:, number - 1 : -1]
            later = torch.cat([before, drawn[:, None], after], 1)
            placements.lengths = torch.where(joins, later, lengths)
            none = torch.full_like(edges[:, :1], -1)
            later = torch.cat([edges[:, :number], none, edges[:, number:-1]], 1)
            placements.edges = torch.where(joins, later, edges)
        super().narrow(placements, previous)

    def _count_rings(self, parent: Tensor, free: Tensor, lengths: Tensor) -> None:
        """Count the rings that the next node closes within a piece, and unite pieces, in place."""
        rows, level = torch.arange(len(parent), device=parent.device), parent + 1
        up = parent.clamp(min=0)
        after_free = (parent >= 0) & (self.at[rows, up] == FREE)
        own = torch.where(after_free, self.piece[rows, up], level)
        self.piece[rows, level] = torch.where(free, own, NO_PIECE)
        for length in lengths.unbind(1):
            far = (level - length).clamp(min=0)
            joins = free & (length > 0) & (self.at[rows, far] == FREE)
            pair = torch.stack([self.piece[rows, level], self.piece[rows, far]])
            self.rings = self.rings + (joins & (pair[0] == pair[1])).long()
            moved = joins[:, None] & (self.piece == pair.amax(0)[:, None])
            self.piece = torch.where(moved, pair.amin(0)[:, None], self.piece)
