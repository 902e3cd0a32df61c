"""A fragment that a graph has to hold, and its placement along depth-first walks.

The nodes of a graph with a fragment come in one of the depth-first orders of the whole graph, nodes
of the fragment between free ones. No node leaves the path before all its neighbours are there: the
walk may go on with a node of the fragment, or with a free one, wherever what the step back takes
off the path is complete.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from graphcnf.errors import UserError
from graphcnf.graphs.path.code import AtomCode
from graphcnf.graphs.path.support import Support

FREE = -1  # in place of the number of a node of the fragment: a node that is none
UNPLACED, LEFT = -1, -2  # sentinel path levels: not placed yet, already off the path


@dataclass
class Fragment:
    """Nodes and edges that a graph has to hold, and where it may grow from them."""

    categories: Tensor  # possible categories of each node, (U, node categories) bool
    edges: Tensor  # pairs of nodes, (E, 2) long
    # Possible categories of all edges together, by category plus 1, in each of S structures (the
    # Kekulé structures of a molecule), (S, E, edge categories + 1) bool.
    structures: Tensor
    valence: Tensor  # sum of the weights that further edges of each node may have, (U,) long
    attachments: Tensor  # edges to free nodes that each node must get beside it, (U,) long
    plain: Tensor  # edges that may attach or enter a component, by category plus 1, bool
    rings: bool = False  # whether free nodes may close rings over nodes of the fragment
    acyclic: bool = False  # whether free nodes close no rings at all

    def __post_init__(self) -> None:
        size = len(self.categories)
        self.edge_between = self.edges.new_full((size, size), -1)
        for number, (i, j) in enumerate(self.edges.tolist()):
            self.edge_between[i, j] = self.edge_between[j, i] = number
        self.adjacency = self.edge_between >= 0
        component = torch.arange(size, device=self.edges.device)
        for _ in range(size):
            near = torch.where(self.adjacency, component, size).amin(-1)
            component = torch.minimum(component, near)
        self.component = component.unique(return_inverse=True)[1]
        self.components = int(self.component.max()) + 1

    def __len__(self) -> int:
        return len(self.categories)

    def to(self, device) -> Fragment:
        """Move every tensor."""
        values = (getattr(self, f.name) for f in fields(self))
        moved: list[Any] = [v.to(device) if isinstance(v, Tensor) else v for v in values]
        return Fragment(*moved)

    @property
    def fewest_free(self) -> int:
        """Free nodes that a graph with the fragment has at least."""
        return max(int(self.attachments.sum()) - self.components + 1, int(self.components > 1))


@dataclass
class Steps:
    """Ways to go on with a node of the fragment, R of them."""

    owner: Tensor  # number of the walk, (R,) long
    node: Tensor  # node of the fragment, (R,) long
    back: Tensor  # levels to step back, (R,) long
    lengths: Tensor  # lengths of the closures, 0 for none, (R, K) long
    edges: Tensor  # of the fragment, to the parent and at the closures, -1 for none, (R, 1 + K)
    enters: Tensor  # first nodes of their components, whose parent is a free node or none, (R,)
    alive: Tensor  # structures of the fragment that are still possible, (R, S) bool


class Progress:
    """State of the placement in P walks to graphs of `sizes` (P,) nodes with `closures` each.

    Raises UserError where a graph is too small.
    """

    def __init__(self, fragment: Fragment, sizes: Tensor, support: Support, closures: int):
        least, count = len(fragment) + fragment.fewest_free, len(sizes)
        if bool((sizes < least).any()):
            raise UserError(f"graphs with this fragment have at least {least} nodes")
        self.fragment, self.support, self.weights = fragment, support, support.weights
        self.closures = closures
        self.free = sizes - len(fragment)
        self.depth = torch.full_like(sizes, -1)
        self.at = sizes.new_full((count, int(sizes.max()) + 1), FREE)
        self.level = sizes.new_full((count, len(fragment)), UNPLACED)
        self.valence = fragment.valence.expand(count, -1).clone()
        self.attachments = fragment.attachments.expand(count, -1).clone()
        self.alive = sizes.new_ones((count, len(fragment.structures)), dtype=torch.bool)
        self.last = torch.full_like(sizes, len(fragment))
        # After which node each came, see `source`, and its log-probability given the step back.
        self.came_from = torch.zeros_like(self.level)
        self.prices = torch.zeros_like(self.level, dtype=torch.float64)
        # Sums of edge weights that nodes of the fragment have left, and the least weight of each of
        # its edges in any structure, and of those between two nodes.
        self.left = torch.zeros_like(self.level)
        self.least = sizes.new_zeros(1)
        if len(fragment.edges):
            most = int(self.weights.max()) + 1
            self.least = torch.where(fragment.structures.any(0), self.weights, most).amin(-1)
        between = self.least[fragment.edge_between.clamp(min=0)]
        self.between = torch.where(fragment.adjacency, between, 0)

    def take(self, rows: Tensor) -> None:
        """Replace the walks by those at `rows`."""
        for name in ("free", "depth", "at", "level", "valence", "attachments", "alive", "last",
                     "came_from", "prices", "left"):  # fmt: skip
            setattr(self, name, getattr(self, name)[rows])

    def source(self, steps: Steps) -> Tensor:
        """Return the nodes placed last before the steps, (R,); U at the start, U + 1 after FREE."""
        enters = torch.where(self.depth[steps.owner] < 0, 0, 1) + len(self.fragment)
        return torch.where(steps.enters, enters, self.last[steps.owner])

    @property
    def unplaced(self) -> Tensor:
        """Nodes of the fragment that are to come, (P, U) bool."""
        return self.level == UNPLACED

    @property
    def complete(self) -> Tensor:
        """Particles in which the fragment and its neighbours are there, (P,) bool."""
        return ~self.unplaced.any(1) & (self.attachments == 0).all(1)

    def look(self) -> None:
        """Work out what the masks and steps for the next node are made of."""
        f = self.fragment
        unplaced = self.unplaced
        pending = (unplaced.float() @ f.adjacency.float()) > 0
        held = (self.level >= 0) & (pending | (self.attachments > 0))
        self.floor = torch.where(held, self.level, -1).amax(1, keepdim=True)
        member = self.at.clamp(min=0)
        self.is_free = self.at == FREE
        self.attachments_at = torch.where(self.is_free, 0, self.attachments.gather(1, member))
        self.valence_at = torch.where(self.is_free, 1 << 20, self.valence.gather(1, member))
        self.grows_at = (self.attachments_at > 0) | (self.valence_at > 0)
        parts = [f.component == c for c in range(f.components)]
        entered = torch.stack([(~unplaced[:, part]).any(1) for part in parts], 1)
        self.not_entered = ~entered[:, f.component]
        # A component that is entered at an attachment point takes the edge of a free node for it.
        through = torch.stack([(f.attachments[part] > 0).any() for part in parts])
        self.need = (self.attachments.sum(1) - (~entered & through).sum(1)).clamp(min=0)
        # Whether free nodes can still come after a step back to a level.
        number = torch.arange(self.at.shape[1], device=self.at.device)
        on_path = number <= self.depth[:, None]
        later = (unplaced & ((self.valence > 0) | (self.attachments > 0))).any(1, keepdim=True)
        self.open_below = (self.grows_at & on_path).cumsum(1).bool() | later
        self.free_below = (self.is_free & on_path).cumsum(1).bool()
        self.last_member = torch.where(~self.is_free & on_path, number, -1).cummax(1).values
        # Free valence that the edges to come need of each node.
        needed = unplaced.double() @ self.between.double()
        self.needed = needed.long() + self.attachments

    def _parent(self, back: Tensor) -> tuple[Tensor, Tensor]:
        parent = self.depth[:, None] - back
        return parent, parent.clamp(min=0)

    def free_fits(self, back: Tensor) -> Tensor:
        """Return a mask (P, M) of the steps back after which a free node may come."""
        parent, at = self._parent(back)
        attaches = (self.attachments_at.gather(1, at) > 0) & (parent >= 0)
        left = self.free[:, None] - (~attaches).long() - self.need[:, None]
        fits = self.grows_at.gather(1, at) | (parent < 0)
        return fits & (left >= 0) & (self.free[:, None] > 0)

    def mask(self, previous: list[Tensor], cardinality: int) -> Tensor:
        """Return the possible categories (P, cardinality) bool of a free node's next variable.

        For the step back: of a free node, or of one that enters a component at the same place.
        """
        value = torch.arange(cardinality, device=self.depth.device)[None]
        f, k, first = self.fragment, len(previous), self.depth[:, None] < 0
        role = AtomCode.role(k)
        if role == "back":
            parent, at = self._parent(value)
            enters = self.not_entered.any(1, keepdim=True) & (self.is_free.gather(1, at) | first)
            fits = self.free_fits(value) | enters
            return torch.where(first, value == 0, fits & (parent >= self.floor.clamp(min=0)))
        if role == "node" or (role == "edge" and k > 1 and not f.rings):
            return torch.ones_like(first).expand(-1, cardinality)
        parent, at = self._parent(previous[0][:, None])
        if k == 1:
            room = self.weights <= self.valence_at.gather(1, at)
            room = room if f.rings else room & f.plain
            single = f.plain & (self.weights == 1)
            fits = torch.where(self.attachments_at.gather(1, at) > 0, single, room)
            return fits | first | self.is_free.gather(1, at)
        if role == "length":
            far = (parent + 1 - value).clamp(min=0)
            if f.acyclic:
                fits = first
            elif f.rings:
                fits = self.valence_at.gather(1, far) > 0
            else:
                fits = far > self.last_member.gather(1, at)
            return fits | (value == 0) | first
        far = (parent + 1 - previous[-1][:, None]).clamp(min=0)
        return (self.weights <= self.valence_at.gather(1, far)) | (previous[-1][:, None] == 0)

    def steps(self) -> Steps | None:
        """Return the ways to go on with a node next to one that is there; None for no way."""
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
            # What comes later has to have a place, too.
            going = self.open_below.gather(1, at)[:, 0] | (self.valence[:, node] > 0)
            going |= self.attachments[:, node] > 0
            entering = self.free_below.gather(1, at)[:, 0] | wanted & going
            fits = self.unplaced[:, node] & (top >= 0)[:, 0] & (top >= self.floor)[:, 0]
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
        return Steps(*map(torch.cat, zip(*parts, strict=True))) if parts else None

    def entries(self, back: Tensor, uniform: Tensor, guide: Tensor) -> tuple[Steps, Tensor] | None:
        """Return ways to enter a component after steps `back` (P,), one for each walk that can.

        `uniform` (P,) chooses the node by preferences `guide` (U + 2, U), see `source`. Also
        returns minus the log of the probability that each was chosen with, (R,).
        """
        f = self.fragment
        _, at = self._parent(back[:, None])
        first = self.depth < 0
        after_free = self.is_free.gather(1, at)[:, 0]
        attaches = torch.isin(f.component, f.component[f.attachments > 0])
        takes = (self.attachments > 0) | ((self.valence > 0) & ~attaches)
        takes = torch.where(first[:, None], True, takes & after_free[:, None]) & self.not_entered
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
        steps = Steps(
            owner=rows,
            node=node,
            back=torch.where(first[rows], 0, back[rows]),
            lengths=rows.new_zeros(len(rows), self.closures),
            edges=rows.new_full((len(rows), self.closures + 1), -1),
            enters=torch.ones_like(rows, dtype=torch.bool),
            alive=self.alive[rows],
        )
        return steps, -chance.log()

    def step_mask(self, steps: Steps, previous: list[Tensor], cardinality: int) -> Tensor:
        """Return the possible categories of the next variable of the steps, (R, cardinality)."""
        value = torch.arange(cardinality, device=self.depth.device)[None]
        k, f = len(previous), self.fragment
        role, number = AtomCode.role(k), AtomCode.edge_number(k)
        if role == "back":
            return value == steps.back[:, None]
        if role == "length":
            return value == steps.lengths[:, number - 1, None]
        if role == "node":
            return self._leave_enough(steps, previous, f.categories[steps.node])
        edge = steps.edges[:, number]
        fits = (value == 0).expand(len(edge), -1)
        if len(f.edges):
            options = f.structures[:, edge.clamp(min=0)]  # (S, R, C)
            options = (options & steps.alive.T[..., None]).any(0)
            fits = torch.where(edge[:, None] < 0, fits, options)
        if k == 1:
            single = f.plain & (self.weights == 1)
            by_room = f.plain & (self.weights <= self.valence[steps.owner, steps.node][:, None])
            attaches = self.attachments[steps.owner, steps.node][:, None] > 0
            entering = torch.where(attaches, single, by_room & (value > 0))
            entering = torch.where(self.depth[steps.owner][:, None] < 0, value == 0, entering)
            fits = torch.where(steps.enters[:, None], entering, fits)
        return self._leave_enough(steps, previous, fits)

    def _leave_enough(self, steps: Steps, previous: list[Tensor], fits: Tensor) -> Tensor:
        """Return those of the categories `fits` (R, C) that leave the rest of the fragment a place.

        All continuations of the others have weight 0: it only changes how many walks arrive.
        """
        if not self.support.limited:
            return fits
        k, owner, node = len(previous), steps.owner, steps.node
        parent = self.depth[owner] - steps.back
        # A component that is entered at an attachment point has one less to fill.
        filled = steps.enters & (parent >= 0) & (self.attachments[owner, node] > 0)
        rest = (self.between.sum(1) + self.fragment.attachments)[node] - filled.long()
        edges = steps.edges[:, : 1 + AtomCode.edge_number(k)]
        rest = rest - torch.where(edges < 0, 0, self.least[edges.clamp(min=0)]).sum(1)
        sums = self.support.sums
        if k == 2:
            return fits & (sums - self.weights[previous[1]][:, None] >= rest[:, None])
        # Free valence of the node at the other end.
        up = torch.zeros_like(parent) if k == 1 else previous[-1] - 1
        other = self.at[owner].gather(1, (parent - up).clamp(min=0)[:, None])
        member = other.clamp(min=0)
        far = self.left[owner].gather(1, member) - self.needed[owner].gather(1, member)
        far = far + self.between[member[:, 0], node][:, None]
        enough = self.weights <= torch.where(other < 0, self.weights.max(), far)
        if k == 1:
            return fits & (steps.enters[:, None] | enough)
        own = sums[previous[2]] - self.weights[previous[1]]
        for j in range(AtomCode.COMMON, k, 2):
            own = own - self.weights[previous[j]]
        enough = enough & (self.weights <= (own - rest)[:, None])
        return fits & (enough | (previous[-1] == 0)[:, None])

    def narrow(self, steps: Steps, previous: list[Tensor]) -> None:
        """Drop the structures that the last of the `previous` variables excludes."""
        k = len(previous) - 1
        if AtomCode.role(k) != "edge" or not len(self.fragment.edges):
            return
        edge = steps.edges[:, AtomCode.edge_number(k)]
        fits = self.fragment.structures[:, edge.clamp(min=0)]  # (S, R, C)
        chosen = previous[-1].expand(len(fits), -1)[..., None]
        steps.alive = steps.alive & (fits.gather(2, chosen)[..., 0].T | (edge < 0)[:, None])

    def add(self, x: Tensor, node: Tensor, enters: Tensor, alive: Tensor) -> None:
        """Take the next node of each walk: categories x (P, V), number in the fragment (P,).

        It may enter a component, (P,) bool, and leaves the structures `alive` (P, S) bool.
        """
        rows = torch.arange(len(x), device=x.device)
        first, free, member = self.depth < 0, node == FREE, node != FREE
        parent = torch.where(first, -1, (self.depth - x[:, 0]).clamp(min=0))
        own = self.support.sums[x[:, 2]]
        self._use(enters & ~first, node, x[:, 1])
        edges, lengths = AtomCode.edges(x), AtomCode.lengths(x)
        for edge, length in zip(edges.unbind(-1), lengths.unbind(-1), strict=True):
            far = self.at[rows, (parent + 1 - length).clamp(min=0)]
            far = torch.where(first | (length == 0), FREE, far)
            # An edge between a node of the fragment and a free one takes an attachment point, or
            # else free valence.
            self._use(free & (far != FREE), far, edge)
            own = own - self.weights[edge]
            ends = (far != FREE).nonzero()[:, 0]
            self.left[ends, far[ends]] -= self.weights[edge[ends]]
        self.free = self.free - free.long()
        self.level = torch.where(self.level > parent[:, None], LEFT, self.level)
        source = torch.where(enters, len(self.fragment) + (~first).long(), self.last)
        for table, value in ((self.left, own), (self.level, parent + 1), (self.came_from, source)):
            table[rows[member], node[member]] = value[member]
        self.last = torch.where(member, node, self.last)
        self.at[rows, parent + 1] = node
        self.depth = parent + 1
        self.alive = alive

    def _use(self, which: Tensor, node: Tensor, edge: Tensor) -> None:
        rows = which.nonzero()[:, 0]
        node, edge = node[rows], edge[rows]
        attaches = self.attachments[rows, node] > 0
        self.attachments[rows, node] -= attaches.long()
        self.valence[rows, node] -= torch.where(attaches, 0, self.weights[edge])
