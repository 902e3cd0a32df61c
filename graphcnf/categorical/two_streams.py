"""Two-stream attention: what categories depend on, for all groups of positions at once.

The content stream knows a position's own categories, the query stream only those of earlier groups
(XLNet: Yang et al. 2019, arXiv 1906.08237). `InterleavedCoupling` uses it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.categorical.causal import HIDDEN
from graphcnf.flows.readout import ReadOut, silent


class TwoStreamBlock(nn.Module):
    """Pre-norm attention block whose keys and values come from the content stream.

    Args:
        width: Channels.
        heads: Attention heads; must divide `width`.
        expansion: Hidden channels of the feed-forward part, as a multiple of `width`.
    """

    def __init__(self, width: int, heads: int, expansion: float):
        super().__init__()
        if width % heads:
            raise ValueError(f"heads must divide the width, got {heads} and {width}")
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        # What a position attends to that may see no other.
        self.nothing = nn.Parameter(torch.zeros(2, 1, heads, 1, width // heads))
        self.out = nn.Linear(width, width)
        hidden = int(expansion * width)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)
        )
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.feed_forward[-1].get_parameter("weight"))

    def split(self, x: Tensor) -> Tensor:
        """(B, M, C) -> (B, heads, M, C / heads)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def keys_values(self, normed: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, heads, M, C / heads) of normalised content (B, M, C)."""
        key, value = self.key_value(normed).chunk(2, -1)
        return self.split(key), self.split(value)

    def with_nothing(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Put the key and the value of `nothing` before those of the positions."""
        none_key, none_value = self.nothing.expand(-1, len(key), -1, -1, -1)
        key = torch.cat([none_key.to(key.dtype), key], 2)
        return key, torch.cat([none_value.to(value.dtype), value], 2)

    def attend(self, x: Tensor, normed: Tensor, key: Tensor, value: Tensor, bias: Tensor):
        """Update x (B, M, C) from keys and values of N positions and, before them, of `nothing`.

        `bias` is (B or 1, heads, M, 1 + N).
        """
        query = self.split(self.query(normed)) * (normed.shape[-1] // self.heads) ** -0.5
        scores = query @ key.transpose(-1, -2) + bias
        read = scores.softmax(-1).to(value.dtype) @ value
        x = x + self.out(read.transpose(1, 2).flatten(2))
        return x + self.feed_forward(x)


def two_streams(
    blocks: Sequence[TwoStreamBlock], stack: Tensor, bias: Tensor, group: Tensor, mask: Tensor
) -> Tensor:
    """Run both streams through the blocks; the query stream (B, N, C) of all positions.

    Args:
        blocks: The blocks.
        stack: Content stream and query stream, (B, 2 N, C).
        bias: Attention biases of all blocks, (B or 1, blocks * heads, N, N).
        group: Group of each position, (B, N). Its content sees its own group and earlier ones, its
            query earlier ones only.
        mask: Real positions, (B, N) bool.
    """
    length = mask.shape[1]
    bias = F.pad(bias, (1, 0))
    difference = group[:, None, :] - group[:, :, None]
    visible = torch.stack([difference <= 0, difference < 0], 1) & mask[:, None, None, :]
    # (B, 1, 2, N, 1 + N). To add it takes a fraction of the time of masked_fill.
    hidden = F.pad(HIDDEN * ~visible[:, None], (1, 0))
    for k, block in enumerate(blocks):
        own = bias[:, k * block.heads : (k + 1) * block.heads]
        normed = block.norm(stack)
        key, value = block.with_nothing(*block.keys_values(normed[:, :length]))
        if k == len(blocks) - 1:
            # Nothing reads the content stream any more.
            stack, normed = stack[:, length:], normed[:, length:]
            own = own + hidden[:, :, 1]
        else:
            own = (own[:, :, None] + hidden).flatten(2, 3)
        stack = block.attend(stack, normed, key, value, own)
    return stack


class InterleavedAttention(nn.Module):
    """Attention network of `InterleavedCoupling`.

    Args:
        cardinalities: Categories of each of the V variables of a position.
        features: Channels of what is known of a position beforehand, 0 for none.
        pair_features: The same for a pair of positions.
        positions: Largest number of positions.
        width: Channels of a position.
        layers: Attention blocks.
        heads: Attention heads.
        expansion: Feed-forward hidden channels as a multiple of `width`.
        reach: Largest difference of positions that the relative bias tells apart.
        head_width: Hidden channels of the read-out of a variable.
    """

    def __init__(
        self,
        cardinalities: list[int],
        *,
        features: int = 0,
        pair_features: int = 0,
        positions: int,
        width: int,
        layers: int,
        heads: int = 8,
        expansion: float = 2,
        reach: int = 24,
        head_width: int = 64,
    ):
        super().__init__()
        self.cardinalities = list(cardinalities)
        self.positions, self.reach, self.layers, self.heads = positions, reach, layers, heads
        self.position = nn.Embedding(positions, width)
        self.from_end = nn.Embedding(positions + 1, width)
        self.features = nn.Linear(features, width) if features else None
        # The last category of each table stands for "this position lacks the variable".
        self.values = nn.ModuleList(nn.Embedding(c + 1, width) for c in self.cardinalities)
        self.asked = nn.Parameter(torch.zeros(width))
        self.relative = nn.Parameter(torch.zeros(layers * heads, 2 * reach + 1))
        self.pairs = nn.Linear(pair_features, layers * heads) if pair_features else None
        self.blocks: Sequence[TwoStreamBlock] = nn.ModuleList(  # type: ignore[assignment]  # not generic
            TwoStreamBlock(width, heads, expansion) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.ModuleList(nn.Linear(width, head_width) for _ in self.cardinalities)
        self.chain = nn.ModuleList(
            nn.ModuleList(nn.Embedding(c + 1, head_width) for c in self.cardinalities[:k])
            for k in range(len(self.cardinalities))
        )
        self.logits = nn.ModuleList(silent(ReadOut(head_width, c)) for c in self.cardinalities)
        for table in [self.position, self.from_end, *self.values]:
            nn.init.normal_(table.weight, std=0.3)

    def static(self, context) -> Tensor:
        """What a position knows before any variable is decided, (B or 1, N, C)."""
        mask = context.mask
        length = mask.shape[1]
        if length > self.positions:
            raise ValueError(f"{length} positions, but the model knows up to {self.positions}")
        number = torch.arange(length, device=mask.device)
        remaining = (mask.sum(1)[:, None] - number).clamp(min=0)
        h = self.position(number) + self.from_end(remaining)
        return h if self.features is None else h + self.features(context.features.to(h.dtype))

    def biases(self, context) -> Tensor:
        """Attention biases of all blocks, (B or 1, layers * heads, N, N)."""
        number = torch.arange(context.mask.shape[1], device=context.mask.device)
        difference = (number[:, None] - number).clamp(-self.reach, self.reach) + self.reach
        bias = self.relative[:, difference][None]
        if self.pairs is not None:
            bias = bias + self.pairs(context.pair_features.to(bias.dtype)).permute(0, 3, 1, 2)
        return bias

    def content(self, h: Tensor, x: Tensor) -> Tensor:
        """Input of the content stream: static channels plus embedded categories (B, M, V)."""
        for table, value in zip(self.values, x.unbind(-1), strict=True):
            h = h + table(value)
        return h

    def streams_of(self, x: Tensor, context, group: Tensor) -> Tensor:
        """Both streams in one pass; the query stream (B, N, C) of all positions.

        A position's entry depends on the categories x (B, N, V) of earlier groups only.
        """
        mask = context.mask
        h = self.static(context)
        asked = (h + self.asked).expand(len(mask), -1, -1)
        content = self.content(h, x)
        stack = torch.cat([content, asked], 1)
        return self.norm(two_streams(self.blocks, stack, self.biases(context), group, mask))

    def rounds(self, context, group: Tensor) -> CachedRounds:
        """The same round by round, with an object that has `ask` and `tell`."""
        return CachedRounds(self, context, group)

    def read_out(self, h: Tensor, previous: list[Tensor]) -> Tensor:
        """Logits (B, M, cardinality) of the variable that follows the `previous` ones."""
        k = len(previous)
        hidden = self.hidden[k](h)
        for table, value in zip(self.chain[k].children(), previous, strict=True):
            hidden = hidden + table(value)
        return self.logits[k](F.gelu(hidden))


class CachedRounds:
    """Streams of one group after the other, keys and values of the content kept.

    What is told of a group runs through the blocks together with what is asked next: the two see
    the same positions, and half as many small operations are faster.
    """

    def __init__(self, network: InterleavedAttention, context, group: Tensor):
        self.network, self.context, self.group = network, context, group
        batch, length = context.mask.shape
        self.rows = torch.arange(batch, device=group.device)[:, None]
        self.h = network.static(context).expand(batch, -1, -1)
        self.bias = network.biases(context).expand(batch, -1, -1, -1)
        head = self.h.shape[-1] // network.heads
        # The first column is `nothing`; what padding of a group writes goes to the last.
        shape = network.layers, 2, batch, network.heads, length + 2, head
        self.keys = self.h.new_zeros(shape)
        for keys, block in zip(self.keys, network.blocks, strict=True):
            keys[:, :, :, :1] = block.nothing
        self.told: tuple[Tensor, Tensor, Tensor] | None = None

    def tell(self, g: int, members: Tensor, real: Tensor, known: Tensor) -> None:
        """Take the categories of group g, now known; `real` (B, M) says who is no padding."""
        content = self.network.content(self.h[self.rows, members], known[self.rows, members])
        column = torch.where(real, members + 1, self.group.shape[1] + 1)
        self.told = content, members, column

    def ask(self, g: int, members: Tensor, known: Tensor) -> Tensor:
        """Query stream (B, M, C) of `members` (B, M) of group g, given `known` (B, N, V)."""
        net = self.network
        x = self.h[self.rows, members] + net.asked
        contents = 0
        if self.told is not None:
            content, told_members, column = self.told
            contents = content.shape[1]
            x, members = torch.cat([content, x], 1), torch.cat([told_members, members], 1)
            self.told = None
        hidden = ~((self.group < g) & self.context.mask)[:, None, None]
        bias = self.bias[self.rows, :, members].transpose(1, 2) + HIDDEN * hidden
        bias = F.pad(bias, (1, 0))
        for k, block in enumerate(net.blocks):
            normed = block.norm(x)
            if contents:
                for which, new in enumerate(block.keys_values(normed[:, :contents])):
                    cache = self.keys[k, which].transpose(1, 2)
                    cache[self.rows, column] = new.transpose(1, 2).to(self.h)
            own = bias[:, k * net.heads : (k + 1) * net.heads]
            if k == net.layers - 1:
                x, normed, own = x[:, contents:], normed[:, contents:], own[:, :, contents:]
            key, value = self.keys[k, :, :, :, :-1]
            x = block.attend(x, normed, key, value, own)
        return net.norm(x)
