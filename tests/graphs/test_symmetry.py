import itertools
import math

import networkx as nx
import numpy as np

from graphcnf.graphs import PackedGraphs
from graphcnf.graphs.symmetry import automorphisms, labelling_bits


def typed(graph, kinds=None):
    nx.set_node_attributes(graph, kinds or 0, "category")
    nx.set_edge_attributes(graph, 0, "category")
    return graph


def test_known_groups():
    assert automorphisms(typed(nx.cycle_graph(6))) == 12
    assert automorphisms(typed(nx.star_graph(4))) == 24
    assert automorphisms(typed(nx.path_graph(4))) == 2
    assert automorphisms(typed(nx.path_graph(4), {0: 1, 1: 0, 2: 0, 3: 0})) == 1


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
