"""Several variables at a position, each with an encoding of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from graphcnf.categorical.encoding import Encoded, Encoding


class JointEncoding(Encoding):
    """Encode x (B, L, V) variable by variable; the latents stand side by side on the last axis.

    Args:
        encodings: V encodings of one variable each, x (B, L).
    """

    def __init__(self, encodings: Sequence[Encoding]):
        super().__init__()
        if not encodings:
            raise ValueError("a joint encoding needs at least one encoding")
        for encoding in encodings:
            if not isinstance(encoding.cardinalities, int):
                raise ValueError(
                    f"{type(encoding).__name__} encodes {len(encoding.cardinalities)} variables; "
                    "a joint encoding joins encodings of one variable each"
                )
        self.encodings = nn.ModuleList(encodings)
        self.cardinalities = tuple(encoding.cardinalities for encoding in encodings)
        self.latent_dim = sum(encoding.latent_dim for encoding in encodings)

    def encode(self, x, *, mask=None, context=None, noise=None):
        """Draw z (B, L, D) for categories x (B, L, V) long."""
        parts = [
            encoding.encode(value, mask=own, context=context, noise=noise)
            for encoding, value, own in zip(
                self.encodings, x.unbind(-1), self._masks(mask), strict=True
            )
        ]
        return Encoded(
            torch.cat([part.z for part in parts], -1),
            sum(part.log_posterior for part in parts),
            sum(part.log_encoder for part in parts),
            sum(part.correct for part in parts) / len(parts),
        )

    def decode(self, z, *, mask=None, context=None, sample=False, generator=None):
        """Categories (B, L, V) of latents (B, L, D)."""
        parts = z.split([encoding.latent_dim for encoding in self.encodings], -1)
        values = [
            encoding.decode(part, mask=own, context=context, sample=sample, generator=generator)
            for encoding, part, own in zip(self.encodings, parts, self._masks(mask), strict=True)
        ]
        return torch.stack(values, -1)

    def _masks(self, mask):
        """The mask of each variable: all have one, or (B, L, V) holds theirs side by side."""
        several = mask is not None and mask.dim() == 3
        return mask.unbind(-1) if several else [mask] * len(self.encodings)
