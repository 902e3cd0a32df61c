"""Causal attention: the probabilities of the category at each position given those before it.

One stream: position i holds what is known before its category (the category of the position before,
how many positions are still to come) and gives the probabilities of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.flows.transform import Context, log_term_dtype, sum_log_term

HIDDEN = -1e9
"""What is added to the score of a position that may not be seen."""


class CausalBlock(nn.Module):
    """Pre-norm block with attention and feed-forward part side by side, the identity at the start.

    Both read the same normalised input and are added (Wang & Komatsuzaki 2021, GPT-J; Chowdhery et
    al. 2022, arXiv 2204.02311), with a squared ReLU (So et al. 2021, arXiv 2109.08668): two matrix
    products instead of four.

    Args:
        width: Channels.
        heads: Attention heads; must divide `width`.
        expansion: Hidden channels of the feed-forward part, as a multiple of `width`.
    """

    def __init__(self, width: int, heads: int, expansion: float):
        super().__init__()
        if width % heads:
            raise ValueError(f"heads must divide the width, got {heads} and {width}")
        self.heads, self.width = heads, width
        hidden = int(expansion * width)
        self.norm = nn.LayerNorm(width)
        self.enter = nn.Linear(width, 3 * width + hidden)
        self.leave = nn.Linear(width + hidden, width)
        nn.init.zeros_(self.leave.weight)

    def read(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Queries, keys, values (B, heads, N, C / heads) and hidden channels, of x (B, N, C)."""
        attention, hidden = self.enter(self.norm(x)).tensor_split([3 * self.width], -1)
        parts = attention.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return *parts.unbind(0), F.relu(hidden).square()

    def write(self, x, query, key, value, hidden, bias) -> Tensor:
        """Update x (B, M, C) from N keys and values; `bias` is (B or 1, heads, M, N)."""
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5 + bias
        seen = (scores.softmax(-1).to(value.dtype) @ value).transpose(1, 2).flatten(2)
        return x + self.leave(torch.cat([seen, hidden], -1))


@dataclass
class Asked:
    """What the categories of some positions are read out of.

    Attributes:
        h: (B, M, C).
        first: Number of the first of these M positions, which follow each other.
    """

    h: Tensor
    first: int


class CausalAttention(nn.Module):
    """One category per position, each given the ones before; made for `InterleavedCoupling`.

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
        self.shared, self.positions, self.heads = shared, positions, heads
        most = max(known)
        self.cardinalities = [most]
        possible = torch.arange(most) < torch.tensor(known)[:, None]
        self.register_buffer("possible", possible, persistent=False)
        self.start = nn.Parameter(0.3 * torch.randn(width))
        self.values = nn.Embedding(possible.numel(), width)
        self.position = nn.Embedding(positions, width)
        self.remaining = nn.Embedding(positions + 1, width)
        self.by_distance = nn.Parameter(torch.zeros(layers * heads, positions))
        self.dropout = nn.Dropout(dropout)
        self.blocks: Sequence[CausalBlock] = nn.ModuleList(  # type: ignore[assignment]  # not generic
            CausalBlock(width, heads, expansion) for _ in range(layers)
        )
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

    def inputs(self, before: Tensor | None, first: int, to_come: Tensor) -> Tensor:
        """What is known before positions `first` to `first + M - 1`.

        Args:
            before: Categories of the positions from `first - 1` on, without the last one of them,
                (B, M) long; for `first` = 0, whose start is no category, (B, M - 1) or None.
            first: Number of the first position.
            to_come: How many positions are to come, they themselves included, (B, M) long.

        Returns:
            (B, M, C).
        """
        number = torch.arange(first, first + to_come.shape[1], device=to_come.device)
        parts = [] if first else [self.start.expand(len(to_come), 1, -1)]
        if before is not None and before.shape[1]:
            own = 0 if self.shared else self.cardinalities[0] * (number[-before.shape[1] :] - 1)
            parts.append(self.values(before.clamp(max=self.cardinalities[0] - 1) + own))
        h = torch.cat(parts, 1) + self.position(number) + self.remaining(to_come)
        return self.dropout(h)

    def hidden(self, x: Tensor, mask: Tensor) -> Tensor:
        """All positions in one pass, (B, N, C), each from the categories x (B, N) before it."""
        length = mask.shape[1]
        self.check_length(length)
        number = torch.arange(length, device=mask.device)
        h = self.inputs(x[:, :-1], 0, (mask.sum(1, keepdim=True) - number).clamp(min=0))
        distance = number[:, None] - number
        bias = self.by_distance[:, distance.clamp(min=0)] + HIDDEN * (distance < 0)
        for block, own in zip(self.blocks, bias.split(self.heads), strict=True):
            h = h + self.dropout(block.write(h, *block.read(h), own[None]) - h)
        return self.norm(h)

    def check_length(self, length: int) -> None:
        """Raise ValueError where there are more positions than the model knows."""
        if length > self.positions:
            raise ValueError(f"{length} positions, but the model knows up to {self.positions}")

    def read_out(self, asked: Asked, previous: list[Tensor]) -> Tensor:
        """Logits (B, M, C), -inf where a position has no such category."""
        if self.shared:
            logits, possible = F.linear(asked.h, self.weight[0], self.bias[0]), self.possible
        else:
            there = slice(asked.first, asked.first + asked.h.shape[1])
            # (M, B, channels) x (M, channels, C)
            logits = torch.bmm(asked.h.transpose(0, 1), self.weight[there].transpose(1, 2))
            logits, possible = logits.transpose(0, 1) + self.bias[there], self.possible[there]
        return logits.to(log_term_dtype(logits)).masked_fill(~possible, -math.inf)

    def log_prob(self, x: Tensor, mask: Tensor) -> Tensor:
        """Log-probability of categories x (B, N), (B,) nats, without the way over latents."""
        logits = self.read_out(Asked(self.hidden(x, mask), 0), [])
        known = torch.where(mask, x, 0)
        own = -F.cross_entropy(logits.flatten(0, 1), known.flatten(), reduction="none")
        return sum_log_term(own.view_as(mask), mask)

    def streams_of(self, x: Tensor, context: Context, group: Tensor) -> Asked:
        """What all categories are read out of, for `InterleavedCoupling.log_probs`."""
        return Asked(self.hidden(x[..., 0], context.mask), 0)

    def rounds(self, context: Context, group: Tensor) -> CausalRounds:
        """The same position by position, with an object that has `ask` and `tell`."""
        return CausalRounds(self, context.mask)


class CausalRounds:
    """One position after the other, with the keys and values of the positions before."""

    def __init__(self, network: CausalAttention, mask: Tensor):
        network.check_length(mask.shape[1])
        self.network = network
        self.to_come = mask.sum(1, keepdim=True)
        shape = len(mask), network.heads, mask.shape[1], network.start.numel() // network.heads
        self.keys = [network.start.new_empty(shape) for _ in network.blocks]
        self.values = [network.start.new_empty(shape) for _ in network.blocks]

    def ask(self, g: int, members: Tensor, known: Tensor) -> Asked:
        """What position g of every row is read out of; `known` (B, N, 1) holds those before."""
        net = self.network
        before = known[:, g - 1] if g else None
        h = net.inputs(before, g, (self.to_come - g).clamp(min=0))
        # The distances g, ..., 0 of the positions so far.
        bias = net.by_distance[:, : g + 1].flip(1)[:, None]
        for k, (block, own) in enumerate(zip(net.blocks, bias.split(net.heads), strict=True)):
            query, key, value, hidden = block.read(h)
            self.keys[k][:, :, g], self.values[k][:, :, g] = key[:, :, 0], value[:, :, 0]
            keys, values = self.keys[k][:, :, : g + 1], self.values[k][:, :, : g + 1]
            h = block.write(h, query, keys, values, hidden, own[None])
        return Asked(net.norm(h), g)

    def tell(self, g: int, members: Tensor, real: Tensor, known: Tensor) -> None:
        """Nothing to do: the next `ask` is given all that is known."""
