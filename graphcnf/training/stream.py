"""Batches of a run, from any position on."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graphcnf.errors import UserError

if TYPE_CHECKING:
    from graphcnf.training.run import Run


@dataclass
class Share:
    """What one process takes of a batch.

    Attributes:
        epoch: The epoch.
        number: Number of the batch in its epoch.
        content: The samples of this process.
        weight: Their share of the batch, as a multiple of what an even split would give.
        count: Samples of the whole batch.
    """

    epoch: int
    number: int
    content: Any
    weight: float
    count: int


def shares(run: Run) -> Iterator[Share]:
    """Endless batches of a run from its position on, of each what this process takes.

    The batches do not depend on the number of processes, so that a run can go on with another one.
    """
    found = _shares(run)
    # On a CPU a second thread would only take time from the arithmetic.
    return found if run.fabric.device.type == "cpu" else _one_ahead(found)


def _shares(run: Run) -> Iterator[Share]:
    experiment = run.experiment
    rank, world = run.fabric.global_rank, run.fabric.world_size
    epoch, start = run.position
    empty = 0
    while True:
        batches = experiment.train_batches(epoch, run.settings.seed, start)
        for number, batch in enumerate(batches, start):
            count = len(batch)
            if world == 1:
                yield Share(epoch, number, batch, 1.0, count)
            elif count >= world:  # nobody may be left without a sample
                part = batch[rank::world]
                yield Share(epoch, number, part, len(part) * world / count, count)
            else:
                continue
            empty = 0
        empty += 1
        if empty > 2:
            raise UserError("the training data give no batch; is the batch size too large?")
        epoch, start = epoch + 1, 0


def _one_ahead(iterator: Iterator) -> Iterator:
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(next, iterator)
        while True:
            item = future.result()
            future = pool.submit(next, iterator)
            yield item
