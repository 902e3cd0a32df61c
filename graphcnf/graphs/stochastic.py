"""`StochasticModel`, the base class of graph models whose bound on log p is random."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from graphcnf.categorical.categorical_flow import Bound
from graphcnf.flows.transform import Noise
from graphcnf.graphs.batch import GraphBatch
from graphcnf.graphs.graph_model import GraphModel
from graphcnf.limits import check_integer
from graphcnf.torch_state import evaluated


class StochasticModel(GraphModel):
    """Graph model whose bound on log p(graph | number of nodes) is one draw of random numbers.

    The expectation of a draw is a lower bound on log p; the logarithm of the mean over several
    draws is a tighter one. A graph that `knows` rejects cannot be scored at all: callers such as
    `log_prob_in_batches` leave it out.
    """

    @abstractmethod
    def bounds(self, batch: GraphBatch, noise: Noise | None = None) -> dict[str, Bound]:
        """Draw a lower bound on log p(graph | number of nodes) once, as a sum of terms.

        Args:
            batch: B graphs that `knows` accepts.
            noise: Tape that records the random draws, or replays them; None for no tape.

        Returns:
            Terms (B,) in nats by name; the names are those of the model's steps.
        """

    @evaluated
    def log_prob(self, batch: GraphBatch, samples: int = 1, noise: Noise | None = None) -> Tensor:
        """Draw a lower bound on log p(graph | number of nodes), (B,) nats.

        Args:
            batch: B graphs that `knows` accepts, in the node order that the model needs.
            samples: Number of draws whose probabilities are averaged.
            noise: Tape that records the random draws, or replays them; None for no tape.

        Raises:
            UserError: if `samples` is out of range.
            ValueError: if a graph does not fit the model.
        """
        check_integer("samples", samples, 1)
        batch = batch.checked(self.config)
        bounds = (self.bounds(batch, noise).values() for _ in range(samples))
        draws: list[Any] = [sum(bound.value() for bound in terms) for terms in bounds]
        return torch.logsumexp(torch.stack(draws), 0) - math.log(samples)
