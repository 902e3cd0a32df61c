"""A language model of canonical SMILES, for comparison with models of graphs.

Two LSTM layers over tokens (an atom in brackets, Br, Cl, or one letter), like CharRNN in MOSES
(Polykovskiy et al. 2020, arXiv 1811.12823).
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from graphcnf.chunks import chunked
from graphcnf.datasets.molecules import MoleculeDataset
from graphcnf.errors import UserError
from graphcnf.graphs.records import one_thread
from graphcnf.messages import say
from graphcnf.pretrained import Pretrained
from graphcnf.scripts.benchmarks.runner import TrainedRun, check_budget

_TOKEN = re.compile(r"\[[^\]]+\]|Br|Cl|.")
PADDING, START, END = 0, 1, 2
BATCH, RATE = 64, 2e-3  # molecules of a training step, and the largest learning rate
MOST_TOKENS = 150  # tokens after which a sample is cut off; ZINC250k has fewer


class TokenLSTM(nn.Module):
    """Two LSTM layers over sequences of tokens, with logits of the next token.

    Args:
        inputs: Number of tokens that may be read, such as a start token.
        outputs: Number C of tokens that may come next.
        hidden: Hidden units of a layer.
    """

    def __init__(self, inputs: int, outputs: int, hidden: int):
        super().__init__()
        self.embedding = nn.Embedding(inputs, 64)
        self.lstm = nn.LSTM(64, hidden, num_layers=2, batch_first=True)
        self.out = nn.Linear(hidden, outputs)

    def forward(
        self, tokens: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Read tokens, and return logits of the token that follows each of them.

        Args:
            tokens: Numbers of the L tokens of B sequences, (B, L) long.
            state: State after earlier tokens, as an earlier call returned it; None at the start.

        Returns:
            Logits, (B, L, C); and the state after the last token, two tensors (2, B, hidden).
        """
        hidden, state = self.lstm(self.embedding(tokens), state)
        return self.out(hidden), state


class SmilesLSTM(Pretrained, TokenLSTM):
    """Autoregressive density of SMILES, token by token.

    Args:
        tokens: All tokens of SMILES, such as "C", "Br" and "[nH]". Their numbers begin at 3; 0 to 2
            are padding, start and end.
        hidden: Hidden units of a layer.
    """

    def __init__(self, tokens: Sequence[str], hidden: int = 384):
        super().__init__(len(tokens) + 3, len(tokens) + 3, hidden)
        self.config = {"tokens": list(tokens), "hidden": hidden}
        self.metadata: dict = {}
        self.numbers = {token: k for k, token in enumerate(tokens, 3)}

    def encode(self, smiles: str) -> Tensor:
        """Convert a SMILES to token numbers.

        Args:
            smiles: The SMILES.

        Returns:
            Numbers of start, tokens and end, (L,) long.

        Raises:
            KeyError: It has an unknown token.
        """
        tokens = (self.numbers[token] for token in _TOKEN.findall(smiles))
        return torch.tensor([START, *tokens, END])

    def nats(self, rows: Sequence[Tensor]) -> Tensor:
        """Return -log p of SMILES in nats, (B,).

        Args:
            rows: Token numbers of B SMILES, as `encode` returns them.
        """
        batch = pad_sequence(rows, batch_first=True, padding_value=PADDING)
        logits, _ = self(batch[:, :-1])
        losses = F.cross_entropy(
            logits.flatten(0, 1), batch[:, 1:].flatten(), ignore_index=PADDING, reduction="none"
        )
        return losses.unflatten(0, batch[:, 1:].shape).sum(1)

    @torch.no_grad()
    def sample(self, count: int, seed: int, batch: int = 500) -> Iterator[str]:
        """Draw SMILES, some of which may be invalid; each is cut off after 150 tokens.

        Args:
            count: Number of SMILES.
            seed: Seed of the sample.
            batch: Number of SMILES that are drawn at a time; other batches give other samples.
        """
        generator = torch.Generator().manual_seed(seed)
        texts = ["", "", "", *self.config["tokens"]]
        for first in range(0, count, batch):
            rows = min(batch, count - first)
            token, state, drawn = torch.full((rows, 1), START), None, []
            ended = torch.zeros(rows, dtype=torch.bool)
            while len(drawn) < MOST_TOKENS and not ended.all():
                logits, state = self(token, state)
                token = torch.multinomial(logits[:, -1].softmax(-1), 1, generator=generator)
                token[ended] = END
                ended = ended | (token[:, 0] == END)
                drawn.append(token[:, 0])
            for row in torch.stack(drawn, 1).tolist():
                yield "".join(texts[t] for t in row)


@one_thread(torch.device("cpu"))
def train_lstm(
    model: nn.Module, losses: Iterator[Tensor], minutes: float, rate: float, warmup: int = 200
) -> tuple[int, float]:
    """Train a model with AdamW on one thread, for a given CPU time.

    The learning rate rises for `warmup` steps, and falls with a cosine to 1 % of the largest one.

    Args:
        model: The model, which is changed in place.
        losses: Iterator that computes the loss of the next batch each time.
        minutes: CPU time.
        rate: The largest learning rate.
        warmup: Number of steps in which the learning rate rises.

    Returns:
        (steps, minutes): number of steps, and the CPU time that they took.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    start = told = time.process_time()
    step = 0
    while (spent := (time.process_time() - start) / 60) < minutes:
        cosine = 0.5 * (1 + math.cos(math.pi * spent / minutes)) + 0.01
        optimizer.param_groups[0]["lr"] = rate * min(1, (step + 1) / warmup) * cosine
        loss = next(losses)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        if time.process_time() - told > 60:
            told = time.process_time()
            say(f"LSTM: {spent:.1f} of {minutes} minutes, step {step}")
    return step, spent


def train(
    dataset: MoleculeDataset, folder: Path, *, minutes: float, seed: int, source: Any = None
) -> SmilesLSTM:
    """Train a `SmilesLSTM` on batches of SMILES of similar lengths, and save it in a folder.

    Args:
        dataset: Data set, of which the training part is learned.
        folder: Folder of the model.
        minutes: CPU time of the training.
        seed: Seed of the training.
        source: JSON value that says which data these are, kept in the model's `metadata`.

    Returns:
        The trained model.
    """
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    tokens = sorted({token for smiles in dataset.smiles for token in _TOKEN.findall(smiles)})
    model = SmilesLSTM(tokens)
    rows = [model.encode(dataset.smiles[k]) for k in dataset.split("train")]
    lengths = np.array([len(row) for row in rows])

    def losses() -> Iterator[Tensor]:
        while True:
            order = random.permutation(len(lengths))
            order = order[np.lexsort((lengths[order], np.arange(len(order)) // (64 * BATCH)))]
            todo = chunked(order, BATCH)
            random.shuffle(todo)
            for part in reversed(todo):
                chosen = [rows[k] for k in part]
                yield model.nats(chosen).sum() / sum(len(row) - 1 for row in chosen)

    step, spent = train_lstm(model, losses(), minutes, RATE)
    training = {"minutes": round(spent, 2), "steps": step, "seed": seed, "batch_size": BATCH}
    model.metadata = {"dataset": dataset.name, "source": source, "training": training}
    model.eval().save_pretrained(folder)
    return model


@torch.no_grad()
def bits_per_molecule(model: SmilesLSTM, smiles: Sequence[str]) -> float:
    """Return the bits per molecule of canonical SMILES, as a mean.

    Each is -log2 p(canonical SMILES), an upper bound on -log2 p(molecule), to which other SMILES of
    the molecule would add.

    Args:
        model: The model.
        smiles: Canonical SMILES.
    """
    try:
        rows = sorted((model.encode(s) for s in smiles), key=len)
    except KeyError as error:
        raise UserError(f"the language model knows no token {error}") from None
    total = sum(model.nats(part).sum() for part in chunked(rows, 100))
    return float(total) / len(rows) / math.log(2)


def train_beside(run: TrainedRun, minutes: float) -> SmilesLSTM:
    """Train a `SmilesLSTM` on the data of a run of another model, unless it is trained already.

    When the training is finished, the model is saved in the folder `smiles-lstm/seed-N` beside that
    of the run's preset. An interrupted training begins anew.

    Args:
        run: The run, whose data and seed are used.
        minutes: CPU time of the training, in minutes.

    Returns:
        The trained model, as it is read from its folder.
    """
    place = run.path.parents[1] / "smiles-lstm" / run.path.name
    if not (place / "config.json").is_file():
        seed, data = run.preset.training.seed, run.preset.data
        train(run.molecules(), place, minutes=minutes, seed=seed, source=data)
    model = SmilesLSTM.from_pretrained(place)
    check_budget(place, model.metadata["training"]["minutes"], minutes)
    if model.metadata["source"] not in (None, run.preset.data):
        raise UserError(f"{place} was trained on other data than {run.path}: delete it")
    return model
