"""Transformer of the autoregressive networks, for scoring (all positions) and drawing (one by one).

Inputs and outputs are (B, N, D): B rows, N positions, D channels; in drawing, positions are the
first axis, (M, B, D). An *attention bias* is added to the attention score of each head and pair of
positions; `MASKED` (-30,000) keeps a position from attending to another. A `Cache` keeps the keys
and values of the positions so far.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MASKED = -3e4  # added to the attention scores of positions that may not be attended to
ROWS = 256  # rows whose attention a CPU computes at once: as many as fit into its caches

Layer = TypeVar("Layer", bound=nn.Module)


class ReadOut(nn.Linear):
    """Linear output head, marked so that rules for hidden matrices (Muon) skip it."""


def zero_init(layer: Layer) -> Layer:
    """Set weights and biases of a layer to 0, so that a network starts with outputs of 0."""
    nn.init.zeros_(layer.get_parameter("weight"))
    nn.init.zeros_(layer.get_parameter("bias"))
    return layer


class Block(nn.Module):
    """Transformer block: layer norm, then attention and feed-forward part in parallel.

    Both read the same normalised input, and their outputs are added: two matrix products instead of
    four (Wang & Komatsuzaki 2021, GPT-J; Chowdhery et al. 2022, arXiv 2204.02311), with a squared
    ReLU (So et al. 2021, arXiv 2109.08668). The last weights are 0 at first: the block starts as
    the identity.

    Args:
        width: Channels D.
        heads: Attention heads, which divide the channels among them.
        expansion: Feed-forward hidden channels as a multiple of `width`.
        dropout: Share of the channels of the update that training leaves out.
        multi_query: True for one head of keys and values, which all heads of queries share (Shazeer
            2019, arXiv 1911.02150): a smaller cache, and faster drawing.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        expansion: float,
        dropout: float = 0.0,
        multi_query: bool = False,
    ):
        super().__init__()
        if width % heads:
            raise ValueError(f"heads must divide the width, got {heads} and {width}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {dropout}")
        self.heads = heads
        self.head_width = width // heads
        hidden = int(expansion * width)
        keys = self.head_width if multi_query else width
        self.parts = [width, keys, keys, hidden]
        self.norm = nn.LayerNorm(width)
        self.enter = nn.Linear(width, sum(self.parts))
        self.leave = nn.Linear(width + hidden, width)
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.leave.weight)

    def read(self, x: Tensor) -> tuple[Tensor, ...]:
        """Normalise positions, and compute queries, keys, values and feed-forward channels.

        Keys and values are (..., K), where K is D, or D / heads with `multi_query`.
        """
        return self.enter(self.norm(x)).split(self.parts, -1)

    def write(self, x: Tensor, seen: Tensor, hidden: Tensor) -> Tensor:
        """Add the outputs of attention, `seen`, and of the feed-forward part to positions."""
        return x + self.dropout(self.leave(torch.cat([seen, hidden * F.relu(hidden)], -1)))

    def keys_and_values(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute keys and values alone, for positions that are attended to but not updated."""
        queries, keys, values, _ = self.parts
        rows = slice(queries, queries + keys + values)
        both = F.linear(self.norm(x), self.enter.weight[rows], self.enter.bias[rows])
        return both.split([keys, values], -1)

    def forward(self, x: Tensor, bias: Tensor, source: Tensor | None = None) -> Tensor:
        """Update all positions (B, N, D) at once, attending to `source`, or to `x` itself.

        The bias is (B or 1, heads or 1, N, N); its third axis is the position that attends.
        """
        query, key, value, hidden = self.read(x)
        if source is not None:
            key, value = self.keys_and_values(source)
        query, key, value = (
            part.unflatten(-1, (-1, self.head_width)).transpose(1, 2)
            for part in (query, key, value)
        )
        scores = query @ key.transpose(-1, -2) * self.head_width**-0.5 + bias
        seen = (scores.softmax(-1).to(value.dtype) @ value).transpose(1, 2).flatten(2)
        return self.write(x, seen, hidden)

    def next_positions(self, x: Tensor, bias: Tensor, extend: Callable) -> Tensor:
        """Update the next M positions, which attend to the N so far, themselves included.

        Args:
            x: Channels of the M new positions, (M, B, D).
            bias: Attention biases, (M, N, B or 1, heads): from each new position to all N.
            extend: Function from the keys and values of the new positions, (M, B, K) each, to those
                of all N, (N, B, K) each; see `Cache.extend`.
        """
        query, key, value, hidden = self.read(x)
        keys, values = extend(key, value)
        seen = [attend(q, keys, values, b) for q, b in zip(query, bias, strict=True)]
        return self.write(x, torch.stack(seen), hidden)


def attend(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """Attend from one position of every row to N positions: softmax(query keys + bias) values.

    With one query (B, D) per row, elementwise products and sums over the cached keys and values
    (N, B, K) are faster than matrix products.
    """
    batch, channels = query.shape
    heads = bias.shape[-1]
    bias = bias.expand(-1, batch, -1)
    scale = (channels // heads) ** -0.5
    shared = keys.shape[-1] < channels
    size = ROWS if query.device.type == "cpu" else max(1, batch)
    parts = []
    for first in range(0, batch, size):
        rows = slice(first, first + size)
        if shared:
            # (rows, heads, N)
            scores = scale * query[rows].unflatten(-1, (heads, -1)) @ keys[:, rows].permute(1, 2, 0)
            share = (scores + bias[:, rows].permute(1, 2, 0)).softmax(-1)
            parts.append((share @ values[:, rows].transpose(0, 1)).flatten(1))
            continue
        products = keys[:, rows] * (scale * query[rows])
        scores = products.unflatten(-1, (heads, -1)).sum(-1)
        share = (scores + bias[:, rows]).softmax(0)
        seen = values[:, rows].unflatten(-1, (heads, -1)) * share[..., None]
        parts.append(seen.sum(0).flatten(1))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


class Cache:
    """Key-value cache for drawing, written in place and without gradients.

    Attributes:
        table: Keys and values, (blocks, 2, N, B, K). Positions come before rows, so that a step
            writes one contiguous slice, and reads all earlier ones in order.
        filled: Number of positions that all blocks have written.
    """

    def __init__(self, blocks: int, mask: Tensor, like: Tensor):
        batch, length = mask.shape
        self.table = like.new_empty(blocks, 2, length, batch, len(like))
        self.filled = 0

    def extend(self, block: int, key: Tensor, value: Tensor) -> Tensor:
        """Write keys and values (M, B, K) of the next positions; return all so far, (2, N, B, K).

        B may be less than before: the last rows have then left the batch. `filled` stays, until
        `Transformer.next_positions` has been through all blocks.
        """
        so_far = self.table[block, :, : self.filled + len(key), : key.shape[1]]
        so_far[0, self.filled :] = key
        so_far[1, self.filled :] = value
        return so_far

    def select(self, rows: Tensor) -> None:
        """Replace the batch by some of its rows, which may repeat, in place."""
        table = self.table.new_empty(*self.table.shape[:3], len(rows), self.table.shape[-1])
        table[:, :, : self.filled] = self.table[:, :, : self.filled, rows]
        self.table = table


class Transformer(nn.ModuleList):
    """Sequence of `layers` attention blocks; the other arguments are those of `Block`."""

    def __init__(
        self,
        width: int,
        heads: int,
        expansion: float,
        layers: int,
        *,
        dropout: float = 0.0,
        multi_query: bool = False,
    ):
        super().__init__(
            Block(width, heads, expansion, dropout, multi_query) for _ in range(layers)
        )
        self.heads = heads

    def forward(self, h: Tensor, bias: Tensor) -> Tensor:
        """Apply all blocks to all positions (B, N, D) at once.

        The bias is (B or 1, layers * heads, N, N), that of the first block first.
        """
        for block, block_bias in zip(self, bias.split(self.heads, 1), strict=True):
            h = block(h, block_bias)
        return h

    def next_position(self, h: Tensor, bias: Tensor, cache: Cache) -> Tensor:
        """Evaluate all blocks for the next position (B, D) of every row, and add it to the cache.

        The bias, (N, B or 1, layers * heads), leads to the N positions so far, itself included.
        """
        return self.next_positions(h[None], bias[None], cache)[0]

    def next_positions(self, h: Tensor, bias: Tensor, cache: Cache) -> Tensor:
        """Evaluate all blocks for the next M positions (M, B, D), and add them to the cache.

        The bias is (M, N, B or 1, layers * heads).
        """
        biases = bias.split(self.heads, -1)
        for k, (block, block_bias) in enumerate(zip(self, biases, strict=True)):
            h = block.next_positions(h, block_bias, partial(cache.extend, k))  # type: ignore[operator]
        cache.filled += len(h)
        return h

    def cache(self, mask: Tensor) -> Cache:
        """Return an empty cache for the rows of a mask (B, N)."""
        block = self[0]
        assert isinstance(block, Block)
        return Cache(len(self), mask, block.norm.weight[: block.parts[1]])
