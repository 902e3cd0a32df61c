"""Sums over the numberings of a graph."""

import math
from itertools import permutations

import networkx as nx
import numpy as np
import pytest
import torch

from graphcnf.errors import UserError
from graphcnf.graphs import GraphBatch, PackedGraphs
from graphcnf.graphs.path.depth_first import earlier_edges
from graphcnf.graphs.path.orders import random_depth_first, renumbered


def is_depth_first(graph, order):
    adjacency = torch.from_numpy(nx.to_numpy_array(graph, nodelist=list(order)) > 0)[None]
    try:
        earlier_edges(adjacency, torch.ones(1, len(order), dtype=torch.bool), len(order))
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("detour", [0.0, 0.2, 1.0])
def test_orders_are_depth_first_and_with_detours_all_of_them(monkeypatch, detour):
    monkeypatch.setattr("graphcnf.graphs.path.orders.DETOUR", detour)
    graph = nx.Graph([(0, 1), (1, 2), (1, 3), (3, 4), (4, 1)])
    random, edges = np.random.default_rng(0), np.array(graph.edges)
    found = {tuple(random_depth_first(5, edges, random).tolist()) for _ in range(2000)}
    every = {p for p in permutations(range(5)) if is_depth_first(graph, p)}
    assert found <= every and (0, 1, 2, 3, 4) in found
    assert found == {(0, 1, 2, 3, 4)} if detour == 0 else len(found) > 5
    assert detour < 1 or found == every


def test_with_all_orders_the_bound_is_the_probability_of_the_graph(
    double, build_model, monkeypatch
):
    # A triangle with a tail, all nodes of other categories: no two numberings are alike.
    graph = nx.Graph([(0, 1), (1, 2), (2, 0), (2, 3)])
    packed = PackedGraphs.from_lists([([0, 1, 2, 0], list(graph.edges), [0, 1, 0, 1])])
    every = []
    for p in permutations(range(4)):
        if is_depth_first(graph, p):
            place = np.argsort(p)
            edges = [tuple(place[list(e)]) for e in graph.edges]
            every.append(([[0, 1, 2, 0][i] for i in p], edges, [0, 1, 0, 1]))
    every = PackedGraphs.from_lists(every)
    model = build_model(every)
    first = GraphBatch.collate(packed)
    monkeypatch.setattr("graphcnf.graphs.path.path_model.LARGEST_ORDERS", 10_000)
    with torch.no_grad():
        exact = torch.logsumexp(model.log_prob(GraphBatch.collate(every)), 0)
        bounds = [float(model.log_prob(packed, orders=k)[0]) for k in (1, 2, 4, 16, 64, 10_000)]
        assert bounds[0] == pytest.approx(float(model.log_prob(first)), abs=1e-12)
    assert bounds == sorted(bounds) and bounds[0] < bounds[-1] - 0.1
    assert bounds[-1] == pytest.approx(float(exact), abs=1e-9)


def test_numberings_are_distinct_and_orders_beyond_the_code_have_no_probability(
    build_model, random_graphs
):
    few = random_graphs.subset(range(40))
    graphs, owners = renumbered(few, 20)
    assert len(graphs) > 100 and (np.bincount(owners) >= 1).all()
    assert graphs.subset(np.unique(owners, return_index=True)[1]) == few
    model = build_model(few)
    log_p = model.log_prob(few, orders=20)
    assert (log_p >= model.log_prob(few) - 1e-5).all()
    known = model.knows(GraphBatch.collate(graphs))
    assert known[np.unique(owners, return_index=True)[1]].all() and not known.all()
    # One molecule, one bound, whatever it is batched with.
    alone = model.log_prob(few.subset([7]), orders=20)
    assert math.isclose(float(alone[0]), float(log_p[7]), rel_tol=1e-5)
    with pytest.raises(UserError, match="orders must be an integer from 1 to 1024, got 0"):
        model.log_prob(few, orders=0)
