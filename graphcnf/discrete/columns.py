"""Categorical normalizing flow over the columns of a table, in any order of the columns.

A row of the table has N *columns*, each with categories of its own; the *slot* of a category is its
number when the categories of all columns are numbered through, 0 to S - 1. A row is scored and
drawn one column per *step*; the *known* columns are those of earlier steps. Since each row may have
an order of its own (order-agnostic), any columns can be given, and any can be left out. The density
mixes *counts* of categories with a *regression* (both in `graphcnf.discrete.counts`) and with
neural networks, the *perceptrons*.

A category may stand for a bin of numbers. The *place* u of a number in its bin is between 0 and 1;
category k with place u is written as the float k + u. The density of a place is 1 + s (2 u - 1),
with a *slope* s.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.categorical.autoregressive import (
    AutoregressiveFlow,
    AutoregressiveNetwork,
    Step,
    find_interval,
)
from graphcnf.categorical.categorical_flow import check_rows
from graphcnf.discrete.contexts import GAIN
from graphcnf.discrete.counts import (
    LARGEST_PAIRS,
    ColumnCounts,
    Counts,
    normalised,
    weighted_sum,
)
from graphcnf.discrete.rows import Rows, build_network, loss_of
from graphcnf.flows.transform import Context, with_mask
from graphcnf.limits import check_temperature
from graphcnf.pretrained import Pretrained, keep_arguments
from graphcnf.torch_state import evaluated

PRIOR = 20
"""Rows with the weight of all columns together that are added to those which weigh a column."""

ITERATIONS = 50
"""Steps of expectation and maximisation."""

SHARES = (0.001, 0.999)
"""Least and largest weight in a mixture."""

CHUNK = 1024
"""Rows that are scored at a time to weigh a mixture."""

FREE = 0.25
"""Share of the training steps in which the perceptron without masks is trained, too."""

SUBSETS = 4
"""Random sets of known columns for each row by which the perceptron without masks is weighed."""


@dataclass(frozen=True)
class ColumnContext(Context):
    """What a flow over the columns of B rows is told besides the rows: mask, order, what is known.

    Columns that the mask leaves out are marginalised, and must come last in the order.

    Attributes:
        order: The columns in the order of their steps, (B, N) long; None for the network's order.
        allowed: Categories that may be drawn, (B, N, C) bool, with C the largest number of
            categories of a column; None for all.
        event: Lowest and highest place that may be drawn in each category, (N, C, 2) float64: 0 and
            1 for a whole category, two equal places for none of it; None for all. It is not part of
            densities: rows are drawn as if each column were conditioned given those before it.
        places: Known places in categories that are bins, (B, N), nan for an unknown one; None if
            all are unknown.
    """

    order: Tensor | None = None
    allowed: Tensor | None = None
    event: Tensor | None = None
    places: Tensor | None = None

    @classmethod
    def of(cls, context: Context, network: ColumnMLP) -> ColumnContext:
        """Return the context with the mask and the order of all columns of a network.

        Args:
            context: A `ColumnContext`, or one with a mask (B, M) alone. If M is less than the
                number of columns N, the last columns are masked.
            network: The network, whose order is the default.

        Returns:
            A `ColumnContext` whose `mask` and `order` are (B, N).
        """
        own = context if isinstance(context, cls) else cls(context.mask)
        further = range(own.mask.shape[1], network.columns)
        mask, order = F.pad(own.mask, (0, len(further))), own.order
        if order is None:
            return replace(own, mask=mask, order=network.ordering(mask))
        last = torch.tensor(further, dtype=torch.long, device=mask.device)
        return replace(own, mask=mask, order=torch.cat([order, last.expand(len(mask), -1)], 1))


class Perceptron(nn.Module):
    """Logits of the categories of columns from one hidden layer over the known categories.

        a_c + r_i l_c + sum_h v_ch relu(b_h + sum_j (w_jh + t_j s_jh)) + sum_j d_jc

    for the category with slot c, where j are the slots of the known categories, and t_j is the
    place in category j if that is a bin, counted from the middle. d are *direct* weights. l is the
    log-probability by counts, which each column i of categories c trusts as far as r_i, at first 1.

    Args:
        owner: Column of each slot, (S,) long.
        width: Number of hidden units.
        rank: Place of each column in an order, (N,) long, for a masked autoencoder for distribution
            estimation (MADE; Germain et al. 2015, arXiv 1502.03509): weights are masked so that
            the logits of each column depend on the columns before it only, and one pass gives those
            of all columns. None for no masks: every logit depends on all categories that the caller
            says are known (orderless NADE; Uria et al. 2014, arXiv 1310.1757).
        placed: Slots of the categories that are bins, (K,) long; None if there are none.

    Attributes:
        share: Weight of this perceptron in a mixture with the regression, by column, (N,).
        owner: Column of each slot, (S,) long.
        seen: 1 where the hidden unit depends on the slot, else 0, (S, width).
        told: 1 where the slot's logit depends on the hidden unit, else 0, (S, width).
        earlier: 1 where the second slot's logit depends on the first slot, else 0, (S, S).
    """

    share: Tensor
    owner: Tensor
    seen: Tensor
    told: Tensor
    earlier: Tensor
    placed: Tensor | None

    def __init__(self, owner: Tensor, width: int, rank: Tensor | None, placed: Tensor | None):
        super().__init__()
        total, columns = len(owner), int(owner[-1]) + 1
        # Unit u sees the columns of the ranks 0 to u % (N - 1).
        last = torch.arange(width) % max(columns - 1, 1)
        own = owner if rank is None else rank[owner]
        seen, told, earlier = own[:, None] <= last, last < own[:, None], own[:, None] < own
        for name, mask in {"seen": seen, "told": told, "earlier": earlier}.items():
            kept = torch.ones_like(mask) if rank is None else mask
            # As floats, whose products are faster than those with bool.
            self.register_buffer(name, kept.float(), persistent=False)
        self.enter = nn.Parameter(torch.empty(total, width).uniform_(-1, 1) * total**-0.5)
        self.bias = nn.Parameter(torch.empty(width).uniform_(-1, 1) * total**-0.5)
        self.leave = nn.Parameter(torch.zeros(total, width))
        self.offset = nn.Parameter(torch.zeros(total))
        self.trust = nn.Parameter(torch.ones(columns))
        self.register_buffer("owner", owner.clone(), persistent=False)
        paired = total if total <= LARGEST_PAIRS else 0
        self.direct = nn.Parameter(torch.zeros(paired, paired))
        self.register_buffer("share", torch.ones(columns))
        self.register_buffer("placed", placed, persistent=False)
        if placed is not None:
            self.slope = nn.Parameter(torch.empty(total, width).uniform_(-1, 1) * total**-0.5)
            self.tilt = nn.Parameter(torch.zeros(total, width))

    def hidden(self, number: Tensor, known: Tensor, shift: Tensor) -> Tensor:
        """Return the hidden units.

        Args:
            number: Slots of the categories of B rows, (B, N) long.
            known: 1 for known categories, else 0, (B, N).
            shift: Places in the known categories, counted from the middle, else 0, (B, N).

        Returns:
            (B, width).
        """
        h = self.bias + weighted_sum(self.enter * self.seen, number, known)
        if self.placed is not None:
            h = h + weighted_sum(self.slope * self.seen, number, known * shift)
        return F.relu(h)

    def forward(
        self, h: Tensor, start: Tensor, number: Tensor, known: Tensor, slots: slice = slice(None)
    ) -> Tensor:
        """Return the logits of categories.

        Args:
            h: Hidden units of B rows, (B, width).
            start: Log-probabilities by counts, (B, C) nats.
            number: Slots of the categories of the rows, (B, N) long.
            known: 1 for known categories, else 0, (B, N).
            slots: The C slots whose logits are wanted; all by default.

        Returns:
            (B, C), not normalised: log-probabilities up to a number for each column.
        """
        logits = F.linear(h, self.leave[slots] * self.told[slots], self.offset[slots])
        logits = logits + start * self.trust[self.owner[slots]]
        if self.direct.numel():
            direct = self.direct[:, slots] * self.earlier[:, slots]
            logits = logits + weighted_sum(direct, number, known)
        return logits

    def tilts(self, h: Tensor, slots: slice | None = None) -> Tensor:
        """Return the slope s of the density 1 + s (2 u - 1) of a place u, for categories.

        Args:
            h: Hidden units of B rows, (B, width).
            slots: The C slots whose slopes are wanted; None for all.

        Returns:
            (B, C); arbitrary for a category that is no bin.
        """
        if self.placed is None:
            return h.new_zeros(1).expand(len(h), len(self.offset[slots or slice(None)]))
        chosen: Any = self.placed if slots is None else slots
        found = 0.999 * torch.tanh(F.linear(h, self.tilt[chosen] * self.told[chosen]))
        if slots is None:
            found = found.new_zeros(len(h), len(self.tilt)).index_copy(1, chosen, found)
        return found


def mixture(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    """Return the log-density of a mixture, log(share exp(first) + (1 - share) exp(second)).

    Args:
        first: Log-densities of one part, nats, of any shape.
        second: Log-densities of the other part, nats, of the same shape.
        share: Weight of the first part, in (0, 1), of a shape that broadcasts.

    Returns:
        Log-densities of the mixture, nats, of the shape of `first`.
    """
    return torch.logaddexp(share.log() + first, torch.log1p(-share) + second)


def best_share(gain: Tensor, counts: Tensor, prior: Tensor | None = None) -> Tensor:
    """Choose the weight of the first of two densities in their mixture, most likely for data.

    By expectation and maximisation.

    Args:
        gain: Log-probabilities by the first density minus those by the second, (M, N) nats.
        counts: Which of them count, (M, N) bool.
        prior: A common weight of N columns: each gets a weight of its own, as if `PRIOR` further
            rows had the common one. None for one weight of all.

    Returns:
        The weight, a scalar, or the weights of the columns, (N,); within `SHARES`.
    """
    share = gain.new_tensor(0.5) if prior is None else prior.expand(gain.shape[1])
    for _ in range(ITERATIONS):
        taken = torch.sigmoid(torch.logit(share) + gain) * counts
        if prior is None:
            share = (taken.sum() / counts.sum()).clamp(*SHARES)
        else:
            share = (taken.sum(0) + PRIOR * prior) / (counts.sum(0) + PRIOR)
            share = share.clamp(*SHARES)
    return share


def best_shares(gain: Tensor, counts: Tensor) -> Tensor:
    """Choose the weights of the first of two densities in a mixture for each column.

    Args:
        gain: Log-probabilities by the first density minus those by the second, (M, N) nats.
        counts: Which of them count, (M, N) bool.

    Returns:
        (N,); `SHARES[0]`, the least weight, for all if the mixture gains less than `GAIN` nats over
        the second density, which chance may do.
    """
    share = best_share(gain, counts, best_share(gain, counts))
    gained = mixture(gain, torch.zeros_like(gain), share) * counts
    return share if gained.sum() >= GAIN else torch.full_like(share, SHARES[0])


class ColumnMLP(AutoregressiveNetwork):
    """Probabilities of the categories of a column given any other columns, from counts and MLPs.

    In `order`, that is if the known columns are exactly those before the next one, they are a
    mixture of two densities, with a weight for each column: counts given the parents of the column
    (`Counts`) times a masked autoencoder (`ordered`, see `Perceptron`), and the same counts times
    the ridge regression. One pass gives those of all columns. With any other known columns, counts
    are given the known parents, the perceptron has no masks (`free`), the regression has half of
    its weights in both directions, and every column takes a pass. Untrained, the network is the
    density of counts and regression.

    Where categories are bins of numbers, the place u has the density 1 + s (2 u - 1), with
    -1 < s < 1 from the hidden units (a monotone quadratic map of the uniform density; Mueller et
    al. 2019, arXiv 1808.03856).

    Args:
        cardinalities: Number of categories of each column.
        parts: Number of different places in each category, by slot: 1 if the category is no bin, 0
            if any place is possible; None if no category is a bin.
        counts: The "order" of the columns, and "parents", "factors" and "sizes", arguments of
            `ColumnCounts`.
        width: Hidden units of each perceptron.

    Attributes:
        slot: Slot of each category of each column, (N, C) long.
        possible: Which categories each column has, (N, C) bool.
        order: The columns in the order of the counts and the regression, (N,) long.
        rank: Place of each column in this order, (N,) long.
        tree: Pointwise mutual information of the counts, to which the direct weights of `free` are
            added, (S, S).
        weights: Weights of the regression, (S, S).
        parts: The argument `parts`, (S,) long.

    Raises:
        ValueError: if an argument is out of range.
    """

    slot: Tensor
    possible: Tensor
    order: Tensor
    rank: Tensor
    tree: Tensor
    weights: Tensor
    parts: Tensor

    def __init__(
        self,
        cardinalities: Sequence[int],
        *,
        counts: Mapping[str, Any],
        parts: Sequence[int] | None = None,
        width: int = 512,
    ):
        super().__init__()
        known = torch.tensor(cardinalities)
        if not len(known) or known.min() < 1:
            raise ValueError(f"every column needs a category or more, got {list(cardinalities)}")
        order, *own = (counts[name] for name in ("order", "parents", "factors", "sizes"))
        if sorted(order) != list(range(len(known))):
            raise ValueError(f"order must have each of {len(known)} columns once, got {order}")
        self.columns, self.cardinalities, total = len(known), [int(known.max())], int(known.sum())
        self.counts = ColumnCounts(cardinalities, *own)
        number = torch.arange(self.cardinalities[0])
        slot = (known.cumsum(0) - known)[:, None] + number.minimum(known[:, None] - 1)
        self.register_buffer("slot", slot, persistent=False)
        self.register_buffer("possible", number < known[:, None], persistent=False)
        self.register_buffer("order", torch.tensor(order), persistent=False)
        self.register_buffer("rank", self.order.argsort(), persistent=False)
        self.divided = parts is not None
        if parts is not None:
            if len(parts) != total or min(parts) < 0:
                raise ValueError(f"parts must be {total} numbers, at least 0, got {list(parts)}")
            self.register_buffer("parts", torch.tensor(parts), persistent=False)
        owner = self.counts.owner
        placed = (self.parts != 1).nonzero()[:, 0] if self.divided else None
        self.ordered = Perceptron(owner, width, self.rank, placed)
        self.free = Perceptron(owner, width, None, placed)
        self.register_buffer("tree", torch.zeros_like(self.free.direct))
        self.register_buffer("weights", torch.zeros_like(self.free.direct))

    @torch.no_grad()
    def start_from(self, counts: Counts, regression: bool = True) -> None:
        """Copy counts and the weights of their regression into the network, in place.

        Args:
            counts: Counts of the columns that this network was built for.
            regression: True to let the direct weights begin with those of the regression, those
                of `free` with half of them in both directions. In `order` the network is then the
                density of counts and regression.
        """
        self.counts.counts = counts.columns.counts.to(self.order.device)
        if self.tree.numel():
            self.tree.copy_(torch.from_numpy(counts.information))
            self.weights.copy_(torch.from_numpy(counts.weights))
            if regression:
                self.ordered.direct.copy_(self.weights)
                self.free.direct.copy_((self.weights + self.weights.T) / 2)

    def ordering(self, mask: Tensor, level: Tensor | None = None, number: int = 0) -> Tensor:
        """Return the order of the columns of each row: conditions first, marginalised ones last.

        Args:
            mask: Columns that are not marginalised, (B, N) bool.
            level: 0 for columns that are conditions, 1 for those after them, 2 for those after
                these, (B, N) long; None for one level.
            number: Which order the columns otherwise have: 0 for that of the attribute `order`, any
                other number for a random one, the same in every call.

        Returns:
            The columns in order, (B, N) long.
        """
        rank = self.rank
        if number:
            random = np.random.default_rng(number).permutation(self.columns)
            rank = rank[torch.from_numpy(random).to(rank.device)]
        rank = rank + 3 * self.columns * ~mask
        if level is not None:
            rank = rank + self.columns * level
        return rank.argsort(1)

    def inputs(self, x: Tensor, context: ColumnContext, start: Tensor | None = None) -> Inputs:
        """Return what the perceptrons take of rows.

        Args:
            x: Categories, (B, N): integers, or floats k + u, where u is the place of a number in
                bin k; arbitrary where masked.
            context: Mask and orders, as `ColumnContext.of` returns them.
            start: Log-probabilities of all categories by counts in `order`, (B, S) nats; None to
                look them up.

        Returns:
            Categories, slots, places and orders of the B rows.
        """
        assert context.order is not None
        x, place = split(torch.where(context.mask, x, 0))
        column, rank = torch.arange(self.columns, device=x.device), context.order.argsort(1)
        number = self.slot[column, x]
        if not self.divided:
            return Inputs(x, number, torch.zeros_like(place), rank, start)
        parts = self.parts[number]
        middle = ((place * parts).floor() + 0.5) / parts.clamp(min=1)
        shift = torch.where(parts > 1, middle, place) - 0.5
        return Inputs(x, number, torch.where(parts == 1, 0.0, shift), rank, start)

    def from_counts(
        self, rows: Inputs, known: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the probabilities of all categories by counts, and by counts with a perceptron.

        S is the number of categories of all N columns together.

        Args:
            rows: B rows; the order that each has of its own is not used.
            known: Columns that are given, (B, N) bool: the perceptron `free` predicts the others,
                and what is returned for the given ones means nothing. None for the masked
                autoencoder `ordered`, which predicts each column from those before it in `order`.

        Returns:
            Log-probabilities of all categories by counts, (B, S) nats; log-probabilities by counts
            and perceptron, (B, S) nats; and slopes of the density of places, (B, S).
        """
        net, start, rank = self.ordered, rows.start, self.rank[None]
        if known is not None:
            net, start, rank = self.free, None, (~known).long()
        if start is None:
            start = self.counts(rows.x, rank, counted=self.training)
        start = start.to(net.share)
        seen = torch.ones_like(rows.shift, dtype=start.dtype) if known is None else known.to(start)
        h = net.hidden(rows.number, seen, rows.shift)
        logits = net(h, start, rows.number, seen)
        if known is not None and self.tree.numel():
            logits = logits + weighted_sum(self.tree, rows.number, seen)
        return start, normalised(logits, self.counts.owner), net.tilts(h)

    def mixed(
        self,
        log_p: Tensor,
        start: Tensor,
        rows: Inputs,
        slots: slice = slice(None),
        known: Tensor | None = None,
    ) -> Tensor:
        """Mix a perceptron's probabilities with those of counts and regression.

        Args:
            log_p: Log-probabilities by counts and perceptron, (B, C) nats.
            start: Log-probabilities by counts, (B, C) nats.
            rows: The rows.
            slots: The C slots; all by default.
            known: 1 for known columns, else 0, (B, N), if the perceptron is `free`; None if it is
                `ordered`.

        Returns:
            Logarithm of the weighted mean, (B, C) nats.
        """
        share = (self.ordered if known is None else self.free).share
        if (share == 1).all():
            return log_p
        linear = self.regressed(start, rows, slots, known)
        return mixture(log_p, linear, share[self.counts.owner[slots]])

    def regressed(
        self,
        start: Tensor,
        rows: Inputs,
        slots: slice = slice(None),
        known: Tensor | None = None,
    ) -> Tensor:
        """Add the regression to the log-probabilities of C categories by counts.

        Args:
            start: Log-probabilities by counts, (B, C) nats.
            rows: The rows.
            slots: The C slots, of one column or of all.
            known: 1 for known columns, else 0, (B, N); None if they are those before the column in
                `order`.

        Returns:
            (B, C) nats.
        """
        if not self.weights.numel():
            return start
        weights, owner = self.weights[:, slots], self.counts.owner[slots]
        if known is None:
            known = torch.ones_like(rows.shift)
        else:
            weights = (weights + self.weights[slots].T) / 2 + self.tree[:, slots]
        linear = weighted_sum(weights, rows.number, known)
        return normalised(start + linear, owner - owner[0])

    def direct(self, rank: Tensor) -> Tensor:
        """Return which columns one pass of the masked autoencoder `ordered` can predict.

        These are the columns that have the same set of columns before them in the order of the row
        and in `order`, that of the network. Every other one takes a pass of the perceptron `free`.

        Args:
            rank: Place of each column in the order of its row, (B, N) long.

        Returns:
            (B, N) bool, by column; in the network's own order all are True.
        """
        usual, step = self.rank[rank.argsort(1)], torch.arange(self.columns, device=rank.device)
        highest = F.pad(usual.cummax(1).values[:, :-1], (1, 0), value=-1)
        # The columns of p steps are the first p of `order` if the last of them in it is number p.
        return ((highest == step - 1) & (usual == step)).gather(1, rank)

    def column(self, k: int, rows: Inputs) -> tuple[Tensor, Tensor]:
        """Evaluate one column, given the columns before it in the order of each row.

        Args:
            k: Number of the column.
            rows: The rows; arbitrary in this column and those after it.

        Returns:
            Log-probabilities of the C categories of the column, (B, C) nats; and slopes of the
            density of places, (B, C).
        """
        slots = slice(int(self.slot[k, 0]), int(self.slot[k, -1]) + 1)
        log_p = self.free.share.new_zeros(len(rows.x), slots.stop - slots.start)
        tilts = torch.zeros_like(log_p)
        direct = self.direct(rows.rank)[:, k]
        for chosen, net in ((direct, self.ordered), (~direct, self.free)):
            if not chosen.any():
                continue
            part = rows[chosen]
            known = (part.rank < part.rank[:, k : k + 1]).to(log_p.dtype)
            start = self.counts(part.x, part.rank, k).to(log_p.dtype)
            h = net.hidden(part.number, known, part.shift)
            logits = net(h, start, part.number, known, slots)
            if net is self.free and self.tree.numel():
                logits = logits + weighted_sum(self.tree[:, slots], part.number, known)
            seen = known if net is self.free else None
            log_p[chosen] = self.mixed(logits.log_softmax(-1), start, part, slots, seen)
            tilts[chosen] = net.tilts(h, slots)
        return log_p, tilts

    def all_columns(self, x: Tensor, context: ColumnContext) -> tuple[Tensor, Tensor]:
        """Evaluate all columns, each given the columns before it in the order of its row.

        Args:
            x: Categories, (B, N): integers, or floats k + u, where u is the place of a number in
                bin k.
            context: Mask and orders, as `ColumnContext.of` returns them.

        Returns:
            Log-probabilities of all categories, (B, S) nats; and slopes of the density of places,
            (B, S). Those of masked columns mean nothing.
        """
        rows = self.inputs(x, context)
        start, log_p, tilts = self.from_counts(rows)
        log_p = self.mixed(log_p, start, rows)
        others = context.mask & ~self.direct(rows.rank)
        for k in others.any(0).nonzero()[:, 0].tolist():
            chosen, slots = others[:, k].nonzero()[:, 0], self.slot[k].unique()
            own, own_tilts = self.column(k, rows[chosen])
            log_p = log_p.index_put((chosen[:, None], slots), own)
            if self.divided:
                tilts = tilts.index_put((chosen[:, None], slots), own_tilts)
        return log_p, tilts

    def shares_below(
        self, places: Tensor, tilts: Tensor, slots: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the probability that the place in a category is below each of two places.

        Args:
            places: The places u, (..., C, 2).
            tilts: Slopes s of the density 1 + s (2 u - 1) of a place, (M, C).
            slots: Slots of the C categories, (M, C) long; None if they are all slots.

        Returns:
            u + s (u^2 - u) for both, (M, C) each.
        """
        tilts = tilts.double()
        if self.divided:
            parts = self.parts if slots is None else self.parts[slots]
            tilts = torch.where(parts == 1, 0.0, tilts)
        low, high = (u + tilts * (u.square() - u) for u in places.unbind(-1))
        return low, high

    def steps(self, x: Tensor, context: Context) -> Iterator[Step]:
        """Yield all columns in one step.

        Args:
            x: Categories (B, N, 1): integers, or floats k + u, where u is the place of a number in
                bin k.
            context: Mask, orders and allowed categories, see `ColumnContext`.

        Yields:
            A step whose `hidden` are logits (M, C), and slopes of the density of places, (M, C).
        """
        given = ColumnContext.of(context, self)
        mask, x = given.mask, F.pad(x[..., 0], (0, self.columns - x.shape[1]))
        parts = [part[:, self.slot][mask] for part in self.all_columns(x, given)]
        allowed = self.possible.expand(len(mask), -1, -1)
        allowed = allowed if given.allowed is None else allowed & given.allowed
        logits = parts[0].masked_fill(~allowed[mask], -math.inf)
        row, column = mask.nonzero(as_tuple=True)
        yield Step(row, column, (logits, parts[1]))

    def logits(self, hidden) -> Tensor:
        return super().logits(hidden[0])

    def start(self, context: Context) -> ColumnState:
        return ColumnState(self, context)


@dataclass
class Inputs:
    """What the perceptrons take of B rows.

    Attributes:
        x: Categories, (B, N) long.
        number: Their slots, (B, N) long.
        shift: Places in them, counted from the middle, (B, N) float64; 0 where places do not
            matter.
        rank: Place of each column in the order of its row, (B, N) long.
        start: Log-probabilities of all categories by counts in the network's order, (B, S) nats;
            None if they have to be looked up.
    """

    x: Tensor
    number: Tensor
    shift: Tensor
    rank: Tensor
    start: Tensor | None = None

    def __getitem__(self, chosen) -> Inputs:
        """Return some of the rows, without `start`.

        Args:
            chosen: Indices of the rows, or a mask (B,) bool.
        """
        parts = (self.x, self.number, self.shift, self.rank)
        return Inputs(*(part[chosen] for part in parts))


class ColumnState:
    """State of B partly drawn rows.

    Attributes:
        network: The network.
        context: Mask and orders of the rows.
        mask: Columns that are drawn, (B, N) bool.
        number: Number of the current step, -1 before the first one.
        order: The columns of each row in the order of their steps, (B, N) long.
        allowed: Which categories are possible, (B or 1, N, C) bool.
        x: Categories so far, (B, N) float64 k + u, where u is the place of a number in bin k.
        rows: Rows of which the current column is drawn, (M,) long.
    """

    def __init__(self, network: ColumnMLP, context: Context):
        given = ColumnContext.of(context, network)
        assert given.order is not None
        self.network, self.context, self.number = network, given, -1
        self.mask, self.order = given.mask, given.order
        possible = network.possible[None]
        self.allowed = possible if given.allowed is None else possible & given.allowed
        self.x = torch.zeros(self.mask.shape, dtype=torch.float64, device=self.mask.device)

    def step(self) -> Step | None:
        """Advance to the next column of every row, and return what the network says about it.

        Returns:
            A `Step` for the M rows whose next column is not masked; its `hidden` are logits (M, C),
            and slopes of the density of places (M, C). None after the last column.
        """
        self.number += 1
        net, batch = self.network, torch.arange(len(self.mask), device=self.mask.device)
        if self.number == self.mask.shape[1]:
            return None
        column = self.order[:, self.number]
        self.rows = batch[self.mask[batch, column]]
        column, inputs = column[self.rows], net.inputs(self.x, self.context)[self.rows]
        logits = net.free.share.new_full((len(column), net.possible.shape[1]), -math.inf)
        tilts = torch.zeros_like(logits)
        allowed = self.allowed.expand(len(self.mask), -1, -1)[self.rows, column]
        open_ = self._open(allowed, column)
        for k in column[open_].unique().tolist():
            own = open_ & (column == k)
            log_p, slopes = net.column(k, inputs[own])
            logits[own, : log_p.shape[1]] = log_p
            tilts[own, : log_p.shape[1]] = slopes
        logits[~open_] = 0
        return Step(self.rows, column, (logits.masked_fill(~allowed, -math.inf), tilts))

    def _open(self, allowed: Tensor, column: Tensor) -> Tensor:
        """Return which rows have something to decide: a category, or a place in it.

        Args:
            allowed: Categories of the current column that are possible, (M, C) bool.
            column: That column of each row, (M,) long.

        Returns:
            (M,) bool.
        """
        several = allowed.sum(1) > 1
        if not self.network.divided:
            return several
        places = self.context.places
        return torch.ones_like(several) if places is None else places[self.rows, column].isnan()

    def update(self, x: Tensor) -> None:
        """Store what was decided for the columns of the current step.

        Args:
            x: Categories of the M rows of the step, (M, 1): integers, or floats k + u, where u is
                the place of a number in bin k.
        """
        self.x[self.rows, self.order[self.rows, self.number]] = x[:, 0].double()


def split(x: Tensor) -> tuple[Tensor, Tensor]:
    """Split floats k + u into categories and places.

    Args:
        x: Floats k + u, or integers k, whose places are 0.

    Returns:
        Categories k, long, and places u, float64, of the shape of `x`.
    """
    if not x.is_floating_point():
        return x.long(), torch.zeros_like(x, dtype=torch.float64)
    return x.floor().long(), (x - x.floor()).double()


class ColumnFlow(Pretrained, AutoregressiveFlow[ColumnMLP]):
    """Density of the rows of a table of categories, column by column in any order.

    Every order of the columns gives an exact density: the product of the conditional probabilities
    of the categories, each given those before it. Training draws subsets of the columns as well, so
    that any subset can come first: as a condition, or as the columns that remain when the others
    are marginalised. Densities of different orders are similar, not equal; `log_prob` is that of
    one.

    Where categories are bins of numbers, rows are given and drawn as floats k + u; their density
    includes that of the place u in [0, 1). `TableAdapter.log_prob` turns it into the density in
    units of the numbers.

    Args:
        cardinalities: Number of categories of each column.
        **network: Further arguments of `ColumnMLP`, JSON, of which `counts` has no default.

    Attributes:
        config: Arguments of the constructor, JSON.
        metadata: Facts about the data, JSON.

    Raises:
        UserError: if an argument is out of range.
    """

    @keep_arguments
    def __init__(self, cardinalities: list[int], **network: Any):
        super().__init__(build_network(ColumnMLP, self.config), single=True)
        self.metadata: dict[str, Any] = {}

    def start_from(self, counts: Counts, regression: bool = True) -> None:
        """Copy counts and their regression into the network, in place, before it is trained.

        Args:
            counts: The counts, whose shapes `config["counts"]` takes over.
            regression: False to leave the regression at 0; see `ColumnMLP.start_from`.
        """
        self.config["counts"] = counts.arguments
        self.network.start_from(counts, regression)

    def _components(self, batch: Rows, known: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return what is mixed: log-probabilities of each column.

        Args:
            batch: B rows without masked entries.
            known: Known columns, (B, N) bool; what is returned for these means nothing. None for
                each column given those before it in the network's order.

        Returns:
            Log-probabilities by counts and perceptron, (B, N) nats; and by counts and regression,
            (B, N) nats. Both include the density of places.
        """
        network, x = self.network, batch.values
        rows = network.inputs(x, ColumnContext.of(Context(batch.mask), network), batch.start)
        start, log_p, tilts = network.from_counts(rows, known)
        seen = None if known is None else known.to(start)
        linear = network.regressed(start, rows, known=seen)
        return self._own(x, log_p, tilts), self._own(x, linear, tilts)

    @torch.no_grad()
    @evaluated
    def weigh(self, batch: Rows) -> None:
        """Choose the weights of the network's mixtures by rows that it has not learned from.

        Args:
            batch: The rows; those with masked entries are left out, and if none is left, nothing
                changes.
        """
        batch = batch[batch.mask.all(1)]
        parts = [batch[k : k + CHUNK].to(self.device) for k in range(0, len(batch), CHUNK)]
        if not parts:
            return
        gain = torch.cat([torch.sub(*self._components(part)) for part in parts])
        self.network.ordered.share.copy_(best_shares(gain, torch.ones_like(gain)))
        gains, unknown = [], []
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            for part in parts * SUBSETS:
                known = random_columns(part.mask)
                gains.append(torch.sub(*self._components(part, known)))
                unknown.append(~known)
        self.network.free.share.copy_(best_shares(torch.cat(gains), torch.cat(unknown)))

    @evaluated
    def log_prob(self, x: Tensor, context: Context = Context(), *, samples: int = 1) -> Tensor:
        """Return log p(x) of the columns that the mask keeps; the others are marginalised.

        Args:
            x: Categories, (B, N): integers, or floats k + u, where u is the place of a number in
                bin k and the density includes that of u.
            context: A `ColumnContext`, or one with a mask (B, N) alone.
            samples: Ignored, since nothing is drawn.

        Returns:
            (B,) nats: probabilities of categories times densities of places.

        Raises:
            ValueError: if a category is out of range, the mask has another shape than `x`, or it
                leaves a row without columns.
        """
        return self.nats(x, context).sum(1)

    @evaluated
    def nats(self, x: Tensor, context: Context = Context(), event: Tensor | None = None) -> Tensor:
        """Return the log-probability of each column, given those before it in the context's order.

        Args:
            x: Categories, (B, N): integers, or floats k + u, where u is the place of a number in
                bin k and the density includes that of u.
            context: A `ColumnContext`, or one with a mask (B, N) alone.
            event: Lowest and highest place of each category, as in `ColumnContext`, (N, C, 2), in
                which each column is known to be, given those before it; None for anywhere.

        Returns:
            (B, N) nats, 0 where masked.

        Raises:
            ValueError: if a category is out of range, the mask has another shape than `x`, or it
                leaves a row without columns.
        """
        check_rows(context.mask)
        self.encoding.check(split(x)[0], context.mask)
        given, network = ColumnContext.of(with_mask(x, context), self.network), self.network
        log_p, tilts = network.all_columns(x, given)
        nats = self._own(x, log_p, tilts)
        if event is not None:
            low, high = network.shares_below(event[network.possible], tilts)
            mass, owner = log_p.double().exp() * (high - low), network.counts.owner
            inside = mass.new_zeros(given.mask.shape).index_add_(1, owner, mass)
            nats = nats - inside.clamp(max=1).log()
        return torch.where(given.mask, nats, 0)

    def _own(self, x: Tensor, log_p: Tensor, tilts: Tensor) -> Tensor:
        """Pick the log-probability of each column's own category, with the density of its place.

        Args:
            x: Categories, (B, N): integers, or floats k + u; any value where masked.
            log_p: Log-probabilities of all categories, (B, S) nats.
            tilts: Slopes of the density of places, (B, S).

        Returns:
            (B, N) nats.
        """
        network, (category, place) = self.network, split(x)
        column = torch.arange(network.columns, device=x.device)
        number = network.slot[column, category.clamp(0, network.slot.shape[1] - 1)]
        nats = log_p.gather(1, number)
        if not network.divided:
            return nats
        s = torch.where(network.parts[number] == 1, 0.0, tilts.gather(1, number).double())
        return nats + torch.log1p(s * (2 * place - 1)).to(nats.dtype)

    @evaluated
    def conditional(self, x: Tensor, column: int, context: Context) -> Tensor:
        """Return the log-probabilities of all categories of a column, given earlier columns.

        Args:
            x: Categories, (B, N): integers, or floats k + u, where u is the place of a number in
                bin k; arbitrary in this column and in later ones.
            column: Number of the column.
            context: Mask and order of the columns, which says which are earlier.

        Returns:
            (B, C) nats of the C categories of the column.
        """
        rows = self.network.inputs(x, ColumnContext.of(context, self.network))
        return self.network.column(column, rows)[0]

    @evaluated
    def sample(self, count, length=None, context=Context(), *, sample_posterior=False) -> Tensor:
        """Draw rows.

        Args:
            count: Number of rows.
            length: Ignored: all rows have a position per column.
            context: A `ColumnContext` with temperature and generator, or a `Context` for the
                network's order and no conditions.
            sample_posterior: Ignored: there is no posterior to draw from.

        Returns:
            Categories (count, N): long, or if some are bins float64 k + u, where u is the place of
            a number in bin k.
        """
        # In float64: a place in a rare category keeps its digits.
        options = {"mask": context.mask, "generator": context.generator, "dtype": torch.float64}
        z = self.base.sample((count, self.network.columns, 1), device=self.device, **options)
        return self.decode(z, context)

    @evaluated
    @torch.no_grad()
    def decode(self, z: Tensor, context: Context = Context(), *, sample: bool = False) -> Tensor:
        """Map base latents to rows, column by column in the order of the context.

        Args:
            z: Latents with the standard logistic base density, (B, N, 1).
            context: A `ColumnContext`, or one with mask and temperature alone.
            sample: Ignored: latents determine the row.

        Returns:
            Categories (B, N): long, or if some are bins float64 k + u, where u is the place of a
            number in bin k.
        """
        check_temperature(context.temperature)
        context = with_mask(z, context)
        network, u = self.network, torch.sigmoid(z[..., 0].double())
        given = ColumnContext.of(context, network)
        places, event = given.places, given.event
        x, state = torch.zeros_like(u), network.start(context)
        while (step := state.step()) is not None:
            at = step.rows, step.positions
            logits, slots = network.logits(step.hidden), network.slot[step.positions]
            tilts = step.hidden[1].double()
            if event is not None:
                low, high = network.shares_below(event[step.positions], tilts, slots)
                logits = logits + (high - low).log()
            category, lower, log_p = find_interval(logits / context.temperature, u[at])
            place = ((u[at] - lower) / log_p.exp()).clamp(0, 1 - 1e-12)
            chosen = category[:, None]
            if event is not None:
                low, high = (part.gather(1, chosen)[:, 0] for part in (low, high))
                place = low + place * (high - low)
            if network.divided:
                # The place inside u solves u + s (u^2 - u) = share.
                s = torch.where(network.parts[slots] == 1, 0.0, tilts).gather(1, chosen)[:, 0]
                root = ((1 - s).square() + 4 * s * place).sqrt()
                place = (2 * place / (1 - s + root)).clamp(0, 1 - 1e-12)
            if places is not None:
                known = places[at].double()
                place = torch.where(known.isnan(), place, known)
            x[at] = category + place
            state.update(x[at][:, None])
        return x if network.divided else x.floor().long()

    def training_loss(
        self, batch: Rows, *, beta: float = 1.0
    ) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
        """Return the loss of a batch, and metrics.

        In training mode it is that of the network's autoencoder, not of the mixture. In some of
        the steps, the share `FREE`, the perceptron `free` gets gradients as well, without a change
        of the value: those of -log p of the other columns given a random subset of random size,
        weighted so that the mean is -log p in a random order. In evaluation mode the loss is that
        of the density; before `weigh` has been called, of a mixture whose weight is the best one
        for the batch.

        Args:
            batch: The rows.
            beta: Ignored: it is the weight of a decoder, and there is none.

        Returns:
            The negative log-likelihood in nats per column that is not masked, with the density of
            places, a scalar; and the metrics "bits_per_variable" and "bits_per_row", as pairs (sum
            of the bits, number of columns or of rows).
        """
        x, mask, network = batch.values, batch.mask, self.network
        whole = bool(mask.all())
        if not self.training and ((network.ordered.share < 1).any() or not whole):
            return loss_of(self.nats(x, Context(mask)).sum(1), mask)
        if not self.training:
            first, second = self._components(batch)
            share = best_share((first - second).detach(), mask)
            return loss_of(mixture(first, second, share).sum(1), mask)
        rows = network.inputs(x, ColumnContext.of(Context(mask), network), batch.start)
        _, log_p, tilts = network.from_counts(rows)
        learned = mask if whole else mask & network.direct(rows.rank)
        loss, metrics = loss_of((self._own(x, log_p, tilts) * learned).sum(1), mask)
        if torch.rand(()) >= FREE:
            return loss, metrics
        known = random_columns(mask)
        own = self._own(x, *network.from_counts(rows, known)[1:])
        unknown = mask & ~known
        own = own * unknown * mask.sum(1, keepdim=True) / unknown.sum(1, keepdim=True)
        further = -own.sum() / mask.sum()
        return loss + further - further.detach(), metrics


def random_columns(mask: Tensor) -> Tensor:
    """Draw a random subset of the columns of each row, from none to all but one.

    Args:
        mask: Columns to choose from, (B, N) bool, one or more of each row.

    Returns:
        (B, N) bool; all sizes of a subset are equally likely.
    """
    place = (torch.rand(mask.shape, device=mask.device) + ~mask).argsort(1).argsort(1)
    sizes = mask.sum(1, keepdim=True)
    return place < (torch.rand_like(sizes, dtype=torch.float) * sizes).long()
