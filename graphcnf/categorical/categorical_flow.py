"""Categorical normalizing flow: an encoding, a flow over its latents, a base density.

    log p(x) >= E_{z ~ q(z|x)} [ log p(z) + log p(x|z) - log q(z|x) ]

Categories x are (B, L), or (B, L, V) for V variables at each position; latents z are (B, L, D). The
*base latents* are what the flow makes of z; their density is standard logistic. One draw of z gives
one draw of the *bound*; it is exact where the encoding loses nothing, as with an autoregressive
coupling over intervals.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from graphcnf.categorical.encoding import Encoded, Encoding
from graphcnf.flows.base import StandardLogistic
from graphcnf.flows.transform import Context, Transform
from graphcnf.limits import check_temperature
from graphcnf.torch_state import evaluated, refuse_half


@dataclass
class Bound:
    """Terms of one draw of the bound on log p(x).

    Attributes:
        log_flow: log p(z), the base density plus the log term of the flow, (B,) nats.
        log_posterior: log p(x|z), (B,) nats.
        log_encoder: log q(z|x), (B,) nats.
        correct: Share of the variables that decode to what was encoded, (B,).
    """

    log_flow: Tensor
    log_posterior: Tensor
    log_encoder: Tensor
    correct: Tensor

    @classmethod
    def of(cls, log_flow: Tensor, encoded: Encoded) -> Bound:
        """Build a bound from `log_flow`, which is log p(z), and the other terms of the same draw.

        Args:
            log_flow: log p(z) of the latents of `encoded`, (B,) nats.
            encoded: Draw of the encoder.

        Returns:
            The bound, with log p(x|z) and log q(z|x) of `encoded`.
        """
        return cls(log_flow, encoded.log_posterior, encoded.log_encoder, encoded.correct)

    @classmethod
    def exact(cls, value: Tensor) -> Bound:
        """Return an exact log-probability as a bound, whose other terms are 0.

        Args:
            value: log p(x), (B,) nats.
        """
        zero = torch.zeros_like(value)
        return cls(value, zero, zero, torch.ones_like(value))

    def value(self, beta: float = 1.0) -> Tensor:
        """Return log p(z) + beta log p(x|z) - log q(z|x), (B,) nats: for beta = 1 the bound.

        A larger beta early in training keeps the categories apart.
        """
        return self.log_flow + beta * self.log_posterior - self.log_encoder


def total(bounds: Iterable[Bound]) -> Tensor:
    """Add up the bounds of parts of the same B samples to one of the whole, (B,) nats."""
    first, *others = (bound.value() for bound in bounds)
    return sum(others, first)


class CategoricalFlow(nn.Module):
    """Density of categories: log p(x) >= E_q[log p(z) + log p(x|z) - log q(z|x)].

    Lippe & Gavves, *Categorical Normalizing Flows via Continuous Transformations*, ICLR 2021,
    arXiv 2006.09790, eq. 3. The base density, of the flow's output, is standard logistic.

    Args:
        encoding: Encoding q(z|x) with its posterior p(x|z).
        transform: Flow of the latents z.

    Examples:
        >>> from graphcnf.categorical import make_encoding
        >>> from graphcnf.flows import ActNorm, InvertibleLinear, Sequential
        >>> flow = Sequential(ActNorm(2), InvertibleLinear(2))
        >>> model = CategoricalFlow(make_encoding("mixture", 3, latent_dim=2), flow)
        >>> x = torch.tensor([[0, 1, 2, 1], [2, 2, 0, 1]])
        >>> model.log_prob(x).shape
        torch.Size([2])
        >>> model.sample(5, length=4).shape
        torch.Size([5, 4])
    """

    def __init__(self, encoding: Encoding, transform: Transform):
        super().__init__()
        self.encoding = encoding
        self.transform = transform
        self.base = StandardLogistic()

    def _draw_latents(self, x, context: Context) -> tuple[Encoded, Tensor, Tensor]:
        """Draw latents of categories once, and apply the flow to them.

        Args:
            x: Categories, (B, L) or (B, L, V), integers.
            context: Mask and other inputs of encoding and flow.

        Returns:
            The draw of the encoder, the base latents (B, L, D), and the log term of the flow, (B,)
            nats.

        Raises:
            ValueError: if categories or mask have a wrong shape, type or value (`Encoding.check`).
        """
        self.encoding.check(x, context.mask)
        encoded = self.encoding.encode(x.long(), context)
        return encoded, *self.transform(encoded.z, context)

    def bound(self, x, context: Context = Context()) -> Bound:
        """Draw the terms of the bound once.

        Args:
            x: Categories, (B, L) or (B, L, V), integers.
            context: Mask and other inputs of encoding and flow.

        Returns:
            The terms, (B,) nats each; the mean of `Bound.value` over draws is at most log p(x).

        Raises:
            ValueError: if categories or mask have a wrong shape, type or value (`Encoding.check`).
        """
        encoded, base_latents, log_term = self._draw_latents(x, context)
        return Bound.of(self.base.log_prob(base_latents, context.mask) + log_term, encoded)

    def log_prob(self, x, context: Context = Context(), *, samples: int = 1) -> Tensor:
        """Return a lower bound on log p(x), (B,) nats.

        Args:
            x: Categories, (B, L) or (B, L, V), integers.
            context: Mask and other inputs of encoding and flow.
            samples: Number of draws of the encoder; more draws tighten the bound (Burda et al.
                2016, arXiv 1509.00519).

        Raises:
            ValueError: if `samples` is not positive, a category is out of range, or a row has no
                real position, see `Encoding.check` and `check_rows`.
        """
        if samples < 1:
            raise ValueError(f"samples must be positive, got {samples}")
        check_rows(context.mask)
        draws = [self.bound(x, context).value() for _ in range(samples)]
        return torch.logsumexp(torch.stack(draws), 0) - math.log(samples)

    @evaluated
    def encode(self, x, context: Context = Context()) -> Tensor:
        """Draw base latents of categories; `decode` maps them back, as well as the encoding can.

        Args:
            x: Categories, (B, L) or (B, L, V), integers.
            context: Mask and other inputs of encoding and flow.

        Returns:
            Base latents, (B, L, D).

        Raises:
            ValueError: if categories or mask have a wrong shape, type or value (`Encoding.check`).
        """
        refuse_half(self)
        return self._draw_latents(x, context)[1]

    @evaluated
    def decode(self, z, context: Context = Context(), *, sample: bool = False) -> Tensor:
        """Decode base latents to categories.

        Args:
            z: Base latents, (B, L, D).
            context: Its temperature multiplies the latents; a flow that `tempers` sharpens its
                conditional probabilities instead.
            sample: True for a draw from p(x|z) instead of its argmax.

        Returns:
            Categories (B, L) or (B, L, V) long; 0 where masked.

        Raises:
            UserError: if the temperature is out of range.
        """
        check_temperature(context.temperature)
        if not self.transform.tempers:
            z = context.temperature * z
        return self.encoding.decode(self.transform.inverse(z, context), context, sample=sample)

    @evaluated
    def sample(
        self,
        count: int,
        length: int | None = None,
        context: Context = Context(),
        *,
        sample_posterior: bool = False,
    ) -> Tensor:
        """Draw samples.

        Args:
            count: Number of samples.
            length: Positions L of each sample; not needed with a mask.
            context: Its mask (count, L) gives the real positions of each sample; also temperature,
                generator and inputs of the flow.
            sample_posterior: True to draw categories from p(x|z) instead of taking its argmax.

        Returns:
            Categories (count, L) or (count, L, V) long; 0 where masked.

        Raises:
            ValueError: if length and mask are both missing, the mask does not have `count` rows, or
                a row has no real position.
            UserError: if the temperature is out of range.
        """
        mask = context.mask
        positions = mask
        if mask is not None:
            if len(mask) != count:
                raise ValueError(f"{count} samples, but a mask of {len(mask)} rows")
            check_rows(mask)
            length = mask.shape[1]
            # The base density draws whole positions.
            positions = mask.any(-1) if mask.dim() == 3 else mask
        elif length is None:
            raise ValueError("give the length of the samples, or a mask")
        like = next(self.parameters(), torch.empty(0))
        z = self.base.sample(
            (count, length, self.encoding.latent_dim),
            mask=positions,
            generator=context.generator,
            device=like.device if mask is None else mask.device,
            dtype=like.dtype,
        )
        return self.decode(z, context, sample=sample_posterior)


def check_rows(mask: Tensor | None) -> None:
    """Check that every row has a real position.

    A row without would have log-probability 0, and an inverted mask would go unnoticed.

    Args:
        mask: (B, L) or (B, L, V) bool, True where real; None for no mask.

    Raises:
        ValueError: if a row has no real position, or the mask is no such tensor.
    """
    if mask is None:
        return
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.dim() not in (2, 3):
        got = getattr(mask, "dtype", type(mask).__name__)
        raise ValueError(f"the mask must be a bool tensor of shape (B, L), got {got}")
    empty = ~mask.flatten(1).any(1)
    if empty.any():
        row = int(empty.nonzero()[0])
        raise ValueError(f"row {row} of the mask has no real position (True where one is real)")
