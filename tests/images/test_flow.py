"""Flows of images: reconstruction, bounds, samples, files, errors, networks."""

import copy
import math

import pytest
import torch
from image_networks import moved_away

from graphcnf.flows import Context
from graphcnf.images import ConvolutionNetwork, ImageFlow
from graphcnf.testing import (
    assert_gradients_reach_every_parameter,
    assert_lower_bound,
    assert_normalised,
)


def test_interpolation_is_a_line_of_latents_that_meets_both_ends(model, photographs):
    ends = photographs[0], photographs[1]
    path = model.interpolate(*ends, steps=3)
    assert path.shape == (3, 3, 8, 12) and path.dtype == torch.uint8
    assert torch.equal(path[0], ends[0]) and torch.equal(path[-1], ends[1])
    torch.manual_seed(0)
    path = model.interpolate(*ends, steps=3)
    torch.manual_seed(0)
    first, last = (model.encode(end[None]) for end in ends)
    middle = [0.5 * a + 0.5 * b for a, b in zip(first, last, strict=True)]
    assert torch.equal(path[1], model.decode(middle)[0])


def test_bound_is_finite_and_rises_with_the_number_of_draws(model, photographs):
    torch.manual_seed(0)
    assert model.likelihood == "bound" and not model.flow.exact
    with torch.no_grad():
        assert model.log_prob(photographs).isfinite().all()
    assert_lower_bound(model.log_prob, photographs, samples=(1, 3), repeats=4)


@pytest.mark.parametrize("samples", [1, 8])
@pytest.mark.parametrize("architecture", ["simple", "vardeq", "glow"])
def test_probabilities_of_all_images_sum_to_one(architecture, samples):
    torch.manual_seed(0)
    options = {"steps": 2, "scales": 1} if architecture == "glow" else {}
    model = ImageFlow(architecture=architecture, shape=(1, 2, 2), levels=2, width=8, **options)
    bits = torch.arange(16)[:, None].bitwise_right_shift(torch.arange(4)).bitwise_and(1)
    images = bits.view(16, 1, 2, 2).to(torch.uint8)
    model.log_prob(images)  # layers that start from data
    copies = 64 // samples

    def log_prob(x, samples):
        # Many draws in one batch cost little more than one.
        draws = model.log_prob(x.repeat(copies, 1, 1, 1), samples=samples).view(copies, -1)
        return draws.logsumexp(0) - math.log(copies)

    assert_normalised(log_prob, images, samples=samples, repeats=8, max_error=0.04)


def test_bits_are_the_bound_per_pixel_and_channel(small_model, photographs):
    with torch.no_grad():
        torch.manual_seed(1)
        nats = small_model.log_prob(photographs)
        torch.manual_seed(1)
        bits = small_model.bits_per_dimension(photographs, samples=1)
        torch.manual_seed(1)
        loss, metrics = small_model.training_loss(photographs)
    torch.testing.assert_close(bits, -nats / (3 * 8 * 12 * math.log(2)))
    total, count = metrics["bits_per_dimension"]
    assert count == 4 and (total / count).item() == pytest.approx(bits.mean().item())
    assert loss.item() == pytest.approx((total / count).item() * math.log(2))


def test_gradients_reach_every_parameter(model, photographs):
    model = copy.deepcopy(model).train()
    assert_gradients_reach_every_parameter(model, lambda: model.training_loss(photographs)[0])
    model.interpolate(photographs[0], photographs[1], 2)
    assert model.training and next(model.parameters()).dtype == torch.float32


def test_images_come_back_to_the_integer_and_are_sampled(model, photographs):
    latents = model.encode(photographs)
    assert latents[-1].dtype == torch.float64
    assert sum(z.numel() for z in latents) == photographs.numel()
    for _ in range(2):  # decoding uses nothing up
        assert torch.equal(model.decode(latents), photographs)
    assert model.sample(8, temperature=3.0).max() < 32
    cold = model.sample(2, temperature=0.0)
    assert torch.equal(cold[0], cold[1]) and cold.dtype == torch.uint8


def test_a_record_does_not_depend_on_how_many_are_drawn(small_model):
    many = small_model.sample_records(0, 70, seed=3)
    assert many.shape == (70, 3, 8, 12)
    assert torch.equal(small_model.sample_records(31, 3, seed=3), many[31:34])
    assert torch.equal(small_model.sample_records(69, 1, seed=3), many[69:])
    assert not torch.equal(small_model.sample_records(0, 2, seed=4), many[:2])
    with pytest.raises(ValueError, match="no records"):
        small_model.sample_records(-1, 2)


def test_images_are_refused_in_one_line(small_model):
    good = torch.zeros(2, 3, 8, 12, dtype=torch.uint8)
    for x, message in [
        (good[:, :1], r"3 channels and 8 x 12 pixels, \(B, 3, 8, 12\), got \(2, 1, 8, 12\)"),
        (good.float() / 255, "integers such as uint8, got torch.float32"),
        (good.to(torch.uint16), "got torch.uint16"),
        (good.long() - 1, "0 to 31, got -1 to -1"),
    ]:
        for use in (small_model.log_prob, small_model.encode):
            with pytest.raises(ValueError, match=message):
                use(x)
    assert small_model.log_prob(good.long()).shape == (2,)
    assert small_model.log_prob(good[:0]).shape == (0,)


OPTIONS = {
    "gated": {},
    "residual": {"block": "residual"},
    "pointwise": {"block": "pointwise", "layers": 1},
    "attention": {"heads": 2},
    "context": {"context": 3},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_networks_start_at_zero_and_see_one_image_its_features_and_its_places(name):
    torch.manual_seed(0)
    network = ConvolutionNetwork(2, 5, size=(3, 4), width=8, **OPTIONS[name]).eval()
    x, features = torch.randn(6, 3, 4, 2), torch.randn(6, 3, 3, 4)
    assert not network(x, Context(features=features)).any()
    moved_away(network, 0.1)
    out = network(x, Context(features=features))
    assert out.shape == (6, 3, 4, 5) and out.is_contiguous()
    assert not torch.allclose(network(x + 1, Context(features=features)), out)
    other = network(x, Context(features=features + 1))
    assert torch.allclose(other, out) == (name != "context")
    order = torch.tensor([4, 2, 0, 1, 5, 3])
    torch.testing.assert_close(network(x[order], Context(features=features[order])), out[order])
    flat = network(torch.ones(1, 3, 4, 2), Context(features=torch.zeros(1, 3, 3, 4)))
    assert not torch.allclose(flat[0, 1, 1], flat[0, 1, 2])  # both have all neighbours


@pytest.mark.parametrize("heads", [0, 2])
def test_attention_sees_the_whole_image(heads):
    torch.manual_seed(0)
    x = torch.randn(1, 9, 9, 1)
    other = x.clone()
    other[0, 8, 8] += 5
    network = moved_away(ConvolutionNetwork(1, 1, size=(9, 9), width=8, layers=1, heads=heads), 0.1)
    with torch.no_grad():
        assert torch.equal(network(x)[0, 0, 0], network(other)[0, 0, 0]) == (heads == 0)
