import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from graphcnf.flows import (
    StandardLogistic,
    StandardNormal,
    draw_normal,
    draw_uniform,
    record_generators,
)

DEVIATION = {StandardNormal: 1.0, StandardLogistic: math.pi / math.sqrt(3)}
bases = pytest.mark.parametrize("base", [StandardNormal(), StandardLogistic()], ids=repr)


@bases
def test_density_integrates_to_one(base):
    grid = torch.linspace(-60, 60, 60_001, dtype=torch.float64)
    density = base.log_prob(grid[:, None]).exp()
    assert torch.trapezoid(density, grid).item() == pytest.approx(1, abs=1e-9)
    variance = torch.trapezoid(density * grid.square(), grid).item()
    assert math.sqrt(variance) == pytest.approx(DEVIATION[type(base)], abs=1e-6)


@bases
def test_mask_and_shape(base):
    z = torch.randn(3, 4, 2)
    mask = torch.arange(4) < torch.tensor([4, 0, 2])[:, None]
    log_prob = base.log_prob(z, mask)
    assert log_prob.shape == (3,) and log_prob[1] == 0
    torch.testing.assert_close(log_prob[2], base.log_prob(z[2:, :2])[0])
    sample = base.sample(z.shape, mask=mask)
    assert not sample[~mask].any() and sample[mask].all()
    assert base.log_prob(z.bfloat16()).dtype == torch.float32
    assert base.log_prob(z.double()).dtype == torch.float64


@bases
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_samples_follow_the_density_at_a_temperature(base, temperature):
    generator = torch.Generator().manual_seed(0)
    z = base.sample((200_000, 1), temperature=temperature, generator=generator)
    expected = temperature * DEVIATION[type(base)]
    assert z.std().item() == pytest.approx(expected, rel=0.01)
    assert z.mean().item() == pytest.approx(0, abs=0.02 * expected)
    # The mean log-density of samples is the negative entropy.
    entropy = {StandardNormal: 0.5 * math.log(2 * math.pi * math.e), StandardLogistic: 2.0}
    found = base.log_prob(z / temperature).mean().item()
    assert found == pytest.approx(-entropy[type(base)], abs=0.01)


@bases
def test_records_do_not_depend_on_batch_or_padding(base):
    sizes = torch.tensor([3, 1, 4, 2])
    whole = base.sample(
        (4, 6, 2), mask=torch.arange(6) < sizes[:, None], generator=record_generators(7, 10, 4)
    )
    for record, size in enumerate(sizes.tolist()):
        own = base.sample(
            (1, size, 2),
            mask=torch.ones(1, size, dtype=torch.bool),
            generator=record_generators(7, 10 + record, 1),
        )
        assert torch.equal(whole[record, :size], own[0])
    other = base.sample((4, 6, 2), generator=record_generators(8, 10, 4))
    assert not torch.equal(whole[2, :4], other[2, :4])


@pytest.mark.parametrize("draw", [draw_normal, draw_uniform])
def test_generators(draw):
    assert torch.equal(
        draw((3, 2), generator=torch.Generator().manual_seed(3)),
        draw((3, 2), generator=torch.Generator().manual_seed(3)),
    )
    two = [np.random.default_rng(0), np.random.default_rng(1)]
    mask = torch.tensor([True, False])
    values = draw((2, 3), generator=two, mask=mask, dtype=torch.float64)
    assert values.dtype == torch.float64 and values[0].all() and not values[1].any()
    assert draw((2, 3), generator=record_generators(0, 0, 2)).dtype == torch.float32
    with pytest.raises(ValueError, match="2 generators for a batch of 3"):
        draw((3, 2), generator=two)


def test_uniform_numbers_stay_below_one():
    highest = SimpleNamespace(random=lambda size: np.full(size, 1 - 2**-53))
    for dtype in (torch.float16, torch.float32, torch.float64):
        assert (draw_uniform((1, 2), generator=[highest], dtype=dtype) < 1).all()
