"""Categorical normalizing flow over sequences of one alphabet, and batches of rows (`Rows`).

- A *row* is one sequence: its *positions* hold *categories* (characters, tokens, notes) of one
  alphabet, numbered from 0 to C - 1. Rows may have different lengths, and are padded in a batch.
- A *mask* (B, L) is True at *real* positions, which are the first ones of each row, and False at
  padding.
- The *n-grams* of the training rows say how often each category follows the last k categories.
  They give a first guess of the next category, its *log-probabilities by n-grams*
  (`graphcnf.discrete.ngrams`). The network adds its output to these; untrained, it adds 0.
- A training row is *left out of its own counts* when it is scored: else it would seem more probable
  than a new one.

`RowFlow` is the model, `CausalAttention` its network, `CausalDrawing` a batch that is being drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.arguments import check
from graphcnf.categorical.autoregressive import AutoregressiveNetwork, InSequence, Step
from graphcnf.categorical.autoregressive_flow import AnyNetwork, AutoregressiveFlow
from graphcnf.categorical.transformer import MASKED, Transformer
from graphcnf.discrete.ngrams import NGrams, longest_context
from graphcnf.errors import UserError
from graphcnf.flows.transform import Context, log_term_dtype
from graphcnf.graphs.sizes import log_prob_of_sizes
from graphcnf.limits import Range
from graphcnf.pretrained import Pretrained, keep_arguments
from graphcnf.torch_state import evaluated

CHUNK = 1024
"""Rows whose counts are looked up at a time."""


@dataclass(frozen=True)
class RowContext(Context):
    """Context of a flow over sequences, which may hold what the counts say of the batch.

    Attributes:
        start: Log-probabilities of all C categories by n-grams, (B, L, C) nats, computed before
            training so that no step has to; None to look them up.
    """

    start: Tensor | None = None


class CausalAttention(AutoregressiveNetwork):
    """Transformer decoder over sequences: the category of each position, given the earlier ones.

    The input of a position is what is known before its category: the previous category, the number
    of the position, and how many positions are still to come. (The length is drawn first.) The
    output is the logits of the category. With `ngrams`, the log-probabilities of the category by
    n-grams are added to the logits: what the frequencies of n-grams in the training rows say.

    Args:
        expansion: Feed-forward hidden channels as a multiple of `width`.
        dropout: Share of the channels that training leaves out.
        ngrams: Arguments of `NGrams` by name, as `RowFlow.counting` chooses them. None for a
            network without n-grams.
    """

    def __init__(
        self,
        cardinality: int,
        *,
        positions: int,
        width: int = 64,
        layers: int = 2,
        heads: int = 4,
        expansion: float = 3,
        dropout: Annotated[float, Range(0, 1)] = 0.0,
        ngrams: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        if cardinality < 1 or positions < 1:
            raise ValueError(
                f"positions and cardinality must be at least 1, got {positions} and {cardinality}"
            )
        self.positions, self.cardinalities = positions, [cardinality]
        self.ngrams = NGrams(cardinality, **ngrams) if ngrams else None
        # The category after the last one stands before the first position.
        self.values = nn.Embedding(cardinality + 1, width)
        self.position = nn.Embedding(positions, width)
        self.remaining = nn.Embedding(positions + 1, width)
        self.by_distance = nn.Parameter(torch.zeros(layers * heads, positions))
        self.blocks = Transformer(width, heads, expansion, layers, dropout=dropout)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width)
        self.weight = nn.Parameter(torch.zeros(cardinality, width))
        self.bias = nn.Parameter(torch.zeros(cardinality))
        for table in (self.values, self.position, self.remaining):
            nn.init.normal_(table.weight, std=0.3)

    def before(self, x: Tensor) -> Tensor:
        """Return the last M categories before each position, (B, L, M), see `last_categories`.

        M is the length of the longest n-gram context, but at least 1: attention reads the previous
        category even without n-grams.
        """
        reach = 0 if self.ngrams is None else self.ngrams.reach
        return last_categories(x, self.cardinalities[0], max(reach, 1))

    def _inputs(self, before: Tensor, first: int, to_come: Tensor) -> Tensor:
        """Embed positions, the input of attention."""
        number = torch.arange(first, first + to_come.shape[1], device=to_come.device)
        h = self.values(before[..., -1]) + self.position(number) + self.remaining(to_come)
        return self.dropout(h)

    def _check_mask(self, mask: Tensor) -> None:
        """Check the mask of a batch of rows."""
        length = mask.shape[1]
        if length > self.positions:
            raise ValueError(f"{length} positions, but the model knows up to {self.positions}")
        if (mask[:, 1:] & ~mask[:, :-1]).any():
            raise ValueError("the real positions of a row must be its first ones")

    def starts(self, before: Tensor, x: Tensor | None = None) -> Tensor:
        """Return the log-probabilities of categories by n-grams, (M, C) nats; 0 without n-grams.

        With the categories `x` of counted rows, each position is left out of its own counts.
        """
        if self.ngrams is None:
            kind = log_term_dtype(self.weight)
            return self.weight.new_zeros(len(before), self.cardinalities[0], dtype=kind)
        return self.ngrams(before, x)

    def logits_of(self, h: Tensor, start: Tensor) -> Tensor:
        """Return the logits (M, C) of the categories: a linear layer of h, plus `start`."""
        return F.linear(h, self.weight, self.bias) + start.to(h.dtype)

    def steps(self, x: Tensor, context: Context) -> Iterator[Step]:
        """Yield one step with all real positions; its `hidden` are their logits, (M, C)."""
        mask = context.mask
        self._check_mask(mask)
        number = torch.arange(x.shape[1], device=x.device)
        before = self.before(torch.where(mask, x[..., 0], 0))
        h = self._inputs(before, 0, (mask.sum(1, keepdim=True) - number).clamp(min=0))
        distance = number[:, None] - number
        bias = self.by_distance[:, distance.clamp(min=0)] + MASKED * (distance < 0)
        h = self.norm(self.blocks(h, bias[None]))
        start = getattr(context, "start", None)
        if start is None:
            start = self.starts(before[mask], x[mask][:, 0] if self.training else None)
        else:
            start = start[mask]
        row, position = mask.nonzero(as_tuple=True)
        yield Step(row, position, self.logits_of(h[mask], start))

    def start(self, context: Context) -> CausalDrawing:
        """Begin to draw the rows of a batch, position by position."""
        self._check_mask(context.mask)
        return CausalDrawing(self, context.mask)


class CausalDrawing:
    """B rows that are being drawn from left to right, the longest row first.

    Attributes:
        order: Position of the last `step`, and which rows have it.
        cache: Keys and values of the attention for all positions so far.
        before: The last categories of each row, (B, K) long, see `CausalAttention.before`.
    """

    def __init__(self, network: CausalAttention, mask: Tensor):
        self.network, self.order = network, InSequence(mask)
        self.cache = network.blocks.cache(mask)
        first = torch.zeros(len(mask), 1, dtype=torch.long, device=mask.device)
        self.before = network.before(first)[:, 0]

    def step(self) -> Step | None:
        """Advance to the next position in the M rows that are not complete, the longest ones."""
        if not self.order.advance():
            return None
        net = self.network
        count = self.order.count
        number = self.order.position
        before = self.before[:count, None]
        h = net._inputs(before, number, self.order.sizes[:count, None] - number)[:, 0]
        # The distances number, ..., 0 of the positions so far.
        bias = net.by_distance[:, : number + 1].flip(1).t()[:, None]
        h = net.norm(net.blocks.next_position(h, bias, self.cache))
        return self.order.make_step(net.logits_of(h, net.starts(before[:, 0])))

    def update(self, x: Tensor) -> None:
        """Append the categories (M, 1) that were drawn at the position of the last `step`."""
        self.before[: len(x)] = torch.cat([self.before[: len(x), 1:], x], 1)


def last_categories(x: Tensor, cardinality: int, count: int) -> Tensor:
    """Return the last categories before each position of some rows.

    Returns:
        (B, L, M) long, the latest one last. Before the start of a row stands C, which is no
        category: with M = 2 the row [5, 7] gives [[C, C], [C, 5]].
    """
    start = x.new_full((len(x), count), cardinality)
    return torch.cat([start, x], 1).unfold(1, count, 1)[:, : x.shape[1]]


@dataclass
class Rows:
    """Batch of encoded sequences, rows of a table, or grids: categories, padded to one length.

    Attributes:
        values: Categories, (B, L) long; 0 where masked. L are the positions of a sequence, the
            columns of a table, or the pixels of a grid in raster order. In a table with binned
            numbers all values are float64: a number in bin k is k + u, where u in [0, 1) says
            where in the bin it lies.
        mask: (B, L) bool. True at real positions of a sequence, which are its first ones; at
            entries of a table that are not missing; at known pixels of a grid.
        start: Log-probabilities of categories by the counts of the flow, nats, for rows that are
            trained on. For sequences (B, L, C): of the C categories at each position. For tables
            (B, S): of the categories of all columns, one column after the other in the order of
            the network, S in all. None if they have to be looked up.
    """

    values: Tensor
    mask: Tensor
    start: Tensor | None = None

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> Rows:
        """Build a batch from lists of categories, padded to the longest; lists may be empty."""
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        mask = np.arange(lengths.max(initial=0)) < lengths[:, None]
        values = np.zeros(mask.shape, dtype=np.int64)
        values[mask] = [value for row in rows for value in row]
        return cls(torch.from_numpy(values), torch.from_numpy(mask))

    def __len__(self) -> int:
        return len(self.mask)

    @property
    def lengths(self) -> Tensor:
        """Number of positions of each row where the mask is True, (B,) long."""
        return self.mask.sum(1)

    def __getitem__(self, chosen) -> Rows:
        """Return some of the rows, with their padding as it is; see `cut`."""
        return self._each(lambda part: part[chosen])

    def cut(self) -> Rows:
        """Remove the trailing positions that are padding in all rows; only for sequences.

        In a table or a grid a masked entry is missing, not padding.
        """
        longest = int(self.lengths.max()) if len(self) else 0
        return self._each(lambda part: part[:, :longest])

    def to(self, device: torch.device | str) -> Rows:
        """Return the rows with all tensors on a device."""
        return self._each(lambda part: part.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Rows:
        start = None if self.start is None else change(self.start)
        return Rows(change(self.values), change(self.mask), start)


class RowFlow(Pretrained, AutoregressiveFlow[CausalAttention]):
    """Density of sequences: of the length first, then of each category given the earlier ones.

    Probabilities are exact, see `AutoregressiveFlow`. `log_prob` is that of the categories given
    the length, `length_log_prob` that of the length.

    Args:
        **network: Further arguments of `CausalAttention`, JSON. `positions` has no default;
            `ngrams` is chosen by `counting`, which builds a flow from training data.

    Attributes:
        metadata: Facts about the data by name, JSON. `length_histogram` is a list: the number of
            training rows of length 0, 1, ...
    """

    @keep_arguments
    def __init__(self, cardinality: int, **network: Any):
        super().__init__(build_network(CausalAttention, self.config), single=True)
        self.metadata: dict[str, Any] = {}

    @evaluated
    def log_prob(self, x: Tensor, context: Context = Context(), *, samples: int = 1) -> Tensor:
        """Return the exact log-probability of the categories of each row, given its length."""
        return super().log_prob(x, context)

    @classmethod
    def counting(cls, rows: Rows, cardinality: int, **network) -> RowFlow:
        """Build an untrained flow whose probabilities are those of the n-grams of training rows.

        `NGrams.of` chooses their longest context and the weights of the mixture. Training adds the
        output of the network, now 0, to these probabilities.
        """
        ngrams = NGrams.of(*_counted(rows, cardinality, longest_context(cardinality)), cardinality)
        flow = cls(cardinality, ngrams=ngrams.arguments, **network)
        flow.network.ngrams = ngrams
        return flow

    def count(self, rows: Rows) -> None:
        """Replace the counts of n-grams by those of other rows, in place.

        The lengths of contexts, their factors and the weights of the mixture stay. The flow must
        have n-grams, as those that `counting` builds have.
        """
        ngrams = self.network.ngrams
        assert ngrams is not None
        ngrams.count(*_counted(rows, ngrams.cardinality, ngrams.reach))
        self.config["ngrams"] = ngrams.arguments

    def starts(self, rows: Rows, counted: np.ndarray) -> Tensor:
        """Look up the log-probabilities of categories by n-grams, (M, L, C) nats, for `Rows.start`.

        The rows with the indices `counted` are left out of their own counts. 0 where masked.
        """
        network, is_counted = self.network, np.isin(np.arange(len(rows)), counted)
        found = torch.zeros(*rows.values.shape, network.cardinalities[0])
        for own in (True, False):
            for chosen in torch.from_numpy(np.flatnonzero(is_counted == own)).split(CHUNK):
                part = rows[chosen]
                before = network.before(part.values)[part.mask]
                x = part.values[part.mask] if own else None
                some = torch.zeros(*part.values.shape, found.shape[2])
                some[part.mask] = network.starts(before, x).float()
                found[chosen] = some
        return found

    def length_probabilities(self, lengths: tuple[int, int] | None = None) -> np.ndarray:
        """Return the probabilities of the lengths 0 to `positions`, (positions + 1,).

        They are the frequencies in the training data (`metadata["length_histogram"]`). Lengths that
        did not occur, but lie between the shortest and the longest one, share the total frequency
        of the lengths that occurred once (Good-Turing estimate: Good 1953, *The population
        frequencies of species*). Without a histogram all rows have the largest length. Lengths
        outside of the range `lengths` get probability 0.
        """
        seen = np.zeros(self.network.positions + 1)
        counts = np.asarray(self.metadata.get("length_histogram", []), dtype=float)[: len(seen)]
        seen[: len(counts)] = counts
        if not seen.any():
            seen[-1] = 1
        known = np.flatnonzero(seen)
        gaps = np.setdiff1d(np.arange(known[0], known[-1] + 1), known)
        if len(gaps):
            # At most half: where every length occurs once, they are no less likely than the gaps.
            once = min((seen == 1).sum() / seen.sum(), 0.5)
            seen *= (1 - once) / seen.sum()
            seen[gaps] = once / len(gaps)
        if lengths is not None:
            number = np.arange(len(seen))
            seen[(number < lengths[0]) | (number > lengths[1])] = 0
            if not seen.any():
                raise UserError(
                    f"lengths {lengths[0]}-{lengths[1]}: this model knows {known[0]} to "
                    f"{known[-1]} positions"
                )
        return seen / seen.sum()

    def length_log_prob(self, lengths: Tensor) -> Tensor:
        """Return the log-probabilities of lengths, (B,) nats; -inf for those of probability 0."""
        prior = torch.as_tensor(self.length_probabilities()).to(lengths.device)
        return log_prob_of_sizes(prior.log()[None], lengths)

    def training_loss(
        self, batch: Rows, *, beta: float = 1.0
    ) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
        """Return the loss given the length, nats per position, and its metrics, see `loss_of`."""
        batch = batch[batch.mask.any(1)]
        context = RowContext(batch.mask, start=batch.start)
        nats = self.network.log_prob(batch.values[..., None], context)
        return loss_of(nats, batch.mask)


def loss_of(nats: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
    """Turn log-likelihoods of rows into the loss and the metrics of `training_loss`.

    Returns:
        The negative log-likelihood in nats per position, a scalar; and the metrics as `{name: (sum,
        number)}`: "bits_per_variable" is (sum of the bits, number of positions), "bits_per_row"
        (sum of the bits, number of rows).
    """
    variables, bits = mask.sum(), -nats.detach().sum() / math.log(2)
    count = torch.tensor(float(len(nats)), device=nats.device)
    metrics = {"bits_per_variable": (bits, variables), "bits_per_row": (bits, count)}
    return -nats.sum() / variables, metrics


def _counted(rows: Rows, cardinality: int, reach: int) -> tuple[Tensor, Tensor]:
    """Return what n-grams are counted from: each real position's category and what is before it."""
    before = last_categories(rows.values, cardinality, reach)
    return before[rows.mask], rows.values[rows.mask]


def build_network(network: type[AnyNetwork], config: dict[str, Any]) -> AnyNetwork:
    """Build the network of a flow, and check the sizes that a user may have set.

    Arguments that all networks have are checked against the ranges in its signature.
    """
    names = ("width", "layers", "heads", "expansion", "dropout")
    sizes = {name: config[name] for name in names if name in config}
    check(network.__name__, sizes, network)
    try:
        return network(**config)
    except ValueError as error:
        raise UserError(str(error)) from None
