"""Encodings of categories as continuous latents, with factorized posteriors.

In `MixtureEncoding`, `LinearFlowEncoding` and `VariationalEncoding` every category has a density on
the whole latent space. These overlap, less and less in training (Lippe & Gavves, *Categorical
Normalizing Flows via Continuous Transformations*, ICLR 2021, arXiv 2006.09790, section 2.2 and
appendix A.1). In the other encodings categories have disjoint volumes: log p(x|z) = 0, and
reconstruction is exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.errors import UserError
from graphcnf.flows.base import draw_uniform, logistic_log_density
from graphcnf.flows.coupling import AffineCoupling, MixtureLogisticCoupling, halves
from graphcnf.flows.dequantization import UniformDequantization, VariationalDequantization
from graphcnf.flows.linear import InvertibleLinear
from graphcnf.flows.modules import zero_init
from graphcnf.flows.transform import (
    Bijection,
    Context,
    Noise,
    Sequential,
    Transform,
    log_term_dtype,
    masked,
    sum_log_term,
    take,
)

# Limit of training on the means of a mixture (share of the initial distance between neighbours) and
# on its scales (relative change): without it, the categories approach each other in long trainings.
DRIFT = 0.1
HIDDEN = 64  # hidden channels of learned posteriors and of conditioners
EMBEDDING = 16  # channels of the embedding of a category
MIXTURES = 4  # components of a coupling of mixtures of logistics
# Share of an interval that is kept free at either end: rounding never moves a latent into the
# next category. It costs -log2(1 - 2 MARGIN) = 0.0003 bits per variable.
MARGIN = 1e-4


@dataclass
class Encoded:
    """One draw of the stochastic encoder; log p(x|z) and log q(z|x) are summed over variables."""

    z: Tensor  # latents, (B, L, D); 0 where masked
    log_posterior: Tensor  # log p(x|z), (B,) nats
    log_encoder: Tensor  # log q(z|x), (B,) nats
    # Share of the variables whose most probable category under p(x|z) is the encoded one, (B,).
    correct: Tensor


class Encoding(Transform):
    """Stochastic encoder q(z|x) of categories, with a factorized posterior p(x|z).

    `forward` draws z; its log term is log p(x|z) - log q(z|x), so that log p(x) >= E[log p(z) + log
    term] (Lippe & Gavves 2021, eq. 3). `inverse` decodes to the most probable category.

    Attributes:
        cardinalities: Number of categories: an int for one variable per position, x (B, L), or a
            tuple of V ints for V variables per position, x (B, L, V).
        latent_dim: Latents D of a position.
    """

    exact = False
    cardinalities: int | tuple[int, ...]
    latent_dim: int
    like: Tensor

    def __init__(self):
        super().__init__()
        # Carries type and device of the module, which may have no parameters.
        self.register_buffer("like", torch.empty(0), persistent=False)

    def check(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Raise ValueError if `mask`, or `x` at an unmasked entry, is invalid for `encode`."""
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
        """Draw latents for categories `x`, (B, L) or (B, L, V) long; see `Context.noise`."""
        raise NotImplementedError

    def decode(self, z: Tensor, context: Context = Context(), *, sample: bool = False) -> Tensor:
        """Decode latents `z` (B, L, D): argmax of p(x|z), or a draw from it if `sample`.

        Draws use the context's generator. Masked positions decode to 0.
        """
        raise NotImplementedError

    def forward(self, x, context=Context()):
        """Return z and log p(x|z) - log q(z|x), (B,)."""
        encoded = self.encode(x, context)
        return encoded.z, encoded.log_posterior - encoded.log_encoder

    def inverse(self, z, context=Context()):
        return self.decode(z, context)


def expand(mask: Tensor, like: Tensor) -> Tensor:
    """Broadcast a mask (B, L) to the shape (B, L, V) of `like`; return (B, L, V) unchanged."""
    return mask if mask.dim() == like.dim() else mask.unsqueeze(-1).expand_as(like)


def logistic_noise(shape: Sequence[int], like: Tensor, noise: Noise | None = None) -> Tensor:
    """Draw standard logistic numbers with the type and device of `like`."""
    # The tape is float64, and so are uniform numbers: in float32 they are too coarse for the tails.
    draw = take(noise, lambda: torch.rand(shape, dtype=torch.float64, device=like.device))
    return torch.logit(draw.clamp(1e-16, 1 - 1e-16)).to(like.dtype)


def assemble(
    z: Tensor, log_p: Tensor, log_q: Tensor, correct: Tensor, mask: Tensor | None
) -> Encoded:
    """Build `Encoded`: sum log p(x_i|z_i) and log q(z_i|x_i) over the real variables.

    Both and `correct`, which is True where the most probable category is the encoded one, are (B,
    L) or (B, L, V).
    """
    real = torch.ones_like(correct) if mask is None else expand(mask, correct)
    wrong = (real & ~correct).flatten(1).sum(1) / real.flatten(1).sum(1).clamp(min=1)
    p, q = (sum_log_term(part, mask).to(log_term_dtype(z)) for part in (log_p, log_q))
    return Encoded(masked(z, mask), p, q, (1 - wrong).to(z))


def grid_means(categories: int, latent_dim: int) -> tuple[Tensor, float]:
    """Return grid points of K categories, (K, D) float64, and the least step along a coordinate.

    The coordinates of category k are its digits in the smallest base in which D digits suffice. In
    base 2 with digits to spare, one more coordinate is the parity of the digits, so that any two
    points differ in two coordinates; further coordinates repeat these. Points are centred, with
    standard deviation 1 along each coordinate.
    """
    base, digits = 2, 1
    while base**latent_dim < categories:
        base += 1
    while base**digits < categories:
        digits += 1
    points = torch.arange(categories)[:, None] // base ** torch.arange(digits) % base
    if base == 2 and digits < latent_dim:
        points = torch.cat([points, points.sum(1, keepdim=True) % 2], 1)
    points = points[:, torch.arange(latent_dim) % points.shape[1]].double()
    points = points - points.mean(0)
    spacing = 1 / points.square().mean(0).sqrt().clamp_min(1e-12)
    spacing = torch.where(points.any(0), spacing, 1.0)
    return points * spacing, float(spacing.min())


class MixtureEncoding(Encoding):
    """Encoding with a logistic density per category: `z = mean_x + exp(log_scale_x) g_x(e)`.

    The noise e is standard logistic; g is the identity here and a flow in subclasses. The means
    start on a grid, so that training begins with distinguishable latents. The posterior is that of
    Bayes: p(x|z) = q(z|x) p(x) / sum_x' q(z|x') p(x') with a learned prior p(x).

    Args:
        categories: Number of categories K.
        latent_dim: Latents D of a position.
        separation: Least step between means along a coordinate at the start, in units of their
            logistic scale.

    Raises:
        ValueError: if an argument is out of range.
    """

    cardinalities: int
    start: Tensor

    def __init__(self, categories: int, latent_dim: int, *, separation: float = 26.0):
        super().__init__()
        if latent_dim < 1:
            raise ValueError(f"latents must be at least 1, got {latent_dim}")
        if not separation > 0:
            raise ValueError(f"separation must be greater than 0, got {separation}")
        self.cardinalities, self.latent_dim = int(categories), int(latent_dim)
        means, self.spacing = grid_means(categories, latent_dim)
        scale = self.spacing / separation
        start = means.to(torch.get_default_dtype())
        self.register_buffer("start", start, persistent=False)
        self.start_log_scale = math.log(scale)
        self.shift = nn.Parameter(torch.zeros_like(self.start))
        self.growth = nn.Parameter(torch.zeros_like(self.start))
        self.start_posterior(means, scale)

    def start_posterior(self, means: Tensor, scale: float) -> None:
        """Create the parameters of p(x|z), for initial means (K, D) and a logistic scale."""
        self.log_prior = nn.Parameter(torch.zeros_like(self.start[:, 0]))

    @property
    def mean(self) -> Tensor:
        """Mean of each category, (K, D)."""
        return self.start + self.spacing * (DRIFT * torch.tanh(self.shift / DRIFT))

    @property
    def log_scale(self) -> Tensor:
        """Logarithm of each category's logistic scale, (K, D)."""
        limit = math.log1p(DRIFT)
        return self.start_log_scale + limit * torch.tanh(self.growth / limit)

    def shape_noise(self, e: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return g_x(e), (M, D), and log|det dg_x/de|, (M,), of e (M, D) and x (M,) long."""
        return e, torch.zeros_like(e[..., 0])

    def recover_noise(self, u: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return g_x^-1(u), (M, D), and log|det dg_x^-1/du|, (M,); see `shape_noise`."""
        return u, torch.zeros_like(u[..., 0])

    def log_density(self, z: Tensor) -> Tensor:
        """Return log q(z|x) (..., K) of all categories x, for latents z (..., D)."""
        mean, log_scale = self.mean, self.log_scale
        u = (z.to(mean.dtype).unsqueeze(-2) - mean) * torch.exp(-log_scale)
        x = torch.arange(self.cardinalities, device=z.device).expand(u.shape[:-1])
        e, log_det = self.recover_noise(u.reshape(-1, self.latent_dim), x.reshape(-1))
        log_q = logistic_log_density(e).sum(-1) + log_det
        return log_q.reshape(u.shape[:-1]) - log_scale.sum(-1)

    def log_posterior(self, z: Tensor) -> Tensor:
        """Return log p(x|z) (..., K) of all categories x, for latents z (..., D)."""
        return (self.log_density(z) + self.log_prior.log_softmax(0)).log_softmax(-1)

    def encode(self, x, context=Context()):
        x = masked(x, context.mask)
        mean, log_scale = self.mean, self.log_scale
        e = logistic_noise((*x.shape, self.latent_dim), mean, context.noise)
        with torch.autocast(e.device.type, enabled=False):
            flat = x.reshape(-1)
            u, log_det = self.shape_noise(e.reshape(-1, self.latent_dim), flat)
            z = (mean[flat] + torch.exp(log_scale[flat]) * u).reshape(e.shape)
            log_det = (log_det + log_scale[flat].sum(-1)).reshape(x.shape)
            log_q = logistic_log_density(e).sum(-1) - log_det
            log_p = self.log_posterior(z)
        own = log_p.gather(-1, x.unsqueeze(-1)).squeeze(-1)
        return assemble(z, own, log_q, log_p.argmax(-1) == x, context.mask)

    def decode(self, z, context=Context(), *, sample=False):
        log_p = self.log_posterior(z)
        if not sample:
            return masked(log_p.argmax(-1), context.mask)
        draw = {"mask": context.mask, "generator": context.generator, "device": z.device}
        u = draw_uniform((*z.shape[:-1], 1), dtype=torch.float64, **draw)
        return masked((u >= log_p.double().exp().cumsum(-1)[..., :-1]).sum(-1), context.mask)


class LearnedPosterior(nn.Module):
    """Posterior p(x|z) = softmax(W z + b + MLP(z)).

    Initially the Bayes classifier of normal clusters with the given means (K, D), whose variance is
    that of logistic clusters of the given scale.
    """

    def __init__(self, means: Tensor, scale: float):
        super().__init__()
        categories, latent_dim = means.shape
        self.linear = nn.Linear(latent_dim, categories)
        self.network = nn.Sequential(
            nn.Linear(latent_dim, HIDDEN), nn.GELU(), zero_init(nn.Linear(HIDDEN, categories))
        )
        variance = (scale * math.pi) ** 2 / 3
        with torch.no_grad():
            self.linear.weight.copy_(means / variance)
            self.linear.bias.copy_(-means.square().sum(-1) / (2 * variance))

    def forward(self, z: Tensor) -> Tensor:
        """Return log-probabilities (..., K) for latents (..., D)."""
        return (self.linear(z) + self.network(z)).log_softmax(-1)


class LinearFlowEncoding(MixtureEncoding):
    """`MixtureEncoding` whose g_x is a flow: `flows` affine maps of x, linear maps between them."""

    def __init__(self, categories: int, latent_dim: int, *, flows: int = 4, **options):
        super().__init__(categories, latent_dim, **options)
        if flows < 1:
            raise ValueError(f"flows must be at least 1, got {flows}")
        self.embedding = nn.Embedding(categories, EMBEDDING)
        self.flow = Sequential(*(step for k in range(flows) for step in self.steps(k)))

    def steps(self, number: int) -> list[Bijection]:
        """Return steps of the flow: an affine map conditioned on x, and a linear map."""
        network = Conditioner(zero_init(nn.Linear(EMBEDDING, 2 * self.latent_dim)))
        affine = AffineCoupling(network, split=0)
        return [affine, InvertibleLinear(self.latent_dim)] if self.latent_dim > 1 else [affine]

    def shape_noise(self, e, x):
        return self.flow(e, Context(features=self.embedding(x)))

    def recover_noise(self, u, x):
        return self.flow.inverse_and_logdet(u, Context(features=self.embedding(x)))


class VariationalEncoding(LinearFlowEncoding):
    """`LinearFlowEncoding` with further couplings, of mixtures of logistics; p(x|z) is a network.

    Raises UserError for fewer than two latents: a coupling splits them.
    """

    def start_posterior(self, means, scale):
        self.decoder = LearnedPosterior(means, scale)

    def log_posterior(self, z):
        return self.decoder(z.to(self.start.dtype))

    def steps(self, number):
        """Return the steps of `LinearFlowEncoding`, then a mixture coupling conditioned on x."""
        split, swap, fixed = halves(self.latent_dim, number)
        outputs = (3 * MIXTURES + 2) * (self.latent_dim - fixed)
        network = Conditioner(
            nn.Linear(fixed + EMBEDDING, HIDDEN), nn.GELU(), zero_init(nn.Linear(HIDDEN, outputs))
        )
        coupling = MixtureLogisticCoupling(network, split=split, swap=swap, mixtures=MIXTURES)
        return [*super().steps(number), coupling]


class Conditioner(nn.Module):
    """Layers applied to the fixed latents of a coupling and the features of the context."""

    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x, context):
        """Return the parameters (..., P) of the coupling."""
        return self.layers(torch.cat([x, context.features], -1))


def interval_category(u: Tensor, cardinalities: Sequence[int]) -> Tensor:
    """Return the categories (..., V) long whose intervals contain u (..., V), in (0, 1).

    The intervals of a variable are equally wide, whatever the probabilities of its categories: a
    coupling rescales them, and no interval is too narrow for floating point.
    """
    counts = torch.tensor(cardinalities, device=u.device)
    return (u.double() * counts).long().clamp(min=0).minimum(counts - 1)


def interval_bounds(x: Tensor, cardinalities: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return lower ends and widths (..., V) float64 of the intervals of categories x (..., V)."""
    counts = torch.tensor(cardinalities, device=x.device, dtype=torch.float64)
    return x.double() / counts, (1 / counts).expand(x.shape)


class IntervalEncoding(Encoding):
    """Encoding z = logit(u) with u uniform on the interval of category x, one latent per variable.

    Intervals are disjoint, so p(x|z) is 0 or 1. `AutoregressiveCoupling` makes each interval as
    wide as the conditional probability of its category; under a logistic base density, u is
    uniform.

    Args:
        cardinalities: Number of categories of each of the V variables at a position, x (B, L, V),
            or an int for a single variable, x (B, L).

    Examples:
        >>> encoding = IntervalEncoding(4)
        >>> encoded = encoding.encode(torch.tensor([[0, 1, 2, 3]]))
        >>> encoding.decode(encoded.z).tolist()  # whatever was drawn
        [[0, 1, 2, 3]]
    """

    def __init__(self, cardinalities: Sequence[int] | int):
        super().__init__()
        self.single = isinstance(cardinalities, int)
        known = [cardinalities] if isinstance(cardinalities, int) else list(cardinalities)
        if min(known, default=0) < 1:
            raise ValueError(f"every variable needs at least one category, got {known}")
        self.known, self.latent_dim = known, len(known)
        self.cardinalities = known[0] if self.single else tuple(known)

    def encode(self, x, context=Context()):
        """Draw z (B, L, V) for categories x (B, L, V) long, or for x (B, L) and V = 1."""
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
        """Return the categories (B, L, V) or (B, L) long of latents (B, L, V); 0 where masked."""
        x = masked(interval_category(torch.sigmoid(z.double()), self.known), context.mask)
        return x.squeeze(-1) if self.single else x


class ArgmaxEncoding(Encoding):
    """Encoding z_m = +-softplus(a_m) with logistic a_m; the sign is + if binary digit m of x is 1.

    There are M = max(1, ceil(log2 K)) latents, and the volume of a category is an orthant. The
    location and scale of a_m are learned for each category and digit.

    If K is no power of two, 2^M - K orthants belong to no category. The bound remains a lower
    bound, and the probabilities of all x sum to 1 minus the mass of p(z) in these orthants.
    `overflow` finds latents there; `decode` drops the leading digit, which gives a category.

    References:
        Hoogeboom et al., *Argmax Flows and Multinomial Diffusion*, NeurIPS 2021, arXiv 2102.05379,
        section 3.2 (Cartesian products).
    """

    cardinalities: int

    def __init__(self, categories: int):
        super().__init__()
        self.cardinalities = categories
        self.latent_dim = max(1, (categories - 1).bit_length())
        # The absolute value of a standard logistic variable has about this median.
        self.location = nn.Parameter(torch.full((categories, self.latent_dim), 0.7))
        self.log_scale = nn.Parameter(torch.zeros(categories, self.latent_dim))

    def encode(self, x, context=Context()):
        x = masked(x, context.mask)
        e = logistic_noise((*x.shape, self.latent_dim), self.location, context.noise)
        log_scale = self.log_scale[x]
        a = self.location[x] + torch.exp(log_scale) * e
        # Far below 0, softplus would round to 0 and lose the sign.
        size = F.softplus(a).clamp_min(torch.finfo(a.dtype).tiny)
        digits = (x.unsqueeze(-1) >> torch.arange(self.latent_dim, device=x.device)) & 1
        z = torch.where(digits.bool(), size, -size)
        # d softplus(a) / da = sigmoid(a)
        log_q = (logistic_log_density(e) - log_scale - F.logsigmoid(a)).sum(-1)
        return assemble(z, torch.zeros_like(log_q), log_q, self.decode(z) == x, context.mask)

    def code(self, z: Tensor) -> Tensor:
        """Return the numbers (...) long whose binary digits are the signs of z (..., M)."""
        powers = 2 ** torch.arange(self.latent_dim, device=z.device)
        return ((z > 0) * powers).sum(-1)

    def overflow(self, z: Tensor) -> Tensor:
        """Return True where latents z (..., M) belong to no category, (...) bool."""
        return self.code(z) >= self.cardinalities

    def decode(self, z, context=Context(), *, sample=False):
        """Return categories (B, L); p(x|z) is deterministic, so `sample` changes nothing."""
        code = self.code(z)
        code = torch.where(self.overflow(z), code - 2 ** (self.latent_dim - 1), code)
        # A single category still has a digit, which may be 1.
        return masked(code.clamp(max=self.cardinalities - 1), context.mask)


class DequantizationEncoding(Encoding):
    """Encoding z = s (x + u - K / 2) with u in (0, 1), and s = sqrt(12) / K.

    This is dequantization as for ordinal data, a baseline: its order of the K categories is
    meaningless (Lippe & Gavves 2021, section 5.2). As in `ArgmaxEncoding`, the mass of p(z) outside
    of the cells is lost, see `overflow`. u is uniform, or with `variational` has a learned density
    for each category (Ho et al. 2019, arXiv 1902.00275).
    """

    cardinalities: int

    def __init__(self, categories: int, *, variational: bool = False):
        super().__init__()
        self.cardinalities, self.latent_dim = categories, 1
        self.scale = math.sqrt(12) / categories
        self.noise: Transform = UniformDequantization(categories)
        if variational:
            network = Conditioner(zero_init(nn.Linear(EMBEDDING, 3 * MIXTURES + 2)))
            flow = MixtureLogisticCoupling(network, split=0, mixtures=MIXTURES)
            embedding = CategoryEmbedding(categories, EMBEDDING)
            self.noise = VariationalDequantization(categories, flow, embedding)

    def encode(self, x, context=Context()):
        x, mask = masked(x, context.mask), context.mask
        point, log_term = self.noise(x.unsqueeze(-1).to(self.like.dtype), context)
        z = self.scale * (point - self.cardinalities / 2)
        # The scale contributes -log s to log q(z|x), the noise the rest.
        log_scale = torch.full_like(z[..., 0], math.log(self.scale))
        encoded = assemble(z, torch.zeros_like(log_scale), -log_scale, self.decode(z) == x, mask)
        return replace(encoded, log_encoder=encoded.log_encoder - log_term)

    def _point(self, z: Tensor) -> Tensor:
        return z[..., 0].double() / self.scale + self.cardinalities / 2

    def overflow(self, z: Tensor) -> Tensor:
        """Return True where latents z (..., 1) belong to no category, (...) bool."""
        point = self._point(z)
        return (point < 0) | (point >= self.cardinalities)

    def decode(self, z, context=Context(), *, sample=False):
        """Return categories (B, L); p(x|z) is deterministic, so `sample` changes nothing."""
        x = self._point(masked(z, context.mask)).floor().long().clamp(0, self.cardinalities - 1)
        return masked(x, context.mask)


class CategoryEmbedding(nn.Module):
    """Embedding of K categories, given as numbers in (-1, 1) by `VariationalDequantization`."""

    def __init__(self, categories: int, channels: int):
        super().__init__()
        self.table = nn.Embedding(categories, channels)

    def forward(self, known: Tensor) -> Tensor:
        """Map (B, L, 1) to (B, L, channels)."""
        categories = len(self.table.weight)
        index = ((known[..., 0] + 1) * categories / 2).floor().long()
        return self.table(index.clamp(0, categories - 1))


DENSITIES: dict[str, Any] = {
    "mixture": MixtureEncoding,
    "linear": LinearFlowEncoding,
    "variational": VariationalEncoding,
}
ENCODINGS: dict[str, Any] = {
    **DENSITIES,
    "argmax": ArgmaxEncoding,
    "interval": IntervalEncoding,
    "uniform-dequantization": DequantizationEncoding,
    "variational-dequantization": partial(DequantizationEncoding, variational=True),
}


def make_encoding(name: str, categories: int, latent_dim: int | None = None, **options) -> Encoding:
    """Build the encoding `name` of `ENCODINGS`, for one variable per position, x (B, L).

    Args:
        name: "mixture", "linear", "variational", "argmax", "interval", or, as baselines,
            "uniform-dequantization" or "variational-dequantization".
        categories: Number of categories.
        latent_dim: Latents of a position; None for max(2, ceil(log2 categories)) or, from "argmax"
            on, for the number that the encoding determines.
        **options: Further arguments of the encoding's class.

    Raises:
        UserError: if there is no encoding `name`, or it does not take the other arguments.

    Examples:
        >>> make_encoding("argmax", 5).latent_dim
        3
    """
    if name not in ENCODINGS:
        raise UserError(f"unknown encoding {name!r}; known: {', '.join(ENCODINGS)}")
    if categories < 1:
        raise UserError(f"encoding {name!r}: categories must be at least 1, got {categories}")
    if name in DENSITIES:
        default = max(2, math.ceil(math.log2(categories)))
        options["latent_dim"] = default if latent_dim is None else latent_dim
    try:
        encoding = ENCODINGS[name](categories, **options)
    except (TypeError, ValueError) as error:
        raise UserError(f"encoding {name!r}: {str(error).split('() ')[-1]}") from None
    if latent_dim not in (None, encoding.latent_dim):
        raise UserError(
            f"encoding {name!r}: {categories} categories take {encoding.latent_dim} "
            f"latents, got {latent_dim}; leave latent_dim out"
        )
    return encoding
