"""Categorical normalizing flow over the columns of a table, in any order of the columns.

A row of the table has N *columns*, each with categories of its own; the *slot* of a category is its
number when the categories of all columns are numbered through, 0 to S - 1. A row is scored and
drawn one column per *step*; the *known* columns are those of earlier steps. Since each row may have
an order of its own (order-agnostic), any columns can be given, and any can be left out.

A category may stand for a bin of numbers. The *place* u of a number in its bin is between 0 and 1;
category k with place u is written as the float k + u.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.categorical.autoregressive import AutoregressiveFlow, Network, Step, find_interval
from graphcnf.categorical.categorical_flow import check_rows
from graphcnf.categorical.transformer import HIDDEN, Transformer
from graphcnf.discrete.counts import LARGEST_PAIRS, ColumnCounts, Counts
from graphcnf.discrete.rows import Rows, build_network, loss_of
from graphcnf.flows.transform import Context, with_mask
from graphcnf.limits import Range, check_temperature
from graphcnf.pretrained import Pretrained
from graphcnf.torch_state import evaluated


@dataclass(frozen=True)
class ColumnContext(Context):
    """What a flow over the columns of B rows is told besides the rows: mask, order, what is known.

    Columns that the mask leaves out are marginalised, and must come last in the order.

    Attributes:
        order: The columns in the order of their steps, (B, N) long; None for the network's order.
        allowed: Categories that may be drawn, (B, N, C) bool; None for all.
        places: Known places in categories that are bins, (B, N), nan for an unknown one; None if
            all are unknown.
    """

    order: Tensor | None = None
    allowed: Tensor | None = None
    places: Tensor | None = None

    @classmethod
    def of(cls, context: Context) -> ColumnContext:
        """Return a `ColumnContext` as it is; of any other context, one with the same mask."""
        return context if isinstance(context, cls) else cls(context.mask)


class ColumnAttention(Network):
    """Causal attention over the columns of a row; each row may have an order of its own.

    Step k of a row knows the categories of the columns of steps 0 to k - 1, and which column comes
    next (Hoogeboom et al. 2022, arXiv 2110.02037; Pannatier et al. 2024, arXiv 2404.09562). Its
    logits are the sum of three terms: the output of the attention; the log-probabilities of counts
    given the parents of the column (`Counts`); a weight for each pair of a known category and a
    possible one. If the known columns are exactly those before the next one in `order`, the weights
    are those of the regression, otherwise trained ones. Untrained and in `order`, the network is
    the density of the counts.

    Where categories are bins of numbers, the place u has the density 1 + s (2 u - 1), with
    -1 < s < 1 from the hidden state (a monotone quadratic map of the uniform density; Mueller et
    al. 2019, arXiv 1808.03856).

    Args:
        cardinalities: Number of categories of each column.
        parts: Number of different places in each category, by slot: 1 if the category is no bin, 0
            if any place is possible; None if no category is a bin.
        counts: "parents", "factors" and "sizes", arguments of `ColumnCounts`.
        width: Channels of a column.
        layers: Attention blocks.
        heads: Attention heads.
        expansion: Feed-forward hidden channels as a multiple of `width`.
        dropout: Share of the channels that training leaves out.

    Attributes:
        slot: Slot of each category of each column, (N, C) long.
        possible: Which categories each column has, (N, C) bool.
        order: The columns in the order of the counts and the regression, (N,) long.
        tree: Pointwise mutual information of the counts, to which the trained pair weights are
            added, (S, S).
        weights: Weights of the regression, (S, S).
        parts: The argument `parts`, (S,) long.

    Raises:
        ValueError: if an argument is out of range.
    """

    slot: Tensor
    possible: Tensor
    order: Tensor
    tree: Tensor
    weights: Tensor
    parts: Tensor

    def __init__(
        self,
        cardinalities: Sequence[int],
        *,
        counts: Mapping[str, Any],
        parts: Sequence[int] | None = None,
        width: int,
        layers: int,
        heads: int = 4,
        expansion: float = 3,
        dropout: float = 0.0,
    ):
        super().__init__()
        known = torch.tensor(cardinalities)
        if not len(known) or known.min() < 1:
            raise ValueError(f"every column needs a category or more, got {list(cardinalities)}")
        self.columns, self.cardinalities, total = len(known), [int(known.max())], int(known.sum())
        number = torch.arange(self.cardinalities[0])
        possible = number < known[:, None]
        slot = (known.cumsum(0) - known)[:, None] + number.minimum(known[:, None] - 1)
        self.register_buffer("slot", slot, persistent=False)
        self.register_buffer("possible", possible, persistent=False)
        self.register_buffer("order", torch.arange(self.columns))
        self.initial = nn.Parameter(0.3 * torch.randn(width))
        self.values = nn.Embedding(total, width)
        # The second half is for columns whose known columns are those before them in `order`.
        self.target = nn.Embedding(2 * self.columns, width)
        # Added to attention scores, by the next column of the step that attends and the column
        # whose category the other step holds (N for the first step, which holds none).
        self.by_pair = nn.Parameter(torch.zeros(layers * heads, self.columns, self.columns + 1))
        self.blocks = Transformer(width, heads, expansion, layers, dropout=dropout)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width)
        self.divided = parts is not None
        if parts is not None:
            if len(parts) != total or min(parts) < 0:
                raise ValueError(f"parts must be {total} numbers, at least 0, got {list(parts)}")
            self.register_buffer("parts", torch.tensor(parts), persistent=False)
            self.slope = nn.Parameter(0.3 * torch.randn(total, width))
            self.tilt = nn.Parameter(torch.zeros(total, width))
        self.weight = nn.Parameter(torch.zeros(total, width))
        self.bias = nn.Parameter(torch.zeros(total))
        paired = total if total <= LARGEST_PAIRS else 0
        self.pairs = nn.Parameter(torch.zeros(paired, paired))
        self.register_buffer("tree", torch.zeros(paired, paired))
        self.register_buffer("weights", torch.zeros(paired, paired))
        self.counts = ColumnCounts(cardinalities, **counts)
        for table in (self.values, self.target):
            nn.init.normal_(table.weight, std=0.3)

    def _in_order(self, known: Tensor, column: Tensor) -> Tensor:
        """Compare the known columns with those before a column in `order`.

        Args:
            known: Known columns, (B, M, N) bool.
            column: The column of each step, (B, M) long.

        Returns:
            True where both are the same, (B, M) bool.
        """
        rank = self.order.argsort()
        before = (rank < rank[:, None])[:, : known.shape[-1]]
        return (known == before[column]).all(-1)

    def ordered(self, mask: Tensor, given: Tensor | None = None, number: int = 0) -> Tensor:
        """Return the order of the columns of each row: conditions first, marginalised ones last.

        Args:
            mask: Columns that are not marginalised, (B, N) bool.
            given: Columns that are conditions, (B, N) bool; None for none.
            number: Which order the columns otherwise have: 0 for that of the attribute `order`, any
                other number for a random one, the same in every call.

        Returns:
            The columns in order, (B, N) long.
        """
        order = self.order[self.order < mask.shape[1]]
        if number:
            random = np.random.default_rng(number).permutation(len(order))
            order = order[torch.from_numpy(random).to(order.device)]
        rank = order.argsort() + 2 * len(order) * ~mask
        if given is not None:
            rank = rank + len(order) * ~given
        return rank.argsort(1)

    def _input(self, column: Tensor, before: Tensor | None, place: Tensor | None) -> Tensor:
        """Embed steps, the input of attention.

        Args:
            column: Row of the embedding `target` for each next column, (...) long: its number, or N
                more if the columns before it are those of `order`.
            before: Slots of the previous categories, (...) long; None in the first step.
            place: Places in these categories, (...) float64; None in the first step.

        Returns:
            (..., width).
        """
        value = self.initial if before is None else self.values(before)
        if before is not None and place is not None and self.divided:
            parts = self.parts[before]
            middle = ((place * parts).floor() + 0.5) / parts.clamp(min=1)
            shift = torch.where(parts == 1, 0.0, torch.where(parts > 1, middle, place) - 0.5)
            value = value + shift[..., None].to(value.dtype) * self.slope[before]
        return self.dropout(self.target(column) + value)

    def sources(self, order: Tensor) -> Tensor:
        """Return which column is decided one step before.

        Args:
            order: The columns of each row in the order of their steps, (B, N) long.

        Returns:
            For each step the column of the step before it, N for the first step, (B, N) long.
        """
        return torch.cat([torch.full_like(order[:, :1], self.columns), order[:, :-1]], 1)

    def tilts(self, h: Tensor, number: Tensor) -> Tensor:
        """Return the slope s of the density 1 + s (2 u - 1) of a place u, for M decided categories.

        Args:
            h: Output of attention, (M, width).
            number: Slots of the categories, (M,) long.

        Returns:
            (M,) float64; 0 where the density is uniform.
        """
        if not self.divided:
            return torch.zeros(len(number), dtype=torch.float64, device=h.device)
        s = 0.999 * torch.tanh((h * self.tilt[number]).sum(-1).double())
        return torch.where(self.parts[number] == 1, 0.0, s)

    def logits(self, hidden) -> Tensor:
        return super().logits(hidden[0])

    def _limits(self, context: Context) -> tuple[Tensor, Tensor]:
        """Return what a context says about orders and categories, with the network's defaults.

        Args:
            context: A `ColumnContext`, or one with a mask (B, N) alone.

        Returns:
            The columns of each row in order, (B, N) long; and which categories each column has and
            the context allows, (B or 1, N, C) bool.
        """
        possible = self.possible[None, : context.mask.shape[1]]
        given = ColumnContext.of(context)
        return (
            self.ordered(given.mask) if given.order is None else given.order,
            possible if given.allowed is None else possible & given.allowed,
        )

    def steps(self, x: Tensor, context: Context) -> Iterator[Step]:
        """Yield all columns in one step.

        Args:
            x: Categories (B, N, 1): integers, or floats k + u, where u is the place of a number in
                bin k.
            context: Mask, orders and allowed categories, see the class.

        Yields:
            A step whose `hidden` is a pair: logits (M, C), and output of attention (M, width).
        """
        mask, (x, place) = context.mask, split(torch.where(context.mask, x[..., 0], 0))
        order, possible = self._limits(context)
        slot, rank = self.slot[: x.shape[1]], order.argsort(1)
        step = torch.arange(x.shape[1], device=x.device)
        number = slot[step, x]
        before = number.gather(1, order)[:, :-1], place.gather(1, order)[:, :-1]
        column, known = step.expand(x.shape), rank[:, None] < rank[:, :, None]
        direct = self._in_order(known, column)
        target = order + self.columns * direct.gather(1, order)
        first = self._input(target[:, :1], None, None)
        h = torch.cat([first, self._input(target[:, 1:], *before)], 1)
        # Rows with the same order share one bias, so its gradient is computed once.
        orders, which = order.unique(dim=0, return_inverse=True)
        bias = self.by_pair[:, orders[:, :, None], self.sources(orders)[:, None]].transpose(0, 1)
        bias = bias if len(orders) == 1 else bias[which]
        h = self.norm(self.blocks(h, bias + HIDDEN * (step[:, None] < step)))
        h = h.gather(1, rank[..., None].expand_as(h))
        logits = torch.einsum("bnc,nkc->bnk", h, self.weight[slot]) + self.bias[slot]
        if self.tree.numel():
            # One matrix product per column: one-hot known categories times their weights.
            one = torch.zeros(*x.shape, len(self.tree), dtype=h.dtype, device=h.device)
            one.scatter_(2, number[:, None].expand(known.shape), known.to(h.dtype))
            one = one.transpose(0, 1)
            in_order, others = (
                (one @ table[:, slot].transpose(0, 1)).transpose(0, 1)
                for table in (self.weights, self.pairs + self.tree)
            )
            logits = logits + torch.where(direct[..., None], in_order, others)
        counted = x if self.training else None
        logits = logits + self.counts(x, known, column, counted).to(h.dtype)
        logits = logits.masked_fill(~possible, -math.inf)
        yield Step(mask.nonzero(as_tuple=True), (logits[mask], h[mask]))

    def start(self, context: Context) -> ColumnState:
        return ColumnState(self, context)


class ColumnState:
    """State of B partly drawn rows.

    Attributes:
        network: The network.
        mask: Columns that are drawn, (B, N) bool.
        number: Number of the current step, -1 before the first one.
        cache: Keys and values of the attention for all steps so far.
        order: The columns of each row in the order of their steps, (B, N) long.
        possible: Which categories are possible, (B, N, C) bool.
        before: Slots of the last categories, (B,) long; None before the first step.
        place: Places of the last numbers in their bins, (B,) float64; None before the first step.
        sums: Bias of each slot plus the weights of its pairs with the known categories, by trained
            weights and by those of the regression, (2, B, S).
        x: Categories so far, (B, N) long, by column.
        rows: Rows of which the current column is drawn, (M,) long.
    """

    def __init__(self, network: ColumnAttention, context: Context):
        self.network, self.mask, self.number = network, context.mask, -1
        self.cache = network.blocks.cache(self.mask)
        self.order, possible = network._limits(context)
        self.possible = possible.expand(len(self.mask), -1, -1)
        self.before: Tensor | None = None
        self.place: Tensor | None = None
        self.sums = network.bias.expand(2, len(self.mask), -1)
        self.x = torch.zeros_like(self.order)

    def step(self) -> Step | None:
        """Advance to the next column of every row, and return what the network says about it.

        Returns:
            A `Step` for the M rows whose next column is not masked; its `hidden` is a pair: logits
            (M, C), and output of attention (M, width). None after the last column.
        """
        self.number += 1
        net, batch = self.network, torch.arange(len(self.mask), device=self.mask.device)
        if self.number == self.mask.shape[1]:
            return None
        column = self.order[:, self.number]
        source = net.sources(self.order)[:, : self.number + 1]
        bias = net.by_pair[:, column[:, None], source].permute(2, 1, 0)
        known = self.order.argsort(1)[:, None] < self.number
        direct = net._in_order(known, column[:, None])[:, 0]
        h = net._input(column + net.columns * direct, self.before, self.place)
        h = net.norm(net.blocks.step(h, bias, self.cache))
        slot, sums = net.slot[column], torch.where(direct[:, None], self.sums[1], self.sums[0])
        logits = (net.weight[slot] @ h[..., None])[..., 0] + sums.gather(1, slot)
        logits = logits + net.counts(self.x, known, column[:, None])[:, 0].to(h.dtype)
        logits = logits.masked_fill(~self.possible[batch, column], -math.inf)
        self.rows = batch[self.mask[batch, column]]
        return Step((self.rows, column[self.rows]), (logits[self.rows], h[self.rows]))

    def update(self, x: Tensor) -> None:
        """Store what was decided for the columns of the current step.

        Args:
            x: Categories of the M rows of the step, (M, 1): integers, or floats k + u, where u is
                the place of a number in bin k.
        """
        net, column = self.network, self.order[:, self.number]
        x, place = split(x[:, 0])
        category = torch.zeros_like(column).index_copy(0, self.rows, x)
        self.place = place.new_zeros(len(column)).index_copy(0, self.rows, place)
        self.x = self.x.scatter(1, column[:, None], category[:, None])
        self.before = net.slot[column, category]
        if net.tree.numel():
            tables = torch.stack([net.pairs + net.tree, net.weights])
            self.sums = self.sums + tables[:, self.before]


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


class ColumnFlow(Pretrained, AutoregressiveFlow):
    """Density of the rows of a table of categories, column by column in any order.

    Every order of the columns gives an exact density: the product of the conditional probabilities
    of the categories, each given those before it. Training draws orders, so that any subset of the
    columns can come first: as a condition, or as the columns that remain when the others are
    marginalised. Densities of different orders are similar, not equal; `log_prob` is that of one.

    Where categories are bins of numbers, rows are given and drawn as floats k + u; their density
    includes that of the place u.

    Args:
        cardinalities: Number of categories of each column.
        counts: "parents", "factors" and "sizes", arguments of `ColumnCounts`.
        parts: Number of different places in each category of all columns in turn: 1 if the category
            is no bin, 0 if any place is possible; None if no category is a bin.
        width: Channels of a column.
        layers: Attention blocks.
        heads: Attention heads.
        expansion: Feed-forward hidden channels as a multiple of `width`.
        dropout: Share of the channels that training leaves out.

    Attributes:
        config: Arguments of the constructor, JSON.
        metadata: Facts about the data, JSON.

    Raises:
        UserError: if an argument is out of range.
    """

    def __init__(
        self,
        cardinalities: list[int],
        *,
        counts: dict[str, Any],
        parts: list[int] | None = None,
        width: int = 64,
        layers: int = 2,
        heads: int = 4,
        expansion: float = 3,
        dropout: Annotated[float, Range(0, 1)] = 0.1,
    ):
        config = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__(build_network(ColumnAttention, config), single=True)
        self.config = config
        self.metadata: dict = {}

    @torch.no_grad()
    def start_from(self, counts: Counts) -> None:
        """Copy counts, their order and the weights of their regression into the network, in place.

        The untrained network is then the density of the counts.

        Args:
            counts: Counts of the columns that this flow was built for.
        """
        network, self.config["counts"] = self.network, counts.arguments
        network.order.copy_(torch.from_numpy(counts.order))
        network.counts.counts = counts.columns.counts.to(self.device)
        if network.tree.numel():
            network.tree.copy_(torch.from_numpy(counts.information))
            network.weights.copy_(torch.from_numpy(counts.weights))

    @evaluated
    def log_prob(self, x, context: Context = Context(), *, samples: int = 1) -> Tensor:
        """Return log p(x) of the columns that the mask keeps, (B,) nats.

        Args:
            x: Categories, (B, N): integers, or floats k + u, where u is the place of a number in
                bin k and the density includes that of u.
            context: A `ColumnContext`, or one with a mask (B, N) alone.
            samples: Ignored, since nothing is drawn.

        Raises:
            ValueError: if a category is out of range, the mask has another shape than `x`, or it
                leaves a row without columns.
        """
        check_rows(context.mask)
        self.encoding.check(split(x)[0], context.mask)
        return self._log_prob(x, with_mask(x, context))

    def _log_prob(self, x: Tensor, context: Context) -> Tensor:
        """Return log p(x) as `log_prob` does, (B,) nats, without checking x and the mask."""
        step = next(self.network.steps(x[..., None], context))
        (category, place), h = split(x[step.at]), step.hidden[1]
        log_p = -F.cross_entropy(self.network.logits(step.hidden), category, reduction="none")
        if self.network.divided:
            s = self.network.tilts(h, self.network.slot[step.at[1], category])
            places = ColumnContext.of(context).places
            if places is not None:  # a place that is given has no density
                s = torch.where(places[step.at].isnan(), s, 0)
            log_p = log_p + torch.log1p(s * (2 * place - 1)).to(log_p.dtype)
        return log_p.new_zeros(x.shape).index_put(step.at, log_p).sum(1)

    @evaluated
    def conditional(self, x: Tensor, column: int, context: Context) -> Tensor:
        """Return the log-probabilities of all categories of a column, given earlier columns.

        Args:
            x: Categories, (B, N): integers, or floats k + u, where u is the place of a number in
                bin k; arbitrary in this column and in later ones.
            column: Number of the column.
            context: Mask and order of the columns, which says which are earlier.

        Returns:
            (B, C) nats.
        """
        step = next(self.network.steps(x[..., None], context))
        return self.network.logits(step.hidden)[step.at[1] == column].log_softmax(-1)

    @evaluated
    def log_probs_of(self, x: Tensor, category: Tensor, context: Context) -> Tensor:
        """Return the log-probability of one category of each column, given earlier columns.

        Args:
            x: Categories, (B, N): integers, or floats k + u, where u is the place of a number in
                bin k.
            category: The category of each column, (N,) long.
            context: Mask and order of the columns, which says which are earlier.

        Returns:
            (B, N) nats in float64, 0 where masked.
        """
        step = next(self.network.steps(x[..., None], context))
        nats = self.network.logits(step.hidden).double().log_softmax(-1)
        own = nats.gather(1, category[step.at[1], None])[:, 0]
        return nats.new_zeros(x.shape).index_put(step.at, own)

    def sample(self, count, length=None, context=Context(), *, sample_posterior=False) -> Tensor:
        """Draw rows.

        Args:
            count: Number of rows.
            length: Ignored: all rows have a position per column.
            context: A `ColumnContext` with temperature and generator, or one without columns.
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
    def decode(self, z, context: Context = Context(), *, sample: bool = False) -> Tensor:
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
        places = ColumnContext.of(context).places
        x, state = torch.zeros_like(u), network.start(context)
        while (step := state.step()) is not None:
            logits = network.logits(step.hidden) / context.temperature
            category, lower, log_p = find_interval(logits, u[step.at])
            share = ((u[step.at] - lower) / log_p.exp()).clamp(0, 1 - 1e-12)
            # The place inside u solves u + s (u^2 - u) = share.
            s = network.tilts(step.hidden[1], network.slot[step.at[1], category])
            root = ((1 - s).square() + 4 * s * share).sqrt()
            place = (2 * share / (1 - s + root)).clamp(0, 1 - 1e-12)
            if places is not None:
                known = places[step.at].double()
                place = torch.where(known.isnan(), place, known)
            x[step.at] = category + place
            state.update(x[step.at][:, None])
        return x if network.divided else x.floor().long()

    def training_loss(self, batch: Rows, *, beta: float = 1.0):
        """Return the loss of a batch, and metrics.

        In training mode every fourth row has a random order of the columns, the others that of the
        network.

        Args:
            batch: The rows.
            beta: Ignored: it is the weight of a decoder, and there is none.

        Returns:
            The negative log-likelihood in nats per column, a scalar; and the metrics
            "bits_per_variable" and "bits_per_row", as pairs (sum, number).
        """
        order = self.network.ordered(batch.mask)
        if self.training:
            mask = batch.mask[3::4]
            order[3::4] = (torch.rand(mask[:1].shape, device=mask.device) + ~mask).argsort(1)
        nats = self._log_prob(batch.values, ColumnContext(batch.mask, order=order))
        return loss_of(nats, batch.mask)
