import math

import couplings
import pytest
import torch

from graphcnf.categorical import (
    AutoregressiveCoupling,
    AutoregressiveFlow,
    AutoregressiveNetwork,
    CategoricalFlow,
    InSequence,
    IntervalEncoding,
    Step,
)
from graphcnf.categorical.encoding import MARGIN
from graphcnf.discrete import CausalAttention, ColumnMLP, RowFlow, Rows
from graphcnf.discrete.columns import ColumnContext
from graphcnf.discrete.counts import ColumnCounts
from graphcnf.flows.transform import Context

SMALL = {"width": 16, "layers": 2, "heads": 2}
UNLIKE = [3, 1, 5, 2, 3, 4, 2, 3, 3, 2, 5, 2]
"""Cardinalities of twelve columns."""


def network_of(kind, most):
    mask = torch.ones(40, 12, dtype=torch.bool)
    if kind == "sequences":
        rows = Rows(torch.randint(0, 5, mask.shape), mask)
        return RowFlow.counting(rows, 5, positions=12, **SMALL).network
    # Parents stand before their children, since rows of different lengths are their first columns.
    parents = [[0, 2] if k in (4, 7) else [] for k in range(most)]
    factors = [[4] * len(own) for own in parents]
    counts = ColumnCounts(UNLIKE[:most], parents, factors)
    counts.count((torch.rand(40, most) * torch.tensor(UNLIKE[:most])).long())
    sizes = counts.counts.sizes
    own = {"order": list(range(most)), "parents": parents, "factors": factors, "sizes": sizes}
    # All categories of some columns are in an order, or all but the last.
    ordinal = [3, 0, 5, 0, 3, 3, 0, 0, 3, 0, 4, 0][:most]
    network = ColumnMLP(UNLIKE[:most], counts=own, ordinal=ordinal, width=24)
    network.counts = counts
    network.weights.copy_(torch.randn(network.weights.shape) * network.ordered.earlier)
    network.ordered.share.copy_(torch.rand(most))
    return network


@pytest.fixture(params=["sequences", "columns"])
def make_case(request):
    """Function that gives a coupling as it is called for some random rows."""

    def make(count, most):
        torch.manual_seed(0)
        kind = request.param
        network = couplings.perturb(network_of(kind, most))
        coupling = AutoregressiveCoupling(network).eval()
        lengths = torch.randint(1, most + 1, (count,))
        lengths[0] = most
        mask = torch.arange(most) < lengths[:, None]
        known = torch.tensor(UNLIKE if kind == "columns" else [network.cardinalities] * 12)
        highest = known[:most].reshape(1, most, -1).expand(count, -1, -1)
        values = (torch.rand(highest.shape) * highest).long()
        context = Context(mask)
        if kind == "columns":  # in two orders
            order = torch.arange(most).repeat(count, 1)
            order[lengths > 4, :3] = torch.tensor([1, 2, 0])
            context = ColumnContext(mask, order=order)
        return couplings.Case.of(coupling, values, context)

    return make


@pytest.mark.parametrize("check", couplings.IN_FLOAT64)
def test_in_float64(double, make_case, check):
    check(make_case)


@pytest.mark.parametrize("check", couplings.IN_FLOAT32)
def test_in_float32(make_case, check):
    check(make_case)


class Given(AutoregressiveNetwork):
    """One position with the same logits in every row."""

    def __init__(self, logits):
        super().__init__()
        self.given, self.cardinalities = torch.nn.Parameter(logits), [logits.shape[-1]]

    def start(self, context):
        return GivenDrawing(self.given, len(context.mask))


class GivenDrawing:
    def __init__(self, logits, rows):
        number = torch.arange(rows)
        self.steps = iter([Step(number, torch.zeros_like(number), logits.expand(rows, -1))])

    def step(self):
        return next(self.steps, None)

    def update(self, x):
        pass


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_latent_at_a_border_has_the_category_that_was_conditioned_on(dtype):
    for _ in range(300):
        logits = (2 * torch.randn(5, dtype=torch.float64)).to(dtype)
        logits[torch.randint(5, ())] = -math.inf
        coupling = AutoregressiveCoupling(Given(logits))
        border = logits.log_softmax(-1).double().exp().cumsum(-1)
        z = torch.cat(
            [torch.logit(border * factor) for factor in (1, 1 - 1e-12, 1 + 1e-12, 1 - 1e-7)]
        )
        z = z.nan_to_num(0)[:, None, None]
        context = Context(torch.ones(len(z), 1, dtype=torch.bool))
        x = coupling.network.draw(torch.sigmoid(z.double()), context)
        assert logits[x.flatten()].isfinite().all(), "an impossible category"
        data = coupling.inverse(z, context)
        assert torch.equal(coupling.categories(data, context.mask), x)


def test_the_flow_of_latents_has_the_probabilities_of_the_network(double):
    flow = couplings.perturb(RowFlow(4, positions=6, **SMALL)).eval()
    lengths = torch.tensor([6, 1, 4, 3])
    context = Context(torch.arange(6) < lengths[:, None])
    x = torch.randint(4, (4, 6))
    drawn = CategoricalFlow.bound(flow, x, context).log_prob()
    # Each interval of the encoding leaves a margin free at either end.
    expected = flow.log_prob(x, context) + lengths * math.log1p(-2 * MARGIN)
    torch.testing.assert_close(drawn, expected)
    assert torch.equal(flow.decode(flow.encode(x, context), context), x * context.mask)


def test_fresh_networks_are_the_identity(double):
    coupling = AutoregressiveCoupling(CausalAttention(3, positions=7, **SMALL))
    context = Context(torch.ones(2, 7, dtype=torch.bool))
    z = IntervalEncoding([3]).encode(torch.randint(0, 3, (2, 7, 1))).z
    # They predict every category with the same probability.
    with torch.no_grad():
        out, log_term = coupling(z, context)
    torch.testing.assert_close(out, z)
    torch.testing.assert_close(log_term, torch.zeros(2))


def test_rows_leave_when_they_are_complete_and_multiply():
    mask = torch.arange(4) < torch.tensor([[2], [4], [1], [3]])
    order = InSequence(mask)

    def next_step():
        assert order.advance()
        step = order.make_step(hidden := object())
        assert step.hidden is hidden and len(step.rows) == order.count
        return step.rows.tolist(), step.positions.tolist()

    assert next_step() == ([1, 3, 0, 2], [0] * 4) and next_step() == ([1, 3, 0], [1] * 3)
    # Batch of old rows 0, 3, 3, 1: where they stood, longest first.
    assert order.select(torch.tensor([0, 3, 3, 1])).tolist() == [0, 1, 1, 2]
    assert order.rows.tolist() == [3, 1, 2, 0] and order.sizes.tolist() == [4, 3, 3, 2]
    assert next_step() == ([3, 1, 2], [2] * 3) and next_step() == ([3], [3])
    assert not order.advance() and order.count == 0


def test_what_does_not_fit_is_refused():
    size = {"positions": 4, "width": 8, "layers": 1}
    with pytest.raises(ValueError, match="heads must divide"):
        CausalAttention(2, heads=3, **size)
    network = CausalAttention(2, heads=2, **size)
    mask = torch.ones(1, 5, dtype=torch.bool)
    coupling = AutoregressiveCoupling(network)
    for call in (coupling, coupling.inverse):
        with pytest.raises(ValueError, match="5 positions, but the model knows up to 4"):
            call(torch.zeros(1, 5, 1), Context(mask))


def test_a_flow_that_sharpens_is_given_latents_as_they_are():
    network = CausalAttention(2, positions=4, **SMALL)
    with torch.no_grad():
        network.bias.copy_(torch.tensor([1.0, 3.0]).log())
    flow = AutoregressiveFlow(network)
    mask = torch.ones(4000, 4, dtype=torch.bool)
    for temperature, share in ((1.0, 0.75), (0.5, 0.9)):
        drawn = flow.sample(4000, context=Context(mask, temperature=temperature))
        # Sharpened once: probabilities proportional to p^(1/T). 5 standard errors of 16,000 draws.
        assert abs(drawn.double().mean() - share) < 5 * (share * (1 - share) / 16000) ** 0.5
