"""Factoring out, and multi-scale flows."""

import pytest
import torch
from image_networks import Convolutions, moved_away

from graphcnf.flows import (
    ActNorm,
    AffineCoupling,
    ChannelsFirst,
    Context,
    MixtureLogisticCoupling,
    Sequential,
    Split,
    Squeeze,
    StandardNormal,
    record_generators,
)
from graphcnf.testing import (
    assert_gradients_reach_every_parameter,
    assert_serialisable,
)


def mixture(channels):
    split = channels // 2
    network = Convolutions(split, 11 * (channels - split))
    return ChannelsFirst(MixtureLogisticCoupling(network, split=split, mixtures=3))


PRIORS = {
    "fixed": lambda c, keep: None,
    "affine": lambda c, keep: ChannelsFirst(
        AffineCoupling(Convolutions(keep, 2 * (c - keep)), split=keep)
    ),
    "mixture": lambda c, keep: ChannelsFirst(
        MixtureLogisticCoupling(Convolutions(keep, 11 * (c - keep)), split=keep, mixtures=3)
    ),
}


@pytest.fixture(params=[(p, c, k) for p in PRIORS for c, k in [(4, None), (3, None), (5, 1)]])
def split(request):
    prior, channels, keep = request.param
    torch.manual_seed(0)
    kept = channels - channels // 2 if keep is None else keep
    return moved_away(Split(channels, keep, prior=PRIORS[prior](channels, kept)))


def test_split_is_exact_and_loses_nothing(split):
    x = torch.randn(3, split.channels, 3, 2)
    discarded = []
    z, log_term = split(x, Context(discarded=discarded))
    assert split.exact and z.shape == (3, split.keep, 3, 2) and torch.equal(z, x[:, : split.keep])
    assert len(discarded) == 1 and log_term.dtype == torch.float32
    # Together with the density of z it is that of the whole image.
    whole, log_det = (x, 0) if split.prior is None else split.prior(x)
    total = StandardNormal().log_prob(whole) + log_det
    torch.testing.assert_close(StandardNormal().log_prob(z) + log_term, total)
    again = split.inverse(z, Context(discarded=list(discarded)))
    torch.testing.assert_close(again, x, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="discarded is empty"):
        split.inverse(z, Context(discarded=[]))
    assert torch.equal(split(x)[1], log_term)


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


def test_split_follows_its_density():
    """Samples of the rest have the mean and the deviation of the prior given z."""
    torch.manual_seed(0)
    split = moved_away(Split(2, prior=PRIORS["affine"](2, 1)))
    z = torch.randn(1, 1, 1, 1).expand(20_000, -1, -1, -1)
    drawn = split.inverse(z, Context(temperature=0.5))[:, 1]
    shift, log_scale = split.prior.steps[0].network(z[:1].movedim(1, -1), Context()).flatten()
    log_scale = log_scale - log_scale**3 / 27  # tanh, for small values
    assert drawn.mean().item() == pytest.approx((-shift / log_scale.exp()).item(), abs=0.02)
    assert drawn.std().item() == pytest.approx((0.5 / log_scale.exp()).item(), rel=0.03)


def test_split_is_serialisable_and_learns(split):
    x = torch.randn(3, split.channels, 3, 2)
    assert_serialisable(split, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z, log_term = split(x)
    assert z.dtype == log_term.dtype == torch.float32
    if split.prior is not None:
        context = Context(features=torch.randn(3, 1, 1, 1))
        assert_gradients_reach_every_parameter(split, lambda: split(x, context)[1].sum())


def test_multi_scale_reconstruction():
    torch.manual_seed(0)

    def scale(channels):
        return [Squeeze(), ChannelsFirst(ActNorm(4 * channels)), mixture(4 * channels)]

    flow = Sequential(*scale(3), Split(12), *scale(6), Split(24, 8), mixture(8))
    flow = moved_away(flow).double()
    x = torch.randn(2, 3, 8, 12, dtype=torch.float64)
    discarded = []
    z, _ = flow(x, Context(discarded=discarded))
    assert [d.shape[1] for d in discarded] == [6, 16] and z.shape == (2, 8, 2, 3)
    again = flow.inverse(z, Context(discarded=list(discarded)))
    torch.testing.assert_close(again, x, atol=1e-9, rtol=0)
    assert not torch.allclose(flow.inverse(z), x)  # resampled: another image
