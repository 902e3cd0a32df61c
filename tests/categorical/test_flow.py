"""CategoricalFlow: a normalised density, a true bound, exact reconstruction."""

import itertools
import math

import pytest
import torch
from torch import nn

from graphcnf.categorical import CategoricalFlow, IntervalEncoding, make_encoding
from graphcnf.errors import UserError
from graphcnf.flows import (
    AffineCoupling,
    Context,
    InvertibleLinear,
    Noise,
    Sequential,
    record_generators,
)
from graphcnf.testing import assert_lower_bound, assert_normalised


class Mean(nn.Module):
    """A coupling network in which every position sees the mean of the real ones."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.layer = nn.Linear(2 * inputs, outputs)

    def forward(self, x, context):
        mask = context.mask
        count = x.shape[1] if mask is None else mask.sum(1).clamp(min=1)[:, None, None]
        mean = (x.sum(1, keepdim=True) / count).expand_as(x)
        return 0.3 * torch.tanh(self.layer(torch.cat([x, mean], -1)))


def small_flow(encoding) -> CategoricalFlow:
    """Two steps over the latents; a linear map alone where there is one latent only."""
    latents = encoding.latent_dim
    steps = []
    for swap in (False, True):
        steps.append(InvertibleLinear(latents))
        if latents > 1:
            split = latents // 2
            fixed = latents - split if swap else split
            steps.append(AffineCoupling(Mean(fixed, 2 * (latents - fixed)), split=split, swap=swap))
    flow = Sequential(*steps)
    with torch.no_grad():
        for step in flow:
            if isinstance(step, InvertibleLinear):
                step.log_diagonal.add_(0.1 * torch.randn_like(step.log_diagonal))
    return CategoricalFlow(encoding, flow)


def everything(encoding, length: int) -> torch.Tensor:
    """Every x of `length` positions, (B, length) or (B, length, V)."""
    sizes = encoding.cardinalities
    single = isinstance(sizes, int)
    ranges = [range(k) for k in ((sizes,) if single else sizes)] * length
    x = torch.tensor(list(itertools.product(*ranges)))
    return x if single else x.reshape(len(x), length, len(sizes))


def repeated(flow):
    """`flow.log_prob` with its draws side by side in one batch: enumeration takes many."""

    def log_prob(x, samples):
        values = flow.bound(x.repeat_interleave(samples, 0)).log_prob()
        return values.reshape(len(x), samples).logsumexp(1) - math.log(samples)

    return log_prob


def lost_mass(flow, length, count=40_000):
    """Share of samples with a latent that belongs to no category."""
    encoding = flow.encoding
    if not hasattr(encoding, "overflow"):
        return 0.0
    with torch.no_grad():
        z = flow.transform.inverse(flow.base.sample((count, length, encoding.latent_dim)))
    return encoding.overflow(z).any(1).float().mean().item()


def test_normalised(encoding):
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
        repeats=20,
        max_error=0.08,
        atol=0.02 if lost else 1e-3,
    )
    if type(encoding).__name__ == "ArgmaxEncoding":
        assert 0.05 < lost < 0.9


def test_bound_rises_towards_the_exact_value(encoding):
    flow = small_flow(encoding)
    x = everything(encoding, 1)
    with torch.no_grad():
        exact = repeated(flow)(x, 10_000)
    # 10,000 draws leave an error of less than 0.02 nats.
    assert_lower_bound(repeated(flow), x, samples=(1, 8, 64), exact=exact, atol=0.02)


def test_log_prob_averages_draws_and_beta_weighs_the_decoder():
    flow, tape = small_flow(make_encoding("mixture", 3, 2, separation=2)), Noise()
    x = torch.randint(0, 3, (5, 2))
    several = flow.log_prob(x, Context(noise=tape), samples=3)
    tape.rewind()
    draws = torch.stack([flow.bound(x, Context(noise=tape)).log_prob() for _ in range(3)])
    torch.testing.assert_close(several, draws.exp().mean(0).log())
    bound = flow.bound(x)
    torch.testing.assert_close(bound.log_prob(2.0) - bound.log_prob(), bound.log_posterior)


def test_samples_follow_the_probabilities(encoding):
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


def test_round_trip_and_masks(encoding):
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
    assert not flow.bound(x, empty).log_prob().any()
    with torch.no_grad():
        assert not flow.decode(flow.encode(x, empty), empty).any()


def test_reconstruction_is_exact_where_volumes_are_disjoint():
    for name in ("argmax", "interval"):
        encoding = make_encoding(name, 5)
        flow = CategoricalFlow(encoding, Sequential(InvertibleLinear(encoding.latent_dim))).double()
        x = torch.randint(0, 5, (500, 8))
        assert torch.equal(flow.decode(flow.encode(x)), x)


def test_sampling_is_reproducible_per_record():
    flow = small_flow(make_encoding("mixture", 4, 2, separation=2))

    def sample(first, count):
        context = Context(temperature=0.8, generator=record_generators(5, first, count))
        return flow.sample(count, 3, context, sample_posterior=True)

    whole, part = sample(0, 6), sample(2, 2)
    assert torch.equal(whole[2:4], part)


FLOW = CategoricalFlow(make_encoding("mixture", 3, 1), Sequential())
LONG = torch.zeros(2, 3, dtype=torch.long)
ROWS = torch.tensor([[True, True, False], [False] * 3])


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: FLOW.log_prob(torch.tensor([[0, 3]])), "categories must lie in 0 to 2, got 3"),
        (lambda: FLOW.bound(torch.tensor([[0, -1]])), "categories must lie in 0 to 2, got -1"),
        (lambda: FLOW.encode(torch.tensor([0, 1])), "shape"),
        (lambda: FLOW.encode(LONG[..., None]), "shape"),
        (lambda: FLOW.encode(LONG.float()), "integers"),
        (lambda: FLOW.encode(LONG[:, :0]), "no position"),
        (lambda: FLOW.encode([[0, 1]]), "torch tensor, got a list"),
        (lambda: FLOW.encode(LONG, Context(torch.ones(2, 3))), "bool"),
        (lambda: FLOW.encode(LONG, Context(torch.ones(2, 4).bool())), "mask"),
        (lambda: FLOW.log_prob(LONG, samples=0), "positive"),
        (lambda: FLOW.log_prob(LONG, Context(ROWS)), "row 1 of the mask has no real position"),
        (lambda: FLOW.sample(2, context=Context(ROWS)), "row 1 of the mask has no real position"),
        (lambda: FLOW.sample(2, context=Context(torch.ones(2, 3))), "mask must be a bool tensor"),
        (lambda: FLOW.sample(2, context=Context(torch.ones(2).bool())), "must be a bool tensor"),
        (lambda: FLOW.sample(2), "length"),
        (lambda: FLOW.sample(3, context=Context(ROWS)), "2 rows"),
        (lambda: FLOW.sample(2, 3, Context(temperature=0.0)), "temperature must be greater than"),
        (lambda: FLOW.sample(2, 3, Context(temperature=math.nan)), "temperature must be greater"),
    ],
)
def test_input_is_checked(call, message):
    with pytest.raises((ValueError, UserError), match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


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
    with pytest.raises(ValueError, match="categories must lie in 0 to 1, got 7"):
        flow.log_prob(x)
    with pytest.raises(ValueError, match="shape"):
        flow.log_prob(x[..., :1])


def test_temperature_scales_the_latents_once():
    flow = CategoricalFlow(make_encoding("mixture", 5, latent_dim=2), InvertibleLinear(2))
    z = flow.base.sample((64, 3, 2))
    assert torch.equal(flow.decode(z, Context(temperature=0.3)), flow.decode(0.3 * z))
