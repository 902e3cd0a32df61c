"""Categorical normalizing flow over rows: sequences of one alphabet, or the columns of a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from graphcnf.categorical.autoregressive import AutoregressiveFlow
from graphcnf.categorical.causal import CausalAttention
from graphcnf.categorical.flow import check_rows
from graphcnf.errors import UserError
from graphcnf.flows.mode import evaluates
from graphcnf.flows.transform import Context
from graphcnf.limits import Range
from graphcnf.pretrained import Pretrained


@dataclass
class Rows:
    """Rows of categories, the longest of which fills its row.

    Attributes:
        values: Categories, (B, L) long; 0 where masked.
        mask: Real positions, (B, L) bool; they come first.
    """

    values: Tensor
    mask: Tensor

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> Rows:
        """Pad rows of categories."""
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        mask = np.arange(lengths.max(initial=0)) < lengths[:, None]
        values = np.zeros(mask.shape, dtype=np.int64)
        values[mask] = [value for row in rows for value in row]
        return cls(torch.from_numpy(values), torch.from_numpy(mask))

    def __len__(self) -> int:
        return len(self.mask)

    @property
    def lengths(self) -> Tensor:
        """Positions of each row, (B,) long."""
        return self.mask.sum(1)

    def __getitem__(self, chosen) -> Rows:
        """Return the rows at a slice, indices or a mask, no wider than the longest of them."""
        values, mask = self.values[chosen], self.mask[chosen]
        longest = int(mask.sum(1).max()) if len(mask) else 0
        return Rows(values[:, :longest], mask[:, :longest])

    def to(self, device) -> Rows:
        """Move both tensors."""
        return Rows(self.values.to(device), self.mask.to(device))


@evaluates("log_prob", "encode", "decode", "sample")
class RowFlow(Pretrained, AutoregressiveFlow):
    """Density of rows of categories, one position given the ones before, and their number first.

    An interval of the unit line is mapped to one as long as its category's probability, so the
    density of the latents, integrated over the intervals, is the product of the conditional
    probabilities: `log_prob` is exact.

    Args:
        cardinalities: Number of categories that all positions share (sequences), or that of each
            position (columns).
        positions: Largest number of positions.
        width: Channels of the network.
        layers: Attention blocks.
        heads: Attention heads.
        expansion: Feed-forward hidden channels as a multiple of `width`.
        dropout: Share of the channels that training leaves out.

    Attributes:
        metadata: What is known of the data, JSON; `length_histogram` (index: number of positions).

    Raises:
        UserError: if an argument is out of range.
    """

    def __init__(
        self,
        cardinalities: int | list[int],
        *,
        positions: int,
        width: int = 64,
        layers: int = 2,
        heads: int = 4,
        expansion: float = 3,
        dropout: Annotated[float, Range(0, 1)] = 0.1,
    ):
        config = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        for name, value in config.items():
            if name not in ("cardinalities", "dropout") and not value >= 1:
                raise UserError(f"{name} must be at least 1, not {value}")
        if not 0 <= dropout < 1:
            raise UserError(f"dropout must lie in [0, 1), not {dropout}")
        try:
            network = CausalAttention(**config)
        except ValueError as error:
            raise UserError(str(error)) from None
        super().__init__(network, single=True)
        self.config = config
        self.metadata: dict = {}

    @property
    def positions(self) -> int:
        """Largest number of positions."""
        return self.config["positions"]

    def log_prob(self, x, context: Context = Context(), *, samples: int = 1) -> Tensor:
        """Return the exact log p(x | number of positions), (B,) nats; see `length_log_prob`.

        Args:
            x: Categories, (B, L) long.
            context: Mask of the real positions, (B, L) bool, the first ones of a row.
            samples: Without influence: the density is exact.

        Raises:
            ValueError: if `x` or the mask is not what the model takes.
        """
        check_rows(context.mask)
        self.encoding.check(x, context.mask)
        return self.flow.log_prob(x.long()[..., None], _with_mask(x, context))

    def bound(self, x, context: Context = Context()):
        """Draw the terms of the bound, see `CategoricalFlow.bound`."""
        self.encoding.check(x, context.mask)
        return super().bound(x, _with_mask(x, context))

    def encode(self, x, context: Context = Context()) -> Tensor:
        """Return latents of the base space, (B, L, 1)."""
        self.encoding.check(x, context.mask)
        return super().encode(x, _with_mask(x, context))

    def decode(self, z, context: Context = Context(), *, sample: bool = False) -> Tensor:
        """Return categories (B, L) of latents, see `CategoricalFlow.decode`."""
        return super().decode(z, _with_mask(z[..., 0], context), sample=sample)

    def length_probabilities(self, lengths: tuple[int, int] | None = None) -> np.ndarray:
        """Prior over numbers of positions, index 0 to `positions`, restricted to a range if given.

        The frequencies of `metadata["length_histogram"]`. Lengths between the shortest and the
        longest that occur nowhere get, together, the share of the rows whose length occurs once
        (Good & Turing: Good 1953, *The population frequencies of species*).

        Raises:
            UserError: if no length of the range has a probability.
        """
        seen = np.zeros(self.positions + 1)
        known = np.asarray(self.metadata.get("length_histogram", []), dtype=float)[: len(seen)]
        seen[: len(known)] = known
        if not seen.any():
            seen[self.positions] = 1
        there = np.flatnonzero(seen)
        gaps = np.setdiff1d(np.arange(there[0], there[-1] + 1), there)
        if len(gaps):
            # At most half: where every length occurs once, they are no less likely than the gaps.
            once = min((seen == 1).sum() / seen.sum(), 0.5)
            seen *= (1 - once) / seen.sum()
            seen[gaps] = once / len(gaps)
        if lengths is not None:
            low, high = lengths
            outside = np.ones(len(seen), dtype=bool)
            outside[max(low, 0) : high + 1] = False
            seen[outside] = 0
            if not seen.any():
                raise UserError(
                    f"lengths {low}-{high}: this model knows {there[0]} to {there[-1]} positions"
                )
        return seen / seen.sum()

    def length_log_prob(self, lengths: Tensor) -> Tensor:
        """Log-probability of numbers of positions, (B,) nats; -inf beyond the known ones."""
        prior = torch.as_tensor(self.length_probabilities()).log()
        known = lengths.cpu().clamp(0, self.positions)
        value = torch.where(known == lengths.cpu(), prior[known], -math.inf)
        return value.to(lengths.device)

    def training_loss(self, batch: Rows, *, beta: float = 1.0):
        """Negative log-likelihood in nats per position, given the number of positions; metrics.

        Args:
            batch: At least one row with a position; rows without count nothing.
            beta: Ignored: there is no decoder to weigh.

        Returns:
            The loss, and as pairs (sum, number) `bits_per_variable` and `bits_per_row`.
        """
        batch = batch[batch.mask.any(1)]
        nats = self.flow.log_prob(batch.values[..., None], Context(batch.mask))
        variables = batch.mask.sum()
        loss = -nats.sum() / variables
        with torch.no_grad():
            bits = -nats.sum() / math.log(2)
            count = torch.tensor(float(len(batch)), device=loss.device)
            metrics = {"bits_per_variable": (bits, variables), "bits_per_row": (bits, count)}
        return loss, metrics


def _with_mask(x: Tensor, context: Context) -> Context:
    """Add a mask for x (B, L) where there is none; ValueError unless the first ones are real."""
    mask = context.mask
    if mask is None:
        return replace(context, mask=torch.ones_like(x, dtype=torch.bool))
    if (mask[:, 1:] & ~mask[:, :-1]).any():
        raise ValueError("the real positions of a row are its first ones")
    return context
