"""Experiments on sets and graph colourings, as their presets build them."""

import pytest
import torch

from graphcnf.errors import UserError
from graphcnf.training.experiments import build_experiment
from graphcnf.training.loop import HEADLINES
from graphcnf.training.settings import load_preset


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    """No test reads or writes the user's cache."""
    monkeypatch.setenv("GRAPHCNF_CACHE", str(tmp_path))


def preset(name, **data):
    config = load_preset(name)
    config["data"] |= data
    return config


def first_step(experiment):
    batch = next(iter(experiment.train_batches(0, 0, 0)))
    loss, metrics = experiment.model.training_loss(batch)
    assert loss.isfinite() and set(HEADLINES) & set(metrics)
    return batch


@pytest.mark.parametrize("name", ["set-shuffling-groups", "set-summation-groups"])
def test_sets_in_groups(name):
    assert first_step(build_experiment(preset(name))).shape == (128, 16)


def test_set_summation():
    experiment = build_experiment(preset("set-summation"))
    assert (first_step(experiment) + 1).sum(1).unique().tolist() == [42]
    held_out = torch.cat(list(experiment.eval_batches()))
    assert held_out.shape == (2048, 16) and ((held_out + 1).sum(1) == 42).all()
    assert experiment.model.metadata["optimum"] == pytest.approx(2.2427, abs=1e-4)


@pytest.mark.parametrize("encoding", ["linear", "variational", "mixture"])
@pytest.mark.parametrize("name", ["set-shuffling", "set-summation"])
def test_sets_take_every_encoding_of_the_paper(name, encoding):
    config = preset(name)
    config["model"] |= {"encoding": encoding, "width": 8, "heads": 2}
    config["training"]["batch_size"] = 4
    first_step(build_experiment(config))


@pytest.mark.parametrize("name, most", [("coloring-small", 20), ("coloring-large", 50)])
def test_coloring(name, most):
    config = preset(name, graphs=40)
    config["training"]["batch_size"] = 4
    experiment = build_experiment(config)
    batch = first_step(experiment)
    assert len(batch) == 4 and batch.mask.shape[1] <= most
    experiment.model.eval()
    held_out = next(iter(experiment.eval_batches()))
    assert "validity" in experiment.model.training_loss(held_out)[1]
    assert experiment.model.metadata["data"] == {
        k: v for k, v in config["data"].items() if k != "name"
    }


@pytest.mark.parametrize(
    "name, data, message",
    [
        ("set-summation", {"task": "sum"}, "did you mean 'summation'"),
        ("set-shuffling", {"total": 42}, "no option 'total'"),
        ("coloring-small", {"size": "smal"}, "size must be one of small, large"),
        ("coloring-small", {"colours": 3}, "did you mean 'colors'"),
    ],
)
def test_data_errors_are_one_line(name, data, message):
    with pytest.raises(UserError, match=message) as caught:
        build_experiment(preset(name, **data))
    assert "\n" not in str(caught.value)
