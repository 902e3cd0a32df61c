"""`Encoding`, the interface of encodings of categories as continuous latents."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from graphcnf.flows.transform import (
    Context,
    Noise,
    Transform,
    log_term_dtype,
    masked,
    sum_log_term,
    take,
)


@dataclass
class Encoded:
    """One draw of the stochastic encoder.

    Attributes:
        z: Latents, (B, L, D); 0 where masked.
        log_posterior: log p(x|z) summed over the variables of a sample, (B,) nats.
        log_encoder: log q(z|x) summed over the variables of a sample, (B,) nats.
        correct: Share of the variables of a sample whose most probable category under p(x|z) is
            the encoded one, (B,); 1 for a sample without variables.
    """

    z: Tensor
    log_posterior: Tensor
    log_encoder: Tensor
    correct: Tensor


class Encoding(Transform):
    """Stochastic encoder q(z|x) of categories, with a factorized posterior p(x|z).

    `forward` is one draw of the bound: its log term is log p(x|z) - log q(z|x), so that
    log p(x) >= E[log p(z) + log term] (Lippe & Gavves 2021, eq. 3). `inverse` decodes to the most
    probable category.

    Attributes:
        cardinalities: Number of categories. An int for one variable per position, x (B, L); a
            tuple of V of them for V variables per position, x (B, L, V).
        latent_dim: Latents D of a position.
    """

    exact = False
    cardinalities: int | tuple[int, ...]
    latent_dim: int

    def check(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Raise ValueError unless `encode` takes `x` and `mask`.

        Values at masked positions are not checked; a sample may be masked altogether.
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
            value, most = int(x[wrong][0]), int(limits.expand_as(x)[wrong][0])
            raise ValueError(f"categories must lie in 0 to {most - 1}, got {value}")

    def encode(self, x: Tensor, context: Context = Context()) -> Encoded:
        """Draw latents for categories `x`, (B, L) or (B, L, V) long.

        Of the context: the mask (B, L), and noise to record or replay.
        """
        raise NotImplementedError

    def decode(self, z: Tensor, context: Context = Context(), *, sample: bool = False) -> Tensor:
        """Return categories for latents `z` (B, L, D): argmax of p(x|z), or a draw when `sample`.

        A draw uses the generator of the context. Masked positions decode to 0.
        """
        raise NotImplementedError

    def forward(self, x, context=Context()):
        """Return z and log p(x|z) - log q(z|x), (B,)."""
        encoded = self.encode(x, context)
        return encoded.z, encoded.log_posterior - encoded.log_encoder

    def inverse(self, z, context=Context()):
        """Return the most probable categories."""
        return self.decode(z, context)


def expand(mask: Tensor, like: Tensor) -> Tensor:
    """Broadcast a (B, L) mask to the shape of a (B, L, V) tensor; (B, L, V) passes through."""
    return mask if mask.dim() == like.dim() else mask.unsqueeze(-1).expand_as(like)


def logistic_noise(shape: Sequence[int], like: Tensor, noise: Noise | None = None) -> Tensor:
    """Draw standard logistic numbers with the type and device of `like`."""
    # The tape is float64, and so are uniform numbers: in float32 they are too coarse for the tails.
    draw = take(noise, lambda: torch.rand(shape, dtype=torch.float64, device=like.device))
    return torch.logit(draw.clamp(1e-16, 1 - 1e-16)).to(like.dtype)


def logistic_log_density(z: Tensor) -> Tensor:
    """Return the elementwise log-density of the standard logistic distribution, nats."""
    z = z.abs()
    return -z - 2 * F.softplus(-z)


def assemble(
    z: Tensor, log_p: Tensor, log_q: Tensor, correct: Tensor, mask: Tensor | None
) -> Encoded:
    """Sum the terms of all positions, or of all variables.

    Args:
        z: (B, L, D).
        log_p: log p(x_i|z_i), (B, L) or (B, L, V), as the others.
        log_q: log q(z_i|x_i).
        correct: True where the most probable category is the encoded one.
        mask: (B, L) or (B, L, V) bool, or None.
    """
    real = torch.ones_like(correct) if mask is None else expand(mask, correct)
    wrong = (real & ~correct).flatten(1).sum(1) / real.flatten(1).sum(1).clamp(min=1)
    p, q = (sum_log_term(part, mask).to(log_term_dtype(z)) for part in (log_p, log_q))
    return Encoded(masked(z, mask), p, q, (1 - wrong).to(z))
