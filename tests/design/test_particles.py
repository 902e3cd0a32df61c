"""Graphs with a fragment forced into them: it is there, and the weights undo the force."""

from dataclasses import replace
from itertools import permutations

import networkx as nx
import numpy as np
import pytest
import torch
from node_fragments import assert_proper, fragment
from small_graphs import build_model, every_numbered_graph, random_graph

from graphcnf.design.particles import ParticleSampler
from graphcnf.errors import UserError
from graphcnf.graphs import GraphBatch, PackedGraphs


def tree(random):
    """A random tree of up to 7 nodes, numbered depth-first, 2 node categories."""
    n = int(random.integers(2, 8))
    graph = nx.random_labeled_tree(n, seed=int(random.integers(1 << 30)))
    number = {v: k for k, v in enumerate(nx.dfs_preorder_nodes(graph, 0))}
    edges = [(number[i], number[j]) for i, j in graph.edges]
    return random.integers(0, 2, n), edges, np.zeros(len(edges), dtype=int)


@pytest.fixture(scope="module")
def tree_model():
    random = np.random.default_rng(0)
    graphs = PackedGraphs.from_lists(tree(random) for _ in range(300))
    return build_model(graphs, node_categories=2, edge_categories=1)


def sizes(nodes, count):
    return torch.full((count,), nodes)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def adjacency(batch, k):
    return nx.from_numpy_array(batch.adjacency[k].int().numpy())


def places(batch, forced):
    """Ways to find a fragment in each graph, from all choices of its nodes."""
    counts = torch.zeros(len(batch), dtype=torch.long)
    rows, columns = forced.edges.T
    for choice in permutations(range(batch.node_types.shape[1]), len(forced)):
        nodes = torch.tensor(choice)
        fits = forced.categories[range(len(forced)), batch.node_types[:, nodes]].all(1)
        counts += fits & (batch.adjacency[:, nodes[rows], nodes[columns]] > 0).all(1)
    return counts


def assert_means(model, graphs, forced, means):
    """Without closures every depth-first code can be reached, so nothing is left out."""
    batch = GraphBatch.collate(graphs)
    with torch.no_grad():
        probabilities = model.log_prob(batch).double().exp()
    assert float(probabilities.sum()) == pytest.approx(1, abs=1e-3)
    assert_proper(means, probabilities, places(batch, forced).double())


KINDS, EDGES = [0, 1, 1], [(0, 1), (1, 2)]


@pytest.mark.parametrize("experienced", [False, True])
@pytest.mark.parametrize("kinds", [KINDS, [1, 0, 1]])
def test_weights_are_proper(tree_model, experienced, kinds):
    """Whatever guides the walks."""
    forced = fragment(kinds, EDGES, valence=9)
    if kinds[0] == kinds[2]:
        forced = replace(forced, symmetries=torch.tensor([[0, 1, 2], [2, 1, 0]]))
    sampler = ParticleSampler(tree_model, forced)
    if experienced:
        sampler.learn(sampler.draw(sizes(5, 100), generator(9)))
    walks = [sampler.draw(sizes(5, 1000), generator(seed)) for seed in range(8)]
    means = [float(drawn.log_weights.exp().mean()) for drawn in walks]
    assert_means(tree_model, every_numbered_graph(5, types=2), forced, means)


def test_weights_are_proper_with_graphs_of_different_sizes(tree_model):
    """Walks with complete graphs leave the batch."""
    forced = fragment(KINDS, EDGES, valence=9)
    sampler, each = ParticleSampler(tree_model, forced), torch.tensor((3, 5)).repeat(150)
    walks = [sampler.draw(each, generator(seed)) for seed in range(8)]
    for size in (3, 5):
        means = [
            float(w.log_weights[w.graphs.node_counts == size].exp().sum() / 150) for w in walks
        ]
        assert_means(tree_model, every_numbered_graph(size, types=2), forced, means)


def test_the_fragment_is_in_every_graph():
    random = np.random.default_rng(0)
    model = build_model(PackedGraphs.from_lists(random_graph(random, 9) for _ in range(300)))
    kinds, edges = [0, 1, 2, 0], [(0, 1), (1, 2), (2, 3), (0, 3)]
    forced = fragment(kinds, edges, nodes=3, plain=(False, True, True), valence=9, rings=True)
    walks = ParticleSampler(model, forced).draw(sizes(8, 40), generator(0))
    alive = torch.isfinite(walks.log_weights)
    assert alive.float().mean() > 0.8
    assert places(walks.graphs, forced)[alive].all()


def test_closed_nodes_get_what_their_sockets_say(tree_model):
    kinds, edges = [0, 1, 0], [(0, 1), (1, 2)]
    closed = fragment(kinds, edges, attachments=[1, 0, 1])
    assert closed.fewest_free == 2
    walks = ParticleSampler(tree_model, closed).draw(sizes(6, 40), generator(0))
    alive = torch.isfinite(walks.log_weights).nonzero()[:, 0].tolist()
    assert len(alive) > 20
    for k in alive:
        graph, types = adjacency(walks.graphs, k), walks.graphs.node_types[k].tolist()
        middle = [v for v in graph if types[v] == 1 and graph.degree(v) == 2]
        assert any(
            all(types[u] == 0 and graph.degree(u) == 2 for u in graph.neighbors(v)) for v in middle
        )
    with pytest.raises(UserError, match="at least 5 nodes"):
        ParticleSampler(tree_model, closed).draw(sizes(4, 2), generator(0))


def test_two_parts_are_linked_by_free_nodes(tree_model):
    parts = fragment([0, 0, 1, 1], [(0, 1), (2, 3)], attachments=[1, 0, 0, 1])
    assert parts.components == 2 and parts.fewest_free == 1
    walks = ParticleSampler(tree_model, parts).draw(sizes(6, 40), generator(0))
    alive = torch.isfinite(walks.log_weights).nonzero()[:, 0].tolist()
    assert len(alive) > 10
    for k in alive:
        graph, types = adjacency(walks.graphs, k), walks.graphs.node_types[k].tolist()
        ends = [v for v in graph if graph.degree(v) == 1]
        inner = {types[v]: next(iter(graph.neighbors(v))) for v in ends}
        assert nx.is_connected(graph) and set(types) == {0, 1}
        assert any(types[u] == kind and graph.degree(u) == 2 for kind, u in inner.items())


def limited_tree(random):
    """As `tree`, but nodes of category 1 have at most two neighbours."""
    kinds, edges, bonds = tree(random)
    degrees = np.bincount(np.array(edges).flatten(), minlength=len(kinds))
    return np.where(degrees > 2, 0, kinds), edges, bonds


def test_a_whole_skeleton_with_categories_of_its_own():
    """Every walk arrives, and the weights say how often the model draws this skeleton."""
    random = np.random.default_rng(0)
    graphs = PackedGraphs.from_lists(limited_tree(random) for _ in range(300))
    model = build_model(graphs, node_categories=2, edge_categories=1)
    star = [(0, 1), (0, 2), (0, 3), (3, 4)]
    skeleton = fragment([0] * 5, star)
    skeleton.categories[:] = True
    sampler = ParticleSampler(model, skeleton)
    walks = [sampler.draw(sizes(5, 200), generator(seed)) for seed in range(6)]
    assert all(torch.isfinite(w.log_weights).all() for w in walks)
    for drawn in walks:
        degree = drawn.graphs.adjacency.sum(-1)
        assert (degree[drawn.graphs.node_types == 1] <= 2).all()
        # Two leaves may change places, so each code comes about in two ways.
        assert (places(drawn.graphs, skeleton) == 2).all()
    means = [float(w.log_weights.exp().mean()) for w in walks]
    assert_means(model, every_numbered_graph(5, types=2), skeleton, means)
