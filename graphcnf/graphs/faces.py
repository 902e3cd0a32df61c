"""The graph model "faces": planar graphs, node by node, which sees the faces of the graph so far.

It is the model "growth" (`graphcnf.graphs.node_by_node`), which adds one *new node* after the other
with its edges to *earlier* nodes. Its network also sees where the graph lies in the plane:

- An *embedding* of a planar graph draws it in the plane without crossings. Its *faces* are the
  regions between the edges, the outer one included. The *walk* of a face lists the nodes that one
  meets on the way around it; a node may be met more than once. Its number of entries is the length
  of the face.
- A new node that is put inside a face may get edges to all nodes of this face, and divides it. A
  new node of which two edges lead to no common face of any embedding makes the graph non-planar.
- A planar graph may have several embeddings. Nodes are put, one after the other, into the longest
  face that has all their earlier neighbours. Where no face has them all, the graph so far is
  embedded anew. In Delaunay triangulations that happened to 6 of 9,600 nodes.
- A *nearly complete* node has all its edges to earlier nodes, or all but one. Among nodes that
  may come next, such nodes come first (`draw_order`): without that, 36 nodes had to be embedded
  anew.

The embedding is a function of the graph so far and of its node order, so that the density stays
exact. It is a hint for the network: whether an edge leaves the graph planar is learned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from graphcnf.graphs.node_by_node import (
    COMMON,
    EDGES,
    OPEN_COMMON,
    RANGES,
    GrowingGraphs,
    GrowthModel,
    GrowthNetwork,
    most_edges_first,
)

LONGEST = 12
"""Length of a walk from which on faces count as equally long."""
FACE = len(RANGES)
"""Number of the feature that is added to those of `GrowingGraphs.features`."""
TOGETHER = ((EDGES, 4), (COMMON, 3), (OPEN_COMMON, 3), (FACE, LONGEST))
"""Features that have one logit for each combination of their values, and the highest value to which
each is clamped."""
SCALE = 10.0
"""Factor of these logits: Adam moves each weight by about the learning rate a step, and an edge
that leaves the plane needs a logit far below 0. Whether they help was not measured in pairs."""


@dataclass
class Face:
    """A face of a graph that grows: it appears with one node, and later nodes may divide it.

    Attributes:
        walk: Numbers of its nodes, in the order in which one meets them on the way around it.
        since: Number of nodes that the graph has when the face appears.
        until: Number of nodes that the graph has when the face is gone; None if it stays.
    """

    walk: list[int]
    since: int
    until: int | None = None

    def divided(self, node: int, joined: set[int]) -> list[list[int]]:
        """Return the walks into which a new node with edges to `joined` divides this face.

        Examples:
            >>> Face([0, 1, 2, 3], since=4).divided(4, {0, 2})
            [[4, 0, 1, 2], [4, 2, 3, 0]]
        """
        walk = self.walk
        corners = sorted(map(walk.index, joined))
        around = len(walk) if len(walk) > 1 else 0
        ends = [*corners[1:], corners[0] + around]
        return [
            [node, *(walk[k % len(walk)] for k in range(begin, end + 1))]
            for begin, end in zip(corners, ends, strict=True)
        ]


def faces_of(earlier: Sequence[set[int]]) -> list[Face]:
    """Embed a graph in the plane node by node, and list all faces that it has on the way.

    Those that appear first come first. If the graph becomes non-planar, nodes that fit into no face
    are left out.
    """
    every: list[Face] = []
    present: list[Face] = []
    planar = True
    for node, joined in enumerate(earlier):
        fitting = [face for face in present if joined.issubset(face.walk)] if joined else []
        if fitting:
            gone = [max(fitting, key=lambda face: len(face.walk))]
            walks = gone[0].divided(node, joined)
        elif not joined:
            gone, walks = [], [[node]]
        else:
            walks = _embedded(earlier[: node + 1]) if planar else []
            planar = bool(walks)
            gone = present if planar else []
        for face in gone:
            face.until = node + 1
        new = [Face(walk, node + 1) for walk in walks]
        present = [face for face in present if face.until is None] + new
        every += new
    return every


def _embedded(earlier: Sequence[set[int]]) -> list[list[int]]:
    """Return the walks of the faces of an embedding by networkx, none if there is no embedding."""
    import networkx as nx  # slow to import, and rarely needed

    graph = nx.Graph((node, other) for node, joined in enumerate(earlier) for other in joined)
    planar, embedding = nx.check_planarity(graph)
    seen: set[tuple[int, int]] = set()
    return [
        embedding.traverse_face(*edge, seen)
        for edge in (embedding.edges if planar else ())
        if edge not in seen
    ]


class GraphsWithFaces(GrowingGraphs):
    """M partly drawn graphs, each with a new node, and the faces in which the new node may lie.

    They are parts of B whole graphs of up to N nodes (in scoring, one part for each node; in
    drawing, B = M). The faces are listed once for each whole graph, at most F of them.

    Attributes:
        on_face: True where a node lies on a face, (B, F, N) bool.
        length: Length of each face, (B, F) long: at most 12 (`LONGEST`), so that longer faces count
            as equally long; 0 where a graph has fewer than F faces.
        fitting: True for the faces in which a new node may lie: the partly drawn graph has the
            face, and all neighbours that the new node has so far lie on it, (M, F) bool.
    """

    def __init__(self, links: Tensor, number: Tensor, graph: Tensor, faces: list[list[Face]]):
        super().__init__(links, number)
        shape = (len(faces), max(1, *map(len, faces)))
        self.on_face = links.new_zeros(*shape, links.shape[1])
        self.length, since, until = number.new_zeros(3, *shape)
        for k, every in enumerate(faces):
            never = links.shape[1] + 1
            sizes = [[min(len(f.walk), LONGEST), f.since, f.until or never] for f in every]
            columns = number.new_tensor(sizes).reshape(-1, 3).unbind(1)
            for table, column in zip((self.length, since, until), columns, strict=True):
                table[k, : len(every)] = column
            at = [(row, node) for row, face in enumerate(every) for node in face.walk]
            rows, nodes = number.new_tensor(at).reshape(-1, 2).unbind(1)
            self.on_face[k, rows, nodes] = True
        self.graph = graph
        self.fitting = (since[graph] <= number[:, None]) & (until[graph] > number[:, None])

    def join(self, at: Tensor, far: Tensor) -> None:
        super().join(at, far)
        self.fitting[at] &= self.on_face[self.graph[at], :, far]

    def features(self, at: Tensor, far: Tensor) -> list[Tensor]:
        """Describe possible edges from new nodes to earlier ones by small counts."""
        graph = self.graph[at]
        shared = self.fitting[at] & self.on_face[graph, :, far]
        longest = (shared * self.length[graph]).amax(-1)
        return [*super().features(at, far), longest]


class FaceNetwork(GrowthNetwork):
    """`GrowthNetwork` that also sees whether both ends of a possible edge lie on one face.

    Attributes:
        faces: Embedding with a row for each pair of two features: the number of edges that the new
            node has, and the length of the longest face that fits (0 to 12).
        together: Table with a row for each combination of the four features in `TOGETHER`. A row,
            times 10 (`SCALE`), is added to the logits of an edge.
    """

    def __init__(self, code, **arguments):
        super().__init__(code, **arguments)
        self.faces = nn.Embedding((RANGES[EDGES][1] + 1) * (LONGEST + 1), self.head_width)
        nn.init.normal_(self.faces.weight, std=0.2)
        size = math.prod(most + 1 for _, most in TOGETHER)
        self.together = nn.Embedding(size, self.edge.out_features)
        nn.init.zeros_(self.together.weight)

    def growing(self, links: Tensor, graph: Tensor, node: Tensor) -> GraphsWithFaces:
        partly = super().growing(links, graph, node)
        last = node.new_zeros(len(links)).scatter_reduce(0, graph, node, "amax")
        used, graph = graph.unique(return_inverse=True)
        earlier = links.tril(-1).cpu().numpy()
        faces = [
            faces_of([set(row.nonzero()[0].tolist()) for row in earlier[k, : int(last[k])]])
            for k in used.tolist()
        ]
        return GraphsWithFaces(partly.links, node, graph, faces)

    def describe(self, features: list[Tensor]) -> Tensor:
        edges = features[EDGES].clamp(max=RANGES[EDGES][1])
        return super().describe(features) + self.faces(edges * (LONGEST + 1) + features[FACE])

    def score(self, h: Tensor, features: list[Tensor]) -> Tensor:
        row = torch.zeros_like(features[FACE])
        for name, most in TOGETHER:
            row = row * (most + 1) + features[name].clamp(0, most)
        return super().score(h, features) + SCALE * self.together(row)


def draw_order(adjacency: Tensor, sizes: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Draw random node orders by `most_edges_first`; of equal nodes, nearly complete ones first.

    This makes the longest face the right one in triangulations. Two nodes may both have edges to
    the ends of one edge, and to each other; one of them lies in the triangle of the others, and has
    no further edges. If the other one came first, the inner one would be put outside. If the inner
    one comes first, the other one is put around it.
    """
    return most_edges_first(adjacency, sizes, uniforms, nearly_complete=True)


class FaceModel(GrowthModel):
    """`GrowthModel` of planar graphs, whose network sees the faces of the graph so far."""

    network_class = FaceNetwork
    architecture = "faces"
    draw_order = staticmethod(draw_order)
