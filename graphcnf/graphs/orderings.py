"""Canonical depth-first order of any connected graph with node and edge categories.

The order is a function of the graph up to isomorphism: however its nodes were numbered before, the
renumbered graph is the same. Two parts lead there.

1. A canonical numbering by colour refinement (Weisfeiler & Leman 1968). Where refinement leaves
   nodes alike, each of them in turn is singled out and refinement goes on; of all numberings found
   the one with the smallest edge list wins (McKay & Piperno 2014, arXiv 1301.1493, without their
   data structures). Branches that an automorphism maps onto each other are searched once.
2. A depth-first walk over the canonical numbers. It starts at the lowest colour, which is a node of
   lowest degree, and takes the neighbour with the fewest unvisited nodes behind it first, so that
   the path steps back little (`PathCode`).

Limits: the search is exact, so it is exponential on graphs that refinement hardly splits and that
have few automorphisms, such as strongly regular graphs. Molecules, trees, cycles, grids, complete
graphs need a handful of leaves. More than `max_leaves` of them end in an error, not in an order
that depends on the input's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphcnf.graphs.packed import MAX_NODES, PackedGraphs

Neighbours = list[dict[int, int]]
"""For each node its neighbours and the categories of the edges to them."""


def canonical_order(
    node_types: Sequence[int] | np.ndarray,
    edges: Sequence[tuple[int, int]] | np.ndarray,
    bond_types: Sequence[int] | np.ndarray,
    *,
    max_leaves: int = 2000,
) -> np.ndarray:
    """Canonical depth-first order: new node i is old node `order[i]`, (n,) int64.

    Args:
        node_types: Node categories, (n,).
        edges: Each edge once, (m, 2).
        bond_types: Edge categories, (m,).
        max_leaves: Numberings that the search for the canonical one may compare.

    Raises:
        ValueError: if the graph is empty, not connected, or has more than 255 nodes, an edge is no
            pair of two nodes, or the search takes too long.
    """
    types = [int(t) for t in node_types]
    if len(types) > MAX_NODES:
        raise ValueError(f"{len(types)} nodes; graphs may have up to {MAX_NODES}")
    for i, j in edges:
        if i == j or not (0 <= i < len(types) and 0 <= j < len(types)):
            raise ValueError(f"({i}, {j}) is no edge between two of {len(types)} nodes")
    neighbours: Neighbours = [{} for _ in types]
    for (i, j), bond in zip(edges, bond_types, strict=True):
        neighbours[int(i)][int(j)] = neighbours[int(j)][int(i)] = int(bond)
    if not types or len(_reached(neighbours, 0, set())) < len(types):
        raise ValueError("a canonical depth-first order needs a connected graph with nodes")
    numbers = _Search(types, neighbours, max_leaves).best()
    return np.array(_walk(neighbours, numbers), dtype=np.int64)


def canonicalise(graphs: PackedGraphs, *, max_leaves: int = 2000) -> PackedGraphs:
    """Return the same graphs, nodes in canonical depth-first order.

    Raises:
        ValueError: with the number of the graph; see `canonical_order`.
    """
    ordered = []
    for number in range(len(graphs)):
        types, edges, bonds = graphs.graph(number)
        try:
            order = canonical_order(types, edges, bonds, max_leaves=max_leaves)
        except ValueError as error:
            raise ValueError(f"graph {number}: {error}") from None
        new = np.argsort(order)
        edges = new[np.asarray(edges, np.int64).reshape(-1, 2)]
        ordered.append((np.asarray(types)[order], edges, bonds))
    return PackedGraphs.from_lists(ordered)


def _reached(neighbours: Neighbours, start: int, barred: set[int]) -> set[int]:
    """Nodes that a walk from `start` reaches without the barred ones."""
    reached, front = {start}, [start]
    while front:
        for j in neighbours[front.pop()]:
            if j not in reached and j not in barred:
                reached.add(j)
                front.append(j)
    return reached


def _walk(neighbours: Neighbours, numbers: Sequence[int]) -> list[int]:
    """Depth-first order; small parts first, then low canonical numbers."""
    order = [min(range(len(numbers)), key=numbers.__getitem__)]
    visited = set(order)
    path = list(order)
    while path:
        ahead = [j for j in neighbours[path[-1]] if j not in visited]
        if not ahead:
            path.pop()
            continue
        sizes: dict[int, int] = {}
        if len(ahead) > 1:
            for j in ahead:
                if j not in sizes:
                    part = _reached(neighbours, j, visited)
                    sizes.update((k, len(part)) for k in ahead if k in part)
        step = min(ahead, key=lambda j: (sizes.get(j, 0), numbers[j]))
        order.append(step)
        visited.add(step)
        path.append(step)
    return order


class _Search:
    """Canonical numbering by individualisation and refinement, depth first over the choices."""

    def __init__(self, types: list[int], neighbours: Neighbours, max_leaves: int):
        self.types, self.neighbours, self.max_leaves = types, neighbours, max_leaves
        self.leaves = 0
        self.automorphisms: list[list[int]] = []
        self.first: tuple[list, list[int]] | None = None
        self.first_fixed: tuple[int, ...] = ()
        self.smallest: tuple[list, list[int]] | None = None

    def best(self) -> list[int]:
        """Canonical number of each node."""
        start = _ranks([(len(n), t) for n, t in zip(self.neighbours, self.types, strict=True)])
        self._descend(self._refine(start), ())
        assert self.smallest is not None
        return self.smallest[1]

    def _refine(self, colours: list[int]) -> list[int]:
        """Coarsest refinement in which alike nodes have alike neighbours."""
        while True:
            signature = [
                (colour, tuple(sorted((bond, colours[j]) for j, bond in near.items())))
                for colour, near in zip(colours, self.neighbours, strict=True)
            ]
            refined = _ranks(signature)
            if max(refined) == max(colours):
                return refined
            colours = refined

    def _descend(self, colours: list[int], fixed: tuple[int, ...]) -> int | None:
        """Search below a colouring.

        Returns:
            How many choices to keep before going on: where a leaf is the image of an earlier one,
            everything below the point at which the two parted is an image, too.
        """
        cells: dict[int, list[int]] = {}
        for node, colour in enumerate(colours):
            cells.setdefault(colour, []).append(node)
        open_cells = [cell for cell in cells.values() if len(cell) > 1]
        if not open_cells:
            return self._leaf(colours, fixed)
        # A cell of the smallest size; colours, and so the choice, do not depend on the numbering.
        cell = min(open_cells, key=lambda cell: (len(cell), colours[cell[0]]))
        tried: list[int] = []
        for node in cell:
            if tried and self._is_image(node, tried, fixed):
                continue
            tried.append(node)
            single = [2 * colour + 1 for colour in colours]
            single[node] -= 1
            back_to = self._descend(self._refine(_ranks(single)), (*fixed, node))
            if back_to is not None and back_to < len(fixed):
                return back_to
        return None

    def _is_image(self, node: int, tried: list[int], fixed: tuple[int, ...]) -> bool:
        """Return True if an automorphism that keeps `fixed` maps a tried node to this one."""
        if any(self._twins(node, other) for other in tried):
            return True
        orbit, front = {node}, [node]
        usable = [a for a in self.automorphisms if all(a[f] == f for f in fixed)]
        while front:
            here = front.pop()
            for automorphism in usable:
                there = automorphism[here]
                if there not in orbit:
                    orbit.add(there)
                    front.append(there)
        return any(other in orbit for other in tried)

    def _twins(self, a: int, b: int) -> bool:
        """Return whether swapping two nodes of one colour leaves the graph as it is."""
        near_a, near_b = self.neighbours[a], self.neighbours[b]
        return len(near_a) == len(near_b) and all(
            near_b.get(j) == bond for j, bond in near_a.items() if j != b
        )

    def _leaf(self, numbers: list[int], fixed: tuple[int, ...]) -> int | None:
        self.leaves += 1
        if self.leaves > self.max_leaves:
            raise ValueError(
                f"no canonical order within {self.max_leaves} tries: the graph is too regular"
            )
        certificate = sorted(
            (numbers[i], numbers[j], bond)
            for i, near in enumerate(self.neighbours)
            for j, bond in near.items()
            if numbers[i] > numbers[j]
        )
        for known in (self.first, self.smallest):
            if known is not None and known[0] == certificate:
                # Same numbered graph: an automorphism takes the known numbering to this one.
                back = np.argsort(numbers).tolist()
                image = [back[number] for number in known[1]]
                self.automorphisms.append(image)
                return self._parting(fixed) if known is self.first else None
        if self.first is None:
            self.first, self.first_fixed = (certificate, numbers), fixed
        if self.smallest is None or certificate < self.smallest[0]:
            self.smallest = (certificate, numbers)
        return None

    def _parting(self, fixed: tuple[int, ...]) -> int:
        """Choices that this leaf shares with the first one."""
        shared = 0
        for ours, theirs in zip(fixed, self.first_fixed, strict=False):
            if ours != theirs:
                break
            shared += 1
        return shared


def _ranks(keys: list) -> list[int]:
    """Rank of each key among the distinct ones."""
    rank = {key: k for k, key in enumerate(sorted(set(keys)))}
    return [rank[key] for key in keys]
