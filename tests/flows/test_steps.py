"""What is particular to one step: layers, rearranging of images, multi-scale flows."""

import math

import pytest
import torch
from flows.conftest import image_mixture
from image_networks import Convolutions, moved_away
from torch import nn

from graphcnf.flows import (
    ActNorm,
    Affine,
    AffineCoupling,
    Bijection,
    ChannelsFirst,
    Checkerboard,
    Context,
    InvertibleLinear,
    Logit,
    MixtureLogisticCoupling,
    MultiScale,
    Sequential,
    SequentialBijection,
    Split,
    Squeeze,
    StandardLogistic,
    StandardNormal,
    UniformDequantization,
    count_entries,
    log_term_dtype,
    record_generators,
    sum_log_term,
)
from graphcnf.testing import (
    assert_bijection,
    assert_log_det_matches_jacobian,
    assert_mask_invariance,
    assert_serialisable,
)


class Constant(nn.Module):
    """A network that ignores its input, and remembers it."""

    def __init__(self, outputs, scale=1.0):
        super().__init__()
        self.values = nn.Parameter(scale * torch.randn(outputs))

    def forward(self, x, context):
        self.seen = x
        return self.values.expand(*x.shape[:-1], -1)


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
    layer, x = ActNorm(3).eval(), torch.randn(9, 3)
    assert torch.equal(layer(x)[0], x) and not layer.initialized
    layer.train()(x)
    restored = ActNorm(3)
    restored.load_state_dict(layer.state_dict())
    restored(x + 5)
    torch.testing.assert_close(restored.bias, layer.bias)


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


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: AffineCoupling(Constant(5), split=2)(torch.randn(4, 5)), "need 2 parameters each"),
        (lambda: AffineCoupling(Constant(5), split=2)(torch.randn(4, 2)), "got 2 channels"),
        (lambda: Squeeze()(torch.zeros(2, 1, 4, 7)), "even height and width, got 4 x 7"),
        (lambda: Squeeze().inverse(torch.zeros(2, 6, 4, 4)), "multiple of 4 channels, got 6"),
        (lambda: Checkerboard()(torch.zeros(2, 4, 4)), "4 axes"),
        (lambda: ChannelsFirst(Affine(2.0))(torch.zeros(2, 3)), "4 axes"),
    ],
)
def test_what_does_not_fit_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


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
    step = UniformDequantization(4)
    assert not Sequential(exact, step).exact and not Sequential(Sequential(step), exact).exact
    assert not isinstance(Sequential(step, exact), Bijection)
    assert isinstance(SequentialBijection(exact[0], exact[1]), Bijection)


def test_log_term_sums():
    values = torch.ones(2, 3, 4, dtype=torch.bfloat16)
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert sum_log_term(values).tolist() == [12, 12]
    assert sum_log_term(values, mask).tolist() == [8, 0]
    assert sum_log_term(values, mask).dtype == torch.float32
    hidden = torch.tensor([math.nan, 1.0])
    assert sum_log_term(hidden, torch.tensor([False, True])).tolist() == [0, 1]
    assert count_entries(values).tolist() == [3, 3]
    assert count_entries(values, mask).tolist() == [2, 0]
    assert count_entries(torch.zeros(2, 5)).tolist() == [1, 1]
    assert count_entries(values[:0], mask[:0]).shape == (0,)
    assert log_term_dtype(torch.zeros(1, dtype=torch.long)) == torch.float32


@pytest.mark.parametrize("alpha", [0.0, 1e-5, 0.05])
def test_logit(alpha):
    step = Logit(alpha)
    x = 0.01 + 0.98 * torch.rand(3, 4, 2)
    mask = torch.arange(4) < torch.tensor([4, 1, 3])[:, None]
    vary = ("batch", "length", "holes")  # of [0, 1] only
    for given in (None, mask):
        assert_bijection(step, x, Context(given), vary=vary)
        assert_log_det_matches_jacobian(step, x, Context(given), vary=vary)
    assert_mask_invariance(step, x, Context(mask), vary=vary)
    assert_serialisable(step, x)
    z = StandardLogistic().sample((1000, 2), temperature=3.0).double()
    torch.testing.assert_close(step(step.inverse(z))[0], z, atol=1e-6, rtol=1e-6)
    ends, log_det = Logit(1e-5)(torch.tensor([[0.0], [1.0]]))
    torch.testing.assert_close(ends[0], -ends[1], atol=0.05, rtol=0)
    assert log_det.isfinite().all()


def test_squeeze_has_the_documented_order():
    x = torch.randn(2, 3, 6, 8)
    z, log_term = Squeeze()(x)
    assert z.shape == (2, 12, 3, 4) and not log_term.any()
    for c, row, column in [(0, 0, 0), (1, 4, 7), (2, 5, 6), (2, 3, 1)]:
        place = (2 * (row % 2) + column % 2) * 3 + c
        assert torch.equal(z[:, place, row // 2, column // 2], x[:, c, row, column])
    assert torch.equal(Squeeze().inverse(z), x)


def test_checkerboard_puts_one_colour_first():
    mask = (torch.arange(6)[:, None] + torch.arange(4)) % 2 == 0
    x = torch.arange(1.0, 49.0).reshape(1, 2, 6, 4)
    z, _ = Checkerboard()(x)
    first = {v for v in (x * mask).flatten().tolist() if v}
    assert set(z[:, :4].flatten().tolist()) == first
    assert set(z[:, 4:].flatten().tolist()).isdisjoint(first)
    assert torch.equal(Checkerboard().inverse(z), x)


def test_channels_first_takes_a_mask_of_pixels():
    inner = moved_away(AffineCoupling(Convolutions(2, 2), split=2))
    x, mask = torch.randn(2, 3, 4, 5), torch.rand(2, 4, 5) < 0.5
    z, log_term = ChannelsFirst(inner)(x, Context(mask))
    expected, expected_term = inner(x.permute(0, 2, 3, 1), Context(mask))
    assert torch.equal(z.permute(0, 2, 3, 1), expected) and torch.equal(log_term, expected_term)


@pytest.fixture(params=[4, 3])
def split(request):
    return Split(request.param)


def test_split_is_exact_and_loses_nothing(split):
    x = torch.randn(3, split.channels, 3, 2)
    z, log_term = split(x)
    assert split.exact and z.shape == (3, split.keep, 3, 2) and torch.equal(z, x[:, : split.keep])
    assert log_term.dtype == torch.float32
    # Together with the density of z it is that of the whole image.
    total = StandardNormal().log_prob(x)
    torch.testing.assert_close(StandardNormal().log_prob(z) + log_term, total)
    flow = MultiScale(split)
    assert torch.equal(flow.decode(flow.encode(x)), x)
    with pytest.raises(ValueError, match="2 scales"):
        flow.decode((z,))


def test_split_draws_what_it_has_not(split):
    z = torch.randn(3, split.keep, 3, 2)
    cold = split.inverse(z, Context(temperature=0.0))
    assert torch.equal(cold, split.inverse(z, Context(temperature=0.0)))
    assert not torch.equal(split.inverse(z), split.inverse(z))
    assert torch.equal(cold[:, : split.keep], z)
    whole = split.inverse(z, Context(generator=record_generators(1, 0, 3)))
    own = split.inverse(z[1:2], Context(generator=record_generators(1, 1, 1)))
    torch.testing.assert_close(whole[1:2], own)
    assert split.double().inverse(z.double()).dtype == torch.float64


def test_multi_scale_reconstruction():
    torch.manual_seed(0)

    def scale(channels):
        return [Squeeze(), ChannelsFirst(ActNorm(4 * channels)), image_mixture(4 * channels)]

    flow = MultiScale(*scale(3), Split(12), *scale(6), Split(24), image_mixture(12))
    flow = moved_away(flow).double()
    x = torch.randn(2, 3, 8, 12, dtype=torch.float64)
    *rests, z = flow.encode(x)
    assert [rest.shape[1] for rest in rests] == [6, 12] and z.shape == (2, 12, 2, 3)
    assert torch.equal(z, flow(x)[0])
    torch.testing.assert_close(flow.decode((*rests, z)), x, atol=1e-9, rtol=0)
    assert not torch.allclose(flow.inverse(z), x)  # resampled: another image
