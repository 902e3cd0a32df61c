"""Moving average, metric sums, metrics file, checkpoint files."""

import csv
import re

import numpy as np
import pytest
import torch
from torch import nn

from graphcnf.errors import UserError
from graphcnf.training.checkpoint import (
    MetricsFile,
    add,
    load_checkpoint,
    means,
    save_checkpoint,
    save_model,
)
from graphcnf.training.optimizers import averaged


def test_moving_average_formula():
    module = nn.Linear(3, 2).double()
    average = averaged(module, horizon=4)
    expected = [p.detach().clone() for p in module.parameters()]
    for t in range(40):
        with torch.no_grad():
            for p in module.parameters():
                p += torch.randn_like(p)
        decay = min(0.75, t / (t + 9))
        expected = [
            decay * e + (1 - decay) * p.detach()
            for e, p in zip(expected, module.parameters(), strict=True)
        ]
        average.update_parameters(module)
    for e, a in zip(expected, average.module.parameters(), strict=True):
        torch.testing.assert_close(a.detach(), e)


def test_metrics_are_sums_over_sums():
    sums = {}
    add(sums, {"a": (torch.tensor(3.0), torch.tensor(2)), "b": (1, 0)})
    add(sums, {"a": (torch.tensor(1.0), torch.tensor(6)), "c": (4, 2)})
    assert means(sums) == pytest.approx({"a": 0.5, "b": float("nan"), "c": 2.0}, nan_ok=True)


def test_metrics_file_drops_what_lies_beyond_the_checkpoint_and_takes_further_columns(tmp_path):
    path = tmp_path / "metrics.csv"
    file = MetricsFile(path, 0)
    for step in (10, 20, 30):
        file.append({"step": step, "loss": 1.0 / step})
    with path.open("a") as torn:
        torn.write("40,0.0")
    file = MetricsFile(path, 20)
    file.append({"step": 30, "accuracy": float("nan"), "loss": 0.5})
    file.append({"step": 40, "accuracy": 0.25})
    with path.open() as stream:
        assert list(csv.DictReader(stream)) == [
            {"step": "10", "loss": "0.1", "accuracy": ""},
            {"step": "20", "loss": "0.05", "accuracy": ""},
            {"step": "30", "loss": "0.5", "accuracy": ""},
            {"step": "40", "loss": "", "accuracy": "0.25"},
        ]


def test_a_flipped_bit_of_a_checkpoint_is_found(tmp_path):
    path, random = tmp_path / "a.ckpt", np.random.default_rng(0)
    save_checkpoint(path, {"x": torch.arange(1000)})
    assert torch.equal(load_checkpoint(path)["x"], torch.arange(1000))
    content = path.read_bytes()
    for place in random.integers(0, 8 * len(content), 60):
        changed = bytearray(content)
        changed[place // 8] ^= 1 << place % 8
        path.write_bytes(changed)
        with pytest.raises(UserError, match=re.escape(str(path))):
            load_checkpoint(path)


def test_a_model_without_a_way_to_be_saved_leaves_its_weights(tmp_path):
    class Saves(nn.Module):
        def save_pretrained(self, folder):
            folder.mkdir(exist_ok=True)
            (folder / "config.json").write_text("{}")

    save_model(tmp_path / "model", Saves())
    assert [p.name for p in (tmp_path / "model").iterdir()] == ["config.json"]
    # Two layers with the same weights, as many language models have.
    tied = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    tied[1].weight = tied[0].weight
    save_model(tmp_path / "plain", tied)
    assert (tmp_path / "plain" / "weights.safetensors").stat().st_mode & 0o077
    assert {p.name for p in tmp_path.iterdir()} == {"model", "plain"}
