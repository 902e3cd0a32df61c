"""Autoregressive distributions over categories, given by a network.

    log p(x) = sum over the variables of log p(variable | variables decided before)

- *Categories* x are (B, N, V) integers: B *rows* of a batch, N *positions* in each row (for graphs,
  the nodes), and V *variables* at each position (what describes a node).
- A *mask* (B, N) is True at real positions. The others are padding: in no step, and 0 in x. Only
  the mask tells padding from category 0.
- A *step* decides one variable of some positions together. The V variables of a position are
  decided one after the other.
- The *hidden state* of a variable is what the network knows when it decides the variable. It may be
  any object; only the network reads it.
- A variable that an earlier one determines is *omitted*: it is 0 with probability 1. (A node that
  closes no first ring has no second one.) `AutoregressiveNetwork.next_hidden` says which these are.
- The *interval* of a category is a part of (0, 1) as wide as the probability of the category.

`AutoregressiveNetwork` is the distribution. Some positions begin with a `Step` for their first
variable; `AutoregressiveNetwork.next_variable` takes its categories, and returns the step for the
next variable. To score known categories, all positions begin together, if the network can evaluate
them in one pass (`AutoregressiveNetwork.steps`). To draw, one position of each row begins after the
other: a `Drawing` keeps what is drawn so far. So drawing is, with three positions of two variables,

    drawing = network.start(context)
    while (first := drawing.step()) is not None:     # positions 0, 1 and 2 of all rows
        step = first
        while step is not None:                      # variables 0 and 1 of each
            x[step.place] = ...                      # drawn by `network.logits(step.hidden)`
            step = network.next_variable(step, x[step.place])
        drawing.update(x[first.rows, first.positions])

`graphcnf.categorical.autoregressive_flow` makes a flow of such a network: it turns categories into
continuous latents and back, with the same probabilities.
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
        hidden: Hidden state of the variable at the M positions, in a form that only the network
            knows.
        variable: Number of the variable, from 0 to V - 1.
    """

    rows: Tensor
    positions: Tensor
    hidden: Any
    variable: int = 0

    @property
    def place(self) -> tuple[Tensor, Tensor, int]:
        """Index of the variable in x (B, N, V): `x[step.place]` are its categories, (M,).

        Returns:
            Rows, (M,) long; positions, (M,) long; and the number of the variable.
        """
        return self.rows, self.positions, self.variable


class Drawing(Protocol):
    """Rows of a batch that are being drawn: what is drawn so far, and which positions come next.

    Each network has a class of its own for it. `AutoregressiveNetwork` calls `step` and `update` in
    turn. A drawing may postpone work from `update` to the next `step`, when rows that are complete
    have left the batch.
    """

    def step(self) -> Step | None:
        """Go on to the positions that are decided next.

        Before it is called again, call `update` with the categories of these.

        Returns:
            The step of their first variable; None once all positions are decided.
        """

    def update(self, x: Tensor) -> None:
        """Receive all categories of the positions of the last step that `step` returned.

        Args:
            x: Categories of its M positions, (M, V) long; 0 where a variable is omitted.
        """


class Intervals(NamedTuple):
    """Intervals of (0, 1), one for the category of each variable.

    Attributes:
        lower: Lower ends, (B, N, V) float64.
        log_width: Logarithms of the widths, (B, N, V): log-probabilities of the categories, nats.
    """

    lower: Tensor
    log_width: Tensor


class AutoregressiveNetwork(nn.Module):
    """Autoregressive distribution over categories x (B, N, V), given by a network.

    A subclass writes

    - `start`, the order of the positions in drawing;
    - `logits`, the distribution of the next variable of a position, and `next_hidden`, how the
      hidden state changes once this variable is decided (not needed with V = 1);
    - mostly `steps` as well, to evaluate all positions at once in scoring.

    From these follow `log_prob`, `log_probs`, `intervals`, `draw` and `invert`. A hidden state may
    be any object. With V = 1 it may be the logits themselves, which the default of `logits`
    returns.

    Attributes:
        cardinalities: Number of categories of each of the V variables of a position.
    """

    cardinalities: Sequence[int]

    # A context is a `Context`, or the subclass of it that the network reads. It cannot be typed so:
    # a method that takes only a subclass would not fit that of the base class.

    def start(self, context: Any) -> Drawing:
        """Begin to draw the rows of a batch; a subclass writes it.

        Args:
            context: `Context` with a mask (B, N), True for real positions, or the subclass of
                `Context` that the network reads.
        """
        raise NotImplementedError

    def logits(self, hidden) -> Tensor:
        """Return the logits of the next variable of R positions; a subclass overrides it.

        Scoring and drawing call it for each variable. By default the hidden state is the logits.

        Args:
            hidden: Hidden state of the variable at R positions.

        Returns:
            Logits of its C categories, (R, C); -inf where a category is impossible.
        """
        return hidden.to(log_term_dtype(hidden))

    def next_hidden(self, hidden, x: Tensor) -> tuple[Any, Tensor | None]:
        """Go on from a decided variable to the next one of the same positions.

        A subclass with V > 1 writes it. `next_variable` calls it for each variable but the last.

        Args:
            hidden: Hidden state of the decided variable at R positions.
            x: Category of the variable at each of them, (R,) long.

        Returns:
            The hidden state of the next variable, at the positions that have one. And which of the
            R positions these are: indices (R',) long, or None if all. At the other positions all
            later variables are omitted.
        """
        raise NotImplementedError

    def settle(self, hidden, x: Tensor) -> Tensor:
        """Correct drawn categories by rules that hold in `draw` but not in the distribution.

        `draw` calls it for each variable; `log_prob` and `invert` do not. A subclass may override
        it. By default there are no such rules.

        Args:
            hidden: Hidden state of the variable at R positions.
            x: Categories that were drawn for it, (R,) long.

        Returns:
            The categories to use, (R,) long.
        """
        return x

    def steps(self, x: Tensor, context: Any) -> Iterator[Step]:
        """Yield the steps of all first variables, for scoring known categories.

        Their hidden states depend on the categories of earlier positions alone. By default the
        positions come one after the other, as in drawing. A network that computes the hidden states
        of all positions in one pass overrides it, and yields a single step.

        Args:
            x: Categories of all variables, (B, N, V) long; arbitrary at padding.
            context: `Context` with a mask (B, N), True for real positions.

        Yields:
            Steps of variable 0. Together they have every real position once, and no padding.
        """
        drawing = self.start(context)
        while (step := drawing.step()) is not None:
            yield step
            drawing.update(x[step.rows, step.positions])

    def next_variable(self, step: Step, x: Tensor) -> Step | None:
        """Go on to the next variable of the positions of a step, where it is not omitted.

        Args:
            step: Variable of M positions.
            x: Its categories, (M,) long.

        Returns:
            The next variable, of those of the positions that have one; None if none has.
        """
        if step.variable + 1 == len(self.cardinalities):
            return None
        hidden, kept = self.next_hidden(step.hidden, x)
        rows, positions = step.rows, step.positions
        if kept is not None:
            rows, positions = rows[kept], positions[kept]
        return Step(rows, positions, hidden, step.variable + 1) if len(rows) else None

    def log_probs(self, x: Tensor, context: Context) -> Tensor:
        """Return the log-probability of each category, given those decided before it.

        Args:
            x: Categories, (B, N, V) long; any value at masked positions.
            context: Context with a mask (B, N).

        Returns:
            (B, N, V) nats. An omitted variable has 0 if its category is 0, else -inf. Masked
            positions have 0.
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
        """Return the log-probability of each row: `log_probs`, summed over positions and variables.

        Args:
            x: Categories, (B, N, V) long; any value at masked positions.
            context: Context with a mask (B, N).

        Returns:
            (B,) nats.
        """
        return sum_log_term(self.log_probs(x, context))

    def intervals(self, x: Tensor, context: Context) -> Intervals:
        """Return, for each category x, the interval of the numbers u for which `draw` draws it.

        It is as wide as the probability of the category, given the variables decided before. It
        begins where the interval of category x - 1 ends: it is [F(x - 1), F(x)), where F are the
        cumulative sums of the probabilities.

        Args:
            x: Categories, (B, N, V) long; any value at masked positions.
            context: Context with a mask (B, N).

        Returns:
            The intervals, (B, N, V). Those at masked positions have no meaning.
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
        """Draw categories from uniform numbers: those whose intervals contain u.

        A subclass may correct each category once it is drawn, see `settle`.

        Args:
            u: Uniform random numbers in (0, 1), (B, N, V) float64.
            context: Mask (B, N), and a temperature, by which logits are divided: below 1 it
                sharpens the conditional probabilities.

        Returns:
            Categories, (B, N, V) long; 0 where masked.
        """
        return self._draw(u, context)

    @torch.no_grad()
    def invert(self, u: Tensor, context: Context) -> tuple[Tensor, Intervals]:
        """Find the categories whose intervals contain u, and these intervals.

        Unlike `draw`, it does not call `settle`, which could choose a category whose interval does
        not contain u.

        Args:
            u: Numbers in (0, 1), (B, N, V) float64.
            context: Mask (B, N) and temperature, as for `draw`.

        Returns:
            Categories, (B, N, V) long, and their intervals, (B, N, V). Categories, `lower` and
            `log_width` are 0 where masked or omitted.
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

    Rows leave the batch once they are complete. For this they are sorted by length, the longest
    first: the rows that have a next position are then always the first ones of the batch. In its
    own `step`, the drawing calls `advance`. If this is True, it computes the hidden state of the
    first `count` rows at `position`, and returns `make_step(hidden)`; else it returns None.

    Args:
        mask: Real positions, (B, N) bool; those of each row come first.

    Attributes:
        rows: Index in the mask of each row, the longest row first, (B,) long.
        sizes: Number of real positions of each row, in the order of `rows`, (B,) long.
        counts: For each of the N positions, the number of rows that have it.
        length: Number of positions N.
        position: Number of the current position, -1 before the first one.
        count: Number of rows that have the current position: the first `count` of `rows`.
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
        """Go on to the next position, at the first call to position 0.

        Returns:
            True if at least one row has a real position there; False once all rows are complete.
        """
        self.position += 1
        self.count = self.counts[self.position] if self.position < self.length else 0
        return self.count > 0

    def make_step(self, hidden: Any) -> Step:
        """Build the `Step` of variable 0 at the current position, in the `count` rows that have it.

        Args:
            hidden: Hidden state of the position in these rows, the longest row first.

        Returns:
            The step, as `Drawing.step` returns it.
        """
        rows = self.rows[: self.count]
        return Step(rows, torch.full_like(rows, self.position), hidden)

    def select(self, rows: Tensor) -> Tensor:
        """Replace the batch by some of its rows, in place; for resampling while drawing.

        Args:
            rows: Numbers of the rows to keep, (R,) long; they may repeat. Numbers are those of the
                mask, or after an earlier call the indices in its argument.

        Returns:
            Index for tensors of the caller whose first axis is in the order of the attribute
            `rows`, such as hidden states: `tensor[index]` is in the new order of it. (R,) long.

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
    """Draw categories from uniform numbers: find the category x with F(x - 1) <= u < F(x).

    F are the cumulative sums of the probabilities of C categories.

    Args:
        logits: Unnormalised log-probabilities, (M, C).
        u: Numbers in (0, 1), (M,) float64.

    Returns:
        Categories x, (M,) long; lower ends F(x - 1) of their intervals, (M,) float64; logarithms of
        the widths, (M,) float64, which are the log-probabilities of the categories.
    """
    log_all = logits.log_softmax(-1).double()
    upper = log_all.exp().cumsum(-1)
    # The last possible category takes what rounding leaves.
    category = (u[:, None].minimum(upper[:, -1:] * (1 - LEAST)) >= upper).sum(-1, keepdim=True)
    log_width = log_all.gather(-1, category)[:, 0]
    return category[:, 0], upper.gather(-1, category)[:, 0] - log_width.exp(), log_width
