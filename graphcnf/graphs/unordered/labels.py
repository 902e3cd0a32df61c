"""Labels of nodes that say which edges a node has, without saying to which nodes they lead.

An edge is of a *kind*: its category and the size of the smallest ring that it is part of. A node's
*label* is its category and how many edges of each kind end there. Both are functions of the graph,
so a density of labels and kinds is one of graphs; what it puts on labels that no graph has is lost.
Labels make most of what is possible for a pair of nodes a matter of counting.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.errors import UserError
from graphcnf.graphs.batch import GraphBatch, PackedGraphs

# Classes of edges: in no ring, in a smallest ring of 3, 4, 5, 6 nodes, in a larger one.
RINGS = (0, 3, 4, 5, 6, 7)


def exactly(counts: Tensor, table: Tensor) -> Tensor:
    """Return the product of whole numbers, whatever the autocast type."""
    with torch.autocast(counts.device.type, enabled=False):
        return counts.double().matmul(table.double()).to(counts.dtype)


def ring_classes(adjacency: Tensor) -> Tensor:
    """Return the class of every edge of graphs (B, N, N) bool: a place in `RINGS`, 0 for no edge.

    A breadth-first search from one end of each edge to the other, without the edge itself, finds
    rings of up to 6 nodes. An edge is in a larger one if it is no bridge: its effective resistance
    in a network of unit resistors is less than 1, at most 1 - 1/n for a ring of n nodes.
    """
    graph, low, high = adjacency.triu().nonzero(as_tuple=True)
    classes = torch.zeros_like(adjacency, dtype=torch.long)
    if not len(graph):
        return classes
    batch, nodes = adjacency.shape[:2]
    counts = torch.bincount(graph, minlength=batch)
    place = torch.arange(len(graph), device=graph.device) - (counts.cumsum(0) - counts)[graph]
    steps = adjacency.float()
    # One row for each edge: the nodes that walks of some length from its lower end come to.
    front = steps.new_zeros(batch, int(counts.max()), nodes)
    front[graph, place] = steps[graph, low]
    front[graph, place, high] = 0
    own = torch.where(_resistances(adjacency)[graph, low, high] < 1 - 0.5 / nodes, RINGS[-1], 0)
    for length in range(3, RINGS[-1]):
        front = front @ steps
        # Not back over the edge itself.
        front[graph, place, low] = 0
        own = torch.where((front[graph, place, high] > 0) & (own > length), length, own)
    own = torch.where(own > 0, own - RINGS[1] + 1, 0)
    classes[graph, low, high] = classes[graph, high, low] = own
    return classes


def _resistances(adjacency: Tensor) -> Tensor:
    """Return the effective resistance between any two nodes of a part, (B, N, N) float64."""
    conductance = adjacency.double()
    laplacian = torch.diag_embed(conductance.sum(1)) - conductance
    # A little of a resistor from each node to the ground: graphs may have several parts.
    ground = 1e-6 * torch.eye(adjacency.shape[1], dtype=torch.float64, device=adjacency.device)
    potential = torch.linalg.inv(laplacian + ground)
    own = potential.diagonal(dim1=1, dim2=2)
    return own[:, :, None] + own[:, None] - 2 * potential


class NodeLabels(nn.Module):
    """Graphs to labels of nodes and kinds of edges, and back.

    `edge_kinds` are category and ring class (a place in `RINGS`) of each kind, `node_labels` node
    category and number of edges of each kind of each label, `edge_weights` what an edge category
    adds to the sum of a node (1 each when None). Raises UserError where they do not fit together.
    """

    kinds: Tensor
    rows: Tensor
    place: Tensor
    sizes: Tensor
    weights: Tensor
    far: Tensor
    ends: Tensor

    def __init__(
        self,
        edge_kinds: list[list[int]],
        node_labels: list[list[int]],
        edge_weights: list[int] | None = None,
    ):
        super().__init__()
        widths = {len(row) for row in node_labels}
        if widths != {len(edge_kinds) + 1} or {len(kind) for kind in edge_kinds} - {2}:
            raise UserError(
                "node_labels: a node category and a number for each of edge_kinds; "
                "edge_kinds: an edge category and a ring class"
            )
        kinds = torch.tensor(edge_kinds, dtype=torch.long).reshape(-1, 2)
        if kinds.numel() and not 0 <= kinds.min() <= kinds[:, 1].max() < len(RINGS):
            raise UserError(f"edge_kinds: ring classes are 0 to {len(RINGS) - 1}")
        rows = torch.tensor(node_labels, dtype=torch.long)
        if rows.min() < 0 or len(rows.unique(dim=0)) != len(rows):
            raise UserError("node_labels: whole numbers from 0 on, every row once")
        most = int(kinds[:, 0].max()) + 1 if len(kinds) else 0
        given = [1] * most if edge_weights is None else edge_weights
        if len(given) < most:
            raise UserError(f"edge_weights: a number for each of {most} edge categories")
        weights = torch.tensor(given, dtype=torch.long)[kinds[:, 0]]
        place = torch.full((most + 1, len(RINGS)), -1)
        place[kinds[:, 0] + 1, kinds[:, 1]] = torch.arange(len(kinds))
        # How far one kind is from another: by weight, then by category, by being in a ring, and by
        # its place, so that no two are equally far.
        far = (weights[:, None] - weights).abs()
        for value in (kinds[:, 0], (kinds[:, 1] > 0).long()):
            far = 2 * far + (value[:, None] != value)
        far = (far * max(1, len(kinds)) + torch.arange(len(kinds))).fill_diagonal_(-1)
        for name, table in (
            ("kinds", kinds),
            ("rows", rows),
            ("place", place + 1),
            ("sizes", torch.tensor(RINGS)[kinds[:, 1]]),
            ("weights", weights),
            ("far", far),
            # A row of zeros at the end, for padding.
            ("ends", F.pad(rows[:, 1:], (0, 0, 0, 1))),
        ):
            self.register_buffer(name, table, persistent=False)

    @property
    def count(self) -> int:
        """Number of labels."""
        return len(self.rows)

    @property
    def bridges(self) -> Tensor:
        """Mask of the kinds that are in no ring, (K,) bool."""
        return self.kinds[:, 1] == 0

    @staticmethod
    def measure(graphs: PackedGraphs) -> dict[str, list[list[int]]]:
        """Return the tables of all labels and kinds that occur in `graphs`."""
        raw = (int(graphs.bond_types.max(initial=0)) + 1) * len(RINGS)
        found: set[tuple[int, ...]] = set()
        for batch in GraphBatch.chunks(graphs):
            kinds = (batch.bonds - 1) * len(RINGS) + ring_classes(batch.adjacency)
            graph, node, other = batch.adjacency.nonzero(as_tuple=True)
            ends = batch.node_types.new_zeros(*batch.mask.shape, raw)
            one = torch.ones_like(graph)
            ends.index_put_((graph, node, kinds[graph, node, other]), one, accumulate=True)
            rows = torch.cat([batch.node_types[..., None], ends], -1)[batch.mask]
            found |= set(map(tuple, rows.unique(dim=0).tolist()))
        table = np.array(sorted(found))
        used = np.flatnonzero(table[:, 1:].any(0))
        return {
            "edge_kinds": [[int(kind) // len(RINGS), int(kind) % len(RINGS)] for kind in used],
            "node_labels": table[:, np.concatenate([[0], used + 1])].tolist(),
        }

    def nearest(self, kinds: Tensor, free: Tensor) -> Tensor:
        """Return the kinds nearest to `kinds` (...) that have `free` (..., K) places, if any."""
        return self.far[kinds].masked_fill(free <= 0, torch.iinfo(torch.long).max).argmin(-1)

    def lighter(self, kinds: Tensor, others: Tensor) -> Tensor:
        """Return the lighter of two kinds, the first where they weigh the same."""
        return torch.where(self.weights[others] < self.weights[kinds], others, kinds)

    def encode(self, batch: GraphBatch) -> tuple[Tensor, Tensor]:
        """Return labels (B, N) long, `count` at padding, and kinds (B, N, N) long, 0 for no edge.

        Raises ValueError where a node has edges as no label says, or an edge is of an unknown kind.
        """
        labels, kinds, unknown = self.look_up(batch)
        if unknown.any():
            graph, node = unknown.nonzero()[0].tolist()
            raise ValueError(
                f"node {node} of graph {graph} has a category and edges that no node of the "
                "training data has together"
            )
        return labels, kinds

    @torch.autocast("cpu", enabled=False)
    def look_up(self, batch: GraphBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Encode as `encode`; also return a mask of nodes that no label fits, (B, N) bool."""
        rings = ring_classes(batch.adjacency)
        bonds = torch.where(batch.bonds < len(self.place), batch.bonds, 0)
        kinds = torch.where(batch.adjacency, self.place[bonds, rings], 0)
        steps = torch.arange(1, len(self.kinds) + 1, device=kinds.device)
        ends = (kinds[..., None] == steps).sum(2)
        rows = torch.cat([batch.node_types[..., None], ends], -1)
        wanted, table = rows.flatten(0, 1).double(), self.rows.double()
        # Squared distances of whole numbers: exactly 0 where two rows are the same.
        apart = wanted.square().sum(1)[:, None] + table.square().sum(1) - 2 * wanted @ table.T
        nearest, label = apart.min(1)
        unknown = (nearest.view_as(batch.mask) > 0) | ((kinds == 0) & batch.adjacency).any(2)
        labels = torch.where(batch.mask, label.view_as(batch.mask), self.count)
        return labels, kinds, unknown & batch.mask

    def decode(self, labels: Tensor, kinds: Tensor, mask: Tensor) -> GraphBatch:
        """Return the graphs of labels and kinds; what a label says of edges is not looked at."""
        types = torch.where(mask, self.rows[labels.clamp(max=self.count - 1), 0], 0)
        bonds = F.pad(self.kinds[:, 0] + 1, (1, 0))[kinds]
        return GraphBatch(types, bonds, mask)
