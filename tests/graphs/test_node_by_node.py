"""Graphs of any kind, node by node: normalisation, graphs in parts, the rule of planar graphs."""

import math

import networkx as nx
import pytest
import torch
from random_orders import assert_counts_follow, complete_graph, grown
from small_graphs import every_graph

from graphcnf.flows import Context
from graphcnf.graphs import GraphBatch, PackedGraphs
from graphcnf.graphs.building import draws_raw, without_rules
from graphcnf.graphs.node_by_node import most_edges_first


def test_orders_do_not_see_padding(graphs_in_parts):
    batch = GraphBatch.collate(graphs_in_parts)
    uniforms = torch.rand(*batch.mask.shape, 9, dtype=torch.double)
    order, log_p = most_edges_first(batch.adjacency, batch.node_counts, uniforms)
    for k in range(len(batch)):
        n = int(batch.node_counts[k])
        own = (
            batch.adjacency[k : k + 1, :n, :n],
            batch.node_counts[k : k + 1],
            uniforms[k : k + 1, :n],
        )
        alone, value = most_edges_first(*own)
        assert torch.equal(alone[0], order[k, :n]) and value == log_p[k]
        assert order[k, n:].tolist() == list(range(n, 9))


@pytest.mark.parametrize("connected", [False, True])
@pytest.mark.parametrize(("nodes", "types", "bonds"), [(3, 2, 2), (4, 2, 1)])
def test_probabilities_of_all_numbered_graphs_add_up(double, nodes, types, bonds, connected):
    every = every_graph(nodes, types, bonds)
    model = grown(every_graph(nodes, types, bonds, connected), types, bonds, support=False)
    assert model.config["connected"] is connected
    x = model.code.encode(GraphBatch.collate(every))[0]
    mask = torch.ones(len(x), nodes, dtype=torch.bool)
    with torch.no_grad():
        p = model.network.log_prob(x, Context(mask)).exp()
    assert p.sum() == pytest.approx(1, abs=1e-9)
    assert (p == 0).any() == connected


def test_sampled_graphs_in_parts_have_their_probability(double):
    packed = every_graph(3, 2, 1)
    model, count = grown(packed, 2, 1, support=False), 8000
    batch = GraphBatch.collate(packed)
    context = Context(torch.ones(len(batch), 3, dtype=torch.bool))
    latents = model.base_sample(torch.ones(count, 3, dtype=torch.bool))
    # In the order that they were drawn in.
    latents["order"] = torch.arange(3.0).expand(count, 3)[..., None]
    with torch.no_grad():
        p = model.network.log_prob(model.code.encode(batch)[0], context).exp()
        drawn = model.decode(latents, torch.ones(count, 3, dtype=torch.bool))
    assert_counts_follow(p, batch, drawn)


def test_planar_graphs_stay_planar_where_all_of_the_data_are():
    maximal = [nx.circular_ladder_graph(5), nx.icosahedral_graph(), nx.wheel_graph(8)]
    packed = PackedGraphs.from_lists(
        ([0] * len(g), list(g.edges), [0] * g.number_of_edges()) for g in maximal
    )
    model = grown(packed, 1, 1)
    assert model.config["planar"] is True and not draws_raw(model)
    # Most pairs of nodes are to have an edge.
    with torch.no_grad():
        model.network.edge.bias.copy_(torch.tensor([0.0, 2.0]))

    def planar(model):
        torch.manual_seed(0)
        batch = model.sample(torch.full((20,), 9))
        drawn = [nx.from_numpy_array(a.numpy()) for a in batch.adjacency]
        return [nx.check_planarity(g)[0] and nx.is_connected(g) for g in drawn]

    assert all(planar(model))
    free = without_rules(model)
    assert draws_raw(free) and not any(planar(free))
    assert grown(complete_graph(5), 1, 1).config["planar"] is False


def test_graphs_in_parts_are_known_where_the_data_have_some(graphs_in_parts, random_graphs):
    apart = GraphBatch.collate(PackedGraphs.from_lists([([0] * 4, [(0, 1), (2, 3)], [0, 0])]))
    assert grown(graphs_in_parts).log_prob(apart).isfinite().all()
    model = grown(random_graphs)
    assert not model.knows(apart).any()
    assert model.knows(GraphBatch.collate(random_graphs)).all()
    sizes = torch.full((50,), 8)
    assert model.sample(sizes).connected().all()
    assert not grown(graphs_in_parts).sample(sizes).connected().all()
    assert model.log_prob(apart).item() == -math.inf


def test_bad_options_are_named(graphs_in_parts):
    with pytest.raises(ValueError, match="dropout must lie in"):
        grown(graphs_in_parts, dropout=1.5)
