"""Optimizers, moving average, metrics and checkpoint files."""

import csv
import dataclasses

import pytest
import torch
from torch import nn

from graphcnf.categorical.transformer import ReadOut
from graphcnf.errors import UserError
from graphcnf.training import TrainingSettings
from graphcnf.training.checkpoint import add, load_checkpoint, means, save_model
from graphcnf.training.history import History, MetricsFile
from graphcnf.training.loop import fit
from graphcnf.training.optimizers import (
    MovingAverage,
    Muon,
    hidden_matrices,
    optimizers_of,
    orthogonal,
)
from graphcnf.training.settings import Experiment

SETTINGS = TrainingSettings(steps=20, threads=1, accelerator="cpu", warmup_steps=2,
                            eval_minutes=0, final_eval_batches=1, optimizer="muon")  # fmt: skip


@pytest.mark.parametrize("shape", [(3, 32, 20), (2, 48, 16), (1, 20, 200)])
def test_singular_values_come_near_one_and_vectors_stay(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    made = orthogonal(matrices)
    # The iteration ends between 0.68 and 1.13 (Jordan et al.); bfloat16 rounds by a percent.
    values = torch.linalg.svdvals(made)
    assert values.min() > 0.6 and values.max() < 1.2
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    core = u.transpose(1, 2) @ made @ v.transpose(1, 2)
    aside = core - torch.diag_embed(core.diagonal(dim1=1, dim2=2))
    assert aside.abs().max() < 0.05


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has it from 2.9 on")
def test_the_same_steps_as_those_of_torch():
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator) for shape in ((32, 16), (16, 64), (32, 16))]
    ours, theirs = ([nn.Parameter(s.clone()) for s in start] for _ in range(2))
    a = Muon(ours, lr=0.02, weight_decay=0.1)
    b = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(10):
        for left, right in zip(ours, theirs, strict=True):
            left.grad = torch.randn(left.shape, generator=generator)
            right.grad = left.grad.clone()
        a.step()
        b.step()
    for left, right, s in zip(ours, theirs, start, strict=True):
        assert (left - right).norm() < 0.02 * (left - s).norm()  # bfloat16 in either


def test_what_muon_takes():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(32, 32)
            self.enter = nn.Linear(32, 64)
            self.narrow = nn.Linear(64, 4)
            self.leave = ReadOut(64, 32)
            self.tied = nn.Linear(32, 64)
            self.tied.weight = self.enter.weight
            self.frozen = nn.Linear(64, 64).requires_grad_(False)

    network = Network()
    (matrix,) = hidden_matrices(network)
    assert matrix is network.enter.weight
    muon, adamw = optimizers_of(network, SETTINGS)
    taken = [p for o in (muon, adamw) for g in o.param_groups for p in g["params"]]
    trainable = [p for p in network.parameters() if p.requires_grad]
    assert sorted(map(id, taken)) == sorted(map(id, trainable))
    assert [g["weight_decay"] for g in adamw.param_groups] == [SETTINGS.weight_decay, 0.0]
    with pytest.raises(UserError, match="no hidden linear layer has 16 rows"):
        optimizers_of(nn.Embedding(4, 4), SETTINGS)


def test_moving_average_formula():
    module = nn.Linear(3, 2).double()
    average = MovingAverage(module, horizon=4)
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


def test_changed_buffers_are_copied_to_the_average():
    module = nn.BatchNorm1d(3)
    average = MovingAverage(module, horizon=4)
    for _ in range(3):
        module(torch.randn(8, 3))
        average.update_parameters(module)
    average.copy_buffers()
    torch.testing.assert_close(average.module.running_mean, module.running_mean)
    assert average.module.num_batches_tracked == 3 and not average.module.training


def test_a_model_with_batch_norm_is_saved_with_its_statistics(tmp_path):
    class Normal(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(2)

        def training_loss(self, batch, *, beta=1.0):
            loss = (self.norm(batch) - 1).square().mean()
            return loss, {"bits_per_variable": (loss.detach(), 1.0)}

    batches = [torch.randn(8, 2) + 5 for _ in range(4)]
    model = Normal()
    experiment = Experiment(model, lambda *place: iter(batches), lambda: iter(batches[:1]))
    settings = dataclasses.replace(SETTINGS, optimizer="adamw", steps=8)
    fit(experiment, settings, tmp_path / "run")
    last = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
    own = last["average"]["module.model.norm.running_mean"]
    torch.testing.assert_close(own, model.norm.running_mean)


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


def test_curves_of_a_run_are_drawn_from_whole_lines(tmp_path):
    file = MetricsFile(tmp_path / "metrics.csv", 0)
    for step in (10, 20, 30):
        row = {"step": step, "phase": "train", "learning_rate": 1e-3 / step, "loss": 1 / step}
        file.append({**row, "accuracy": 1})
    file.append({"step": 30, "phase": "eval", "loss": 0.1, "bits_per_node": 1e300, "$x_{": 1.0})
    with file.path.open("a") as torn:
        torn.write("40,train,0.")
    history = History.read(tmp_path)
    assert history.rows["loss"].tolist() == pytest.approx([0.1, 0.05, 1 / 30, 0.1], rel=1e-5)
    for name in ("a.svg", "a.png"):
        figure = history.plot(tmp_path / name)
    titles = [axis.get_title() for axis in figure.axes]
    assert titles[0] == "bits per node" and titles[-1] == "learning rate" and len(titles) == 4
    lines = figure.axes[titles.index("loss")].lines
    assert [list(line.get_xdata()) for line in lines] == [[10, 20, 30], [30]]
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    first = (tmp_path / "a.svg").read_bytes()
    history.plot(tmp_path / "a.svg")
    assert first == (tmp_path / "a.svg").read_bytes() == history._repr_svg_().encode()


def test_what_cannot_be_drawn_is_refused(tmp_path):
    with pytest.raises(UserError, match="metrics.csv: No such file.*name the folder of a run"):
        History.read(tmp_path)
    (tmp_path / "metrics.csv").write_text("step,loss\n1,2\n")
    with pytest.raises(UserError, match="metrics.csv: no metrics of a run yet"):
        History.read(tmp_path)
    (tmp_path / "metrics.csv").write_text("step,phase,loss\n1,train,x\n")
    with pytest.raises(UserError, match="the run has no metrics yet"):
        History.read(tmp_path).plot()
    with pytest.raises(UserError, match="a.pdf: write to a file that ends in .png or .svg"):
        History.read(tmp_path).plot(tmp_path / "a.pdf")


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
