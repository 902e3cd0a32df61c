"""Canonical depth-first order, isomorphism and automorphisms of graphs with categories.

BLISS (Junttila & Kaski 2007), which igraph ships, numbers a graph canonically and counts its
automorphisms. It knows colours of vertices only, so that a graph is given with one more vertex on
each edge, whose colour is the category of the edge.
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
    """A graph with a coloured vertex for every node and for every edge.

    Args:
        node_types: Categories of the n nodes.
        edges: Pairs of nodes, (m, 2).
        edge_types: Categories of the m edges.
    """

    def __init__(self, node_types: Iterable, edges: Iterable, edge_types: Iterable):
        import igraph  # Takes half a second: it looks for what could draw graphs.

        nodes = [int(t) for t in node_types]
        self.nodes, self.edges = len(nodes), [(int(i), int(j)) for i, j in edges]
        self.colours = [*nodes, *(EDGE + int(t) for t in edge_types)]
        self.graph: Any = igraph.Graph(len(self.colours))
        ends = ((end, self.nodes + k) for k, edge in enumerate(self.edges) for end in edge)
        self.graph.add_edges(list(ends))

    def numbers(self) -> list[int]:
        """Return the canonical number of every node: entry k is that of node k."""
        # Since igraph 1.0 the list has the old vertex of each new place.
        order = self.graph.canonical_permutation(color=self.colours)
        places = [0] * self.nodes
        for place, node in enumerate(v for v in order if v < self.nodes):
            places[node] = place
        return places

    def automorphisms(self) -> int:
        """Return the number of automorphisms: renumberings of the nodes that change nothing."""
        return self.graph.count_automorphisms(color=self.colours)


def canonical_order(node_types: Iterable, edges: Iterable, edge_types: Iterable) -> np.ndarray:
    """Return the canonical depth-first order of the nodes of a graph.

    It depends on the graph only, not on the given node numbers. The walk starts at the node of
    lowest degree and, of several, at the first one in the canonical numbering. At a branch it
    visits the neighbour first that has the fewest unvisited nodes behind it.

    Args:
        node_types: Categories of the n nodes.
        edges: Pairs of nodes, (m, 2).
        edge_types: Categories of the m edges.

    Returns:
        Node numbers in this order, (n,) int64: new node i is old node `order[i]`.

    Raises:
        ValueError: for a graph that is empty or not connected.
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
    """Count the nodes that are reachable from a node without passing certain others.

    Args:
        neighbours: Neighbours of each node.
        start: The node, which counts too.
        barred: Nodes that may not be passed.
    """
    known, front = {start, *barred}, [start]
    while front:
        near = neighbours[front.pop()] - known
        known |= near
        front += near
    return len(known) - len(barred)


def canonicalise(graphs: PackedGraphs) -> PackedGraphs:
    """Return graphs with their nodes renumbered in `canonical_order`.

    Args:
        graphs: M connected graphs.

    Returns:
        As many graphs, in their order; isomorphic ones are equal arrays now.

    Raises:
        ValueError: if a graph is empty or not connected; the message has its number.
    """
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
    """Return a digest of the canonical orders of ten fixed graphs.

    Another version of igraph may number graphs otherwise. A model of canonical orders keeps this
    digest, and scores only where it is the same.
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
    """Return True if two graphs are equal up to node numbers.

    Args:
        one: Node categories (n,), edges (m, 2) and edge categories (m,) of a graph.
        other: The same of the other graph.
    """
    if any(not np.array_equal(np.sort(one[k]), np.sort(other[k])) for k in (0, 2)):
        return False
    first, second = Coloured(*one), Coloured(*other)
    return first.graph.isomorphic_bliss(second.graph, color1=first.colours, color2=second.colours)


def labelling_bits(graphs: PackedGraphs) -> np.ndarray:
    """Return log2 of the number of distinct node numberings of each of M graphs, (M,) bits.

    The number is n! / (number of automorphisms). An order-invariant model gives all numberings of a
    graph the same probability: the bits of the graph without numbers are those of one numbering
    minus this logarithm.

    Args:
        graphs: M graphs, in any node order.
    """
    found = [Coloured(*graphs.graph(k)).automorphisms() for k in range(len(graphs))]
    sizes = [math.lgamma(size + 1) for size in graphs.node_counts]
    return (np.array(sizes) - [math.log(count) for count in found]) / math.log(2)
