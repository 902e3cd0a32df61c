"""Probabilities of categories from counts in contexts of growing length, as of n-grams.

- A *category* is an integer from 0. It is to be predicted for a position of a sequence, or a column
  of a table.
- A *context* of length k is part of what is known before the category. For a sequence it is the
  last k categories. For a column it is the categories of its first k *parents*, the columns on
  which it depends.
- The *key* of a context is one integer that stands for it.
- *Counts*: n(s, c) says how often category c has been seen in context s, and n(s) how often s.

Longer contexts tell more but are seen less often. So the probabilities in a context s_k of length k
are interpolated with those in the next shorter one:

    p_k(c) = (n(s_k, c) + a(s_k) p_{k-1}(c)) / (n(s_k) + a(s_k))

The weight a(s) is the number of different categories that were seen in s (Witten & Bell 1991, *The
zero-frequency problem*), times a *factor*. p_{-1} are the probabilities without any context.

A row that was counted can be *left out of its own counts* when it is scored: else it would seem
more probable than a new one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

FACTORS = (1, 2, 4, 8, 16, 32)
"""Factors of the weights in `ContextCounts` from which `best_factor` chooses."""

GAIN = 10.0
"""Least gain in nats of a longer context: the best of many useless contexts gains less."""


class ContextCounts(nn.Module):
    """Counts of categories in contexts, and the probabilities that follow by interpolation.

    To count, call `of`. The constructor makes tables of zeros, into which saved counts are loaded.
    `forward` gives the probabilities.

    Args:
        sizes: Number of contexts that have been seen, and of pairs of a context and a category.

    Attributes:
        contexts: Keys of all contexts that have been seen, ascending, (contexts,) long.
        first: Where the pairs of each context begin, (contexts + 1,) long: context k has the pairs
            `first[k]` to `first[k + 1] - 1`. The last entry is the number of all pairs.
        symbols: Category of each pair, (pairs,) int32.
        often: How often this category was seen in the context of the pair, (pairs,) int32.
    """

    contexts: Tensor
    first: Tensor
    symbols: Tensor
    often: Tensor

    def __init__(self, sizes: Sequence[int]):
        super().__init__()
        contexts, pairs = sizes
        self.register_buffer("contexts", torch.zeros(contexts, dtype=torch.long))
        self.register_buffer("first", torch.zeros(contexts + 1, dtype=torch.long))
        self.register_buffer("symbols", torch.zeros(pairs, dtype=torch.int32))
        self.register_buffer("often", torch.zeros(pairs, dtype=torch.int32))

    @classmethod
    def of(cls, keys: Sequence[np.ndarray], x: Sequence[np.ndarray]) -> ContextCounts:
        """Count categories in contexts, of several context lengths or columns at once.

        Contexts of different lengths or columns must have different keys.
        """
        width = max(int(categories.max(initial=0)) for categories in x) + 1
        both = zip(keys, x, strict=True)
        counted = [np.unique(key * width + value, return_counts=True) for key, value in both]
        pairs = np.concatenate([pair for pair, _ in counted])
        by_context = pairs.argsort(kind="stable")
        pairs = pairs[by_context]
        contexts, first = np.unique(pairs // width, return_index=True)
        made = cls((len(contexts), len(pairs)))
        made.contexts.copy_(torch.from_numpy(contexts))
        made.first.copy_(torch.from_numpy(np.append(first, len(pairs))))
        made.symbols.copy_(torch.from_numpy(pairs % width))
        made.often.copy_(torch.from_numpy(np.concatenate([n for _, n in counted])[by_context]))
        return made

    @property
    def sizes(self) -> list[int]:
        """Number of contexts, and of pairs of a context and a category; for the constructor."""
        return [len(self.contexts), len(self.symbols)]

    @torch.no_grad()
    def forward(
        self,
        keys: Tensor,
        p: Tensor,
        factors: Tensor,
        owner: Tensor | None = None,
        x: Tensor | None = None,
    ) -> Tensor:
        """Return the log-probabilities of all categories of N columns in M rows.

        For sequences, the M rows are positions, and N is 1. A column has K contexts in each row.

        Args:
            keys: From the shortest context to the longest, (M, N, K). A context that was never
                counted, such as the key -1, leaves the probabilities of the shorter one as they
                are.
            p: Probabilities p_{-1} without context, (M, S), one column after the other.
            factors: Factors of the weights a(s) of the K contexts, (N or 1, K).
            owner: Column of each of the S categories, ascending; None for a single column.
            x: Categories of counted rows, (M, N), which are left out of their own counts.

        Returns:
            (M, S) nats in the order of `p`; probabilities sum to 1 within each column.
        """
        for probabilities, _, _ in self.interpolated(keys, p, factors, owner, x):
            p = probabilities
        return p.log()

    def interpolated(
        self,
        keys: Tensor,
        p: Tensor,
        factors: Tensor,
        owner: Tensor | None = None,
        x: Tensor | None = None,
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield the probabilities p_0, p_1, ... of the contexts up to each length.

        Yields:
            Three tensors for each of the K contexts s_k, from the shortest to the longest: the
            probabilities p_k, (M, S); how often it was seen, n(s_k), (M, N); and the number of
            different categories that were seen in it, (M, N). If `x` is given, each row is left out
            of its own counts in all three.
        """
        shape, cells = keys.shape[:2], keys[..., 0].numel()
        owner = p.new_zeros(p.shape[1], dtype=torch.long) if owner is None else owner
        begin = torch.searchsorted(owner, torch.arange(shape[1], device=p.device))
        start = torch.arange(shape[0], device=p.device)[:, None] * p.shape[1] + begin
        for k in range(keys.shape[2]):
            index, seen = find(self.contexts, keys[..., k].flatten())
            first = self.first[index]
            size = torch.where(seen, self.first[index + 1] - first, 0)
            # All pairs of all rows and columns in one list: the cell of each, and its index in
            # `symbols`.
            cell = torch.arange(cells, device=p.device).repeat_interleave(size)
            shift = first - size.cumsum(0) + size
            pair = torch.arange(len(cell), device=p.device) + shift[cell]
            symbol, often = self.symbols[pair].long(), self.often[pair].to(p.dtype)
            if x is not None:
                often = often - (symbol == x.flatten()[cell]).to(p.dtype)
            total = p.new_zeros(cells).index_add_(0, cell, often).view(shape)
            different = p.new_zeros(cells).index_add_(0, cell, (often > 0).to(p.dtype))
            different = different.view(shape)
            weight = different * factors[:, k]
            # A context without counts leaves p as it is.
            counted, scale = total > 0, 1 / (total + weight).clamp(min=1e-9)
            p = p * torch.where(counted, weight * scale, 1)[:, owner]
            share = often * torch.where(counted, scale, 0).flatten()[cell]
            p.view(-1).index_add_(0, start.flatten()[cell] + symbol, share)
            yield p, total, different


def find(sorted_keys: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Find integers in a sorted list: their indices, arbitrary if absent, and if they are in it."""
    index = torch.searchsorted(sorted_keys, keys.contiguous()).clamp(max=len(sorted_keys) - 1)
    return index, sorted_keys[index] == keys


def best_factor(context: np.ndarray, x: np.ndarray, q: np.ndarray) -> tuple[int, np.ndarray, float]:
    """Choose the factor of the weights a(s) in `ContextCounts`, for contexts of one length.

    The factors 1, 2, 4, ..., 32 are tried, until the likelihood of the categories of all rows
    falls. Each row is left out of its own counts.

    Returns:
        The factor; the probability of each row's category with this factor, (M,); and the sum of
        the logarithms of these probabilities, nats.
    """
    s, width = numbered(context), int(x.max(initial=0)) + 1
    joint = numbered(s * width + x)
    often = np.bincount(joint)
    others, same = np.bincount(s)[s] - 1, often[joint] - 1
    owner = np.zeros(len(often), dtype=np.int64)
    owner[joint] = s  # the context of each pair
    different = np.bincount(owner)[s] - (same == 0)
    best = (1, q, -np.inf)
    for factor in FACTORS:
        weight = factor * different
        p = np.where(others > 0, (same + weight * q) / np.maximum(others + weight, 1), q)
        if (score := float(np.log(p).sum())) <= best[2]:
            break
        best = factor, p, score
    return best


def numbered(keys: np.ndarray) -> np.ndarray:
    """Replace keys by consecutive numbers: the smallest key by 0, the next larger one by 1, ...

    For instance [70, 5, 70, 9] becomes [2, 0, 2, 1].
    """
    most = int(keys.max(initial=0)) + 1
    if most > 16 * len(keys):
        return np.unique(keys, return_inverse=True)[1]
    # Counting is several times faster than sorting.
    return (np.bincount(keys, minlength=most) > 0).cumsum()[keys] - 1
