"""Probabilities of the categories of sequences from n-grams.

- A *row* is a sequence of categories 0 to C - 1. Its *positions* are numbered from 0.
- An *n-gram context* of length k is the last k categories before a position, k = 0, 1, ...; its
  *key* is an integer that stands for it. Before the start of a row stands C, which is no category.
- The *counts* say how often each category follows each context in the training rows.
- The *interpolated* probabilities p_k are those of the contexts of lengths 0 to k, see
  `graphcnf.discrete.contexts`.
- A training row is *left out of its own counts* when it is scored: else it would seem more probable
  than a new one.

A long context tells more than a short one, unless it has been seen a few times only. So the
probabilities of a category c are a *mixture*

    p(c) = sum over k of w_k p_k(c),    with weights w_k that sum to 1.

The weights differ from position to position: a small network, `MixtureWeights`, computes them from
how often the contexts of the position have been seen, and how many different categories followed
them. It learns from the training rows, each left out of its own counts. Weights that depend on
counts are those of Jelinek & Mercer 1980, *Interpolated estimation of Markov source parameters from
sparse data*, who have a table of them in place of a network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.discrete.contexts import GAIN, ContextCounts, best_factor
from graphcnf.flows.transform import log_term_dtype

REACH = 12
"""Longest context, in categories."""

LARGEST_COUNTS = 4_000_000
"""Largest number of different n-grams that are counted; with more, contexts stay shorter."""

LARGEST_MIXTURE = 10_000_000
"""Largest number of probabilities that the network of the weights learns from: those of C
categories at each position."""

CHUNK = 4096
"""Positions that are looked up at a time."""

FEWEST = 1000
"""With fewer positions there is no mixture."""

HELD_OUT = 0.1
"""Share of the positions that is held out, to see what the mixture gains."""

UNITS = 32
"""Hidden units of the network of the weights."""

STEPS, BATCH, LEARNING_RATE = 1000, 512, 1e-2
"""Training of the network of the weights: steps, positions in each step, and learning rate, which
falls to 0."""


class MixtureWeights(nn.Module):
    """Network of the weights of K interpolated probabilities at each position."""

    def __init__(self, count: int):
        super().__init__()
        self.hidden = nn.Linear(2 * count, UNITS)
        self.out = nn.Linear(UNITS, count)

    def forward(self, total: Tensor, different: Tensor) -> Tensor:
        """Return the logarithms of the weights at M positions, (M, K) nats."""
        # Divided so that the network learns at one rate from counts of 1 and of a million.
        seen = torch.cat([total.log1p() / 5, different.log1p() / 3], 1)
        hidden = self.hidden(seen.to(self.hidden.weight.dtype)).relu()
        return self.out(hidden).log_softmax(1)

    def fit(self, total: Tensor, different: Tensor, log_p: Tensor) -> None:
        """Learn the weights by Adam from (M, K) interpolated log-probabilities, nats."""
        optimizer = torch.optim.Adam(self.parameters(), LEARNING_RATE)
        rows = np.random.default_rng(0).integers(len(log_p), size=(STEPS, BATCH))
        with torch.enable_grad():
            for step, chosen in enumerate(torch.from_numpy(rows)):
                optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - step / STEPS)
                weights = self(total[chosen], different[chosen])
                optimizer.zero_grad()
                (-(weights + log_p[chosen]).logsumexp(1)).mean().backward()
                optimizer.step()


class NGrams(nn.Module):
    """Probabilities of the category of a position, given those before it in its row.

    `of` counts training rows. The constructor makes counts of zero, into which saved ones are
    loaded. `forward` gives the probabilities.

    Args:
        factors: Factors of the contexts of length 0, 1, ..., see `ContextCounts`.
        sizes: The two numbers `ContextCounts.sizes`.
        mixed: True if the probabilities are a mixture, False if they are those interpolated up to
            the longest context.

    Attributes:
        reach: Length of the longest context, in categories.
    """

    factors: Tensor

    def __init__(
        self,
        cardinality: int,
        factors: Sequence[float],
        sizes: Sequence[int] = (0, 0),
        mixed: bool = False,
    ):
        super().__init__()
        self.cardinality, self.reach = cardinality, len(factors) - 1
        table = torch.tensor([list(factors)], dtype=torch.float32)
        self.register_buffer("factors", table, persistent=False)
        self.counts = ContextCounts(sizes)
        self.weights = MixtureWeights(len(factors)).requires_grad_(False) if mixed else None

    @property
    def arguments(self) -> dict[str, Any]:
        """What the constructor needs, besides `cardinality`, to load saved counts and weights."""
        factors = [int(factor) for factor in self.factors[0]]
        mixed = self.weights is not None
        return {"factors": factors, "sizes": self.counts.sizes, "mixed": mixed}

    @classmethod
    def of(cls, before: Tensor, x: Tensor, cardinality: int) -> NGrams:
        """Count n-grams, and choose the longest context, the factors and the weights.

        Contexts are lengthened, up to 12 categories (`REACH`), as long as this raises the
        log-likelihood of the positions by at least 10 nats (`graphcnf.discrete.contexts.GAIN`) and
        there are at most 4 million n-grams (`LARGEST_COUNTS`). Each position is left out of its own
        counts in this.

        Args:
            before: Last categories before each of M positions, the latest one last, (M, N) long,
                with N at least `longest_context(cardinality)`.
        """
        values = x.numpy()
        p, best, factors, pairs = np.full(len(x), 1 / cardinality), -np.inf, list[int](), 0
        for key in contexts(before, cardinality, longest_context(cardinality)).T.contiguous():
            context = key.numpy()
            factor, longer, score = best_factor(context, values, p)
            pairs += len(np.unique(context * cardinality + values))
            if factors and (score < best + GAIN or pairs > LARGEST_COUNTS):
                break
            factors.append(factor)
            p, best = longer, score
        made = cls(cardinality, factors)
        made.count(before, x)
        made._fit_weights(before, x)
        return made

    def count(self, before: Tensor, x: Tensor) -> None:
        """Replace the counts by those of other positions, in place; all else stays as it is."""
        keys = contexts(before, self.cardinality, self.reach).T.contiguous().numpy()
        device = self.factors.device
        self.counts = ContextCounts.of(list(keys), [x.numpy()] * len(keys)).to(device)

    def _fit_weights(self, before: Tensor, x: Tensor) -> None:
        """Learn the weights of the mixture, unless it gains less than 10 nats (`GAIN`)."""
        count = min(len(x), LARGEST_MIXTURE // self.cardinality)
        if count < FEWEST or self.reach == 0:
            return
        chosen = torch.from_numpy(np.random.default_rng(0).permutation(len(x))[:count])
        found = []
        for some in chosen.split(CHUNK):
            own = x[some]
            p, total, different = self._interpolated(before[some], own)
            found.append((p[torch.arange(len(own)), :, own].log(), total, different))
        log_p, total, different = map(torch.cat, zip(*found, strict=True))
        held_out = int(HELD_OUT * count)
        # The initial weights are drawn from a generator of their own.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            weights = MixtureWeights(self.reach + 1)
        weights.fit(total[held_out:], different[held_out:], log_p[held_out:])
        weights.requires_grad_(False)
        log_weights = weights(total[:held_out], different[:held_out])
        mixed = (log_weights + log_p[:held_out]).logsumexp(1)
        if (mixed - log_p[:held_out, -1]).sum() >= GAIN:
            self.weights = weights

    def _interpolated(
        self, before: Tensor, x: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the interpolated probabilities at M positions, and what the weights depend on."""
        kind = log_term_dtype(self.factors)
        shape = (len(before), self.cardinality)
        p = torch.full(shape, 1 / self.cardinality, dtype=kind, device=before.device)
        keys = contexts(before, self.cardinality, self.reach)[:, None]
        levels = self.counts.interpolated(keys, p, self.factors.to(kind), x=x)
        probabilities, total, different = zip(*levels, strict=True)
        return torch.stack(probabilities, 1), torch.cat(total, 1), torch.cat(different, 1)

    @torch.no_grad()
    def forward(self, before: Tensor, x: Tensor | None = None) -> Tensor:
        """Return the log-probabilities of all categories at M positions, (M, C) nats.

        `before` (M, N) are the last categories, the latest one last, C before the start of the row.
        With the categories `x` of counted rows, each position is left out of its own counts.
        """
        found = []
        for start in range(0, len(before), CHUNK):
            some = slice(start, start + CHUNK)
            p, *seen = self._interpolated(before[some], None if x is None else x[some])
            if self.weights is None:
                found.append(p[:, -1])
            else:
                weights = self.weights(*seen).exp().to(p.dtype)
                found.append((weights[:, None] @ p)[:, 0])
        return torch.cat(found).log() if found else self.factors.new_zeros(0, self.cardinality)


def longest_context(cardinality: int) -> int:
    """Return the largest length of contexts whose keys are integers of 62 bits, at most `REACH`."""
    reach = REACH
    while (cardinality + 2) ** (reach + 1) > 2**62:
        reach -= 1
    return reach


def contexts(before: Tensor, cardinality: int, reach: int) -> Tensor:
    """Return the keys of the n-gram contexts of lengths 0, 1, ..., `reach` at M positions.

    Contexts that differ in a category or in length have different keys. The context of length 0 has
    the key 0.

    Column k of the result is that of the context of length k. In `before` (M, N) the latest
    category is the last one, and `cardinality` stands for the start of the row.
    """
    # Digits are at least 1, so contexts of different lengths have different numbers.
    digits = before.flip(-1)[:, :reach] + 1
    powers = (cardinality + 2) ** torch.arange(reach, device=before.device)
    return F.pad((digits * powers).cumsum(-1), (1, 0))
