"""The graph model "faces": planar graphs, node by node, which sees the faces of the graph so far.

- An *embedding* of a planar graph draws it in the plane without crossings. Its *faces* are the
  regions between the edges, the outer one included. A face is written as the nodes that one meets
  on the way around it, its *walk*; a node may be met more than once.
- A new node that is put inside of a face may get edges to all nodes of this face, and divides it. A
  new node of which two edges lead to no common face of any embedding makes the graph non-planar.
- A planar graph may have several embeddings. Nodes are put, one after the other, into the longest
  face that has all their earlier neighbours; where no face has them, the graph so far is embedded
  anew. In Delaunay triangulations that happens to one node in three hundred.

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
    """A face that a growing graph has for some time.

    Attributes:
        walk: Its nodes in the order in which one meets them on the way around it.
        since: Number of nodes that the graph has when the face appears.
        until: Number of nodes that it has when the face is gone; None if it stays.
    """

    walk: list[int]
    since: int
    until: int | None = None

    def divided(self, node: int, joined: set[int]) -> list[list[int]]:
        """Return the walks of the faces into which a new node divides this one.

        Args:
            node: Number of the new node.
            joined: Its neighbours, one or more nodes of the walk. Of a node that is met more than
                once, the first time counts.
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
    """Embed a graph node by node.

    Args:
        earlier: For each node its neighbours among the nodes before.

    Returns:
        All faces that the graph has at some time. If it becomes non-planar, nodes that fit into no
        face are left out.
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
    """Return the walks of the faces of an embedding by networkx, none if there is no embedding.

    Args:
        earlier: For each node its neighbours among the nodes before.
    """
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
    """`GrowingGraphs` that know which faces their new nodes may lie in.

    Args:
        links: As of `GrowingGraphs`, (M, N, N) bool.
        number: As of `GrowingGraphs`, (M,) long.
        graph: Which of B sets of faces each graph has, (M,) long.
        faces: The faces of each of the B sets, R at most, at all times.

    Attributes:
        on_face: Which nodes lie on the faces of each set, (B, R, N) bool.
        length: Lengths of the walks, up to `LONGEST`; 0 for no face, (B, R) long.
        graph: As the argument.
        fitting: Which faces the partly drawn graphs have that have all `joined` nodes, (M, R) bool.
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
        """Describe possible edges from new nodes to earlier ones.

        Args:
            at: As of `GrowingGraphs.features`, (R,) long.
            far: As of `GrowingGraphs.features`, (R,) long.

        Returns:
            The features of `GrowingGraphs`, and one more, `FACE`: the length of the longest face
            that has all `joined` nodes and `far`, up to `LONGEST`; 0 if there is no such face.
        """
        graph = self.graph[at]
        shared = self.fitting[at] & self.on_face[graph, :, far]
        longest = (shared * self.length[graph]).amax(-1)
        return [*super().features(at, far), longest]


class FaceNetwork(GrowthNetwork):
    """`GrowthNetwork` that also sees whether the ends of an edge share a face.

    Args:
        code: The variables of a node.
        **arguments: Those of `GrowthNetwork`.

    Attributes:
        faces: Embedding of the number of edges of the new node, and of the feature `FACE`.
        together: Logits by the features of `TOGETHER`, divided by `SCALE`.
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


class FaceModel(GrowthModel):
    """`GrowthModel` of planar graphs, whose network sees faces; see `FaceNetwork`."""

    network_classes = (FaceNetwork,)
    architecture = "faces"
