"""Placement of a fragment along depth-first walks, and the steps that it allows.

The nodes of a graph with a fragment come in one of the depth-first orders of the whole graph, nodes
of the fragment between free ones. Such an order keeps one rule: no node leaves the path before all
its neighbours are there. So the walk may go on with a node of the fragment, or with a free one,
wherever what the step back takes off the path is complete; `Progress` knows which nodes these are,
and what the variables of the next node have to be in either case.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from graphcnf.errors import UserError
from graphcnf.graphs.path.code import AtomCode
from graphcnf.graphs.path.fragment import Fragment
from graphcnf.graphs.path.lookahead import Lookahead
from graphcnf.graphs.path.support import Support

FREE = -1
"""In place of the number of a node of the fragment: a node that is none."""

UNPLACED, LEFT = -1, -2
"""In place of a node's level on the path: not there yet, and there before."""


@dataclass
class Steps:
    """Ways to go on with a node of the fragment, R of them.

    Attributes:
        owner: Number of the walk, (R,) long.
        node: Node of the fragment, (R,) long.
        back: Levels to step back, (R,) long.
        lengths: Lengths of the closures, 0 for none, (R, K) long.
        edges: Edges of the fragment, to the parent and at the closures, -1 for none, (R, 1 + K).
        enters: Whether it is the first node of its component, whose parent is a free node or none.
        alive: Forms of the fragment that are still possible, (R, S) bool.
    """

    owner: Tensor
    node: Tensor
    back: Tensor
    lengths: Tensor
    edges: Tensor
    enters: Tensor
    alive: Tensor

    @classmethod
    def concatenate(cls, parts: list[Steps]) -> Steps:
        """All of them."""
        names = [f.name for f in fields(cls)]
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


class Progress:
    """State of the placement in P walks.

    Args:
        fragment: What the graphs have to hold.
        sizes: Numbers of nodes of the graphs, (P,) long.
        support: Of the model.

    Raises:
        UserError: the graphs are too small.
    """

    def __init__(self, fragment: Fragment, sizes: Tensor, support: Support):
        least, count = len(fragment) + fragment.fewest_free, len(sizes)
        if bool((sizes < least).any()):
            raise UserError(f"graphs with this fragment have at least {least} nodes")
        self.fragment, self.weights = fragment, support.weights
        self.lookahead = Lookahead(fragment, support, count)
        device = self.weights.device
        self.free = sizes - len(fragment)
        self.depth = torch.full((count,), -1, device=device)
        self.at = torch.full((count, int(sizes.max()) + 1), FREE, device=device)
        self.level = torch.full((count, len(fragment)), UNPLACED, device=device)
        self.room = fragment.room.expand(count, -1).clone()
        self.sockets = fragment.sockets.expand(count, -1).clone()
        self.alive = torch.ones(count, len(fragment.forms), dtype=torch.bool, device=device)
        self.last = torch.full((count,), len(fragment), device=device)
        self.came_from = torch.zeros_like(self.level)
        self.prices = torch.zeros(self.level.shape, dtype=torch.float64, device=device)

    def take(self, rows: Tensor) -> None:
        """Go on with the walks `rows` in place of these."""
        for name in ("free", "depth", "at", "level", "room", "sockets", "alive", "last",
                     "came_from", "prices"):  # fmt: skip
            setattr(self, name, getattr(self, name)[rows])
        self.lookahead.left = self.lookahead.left[rows]

    def source(self, steps: Steps) -> Tensor:
        """Return the parents of the steps, (R,) long.

        Returns:
            The node of the fragment placed last; for the first node of a component U at the
            beginning and U + 1 after a free node.
        """
        size = len(self.fragment)
        enters = torch.where(self.depth[steps.owner] < 0, size, size + 1)
        return torch.where(steps.enters, enters, self.last[steps.owner])

    @property
    def unplaced(self) -> Tensor:
        """Nodes of the fragment that are to come, (P, U) bool."""
        return self.level == UNPLACED

    @property
    def complete(self) -> Tensor:
        """Return whether the fragment and its neighbours are there, (P,) bool."""
        return ~self.unplaced.any(1) & (self.sockets == 0).all(1)

    def look(self) -> None:
        """Work out what the masks and steps for the next node are made of."""
        f = self.fragment
        unplaced = self.unplaced
        pending = (unplaced.float() @ f.adjacency.float()) > 0
        held = (self.level >= 0) & (pending | (self.sockets > 0))
        self.floor = torch.where(held, self.level, -1).amax(1, keepdim=True)
        member = self.at.clamp(min=0)
        self.is_free = self.at == FREE
        self.socket_at = torch.where(self.is_free, 0, self.sockets.gather(1, member))
        self.room_at = torch.where(self.is_free, 1 << 20, self.room.gather(1, member))
        self.grows_at = (self.socket_at > 0) | (self.room_at > 0)
        entered = torch.stack(
            [(~unplaced[:, f.component == c]).any(1) for c in range(f.components)], 1
        )
        self.not_entered = ~entered[:, f.component]
        # A component that is entered through a socket takes the edge of a free node for it.
        through = torch.stack(
            [(f.sockets[f.component == c] > 0).any() for c in range(f.components)]
        )
        self.need = (self.sockets.sum(1) - (~entered & through).sum(1)).clamp(min=0)
        # Whether free nodes can still come after a step back to a level.
        number = torch.arange(self.at.shape[1], device=self.at.device)
        there = self.grows_at & (number <= self.depth[:, None])
        later = (unplaced & ((self.room > 0) | (self.sockets > 0))).any(1, keepdim=True)
        self.open_below = there.cumsum(1).bool() | later
        self.free_below = (self.is_free & (number <= self.depth[:, None])).cumsum(1).bool()
        last = torch.where(~self.is_free & (number <= self.depth[:, None]), number, -1)
        self.last_member = last.cummax(1).values

    def _parent(self, back: Tensor) -> tuple[Tensor, Tensor]:
        parent = self.depth[:, None] - back
        return parent, parent.clamp(min=0)

    def free_fits(self, back: Tensor) -> Tensor:
        """Return a mask (P, M) of the steps back after which a free node may come."""
        parent, at = self._parent(back)
        left = self.free[:, None] - (self.socket_at.gather(1, at) == 0).long() - self.need[:, None]
        left = torch.where(parent < 0, (self.free - 1 - self.need)[:, None], left)
        fits = self.grows_at.gather(1, at) | (parent < 0)
        return fits & (left >= 0) & (self.free[:, None] > 0)

    def mask(self, previous: list[Tensor], cardinality: int) -> Tensor:
        """Possible categories of a free node's next variable, (P, cardinality) bool.

        For the step back: of a free node, or of one that enters a component at the same place.
        """
        value = torch.arange(cardinality, device=self.depth.device)[None]
        k, first = len(previous), self.depth[:, None] < 0
        role = AtomCode.role(k)
        if role == "back":
            parent, at = self._parent(value)
            enters = self.not_entered.any(1, keepdim=True) & (self.is_free.gather(1, at) | first)
            fits = self.free_fits(value) | enters
            return torch.where(first, value == 0, fits & (parent >= self.floor.clamp(min=0)))
        every = torch.ones_like(first).expand(-1, cardinality)
        if role == "node" or (role == "edge" and k > 1 and not self.fragment.rings):
            return every
        parent, at = self._parent(previous[0][:, None])
        if k == 1:
            f = self.fragment
            room = self.weights <= self.room_at.gather(1, at)
            room = room if f.rings else room & f.plain
            single = f.plain & (self.weights == 1)
            fits = torch.where(self.socket_at.gather(1, at) > 0, single, room)
            return fits | first | self.is_free.gather(1, at)
        if role == "length":
            far = (parent + 1 - value).clamp(min=0)
            if self.fragment.acyclic:
                fits = first
            elif self.fragment.rings:
                fits = self.room_at.gather(1, far) > 0
            else:
                fits = far > self.last_member.gather(1, at)
            return fits | (value == 0) | first
        far = (parent + 1 - previous[-1][:, None]).clamp(min=0)
        return (self.weights <= self.room_at.gather(1, far)) | (previous[-1][:, None] == 0)

    def steps(self, closures: int) -> Steps | None:
        """Ways to go on with a node next to one that is there; None if there are none."""
        f, parts = self.fragment, []
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
            going = self.open_below.gather(1, at)[:, 0] | (self.room[:, node] > 0)
            going |= self.sockets[:, node] > 0
            entering = self.free_below.gather(1, at)[:, 0] | wanted & going
            fits = self.unplaced[:, node] & (top >= 0)[:, 0] & (top >= self.floor)[:, 0]
            fits &= (going | ~wanted) & (entering | ~waits)
            placed = level >= 0
            fits &= placed.sum(1) <= closures + 1
            rows = fits.nonzero()[:, 0]
            if not len(rows):
                continue
            level, placed, order = level[rows], placed[rows], order[rows]
            width = closures + 1
            lengths = torch.where(placed, level[:, :1] + 1 - level, 0)
            edges = f.edge_between[node][around][order]
            edges = torch.where(placed, edges, -1)
            pad = max(width - lengths.shape[1], 0)
            lengths = torch.nn.functional.pad(lengths, (0, pad))[:, 1:width]
            edges = torch.nn.functional.pad(edges, (0, pad), value=-1)[:, :width]
            parts.append(
                Steps(
                    owner=rows,
                    node=torch.full_like(rows, node),
                    back=self.depth[rows] - level[:, 0],
                    lengths=lengths,
                    edges=edges,
                    enters=torch.zeros_like(rows, dtype=torch.bool),
                    alive=self.alive[rows],
                )
            )
        return Steps.concatenate(parts) if parts else None

    def entries(
        self, back: Tensor, uniform: Tensor, guide: Tensor, closures: int
    ) -> tuple[Steps, Tensor] | None:
        """Ways to enter a component after the steps back (P,), one for each walk that can.

        Args:
            back: Levels to step back.
            uniform: Numbers in [0, 1) that choose the node, (P,).
            guide: Preferences, see `Progress.source`, (U + 2, U).
            closures: K.

        Returns:
            The steps, and minus the log of the probability that each was chosen with, (R,).
        """
        _, at = self._parent(back[:, None])
        first = self.depth < 0
        after_free = self.is_free.gather(1, at)[:, 0]
        takes = (self.sockets > 0) | ((self.room > 0) & ~self._has_sockets())
        takes = torch.where(first[:, None], True, takes & after_free[:, None]) & self.not_entered
        rows = takes.any(1).nonzero()[:, 0]
        if not len(rows):
            return None
        size = len(self.fragment)
        share = guide[torch.where(first[rows], size, size + 1)] * takes[rows]
        below = share.cumsum(1)
        node = (uniform[rows, None] * below[:, -1:] >= below).sum(1)
        node = node.minimum(
            (takes[rows] * torch.arange(1, size + 1, device=takes.device)).amax(1) - 1
        )
        chance = share.gather(1, node[:, None])[:, 0] / below[:, -1]
        steps = Steps(
            owner=rows,
            node=node,
            back=torch.where(first[rows], 0, back[rows]),
            lengths=torch.zeros(len(rows), closures, dtype=torch.long, device=rows.device),
            edges=torch.full((len(rows), closures + 1), -1, device=rows.device),
            enters=torch.ones_like(rows, dtype=torch.bool),
            alive=self.alive[rows],
        )
        return steps, -chance.log()

    def _has_sockets(self) -> Tensor:
        """Return whether a node's component has sockets, (U,) bool."""
        f = self.fragment
        with_sockets = f.component[f.sockets > 0]
        return torch.isin(f.component, with_sockets)

    def step_mask(self, steps: Steps, previous: list[Tensor], cardinality: int) -> Tensor:
        """Possible categories of the next variable of the steps, (R, cardinality) bool."""
        if not previous:
            self.lookahead.place(steps, self.at, self.depth, self.unplaced, self.sockets)
        fits = self._step_mask(steps, previous, cardinality)
        return self.lookahead.mask(previous, fits)

    def _step_mask(self, steps: Steps, previous: list[Tensor], cardinality: int) -> Tensor:
        value = torch.arange(cardinality, device=self.depth.device)[None]
        k, f = len(previous), self.fragment
        role = AtomCode.role(k)
        if role == "back":
            return value == steps.back[:, None]
        if role == "node":
            return f.kinds[steps.node]
        number = AtomCode.edge_number(k)
        if role == "length":
            return value == steps.lengths[:, number - 1, None]
        edge = steps.edges[:, number]
        if not len(f.edges):
            fits = (value == 0).expand(len(edge), -1)
        else:
            options = f.forms[:, edge.clamp(min=0)]  # (S, R, C)
            fits = (options & steps.alive.T[..., None]).any(0)
            fits = torch.where(edge[:, None] < 0, value == 0, fits)
        if k == 1:
            single = f.plain & (self.weights == 1)
            by_room = f.plain & (self.weights <= self.room[steps.owner, steps.node][:, None])
            socket = self.sockets[steps.owner, steps.node][:, None] > 0
            entering = torch.where(socket, single, by_room & (value > 0))
            entering = torch.where(self.depth[steps.owner][:, None] < 0, value == 0, entering)
            fits = torch.where(steps.enters[:, None], entering, fits)
        return fits

    def narrow(self, steps: Steps, previous: list[Tensor]) -> None:
        """Drop the forms that the category of an edge, the last of the `previous`, excludes."""
        k = len(previous) - 1
        if AtomCode.role(k) != "edge" or not len(self.fragment.edges):
            return
        edge = steps.edges[:, AtomCode.edge_number(k)]
        fits = self.fragment.forms[:, edge.clamp(min=0)]  # (S, R, C)
        chosen = previous[-1].expand(len(fits), -1)[..., None]
        fits = fits.gather(2, chosen)[..., 0].T | (edge < 0)[:, None]
        steps.alive = steps.alive & fits

    def add(self, x: Tensor, node: Tensor, enters: Tensor, alive: Tensor) -> None:
        """Take the next node of each walk.

        Args:
            x: Its categories, (P, V).
            node: Its number in the fragment or `FREE`, (P,) long.
            enters: Whether it enters a component, (P,) bool.
            alive: Possible forms after it, (P, S) bool.
        """
        rows = torch.arange(len(x), device=x.device)
        first = self.depth < 0
        edges, lengths = AtomCode.edges(x).unbind(-1), AtomCode.lengths(x).unbind(-1)
        parent = torch.where(first, -1, (self.depth - AtomCode.back(x)).clamp(min=0))
        above = torch.where(first, FREE, self.at[rows, parent.clamp(min=0)])
        free = node == FREE
        # An edge between a node of the fragment and a free one takes a socket, or else room.
        ends = [(above, edges[0])]
        inside = free & (above != FREE)
        self._use(inside, above, edges[0])
        self._use(enters & ~first, node, edges[0])
        for length, edge in zip(lengths[1:], edges[1:], strict=True):
            far = self.at[rows, (parent + 1 - length).clamp(min=0)]
            far = torch.where(length > 0, far, FREE)
            self._use(free & (far != FREE), far, edge)
            ends.append((far, edge))
        self.lookahead.add(x, node, ends)
        self.free = self.free - free.long()
        self.level = torch.where(self.level > parent[:, None], LEFT, self.level)
        member = node != FREE
        self.level[rows[member], node[member]] = parent[member] + 1
        source = torch.where(enters, len(self.fragment) + (~first).long(), self.last)
        self.came_from[rows[member], node[member]] = source[member]
        self.last = torch.where(member, node, self.last)
        self.at[rows, parent + 1] = node
        self.depth = parent + 1
        self.alive = alive

    def _use(self, which: Tensor, node: Tensor, edge: Tensor) -> None:
        rows = which.nonzero()[:, 0]
        node, edge = node[rows], edge[rows]
        socket = self.sockets[rows, node] > 0
        self.sockets[rows, node] -= socket.long()
        self.room[rows, node] -= torch.where(socket, 0, self.weights[edge])
