"""Models whose order of nodes is a latent: orders, probabilities, invariance, exactness."""

import math

import couplings
import networkx as nx
import numpy as np
import pytest
import random_orders
import torch
from random_orders import KINDS, noise_of
from small_graphs import every_graph

from graphcnf.errors import UserError
from graphcnf.flows import Context, Noise
from graphcnf.graphs import GraphBatch, GraphModel, PackedGraphs
from graphcnf.graphs.random_order import bridges
from graphcnf.testing import assert_gradients_reach_every_parameter


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


@pytest.fixture
def graphs(kind, random_graphs, graphs_in_parts):
    """Random graphs that the model is for."""
    return graphs_in_parts if kind is KINDS["growth"] else random_graphs.subset(np.arange(200))


def test_orders_are_those_of_a_search_each_as_likely_as_said(kind):
    graph = nx.Graph(kind.edges)
    graph.add_nodes_from(range(kind.nodes))
    batch = GraphBatch.collate(
        PackedGraphs.from_lists([([0] * kind.nodes, kind.edges, [0] * len(kind.edges))] * 6000)
    )
    uniforms = torch.rand(6000, kind.nodes, kind.nodes, dtype=torch.double)
    order, log_p = kind.order(batch.adjacency, batch.node_counts, uniforms)
    found, place, counts = order.unique(dim=0, return_inverse=True, return_counts=True)
    assert set(map(tuple, found.tolist())) == kind.search(graph)
    p = torch.zeros(len(found), dtype=torch.double).index_put((place,), log_p.exp())
    assert p.sum() == pytest.approx(1)
    # 4.5 standard deviations of a count.
    assert ((counts - 6000 * p).abs() < 4.5 * (6000 * p).sqrt()).all()


@pytest.mark.parametrize(
    ("name", "nodes", "types", "bonds", "connected", "whole"),
    [
        ("unordered", 3, 3, 2, True, True),
        # Of four nodes, depth-first orders that leave rings are not drawn.
        ("unordered", 4, 1, 1, True, False),
        # A connected graph of three nodes is drawn in every order that keeps it connected.
        ("growth", 3, 2, 2, True, True),
        ("growth", 3, 2, 2, False, False),
    ],
)
def test_probabilities_are_sums_over_orders(double, name, nodes, types, bonds, connected, whole):
    """The mean of the bound's exponential, over all draws, is the sum over the orders drawn."""
    kind, packed = KINDS[name], every_graph(nodes, types, bonds, connected)
    model = kind.build(packed, node_categories=types, edge_categories=bonds, support=False)
    batch = GraphBatch.collate(packed)
    p = random_orders.probabilities(model, kind, batch)
    for b in range(0, len(batch), 1 + len(batch) // 40):
        orders = torch.tensor(sorted(kind.search(random_orders.as_networkx(batch, b))))
        graph = GraphBatch.collate(packed, [b] * len(orders)).permute(orders)
        with torch.no_grad():
            log_p = model.network.log_prob(model.code.encode(graph)[0], Context(graph.mask))
        assert p[b] == pytest.approx(float(log_p.exp().sum()) / math.factorial(nodes), rel=1e-9)
    assert p.sum() == pytest.approx(1, abs=1e-9) if whole else 0.1 < p.sum() < 1


def test_sampled_graphs_have_their_probability(kind, double):
    packed = every_graph(3, 3, 2, connected=True)
    model, batch = kind.build(packed, support=False), GraphBatch.collate(packed)
    with torch.no_grad():
        drawn = model.sample(torch.full((8000,), 3))
    p = random_orders.probabilities(model, kind, batch)
    random_orders.assert_counts_follow(p, batch, drawn)


def test_log_prob_is_invariant_to_renumbering(kind, graphs, double):
    model = kind.build(graphs)
    batch = GraphBatch.collate(graphs, np.flatnonzero(graphs.node_counts == 9)[:20])
    noise = Noise()
    order = torch.stack([torch.randperm(batch.mask.shape[1]) for _ in range(len(batch))])
    with torch.no_grad():
        first = model.log_prob(batch, noise=noise)
        uniforms = noise.draws[0].gather(1, order[..., None].expand_as(noise.draws[0]))
        second = model.log_prob(batch.permute(order), noise=noise_of(uniforms))
        other = model.log_prob(batch.permute(order))
    torch.testing.assert_close(first, second, atol=1e-8, rtol=0)
    # Fresh noise does change it: the comparison above is one of more than constants.
    assert (first - other).abs().max() > 1e-3


def test_reconstruction_is_exact(kind, graphs, double):
    model, batch = kind.build(graphs), GraphBatch.collate(graphs)
    assert model.decode(model.encode(batch), batch.mask).to_packed() == batch.to_packed()


@pytest.mark.parametrize(
    ("name", "options", "cells", "planar"),
    [
        *(("unordered", {"rounds": rounds}, 2**24, False) for rounds in (1, 5, 12)),
        # The rule of planar graphs is no part of the coupling.
        ("growth", {}, 2**24, False),
        ("growth", {}, 300, True),
    ],
)
@pytest.mark.parametrize(
    "check", [couplings.stepping_equals_all_at_once, couplings.round_trips_and_log_dets_cancel]
)
def test_the_coupling(
    random_graphs, graphs_in_parts, double, check, name, options, cells, planar, monkeypatch
):
    monkeypatch.setattr("graphcnf.graphs.node_by_node.CELLS", cells)
    kind, graphs = KINDS[name], graphs_in_parts if name == "growth" else random_graphs

    def make(count, most):
        model = kind.build(graphs, **options)
        model.network.planar = planar
        batch = GraphBatch.collate(graphs, np.flatnonzero(graphs.node_counts <= most)[:count])
        uniforms = torch.rand(*batch.mask.shape, batch.mask.shape[1])
        order, _ = kind.order(batch.adjacency, batch.node_counts, uniforms)
        values = model.code.encode(batch.permute(order))[0]
        return couplings.Case.of(model.flow.transform, values, Context(batch.mask))

    check(make)


@pytest.mark.parametrize("connected", [False, True])
def test_training_reaches_every_parameter(connected):
    """All graphs of four nodes, since rare categories might be in no graph that is drawn."""
    graphs = every_graph(4, 1, 2, connected)
    kind = KINDS["unordered" if connected else "growth"]
    model = kind.build(graphs, support=False).train()
    batch = GraphBatch.collate(graphs)
    assert_gradients_reach_every_parameter(model, lambda: model.training_loss(batch)[0])


def test_the_term_of_the_order_is_exact(kind):
    """In a complete graph of equal nodes every order has the probability 1/n!, to float64."""
    packed = random_orders.complete_graph(kind.complete)
    with torch.no_grad():
        term = kind.build(packed).terms(GraphBatch.collate(packed))["order"].log_prob()
    assert term.dtype == torch.float64 and term.abs().max() < 1e-12


def test_bridges_are_those_of_a_search(random_graphs):
    batch = GraphBatch.collate(random_graphs, np.arange(200))
    found = bridges(batch.adjacency)
    for b in range(len(batch)):
        wanted = {tuple(sorted(edge)) for edge in nx.bridges(random_orders.as_networkx(batch, b))}
        assert wanted == set(map(tuple, found[b].triu().nonzero().tolist()))


def evaluations(model, sizes):
    """Numbers of nodes in each evaluation of the blocks while graphs are drawn."""
    block, seen = model.network.blocks[0], []
    steps = block.next_positions
    block.next_positions = lambda x, *rest: seen.append(len(x)) or steps(x, *rest)
    model.sample(torch.tensor(sizes))
    return seen


@pytest.mark.parametrize("rounds", [1, 5, 12])
def test_drawing_evaluates_the_blocks_no_more_often_than_said(random_graphs, rounds):
    model = random_orders.unordered(random_graphs, rounds=rounds)
    seen = evaluations(model, [12, 3])
    assert len(seen) == rounds - (rounds == 5)  # of 3 nodes each: 4 are enough
    assert sum(seen) == 1 + (len(seen) - 1) * model.network.per_round


def test_the_shipped_model_is_evaluated_at_most_16_times():
    assert len(evaluations(GraphModel.from_pretrained("zinc250k-unordered"), [38, 38])) == 13


def test_graphs_of_parts_and_crowded_nodes_are_not_known(random_graphs):
    model = random_orders.unordered(random_graphs)
    parts = ([0, 0, 0, 0], [(0, 1), (2, 3)], [0, 0])
    most = 1 + len(model.code.closures)
    star = ([0] * (most + 2), [(0, k + 1) for k in range(most + 1)], [0] * (most + 1))
    fine = ([0, 0], [(0, 1)], [0])
    batch = GraphBatch.collate(PackedGraphs.from_lists([parts, star, fine]))
    assert model.knows(batch).tolist() == [False, False, True]
    assert model.knows(GraphBatch.collate(random_graphs)).all()
    assert model.log_prob(batch).isfinite().tolist() == [False, False, True]


def test_bad_options_of_the_unordered_model_are_named(random_graphs):
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        random_orders.unordered(random_graphs, rounds=0)
    with pytest.raises(UserError, match='needs order "none"'):
        random_orders.unordered(random_graphs, order="canonical")
