"""Interval encoding: every category owns an interval of the unit line, disjoint by construction."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from graphcnf.categorical.encoding import Encoded, Encoding
from graphcnf.flows.transform import Context, masked, take

# Share of an interval left free at either end, so that rounding never moves a latent into the
# neighbouring category. It costs -log2(1 - 2 MARGIN) = 0.0003 bits per variable.
MARGIN = 1e-4


class Intervals(nn.Module):
    """Partition of (0, 1) into one interval per category, for each of V variables.

    Args:
        cardinalities: Number of categories of each variable, length V.
    """

    def __init__(self, cardinalities: Sequence[int]):
        super().__init__()
        if not cardinalities or min(cardinalities) < 1:
            raise ValueError(f"every variable needs at least one category, got {cardinalities}")
        self.cardinalities = tuple(int(c) for c in cardinalities)
        # Equal widths: a coupling rescales them to the conditional probabilities anyway, and
        # floating point stays far from the width of the rarest interval.

    def category(self, u: Tensor) -> Tensor:
        """Category whose interval holds u; u (..., V) in (0, 1) -> (..., V) long."""
        counts = torch.tensor(self.cardinalities, device=u.device)
        return (u.double() * counts).long().clamp(min=0).minimum(counts - 1)

    def bounds(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Lower end and width of the interval of each category; x (..., V) -> two (..., V)."""
        counts = torch.tensor(self.cardinalities, device=x.device, dtype=torch.float64)
        return x.double() / counts, (1 / counts).expand(x.shape)


class IntervalEncoding(Encoding):
    """q(z|x): z = logit(u), u uniform on the interval of category x; p(x|z) is an indicator.

    One latent per variable. The volumes of the categories are disjoint, so log p(x|z) = 0 and
    reconstruction is exact. Made for `AutoregressiveCoupling`, which rescales each interval to the
    conditional probability of its category; a base logistic density makes u uniform.

    Args:
        cardinalities: Number of categories of each of the V variables at a position, or an int
            for one variable per position without an axis of its own.

    Examples:
        >>> encoding = IntervalEncoding(4)
        >>> x = torch.tensor([[0, 1, 2, 3]])
        >>> encoded = encoding.encode(x)
        >>> encoding.decode(encoded.z).tolist()  # whatever was drawn
        [[0, 1, 2, 3]]
    """

    like: Tensor

    def __init__(self, cardinalities: Sequence[int] | int):
        super().__init__()
        self.single = isinstance(cardinalities, int)
        if isinstance(cardinalities, int):
            self.intervals = Intervals([cardinalities])
            self.cardinalities = cardinalities
        else:
            self.intervals = Intervals(list(cardinalities))
            self.cardinalities = self.intervals.cardinalities
        self.latent_dim = len(self.intervals.cardinalities)
        # Knows the type of the module it is part of: there are no parameters to ask.
        self.register_buffer("like", torch.empty(0), persistent=False)

    def encode(self, x, context=Context()):
        """Draw z (B, L, V) for categories x (B, L, V) long, or (B, L) and V = 1."""
        x = x.unsqueeze(-1) if self.single else x
        v = take(context.noise, lambda: torch.rand(x.shape, device=x.device, dtype=torch.float64))
        lower, width = self.intervals.bounds(x)
        u = lower + width * (MARGIN + (1 - 2 * MARGIN) * v)
        z = torch.logit(u)
        # dz/du = 1 / (u (1 - u))
        log_q = -torch.log(width) - math.log1p(-2 * MARGIN) + torch.log(u) + torch.log1p(-u)
        keep = (
            torch.ones_like(x, dtype=torch.bool)
            if context.mask is None
            else expand(context.mask, x)
        )
        z = torch.where(keep, z, 0.0)
        log_q = torch.where(keep, log_q, 0.0).flatten(1).sum(1)
        dtype = self.like.dtype
        back = self.intervals.category(torch.sigmoid(z.to(dtype).double()))  # as `decode`
        right = ((back == x) & keep).flatten(1).sum(1) / keep.flatten(1).sum(1).clamp(min=1)
        right = torch.where(keep.flatten(1).any(1), right, 1.0)
        zeros = torch.zeros_like(log_q, dtype=dtype)
        return Encoded(z.to(dtype), zeros, log_q.to(dtype), right)

    def decode(self, z, context=Context(), *, sample=False):
        """Category of each latent, (B, L, V) -> (B, L, V) long, or (B, L); 0 where masked."""
        x = self.intervals.category(torch.sigmoid(z.double()))
        x = masked(x, context.mask)
        return x.squeeze(-1) if self.single else x


def expand(mask: Tensor, like: Tensor) -> Tensor:
    """Broadcast a (B, L) mask to the shape of a (B, L, V) tensor; (B, L, V) passes through."""
    return mask if mask.dim() == like.dim() else mask.unsqueeze(-1).expand_as(like)
