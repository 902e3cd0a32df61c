"""Autoregressive flows over categories: the interface of their networks, and the coupling.

A network gives the probabilities of categories step by step. A step decides the categories of some
positions together, given all earlier steps. `Network.steps` yields the steps of known categories
(teacher forcing); a network that evaluates all positions in one pass yields one step. For drawing,
`Network.start` returns a `State`, which goes on step by step.

The coupling is a bijection with these probabilities. Each category owns an interval of the unit
line (`IntervalEncoding`). A monotone piecewise linear map (Mueller et al. 2019, arXiv 1808.03856)
with knots at the ends of the intervals makes each interval as wide as the conditional probability
of its category. The log-det is the log-probability of the category, up to constants.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from graphcnf.categorical.encoding import (
    IntervalEncoding,
    expand,
    interval_bounds,
    interval_category,
)
from graphcnf.categorical.flow import CategoricalFlow
from graphcnf.flows.transform import (
    Bijection,
    Context,
    log_term_dtype,
    masked,
    sum_log_term,
    with_mask,
)
from graphcnf.limits import check_temperature


@dataclass
class Step:
    """M positions that are decided together, with the hidden state of their first variable."""

    at: tuple  # index of the positions into categories (B, N, V)
    hidden: Any


class State(Protocol):
    """Partly drawn rows of a batch, and the order of their positions.

    A state for particles also has `take(rows)`, which replaces the batch by the given rows of it;
    rows may repeat.
    """

    def step(self) -> Step | None:
        """Return the positions that are decided next; None once all are."""

    def update(self, x: Tensor) -> None:
        """Append the categories x (M, V) of the current step."""


class Network(nn.Module):
    """Network that gives the probabilities of each step's categories, given all earlier steps.

    The V variables of a position are decided one after the other: `logits` returns the logits of
    the next variable, and `embed` adds its category to the hidden state. With V = 1 the hidden
    state may be the logits themselves, which the default of `logits` returns.

    Attributes:
        cardinalities: Number of categories of each of the V variables of a position.
    """

    cardinalities: Sequence[int]

    def start(self, context: Any) -> State:
        """Return the state before the first step; `context` is a `Context` with a mask (B, N)."""
        raise NotImplementedError

    def logits(self, hidden) -> Tensor:
        """Return logits (M, C) of the next variable; -inf where a category is impossible."""
        return hidden.to(log_term_dtype(hidden))

    def embed(self, hidden, x: Tensor) -> tuple[Any, Tensor | None]:
        """Add the decided variable x (M,) to `hidden`; never called after the last variable.

        Returns the hidden state of the next variable, and the rows (R,) of `hidden` that have a
        next variable, None if all have. In the other rows all later variables are 0 for certain.
        """
        raise NotImplementedError

    def settle(self, hidden, x: Tensor) -> Tensor:
        """Apply rules of sampling, which the density does not include, to drawn categories (M,)."""
        return x

    def steps(self, x: Tensor, context: Any) -> Iterator[Step]:
        """Yield the steps of known categories x (B, N, V); by default, as in drawing."""
        state = self.start(context)
        while (step := state.step()) is not None:
            yield step
            state.update(x[step.at])


class InSequence:
    """Order of drawing from the first position to the last, where complete rows leave the batch.

    The real positions of each row of the mask (B, N) come first. `rows` (B,) are the numbers of the
    rows, the longest row first; `sizes` (B,) are the lengths of the rows in this order.
    """

    def __init__(self, mask: Tensor):
        self.length, self.number = mask.shape[1], -1
        self._sort(mask.sum(1))

    def _sort(self, sizes: Tensor) -> Tensor:
        self.sizes, self.rows = sizes.sort(descending=True, stable=True)
        number = torch.arange(self.length, device=sizes.device)
        self.counts = (sizes[:, None] > number).sum(0).tolist()
        return self.rows

    def next(self) -> tuple[Tensor, int] | None:
        """Return the rows that have a next position, and its number; None after the last one."""
        self.number += 1
        if self.number == self.length or not self.counts[self.number]:
            return None
        return self.rows[: self.counts[self.number]], self.number

    def take(self, rows: Tensor) -> Tensor:
        """Replace the batch by the given rows (R,); return their places in the previous order."""
        place = self.rows.argsort()[rows]
        return place[self._sort(self.sizes[place])]


class AutoregressiveCoupling(Bijection):
    """Bijection that makes the interval of each category as wide as its conditional probability.

    A latent z lies in the interval of its category x: u = sigmoid(z) >= lower(x). It becomes
    logit(u') with u' = F(x - 1) + p(x) (u - lower(x)) / width(x), where p are the conditional
    probabilities of the categories and F their cumulative sums.
    """

    tempers = True
    network: Any  # a `Network`; callers use methods of its own class

    def __init__(self, network: Network):
        super().__init__()
        self.network = network

    def categories(self, z: Tensor, mask: Tensor) -> Tensor:
        """Return the categories (B, N, V) that latents encode; the cardinality where masked."""
        known = self.network.cardinalities
        absent = torch.tensor(known, device=z.device)
        return torch.where(expand(mask, z), interval_category(torch.sigmoid(z), known), absent)

    def _decide(self, hidden, choose: Callable, temperature: float = 1.0) -> None:
        """Decide the variables of the M positions of a step one after the other.

        `choose(at, logits, hidden)` returns the categories (R,) of one variable at R positions,
        given its logits (R, C); `at` is the index of these entries into (M, V). Entries for which
        `choose` is not called are 0.
        """
        rows: Any = slice(None)
        last = len(self.network.cardinalities) - 1
        for k in range(last + 1):
            x = choose((rows, k), self.network.logits(hidden) / temperature, hidden)
            if k < last:
                hidden, kept = self.network.embed(hidden, x)
                if kept is not None:
                    rows = kept if isinstance(rows, slice) else rows[kept]
                    if not len(rows):
                        return

    def log_probs(self, x: Tensor, context: Context) -> Tensor:
        """Return the conditional log-probabilities of categories x, (B, N, V) nats.

        Entries of masked positions are arbitrary. A variable that is absent has the value
        `cardinality`, one more than the last category.
        """
        return self._given(x, context)[0]

    def log_prob(self, x: Tensor, context: Context) -> Tensor:
        """Return the log-probability of categories x (B, N, V), (B,) nats."""
        context = with_mask(x, context)
        return sum_log_term(self._given(x, context)[0], expand(context.mask, x))

    def ends(self, x: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Return lower ends and widths (B, N, V) float64 of the output intervals of categories."""
        log_p, lower = self._given(x, context, ends=True)
        return lower, log_p.double().exp()

    def _given(self, x: Tensor, context: Context, ends: bool = False) -> tuple[Tensor, Tensor]:
        """Return `log_probs` and, if `ends`, lower ends of the output intervals, (B, N, V) each."""
        dtype = log_term_dtype(next(self.network.parameters()))
        all_log_p = torch.zeros(x.shape, dtype=dtype, device=x.device)
        all_lower = torch.zeros_like(all_log_p, dtype=torch.float64)
        for step in self.network.steps(x, _of_positions(context)):
            own = x[step.at]
            # For variables that are not decided: 0 for certain, anything else is impossible.
            log_p = torch.where(own == 0, 0.0, -math.inf).to(dtype)
            lower = torch.zeros(own.shape, dtype=torch.float64, device=x.device)

            def choose(at, logits, hidden, own=own, log_p=log_p, lower=lower):
                value = own[at].clamp(max=logits.shape[-1] - 1)
                log_all = logits.log_softmax(-1)
                log_p[at] = log_all.gather(-1, value[:, None])[:, 0]
                if ends:
                    # In float64: a rare category keeps its interval.
                    p = log_all.double().exp()
                    lower[at] = (p.cumsum(-1) - p).gather(-1, value[:, None])[:, 0]
                return own[at]

            self._decide(step.hidden, choose)
            all_log_p[step.at] = log_p
            if ends:
                all_lower[step.at] = lower
        return all_log_p, all_lower

    @torch.no_grad()
    def draw(self, z: Tensor, context: Context) -> Tensor:
        """Return the categories of base latents z (B, N, V); the cardinality where masked."""
        return self._drawn(z, with_mask(z, context), ends=False)[0]

    def _drawn(self, z: Tensor, context: Context, ends: bool) -> tuple[Tensor, ...]:
        """Draw categories; return them and, if `ends`, lower ends and log-widths, (B, N, V)."""
        mask, each = context.mask, context.mask.dim() == 3
        absent = torch.tensor(self.network.cardinalities, device=z.device)
        u = torch.sigmoid(z.double())
        x = absent.expand(z.shape).clone()
        all_lower, all_log_p = torch.zeros_like(u), torch.zeros_like(u)
        state = self.network.start(_of_positions(context))
        while (step := state.step()) is not None:
            own_u, here = u[step.at], mask[step.at] if each else mask
            own = torch.zeros(own_u.shape, dtype=torch.long, device=z.device)
            lower, log_p = torch.zeros_like(own_u), torch.zeros_like(own_u)

            def choose(at, logits, hidden, own=own, u=own_u, here=here, lower=lower, log_p=log_p):
                value, below, log_width = locate(logits, u[at])
                if ends:
                    lower[at], log_p[at] = below, log_width
                else:  # Without `ends`: an inverse must not apply rules that `forward` lacks.
                    value = self.network.settle(hidden, value)
                if each:
                    value = torch.where(here[at], value, logits.shape[-1])
                own[at] = value
                return value

            self._decide(step.hidden, choose, context.temperature)
            x[step.at] = own
            if ends:
                all_lower[step.at], all_log_p[step.at] = lower, log_p
            state.update(own)
        return x, all_lower, all_log_p

    def forward(self, x, context=Context()):
        """Map latents (B, N, V); the mask is (B, N), or (B, N, V) to mask single variables."""
        context = with_mask(x, context)
        mask = expand(context.mask, x)
        x = masked(x, mask)
        category = self.categories(x, mask)
        log_p, lower = self._given(category, context, ends=True)
        return self._moved(x, category, None, (lower, log_p.double()), mask, 0.0)

    @torch.no_grad()
    def inverse_and_logdet(self, z, context=Context()):
        """Invert `forward`, without gradients; a temperature below 1 sharpens the probabilities."""
        context = with_mask(z, context)
        z = masked(z, context.mask)
        category, *drawn = self._drawn(z, context, ends=True)
        # Far enough from the ends that rounding to the type of z keeps the category.
        margin = 1e-9 if z.dtype == torch.float64 else 1e-5
        return self._moved(z, category, drawn, None, expand(context.mask, z), margin)

    def _moved(self, z, category, source, target, mask, margin) -> tuple[Tensor, Tensor]:
        """Map sigmoid(z) linearly from `source` to `target` intervals; return logits and log-det.

        Intervals are lower ends and log-widths, None for those of the encoding. `margin` is the
        share of a source interval that is kept free at either end.
        """
        lower, width = interval_bounds(category, self.network.cardinalities)
        own = lower, width.log()
        (lower, log_width), (new_lower, new_log_width) = source or own, target or own
        u = torch.sigmoid(z.double())
        share = ((u - lower) / log_width.exp()).clamp(margin, 1 - margin)
        moved = (new_lower + new_log_width.exp() * share).clamp(1e-15, 1 - 1e-15)
        log_det = new_log_width - log_width + torch.log(u) + torch.log1p(-u)
        log_det = log_det - torch.log(moved) - torch.log1p(-moved)
        out = torch.where(mask, torch.logit(moved), 0.0).to(z.dtype)
        return out, sum_log_term(log_det, mask).to(log_term_dtype(z))


def locate(logits: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the categories (M,) whose intervals contain u (M,), their lower ends and log-widths.

    The intervals are as wide as the probabilities, given by `logits` (M, C).
    """
    log_all = logits.log_softmax(-1).double()
    upper = log_all.exp().cumsum(-1)
    # The last possible category takes what rounding leaves.
    value = (u[:, None].minimum(upper[:, -1:] * (1 - 1e-15)) >= upper).sum(-1, keepdim=True)
    log_width = log_all.gather(-1, value)[:, 0]
    return value[:, 0], upper.gather(-1, value)[:, 0] - log_width.exp(), log_width


def _of_positions(context: Context) -> Context:
    """Return the context with the mask reduced to positions (B, N)."""
    mask = context.mask
    return context if mask.dim() == 2 else replace(context, mask=mask.any(-1))


class AutoregressiveFlow(CategoricalFlow):
    """Categorical flow with an autoregressive coupling.

    The bound on log p(x) is exact up to the margins of the intervals of `IntervalEncoding`. With
    `single`, a position has one variable, and categories are (B, N) instead of (B, N, V).
    """

    encoding: IntervalEncoding
    flow: AutoregressiveCoupling

    def __init__(self, network: Network, *, single: bool = False):
        cardinalities = network.cardinalities
        encoding = IntervalEncoding(cardinalities[0] if single else cardinalities)
        super().__init__(encoding, AutoregressiveCoupling(network))

    @property
    def network(self) -> Any:
        """Network of the coupling."""
        return self.flow.network

    def decode(self, z, context: Context = Context(), *, sample: bool = False) -> Tensor:
        """Decode base latents to categories, see `CategoricalFlow.decode`; `sample` is ignored."""
        check_temperature(context.temperature)
        x = masked(self.flow.draw(masked(z, context.mask), context), context.mask)
        return x[..., 0] if self.encoding.single else x
