"""ColoringFlow: a density of the colourings of a graph."""

import itertools
import math

import couplings
import networkx as nx
import pytest
import torch
from couplings import perturb
from torch.nn.functional import pad

from graphcnf.discrete import ColoringFlow, conflicts, from_networkx
from graphcnf.discrete.coloring_network import GraphConvolutions, turns
from graphcnf.errors import UserError
from graphcnf.flows import Noise, StandardLogistic, record_generators
from graphcnf.graphs.batch import GraphBatch
from graphcnf.graphs.features import GraphContext, walk_features
from graphcnf.testing import (
    assert_bijection,
    assert_gradients_reach_every_parameter,
    assert_log_det_matches_jacobian,
    assert_mask_invariance,
    assert_normalised,
    assert_serialisable,
)

SMALL = {"width": 16, "encoder_layers": 1, "layers": 2, "heads": 2, "couplings": 2, "mixtures": 2}
SMALL |= {"ahead": 8, "rounds": 2}


def model_of(coupling="nodes", colors=3, **options):
    torch.manual_seed(0)
    return perturb(ColoringFlow(colors, coupling=coupling, **{**SMALL, **options}), 0.2).eval()


@pytest.fixture(params=["nodes", "waves", "channels"])
def coupling(request):
    return request.param


def context_of(batch):
    features = walk_features(batch.adjacency, torch.get_default_dtype())
    return GraphContext(batch.mask, features, adjacency=batch.adjacency)


@pytest.mark.parametrize("order", ["nodes", "waves"])
def test_probabilities_of_all_colourings_sum_to_one(double, order):
    graph = nx.cycle_graph(4)
    space = torch.tensor(list(itertools.product(range(3), repeat=4)))
    batch = from_networkx([graph] * len(space))
    batch.node_types = space
    model = model_of(order)
    with torch.no_grad():
        values = model.log_prob(batch)
    assert values.exp().sum().item() == pytest.approx(1, abs=1e-9)
    some = values[values > -math.inf]
    assert some.std() > 0.1, "all colourings are equally likely"
    # Three colours are enough for this graph whatever is chosen first.
    clash = conflicts(space, batch.adjacency, batch.mask) > 0
    assert clash.sum() == 81 - 18
    assert torch.equal(values == -math.inf, clash if order == "waves" else clash & False)
    # With one draw after the other: it does not depend on the noise.
    torch.testing.assert_close(model.log_prob(batch), values, atol=1e-6, rtol=0)


def test_channels_are_normalised():
    torch.manual_seed(0)
    space = torch.tensor(list(itertools.product(range(2), repeat=2)))
    # Wide volumes: the weights of the bound need a finite variance here.
    options = {**SMALL, "couplings": 1, "encoding_options": {"separation": 1.5}}
    model = perturb(ColoringFlow(2, coupling="channels", **options), 0.05).eval()

    def log_prob(x, samples):
        batch = from_networkx([nx.path_graph(2)] * len(x) * samples)
        batch.node_types = x.repeat_interleave(samples, 0)
        values = model.log_prob(batch).reshape(len(x), samples)
        return values.logsumexp(1) - math.log(samples)

    assert_normalised(log_prob, space, samples=64, repeats=20, max_error=0.05, atol=1e-2)


@pytest.mark.parametrize(("order", "rounds"), [("nodes", 0), ("nodes", 3), ("waves", 3)])
def test_coupling_is_a_bijection(double, batch, order, rounds):
    coupling = model_of(order, rounds=rounds).flow.transform
    context = context_of(batch)
    x = model_of().flow.encoding.encode(batch.node_types, context).z
    z = StandardLogistic().sample((*batch.mask.shape, 1), mask=batch.mask)
    assert_bijection(coupling, x, context, z=z, atol=1e-7, rtol=1e-7, vary=())
    assert_serialisable(coupling, x, context)
    few = batch.node_counts <= 6
    assert_log_det_matches_jacobian(coupling, x[few], context_of(batch[few]), vary=())


@pytest.mark.parametrize("order", ["nodes", "waves"])
def test_stepping_equals_all_at_once(double, batch, order):
    coupling = model_of(order).flow.transform
    colors = model_of(order).sample(batch)[..., None]
    case = couplings.Case.of(coupling, colors, context_of(batch))
    couplings.stepping_equals_all_at_once(lambda count, most: case)


def test_padding_changes_nothing(double, batch, coupling):
    model = model_of(coupling)
    flow = model.flow.transform
    context = model._context(batch)
    x = torch.randn(*batch.mask.shape, model.flow.encoding.latent_dim)
    flow(x, context)
    assert_mask_invariance(flow, x, context, extend=0, vary=())
    # The same graphs with two more columns of padding, and colours and edges there.
    wider = GraphBatch(
        pad(batch.node_types, (0, 2), value=77),
        pad(batch.edge_labels, (0, 2, 0, 2), value=1),
        pad(batch.mask, (0, 2)),
    )
    z = model.flow.base.sample(x.shape, mask=batch.mask)
    with torch.no_grad():
        decoded = model.decode(pad(z, (0, 0, 0, 2), value=math.nan), wider)
        torch.testing.assert_close(decoded[:, : x.shape[1]], model.decode(z, batch))
        if coupling != "channels":
            torch.testing.assert_close(model.log_prob(wider), model.log_prob(batch))


@pytest.mark.parametrize("waves", [False, True])
def test_a_node_sees_only_what_was_before_it(double, batch, waves):
    network = model_of().flow.transform.network
    context = context_of(batch)
    x = batch.node_types
    rank, counts = turns(x, context, 3, waves)
    with torch.no_grad():
        expected = network.all_logits(context, rank, counts)
        seen = 0.0
        for turn in range(x.shape[1]):
            # Other colours from this turn on; the turns up to here stay as they are.
            later = (rank >= turn) & batch.mask
            other = torch.where(later, (x + torch.randint(1, 3, x.shape)) % 3, x)
            new_rank, new_counts = turns(other, context, 3, waves)
            assert torch.equal(new_rank[rank <= turn], rank[rank <= turn])
            got = network.all_logits(context, new_rank, new_counts)
            same = rank == turn
            torch.testing.assert_close(got[same], expected[same])
            after = (rank > turn) & (new_rank > turn) & batch.mask
            seen += (got[after] - expected[after]).abs().sum()
    assert seen > 1, "no node sees another one: the test would be empty"


def test_networks_do_not_know_the_numbers_of_nodes(double, batch):
    order = torch.stack([torch.randperm(batch.mask.shape[1]) for _ in range(len(batch))])
    rows = torch.arange(len(batch))[:, None]
    moved = batch.permute(order)
    old, new = context_of(batch), context_of(moved)
    network = model_of().flow.transform.network
    rank, counts = turns(batch.node_types, old, 3)
    there = rows[..., None], torch.arange(counts.shape[1])[None, :, None], order[:, None]
    with torch.no_grad():
        torch.testing.assert_close(
            network.all_logits(new, rank[rows, order], counts[there]),
            network.all_logits(old, rank, counts)[rows, order],
        )
        convolutions = perturb(GraphConvolutions(2, 5, width=8, layers=2, heads=2))
        x = torch.randn(*batch.mask.shape, 2)
        torch.testing.assert_close(
            convolutions(x[rows, order], new), convolutions(x, old)[rows, order]
        )


def test_the_graph_matters(batch, coupling):
    model, tape = model_of(coupling), Noise()
    fewer = GraphBatch(batch.node_types, batch.edge_labels.clone(), batch.mask)
    fewer.edge_labels[:, 0], fewer.edge_labels[:, :, 0] = 0, 0
    with torch.no_grad():
        first = model.log_prob(batch, noise=tape)
        assert ((model.log_prob(fewer, noise=tape.rewind()) - first).abs() > 1e-4).all()


def test_samples_follow_the_probabilities():
    model = perturb(model_of(), 0.3)
    graph = nx.cycle_graph(3)
    space = torch.tensor(list(itertools.product(range(3), repeat=3)))
    batch = from_networkx([graph] * 27)
    batch.node_types = space
    with torch.no_grad():
        expected = model.log_prob(batch).exp()
    samples = model.sample(from_networkx([graph] * 8000))
    shares = (samples[:, None] == space).all(-1).float().mean(0)
    assert (shares - expected).abs().sum() / 2 < 0.04
    assert expected.max() > 2 * expected.min(), "all colourings are equally likely"


def test_samples_are_reproducible_per_graph(batch, coupling):
    model = model_of(coupling)
    whole = model.sample(batch, generator=record_generators(1, 0, 12))
    assert whole.shape == batch.mask.shape and not whole[~batch.mask].any()
    assert torch.equal(model.sample(batch[4:7], generator=record_generators(1, 4, 3)), whole[4:7])


def test_cold_samples_are_more_probable(batch):
    model = model_of()
    samples = {
        t: GraphBatch(model.sample(batch, temperature=t), batch.edge_labels, batch.mask)
        for t in (1, 0.01)
    }
    with torch.no_grad():
        warm, cold = (model.log_prob(sample) for sample in samples.values())
    assert (cold - warm).mean() > 0.5


def test_round_trip(batch, coupling):
    model = model_of(coupling)
    z = model.encode(batch)
    back = torch.where(batch.mask, model.decode(z, batch), 0)
    assert (back == batch.node_types).float().mean() > (0.95 if coupling == "channels" else 0.999)


def test_training_loss_and_gradients(batch, coupling):
    model = model_of(coupling).train()
    loss, metrics = model.training_loss(batch)
    assert set(metrics) == {"bits_per_node", "accuracy"}
    assert set(model.eval().training_loss(batch)[1]) == {"bits_per_node", "accuracy", "validity"}
    for name, parameter in model.named_parameters():
        # A constant added to all keys of a softmax does not change it.
        parameter.requires_grad_(not name.endswith("lin_key.bias"))
    model.train()
    assert_gradients_reach_every_parameter(model, lambda: model.training_loss(batch, beta=2)[0])


def test_learns_that_neighbours_differ(colorings):
    torch.manual_seed(0)
    model = ColoringFlow(3, **{**SMALL, "layers": 1})
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    held_out = next(colorings.test_batches(40))

    def validity():
        value, count = model.eval().training_loss(held_out)[1]["validity"]
        model.train()
        return float(value / count)

    before = validity()
    for epoch in range(7):
        for batch in colorings.train_batches(36, epoch, seed=0):
            loss, _ = model.training_loss(batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    # Colours at random leave a graph of 7 nodes and 9 edges without a conflict in 3 % of cases.
    assert before < 0.3 and validity() > 0.75


def test_names_of_colours_mean_nothing(double, batch):
    model = model_of(colors=4)
    renamed = GraphBatch(
        torch.tensor([2, 0, 3, 1])[batch.node_types], batch.edge_labels, batch.mask
    )
    with torch.no_grad():
        expected = model.log_prob(batch)
        torch.testing.assert_close(model.log_prob(renamed), expected, atol=1e-8, rtol=0)
    assert expected.std() > 0.1


def test_conflicts():
    batch = from_networkx([nx.cycle_graph(3), nx.path_graph(2)])
    colors = torch.tensor([[0, 0, 0], [1, 2, 2]])
    assert conflicts(colors, batch.adjacency, batch.mask).tolist() == [3, 0]
    colors[0, 0] = 1
    assert conflicts(colors, batch.adjacency, batch.mask).tolist() == [1, 0]


def test_from_networkx():
    graph = nx.Graph([("b", "a"), ("a", "c")])
    batch = from_networkx([graph], [{"a": 2, "b": 0, "c": 1}])
    assert batch.node_types.tolist() == [[0, 2, 1]]
    assert batch.adjacency[0].int().tolist() == nx.to_numpy_array(graph).astype(int).tolist()
    with pytest.raises(UserError, match="graph 1 is empty"):
        from_networkx([graph, nx.Graph()])
    with pytest.raises(UserError, match="graph 0: node 1 has an edge to itself"):
        from_networkx([nx.Graph([(0, 1), (1, 1)])])
    with pytest.raises(UserError, match="graph 0 is a DiGraph: undirected simple graphs"):
        from_networkx([nx.DiGraph(graph)])
    for coloring, color in (({"a": 0, "b": 1}, "None"), ({"a": 0, "b": 1, "c": 1.5}, "1.5")):
        with pytest.raises(UserError, match=f"graph 0: node 'c' has the colour {color}, not 0, 1"):
            from_networkx([graph], [coloring])
    with pytest.raises(UserError, match="1 graphs, but 2 colourings"):
        from_networkx([graph], [{}, {}])


def test_input_is_checked(batch, coupling):
    model = model_of(coupling)
    wrong = GraphBatch(batch.node_types + 1, batch.edge_labels, batch.mask)
    with pytest.raises(ValueError, match="categories must lie in 0 to 2, got 3"):
        model.log_prob(wrong)
    empty = GraphBatch(batch.node_types, batch.edge_labels, batch.mask.clone())
    empty.mask[5] = False
    loop = GraphBatch(batch.node_types, batch.edge_labels.clone(), batch.mask)
    loop.edge_labels[2, 1, 1] = 1
    for function in (model.log_prob, model.sample, model.encode):
        with pytest.raises(ValueError, match="graph 5 of the batch has no nodes"):
            function(empty)
        with pytest.raises(ValueError, match="graph 2 of the batch has an edge from a node to its"):
            function(loop)
    with pytest.raises(ValueError, match="positive"):
        model.log_prob(batch, samples=0)


@pytest.mark.parametrize("colors", [1, 2, 4])
def test_other_numbers_of_colours(colors):
    graph = nx.empty_graph(3) if colors == 1 else nx.path_graph(5)
    batch = from_networkx([graph], [{v: v % colors for v in graph}])
    model = model_of(colors=colors)
    assert torch.isfinite(model.log_prob(batch)).all()
    assert set(model.sample(batch).flatten().tolist()) <= set(range(colors))
    loss, _ = model.train().training_loss(batch)
    loss.backward()
