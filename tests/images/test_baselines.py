"""PixelCNN, VAE and GAN: conditionals, bounds, players, samples, files."""

import math

import pytest
import torch
from couplings import perturb
from frequencies import assert_frequencies
from torch.nn import functional as F

from graphcnf.baselines.pixelcnn import PixelMixture, parameter_count
from graphcnf.errors import UserError
from graphcnf.images.image_model import IMAGE_MODELS
from graphcnf.testing import assert_gradients_reach_every_parameter, assert_lower_bound

SMALL = {
    "pixelcnn": {"width": 6, "layers": 3, "mixtures": 3},
    "vae": {"width": 4, "latents": 2, "mixtures": 3},
    "gan": {"width": 4, "latents": 2},
}


def build(name, shape, levels, noise=0.3, **options):
    """A float64 model whose weights are away from their start."""
    torch.manual_seed(0)
    model = IMAGE_MODELS[name](shape=shape, levels=levels, **{**SMALL[name], **options})
    return perturb(model, noise).double().eval()


def every_image(shape, levels):
    values = [torch.arange(levels)] * math.prod(shape)
    return torch.cartesian_prod(*values).view(-1, *shape)


def assert_drawn(drawn, images, probabilities):
    """Compare drawn images with the probabilities of all of them."""
    place = (drawn[:, None].flatten(2) == images[None].flatten(2)).all(-1).int().argmax(1)
    assert_frequencies(torch.bincount(place, minlength=len(images)), probabilities)


@pytest.fixture(params=SMALL)
def name(request):
    return request.param


@pytest.mark.parametrize("channels, levels", [(1, 5), (3, 3)])
def test_values_of_a_pixel_have_probability_one_and_are_drawn_by_it(channels, levels):
    torch.manual_seed(1)
    parameters = torch.randn(1, parameter_count(channels, 4), 1, 1, dtype=torch.float64)
    values = every_image((channels, 1, 1), levels)
    mixture = PixelMixture(parameters.expand(len(values), -1, -1, -1), channels, levels)
    probabilities = mixture.log_prob(values).exp().flatten()
    assert probabilities.sum().item() == pytest.approx(1, abs=1e-12)
    uniform = torch.rand(20_000, 1 + channels, 1, 1, dtype=torch.float64)
    drawn = PixelMixture(parameters.expand(20_000, -1, -1, -1), channels, levels).sample(uniform)
    assert_drawn(drawn, values, probabilities)


def test_the_mean_of_a_channel_follows_those_before_it_in_each_component():
    """Two components of opposite first values, whose second value depends on the first."""
    parts = torch.zeros(1, parameter_count(2, 1), 2, 1, 1)  # logits, means, log-scales, slope
    parts[0, 1, :, 0, 0] = torch.tensor([0.2, -0.2])
    parts[0, 3:5] = -4
    parts[0, 5, :, 0, 0] = torch.tensor([-0.6, 0.6])
    parameters = parts.flatten(1, 2)
    uniform = torch.rand(5000, 3, 1, 1, dtype=torch.float64)
    drawn = PixelMixture(parameters.expand(5000, -1, -1, -1), 2, 256).sample(uniform)
    mean = PixelMixture(parameters, 2, 256).mean()
    assert (drawn.double().mean(0) - mean[0]).abs().max() < 8


def test_extreme_mixtures_have_finite_gradients():
    for start in (-300.0, 300.0):
        parameters = torch.full((1, parameter_count(1, 2), 1, 1), start, requires_grad=True)
        log_prob = PixelMixture(parameters, 1, 256).log_prob(torch.tensor([[[[128]]]]))
        log_prob.sum().backward()
        assert log_prob.isfinite().all() and parameters.grad.isfinite().all()


@pytest.mark.parametrize("shape, levels", [((1, 2, 2), 3), ((3, 1, 2), 2)])
def test_pixelcnn_is_normalised_and_sampled_as_it_says(shape, levels):
    model, images = build("pixelcnn", shape, levels), every_image(shape, levels)
    with torch.no_grad():
        probabilities = model.log_prob(images).exp()
    assert probabilities.sum().item() == pytest.approx(1, abs=1e-6)
    torch.manual_seed(2)
    assert_drawn(model.sample(20_000), images, probabilities)


def test_pixelcnn_sees_all_that_is_before_a_pixel_and_nothing_else():
    model = build("pixelcnn", (2, 5, 4), 9, layers=4)
    x = torch.randint(9, (1, 2, 5, 4))

    def parameters(x):
        found = []
        hook = model.leave.register_forward_hook(lambda module, _, out: found.append(out))
        model.log_prob(x)
        hook.remove()
        return found[0][0]

    with torch.no_grad():
        before = parameters(x)
        for k in range(20):
            changed = x.clone()
            changed[0, :, k // 4, k % 4] = (changed[0, :, k // 4, k % 4] + 4) % 9
            moved = (parameters(changed) != before).any(0).flatten()
            assert moved.tolist() == [place > k for place in range(20)]


def test_pixelcnn_draws_the_same_with_and_without_memory():
    """What sampling keeps of rows and pixels are the features of the finished image."""
    model = build("pixelcnn", (1, 6, 5), 7)
    kept = []
    hook = model.leave.register_forward_hook(lambda module, _, out: kept.append(out))
    images = model.sample(3)
    with torch.no_grad():
        model.log_prob(images)
    hook.remove()
    stepwise = torch.cat(kept[:-1], -1).unflatten(-1, (6, 5)).squeeze(2)
    torch.testing.assert_close(stepwise, kept[-1], rtol=0, atol=1e-10)


def test_vae_is_a_bound_that_rises_with_draws_to_the_probability():
    shape, levels = (1, 2, 2), 2
    model, images = build("vae", shape, levels, noise=0.5), every_image(shape, levels)
    with torch.no_grad():
        # q(z|x) between the prior and something else: the weights of draws stay bounded.
        for parameter in model.encoder.leave.parameters():
            parameter.mul_(0.1)
        # Two latents: a sum over a grid is the integral over the prior.
        axis = torch.linspace(-7, 7, 141, dtype=torch.float64)
        z = torch.cartesian_prod(axis, axis)
        prior, pixels = model.prior.log_prob(z) + 2 * math.log(0.1), model._pixels(z)
        decoded = [pixels.log_prob(x.expand(len(z), -1, -1, -1)).sum((1, 2)) for x in images]
        exact = torch.stack([(prior + log_p).logsumexp(0) for log_p in decoded])
    assert exact.exp().sum().item() == pytest.approx(1, abs=1e-6)
    torch.manual_seed(3)
    assert_lower_bound(model.log_prob, images, samples=(1, 8, 64), repeats=16, exact=exact)
    with torch.no_grad():
        assert (exact - model.log_prob(images, samples=1000)).mean() < 0.05
    assert_drawn(model.sample(20_000), images, exact.exp())


def test_gan_gives_each_player_its_own_gradient():
    model, x = build("gan", (1, 6, 6), 8).train(), torch.randint(8, (5, 1, 6, 6))
    torch.manual_seed(5)
    model.training_loss(x)[0].backward()
    torch.manual_seed(5)
    fake = model.generator(torch.randn(5, 2).double())
    real = (x.double() * 2 / 7 - 1).requires_grad_()
    (slope,) = torch.autograd.grad(model.discriminator(real).sum(), real, create_graph=True)
    discriminator = (
        F.softplus(-model.discriminator(real)).mean()
        + F.softplus(model.discriminator(fake.detach())).mean()
        + 5 * slope.square().sum((1, 2, 3)).mean()
    )
    generator = F.softplus(-model.discriminator(fake)).mean()
    for player, loss in ((model.discriminator, discriminator), (model.generator, generator)):
        own = list(player.parameters())
        expected = torch.autograd.grad(loss, own, allow_unused=True, retain_graph=True)
        for parameter, gradient in zip(own, expected, strict=True):
            torch.testing.assert_close(parameter.grad, gradient)


def test_latents_of_the_gan_lead_near_the_image():
    model = build("gan", (1, 6, 6), 256)
    x = model.sample(4)
    near = (model.decode(model.encode(x)).double() - x).abs().mean()
    apart = (model.decode(model.encode(x)).double() - x.flip(0)).abs().mean()
    # The search is no inverse; latents that had nothing to do with an image would be as far.
    assert near < 0.75 * apart


def test_gradients_reach_every_parameter(name):
    model, x = build(name, (3, 5, 6), 8).train(), torch.randint(8, (4, 3, 5, 6))
    assert_gradients_reach_every_parameter(model, lambda: model.training_loss(x)[0])
    with torch.no_grad():
        loss, metrics = model.eval().training_loss(x)
    assert not loss.requires_grad and all(value > 0 for value, _ in metrics.values())


def test_records_depend_on_seed_and_number_only(name):
    model = build(name, (1, 5, 6), 8).float()
    records = model.sample_records(0, 40, seed=3)
    assert records.shape == (40, 1, 5, 6) and records.dtype == torch.uint8 and records.max() < 8
    for first, count in ((0, 1), (31, 2), (39, 1)):
        part = model.sample_records(first, count, seed=3)
        assert torch.equal(part, records[first : first + count])
    assert not torch.equal(model.sample_records(0, 40, seed=4), records)
    cold = model.sample_records(0, 40, seed=3, temperature=0.1)
    assert cold.double().var(0).sum() < records.double().var(0).sum()


def test_what_a_model_lacks_it_says():
    pixelcnn, gan = build("pixelcnn", (1, 4, 4), 8), build("gan", (1, 4, 4), 8)
    x = torch.randint(8, (2, 1, 4, 4))
    with pytest.raises(UserError, match="architecture pixelcnn has no latents"):
        pixelcnn.interpolate(x[0], x[1])
    with pytest.raises(UserError, match="architecture gan has no likelihood"):
        gan.bits_per_dimension(x)
    with pytest.raises(ValueError):
        gan.training_loss(x + 8)
