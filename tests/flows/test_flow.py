"""Flows of vectors: densities that integrate to one, and are those of the samples."""

import pytest
import torch
from image_networks import moved_away

from graphcnf.flows import (
    MLP,
    AffineCoupling,
    Context,
    MaskedMLP,
    MixtureLogisticCoupling,
    RationalQuadraticCoupling,
    StandardLogistic,
    vector_flow,
)

KINDS = {
    "affine": {"coupling": AffineCoupling},
    "mixture": {"coupling": MixtureLogisticCoupling, "mixtures": 3},
    "spline": {"coupling": RationalQuadraticCoupling, "bins": 6},
    "autoregressive": {"autoregressive": True},
    "autoregressive spline": {"autoregressive": True, "coupling": RationalQuadraticCoupling},
}


@pytest.fixture(params=KINDS)
def flow(request):
    torch.manual_seed(0)
    return moved_away(vector_flow(2, 3, **KINDS[request.param], hidden=(8,), features=1), 0.1)


@pytest.mark.parametrize("feature", [-1.0, 1.0])
def test_the_density_is_that_of_the_samples(flow, feature):
    """Its integral over the box between the quartiles of samples is their share in it."""
    count, cells = 20_000, 150

    def context(rows):
        generator = torch.Generator().manual_seed(1)
        return Context(generator=generator, features=torch.full((rows, 1), feature))

    with torch.no_grad():
        x = flow.sample((count, 2), context(count))
        low, high = x.quantile(torch.tensor([0.25, 0.75]), 0)
        width = (high - low) / cells
        axes = (low + width * (torch.arange(cells)[:, None] + 0.5)).T
        density = flow.log_prob(torch.cartesian_prod(*axes), context(cells**2)).exp()
    share = ((x > low) & (x < high)).all(-1).float().mean().item()
    assert 0.05 < share < 0.6
    # Five standard errors of a share, and 1 % for the cells of the grid.
    mass = (density.sum() * width.prod()).item()
    assert mass == pytest.approx(share, abs=5 * (share / count) ** 0.5 + 0.01 * share)


def test_fitting_two_moons_approaches_their_entropy():
    """A short fit must beat the best single normal density clearly."""
    torch.manual_seed(0)
    angle, upper = torch.rand(2_000) * torch.pi, torch.rand(2_000) < 0.5
    x = torch.stack([torch.where(upper, angle.cos(), 1 - angle.cos()), angle.sin() / 2], -1)
    x[:, 1] = torch.where(upper, x[:, 1], 0.25 - x[:, 1]) + 0.05 * torch.randn(2_000)
    normal = torch.distributions.MultivariateNormal(x.mean(0), x.T.cov()).log_prob(x).mean()
    flow = vector_flow(2, 4, coupling=RationalQuadraticCoupling)
    optimizer = torch.optim.Adam(flow.parameters(), 3e-3)
    for _ in range(80):
        loss = -flow.log_prob(x[torch.randint(2_000, (256,))]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert flow.log_prob(x).mean() > normal + 0.5


def test_parameters_of_a_channel_depend_on_the_channels_before_it_alone():
    torch.manual_seed(0)
    network = MaskedMLP(4, 12, hidden=(33, 27))
    slopes = torch.autograd.functional.jacobian(network, torch.randn(4)).unflatten(0, (3, 4))
    depends = (slopes != 0).any(0)  # (channel of the parameters, channel)
    assert torch.equal(depends, torch.ones(4, 4).tril(-1).bool())


def test_a_spline_of_zeros_is_the_identity():
    coupling = RationalQuadraticCoupling(MLP(1, 23), split=1)
    x = torch.linspace(-7, 7, 29)[:, None]
    z, log_slope = coupling.transform_elements(x, torch.zeros(29, 23, 1))
    torch.testing.assert_close(z, x)
    torch.testing.assert_close(log_slope, torch.zeros_like(x), atol=1e-6, rtol=0)


def test_splines_survive_extreme_parameters():
    """Bins and slopes have smallest sizes, so that nothing is infinite and the round trip holds."""
    torch.manual_seed(0)
    parameters = 300 * torch.randn(500, 23, 1, dtype=torch.float64)
    coupling = RationalQuadraticCoupling(MLP(1, 23), split=1)
    x = (12 * torch.rand(500, 1) - 6).double()
    z, log_slope = coupling.transform_elements(x, parameters)
    assert log_slope.isfinite().all()
    torch.testing.assert_close(coupling.inverse_elements(z, parameters), x, atol=1e-7, rtol=0)


def test_temperature_scales_the_latents():
    flow = vector_flow(2, 1)
    torch.nn.init.zeros_(flow.transform[1].network.layers[-1].weight)
    torch.nn.init.zeros_(flow.transform[1].network.layers[-1].bias)
    x = flow.sample((20_000, 2), Context(temperature=0.5))
    torch.testing.assert_close(x.std(0), torch.tensor([0.5, 0.5]), atol=0.02, rtol=0)


def test_one_channel_can_be_autoregressive():
    flow = vector_flow(1, 2, autoregressive=True)
    flow.base = StandardLogistic()
    assert flow.log_prob(torch.randn(5, 1)).shape == (5,)
