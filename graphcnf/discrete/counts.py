"""Density of the rows of a table from counts and ridge regressions, the start of `ColumnMLP`.

- A table has M rows and N *columns* of *categories*; each column has categories 0, 1, ... of its
  own.
- The *slot* of a category is defined in `graphcnf.discrete.columns`; there are S slots.
- The *order* is one of the columns, in which each is predicted from those before it. The *rank* of
  a column is its index in an order.
- The *parents* of a column are the few columns before it in the order that tell most about it.
- The *contexts* of a column are the combinations of categories of its first 0, 1, 2, ... parents.
  The *key* of a context is an integer that stands for it.
- *Counts* say how often each category of a column occurs in each context. Probabilities follow by
  interpolation (`graphcnf.discrete.contexts.ContextCounts`).
- A row that was counted is *left out of its own counts* when it is scored: else it would seem more
  probable than a new one.
- A *ridge regression* adds to these log-probabilities. It has a weight for each pair of a category
  of an earlier column and a category of the column. Its *penalty* keeps weights small that the data
  do not need.
"""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.discrete.contexts import GAIN, ContextCounts, best_factor, find, numbered
from graphcnf.flows.transform import log_term_dtype

LARGEST_PAIRS = 1024
"""Largest number of categories (of all columns together) for which pairs get weights."""

CANDIDATES = 16
"""Number of columns that are tried as the next parent of a column."""

CHOOSING = 20_000
"""Number of rows by which parents are chosen, at most."""

LARGEST_KEY = 2**48
"""Largest number of contexts of all columns together, seen or not: each needs a key of its own."""

PENALTIES = (64.0, 16.0, 4.0)
"""Candidate penalties of a regression: nats per half of a squared weight, from high to low."""

ITERATIONS = 25
"""Steps of L-BFGS for each penalty."""

FOLDED = 500
"""With fewer rows, penalties are chosen with each quarter of them held out in turn; with more, only
the first quarter is held out."""

LARGEST_TABLES = 50_000_000
"""Largest number of probabilities in contexts that are tabulated, of all columns together."""

LARGEST_REGRESSION = 1e9
"""Largest number of products in a step of a regression: it is fitted to as many rows as this
allows. If these are less than half of all rows, there is no regression."""

CHUNK = 4096
"""Rows whose counts are looked up at a time."""

SPARSE = 16
"""Number of categories per column, on average. With more, it is faster to tabulate the
probabilities in all contexts, to add rows of tables one by one, and to normalise columns one by
one."""


@dataclass
class Tables:
    """Probabilities of categories in all contexts, computed from counts once, to be looked up.

    Contexts are numbered as in `ContextCounts.contexts`, those of the first column first.

    Attributes:
        p: For each column a table (1 + K, C) of the probabilities of its C categories: row 0
            without any context, then one row for each of its K contexts.
        first: Number of the first context of each column, (N,) long.
        total: How many rows have been counted in each context, (contexts,) long.
        different: How many different categories have been counted in each context, (contexts,)
            long.
        pairs: Each pair of a context and a category that has been seen, as the integer context *
            `width` + category, ascending, (pairs,) long.
        width: Largest number of categories of a column.
    """

    p: list[Tensor]
    first: Tensor
    total: Tensor
    different: Tensor
    pairs: Tensor
    width: int


class ColumnCounts(nn.Module):
    """Probabilities of the categories of columns given their parents, from counts.

    Args:
        parents: For each column the numbers of its parents, the most informative one first.
        factors: For each column a list as long as its parents: by which factor the weight of the
            next shorter context is multiplied in contexts with 1, 2, ... parents.
        sizes: `ContextCounts.sizes` of counts that are loaded from a file afterwards: number of
            contexts, number of pairs of a context and a category.

    Attributes:
        parents: The parents of each column, (N, L - 1) long, padded with -1, where L - 1 is the
            largest number of parents.
        starts: Keys of the contexts of a column with k parents begin at `starts[column, k]`, (N, L)
            long.
        cardinalities: Number of categories of each column, (N,) long.
        uniform: 1 / number of categories of the column, for each slot, (S,).
        counts: Counts of the categories in each context.
    """

    parents: Tensor
    starts: Tensor
    factors: Tensor
    cardinalities: Tensor
    owner: Tensor
    uniform: Tensor

    def __init__(
        self,
        cardinalities: Sequence[int],
        parents: Sequence[Sequence[int]],
        factors: Sequence[Sequence[int]],
        sizes: Sequence[int] = (0, 0),
    ):
        super().__init__()
        if not len(cardinalities) == len(parents) == len(factors):
            raise ValueError(f"{len(cardinalities)} columns, but parents of {len(parents)}")
        levels, first = max(map(len, parents), default=0), 0
        known = torch.tensor(cardinalities)
        table = torch.full((len(known), levels), -1)
        weights = torch.zeros(len(known), levels + 1)
        starts = torch.zeros(len(known), levels + 1, dtype=torch.long)
        for k, (chosen, factor) in enumerate(zip(parents, factors, strict=True)):
            if len(chosen) != len(factor) or not all(0 <= p < len(known) for p in chosen):
                raise ValueError(f"column {k} of {len(known)} cannot have the parents {chosen}")
            table[k, : len(chosen)] = torch.tensor(chosen, dtype=torch.long)
            weights[k, 1 : len(chosen) + 1] = torch.tensor(factor)
            for level in range(len(chosen) + 1):
                starts[k, level] = first
                first += math.prod(int(cardinalities[parent]) for parent in chosen[:level])
                if first > LARGEST_KEY:
                    raise ValueError(f"parents {chosen} with more than {LARGEST_KEY:,} categories")
        weights[:, 0] = 0.5  # half a row of each category
        owner = torch.arange(len(known)).repeat_interleave(known)
        named = {
            "parents": table, "starts": starts, "factors": weights, "cardinalities": known,
            "owner": owner, "uniform": 1 / known[owner],
        }  # fmt: skip
        for name, value in named.items():
            self.register_buffer(name, value, persistent=False)
        self.counts = ContextCounts(sizes)
        self._made: tuple[tuple[Tensor | None, Tensor | None], Tables | None] = (None, None), None

    def keys(self, x: Tensor, rank: Tensor | None, columns: Tensor) -> Tensor:
        """Return the keys of contexts of M columns with the first 0, 1, ... parents, (B, M, L).

        A parent is known if its rank is lower than that of the column, or if `rank` is None. The
        key is -1 if one of the parents is not known, or the column has fewer.
        """
        number = x.new_zeros(len(x), len(columns))
        usable = torch.ones_like(number, dtype=torch.bool)
        keys = [self.starts[columns, 0].expand_as(number)]
        for level, parent in enumerate(self.parents[columns].unbind(-1), 1):
            usable = usable & (parent >= 0)
            parent = parent.clamp(min=0)
            if rank is not None:
                usable = usable & (rank[:, parent] < rank[:, columns])
            size = self.cardinalities[parent]
            # Categories that the column does not have are impossible: any valid context will do.
            number = number * size + x[:, parent].minimum(size - 1)
            keys.append(torch.where(usable, self.starts[columns, level] + number, -1))
        return torch.stack(keys, -1)

    def forward(
        self, x: Tensor, rank: Tensor, column: int | None = None, counted: bool = False
    ) -> Tensor:
        """Return the log-probabilities of the categories of one column, or of all, nats by slot.

        Parents are known as in `keys`. Rows that have been `counted` are left out of their own
        counts.
        """
        every = torch.arange(len(self.parents), device=x.device)
        columns = every if column is None else every[column : column + 1]
        keys = self.keys(x, rank, columns)
        own = x[:, columns] if counted else None
        tables = self._tables()
        if tables is None:
            slots = slice(None) if column is None else self.owner == column
            kind = log_term_dtype(self.uniform)
            p = self.uniform[slots].to(kind).expand(len(x), -1)
            factors = self.factors[columns].to(kind)
            return self.counts(keys, p, factors, self.owner[slots] - columns[0], own)
        rows, weights, of_own = self._interpolated(tables, keys, columns, own)
        parts = [
            F.embedding_bag(rows[:, i], tables.p[k], mode="sum", per_sample_weights=weights[:, i])
            for i, k in enumerate(columns.tolist())
        ]
        p = torch.cat(parts, 1)
        if own is not None:
            sizes = self.cardinalities[columns]
            p = p.scatter(1, own + sizes.cumsum(0) - sizes, of_own)
        return p.log()

    def _interpolated(
        self, tables: Tables, keys: Tensor, columns: Tensor, own: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return how the probabilities of M columns in B rows follow from the tables."""
        index, seen = find(self.counts.contexts, keys)
        kind = log_term_dtype(self.uniform)
        rows = F.pad(torch.where(seen, index - tables.first[columns, None] + 1, 0), (1, 0))
        p = (1 / self.cardinalities[columns]).to(torch.float64).expand(seen.shape[:2])
        if own is None:
            return rows, F.one_hot(seen.sum(-1), rows.shape[-1]).to(kind), p.to(kind)
        total = tables.total[index].double()
        different = tables.different[index].double()
        pair, there = find(tables.pairs, index * tables.width + own[..., None])
        same = torch.where(there, self.counts.often[pair], 0)
        factor = self.factors[columns].double()
        weight = different * factor
        smaller = (different - (same == 1).double()) * factor
        # A context that only this row has leaves the probabilities of the shorter one.
        scale = torch.where(seen & (total > 1), 1 / (total - 1 + smaller).clamp(min=1e-9), 0)
        kept = torch.where(scale > 0, smaller * scale, 1)
        weights = F.pad(torch.zeros_like(scale), (1, 0))
        weights[..., 0] = 1
        for k in range(scale.shape[-1]):
            weights *= kept[..., k, None]
            weights[..., k + 1] += ((total + weight) * scale)[..., k]
            weights[..., k] -= (weight * scale)[..., k]
            p = p * kept[..., k] + ((same - 1) * scale)[..., k]
        return rows, weights.to(kind), p.to(kind)

    def _tables(self) -> Tables | None:
        """Return the probabilities in all contexts, from the counts as they are."""
        if len(self.owner) <= SPARSE * len(self.parents):
            return None
        sources = self.counts.often, self.uniform
        if any(map(operator.is_not, self._made[0], sources)):
            self._made = sources, self._tabulated()
        return self._made[1]

    @torch.no_grad()
    def _tabulated(self) -> Tables | None:
        """Make the tables; None if they would have more than 50 million entries."""
        contexts = self.counts.contexts
        width = int(self.cardinalities.max())
        first = torch.searchsorted(contexts, self.starts[:, 0].contiguous())
        sizes = first.diff(append=first.new_tensor([len(contexts)])) + 1
        if int((sizes * self.cardinalities).sum()) > LARGEST_TABLES:
            return None
        tables: list[Tensor] = []
        kind = log_term_dtype(self.uniform)
        for k, (begin, size) in enumerate(zip(first.tolist(), sizes.tolist(), strict=True)):
            uniform = self.uniform[self.owner == k].to(kind).expand(size, -1)
            keys = self._shorter(k, contexts[begin : begin + size - 1])
            # A context that has never been seen leaves the first row as it is.
            keys = F.pad(keys, (0, 0, 1, 0), value=-1)[:, None]
            tables.append(self.counts(keys, uniform, self.factors[k : k + 1].to(kind)).exp())
        different = self.counts.first.diff()
        owner = torch.arange(len(contexts), device=first.device).repeat_interleave(different)
        total = torch.zeros_like(different).index_add_(0, owner, self.counts.often.long())
        pairs = owner * width + self.counts.symbols
        return Tables(tables, first, total, different, pairs, width)

    def _shorter(self, k: int, keys: Tensor) -> Tensor:
        """Return the keys of the contexts of fewer parents that contexts of column k contain."""
        levels = int((self.parents[k] >= 0).sum()) + 1
        starts = self.starts[k, :levels]
        found = keys.new_full((len(keys), self.starts.shape[1]), -1)
        level = torch.searchsorted(starts, keys, right=True) - 1
        number = keys - starts[level]
        for shorter in reversed(range(levels)):
            there = level >= shorter
            found[:, shorter] = torch.where(there, starts[shorter] + number, -1)
            size = self.cardinalities[self.parents[k, shorter - 1]] if shorter else 1
            number = torch.where(there, number // size, number)
        return found

    def _load_from_state_dict(self, *arguments: Any) -> None:
        self._made = (None, None), None  # counts are loaded in place
        super()._load_from_state_dict(*arguments)

    def count(self, x: Tensor) -> None:
        """Count a table without missing entries, in place of earlier counts."""
        columns = range(x.shape[1])
        keys = self.keys(x, None, torch.tensor(columns))
        levels = [(k, keys[:, k, level]) for level in range(keys.shape[2]) for k in columns]
        seen = [(key.numpy(), x[:, k].numpy()) for k, key in levels if key[0] >= 0]
        self.counts = ContextCounts.of(*zip(*seen, strict=True))


@dataclass
class Counts:
    """Bayesian network of columns from counts, with a ridge regression on top; `of` fits it.

    The order of the columns is that of a Chow-Liu tree. The parents of a column and their factors
    are chosen greedily by leave-one-out likelihood. The regression adds to the logits of a column a
    weight for each category of the columns before it. Its penalty is the one with the highest
    likelihood of held-out rows.

    S is the number of slots, of the categories of all columns together. With more than 1024
    (`LARGEST_PAIRS`), there is no regression, and S is 0 below.

    Attributes:
        parents: For each column the numbers of its parents, the most informative one first.
        factors: For each column a list as long as its parents: by which factor (1, 2, 4, ..., 32)
            the weight of the next shorter context is multiplied in contexts with 1, 2, ... parents.
        information: Pointwise mutual information (S, S), nats, of a category of a column (first
            axis) and a category of its first parent (second axis); 0 elsewhere.
        weights: Weights of the regression, (S, S): the first axis is the category of an earlier
            column, the second the category of the column that is predicted.
        penalties: Penalty of the regression of each column, (N,); infinite for no regression.

    References:
        Chow & Liu, *Approximating discrete probability distributions with dependence trees*, 1968.
    """

    order: np.ndarray
    parents: list[list[int]]
    factors: list[list[int]]
    columns: ColumnCounts
    information: np.ndarray
    weights: np.ndarray
    penalties: np.ndarray

    @property
    def arguments(self) -> dict[str, Any]:
        """The argument `counts` of `ColumnMLP`: all but the counts themselves, JSON."""
        arguments = {"parents": self.parents, "factors": self.factors}
        return {"order": self.order.tolist(), **arguments, "sizes": self.columns.counts.sizes}

    def starts(self, x: Tensor, counted: np.ndarray) -> Tensor:
        """Look up the log-probabilities of all categories by counts, (M, S) nats, for `Rows.start`.

        The rows with the indices `counted` are left out of their own counts.
        """
        rank = torch.from_numpy(self.order.argsort())[None]
        found = torch.empty(len(x), len(self.columns.owner))
        is_counted = np.isin(np.arange(len(x)), counted)
        for own in (True, False):
            for rows in torch.from_numpy(np.flatnonzero(is_counted == own)).split(CHUNK):
                found[rows] = self.columns(x[rows], rank, counted=own).float()
        return found

    @classmethod
    def of(
        cls,
        x: np.ndarray,
        cardinalities: Sequence[int],
        like: Counts | None = None,
        last: int | None = None,
    ) -> Counts:
        """Choose order and parents of the columns of a table, count it, and fit the regression.

        With `like`, its order, parents, factors and penalties are kept; else column `last` comes
        last. There is no regression (`weights` are then 0) for fewer than 8 rows, more than 1024
        categories in all, or so many rows that a step of fitting half of them would take more than
        10^9 products (`LARGEST_REGRESSION`).
        """
        sizes = np.array(cardinalities, dtype=np.int64)
        if like is None:
            shared = mutual_information(x, sizes)
            order = spanning_tree(shared)[0]
            order = order[np.argsort(order == last, kind="stable")]  # all others stay in order
            some = x[:CHOOSING]
            chosen = [_parents(some, sizes, k, order, shared) for k in range(len(sizes))]
            parents, factors = ([pair[i] for pair in chosen] for i in (0, 1))
        else:
            order, parents, factors = like.order, like.parents, like.factors
        columns = ColumnCounts(sizes.tolist(), parents, factors)
        columns.count(torch.from_numpy(x))
        total = sizes.sum() if sizes.sum() <= LARGEST_PAIRS else 0
        weights, information = np.zeros((total, total)), np.zeros((total, total))
        for k, of_column in enumerate(parents):
            if of_column and total:
                a, b = (slots_of(sizes, j) for j in (k, of_column[0]))
                information[a, b] = _pointwise(x, sizes, k)[1][:, b]
        penalties = np.full(len(sizes), np.inf) if like is None else like.penalties
        made = cls(order, parents, factors, columns, information, weights, penalties)
        if total and 8 <= len(x) <= 2 * _regressed(sizes):
            made.penalties = _penalties(x, sizes, made) if like is None else penalties
            made.weights = _Regression(x, sizes, made, True).fit(made.penalties).numpy()
        return made


def slots_of(sizes: np.ndarray, column: int) -> slice:
    """Return the slots of the categories of a column, as a slice.

    For columns of 2 and 3 categories, those of column 1 are the slots 2 to 4: slice(2, 5).
    """
    stop = int(sizes[: column + 1].sum())
    return slice(stop - int(sizes[column]), stop)


def _pointwise(x: np.ndarray, sizes: np.ndarray, column: int) -> tuple[np.ndarray, np.ndarray]:
    """Estimate how much the categories of a column tell about those of all columns."""
    starts, total, own = sizes.cumsum() - sizes, int(sizes.sum()), slots_of(sizes, column)
    often = np.bincount((x + starts).ravel(), minlength=total).astype(float)
    p = (often + 0.5) / (len(x) + 0.5 * sizes).repeat(sizes)
    pairs = x[:, column, None] * total + x + starts
    counted = np.bincount(pairs.ravel(), minlength=sizes[column] * total).reshape(-1, total)
    both = (counted + np.outer(p[own], p)) / (len(x) + 1)
    # The margins of the pairs are those of the counts with one row added, in each of two columns.
    margin = (often + p) / (len(x) + 1)
    return both, np.log(both / np.outer(margin[own], margin))


def mutual_information(x: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Estimate the mutual information of all pairs of columns: how much they tell about each other.

    Counts are smoothed: half a row is added for each category, and one row of independent columns
    to each pair of columns.

    The result is (N, N) nats, 0 on the diagonal.
    """
    shared = np.zeros((len(sizes), len(sizes)))
    for k in range(len(sizes)):
        both, pointwise = _pointwise(x, sizes, k)
        shared[k] = np.add.reduceat((both * pointwise).sum(0), sizes.cumsum() - sizes)
    np.fill_diagonal(shared, 0)
    return shared


def spanning_tree(shared: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the Chow-Liu tree: the spanning tree of columns with the most mutual information.

    Prim's algorithm starts from the column with the largest sum of mutual information.

    Returns the columns in the order in which they join the tree, and the parent of each column by
    its number, (N,) each. The first column of the order is its own parent.
    """
    order = [int(shared.sum(1).argmax())]
    best, parent = shared[order[0]].copy(), np.full(len(shared), order[0])
    left = np.arange(len(shared)) != order[0]
    while left.any():
        child = int(np.where(left, best, -np.inf).argmax())
        order.append(child)
        left[child] = False
        closer = left & (shared[child] > best)
        best, parent = np.where(closer, shared[child], best), np.where(closer, child, parent)
    return np.array(order), parent


def _parents(
    x: np.ndarray, sizes: np.ndarray, child: int, order: np.ndarray, shared: np.ndarray
) -> tuple[list[int], list[int]]:
    """Choose the parents of a column greedily by leave-one-out likelihood."""
    c, parents, factors = x[:, child], list[int](), list[int]()
    before = order[: order.tolist().index(child)]
    # Columns that share the most with the child.
    left = before[shared[child, before].argsort()[::-1][:CANDIDATES]].tolist()
    n = np.bincount(c, minlength=sizes[child]) + 0.5
    q = (n[c] - 1) / (n.sum() - 1)  # without the row itself
    context, combinations, score = np.zeros(len(x), dtype=np.int64), 1, float(np.log(q).sum())
    while left:
        tried = [best_factor(context * sizes[k] + x[:, k], c, q) for k in left]
        best = max(range(len(left)), key=lambda k: tried[k][2])
        combinations *= int(sizes[left[best]])
        if tried[best][2] < score + GAIN or combinations > LARGEST_KEY / 2**12:
            break
        factor, q, score = tried[best]
        parent = left.pop(best)
        context = numbered(context * sizes[parent] + x[:, parent])
        parents.append(parent)
        factors.append(factor)
    return parents, factors


def normalised(logits: Tensor, owner: Tensor) -> Tensor:
    """Turn logits by slot into log-probabilities, nats, by a log-softmax of each column."""
    columns = int(owner[-1]) + 1
    member = F.one_hot(owner, columns).to(logits)
    sizes = member.sum(0)
    if (sizes == sizes[0]).all():
        return logits.unflatten(1, (columns, -1)).log_softmax(-1).flatten(1)
    if len(owner) > SPARSE * columns:
        parts = logits.split([int(size) for size in sizes], 1)
        return torch.cat([part.log_softmax(1) for part in parts], 1)
    top = logits.new_full((len(logits), columns), -math.inf)
    top = top.scatter_reduce(1, owner.expand_as(logits), logits.detach(), "amax")
    logits = logits - top[:, owner]
    return logits - F.linear((logits.exp() @ member).log(), member)


def weighted_sum(table: Tensor, number: Tensor, weight: Tensor) -> Tensor:
    """Sum rows of a table with weights: result[b] = sum over n of weight[b, n] table[number[b, n]].

    This is a product of the table with vectors of which only N of S entries differ from 0.

    The N entries of a row of `number` must differ.
    """
    weight = weight.to(table.dtype)
    if len(table) > SPARSE * number.shape[1]:
        return F.embedding_bag(number, table, mode="sum", per_sample_weights=weight)
    return table.new_zeros(len(number), len(table)).scatter_(1, number, weight) @ table


class _Regression:
    """Ridge regressions of all columns on the categories of the columns before them."""

    def __init__(self, x: np.ndarray, sizes: np.ndarray, counts: Counts, counted: bool):
        x = x[: _regressed(sizes)]
        self.column = torch.arange(len(sizes)).repeat_interleave(torch.from_numpy(sizes))
        rows, rank = torch.from_numpy(x), torch.from_numpy(counts.order.argsort())
        self.start = counts.starts(rows, np.arange(len(rows) if counted else 0))
        self.slots = rows + torch.from_numpy(sizes.cumsum() - sizes)
        earlier = rank[self.column][:, None] < rank[self.column]
        self.earlier = earlier.to(self.start)  # products with bool are slow

    def nats(self, weights: Tensor) -> Tensor:
        """Return -log p of each column, summed over the rows."""
        every = torch.ones_like(self.slots)
        logits = self.start + weighted_sum(weights * self.earlier, self.slots, every)
        log_p = normalised(logits, self.column)
        return -log_p.gather(1, self.slots).sum(0)

    def fit(self, penalties: np.ndarray, weights: Tensor | None = None) -> Tensor:
        """Fit the weights by L-BFGS."""
        penalty = torch.from_numpy(penalties)[self.column].to(self.start)
        free = penalty.isfinite()
        penalty = torch.where(free, penalty, 0) / 2
        size, rows = len(self.column), len(self.slots)
        weights = (torch.zeros(size, size) if weights is None else weights).requires_grad_()
        optimizer = torch.optim.LBFGS(
            [weights], max_iter=ITERATIONS, history_size=10, line_search_fn="strong_wolfe"
        )

        def loss():
            optimizer.zero_grad()
            value = self.nats(weights * free).sum() + (weights.square() * penalty).sum()
            (value / rows).backward()
            return value.detach() / rows

        if free.any():
            optimizer.step(loss)
        return weights.detach() * free * self.earlier


def _regressed(sizes: np.ndarray) -> int:
    """Return the number of rows of a regression that `LARGEST_REGRESSION` allows, at least 8."""
    total = int(sizes.sum())
    return max(int(LARGEST_REGRESSION / (total * min(total, SPARSE * len(sizes)))), 8)


def _penalties(x: np.ndarray, sizes: np.ndarray, counts: Counts) -> np.ndarray:
    """Choose the penalty of each column with the highest held-out likelihood."""
    x = x[: _regressed(sizes)]
    scores, quarter = np.zeros((len(PENALTIES) + 1, len(sizes))), len(x) // 4
    for fold in range(4 if len(x) < FOLDED else 1):
        out = np.arange(fold * quarter, (fold + 1) * quarter)
        rest, weights = np.delete(x, out, 0), None
        refitted = replace(counts, columns=copy.deepcopy(counts.columns))
        refitted.columns.count(torch.from_numpy(rest))
        inside = _Regression(rest, sizes, refitted, True)
        outside = _Regression(x[out], sizes, refitted, False)
        scores[0] += outside.nats(torch.zeros(len(inside.column), len(inside.column))).numpy()
        for k, penalty in enumerate(PENALTIES, 1):
            weights = inside.fit(np.full(len(sizes), penalty), weights)
            scores[k] += outside.nats(weights).numpy()
    return np.array([np.inf, *PENALTIES])[scores.argmin(0)]
