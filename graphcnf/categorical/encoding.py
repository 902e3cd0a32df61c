"""Encodings of categories as continuous latents, with factorized posteriors.

Categories are (B, L), one variable at each of L positions, or (B, L, V), V variables at each
position. An *encoding* draws latents z of categories x from q(z|x), and maps them back by a
*posterior* p(x|z) that is a product over variables. In `IntervalEncoding` each category has an
interval of its own: log p(x|z) = 0, and reconstruction is exact. The others are in
`graphcnf.categorical.learned_encodings`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graphcnf.flows.transform import (
    Context,
    Transform,
    draw_noise,
    log_term_dtype,
    masked,
    sum_log_term,
)

# Share of an interval that is kept free at either end: rounding never moves a latent into the
# next category. It costs -log2(1 - 2 MARGIN) = 0.0003 bits per variable.
MARGIN = 1e-4


@dataclass
class Encoded:
    """One draw of the stochastic encoder.

    Attributes:
        z: Latents, (B, L, D); 0 where masked.
        log_posterior: log p(x|z), summed over the real variables, (B,) nats.
        log_encoder: log q(z|x), summed over the real variables, (B,) nats.
        correct: Share of the variables whose most probable category under p(x|z) is the encoded
            one, (B,).
    """

    z: Tensor
    log_posterior: Tensor
    log_encoder: Tensor
    correct: Tensor


class Encoding(Transform):
    """Stochastic encoder q(z|x) of categories, with a factorized posterior p(x|z).

    `forward` draws z; its log term is log p(x|z) - log q(z|x), so that log p(x) >= E[log p(z) + log
    term] (Lippe & Gavves 2021, eq. 3). `inverse` decodes to the most probable category.

    Attributes:
        cardinalities: Number of categories: an int for one variable per position, x (B, L), or a
            tuple of V ints for V variables per position, x (B, L, V).
        latent_dim: Number of latents D of a position.
        like: Empty tensor that has the type and device of the module.
    """

    exact = False
    cardinalities: int | tuple[int, ...]
    latent_dim: int
    like: Tensor

    def __init__(self):
        super().__init__()
        # An encoding may have no parameters, whose type and device would serve.
        self.register_buffer("like", torch.empty(0), persistent=False)

    def check(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Check the input of `encode`.

        Args:
            x: Categories, (B, L) or (B, L, V); arbitrary where masked.
            mask: True at real positions, (B, L) bool, or at real variables, of the shape of `x`;
                None if all are real.

        Raises:
            ValueError: if `x` is no integer tensor of this shape, has a category out of range or no
                position, or if `mask` is not bool or of another shape.
        """
        if not isinstance(x, Tensor):
            raise ValueError(f"categories must be a torch tensor, got a {type(x).__name__}")
        limits = torch.tensor(self.cardinalities, device=x.device)
        if x.dim() != 2 + limits.dim() or x.shape[2:] != limits.shape:
            wanted = f"(B, L, {len(limits)})" if limits.dim() else "(B, L)"
            raise ValueError(f"categories must have the shape {wanted}, got {tuple(x.shape)}")
        if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
            raise ValueError(f"categories must be integers (torch.long), got {x.dtype}")
        if not x.shape[1]:
            raise ValueError(f"categories of the shape {tuple(x.shape)} have no position")
        wrong = (x < 0) | (x >= limits)
        if mask is not None:
            if mask.dtype != torch.bool or mask.shape not in (x.shape[:2], x.shape):
                raise ValueError(
                    f"the mask must be a bool tensor of shape {tuple(x.shape[:2])}, "
                    f"got {mask.dtype} of shape {tuple(mask.shape)}"
                )
            wrong = wrong & expand(mask, x)
        if wrong.any():
            value = int(x[wrong][0])
            limit = int(limits.expand_as(x)[wrong][0])
            raise ValueError(f"categories must lie in 0 to {limit - 1}, got {value}")

    def encode(self, x: Tensor, context: Context = Context()) -> Encoded:
        """Draw latents of categories.

        Args:
            x: Categories, (B, L) or (B, L, V) long; arbitrary where masked.
            context: Its `mask` says which are real, all without one; its `noise` can repeat the
                draw.

        Returns:
            One draw: the latents z (B, L, D), with log p(x|z) and log q(z|x) in nats.

        Raises:
            NotImplementedError: in this base class.
        """
        raise NotImplementedError

    def decode(self, z: Tensor, context: Context = Context(), *, sample: bool = False) -> Tensor:
        """Decode latents to categories: the argmax of p(x|z), or a draw from it.

        Args:
            z: Latents, (B, L, D).
            context: Its `mask` says which are real, its `generator` draws.
            sample: True to draw.

        Returns:
            Categories (B, L) or (B, L, V) long; 0 where masked.
        """
        raise NotImplementedError

    def forward(self, x, context=Context()):
        """Draw latents of categories.

        Args:
            x: Categories, (B, L) or (B, L, V) long.
            context: Its `mask` says which are real; its `noise` can repeat the draw.

        Returns:
            Latents z (B, L, D), 0 where masked, and log p(x|z) - log q(z|x), (B,) nats.
        """
        encoded = self.encode(x, context)
        return encoded.z, encoded.log_posterior - encoded.log_encoder

    def inverse(self, z, context=Context()):
        return self.decode(z, context)


def expand(mask: Tensor, like: Tensor) -> Tensor:
    """Broadcast a mask of positions to one of variables.

    Args:
        mask: True where real, (B, L) bool, or of the shape of `like`, and then returned as it is.
        like: Tensor of one value for each variable, (B, L, V), or (B, L) for a single variable.

    Returns:
        Mask of the shape of `like`.
    """
    return mask if mask.dim() == like.dim() else mask.unsqueeze(-1).expand_as(like)


def assemble(
    z: Tensor, log_p: Tensor, log_q: Tensor, correct: Tensor, mask: Tensor | None
) -> Encoded:
    """Sum the terms of a draw of the encoder over the real variables.

    Args:
        z: Latents, (B, L, D).
        log_p: log p(x_i|z_i) of each variable, (B, L) or (B, L, V) nats.
        log_q: log q(z_i|x_i), of the same shape.
        correct: True where the most probable category is the encoded one, of the same shape.
        mask: True at real positions, (B, L), or at real variables, of the shape of `log_p`; None if
            all are real.

    Returns:
        The draw, with sums (B,) in nats and the share of `correct`.
    """
    real = torch.ones_like(correct) if mask is None else expand(mask, correct)
    wrong = (real & ~correct).flatten(1).sum(1) / real.flatten(1).sum(1).clamp(min=1)
    p, q = (sum_log_term(terms, mask).to(log_term_dtype(z)) for terms in (log_p, log_q))
    return Encoded(masked(z, mask), p, q, (1 - wrong).to(z))


def interval_category(u: Tensor, cardinalities: Sequence[int]) -> Tensor:
    """Find the categories whose intervals contain u.

    The intervals of a variable are equally wide, whatever the probabilities of its categories: a
    coupling rescales them, and no interval is too narrow for floating point.

    Args:
        u: Numbers in (0, 1), (..., V).
        cardinalities: Number of categories of each of the V variables.

    Returns:
        Categories, (..., V) long.
    """
    counts = torch.tensor(cardinalities, device=u.device)
    return (u.double() * counts).long().clamp(min=0).minimum(counts - 1)


def interval_bounds(x: Tensor, cardinalities: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the intervals in (0, 1) that belong to categories.

    The intervals of a variable with C categories have the width 1 / C; `interval_category` is the
    inverse.

    Args:
        x: Categories, (..., V) long.
        cardinalities: Number of categories of each of the V variables.

    Returns:
        Lower ends and widths, (..., V) float64 each.
    """
    counts = torch.tensor(cardinalities, device=x.device, dtype=torch.float64)
    return x.double() / counts, (1 / counts).expand(x.shape)


class IntervalEncoding(Encoding):
    """Encoding z = logit(u) with u uniform on the interval of category x, one latent per variable.

    Intervals are disjoint, so p(x|z) is 0 or 1. `AutoregressiveCoupling` makes each interval as
    wide as the conditional probability of its category; under a logistic base density, u is
    uniform.

    Args:
        cardinalities: Number of categories of each of the V variables at a position, x (B, L, V),
            or an int for a single variable, x (B, L).

    Examples:
        >>> encoding = IntervalEncoding(4)
        >>> encoded = encoding.encode(torch.tensor([[0, 1, 2, 3]]))
        >>> encoding.decode(encoded.z).tolist()  # whatever was drawn
        [[0, 1, 2, 3]]
    """

    def __init__(self, cardinalities: Sequence[int] | int):
        super().__init__()
        self.single = isinstance(cardinalities, int)
        known = [cardinalities] if isinstance(cardinalities, int) else list(cardinalities)
        if min(known, default=0) < 1:
            raise ValueError(f"every variable needs at least one category, got {known}")
        self.known = known
        self.latent_dim = len(known)
        self.cardinalities = known[0] if self.single else tuple(known)

    def encode(self, x, context=Context()):
        """Draw latents (B, L, V) of categories x (B, L, V) long, or x (B, L) long with V = 1."""
        x = x.unsqueeze(-1) if self.single else x
        v = draw_noise(context.noise, x.shape, device=x.device)
        lower, width = interval_bounds(x, self.known)
        u = lower + width * (MARGIN + (1 - 2 * MARGIN) * v)
        # dz/du = 1 / (u (1 - u))
        log_q = -torch.log(width) - math.log1p(-2 * MARGIN) + torch.log(u) + torch.log1p(-u)
        z = torch.logit(u).to(self.like.dtype)
        right = interval_category(torch.sigmoid(z.double()), self.known) == x
        return assemble(z, torch.zeros_like(log_q), log_q, right, context.mask)

    def decode(self, z, context=Context(), *, sample=False):
        """Return the categories (B, L, V) or (B, L) long of latents (B, L, V); 0 where masked."""
        x = masked(interval_category(torch.sigmoid(z.double()), self.known), context.mask)
        return x.squeeze(-1) if self.single else x
