"""Canonical node order, isomorphism and automorphisms of graphs with categories.

- Two graphs are *isomorphic* if they are equal up to node numbers. An *automorphism* renumbers the
  nodes of a graph so that nothing changes.
- A *canonical* numbering is the same for all isomorphic graphs, so that they become equal arrays.
  Models of node order "canonical" are trained on graphs that are numbered so.
- A graph is given as three lists: categories of its n nodes (integers), its m edges as pairs of
  node numbers, and the categories of the edges.

The work is done by BLISS (Junttila & Kaski 2007), which igraph ships. BLISS knows colours of
vertices, but none of edges. So a graph is passed to it with one more vertex in the middle of each
edge, whose colour is the category of the edge (`Coloured`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from graphcnf.graphs.batch import PackedGraphs

EDGE = 1 << 20  # colour of an edge of category 0; node categories are below


class Coloured:
    """A graph as BLISS takes it: a vertex for every node and every edge, coloured by category."""

    def __init__(self, node_types: Iterable, edges: Iterable, edge_types: Iterable):
        import igraph  # Takes half a second: it looks for what could draw graphs.

        nodes = [int(t) for t in node_types]
        self.nodes, self.edges = len(nodes), [(int(i), int(j)) for i, j in edges]
        self.colours = [*nodes, *(EDGE + int(t) for t in edge_types)]
        self.graph: Any = igraph.Graph(len(self.colours))
        ends = ((end, self.nodes + k) for k, edge in enumerate(self.edges) for end in edge)
        self.graph.add_edges(list(ends))

    def numbers(self) -> list[int]:
        """Return the canonical number of every node, 0 to n - 1; entry k is that of node k."""
        # Since igraph 1.0 the list has the old vertex of each new place.
        order = self.graph.canonical_permutation(color=self.colours)
        places = [0] * self.nodes
        for place, node in enumerate(v for v in order if v < self.nodes):
            places[node] = place
        return places

    def automorphisms(self) -> int:
        """Return the number of automorphisms, at least 1: leaving all nodes in place is one."""
        return self.graph.count_automorphisms(color=self.colours)


def canonical_order(node_types: Iterable, edges: Iterable, edge_types: Iterable) -> np.ndarray:
    """Return the canonical depth-first order of a graph: new node i is old node `order[i]`.

    Isomorphic graphs, listed in this order, are equal: it does not depend on the given node
    numbers. The walk starts at a node of lowest degree. At a branch it goes first to the neighbour
    from which the fewest unvisited nodes can be reached. Ties are broken by the canonical numbering
    of BLISS.
    """
    graph = Coloured(node_types, edges, edge_types)
    neighbours: list[set[int]] = [set() for _ in range(graph.nodes)]
    for i, j in graph.edges:
        neighbours[i].add(j)
        neighbours[j].add(i)
    if not graph.nodes or _reached(neighbours, 0, []) < graph.nodes:
        raise ValueError("a canonical depth-first order needs a connected graph with nodes")
    numbers = graph.numbers()
    order = [min(range(graph.nodes), key=lambda k: (len(neighbours[k]), numbers[k]))]
    path = list(order)
    while path:
        ahead = [j for j in neighbours[path[-1]] if j not in order]
        if not ahead:
            path.pop()
            continue
        step = ahead[0]
        if len(ahead) > 1:
            step = min(ahead, key=lambda j: (_reached(neighbours, j, order), numbers[j]))
        order.append(step)
        path.append(step)
    return np.array(order, dtype=np.int64)


def _reached(neighbours: list[set[int]], start: int, barred: list[int]) -> int:
    """Count the nodes that are reachable from a node without passing certain others."""
    known, front = {start, *barred}, [start]
    while front:
        near = neighbours[front.pop()] - known
        known |= near
        front += near
    return len(known) - len(barred)


def canonicalise(graphs: PackedGraphs) -> PackedGraphs:
    """Renumber the nodes of graphs in `canonical_order`, as models of order "canonical" need it."""
    ordered = []
    for number in range(len(graphs)):
        types, edges, edge_types = graphs.graph(number)
        try:
            order = canonical_order(types, edges, edge_types)
        except ValueError as error:
            raise ValueError(f"graph {number}: {error}") from None
        ordered.append((types[order], np.argsort(order)[edges], edge_types))
    return PackedGraphs.from_lists(ordered)


def order_check() -> str:
    """Return a digest of how this version of igraph numbers graphs, 16 hexadecimal digits.

    It is made of the canonical orders of ten fixed graphs. Another version of igraph may number
    graphs otherwise, and a model trained on the one numbering would score the other wrongly. So a
    model keeps the digest of its training, and refuses to score where this function returns another
    one.
    """
    orders = []
    for size in range(6, 16):
        random = np.random.default_rng(size)
        edges = [(int(random.integers(k)), k) for k in range(1, size)]
        edges += [(k, size - 1 - k) for k in range(size // 2 - 1) if (k, size - 1 - k) not in edges]
        kinds = random.integers(2, size=size), random.integers(2, size=len(edges))
        orders.append(canonical_order(kinds[0], edges, kinds[1]).tolist())
    return hashlib.sha256(json.dumps(orders).encode()).hexdigest()[:16]


def isomorphic(one: tuple, other: tuple) -> bool:
    """Return True if two graphs, as `PackedGraphs.graph` gives them, are equal up to numbers."""
    if any(not np.array_equal(np.sort(one[k]), np.sort(other[k])) for k in (0, 2)):
        return False
    first, second = Coloured(*one), Coloured(*other)
    return first.graph.isomorphic_bliss(second.graph, color1=first.colours, color2=second.colours)


def labelling_bits(graphs: PackedGraphs) -> np.ndarray:
    """Return how many bits the node numbers of graphs take: log2(n! / number of automorphisms).

    This is log2 of the number of distinct ways to number the nodes of a graph. A model of node
    order "none" gives all of them the same probability. So its bits of the graph without numbers
    are those of one numbered graph minus these bits.
    """
    found = [Coloured(*graphs.graph(k)).automorphisms() for k in range(len(graphs))]
    sizes = [math.lgamma(size + 1) for size in graphs.node_counts]
    return (np.array(sizes) - [math.log(count) for count in found]) / math.log(2)
