"""Free valence that the remaining edges of a fragment need of its nodes.

A walk that gives a node a category or an edge after which the rest of the fragment has no place at
it would end some nodes later. All of its continuations have weight 0, so that leaving it out
changes nothing but how many walks arrive.
"""

from __future__ import annotations

import torch
from torch import Tensor

from graphcnf.graphs.path.code import AtomCode
from graphcnf.graphs.path.fragment import Fragment
from graphcnf.graphs.path.support import Support


class Lookahead:
    """Sums of edge weights that the nodes of a fragment have left, in P walks.

    Args:
        fragment: What the graphs have to hold.
        support: Of the model; without limits, everything is possible.
        count: P.

    Attributes:
        left: Of each node that is there, (P, U) long.
    """

    def __init__(self, fragment: Fragment, support: Support, count: int):
        self.support, self.weights = support, support.weights
        most = int(self.weights.max()) + 1
        # The least weight of each edge in any of the forms, and of those between two nodes.
        if len(fragment.edges):
            self.least = torch.where(fragment.forms.any(0), self.weights, most).amin(-1)
        else:
            self.least = torch.zeros(1, dtype=torch.long, device=self.weights.device)
        between = self.least[fragment.edge_between.clamp(min=0)]
        self.between = torch.where(fragment.adjacency, between, 0)
        self.total = self.between.sum(1) + fragment.sockets
        self.left = torch.zeros(count, len(fragment), dtype=torch.long, device=self.total.device)

    def place(self, steps, at: Tensor, depth: Tensor, unplaced: Tensor, sockets: Tensor) -> None:
        """Say where P walks stand and which R steps are asked about.

        Args:
            steps: `Steps`.
            at: Node at each level of the path, (P, L).
            depth: Levels of the ends of the paths, (P,).
            unplaced: Nodes that are to come, (P, U) bool.
            sockets: Edges to free nodes that each node still has to get, (P, U).
        """
        owner = steps.owner
        self.at, self.parent, self.node = at[owner], depth[owner] - steps.back, steps.node
        needed = (unplaced.double() @ self.between.double()).long() + sockets
        self.needed, self.of = needed[owner], self.left[owner]
        self.enters = steps.enters[:, None]
        # A component that is entered through a socket has one less to fill.
        filled = steps.enters & (self.parent >= 0) & (sockets[owner, self.node] > 0)
        self.rest = self.total[self.node] - filled.long()
        self.edge_least = torch.where(steps.edges < 0, 0, self.least[steps.edges.clamp(min=0)])
        self.sums = self.support.sums

    def mask(self, previous: list[Tensor], fits: Tensor) -> Tensor:
        """Return a mask of the categories `fits` (R, C) of the next variable that leave enough."""
        k = len(previous)
        if not self.support.limited or AtomCode.role(k) in ("back", "length"):
            return fits
        rest = self.rest - self.edge_least[:, : 1 + AtomCode.edge_number(k)].sum(1)
        if k == 1:
            far = self._far(torch.zeros_like(self.parent))
            return fits & (self.enters | (self.weights <= far[:, None]))
        if k == 2:
            own = self.sums - self.weights[previous[1]][:, None]
            return fits & (own >= rest[:, None])
        linked = previous[-1][:, None] > 0
        own = self.sums[previous[2]] - self.weights[previous[1]]
        for j in range(AtomCode.COMMON, k):
            if AtomCode.role(j) == "edge":
                own = own - self.weights[previous[j]]
        far = self._far(previous[-1] - 1)
        enough = (self.weights <= far[:, None]) & (self.weights <= (own - rest)[:, None])
        return fits & (enough | ~linked)

    def _far(self, up: Tensor) -> Tensor:
        """Return the free valence of the node `up` levels above the parent."""
        node = self.at.gather(1, (self.parent - up).clamp(min=0)[:, None])
        member = node.clamp(min=0)
        spare = self.of.gather(1, member) - self.needed.gather(1, member)
        spare = spare + self.between[member[:, 0], self.node][:, None]
        return torch.where(node < 0, int(self.weights.max()), spare)[:, 0]

    def add(self, x: Tensor, node: Tensor, ends: list[tuple[Tensor, Tensor]]) -> None:
        """Take the next node of each walk.

        Args:
            x: Its categories, (P, V).
            node: Its number in the fragment, negative for a free node, (P,).
            ends: For each of its edges to earlier nodes: these nodes, negative for free ones and
                for none, and the edges' categories plus 1, (P,) each.
        """
        own = self.support.sums[AtomCode.node(x)]
        for far, edge in ends:
            weight = self.weights[edge]
            own = own - weight
            rows = (far >= 0).nonzero()[:, 0]
            self.left[rows, far[rows]] -= weight[rows]
        rows = (node >= 0).nonzero()[:, 0]
        self.left[rows, node[rows]] = own[rows]
