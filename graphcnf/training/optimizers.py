"""The optimizers that a run's settings ask for, and their place in a checkpoint."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from graphcnf.errors import UserError
from graphcnf.flows.readout import ReadOut
from graphcnf.training.checkpoint import check_finite
from graphcnf.training.muon import Muon
from graphcnf.training.settings import TrainingSettings

SMALLEST = 16
"""Rows and columns from which on a matrix counts as hidden."""


def optimizers_of(model: nn.Module, settings: TrainingSettings) -> list[torch.optim.Optimizer]:
    """AdamW, without decay on vectors; where asked for, Muon for the hidden matrices."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    common: dict[str, Any] = dict(lr=settings.learning_rate, weight_decay=settings.weight_decay)
    matrices = hidden_matrices(model) if settings.optimizer == "muon" else []
    if settings.optimizer == "muon" and not matrices:
        raise UserError('optimizer = "muon": this model has no linear layers between others')
    ours = {id(matrix) for matrix in matrices}
    others = [p for p in trainable if id(p) not in ours]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in others if p.ndim >= 2]},
        {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    made: list[torch.optim.Optimizer] = [Muon(matrices, **common)] if matrices else []
    if groups:
        fused = {p.device.type for p in trainable} <= {"cpu", "cuda"}
        made.append(torch.optim.AdamW(groups, fused=fused, **common))
    return made


def hidden_matrices(model: nn.Module) -> list[Tensor]:
    """Weights of the linear layers between a network's inputs and its read-out."""
    found = {
        id(module.weight): module.weight
        for module in model.modules()
        if isinstance(module, nn.Linear) and not isinstance(module, ReadOut)
    }
    return [w for w in found.values() if w.requires_grad and min(w.shape) >= SMALLEST]


def restore(optimizers: list[torch.optim.Optimizer], states: list[dict]) -> None:
    """Load the states of a checkpoint; weight decay stays that of the present settings.

    Raises:
        UserError: they are those of other optimizers.
    """
    sizes = [
        [[len(group["params"]) for group in groups] for groups in found]
        for found in (
            [state["param_groups"] for state in states],
            [optimizer.param_groups for optimizer in optimizers],
        )
    ]
    if sizes[0] != sizes[1]:
        raise UserError("the checkpoint belongs to a run with another optimizer")
    for optimizer, state in zip(optimizers, states, strict=True):
        asked = [group["weight_decay"] for group in optimizer.param_groups]
        optimizer.load_state_dict(state)
        for parameter, kept in optimizer.state.items():
            for name, tensor in kept.items():
                if name != "step" and tensor.shape != parameter.shape:
                    raise ValueError(f"{name} of another shape than its weight")
            check_finite(kept.values(), "optimizer state")
            if kept.get("step", 0) < 0:
                raise ValueError(f"{kept['step']} steps of the optimizer")
        for group, weight_decay in zip(optimizer.param_groups, asked, strict=True):
            group["weight_decay"] = weight_decay
