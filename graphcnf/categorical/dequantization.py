"""Dequantization of category indices: the treatment of ordinal data, as a baseline.

Category k becomes a point between k and k + 1 on one axis, which gives the categories an order and
neighbours without meaning. Lippe & Gavves (2021, arXiv 2006.09790, section 5.2) compare their
encodings with it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from graphcnf.categorical.densities import ConditionalAffine
from graphcnf.categorical.encoding import Encoded, Encoding
from graphcnf.flows.dequantization import UniformDequantization, VariationalDequantization
from graphcnf.flows.logistic_mixture import (
    bounded_log_scale,
    logistic_mixture,
    logistic_mixture_inverse,
)
from graphcnf.flows.readout import zero_init
from graphcnf.flows.transform import (
    Bijection,
    Context,
    Sequential,
    Transform,
    masked,
    prepare,
    sum_log_term,
)


class DequantizationEncoding(Encoding):
    """Encoding z = s (x + u - K / 2) with u in (0, 1); s gives uniform categories variance 1.

    The cells of the categories are disjoint, so log p(x|z) = 0 and reconstruction is exact. The
    mass of p(z) beyond the first and the last cell is lost, as with `ArgmaxEncoding`: see
    `overflow`.

    Args:
        categories: Number of categories K.
        variational: True for u from a learned distribution per category (Ho et al. 2019, arXiv
            1902.00275), False for uniform u.
        mixtures: Components of the learned distributions.
        embedding: Channels of a category's embedding for the learned distributions.
    """

    cardinalities: int
    like: Tensor

    def __init__(
        self, categories: int, *, variational: bool = False, mixtures: int = 4, embedding: int = 16
    ):
        super().__init__()
        if categories < 1:
            raise ValueError(f"categories must be at least 1, got {categories}")
        self.cardinalities, self.latent_dim = int(categories), 1
        self.scale = math.sqrt(12) / categories
        if variational:
            flow = Sequential(
                ConditionalMixture(mixtures, embedding), ConditionalAffine(1, embedding)
            )
            self.noise: Transform = VariationalDequantization(
                categories, flow, CategoryEmbedding(categories, embedding)
            )
        else:
            self.noise = UniformDequantization(categories)
        # Carries the type of the module: there may be no parameters.
        self.register_buffer("like", torch.empty(0), persistent=False)

    def encode(self, x, context=Context()):
        """Draw z (B, L, 1) for categories x (B, L) long."""
        x, mask = masked(x, context.mask), context.mask
        cell = x.unsqueeze(-1).to(self.like.dtype)
        point, log_term = self.noise(cell, context)
        z = masked(self.scale * (point - self.cardinalities / 2), mask)
        real = torch.ones_like(x, dtype=torch.bool) if mask is None else mask
        log_q = -log_term - math.log(self.scale) * real.sum(1)
        wrong = real & (self.decode(z) != x)
        correct = 1 - wrong.sum(1) / real.sum(1).clamp(min=1)
        return Encoded(z, torch.zeros_like(log_q), log_q, correct.to(z))

    def overflow(self, z: Tensor) -> Tensor:
        """Return True where latents stand for no category, (..., 1) -> (...) bool."""
        point = self._point(z)
        return (point < 0) | (point >= self.cardinalities)

    def _point(self, z: Tensor) -> Tensor:
        return z[..., 0].double() / self.scale + self.cardinalities / 2

    def decode(self, z, context=Context(), *, sample=False):
        """Return categories (B, L); p(x|z) is deterministic, so `sample` changes nothing."""
        x = self._point(masked(z, context.mask)).floor().long().clamp(0, self.cardinalities - 1)
        return masked(x, context.mask)


class CategoryEmbedding(nn.Module):
    """Embedding of categories scaled to (-1, 1), the input of `VariationalDequantization.encoder`.

    Args:
        categories: Number of categories K.
        channels: Channels of the embedding.
    """

    def __init__(self, categories: int, channels: int):
        super().__init__()
        self.table = nn.Embedding(categories, channels)

    def forward(self, known: Tensor) -> Tensor:
        """Map (B, L, 1) to (B, L, channels)."""
        categories = len(self.table.weight)
        index = ((known[..., 0] + 1) * categories / 2).floor().long()
        return self.table(index.clamp(0, categories - 1))


class ConditionalMixture(Bijection):
    """Map f(x; c) = logit CDF(x) of a mixture of logistics, with parameters linear in features c.

    For one channel; starts near the identity.

    Args:
        mixtures: Number of components.
        features: Channels of c, the features of the context.
    """

    offsets: Tensor

    def __init__(self, mixtures: int, features: int):
        super().__init__()
        self.parameters_of = zero_init(nn.Linear(features, 3 * mixtures))
        # Without offsets the components would stay equal.
        self.register_buffer("offsets", torch.linspace(-0.5, 0.5, mixtures))

    def forward(self, x, context=Context()):
        """Apply f to x (B, L, 1)."""
        x = prepare(x, context.mask)
        z, log_slope = logistic_mixture(x[..., 0], *self._mixture(context.features, x.dtype))
        return masked(z.unsqueeze(-1), context.mask), sum_log_term(log_slope, context.mask)

    def inverse_and_logdet(self, z, context=Context()):
        """Apply the inverse of f to z (B, L, 1)."""
        z = prepare(z, context.mask)
        mixture = self._mixture(context.features, z.dtype)
        x = logistic_mixture_inverse(z[..., 0], *mixture)
        log_slope = -logistic_mixture(x, *mixture)[1]
        return masked(x.unsqueeze(-1), context.mask), sum_log_term(log_slope, context.mask)

    def _mixture(self, features: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits, means and log-scales, components first."""
        logits, means, log_scales = (
            part.movedim(-1, 0).contiguous()
            for part in self.parameters_of(features).to(dtype).chunk(3, -1)
        )
        means = means + self.offsets.to(dtype).reshape(-1, *[1] * (means.dim() - 1))
        return logits, means, bounded_log_scale(log_scales)
