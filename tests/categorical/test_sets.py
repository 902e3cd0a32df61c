"""SetFlow and the couplings it is made of."""

import itertools
import math

import pytest
import torch

from graphcnf.categorical import SetFlow
from graphcnf.categorical.sets.elements import ElementCoupling
from graphcnf.errors import UserError
from graphcnf.flows import Context, Noise, StandardLogistic, record_generators
from graphcnf.testing import (
    assert_bijection,
    assert_gradients_reach_every_parameter,
    assert_log_det_matches_jacobian,
    assert_mask_invariance,
    assert_normalised,
)

SMALL = {"width": 8, "layers": 1, "heads": 2}
WIDE = {"separation": 1.5}
MASK = torch.arange(4) < torch.tensor([4, 2, 0, 3, 1])[:, None]


def perturb(module, size=0.1):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(size * torch.randn_like(parameter))
    return module


def set_flow(coupling, elements=4, categories=4, **options):
    options = {**SMALL, "latent_dim": 2, "encoding_options": WIDE, **options}
    if coupling == "channels":
        options.setdefault("couplings", 2)
    return perturb(SetFlow(elements, categories, coupling=coupling, **options)).eval()


@pytest.fixture(params=["elements", "channels"])
def coupling(request):
    return request.param


@pytest.fixture(params=[False, True], ids=["ascending", "descending"])
def element_coupling(request):
    means = torch.tensor([[-1.0, 0.5], [1.0, 0.0], [0.2, -1.0]])
    layer = ElementCoupling(means, means * 0.2, elements=6, reverse=request.param, **SMALL)
    return perturb(layer)


def test_element_coupling_is_a_bijection(element_coupling):
    x = torch.randn(5, 4, 3, dtype=torch.float64)
    layer = element_coupling.double()
    z = StandardLogistic().sample(x.shape, dtype=torch.float64)
    for mask in (None, MASK):
        assert_bijection(layer, x, Context(mask), z=z, atol=1e-7, rtol=1e-7)
        assert_log_det_matches_jacobian(layer, x, Context(mask))
    assert_mask_invariance(layer, x, Context(MASK), atol=1e-9, rtol=1e-9)
    assert torch.equal(layer(x)[0][..., 0], x[..., 0])
    with pytest.raises(ValueError, match="up to 6"):
        layer(torch.randn(1, 7, 3))


def test_element_coupling_gives_a_joint_mixture(element_coupling):
    """A single element under the base density has the density sum_c w_c prod_d Logistic."""
    layer = element_coupling.double()
    x = torch.randn(7, 1, 3, dtype=torch.float64)
    z, log_term = layer(x)
    found = StandardLogistic().log_prob(z[..., 1:]) + log_term
    logits, means, log_scales = layer._mixtures(x[:, :0, 1:], torch.ones(7, dtype=torch.long))
    logistic = torch.distributions.TransformedDistribution(
        torch.distributions.Uniform(torch.zeros(2, 3, 7).double(), 1),
        [
            torch.distributions.SigmoidTransform().inv,
            torch.distributions.AffineTransform(means[..., 0], log_scales[..., 0].exp()),
        ],
    )
    each = logistic.log_prob(x[:, 0, 1:].t()[:, None].expand(2, 3, 7)).sum(0)
    expected = (logits[..., 0].log_softmax(0) + each).logsumexp(0)
    torch.testing.assert_close(found, expected)


def test_permutation_equivariance(coupling):
    flow = set_flow(coupling).double()
    x, tape = torch.randint(0, 4, (5, 4)), Noise()
    mask = MASK
    with torch.no_grad():
        expected = flow.bound(x, Context(mask, noise=tape)).value()
        z = flow.encode(x, Context(mask, noise=tape.rewind()))
        order = torch.rand(5, 4).argsort(1)
        permuted = Noise()
        permuted.draws = [draw.gather(1, order[..., None].expand_as(draw)) for draw in tape.draws]
        x, mask = x.gather(1, order), mask.gather(1, order)
        bound = flow.bound(x, Context(mask, noise=permuted))
        torch.testing.assert_close(bound.value(), expected)
        latents = flow.encode(x, Context(mask, noise=permuted.rewind()))
        torch.testing.assert_close(latents, z.gather(1, order[..., None].expand_as(z)))


def test_round_trip(coupling):
    flow = set_flow(coupling, encoding_options={"separation": 40.0}).double()
    x = torch.stack([torch.randperm(4) for _ in range(50)])
    with torch.no_grad():
        assert torch.equal(flow.decode(flow.encode(x)), x)
    mask = torch.arange(4) < torch.randint(0, 5, (50, 1))
    with torch.no_grad():
        back = flow.decode(flow.encode(x, Context(mask)), Context(mask))
    assert torch.equal(back, torch.where(mask, x, 0))


def test_normalised(coupling):
    flow = set_flow(coupling, 2, 3)
    space = torch.tensor(list(itertools.product(range(3), repeat=2)))

    def log_prob(x, samples):
        values = flow.bound(x.repeat_interleave(samples, 0)).value()
        return values.reshape(len(x), samples).logsumexp(1) - math.log(samples)

    assert_normalised(log_prob, space, samples=128, repeats=30)


@pytest.mark.parametrize("encoding", ["mixture", "linear", "variational", "argmax"])
def test_gradients(coupling, encoding):
    options = {} if encoding == "argmax" else WIDE
    flow = set_flow(coupling, encoding=encoding, encoding_options=options)
    x = torch.stack([torch.randperm(4) for _ in range(32)])
    flow.train()
    loss, metrics = flow.training_loss(x)
    assert set(metrics) == {"bits_per_variable", "accuracy"}
    bits, count = metrics["bits_per_variable"]
    assert (bits / count).item() == pytest.approx(loss.item() / math.log(2), rel=1e-5)
    assert_gradients_reach_every_parameter(flow, lambda: flow.training_loss(x, beta=2.0)[0])


def test_learns_that_elements_do_not_repeat():
    model = SetFlow(3, 3, latent_dim=2, encoding_options={"separation": 20.0}, **SMALL)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    data = torch.tensor(list(itertools.permutations(range(3)))).repeat(16, 1)
    for _ in range(150):
        loss, _ = model.training_loss(data)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    bits, count = model.training_loss(data)[1]["bits_per_variable"]
    # Independent elements cost log2(3) = 1.58 bits each, the optimum is log2(3!) / 3 = 0.86.
    assert 0.85 < (bits / count).item() < 1.1
    samples = model.sample(200)
    assert (samples.sort(1).values == torch.arange(3)).all(1).float().mean() > 0.8


@pytest.mark.parametrize("name", ["uniform-dequantization", "variational-dequantization"])
def test_dequantization_goes_through_the_same_flow(name):
    flow = set_flow("elements", latent_dim=1, encoding=name, encoding_options={})
    x = torch.stack([torch.randperm(4) for _ in range(64)])
    with torch.no_grad():
        copy = flow.double()
        assert torch.equal(copy.decode(copy.encode(x)), x)
    flow.float()
    assert_gradients_reach_every_parameter(flow, lambda: flow.training_loss(x)[0])
    assert flow.sample(5).shape == (5, 4)


def test_samples(coupling):
    flow = set_flow(coupling)
    assert flow.sample(3).shape == (3, 4) and flow.sample(3, 2).shape == (3, 2)
    mask = MASK | (torch.arange(4) == 0)
    assert not flow.sample(5, context=Context(mask))[~mask].any()
    first, second = (
        flow.sample(count, context=Context(generator=record_generators(1, start, count)))
        for start, count in ((0, 4), (2, 2))
    )
    assert torch.equal(first[2:], second)


def test_saved_and_loaded(coupling, tmp_path):
    flow = set_flow(coupling)
    flow.metadata["training"] = {"steps": 3}
    flow.save_pretrained(tmp_path / "model")
    loaded = SetFlow.from_pretrained(tmp_path)
    assert loaded.config == flow.config and loaded.metadata == flow.metadata
    x, tape = torch.randint(0, 4, (3, 4)), Noise()
    expected = flow.log_prob(x, Context(noise=tape))
    assert torch.equal(loaded.log_prob(x, Context(noise=tape.rewind())), expected)
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(UserError, match="model.safetensors"):
        SetFlow.from_pretrained(tmp_path)
    (tmp_path / "model" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="not the config of a SetFlow"):
        SetFlow.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"coupling": "pairs"}, "elements, groups, channels"),
        ({"encoding": "mixtures"}, "unknown encoding"),
        ({"couplings": 0}, "couplings must be"),
        ({"width": 10, "heads": 4}, "divide"),
        ({"coupling": "channels", "encoding": "interval"}, "at least 2 latents"),
    ],
)
def test_errors(options, message):
    with pytest.raises(UserError, match=message):
        SetFlow(4, 4, **options)


def test_preset_builds():
    from graphcnf.training.experiments import build_experiment
    from graphcnf.training.settings import load_preset

    experiment = build_experiment(load_preset("set-shuffling"))
    batch = next(experiment.train_batches(0, 0, 0))
    loss, metrics = experiment.model.training_loss(batch[:4])
    assert loss.isfinite() and "bits_per_variable" in metrics
