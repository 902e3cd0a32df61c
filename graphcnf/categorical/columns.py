"""Categorical normalizing flow over the columns of a table, in any order of the columns."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.categorical.autoregressive import AutoregressiveFlow, Network, Step, locate
from graphcnf.categorical.counts import LARGEST_PAIRS, ColumnCounts, Counts
from graphcnf.categorical.flow import check_rows
from graphcnf.categorical.rows import Rows, checked_network, loss_of
from graphcnf.categorical.transformer import HIDDEN, Transformer
from graphcnf.flows.modules import evaluates
from graphcnf.flows.transform import Context, with_mask
from graphcnf.limits import Range, check_temperature
from graphcnf.pretrained import Pretrained


class ColumnAttention(Network):
    """Causal attention over the columns of a row; each row may have an order of its own.

    Step k of a row knows the categories of the columns of steps 0 to k - 1, and which column comes
    next (Hoogeboom et al. 2022, arXiv 2110.02037; Pannatier et al. 2024, arXiv 2404.09562). Its
    logits are the sum of three terms: the output of the attention; the log-probabilities of counts
    given the parents of the column (`Counts`); a weight for each pair of a known category and a
    possible one. If the known columns are exactly those before the next one in `order`, the weights
    are those of the regression, otherwise trained ones. Untrained and in `order`, the network is
    the density of the counts.

    Categories may be bins of numbers. Category k with a place u inside the bin, 0 <= u < 1, is the
    float k + u. The place has the density 1 + s (2 u - 1), with -1 < s < 1 from the hidden state (a
    monotone quadratic map of the uniform density; Mueller et al. 2019, arXiv 1808.03856).

    In a `Context`, `conditions` (B, N) long are the columns in the order of their steps, None for
    `order`. `features` (B, N, C + 1) are the allowed categories and, last, the place inside, nan if
    it is not known. Columns that the mask leaves out must come last: they are marginalised.

    Args:
        cardinalities: Number of categories of each column.
        parts: Number of parts of each category, all columns concatenated: 1 if it is not divided, 0
            for a continuum.
        counts: `parents`, `factors` and `sizes` of `ColumnCounts`.
        width: Channels of a column.
        layers: Attention blocks.
        heads: Attention heads.
        expansion: Feed-forward hidden channels as a multiple of `width`.
        dropout: Share of the channels that training leaves out.

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
        # The number of each category when the categories of all columns are concatenated.
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
        """Return True where the known columns (B, M, N) are those before `column` in `order`."""
        rank = self.order.argsort()
        before = (rank < rank[:, None])[:, : known.shape[-1]]
        return (known == before[column]).all(-1)

    def ordered(self, mask: Tensor, given: Tensor | None = None, number: int = 0) -> Tensor:
        """Return orders (B, N) in which `given` columns come first, and masked ones last.

        Otherwise columns stand as in order `number`: 0 is `order`, each other number stands for a
        fixed random order.
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
        """Return input channels (..., C) of steps with next columns `column`, as `target` rows.

        `before` is the number of the previous category, None in the first step, `place` the place
        inside it.
        """
        value = self.initial if before is None else self.values(before)
        if before is not None and place is not None and self.divided:
            parts = self.parts[before]
            middle = ((place * parts).floor() + 0.5) / parts.clamp(min=1)
            shift = torch.where(parts == 1, 0.0, torch.where(parts > 1, middle, place) - 0.5)
            value = value + shift[..., None].to(value.dtype) * self.slope[before]
        return self.dropout(self.target(column) + value)

    def sources(self, order: Tensor) -> Tensor:
        """Return for each step of orders (B, N) the column of its input category, N for none."""
        return torch.cat([torch.full_like(order[:, :1], self.columns), order[:, :-1]], 1)

    def tilts(self, h: Tensor, number: Tensor) -> Tensor:
        """Return the slopes s (M,) float64 of the densities of places in categories `number`."""
        if not self.divided:
            return torch.zeros(len(number), dtype=torch.float64, device=h.device)
        s = 0.999 * torch.tanh((h * self.tilt[number]).sum(-1).double())
        return torch.where(self.parts[number] == 1, 0.0, s)

    def logits(self, hidden) -> Tensor:
        return super().logits(hidden[0])

    def _limits(self, context: Context) -> tuple[Tensor, Tensor]:
        """Return the orders (B, N) and possible categories (B or 1, N, C) that a context gives."""
        mask, order, allowed = context.mask, context.conditions, context.features
        possible = self.possible[None, : mask.shape[1]]
        return (
            self.ordered(mask) if order is None else order,
            possible if allowed is None else possible & (allowed[..., :-1] > 0),
        )

    def steps(self, x: Tensor, context: Context) -> Iterator[Step]:
        """Yield all columns in one step; `hidden` is logits (M, C) and channels (M, width)."""
        mask, (x, inside) = context.mask, split(torch.where(context.mask, x[..., 0], 0))
        order, possible = self._limits(context)
        slot, place = self.slot[: x.shape[1]], order.argsort(1)
        step = torch.arange(x.shape[1], device=x.device)
        number = slot[step, x]
        before = number.gather(1, order)[:, :-1], inside.gather(1, order)[:, :-1]
        column, known = step.expand(x.shape), place[:, None] < place[:, :, None]
        direct = self._in_order(known, column)
        target = order + self.columns * direct.gather(1, order)
        first = self._input(target[:, :1], None, None)
        h = torch.cat([first, self._input(target[:, 1:], *before)], 1)
        # Rows with the same order share one bias, so its gradient is computed once.
        orders, which = order.unique(dim=0, return_inverse=True)
        bias = self.by_pair[:, orders[:, :, None], self.sources(orders)[:, None]].transpose(0, 1)
        bias = bias if len(orders) == 1 else bias[which]
        h = self.norm(self.blocks(h, bias + HIDDEN * (step[:, None] < step)))
        h = h.gather(1, place[..., None].expand_as(h))
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
    """State of partly drawn rows: cached keys and values, last categories, sums of pair weights."""

    def __init__(self, network: ColumnAttention, context: Context):
        self.network, self.mask, self.number = network, context.mask, -1
        self.cache = network.blocks.cache(self.mask)
        self.order, possible = network._limits(context)
        self.possible = possible.expand(len(self.mask), -1, -1)
        self.before: Tensor | None = None
        self.place: Tensor | None = None
        # Sums of the trained pair weights, and of those of the regression.
        self.sums = network.bias.expand(2, len(self.mask), -1)
        self.x = torch.zeros_like(self.order)

    def step(self) -> Step | None:
        """Return the next column of every row that has one; None at the end."""
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
        """Append the categories x (M, 1) of the current columns; a float k + u has the place u."""
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
    """Split floats k + u into categories k, long, and places u, float64; u = 0 for integers."""
    if not x.is_floating_point():
        return x.long(), torch.zeros_like(x, dtype=torch.float64)
    return x.floor().long(), (x - x.floor()).double()


@evaluates("log_prob", "encode", "decode", "sample", "conditional")
class ColumnFlow(Pretrained, AutoregressiveFlow):
    """Density of the rows of a table of categories, column by column in any order.

    Every order of the columns gives an exact density, by a flow as in `RowFlow`. Training draws
    orders, so that any subset of the columns can come first: as a condition, or as the columns that
    remain when the others are marginalised. Densities of different orders are similar, not equal;
    `log_prob` is that of one order. The arguments are those of `ColumnAttention`.

    Categories divided into `parts` are given and drawn as floats, see `ColumnAttention`; their
    density includes that of the place inside the category.

    Attributes:
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
        super().__init__(checked_network(ColumnAttention, config), single=True)
        self.config = config
        self.metadata: dict = {}

    @torch.no_grad()
    def start_from(self, counts: Counts) -> None:
        """Copy counts, their order and the weights of their regression into the network."""
        network, self.config["counts"] = self.network, counts.arguments
        network.order.copy_(torch.from_numpy(counts.order))
        network.counts.counts = counts.columns.counts.to(self.device)
        if network.tree.numel():
            network.tree.copy_(torch.from_numpy(counts.information))
            network.weights.copy_(torch.from_numpy(counts.weights))

    def log_prob(self, x, context: Context = Context(), *, samples: int = 1) -> Tensor:
        """Return log p(x) of the columns of x (B, N) that the mask keeps, (B,) nats.

        `context` has the order of the columns and the allowed categories, see `ColumnAttention`;
        `samples` is ignored.

        Raises:
            ValueError: if `x` or the mask is not what the model takes.
        """
        check_rows(context.mask)
        self.encoding.check(split(x)[0], context.mask)
        return self._log_prob(x, with_mask(x, context))

    def _log_prob(self, x: Tensor, context: Context) -> Tensor:
        step = next(self.network.steps(x[..., None], context))
        (category, place), h = split(x[step.at]), step.hidden[1]
        log_p = -F.cross_entropy(self.network.logits(step.hidden), category, reduction="none")
        if self.network.divided:
            s = self.network.tilts(h, self.network.slot[step.at[1], category])
            if context.features is not None:  # a place that is given has no density
                s = torch.where(context.features[step.at][:, -1].isnan(), s, 0)
            log_p = log_p + torch.log1p(s * (2 * place - 1)).to(log_p.dtype)
        return log_p.new_zeros(x.shape).index_put(step.at, log_p).sum(1)

    def conditional(self, x: Tensor, column: int, context: Context) -> Tensor:
        """Return log-probabilities (B, C) of the categories of a column given earlier columns."""
        step = next(self.network.steps(x[..., None], context))
        return self.network.logits(step.hidden)[step.at[1] == column].log_softmax(-1)

    def log_probs_of(self, x: Tensor, category: Tensor, context: Context) -> Tensor:
        """Return log-probabilities (B, N) float64 that each column n has `category` (N,) of it.

        Each is given the columns of x (B, N) that are earlier in the context's order.
        """
        step = next(self.network.steps(x[..., None], context))
        nats = self.network.logits(step.hidden).double().log_softmax(-1)
        own = nats.gather(1, category[step.at[1], None])[:, 0]
        return nats.new_zeros(x.shape).index_put(step.at, own)

    def sample(self, count, length=None, context=Context(), *, sample_posterior=False) -> Tensor:
        """Draw rows (count, N), as floats with places where categories are divided."""
        # In float64: a place in a rare category keeps its digits.
        options = {"mask": context.mask, "generator": context.generator, "dtype": torch.float64}
        z = self.base.sample((count, self.network.columns, 1), device=self.device, **options)
        return self.decode(z, context)

    @torch.no_grad()
    def decode(self, z, context: Context = Context(), *, sample: bool = False) -> Tensor:
        """Decode base latents (B, N, 1) to rows (B, N), as in `sample`."""
        check_temperature(context.temperature)
        context = with_mask(z, context)
        network, u = self.network, torch.sigmoid(z[..., 0].double())
        x, state = torch.zeros_like(u), network.start(context)
        while (step := state.step()) is not None:
            logits = network.logits(step.hidden) / context.temperature
            category, lower, log_p = locate(logits, u[step.at])
            share = ((u[step.at] - lower) / log_p.exp()).clamp(0, 1 - 1e-12)
            # The place inside u solves u + s (u^2 - u) = share.
            s = network.tilts(step.hidden[1], network.slot[step.at[1], category])
            root = ((1 - s).square() + 4 * s * share).sqrt()
            place = (2 * share / (1 - s + root)).clamp(0, 1 - 1e-12)
            if context.features is not None:
                known = context.features[step.at][:, -1].double()
                place = torch.where(known.isnan(), place, known)
            x[step.at] = category + place
            state.update(x[step.at][:, None])
        return x if network.divided else x.floor().long()

    def training_loss(self, batch: Rows, *, beta: float = 1.0):
        """Return the negative log-likelihood in nats per column, and metrics.

        In training mode every fourth row has a random order of the columns. `beta`, the weight of a
        decoder, is ignored: there is no decoder. The metrics are `bits_per_variable` and
        `bits_per_row`, as pairs (sum, number).
        """
        order = self.network.ordered(batch.mask)
        if self.training:
            mask = batch.mask[3::4]
            order[3::4] = (torch.rand(mask[:1].shape, device=mask.device) + ~mask).argsort(1)
        nats = self._log_prob(batch.values, Context(batch.mask, conditions=order))
        return loss_of(nats, batch.mask)
