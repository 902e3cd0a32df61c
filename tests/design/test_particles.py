"""Graphs with a fragment forced into them: it is there, and the weights undo the force."""

from dataclasses import replace

import networkx as nx
import numpy as np
import pytest
import torch
from small_graphs import build_model, random_graphs

from graphcnf.design.particles import GraphFragment, ParticleSampler
from graphcnf.errors import UserError
from graphcnf.graphs import PackedGraphs


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


def fragment(kinds, edges, *, room=9, sockets=None, categories=2, rings=False):
    """Nodes of one category each, all edges of category 0."""
    allowed = torch.zeros(len(kinds), categories, dtype=torch.bool)
    allowed[range(len(kinds)), kinds] = True
    forms = torch.zeros(1, len(edges), 2, dtype=torch.bool)
    forms[..., 1] = True
    return GraphFragment(
        categories=allowed,
        edges=torch.tensor(edges).reshape(-1, 2),
        structures=forms,
        valence=torch.full((len(kinds),), room),
        attachments=torch.tensor(sockets or [0] * len(kinds)),
        plain=torch.tensor([False, True]),
        rings=rings,
    )


def sizes(nodes, count):
    return torch.full((count,), nodes)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def adjacency(batch, k):
    return nx.from_numpy_array(batch.adjacency[k].int().numpy())


def places(batch, kinds, edges):
    """Ways to find a fragment in each graph, by networkx."""
    wanted = nx.Graph(edges)
    nx.set_node_attributes(wanted, dict(enumerate(kinds)), "kind")
    counts = []
    for k in range(len(batch)):
        graph = adjacency(batch, k)
        nx.set_node_attributes(graph, dict(enumerate(batch.node_types[k].tolist())), "kind")
        matcher = nx.isomorphism.GraphMatcher(
            graph, wanted, node_match=lambda a, b: a["kind"] == b["kind"]
        )
        counts.append(sum(1 for _ in matcher.subgraph_monomorphisms_iter()))
    return np.array(counts)


KINDS, EDGES = [0, 1, 1], [(0, 1), (1, 2)]


@pytest.mark.parametrize("experienced", [False, True])
@pytest.mark.parametrize("kinds", [KINDS, [1, 0, 1]])
def test_weights_are_proper(tree_model, experienced, kinds):
    """Their mean is the model's mean number of places of the fragment, whatever guides the walks.

    Without closures every depth-first code can be reached, so nothing is left out.
    """
    forced = fragment(kinds, EDGES)
    if kinds[0] == kinds[2]:
        forced = replace(forced, symmetries=torch.tensor([[0, 1, 2], [2, 1, 0]]))
    sampler = ParticleSampler(tree_model, forced)
    if experienced:
        sampler.learn(sampler.draw(sizes(5, 100), generator(9)))
    weights = torch.stack([
        sampler.draw(sizes(5, 400), generator(seed)).log_weights.exp().mean() for seed in range(12)
    ])  # fmt: skip
    plain = tree_model.sample(torch.full((3000,), 5), generator=generator(0))
    counts = places(plain, kinds, EDGES)
    error = np.hypot(float(weights.std()) / len(weights) ** 0.5, counts.std() / len(counts) ** 0.5)
    # Four standard errors of both means; a factor of 1.3 that is missing would show.
    assert abs(float(weights.mean()) - counts.mean()) < 4 * error < 0.3 * counts.mean()


def test_weights_are_proper_with_graphs_of_different_sizes(tree_model):
    """As above; walks with complete graphs leave the batch."""
    sampler, nodes = ParticleSampler(tree_model, fragment(KINDS, EDGES)), (4, 6)
    each = torch.tensor(nodes).repeat(200)
    draws = [sampler.draw(each, generator(seed)) for seed in range(24)]
    for size in nodes:
        weights = np.array([float(w.log_weights[w.graphs.sizes == size].exp().sum() / 200)
                            for w in draws])  # fmt: skip
        plain = tree_model.sample(torch.full((2000,), size), generator=generator(0))
        counts = places(plain, KINDS, EDGES)
        error = np.hypot(weights.std() / len(draws) ** 0.5, counts.std() / len(counts) ** 0.5)
        assert abs(weights.mean() - counts.mean()) < 4 * error < 0.5 * counts.mean()


def test_the_fragment_is_in_every_graph():
    model = build_model(random_graphs())
    kinds, edges = [0, 1, 2, 0], [(0, 1), (1, 2), (2, 3), (0, 3)]
    forced = fragment(kinds, edges, categories=3, rings=True)
    forced.structures = torch.cat([forced.structures, torch.zeros(1, 4, 1, dtype=torch.bool)], -1)
    forced.plain = torch.tensor([False, True, True])
    walks = ParticleSampler(model, forced).draw(sizes(8, 40), generator(0))
    alive = torch.isfinite(walks.log_weights)
    assert alive.float().mean() > 0.8
    found = places(walks.graphs, kinds, edges)
    assert (found[alive.numpy()] > 0).all()


def test_closed_nodes_get_what_their_sockets_say(tree_model):
    kinds, edges = [0, 1, 0], [(0, 1), (1, 2)]
    closed = fragment(kinds, edges, room=0, sockets=[1, 0, 1])
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
    parts = fragment([0, 0, 1, 1], [(0, 1), (2, 3)], room=0, sockets=[1, 0, 0, 1])
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
    """Every walk arrives, and the weights say how often plain samples have this skeleton."""
    random = np.random.default_rng(0)
    graphs = PackedGraphs.from_lists(limited_tree(random) for _ in range(300))
    model = build_model(graphs, node_categories=2, edge_categories=1)
    star = [(0, 1), (0, 2), (0, 3), (3, 4)]
    skeleton = fragment([0] * 5, star, room=0)
    skeleton.categories[:] = True
    sampler = ParticleSampler(model, skeleton)
    walks = [sampler.draw(sizes(5, 200), generator(seed)) for seed in range(10)]
    weights = torch.stack([w.log_weights.exp().mean() for w in walks])
    assert all(torch.isfinite(w.log_weights).all() for w in walks)
    for drawn in walks:
        degree = drawn.graphs.adjacency.sum(-1)
        assert (degree[drawn.graphs.node_types == 1] <= 2).all()
        assert all(nx.is_isomorphic(adjacency(drawn.graphs, k), nx.Graph(star)) for k in range(9))
    plain = model.sample(torch.full((3000,), 5), generator=generator(0))
    # Two leaves may change places, so each code comes about in two ways.
    there = [nx.is_isomorphic(adjacency(plain, k), nx.Graph(star)) for k in range(3000)]
    counts = 2.0 * np.array(there)
    error = np.hypot(float(weights.std()) / len(weights) ** 0.5, counts.std() / len(counts) ** 0.5)
    assert abs(float(weights.mean()) - counts.mean()) < 4 * error < 0.3 * counts.mean()
