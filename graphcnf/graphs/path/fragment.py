"""Nodes and edges that a graph has to hold, and where it may grow from them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor


@dataclass
class Fragment:
    """Nodes and edges that a graph has to hold, and where it may grow from them.

    Attributes:
        kinds: Possible categories of each node, (U, node categories) bool.
        edges: Pairs of nodes, (E, 2) long.
        forms: Possible categories of all edges together, by category plus 1, in each of S forms
            (the Kekule structures of a molecule), (S, E, edge categories + 1) bool.
        room: Sum of the weights that further edges of each node may have, (U,) long.
        sockets: Number of edges to free nodes that each node has to get beside it, (U,) long.
        plain: Which edges fill a socket or enter a component, by category plus 1, bool.
        rings: Whether free nodes may close rings over nodes of the fragment.
        acyclic: Whether free nodes close no rings at all.
    """

    kinds: Tensor
    edges: Tensor
    forms: Tensor
    room: Tensor
    sockets: Tensor
    plain: Tensor
    rings: bool = False
    acyclic: bool = False

    def __post_init__(self) -> None:
        size = len(self.kinds)
        self.edge_between = torch.full((size, size), -1, device=self.kinds.device)
        for number, (i, j) in enumerate(self.edges.tolist()):
            self.edge_between[i, j] = self.edge_between[j, i] = number
        self.adjacency = self.edge_between >= 0
        component = torch.arange(size, device=self.kinds.device)
        for _ in range(size):
            near = torch.where(self.adjacency, component, size).amin(-1)
            component = torch.minimum(component, near)
        self.component = component.unique(return_inverse=True)[1]
        self.components = int(self.component.max()) + 1

    def __len__(self) -> int:
        return len(self.kinds)

    def to(self, device) -> Fragment:
        """Move every tensor."""
        values = (getattr(self, f.name) for f in fields(self))
        moved: list[Any] = [v.to(device) if isinstance(v, Tensor) else v for v in values]
        return Fragment(*moved)

    @property
    def fewest_free(self) -> int:
        """Free nodes that a graph with the fragment has at least."""
        return max(int(self.sockets.sum()) - (self.components - 1), int(self.components > 1))
