"""Clusters of graphs: the junction tree that a graph falls into, and what a cluster is.

A cluster is an edge outside of rings, a ring, rings that share more than two nodes as one, or a
single node in which three clusters or more meet. Jin, Barzilay & Jaakkola, *Junction Tree
Variational Autoencoder for Molecular Graph Generation*, ICML 2018, arXiv 1802.04364, section 2.1
and appendix A. Rings whose clusters would not form a tree (three that share edges pairwise around a
node) are one cluster here, so that every connected graph has its tree.
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import networkx as nx

from graphcnf.errors import UserError
from graphcnf.graphs.symmetry import SAME

MOST_SYMMETRIES = 10_000
"""A cluster with more is no ring of a molecule (a complete graph of 8 nodes has 40,320)."""

Neighbours = list[dict[int, int]]
"""Category of the edge to each neighbour, for every node."""


def rings(neighbours: Neighbours) -> list[set[int]]:
    """Nodes of the rings of a cycle basis, each the shortest through some edge where that does.

    Of a graph in one piece; otherwise there may be too few.
    """
    edges = [(v, w) for v, around in enumerate(neighbours) for w in around if v < w]
    covered: set[tuple[int, int]] = set()
    found = []
    for v, w in edges:
        if (v, w) in covered:
            continue
        ring = _shortest_ring(neighbours, v, w)
        if ring is not None:
            found.append(set(ring))
            covered |= {(min(e), max(e)) for e in zip(ring, ring[1:] + ring[:1], strict=True)}
    if len(found) < len(edges) - len(neighbours) + 1:
        # Of several such bases, the choice is that of the graph without its branches.
        core = nx.k_core(nx.Graph(edges), 2)
        graph = nx.Graph(edge for edge in edges if core.has_edge(*edge))
        return [set(ring) for ring in nx.minimum_cycle_basis(graph)]
    return found


def _shortest_ring(neighbours: Neighbours, v: int, w: int) -> list[int] | None:
    """Nodes of a shortest ring through an edge, in order; None for a bridge."""
    before, queue = {v: -1}, deque([v])
    while queue:
        here = queue.popleft()
        for there in neighbours[here]:
            if there in before or (here == v and there == w):
                continue
            before[there] = here
            if there == w:
                ring = [w]
                while ring[-1] != v:
                    ring.append(before[ring[-1]])
                return ring
            queue.append(there)
    return None


@dataclass
class JunctionTree:
    """Clusters of a graph in depth-first order, the one of node 0 first.

    Attributes:
        clusters: Nodes of each cluster, ascending.
        parents: Number of the parent of each, -1 for the first.
    """

    clusters: list[tuple[int, ...]]
    parents: list[int]


def junction_tree(neighbours: Neighbours) -> JunctionTree | None:
    """Return the junction tree of a graph; None where the graph is not in one piece."""
    if len(neighbours) == 1:
        return JunctionTree([(0,)], [-1])
    if not any(neighbours):
        return None
    cycles = _merged(rings(neighbours))
    while True:
        clusters, links = _linked(neighbours, cycles)
        again = _not_a_tree(neighbours, clusters, links)
        if not again:
            break
        cycles = _merged([*(c for c in cycles if not c <= again), again])
    around = defaultdict(list)
    for a, b in links:
        around[a].append(b)
        around[b].append(a)
    first = min(range(len(clusters)), key=lambda c: sorted(clusters[c]))
    order, parents, stack = [], [], [(first, -1, -1)]
    while stack:
        c, number, above = stack.pop()
        parents.append(number)
        order.append(tuple(sorted(clusters[c])))
        children = sorted((d for d in around[c] if d != above), key=lambda d: sorted(clusters[d]))
        here = len(order) - 1
        stack += [(d, here, c) for d in reversed(children)]
    if len(order) != len(clusters) or len(set().union(*order)) != len(neighbours):
        return None
    return JunctionTree(order, parents)


def _merged(cycles: list[set[int]]) -> list[set[int]]:
    """Return the same with rings that share more than two nodes as one."""
    done: list[set[int]] = []
    for ring in cycles:
        ring = set(ring)
        again = True
        while again:
            joined = [other for other in done if len(other & ring) > 2]
            again = bool(joined)
            done = [other for other in done if len(other & ring) <= 2]
            ring = ring.union(*joined)
        done.append(ring)
    return done


def _linked(neighbours: Neighbours, cycles: list[set[int]]):
    """All clusters, and the links of a spanning tree of largest overlaps."""
    of_node = defaultdict(list)
    for k, ring in enumerate(cycles):
        for v in ring:
            of_node[v].append(k)
    clusters = list(cycles)
    for v, around in enumerate(neighbours):
        for w in around:
            if v < w and not any(w in cycles[k] for k in of_node[v] if k < len(cycles)):
                of_node[v].append(len(clusters))
                of_node[w].append(len(clusters))
                clusters.append({v, w})
    weights: dict[tuple[int, int], int] = {}
    for v, inside in list(of_node.items()):
        bonds = sum(k >= len(cycles) for k in inside)
        if bonds > 2 or (bonds == 2 and len(inside) > 2):
            weights |= {(k, len(clusters)): 100 for k in inside}
            clusters.append({v})
            continue
        for i, a in enumerate(inside):
            for b in inside[i + 1 :]:
                weights[a, b] = len(clusters[a] & clusters[b])
    links, trees = [], nx.utils.UnionFind()
    for a, b in sorted(weights, key=lambda pair: -weights[pair]):
        if trees[a] != trees[b]:
            trees.union(a, b)
            links.append((a, b))
    return clusters, links


def _not_a_tree(neighbours: Neighbours, clusters: list[set[int]], links) -> set[int]:
    """Nodes of rings that must be one cluster; empty where the links make a junction tree."""
    count: dict[int, int] = defaultdict(int)
    for cluster in clusters:
        for v in cluster:
            count[v] += 1
    for a, b in links:
        shared = clusters[a] & clusters[b]
        for v in shared:
            count[v] -= 1
        if len(shared) == 2:
            v, w = shared
            if w not in neighbours[v]:
                return clusters[a] | clusters[b]
    for v, left in count.items():
        if left != 1:
            return set().union(*(c for c in clusters if v in c and len(c) > 2))
    return set()


Site = tuple[int, ...]
"""Where a cluster may share nodes with another: one node, or both ends of an edge."""


@dataclass
class Cluster:
    """A labelled graph of the vocabulary.

    Attributes:
        types: Node categories.
        edges: Category of each edge (i, j), both ways round.
    """

    types: tuple[int, ...]
    edges: dict[Site, int]
    sums: tuple[int, ...] = ()
    """Sum of edge weights of each node; the vocabulary fills it in."""

    @cached_property
    def graph(self) -> nx.Graph:
        """Return a networkx graph with `category` attributes."""
        graph = nx.Graph()
        graph.add_nodes_from((v, {"category": t}) for v, t in enumerate(self.types))
        graph.add_edges_from((i, j, {"category": k}) for (i, j), k in self.edges.items())
        return graph

    def onto(self, other: Cluster):
        """All isomorphisms: node of `other` for each node of this."""
        matcher = nx.algorithms.isomorphism.GraphMatcher(self.graph, other.graph, **SAME)
        for found in matcher.isomorphisms_iter():
            yield tuple(found[v] for v in range(len(self.types)))

    @cached_property
    def symmetries(self) -> list[Site]:
        """Its automorphisms.

        Raises:
            UserError: if there are too many of them.
        """
        found = list(islice(self.onto(self), MOST_SYMMETRIES + 1))
        if len(found) > MOST_SYMMETRIES:
            raise UserError(
                f"rings of {len(self.types)} nodes that can be renumbered in more than "
                f"{MOST_SYMMETRIES:,} ways: too many for a cluster of a junction tree"
            )
        return found

    @cached_property
    def orbit(self) -> tuple[int, ...]:
        """The first node that is equivalent to each node."""
        return tuple(min(s[v] for s in self.symmetries) for v in range(len(self.types)))

    @cached_property
    def sites(self) -> list[Site]:
        """Nodes, and in rings edges either way round, one of each that are equivalent."""
        found: list[Site] = [(v,) for v in range(len(self.types))]
        if len(self.types) > 2:
            found += list(self.edges)
        return [site for site in found if site == self.representative(site)]

    def representative(self, site: Site) -> Site:
        """Return the first of the sites that are equivalent to a site."""
        return min(tuple(s[v] for v in site) for s in self.symmetries)
