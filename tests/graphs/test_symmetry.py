import itertools
import math

import networkx as nx
import numpy as np

from graphcnf.graphs import PackedGraphs
from graphcnf.graphs.isomorphism import SAME, automorphisms, labelling_bits, typed_graph


def typed(graph, kinds=None):
    nx.set_node_attributes(graph, kinds or 0, "category")
    nx.set_edge_attributes(graph, 0, "category")
    return graph


def test_known_groups():
    assert automorphisms(typed(nx.cycle_graph(6))) == 12
    assert automorphisms(typed(nx.star_graph(4))) == 24
    assert automorphisms(typed(nx.path_graph(4))) == 2
    assert automorphisms(typed(nx.path_graph(4), {0: 1, 1: 0, 2: 0, 3: 0})) == 1


def test_alike_branches_multiply():
    # 12! renumberings, of which none is looked at.
    assert automorphisms(typed(nx.star_graph(12))) == math.factorial(12)
    kinds = {0: 0, **dict.fromkeys(range(1, 5), 1), **dict.fromkeys(range(5, 13), 2)}
    assert automorphisms(typed(nx.star_graph(12), kinds)) == 24 * math.factorial(8)
    # Two carbons with three CF3 each on an oxygen.
    ether = nx.balanced_tree(3, 3)
    ether.remove_nodes_from([3, *nx.descendants(nx.bfs_tree(ether, 0), 3)])
    assert automorphisms(typed(ether)) == 2 * math.factorial(3) ** 8


def test_the_group_is_as_large_as_enumeration_finds(random_graphs):
    several = 0
    for k in range(300):
        graph = typed_graph(*random_graphs.graph(k))
        for v in graph if k % 2 else ():
            graph.nodes[v]["category"] = 0
        if k % 3 == 0:
            nx.set_edge_attributes(graph, 0, "category")
        before = graph.copy()
        found = nx.algorithms.isomorphism.GraphMatcher(graph, graph, **SAME)
        expected = sum(1 for _ in found.isomorphisms_iter())
        assert automorphisms(graph) == expected
        assert nx.utils.graphs_equal(before, graph)
        several += expected > 1
    assert several > 50


def test_graphs_in_pieces():
    pieces = nx.disjoint_union_all([nx.path_graph(2), nx.path_graph(2), nx.star_graph(3)])
    assert automorphisms(typed(pieces)) == 2 * 2 * 2 * 6
    assert automorphisms(typed(nx.empty_graph(4))) == 24


def test_labellings_are_counted():
    # A path of three nodes with equal ends: the distinct labelled graphs, by enumeration.
    types, edges, bonds = [1, 0, 0], [(1, 0), (2, 1)], [0, 1]
    distinct = set()
    for p in itertools.permutations(range(3)):
        kinds = tuple(types[p.index(i)] for i in range(3))
        placed = frozenset((frozenset((p[i], p[j])), b) for (i, j), b in zip(edges, bonds))  # noqa: B905
        distinct.add((kinds, placed))
    packed = PackedGraphs.from_lists([(types, edges, bonds)])
    assert np.allclose(labelling_bits(packed), math.log2(len(distinct)))
