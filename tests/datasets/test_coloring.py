"""Random graphs with colourings, and the search that finds them."""

import itertools
import math
import random
from collections import Counter

import networkx as nx
import numpy as np
import pytest
import torch

from graphcnf.datasets import coloring
from graphcnf.datasets.coloring import complete, load_coloring, random_graph, search_bits
from graphcnf.errors import UserError


def is_coloring(graph, colors):
    return all(colors[i] != colors[j] for i, j in graph.edges)


def neighbours(graph):
    return [list(graph.neighbors(node)) for node in range(len(graph))]


def colored(data, number):
    """A graph of a data set and its colours."""
    types, edges, _ = data.graphs.graph(number)
    graph = nx.empty_graph(len(types))
    graph.add_edges_from(edges.tolist())
    return graph, types.tolist()


def small_graphs():
    """200 random graphs of 1 to 6 nodes, connected or not."""
    chance = np.random.default_rng(0)
    for _ in range(200):
        n = int(chance.integers(1, 7))
        yield nx.gnp_random_graph(n, float(chance.uniform(0.2, 1)), seed=int(chance.integers(1e9)))


def test_the_search_is_exact():
    outcomes = Counter()
    for graph in small_graphs():
        for colors in (1, 2, 3, 4):
            every = itertools.product(range(colors), repeat=len(graph))
            possible = any(is_coloring(graph, choice) for choice in every)
            found = complete(neighbours(graph), colors, [-1] * len(graph))
            assert (found is not None) == possible
            assert found is None or is_coloring(graph, found)
            outcomes[possible] += 1
    assert min(outcomes.values()) > 100


def test_the_search_completes_what_is_given():
    for graph in small_graphs():
        found = complete(neighbours(graph), 3, [2] + [-1] * (len(graph) - 1))
        assert (found is None) == (complete(neighbours(graph), 3, [-1] * len(graph)) is None)
        assert found is None or (found[0] == 2 and is_coloring(graph, found))


def test_probabilities_of_the_search_sum_to_one():
    for graph in itertools.islice(small_graphs(), 60):
        total = 0.0
        for choice in itertools.product(range(3), repeat=len(graph)):
            if is_coloring(graph, choice):
                total += 2 ** -search_bits(neighbours(graph), choice, 3)
        possible = complete(neighbours(graph), 3, [-1] * len(graph)) is not None
        assert total == pytest.approx(float(possible))


def test_the_search_draws_with_its_probabilities():
    nodes = neighbours(nx.cycle_graph(5))
    drawn = Counter(
        tuple(complete(nodes, 3, [-1] * 5, random.Random(seed))) for seed in range(5000)
    )
    every = [c for c in itertools.product(range(3), repeat=5) if is_coloring(nx.cycle_graph(5), c)]
    expected = {c: 2 ** -search_bits(nodes, c, 3) for c in every}
    assert max(expected.values()) > 1.5 * min(expected.values()), "all are equally likely"
    distance = sum(abs(drawn[c] / 5000 - p) for c, p in expected.items()) / 2
    # 5,000 draws from these 30 cells stray by 0.03.
    assert set(drawn) <= set(every) and distance < 0.05
    with pytest.raises(UserError, match="no colouring of the graph"):
        search_bits(nodes, [0, 0, 1, 0, 1], 3)


def test_the_search_has_an_end(monkeypatch):
    monkeypatch.setattr(coloring, "MAX_STEPS", 3)
    with pytest.raises(UserError, match="after 3 steps"):
        complete(neighbours(nx.petersen_graph()), 3, [-1] * 10)


@pytest.mark.parametrize(
    "options, nodes",
    [
        ({"size": "small"}, (10, 20)),
        ({"size": "large"}, (25, 50)),
        ({"nodes": [6, 9], "colors": 4, "edge_probability": [0.4, 0.7]}, (6, 9)),
    ],
)
def test_graphs_need_exactly_so_many_colours(options, nodes):
    data = load_coloring(graphs=40, **options)
    assert len(data) == 40 and data.colors == options.get("colors", 3)
    for number in range(40):
        graph, colors = colored(data, number)
        assert nodes[0] <= len(graph) <= nodes[1] and nx.is_connected(graph)
        assert is_coloring(graph, colors)
        assert complete(neighbours(graph), data.colors - 1, [-1] * len(graph)) is None


def test_random_graphs_are_connected_even_when_sparse():
    chance = np.random.default_rng(0)
    for probability in (0.01, 0.1, 0.5):
        for _ in range(30):
            adjacency = random_graph(12, probability, chance)
            assert (adjacency == adjacency.T).all() and not adjacency.diagonal().any()
            assert nx.is_connected(nx.from_numpy_array(adjacency))


def test_reproducible_and_cached(cache_folder, monkeypatch):
    monkeypatch.setattr(coloring, "_CHUNK", 10)
    first = load_coloring(graphs=25, workers=1)
    assert len(first) == 25 and len(list(cache_folder.glob("coloring-3-10-20-*.npz"))) == 1
    assert load_coloring(graphs=25, workers=1, use_cache=False).graphs == first.graphs
    assert load_coloring(graphs=25, seed=1, workers=1, use_cache=False).graphs != first.graphs
    monkeypatch.setattr(coloring, "_generate", None)
    assert load_coloring(graphs=25).graphs == first.graphs


def test_batches():
    data = load_coloring(graphs=200)
    assert len(data.split("train")) == 180 and len(data.split("test")) == 20
    epoch = list(data.train_batches(32, epoch=2, seed=1))
    assert sum(map(len, epoch)) == 180
    permuted = 0
    for batch in epoch:
        equal = batch.node_types[:, :, None] == batch.node_types[:, None]
        assert not (equal & batch.adjacency).any()
        permuted += int((batch.node_types[:, 0] != 0).sum())
    assert permuted > 60
    again = next(data.train_batches(32, epoch=2, seed=1, start=3))
    assert torch.equal(again.node_types, epoch[3].node_types)
    other = next(data.train_batches(32, epoch=3, seed=1))
    assert not torch.equal(other.node_counts, epoch[0].node_counts) or not torch.equal(
        other.edge_labels, epoch[0].edge_labels
    )
    held_out = list(data.test_batches(8))
    assert [len(b) for b in held_out] == [8, 8, 4]
    assert torch.equal(held_out[0].node_types, next(data.test_batches(8)).node_types)


def test_bits_are_those_of_the_search():
    data = load_coloring(graphs=30)
    bits = data.bits([3, 4])
    graph, colors = colored(data, 4)
    assert bits[1] == pytest.approx(search_bits(neighbours(graph), colors, 3))
    # The permutations of the colours alone are log2(6).
    assert (bits >= math.log2(6) - 1e-9).all()
