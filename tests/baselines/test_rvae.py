"""R-VAE: its bound, its penalties, and what does not matter to them."""

import pytest
import torch
from couplings import perturb
from small_graphs import every_graph
from torch.nn import functional as F

from graphcnf.baselines import RegularizedVAE
from graphcnf.flows import Noise
from graphcnf.flows.base import record_generators
from graphcnf.graphs import GraphBatch, PackedGraphs
from graphcnf.graphs.building import model_for_graphs
from graphcnf.testing import (
    assert_gradients_reach_every_parameter,
    assert_lower_bound,
    assert_normalised,
)

SMALL = {"latent_dim": 2, "width": 8, "pair_width": 8, "encoder_layers": 1, "decoder_layers": 1}
RULES = {
    "edge_weights": [1, 2],
    "largest_sums": [4, 2, 1],
    "edge_ends": [[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 0, 2], [0, 2, 0], [1, 0, 0], [1, 1, 0],
                  [1, 0, 1]],
}  # fmt: skip
CHAIN = ([0, 0, 1, 2], [(1, 0), (2, 1), (3, 0)], [1, 0, 0])


def build(nodes=2, bonds=1, most=3, rules=None):
    torch.manual_seed(0)
    rules = rules or {"edge_weights": [1], "largest_sums": [2, 2], "edge_ends": [[0, 0, 0]]}
    sizes = {"node_categories": nodes, "edge_categories": bonds, "max_nodes": most}
    model = RegularizedVAE(**sizes, **rules, **SMALL)
    return perturb(model)


def batch_of(*graphs):
    return GraphBatch.collate(PackedGraphs.from_lists(graphs))


def penalties(*graphs):
    batch = batch_of(*graphs)
    nodes = torch.where(batch.mask[..., None], F.one_hot(batch.node_types, 3).float(), 0)
    return build(3, 2, 4, RULES).penalties(
        nodes, F.one_hot(batch.edge_labels, 3)[..., 1:].float(), batch.mask
    )


def test_probabilities_of_all_graphs_sum_to_one():
    # Draws of the prior in place of the posterior: p(x) = E[p(x|z)], without the bound.
    model, graphs = build().double().eval(), GraphBatch.collate(every_graph(3, types=2))
    z = model.base_sample(graphs.mask[:1].expand(400, -1))["graph"]
    total = torch.zeros(400, dtype=torch.float64)
    with torch.no_grad():
        for k in range(len(graphs)):
            tensors = graphs.node_types, graphs.edge_labels, graphs.mask
            one = GraphBatch(*(t[k : k + 1].expand(400, *t.shape[1:]) for t in tensors))
            parts = model._likelihood(one, {"graph": z})
            total += sum(b.log_posterior for b in parts.values()).exp()
    torch.testing.assert_close(total, torch.ones_like(total))


def test_importance_weighted_bounds_rise_to_probabilities_that_sum_to_one():
    model, graphs = build().eval(), GraphBatch.collate(every_graph(3, types=2))
    # A posterior that is wider than the prior: bounded weights, so that averages converge.
    last = model.posterior[-1]
    with torch.no_grad():
        last.weight *= 0.1
        last.bias.copy_(torch.tensor([0.0, 0.0, 2.6, 2.6]))
    assert_lower_bound(model.log_prob, graphs, samples=(1, 4), repeats=12)
    assert_normalised(model.log_prob, graphs, samples=8, repeats=8, max_error=0.1)


def test_valid_graphs_pay_nothing_whatever_stands_beside_them():
    chain = ([0] * 7, [(k + 1, k) for k in range(6)], [0] * 6)
    for value in penalties(CHAIN, ([1], [], []), ([0, 2], [(1, 0)], [0]), chain).values():
        assert not value.any()


@pytest.mark.parametrize(
    ("name", "graph", "value"),
    [
        ("valence", ([0, 0, 2], [(1, 0), (2, 1), (2, 0)], [0, 0, 0]), 1.0),
        ("connectivity", ([0, 0, 0], [(1, 0)], [0]), 4 / 3),
        ("ends", ([1, 1], [(1, 0)], [0]), 1.0),
    ],
)
def test_each_rule_has_its_penalty(name, graph, value):
    found = penalties(graph)
    assert found.pop(name).item() == pytest.approx(value)
    assert not any(other.any() for other in found.values())


def test_training_pays_penalties_and_likelihoods_do_not():
    model = build(3, 2, 4, RULES).train()
    chains = batch_of(CHAIN, ([2, 0, 1], [(1, 0), (2, 1)], [0, 1]), ([1], [], []),
                      ([1, 0], [(1, 0)], [1]))  # fmt: skip
    assert model.training_loss(chains)[1]["bits_penalties"][0] > 0
    # An embedding of a size that no graph has gets no gradient.
    del model.size
    model.size = torch.nn.Embedding.from_pretrained(torch.randn(5, 32))
    assert_gradients_reach_every_parameter(model, lambda: model.training_loss(chains)[0])
    assert "bits_penalties" not in model.eval().training_loss(chains)[1]
    assert "penalties" not in model.terms(chains)


def test_likelihoods_and_graphs_do_not_see_padding():
    model = build(3, 2, 8, RULES).eval()
    small, large = batch_of(CHAIN), batch_of(CHAIN, ([0] * 8, [], []))
    noise = Noise()
    row = noise.uniform((2, 2), device="cpu")
    alone = Noise()
    alone.draws.append(row[:1])
    one = model.log_prob(small, noise=alone.rewind())
    torch.testing.assert_close(model.log_prob(large, noise=noise.rewind())[:1], one)
    z = model.encode(large)
    torch.testing.assert_close(model.encode(small)["graph"], z["graph"][:1])
    both, own = model.decode(z, large.mask), model.decode(model.encode(small), small.mask)
    assert torch.equal(both.edge_labels[:1, :4, :4], own.edge_labels)
    assert torch.equal(both.node_types[:1, :4], own.node_types)


def test_draws_depend_on_their_own_generators_only():
    model = build(3, 2, 6, RULES).eval()
    found = []
    for mask in (torch.ones(3, 4).bool(), torch.arange(6).expand(3, 6) < 4):
        generators = record_generators(0, 0, 3)
        z = model.base_sample(mask, generators)
        drawn = model.decode(z, mask)
        found.append(drawn.to_packed())
    assert found[0] == found[1]
    assert torch.equal(drawn.edge_labels, drawn.edge_labels.transpose(1, 2))
    assert not drawn.edge_labels.diagonal(dim1=1, dim2=2).any()


def test_what_is_measured_is_kept_by_the_graphs_themselves():
    graphs = PackedGraphs.from_lists([CHAIN, ([2, 1], [(1, 0)], [1])])
    model = model_for_graphs(
        graphs, node_categories=3, edge_categories=2, architecture="rvae", edge_weights=[1, 2],
        **SMALL,
    )  # fmt: skip
    batch = GraphBatch.collate(graphs)
    nodes = torch.where(batch.mask[..., None], F.one_hot(batch.node_types, 3).float(), 0)
    edges = F.one_hot(batch.edge_labels, 3)[..., 1:].float()
    found = model.penalties(nodes, edges, batch.mask)
    assert not any(value.any() for value in found.values())
    assert model.knows(batch).all()
