"""Canonical depth-first order, isomorphism and automorphisms of graphs with categories."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

import networkx as nx
import numpy as np

from graphcnf.graphs.batch import PackedGraphs

# For each node, its neighbours with the category of the edge to each.
Neighbours = list[dict[int, int]]

# Arguments by which networkx matches nodes and edges of equal categories only.
SAME = {
    "node_match": nx.algorithms.isomorphism.categorical_node_match("category", None),
    "edge_match": nx.algorithms.isomorphism.categorical_edge_match("category", None),
}


def canonical_order(
    node_types: Sequence[int] | np.ndarray,
    edges: Sequence[tuple[int, int]] | np.ndarray,
    bond_types: Sequence[int] | np.ndarray,
    *,
    max_leaves: int = 2000,
) -> np.ndarray:
    """Return the canonical depth-first order: new node i is old node `order[i]`, (n,) int64.

    The walk starts at the first node of the canonical numbering, one of lowest degree. At a branch
    it visits the neighbour first that has the fewest unvisited nodes behind it. Raises ValueError
    for a graph that is empty, not connected, or needs more than `max_leaves` numberings to compare.
    """
    types = [int(t) for t in node_types]
    neighbours: Neighbours = [{} for _ in types]
    for (i, j), bond in zip(edges, bond_types, strict=True):
        neighbours[int(i)][int(j)] = neighbours[int(j)][int(i)] = int(bond)
    if not types or _reached(neighbours, 0, []) < len(types):
        raise ValueError("a canonical depth-first order needs a connected graph with nodes")
    numbers = _Search(types, neighbours, max_leaves).numbers
    order = [numbers.index(0)]
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


def canonicalise(graphs: PackedGraphs) -> PackedGraphs:
    """Renumber the nodes of graphs in `canonical_order`; a ValueError names the graph."""
    ordered = []
    for number in range(len(graphs)):
        types, edges, bonds = graphs.graph(number)
        try:
            order = canonical_order(types, edges, bonds)
        except ValueError as error:
            raise ValueError(f"graph {number}: {error}") from None
        ordered.append((types[order], np.argsort(order)[edges], bonds))
    return PackedGraphs.from_lists(ordered)


def _reached(neighbours: Neighbours, start: int, barred: list[int]) -> int:
    """Return the number of nodes that are reachable from `start` without passing `barred` nodes."""
    known, front = {start, *barred}, [start]
    while front:
        near = neighbours[front.pop()].keys() - known
        known |= near
        front += near
    return len(known) - len(barred)


class _Search:
    """Search for canonical `numbers` of nodes by individualisation and refinement.

    Colour refinement (Weisfeiler & Leman 1968) splits the nodes into classes. If a class has
    several nodes, each in turn is singled out; the numbering with the smallest edge list is the
    canonical one (McKay & Piperno 2014, arXiv 1301.1493). The search is exact, so its time is
    exponential for graphs with large classes and few automorphisms, such as strongly regular ones.
    """

    def __init__(self, types: list[int], neighbours: Neighbours, max_leaves: int):
        self.neighbours, self.max_leaves, self.leaves = neighbours, max_leaves, 0
        self.automorphisms: list[list[int]] = []
        self.numbers: list[int] = []
        self.certificate: list = []
        start = [(len(n), t) for n, t in zip(neighbours, types, strict=True)]
        self._descend(self._refine(_ranks(start)), ())

    def _refine(self, colours: list[int]) -> list[int]:
        """Refine colours until nodes of equal colour have neighbours of equal colours."""
        while True:
            refined = _ranks(
                [
                    (colour, tuple(sorted((bond, colours[j]) for j, bond in near.items())))
                    for colour, near in zip(colours, self.neighbours, strict=True)
                ]
            )
            if max(refined) == max(colours):
                return refined
            colours = refined

    def _descend(self, colours: list[int], fixed: tuple[int, ...]) -> None:
        """Search the numberings that refine `colours`, where the nodes `fixed` are singled out."""
        alike = [(count, colour) for colour, count in Counter(colours).items() if count > 1]
        if not alike:
            self._leaf(colours)
            return
        # The smallest class; colours, and so this choice, do not depend on the given numbering.
        _, chosen = min(alike)
        tried: list[int] = []
        for node, own in enumerate(colours):
            if own == chosen and not self._is_image(node, tried, fixed):
                tried.append(node)
                single = [2 * colour + 1 for colour in colours]
                single[node] -= 1
                self._descend(self._refine(_ranks(single)), (*fixed, node))

    def _is_image(self, node: int, tried: list[int], fixed: tuple[int, ...]) -> bool:
        """Return True if an automorphism that keeps `fixed` maps a tried node to `node`."""
        near = self.neighbours[node]
        for other in tried:  # Two nodes with the same other neighbours can be swapped.
            own = {j: bond for j, bond in self.neighbours[other].items() if j != node}
            if own == {j: bond for j, bond in near.items() if j != other}:
                return True
        usable = [a for a in self.automorphisms if all(a[f] == f for f in fixed)]
        orbit, front = {node}, [node]
        while front:
            images = {a[front[-1]] for a in usable} - orbit
            orbit |= images
            front[-1:] = images
        return not orbit.isdisjoint(tried)

    def _leaf(self, numbers: list[int]) -> None:
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
        if self.numbers and certificate == self.certificate:
            # Equal numbered graphs: an automorphism takes the known numbering to this one.
            back = np.argsort(numbers).tolist()
            self.automorphisms.append([back[number] for number in self.numbers])
        elif not self.numbers or certificate < self.certificate:
            self.certificate, self.numbers = certificate, numbers


def _ranks(keys: list) -> list[int]:
    """Return the rank of each key among the distinct ones."""
    rank = {key: k for k, key in enumerate(sorted(set(keys)))}
    return [rank[key] for key in keys]


def typed_graph(types: np.ndarray, edges: np.ndarray, bonds: np.ndarray) -> nx.Graph:
    """Return a networkx graph with `category` attributes; arguments as in `PackedGraphs.graph`."""
    graph = nx.Graph()
    graph.add_nodes_from((v, {"category": t}) for v, t in enumerate(types.tolist()))
    pairs = zip(edges.tolist(), bonds.tolist(), strict=True)
    graph.add_edges_from((i, j, {"category": b}) for (i, j), b in pairs)
    return graph


def isomorphic(one: tuple, other: tuple) -> bool:
    """Return True if two graphs (see `PackedGraphs.graph`) are equal up to node numbers."""
    if any(not np.array_equal(np.sort(one[k]), np.sort(other[k])) for k in (0, 2)):
        return False
    pair = typed_graph(*one), typed_graph(*other)
    # The hash of colour refinement tells nearly all different graphs apart, and is fast.
    hashes = {nx.weisfeiler_lehman_graph_hash(g, "category", "category") for g in pair}
    return len(hashes) == 1 and nx.is_isomorphic(*pair, **SAME)


def automorphisms(graph: nx.Graph) -> int:
    """Return |Aut|, the number of automorphisms of a graph with `category` attributes."""
    graph, count = graph.copy(), 1
    known: dict[tuple, tuple] = {}
    # Leaves are cut off round by round. Equal leaves of a node can be permuted, which gives a
    # factorial, and the node's category then includes them; the search handles only the rest.
    while leaves := [
        v
        for v, branch in graph.adj.items()
        if len(branch) == 1 and graph.degree[next(iter(branch))] > 1
    ]:
        hanging: dict[int, Counter] = defaultdict(Counter)
        for v in leaves:
            ((parent, edge),) = graph.adj[v].items()
            hanging[parent][graph.nodes[v]["category"], edge["category"]] += 1
        graph.remove_nodes_from(leaves)
        for parent, branches in hanging.items():
            count *= math.prod(math.factorial(k) for k in branches.values())
            node = graph.nodes[parent]
            key = node["category"], frozenset(branches.items())
            # The new category is a tuple, so that it differs from all given ones.
            node["category"] = known.setdefault(key, (len(known),))
    matcher = nx.algorithms.isomorphism.GraphMatcher(graph, graph, **SAME)
    return count * sum(1 for _ in matcher.isomorphisms_iter())


def labelling_bits(graphs: PackedGraphs) -> np.ndarray:
    """Return log2(n! / |Aut|), the log of the number of distinct labellings of each graph, (M,).

    Bits of an unlabelled graph are those of one labelling, by an order-invariant model, minus this.
    """
    found = [automorphisms(typed_graph(*graphs.graph(k))) for k in range(len(graphs))]
    sizes = [math.lgamma(size + 1) for size in graphs.node_counts]
    return (np.array(sizes) - [math.log(count) for count in found]) / math.log(2)
