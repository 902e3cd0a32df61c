"""Encodings of categories as continuous latents, which a normalizing flow can model.

- A *category* is an integer from 0 to C - 1, without order. Categories x are (B, L): B rows of a
  batch, with one *variable* at each of L *positions*. Or they are (B, L, V): V variables at each
  position.
- *Latents* z are real numbers, (B, L, D): D of them at each position.
- An *encoding* draws latents of categories from q(z|x), the *encoder*. It maps latents back by the
  *posterior* p(x|z). The posterior is factorized: a product over the variables.
- A *mask* is True at *real* positions or variables. The others are padding: their categories are
  ignored, and they are 0 in every output.
- The *log term* of an encoding is log p(x|z) - log q(z|x), one number for each row.
- A *context* (`graphcnf.flows.transform.Context`) holds the mask, and what random numbers come
  from: the *tape* `noise` of encoders, which can repeat a draw, and the `generator` of decoders.

In `IntervalEncoding` every category has an interval of its own: log p(x|z) = 0, and reconstruction
is exact. The other encodings are in `graphcnf.categorical.learned_encodings`.
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
        correct: Share of the variables whose most probable category under p(x|z) is the encoded
            one, (B,).
    """

    z: Tensor
    log_posterior: Tensor
    log_encoder: Tensor
    correct: Tensor

    @classmethod
    def of_variables(
        cls, z: Tensor, log_p: Tensor, log_q: Tensor, correct: Tensor, mask: Tensor | None
    ) -> Encoded:
        """Build it from the terms of single variables, which are summed over the real ones.

        Args:
            z: Latents, (B, L, D), which are set to 0 where masked.
            log_p: log p(x_i|z_i) of each variable i, (B, L) or (B, L, V) nats.
            log_q: log q(z_i|x_i) of each variable i, of the same shape, nats.
            correct: True where the most probable category is the encoded one, of the same shape.
            mask: True at real positions, (B, L), or at real variables, of the shape of `log_p`;
                None if all are real.

        Returns:
            The latents with their terms. A row without real variables has 1 as its `correct`.
        """
        real = torch.ones_like(correct) if mask is None else mask_of_variables(mask, correct)
        wrong = (real & ~correct).flatten(1).sum(1) / real.flatten(1).sum(1).clamp(min=1)
        p, q = (sum_log_term(terms, mask).to(log_term_dtype(z)) for terms in (log_p, log_q))
        return cls(masked(z, mask), p, q, (1 - wrong).to(z))


class Encoding(Transform):
    """Base class of encodings: an encoder q(z|x) of categories, with a factorized posterior p(x|z).

    A subclass writes `encode` and `decode`, and sets `cardinalities` and `latent_dim`. As a
    `Transform`, it is the first step of a flow: `forward` draws z, and its log term is
    log p(x|z) - log q(z|x), so that log p(x) >= E[log p(z) + log term] (Lippe & Gavves 2021, eq. 3,
    arXiv 2006.09790). `inverse` decodes to the most probable category.

    Attributes:
        cardinalities: Number of categories: an int for one variable per position, x (B, L), or a
            tuple of V ints for V variables per position, x (B, L, V).
        latent_dim: Number of latents D of a position.
        like: Empty tensor that follows the module to its type and device, for encodings that have
            no parameters from which these could be read.
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
        """Check categories and their mask before `encode`, which does not check them itself.

        Args:
            x: Categories, (B, L) or (B, L, V); arbitrary where masked.
            mask: True at real positions, (B, L) bool, or at real variables, of the shape of `x`;
                None if all are real.
        """
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
        """Draw latents of categories.

        Args:
            x: Categories, (B, L) or (B, L, V) long; arbitrary where masked.
            context: Its `mask` says which are real; without a mask all are. Its tape `noise`
                records the random numbers of the draw, or, once rewound, repeats them.

        Returns:
            The latents z (B, L, D), with log p(x|z) and log q(z|x) of each row in nats.

        Raises:
            NotImplementedError: in this base class.
        """
        raise NotImplementedError

    def decode(self, z: Tensor, context: Context = Context(), *, sample: bool = False) -> Tensor:
        """Decode latents to categories: the argmax of p(x|z), or a draw from it.

        Args:
            z: Latents, (B, L, D).
            context: Its `mask` says which are real; its `generator` is used for the draw.
            sample: True to draw from p(x|z), False for its argmax.

        Returns:
            Categories (B, L) or (B, L, V) long; 0 where masked.
        """
        raise NotImplementedError

    def forward(self, x, context=Context()):
        """Draw latents of categories, with the log term as every `Transform` returns it."""
        encoded = self.encode(x, context)
        return encoded.z, encoded.log_posterior - encoded.log_encoder

    def inverse(self, z, context=Context()):
        """Decode latents z (B, L, D) to their most probable categories; see `decode`."""
        return self.decode(z, context)


def mask_of_variables(mask: Tensor, like: Tensor) -> Tensor:
    """Turn a mask of positions into one of variables: all V variables of a position get its value.

    Args:
        mask: True where real, (B, L) bool. A mask of the shape of `like` is returned as it is.
        like: Tensor with one value for each variable, (B, L, V), or (B, L) for a single variable.
            Only its shape is read.

    Returns:
        Mask of the shape of `like`.
    """
    return mask if mask.dim() == like.dim() else mask.unsqueeze(-1).expand_as(like)


def interval_category(u: Tensor, cardinalities: Sequence[int]) -> Tensor:
    """Find the categories whose intervals contain u: category x of C has [x / C, (x + 1) / C).

    The intervals of a variable are equally wide, whatever the probabilities of its categories.
    So none is too narrow for floating point; `AutoregressiveCoupling` stretches them later to the
    probabilities.

    Args:
        u: Numbers in (0, 1), (..., V), one for each variable.
        cardinalities: Number of categories of each of the V variables.

    Returns:
        Categories, (..., V) long.
    """
    counts = torch.tensor(cardinalities, device=u.device)
    return (u.double() * counts).long().clamp(min=0).minimum(counts - 1)


def interval_bounds(x: Tensor, cardinalities: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the interval of each category x of a variable with C categories: [x / C, (x + 1) / C).

    `interval_category` finds the category of a number in such an interval.

    Args:
        x: Categories, (..., V) long.
        cardinalities: Number of categories of each of the V variables.

    Returns:
        Lower ends x / C, and widths 1 / C, (..., V) float64 each.
    """
    counts = torch.tensor(cardinalities, device=x.device, dtype=torch.float64)
    return x.double() / counts, (1 / counts).expand(x.shape)


class IntervalEncoding(Encoding):
    """Encoding z = logit(u) with u uniform on the interval of category x, one latent per variable.

    Category x of C has the interval [x / C, (x + 1) / C). Intervals are disjoint, so p(x|z) is 0 or
    1, and nothing is lost. It is made for `AutoregressiveCoupling`, which stretches each interval
    to the conditional probability of its category: u then becomes uniform on (0, 1), and its logit
    follows the standard logistic base density.

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
        """Draw latents (B, L, V) of categories x, (B, L, V) long, or (B, L) long and then V = 1.

        Arguments and result are those of `Encoding.encode`; log p(x|z) is 0.
        """
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
        """Return the categories (B, L, V) or (B, L) long of latents (B, L, V); 0 where masked.

        `sample` changes nothing, since p(x|z) is 0 or 1.
        """
        x = masked(interval_category(torch.sigmoid(z.double()), self.known), context.mask)
        return x.squeeze(-1) if self.single else x
