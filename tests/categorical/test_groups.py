"""The coupling over random groups of the elements of a set."""

import itertools

import couplings
import pytest
import torch

from graphcnf.categorical import AutoregressiveCoupling, SetFlow
from graphcnf.categorical.intervals import MARGIN
from graphcnf.categorical.sets.groups import GroupCoupling, GroupNetwork
from graphcnf.errors import UserError
from graphcnf.flows import Context, Noise, StandardLogistic, record_generators
from graphcnf.testing import assert_bijection, assert_mask_invariance

SMALL = {"width": 16, "layers": 2}


@pytest.fixture
def make_case():
    """Function that gives a coupling as it is called for some random sets, three to a group."""

    def make(count, most):
        torch.manual_seed(0)
        network = GroupNetwork(4, elements=36, groups=12, **SMALL)
        # Sums over 36 elements grow: a larger step gives probabilities that float64 rounds to 0.
        coupling = AutoregressiveCoupling(couplings.perturb(network, 0.05)).eval()
        lengths = torch.randint(1, most + 1, (count,))
        lengths[0] = most
        mask = torch.arange(most) < lengths[:, None]
        context = Context(mask, 3.0 * mask[..., None])
        return couplings.Case.of(coupling, torch.randint(4, (count, most, 3)), context)

    return make


@pytest.mark.parametrize("check", couplings.IN_FLOAT64)
def test_in_float64(double, make_case, check):
    check(make_case)


@pytest.mark.parametrize("check", couplings.IN_FLOAT32)
def test_in_float32(make_case, check):
    check(make_case)


def set_flow(elements=7, categories=4, groups=3):
    torch.manual_seed(0)
    flow = SetFlow(elements, categories, coupling="groups", couplings=groups, **SMALL)
    return couplings.perturb(flow, 0.1).double().eval()


def random_mask(count, elements):
    """Real elements anywhere, from none to all of a set."""
    mask = torch.rand(count, elements) < torch.rand(count, 1)
    mask[0], mask[1] = True, False
    return mask


def test_a_bijection_with_elements_in_any_place():
    flow = set_flow()
    z = StandardLogistic().sample((40, 7, 2), dtype=torch.float64)
    mask = random_mask(40, 7)
    x = flow.flow.inverse(z)
    # Within the intervals of the encoding: farther out the ends of the unit line are cut off.
    assert_bijection(flow.flow, x, Context(mask), z=z, atol=1e-6, rtol=1e-6, vary=())
    assert_mask_invariance(flow.flow, x, Context(mask), extend=0, atol=1e-9, rtol=1e-9, vary=())
    assert torch.equal(flow.flow(x)[0][..., 0], x[..., 0])
    with pytest.raises(ValueError, match="sets of 8 elements, but the model knows up to 7"):
        flow.flow(torch.zeros(1, 8, 2))


def test_the_order_of_the_elements_does_not_matter():
    flow, mask = set_flow(), random_mask(50, 7)
    x, tape = torch.randint(4, (50, 7)), Noise()
    order = torch.rand(50, 7).argsort(1)
    with torch.no_grad():
        expected = flow.bound(x, Context(mask, noise=tape)).value()
        z = flow.encode(x, Context(mask, noise=tape.rewind()))
        other = Noise()
        other.draws = [draw.gather(1, order[..., None]) for draw in tape.draws]
        x, mask = x.gather(1, order), mask.gather(1, order)
        bound = flow.bound(x, Context(mask, noise=other))
        torch.testing.assert_close(bound.value(), expected)
        latents = flow.encode(x, Context(mask, noise=other.rewind()))
        torch.testing.assert_close(latents, z.gather(1, order[..., None].expand_as(z)))
        assert torch.equal(flow.decode(latents, Context(mask)), torch.where(mask, x, 0))


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_probabilities_of_all_sets_sum_to_one(groups):
    """For every order of the elements, so the bound is tight but for the choice of the order."""
    flow = set_flow(elements=3, categories=3, groups=groups)
    space = torch.tensor(list(itertools.product(range(3), repeat=3)))
    for seed in range(5):
        torch.manual_seed(seed)
        tape = Noise()
        with torch.no_grad():
            flow.bound(space[:1], Context(noise=tape))
            tape.draws = [draw.expand(len(space), -1, -1) for draw in tape.draws]
            log_p = flow.bound(space, Context(noise=tape.rewind())).value()
        # The ends that the encoding leaves free belong to no category.
        total = log_p.logsumexp(0).exp() / (1 - 2 * MARGIN) ** 3
        torch.testing.assert_close(total, torch.ones(()).double(), atol=1e-9, rtol=0)


def test_elements_of_a_group_depend_on_each_other():
    """Permutations of four in two groups, better than with independent elements."""
    torch.manual_seed(0)
    model = SetFlow(4, 4, coupling="groups", couplings=2, width=16, layers=1)
    data = torch.tensor(list(itertools.permutations(range(4)))).repeat(2, 1)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(150):
        loss, _ = model.training_loss(data)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    bits, count = model.training_loss(data)[1]["bits_per_variable"]
    # The best that two groups of two independent elements can do is (2 log2(4) + 2 log2(2)) / 4
    # = 1.5, the optimum log2(4!) / 4 = 1.146.
    assert 1.14 < float(bits / count) < 1.3
    drawn = model.sample(500)
    assert (drawn.sort(1).values == torch.arange(4)).all(1).float().mean() > 0.8


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


def test_samples_are_functions_of_their_generators():
    flow = set_flow()
    first, second = (
        flow.sample(count, context=Context(generator=record_generators(1, start, count)))
        for start, count in ((0, 4), (2, 2))
    )
    assert torch.equal(first[2:], second)
    mask = random_mask(30, 7) | (torch.arange(7) == 2)
    assert not flow.sample(30, context=Context(mask))[~mask].any()
    cold = [flow.sample(20, context=Context(temperature=1e-4)) for _ in range(2)]
    # All sets are the most probable one, but for their order.
    assert len(torch.cat(cold).sort(1).values.unique(dim=0)) == 1


def test_saved_and_loaded(tmp_path):
    flow = set_flow().float()
    flow.save_pretrained(tmp_path)
    loaded = SetFlow.from_pretrained(tmp_path)
    assert isinstance(loaded.flow, GroupCoupling) and loaded.config == flow.config
    x, context = torch.randint(0, 4, (3, 7)), Context(noise=Noise())
    expected = flow.log_prob(x, context)
    context.noise.rewind()
    assert torch.equal(loaded.log_prob(x, context), expected)


def test_no_more_groups_than_elements():
    assert SetFlow(3, 4, coupling="groups").flow.coupling.network.groups == 3


def test_other_encodings_are_refused():
    with pytest.raises(UserError, match='"groups" takes the encoding "interval" only'):
        SetFlow(4, 4, coupling="groups", encoding="mixture")


def test_a_flow_of_no_sets():
    assert set_flow().sample(0).shape == (0, 7)
