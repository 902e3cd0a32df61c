"""`StochasticModel`, the base class of graph models whose bounds are random.

Such a model has latent variables that it cannot sum over, so that a bound on log p takes a draw of
them. `RecordNoise` makes the draw of each graph a function of a seed and a number, so that scores
can be repeated whatever the batch.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from graphcnf.categorical.categorical_flow import Bound, total
from graphcnf.flows.transform import Noise
from graphcnf.graphs.batch import GraphBatch
from graphcnf.graphs.graph_model import GraphModel
from graphcnf.limits import check_integer
from graphcnf.torch_state import evaluated


class StochasticModel(GraphModel):
    """Graph model whose bound on log p(graph | number of nodes) is one draw of random numbers.

    The expectation of a draw is a lower bound on log p; the logarithm of the mean over several
    draws is a tighter one. A graph that `knows` rejects cannot be given to `bounds` or `log_prob`;
    `log_prob_of_records` leaves it out.
    """

    @abstractmethod
    def bounds(self, batch: GraphBatch, noise: Noise | None = None) -> dict[str, Bound]:
        """Draw a lower bound on log p(graph | number of nodes) once, as a sum of terms."""

    @evaluated
    def log_prob(self, batch: GraphBatch, samples: int = 1, noise: Noise | None = None) -> Tensor:
        """Draw a lower bound on log p(graph | number of nodes).

        It is the logarithm of the mean of exp(`bounds`) over some draws of the model's latent
        variables, and in expectation at most log p.
        """
        check_integer("samples", samples, 1)
        batch = batch.for_model(self.config)
        draws = [total(self.bounds(batch, noise).values()) for _ in range(samples)]
        return torch.logsumexp(torch.stack(draws), 0) - math.log(samples)

    def log_prob_of_records(
        self, batch: GraphBatch, seed: int = 0, records: np.ndarray | None = None
    ) -> Tensor:
        """Draw a lower bound on log p(graph | number of nodes) once, of any graphs."""
        known = self.knows(batch)
        if not known.any():
            return torch.full((len(batch),), -math.inf, device=known.device)
        noise = None
        if records is not None:
            noise = RecordNoise(seed, records[known.cpu().numpy()])
        log_p = self.log_prob(batch[known], noise=noise)
        nats = log_p.new_full((len(batch),), -math.inf)
        nats[known] = log_p
        return nats


class RecordNoise(Noise):
    """Tape of random numbers for bounds that do not depend on the batch in which a graph is scored.

    The bound of a `StochasticModel` is random. With this tape as its `noise`, the random numbers of
    a graph are a function of the seed and of a number that the graph has.
    """

    def __init__(self, seed: int, records: Sequence[int]):
        super().__init__()
        self.seed = seed
        self.records = records

    def draw(self, shape, device, dtype):
        """Draw uniform numbers; `Noise.uniform` calls it where the tape has none to repeat.

        Row k is drawn by a generator of its own, made of the seed, number k of `records`, and how
        many draws are on the tape.
        """
        rows = []
        for record in self.records:
            # The spawn key makes these numbers independent of those that drew the record.
            key = (len(self.draws),)
            sequence = np.random.SeedSequence((self.seed, int(record)), spawn_key=key)
            # Padding of nodes and pairs comes last, so it does not shift the numbers.
            random = np.random.Generator(np.random.Philox(sequence))
            rows.append(random.random(tuple(shape[1:])))
        return torch.from_numpy(np.stack(rows)).to(device, dtype)
