"""What every encoding of categories into continuous latents has in common."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from graphcnf.flows.transform import Noise, Transform


@dataclass
class Encoded:
    """One draw of the stochastic encoder.

    Attributes:
        z: Latents, shape (B, L, D); 0 where masked.
        log_posterior: log p(x|z) summed over the variables of a sample, shape (B,), nats.
        log_encoder: log q(z|x) summed over the variables of a sample, shape (B,), nats.
        correct: Share of the variables of a sample whose most probable category under p(x|z) is
            the encoded one, shape (B,); 1 for a sample without variables.
    """

    z: Tensor
    log_posterior: Tensor
    log_encoder: Tensor
    correct: Tensor


class Encoding(Transform):
    """Categories to latents: z ~ q(z|x), with a factorized posterior p(x|z) to come back.

    `forward` is one draw of the bound: its log term is log p(x|z) - log q(z|x), so that
    log p(x) >= E[log p(z) + log term] (Lippe & Gavves 2021, eq. 3). `inverse` decodes to the most
    probable category, or samples p(x|z) when a generator is given together with `sample=True`.
    """

    exact = False
    latent_dim: int

    def encode(
        self, x: Tensor, *, mask: Tensor | None = None, context=None, noise: Noise | None = None
    ) -> Encoded:
        """Draw latents for categories `x`, shape (B, L) or (B, L, V) long."""
        raise NotImplementedError

    def decode(
        self,
        z: Tensor,
        *,
        mask: Tensor | None = None,
        context=None,
        sample: bool = False,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Categories for latents `z` (B, L, D): argmax of p(x|z), or a draw when `sample`."""
        raise NotImplementedError

    def forward(self, x, *, mask=None, context=None, noise=None, discarded=None):
        """Return z and log p(x|z) - log q(z|x), shape (B,)."""
        encoded = self.encode(x, mask=mask, context=context, noise=noise)
        return encoded.z, encoded.log_posterior - encoded.log_encoder

    def inverse(
        self, z, *, mask=None, context=None, discarded=None, temperature=1.0, generator=None
    ):
        """Return the most probable categories."""
        return self.decode(z, mask=mask, context=context)


def take(noise: Noise | None, draw: Callable[[], Tensor]) -> Tensor:
    """Draw, or replay the recorded draw when a tape is given."""
    return draw() if noise is None else noise.take(draw)
