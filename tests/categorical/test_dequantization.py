"""Dequantization of category indices."""

import math

import pytest
import torch

from graphcnf.categorical import DequantizationEncoding
from graphcnf.categorical.dequantization import CategoryEmbedding, ConditionalMixture
from graphcnf.flows import Context, StandardLogistic
from graphcnf.flows.dequantization import MARGIN
from graphcnf.testing import assert_bijection, assert_log_det_matches_jacobian


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_uniform_noise_fills_the_cells_evenly():
    encoding = DequantizationEncoding(4)
    x = torch.arange(4).repeat(5000)[None]
    encoded = encoding.encode(x)
    point = encoded.z[0, :, 0] / encoding.scale + 2
    assert torch.equal(point.floor().long(), x[0]) and encoded.correct.item() == 1
    within = point % 1
    assert within.mean().item() == pytest.approx(0.5, abs=0.01)
    assert within.var().item() == pytest.approx(1 / 12, abs=0.003)
    assert encoded.z.std().item() == pytest.approx(1, abs=0.02)
    # A density of 1 / width on a cell, but for its margins.
    density = -x.numel() * math.log(encoding.scale * (1 - 2 * MARGIN))
    assert encoded.log_encoder.item() == pytest.approx(density, rel=1e-5)


def test_learned_noise_is_a_density_on_its_cell():
    encoding = DequantizationEncoding(3, variational=True).double()
    with torch.no_grad():
        for parameter in encoding.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
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


def test_what_lies_beyond_the_cells_is_overflow():
    encoding = DequantizationEncoding(3)
    z = (torch.tensor([-0.1, 0.1, 2.9, 3.1]) - 1.5)[None, :, None] * encoding.scale
    assert encoding.overflow(z).tolist() == [[True, False, False, True]]
    assert encoding.decode(z).tolist() == [[0, 0, 2, 2]]


@pytest.mark.parametrize("categories", [1, 2, 7, 16])
def test_every_category_has_its_embedding(categories):
    table = CategoryEmbedding(categories, 3)
    known = (2 * torch.arange(categories)[None, :, None] + 1) / categories - 1
    torch.testing.assert_close(table(known)[0], table.table.weight)


def test_conditional_mixture():
    layer = ConditionalMixture(3, 4).double()
    x, context = torch.randn(5, 3, 1).double(), Context(features=torch.randn(5, 3, 4).double())
    torch.testing.assert_close(layer(x, context)[0], x, atol=0.15, rtol=0.05)
    with torch.no_grad():
        layer.parameters_of.weight.normal_()
    assert_bijection(layer, x, context, atol=1e-7, rtol=1e-7)
    assert_log_det_matches_jacobian(layer, x, context)


def test_needs_a_category():
    with pytest.raises(ValueError, match="at least 1"):
        DequantizationEncoding(0)
