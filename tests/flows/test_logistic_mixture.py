import pytest
import torch
from torch.nn import functional as F

from graphcnf.flows import (
    StandardLogistic,
    StandardNormal,
    bounded_log_scale,
    logistic_mixture,
    logistic_mixture_inverse,
)


def parameters(shape, mixtures=8, means=2.0, scales=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn(3, mixtures, *shape, generator=generator, dtype=torch.float64)
    return 2 * draws[0], means * draws[1], (scales * draws[2]).clamp(-3, 3)


def inverse(y, *mixture):
    """x and log dx/dy."""
    x = logistic_mixture_inverse(y, *mixture)
    return x, -logistic_mixture(x, *(part.to(x.dtype) for part in mixture))[1]


def reference(x, logits, means, log_scales):
    """The textbook formula: logsumexp of logsigmoid."""
    log_weights = torch.log_softmax(logits, 0)
    u = (x - means) * torch.exp(-log_scales)
    log_cdf = torch.logsumexp(log_weights + F.logsigmoid(u), 0)
    log_sf = torch.logsumexp(log_weights + F.logsigmoid(-u), 0)
    density = log_weights + F.logsigmoid(u) + F.logsigmoid(-u) - log_scales
    return log_cdf - log_sf, torch.logsumexp(density, 0) - log_cdf - log_sf


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("means, scales", [(1, 0.5), (5, 3), (50, 3)])
def test_forward_matches_the_formula(dtype, tolerance, means, scales):
    x = 10 * torch.randn(5000, dtype=torch.float64)
    arguments = [t.to(dtype) for t in (x, *parameters(x.shape, means=means, scales=scales))]
    expected = reference(*(t.double() for t in arguments))
    for got, want in zip(logistic_mixture(*arguments), expected, strict=True):
        assert got.dtype == dtype
        torch.testing.assert_close(got.double(), want, atol=tolerance, rtol=tolerance)


def test_gradients():
    """Against finite differences, for both outputs and both directions."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, generator=generator, dtype=torch.float64)
    inputs = [t.requires_grad_() for t in (3 * x, *parameters((5,), mixtures=3))]
    assert torch.autograd.gradcheck(logistic_mixture, inputs)
    assert torch.autograd.gradcheck(inverse, inputs)


def test_gradients_are_finite_between_distant_components():
    means = torch.tensor([[-20.0], [20.0]])
    inputs = [torch.zeros(1), torch.zeros(2, 1), means, torch.full((2, 1), -3.0)]
    inputs = [t.requires_grad_() for t in inputs]
    value, log_slope = logistic_mixture(*inputs)
    (value + log_slope).sum().backward()
    assert log_slope.item() < -100
    assert all(t.grad.isfinite().all() for t in inputs)


@pytest.mark.parametrize("base", [StandardNormal(), StandardLogistic()], ids=repr)
@pytest.mark.parametrize("means, scales", [(1, 0.5), (3, 1), (5, 3), (20, 3)])
@pytest.mark.parametrize("temperature", [1.0, 3.0, 100.0])
def test_inverse_on_samples_from_the_base_density(base, means, scales, temperature):
    """Base samples, up to far into the tails, are solved to 1e-9 in float64."""
    y = base.sample(
        (10_000,),
        temperature=temperature,
        generator=torch.Generator().manual_seed(0),
        dtype=torch.float64,
    )
    y[:4] = torch.tensor([0.0, 1e-12, 2e3, -2e3])
    mixture = parameters(y.shape, means=means, scales=scales)
    x, log_slope = inverse(y, *mixture)
    again, forward_slope = reference(x, *mixture)
    assert (again - y).abs().max() < 1e-9
    # The error in x: where the map is flat it is larger than that in y.
    assert ((again - y) * torch.exp(log_slope)).abs().max() < 1e-9
    torch.testing.assert_close(log_slope, -forward_slope, atol=1e-9, rtol=0)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 2e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("mixtures", [2, 8])
@pytest.mark.parametrize("apart", [20, 50, 100, 200])
def test_inverse_between_distant_components(apart, mixtures, dtype, tolerance):
    """Means so many of the widest component's scales apart, scales from e^-3 to e^3."""
    generator = torch.Generator().manual_seed(0)
    shape = (mixtures, 5000)
    logits = 2 * torch.randn(shape, generator=generator)
    log_scales = 6 * torch.rand(shape, generator=generator) - 3
    widest = log_scales.exp().amax(0)
    means = (torch.rand(shape, generator=generator) - 0.5) * apart * widest
    y = StandardLogistic().sample((5000,), generator=generator)
    mixture = [part.to(dtype) for part in (logits, means, log_scales)]
    x, log_slope = inverse(y.to(dtype), *mixture)
    assert x.dtype == dtype
    # f is evaluated in float64: in float32 it would be what limits the test.
    value, _ = reference(x.double(), *(part.double() for part in mixture))
    error = (value - y.double()).abs() * log_slope.double().exp()
    size = x.abs() + means.abs().amax(0) + log_slope.exp() * (1 + y.abs())
    assert (error / size.double()).max() < tolerance


def test_inverse_with_a_vanishing_weight():
    y = torch.linspace(-50, 50, 201, dtype=torch.float64)
    mixture = parameters(y.shape, mixtures=2)
    mixture[0][0] = -2000
    x = logistic_mixture_inverse(y, *mixture)
    assert (reference(x, *mixture)[0] - y).abs().max() < 1e-9


def test_bounded_log_scale():
    x = torch.linspace(-30, 30, 6001, dtype=torch.float64)
    torch.testing.assert_close(bounded_log_scale(x), 3 * torch.tanh(x / 3))
    assert bounded_log_scale(torch.tensor([1e9, -1e9])).tolist() == [3, -3]
