"""Graphs of any kind, node by node: orders, probabilities, the rule of planar graphs."""

import math
from itertools import combinations, permutations, product

import couplings
import networkx as nx
import numpy as np
import pytest
import random_orders
import torch
from random_orders import noise_of

from graphcnf.flows import Context
from graphcnf.graphs import GraphBatch, GraphModel, PackedGraphs
from graphcnf.graphs.node_by_node import most_edges_first
from graphcnf.testing import assert_gradients_reach_every_parameter

SMALL = {"width": 12, "layers": 2, "heads": 2, "head_width": 8}


def grown(graphs, node_categories=3, edge_categories=2, scale=0.3, **options):
    torch.manual_seed(0)
    options = {"architecture": "growth", "order": "none", **SMALL, **options}
    model = GraphModel.for_graphs(
        graphs, node_categories=node_categories, edge_categories=edge_categories, **options
    )
    return couplings.perturb(model, scale).eval()


def every_graph(nodes, types=1, bonds=1):
    """All graphs of some nodes, in every labelling, in parts as well."""
    for kinds in product(range(bonds + 1), repeat=math.comb(nodes, 2)):
        pairs = [p for p, k in zip(combinations(range(nodes), 2), kinds, strict=True) if k]
        for own in product(range(types), repeat=nodes):
            yield own, pairs, [k - 1 for k in kinds if k]


def orders_by_search(graph):
    """All orders in which each node has the most edges to those before, then the most triangles."""

    def score(node, before):
        near = set(graph[node]) & set(before)
        return len(near), graph.subgraph(near).number_of_edges()

    def longer(order):
        rest = [v for v in graph if v not in order]
        if not rest:
            yield tuple(order)
        best = max((score(v, order) for v in rest), default=None)
        for v in rest:
            if score(v, order) == best:
                yield from longer([*order, v])

    return set(longer([]))


def every_uniform(nodes):
    """Uniforms (M, N, N) of all draws that give other orders, equally likely."""
    columns = [list(permutations(range(nodes)))] * (nodes - 1) + [[tuple(range(nodes))]]
    return torch.stack([torch.tensor(one).T for one in product(*columns)]).double() / nodes


@pytest.fixture(scope="module")
def parts():
    """Graphs of which some are in parts, with categories."""
    random, graphs = np.random.default_rng(1), []
    for seed in range(60):
        graph = nx.gnp_random_graph(int(random.integers(1, 10)), 0.35, seed=seed)
        edges = list(graph.edges)
        graphs.append((random.integers(0, 3, len(graph)), edges, random.integers(0, 2, len(edges))))
    return PackedGraphs.from_lists(graphs)


def test_orders_are_those_of_a_search_each_as_likely_as_said():
    edges = [(0, 1), (1, 2), (0, 2), (2, 3), (3, 4), (2, 4), (4, 5)]
    batch = GraphBatch.collate(PackedGraphs.from_lists([([0] * 7, edges, [0] * 7)] * 6000))
    uniforms = torch.rand(6000, 7, 7, dtype=torch.double)
    order, log_p = most_edges_first(batch.adjacency, batch.sizes, uniforms)
    found, place, counts = order.unique(dim=0, return_inverse=True, return_counts=True)
    graph = nx.Graph(edges)
    graph.add_node(6)
    assert set(map(tuple, found.tolist())) == orders_by_search(graph)
    p = torch.zeros(len(found), dtype=torch.double).index_put((place,), log_p.exp())
    assert p.sum() == pytest.approx(1)
    # 4.5 standard deviations of a count.
    assert ((counts - 6000 * p).abs() < 4.5 * (6000 * p).sqrt()).all()


def test_orders_do_not_see_padding(parts):
    batch = GraphBatch.collate(parts)
    uniforms = torch.rand(*batch.mask.shape, 9, dtype=torch.double)
    order, log_p = most_edges_first(batch.adjacency, batch.sizes, uniforms)
    for k in range(len(batch)):
        n = int(batch.sizes[k])
        own = batch.adjacency[k : k + 1, :n, :n], batch.sizes[k : k + 1], uniforms[k : k + 1, :n]
        alone, value = most_edges_first(*own)
        assert torch.equal(alone[0], order[k, :n]) and value == log_p[k]
        assert order[k, n:].tolist() == list(range(n, 9))


def all_and_usable(nodes, types, bonds, connected):
    every = PackedGraphs.from_lists(every_graph(nodes, types, bonds))
    usable = GraphBatch.collate(every).connected().numpy()
    return every, every.subset(usable.nonzero()[0]) if connected else every


@pytest.mark.parametrize("connected", [False, True])
@pytest.mark.parametrize(("nodes", "types", "bonds"), [(3, 2, 2), (4, 2, 1)])
def test_probabilities_of_all_numbered_graphs_add_up(double, nodes, types, bonds, connected):
    every, packed = all_and_usable(nodes, types, bonds, connected)
    model = grown(packed, types, bonds, support=False)
    assert model.config["connected"] is connected
    x = model.code.encode(GraphBatch.collate(every))[0]
    mask = torch.ones(len(x), nodes, dtype=torch.bool)
    with torch.no_grad():
        p = model.flow.transform.log_prob(x, Context(mask)).exp()
    assert p.sum() == pytest.approx(1, abs=1e-9)
    assert (p == 0).any() == connected


@pytest.mark.parametrize("connected", [False, True])
def test_probabilities_are_sums_over_orders(double, connected):
    """The mean of the bound's exponential, over all draws, is the sum over the orders drawn."""
    _, packed = all_and_usable(3, 2, 2, connected)
    model = grown(packed, 2, 2, support=False)
    batch = GraphBatch.collate(packed)
    with torch.no_grad():
        draws = [
            model.log_prob(batch, noise=noise_of(u.expand(len(batch), -1, -1)))
            for u in every_uniform(3)
        ]
        p = torch.stack(draws).exp().mean(0)
        for b in range(0, len(batch), 1 + len(batch) // 40):
            graph = nx.from_numpy_array(batch.adjacency[b].numpy())
            orders = torch.tensor(sorted(orders_by_search(graph)))
            same = GraphBatch.collate(packed, [b] * len(orders)).permute(orders)
            x = model.code.encode(same)[0]
            log_p = model.flow.transform.log_prob(x, Context(same.mask))
            assert p[b] == pytest.approx(float(log_p.exp().sum()) / 6, rel=1e-9)
    # A connected graph of three nodes is drawn in every order that keeps it connected.
    assert p.sum() == pytest.approx(1, abs=1e-9) if connected else 0.1 < p.sum() < 1


def test_sampled_graphs_have_their_probability(double):
    packed = PackedGraphs.from_lists(every_graph(3, 2, 1))
    model, count = grown(packed, 2, 1, support=False), 8000
    batch = GraphBatch.collate(packed)
    context = Context(torch.ones(len(batch), 3, dtype=torch.bool))
    latents = model.base_sample(torch.ones(count, 3, dtype=torch.bool))
    # In the order that they were drawn in.
    latents["order"] = torch.arange(3.0).expand(count, 3)[..., None]
    with torch.no_grad():
        p = model.flow.transform.log_prob(model.code.encode(batch)[0], context).exp() * count
        drawn = model.decode(latents, torch.ones(count, 3, dtype=torch.bool))
    keys = [torch.cat([b.node_types, b.edge_labels.flatten(1)], 1) for b in (batch, drawn)]
    counts = (keys[0][:, None] == keys[1]).all(-1).sum(1)
    assert counts.sum() == count
    common = p > 20
    assert common.sum() > 10
    assert ((counts - p).abs() < 5 * p.sqrt())[common].all()


def test_log_prob_is_invariant_to_renumbering(parts, double):
    chosen = np.flatnonzero(parts.node_counts == parts.node_counts.max())
    random_orders.numbering_does_not_count(grown(parts), GraphBatch.collate(parts, chosen))


def test_reconstruction_is_exact(parts, double):
    random_orders.latents_lead_back(grown(parts), GraphBatch.collate(parts))


@pytest.mark.parametrize(("cells", "planar"), [(2**24, False), (300, True)])
@pytest.mark.parametrize(
    "check", [couplings.stepping_equals_all_at_once, couplings.round_trips_and_log_dets_cancel]
)
def test_the_coupling(parts, double, check, cells, planar, monkeypatch):
    """The rule of planar graphs is no part of it."""
    monkeypatch.setattr("graphcnf.graphs.node_by_node.CELLS", cells)

    def make(count, most):
        model = grown(parts)
        model.network.planar = planar
        batch = GraphBatch.collate(parts, np.flatnonzero(parts.node_counts <= most)[:count])
        order, _ = most_edges_first(batch.adjacency, batch.sizes, torch.rand(*batch.mask.shape, 9))
        values = model.code.encode(batch.permute(order))[0]
        return couplings.Case.of(model.flow.transform, values, Context(batch.mask))

    check(make)


def test_planar_graphs_stay_planar_where_all_of_the_data_are():
    maximal = [nx.circular_ladder_graph(5), nx.icosahedral_graph(), nx.wheel_graph(8)]
    packed = PackedGraphs.from_lists(
        ([0] * len(g), list(g.edges), [0] * g.number_of_edges()) for g in maximal
    )
    model = grown(packed, 1, 1)
    assert model.config["planar"] is True and not model.is_raw
    # Most pairs of nodes are to have an edge.
    with torch.no_grad():
        model.network.edge.bias.copy_(torch.tensor([0.0, 2.0]))

    def planar(model):
        torch.manual_seed(0)
        batch = model.sample(torch.full((20,), 9))
        drawn = [nx.from_numpy_array(a.numpy()) for a in batch.adjacency]
        return [nx.check_planarity(g)[0] and nx.is_connected(g) for g in drawn]

    assert all(planar(model))
    free = model.without_rules()
    assert free.is_raw and not any(planar(free))
    dense = PackedGraphs.from_lists([([0] * 5, list(combinations(range(5), 2)), [0] * 10)])
    assert grown(dense, 1, 1).config["planar"] is False


def test_graphs_in_parts_are_known_where_the_data_have_some(parts, random_graphs):
    apart = GraphBatch.collate(PackedGraphs.from_lists([([0] * 4, [(0, 1), (2, 3)], [0, 0])]))
    assert grown(parts).log_prob(apart).isfinite().all()
    model = grown(random_graphs)
    assert not model.knows(apart).any()
    assert model.knows(GraphBatch.collate(random_graphs)).all()
    drawn = model.sample(torch.full((50,), 8))
    assert drawn.connected().all() and not grown(parts).sample(drawn.sizes).connected().all()
    assert model.log_prob(apart).item() == -math.inf


def test_training_reaches_every_parameter(parts):
    model = grown(parts).train()
    batch = GraphBatch.collate(parts)
    assert_gradients_reach_every_parameter(model, lambda: model.training_loss(batch)[0])


def test_bad_options_are_named(parts):
    with pytest.raises(ValueError, match="dropout must lie in"):
        grown(parts, dropout=1.5)


def test_the_term_of_the_order_is_exact():
    pairs = list(combinations(range(23), 2))
    graphs = PackedGraphs.from_lists([([0] * 23, pairs, [0] * len(pairs))])
    random_orders.equal_nodes_have_equal_orders(grown(graphs), 23)
