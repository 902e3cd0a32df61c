"""A fragment as a graph, and placements of its nodes; for the nouns see `particles`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

FREE = -1  # in place of a fragment node's number: a node that is not part of the fragment
UNPLACED, LEFT = -1, -2  # sentinel path levels: not placed yet, already off the path
MANY_RINGS = 1 << 20  # in place of a limit on the number of rings where there is none


@dataclass
class GraphFragment:
    """U nodes and E edges that every graph must contain, and where free nodes may be attached.

    `graphcnf.design.fragments.make_fragment` makes it of a molecule's fragment.

    Attributes:
        categories: True for the categories that each node may have, (U, node categories) bool.
        edges: Numbers of the two nodes of each edge, (E, 2) long.
        structures: True for the labels that each edge may have in each of S structures, (S, E, edge
            categories + 1) bool. A graph must agree with at least one structure.
        valence: Free degree of each node, (U,) long.
        attachments: Number of attachments of each node, (U,) long; they come in addition to its
            free degree.
        plain: True for the labels that edges between fragment nodes and free nodes may have, (edge
            categories + 1,) bool.
        rings: True if free nodes may close rings over fragment nodes.
        acyclic: True if free nodes may close no rings at all.
        new_rings: Fewest and most rings that free nodes close.
        free_nodes: True for the categories that free nodes may have, (node categories,) bool; None
            for all.
        free_edges: True for the labels that edges of free nodes to their parents may have, (edge
            categories + 1,) bool; None for all.
        symmetries: Permutations of the nodes that leave the fragment as it is, a group, (G, U)
            long. None for the identity alone.
        edge_between: Number of the edge between two nodes, -1 for none, (U, U) long.
        adjacency: True for two nodes with an edge, (U, U) bool.
        component: Number of the component of each node, (U,) long.
        components: Number of components.
        images: The symmetries, or the identity alone, (G, U) long.
    """

    categories: Tensor
    edges: Tensor
    structures: Tensor
    valence: Tensor
    attachments: Tensor
    plain: Tensor
    rings: bool = False
    acyclic: bool = False
    new_rings: tuple[int, int] = (0, MANY_RINGS)
    free_nodes: Tensor | None = None
    free_edges: Tensor | None = None
    symmetries: Tensor | None = None

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
        identity = torch.arange(size, device=self.edges.device)[None]
        self.images = identity if self.symmetries is None else self.symmetries

    def __len__(self) -> int:
        return len(self.categories)

    def to(self, device: Any) -> GraphFragment:
        """Return the fragment with every tensor on a device."""
        values = (getattr(self, f.name) for f in fields(self))
        moved: list[Any] = [v.to(device) if isinstance(v, Tensor) else v for v in values]
        return type(self)(*moved)

    @property
    def fewest_free(self) -> int:
        """Least number of free nodes in any graph that contains the fragment."""
        return max(int(self.attachments.sum()) - self.components + 1, int(self.components > 1))

    @property
    def entries(self) -> int:
        """Largest number of entries to count with: 1, or 0 if there are several components.

        With several components, it is not known beforehand how many of them are below free nodes.
        """
        return 1 if self.components == 1 else 0

    @property
    def closed_ring(self) -> int:
        """Size of the largest ring that free nodes cannot avoid to close; here 0, for none.

        `LinkedFragment`, whose free nodes must join all attachments, overrides it.
        """
        return 0


@dataclass
class Placements:
    """R possible placements of fragment nodes as the next nodes of particles.

    A particle may have several of these, or none. K is the number of closures that a node may have,
    and S the number of structures of the fragment.

    Attributes:
        owner: Index of the particle, (R,) long.
        node: Number of the fragment node, (R,) long.
        back: Backtrack to the parent, in levels, (R,) long: 0 if the parent is the last node of the
            particle, and for the first node of a graph.
        lengths: Lengths of the closures, 0 for none, (R, K) long.
        edges: Numbers of the fragment's edges that the placement draws: column 0 the edge to the
            parent, column k that of closure k; -1 for an edge that the fragment lacks, (R, 1 + K)
            long.
        enters: True for entries, which have no parent in the fragment, (R,) bool.
        alive: True for structures that agree with all edges of the particle so far, (R, S) bool.
            Edges of the placement itself count once their labels are drawn, by `Progress.narrow`.
    """

    owner: Tensor
    node: Tensor
    back: Tensor
    lengths: Tensor
    edges: Tensor
    enters: Tensor
    alive: Tensor
