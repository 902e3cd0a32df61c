"""Categorical normalizing flow: an encoding, a flow over its latents, a base density.

    log p(x) >= E_{z ~ q(z|x)} [ log p(z) + log p(x|z) - log q(z|x) ]

- *Categories* x are (B, L) integers: B rows of a batch with L *positions*. With V *variables* at
  each position they are (B, L, V).
- *Latents* z are (B, L, D). The *encoder* q(z|x) draws them, and the *posterior* p(x|z) maps them
  back (`graphcnf.categorical.encoding`).
- *Base latents* are what the flow makes of z, (B, L, D). Their density is standard logistic.
- A *mask* is True at *real* positions or variables. The others are padding: they do not count, and
  are 0 in every output.
- A *context* (`graphcnf.flows.transform.Context`) holds the mask, the temperature, and what random
  numbers come from: the *tape* `noise` of encoders, which can repeat a draw, and the `generator` of
  decoders and base densities.
- The *bound* is the number in brackets above, for one draw of z. Its mean over draws is at most
  log p(x). Where the probabilities are known exactly (`AutoregressiveFlow`), the bound is log p(x)
  itself.
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
        correct: Share of the variables whose latents decode to the encoded category, (B,).
    """

    log_flow: Tensor
    log_posterior: Tensor
    log_encoder: Tensor
    correct: Tensor

    @classmethod
    def of(cls, log_flow: Tensor, encoded: Encoded) -> Bound:
        """Join log p(z) to the terms of the encoder that belong to the same draw of z.

        Args:
            log_flow: log p(z) of the latents of `encoded`, (B,) nats.
            encoded: Draw of the encoder.

        Returns:
            The bound, with log p(x|z) and log q(z|x) of `encoded`.
        """
        return cls(log_flow, encoded.log_posterior, encoded.log_encoder, encoded.correct)

    @classmethod
    def exact(cls, value: Tensor) -> Bound:
        """Write a log-probability that is known exactly as a bound.

        Models with exact probabilities and models with a bound then return the same class.

        Args:
            value: log p(x), (B,) nats.

        Returns:
            A bound with `value` as `log_flow`, 0 for the other terms, and 1 for `correct`.
        """
        zero = torch.zeros_like(value)
        return cls(value, zero, zero, torch.ones_like(value))

    def value(self, beta: float = 1.0) -> Tensor:
        """Return log p(z) + beta log p(x|z) - log q(z|x), (B,) nats.

        Args:
            beta: Weight of log p(x|z). 1 gives the bound on log p(x). Training may begin with a
                larger one, which keeps the latents of different categories apart.
        """
        return self.log_flow + beta * self.log_posterior - self.log_encoder


def total(bounds: Iterable[Bound]) -> Tensor:
    """Add up bounds on the factors of a probability: log p(a, b) = log p(a) + log p(b|a).

    Args:
        bounds: One bound for each factor, all of the same B samples.

    Returns:
        Sum of their values, (B,) nats.
    """
    first, *others = (bound.value() for bound in bounds)
    return sum(others, first)


class CategoricalFlow(nn.Module):
    """Distribution of categories, with log p(x) >= E_q[log p(z) + log p(x|z) - log q(z|x)].

    Lippe & Gavves, *Categorical Normalizing Flows via Continuous Transformations*, ICLR 2021,
    arXiv 2006.09790, eq. 3. The output of the flow has a standard logistic density. `encode`,
    `decode` and `sample` run in evaluation mode (without dropout), whatever the mode of the model.

    Args:
        encoding: Encoding q(z|x) with its posterior p(x|z).
        transform: Flow that maps latents z to base latents, (B, L, D) both.

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
        """Draw latents of categories once, and apply the flow to them."""
        self.encoding.check(x, context.mask)
        encoded = self.encoding.encode(x.long(), context)
        return encoded, *self.transform(encoded.z, context)

    def bound(self, x, context: Context = Context()) -> Bound:
        """Draw latents once, and return the terms of the bound on log p(x): the training objective.

        Args:
            x: Categories, (B, L) or (B, L, V), integers.
            context: Mask and other inputs of encoding and flow. Its tape `noise` can repeat the
                draw.

        Returns:
            The terms. `Bound.value()`, (B,) nats, is one draw of the bound; its mean over draws is
            at most log p(x).
        """
        encoded, base_latents, log_term = self._draw_latents(x, context)
        return Bound.of(self.base.log_prob(base_latents, context.mask) + log_term, encoded)

    def log_prob(self, x, context: Context = Context(), *, samples: int = 1) -> Tensor:
        """Estimate log p(x) from below by the logarithm of the mean of exp(bound) over draws.

        It is differentiable, and runs in the mode of the model: call `eval()` first where dropout
        should be off.

        Args:
            x: Categories, (B, L) or (B, L, V), integers.
            context: Mask and other inputs of encoding and flow.
            samples: Number of draws of the encoder; more draws tighten the bound (Burda et al.
                2016, arXiv 1509.00519).

        Returns:
            A lower bound on log p(x) in expectation, (B,) nats.
        """
        if samples < 1:
            raise ValueError(f"samples must be positive, got {samples}")
        check_rows(context.mask)
        draws = [self.bound(x, context).value() for _ in range(samples)]
        return torch.logsumexp(torch.stack(draws), 0) - math.log(samples)

    @evaluated
    def encode(self, x, context: Context = Context()) -> Tensor:
        """Draw base latents of categories, in evaluation mode.

        `decode` maps them back: without loss where the categories of the encoding have disjoint
        volumes, else to the most probable category of each latent.

        Args:
            x: Categories, (B, L) or (B, L, V), integers.
            context: Mask and other inputs of encoding and flow.

        Returns:
            Base latents, (B, L, D).
        """
        refuse_half(self)
        return self._draw_latents(x, context)[1]

    @evaluated
    def decode(self, z, context: Context = Context(), *, sample: bool = False) -> Tensor:
        """Decode base latents to categories, in evaluation mode.

        Args:
            z: Base latents, (B, L, D).
            context: Mask and other inputs of encoding and flow. Its temperature multiplies the
                latents; a flow whose `tempers` is True sharpens its conditional probabilities
                instead.
            sample: True for a draw from p(x|z) instead of its argmax.

        Returns:
            Categories (B, L) or (B, L, V) long; 0 where masked.
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
        """Draw samples, in evaluation mode: base latents from the base density, then `decode`.

        Args:
            count: Number of samples.
            length: Positions L of each sample; not needed with a mask.
            context: Its mask (count, L), or (count, L, V), gives the real positions of each sample.
                Its temperature below 1 sharpens the distribution, its `generator` draws the latents
                (torch's global generator if None). It may hold further inputs of the flow.
            sample_posterior: True to draw categories from p(x|z) instead of taking its argmax.

        Returns:
            Categories (count, L) or (count, L, V) long; 0 where masked.
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
    """Check that every row of a mask has a real position.

    A row without one would have log-probability 0, so that an inverted mask would go unnoticed.

    Args:
        mask: (B, L) or (B, L, V) bool, True where real. None, for no mask, passes.
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
