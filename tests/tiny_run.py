"""A tiny model and data; as a script, one run of them in a process of its own."""

import csv
import json
import os
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from graphcnf.errors import UserError
from graphcnf.training.checkpoint import load_checkpoint
from graphcnf.training.settings import Experiment

CATEGORIES, LENGTH = 5, 6


class TinyModel(nn.Module):
    """Independent categories, with noise so that the random state matters."""

    def __init__(self, delay: float = 0.0, noise: bool = True):
        super().__init__()
        self.table = nn.Linear(LENGTH * CATEGORIES, LENGTH * CATEGORIES)
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self.delay, self.noise = delay, noise
        self.poison_from = None
        self.calls = 0
        self.hook = None

    @classmethod
    def rebuild(cls, config):
        return cls(**config)

    def check_metadata(self, metadata):
        assert isinstance(metadata, dict)

    def training_loss(self, batch, *, beta=1.0):
        time.sleep(self.delay)
        if self.hook is not None:
            self.hook(self)
        if self.training:
            self.seen += len(batch)
            self.calls += 1
        noise = torch.rand(len(batch), LENGTH * CATEGORIES)
        noise = noise if self.noise else torch.full_like(noise, 0.5)
        logits = (self.table(noise) * self.scale).view(-1, LENGTH, CATEGORIES)
        nats = nn.functional.cross_entropy(logits.flatten(0, 1), batch.flatten())
        loss = beta * nats
        if self.poison_from is not None and self.training and self.calls > self.poison_from[0]:
            if self.calls <= self.poison_from[1]:
                loss = loss * float("nan")
        accuracy = (logits.argmax(-1) == batch).float().sum()
        return loss, {
            "bits_per_variable": (nats.detach() * len(batch) / np.log(2), len(batch)),
            "accuracy": (accuracy, torch.tensor(batch.numel())),
        }


def make_experiment(batch_size=8, epoch_batches=7, delay=0.0, noise=True) -> Experiment:
    torch.manual_seed(0)

    def batch(*key):
        values = np.random.default_rng(key).binomial(CATEGORIES - 1, 0.3, (batch_size, LENGTH))
        return torch.from_numpy(values)

    def train_batches(epoch, seed, start):
        for number in range(start, epoch_batches):
            yield batch(0, seed, epoch, number)

    return Experiment(
        TinyModel(delay, noise), train_batches, lambda: (batch(1, k) for k in range(100))
    )


def last(run: Path) -> dict:
    """The checkpoint of a run."""
    return load_checkpoint(run / "checkpoints" / "last.ckpt")


def rows(run: Path, *phases: str) -> list[dict]:
    """What a run has written of these phases, or of all."""
    with (run / "metrics.csv").open() as file:
        return [row for row in csv.DictReader(file) if not phases or row["phase"] in phases]


def main(options: dict):
    """Train as options say, and exit as a command does."""
    from graphcnf.training import TrainingSettings
    from graphcnf.training.loop import fit

    out, resume, delay = options.pop("out"), options.pop("resume"), options.pop("delay")
    made = make_experiment(delay=delay, noise=options.pop("noise", True))
    try:
        result = fit(made, TrainingSettings(**options), out, resume)
    except UserError as error:
        sys.exit(str(error))
    assert not dist.is_initialized()  # its threads would race with Python's end
    sys.exit(0 if result.signal is None else 128 + result.signal)


def forked(options: dict, said: Path, environment: dict) -> int:
    """Do so in a process that need not import torch again; what it says goes to a file."""
    child = os.fork()
    if not child:
        os.environ.update(environment)
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT), 2)
        sys.stderr, code = open(2, "w"), 1
        try:
            main(options)
        except SystemExit as end:
            code = end.code
            if isinstance(code, str):
                print(code, file=sys.stderr)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code if isinstance(code, int) else 1)
    return child


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
