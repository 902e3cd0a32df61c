"""Categorical normalizing flow over the rows of a table, column by column in any order.

Data are rows of N *columns*, each with *categories* 0, 1, ... of its own.

- A row is scored and drawn one column per *step*, in an *order* of the columns. The *rank* of a
  column is its index in the order. *Known* columns are those of earlier steps.
- Each row may have an order of its own (order-agnostic). So any columns can be given, as those of
  the first steps, and any can be *marginalised*: left out, as those of the last steps.
- The *slot* of a category is its number when the categories of all columns are numbered through, 0
  to S - 1. With columns of 2 and 3 categories, category 1 of the second column has slot 3.
- A category may stand for a *bin* of numbers. The *place* u in [0, 1) says where in the bin a
  number lies; a number in bin k is passed as the float k + u. The density of a place is
  1 + s (2 u - 1), with a *slope* s from -1 to 1. The *parts* of a bin are its number of different
  places, if there are finitely many.
- A column is *ordinal* if its categories are in an order, such as bins. Its *curves* are the
  Legendre polynomials of degrees 1 to 3 of the *position* of a category in it, a number from -1
  for the lower end of the first category to 1 for the upper end of the last; all categories are
  equally wide.
- *Counts* and *regression* (both in `graphcnf.discrete.counts`) give probabilities of a column
  without a neural network.
- *Perceptrons* are neural networks with one hidden layer that add to the logits by counts. The
  perceptron `ordered` has masked weights for one order, the network's own. The perceptron `free`
  takes any set of known columns. Their *direct weights* lead from a known category straight to a
  logit, past the hidden layer.
- The density of a column is a *mixture* of counts with perceptron and counts with regression.
- The *target*, if there is one, is the column that users want to predict. It comes last in the
  network's order, and has a *classifier* (`graphcnf.discrete.classifier`) in place of counts with
  regression.

`ColumnFlow` is the model, `ColumnMLP` its network, `ColumnDrawing` a batch that is being drawn.
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

from graphcnf.categorical.autoregressive import AutoregressiveNetwork, Step, find_interval
from graphcnf.categorical.autoregressive_flow import AutoregressiveFlow
from graphcnf.categorical.categorical_flow import check_rows
from graphcnf.discrete.classifier import Classifier
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

DEGREE = 3
"""Highest degree of the polynomials that are the curves of an ordinal column."""

PRIOR = 20
"""Number of rows as which the common weight of all columns counts when each column gets a weight of
its own, see `best_share`."""

ITERATIONS = 50
"""Steps of expectation and maximisation."""

SHARES = (0.001, 0.999)
"""Least and largest weight in a mixture."""

CHUNK = 1024
"""Rows that are scored at a time to choose the weights of a mixture."""

FREE = 0.25
"""Share of the training steps in which the perceptron without masks is trained, too."""

SUBSETS = 4
"""Number of random sets of known columns for each row by which the weight of the perceptron without
masks is chosen."""


@dataclass(frozen=True)
class ColumnContext(Context):
    """Context of a flow over B rows of N columns: which are drawn, their order, what is given.

    C is the largest number of categories of a column.

    Attributes:
        mask: True for columns that are scored or drawn, (B, N) bool. The others are marginalised,
            and must come last in the order.
        order: Numbers of the columns in the order of their steps, (B, N) long; None for the order
            of the network.
        allowed: True for categories that may be drawn, (B, N, C) bool; None for all. A column with
            a single one is a known column.
        event: Lowest and highest place that may be drawn in each category of each column, (N, C, 2)
            float64: (0, 1) in a category that is allowed as a whole, two equal numbers in one that
            is not allowed. None for no limits. Each column is drawn under this condition, given the
            columns before it; `log_prob` does not read it.
        places: Known places of numbers in their bins, (B, N); nan where a place is unknown. None if
            all are unknown.
    """

    order: Tensor | None = None
    allowed: Tensor | None = None
    event: Tensor | None = None
    places: Tensor | None = None

    @classmethod
    def of(cls, context: Context, network: ColumnMLP) -> ColumnContext:
        """Complete a context: give it a mask and an order, (B, N) each.

        Columns that a mask (B, M) lacks are marginalised. Without an order it is that of the
        network.
        """
        own = context if isinstance(context, cls) else cls(context.mask)
        further = range(own.mask.shape[1], network.columns)
        mask, order = F.pad(own.mask, (0, len(further))), own.order
        if order is None:
            return replace(own, mask=mask, order=network.ordering(mask))
        last = torch.tensor(further, dtype=torch.long, device=mask.device)
        return replace(own, mask=mask, order=torch.cat([order, last.expand(len(mask), -1)], 1))


class Perceptron(nn.Module):
    """Network with one hidden layer: from the known categories of a row to logits of all others.

    The logit of the category with slot c, of column i, is

        a_c + r_i l_c + sum_h v_ch z_h + sum_j d_jc + sum_q f_q(c) (sum_h y_qh z_h + sum_k e_kq g_k)
        with z_h = relu(b_h + sum_j w_jh + sum_k x_kh g_k)

    The sums run over the hidden units h, the slots j of the known categories, the curves k of the
    known columns, and the curves q of column i.

    - l_c is the log-probability by counts, with a weight r_i that begins at 1.
    - d_jc are the direct weights. There are none for more than 1024 slots.
    - f_q(c) is the value of curve q at category c.
    - g_k is the value of curve k at the known category, and in a bin at the place in it.
    - e_kq are direct weights between curves.

    All letters but f, g and l are learned. By the curves, what is learned of a category holds for
    its neighbours.

    Args:
        rank: Rank of each column in an order, (N,) long. Weights are then masked so that logits of
            a column depend only on the columns before it. One pass gives those of all columns. This
            is a masked autoencoder (MADE; Germain et al. 2015, arXiv 1502.03509). None for no
            masks: every logit depends on all categories that the caller says are known (orderless
            NADE; Uria et al. 2014, arXiv 1310.1757).
        placed: Slots of the bins whose slope is learned, (K,) long; None if no category is a bin.
        curves: Values of the R curves at each category, (S, R). There are 3 curves of each ordinal
            column (`DEGREE`); a curve is 0 at the categories of other columns.

    Attributes:
        share: Weight of counts with this perceptron in the mixture with counts and regression, for
            each column, (N,).
        owner: Column of each slot, (S,) long.
        seen: 1 where the hidden unit depends on the slot, else 0, (S, width).
        told: 1 where the slot's logit depends on the hidden unit, else 0, (S, width).
        earlier: 1 where the logit of the second slot depends on the first slot, else 0, (S, S).
        curve_owner: Column of each curve, (R,) long.
        curve_seen: As `seen`, of curves, (R, width).
        curve_told: As `told`, of curves, (R, width).
        curve_earlier: As `earlier`, of curves, (R, R).
    """

    share: Tensor
    owner: Tensor
    seen: Tensor
    told: Tensor
    earlier: Tensor
    placed: Tensor | None
    curves: Tensor
    curve_owner: Tensor
    curve_seen: Tensor
    curve_told: Tensor
    curve_earlier: Tensor

    def __init__(
        self,
        owner: Tensor,
        width: int,
        rank: Tensor | None,
        placed: Tensor | None,
        curves: Tensor,
    ):
        super().__init__()
        total, columns = len(owner), int(owner[-1]) + 1
        # Unit u sees the columns of the ranks 0 to u % (N - 1).
        last = torch.arange(width) % max(columns - 1, 1)
        curve_owner = owner[curves.abs().argmax(0)]
        for name, column in {"": owner, "curve_": curve_owner}.items():
            own = column[:, None] if rank is None else rank[column][:, None]
            masks = {"seen": own <= last, "told": last < own, "earlier": own < own.T}
            for of, mask in masks.items():
                kept = torch.ones_like(mask) if rank is None else mask
                # As floats, whose products are faster than those with bool.
                self.register_buffer(name + of, kept.float(), persistent=False)
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
            self.tilt = nn.Parameter(torch.zeros(total, width))
        count = curves.shape[1]
        self.register_buffer("curves", curves, persistent=False)
        self.register_buffer("curve_owner", curve_owner, persistent=False)
        self.curve_enter = nn.Parameter(torch.empty(count, width).uniform_(-1, 1) * total**-0.5)
        self.curve_leave = nn.Parameter(torch.zeros(count, width))
        self.curve_direct = nn.Parameter(torch.zeros(count, count))

    def hidden(self, rows: Inputs, known: Tensor) -> Tensor:
        """Compute the hidden units (B, width) from known categories of rows and their places."""
        h = self.bias + weighted_sum(self.enter * self.seen, rows.number, known)
        return F.relu(h + self.known_curves(rows, known) @ (self.curve_enter * self.curve_seen))

    def known_curves(self, rows: Inputs, known: Tensor) -> Tensor:
        """Return the values g_k of the curves of B rows, (B, R), 0 for those of unknown columns."""
        return (rows.curves * known[:, self.curve_owner]).to(self.bias)

    def forward(
        self, h: Tensor, start: Tensor, rows: Inputs, known: Tensor, slots: slice = slice(None)
    ) -> Tensor:
        """Return the logits (B, C) of the categories in `slots`, up to a constant for each column.

        `start` are their log-probabilities by counts, (B, C) nats.
        """
        logits = F.linear(h, self.leave[slots] * self.told[slots], self.offset[slots])
        logits = logits + start * self.trust[self.owner[slots]]
        if self.direct.numel():
            direct = self.direct[:, slots] * self.earlier[:, slots]
            logits = logits + weighted_sum(direct, rows.number, known)
        of_curves = F.linear(h, self.curve_leave * self.curve_told)
        direct = self.curve_direct * self.curve_earlier
        of_curves = of_curves + self.known_curves(rows, known) @ direct
        return logits + F.linear(of_curves, self.curves[slots])

    def tilts(self, h: Tensor, slots: slice | None = None) -> Tensor:
        """Return the slope s of the density 1 + s (2 u - 1) of the place u in a category, (B, C).

        Slopes lie between -0.999 and 0.999; arbitrary for a category that is no bin.
        """
        if self.placed is None:
            return h.new_zeros(1).expand(len(h), len(self.offset[slots or slice(None)]))
        chosen: Any = self.placed if slots is None else slots
        found = 0.999 * torch.tanh(F.linear(h, self.tilt[chosen] * self.told[chosen]))
        if slots is None:
            found = found.new_zeros(len(h), len(self.tilt)).index_copy(1, chosen, found)
        return found


def curves_at(position: Tensor) -> Tensor:
    """Return the curves (..., N, 3) at positions in [-1, 1]: Legendre polynomials times sqrt(3)."""
    t = position
    polynomials = torch.stack([t, (3 * t**2 - 1) / 2, (5 * t**3 - 3 * t) / 2], -1)
    return polynomials * 3**0.5  # t has variance 1/3


def mixture(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    """Return the log-density of a mixture, log(share exp(first) + (1 - share) exp(second))."""
    return torch.logaddexp(share.log() + first, torch.log1p(-share) + second)


def best_share(gain: Tensor, counts: Tensor, prior: Tensor | None = None) -> Tensor:
    """Choose the weight of the first of two densities with which their mixture fits data best.

    The best fit has the highest likelihood; expectation-maximisation finds it. Columns with little
    data can be kept near a common weight by `prior`.

    `gain` (M, N) is the log-probability by the first density minus that by the second, nats, used
    where `counts` is True. With a common weight `prior` each column gets a weight of its own, as if
    20 further rows (`PRIOR`) had chosen the common one. Weights lie between 0.001 and 0.999.
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
    """Choose the weight of the first of two densities in a mixture, for each column of a table.

    If the mixture gains fewer than 10 nats (`GAIN`) over the second density, which may be chance,
    all weights (N,) are 0.001. For the arguments see `best_share`.
    """
    share = best_share(gain, counts, best_share(gain, counts))
    gained = mixture(gain, torch.zeros_like(gain), share) * counts
    return share if gained.sum() >= GAIN else torch.full_like(share, SHARES[0])


class ColumnMLP(AutoregressiveNetwork):
    """Network of `ColumnFlow`: probabilities of a column given any other columns.

    They are a mixture of two densities, with a weight for each column: counts with a perceptron,
    and counts with the ridge regression (`graphcnf.discrete.counts.Counts`).

    - If the known columns are exactly those before the next one in `order`, the perceptron is the
      masked autoencoder `ordered`. One pass gives the probabilities of all columns.
    - For any other known columns, the counts of a column leave out its unknown parents (the earlier
      columns that they are given), and the perceptron is `free`. The regression predicts each
      column from earlier ones; here it is read backwards as well, from later to earlier ones, and
      all weights are halved, as each pair of columns is then used twice. Every column takes a pass
      of its own.

    Untrained, the network is the density of counts and regression. If a category is a bin, the
    place u in it has the density 1 + s (2 u - 1), whose slope s comes from the hidden units (a
    monotone quadratic map; Mueller et al. 2019, arXiv 1808.03856).

    Args:
        cardinalities: Number of categories of each column.
        parts: Number of different places in each category, S numbers, by slot. It is n for a bin of
            n integers, 0 for a bin of real numbers, 1 for a category without a slope, such as one
            that is no bin. None if no category is a bin.
        ordinal: For each column the number of its categories that are in an order; these come
            first, before "missing". 0 for a column that is not ordinal. None if no column is.
        counts: Dict as `Counts.arguments` returns it: "order", the numbers of the columns in order;
            and "parents", "factors" and "sizes", arguments of `ColumnCounts`.
        target: Number of the column that the classifier predicts, the last one in order; None for
            no classifier.

    Attributes:
        slot: Slot of each category of each column, (N, C) long, with C the largest number of
            categories of a column. In columns with fewer, the last slot is repeated.
        possible: True for the categories that each column has, (N, C) bool.
        order: Numbers of the columns in the order of counts, regression and `ordered`, (N,) long.
        tree: Pointwise mutual information, `Counts.information`, (S, S) nats, which is added to the
            direct weights of `free`. For more than 1024 slots, `tree` and `weights` have the shape
            (0, 0).
        weights: Weights of the regression, `Counts.weights`, (S, S).
    """

    slot: Tensor
    possible: Tensor
    order: Tensor
    rank: Tensor
    tree: Tensor
    weights: Tensor
    parts: Tensor
    ordinal: Tensor
    sizes: Tensor

    def __init__(
        self,
        cardinalities: Sequence[int],
        *,
        counts: Mapping[str, Any],
        parts: Sequence[int] | None = None,
        ordinal: Sequence[int] | None = None,
        target: int | None = None,
        width: int = 512,
    ):
        super().__init__()
        known = torch.tensor(cardinalities)
        if not len(known) or known.min() < 1:
            raise ValueError(f"every column needs a category or more, got {list(cardinalities)}")
        order, *own = (counts[name] for name in ("order", "parents", "factors", "sizes"))
        if sorted(order) != list(range(len(known))):
            raise ValueError(f"order must have each of {len(known)} columns once, got {order}")
        if target not in (None, order[-1]):
            raise ValueError(f"target must be the last column, {order[-1]}, got {target}")
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
        curves = self._set_ordinal([0] * len(known) if ordinal is None else ordinal, known)
        self.ordered = Perceptron(owner, width, self.rank, placed, curves)
        self.free = Perceptron(owner, width, None, placed, curves)
        self.register_buffer("tree", torch.zeros_like(self.free.direct))
        self.register_buffer("weights", torch.zeros_like(self.free.direct))
        self.classifier = None
        if target is not None:
            self.classifier = Classifier(target, owner, self.ordered.curve_owner, curves)

    def _set_ordinal(self, ordinal: Sequence[int], cardinalities: Tensor) -> Tensor:
        """Set the attributes `ordinal` and `sizes`."""
        sizes = torch.tensor(ordinal)
        if len(sizes) != len(cardinalities) or (sizes < 0).any() or (sizes > cardinalities).any():
            raise ValueError(
                f"ordinal must be from 0 to the number of categories, got {list(ordinal)}"
            )
        self.register_buffer("ordinal", sizes.nonzero()[:, 0], persistent=False)
        self.register_buffer("sizes", sizes[self.ordinal], persistent=False)
        curves = torch.zeros(int(cardinalities.sum()), len(self.ordinal), DEGREE)
        for k, (column, size) in enumerate(zip(self.ordinal, self.sizes, strict=True)):
            category = torch.arange(int(size))
            curves[self.slot[column, category], k] = curves_at(2 * (category + 0.5) / size - 1)
        return curves.flatten(1)

    @torch.no_grad()
    def start_from(self, counts: Counts, regression: bool = True) -> None:
        """Copy counts and the weights of their regression into the network, in place.

        After training, counts of more rows are copied, and the perceptrons stay (`regression`
        False). Before, the direct weights of `ordered` are set to the weights W of the regression,
        and those of `free` to (W + W^T) / 2, since `free` also predicts earlier columns from later
        ones. In its own order the untrained network is then the density of counts and regression.
        """
        self.counts.counts = counts.columns.counts.to(self.order.device)
        if self.tree.numel():
            self.tree.copy_(torch.from_numpy(counts.information))
            self.weights.copy_(torch.from_numpy(counts.weights))
            if regression:
                self.ordered.direct.copy_(self.weights)
                self.free.direct.copy_((self.weights + self.weights.T) / 2)

    def ordering(self, mask: Tensor, level: Tensor | None = None, number: int = 0) -> Tensor:
        """Choose an order of the columns of each row: conditions first, marginalised columns last.

        Columns of a lower `level` (B, N) come first. Within a level, `number` 0 stands for the
        network's own order; any other number is the seed of a random order, the same for all rows
        and in every call.
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
        """Prepare rows for counts and perceptrons: split them into categories, slots and places.

        Floats k + u of `x` are arbitrary where masked; `start` is `Rows.start`.
        """
        assert context.order is not None
        x, place = split(torch.where(context.mask, x, 0))
        column, rank = torch.arange(self.columns, device=x.device), context.order.argsort(1)
        number = self.slot[column, x]
        if self.divided:
            parts = self.parts[number]
            middle = ((place * parts).floor() + 0.5) / parts.clamp(min=1)
            place = torch.where(parts == 1, 0.5, torch.where(parts > 1, middle, place))
        else:
            place = place + 0.5
        inside = (x + place)[:, self.ordinal]
        # Curves are 0 at the category of missing entries, which comes after those in order.
        curves = curves_at(2 * inside / self.sizes - 1) * (inside < self.sizes)[..., None]
        return Inputs(x, number, curves.flatten(1), rank, start)

    def from_counts(
        self, rows: Inputs, known: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Evaluate counts and a perceptron for all columns of each row.

        In training mode, each row is left out of its own counts.

        Returns:
            Log-probabilities by counts, those by counts with the perceptron, nats, and the slopes
            of places: three tensors (B, S). With `known` the perceptron is `free`, which predicts
            the other columns; without, it is `ordered`.
        """
        net, start, rank = self.ordered, rows.start, self.rank[None]
        if known is not None:
            net, start, rank = self.free, None, (~known).long()
        if start is None:
            start = self.counts(rows.x, rank, counted=self.training)
        start = start.to(net.share)
        seen = torch.ones_like(rows.x) if known is None else known
        seen = seen.to(start)
        h = net.hidden(rows, seen)
        logits = net(h, start, rows, seen)
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
        """Mix the probabilities by counts and perceptron with those by counts and regression.

        The perceptron is `free` if `known` (B, N) is given, else `ordered`.
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
        """Add the regression to log-probabilities by counts.

        The log-probabilities of the target are those of the classifier instead. In place of unknown
        columns, the classifier reads the probabilities of their categories by counts and
        perceptron, given the known columns.

        With `known` (B, N), the weights of the regression are halved and used in both directions,
        and `tree` is added to them.
        """
        owner, linear = self.counts.owner[slots], start
        if self.weights.numel():
            weights, seen = self.weights[:, slots], torch.ones_like(rows.number, dtype=start.dtype)
            if known is not None:
                weights, seen = (weights + self.weights[slots].T) / 2 + self.tree[:, slots], known
            linear = start + weighted_sum(weights, rows.number, seen)
            linear = normalised(linear, owner - owner[0])
        own = (owner == self.order[-1]).nonzero()[:, 0]
        if self.classifier is None or not len(own):
            return linear
        p = None if known is None else self.from_counts(rows, known.bool())[1].exp()
        by_class = self.classifier(rows.number, rows.curves, known, p)
        return linear.index_copy(1, own, by_class.to(linear))

    def direct(self, rank: Tensor) -> Tensor:
        """Find the columns that one pass of the masked autoencoder `ordered` can predict.

        They are those that have the same set of columns before them in the order of the row and in
        the network's own order. Every other column takes a pass of the perceptron `free`.
        """
        usual, step = self.rank[rank.argsort(1)], torch.arange(self.columns, device=rank.device)
        highest = F.pad(usual.cummax(1).values[:, :-1], (1, 0), value=-1)
        # The columns of p steps are the first p of `order` if the last of them in it is number p.
        return ((highest == step - 1) & (usual == step)).gather(1, rank)

    def column(self, k: int, rows: Inputs) -> tuple[Tensor, Tensor]:
        """Return the log-probabilities, nats, and slopes of column k given earlier ones, (B, C)."""
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
            h = net.hidden(part, known)
            logits = net(h, start, part, known, slots)
            if net is self.free and self.tree.numel():
                logits = logits + weighted_sum(self.tree[:, slots], part.number, known)
            seen = known if net is self.free else None
            log_p[chosen] = self.mixed(logits.log_softmax(-1), start, part, slots, seen)
            tilts[chosen] = net.tilts(h, slots)
        return log_p, tilts

    def all_columns(self, x: Tensor, context: ColumnContext) -> tuple[Tensor, Tensor]:
        """Return the log-probabilities, nats, and slopes given the earlier columns, (B, S)."""
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
        """Return the cumulative distribution of the place in each category, at two places.

        With the density 1 + s (2 u - 1), it is u + s (u^2 - u). The difference of the two results
        is the probability of the places between them.
        """
        tilts = tilts.double()
        if self.divided:
            parts = self.parts if slots is None else self.parts[slots]
            tilts = torch.where(parts == 1, 0.0, tilts)
        low, high = (u + tilts * (u.square() - u) for u in places.unbind(-1))
        return low, high

    def steps(self, x: Tensor, context: Context) -> Iterator[Step]:
        """Yield exactly one step, which scores all columns that are not masked.

        Since all values are known, each column is given those before it at once; drawing has a step
        for each column instead.

        `hidden` is a pair: logits (M, C), -inf where a category is not allowed; and slopes of the
        density of places, (M, C).
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
        """Return the logits of M pairs of a row and a column."""
        return super().logits(hidden[0])

    def start(self, context: Context) -> ColumnDrawing:
        """Begin to draw the rows of a batch, column by column."""
        return ColumnDrawing(self, context)


@dataclass
class Inputs:
    """B rows in the form that counts and perceptrons take; `ColumnMLP.inputs` makes it.

    Attributes:
        x: Categories, (B, N) long.
        number: Slots of these categories, (B, N) long.
        curves: Values of the R curves, three of each ordinal column, at these categories and at the
            places in bins, (B, R) float64; 0 for missing entries.
        rank: Rank of each column in the order of its row, (B, N) long.
        start: Log-probabilities of all categories by counts in the network's order, (B, S) nats;
            None if they have to be looked up.
    """

    x: Tensor
    number: Tensor
    curves: Tensor
    rank: Tensor
    start: Tensor | None = None

    def __getitem__(self, chosen) -> Inputs:
        """Return some of the rows, without `start`."""
        parts = (self.x, self.number, self.curves, self.rank)
        return Inputs(*(part[chosen] for part in parts))


class ColumnDrawing:
    """B rows that are being drawn, column by column, each row in an order of its own.

    Attributes:
        context: Mask, orders and conditions of the rows.
        number: Number of the last step, from 0; -1 before `step` is first called.
        order: Numbers of the columns of each row in the order of their steps, (B, N) long.
        allowed: True for categories that are possible, (B or 1, N, C) bool.
        x: Categories so far, (B, N) float64 k + u, where u is the place of a number in bin k; 0
            where nothing is drawn yet.
        rows: Rows whose column in the last step is not masked, (M,) long.
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
        """Advance to the next column in the order of each row.

        `hidden` is a pair: logits (M, C), -inf where a category is not allowed, and slopes (M, C).
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
        """Return which rows have something to decide: a category, or a place in it."""
        several = allowed.sum(1) > 1
        if not self.network.divided:
            return several
        places = self.context.places
        return torch.ones_like(several) if places is None else places[self.rows, column].isnan()

    def update(self, x: Tensor) -> None:
        """Store the categories (M, 1), k or k + u, that were drawn for the last `Step`."""
        self.x[self.rows, self.order[self.rows, self.number]] = x[:, 0].double()


def split(x: Tensor) -> tuple[Tensor, Tensor]:
    """Split floats k + u into categories k, long, and places u, float64 (0 for integers)."""
    if not x.is_floating_point():
        return x.long(), torch.zeros_like(x, dtype=torch.float64)
    return x.floor().long(), (x - x.floor()).double()


class ColumnFlow(Pretrained, AutoregressiveFlow[ColumnMLP]):
    """Density of the rows of a table of categories, column by column in any order.

    Every order of the columns gives an exact density: the product of the conditional probabilities
    of the categories, each given those before it. Training draws subsets of the columns as well, so
    that any subset can come first: as a condition, or as the columns that remain when the others
    are marginalised. The densities of two orders are similar, not equal; `log_prob` is the density
    in one order.

    Where categories are bins of numbers, rows are given and drawn as floats k + u. Their density
    includes that of the place u in [0, 1). `TableAdapter.log_prob` turns it into a density per unit
    of the numbers.

    Args:
        cardinalities: Number of categories of each column.
        **network: Further arguments of `ColumnMLP`, JSON, of which `counts` has no default.
    """

    @keep_arguments
    def __init__(self, cardinalities: list[int], **network: Any):
        super().__init__(build_network(ColumnMLP, self.config), single=True)
        self.metadata: dict[str, Any] = {}

    def start_from(self, counts: Counts, regression: bool = True) -> None:
        """Copy counts and their regression into network and `config`: `ColumnMLP.start_from`."""
        self.config["counts"] = counts.arguments
        self.network.start_from(counts, regression)

    def _components(self, batch: Rows, known: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the log-probability of each entry by each of the two densities that are mixed."""
        network, x = self.network, batch.values
        rows = network.inputs(x, ColumnContext.of(Context(batch.mask), network), batch.start)
        start, log_p, tilts = network.from_counts(rows, known)
        seen = None if known is None else known.to(start)
        linear = network.regressed(start, rows, known=seen)
        return self._own(x, log_p, tilts), self._own(x, linear, tilts)

    def fit_classifier(self, batch: Rows) -> None:
        """Fit the classifier of the target, if there is one, to the rows without masked entries."""
        network, batch = self.network, batch[batch.mask.all(1)].to(self.device)
        if network.classifier is not None and len(batch):
            rows = network.inputs(batch.values, ColumnContext.of(Context(batch.mask), network))
            network.classifier.fit(rows.number, rows.curves, rows.x[:, network.order[-1]])

    @torch.no_grad()
    @evaluated
    def weigh(self, batch: Rows) -> None:
        """Choose the weights of the perceptrons in their mixtures with the regression, in place.

        The weights are those for which the given rows are most likely. Call it after training, with
        rows that the flow has not learned from.

        Rows with masked entries are left out; if none is left, the weights stay as they are.
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
        """Return the exact log-probability of each row, in one order of the columns.

        Columns that the mask leaves out are marginalised.
        """
        return self.nats(x, context).sum(1)

    @evaluated
    def nats(self, x: Tensor, context: Context = Context(), event: Tensor | None = None) -> Tensor:
        """Return the log-probability of each column, given those before it in the order of its row.

        The unit is nats, with the density of places in bins; 0 where masked. With an `event` (see
        `ColumnContext`), each probability is conditional on an allowed place.
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
        """Pick the log-probability of each column's own category, with the density of its place."""
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
        """Return the log-probabilities of a column's categories given earlier ones, (B, C) nats."""
        rows = self.network.inputs(x, ColumnContext.of(context, self.network))
        return self.network.column(column, rows)[0]

    @evaluated
    def sample(self, count, length=None, context=Context(), *, sample_posterior=False) -> Tensor:
        """Draw rows, column by column, also under the conditions of a `ColumnContext`."""
        # In float64: a place in a rare category keeps its digits.
        options = {"mask": context.mask, "generator": context.generator, "dtype": torch.float64}
        z = self.base.sample((count, self.network.columns, 1), device=self.device, **options)
        return self.decode(z, context)

    @evaluated
    @torch.no_grad()
    def decode(self, z: Tensor, context: Context = Context(), *, sample: bool = False) -> Tensor:
        """Map base latents to rows, column by column in the order of the context."""
        check_temperature(context.temperature)
        context = with_mask(z, context)
        network, u = self.network, torch.sigmoid(z[..., 0].double())
        given = ColumnContext.of(context, network)
        places, event = given.places, given.event
        x, drawing = torch.zeros_like(u), network.start(context)
        while (step := drawing.step()) is not None:
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
            drawing.update(x[at][:, None])
        return x if network.divided else x.floor().long()

    def training_loss(
        self, batch: Rows, *, beta: float = 1.0
    ) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
        """Return the loss of a batch and its metrics; the training loop calls it.

        In training mode, the loss is -log p by counts and the perceptron `ordered`, without the
        mixture. It leaves out entries that `ordered` cannot predict because an earlier column is
        masked. In a quarter of the calls (`FREE`), at random, the gradients of a second loss are
        added, but not its value. The second loss is -log p by counts and the perceptron `free`:
        that of the other columns given a random subset of the columns, weighted so that its mean is
        -log p of the row in a random order.

        In evaluation mode, the loss is -log p by the mixture. Before `weigh` has chosen its
        weights, a batch without masked entries is scored with the single weight that is best for
        it.

        Returns:
            Nats per column that is not masked, with the density of places; and metrics as `{name:
            (sum, number)}`: "bits_per_variable" per column, "bits_per_row" per row.
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
    """Draw a random subset of the columns of each row, of a random size from none to all but one.

    All sizes are equally likely, and so are all subsets of a size. (They are the first columns of a
    random order.)
    """
    place = (torch.rand(mask.shape, device=mask.device) + ~mask).argsort(1).argsort(1)
    sizes = mask.sum(1, keepdim=True)
    return place < (torch.rand_like(sizes, dtype=torch.float) * sizes).long()
