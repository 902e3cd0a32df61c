"""The size of a graph, its number of nodes: probabilities, and random draws.

Graph models are densities of graphs given their sizes. `SizePrior` is the density of the size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from graphcnf.errors import UserError


@dataclass(frozen=True)
class SizePrior:
    """Probabilities of the numbers of nodes 0 to `largest`.

    They are the frequencies of the training data. With conditions, a network reweights them; as
    long as it has not been trained it returns 0, so that the frequencies remain.

    Attributes:
        counts: Number of training graphs that have 0, 1, ... nodes.
        largest: Largest number of nodes of a graph.
        network: Network from values of conditions (B, P) to logits (B, largest + 1), which are
            added to the logarithms of the frequencies; None for a model without conditions.

    Examples:
        >>> prior = SizePrior([0, 3, 1], 4)
        >>> prior.probabilities().tolist()
        [0.0, 0.75, 0.25, 0.0, 0.0]
        >>> prior.probabilities((2, 4)).tolist()
        [0.0, 0.0, 1.0, 0.0, 0.0]
    """

    counts: Sequence[float]
    largest: int
    network: nn.Module | None = None

    def probabilities(
        self, size_range: tuple[int, int] | None = None, condition_values: Tensor | None = None
    ) -> np.ndarray:
        """Return the probabilities of numbers of nodes.

        Args:
            size_range: Lowest and highest number of nodes; others get the probability 0. If no
                training graph lies in the range, all sizes in it are equally likely. None for all
                sizes.
        """
        low, high = size_range or (1, self.largest)
        if size_range is not None:
            self.check_range(low, high)
        prior = np.zeros(self.largest + 1)
        known = np.asarray(self.counts, dtype=float)[low : high + 1]
        prior[low : low + len(known)] = known
        if not prior.any():
            prior[low : high + 1] = 1
        prior /= prior.sum()
        if condition_values is None:
            return prior
        with torch.no_grad():
            return self._reweight(prior, condition_values).exp().cpu().numpy()[0]

    def log_prob(self, node_counts: Tensor, condition_values: Tensor | None = None) -> Tensor:
        """Return log-probabilities of numbers of nodes, (B,) nats; -inf where never seen."""
        prior = self.probabilities()
        if condition_values is None:
            log_probs = torch.as_tensor(prior, device=node_counts.device).log()[None]
        else:
            log_probs = self._reweight(prior, condition_values)
        return log_prob_of_sizes(log_probs, node_counts)

    def _reweight(self, prior: np.ndarray, condition_values: Tensor) -> Tensor:
        """Return log p(number of nodes | conditions), nats."""
        if self.network is None:
            raise ValueError("this model was trained without conditions")
        device = next(self.network.parameters()).device
        logits = self.network(condition_values.to(device)).double()
        log_prior = torch.as_tensor(prior, device=device).log()
        return (log_prior.to(logits) + logits).log_softmax(-1)

    def check_range(self, low: int, high: int) -> None:
        """Refuse sizes that the model does not have."""
        if not 1 <= low <= high <= self.largest:
            raise UserError(
                f"sizes {low}-{high}: this model draws graphs of 1 to {self.largest} nodes"
            )


def log_prob_of_sizes(log_probs: Tensor, sizes: Tensor) -> Tensor:
    """Look up the log-probabilities of sizes, (B,) nats; -inf for sizes outside the table."""
    known = sizes.clamp(0, log_probs.shape[1] - 1)
    found = log_probs.expand(len(sizes), -1).gather(1, known[:, None])[:, 0]
    return torch.where(known == sizes, found, -math.inf)


def draw_sizes(probabilities: np.ndarray, generators: Sequence[np.random.Generator]) -> np.ndarray:
    """Draw a size for each record; each generator is advanced by one number."""
    below = probabilities.cumsum()
    drawn = np.searchsorted(below, [g.random() * below[-1] for g in generators], "right")
    # The product may round up to the total.
    return drawn.clip(max=len(below) - 1)
