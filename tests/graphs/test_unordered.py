"""Graphs in a random depth-first order: orders, probabilities, and the number of evaluations."""

import math
from itertools import combinations, permutations, product

import couplings
import networkx as nx
import numpy as np
import pytest
import random_orders
import torch
from random_orders import noise_of

from graphcnf.errors import UserError
from graphcnf.flows import Context
from graphcnf.graphs import GraphBatch, GraphModel, PackedGraphs
from graphcnf.graphs.unordered import bridges, depth_first
from graphcnf.testing import assert_gradients_reach_every_parameter

OPTIONS = {"architecture": "unordered", "order": "none", "rounds": 4}


def as_networkx(batch, b):
    graph = nx.from_numpy_array(batch.adjacency[b].numpy())
    graph.remove_nodes_from([v for v in graph if not batch.mask[b, v]])
    return graph


def rings_first(graph):
    """All depth-first orders of a graph that follow the edges on rings first, by search."""
    off_ring = set(map(frozenset, nx.bridges(graph)))

    def longer(order, stack):
        while stack and not set(graph[stack[-1]]) - set(order):
            stack = stack[:-1]
        if not stack:
            yield tuple(order)
            return
        ahead = set(graph[stack[-1]]) - set(order)
        on_ring = {v for v in ahead if frozenset((stack[-1], v)) not in off_ring}
        for v in on_ring or ahead:
            yield from longer([*order, v], [*stack, v])

    for first in graph:
        yield from longer([first], [first])


def connected(nodes, types, bonds):
    """All connected graphs of some nodes in every labelling, with so many categories."""
    pairs = list(combinations(range(nodes), 2))
    for count in range(nodes - 1, len(pairs) + 1):
        for edges in combinations(pairs, count):
            if nx.is_connected(nx.Graph(edges)) and len(nx.Graph(edges)) == nodes:
                for own in product(range(types), repeat=nodes):
                    for kinds in product(range(bonds), repeat=count):
                        yield own, list(edges), kinds


def every_uniform(nodes):
    """Uniforms (M, N, N) of all draws that give other orders, equally likely."""
    columns = [list(permutations(range(nodes))) for _ in range(nodes - 2)]
    columns[0] = [tuple(np.roll(range(nodes), k)) for k in range(nodes)]
    last = [tuple(range(nodes)), tuple(range(nodes))[::-1]]
    found = [torch.tensor(one).T for one in product(*columns, last, [tuple(range(nodes))])]
    return torch.stack(found).double() / nodes


def test_bridges_are_those_of_a_search(random_graphs):
    batch = GraphBatch.collate(random_graphs, np.arange(200))
    found = bridges(batch.adjacency)
    for b in range(len(batch)):
        wanted = {tuple(sorted(edge)) for edge in nx.bridges(as_networkx(batch, b))}
        assert wanted == set(map(tuple, found[b].triu().nonzero().tolist()))


def test_orders_are_the_depth_first_ones_that_follow_rings_first_each_as_likely_as_said():
    edges = [(0, 1), (1, 2), (0, 2), (2, 3), (3, 4), (2, 5)]
    batch = GraphBatch.collate(PackedGraphs.from_lists([([0] * 6, edges, [0] * 6)] * 6000))
    order, log_p = depth_first(
        batch.adjacency, batch.sizes, torch.rand(6000, 6, 6, dtype=torch.double)
    )
    found, place, counts = order.unique(dim=0, return_inverse=True, return_counts=True)
    assert set(map(tuple, found.tolist())) == set(rings_first(as_networkx(batch, 0)))
    p = torch.zeros(len(found), dtype=torch.double).index_put((place,), log_p.exp())
    assert p.sum() == pytest.approx(1)
    # 4.5 standard deviations of a count.
    assert ((counts - 6000 * p).abs() < 4.5 * (6000 * p).sqrt()).all()


@pytest.mark.parametrize(("nodes", "types", "bonds"), [(3, 3, 2), (4, 1, 1)])
def test_probabilities_are_sums_over_orders(build_model, double, nodes, types, bonds):
    """The mean of the bound's exponential, over all draws, is the sum over the orders drawn."""
    packed = PackedGraphs.from_lists(connected(nodes, types, bonds))
    options = {"node_categories": types, "edge_categories": bonds}
    model = build_model(packed, **OPTIONS, **options, support=False)
    batch, uniforms = GraphBatch.collate(packed), every_uniform(nodes)
    with torch.no_grad():
        draws = [
            model.log_prob(batch, noise=noise_of(u.expand(len(batch), -1, -1))) for u in uniforms
        ]
        p = torch.stack(draws).exp().mean(0)
        for b in range(0, len(batch), 1 + len(batch) // 40):
            orders = torch.tensor(sorted(rings_first(as_networkx(batch, b))))
            graph = GraphBatch.collate(packed, [b] * len(orders)).permute(orders)
            log_p = model.flow.transform.log_prob(model.code.encode(graph)[0], Context(graph.mask))
            assert p[b] == pytest.approx(float(log_p.exp().sum()) / math.factorial(nodes), rel=1e-9)
    # Of three nodes, all depth-first orders are drawn; of more, not those that leave rings.
    assert p.sum() == pytest.approx(1, abs=1e-9) if nodes == 3 else 0.1 < p.sum() < 1


def test_sampled_graphs_have_their_probability(build_model, double):
    packed = PackedGraphs.from_lists(connected(3, 3, 2))
    model, count = build_model(packed, **OPTIONS, support=False), 8000
    batch = GraphBatch.collate(packed)
    with torch.no_grad():
        p = torch.stack(
            [
                model.log_prob(batch, noise=noise_of(u.expand(len(batch), -1, -1)))
                for u in every_uniform(3)
            ]
        )
        drawn = model.sample(torch.full((count,), 3))
    p = p.exp().mean(0) * count
    keys = [torch.cat([b.node_types, b.edge_labels.flatten(1)], 1) for b in (batch, drawn)]
    counts = (keys[0][:, None] == keys[1]).all(-1).sum(1)
    assert counts.sum() == count
    common = p > 20
    assert common.sum() > 10
    assert ((counts - p).abs() < 5 * p.sqrt())[common].all()


def test_log_prob_is_invariant_to_renumbering(build_model, random_graphs, double):
    model = build_model(random_graphs, **OPTIONS)
    chosen = np.flatnonzero(random_graphs.node_counts == 9)[:20]
    random_orders.numbering_does_not_count(model, GraphBatch.collate(random_graphs, chosen))


def test_reconstruction_is_exact(build_model, random_graphs, double):
    model = build_model(random_graphs, **OPTIONS)
    random_orders.latents_lead_back(model, GraphBatch.collate(random_graphs, np.arange(100)))


@pytest.mark.parametrize("rounds", [1, 5, 12])
@pytest.mark.parametrize(
    "check", [couplings.stepping_equals_all_at_once, couplings.round_trips_and_log_dets_cancel]
)
def test_the_coupling(build_model, random_graphs, double, rounds, check):
    def make(count, most):
        model = build_model(random_graphs, **{**OPTIONS, "rounds": rounds})
        batch = GraphBatch.collate(
            random_graphs, np.flatnonzero(random_graphs.node_counts <= most)[:count]
        )
        order, _ = depth_first(batch.adjacency, batch.sizes, torch.rand(*batch.mask.shape, 12))
        values = model.code.encode(batch.permute(order))[0]
        return couplings.Case.of(model.flow.transform, values, Context(batch.mask))

    check(make)


def evaluations(model, sizes):
    """Numbers of nodes in each evaluation of the blocks while graphs are drawn."""
    block, seen = model.network.blocks[0], []
    step = block.step
    block.step = lambda x, *rest: seen.append(len(x)) or step(x, *rest)
    model.sample(torch.tensor(sizes))
    return seen


@pytest.mark.parametrize("rounds", [1, 5, 12])
def test_drawing_evaluates_the_blocks_no_more_often_than_said(build_model, random_graphs, rounds):
    model = build_model(random_graphs, **{**OPTIONS, "rounds": rounds})
    seen = evaluations(model, [12, 3])
    assert len(seen) == rounds - (rounds == 5)  # of 3 nodes each: 4 are enough
    assert sum(seen) == 1 + (len(seen) - 1) * model.network.per_round


def test_the_shipped_model_is_evaluated_at_most_16_times():
    assert len(evaluations(GraphModel.from_pretrained("zinc250k-unordered"), [38, 38])) == 13


def test_graphs_of_parts_and_crowded_nodes_are_not_known(build_model, random_graphs):
    model = build_model(random_graphs, **OPTIONS)
    parts = ([0, 0, 0, 0], [(0, 1), (2, 3)], [0, 0])
    most = model.code.entries
    star = ([0] * (most + 2), [(0, k + 1) for k in range(most + 1)], [0] * (most + 1))
    fine = ([0, 0], [(0, 1)], [0])
    batch = GraphBatch.collate(PackedGraphs.from_lists([parts, star, fine]))
    assert model.knows(batch).tolist() == [False, False, True]
    assert model.knows(GraphBatch.collate(random_graphs)).all()
    with pytest.raises(ValueError, match="not connected"):
        model.log_prob(GraphBatch.collate(PackedGraphs.from_lists([parts])))


def test_training_reaches_every_parameter(build_model):
    graphs = PackedGraphs.from_lists(connected(4, 1, 2))
    model = build_model(graphs, **OPTIONS, support=False).train()
    batch = GraphBatch.collate(graphs)
    assert_gradients_reach_every_parameter(model, lambda: model.training_loss(batch)[0])


def test_bad_options_are_named(build_model, random_graphs):
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        build_model(random_graphs, **{**OPTIONS, "rounds": 0})
    with pytest.raises(UserError, match='needs order "none"'):
        build_model(random_graphs, architecture="unordered", order="canonical")


def test_the_term_of_the_order_is_exact(build_model):
    pairs = list(combinations(range(9), 2))
    graphs = PackedGraphs.from_lists([([0] * 9, pairs, [0] * len(pairs))])
    random_orders.equal_nodes_have_equal_orders(build_model(graphs, **OPTIONS), 9)
