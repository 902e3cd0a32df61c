"""Attention blocks, evaluated for all positions in one pass or position by position."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HIDDEN = -3e4  # added to the attention scores of positions that may not be attended to
ROWS = 256  # rows whose attention a CPU computes at once: as many as fit into its caches


class Block(nn.Module):
    """Pre-norm block with attention and feed-forward part in parallel, initially the identity.

    Both parts read the same normalised input, and their outputs are added: two matrix products
    instead of four (Wang & Komatsuzaki 2021, GPT-J; Chowdhery et al. 2022, arXiv 2204.02311). The
    feed-forward part has `expansion` times `width` hidden channels and a squared ReLU (So et al.
    2021, arXiv 2109.08668). `dropout` is applied to the update. Raises ValueError if `heads` does
    not divide `width`, or `dropout` is not in [0, 1).
    """

    def __init__(self, width: int, heads: int, expansion: float, dropout: float = 0.0):
        super().__init__()
        if width % heads:
            raise ValueError(f"heads must divide the width, got {heads} and {width}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {dropout}")
        self.heads = heads
        hidden = int(expansion * width)
        self.parts = [width, width, width, hidden]
        self.norm = nn.LayerNorm(width)
        self.enter = nn.Linear(width, sum(self.parts))
        self.leave = nn.Linear(width + hidden, width)
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.leave.weight)

    def read(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return queries, keys, values (..., C) and hidden channels of x (..., C)."""
        return self.enter(self.norm(x)).split(self.parts, -1)

    def write(self, x: Tensor, seen: Tensor, hidden: Tensor) -> Tensor:
        """Update x (..., C) by the attended values (..., C) and the hidden channels."""
        return x + self.dropout(self.leave(torch.cat([seen, hidden * F.relu(hidden)], -1)))

    def keys(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the keys and values (..., C) of x (..., C) alone, the same as in `read`."""
        _, *parts, _ = self.parts
        weight, bias = (p.split(self.parts)[1:3] for p in (self.enter.weight, self.enter.bias))
        return F.linear(self.norm(x), torch.cat(weight), torch.cat(bias)).split(parts, -1)

    def forward(self, x: Tensor, bias: Tensor, source: Tensor | None = None) -> Tensor:
        """Update positions x (B, N, C), which attend to x or, if given, to `source` (B, N, C).

        `bias` (B or 1, heads or 1, N, N) is added to the attention scores.
        """
        *parts, hidden = self.read(x)
        if source is not None:
            parts[1:] = self.keys(source)
        query, key, value = (p.unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in parts)
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5 + bias
        seen = (scores.softmax(-1).to(value.dtype) @ value).transpose(1, 2).flatten(2)
        return self.write(x, seen, hidden)

    def step(self, x: Tensor, bias: Tensor, extend: Callable) -> Tensor:
        """Update the next M positions x (M, B, C) of every row.

        They attend to all N positions so far, themselves included; `bias` (M, N, B or 1, heads) is
        added to the attention scores. `extend` takes the keys and values (M, B, C) of the new
        positions, and returns those of all N positions, (N, B, C).
        """
        query, key, value, hidden = self.read(x)
        keys, values = extend(key, value)
        seen = [attend(q, keys, values, own) for q, own in zip(query, bias, strict=True)]
        return self.write(x, torch.stack(seen), hidden)


def attend(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """Attend from one query (B, C) per row to N positions (N, B, C); return values (B, C).

    With one query per row, elementwise products and sums over the cached keys and values are faster
    than matrix products. `bias` (N, B or 1, heads) is added to the scores.
    """
    heads, bias = (bias.shape[-1], -1), bias.expand(-1, len(query), -1)
    scale = (query.shape[-1] // heads[0]) ** -0.5
    size = ROWS if query.device.type == "cpu" else max(1, len(query))
    parts = []
    for first in range(0, len(query), size):
        rows = slice(first, first + size)
        scores = (keys[:, rows] * (scale * query[rows])).unflatten(-1, heads).sum(-1)
        share = (scores + bias[:, rows]).softmax(0)
        seen = values[:, rows].unflatten(-1, heads) * share[..., None]
        parts.append(seen.sum(0).flatten(1))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


class Cache:
    """Key-value cache for drawing, written in place and without gradients.

    Positions are the first axis: a step writes one contiguous slice, and reads those before it in
    order. `like` (C,) gives type and device.
    """

    def __init__(self, blocks: int, mask: Tensor, like: Tensor):
        batch, length = mask.shape
        self.table = like.new_empty(blocks, 2, length, batch, len(like))
        self.filled = 0

    def extend(self, block: int, key: Tensor, value: Tensor) -> Tensor:
        """Add keys and values (M, B, C) of the next positions; return all so far, (2, N, B, C).

        B may be less than before: the last rows have left the batch.
        """
        own = self.table[block, :, : self.filled + len(key), : key.shape[1]]
        own[0, self.filled :], own[1, self.filled :] = key, value
        return own

    def take(self, rows: Tensor) -> None:
        """Replace the batch by the given rows of it."""
        table = self.table.new_empty(*self.table.shape[:3], len(rows), self.table.shape[-1])
        table[:, :, : self.filled] = self.table[:, :, : self.filled, rows]
        self.table = table


class Transformer(nn.ModuleList):
    """Sequence of `layers` blocks; the other arguments are those of `Block`."""

    def __init__(
        self, width: int, heads: int, expansion: float, layers: int, *, dropout: float = 0.0
    ):
        super().__init__(Block(width, heads, expansion, dropout) for _ in range(layers))
        self.heads = heads

    def each(self, bias: Tensor, axis: int) -> Iterator[tuple[Block, Tensor]]:
        """Pair every block with its heads' slice of a bias along the given axis."""
        return zip(self, bias.split(self.heads, axis), strict=True)  # type: ignore[arg-type]

    def forward(self, h: Tensor, bias: Tensor) -> Tensor:
        """Update all positions h (B, N, C); `bias` is (B or 1, layers * heads, N, N)."""
        for block, own in self.each(bias, 1):
            h = block(h, own)
        return h

    def step(self, h: Tensor, bias: Tensor, cache: Cache) -> Tensor:
        """Return the next position h (B, C) of every row after all blocks, and fill the cache.

        `bias` (N, B or 1, layers * heads) is added to the attention scores of the N positions so
        far, the new one included.
        """
        return self.steps(h[None], bias[None], cache)[0]

    def steps(self, h: Tensor, bias: Tensor, cache: Cache) -> Tensor:
        """Do `step` for the next M positions h (M, B, C) at once, with a `bias` (M, N, ...)."""
        for k, (block, own) in enumerate(self.each(bias, -1)):
            h = block.step(h, own, partial(cache.extend, k))
        cache.filled += len(h)
        return h

    def cache(self, mask: Tensor) -> Cache:
        """Return an empty cache for rows with the real positions `mask` (B, N)."""
        block = self[0]
        assert isinstance(block, Block)
        return Cache(len(self), mask, block.norm.weight)
