"""Categorical normalizing flow: an encoding, a flow over its latents, a base density.

    log p(x) >= E_{z ~ q(z|x)} [ log p(z) + log p(x|z) - log q(z|x) ]

Categories x (B, L) or, with V variables at a position, (B, L, V), are encoded as latents z (B, L,
D) by q(z|x); the flow maps these to base latents of the same shape, with a standard logistic
density; the factorized posterior p(x|z) leads back. The number in brackets, of one draw of z, is a
*bound*: its mean is at most log p(x). All log-probabilities are nats. Lippe & Gavves, *Categorical
Normalizing Flows via Continuous Transformations*, ICLR 2021, arXiv 2006.09790, eq. 3.
"""

from __future__ import annotations

import math
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
    """Terms of one draw of the bound on log p(x), (B,) nats.

    Attributes:
        log_flow: log p(z), the base density plus the log term of the flow.
        log_posterior: log p(x|z).
        log_encoder: log q(z|x).
        correct: Share of the variables whose latents decode to the encoded category.
    """

    log_flow: Tensor
    log_posterior: Tensor
    log_encoder: Tensor
    correct: Tensor

    @classmethod
    def of(cls, log_flow: Tensor, encoded: Encoded) -> Bound:
        """Join log p(z) to the terms of the encoder that drew z."""
        return cls(log_flow, encoded.log_posterior, encoded.log_encoder, encoded.correct)

    @classmethod
    def exact(cls, value: Tensor) -> Bound:
        """Write a log-probability that is known exactly as a bound."""
        zero = torch.zeros_like(value)
        return cls(value, zero, zero, torch.ones_like(value))

    def log_prob(self, beta: float = 1.0) -> Tensor:
        """Return log p(z) + beta log p(x|z) - log q(z|x), (B,) nats.

        Training may begin with `beta` above 1, which keeps the latents of different categories
        apart.
        """
        return self.log_flow + beta * self.log_posterior - self.log_encoder


class CategoricalFlow(nn.Module):
    """Distribution of categories by an encoding and a flow of its latents.

    `encode`, `decode` and `sample` run in evaluation mode, without dropout; `log_prob` and `bound`
    in the mode of the model.

    Attributes:
        exact: True if `bound` is log p(x) itself.

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

    exact: bool = False

    def __init__(self, encoding: Encoding, transform: Transform):
        super().__init__()
        self.encoding = encoding
        self.transform = transform
        self.base = StandardLogistic()

    def _draw_latents(self, x, context: Context) -> tuple[Encoded, Tensor, Tensor]:
        """Draw latents of categories once, and apply the flow to them."""
        self.encoding.check(x, context.mask)
        encoded = self.encoding.encode(x.long(), context)
        return encoded, *self.transform(encoded.z, context)

    def bound(self, x, context: Context = Context()) -> Bound:
        """Draw latents once, and return the terms of the bound: the training objective.

        The tape `context.noise` can repeat the draw.
        """
        encoded, base_latents, log_term = self._draw_latents(x, context)
        return Bound.of(self.base.log_prob(base_latents, context.mask) + log_term, encoded)

    def log_prob(self, x, context: Context = Context(), *, samples: int = 1) -> Tensor:
        """Return log p(x), or estimate it from below: log of the mean of exp(bound); (B,) nats.

        More `samples` tighten a bound (Burda et al. 2016, arXiv 1509.00519); one that is `exact` is
        evaluated once.
        """
        if samples < 1:
            raise ValueError(f"samples must be positive, got {samples}")
        check_rows(context.mask)
        count = 1 if self.exact else samples
        draws = [self.bound(x, context).log_prob() for _ in range(count)]
        return torch.logsumexp(torch.stack(draws), 0) - math.log(count)

    @evaluated
    def encode(self, x, context: Context = Context()) -> Tensor:
        """Draw base latents (B, L, D) of categories, from which `decode` leads back.

        Without loss where the categories have disjoint volumes.
        """
        refuse_half(self)
        return self._draw_latents(x, context)[1]

    @evaluated
    def decode(self, z, context: Context = Context(), *, sample: bool = False) -> Tensor:
        """Decode base latents: by the argmax of p(x|z), or with `sample` by a draw from it.

        The temperature of the context multiplies latents; a flow that `tempers` sharpens its
        conditional probabilities instead.
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
        """Draw base latents, and decode them.

        Give the `length` of all samples, or a mask in the context: the real positions of each.
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
    """Refuse a row without a real position: log-probability 0 would hide an inverted mask."""
    if mask is None:
        return
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.dim() not in (2, 3):
        got = getattr(mask, "dtype", type(mask).__name__)
        raise ValueError(f"the mask must be a bool tensor of shape (B, L), got {got}")
    empty = ~mask.flatten(1).any(1)
    if empty.any():
        row = int(empty.nonzero()[0])
        raise ValueError(f"row {row} of the mask has no real position (True where one is real)")
