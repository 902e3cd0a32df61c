"""Rows of categories: what is padding does not count, and models come back as they were kept."""

import numpy as np
import pytest
import torch

from graphcnf import CategoricalModel
from graphcnf.discrete import RowFlow, SetFlow, adapters
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


def test_many_sequences_are_learned_with_counts_that_are_looked_up_once(monkeypatch):
    """Training rows are left out of their own counts, held-out rows are not; neither changes."""
    monkeypatch.setattr(adapters, "MANY_SYMBOLS", 300)
    monkeypatch.setattr(adapters, "BATCH_SYMBOLS", 50)
    random = np.random.default_rng(0)
    words = ["ab" * int(random.integers(1, 6)) + "cab"[: random.integers(3)] for _ in range(90)]
    model, data = CategoricalModel._build(words, 0, 0.0, {**SMALL})
    counted = np.arange(60)
    model.flow.count(data[torch.from_numpy(counted)])
    data.start = model.flow.starts(data, counted)
    mean = data.mask.sum() / len(data)
    assert model.adapter.settings["batch_size"] == int(50 / mean) and mean < 10
    assert model.flow.network.dropout.p == 0
    for chosen, training in ((counted[:7], True), (np.arange(60, 67), False)):
        model.flow.train(training)
        batch = model.adapter.batch(data, chosen)
        assert batch.start.shape == (*batch.values.shape, len("abc"))
        loss = model.training_loss(batch)[0]
        batch.start = None
        torch.testing.assert_close(loss, model.training_loss(batch)[0])
