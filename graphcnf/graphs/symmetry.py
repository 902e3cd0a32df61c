"""Symmetry of typed graphs: what an unordered model spends on the choice of a labelling."""

from __future__ import annotations

import math
from collections import Counter, defaultdict

import networkx as nx
import numpy as np

from graphcnf.graphs.packed import PackedGraphs

SAME = {
    "node_match": nx.algorithms.isomorphism.categorical_node_match("category", None),
    "edge_match": nx.algorithms.isomorphism.categorical_edge_match("category", None),
}
"""Nodes and edges are alike where their categories are."""


def typed_graph(types: np.ndarray, edges: np.ndarray, bonds: np.ndarray) -> nx.Graph:
    """Return a graph (see `PackedGraphs.graph`) with `category` attributes."""
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
    # Rounds of refinement tell nearly all different graphs apart at once.
    hashes = {nx.weisfeiler_lehman_graph_hash(g, "category", "category") for g in pair}
    return len(hashes) == 1 and nx.is_isomorphic(*pair, **SAME)


def automorphisms(graph: nx.Graph) -> int:
    """Return |Aut|, the number of automorphisms of a graph with `category` attributes."""
    graph, count = graph.copy(), 1
    known: dict[tuple, tuple] = {}
    # Branches are cut off leaf by leaf, and the node that they hang on keeps their kinds in mind:
    # alike ones may change places, and only what is left must be looked at one by one.
    while leaves := [v for v, branch in graph.adj.items()
                     if len(branch) == 1 and graph.degree[next(iter(branch))] > 1]:  # fmt: skip
        hanging: dict[int, Counter] = defaultdict(Counter)
        for v in leaves:
            ((parent, edge),) = graph.adj[v].items()
            hanging[parent][graph.nodes[v]["category"], edge["category"]] += 1
        graph.remove_nodes_from(leaves)
        for parent, kinds in hanging.items():
            count *= math.prod(math.factorial(k) for k in kinds.values())
            node = graph.nodes[parent]
            key = node["category"], frozenset(kinds.items())
            # A number for each kind of branch, as a tuple: no category of a single node is one.
            node["category"] = known.setdefault(key, (len(known),))
    matcher = nx.algorithms.isomorphism.GraphMatcher(graph, graph, **SAME)
    return count * sum(1 for _ in matcher.isomorphisms_iter())


def labelling_bits(graphs: PackedGraphs) -> np.ndarray:
    """log2(n! / |Aut|) of each graph, (M,): the number of its distinct labellings, in bits.

    An order-invariant model gives every labelling of a graph the same probability, so its bits for
    the graph itself are its bits for one labelling minus this.
    """
    bits = np.zeros(len(graphs))
    for k in range(len(graphs)):
        size, found = graphs.node_counts[k], automorphisms(typed_graph(*graphs.graph(k)))
        bits[k] = (math.lgamma(size + 1) - math.log(found)) / math.log(2)
    return bits
