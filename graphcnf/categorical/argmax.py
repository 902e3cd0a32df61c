"""Argmax encoding: the signs of the latents are the binary digits of the category."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.categorical.encoding import (
    Encoding,
    assemble,
    logistic_log_density,
    logistic_noise,
)
from graphcnf.flows.transform import Context, masked


class ArgmaxEncoding(Encoding):
    """Encoding z_m = +-softplus(a_m), with the sign of binary digit m of x and logistic a_m.

    A category takes M = max(1, ceil(log2 K)) latents. Its volume is an orthant, so p(x|z) is an
    indicator and log p(x|z) = 0. Location and scale of a_m are learned per category and digit.

    Where K is no power of two, 2^M - K codes stand for no category, and the model loses the mass
    of p(z) on them: the bound stays a valid lower bound, and the probabilities of all x sum to 1
    minus that mass. `overflow` finds such latents. They decode to the code without its leading
    digit, which is always a category.

    References:
        Hoogeboom et al., *Argmax Flows and Multinomial Diffusion*, NeurIPS 2021, arXiv 2102.05379,
        section 3.2 (Cartesian products).

    Args:
        categories: Number of categories K.
    """

    cardinalities: int

    def __init__(self, categories: int):
        super().__init__()
        if categories < 1:
            raise ValueError(f"categories must be at least 1, got {categories}")
        self.cardinalities = int(categories)
        self.latent_dim = max(1, (self.cardinalities - 1).bit_length())
        # The absolute value of a standard logistic variable has about this median.
        self.location = nn.Parameter(torch.full((categories, self.latent_dim), 0.7))
        self.log_scale = nn.Parameter(torch.zeros(categories, self.latent_dim))

    def encode(self, x, context=Context()):
        """Draw z (B, L, M) for categories x (B, L) long."""
        x = masked(x, context.mask)
        e = logistic_noise((*x.shape, self.latent_dim), self.location, context.noise)
        log_scale = self.log_scale[x]
        a = self.location[x] + torch.exp(log_scale) * e
        # Far below 0, softplus would round to 0 and lose the sign.
        size = F.softplus(a).clamp_min(torch.finfo(a.dtype).tiny)
        digits = (x.unsqueeze(-1) >> torch.arange(self.latent_dim, device=x.device)) & 1
        z = torch.where(digits.bool(), size, -size)
        # d softplus(a) / da = sigmoid(a)
        log_q = logistic_log_density(e) - log_scale - F.logsigmoid(a)
        right = self.decode(z) == x
        return assemble(z, torch.zeros_like(log_q[..., 0]), log_q.sum(-1), right, context.mask)

    def code(self, z: Tensor) -> Tensor:
        """Return the number whose binary digits are the signs, (..., M) -> (...) long."""
        powers = 2 ** torch.arange(self.latent_dim, device=z.device)
        return ((z > 0) * powers).sum(-1)

    def overflow(self, z: Tensor) -> Tensor:
        """Return True where latents stand for no category, (..., M) -> (...) bool."""
        return self.code(z) >= self.cardinalities

    def decode(self, z, context=Context(), *, sample=False):
        """Return categories (B, L); p(x|z) is deterministic, so `sample` changes nothing."""
        code = self.code(z)
        code = torch.where(self.overflow(z), code - 2 ** (self.latent_dim - 1), code)
        # A single category still has a digit, which may be 1.
        code = code.clamp(max=self.cardinalities - 1)
        return masked(code, context.mask)
