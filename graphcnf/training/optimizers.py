"""Optimizers, and the moving average of the weights.

- *Hidden matrices*: the weights of linear layers that are not output layers, for which the
  optimizer Muon is made. All other parameters (vectors, embeddings, output layers) are left to
  AdamW.
- *Buffers*: tensors of a model that are saved with it and not trained.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from graphcnf.categorical.transformer import ReadOut
from graphcnf.errors import UserError
from graphcnf.training.checkpoint import check_finite
from graphcnf.training.settings import TrainingSettings

SMALLEST = 16
"""Rows and columns at least of a matrix that Muon optimizes."""

MOMENTUM, ITERATIONS = 0.95, 5
"""Momentum of Muon, and its number of Newton-Schulz iterations."""


def optimizers_of(model: nn.Module, settings: TrainingSettings) -> list[torch.optim.Optimizer]:
    """Build the optimizers of a model; each trainable parameter belongs to one of them.

    These are `[AdamW]`, vectors without weight decay; or, with `optimizer = "muon"`, `[Muon,
    AdamW]`, where Muon takes the hidden matrices. An optimizer without parameters is left out.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    common: dict[str, Any] = dict(lr=settings.learning_rate, weight_decay=settings.weight_decay)
    matrices = hidden_matrices(model) if settings.optimizer == "muon" else []
    if settings.optimizer == "muon" and not matrices:
        raise UserError('optimizer = "muon": no hidden linear layer has 16 rows and columns')
    ours = set(map(id, matrices))
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
    """Return the weights of linear layers that Muon optimizes, each once.

    They have at least 16 rows and 16 columns (`SMALLEST`). Output layers (of the class `ReadOut`)
    and weights that are not trained are left out.
    """
    found = {
        id(module.weight): module.weight
        for module in model.modules()
        if isinstance(module, nn.Linear) and not isinstance(module, ReadOut)
    }
    return [w for w in found.values() if w.requires_grad and min(w.shape) >= SMALLEST]


def restore(optimizers: list[torch.optim.Optimizer], states: list[dict]) -> None:
    """Load the states of optimizers from a checkpoint, in place, and check them.

    The weight decay is not loaded: that of the present settings stays.
    """
    own = [[len(group["params"]) for group in o.param_groups] for o in optimizers]
    if [[len(group["params"]) for group in s["param_groups"]] for s in states] != own:
        raise UserError("the checkpoint belongs to a run with another optimizer")
    for optimizer, state in zip(optimizers, states, strict=True):
        decays = [group["weight_decay"] for group in optimizer.param_groups]
        optimizer.load_state_dict(state)
        for parameter, moments in optimizer.state.items():
            for name, tensor in moments.items():
                if name != "step" and tensor.shape != parameter.shape:
                    raise ValueError(f"{name} of another shape than its weight")
            check_finite(moments.values(), "optimizer state")
            if moments.get("step", 0) < 0:
                raise ValueError(f"{moments['step']} steps of the optimizer")
        for group, decay in zip(optimizer.param_groups, decays, strict=True):
            group["weight_decay"] = decay


class MovingAverage(AveragedModel):
    """Copy of a model, in evaluation mode, whose weights a are the moving average of its weights w.

        a <- d a + (1 - d) w

    The decay of update t = 0, 1, ... is `d = min(1 - 1 / horizon, t / (t + 9))`: the first update
    copies the weights, and early averages are over about the last tenth of the steps so far.

    The parameters and buffers of the model must stay the same objects.
    """

    def __init__(self, model: nn.Module, horizon: float):
        super().__init__(model)
        self.horizon = horizon
        self.weights: list[list[Tensor]] = [[*part.parameters()] for part in (self.module, model)]
        self.kept = list(zip(self.module.buffers(), model.buffers(), strict=True))
        self.eval()

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Update the average after a step of training.

        Buffers are not updated: call `copy_buffers` before the average is used.
        """
        updates = int(self.n_averaged)
        decay = min(1.0 - 1.0 / self.horizon, updates / (updates + 9.0))
        own_weights, weights = self.weights
        torch._foreach_lerp_(own_weights, weights, 1 - decay)
        self.n_averaged += 1

    @torch.no_grad()
    def copy_buffers(self) -> None:
        """Copy the buffers of the model; call it before the average is evaluated or saved.

        They may be too large to be copied after every step.
        """
        for own, buffer in self.kept:
            own.copy_(buffer)


class Muon(torch.optim.Optimizer):
    """The optimizer Muon (Jordan et al. 2024) with Nesterov momentum and decoupled weight decay.

    An update is `0.2 * sqrt(max(rows, columns))` times an orthogonal matrix. This is the size of
    AdamW's updates, so that both can share learning rate and decay (Liu et al. 2025, arXiv
    2502.16982). `torch.optim.Muon` always iterates in bfloat16, which is ten times slower on
    processors without bfloat16; here only hardware that has it uses it. Matrices of equal shape are
    updated together.
    """

    def __init__(self, matrices: Iterable[Tensor], lr: float, weight_decay: float):
        super().__init__(matrices, dict(lr=lr, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self, closure=None) -> None:  # type: ignore[override]  # never a closure
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            alike = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    alike[matrix.shape].append(matrix)
                    self.state[matrix].setdefault("momentum", torch.zeros_like(matrix))
            for shape, matrices in alike.items():
                buffers = [self.state[matrix]["momentum"] for matrix in matrices]
                gradients = [matrix.grad for matrix in matrices]
                torch._foreach_lerp_(buffers, gradients, 1 - MOMENTUM)
                ahead = torch._foreach_lerp(gradients, buffers, MOMENTUM)
                updates = orthogonal(torch.stack(ahead))
                torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
                size = 0.2 * max(shape) ** 0.5
                torch._foreach_add_(matrices, list(updates.unbind()), alpha=-group["lr"] * size)


def orthogonal(matrices: Tensor) -> Tensor:
    """Return for each of K matrices the nearest orthogonal matrix, approximately.

    Newton-Schulz iterations bring all singular values near 1; singular vectors stay as they are.
    They are computed in bfloat16 on hardware that has it, else in float32.
    """
    kind, short = matrices.device.type, torch.float32
    if kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        short = torch.bfloat16
    if kind == "cpu" and getattr(torch.cpu, "_is_avx512_bf16_supported", bool)():
        short = torch.bfloat16
    rows, columns = matrices.shape[1:]
    x = matrices.to(short)
    if rows > columns:
        x = x.transpose(1, 2)
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    # Coefficients by which small singular values grow fastest (Jordan et al. 2024).
    a, b, c = 3.4445, -4.7750, 2.0315
    for _ in range(ITERATIONS):
        square = x @ x.transpose(1, 2)
        x = a * x + torch.baddbmm(square, square, square, beta=b, alpha=c) @ x
    return (x.transpose(1, 2) if rows > columns else x).to(matrices.dtype)
