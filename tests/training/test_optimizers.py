import dataclasses

import pytest
import torch
from torch import nn

from graphcnf.errors import UserError
from graphcnf.flows.modules import ReadOut
from graphcnf.training import TrainingSettings, fit
from graphcnf.training.checkpoint import load_checkpoint
from graphcnf.training.optimizers import Muon, hidden_matrices, optimizers_of, orthogonal

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
    with pytest.raises(UserError, match="no linear layers"):
        optimizers_of(nn.Embedding(4, 4), SETTINGS)


def test_a_run_with_muon_goes_on_as_if_nothing_had_happened(tiny, tmp_path):
    fit(tiny.make_experiment(), SETTINGS, tmp_path / "whole")
    plateau = dataclasses.replace(SETTINGS, decay_fraction=0.0)
    fit(tiny.make_experiment(), plateau, tmp_path / "a")
    fit(tiny.make_experiment(), dataclasses.replace(plateau, steps=9), tmp_path / "b")
    fit(tiny.make_experiment(), plateau, tmp_path / "b", resume=True)
    a, b = (load_checkpoint(tmp_path / n / "checkpoints" / "last.ckpt") for n in "ab")
    for key in ("model", "average", "optimizers"):
        torch.testing.assert_close(a[key], b[key], rtol=0, atol=0)
    with pytest.raises(UserError, match="another optimizer"):
        other = dataclasses.replace(plateau, optimizer="adamw", steps=30)
        fit(tiny.make_experiment(), other, tmp_path / "b", resume=True)
