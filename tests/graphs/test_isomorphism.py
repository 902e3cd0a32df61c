"""Canonical orders, and counts of automorphisms."""

import math
from itertools import permutations

import networkx as nx
import numpy as np
import pytest

from graphcnf.graphs import GraphBatch, PackedGraphs
from graphcnf.graphs.isomorphism import Coloured, canonical_order, canonicalise, labelling_bits
from graphcnf.graphs.path.depth_first import earlier_edges

SYMMETRIC = {
    "single node": nx.empty_graph(1),
    "path": nx.path_graph(40),
    "cycle": nx.cycle_graph(30),
    "star": nx.star_graph(20),
    "tree": nx.balanced_tree(2, 4),
    "grid": nx.grid_2d_graph(4, 6),
    "torus": nx.grid_2d_graph(4, 5, periodic=True),
    "complete": nx.complete_graph(12),
    "complete bipartite": nx.complete_bipartite_graph(5, 6),
    "cube": nx.hypercube_graph(4),
    "Petersen": nx.petersen_graph(),
    "dodecahedron": nx.dodecahedral_graph(),
    "Paley": nx.Graph([(i, (i + s) % 13) for i in range(13) for s in (1, 3, 4)]),
    "regular": nx.random_regular_graph(3, 30, seed=1),
}


def relabelled(graph, random):
    """The same graph with nodes and edges in another order."""
    types, edges, bonds = graph
    order = random.permutation(len(types))
    edges = np.argsort(order)[np.asarray(edges, dtype=int).reshape(-1, 2)]
    rows = random.permutation(len(edges))
    return np.asarray(types)[order], edges[rows][:, ::-1], np.asarray(bonds)[rows]


@pytest.mark.parametrize("source", ["random_graphs", "molecules"])
def test_relabelled_graphs_become_the_same_graph(source, request):
    packed = request.getfixturevalue(source).subset(range(300))
    random = np.random.default_rng(0)
    expected = canonicalise(packed)
    for _ in range(3):
        other = [relabelled(packed.graph(k), random) for k in range(len(packed))]
        assert canonicalise(PackedGraphs.from_lists(other)) == expected
    assert canonicalise(expected) == expected
    assert np.array_equal(expected.edge_counts, packed.edge_counts)
    batch = GraphBatch.collate(expected)
    earlier_edges(batch.adjacency, batch.mask, int(batch.adjacency.tril(-1).sum(-1).max()))


@pytest.mark.parametrize("name", SYMMETRIC)
def test_symmetric_graphs_become_the_same_graph(name):
    graph = nx.convert_node_labels_to_integers(SYMMETRIC[name])
    n, random = len(graph), np.random.default_rng(0)
    edges = np.array(graph.edges, dtype=int).reshape(-1, 2)
    results = []
    for _ in range(4):
        other = relabelled(([0] * n, edges, [0] * len(edges)), random)
        results.append(canonicalise(PackedGraphs.from_lists([other])))
        assert results[-1] == results[0]
    types, found, bonds = results[0].graph(0)
    assert nx.is_isomorphic(graph, nx.from_edgelist(found.tolist()) if n > 1 else graph)
    batch = GraphBatch.collate(results[0])
    earlier_edges(batch.adjacency, batch.mask, n)


def test_every_small_graph_and_every_numbering():
    for graph in nx.graph_atlas_g()[1:53]:
        if not nx.is_connected(graph):
            continue
        n, found = len(graph), set()
        for numbers in permutations(range(n)):
            edges = [(numbers[i], numbers[j]) for i, j in graph.edges]
            order = canonical_order([0] * n, edges, [0] * len(edges)).tolist()
            assert sorted(order) == list(range(n))
            ends = [tuple(sorted((order.index(i), order.index(j)))) for i, j in edges]
            found.add(tuple(sorted(ends)))
        assert len(found) == 1


def test_different_graphs_stay_different():
    # Refinement alone cannot tell these two apart.
    two = nx.disjoint_union(nx.cycle_graph(4), nx.cycle_graph(4))
    two.add_edge(0, 4)
    other = nx.cycle_graph(8)
    other.add_edge(0, 3)
    triples = [([0] * 8, list(g.edges), [0] * 9) for g in (two, other)]
    first, second = (canonicalise(PackedGraphs.from_lists([t])) for t in triples)
    assert first != second
    # Categories of nodes and of edges count.
    path = [([0, 0, 1], [(0, 1), (1, 2)], [0, 0]), ([0, 1, 0], [(0, 1), (1, 2)], [0, 0])]
    path += [([0, 0, 1], [(0, 1), (1, 2)], [0, 1]), ([0, 0, 1], [(0, 1), (1, 2)], [1, 0])]
    ordered = [canonicalise(PackedGraphs.from_lists([t])) for t in path]
    assert all(a != b for k, a in enumerate(ordered) for b in ordered[:k])


@pytest.mark.parametrize("graph", [([0] * 4, [(0, 1), (2, 3)], [0, 0]), ([], [], [])])
def test_what_has_no_order_is_refused(graph):
    with pytest.raises(ValueError, match="graph 1: .* needs a connected graph with nodes"):
        canonicalise(PackedGraphs.from_lists([([0], [], []), graph]))


def automorphisms(graph, kinds=None):
    graph = nx.convert_node_labels_to_integers(graph)
    kinds = kinds or {}
    edges = list(graph.edges)
    nodes = [kinds.get(v, 0) for v in graph]
    return Coloured(nodes, edges, [0] * len(edges)).automorphisms()


def test_alike_branches_multiply():
    # 12! renumberings, of which none is looked at.
    assert automorphisms(nx.star_graph(12)) == math.factorial(12)
    kinds = {0: 0, **dict.fromkeys(range(1, 5), 1), **dict.fromkeys(range(5, 13), 2)}
    assert automorphisms(nx.star_graph(12), kinds) == 24 * math.factorial(8)
    # Two carbons with three CF3 each on an oxygen.
    ether = nx.balanced_tree(3, 3)
    ether.remove_nodes_from([3, *nx.descendants(nx.bfs_tree(ether, 0), 3)])
    assert automorphisms(ether) == 2 * math.factorial(3) ** 8


def test_the_group_is_as_large_as_enumeration_finds(random_graphs):
    several = 0
    same = nx.algorithms.isomorphism.categorical_node_match("category", None)
    alike = nx.algorithms.isomorphism.categorical_edge_match("category", None)
    for k in range(300):
        types, edges, bonds = random_graphs.graph(k)
        types, bonds = types * (k % 2 == 0), bonds * (k % 3 != 0)
        graph = nx.Graph()
        graph.add_nodes_from((v, {"category": t}) for v, t in enumerate(types.tolist()))
        rows = zip(edges.tolist(), bonds.tolist(), strict=True)
        graph.add_edges_from((i, j, {"category": b}) for (i, j), b in rows)
        found = nx.algorithms.isomorphism.GraphMatcher(graph, graph, same, alike)
        expected = sum(1 for _ in found.isomorphisms_iter())
        assert Coloured(types, edges, bonds).automorphisms() == expected
        several += expected > 1
    assert several > 50


def test_graphs_in_pieces():
    pieces = nx.disjoint_union_all([nx.path_graph(2), nx.path_graph(2), nx.star_graph(3)])
    assert automorphisms(pieces) == 2 * 2 * 2 * 6
    assert automorphisms(nx.empty_graph(4)) == 24
    assert automorphisms(nx.cycle_graph(6)) == 12


def test_labellings_are_counted():
    # A path of three nodes with equal ends: the distinct labelled graphs, by enumeration.
    types, edges, bonds = [1, 0, 0], [(1, 0), (2, 1)], [0, 1]
    distinct = set()
    for p in permutations(range(3)):
        kinds = tuple(types[p.index(i)] for i in range(3))
        placed = frozenset((frozenset((p[i], p[j])), b) for (i, j), b in zip(edges, bonds))  # noqa: B905
        distinct.add((kinds, placed))
    packed = PackedGraphs.from_lists([(types, edges, bonds)])
    assert np.allclose(labelling_bits(packed), math.log2(len(distinct)))
