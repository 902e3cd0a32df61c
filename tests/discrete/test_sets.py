"""SetFlow and the couplings it is made of: of elements, of random groups of them, of channels."""

import itertools
import math

import couplings
import pytest
import torch
from couplings import perturb

from graphcnf.categorical import AutoregressiveCoupling
from graphcnf.categorical.encoding import MARGIN
from graphcnf.discrete import SetFlow
from graphcnf.discrete.set_flow import ElementCoupling, GroupContext, GroupNetwork
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
HOLES = torch.tensor([[1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 1]]).bool()


def set_flow(coupling, elements=4, categories=4, **options):
    given = {**SMALL, "couplings": 1 if coupling == "elements" else 2}
    if coupling != "groups":
        given |= {"latent_dim": 2, "encoding_options": WIDE}
    flow = SetFlow(elements, categories, coupling=coupling, **{**given, **options})
    return perturb(flow, 0.1).eval()


@pytest.fixture(params=["elements", "groups", "channels"])
def coupling(request):
    return request.param


@pytest.fixture
def make_case():
    """Function that gives a coupling of groups as it is called for random sets."""

    def make(count, most):
        torch.manual_seed(0)
        network = GroupNetwork(4, elements=36, groups=12, width=16, layers=2)
        # Sums over 36 elements grow: a larger step gives probabilities that float64 rounds to 0.
        coupling = AutoregressiveCoupling(perturb(network, 0.05)).eval()
        lengths = torch.randint(1, most + 1, (count,))
        lengths[0] = most
        mask = torch.arange(most) < lengths[:, None]
        context = GroupContext(mask, elements=3 * mask.long())
        return couplings.Case.of(coupling, torch.randint(4, (count, most, 3)), context)

    return make


@pytest.mark.parametrize("check", couplings.IN_FLOAT64)
def test_groups_in_float64(double, make_case, check):
    check(make_case)


@pytest.mark.parametrize("check", couplings.IN_FLOAT32)
def test_groups_in_float32(make_case, check):
    check(make_case)


@pytest.fixture
def element_coupling():
    means = torch.tensor([[-1.0, 0.5], [1.0, 0.0], [0.2, -1.0]])
    layer = ElementCoupling(means, means * 0.2, elements=6, **SMALL)
    return perturb(layer, 0.1).double()


def test_element_coupling_is_a_bijection(element_coupling):
    x = torch.randn(5, 4, 3, dtype=torch.float64)
    z = StandardLogistic().sample(x.shape, dtype=torch.float64)
    for mask in (None, MASK):
        assert_bijection(element_coupling, x, Context(mask), z=z, atol=1e-7, rtol=1e-7)
        assert_log_det_matches_jacobian(element_coupling, x, Context(mask))
    assert_mask_invariance(element_coupling, x, Context(MASK), atol=1e-9, rtol=1e-9)
    assert torch.equal(element_coupling(x)[0][..., 0], x[..., 0])
    with pytest.raises(ValueError, match="up to 6"):
        element_coupling(torch.randn(1, 7, 3))


def test_element_coupling_gives_a_joint_mixture(element_coupling):
    """A single element under the base density has the density sum_c w_c prod_d Logistic."""
    layer = element_coupling
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


def test_group_coupling_is_a_bijection_with_elements_in_any_place():
    flow = set_flow("groups", 7, couplings=3).double().transform
    z = StandardLogistic().sample((40, 7, 2), dtype=torch.float64)
    mask = torch.rand(40, 7) < torch.rand(40, 1)
    x = flow.inverse(z)
    # Within the intervals of the encoding: farther out the ends of the unit line are cut off.
    assert_bijection(flow, x, Context(mask), z=z, atol=1e-6, rtol=1e-6, vary=())
    assert_mask_invariance(flow, x, Context(mask), extend=0, atol=1e-9, rtol=1e-9, vary=())
    assert torch.equal(flow(x)[0][..., 0], x[..., 0])
    with pytest.raises(ValueError, match="sets of 8 elements, but the model knows up to 7"):
        flow(torch.zeros(1, 8, 2))


@pytest.mark.parametrize("mask", [MASK, HOLES], ids=["", "holes"])
def test_permutation_equivariance(coupling, mask):
    flow = set_flow(coupling).double()
    x, tape = torch.randint(0, 4, (5, 4)), Noise()
    order = torch.rand(5, 4).argsort(1)
    with torch.no_grad():
        expected = flow.bound(x, Context(mask, noise=tape)).log_prob()
        z = flow.encode(x, Context(mask, noise=tape.rewind()))
        permuted = Noise()
        permuted.draws = [draw.gather(1, order[..., None].expand_as(draw)) for draw in tape.draws]
        x, mask = x.gather(1, order), mask.gather(1, order)
        bound = flow.bound(x, Context(mask, noise=permuted))
        torch.testing.assert_close(bound.log_prob(), expected)
        latents = flow.encode(x, Context(mask, noise=permuted.rewind()))
        torch.testing.assert_close(latents, z.gather(1, order[..., None].expand_as(z)))


def test_round_trip(coupling):
    options = {} if coupling == "groups" else {"encoding_options": {"separation": 40.0}}
    flow = set_flow(coupling, **options).double()
    x = torch.stack([torch.randperm(4) for _ in range(50)])
    mask = torch.arange(4) < torch.randint(0, 5, (50, 1))
    with torch.no_grad():
        assert torch.equal(flow.decode(flow.encode(x)), x)
        back = flow.decode(flow.encode(x, Context(mask)), Context(mask))
    assert torch.equal(back, torch.where(mask, x, 0))


@pytest.mark.parametrize("coupling", ["elements", "channels"])
def test_normalised(coupling):
    flow = set_flow(coupling, 2, 3)
    space = torch.tensor(list(itertools.product(range(3), repeat=2)))

    def log_prob(x, samples):
        values = flow.bound(x.repeat_interleave(samples, 0)).log_prob()
        return values.reshape(len(x), samples).logsumexp(1) - math.log(samples)

    assert_normalised(log_prob, space, samples=128, repeats=30)


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_probabilities_of_all_sets_sum_to_one_for_every_order(groups):
    flow = set_flow("groups", 3, 3, couplings=groups).double()
    space = torch.tensor(list(itertools.product(range(3), repeat=3)))
    for _ in range(5):
        tape = Noise()
        with torch.no_grad():
            flow.bound(space[:1], Context(noise=tape))
            tape.draws = [draw.expand(len(space), -1, -1) for draw in tape.draws]
            total = flow.bound(space, Context(noise=tape.rewind())).log_prob().exp().sum()
        # The margins at both ends of an interval are lost.
        total = total / (1 - 2 * MARGIN) ** 3
        torch.testing.assert_close(total, torch.ones(()).double(), atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    "encoding",
    ["mixture", "linear", "variational", "argmax", "uniform-dequantization",
     "variational-dequantization"],
)  # fmt: skip
@pytest.mark.parametrize("coupling", ["elements", "channels"])
def test_gradients(coupling, encoding):
    ordinal = encoding.endswith("dequantization")
    if ordinal and coupling == "channels":
        pytest.skip("one latent has no halves")
    options = WIDE if encoding in ("mixture", "linear", "variational") else {}
    latent_dim = 1 if ordinal else 2
    flow = set_flow(coupling, latent_dim=latent_dim, encoding=encoding, encoding_options=options)
    x = torch.stack([torch.randperm(4) for _ in range(32)])
    flow.train()
    loss, metrics = flow.training_loss(x)
    assert set(metrics) == {"bits_per_variable", "accuracy"}
    bits, count = metrics["bits_per_variable"]
    assert (bits / count).item() == pytest.approx(loss.item() / math.log(2), rel=1e-5)
    assert_gradients_reach_every_parameter(flow, lambda: flow.training_loss(x, beta=2.0)[0])


@pytest.mark.parametrize(
    "coupling, optimum, most", [("elements", math.log2(6) / 3, 1.1), ("groups", 1.146, 1.3)]
)
def test_learns_that_elements_do_not_repeat(coupling, optimum, most):
    """Better than the best that elements can do which are independent, all or within a group.

    These cost log2(3) = 1.58 bits each, or (2 log2(4) + 2 log2(2)) / 4 = 1.5.
    """
    count = 3 if coupling == "elements" else 4
    options = {} if coupling == "groups" else {"encoding_options": {"separation": 20.0}}
    model = set_flow(coupling, count, count, **options)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    data = torch.tensor(list(itertools.permutations(range(count))))
    data = data.repeat(96 // len(data), 1)
    for _ in range(150):
        loss, _ = model.training_loss(data)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    bits, number = model.training_loss(data)[1]["bits_per_variable"]
    assert optimum - 0.02 < (bits / number).item() < most
    drawn = model.sample(300)
    assert (drawn.sort(1).values == torch.arange(count)).all(1).float().mean() > 0.8


@pytest.mark.parametrize("elements", [1, 3, 7, 20])
def test_as_many_evaluations_as_groups_whatever_the_size(elements, monkeypatch):
    flow = SetFlow(20, 5, coupling="groups", couplings=4, **SMALL)
    calls, original = [], GroupNetwork.groups_after

    def count(self, *arguments):
        calls.append(arguments[0].shape)
        return original(self, *arguments)

    monkeypatch.setattr(GroupNetwork, "groups_after", count)
    assert flow.sample(2, elements).shape == (2, elements)
    assert len(calls) == min(elements, 4)
    calls.clear()
    flow.log_prob(torch.randint(5, (2, elements)))
    assert [shape[0] for shape in calls] == [2 * min(elements, 4)]
    assert SetFlow(3, 4, coupling="groups").transform.coupling.network.groups == 3


def test_samples(coupling):
    flow = set_flow(coupling)
    assert flow.sample(3, 2).shape == (3, 2) and flow.sample(0).shape == (0, 4)
    mask = HOLES | (torch.arange(4) == 0)
    assert not flow.sample(5, context=Context(mask))[~mask].any()
    first, second = (
        flow.sample(n, context=Context(generator=record_generators(1, start, n)))
        for start, n in ((0, 4), (2, 2))
    )
    assert torch.equal(first[2:], second)
    if coupling == "groups":
        # At low temperature all sets are the most probable one, but for their order.
        cold = flow.sample(40, context=Context(temperature=1e-3))
        assert len(cold.sort(1).values.unique(dim=0)) == 1
