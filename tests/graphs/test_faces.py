"""Planar graphs that grow with their faces: embeddings, features, the exactness of the density."""

from itertools import pairwise

import networkx as nx
import numpy as np
import pytest
import torch
from couplings import Case, round_trips_and_log_dets_cancel, stepping_equals_all_at_once
from random_orders import grown

from graphcnf.flows import Context
from graphcnf.graphs import GraphBatch, PackedGraphs
from graphcnf.graphs.faces import FACE, LONGEST, draw_order, faces_of
from graphcnf.graphs.node_by_node import most_edges_first
from graphcnf.scripts.benchmarks.graphs import planar
from graphcnf.testing import assert_gradients_reach_every_parameter


@pytest.fixture(scope="module")
def triangulations():
    """Eight Delaunay triangulations, in orders as the model draws them."""
    return in_order(8, draw_order)


def in_order(count, draw):
    """Delaunay triangulations whose nodes are numbered in the order that a function draws."""
    random, graphs = np.random.default_rng(0), []
    torch.manual_seed(0)
    for _ in range(count):
        links = torch.from_numpy(nx.to_numpy_array(planar(random), weight=None) > 0)[None]
        sizes = torch.tensor([links.shape[1]])
        order, _ = draw(links, sizes, torch.rand(links.shape, dtype=torch.double))
        links = links[0, order[0]][:, order[0]]
        graphs.append(nx.from_numpy_array(links.numpy()))
    return graphs


def earlier_of(graph):
    return [{other for other in graph[node] if other < node} for node in range(len(graph))]


def walks_of(faces, nodes):
    """The walks of the faces that the graph of the first nodes has."""
    return [f.walk for f in faces if f.since <= nodes < (f.until or np.inf)]


def test_at_all_times_the_faces_are_those_of_an_embedding(triangulations):
    for graph in triangulations:
        faces = faces_of(earlier_of(graph))
        for nodes in range(2, len(graph) + 1):
            part = graph.subgraph(range(nodes))
            walks = walks_of(faces, nodes)
            sides = [edge for walk in walks for edge in pairwise([*walk, walk[0]])]
            # Each edge has two sides, one in either direction.
            assert len(sides) == len(set(sides)) == 2 * part.number_of_edges()
            assert all(part.has_edge(*side) for side in sides)
            # Euler's formula of connected planar graphs.
            assert nodes - part.number_of_edges() + len(walks) == 2


def test_nearly_complete_nodes_first_leave_few_nodes_that_fit_into_no_face(monkeypatch):
    anew: list[int] = []
    embedded = nx.check_planarity
    monkeypatch.setattr(nx, "check_planarity", lambda graph: anew.append(1) or embedded(graph))
    found = []
    for draw in (draw_order, most_edges_first):
        anew.clear()
        for graph in in_order(60, draw):
            faces_of(earlier_of(graph))
        found.append(len(anew))
    # About 2 and 14 are expected of 60 triangulations.
    assert found[0] < 8 <= found[1]


def test_the_probabilities_of_all_orders_add_up():
    """Node 3 lies inside a triangle, node 4 outside; corner 2 of it has a further neighbour."""
    graph = nx.Graph([(0, 1), (1, 2), (2, 0), (3, 0), (3, 1), (3, 2), (4, 0), (4, 1), (5, 2)])
    links = torch.from_numpy(nx.to_numpy_array(graph, range(6)) > 0).expand(20_000, -1, -1)
    uniforms = torch.rand(len(links), 6, 6, generator=torch.Generator().manual_seed(0)).double()
    drawn = []
    for draw in (draw_order, most_edges_first):
        orders, nats = draw(links, torch.full((len(links),), 6), uniforms)
        pairs = zip(map(tuple, orders.tolist()), nats.exp().tolist(), strict=True)
        drawn.append(dict(pairs))
        assert sum(drawn[-1].values()) == pytest.approx(1, abs=1e-9)
    assert set(drawn[0]) < set(drawn[1])
    assert all(order[0] == 5 for order in drawn[0])  # the only node with one edge


def test_a_graph_that_becomes_non_planar_keeps_the_faces_that_it_had():
    complete = earlier_of(nx.complete_graph(5))
    before = walks_of(faces_of(complete[:4]), 4)
    assert walks_of(faces_of(complete), 5) == before and len(before) == 4
    # Node 5 has its place beside node 0, although node 4 has none.
    assert any(5 in walk for walk in walks_of(faces_of([*complete, {0}]), 6))


def test_the_feature_is_the_longest_face_that_all_ends_share(triangulations):
    packed = PackedGraphs.from_lists(
        ([0] * len(g), list(g.edges), [0] * g.number_of_edges()) for g in triangulations
    )
    network = grown(packed, 1, 1, architecture="faces").network
    links = GraphBatch.collate(packed).adjacency
    node = torch.tensor([3, 10, 25, 40, 63])
    graph = torch.tensor([0, 1, 2, 2, 7])
    partly = network.growing(links, graph, node)
    for at, (k, number) in enumerate(zip(graph.tolist(), node.tolist(), strict=True)):
        earlier = earlier_of(triangulations[k])
        walks = walks_of(faces_of(earlier[:number]), number)
        joined: set[int] = set()
        row = torch.full((number,), at)
        for far in sorted(earlier[number], reverse=True):
            found = partly.features(row, torch.arange(number))[FACE]
            expected = [
                max((min(len(w), LONGEST) for w in walks if joined | {v} <= set(w)), default=0)
                for v in range(number)
            ]
            assert found.tolist() == expected
            partly.join(row[:1], torch.tensor([far]))
            joined.add(far)


@pytest.mark.parametrize("cells", [2**24, 300])
@pytest.mark.parametrize("check", [stepping_equals_all_at_once, round_trips_and_log_dets_cancel])
def test_the_density_is_exact(graphs_in_parts, double, check, cells, monkeypatch):
    """The faces before a node are the same in drawing, where later nodes are unknown."""
    monkeypatch.setattr("graphcnf.graphs.node_by_node.CELLS", cells)

    def make(count, most):
        model = grown(graphs_in_parts, architecture="faces")
        model.network.planar = False
        small = np.flatnonzero(graphs_in_parts.node_counts <= most)[:count]
        batch = GraphBatch.collate(graphs_in_parts, small)
        uniforms = torch.rand(*batch.mask.shape, batch.mask.shape[1])
        order, _ = draw_order(batch.adjacency, batch.node_counts, uniforms)
        values = model.code.encode(batch.permute(order))[0]
        return Case.of(model.flow.transform, values, Context(batch.mask))

    check(make)


def test_training_reaches_every_parameter(random_graphs):
    model = grown(random_graphs, architecture="faces").train()
    batch = GraphBatch.collate(random_graphs, np.arange(200))
    assert_gradients_reach_every_parameter(model, lambda: model.training_loss(batch)[0])
