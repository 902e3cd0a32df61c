import pytest
import torch
from image_networks import moved_away

from graphcnf.flows import Context
from graphcnf.images import ConvolutionNetwork

OPTIONS = {
    "gated": {},
    "residual": {"block": "residual"},
    "pointwise": {"block": "pointwise", "layers": 1},
    "attention": {"heads": 2},
    "context": {"context": 3},
    "dropout": {"dropout": 0.5},
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


def test_dropout_is_for_training():
    torch.manual_seed(0)
    network = moved_away(ConvolutionNetwork(1, 1, size=(4, 4), width=8, dropout=0.5), 0.1)
    x = torch.randn(2, 4, 4, 1)
    assert torch.equal(network(x), network(x))
    network.train()
    assert not torch.equal(network(x), network(x))
