"""Rows of categories: what is padding does not count, and models come back as they were kept."""

import pytest
import torch

from graphcnf.discrete import RowFlow, SetFlow
from graphcnf.errors import UserError
from graphcnf.flows import Context

SMALL = {"width": 8, "layers": 1, "heads": 2}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return RowFlow(4, positions=3, **SMALL).eval()


def test_what_stands_at_padding_does_not_count(model):
    x = torch.tensor([[0, 1, 2], [3, 0, 0]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    nats = model.log_prob(x, Context(mask))
    padded = torch.where(mask, x, -1)
    assert torch.equal(model.log_prob(padded, Context(mask)), nats)
    assert torch.equal(model.log_prob(padded.int(), Context(mask)), nats)


def test_the_real_positions_are_the_first_ones(model):
    x, holes = torch.tensor([[0, 1, 2]]), Context(torch.tensor([[True, False, True]]))
    z = model.encode(x)
    for refused in (
        lambda: model.log_prob(x, holes),
        lambda: model.bound(x, holes),
        lambda: model.encode(x, holes),
        lambda: model.decode(z, holes),
        lambda: model.sample(1, context=holes),
    ):
        with pytest.raises(ValueError, match="its first ones"):
            refused()
    with pytest.raises(ValueError, match="the mask must be a bool tensor"):
        model.bound(x, Context(holes.mask.float()))


def test_what_is_kept_can_be_loaded(model, tmp_path):
    model.metadata = {"counts": {2: 1, 10: 2}}
    model.bfloat16().save_pretrained(tmp_path / "rows")
    again = RowFlow.from_pretrained(tmp_path / "rows")
    assert again.metadata == {"counts": {"2": 1, "10": 2}}
    for name, weight in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight.to(again.state_dict()[name].dtype))
    options = {"separation": 1e6}
    flow = SetFlow(
        3, 3, coupling="channels", width=8, layers=1, couplings=1, encoding_options=options
    )
    flow.save_pretrained(tmp_path / "sets")
    assert SetFlow.from_pretrained(tmp_path / "sets").config == flow.config
    (tmp_path / "sets" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="not the config of a SetFlow"):
        SetFlow.from_pretrained(tmp_path / "sets")
    with pytest.raises(UserError, match="damaged|checksum"):
        weights = tmp_path / "rows" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"x")
        RowFlow.from_pretrained(tmp_path / "rows")
