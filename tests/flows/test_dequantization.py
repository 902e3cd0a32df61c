"""Dequantization: what comes back, and the bound that it gives."""

import copy
import math
from functools import partial

import pytest
import torch
from flows.conftest import image_coupling
from image_networks import moved_away
from torch import nn
from torch.nn import functional as F

from graphcnf.flows import (
    ActNorm,
    Affine,
    AffineCoupling,
    ChannelsFirst,
    Checkerboard,
    Context,
    Inverse,
    InvertibleLinear,
    Logit,
    Noise,
    SequentialBijection,
    Split,
    Squeeze,
    StandardLogistic,
    StandardNormal,
    UniformDequantization,
    VariationalDequantization,
)
from graphcnf.testing import (
    assert_gradients_reach_every_parameter,
    assert_lower_bound,
    assert_normalised,
)

coupling = partial(image_coupling, AffineCoupling, 2)


def variational(levels, encoder=None):
    """Dequantization of two channels."""
    flow = SequentialBijection(coupling(2), coupling(2, swap=True))
    return VariationalDequantization(levels, flow, encoder)


DEQUANTIZATIONS = {
    "uniform": lambda: UniformDequantization(256),
    "variational": lambda: variational(256),
    "variational, encoder": lambda: variational(256, encoder=nn.Conv2d(2, 2, 1)),
}


@pytest.fixture(params=DEQUANTIZATIONS)
def dequantization(request):
    torch.manual_seed(0)
    step = moved_away(DEQUANTIZATIONS[request.param]())
    with torch.no_grad():
        for parameter in step.parameters():
            parameter.mul_(3)  # noise at both ends of its cells
    return step


@pytest.mark.parametrize("dtype", [torch.uint8, torch.long, torch.float32, torch.float64])
def test_dequantization_comes_back(dequantization, dtype):
    x = torch.randint(256, (200, 2, 3, 2)).to(dtype)
    if dtype == torch.float64:
        dequantization = dequantization.double()
    z, log_term = dequantization(x)
    assert not dequantization.exact
    assert z.dtype == log_term.dtype == (dtype if dtype == torch.float64 else torch.float32)
    assert (z >= x).all() and (z < x.to(z) + 1).all() and len(z.unique()) > 1000
    assert torch.equal(dequantization.inverse(z), x.to(z))


@pytest.mark.parametrize("levels", [1, 256, 5000, 2**18])
@pytest.mark.parametrize("u", [0.0, 1 - 2.0**-24])
def test_noise_at_the_ends_stays_within_its_cell(levels, u):
    """Noise next to 1 would be rounded up in float32."""
    x = torch.linspace(0, levels - 1, min(levels, 1000)).round()[:, None]
    noise = Noise()
    noise.draws = [torch.full_like(x, u)]
    step = UniformDequantization(levels)
    z, log_term = step(x, Context(noise=noise))
    assert torch.equal(step.inverse(z), x)
    assert (z > x).all() and (z < x + 1).all()
    torch.testing.assert_close(log_term, torch.full_like(log_term, math.log(1 - 2 * step.margin)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shift", [-50.0, -12.0, 0.0, 12.0, 50.0])
def test_learned_noise_keeps_its_distance_and_its_density(shift, dtype):
    """Wherever a flow drives the noise: u is 0 or 1 exactly for shifts of 50."""
    step = VariationalDequantization(256, Affine(1.0, shift))
    x = torch.randint(256, (2000, 1)).to(dtype)
    noise = Noise()
    z, log_term = step(x, Context(noise=noise))
    assert torch.equal(step.inverse(z), x)
    assert (z - x > 0.9 * step.margin).all() and (x + 1 - z > 0.8 * step.margin).all()
    # The density of u = sigmoid(e + shift), with logit(u) as the variable, spread over less.
    y = torch.logit(noise.draws[0].clamp(1e-16, 1 - 1e-16)) + shift
    log_q = StandardLogistic().log_prob(y - shift) - (F.logsigmoid(y) + F.logsigmoid(-y))[:, 0]
    log_q = log_q - math.log(1 - 2 * step.margin)
    torch.testing.assert_close(-log_term.double(), log_q, atol=1e-4, rtol=1e-5)


def test_dequantization_replays(dequantization):
    x = torch.randint(256, (5, 2, 3, 2))
    noise = Noise()
    z, log_term = dequantization(x, Context(noise=noise))
    again, again_term = dequantization(x, Context(noise=noise.rewind()))
    assert len(noise.draws) == 1
    assert torch.equal(z, again) and torch.equal(log_term, again_term)
    other, other_term = dequantization(x)
    assert not torch.equal(z, other)
    # Uniform noise has the density 1; every other noise has one that differs from draw to draw.
    uniform = isinstance(dequantization, UniformDequantization)
    assert torch.equal(log_term, other_term) == uniform
    double = copy.deepcopy(dequantization).double()
    precise, _ = double(x.double(), Context(noise=noise.rewind()))
    torch.testing.assert_close(precise.float(), z, atol=1e-4, rtol=0)


def test_dequantization_rounds_into_the_range():
    step = UniformDequantization(4)
    z = torch.tensor([[-3.0, -0.1, 0.0, 1.99, 3.999, 4.0, 77.0]])
    assert step.inverse(z).tolist() == [[0, 0, 0, 1, 3, 3, 3]]


def test_variational_dequantization_learns():
    step = moved_away(variational(256, encoder=nn.Conv2d(2, 2, 1)))
    x = torch.randint(256, (4, 2, 3, 2))

    def loss():
        z, log_term = step(x)
        return (z - x).square().sum() - log_term.sum()

    assert_gradients_reach_every_parameter(step, loss)


def cdf(v):
    """A mixture of two logistics."""
    return 0.6 * torch.sigmoid((v - 1.2) * 4) + 0.4 * torch.sigmoid((v - 3.3) * 7)


def log_density(v):
    def logistic(mean, scale):
        return scale * torch.sigmoid((v - mean) * scale) * torch.sigmoid((mean - v) * scale)

    return torch.log(0.6 * logistic(1.2, 4.0) + 0.4 * logistic(3.3, 7.0)).sum(-1)


def test_uniform_dequantization_converges_to_the_known_probabilities():
    """Three numbers 0 to 3 under a known density."""
    x = torch.cartesian_prod(*[torch.arange(4.0)] * 3)
    exact = torch.log(cdf(x.double() + 1) - cdf(x.double())).sum(-1)

    def log_prob(x, samples):
        z, log_term = UniformDequantization(4)(x.repeat(samples, 1))
        draws = (log_density(z) + log_term).view(samples, -1)
        return torch.logsumexp(draws, 0) - math.log(samples)

    assert_lower_bound(log_prob, x, samples=(1, 8, 64), exact=exact)
    gaps = [(exact - log_prob(x, k).double()).mean().item() for k in (1, 64, 1024)]
    assert gaps[0] > 0.2 and abs(gaps[2]) < 0.01 and gaps[0] > gaps[1] > gaps[2]


def test_bounds_of_a_flow_with_dequantization_sum_to_one():
    """Over all images of a tiny space, with every part of a model in between."""
    flow = moved_away(
        SequentialBijection(
            VariationalDequantization(
                2, SequentialBijection(Checkerboard(), coupling(4), Inverse(Checkerboard()))
            ),
            Affine(0.5),
            Logit(0.0),
            Squeeze(),
            ChannelsFirst(InvertibleLinear(4)),
            Split(4),
            ChannelsFirst(ActNorm(2)),
        ),
        by=0.1,
    )
    assert not flow.exact

    def log_prob(x, samples):
        z, log_term = flow(x.repeat(samples, 1, 1, 1))
        draws = (StandardNormal().log_prob(z) + log_term).view(samples, -1)
        return torch.logsumexp(draws, 0) - math.log(samples)

    space = torch.cartesian_prod(*[torch.arange(2.0)] * 4).view(16, 1, 2, 2)
    assert_normalised(log_prob, space, samples=1024, repeats=16)
