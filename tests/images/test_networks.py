import pytest
import torch

from graphcnf.flows import Context
from graphcnf.images import ConvolutionNetwork, ImageEncoder

OPTIONS = {
    "gated": {},
    "residual": {"block": "residual"},
    "pointwise": {"block": "pointwise", "layers": 1},
    "attention": {"heads": 2},
    "context": {"context": 3},
    "dropout": {"dropout": 0.5},
}


@pytest.fixture(params=OPTIONS)
def case(request):
    torch.manual_seed(0)
    network = ConvolutionNetwork(2, 5, size=(3, 4), width=8, **OPTIONS[request.param])
    features = torch.randn(6, 3, 3, 4) if request.param == "context" else None
    return network.eval(), torch.randn(6, 3, 4, 2), features


def stirred(network):
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def test_starts_at_zero_and_depends_on_its_input(case):
    network, x, features = case
    assert not network(x, Context(features=features)).any()
    stirred(network)
    out = network(x, Context(features=features))
    assert out.shape == (6, 3, 4, 5) and out.is_contiguous()
    assert not torch.allclose(network(x + 1, Context(features=features)), out)
    if features is not None:
        assert not torch.allclose(network(x, Context(features=features + 1)), out)


def test_images_of_a_batch_are_independent(case):
    network, x, features = case
    stirred(network)
    order = torch.tensor([4, 2, 0, 1, 5, 3])
    flipped = network(x[order], Context(features=None if features is None else features[order]))
    torch.testing.assert_close(flipped, network(x, Context(features=features))[order])


def test_pixels_have_a_place(case):
    network, x, features = case
    stirred(network)
    x = x[:1].mean((1, 2), keepdim=True).expand(1, 3, 4, 2)
    features = None if features is None else torch.zeros(1, 3, 3, 4)
    out = network(x, Context(features=features))
    assert not torch.allclose(out[0, 1, 1], out[0, 1, 2])  # both have all neighbours


def test_attention_sees_the_whole_image():
    torch.manual_seed(0)
    x = torch.randn(1, 9, 9, 1)
    other = x.clone()
    other[0, 8, 8] += 5
    for heads, sees in ((0, False), (2, True)):
        network = stirred(
            ConvolutionNetwork(1, 1, size=(9, 9), width=8, layers=1, heads=heads)
        ).eval()
        with torch.no_grad():
            corner = network(x)[0, 0, 0], network(other)[0, 0, 0]
        assert torch.equal(*corner) != sees


def test_dropout_is_for_training():
    torch.manual_seed(0)
    network = stirred(ConvolutionNetwork(1, 1, size=(4, 4), width=8, dropout=0.5))
    x = torch.randn(2, 4, 4, 1)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


def test_encoder_halves_the_sides():
    encoder = stirred(ImageEncoder(3, 7, size=(4, 6), width=8))
    assert encoder(torch.randn(2, 3, 4, 6)).shape == (2, 7, 2, 3)
