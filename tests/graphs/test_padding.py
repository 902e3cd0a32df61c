"""Whatever stands at padding: likelihoods, gradients, latents and decoded graphs are the same."""

import math

import pytest
import torch
from couplings import perturb

from graphcnf.discrete import SetFlow
from graphcnf.flows import Context, Noise, StandardLogistic
from graphcnf.graphs import GraphBatch
from graphcnf.graphs.building import model_for_graphs

PAIRS = {"architecture": "pairs", "node_dim": 2, "node_mixtures": 2, "pair_mixtures": 2}
PAIRS |= {
    part: {"couplings": 2, "width": 16, "layers": 1, "heads": 2}
    for part in ("nodes", "edges", "adjacency")
}
PATH = {"width": 16, "layers": 1, "heads": 2, "head_width": 8, "level_width": 4, "table_rows": 64}


def graph_model(graphs, **options):
    return model_for_graphs(graphs, node_categories=3, edge_categories=2, **options)


MODELS = {
    "path": lambda graphs: graph_model(graphs, **PATH),
    "path, unordered": lambda graphs: graph_model(
        graphs, architecture="unordered", order="none", **PATH
    ),
    "growth": lambda graphs: graph_model(
        graphs, architecture="growth", order="none", width=16, layers=1, heads=2, head_width=8
    ),
    "pairs": lambda graphs: graph_model(graphs, **PAIRS),
    "pairs, unordered": lambda graphs: graph_model(graphs, order="none", **PAIRS),
}


@pytest.fixture
def batch(random_graphs):
    batch = GraphBatch.collate(random_graphs, range(8))
    assert (~batch.mask).any()
    return batch


@pytest.fixture(params=MODELS)
def model(request, random_graphs, batch):
    torch.manual_seed(0)
    model = perturb(MODELS[request.param](random_graphs), 0.1)
    with torch.no_grad():
        model.log_prob(batch)  # ActNorm begins with a batch
    return model.eval()


def log_prob_of_batch(model, batch, noise):
    """The log-probabilities of graphs, with a tape for a model that draws random numbers."""
    options = {"noise": noise} if model.stochastic else {}
    return model.log_prob(batch, **options)


def soiled(batch):
    """The same graphs with unknown categories, edges and loops at padding."""
    real = batch.mask[:, :, None] & batch.mask[:, None, :]
    return GraphBatch(
        torch.where(batch.mask, batch.node_types, 77),
        torch.where(real, batch.edge_labels, 55),
        batch.mask,
    )


def test_likelihoods_and_gradients_do_not_see_padding(model, batch):
    noise, found = Noise(), []
    for given in (batch, soiled(batch)):
        model.zero_grad(set_to_none=True)
        value = log_prob_of_batch(model, given, noise=noise.rewind())
        value.sum().backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        found.append((value.detach(), gradients))
    (value, gradients), (other, others) = found
    assert value.isfinite().all() and torch.equal(value, other)
    assert gradients.keys() == others.keys() and gradients
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, msg=lambda text, n=name: f"{n}: {text}")
        assert gradient.isfinite().all()


@pytest.mark.parametrize("name", ["path", "pairs"])
def test_graphs_may_be_padded_wider_than_the_model_draws_them(random_graphs, name):
    small = random_graphs.subset((random_graphs.node_counts < 7).nonzero()[0][:6])
    torch.manual_seed(0)
    model, noise = MODELS[name](small), Noise()
    batch = GraphBatch.collate(small)
    wide = GraphBatch.collate(random_graphs.concatenate([small, random_graphs]))[:6]
    assert wide.mask.shape[1] > model.max_nodes
    value = log_prob_of_batch(model, batch, noise=noise)
    assert torch.equal(log_prob_of_batch(model, wide, noise=noise.rewind()), value)
    latents = model.encode(wide, noise.rewind())
    decoded = (model.decode(latents, given.mask).to_packed() for given in (wide, batch))
    assert next(decoded) == next(decoded)
    with pytest.raises(ValueError, match="nodes; this model knows up to"):
        model.decode(latents, torch.ones_like(wide.mask))


@pytest.mark.parametrize("value", [math.nan, math.inf, -1e30])
def test_decoded_graphs_do_not_see_padding(model, batch, value):
    noise = Noise()
    latents = model.encode(batch, noise)
    again = model.encode(soiled(batch), noise.rewind())
    pairs = torch.tril_indices(batch.mask.shape[1], batch.mask.shape[1], -1)
    real = {"pairs": (batch.mask[:, :, None] & batch.mask[:, None, :])[:, pairs[0], pairs[1]]}
    other = {}
    for name, z in latents.items():
        torch.testing.assert_close(again[name], z)
        other[name] = torch.where(real.get(name, batch.mask)[..., None], z, value)
    graphs, same = (model.decode(given, batch.mask) for given in (latents, other))
    assert torch.equal(graphs.node_types, same.node_types)
    assert torch.equal(graphs.edge_labels, same.edge_labels)


@pytest.mark.parametrize("coupling", ["elements", "groups", "channels"])
def test_sets_do_not_see_padding(coupling):
    torch.manual_seed(0)
    model = SetFlow(5, 4, coupling=coupling, width=8, layers=1, heads=2, mixtures=4).train()
    mask = torch.tensor([[True] * 5, [True, False, True, False, False], [False, True] * 2 + [True]])
    x = torch.randint(4, (3, 5))
    noise, found = Noise(), []
    for given in (x, torch.where(mask, x, -9)):
        model.zero_grad(set_to_none=True)
        value = model.log_prob(given, Context(mask, noise=noise.rewind()))
        value.sum().backward()
        found.append([value.detach(), *(p.grad for p in model.parameters())])
        assert all(t.isfinite().all() for t in found[-1])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
    with torch.no_grad():
        z = StandardLogistic().sample((3, 5, model.encoding.latent_dim), mask=mask)
        decoded = model.decode(z, Context(mask))
        for value in (math.nan, math.inf):
            other = torch.where(mask[..., None], z, value)
            assert torch.equal(model.decode(other, Context(mask)), decoded)
