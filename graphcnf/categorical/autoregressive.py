"""Autoregressive flows over categories: the interface of their networks, and the coupling.

Data are categories x (B, N, V): B rows of a batch, N *positions* in each row (for graphs, the
nodes), and V *variables* at each position (what describes a node).

A network gives the probabilities of categories step by step. A *step* decides some positions
together, given all earlier steps; the variables of a position are decided one after the other. What
the network knows when it decides a variable is its *hidden state*. `Network.steps` yields the steps
of known categories (teacher forcing); a network that evaluates all positions in one pass yields one
step. For drawing, `Network.start` returns a `State`, which goes on step by step.

Two kinds of variables are not decided by probabilities, and have a fixed value in x:

- A *masked* variable is padding, or does not exist at a real position. Its value is the number of
  its categories, which is no category (these are 0 to the number minus 1): a network can tell it
  from all categories, and embed it like one more.
- An *omitted* variable is left out by `Network.embed`, since an earlier variable determines it: a
  node that closes no first ring has no second one. Its value is 0, with probability 1.

The coupling is a bijection with these probabilities. Each category owns an *interval* of the unit
line (`IntervalEncoding`). A monotone piecewise linear map (Mueller et al. 2019, arXiv 1808.03856)
with knots at the ends of the intervals makes each interval as wide as the conditional probability
of its category. The log-det is the log-probability of the category, up to constants.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from graphcnf.categorical.categorical_flow import CategoricalFlow
from graphcnf.categorical.encoding import (
    IntervalEncoding,
    expand,
    interval_bounds,
    interval_category,
)
from graphcnf.flows.transform import (
    Bijection,
    Context,
    log_term_dtype,
    masked,
    sum_log_term,
    with_mask,
)
from graphcnf.limits import check_temperature
from graphcnf.torch_state import evaluated


@dataclass
class Step:
    """M positions that are decided together.

    Attributes:
        at: Index of the positions: `x[step.at]` of categories x (B, N, V) is (M, V).
        hidden: Hidden state of their first variable, in a form that only the network knows.
    """

    at: tuple[Any, ...]
    hidden: Any


class State(Protocol):
    """Partly drawn rows of a batch, and the order of their positions.

    `step` and `update` are called in turn. A state for particles also has `take(rows)`, which
    replaces the batch by rows of it: indices (R,) long, which may repeat.
    """

    def step(self) -> Step | None:
        """Go on to the positions that are decided next, and return them; None once all are decided.

        `update` must have been called for the step before.
        """

    def update(self, x: Tensor) -> None:
        """Append the categories x (M, V) that were drawn for the positions of the last step."""


class Network(nn.Module):
    """Network that gives the probabilities of each step's categories, given all earlier steps.

    The V variables of a position are decided one after the other: `logits` returns the logits of
    the next variable, and `embed` adds its category to the hidden state. A hidden state may be any
    object; with V = 1 it may be the logits themselves, which the default of `logits` returns.

    Attributes:
        cardinalities: Number of categories of each of the V variables of a position.
    """

    cardinalities: Sequence[int]

    def start(self, context: Any) -> State:
        """Return the state before the first step of drawing.

        Args:
            context: `Context` with a mask (B, N), True for real positions.
        """
        raise NotImplementedError

    def logits(self, hidden) -> Tensor:
        """Return logits (R, C) of the next variable; -inf where a category is impossible.

        Args:
            hidden: Hidden state of R positions.
        """
        return hidden.to(log_term_dtype(hidden))

    def embed(self, hidden, x: Tensor) -> tuple[Any, Tensor | None]:
        """Add a decided variable to the hidden state; never called after the last variable.

        Args:
            hidden: Hidden state of R positions.
            x: Category of the variable at each of them, (R,) long.

        Returns:
            The hidden state of the next variable, and which of the R positions have it: indices
            (R',) long, or None if all have. At the others, all later variables are omitted: they
            are 0 for certain.
        """
        raise NotImplementedError

    def settle(self, hidden, x: Tensor) -> Tensor:
        """Change drawn categories by rules that hold in sampling but not in the density.

        By default there are no such rules.

        Args:
            hidden: Hidden state of R positions.
            x: Categories that were drawn for them, (R,) long.

        Returns:
            The categories to use, (R,) long.
        """
        return x

    def steps(self, x: Tensor, context: Any) -> Iterator[Step]:
        """Yield the steps of known categories x (B, N, V): each is given the earlier categories.

        Steps hold real positions only. By default, the state of `start` is stepped as in drawing,
        and updated with `x`.
        """
        state = self.start(context)
        while (step := state.step()) is not None:
            yield step
            state.update(x[step.at])


class InSequence:
    """Order of drawing from the first position to the last, where complete rows leave the batch.

    Rows are sorted by length, the longest first, so that those with a next position are the first
    ones of the batch.

    Args:
        mask: Real positions, (B, N) bool; those of each row come first.

    Attributes:
        rows: Numbers of the rows in the mask, the longest row first, (B,) long.
        sizes: Lengths of the rows in this order, (B,) long.
        counts: For each position, the number of rows that have it.
        length: Number of positions N.
        number: The current position, -1 before the first one.
    """

    def __init__(self, mask: Tensor):
        self.length, self.number = mask.shape[1], -1
        self._sort(mask.sum(1))

    def _sort(self, sizes: Tensor) -> Tensor:
        """Set `rows`, `sizes` and `counts` for rows of the lengths `sizes` (B,).

        Returns:
            Indices into `sizes`, the longest row first, (B,) long.
        """
        self.sizes, self.rows = sizes.sort(descending=True, stable=True)
        number = torch.arange(self.length, device=sizes.device)
        self.counts = (sizes[:, None] > number).sum(0).tolist()
        return self.rows

    def next(self) -> tuple[Tensor, int] | None:
        """Go on to the next position.

        Returns:
            Rows and column of the position in the mask (B, N): the numbers of the M rows that have
            the position, (M,) long, and its number. None after the last position.
        """
        self.number += 1
        if self.number == self.length or not self.counts[self.number]:
            return None
        return self.rows[: self.counts[self.number]], self.number

    def take(self, rows: Tensor) -> Tensor:
        """Replace the batch by some of its rows, which may repeat.

        Args:
            rows: Numbers of the rows in the previous mask, (R,) long.

        Returns:
            For each new row, its index in the previous order of `rows`, (R,) long.
        """
        previous = self.rows.argsort()[rows]
        return previous[self._sort(self.sizes[previous])]


class Intervals(NamedTuple):
    """Intervals of the unit line, one for each variable.

    Attributes:
        lower: Lower ends, (B, N, V).
        log_width: Logarithms of the widths, (B, N, V).
    """

    lower: Tensor
    log_width: Tensor


class _Variable(NamedTuple):
    """The variable of a step that is decided next, at those R of its M positions that have it.

    Attributes:
        hidden: Hidden state of the R positions.
        at: Index of the R entries into an array (M, V): which of the M positions, and the number of
            the variable. The positions are `slice(None)` while all have the variable, which saves
            copies, and indices (R,) long from the first variable on that some lack.
    """

    hidden: Any
    at: tuple[slice | Tensor, int] = (slice(None), 0)


class AutoregressiveCoupling(Bijection):
    """Bijection that makes the interval of each category as wide as its conditional probability.

    A latent z lies in the interval of its category x: u = sigmoid(z) >= lower(x). It becomes
    logit(u') with u' = F(x - 1) + p(x) (u - lower(x)) / width(x), where p are the conditional
    probabilities of the categories and F their cumulative sums. The *output interval* of a category
    is the one from F(x - 1) to F(x).

    Attributes:
        network: A `Network`, typed as Any since callers use methods of its own class.
    """

    tempers = True
    network: Any

    def __init__(self, network: Network):
        super().__init__()
        self.network = network

    def categories(self, z: Tensor, mask: Tensor) -> Tensor:
        """Return the categories that latents of `IntervalEncoding` stand for.

        Args:
            z: Latents, (B, N, V).
            mask: True for real positions, (B, N) bool, or real variables, (B, N, V) bool.

        Returns:
            (B, N, V) long; where masked, the number of categories of the variable, see above.
        """
        known = self.network.cardinalities
        absent = torch.tensor(known, device=z.device)
        return torch.where(expand(mask, z), interval_category(torch.sigmoid(z), known), absent)

    def _next(self, variable: _Variable, x: Tensor) -> _Variable | None:
        """Return the variable that is decided after another one.

        Args:
            variable: The variable decided last, at R positions.
            x: Its categories, (R,) long.

        Returns:
            The next variable, at those of the R positions that have it; None after the last
            variable, or if no position has the next one.
        """
        rows, k = variable.at
        if k == len(self.network.cardinalities) - 1:
            return None
        hidden, kept = self.network.embed(variable.hidden, x)
        if kept is not None:
            rows = kept if isinstance(rows, slice) else rows[kept]
            if not len(rows):
                return None
        return _Variable(hidden, (rows, k + 1))

    def log_probs(self, x: Tensor, context: Context) -> Tensor:
        """Return the log-probability of each category, given those before it.

        Args:
            x: Categories, (B, N, V) long; any value at masked positions. A variable that is masked
                at a real position is the number of its categories, one more than the last one.
            context: Context with a mask.

        Returns:
            (B, N, V) nats; 0 at masked positions, which are in no step.
        """
        return self._given(x, context).log_width

    def log_prob(self, x: Tensor, context: Context) -> Tensor:
        """Return the log-probability of each row of categories.

        Args:
            x: Categories, (B, N, V) long.
            context: Its mask says which positions, (B, N), or variables, (B, N, V), are real; the
                others do not count. No mask: all are.

        Returns:
            (B,) nats.
        """
        context = with_mask(x, context)
        return sum_log_term(self._given(x, context).log_width, expand(context.mask, x))

    def ends(self, x: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Return the interval of sigmoid(base latent) in which each category x is drawn.

        The interval is as wide as the conditional probability of the category. A uniform number in
        it is the sigmoid of a base latent that `draw` turns into this category, given the
        categories before.

        Args:
            x: Categories of V variables at N positions, (B, N, V) long. Where there is none
                (masked), x is the number of categories of the variable.
            context: Context with a mask.

        Returns:
            Lower ends and widths in [0, 1], (B, N, V) float64 each.
        """
        lower, log_width = self._given(x, context, ends=True)
        return lower, log_width.double().exp()

    def _given(self, x: Tensor, context: Context, ends: bool = False) -> Intervals:
        """Return the output intervals of known categories.

        Args:
            x: Categories, (B, N, V) long.
            context: Context with a mask.
            ends: True to compute the lower ends, which scoring does not need.

        Returns:
            The intervals (B, N, V): `log_width` is the log-probability of each category given those
            before, in the type of the network; `lower` is float64, and 0 unless `ends`.
        """
        dtype = log_term_dtype(next(self.network.parameters()))
        all_log_p = torch.zeros(x.shape, dtype=dtype, device=x.device)
        all_lower = torch.zeros_like(all_log_p, dtype=torch.float64)
        for step in self.network.steps(x, _of_positions(context)):
            known = x[step.at]
            # For omitted variables: 0 for certain, anything else is impossible.
            log_p = torch.where(known == 0, 0.0, -math.inf).to(dtype)
            lower = torch.zeros(known.shape, dtype=torch.float64, device=x.device)
            variable: _Variable | None = _Variable(step.hidden)
            while variable is not None:
                at, log_all = variable.at, self.network.logits(variable.hidden).log_softmax(-1)
                # A masked variable is no category: any will do, since its term is masked later.
                value = known[at].clamp(max=log_all.shape[-1] - 1)[:, None]
                log_p[at] = log_all.gather(-1, value)[:, 0]
                if ends:
                    # In float64: a rare category keeps its interval.
                    p = log_all.double().exp()
                    lower[at] = (p.cumsum(-1) - p).gather(-1, value)[:, 0]
                variable = self._next(variable, known[at])
            all_log_p[step.at], all_lower[step.at] = log_p, lower
        return Intervals(all_lower, all_log_p)

    @torch.no_grad()
    def draw(self, z: Tensor, context: Context) -> Tensor:
        """Turn base latents into categories, step by step, with the rules of `Network.settle`.

        Args:
            z: Base latents, (B, N, V).
            context: Mask, and a temperature, which below 1 sharpens the conditional probabilities.

        Returns:
            Categories, (B, N, V) long; where masked, the number of categories of the variable.
        """
        return self._drawn(z, with_mask(z, context), inverts=False)[0]

    def _drawn(self, z: Tensor, context: Context, inverts: bool) -> tuple[Tensor, Intervals]:
        """Draw categories: those whose output intervals contain sigmoid(z), step by step.

        Args:
            z: Base latents, (B, N, V).
            context: Context with a mask.
            inverts: True to invert `forward`, which takes two things: the output intervals are
                needed, and the rules of sampling (`Network.settle`), which `forward` does not know,
                must not change a category. False to sample, by these rules.

        Returns:
            Categories (B, N, V) long, which are the number of categories of the variable where
            masked, and their output intervals, which are 0 unless `inverts`.
        """
        mask, u = context.mask, torch.sigmoid(z.double())
        x = torch.tensor(self.network.cardinalities, device=z.device).expand(z.shape).clone()
        all_lower, all_log_p = torch.zeros_like(u), torch.zeros_like(u)
        state = self.network.start(_of_positions(context))
        while (step := state.step()) is not None:
            # A mask (B, N) has no masked variables at real positions, and steps have no others.
            u_here, real = u[step.at], mask[step.at] if mask.dim() == 3 else None
            drawn = torch.zeros(u_here.shape, dtype=torch.long, device=z.device)
            lower, log_p = torch.zeros_like(u_here), torch.zeros_like(u_here)
            variable: _Variable | None = _Variable(step.hidden)
            while variable is not None:
                at, logits = variable.at, self.network.logits(variable.hidden) / context.temperature
                value, lower_end, log_width = find_interval(logits, u_here[at])
                if inverts:
                    lower[at], log_p[at] = lower_end, log_width
                else:
                    value = self.network.settle(variable.hidden, value)
                if real is not None:
                    value = torch.where(real[at], value, logits.shape[-1])
                drawn[at] = value
                variable = self._next(variable, value)
            x[step.at] = drawn
            if inverts:
                all_lower[step.at], all_log_p[step.at] = lower, log_p
            state.update(drawn)
        return x, Intervals(all_lower, all_log_p)

    def forward(self, x, context=Context()):
        """Map latents of `IntervalEncoding` to base latents.

        Args:
            x: Latents, (B, N, V).
            context: Its mask is (B, N), or (B, N, V) to mask single variables.

        Returns:
            Base latents (B, N, V), 0 where masked, and the log-det, (B,) nats.
        """
        context = with_mask(x, context)
        mask = expand(context.mask, x)
        x = masked(x, mask)
        category = self.categories(x, mask)
        return _mapped(x, self._encoded(category), self._given(category, context, True), mask)

    @torch.no_grad()
    def inverse_and_logdet(self, z, context=Context()):
        """Map base latents to latents of `IntervalEncoding`, step by step and without gradients.

        Args:
            z: Base latents, (B, N, V).
            context: Its mask is (B, N), or (B, N, V) to mask single variables. A temperature below
                1 sharpens the conditional probabilities.

        Returns:
            Latents (B, N, V), 0 where masked, and the log-det of this map, (B,) nats.
        """
        context = with_mask(z, context)
        z = masked(z, context.mask)
        category, drawn = self._drawn(z, context, inverts=True)
        # Far enough from the ends that rounding to the type of z keeps the category.
        margin = 1e-9 if z.dtype == torch.float64 else 1e-5  # of the width, see `_mapped`
        return _mapped(z, drawn, self._encoded(category), expand(context.mask, z), margin)

    def _encoded(self, category: Tensor) -> Intervals:
        """Return the intervals of `IntervalEncoding` of categories (B, N, V) long."""
        lower, width = interval_bounds(category, self.network.cardinalities)
        return Intervals(lower, width.log())


def _mapped(
    z: Tensor, source: Intervals, target: Intervals, mask: Tensor, margin: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Map sigmoid(z) linearly from one interval to another.

    Args:
        z: Latents, (B, N, V).
        source: Intervals that hold sigmoid(z).
        target: Intervals to map them to.
        mask: Real entries, (B, N, V) bool.
        margin: Share of a source interval that is kept free at either end.

    Returns:
        Latents (B, N, V) whose sigmoid lies in `target`, 0 where masked, and the log-det of the map
        from latents to latents, (B,) nats.
    """
    u = torch.sigmoid(z.double())
    share = ((u - source.lower) / source.log_width.exp()).clamp(margin, 1 - margin)
    moved = (target.lower + target.log_width.double().exp() * share).clamp(1e-15, 1 - 1e-15)
    # du'/du, du/dz = u (1 - u), dz'/du' = 1 / (u' (1 - u'))
    log_det = target.log_width - source.log_width + torch.log(u) + torch.log1p(-u)
    log_det = log_det - torch.log(moved) - torch.log1p(-moved)
    out = torch.where(mask, torch.logit(moved), 0.0).to(z.dtype)
    return out, sum_log_term(log_det, mask).to(log_term_dtype(z))


def find_interval(logits: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Find the categories whose intervals contain u, if intervals are as wide as probabilities.

    Args:
        logits: Unnormalised log-probabilities, (M, C).
        u: Numbers in (0, 1), (M,) float64.

    Returns:
        Categories (M,) long, lower ends (M,) float64 and log-widths (M,) float64, which are the
        log-probabilities of the categories.
    """
    log_all = logits.log_softmax(-1).double()
    upper = log_all.exp().cumsum(-1)
    # The last possible category takes what rounding leaves.
    value = (u[:, None].minimum(upper[:, -1:] * (1 - 1e-15)) >= upper).sum(-1, keepdim=True)
    log_width = log_all.gather(-1, value)[:, 0]
    return value[:, 0], upper.gather(-1, value)[:, 0] - log_width.exp(), log_width


def _of_positions(context: Context) -> Context:
    """Return the context with a mask of positions (B, N), real if one of their variables is."""
    return context if context.mask.dim() == 2 else replace(context, mask=context.mask.any(-1))


class AutoregressiveFlow(CategoricalFlow):
    """Categorical flow with an autoregressive coupling.

    The bound on log p(x) is exact up to the margins of the intervals of `IntervalEncoding`.

    Args:
        network: Network of the conditional probabilities.
        single: True if positions have one variable and categories are (B, N) instead of (B, N, V).
    """

    encoding: IntervalEncoding
    transform: AutoregressiveCoupling

    def __init__(self, network: Network, *, single: bool = False):
        cardinalities = network.cardinalities
        encoding = IntervalEncoding(cardinalities[0] if single else cardinalities)
        super().__init__(encoding, AutoregressiveCoupling(network))

    @property
    def network(self) -> Any:
        """Network of the coupling."""
        return self.transform.network

    @evaluated
    def decode(self, z, context: Context = Context(), *, sample: bool = False) -> Tensor:
        """Decode base latents to categories, with the rules of `Network.settle`.

        Args:
            z: Base latents, (B, N, V).
            context: Mask, and a temperature, which below 1 sharpens the conditional probabilities.
            sample: Without effect, since p(x|z) is 0 or 1.

        Returns:
            Categories (B, N, V) long, (B, N) for a single variable; 0 where masked.

        Raises:
            UserError: if the temperature is out of range.
        """
        check_temperature(context.temperature)
        x = masked(self.transform.draw(masked(z, context.mask), context), context.mask)
        return x[..., 0] if self.encoding.single else x
