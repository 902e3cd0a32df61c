"""Which fragment nodes each particle has placed, and which it may place next."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from graphcnf.design.graph_fragment import FREE, LEFT, UNPLACED, Placements
from graphcnf.design.missing import MissingEdges
from graphcnf.errors import UserError
from graphcnf.graphs.path.depth_first import (
    BACKTRACK,
    CATEGORY,
    COMMON_VARIABLES,
    LENGTHS,
    PARENT_EDGE,
    DepthFirstCode,
    Variable,
    VariableRole,
)
from graphcnf.graphs.path.node_states import UNKNOWN

Enterable = Callable[[Tensor, Tensor], Tensor]
"""Function of particles and levels, (R,) long each, to fragment nodes, (R, U) bool."""


class Progress:
    """The P particles of a draw, and which fragment nodes each of them has placed.

    `ParticleSampler.draw` calls `update_tables`, chooses the next node of each particle by `mask`,
    `placements` and `entries`, and adds it by `add`, until the graphs are complete.

    Further nouns:

    - A structure is *alive* while all edges of the graph agree with it.
    - A *detour* is a free node below a fragment node that still has fragment neighbours to come.
    - The *rings* of a particle are those that its free nodes have closed so far.

    Args:
        sizes: Number of nodes of each graph, (P,) long.
        missing: Tables of what nodes in each state still need, for a fragment and a model.

    Attributes:
        free: Number of free nodes to come, (P,) long.
        depth: Level of the last node on the path, -1 before the first node, (P,) long.
        at: Number of the fragment node at each level of the path, -1 (`FREE`) for a free node, (P,
            levels) long, with as many levels as the largest graph has nodes, plus 1.
        level: Level of each fragment node; -1 (`UNPLACED`) before it is placed, -2 (`LEFT`) once
            the path has stepped back above it, (P, U) long.
        valence: Free degree that each fragment node has left for free nodes, (P, U) long.
        attachments: Attachments that each fragment node has yet to get, (P, U) long.
        alive: True for structures that are alive, (P, S) bool.
        last: Fragment node that was placed last, U before the first, (P,) long.
        came_from: Fragment node that was placed before each placed one, as `source` numbers them,
            (P, U) long.
        log_probs: Log-probability of each placed fragment node given its backtrack, (P, U) nats.
        left: Sum of edge weights that each placed fragment node can still take by its category, (P,
            U) long.
        detours: Number of detours, (P,) long.
        symmetric: True for the symmetries of the fragment that map each placed node to itself, (P,
            G) bool.
        rings: Number of rings that free nodes have closed, (P,) long.
        whole: State that each fragment node will have with all its edges of the fragment and the
            edges to free nodes so far, in each of K different structures, (P, U, K) long.
        state: State of the node at each level, as `update_tables` got it, (P, levels) long.
    """

    # Attributes with a row for each particle.
    TABLES: tuple[str, ...] = (
        "free", "depth", "at", "level", "valence", "attachments", "alive", "last", "came_from",
        "log_probs", "left", "detours", "symmetric", "rings", "whole",
    )  # fmt: skip

    def __init__(self, sizes: Tensor, missing: MissingEdges):
        fragment, support = missing.fragment, missing.support
        least, count = len(fragment) + fragment.fewest_free, len(sizes)
        if bool((sizes < least).any()):
            raise UserError(f"graphs with this fragment have at least {least} nodes")
        self.fragment, self.support, self.weights = fragment, support, support.states.weights
        self.closures = len(support.code.closures)
        self.whole = missing.closed.expand(count, -1, -1).clone()
        self.free = sizes - len(fragment)
        self.depth = torch.full_like(sizes, -1)
        self.at = sizes.new_full((count, int(sizes.max()) + 1), FREE)
        self.level = sizes.new_full((count, len(fragment)), UNPLACED)
        self.valence = fragment.valence.expand(count, -1).clone()
        self.attachments = fragment.attachments.expand(count, -1).clone()
        self.alive = sizes.new_ones((count, len(fragment.structures)), dtype=torch.bool)
        self.last = torch.full_like(sizes, len(fragment))
        self.symmetric = sizes.new_ones((count, len(fragment.images)), dtype=torch.bool)
        self.came_from, self.left = torch.zeros_like(self.level), torch.zeros_like(self.level)
        self.log_probs = torch.zeros_like(self.level, dtype=torch.float64)
        self.detours, self.rings = torch.zeros_like(sizes), torch.zeros_like(sizes)
        # Least weight of each edge of the fragment in any structure, and of those between nodes.
        self.least = sizes.new_zeros(1)
        if len(fragment.edges):
            most = int(self.weights.max()) + 1
            self.least = torch.where(fragment.structures.any(0), self.weights, most).amin(-1)
        between = self.least[fragment.edge_between.clamp(min=0)]
        self.between = torch.where(fragment.adjacency, between, 0)

    def select(self, rows: Tensor) -> None:
        """Keep some particles, drop or repeat others, in place; for resampling and finished graphs.

        The tables of `update_tables` are not changed: call it again before the next node.
        """
        for name in self.TABLES:
            setattr(self, name, getattr(self, name)[rows])

    def source(self, placements: Placements) -> Tensor:
        """Return which fragment node was placed last before each placement: a row of `guide`.

        It is the number of the fragment node, (R,); for an entry, U if it starts the graph, else U
        + 1.
        """
        enters = torch.where(self.depth[placements.owner] < 0, 0, 1) + len(self.fragment)
        return torch.where(placements.enters, enters, self.last[placements.owner])

    @property
    def unplaced(self) -> Tensor:
        """True for fragment nodes that are not placed yet, (P, U) bool."""
        return self.level == UNPLACED

    def attachable(self, row: Tensor, filled: Tensor | int) -> Tensor:
        """Return whether the fragment can still get free nodes as neighbours after the next node.

        True if an attachment is left beside the `filled` ones, or free degree at a fragment node
        that the path has not left.
        """
        here = (self.level != LEFT) & (self.valence > 0)
        return here.any(1)[row] | (self.need[row] > filled)

    @property
    def complete(self) -> Tensor:
        """True for particles with the whole fragment, all attachments and rings, (P,) bool."""
        placed = ~self.unplaced.any(1) & (self.attachments == 0).all(1)
        return placed & (self.rings >= self.fragment.new_rings[0])

    def entries_to_come(self) -> tuple[Tensor, Tensor]:
        """Return how many entries are to come in each particle, for the bounds of `MissingOnPaths`.

        The second tensor is True where that number is not known; both are (P,).
        """
        waits = self.not_entered.any(1)
        return waits.long(), waits & (self.fragment.components > 1)

    def update_tables(self, state: Tensor) -> None:
        """Compute, from what is placed so far, what the next node of each particle may be.

        `ParticleSampler.draw` calls it before each node. `mask`, `placements`, `entries` and
        `free_fits` read the attributes that it sets; `add` and `select` do not update them.

        For the U fragment nodes, (P, U):

        - `not_entered`: no node of its component is placed yet, bool;
        - `enterable`: it may be the first node of its component that is placed, bool;
        - `is_first`: no symmetry in `symmetric` maps it to a node of a lower number, bool;
        - `log_alike`: logarithm of the number of nodes to which symmetries in `symmetric` map it;
        - `needed`: the least free degree for the edges that it has yet to get: edges of the
          fragment, each with the least weight that it may have, and attachments, long.

        For the levels of the path, (P, levels):

        - `is_free`: the node there is free, bool;
        - `attachments_at`, `valence_at`: attachments and free degree that the node has left, long;
        - `pending_at`: it is a fragment node with fragment neighbours to come, bool;
        - `grows_at`: it may get a free neighbour, bool;
        - `open_below`: it, a node above it or a fragment node to come may get one, bool;
        - `free_below`: it or a node above it on the path is free, bool;
        - `last_member`: level of the last fragment node down to it, -1 for none, long.

        For particles:

        - `floor`: lowest level that the parent of the next node may have, since the fragment node
          there is not finished; -1 if there is none, (P, 1) long;
        - `need`: number of free nodes that the attachments to come need at least, (P,) long.
        """
        f = self.fragment
        self.state = F.pad(state, (0, self.at.shape[1] - state.shape[1]))
        unplaced = self.unplaced
        pending = (unplaced.float() @ f.adjacency.float()) > 0
        held = (self.level >= 0) & (pending | (self.attachments > 0))
        self.floor = torch.where(held, self.level, -1).amax(1, keepdim=True)
        member = self.at.clamp(min=0)
        self.is_free = self.at == FREE
        self.attachments_at = torch.where(self.is_free, 0, self.attachments.gather(1, member))
        self.valence_at = torch.where(self.is_free, 1 << 20, self.valence.gather(1, member))
        self.pending_at = ~self.is_free & pending.gather(1, member)
        self.grows_at = (self.attachments_at > 0) | (self.valence_at > 0)
        parts = [f.component == c for c in range(f.components)]
        entered = torch.stack([(~unplaced[:, part]).any(1) for part in parts], 1)
        self.not_entered = ~entered[:, f.component]
        # A component that is entered at an attachment fills it with the edge to the free parent.
        through = torch.stack([(f.attachments[part] > 0).any() for part in parts])
        self.need = (self.attachments.sum(1) - (~entered & through).sum(1)).clamp(min=0)
        # True for nodes at which a component can be entered from a free node.
        attaches = torch.isin(f.component, f.component[f.attachments > 0])
        takes = (self.attachments > 0) | ((self.valence > 0) & ~attaches)
        self.enterable = takes & self.not_entered
        # True for levels from which free nodes can still be reached after stepping back to them.
        number = torch.arange(self.at.shape[1], device=self.at.device)
        on_path = number <= self.depth[:, None]
        later = (unplaced & ((self.valence > 0) | (self.attachments > 0))).any(1, keepdim=True)
        self.open_below = (self.grows_at & on_path).cumsum(1).bool() | later
        self.free_below = (self.is_free & on_path).cumsum(1).bool()
        self.last_member = torch.where(~self.is_free & on_path, number, -1).cummax(1).values
        # Of nodes that symmetries map to each other only the first is placed, for all of them.
        own = torch.arange(len(f), device=f.images.device)
        self.is_first = torch.where(self.symmetric[..., None], f.images, len(f)).amin(1) == own
        stays = self.symmetric.double() @ (f.images == own).double()
        self.log_alike = (self.symmetric.sum(1, keepdim=True) / stays).log()
        # Free degree that each node needs for its edges to come.
        needed = unplaced.double() @ self.between.double()
        self.needed = needed.long() + self.attachments

    def free_fits(self, back: Tensor) -> Tensor:
        """Return from which backtracks a free node may be drawn, so that enough remain."""
        parent = self.depth[:, None] - back
        at = parent.clamp(min=0)
        attaches = (self.attachments_at.gather(1, at) > 0) & (parent >= 0)
        left = self.free[:, None] - (~attaches).long() - self.need[:, None]
        fits = self.grows_at.gather(1, at) | (parent < 0)
        return fits & (left >= 0) & (self.free[:, None] > 0)

    def mask(self, previous: list[Tensor], cardinality: int) -> Tensor:
        """Return which values the next variable of a free node may have.

        The result is (P, cardinality). A backtrack is also possible if only an entry can follow it.
        """
        value = torch.arange(cardinality, device=self.depth.device)[None]
        f, k, first = self.fragment, len(previous), self.depth[:, None] < 0
        role = Variable.at(k).role
        if role is VariableRole.CATEGORY and f.free_nodes is not None:
            return f.free_nodes.expand(len(first), -1)
        if role is VariableRole.CATEGORY or (role is VariableRole.CLOSING_EDGE and not f.rings):
            return torch.ones_like(first).expand(-1, cardinality)
        parent = self.depth[:, None] - (previous[BACKTRACK][:, None] if k else value)
        at = parent.clamp(min=0)
        if role is VariableRole.BACKTRACK:
            enters = self.enterable.any(1, keepdim=True) & self.is_free.gather(1, at)
            fits = self.free_fits(value) | enters
            return torch.where(first, value == 0, fits & (parent >= self.floor.clamp(min=0)))
        if k == 1:
            fitting = self.weights <= self.valence_at.gather(1, at)
            fitting = fitting if f.rings else fitting & f.plain
            single = f.plain & (self.weights == 1)
            fits = torch.where(self.attachments_at.gather(1, at) > 0, single, fitting)
            fits = fits | first | self.is_free.gather(1, at)
            return fits if f.free_edges is None else fits & (first | f.free_edges)
        if role is VariableRole.LENGTH:
            far = (parent + 1 - value).clamp(min=0)
            if f.acyclic:
                fits = first
            elif f.rings:
                fits = self.valence_at.gather(1, far) > 0
            else:
                fits = far > self.last_member.gather(1, at)
            made = torch.stack([torch.zeros_like(self.rings), *previous[LENGTHS]]).sign().sum(0)
            fits = fits & (self.rings + made < f.new_rings[1])[:, None]
            return fits | (value == 0) | first
        far = (parent + 1 - previous[-1][:, None]).clamp(min=0)
        return (self.weights <= self.valence_at.gather(1, far)) | (previous[-1][:, None] == 0)

    def placements(self) -> Placements | None:
        """Return all placements of fragment nodes that have a fragment neighbour on the path.

        The parent and the closures of such a node follow from its neighbours on the path. The first
        nodes of components are found by `entries` instead. Call `update_tables` before, after the
        last `add` or `select`.

        None if there is no placement; a particle may have several.
        """
        f, width = self.fragment, self.closures + 1
        parts: list[list[Tensor]] = []
        wanted = self.free > 0
        waits = self.not_entered.any(1)
        for node in self.unplaced.any(0).nonzero()[:, 0].tolist():
            around = f.adjacency[node].nonzero()[:, 0]
            if not len(around):
                continue
            level, order = self.level[:, around].sort(1, descending=True)
            top = level[:, :1]
            at = top.clamp(min=0)
            # Nodes that come later must still find a node with free degree.
            going = self.open_below.gather(1, at)[:, 0] | (self.valence[:, node] > 0)
            going |= self.attachments[:, node] > 0
            entering = self.free_below.gather(1, at)[:, 0] | wanted & going
            fits = self.unplaced[:, node] & (top >= 0)[:, 0] & (top >= self.floor)[:, 0]
            fits &= self.is_first[:, node]
            fits &= (going | ~wanted) & (entering | ~waits)
            placed = level >= 0
            fits &= placed.sum(1) <= width
            rows = fits.nonzero()[:, 0]
            if not len(rows):
                continue
            level, placed, order = level[rows], placed[rows], order[rows]
            lengths = torch.where(placed, level[:, :1] + 1 - level, 0)
            edges = torch.where(placed, f.edge_between[node][around][order], -1)
            pad = (0, max(width - lengths.shape[1], 0))
            lengths, edges = F.pad(lengths, pad)[:, 1:width], F.pad(edges, pad, value=-1)[:, :width]
            back, none = self.depth[rows] - level[:, 0], torch.zeros_like(rows, dtype=torch.bool)
            own = torch.full_like(rows, node)
            parts.append([rows, own, back, lengths, edges, none, self.alive[rows]])
        return Placements(*map(torch.cat, zip(*parts, strict=True))) if parts else None

    def entries(
        self, back: Tensor, uniform: Tensor, guide: Tensor, enterable: Enterable
    ) -> tuple[Placements, Tensor] | None:
        """Choose, in each particle that allows it, a fragment node that begins a component here.

        Return the placements, at most one for each particle, and minus the log-probability with
        which each was chosen, nats; None if no particle allows an entry.

        Args:
            back: Backtrack to the parent, a free node; ignored for the first node of a graph, (P,).
            uniform: Numbers in [0, 1) that decide among the possible nodes, (P,).
            guide: Unnormalized probabilities of the nodes (columns) by `source` (rows), (U + 2, U).
            enterable: See `MissingOnPaths.enterable`.
        """
        f, first = self.fragment, self.depth < 0
        parent = torch.where(first, -1, self.depth - back)
        everyone = torch.arange(len(back), device=back.device)
        takes = torch.where(first[:, None], self.not_entered, enterable(everyone, parent))
        takes &= self.is_first
        rows = takes.any(1).nonzero()[:, 0]
        if not len(rows):
            return None
        size = len(f)
        share = guide[torch.where(first[rows], size, size + 1)] * takes[rows]
        below = share.cumsum(1)
        node = (uniform[rows, None] * below[:, -1:] >= below).sum(1)
        number = torch.arange(1, size + 1, device=rows.device)
        node = node.minimum((takes[rows] * number).amax(1) - 1)
        chance = share.gather(1, node[:, None])[:, 0] / below[:, -1]
        placements = Placements(
            owner=rows,
            node=node,
            back=torch.where(first[rows], 0, back[rows]),
            lengths=rows.new_zeros(len(rows), self.closures),
            edges=rows.new_full((len(rows), self.closures + 1), -1),
            enters=torch.ones_like(rows, dtype=torch.bool),
            alive=self.alive[rows],
        )
        return placements, -chance.log()

    def placement_mask(
        self, placements: Placements, previous: list[Tensor], cardinality: int
    ) -> Tensor:
        """Return which values the next variable of each placement may have.

        The result is (R, cardinality). Backtrack and lengths have one possible value.
        """
        value = torch.arange(cardinality, device=self.depth.device)[None]
        k, f = len(previous), self.fragment
        role, number = Variable.at(k)
        if role is VariableRole.BACKTRACK:
            return value == placements.back[:, None]
        if role is VariableRole.LENGTH:
            return value == placements.lengths[:, number - 1, None]
        if role is VariableRole.CATEGORY:
            return self._leave_enough(placements, previous, f.categories[placements.node])
        edge = placements.edges[:, number]
        fits = (value == 0).expand(len(edge), -1)
        if len(f.edges):
            options = f.structures[:, edge.clamp(min=0)]  # (S, R, C)
            options = (options & placements.alive.T[..., None]).any(0)
            fits = torch.where(edge[:, None] < 0, fits, options)
        if k == 1:
            single = f.plain & (self.weights == 1)
            by_valence = f.plain & (
                self.weights <= self.valence[placements.owner, placements.node][:, None]
            )
            attaches = self.attachments[placements.owner, placements.node][:, None] > 0
            entering = torch.where(attaches, single, by_valence & (value > 0))
            entering = torch.where(self.depth[placements.owner][:, None] < 0, value == 0, entering)
            fits = torch.where(placements.enters[:, None], entering, fits)
        return self._leave_enough(placements, previous, fits)

    def _leave_enough(self, placements: Placements, previous: list[Tensor], fits: Tensor) -> Tensor:
        """Remove values of a variable that leave too little valence for the edges to come."""
        # Without rules a node may get any edge in any state, and every attachment can be filled.
        if (self.support.states.after[1:] != UNKNOWN).all():
            return fits
        k, owner, node = len(previous), placements.owner, placements.node
        parent = self.depth[owner] - placements.back
        # An edge to a free node fills an attachment: to the parent where a component is entered, or
        # of a closure.
        number = Variable.at(k).edge_number
        edges = placements.edges[:, : 1 + number]
        joins = (edges[:, 1:] < 0) & (placements.lengths[:, :number] > 0)
        enters = placements.enters & (parent >= 0) & (self.attachments[owner, node] > 0)
        filled = enters.long() + joins.sum(1)
        rest = (self.between.sum(1) + self.fragment.attachments)[node] - filled
        rest = rest - torch.where(edges < 0, 0, self.least[edges.clamp(min=0)]).sum(1)
        sums = self.support.states.sums
        if k == 2:
            return fits & (sums - self.weights[previous[PARENT_EDGE]][:, None] >= rest[:, None])
        # Free degree of the node at the other end.
        up = torch.zeros_like(parent) if k == 1 else previous[-1] - 1
        other = self.at[owner].gather(1, (parent - up).clamp(min=0)[:, None])
        member = other.clamp(min=0)
        far = self.left[owner].gather(1, member) - self.needed[owner].gather(1, member)
        far = far + self.between[member[:, 0], node][:, None]
        enough = self.weights <= torch.where(other < 0, self.weights.max(), far)
        if k == 1:
            return fits & (placements.enters[:, None] | enough)
        own = sums[previous[CATEGORY]] - self.weights[previous[PARENT_EDGE]]
        for j in range(COMMON_VARIABLES, k, 2):
            own = own - self.weights[previous[j]]
        enough = enough & (self.weights <= (own - rest)[:, None])
        return fits & (enough | (previous[-1] == 0)[:, None])

    def narrow(self, placements: Placements, previous: list[Tensor]) -> None:
        """Rule out structures that contradict the variable drawn last, in place.

        Only a variable that is the label of an edge of the fragment can contradict a structure.
        """
        role, number = Variable.at(len(previous) - 1)
        is_edge = previous and role in (VariableRole.PARENT_EDGE, VariableRole.CLOSING_EDGE)
        if not is_edge or not len(self.fragment.edges):
            return
        edge = placements.edges[:, number]
        fits = self.fragment.structures[:, edge.clamp(min=0)]  # (S, R, C)
        chosen = previous[-1].expand(len(fits), -1)[..., None]
        placements.alive = placements.alive & (
            fits.gather(2, chosen)[..., 0].T | (edge < 0)[:, None]
        )

    def add(self, x: Tensor, node: Tensor, enters: Tensor, alive: Tensor) -> None:
        """Add the next node of each particle, in place; then call `update_tables` again.

        Args:
            x: Values of its V variables, in the order of `DepthFirstCode`, (P, V).
            node: Its number in the fragment, -1 (`FREE`) for a free node, (P,).
            alive: True for the structures with which the particle, this node included, agrees, (P,
                S).
        """
        rows = torch.arange(len(x), device=x.device)
        first, free, member = self.depth < 0, node == FREE, node != FREE
        parent = torch.where(first, -1, (self.depth - x[:, 0]).clamp(min=0))
        own = self.support.states.sums[x[:, 2]]
        category = self.support.states.category[self.state]
        edges, lengths = DepthFirstCode.labels(x), DepthFirstCode.lengths(x)
        self._count_rings(parent, free, lengths[:, 1:])
        for edge, length in zip(edges.unbind(-1), lengths.unbind(-1), strict=True):
            real = ~first & (length > 0)
            level = (parent + 1 - length).clamp(min=0)
            far = self.at[rows, level]
            far = torch.where(real, far, FREE)
            # An edge from a fragment node to a free one fills an attachment, or else takes valence.
            self._use(free & (far != FREE), far, edge, x[:, 2])
            self._use(member & real & (far == FREE), node, edge, category[rows, level])
            own = own - self.weights[edge]
            ends = (far != FREE).nonzero()[:, 0]
            self.left[ends, far[ends]] -= self.weights[edge[ends]]
        detours = free & ~first & self.pending_at.gather(1, parent.clamp(min=0)[:, None])[:, 0]
        self.detours = self.detours + detours.long()
        self.free = self.free - free.long()
        self.level = torch.where(self.level > parent[:, None], LEFT, self.level)
        source = torch.where(enters, len(self.fragment) + (~first).long(), self.last)
        for table, value in ((self.left, own), (self.level, parent + 1), (self.came_from, source)):
            table[rows[member], node[member]] = value[member]
        self.last = torch.where(member, node, self.last)
        images = self.fragment.images[:, node.clamp(min=0)].T
        self.symmetric = self.symmetric & ((images == node[:, None]) | free[:, None])
        self.at[rows, parent + 1] = node
        self.depth = parent + 1
        self.alive = alive

    def _count_rings(self, parent: Tensor, free: Tensor, lengths: Tensor) -> None:
        """Count the rings that the next node of each particle closes, in place."""
        self.rings = self.rings + torch.where(free, (lengths > 0).sum(1), 0)

    def _use(self, which: Tensor, node: Tensor, edge: Tensor, other: Tensor) -> None:
        """Give fragment nodes an edge to a free node, in place."""
        rows = which.nonzero()[:, 0]
        node, edge, other = node[rows], edge[rows], other[rows, None]
        whole = self.whole[rows, node]
        self.whole[rows, node] = self.support.states.after[whole, edge[:, None], other]
        attaches = self.attachments[rows, node] > 0
        self.attachments[rows, node] -= attaches.long()
        self.valence[rows, node] -= torch.where(attaches, 0, self.weights[edge])


# The constants below change proposals and resampling, not the target distribution of the weights.
