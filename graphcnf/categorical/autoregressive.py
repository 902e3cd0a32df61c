"""Autoregressive distributions over categories, given by a network.

    log p(x) = sum over the variables of log p(variable | variables decided before)

- *Categories* x are (B, N, V) integers: B *rows* of a batch, N *positions* in each row (for graphs,
  the nodes), and V *variables* at each position.
- A *mask* (B, N) is True at real positions. The others are padding: in no step, and 0 in x.
- A *step* decides one variable of some positions together, and the V variables of a position one
  after the other. The *hidden state* is what the network knows when it decides a variable.
- A variable that an earlier one determines is *omitted*: it is 0 with probability 1. (A node that
  closes no first ring has no second one.)

To score known categories, all positions begin together, if the network can evaluate them in one
pass (`AutoregressiveNetwork.steps`). To draw, one position of each row begins after the other: with
three positions of two variables,

    drawing = network.start(context)
    while (first := drawing.step()) is not None:     # positions 0, 1 and 2 of all rows
        step = first
        while step is not None:                      # variables 0 and 1 of each
            x[step.place] = ...                      # drawn by `network.logits(step.hidden)`
            step = network.next_variable(step, x[step.place])
        drawing.update(x[first.rows, first.positions])
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from graphcnf.flows.transform import Context, log_term_dtype, masked, sum_log_term

LEAST = 1e-15
"""Distance that float64 numbers in (0, 1) keep from 0 and 1, so that their logits are finite."""


@dataclass
class Step:
    """One variable of M positions, in any rows of the batch, that is decided next.

    Attributes:
        rows: Row of each position in the batch, (M,) long.
        positions: Number of each position in its row, (M,) long.
        hidden: Hidden state at the M positions, any object; only the network reads it.
        variable: Number of the variable, from 0 to V - 1.
    """

    rows: Tensor
    positions: Tensor
    hidden: Any
    variable: int = 0

    @property
    def place(self) -> tuple[Tensor, Tensor, int]:
        """Index of the variable in x (B, N, V): `x[step.place]` are its categories, (M,)."""
        return self.rows, self.positions, self.variable


class Drawing(Protocol):
    """Rows of a batch that are being drawn: what is drawn so far, and which positions come next.

    `step` and `update` are called in turn. Work may be postponed from `update` to the next `step`,
    when complete rows have left the batch.
    """

    def step(self) -> Step | None:
        """Return the step of the next positions' first variable; None once all are decided."""

    def update(self, x: Tensor) -> None:
        """Receive the categories (M, V) of the positions of the last step, 0 where omitted."""


class Intervals(NamedTuple):
    """Interval of (0, 1) of the category of each variable.

    Attributes:
        lower: Lower ends, (B, N, V) float64.
        log_width: Logarithms of the widths, (B, N, V): log-probabilities of the categories, nats.
    """

    lower: Tensor
    log_width: Tensor


class AutoregressiveNetwork(nn.Module):
    """Autoregressive distribution over categories x (B, N, V), given by a network.

    A subclass writes `start`, the order of the positions in drawing; `logits`, and with V > 1
    `next_hidden`; and mostly `steps`, to score all positions at once. With V = 1 the hidden state
    may be the logits themselves.

    Attributes:
        cardinalities: Number of categories of each of the V variables of a position.
    """

    cardinalities: Sequence[int]

    # A context is a `Context`, or the subclass of it that the network reads. It cannot be typed so:
    # a method that takes only a subclass would not fit that of the base class.

    def start(self, context: Any) -> Drawing:
        """Begin to draw the rows of a batch."""
        raise NotImplementedError

    def logits(self, hidden) -> Tensor:
        """Return the logits (R, C) of the next variable of R positions, -inf where impossible.

        By default the hidden state is the logits.
        """
        return hidden.to(log_term_dtype(hidden))

    def next_hidden(self, hidden, x: Tensor) -> tuple[Any, Tensor | None]:
        """Go on from a decided variable of R positions, with categories x (R,), to the next one.

        Returns:
            The hidden state at the positions that have a next variable, and the indices of these,
            (R',) long, or None if all have one. At the others all later variables are omitted.
        """
        raise NotImplementedError

    def settle(self, hidden, x: Tensor) -> Tensor:
        """Correct drawn categories (R,) by rules that hold in `draw` but not in the distribution.

        `log_prob` and `invert` do not call it. By default there are no such rules.
        """
        return x

    def steps(self, x: Tensor, context: Any) -> Iterator[Step]:
        """Yield the steps of all first variables, for scoring known categories.

        Together they have every real position once. By default the positions come one after the
        other, as in drawing; a network that computes all hidden states in one pass yields a single
        step.
        """
        drawing = self.start(context)
        while (step := drawing.step()) is not None:
            yield step
            drawing.update(x[step.rows, step.positions])

    def next_variable(self, step: Step, x: Tensor) -> Step | None:
        """Go on to the next variable of the positions of a step; None if all omit it."""
        if step.variable + 1 == len(self.cardinalities):
            return None
        hidden, kept = self.next_hidden(step.hidden, x)
        rows, positions = step.rows, step.positions
        if kept is not None:
            rows, positions = rows[kept], positions[kept]
        return Step(rows, positions, hidden, step.variable + 1) if len(rows) else None

    def log_probs(self, x: Tensor, context: Context) -> Tensor:
        """Return the log-probability of each category given those before it, (B, N, V) nats.

        Omitted variables have 0 if their category is 0, else -inf; masked positions have 0.
        """
        log_p = self._log_probs_if_omitted(x)
        for step in self._all_steps(x, context):
            log_all = self.logits(step.hidden).log_softmax(-1)
            log_p[step.place] = log_all.gather(-1, x[step.place][:, None])[:, 0]
        return masked(log_p, context.mask)

    def _all_steps(self, x: Tensor, context: Context) -> Iterator[Step]:
        """Yield a step for each variable of known categories."""
        for first in self.steps(x, context):
            step: Step | None = first
            while step is not None:
                yield step
                step = self.next_variable(step, x[step.place])

    def _log_probs_if_omitted(self, x: Tensor) -> Tensor:
        """Return the log-probabilities of omitted variables: 0 is certain, all else impossible."""
        dtype = log_term_dtype(next(self.parameters()))
        return torch.where(x == 0, 0.0, -math.inf).to(dtype)

    def log_prob(self, x: Tensor, context: Context) -> Tensor:
        """Return the log-probability of each row, (B,) nats."""
        return sum_log_term(self.log_probs(x, context))

    def intervals(self, x: Tensor, context: Context) -> Intervals:
        """Return, for each category x, the interval of the numbers u for which `draw` draws it.

        It is [F(x - 1), F(x)), where F are the cumulative sums of the conditional probabilities.
        """
        log_width = self._log_probs_if_omitted(x)
        lower = torch.zeros_like(log_width, dtype=torch.float64)
        for step in self._all_steps(x, context):
            category = x[step.place][:, None]
            log_all = self.logits(step.hidden).log_softmax(-1)
            p = log_all.double().exp()  # In float64, a rare category keeps its interval.
            log_width[step.place] = log_all.gather(-1, category)[:, 0]
            lower[step.place] = (p.cumsum(-1) - p).gather(-1, category)[:, 0]
        return Intervals(lower, log_width)

    @torch.no_grad()
    def draw(self, u: Tensor, context: Context) -> Tensor:
        """Draw the categories whose intervals contain the uniform numbers u (B, N, V), float64.

        The temperature of the context divides logits. `settle` may correct each category.
        """
        return self._draw(u, context)

    @torch.no_grad()
    def invert(self, u: Tensor, context: Context) -> tuple[Tensor, Intervals]:
        """Find the categories whose intervals contain u, and these intervals; without `settle`.

        All are 0 where masked or omitted.
        """
        intervals = Intervals(torch.zeros_like(u), torch.zeros_like(u))
        return self._draw(u, context, intervals), intervals

    def _draw(self, u: Tensor, context: Context, intervals: Intervals | None = None) -> Tensor:
        """Draw the categories of all rows of a batch."""
        x = torch.zeros_like(u, dtype=torch.long)
        drawing = self.start(context)
        while (first := drawing.step()) is not None:
            step: Step | None = first
            while step is not None:
                at = step.place
                found = find_interval(self.logits(step.hidden) / context.temperature, u[at])
                category = found[0]
                if intervals is None:
                    category = self.settle(step.hidden, category)
                else:
                    intervals.lower[at], intervals.log_width[at] = found[1:]
                x[at] = category
                step = self.next_variable(step, category)
            drawing.update(x[first.rows, first.positions])
        return x


class InSequence:
    """Counter for a `Drawing` that draws positions from the first to the last.

    Rows leave the batch once they are complete: they are sorted by length, the longest first, so
    that those with a next position are always the first ones. In its own `step`, the drawing calls
    `advance`; if True, it computes the hidden state of the first `count` rows at `position`, and
    returns `make_step(hidden)`. In the mask (B, N), real positions come first.

    Attributes:
        rows: Index in the mask of each row, the longest row first, (B,) long.
        sizes: Number of real positions of each row, in the order of `rows`, (B,) long.
        counts: For each of the N positions, the number of rows that have it.
        position: Number of the current position, -1 before the first one.
        count: Number of rows that have the current position.
    """

    def __init__(self, mask: Tensor):
        self.length = mask.shape[1]
        self.position = -1
        self.count = 0
        self._sort(mask.sum(1))

    def _sort(self, sizes: Tensor) -> None:
        """Set `rows`, `sizes` and `counts` for rows of the lengths `sizes` (B,)."""
        self.sizes, self.rows = sizes.sort(descending=True, stable=True)
        number = torch.arange(self.length, device=sizes.device)
        self.counts = (sizes[:, None] > number).sum(0).tolist()

    def advance(self) -> bool:
        """Go on to the next position; False once all rows are complete."""
        self.position += 1
        self.count = self.counts[self.position] if self.position < self.length else 0
        return self.count > 0

    def make_step(self, hidden: Any) -> Step:
        """Build the `Step` of variable 0 at the current position of the `count` rows."""
        rows = self.rows[: self.count]
        return Step(rows, torch.full_like(rows, self.position), hidden)

    def select(self, rows: Tensor) -> Tensor:
        """Replace the batch by some of its rows, which may repeat, in place (resampling).

        Returns:
            Index (R,) for tensors of the caller in the order of `rows`: `tensor[index]` is in the
            new one.

        Examples:
            Rows 0, 1 and 2 have 1, 3 and 2 positions. Row 0 is kept, and row 2 twice:

            >>> order = InSequence(torch.arange(3) < torch.tensor([[1], [3], [2]]))
            >>> lengths = order.sizes  # a tensor in the order of `rows`
            >>> order.rows.tolist(), lengths.tolist()
            ([1, 2, 0], [3, 2, 1])
            >>> index = order.select(torch.tensor([0, 2, 2]))
            >>> order.rows.tolist(), index.tolist(), lengths[index].tolist()
            ([1, 2, 0], [1, 1, 2], [2, 2, 1])
        """
        place = self.rows.argsort()  # place[r]: where row r stands now
        kept = place[rows]
        self._sort(self.sizes[kept])
        return kept[self.rows]


def find_interval(logits: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Find the category x with F(x - 1) <= u < F(x), F the cumulative sums of the probabilities.

    Returns:
        Categories x; lower ends F(x - 1); log-widths, the log-probabilities in nats. (M,) each.
    """
    log_all = logits.log_softmax(-1).double()
    upper = log_all.exp().cumsum(-1)
    # The last possible category takes what rounding leaves.
    category = (u[:, None].minimum(upper[:, -1:] * (1 - LEAST)) >= upper).sum(-1, keepdim=True)
    log_width = log_all.gather(-1, category)[:, 0]
    return category[:, 0], upper.gather(-1, category)[:, 0] - log_width.exp(), log_width
