"""Transformer of the autoregressive networks, for scoring (all positions) and drawing (one by one).

- Inputs and outputs are (B, N, D): B *rows* of a batch, N *positions* in each row, D channels. In
  the methods for drawing, positions are the first axis, (M, B, D).
- An *attention bias* is a number that is added to an attention score, for each attention head and
  pair of positions. It may say how far apart they are. The number `MASKED` (-30,000) keeps a
  position from attending to another one, such as a later one.
- *Keys*, *values* and *queries* are those of attention; the *feed-forward channels* are the hidden
  units of the other half of a block.
- A `Cache` keeps the keys and values of the positions so far, so that in drawing only the new
  positions go through the blocks.

`forward` evaluates all positions, `next_position` the next one, `next_positions` the next M.
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
    """Output head: a linear layer whose outputs are parameters of a distribution.

    The class only marks the layer: optimizers with a special rule for hidden matrices, such as
    Muon, do not apply the rule to it.
    """


def zero_init(layer: Layer) -> Layer:
    """Set weights and biases of a layer to 0, in place, and return the layer.

    A network that ends in such a layer starts with outputs of 0: logits of equal probabilities, or
    the parameters of an identity map.

    Args:
        layer: Layer with a `weight` and a `bias`, such as `nn.Linear`.
    """
    nn.init.zeros_(layer.get_parameter("weight"))
    nn.init.zeros_(layer.get_parameter("bias"))
    return layer


class Block(nn.Module):
    """Transformer block: layer norm, then attention and feed-forward part in parallel.

    Both parts read the same normalised input, and their outputs are added: two matrix products
    instead of four (Wang & Komatsuzaki 2021, GPT-J; Chowdhery et al. 2022, arXiv 2204.02311). The
    feed-forward part has a squared ReLU (So et al. 2021, arXiv 2109.08668). The weights of the last
    layer are 0 at first, so that a deep network starts near the identity.

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
        """Normalise positions, and compute the first layers of attention and feed-forward part.

        Args:
            x: Channels of positions, not normalised, (..., D).

        Returns:
            Queries, (..., D); keys and values, (..., K) each, where K is D, or D / heads with
            `multi_query`; and feed-forward channels before their activation, (..., expansion * D).
        """
        return self.enter(self.norm(x)).split(self.parts, -1)

    def write(self, x: Tensor, seen: Tensor, hidden: Tensor) -> Tensor:
        """Add the outputs of attention and of the feed-forward part to the channels of positions.

        Args:
            x: Channels of positions, (..., D).
            seen: Values weighted by the attention of the position, (..., D).
            hidden: Feed-forward channels, as `read` returns them, (..., expansion * D).

        Returns:
            Updated channels, (..., D).
        """
        return x + self.dropout(self.leave(torch.cat([seen, hidden * F.relu(hidden)], -1)))

    def keys_and_values(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute keys and values alone, for positions that are attended to but not updated.

        They equal those of `read`, without the cost of queries and feed-forward channels.

        Args:
            x: Channels of positions, (..., D).

        Returns:
            Keys and values, (..., K) each.
        """
        queries, keys, values, _ = self.parts
        rows = slice(queries, queries + keys + values)
        both = F.linear(self.norm(x), self.enter.weight[rows], self.enter.bias[rows])
        return both.split([keys, values], -1)

    def forward(self, x: Tensor, bias: Tensor, source: Tensor | None = None) -> Tensor:
        """Update all positions at once.

        Args:
            x: Channels of the positions, (B, N, D).
            bias: Attention biases, (B or 1, heads or 1, N, N). The third axis is the position that
                attends, the fourth the position that it attends to.
            source: Channels of positions to attend to instead, (B, N, D); None to attend to `x`.

        Returns:
            Updated channels, (B, N, D).
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
        """Update the next M positions of every row, which attend to the N positions so far.

        The N positions include the M new ones. So a new position attends to all new ones, also to
        later ones, unless the bias between them is `MASKED` (-30,000).

        Args:
            x: Channels of the M new positions, (M, B, D).
            bias: Attention biases, (M, N, B or 1, heads): from each new position to all N.
            extend: Function that takes the keys and the values of the new positions, (M, B, K)
                each, and returns those of all N positions, (N, B, K) each; see `Cache.extend`.

        Returns:
            Updated channels, (M, B, D).
        """
        query, key, value, hidden = self.read(x)
        keys, values = extend(key, value)
        seen = [attend(q, keys, values, b) for q, b in zip(query, bias, strict=True)]
        return self.write(x, torch.stack(seen), hidden)


def attend(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """Attend from one position of every row to N positions: softmax(query keys + bias) values.

    The scores are divided by the root of the number of channels of a head, as usual. With one query
    per row, elementwise products and sums over the cached keys and values are faster than matrix
    products.

    Args:
        query: One query per row, (B, D).
        keys: Keys of the N positions, (N, B, K): K is D, or D / heads if the heads share them.
        values: Values of the N positions, (N, B, K).
        bias: Attention biases, (N, B or 1, heads).

    Returns:
        Values weighted by attention, (B, D).
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

    Args:
        blocks: Number of attention blocks.
        mask: Mask (B, N) of the rows; only its shape is read, the number of rows and positions.
        like: Tensor (K,) that gives the number of channels of keys, type and device.

    Attributes:
        table: Keys (index 0 of the second axis) and values (index 1), (blocks, 2, N, B, K).
            Positions come before rows, so that a step writes one contiguous slice, and reads all
            earlier slices in order.
        filled: Number of positions that all blocks have written.
    """

    def __init__(self, blocks: int, mask: Tensor, like: Tensor):
        batch, length = mask.shape
        self.table = like.new_empty(blocks, 2, length, batch, len(like))
        self.filled = 0

    def extend(self, block: int, key: Tensor, value: Tensor) -> Tensor:
        """Write the keys and values of the next M positions of one block to `table`.

        `filled`, the number of positions that all blocks have written, stays: it is the same for
        all blocks, and `Transformer.next_positions` raises it by M after the last one.

        Args:
            block: Number of the block, from 0.
            key: Keys of the M positions after the first `filled` ones, (M, B, K). B may be less
                than before: the last rows have then left the batch.
            value: Values of the same positions, (M, B, K).

        Returns:
            Keys (index 0) and values (index 1) of this block at all N = `filled` + M positions so
            far, a view (2, N, B, K) of `table`.
        """
        so_far = self.table[block, :, : self.filled + len(key), : key.shape[1]]
        so_far[0, self.filled :] = key
        so_far[1, self.filled :] = value
        return so_far

    def select(self, rows: Tensor) -> None:
        """Replace the batch by some of its rows, in place.

        Args:
            rows: Indices of rows in the present batch, (R,) long; they may repeat.
        """
        table = self.table.new_empty(*self.table.shape[:3], len(rows), self.table.shape[-1])
        table[:, :, : self.filled] = self.table[:, :, : self.filled, rows]
        self.table = table


class Transformer(nn.ModuleList):
    """Sequence of attention blocks.

    Args:
        width: Channels D.
        heads: Attention heads of each block.
        expansion: Feed-forward hidden channels as a multiple of `width`.
        layers: Number of blocks.
        dropout: Share of the channels of an update that training leaves out.
        multi_query: True for one head of keys and values in each block.
    """

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
        """Apply all blocks to all positions at once.

        Args:
            h: Inputs of the positions, (B, N, D).
            bias: Attention biases, (B or 1, layers * heads, N, N), those of the first block first.
                The third axis is the position that attends, the fourth the position that it attends
                to.

        Returns:
            Outputs of the positions, (B, N, D).
        """
        for block, block_bias in zip(self, bias.split(self.heads, 1), strict=True):
            h = block(h, block_bias)
        return h

    def next_position(self, h: Tensor, bias: Tensor, cache: Cache) -> Tensor:
        """Evaluate all blocks for the next position of every row, and add it to the cache.

        Args:
            h: Input of the position, (B, D).
            bias: Attention biases from it to the N positions so far, itself included, (N, B or 1,
                layers * heads).
            cache: Keys and values of the positions before; extended in place.

        Returns:
            Output of the position, (B, D).
        """
        return self.next_positions(h[None], bias[None], cache)[0]

    def next_positions(self, h: Tensor, bias: Tensor, cache: Cache) -> Tensor:
        """Evaluate all blocks for the next M positions of every row, and add them to the cache.

        Args:
            h: Inputs of the new positions, (M, B, D).
            bias: Attention biases from each of them to the N positions so far, the new ones
                included, (M, N, B or 1, layers * heads).
            cache: Keys and values of the positions before; extended in place.

        Returns:
            Outputs of the new positions, (M, B, D).
        """
        biases = bias.split(self.heads, -1)
        for k, (block, block_bias) in enumerate(zip(self, biases, strict=True)):
            h = block.next_positions(h, block_bias, partial(cache.extend, k))  # type: ignore[operator]
        cache.filled += len(h)
        return h

    def cache(self, mask: Tensor) -> Cache:
        """Return an empty cache for B rows of N positions each.

        Args:
            mask: Mask of the rows, (B, N); only its shape is read.
        """
        block = self[0]
        assert isinstance(block, Block)
        return Cache(len(self), mask, block.norm.weight[: block.parts[1]])
