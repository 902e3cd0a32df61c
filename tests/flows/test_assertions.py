"""The exported assertions fail on what is wrong."""

import math

import pytest
import torch
from torch import nn

from graphcnf.categorical import AutoregressiveNetwork, Step
from graphcnf.categorical.autoregressive import InSequence
from graphcnf.flows import Bijection, Context, Inverse, Logit
from graphcnf.testing import (
    VARIATIONS,
    assert_bijection,
    assert_dtype_and_autocast,
    assert_gradients_reach_every_parameter,
    assert_log_det_matches_jacobian,
    assert_lower_bound,
    assert_mask_invariance,
    assert_normalised,
    assert_stepping_agrees,
)


class Double(Bijection):
    """``z = 2 x``, with one mistake of choice."""

    def __init__(self, mistake=None):
        super().__init__()
        self.mistake = mistake
        self.idle = nn.Parameter(torch.zeros(1))

    def forward(self, x, context=Context()):
        mask = context.mask
        count = x[0].numel() if mask is None else mask.sum(1) * x.shape[-1]
        log_term = torch.zeros(len(x), dtype=x.dtype) + count * math.log(2)
        z = 2 * x if mask is None else 2 * x.masked_fill(~mask.unsqueeze(-1), 0)
        if self.mistake == "log-det":
            log_term = log_term + 0.1
        if self.mistake == "padding":
            z = z + x.nan_to_num(0, 0, 0).mean(1, keepdim=True)
        if self.mistake == "batch":
            z = z + 0.01 * x.mean(0)
        if self.mistake == "dtype":
            log_term = log_term.double()
        if self.mistake == "gradient":
            # Right values, but 0 times what stands at padding is not a number.
            z = z + (self.idle * x).nan_to_num(0, 0, 0) * 0
        if self._applies(x, mask):
            log_term = log_term + 0.1
        return z, log_term

    def _applies(self, x, mask):
        """Whether a mistake that is made on some data only is made on these."""
        if self.mistake == "holes":
            return mask is not None and bool((mask[:, 1:] & ~mask[:, :-1]).any())
        return {
            "one record": len(x) == 1,
            "one entry": x.shape[1] == 1,
            "far": bool((x.abs() > 8).any()),
        }.get(self.mistake, False)

    def inverse_and_logdet(self, z, context=Context()):
        mask = context.mask
        factor = 0.4 if self.mistake == "inverse" else 0.5
        x = factor * (z if mask is None else z.masked_fill(~mask.unsqueeze(-1), 0))
        count = z[0].numel() if mask is None else mask.sum(1) * z.shape[-1]
        return x, torch.zeros(len(z), dtype=z.dtype) - count * math.log(2)


X = torch.linspace(-2, 2, 24).sin().reshape(3, 4, 2)
MASK = torch.arange(4) < torch.tensor([4, 1, 3])[:, None]


def test_a_right_transform_passes():
    assert_bijection(Double(), X)
    assert_log_det_matches_jacobian(Double(), X)
    assert_dtype_and_autocast(Double(), X)
    assert_mask_invariance(Double(), X, Context(MASK))


@pytest.mark.parametrize(
    "mistake, check, mask, message",
    [
        ("inverse", assert_bijection, None, "is not x"),
        ("log-det", assert_log_det_matches_jacobian, None, "log-det of sample 0"),
        ("batch", assert_log_det_matches_jacobian, None, "sample 0 depends on samples"),
        ("dtype", assert_dtype_and_autocast, None, "log_term is torch.float64"),
        ("padding", assert_mask_invariance, MASK, "masked entries"),
        ("gradient", assert_mask_invariance, MASK, "padding inf changes the gradient of idle"),
        (None, assert_mask_invariance, MASK | True, "no padding"),
    ],
)
def test_mistakes_are_found(mistake, check, mask, message):
    with pytest.raises(AssertionError, match=message):
        check(Double(mistake), X, Context(mask))


def test_latents_must_lie_in_the_image():
    """Of the sigmoid, which is (0, 1); its inverse takes other latents for its ends."""
    sigmoid = Inverse(Logit(0.0))
    assert_bijection(sigmoid, X, z=0.1 + 0.8 * torch.rand(X.shape), vary=("batch",))
    with pytest.raises(AssertionError, match="not z.*z lies outside the image of forward"):
        assert_bijection(sigmoid, X, z=torch.full(X.shape, 1.5), vary=())


RARE = {
    "holes": ("a mask with holes", "holes"),
    "one record": ("one record alone", "batch"),
    "one entry": ("records of one entry", "length"),
    "far": ("far from 0", "far"),
}


@pytest.mark.parametrize("mistake", RARE)
@pytest.mark.parametrize("check", [assert_bijection, assert_log_det_matches_jacobian])
def test_mistakes_on_rare_data_are_found(mistake, check):
    name, kind = RARE[mistake]
    transform = Double(mistake)
    with pytest.raises(AssertionError, match=name):
        check(transform, X, Context(MASK))
    # Nothing else looks there.
    check(transform, X, Context(MASK), vary=[k for k in VARIATIONS if k != kind])


def test_idle_parameters_are_found():
    module = Double()
    with pytest.raises(AssertionError, match="idle"):
        assert_gradients_reach_every_parameter(
            module, lambda: module(X)[0].sum() + 0 * module.idle.sum()
        )


class ToyModel:
    """``p(x) = E_u[exp(estimate)]``: a known distribution behind a noisy unbiased estimate."""

    def __init__(self, total=1.0):
        self.exact = torch.log(total * torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64))
        self.generator = torch.Generator().manual_seed(0)

    def log_prob(self, x, samples):
        noise = 0.5 * torch.randn(samples, len(x), generator=self.generator).double() - 0.125
        return self.exact[x] + torch.logsumexp(noise, 0) - math.log(samples)


SPACE = torch.arange(3)


def test_stochastic_model_passes():
    model = ToyModel()
    assert_normalised(model.log_prob, SPACE, samples=4, repeats=200)
    assert_lower_bound(model.log_prob, SPACE, exact=model.exact)


@pytest.mark.parametrize("total", [0.8, 0.95, 1.05, 1.2])
@pytest.mark.parametrize("samples, repeats", [(1, 64), (16, 20)])
def test_wrong_normalisation_is_found(total, samples, repeats):
    with pytest.raises(AssertionError, match="sum to"):
        assert_normalised(ToyModel(total).log_prob, SPACE, samples=samples, repeats=repeats)


def test_inconclusive_estimates_are_refused():
    with pytest.raises(AssertionError, match="inconclusive"):
        assert_normalised(ToyModel().log_prob, SPACE, most_repeats=100, max_error=0.01)


def test_wrong_bounds_are_found():
    model = ToyModel()
    with pytest.raises(AssertionError, match="exceeds the exact value"):
        assert_lower_bound(model.log_prob, SPACE, exact=model.exact - 0.3)
    with pytest.raises(AssertionError, match="falls"):
        assert_lower_bound(
            lambda x, samples: model.log_prob(x, 1) - 0.1 * samples, SPACE, repeats=200
        )
    with pytest.raises(ValueError, match="increase"):
        assert_lower_bound(model.log_prob, SPACE, samples=(8, 1))


class Bits(AutoregressiveNetwork):
    """A bit at each position, with the odds of those before it, and one mistake of choice."""

    cardinalities = (2,)

    def __init__(self, mistake=None):
        super().__init__()
        self.mistake, self.odds = mistake, nn.Parameter(torch.tensor(0.5))

    def hidden(self, before):
        return torch.stack([torch.zeros_like(before), before * self.odds], -1)

    def steps(self, x, context):
        before = x[..., 0].cumsum(1)
        if self.mistake != "sees itself":
            before = before - x[..., 0]
        mask = context.mask.clone()
        if self.mistake == "leaves out":
            mask[:, 0] = False
        yield Step(*mask.nonzero(as_tuple=True), self.hidden(before.float())[mask])

    def start(self, context):
        return BitDrawing(self, context.mask)


class BitDrawing:
    """Bits so far."""

    def __init__(self, network, mask):
        self.network, self.order = network, InSequence(mask)
        self.before = torch.zeros(len(mask))

    def step(self):
        if not self.order.advance():
            return None
        return self.order.make_step(self.network.hidden(self.before[: self.order.count]))

    def update(self, x):
        self.before[: len(x)] += x[:, 0]


def test_scoring_must_agree_with_drawing():
    x = torch.randint(2, (6, 5, 1), generator=torch.Generator().manual_seed(0))
    context = Context(torch.arange(5) < torch.tensor([5, 4, 2, 5, 1, 3])[:, None])
    assert_stepping_agrees(Bits(), x, context)
    for mistake, message in (("sees itself", "other prob"), ("leaves out", "not decided once")):
        with pytest.raises(AssertionError, match=message):
            assert_stepping_agrees(Bits(mistake), x, context)
