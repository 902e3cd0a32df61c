"""A trained model that learns of further categories, sizes and closures."""

import math

import pytest
import torch
from couplings import perturb

from graphcnf.design.enlargement import enlarged, merged_arguments
from graphcnf.errors import UserError
from graphcnf.graphs import GraphBatch, PackedGraphs
from graphcnf.graphs.building import model_for_graphs, with_conditions
from graphcnf.graphs.records import sample_records

TINY = {"width": 16, "layers": 1, "heads": 2, "table_rows": 64}
CHAIN = [(k, k - 1) for k in range(1, 8)]


def graph(types, edges, bonds=None):
    return types, edges, bonds or [0] * len(edges)


KNOWN = PackedGraphs.from_lists(
    [
        graph([0, 1, 0, 1], [(1, 0), (2, 1), (3, 2)], [0, 1, 0]),
        graph([0, 0, 0], [(1, 0), (2, 1), (2, 0)]),
        graph([1, 0, 1, 0, 0], [(1, 0), (2, 1), (3, 1), (4, 3)]),
    ]
)


@pytest.fixture
def model():
    model = model_for_graphs(
        KNOWN, node_categories=2, edge_categories=2, edge_weights=[1, 2], **TINY
    )
    return perturb(model, 0.2).eval()


def log_prob(model, graphs):
    with torch.no_grad():
        return model.log_prob(GraphBatch.collate(graphs))


def grown(model, graphs, nodes=(0, 1), edges=(0, 1), weights=(1, 2)):
    sources = {"node_sources": nodes, "edge_sources": edges, "edge_weights": weights}
    merged = [*range(len(nodes))], [*range(len(edges))]
    return enlarged(model, graphs, **sources, merged=merged)


def test_what_needs_no_growth_keeps_every_weight(model):
    same = grown(model, KNOWN)
    assert same.config == model.config and same is not model
    for name, value in model.state_dict().items():
        assert torch.equal(same.state_dict()[name], value), name


def test_larger_sizes_change_nothing_that_was_known(model):
    graphs = PackedGraphs.from_lists([graph([0] * 8, CHAIN)])
    with pytest.raises(ValueError, match="a graph of 8 nodes"):
        log_prob(model, graphs)
    other = grown(model, graphs)
    assert other.max_nodes == 8 and log_prob(other, graphs).isfinite().all()
    torch.testing.assert_close(log_prob(other, KNOWN), log_prob(model, KNOWN))


def test_longer_and_further_closures(model):
    ring = graph([0] * 8, [*CHAIN, (7, 0)])
    twice = graph([0, 0, 0, 0, 0], [(1, 0), (2, 1), (3, 2), (3, 1), (3, 0), (4, 0)])
    graphs = PackedGraphs.from_lists([ring, twice])
    other = grown(model, graphs)
    assert len(other.code.cardinalities) == 7
    assert log_prob(other, graphs).isfinite().all()
    # A new value takes at most half of each of four variables of at most 5 nodes.
    assert (log_prob(other, KNOWN) - log_prob(model, KNOWN)).abs().max() < 5 * 4 * 0.7


def test_new_categories_start_from_what_they_are_named_after(model):
    # Node category 2 is like 1, edge category 2 like 1.
    new = graph([0, 2, 0, 1], [(1, 0), (2, 1), (3, 2)], [0, 1, 0])
    graphs = PackedGraphs.from_lists([new, *(KNOWN.graph(k) for k in range(3))])
    other = grown(model, graphs, nodes=(0, 1, 1), edges=(0, 1, 1), weights=(1, 2, 2))
    assert other.config["largest_sums"] == [3, 3, 3]
    old, net = model.network, other.network
    assert torch.equal(net.features.variables[2].weight[:2], old.features.variables[2].weight)
    assert torch.equal(net.features.variables[2].weight[2], old.features.variables[2].weight[1])
    assert torch.equal(net.heads.last[2].weight[2], old.heads.last[2].weight[1])
    # Seen once, against five times: so stand the odds of the copy and its original at the start.
    ratio = (net.heads.last[2].bias[2] - net.heads.last[2].bias[1]).exp().item()
    assert ratio == pytest.approx(1.5 / 5.5, rel=1e-4)
    # Old categories lose what the copies took, and gain nothing.
    assert (log_prob(other, KNOWN) <= log_prob(model, KNOWN) + 1e-5).all()
    assert (log_prob(other, KNOWN) >= log_prob(model, KNOWN) - 3).all()
    assert log_prob(other, graphs).isfinite().all()


def test_the_grown_model_samples_and_learns(model):
    ring = graph([0, 2, 0, 1, 0, 2, 0, 1], [*CHAIN, (7, 0)])
    graphs = PackedGraphs.from_lists([ring, *(KNOWN.graph(k) for k in range(3))])
    other = grown(model, graphs, nodes=(0, 1, 0)).train()
    loss, _ = other.training_loss(GraphBatch.collate(graphs))
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in other.parameters())
    assert len(sample_records(other, range(8), seed=0)) == 8


def test_what_may_be_asked_is_heeded_as_before(model):
    tables = [{"name": "size", "mean": 3.0, "deviation": 1.0}]
    known = perturb(with_conditions(model, tables).eval(), 0.2)
    chain = graph([0, 2, 0, 1, 0, 0, 0, 1], CHAIN)
    graphs = PackedGraphs.from_lists([chain, *(KNOWN.graph(k) for k in range(3))])
    same = grown(known, KNOWN)
    other = grown(known, graphs, nodes=(0, 1, 0))
    assert other.conditions == tables
    new, old = (m.network.contributions.each[2].weight for m in (other, known))
    assert torch.equal(new, old[[0, 1, 0]])
    batch = GraphBatch.collate(KNOWN)
    with torch.no_grad():
        for row in (math.nan, 2.0, 5.0):
            batch.condition_values = torch.full((len(batch), 1), row)
            before = known.log_prob(batch)
            assert torch.equal(same.log_prob(batch), before)
            # Old values lose what their copies take, and no more.
            lost = before - other.log_prob(batch)
            assert (lost >= -1e-5).all() and (lost < 3).all()
            # Products of matrices of other shapes round otherwise on some processors.
            sizes = [m.size_network(batch.condition_values)[:, :6] for m in (known, other)]
            torch.testing.assert_close(*sizes)
    loss, _ = other.train().training_loss(batch)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in other.parameters())


def test_merged_arguments_cover_both():
    known = {"back": 3, "closures": [4], "edge_weights": None, "width": 16, "table": [[1, 0]]}
    needed = {"back": 2, "closures": [2, 5], "edge_weights": [1, 2], "table": [[0, 3], [7, 7]]}
    assert merged_arguments(known, needed) == {
        "back": 3, "closures": [4, 5], "edge_weights": [1, 2], "width": 16,
        "table": [[1, 3], [7, 7]],
    }  # fmt: skip
    assert merged_arguments({"largest_sums": [1]}, {"largest_sums": None}) == {"largest_sums": [1]}


def test_what_cannot_grow_is_refused(model):
    graphs = PackedGraphs.from_lists([graph([0, 1], [(1, 0)]), graph([0, 1, 1], CHAIN[:2])])
    trees = model_for_graphs(graphs, node_categories=2, edge_categories=2, **TINY)
    with pytest.raises(UserError, match="knows no closures"):
        grown(trees, KNOWN, weights=(1, 1))
    step = {"couplings": 1, "width": 8, "layers": 1}
    trees = model_for_graphs(
        graphs, node_categories=2, edge_categories=2, architecture="pairs", nodes=step, edges=step,
        adjacency=step,
    )  # fmt: skip
    with pytest.raises(UserError, match="atom by atom"):
        grown(trees, KNOWN)
