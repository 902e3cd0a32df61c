"""What is particular to one transform, or to their composition."""

import math

import pytest
import torch
from torch import nn

from graphcnf.flows import (
    ActNorm,
    AffineCoupling,
    Context,
    InvertibleLinear,
    MixtureLogisticCoupling,
    Sequential,
    StandardLogistic,
    StandardNormal,
    Transform,
    count_entries,
    log_term_dtype,
    sum_log_term,
    take,
)


class Constant(nn.Module):
    """A network that ignores its input, and remembers it."""

    def __init__(self, outputs, scale=1.0):
        super().__init__()
        self.values = nn.Parameter(scale * torch.randn(outputs))

    def forward(self, x, context):
        self.seen = x
        return self.values.expand(*x.shape[:-1], -1)


class Dequantize(Transform):
    """A stochastic step: adds uniform noise."""

    exact = False

    def forward(self, x, context=Context()):
        z = x + take(context.noise, lambda: torch.rand(x.shape))
        return z, torch.zeros(len(x))

    def inverse(self, z, context=Context()):
        return z.floor()


def test_actnorm_normalises_the_real_entries_of_the_first_batch():
    x = 3 * torch.randn(8, 5, 4) + torch.arange(4)
    mask = torch.rand(8, 5) < 0.7
    layer = ActNorm(4)
    z, _ = layer(torch.where(mask.unsqueeze(-1), x, 1e6), Context(mask))
    assert layer.initialized
    torch.testing.assert_close(z[mask].mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(z[mask].std(0, unbiased=False), torch.ones(4))
    before = layer.bias.clone()
    layer(x + 10, Context(mask))
    assert torch.equal(layer.bias, before)


def test_actnorm_is_safe_on_a_constant_channel():
    x = torch.randn(16, 3)
    x[:, 1] = 5.0
    z, log_term = ActNorm(3)(x)
    assert z.isfinite().all() and log_term.isfinite().all()
    assert not z[:, 1].any()
    z, _ = ActNorm(3)(torch.full((1, 3), 7.0))
    assert not z.any()


@pytest.mark.parametrize("x", [torch.full((4, 3), math.nan), torch.ones(4, 3)])
def test_actnorm_does_not_initialise_on_unusable_batches(x):
    layer = ActNorm(3)
    layer(x, Context(torch.zeros(4, dtype=torch.bool) if x.isfinite().all() else None))
    assert not layer.initialized and not layer.bias.any() and not layer.log_scale.any()
    layer(torch.randn(4, 3))
    assert layer.initialized


def test_actnorm_initialises_in_training_only_and_remembers():
    layer = ActNorm(3).eval()
    x = torch.randn(9, 3)
    assert torch.equal(layer(x)[0], x) and not layer.initialized
    state = {name: value.clone() for name, value in layer.state_dict().items()}
    layer.train()(x)
    restored = ActNorm(3)
    restored.load_state_dict(layer.state_dict())
    restored(x + 5)
    torch.testing.assert_close(restored.bias, layer.bias)
    layer.load_state_dict(state)
    layer(x + 5)
    assert layer.initialized and not torch.equal(restored.bias, layer.bias)


def test_linear_inverse_of_an_ill_conditioned_map():
    layer = InvertibleLinear(8).double()
    with torch.no_grad():
        layer.log_diagonal.copy_(torch.linspace(-8, 8, 8))
    x = torch.randn(20, 8, dtype=torch.float64)
    torch.testing.assert_close(layer.inverse(layer(x)[0]), x, atol=1e-7, rtol=0)


@pytest.mark.parametrize("swap", [False, True])
def test_networks_see_only_untransformed_channels(swap):
    layer = AffineCoupling(Constant(2 * (2 if swap else 3)), split=2, swap=swap)
    x = torch.randn(4, 5)
    z, _ = layer(x)
    fixed = slice(2, None) if swap else slice(None, 2)
    assert torch.equal(layer.network.seen, x[:, fixed])
    assert torch.equal(z[:, fixed], x[:, fixed])
    layer.inverse(z)
    assert torch.equal(layer.network.seen, x[:, fixed])


def test_couplings_name_what_does_not_fit():
    with pytest.raises(ValueError, match="3 transformed channels need 2 parameters each"):
        AffineCoupling(Constant(5), split=2)(torch.randn(4, 5))
    with pytest.raises(ValueError, match="got 2 channels"):
        AffineCoupling(Constant(5), split=2)(torch.randn(4, 2))
    with pytest.raises(ValueError, match="mixtures"):
        MixtureLogisticCoupling(Constant(5), split=2, mixtures=0)
    with pytest.raises(ValueError, match="split"):
        AffineCoupling(Constant(5), split=-1)


@pytest.mark.parametrize("base", [StandardNormal(), StandardLogistic()], ids=repr)
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_mixture_coupling_on_samples_from_the_base_density(base, temperature):
    layer = MixtureLogisticCoupling(Constant(2 * 26, scale=2.0), split=2).double()
    z = base.sample((20_000, 4), temperature=temperature, dtype=torch.float64)
    x, log_det = layer.inverse_and_logdet(z)
    again, log_term = layer(x)
    assert (again - z).abs().max() < 1e-9
    assert (log_term + log_det).abs().max() < 1e-9


def test_mixture_coupling_learns_from_a_zero_initialised_output():
    """Components must be told apart from the first step on."""
    layer = MixtureLogisticCoupling(Constant(14, scale=0.0), split=1, mixtures=4)
    _, log_term = layer(torch.randn(50, 2))
    log_term.sum().backward()
    gradient = layer.network.values.grad[2:].view(3, 4)
    assert all(len(row.unique()) == 4 for row in gradient)


def test_mixture_coupling_density_integrates_to_one():
    layer = MixtureLogisticCoupling(Constant(26, scale=0.7), split=1).double()
    grid = torch.linspace(-200, 200, 100_001, dtype=torch.float64)
    with torch.no_grad():
        z, log_term = layer(torch.stack((torch.zeros_like(grid), grid), 1))
        density = (StandardLogistic().log_prob(z[:, 1:]) + log_term).exp()
    assert torch.trapezoid(density, grid).item() == pytest.approx(1, abs=1e-4)


def test_sequential_is_exact_if_all_steps_are():
    exact = Sequential(ActNorm(2), InvertibleLinear(2))
    assert exact.exact and Sequential().exact
    assert not Sequential(exact, Dequantize()).exact
    assert not Sequential(Sequential(Dequantize()), exact).exact
    with pytest.raises(TypeError, match="Dequantize is no bijection"):
        Sequential(Dequantize(), exact).inverse_and_logdet(torch.zeros(1, 2))


def test_log_term_sums():
    values = torch.ones(2, 3, 4, dtype=torch.bfloat16)
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert sum_log_term(values).tolist() == [12, 12]
    assert sum_log_term(values, mask).tolist() == [8, 0]
    assert sum_log_term(values, mask).dtype == torch.float32
    assert sum_log_term(torch.tensor([math.nan, 1.0]), torch.tensor([False, True])).tolist() == [
        0,
        1,
    ]
    assert count_entries(values).tolist() == [3, 3]
    assert count_entries(values, mask).tolist() == [2, 0]
    assert count_entries(torch.zeros(2, 5)).tolist() == [1, 1]
    assert log_term_dtype(torch.zeros(1, dtype=torch.long)) == torch.float32
