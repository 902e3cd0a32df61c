"""Densities of the rows of a table from counts and regressions, with which a network starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

CANDIDATES = 16
"""Columns that are tried as a second parent of each column."""

GAIN = 10.0
"""Nats that a second parent has to gain: more than the best of some useless ones does."""

LARGEST_COUNTS = 1_000_000
"""Largest number of counts of three columns."""

PENALTIES = (64.0, 16.0, 4.0)
"""Penalties that are tried for the weights of a regression, halves of their squares in nats."""

ITERATIONS = 25
"""Steps of L-BFGS for each penalty."""

FOLDED = 500
"""Fewest rows of which only one quarter scores the penalties."""

LARGEST_REGRESSION = 1e9
"""Largest number of products of a step; a regression leaves out rows beyond that."""


@dataclass
class Counts:
    """Density of the rows of a table: a Chow-Liu tree, second parents, and a regression.

    Half a row is added to the counts of each category, and a row with independent columns to those
    of pairs. A second parent is there where it gains by leave-one-out: with strengths of 1 to 64
    rows, the probabilities given one parent are mixed with the counts given both. A ridge
    regression adds to the logits of each column one number for each category of the columns before
    it; the penalty is that which does best on rows that were left out.

    Attributes:
        order: The columns, parents before children, (N,).
        first: The parent of each column in the tree, (N,); of the first one itself.
        log_p: Log-probabilities of the S categories of all columns.
        information: Pointwise mutual information of neighbours in the tree, 0 elsewhere, (S, S) in
            nats.
        second: For each column its second parent and the strength, None for a column without.
        beyond: For each column with two parents, what the second one adds to the logarithm of the
            conditional probability given the first, (A * B, C).
        weights: Weights of the regression, (S, S): of the known category and the possible one.
        penalties: Penalties of the regression of each column, infinite where it gains nothing.

    References:
        Chow & Liu, *Approximating discrete probability distributions with dependence trees*, 1968.
    """

    order: np.ndarray
    first: np.ndarray
    log_p: np.ndarray
    information: np.ndarray
    second: list[tuple[int, int] | None]
    beyond: list[np.ndarray]
    weights: np.ndarray = field(default_factory=lambda: np.zeros(0))
    penalties: np.ndarray = field(default_factory=lambda: np.zeros(0))

    @property
    def parents(self) -> list[list[int] | None]:
        """The two parents of each column, None for a column with fewer."""
        pairs = zip(self.first.tolist(), self.second, strict=True)
        return [[a, b[0]] if b else None for a, b in pairs]

    @classmethod
    def of(
        cls,
        x: np.ndarray,
        cardinalities: Sequence[int],
        like: Counts | None = None,
        *,
        tree: bool = False,
    ) -> Counts:
        """Return the density of categories x (M, N), or the tree only.

        With `like`, columns have its order, parents and penalties.
        """
        sizes = np.array(cardinalities, dtype=np.int64)
        found, shared = _tree(x, sizes, like)
        if tree:
            return found
        tables = {}
        starts, order = sizes.cumsum() - sizes, found.order.tolist()
        for place, child in enumerate(order[2:], 2):
            parent = found.first[child]
            own, above = (slice(starts[k], starts[k] + sizes[k]) for k in (child, parent))
            given = np.exp(found.log_p[own] + found.information[above, own])
            if like is None:
                # Columns that share the most with the child, but for its parent.
                others = [k for k in order[:place] if k != parent]
                others = sorted(others, key=lambda k: -shared[child, k])[:CANDIDATES]
                chosen = _second_parent(x, sizes, child, x[:, parent], others, given)
            else:
                chosen = like.second[child]
            if chosen is not None:
                other, strength = chosen
                both = x[:, parent] * sizes[other] + x[:, other]
                n = _count(both, x[:, child], sizes[other], given)
                prior = np.repeat(given, sizes[other], 0)
                p = (n + strength * prior) / (n.sum(1, keepdims=True) + strength)
                found.second[child], tables[child] = chosen, np.log(p / prior)
        found.beyond = [tables[k] for k in sorted(tables)]
        if like is None:
            found.weights, found.penalties = _regressed(x, sizes, found, None)
        elif len(like.penalties):
            found.weights, found.penalties = _regressed(x, sizes, found, like.penalties)
        return found


def _tree(x: np.ndarray, sizes: np.ndarray, like: Counts | None) -> tuple[Counts, np.ndarray]:
    """Return the tree of categories x (M, N), and the information (N, N) that columns share."""
    ends = sizes.cumsum()
    starts = ends - sizes
    one = _one_hot(x, sizes)
    counts = one.sum(0) + 0.5
    p = counts / np.add.reduceat(counts, starts)[np.repeat(np.arange(len(ends)), sizes)]
    both = (one.T @ one + np.outer(p, p)) / (len(x) + 1)
    # The margins of `both` are those of the counts with one row added, in each of two columns.
    margin = (one.sum(0) + p) / (len(x) + 1)
    information = np.log(both / np.outer(margin, margin))
    shared = np.add.reduceat(np.add.reduceat(both * information, starts, 0), starts, 1)
    order, first = _spanning_tree(shared) if like is None else (like.order, like.first)
    kept = np.zeros_like(information)
    for child in order[1:]:
        a, b = (slice(starts[k], ends[k]) for k in (child, first[child]))
        kept[a, b], kept[b, a] = information[a, b], information[b, a]
    return Counts(order, first, np.log(margin), kept, [None] * len(sizes), []), shared


def _one_hot(x: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    one = np.zeros((len(x), sizes.sum()))
    np.put_along_axis(one, x + sizes.cumsum() - sizes, 1, 1)
    return one


def _spanning_tree(shared: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return columns, parents first, and the parents, by the information (N, N) they share."""
    # Prim's algorithm, from the column that shares the most.
    np.fill_diagonal(shared, 0)
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


def _count(both: np.ndarray, c: np.ndarray, size: int, given: np.ndarray) -> np.ndarray:
    """Return how often categories c (M,) occur with each pair of categories of the parents."""
    n = np.zeros((len(given) * size, given.shape[1]))
    np.add.at(n, (both, c), 1)
    return n


def _second_parent(
    x: np.ndarray,
    sizes: np.ndarray,
    child: int,
    a: np.ndarray,
    others: list[int],
    given: np.ndarray,
) -> tuple[int, int] | None:
    """Return the second parent of a column, and its strength; None where none gains.

    `given` (A, C) are probabilities of the child's categories given the first parent, `a` (M,).
    """
    c, first = x[:, child], len(given)
    n = _count(a, c, 1, given)
    # Without the row itself; one row of the prior is left.
    q = ((n - 1).clip(min=0) + given)[a, c] / n.sum(1)[a]
    best, found = np.log(q).sum() + GAIN, None
    for other in others:
        if first * sizes[other] * sizes[child] > LARGEST_COUNTS:
            continue
        both = a * sizes[other] + x[:, other]
        n = _count(both, c, sizes[other], given)
        total = n.sum(1)
        for strength in (1, 4, 16, 64):
            left = (n[both, c] - 1 + strength * q) / (total[both] - 1 + strength)
            score = np.log(left).sum()
            if score > best:
                best, found = score, (other, strength)
    return found


class _Regression:
    """Ridge regressions of all columns on the categories of the columns before them."""

    def __init__(self, x: np.ndarray, sizes: np.ndarray, counts: Counts):
        column, rank = np.repeat(np.arange(len(sizes)), sizes), counts.order.argsort()
        number, starts = np.arange(sizes.max()), sizes.cumsum() - sizes
        one = _one_hot(x, sizes)
        earlier = rank[column][:, None] < rank[column]
        logits = counts.log_p + one @ np.where(earlier, counts.information, 0)
        tables = iter(counts.beyond)
        for child, parents in enumerate(counts.parents):
            if parents is not None:
                a, b = parents
                own = slice(starts[child], starts[child] + sizes[child])
                logits[:, own] += next(tables)[x[:, a] * sizes[b] + x[:, b]]
        self.column, self.earlier = column, torch.from_numpy(earlier)
        self.slot = torch.from_numpy(starts[:, None] + number.clip(max=sizes[:, None] - 1))
        self.possible = torch.from_numpy(number < sizes[:, None])
        self.one, self.logits = torch.from_numpy(one).float(), torch.from_numpy(logits).float()

    def nats(self, weights: Tensor) -> Tensor:
        """Return the -log p of the columns, (N,) nats, summed over the rows."""
        logits = self.logits + self.one @ (weights * self.earlier)
        every = logits[:, self.slot].masked_fill(~self.possible, -torch.inf)
        own = (logits * self.one)[:, self.slot].masked_fill(~self.possible, 0).sum(-1)
        return (every.logsumexp(-1) - own).sum(0)

    def fit(self, weights: Tensor, penalties: np.ndarray) -> Tensor:
        """Return weights (S, S) for penalties (N,), from others that are close to them."""
        known = torch.from_numpy(penalties[self.column]).float()
        free = known.isfinite()
        known = torch.where(free, known, 0) / 2
        weights = weights.clone().requires_grad_()
        optimizer = torch.optim.LBFGS(
            [weights], max_iter=ITERATIONS, history_size=10, line_search_fn="strong_wolfe"
        )

        def loss():
            optimizer.zero_grad()
            value = self.nats(weights * free).sum() + (weights.square() * known).sum()
            (value / len(self.one)).backward()
            return value.detach() / len(self.one)

        optimizer.step(loss)
        return weights.detach() * free * self.earlier


def _regressed(
    x: np.ndarray, sizes: np.ndarray, counts: Counts, penalties: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return weights (S, S) beyond `counts` and penalties (N,), those with the best score if None.

    Every penalty is scored on a quarter of the rows, and where they are few on each quarter.
    """
    total = int(sizes.sum())
    x = x[: max(int(LARGEST_REGRESSION / total**2), 1)]
    zero, quarter = torch.zeros(total, total), len(x) // 4
    if penalties is None:
        scores = np.zeros((len(PENALTIES) + 1, len(sizes)))
        for fold in range(4 if len(x) < FOLDED else 1):
            out = np.arange(fold * quarter, (fold + 1) * quarter)
            rest, weights = np.delete(x, out, 0), zero
            part = Counts.of(rest, sizes, counts)
            inside, outside = (_Regression(rows, sizes, part) for rows in (rest, x[out]))
            scores[0] += outside.nats(weights).numpy()
            for k, penalty in enumerate(PENALTIES, 1):
                weights = inside.fit(weights, np.full(len(sizes), penalty))
                scores[k] += outside.nats(weights).numpy()
        penalties = np.array([np.inf, *PENALTIES])[scores.argmin(0)]
    if np.isinf(penalties).all():
        return zero.numpy(), penalties
    return _Regression(x, sizes, counts).fit(zero, penalties).numpy(), penalties
