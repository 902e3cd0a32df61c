"""Encodings whose volumes are disjoint: log p(x|z) = 0, and reconstruction is exact."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.categorical.densities import EMBEDDING, Conditioner
from graphcnf.categorical.encoding import (
    Encoding,
    assemble,
    logistic_log_density,
    logistic_noise,
)
from graphcnf.flows.coupling import MixtureLogisticCoupling
from graphcnf.flows.dequantization import UniformDequantization, VariationalDequantization
from graphcnf.flows.modules import zero_init
from graphcnf.flows.transform import Context, Transform, masked, take

MARGIN = 1e-4
"""Share of an interval that stays free at either end: rounding never moves a latent into the
neighbouring category. It costs -log2(1 - 2 MARGIN) = 0.0003 bits per variable."""


def interval_category(u: Tensor, cardinalities: Sequence[int]) -> Tensor:
    """Return the categories whose intervals hold u (..., V) in (0, 1), (..., V) long.

    The intervals of a variable have equal widths: a coupling rescales them to the conditional
    probabilities anyway, and none comes near the resolution of floating point.
    """
    counts = torch.tensor(cardinalities, device=u.device)
    return (u.double() * counts).long().clamp(min=0).minimum(counts - 1)


def interval_bounds(x: Tensor, cardinalities: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return lower ends and widths of the intervals of categories x, (..., V) float64 each."""
    counts = torch.tensor(cardinalities, device=x.device, dtype=torch.float64)
    return x.double() / counts, (1 / counts).expand(x.shape)


class IntervalEncoding(Encoding):
    """Encoding z = logit(u), u uniform on the interval of category x; p(x|z) is an indicator.

    One latent per variable. Made for `AutoregressiveCoupling`, which rescales each interval to the
    conditional probability of its category; a base logistic density makes u uniform.

    Args:
        cardinalities: Number of categories of each of the V variables at a position, or an int
            for one variable per position without an axis of its own.

    Examples:
        >>> encoding = IntervalEncoding(4)
        >>> x = torch.tensor([[0, 1, 2, 3]])
        >>> encoded = encoding.encode(x)
        >>> encoding.decode(encoded.z).tolist()  # whatever was drawn
        [[0, 1, 2, 3]]
    """

    like: Tensor

    def __init__(self, cardinalities: Sequence[int] | int):
        super().__init__()
        self.single = isinstance(cardinalities, int)
        known = [cardinalities] if isinstance(cardinalities, int) else list(cardinalities)
        if min(known, default=0) < 1:
            raise ValueError(f"every variable needs at least one category, got {known}")
        self.known, self.latent_dim = known, len(known)
        self.cardinalities = known[0] if self.single else tuple(known)
        # Carries the type of the module: there are no parameters.
        self.register_buffer("like", torch.empty(0), persistent=False)

    def encode(self, x, context=Context()):
        """Draw z (B, L, V) for categories x (B, L, V) long, or (B, L) and V = 1."""
        x = x.unsqueeze(-1) if self.single else x
        v = take(context.noise, lambda: torch.rand(x.shape, device=x.device, dtype=torch.float64))
        lower, width = interval_bounds(x, self.known)
        u = lower + width * (MARGIN + (1 - 2 * MARGIN) * v)
        # dz/du = 1 / (u (1 - u))
        log_q = -torch.log(width) - math.log1p(-2 * MARGIN) + torch.log(u) + torch.log1p(-u)
        z = torch.logit(u).to(self.like.dtype)
        right = interval_category(torch.sigmoid(z.double()), self.known) == x
        return assemble(z, torch.zeros_like(log_q), log_q, right, context.mask)

    def decode(self, z, context=Context(), *, sample=False):
        """Return the category of each latent, (B, L, V) long or (B, L); 0 where masked."""
        x = masked(interval_category(torch.sigmoid(z.double()), self.known), context.mask)
        return x.squeeze(-1) if self.single else x


class ArgmaxEncoding(Encoding):
    """Encoding z_m = +-softplus(a_m), with the sign of binary digit m of x and logistic a_m.

    K categories take M = max(1, ceil(log2 K)) latents each; the volume of a category is an orthant.
    Location and scale of a_m are learned per category and digit.

    Where K is no power of two, 2^M - K codes stand for no category, and the model loses the mass
    of p(z) on them: the bound stays a valid lower bound, and the probabilities of all x sum to 1
    minus that mass. `overflow` finds such latents. They decode to the code without its leading
    digit, which is always a category.

    References:
        Hoogeboom et al., *Argmax Flows and Multinomial Diffusion*, NeurIPS 2021, arXiv 2102.05379,
        section 3.2 (Cartesian products).
    """

    cardinalities: int

    def __init__(self, categories: int):
        super().__init__()
        if categories < 1:
            raise ValueError(f"categories must be at least 1, got {categories}")
        self.cardinalities = categories
        self.latent_dim = max(1, (categories - 1).bit_length())
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
        return masked(code.clamp(max=self.cardinalities - 1), context.mask)


class DequantizationEncoding(Encoding):
    """Encoding z = s (x + u - K / 2) with u in (0, 1); s gives uniform categories variance 1.

    The treatment of ordinal data, as a baseline: it gives the K categories an order and neighbours
    without meaning (Lippe & Gavves 2021, arXiv 2006.09790, section 5.2). The mass of p(z) beyond
    the first and the last cell is lost, as with `ArgmaxEncoding`: see `overflow`.

    Args:
        categories: Number of categories K.
        variational: True for u from a learned distribution per category (Ho et al. 2019, arXiv
            1902.00275), False for uniform u.
        mixtures: Components of the learned distributions.
    """

    cardinalities: int
    like: Tensor

    def __init__(self, categories: int, *, variational: bool = False, mixtures: int = 4):
        super().__init__()
        if categories < 1:
            raise ValueError(f"categories must be at least 1, got {categories}")
        self.cardinalities, self.latent_dim = categories, 1
        self.scale = math.sqrt(12) / categories
        self.noise: Transform = UniformDequantization(categories)
        if variational:
            network = Conditioner(zero_init(nn.Linear(EMBEDDING, 3 * mixtures + 2)))
            flow = MixtureLogisticCoupling(network, split=0, mixtures=mixtures)
            embedding = CategoryEmbedding(categories, EMBEDDING)
            self.noise = VariationalDequantization(categories, flow, embedding)
        # Carries the type of the module: there may be no parameters.
        self.register_buffer("like", torch.empty(0), persistent=False)

    def encode(self, x, context=Context()):
        """Draw z (B, L, 1) for categories x (B, L) long."""
        x, mask = masked(x, context.mask), context.mask
        point, log_term = self.noise(x.unsqueeze(-1).to(self.like.dtype), context)
        z = self.scale * (point - self.cardinalities / 2)
        # log s for every variable; the rest of log q(z|x) is that of the noise.
        log_scale = torch.full_like(z[..., 0], math.log(self.scale))
        encoded = assemble(z, torch.zeros_like(log_scale), -log_scale, self.decode(z) == x, mask)
        return replace(encoded, log_encoder=encoded.log_encoder - log_term)

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
    """Embedding of K categories scaled to (-1, 1), which `VariationalDequantization` gives it."""

    def __init__(self, categories: int, channels: int):
        super().__init__()
        self.table = nn.Embedding(categories, channels)

    def forward(self, known: Tensor) -> Tensor:
        """Map (B, L, 1) to (B, L, channels)."""
        categories = len(self.table.weight)
        index = ((known[..., 0] + 1) * categories / 2).floor().long()
        return self.table(index.clamp(0, categories - 1))
