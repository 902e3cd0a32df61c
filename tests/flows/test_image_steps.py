"""Image steps, and maps that prepare data: properties that only they have."""

import math

import pytest
import torch
from image_networks import Convolutions, moved_away

from graphcnf.flows import (
    Affine,
    AffineCoupling,
    ChannelsFirst,
    Checkerboard,
    Context,
    Logit,
    Squeeze,
    StandardLogistic,
)
from graphcnf.testing import (
    assert_bijection,
    assert_log_det_matches_jacobian,
    assert_mask_invariance,
    assert_serialisable,
)

# Preprocessing


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


def test_preprocessing_refuses_what_is_no_bijection():
    for scale, shift in ((0, 1), (math.inf, 0), (1, math.nan)):
        with pytest.raises(ValueError, match="no invertible map"):
            Affine(scale, shift)
    for alpha in (-0.1, 1.0):
        with pytest.raises(ValueError, match="alpha"):
            Logit(alpha)


# Rearranging


def test_squeeze_has_the_documented_order():
    batch, channels, height, width, factor = 2, 3, 6, 9, 3
    x = torch.randn(batch, channels, height, width)
    z, log_term = Squeeze(factor)(x)
    assert z.shape == (2, 27, 2, 3) and not log_term.any()
    for c, y, x_ in [(0, 0, 0), (1, 4, 7), (2, 5, 8), (2, 3, 2)]:
        place = (factor * (y % factor) + x_ % factor) * channels + c
        assert torch.equal(z[:, place, y // factor, x_ // factor], x[:, c, y, x_])
    assert torch.equal(Squeeze(factor).inverse(z), x)
    upper = Squeeze()(x[:, :, :, :8])[0][:, : 2 * channels]
    assert sorted(upper.flatten().tolist()) == sorted(x[:, :, ::2, :8].flatten().tolist())


def test_checkerboard_puts_one_colour_first():
    mask = (torch.arange(6)[:, None] + torch.arange(4)) % 2 == 0
    x = torch.arange(1.0, 49.0).reshape(1, 2, 6, 4)
    z, _ = Checkerboard()(x)
    first = {v for v in (x * mask).flatten().tolist() if v}
    assert set(z[:, :4].flatten().tolist()) == first
    assert set(z[:, 4:].flatten().tolist()).isdisjoint(first)
    assert torch.equal(Checkerboard().inverse(z), x)


def test_rearranging_refuses_what_does_not_fit():
    for step in (Squeeze(), Checkerboard()):
        with pytest.raises(ValueError, match="that 2 divides, got 4 x 7"):
            step(torch.zeros(2, 1, 4, 7))
        with pytest.raises(ValueError, match="multiple of 4 channels, got 6"):
            step.inverse(torch.zeros(2, 6, 4, 4))
        with pytest.raises(ValueError, match="4 axes"):
            step(torch.zeros(2, 4, 4))
    with pytest.raises(ValueError, match="factor"):
        Squeeze(0)


def test_channels_first_takes_a_mask_of_pixels():
    inner = moved_away(AffineCoupling(Convolutions(2, 2), split=2))
    x, mask = torch.randn(2, 3, 4, 5), torch.rand(2, 4, 5) < 0.5
    z, log_term = ChannelsFirst(inner)(x, Context(mask))
    expected, expected_term = inner(x.permute(0, 2, 3, 1), Context(mask))
    assert torch.equal(z.permute(0, 2, 3, 1), expected) and torch.equal(log_term, expected_term)
    with pytest.raises(ValueError, match="4 axes"):
        ChannelsFirst(inner)(torch.zeros(2, 3))
