"""Categories as one-hot vectors with uniform noise: the dequantization of GraphNVP and GraphAF."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from graphcnf.categorical.encoding import Encoding, assemble
from graphcnf.flows.transform import Context, masked, take

NOISE = 0.9
"""Width of the noise, c in both papers."""


class OneHotDequantization(Encoding):
    """``z = onehot(x) + c u`` with u in [0, 1)^K and c = 0.9: ``log q(z|x) = -K log c``.

    The cubes of the categories are disjoint, and the largest entry of z tells which one it is in:
    log p(x|z) = 0. What p(z) puts outside of the cubes is lost, so that the mean of
    log p(z) + K log c is a lower bound on log p(x).

    References:
        Madhawa et al. 2019, arXiv 1905.11600; Shi et al. 2020, arXiv 2001.09382.

    Args:
        categories: Number of categories K.

    Examples:
        >>> encoding = OneHotDequantization(3)
        >>> encoded = encoding.encode(torch.tensor([[2, 0]]))
        >>> encoding.decode(encoded.z).tolist()
        [[2, 0]]
    """

    like: Tensor

    def __init__(self, categories: int):
        super().__init__()
        self.cardinalities = self.latent_dim = int(categories)
        # Knows the type of the module it is part of: there are no parameters to ask.
        self.register_buffer("like", torch.empty(0), persistent=False)

    def encode(self, x, context=Context()):
        """Draw z (B, L, K) for categories x (B, L) long."""
        x = masked(x, context.mask)
        one_hot = F.one_hot(x, self.cardinalities).to(self.like)
        u = take(
            context.noise, lambda: torch.rand(one_hot.shape, dtype=torch.float64, device=x.device)
        )
        z = one_hot + NOISE * u.to(one_hot)
        log_q = torch.full_like(z[..., 0], -self.cardinalities * math.log(NOISE))
        return assemble(z, torch.zeros_like(log_q), log_q, self.decode(z) == x, context.mask)

    def decode(self, z, context=Context(), *, sample=False):
        """Categories (B, L); p(x|z) is deterministic, so `sample` changes nothing."""
        return masked(z.argmax(-1), context.mask)
