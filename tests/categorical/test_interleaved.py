import couplings
import pytest
import torch

from graphcnf.categorical import (
    CategoricalFlow,
    CausalAttention,
    InterleavedCoupling,
    IntervalEncoding,
)
from graphcnf.flows import Context

SMALL = {"width": 16, "layers": 2, "heads": 2}
UNLIKE = [3, 1, 5, 2, 3, 4, 2, 3, 3, 2, 5, 2]
"""Cardinalities of twelve columns."""


def network_of(kind):
    return CausalAttention(5 if kind == "sequences" else UNLIKE, positions=12, **SMALL)


@pytest.fixture(params=["sequences", "columns"])
def make_case(request):
    """Function that gives a coupling as it is called for some random rows."""

    def make(count, most):
        torch.manual_seed(0)
        kind = request.param
        network = couplings.perturb(network_of(kind))
        coupling = InterleavedCoupling(network, groups=12).eval()
        lengths = torch.randint(1, most + 1, (count,))
        lengths[0] = most
        mask = torch.arange(most) < lengths[:, None]
        known = torch.tensor(UNLIKE if kind == "columns" else [network.cardinalities] * 12)
        highest = known[:most].reshape(1, most, -1).expand(count, -1, -1)
        values = (torch.rand(highest.shape) * highest).long()
        return couplings.Case.of(coupling, values, Context(mask))

    return make


@pytest.mark.parametrize("check", couplings.IN_FLOAT64)
def test_in_float64(double, make_case, check):
    check(make_case)


@pytest.mark.parametrize("check", couplings.IN_FLOAT32)
def test_in_float32(make_case, check):
    check(make_case)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_latent_at_a_border_has_the_category_that_was_conditioned_on(dtype):
    torch.manual_seed(0)
    coupling = InterleavedCoupling(CausalAttention(5, positions=4, **SMALL), groups=4)
    log_p = (2 * torch.randn(2000, 1, 5)).log_softmax(-1).expand(-1, 4, -1)
    border = log_p[:, 0].double().exp().cumsum(-1)[:, :-1]
    for u in (border, border * (1 - 1e-12), border * (1 + 1e-12), border * (1 - 1e-7)):
        x, z, _ = coupling._place(u, log_p, 0, torch.zeros((), dtype=dtype))
        shown = torch.sigmoid(z.to(dtype))
        assert torch.equal(coupling.intervals.category(shown[..., None])[..., 0], x)


def test_without_context_groups_the_number_of_a_position_decides(double):
    coupling = InterleavedCoupling(CausalAttention(3, positions=7, **SMALL), groups=3)
    context = Context(torch.ones(2, 7, dtype=torch.bool))
    assert coupling.group_of(context).tolist() == [[0, 1, 2, 0, 1, 2, 0]] * 2
    z = IntervalEncoding([3]).encode(torch.randint(0, 3, (2, 7, 1))).z
    # Fresh networks predict every category with the same probability: the map is the identity.
    with torch.no_grad():
        out, log_term = coupling(z, context)
    torch.testing.assert_close(out, z)
    torch.testing.assert_close(log_term, torch.zeros(2))


def test_what_does_not_fit_is_refused():
    size = {"positions": 4, "width": 8, "layers": 1}
    with pytest.raises(ValueError, match="heads must divide"):
        CausalAttention(2, heads=3, **size)
    network = CausalAttention(2, heads=2, **size)
    with pytest.raises(ValueError, match="groups must be positive, got 0"):
        InterleavedCoupling(network, groups=0)
    mask = torch.ones(1, 5, dtype=torch.bool)
    coupling = InterleavedCoupling(network, groups=2)
    for call in (coupling, coupling.inverse):
        with pytest.raises(ValueError, match="5 positions, but the model knows up to 4"):
            call(torch.zeros(1, 5, 1), Context(mask))


def test_cardinalities_of_columns_must_fit():
    for cardinalities in ([2, 3], [2, 0, 2], []):
        with pytest.raises(ValueError, match="cardinalities|must be positive"):
            CausalAttention(cardinalities, positions=3, width=8, layers=1)


def test_a_flow_that_sharpens_is_given_latents_as_they_are():
    torch.manual_seed(0)
    network = CausalAttention(2, positions=4, **SMALL)
    network.start_from(torch.tensor([[10_000, 30_000]]))
    flow = CategoricalFlow(IntervalEncoding([2]), InterleavedCoupling(network, groups=4))
    mask = torch.ones(4000, 4, dtype=torch.bool)
    for temperature, share in ((1.0, 0.75), (0.5, 0.9)):
        drawn = flow.sample(4000, context=Context(mask, temperature=temperature))
        # Sharpened once: probabilities proportional to p^(1/T). 5 standard errors of 16,000 draws.
        assert abs(drawn.double().mean() - share) < 5 * (share * (1 - share) / 16000) ** 0.5
