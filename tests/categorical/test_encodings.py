"""Properties of every encoding in the registry of conftest.py, and of each one."""

import copy
import math

import pytest
import torch
from couplings import perturb

from graphcnf.categorical import (
    CategoricalFlow,
    DequantizationEncoding,
    IntervalEncoding,
    MixtureEncoding,
    make_encoding,
)
from graphcnf.categorical.encoding import MARGIN
from graphcnf.categorical.learned_encodings import CategoryEmbedding, grid_means
from graphcnf.flows import Context, Noise, Sequential, StandardLogistic
from graphcnf.testing import assert_gradients_reach_every_parameter


def draw(encoding, batch=6, length=4):
    sizes = encoding.cardinalities
    if isinstance(sizes, int):
        return torch.randint(0, sizes, (batch, length))
    return torch.stack([torch.randint(0, k, (batch, length)) for k in sizes], -1)


MASK = torch.arange(4) < torch.tensor([4, 3, 0, 1, 2, 4])[:, None]


def test_shapes_and_masks(encoding):
    x = draw(encoding)
    encoded = encoding.encode(x, Context(MASK))
    assert encoded.z.shape == (6, 4, encoding.latent_dim)
    assert not encoded.z[~MASK].any()
    for value in (encoded.log_posterior, encoded.log_encoder, encoded.correct):
        assert value.shape == (6,) and value.isfinite().all()
    assert encoded.log_posterior[2] == encoded.log_encoder[2] == 0 and encoded.correct[2] == 1
    back = encoding.decode(encoded.z, Context(MASK))
    assert back.shape == x.shape and back.dtype == torch.long and not back[~MASK].any()


def test_what_is_masked_does_not_matter(encoding):
    x, tape = draw(encoding), Noise()
    expected = encoding.encode(x, Context(MASK, noise=tape))
    other = x.clone()
    other[~MASK] = 10_000
    got = encoding.encode(other, Context(MASK, noise=tape.rewind()))
    for name in ("z", "log_posterior", "log_encoder", "correct"):
        torch.testing.assert_close(getattr(got, name), getattr(expected, name))
    z = torch.where(MASK[..., None], expected.z, math.inf)
    back, again = (encoding.decode(latents, Context(MASK)) for latents in (z, expected.z))
    assert torch.equal(back, again)
    # A sample alone, without padding, has the same terms.
    alone = Noise()
    alone.draws = [draws[3:4, :1] for draws in tape.draws]
    single = encoding.encode(x[3:4, :1], Context(noise=alone))
    torch.testing.assert_close(single.log_encoder, expected.log_encoder[3:4])
    torch.testing.assert_close(single.log_posterior, expected.log_posterior[3:4])


def test_noise_is_replayed(encoding):
    x, tape = draw(encoding), Noise()
    first = encoding.encode(x, Context(noise=tape))
    assert torch.equal(encoding.encode(x, Context(noise=tape.rewind())).z, first.z)
    assert not torch.equal(encoding.encode(x).z, first.z)
    z, log_term = encoding(x, Context(noise=tape.rewind()))
    assert torch.equal(z, first.z) and not encoding.exact
    assert torch.equal(log_term, first.log_posterior - first.log_encoder)
    assert torch.equal(encoding.inverse(z), encoding.decode(z))


def test_posterior_draws_follow_the_posterior(encoding):
    if not hasattr(encoding, "log_posterior"):
        pytest.skip("the posterior is an indicator")
    z = torch.randn(1, 3, encoding.latent_dim)
    generator = torch.Generator().manual_seed(1)
    many = encoding.decode(z.expand(4000, -1, -1), Context(generator=generator), sample=True)
    shares = torch.stack([(many == k).double().mean(0) for k in range(3)], -1)
    expected = encoding.log_posterior(z)[0].exp().double()
    # A share of 4000 draws has a standard deviation of at most 0.008.
    torch.testing.assert_close(shares, expected, atol=0.04, rtol=0)
    mask = torch.ones(4000, 3, dtype=torch.bool)
    context = Context(mask, generator=generator.manual_seed(1))
    again = encoding.decode(z.expand(4000, -1, -1), context, sample=True)
    assert torch.equal(many, again)


def test_the_encoder_is_a_density(encoding):
    """With one latent, by quadrature: the integral of q(z|x) is 1."""
    if not hasattr(encoding, "log_density") or encoding.latent_dim > 1:
        pytest.skip("no density over one latent")
    z = torch.linspace(-120, 120, 80_001, dtype=torch.float64)[:, None]
    density = copy.deepcopy(encoding).double().log_density(z).exp()
    torch.testing.assert_close(
        torch.trapezoid(density, z, dim=0), torch.ones(3, dtype=torch.float64), atol=1e-5, rtol=0
    )


def test_the_encoder_knows_its_own_density(encoding):
    if not hasattr(encoding, "log_density"):
        pytest.skip("the volumes are disjoint")
    encoding = encoding.double()
    x = draw(encoding)
    encoded = encoding.encode(x)
    own = encoding.log_density(encoded.z).gather(-1, x[..., None])[..., 0].sum(1)
    torch.testing.assert_close(own, encoded.log_encoder, atol=1e-6, rtol=1e-6)


def test_gradients(encoding):
    if not list(encoding.parameters()):
        pytest.skip("no parameters")
    flow = CategoricalFlow(encoding, Sequential())
    x = draw(encoding, batch=64)
    assert_gradients_reach_every_parameter(encoding, lambda: -flow.bound(x).log_prob().mean())


@pytest.mark.parametrize("name", ["mixture", "linear", "variational"])
@pytest.mark.parametrize("categories", [1, 2, 9])
def test_categories_start_apart(name, categories):
    encoding = make_encoding(name, categories, separation=25)
    x = torch.arange(categories).repeat(200)[None]
    encoded = encoding.encode(x)
    assert encoded.correct.item() > 0.999
    assert encoded.log_posterior.item() / x.numel() > -0.01
    # About as wide as what a flow expects.
    assert categories == 1 or 0.3 < encoded.z.std().item() < 2


@pytest.mark.parametrize("categories, latents", [(1, 1), (3, 1), (5, 2), (27, 3), (16, 4), (2, 5)])
def test_grid_means(categories, latents):
    points, spacing = grid_means(categories, latents)
    assert points.shape == (categories, latents)
    torch.testing.assert_close(points.mean(0), torch.zeros(latents, dtype=torch.float64))
    if categories > 1:
        gaps = torch.cdist(points, points, p=math.inf).fill_diagonal_(math.inf)
        assert gaps.min() >= spacing - 1e-9
        assert points.std(0, correction=0).max() == pytest.approx(1.0)


@pytest.mark.parametrize("categories, latents", [(4, 3), (17, 6), (32, 6)])
def test_codes_with_a_parity_digit_differ_twice(categories, latents):
    points, _ = grid_means(categories, latents)
    differ = (points[:, None] - points).abs() > 1e-9
    assert differ.sum(-1).fill_diagonal_(latents).min() == 2


@pytest.mark.parametrize("categories, latents", [(3, 2), (17, 6), (16, 4)])
def test_volumes_stay_apart_whatever_is_learned(categories, latents):
    encoding = MixtureEncoding(categories, latents)
    with torch.no_grad():
        encoding.shift.copy_(100 * torch.randn_like(encoding.shift))
        encoding.growth.fill_(100)
    x = torch.arange(categories).repeat(4000)[None]
    assert encoding.encode(x).correct.item() > 0.9999


@pytest.mark.parametrize("categories", [1, 2, 3, 4, 5, 16, 17])
def test_argmax_codes(categories):
    encoding = make_encoding("argmax", categories)
    bits = encoding.latent_dim
    assert bits == max(1, math.ceil(math.log2(categories)))
    x = torch.arange(categories)[None]
    z = encoding.encode(x).z
    assert torch.equal(encoding.code(z), x) and not encoding.overflow(z).any()
    digits = (torch.arange(2**bits)[:, None] >> torch.arange(bits)) & 1
    corners = (digits * 2.0 - 1)[None]
    assert torch.equal(encoding.overflow(corners)[0], torch.arange(2**bits) >= categories)
    decoded = encoding.decode(corners)[0]
    assert torch.equal(decoded[:categories], x[0]) and (decoded < categories).all()
    if categories > 1:
        assert torch.equal(
            decoded[categories:], torch.arange(categories, 2**bits) - 2 ** (bits - 1)
        )


@pytest.mark.parametrize("make", [IntervalEncoding, DequantizationEncoding])
def test_noise_fills_the_cells_evenly(make):
    encoding = make(4)
    x = torch.arange(4).repeat(5000)[None]
    encoded = encoding.encode(x)
    assert encoded.correct.item() == 1 and torch.equal(encoding.decode(encoded.z), x)
    z = encoded.z[0, :, 0].double()
    intervals = make is IntervalEncoding
    cell = 4 * torch.sigmoid(z) if intervals else z / encoding.scale + 2
    assert torch.equal(cell.long(), x[0])
    within = cell % 1
    assert within.mean().item() == pytest.approx(0.5, abs=0.01)
    assert within.var().item() == pytest.approx(1 / 12, abs=0.003)
    if intervals:
        # u uniform makes z logistic: the flow-free bound is log(1/4) per variable.
        bound = StandardLogistic().log_prob(encoded.z) - encoded.log_encoder
        assert bound.item() / x.numel() == pytest.approx(-math.log(4), abs=1e-3)
    else:
        assert encoded.z.std().item() == pytest.approx(1, abs=0.02)
        # A density of 1 / width on a cell, but for its margins.
        density = -x.numel() * math.log(encoding.scale * (1 - 2 * MARGIN))
        assert encoded.log_encoder.item() == pytest.approx(density, rel=1e-5)
        beyond = (torch.tensor([-0.1, 0.1, 3.9, 4.1]) - 2)[None, :, None] * encoding.scale
        assert encoding.overflow(beyond).tolist() == [[True, False, False, True]]
        assert encoding.decode(beyond).tolist() == [[0, 0, 3, 3]]


def test_learned_noise_is_a_density_on_its_cell():
    encoding = perturb(DequantizationEncoding(3, variational=True).double(), 0.15)
    x = torch.tensor([[0], [1], [2]]).repeat_interleave(20_000, 0)
    encoded = encoding.encode(x)
    assert (encoded.correct == 1).all()
    # E_q[1 / q(z|x)] is the width of the cell, wherever q is positive.
    widths = (-encoded.log_encoder).exp().reshape(3, -1).mean(1)
    torch.testing.assert_close(widths, torch.full((3,), encoding.scale).double(), rtol=0.1, atol=0)
    assert encoded.log_encoder.reshape(3, -1).std(1).min() > 0.05, "the noise is uniform"


def test_learned_noise_fits_a_density_better():
    """Under narrow bumps in the middle of the cells, the bound becomes tight."""
    encoding = DequantizationEncoding(2, variational=True)
    optimizer = torch.optim.Adam(encoding.parameters(), 2e-2)
    x = torch.arange(2).repeat(64)[:, None]
    base = StandardLogistic()

    def gap():
        """Of the bound to log(1/2): the bumps are equally likely and hardly leave their cells."""
        encoded = encoding.encode(x)
        centre = (x[..., None] - 0.5) * encoding.scale
        bump = base.log_prob((encoded.z - centre) / 0.05) - math.log(0.05)
        return (encoded.log_encoder - bump).mean()

    before = gap().item()
    for _ in range(150):
        optimizer.zero_grad()
        loss = gap()
        loss.backward()
        optimizer.step()
    assert before > 1 and gap().item() < 0.15


@pytest.mark.parametrize("categories", [1, 2, 7, 16])
def test_every_category_has_its_embedding(categories):
    table = CategoryEmbedding(categories, 3)
    known = (2 * torch.arange(categories)[None, :, None] + 1) / categories - 1
    torch.testing.assert_close(table(known)[0], table.table.weight)
