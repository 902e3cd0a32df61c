"""Batches of a run, from any position on."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from graphcnf.errors import UserError

if TYPE_CHECKING:
    from graphcnf.training.run import Run


class BatchStream:
    """Endless batches of this process, as (epoch, number, batch), from the run's position on."""

    def __init__(self, run: Run):
        self.run = run

    def __iter__(self) -> Iterator[tuple[int, int, Any]]:
        batches = self._batches()
        # On a CPU a second thread would only take time from the arithmetic.
        return batches if self.run.device.type == "cpu" else _one_ahead(batches)

    def _batches(self) -> Iterator[tuple[int, int, Any]]:
        run = self.run
        rank, world = run.global_rank, run.trainer.world_size
        epoch, start = run.position
        empty = 0
        while True:
            number = start + rank
            for batch in run.experiment.train_batches(epoch, run.settings.seed, number, world):
                yield epoch, number, batch
                number += world
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
