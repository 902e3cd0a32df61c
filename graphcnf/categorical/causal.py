"""Causal attention: the probabilities of the category at each position given those before it.

One stream: position i holds what is known before its category (the category of the position before,
how many positions are still to come) and gives the probabilities of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from graphcnf.categorical.autoregressive import InSequence, Network, Step
from graphcnf.categorical.transformer import HIDDEN, Transformer
from graphcnf.flows.transform import Context


class CausalAttention(Network):
    """One category per position, each given the ones before.

    Args:
        cardinalities: Number of categories that all positions share, as those of a sequence do; or
            that of each position, whose categories are its own, as those of a table's columns.
        positions: Largest number of positions.
        width: Channels of a position.
        layers: Attention blocks.
        heads: Attention heads.
        expansion: Feed-forward hidden channels as a multiple of `width`.
        dropout: Share of the channels that training leaves out.

    Raises:
        ValueError: if an argument is out of range.
    """

    possible: Tensor

    def __init__(
        self,
        cardinalities: int | Sequence[int],
        *,
        positions: int,
        width: int,
        layers: int,
        heads: int = 4,
        expansion: float = 3,
        dropout: float = 0.0,
    ):
        super().__init__()
        shared = isinstance(cardinalities, int)
        known = [cardinalities] if isinstance(cardinalities, int) else list(cardinalities)
        if not shared and len(known) != positions:
            raise ValueError(f"{len(known)} cardinalities for {positions} positions")
        if min(known, default=0) < 1 or positions < 1:
            raise ValueError(f"positions and categories must be positive: {positions}, {known}")
        self.shared, self.positions = shared, positions
        most = max(known)
        self.cardinalities = [most]
        possible = torch.arange(most) < torch.tensor(known)[:, None]
        self.register_buffer("possible", possible, persistent=False)
        self.initial = nn.Parameter(0.3 * torch.randn(width))
        self.values = nn.Embedding(possible.numel(), width)
        self.position = nn.Embedding(positions, width)
        self.remaining = nn.Embedding(positions + 1, width)
        self.by_distance = nn.Parameter(torch.zeros(layers * heads, positions))
        self.dropout = nn.Dropout(dropout)
        self.blocks = Transformer(width, heads, expansion, layers, dropout=dropout)
        self.norm = nn.LayerNorm(width)
        self.weight = nn.Parameter(torch.zeros(*possible.shape, width))
        self.bias = nn.Parameter(torch.zeros(possible.shape))
        for table in (self.values, self.position, self.remaining):
            nn.init.normal_(table.weight, std=0.3)

    @torch.no_grad()
    def start_from(self, counts: Tensor) -> None:
        """Let training begin with the frequencies of the categories.

        Args:
            counts: How often each one was seen, (1, C) of shared categories or (positions, C).
        """
        self.bias.copy_((counts.to(self.bias) + 0.5).log())

    def _inputs(self, before: Tensor | None, first: int, to_come: Tensor) -> Tensor:
        """Channels (B, M, C) known before positions `first` to `first + M - 1`.

        Args:
            before: Categories of the positions from `first - 1` on, without the last of them,
                (B, M) long; for `first` = 0, whose start is no category, (B, M - 1) or None.
            first: Number of the first position.
            to_come: Number of positions to come, they themselves included, (B, M) long.
        """
        number = torch.arange(first, first + to_come.shape[1], device=to_come.device)
        parts = [] if first else [self.initial.expand(len(to_come), 1, -1)]
        if before is not None and before.shape[1]:
            own = 0 if self.shared else self.cardinalities[0] * (number[-before.shape[1] :] - 1)
            parts.append(self.values(before.clamp(max=self.cardinalities[0] - 1) + own))
        return self.dropout(torch.cat(parts, 1) + self.position(number) + self.remaining(to_come))

    def _check_length(self, length: int) -> None:
        if length > self.positions:
            raise ValueError(f"{length} positions, but the model knows up to {self.positions}")

    def _read_out(self, h: Tensor, number: Tensor) -> Tensor:
        """Logits (B, M, C) of positions `number` (M,), -inf where one has no such category."""
        if self.shared:
            return nn.functional.linear(h, self.weight[0], self.bias[0])
        logits = torch.einsum("bmc,mkc->bmk", h, self.weight[number]) + self.bias[number]
        return logits.masked_fill(~self.possible[number], -math.inf)

    def steps(self, x: Tensor, context: Context) -> Iterator[Step]:
        """Yield all positions in one step."""
        mask, length = context.mask, x.shape[1]
        self._check_length(length)
        number = torch.arange(length, device=x.device)
        known = torch.where(mask, x[..., 0], 0)[:, :-1]
        h = self._inputs(known, 0, (mask.sum(1, keepdim=True) - number).clamp(min=0))
        distance = number[:, None] - number
        bias = self.by_distance[:, distance.clamp(min=0)] + HIDDEN * (distance < 0)
        h = self.norm(self.blocks(h, bias[None]))
        yield Step(mask.nonzero(as_tuple=True), self._read_out(h, number)[mask])

    def start(self, context: Context) -> CausalState:
        """Return the state before the first position."""
        self._check_length(context.mask.shape[1])
        return CausalState(self, context.mask)


class CausalState:
    """Rows so far: the keys and values of their positions, and the last category."""

    def __init__(self, network: CausalAttention, mask: Tensor):
        self.network, self.order = network, InSequence(mask)
        self.cache = network.blocks.cache(mask)
        self.before = torch.zeros(len(mask), 1, dtype=torch.long, device=mask.device)

    def step(self) -> Step | None:
        """Return the next position of all rows that have one."""
        at, net = self.order.next(), self.network
        if at is None:
            return None
        count, number = len(at[0]), at[1]
        before = self.before[:count] if number else None
        h = net._inputs(before, number, self.order.sizes[:count, None] - number)[:, 0]
        # The distances number, ..., 0 of the positions so far.
        bias = net.by_distance[:, : number + 1].flip(1).t()[:, None]
        h = net.norm(net.blocks.step(h, bias, self.cache))
        return Step(at, net._read_out(h[:, None], torch.tensor([number], device=h.device))[:, 0])

    def update(self, x: Tensor) -> None:
        """Append the categories x (M, 1) of the current position."""
        self.before[: len(x)] = x

    def take(self, rows: Tensor) -> None:
        """Go on with the given rows."""
        index = self.order.take(rows)
        self.cache.take(index)
        self.before = self.before[index]
