"""The exported assertions fail on what is wrong."""

import math

import pytest
import torch
from torch import nn

from graphcnf.flows import Bijection
from graphcnf.testing import (
    assert_bijection,
    assert_dtype_and_autocast,
    assert_gradients_reach_every_parameter,
    assert_log_det_matches_jacobian,
    assert_lower_bound,
    assert_mask_invariance,
    assert_normalised,
)


class Double(Bijection):
    """``z = 2 x``, with one mistake of choice."""

    def __init__(self, mistake=None):
        super().__init__()
        self.mistake = mistake
        self.idle = nn.Parameter(torch.zeros(1))

    def forward(self, x, *, mask=None, context=None, noise=None, discarded=None):
        count = x[0].numel() if mask is None else mask.sum(1) * x.shape[-1]
        log_term = torch.zeros(len(x), dtype=x.dtype) + count * math.log(2)
        z = 2 * x if mask is None else 2 * x * mask.unsqueeze(-1)
        if self.mistake == "log-det":
            log_term = log_term + 0.1
        if self.mistake == "padding":
            z = z + x.nan_to_num(0, 0, 0).mean(1, keepdim=True)
        if self.mistake == "batch":
            z = z + 0.01 * x.mean(0)
        if self.mistake == "dtype":
            log_term = log_term.double()
        return z, log_term

    def inverse_and_logdet(self, z, *, mask=None, context=None):
        factor = 0.4 if self.mistake == "inverse" else 0.5
        return factor * z, -self.forward(z, mask=mask)[1]


X = torch.randn(3, 2, 2)
MASK = torch.tensor([[True, True], [True, False], [True, True]])


def test_a_right_transform_passes():
    assert_bijection(Double(), X)
    assert_log_det_matches_jacobian(Double(), X)
    assert_dtype_and_autocast(Double(), X)


@pytest.mark.parametrize(
    "mistake, check",
    [
        ("inverse", assert_bijection),
        ("log-det", assert_log_det_matches_jacobian),
        ("batch", assert_log_det_matches_jacobian),
        ("dtype", assert_dtype_and_autocast),
    ],
)
def test_mistakes_are_found(mistake, check):
    with pytest.raises(AssertionError):
        check(Double(mistake), X)


def test_leaking_padding_is_found():
    with pytest.raises(AssertionError, match="masked entries"):
        assert_mask_invariance(Double("padding"), X, mask=MASK)
    with pytest.raises(AssertionError, match="no padding"):
        assert_mask_invariance(Double(), X, mask=torch.ones(3, 2, dtype=torch.bool))


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


@pytest.mark.parametrize("total", [0.8, 1.2])
def test_wrong_normalisation_is_found(total):
    with pytest.raises(AssertionError, match="sum to"):
        assert_normalised(ToyModel(total).log_prob, SPACE, samples=16, repeats=200)


def test_inconclusive_estimates_are_refused():
    with pytest.raises(AssertionError, match="inconclusive"):
        assert_normalised(ToyModel().log_prob, SPACE, repeats=4, max_error=0.01)


def test_wrong_bounds_are_found():
    model = ToyModel()
    with pytest.raises(AssertionError, match="exceeds the exact value"):
        assert_lower_bound(model.log_prob, SPACE, exact=model.exact - 0.3)
    with pytest.raises(AssertionError, match="falls"):
        assert_lower_bound(lambda x, k: model.log_prob(x, 1) - 0.1 * k, SPACE, repeats=200)
    with pytest.raises(ValueError, match="increase"):
        assert_lower_bound(model.log_prob, SPACE, samples=(8, 1))
