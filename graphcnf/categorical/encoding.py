"""Encodings of categories as continuous latents, which a normalizing flow can model.

- A *category* is an integer from 0 to C - 1, without order. Categories x are (B, L): B rows, with
  one *variable* at each of L *positions*. Or (B, L, V): V variables at each position.
- An *encoding* draws *latents* z (B, L, D) from q(z|x), the *encoder*, and maps them back by the
  *posterior* p(x|z), a product over the variables.
- A *mask* is True at *real* positions or variables. The others are padding: ignored in x, and 0 in
  every output.

In `IntervalEncoding` every category has an interval of its own, and reconstruction is exact. The
other encodings are in `graphcnf.categorical.learned_encodings`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graphcnf.errors import type_of
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
    """Latents that were drawn for categories x, with their terms of the bound on log p(x).

    Attributes:
        z: Latents, (B, L, D); 0 where masked.
        log_posterior: log p(x|z), summed over the real variables, (B,) nats.
        log_encoder: log q(z|x), summed over the real variables, (B,) nats.
        correct: Share of the variables whose most probable category is the encoded one, (B,).
    """

    z: Tensor
    log_posterior: Tensor
    log_encoder: Tensor
    correct: Tensor

    @classmethod
    def of_variables(
        cls, z: Tensor, log_p: Tensor, log_q: Tensor, correct: Tensor, mask: Tensor | None
    ) -> Encoded:
        """Sum terms of single variables, (B, L) or (B, L, V) nats, over the real ones."""
        real = torch.ones_like(correct) if mask is None else mask_of_variables(mask, correct)
        wrong = (real & ~correct).flatten(1).sum(1) / real.flatten(1).sum(1).clamp(min=1)
        p, q = (sum_log_term(terms, mask).to(log_term_dtype(z)) for terms in (log_p, log_q))
        return cls(masked(z, mask), p, q, (1 - wrong).to(z))


class Encoding(Transform):
    """Base class of encodings: an encoder q(z|x) of categories, with a factorized posterior p(x|z).

    A subclass writes `encode` and `decode`, and sets `cardinalities` and `latent_dim`. As a
    `Transform`, it is the first step of a flow: `forward` draws z with the log term log p(x|z) -
    log q(z|x) (Lippe & Gavves 2021, eq. 3, arXiv 2006.09790), and `inverse` decodes to the most
    probable category.

    Attributes:
        cardinalities: Number of categories: an int for one variable per position, x (B, L), or a
            tuple of V ints for V variables per position, x (B, L, V).
        latent_dim: Number of latents D of a position.
        like: Empty tensor that gives type and device to encodings without parameters.
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
        """Check categories and their mask before `encode`, which does not check them itself."""
        if not isinstance(x, Tensor):
            raise ValueError(f"categories must be a torch tensor, got {type_of(x)}")
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
            wrong = wrong & mask_of_variables(mask, x)
        if wrong.any():
            value = int(x[wrong][0])
            limit = int(limits.expand_as(x)[wrong][0])
            raise ValueError(f"categories must lie in 0 to {limit - 1}, got {value}")

    def encode(self, x: Tensor, context: Context = Context()) -> Encoded:
        """Draw latents of categories; the tape `context.noise` can repeat the draw."""
        raise NotImplementedError

    def decode(self, z: Tensor, context: Context = Context(), *, sample: bool = False) -> Tensor:
        """Decode latents to categories, 0 where masked: the argmax of p(x|z), or a draw from it."""
        raise NotImplementedError

    def forward(self, x, context=Context()):
        """Draw latents of categories, with the log term as every `Transform` returns it."""
        encoded = self.encode(x, context)
        return encoded.z, encoded.log_posterior - encoded.log_encoder

    def inverse(self, z, context=Context()):
        """Decode latents z (B, L, D) to their most probable categories; see `decode`."""
        return self.decode(z, context)


def mask_of_variables(mask: Tensor, like: Tensor) -> Tensor:
    """Turn a mask of positions into one of variables, of the shape of `like`."""
    return mask if mask.dim() == like.dim() else mask.unsqueeze(-1).expand_as(like)


def interval_category(u: Tensor, cardinalities: Sequence[int]) -> Tensor:
    """Find the categories whose intervals contain u (..., V): x of C has [x / C, (x + 1) / C).

    The intervals are equally wide, so that none is too narrow for floating point.
    """
    counts = torch.tensor(cardinalities, device=u.device)
    return (u.double() * counts).long().clamp(min=0).minimum(counts - 1)


def interval_bounds(x: Tensor, cardinalities: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return lower ends x / C and widths 1 / C of the intervals of categories, float64."""
    counts = torch.tensor(cardinalities, device=x.device, dtype=torch.float64)
    return x.double() / counts, (1 / counts).expand(x.shape)


class IntervalEncoding(Encoding):
    """Encoding z = logit(u) with u uniform on the interval of category x, one latent per variable.

    Category x of C has the interval [x / C, (x + 1) / C). Intervals are disjoint, so that nothing
    is lost. `AutoregressiveCoupling` stretches each to the conditional probability of its category:
    u is then uniform on (0, 1), and its logit follows the standard logistic base density.

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
        x = x.unsqueeze(-1) if self.single else x
        v = draw_noise(context.noise, x.shape, device=x.device)
        lower, width = interval_bounds(x, self.known)
        u = lower + width * (MARGIN + (1 - 2 * MARGIN) * v)
        # dz/du = 1 / (u (1 - u))
        log_q = -torch.log(width) - math.log1p(-2 * MARGIN) + torch.log(u) + torch.log1p(-u)
        z = torch.logit(u).to(self.like.dtype)
        right = interval_category(torch.sigmoid(z.double()), self.known) == x
        return Encoded.of_variables(z, torch.zeros_like(log_q), log_q, right, context.mask)

    def decode(self, z, context=Context(), *, sample=False):
        """Return the categories of latents; `sample` changes nothing, since p(x|z) is 0 or 1."""
        x = masked(interval_category(torch.sigmoid(z.double()), self.known), context.mask)
        return x.squeeze(-1) if self.single else x
