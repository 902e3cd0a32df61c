"""Autoregressive distributions over categories, and the flow that has the same probabilities.

Data are categories x (B, N, V): B rows of a batch, N *positions* in each row (for graphs, the
nodes), and V *variables* at each position (what describes a node).

    log p(x) = sum over the variables of log p(variable | variables decided before)

`AutoregressiveNetwork` is this distribution. A *step* decides some positions together, given all
earlier steps; the variables of a position are decided one after the other. What the network knows
when it decides a variable is its *hidden state*. Scoring goes through the steps of known categories
(`AutoregressiveNetwork.steps`; a network that evaluates all positions in one pass yields one step),
drawing through those of a `State` (`one_by_one`). Both then go through the variables of the step
(`variables`), compute the logits of each, and look its category up, or draw it. With three
positions of two variables, drawing is

    for step in network.one_by_one(x, context):             # positions 0, 1 and 2 of all rows
        for place, hidden in network.variables(step, x):    # variables 0 and 1 at each
            x[place] = categories drawn with network.logits(hidden)

A variable that an earlier one determines is *omitted*: a node that closes no first ring has no
second one. `AutoregressiveNetwork.embed` says which these are; they are 0 with probability 1.
Padding is 0, too, and in no step; only the mask tells it from category 0.

`AutoregressiveCoupling` is a bijection of latents with these probabilities. Each category owns an
*interval* of the unit line (`IntervalEncoding`), which the coupling stretches to the conditional
probability of the category. Its log-det is therefore the log-probability of the categories, up to
constants, so that neither scoring nor drawing has to evaluate it: they use the network alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from graphcnf.categorical.categorical_flow import Bound, CategoricalFlow
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

    The categories of a step in x (B, N, V) are `x[step.rows, step.positions]`, (M, V).

    Attributes:
        rows: Row of each position in the batch, (M,) long.
        positions: Number of each position in its row, (M,) long.
        hidden: Hidden state of their first variable, in a form that only the network knows.
    """

    rows: Tensor
    positions: Tensor
    hidden: Any


class State(Protocol):
    """Partly drawn rows of a batch, and the order of their positions.

    `step` and `update` are called in turn. A state may postpone work from `update` to the next
    `step`, which knows the rows that go on.
    """

    def step(self) -> Step | None:
        """Go on to the positions that are decided next, and return them; None once all are decided.

        `update` must have been called for the step before.
        """

    def update(self, x: Tensor) -> None:
        """Receive the categories x (M, V) drawn for the M positions of the last `Step`."""


Place = tuple[Tensor, Tensor, int]
"""Where a variable of R positions stands in x (B, N, V): rows (R,), positions (R,), its number."""


class Intervals(NamedTuple):
    """Intervals of the unit line, one for each variable.

    Attributes:
        lower: Lower ends, (B, N, V) float64.
        log_width: Logarithms of the widths, (B, N, V).
    """

    lower: Tensor
    log_width: Tensor


class AutoregressiveNetwork(nn.Module):
    """Autoregressive distribution over categories x (B, N, V), given by a network.

    Subclasses write `logits` and `embed`, which lead through the variables of a position, and
    `start`, which leads through the positions in drawing; most write `steps` as well, to evaluate
    all positions at once in scoring. From these follow `log_prob`, `log_probs`, `intervals`, `draw`
    and `invert`. A hidden state may be any object; with V = 1 it may be the logits themselves,
    which the default of `logits` returns.

    Attributes:
        cardinalities: Number of categories of each of the V variables of a position.
    """

    cardinalities: Sequence[int]

    # A context is a `Context`, or the subclass of it that the network reads. It cannot be typed so:
    # a method that takes only a subclass would not fit that of the base class.

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
            (R',) long, or None if all have. At the others, all later variables are omitted.
        """
        raise NotImplementedError

    def settle(self, hidden, x: Tensor) -> Tensor:
        """Change drawn categories by rules that hold in `draw` but not in the distribution.

        By default there are no such rules.

        Args:
            hidden: Hidden state of R positions.
            x: Categories that were drawn for them, (R,) long.

        Returns:
            The categories to use, (R,) long.
        """
        return x

    def steps(self, x: Tensor, context: Any) -> Iterator[Step]:
        """Yield the steps that score known categories, each given the categories of earlier steps.

        By default they are those of drawing, `one_by_one`. A network that knows the hidden states
        of all positions after one pass yields one step.

        Args:
            x: Categories of all variables, (B, N, V); arbitrary at padding.
            context: `Context` with a mask (B, N), True for real positions.

        Yields:
            The steps; together they have every real position once, and no padding.
        """
        return self.one_by_one(x, context)

    def one_by_one(self, x: Tensor, context: Any) -> Iterator[Step]:
        """Yield the steps of drawing.

        Args:
            x: Categories (B, N, V). Those of a step are read when the next step is asked for: until
                then the caller may draw them, and write them to x.
            context: `Context` with a mask (B, N), True for real positions.

        Yields:
            The steps, one after the other.
        """
        state = self.start(context)
        while (step := state.step()) is not None:
            yield step
            state.update(x[step.rows, step.positions])

    def variables(self, step: Step, x: Tensor) -> Iterator[tuple[Place, Any]]:
        """Yield the variables of a step, in the order in which they are decided.

        Args:
            step: The step.
            x: Categories (B, N, V). Those of a variable are read when the next variable is asked
                for: until then the caller may draw them, and write them to x.

        Yields:
            For each variable, its places in x at the R positions that have it, and their hidden
            state.
        """
        rows = step.rows
        positions = step.positions
        hidden = step.hidden
        last = len(self.cardinalities) - 1
        for variable in range(last + 1):
            place = (rows, positions, variable)
            yield place, hidden
            if variable == last:
                return
            hidden, kept = self.embed(hidden, x[place])
            if kept is not None:
                rows = rows[kept]
                positions = positions[kept]
                if not len(rows):
                    return

    def log_probs(self, x: Tensor, context: Context) -> Tensor:
        """Return the log-probability of each category, given those before it.

        Args:
            x: Categories, (B, N, V) long; any value at masked positions.
            context: Context with a mask (B, N).

        Returns:
            (B, N, V) nats, 0 at masked positions.
        """
        log_p = self._log_probs_if_omitted(x)
        for step in self.steps(x, context):
            for place, hidden in self.variables(step, x):
                log_all = self.logits(hidden).log_softmax(-1)
                log_p[place] = log_all.gather(-1, x[place][:, None])[:, 0]
        return masked(log_p, context.mask)

    def _log_probs_if_omitted(self, x: Tensor) -> Tensor:
        """Return the log-probabilities of omitted variables: 0 is certain, all else impossible."""
        dtype = log_term_dtype(next(self.parameters()))
        return torch.where(x == 0, 0.0, -math.inf).to(dtype)

    def log_prob(self, x: Tensor, context: Context) -> Tensor:
        """Return the log-probability of each row of categories, (B,) nats; see `log_probs`."""
        return sum_log_term(self.log_probs(x, context))

    def intervals(self, x: Tensor, context: Context) -> Intervals:
        """Return the interval of numbers u from which `draw` makes each category x.

        It is as wide as the probability of the category, given those before it, and begins where
        the interval of the category before ends: [F(x - 1), F(x)) with the cumulative sums F.

        Args:
            x: Categories, (B, N, V) long; any value at masked positions.
            context: Context with a mask (B, N).

        Returns:
            The intervals; what they are at masked positions means nothing.
        """
        log_width = self._log_probs_if_omitted(x)
        lower = torch.zeros_like(log_width, dtype=torch.float64)
        for step in self.steps(x, context):
            for place, hidden in self.variables(step, x):
                log_all = self.logits(hidden).log_softmax(-1)
                p = log_all.double().exp()  # In float64, a rare category keeps its interval.
                category = x[place][:, None]
                log_width[place] = log_all.gather(-1, category)[:, 0]
                lower[place] = (p.cumsum(-1) - p).gather(-1, category)[:, 0]
        return Intervals(lower, log_width)

    @torch.no_grad()
    def draw(self, u: Tensor, context: Context) -> Tensor:
        """Draw categories: those whose intervals contain u, unless `settle` changes them.

        Args:
            u: Uniform random numbers, (B, N, V) float64.
            context: Mask (B, N), and a temperature, which below 1 sharpens the conditional
                probabilities.

        Returns:
            Categories, (B, N, V) long; 0 where masked.
        """
        x = torch.zeros_like(u, dtype=torch.long)
        for step in self.one_by_one(x, context):
            for place, hidden in self.variables(step, x):
                category, _, _ = find_interval(self.logits(hidden) / context.temperature, u[place])
                x[place] = self.settle(hidden, category)
        return x

    @torch.no_grad()
    def invert(self, u: Tensor, context: Context) -> tuple[Tensor, Intervals]:
        """Find the categories whose intervals contain u, and these intervals.

        Unlike `draw`, it does not call `settle`, which could choose a category whose interval does
        not contain u.

        Args:
            u: Numbers in (0, 1), (B, N, V) float64.
            context: Mask (B, N) and temperature, as for `draw`.

        Returns:
            Categories, (B, N, V) long, and intervals; both 0 where masked or omitted.
        """
        x = torch.zeros_like(u, dtype=torch.long)
        lower = torch.zeros_like(u)
        log_width = torch.zeros_like(u)
        for step in self.one_by_one(x, context):
            for place, hidden in self.variables(step, x):
                logits = self.logits(hidden) / context.temperature
                x[place], lower[place], log_width[place] = find_interval(logits, u[place])
        return x, Intervals(lower, log_width)


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
        position: Number of the current position, -1 before the first one.
        count: Number of rows that have the current position.
    """

    def __init__(self, mask: Tensor):
        self.length = mask.shape[1]
        self.position = -1
        self.count = 0
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

    def next(self) -> bool:
        """Go on to the next position; return False if no row has one."""
        self.position += 1
        self.count = self.counts[self.position] if self.position < self.length else 0
        return self.count > 0

    def step(self, hidden: Any) -> Step:
        """Return the step of the current position in the `count` rows that have it.

        Args:
            hidden: Hidden state of the position in these rows, the longest row first.
        """
        rows = self.rows[: self.count]
        return Step(rows, torch.full_like(rows, self.position), hidden)

    def select(self, rows: Tensor) -> Tensor:
        """Replace the batch by some of its rows, which may repeat.

        Args:
            rows: Numbers of the rows in the previous mask, (R,) long.

        Returns:
            For each new row, its index in the previous order of `rows`, (R,) long.
        """
        previous = self.rows.argsort()[rows]
        return previous[self._sort(self.sizes[previous])]


AnyNetwork = TypeVar("AnyNetwork", bound=AutoregressiveNetwork)


class AutoregressiveCoupling(Bijection, Generic[AnyNetwork]):
    """Bijection that makes the interval of each category as wide as its conditional probability.

    A latent z lies in the interval of its category x: u = sigmoid(z) >= lower(x). It becomes
    logit(u') with u' = F(x - 1) + p(x) (u - lower(x)) / width(x), where p are the conditional
    probabilities of the categories and F their cumulative sums: a monotone piecewise linear map of
    the unit line (Mueller et al. 2019, arXiv 1808.03856).

    Args:
        network: Distribution of the categories.
    """

    tempers = True

    def __init__(self, network: AnyNetwork):
        super().__init__()
        self.network: AnyNetwork = network

    def categories(self, z: Tensor, mask: Tensor) -> Tensor:
        """Return the categories that latents of `IntervalEncoding` stand for.

        Args:
            z: Latents, (B, N, V).
            mask: True for real positions, (B, N) bool, or real variables, (B, N, V) bool.

        Returns:
            (B, N, V) long; 0 where masked.
        """
        return masked(interval_category(torch.sigmoid(z), self.network.cardinalities), mask)

    def forward(self, z, context=Context()):
        """Map latents of `IntervalEncoding` to base latents.

        Args:
            z: Latents, (B, N, V).
            context: Its mask is (B, N); or (B, N, V) if the network omits the masked variables.

        Returns:
            Base latents (B, N, V), 0 where masked, and the log-det, (B,) nats.
        """
        context = with_mask(z, context)
        z = masked(z, context.mask)
        category = self.categories(z, context.mask)
        source = self._intervals_of_encoding(category)
        target = self.network.intervals(category, _with_mask_of_positions(context))
        return _map_intervals(z, source, target, expand(context.mask, z))

    @torch.no_grad()
    def inverse_and_logdet(self, z, context=Context()):
        """Map base latents to latents of `IntervalEncoding`, step by step and without gradients.

        Args:
            z: Base latents, (B, N, V).
            context: Its mask is that of `forward`. A temperature below 1 sharpens the conditional
                probabilities.

        Returns:
            Latents (B, N, V), 0 where masked, and the log-det of this map, (B,) nats.
        """
        context = with_mask(z, context)
        z = masked(z, context.mask)
        u = torch.sigmoid(z.double())
        category, source = self.network.invert(u, _with_mask_of_positions(context))
        target = self._intervals_of_encoding(category)
        # Far enough from the ends that rounding to the type of z keeps the category.
        margin = 1e-9 if z.dtype == torch.float64 else 1e-5
        return _map_intervals(z, source, target, expand(context.mask, z), margin)

    def _intervals_of_encoding(self, category: Tensor) -> Intervals:
        """Return the intervals of `IntervalEncoding` of categories (B, N, V) long."""
        lower, width = interval_bounds(category, self.network.cardinalities)
        return Intervals(lower, width.log())


def _map_intervals(
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
    category = (u[:, None].minimum(upper[:, -1:] * (1 - 1e-15)) >= upper).sum(-1, keepdim=True)
    log_width = log_all.gather(-1, category)[:, 0]
    return category[:, 0], upper.gather(-1, category)[:, 0] - log_width.exp(), log_width


def _with_mask_of_positions(context: Context) -> Context:
    """Return the context with a mask of positions (B, N), real if one of their variables is."""
    return context if context.mask.dim() == 2 else replace(context, mask=context.mask.any(-1))


class AutoregressiveFlow(CategoricalFlow, Generic[AnyNetwork]):
    """Categorical flow with an autoregressive coupling, whose probabilities are exact.

    `encode` and `decode` lead to base latents and back. The bound is not drawn through the latents:
    it is the log-probability of the network, which is what the flow gives up to the margins of the
    intervals of `IntervalEncoding`.

    Args:
        network: Distribution of the categories.
        single: True if positions have one variable and categories are (B, N) instead of (B, N, V).
    """

    encoding: IntervalEncoding
    transform: AutoregressiveCoupling[AnyNetwork]

    def __init__(self, network: AnyNetwork, *, single: bool = False):
        cardinalities = network.cardinalities
        encoding = IntervalEncoding(cardinalities[0] if single else cardinalities)
        super().__init__(encoding, AutoregressiveCoupling(network))

    @property
    def network(self) -> AnyNetwork:
        """The distribution of the categories."""
        return self.transform.network

    def bound(self, x, context: Context = Context()) -> Bound:
        """Return log p(x), (B,) nats, of the network as a bound that is exact.

        Arguments and errors are those of `CategoricalFlow.bound`.
        """
        self.encoding.check(x, context.mask)
        x = x.long()
        if self.encoding.single:
            x = x.unsqueeze(-1)
        return Bound.exact(self.network.log_prob(x, with_mask(x, context)))

    @evaluated
    def decode(self, z, context: Context = Context(), *, sample: bool = False) -> Tensor:
        """Decode base latents to categories, with the rules of `AutoregressiveNetwork.settle`.

        The coupling is not inverted: `draw` finds the categories whose intervals contain the
        latents directly.

        Args:
            z: Base latents, (B, N, V).
            context: Mask (B, N), and a temperature, which below 1 sharpens the conditional
                probabilities.
            sample: Without effect, since p(x|z) is 0 or 1.

        Returns:
            Categories (B, N, V) long, (B, N) for a single variable; 0 where masked.

        Raises:
            UserError: if the temperature is out of range.
        """
        check_temperature(context.temperature)
        context = with_mask(z, context)
        u = torch.sigmoid(masked(z, context.mask).double())
        x = self.transform.network.draw(u, context)
        return x[..., 0] if self.encoding.single else x
