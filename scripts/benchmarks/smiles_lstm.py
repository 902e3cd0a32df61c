"""The rival: a plain language model of canonical SMILES, what many would pick instead of a flow.

Two layers of LSTM over tokens (an atom in brackets, Br, Cl, or one letter), as CharRNN in MOSES
(Polykovskiy et al. 2020, arXiv 1811.12823). Its budget is CPU time of one thread.
"""

from __future__ import annotations

import json
import math
import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.errors import UserError
from graphcnf.pretrained import Pretrained

if TYPE_CHECKING:
    from graphcnf.datasets.molecules import MoleculeDataset

_TOKEN = re.compile(r"\[[^\]]+\]|Br|Cl|.")
PADDING, START, END = 0, 1, 2
LONGEST = 150
"""Tokens after which a sample is cut off; the longest SMILES of ZINC250k has fewer."""


class SmilesLSTM(Pretrained, nn.Module):
    """p(SMILES) as a product over its tokens.

    Args:
        tokens: The tokens; number 3 and up, after padding, start and end.
        embedding: Channels of a token.
        hidden: Channels of a layer.
        layers: LSTM layers.
    """

    def __init__(
        self, tokens: Sequence[str], embedding: int = 64, hidden: int = 384, layers: int = 2
    ):
        super().__init__()
        self.config = {
            "tokens": list(tokens), "embedding": embedding, "hidden": hidden, "layers": layers,
        }  # fmt: skip
        self.metadata: dict = {}
        self.numbers = {token: k for k, token in enumerate(tokens, 3)}
        count = len(tokens) + 3
        self.embedding = nn.Embedding(count, embedding)
        self.lstm = nn.LSTM(embedding, hidden, layers, batch_first=True)
        self.out = nn.Linear(hidden, count)

    def forward(self, tokens: Tensor, state=None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Logits (B, L, tokens) of what follows each of `tokens` (B, L), and the state."""
        hidden, state = self.lstm(self.embedding(tokens), state)
        return self.out(hidden), state

    def encode(self, smiles: str) -> list[int]:
        """Token numbers of a SMILES, with start and end.

        Raises:
            KeyError: A token that the model does not know.
        """
        return [START, *(self.numbers[token] for token in _TOKEN.findall(smiles)), END]

    def nats(self, batch: Tensor) -> Tensor:
        """-log p, (B,), of token numbers (B, L)."""
        logits, _ = self(batch[:, :-1])
        losses = F.cross_entropy(
            logits.flatten(0, 1), batch[:, 1:].flatten(), ignore_index=PADDING, reduction="none"
        )
        return losses.unflatten(0, batch[:, 1:].shape).sum(1)

    @torch.no_grad()
    def sample(self, count: int, seed: int, batch: int = 500) -> Iterator[str]:
        """Raw samples, one SMILES each, valid or not."""
        generator = torch.Generator().manual_seed(seed)
        texts = ["", "", "", *self.config["tokens"]]
        for first in range(0, count, batch):
            rows = min(batch, count - first)
            token, state, drawn = torch.full((rows, 1), START), None, []
            ended = torch.zeros(rows, dtype=torch.bool)
            for _ in range(LONGEST):
                logits, state = self(token, state)
                token = torch.multinomial(logits[:, -1].softmax(-1), 1, generator=generator)
                token[ended] = END
                ended = ended | (token[:, 0] == END)
                if ended.all():
                    break
                drawn.append(token[:, 0])
            for row in torch.stack(drawn, 1).tolist() if drawn else [[END]] * rows:
                yield "".join(texts[t] for t in row)


def padded(rows: Sequence[Sequence[int]]) -> Tensor:
    """Token numbers side by side, (B, L) long."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[PADDING] * (longest - len(row))] for row in rows])


def train(
    dataset: MoleculeDataset,
    folder: Path,
    *,
    minutes: float,
    seed: int,
    batch: int = 64,
    learning_rate: float = 2e-3,
) -> SmilesLSTM:
    """Train on the training part of a data set and save the model in a folder.

    Batches of like length, AdamW, a warm-up of 200 steps, then a cosine to 1 % of the rate.

    Args:
        dataset: The molecules.
        folder: Where to save.
        minutes: CPU time of this process, which should have one thread.
        seed: Of weights and order.
        batch: Molecules per step.
        learning_rate: The largest one.
    """
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    tokens = sorted({token for smiles in dataset.smiles for token in _TOKEN.findall(smiles)})
    model = SmilesLSTM(tokens)
    rows = [model.encode(dataset.smiles[k]) for k in dataset.split("train")]
    lengths = np.array([len(row) for row in rows])
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    start = told = time.process_time()
    step, todo = 0, []
    while (spent := (time.process_time() - start) / 60) < minutes:
        if not todo:
            todo = _epoch(lengths, batch, random)
        chosen = padded([rows[k] for k in todo.pop()])
        cosine = 0.5 * (1 + math.cos(math.pi * spent / minutes)) + 0.01
        optimizer.param_groups[0]["lr"] = learning_rate * min(1, (step + 1) / 200) * cosine
        loss = model.nats(chosen).sum() / (chosen[:, 1:] != PADDING).sum()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        if time.process_time() - told > 60:
            told = time.process_time()
            print(f"LSTM: {spent:.1f} of {minutes} minutes, step {step}", file=sys.stderr)
    model.metadata = {
        "dataset": dataset.name,
        "training": {
            "cpu_minutes": round(spent, 2), "steps": step, "seed": seed, "batch_size": batch,
            "molecules_per_second": round(step * batch / spent / 60, 1),
        },
    }  # fmt: skip
    model.eval().save_pretrained(folder)
    return model


def _epoch(lengths: np.ndarray, batch: int, random: np.random.Generator) -> list[np.ndarray]:
    order = random.permutation(len(lengths))
    order = order[np.lexsort((lengths[order], np.arange(len(order)) // (64 * batch)))]
    batches = [order[k : k + batch] for k in range(0, len(order), batch)]
    random.shuffle(batches)
    return batches


@torch.no_grad()
def bits_per_molecule(model: SmilesLSTM, smiles: Sequence[str]) -> float:
    """Mean of -log2 p of the canonical SMILES: an upper bound on that of the molecules.

    Raises:
        UserError: A SMILES with a token that the model does not know.
    """
    try:
        rows = sorted((model.encode(s) for s in smiles), key=len)
    except KeyError as error:
        raise UserError(f"the language model knows no token {error}") from None
    total = sum(model.nats(padded(rows[k : k + 100])).sum() for k in range(0, len(rows), 100))
    return float(total) / len(rows) / math.log(2)


def main(arguments: Sequence[str]) -> None:
    """Train in a process of its own: FOLDER MINUTES SEED DATA-JSON."""
    from graphcnf.scripts.benchmarks.runs import load_molecules

    folder, minutes, seed, data = arguments
    torch.set_num_threads(1)
    train(load_molecules(json.loads(data)), Path(folder), minutes=float(minutes), seed=int(seed))


if __name__ == "__main__":
    main(sys.argv[1:])
