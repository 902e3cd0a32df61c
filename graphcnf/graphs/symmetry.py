"""Symmetry of typed graphs: what an unordered model spends on the choice of a labelling."""

from __future__ import annotations

import math

import networkx as nx
import numpy as np

from graphcnf.graphs.packed import PackedGraphs


def automorphisms(graph: nx.Graph) -> int:
    """Number |Aut| of renumberings that leave a graph with `category` attributes as it is."""
    same = nx.algorithms.isomorphism.categorical_node_match("category", None)
    alike = nx.algorithms.isomorphism.categorical_edge_match("category", None)
    matcher = nx.algorithms.isomorphism.GraphMatcher(graph, graph, same, alike)
    return sum(1 for _ in matcher.isomorphisms_iter())


def labelling_bits(graphs: PackedGraphs) -> np.ndarray:
    """log2(n! / |Aut|) of each graph, (M,): the number of its distinct labellings, in bits.

    An order-invariant model gives every labelling of a graph the same probability, so its bits for
    the graph itself are its bits for one labelling minus this.
    """
    bits = np.zeros(len(graphs))
    for k in range(len(graphs)):
        types, edges, bonds = graphs.graph(k)
        graph = nx.Graph()
        graph.add_nodes_from((i, {"category": int(t)}) for i, t in enumerate(types))
        graph.add_edges_from(
            (int(i), int(j), {"category": int(b)}) for (i, j), b in zip(edges, bonds, strict=True)
        )
        bits[k] = (math.lgamma(len(types) + 1) - math.log(automorphisms(graph))) / math.log(2)
    return bits
