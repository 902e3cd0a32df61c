"""Probabilities of categories from counts in contexts of growing length, as of n-grams.

A *context* is what is known before a category, in part or in whole: the last k categories of a
sequence, or the categories of the first k parents of a column. It is written as one integer, its
*key*. Longer contexts tell more but are seen less often, so that the probabilities in a context are
mixed with those in the next shorter one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

FACTORS = (1, 2, 4, 8, 16, 32)
"""Factors of the weights in `ContextCounts` from which `best_factor` chooses."""

GAIN = 10.0
"""Least gain in nats of a longer context: the best of many useless contexts gains less."""


class ContextCounts(nn.Module):
    """Probabilities of a category, interpolated over ever more specific contexts s_0, s_1, ...

        p_k(c) = (n(s_k, c) + a(s_k) p_{k-1}(c)) / (n(s_k) + a(s_k))

    n(s, c) counts category c in context s, and n(s) counts all categories in it. The weight a(s) is
    the number of different categories in s (Witten & Bell 1991, *The zero-frequency problem*),
    times a factor. The caller gives p_{-1}, which is interpolated in the shortest context.

    Args:
        sizes: Number of contexts, and of pairs of a context and a category, of counts that are
            loaded from a file afterwards. To count, call `of` instead.

    Attributes:
        contexts: Keys of all contexts that have been seen, ascending, (contexts,) long.
        first: Index of the first pair of each context, and at the end the number of all pairs,
            (contexts + 1,) long.
        symbols: Category of each pair, (pairs,) int32.
        often: How often each pair has been seen, (pairs,) int32.
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
        """Count categories in contexts.

        Args:
            keys: For each context length, or column, the keys of the contexts of M rows, (M,); keys
                of different lengths or columns must differ.
            x: The categories of the rows in these contexts, (M,) each.
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
        """Numbers of contexts and of pairs, the argument `sizes` of the constructor."""
        return [len(self.contexts), len(self.symbols)]

    @torch.no_grad()
    def forward(self, keys: Tensor, p: Tensor, factors: Tensor, x: Tensor | None = None) -> Tensor:
        """Return the log-probabilities of all categories given their contexts.

        Args:
            keys: Keys of the contexts of M rows, from the shortest to the longest, (M, K) long. A
                context without counts, such as -1, changes nothing.
            p: Probabilities p_{-1}, to be interpolated in the shortest context, (M, C).
            factors: Factors of the weights a(s) of each context length, (M or 1, K).
            x: Categories of the rows, (M,) long, if the rows themselves have been counted: each is
                then left out of its own counts. None for rows that have not been counted.

        Returns:
            (M, C) nats.
        """
        for k in range(keys.shape[1]):
            key = keys[:, k].contiguous()
            index = torch.searchsorted(self.contexts, key).clamp(max=len(self.contexts) - 1)
            first = self.first[index]
            size = torch.where(self.contexts[index] == key, self.first[index + 1] - first, 0)
            # All pairs of all rows in one list: the row of each, and its index in `symbols`.
            row = torch.arange(len(p), device=p.device).repeat_interleave(size)
            shift = first - size.cumsum(0) + size
            pair = torch.arange(len(row), device=p.device) + shift[row]
            symbol, often = self.symbols[pair].long(), self.often[pair].to(p.dtype)
            if x is not None:
                often = often - (symbol == x[row]).to(p.dtype)
            total = p.new_zeros(len(p)).index_add_(0, row, often)
            different = p.new_zeros(len(p)).index_add_(0, row, (often > 0).to(p.dtype))
            weight = different * factors[:, k]
            mixed = p * weight[:, None]
            mixed.view(-1).index_add_(0, row * p.shape[1] + symbol, often)
            share = mixed / (total + weight).clamp(min=1e-9)[:, None]
            p = torch.where((total > 0)[:, None], share, p)
        return p.log()


def best_factor(context: np.ndarray, x: np.ndarray, q: np.ndarray) -> tuple[int, np.ndarray, float]:
    """Choose the factor of the weight in `ContextCounts` with which a context predicts best.

    Each of `FACTORS` is scored by the likelihood of the categories of all rows, each row left out
    of its own counts.

    Args:
        context: Context of each of M rows, any integers, (M,).
        x: Category of each row, (M,).
        q: Probability of this category in the next shorter context, (M,).

    Returns:
        The factor; the probability of each row's category with this factor, (M,); and the sum of
        their logarithms, nats.
    """
    _, s = np.unique(context, return_inverse=True)
    width = int(x.max(initial=0)) + 1
    pairs, joint, often = np.unique(s * width + x, return_inverse=True, return_counts=True)
    others, same = np.bincount(s)[s] - 1, often[joint] - 1
    different = np.bincount(pairs // width)[s] - (same == 0)
    best = (1, q, -np.inf)
    for factor in FACTORS:
        weight = factor * different
        p = np.where(others > 0, (same + weight * q) / np.maximum(others + weight, 1), q)
        if (score := float(np.log(p).sum())) <= best[2]:
            break
        best = factor, p, score
    return best
