"""CategoricalFlow: a normalised density, a true bound, exact reconstruction."""

import math

import pytest
import torch

from graphcnf.categorical import (
    CategoricalFlow,
    IntervalEncoding,
    make_encoding,
)
from graphcnf.errors import UserError
from graphcnf.flows import Context, InvertibleLinear, Noise, Sequential, record_generators
from graphcnf.testing import assert_lower_bound, assert_normalised


def repeated(flow):
    """`flow.log_prob` with its draws side by side in one batch: enumeration takes many."""

    def log_prob(x, samples):
        values = flow.bound(x.repeat_interleave(samples, 0)).value()
        return values.reshape(len(x), samples).logsumexp(1) - math.log(samples)

    return log_prob


def lost_mass(flow, length, count=40_000):
    """Share of samples with a latent that belongs to no category."""
    encoding = flow.encoding
    if not hasattr(encoding, "overflow"):
        return 0.0
    with torch.no_grad():
        z = flow.flow.inverse(flow.base.sample((count, length, encoding.latent_dim)))
    return encoding.overflow(z).any(1).float().mean().item()


def test_normalised(encoding, small_flow, everything):
    flow = small_flow(encoding)
    length = 1 if encoding.latent_dim > 2 else 2
    lost = lost_mass(flow, length)
    missing = torch.tensor([math.log(lost)] if lost else [])

    def log_prob(x, samples):
        return torch.cat([repeated(flow)(x, samples), missing])

    assert_normalised(
        log_prob,
        everything(encoding, length),
        samples=256,
        repeats=40,
        max_error=0.05,
        atol=0.02 if lost else 1e-3,
    )
    if type(encoding).__name__ == "ArgmaxEncoding":
        assert 0.05 < lost < 0.9


def test_bound_rises_towards_the_exact_value(encoding, small_flow, everything):
    flow = small_flow(encoding)
    x = everything(encoding, 1)
    with torch.no_grad():
        exact = repeated(flow)(x, 10_000)
    # 10,000 draws leave an error of less than 0.02 nats.
    assert_lower_bound(repeated(flow), x, samples=(1, 8, 64), exact=exact, atol=0.02)


def test_log_prob_averages_draws(small_flow):
    flow, tape = small_flow(make_encoding("mixture", 3, 2, separation=2)), Noise()
    x = torch.randint(0, 3, (5, 2))
    several = flow.log_prob(x, Context(noise=tape), samples=3)
    tape.rewind()
    draws = torch.stack([flow.bound(x, Context(noise=tape)).value() for _ in range(3)])
    torch.testing.assert_close(several, draws.exp().mean(0).log())


def test_samples_follow_the_probabilities(encoding, small_flow, everything):
    """With a posterior that is sampled, the marginal of the samples is exp(log_prob)."""
    flow = small_flow(encoding)
    if lost_mass(flow, 1):
        pytest.skip("samples without a category decode to one")
    x = everything(encoding, 1)
    with torch.no_grad():
        expected = repeated(flow)(x, 4000).exp()
        samples = flow.sample(20_000, 1, sample_posterior=True)
    shares = (samples[:, None] == x).flatten(2).all(2).float().mean(0)
    assert (shares - expected).abs().max() < 0.03


def test_round_trip_and_masks(encoding, small_flow, everything):
    flow = small_flow(encoding)
    x = everything(encoding, 2)
    mask = torch.arange(2) < torch.randint(1, 3, (len(x), 1))
    context = Context(mask, noise=Noise())
    rewind = context.noise.rewind
    with torch.no_grad():
        z = flow.encode(x, context)
        rewind()
        assert not z[~mask].any()
        latents = encoding.encode(x, context).z
        back, expected = flow.decode(z, context), encoding.decode(latents, context)
        assert (back == expected).float().mean() > 0.99
        rewind()
        bound = flow.log_prob(x, context)
        other = x.clone()
        other[~mask] = -5
        rewind()
        assert torch.equal(flow.log_prob(other, context), bound)
    empty = Context(torch.zeros_like(mask))
    assert not flow.bound(x, empty).value().any()
    with torch.no_grad():
        assert not flow.decode(flow.encode(x, empty), empty).any()


def test_rows_without_a_position_are_refused(small_flow):
    flow = small_flow(make_encoding("mixture", 3, 2))
    mask = torch.tensor([[True, False], [False, False], [True, True]])
    for call in (
        lambda: flow.log_prob(torch.zeros(3, 2, dtype=torch.long), Context(mask)),
        lambda: flow.sample(3, context=Context(mask)),
    ):
        with pytest.raises(ValueError, match="row 1 of the mask has no real position") as caught:
            call()
        assert "\n" not in str(caught.value)


def test_reconstruction_is_exact_where_volumes_are_disjoint():
    for name in ("argmax", "interval"):
        encoding = make_encoding(name, 5)
        flow = CategoricalFlow(encoding, Sequential(InvertibleLinear(encoding.latent_dim))).double()
        x = torch.randint(0, 5, (500, 8))
        assert torch.equal(flow.decode(flow.encode(x)), x)


def test_beta_weighs_the_decoder_only(small_flow):
    flow = small_flow(make_encoding("mixture", 3, 1, separation=2))
    bound = flow.bound(torch.tensor([[0, 1, 2]]))
    torch.testing.assert_close(bound.value(2.0) - bound.value(), bound.log_posterior)


def test_sampling_is_reproducible_per_record(small_flow):
    flow = small_flow(make_encoding("mixture", 4, 2, separation=2))

    def sample(first, count):
        context = Context(temperature=0.8, generator=record_generators(5, first, count))
        return flow.sample(count, 3, context, sample_posterior=True)

    whole, part = sample(0, 6), sample(2, 2)
    assert torch.equal(whole[2:4], part)
    with pytest.raises(ValueError, match="length"):
        flow.sample(3)
    with pytest.raises(ValueError, match="2 rows"):
        flow.sample(3, context=Context(torch.ones(2, 4, dtype=torch.bool)))


@pytest.mark.parametrize(
    "x, mask, message",
    [
        (torch.tensor([[0, 3]]), None, "categories must lie in 0 to 2, got 3"),
        (torch.tensor([[0, -1]]), None, "categories must lie in 0 to 2, got -1"),
        (torch.tensor([0, 1]), None, "shape"),
        (torch.zeros(2, 3, 1, dtype=torch.long), None, "shape"),
        (torch.zeros(2, 3), None, "integers"),
        (torch.zeros(2, 3, dtype=torch.long), torch.ones(2, 3), "bool"),
        (torch.zeros(2, 3, dtype=torch.long), torch.ones(2, 4, dtype=torch.bool), "mask"),
    ],
)
def test_input_is_checked(x, mask, message):
    flow = CategoricalFlow(make_encoding("mixture", 3, 1), Sequential())
    for function in (flow.log_prob, flow.bound, flow.encode):
        with pytest.raises(ValueError, match=message):
            function(x, Context(mask))


def test_input_of_several_variables_is_checked():
    flow = CategoricalFlow(IntervalEncoding([2, 5]), Sequential())
    x = torch.tensor([[[1, 4], [2, 0]]])
    with pytest.raises(ValueError, match="categories must lie in 0 to 1, got 2"):
        flow.log_prob(x)
    assert flow.log_prob(x, Context(torch.tensor([[True, False]]))).shape == (1,)
    with pytest.raises(ValueError, match="shape"):
        flow.log_prob(x[..., :1])
    with pytest.raises(ValueError, match="positive"):
        flow.log_prob(x * 0, samples=0)


def test_single_variables_can_be_masked():
    flow = CategoricalFlow(IntervalEncoding([2, 5]), Sequential())
    x = torch.tensor([[[1, 4], [7, 0]]]).expand(3, -1, -1)  # what is masked does not matter
    mask = torch.tensor([[[True, True], [False, True]]]).expand(3, -1, -1)
    # One variable of two categories and two of five, all equally probable, up to the margins.
    torch.testing.assert_close(
        flow.log_prob(x, Context(mask)).exp(), torch.full((3,), 0.02), rtol=2e-3, atol=0
    )
    drawn = flow.sample(3, context=Context(mask))
    assert drawn.shape == (3, 2, 2) and (drawn[:, 1, 0] == 0).all()
    mixtures = CategoricalFlow(make_encoding("mixture", 5, 2), Sequential())
    with pytest.raises(ValueError, match="shape"):
        mixtures.log_prob(x[..., 1], Context(mask))


def test_what_is_no_tensor_or_temperature_is_refused():
    flow = CategoricalFlow(make_encoding("mixture", 5, 2), Sequential())
    with pytest.raises(ValueError, match="torch tensor, got a list"):
        flow.log_prob([[0, 1]])
    with pytest.raises(ValueError, match="no position"):
        flow.log_prob(torch.zeros(2, 0, dtype=torch.long))
    for mask in (torch.ones(2, 3), torch.ones(2, dtype=torch.bool), [[True]] * 2):
        with pytest.raises(ValueError, match="the mask must be a bool tensor"):
            flow.sample(2, context=Context(mask))
    for temperature in (0.0, -1.0, math.nan):
        with pytest.raises(UserError, match="temperature must be greater than 0"):
            flow.sample(2, 3, Context(temperature=temperature))


def test_temperature_scales_the_latents_once():
    flow = CategoricalFlow(make_encoding("mixture", 5, latent_dim=2), InvertibleLinear(2))
    z = flow.base.sample((64, 3, 2))
    assert torch.equal(flow.decode(z, Context(temperature=0.3)), flow.decode(0.3 * z))
