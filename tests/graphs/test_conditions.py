"""What is asked of a graph: nothing at first, then a density of its own, heeded when drawing."""

from itertools import product

import numpy as np
import pytest
import torch
from couplings import perturb

from graphcnf.graphs import GraphBatch, GraphModel, PackedGraphs
from graphcnf.graphs.building import model_for_graphs, with_conditions
from graphcnf.graphs.conditions import UNCONDITIONAL, condition_statistics, hide_values
from graphcnf.graphs.path.contributions import Contributions
from graphcnf.graphs.path.paths import Path
from graphcnf.graphs.records import sample_records

TABLES = [
    {"name": "size", "mean": 3.0, "deviation": 1.0},
    {"name": "kind", "mean": 0.5, "deviation": 0.5},
]
SMALL = {"width": 16, "layers": 1, "heads": 2, "head_width": 8, "level_width": 4, "table_rows": 64}


@pytest.fixture(scope="module")
def chains():
    """Paths of 1 to 3 nodes, each of one of two categories."""
    return PackedGraphs.from_lists(
        (types, [(k, k + 1) for k in range(n - 1)], [0] * (n - 1))
        for n in (1, 2, 3)
        for types in product(range(2), repeat=n)
    )


@pytest.fixture
def plain(chains):
    torch.manual_seed(0)
    return model_for_graphs(chains, node_categories=2, edge_categories=1, **SMALL).eval()


def perturbed(model):
    torch.manual_seed(1)
    return perturb(model, 0.5)


def asked(*rows):
    return torch.tensor(rows, dtype=torch.get_default_dtype())


def test_a_model_that_takes_targets_begins_as_the_one_without(plain, chains):
    plain = perturbed(plain)
    model = with_conditions(plain, TABLES).eval()
    batch = GraphBatch.collate(chains)
    with torch.no_grad():
        known = plain.log_prob(batch)
        assert torch.equal(model.log_prob(batch), known)
        batch.condition_values = torch.randn(len(batch), 2)
        torch.testing.assert_close(model.log_prob(batch), known)
        sizes = model.size_prior.log_prob(batch.node_counts, batch.condition_values)
        torch.testing.assert_close(sizes, plain.size_prior.log_prob(batch.node_counts).to(sizes))
    assert sample_records(model, range(50), seed=0) == sample_records(plain, range(50), seed=0)
    assert model.conditions == TABLES and not plain.conditions


def test_further_conditions_come_beside_those_that_a_model_has(plain):
    model = perturbed(with_conditions(plain, TABLES[:1])).eval()
    more = with_conditions(model, TABLES[1:])
    assert more.conditions == TABLES
    for values in ([3.0], [None]):
        known = sample_records(model, range(20), seed=0, condition_values=values)
        assert sample_records(more, range(20), seed=0, condition_values=[*values, None]) == known


def test_nothing_asked_is_the_same_as_no_targets(plain, chains):
    model = perturbed(with_conditions(plain, TABLES)).eval()
    batch, nan = GraphBatch.collate(chains), float("nan")
    with torch.no_grad():
        known = model.log_prob(batch)
        batch.condition_values = asked([nan, nan]).expand(len(batch), -1)
        torch.testing.assert_close(model.log_prob(batch), known)
        batch.condition_values = asked([2.0, nan]).expand(len(batch), -1)
        assert (model.log_prob(batch) - known).abs().max() > 0.1
    none = sample_records(model, range(40), seed=0, condition_values=(None, None))
    assert none == sample_records(model, range(40), seed=0)
    assert none != sample_records(model, range(40), seed=0, condition_values=(2.0, None))


@pytest.mark.parametrize("row", [[1.0, 0.0], [2.5, float("nan")], [-100.0, 1.0]])
def test_given_targets_probabilities_sum_to_one(double, plain, chains, row):
    model = perturbed(with_conditions(plain, TABLES).double()).eval()
    batch = GraphBatch.collate(chains)
    batch.condition_values = asked(row).expand(len(batch), -1)
    with torch.no_grad():
        prior, asked_values = model.size_prior, batch.condition_values
        both = model.log_prob(batch) + prior.log_prob(batch.node_counts, asked_values)
        # Of all graphs of up to three nodes: paths have two depth-first codes from size 3 on,
        # so only those of one and two nodes are complete here.
        small = batch.node_counts < 3
        share = prior.log_prob(torch.tensor([1, 2]), asked_values[:2]).exp().sum()
        torch.testing.assert_close(both[small].exp().sum(), share)
        everything = prior.log_prob(torch.arange(1, 4), asked_values[:3]).exp().sum()
        torch.testing.assert_close(everything, torch.ones_like(everything))


def test_latents_lead_back_given_the_same_targets(plain, chains):
    model = perturbed(with_conditions(plain, TABLES)).eval()
    batch = GraphBatch.collate(chains)
    batch.condition_values = torch.randn(len(batch), 2)
    latents = model.encode(batch)
    back = model.decode(latents, batch.mask, condition_values=batch.condition_values)
    assert back.to_packed() == chains
    assert not torch.equal(model.encode(GraphBatch.collate(chains))["nodes"], latents["nodes"])


def test_what_is_asked_is_heeded_after_training(plain, chains):
    values = np.array([[len(t), t.mean()] for t, _, _ in map(chains.graph, range(len(chains)))])
    model = with_conditions(plain, condition_statistics(["size", "kind"], values)).train()
    whole = GraphBatch.collate(chains)
    whole.condition_values = torch.from_numpy(values).float()
    model.fit_contributions(whole)
    random = np.random.default_rng(0)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-2)
    for _ in range(120):
        index = random.integers(0, len(chains), 64)
        batch = GraphBatch.collate(chains, index)
        batch.condition_values = torch.from_numpy(hide_values(values[index], random)).float()
        optimizer.zero_grad()
        model.training_loss(batch)[0].backward()
        optimizer.step()
    model.eval()
    for size, kind in ((2, 0.0), (3, 1.0), (1, 1.0)):
        drawn = sample_records(model, range(100), seed=0, condition_values=(size, kind))
        assert (drawn.node_counts == size).mean() > 0.9
        assert (drawn.node_types == kind).mean() > 0.9
    drawn = sample_records(model, range(100), seed=0, condition_values=(None, 0.0))
    assert (drawn.node_types == 0).mean() > 0.9 and len(set(drawn.node_counts.tolist())) == 3


def test_what_edges_add_depends_on_both_ends_and_their_other_neighbours(random_graphs):
    def of(types, edges, bonds):
        """Edges of a kind between nodes of a kind; nodes with two neighbours or more of a kind."""
        near = [[] for _ in types]
        for i, j in edges:
            near[i].append(types[j])
            near[j].append(types[i])
        pairs = zip(edges, bonds, strict=True)
        same = sum(int(types[i] == types[j] == 1 and b == 0) for (i, j), b in pairs)
        return [float(same), float(sum(kinds.count(1) > 1 for kinds in near))]

    model = model_for_graphs(random_graphs, node_categories=3, edge_categories=2, **SMALL)
    values = np.array([of(*random_graphs.graph(k)) for k in range(len(random_graphs))])
    model = with_conditions(model, condition_statistics(["same", "near"], values))
    batch = GraphBatch.collate(random_graphs)
    batch.condition_values = torch.from_numpy(values).float()
    model.fit_contributions(batch)
    x, network = model.code.encode(batch)[0], model.network
    nodes = batch.mask.shape[1]
    before = Path.before_each(x, network.support.states, network.support.pad)
    at_once = Contributions.links(x.flatten(0, 1), before)
    step, links = Path.start(len(x), nodes, network.support.pad), []
    for number in range(nodes):
        links.append(Contributions.links(x[:, number], step))
        step.add(number, x[:, number], network.support.states)
    assert torch.equal(torch.stack(links, 1).flatten(0, 1), at_once)

    def error():
        added = network.contributions.of(x, torch.stack(links, 1)) * batch.mask[..., None]
        return (added.sum(1) - batch.condition_values).abs().mean(0)

    with_edges = error()
    network.contributions.edges.weight.data.zero_()
    assert (with_edges < 0.3 * error()).all(), (with_edges, error())


def test_what_is_known_in_training():
    values = np.arange(40_000.0).reshape(-1, 2)
    found = hide_values(values, np.random.default_rng(0))
    known = ~np.isnan(found)
    assert (found[known] == values[known]).all()
    third = (1 - UNCONDITIONAL) / 3
    # 20,000 graphs: a standard error of 0.35 %.
    shares = np.bincount(known.sum(1)) / len(known)
    assert shares == pytest.approx([UNCONDITIONAL + third, third, third], abs=0.015)
    assert known.mean(0) == pytest.approx((1 - UNCONDITIONAL) / 2, abs=0.015)


def test_what_does_not_fit_is_refused(plain, chains):
    batch = GraphBatch.collate(chains)
    batch.condition_values = torch.zeros(len(batch), 2)
    for ask in (
        lambda: plain.log_prob(batch),
        lambda: plain.size_prior.log_prob(batch.node_counts, batch.condition_values),
        lambda: plain.sample(torch.tensor([2]), condition_values=torch.zeros(1, 2)),
        lambda: sample_records(plain, range(3), seed=0, condition_values=(1.0, 2.0)),
    ):
        with pytest.raises(ValueError, match="without conditions"):
            ask()
    model = with_conditions(plain, TABLES)
    batch.condition_values = torch.zeros(len(batch), 3)
    with pytest.raises(ValueError, match="3 conditions, but the model takes 2"):
        model.log_prob(batch)


def test_tables_of_any_scale_are_kept(chains, tmp_path):
    random = np.random.default_rng(0)
    scales = np.array([[-2.5e5, 4e4], [2e-7, 1e-7], [3.0, 0.0]])
    values = scales[:, 0] + scales[:, 1] * random.standard_normal((500, 3))
    tables = condition_statistics(["energy", "rate", "same"], values)
    np.testing.assert_allclose([t["mean"] for t in tables], values.mean(0), rtol=1e-8)
    np.testing.assert_allclose([t["deviation"] for t in tables][:2], values.std(0)[:2], rtol=1e-8)
    assert tables[2]["deviation"] == 1.0
    model = model_for_graphs(chains, node_categories=2, edge_categories=1, **SMALL)
    with_conditions(model, tables).save_pretrained(tmp_path)
    assert GraphModel.from_pretrained(tmp_path).conditions == tables
