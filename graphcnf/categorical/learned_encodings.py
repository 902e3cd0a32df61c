"""Encodings that are learned, or that only some models use; `make_encoding` builds one by name.

- In `MixtureEncoding`, `LinearFlowEncoding` and `VariationalEncoding`, latents are z = mean_x +
  exp(log_scale_x) g_x(e), with standard logistic noise e and a flow g_x that depends on the
  category x. The densities of different categories overlap, less and less in training (Lippe &
  Gavves, ICLR 2021, arXiv 2006.09790, section 2.2 and appendix A.1).
- In `ArgmaxEncoding` and `DequantizationEncoding`, each category has a *volume* of latents of its
  own: p(x|z) is 0 or 1. Latents between or beside these volumes belong to no category (`overflow`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from inspect import signature

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.categorical.encoding import Encoded, Encoding
from graphcnf.categorical.transformer import zero_init
from graphcnf.errors import UserError
from graphcnf.flows.base import draw_uniform, logistic_log_density, logistic_quantile
from graphcnf.flows.composition import SequentialBijection
from graphcnf.flows.coupling import AffineCoupling, MixtureLogisticCoupling, halves
from graphcnf.flows.dequantization import UniformDequantization, VariationalDequantization
from graphcnf.flows.linear import InvertibleLinear
from graphcnf.flows.transform import Bijection, Context, Noise, Transform, draw_noise, masked
from graphcnf.registry import Registry

# Limit of training on the means of a mixture (share of the initial distance between neighbours) and
# on its scales (relative change): without it, the categories approach each other in long trainings.
DRIFT = 0.1
HIDDEN = 64  # hidden channels of learned posteriors and of conditioners
EMBEDDING = 16  # channels of the embedding of a category
MIXTURES = 4  # components of a coupling of mixtures of logistics


def logistic_noise(shape: Sequence[int], like: Tensor, noise: Noise | None = None) -> Tensor:
    """Draw standard logistic numbers (mean 0, scale 1), on the tape if there is one."""
    return logistic_quantile(draw_noise(noise, shape, device=like.device)).to(like.dtype)


def grid_means(categories: int, latent_dim: int) -> tuple[Tensor, float]:
    """Place K categories on the points of a grid with D coordinates, so that no two coincide.

    The coordinates of category k are its digits in the smallest base in which D digits suffice: for
    K = 4 and D = 2, category 3 is (1, 1). If base 2 needs fewer than D digits, the next coordinate
    is the parity of the digits, and further ones repeat the first. Points are then centred and
    scaled to standard deviation 1.

    Returns:
        Points, (K, D) float64, and the step of the grid along a coordinate, the smallest of the D.
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

    e is standard logistic; g_x is the identity here and a flow in subclasses. The means start on a
    grid, and training moves them no further than 0.1 of a step of it. The posterior is that of
    Bayes, p(x|z) = q(z|x) p(x) / sum_x' q(z|x') p(x'), with a learned prior p(x).

    Args:
        categories: Number of categories K.
        latent_dim: Latents D of a position.
        separation: Step of the grid of means at the start, in units of the logistic scale of the
            categories: the larger, the less the categories overlap.
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
        """Create the parameters of p(x|z), here the logits of p(x)."""
        self.log_prior = nn.Parameter(torch.zeros_like(self.start[:, 0]))

    @property
    def mean(self) -> Tensor:
        """Mean of each category, (K, D): its grid point, moved by at most 0.1 steps of the grid."""
        return self.start + self.spacing * (DRIFT * torch.tanh(self.shift / DRIFT))

    @property
    def log_scale(self) -> Tensor:
        """Logarithm of the logistic scale of each category, (K, D): within 10 % of the start."""
        limit = math.log1p(DRIFT)
        return self.start_log_scale + limit * torch.tanh(self.growth / limit)

    def shape_noise(self, e: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map noise by the flow of its category, u = g_x(e); with log|det dg_x/de|, (M,) nats."""
        return e, torch.zeros_like(e[..., 0])

    def recover_noise(self, u: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Invert `shape_noise`, e = g_x^-1(u); with log|det dg_x^-1/du|, (M,) nats."""
        return u, torch.zeros_like(u[..., 0])

    def log_density(self, z: Tensor) -> Tensor:
        """Return log q(z|x) of latents under each of the K categories x, (..., K) nats."""
        mean, log_scale = self.mean, self.log_scale
        u = (z.to(mean.dtype).unsqueeze(-2) - mean) * torch.exp(-log_scale)
        x = torch.arange(self.cardinalities, device=z.device).expand(u.shape[:-1])
        e, log_det = self.recover_noise(u.reshape(-1, self.latent_dim), x.reshape(-1))
        log_q = logistic_log_density(e).sum(-1) + log_det
        return log_q.reshape(u.shape[:-1]) - log_scale.sum(-1)

    def log_posterior(self, z: Tensor) -> Tensor:
        """Return log p(x|z) of each of the K categories x, (..., K) nats."""
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
        return Encoded.of_variables(z, own, log_q, log_p.argmax(-1) == x, context.mask)

    def decode(self, z, context=Context(), *, sample=False):
        log_p = self.log_posterior(z)
        if not sample:
            return masked(log_p.argmax(-1), context.mask)
        draw = {"mask": context.mask, "generator": context.generator, "device": z.device}
        u = draw_uniform((*z.shape[:-1], 1), dtype=torch.float64, **draw)
        return masked((u >= log_p.double().exp().cumsum(-1)[..., :-1]).sum(-1), context.mask)


class LearnedPosterior(nn.Module):
    """Posterior given by a network, p(x|z) = softmax(W z + b + MLP(z)), for `VariationalEncoding`.

    The MLP starts with outputs of 0, and W and b as the Bayes classifier of K normal clusters of
    the given means (K, D) and the variance (scale pi)^2 / 3.
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
        """Return log p(x|z) of all K categories, (..., K) nats, for latents z (..., D)."""
        return (self.linear(z) + self.network(z)).log_softmax(-1)


class LinearFlowEncoding(MixtureEncoding):
    """`MixtureEncoding` where noise goes through a flow g_x of its category, of affine maps.

    Each of its `flows` parts scales and shifts the noise by numbers that depend on x, and then
    mixes the D coordinates by an invertible matrix that all categories share.
    """

    def __init__(self, categories: int, latent_dim: int, *, flows: int = 4, **options):
        super().__init__(categories, latent_dim, **options)
        if flows < 1:
            raise ValueError(f"flows must be at least 1, got {flows}")
        self.embedding = nn.Embedding(categories, EMBEDDING)
        self.flow = SequentialBijection(*(step for k in range(flows) for step in self.steps(k)))

    def steps(self, number: int) -> list[Bijection]:
        """Build part `number` of the flow g_x; the constructor calls it for each."""
        network = Conditioner(zero_init(nn.Linear(EMBEDDING, 2 * self.latent_dim)))
        affine = AffineCoupling(network, split=0)
        return [affine, InvertibleLinear(self.latent_dim)] if self.latent_dim > 1 else [affine]

    def shape_noise(self, e, x):
        """Map noise by the flow of its category: u = g_x(e)."""
        return self.flow(e, Context(features=self.embedding(x)))

    def recover_noise(self, u, x):
        return self.flow.inverse_and_logdet(u, Context(features=self.embedding(x)))


class VariationalEncoding(LinearFlowEncoding):
    """`LinearFlowEncoding` with couplings in the flow g_x, and with a network for p(x|z).

    The network (`LearnedPosterior`) stands instead of Bayes' rule, so that the bound on log p(x) is
    not exact.
    """

    def start_posterior(self, means, scale):
        """Create the network of p(x|z), which starts as a Bayes classifier (`LearnedPosterior`)."""
        self.decoder = LearnedPosterior(means, scale)

    def log_posterior(self, z):
        """Return log p(x|z) of all K categories by the network, (..., K) nats, of z (..., D)."""
        return self.decoder(z.to(self.start.dtype))

    def steps(self, number):
        """Build one part of the flow g_x."""
        split, swap, fixed = halves(self.latent_dim, number)
        outputs = (3 * MIXTURES + 2) * (self.latent_dim - fixed)
        network = Conditioner(
            nn.Linear(fixed + EMBEDDING, HIDDEN), nn.GELU(), zero_init(nn.Linear(HIDDEN, outputs))
        )
        coupling = MixtureLogisticCoupling(network, split=split, swap=swap, mixtures=MIXTURES)
        return [*super().steps(number), coupling]


class Conditioner(nn.Module):
    """Network of a coupling whose parameters depend on `context.features`, those of a category."""

    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x, context):
        """Return the parameters of the coupling, (..., P)."""
        return self.layers(torch.cat([x, context.features], -1))


class ArgmaxEncoding(Encoding):
    """Encoding by signs: z_m = +-softplus(a_m), with + if binary digit m of category x is 1.

    Digit 0 is the lowest; there are M = max(1, ceil(log2 K)) latents. a_m is logistic noise, whose
    location and scale are learned for each category and digit. If K is no power of two, 2^M - K
    orthants belong to no category: the probabilities of all x sum to 1 minus the mass of p(z)
    there. `overflow` finds latents there; `decode` drops their highest digit.

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
        return Encoded.of_variables(
            z, torch.zeros_like(log_q), log_q, self.decode(z) == x, context.mask
        )

    def code(self, z: Tensor) -> Tensor:
        """Read the signs of latents as a number, lowest digit first: the category, if below K."""
        powers = 2 ** torch.arange(self.latent_dim, device=z.device)
        return ((z > 0) * powers).sum(-1)

    def overflow(self, z: Tensor) -> Tensor:
        """Find latents whose signs give no category, (...) bool."""
        return self.code(z) >= self.cardinalities

    def decode(self, z, context=Context(), *, sample=False):
        code = self.code(z)
        code = torch.where(self.overflow(z), code - 2 ** (self.latent_dim - 1), code)
        # A single category still has a digit, which may be 1.
        return masked(code.clamp(max=self.cardinalities - 1), context.mask)


class DequantizationEncoding(Encoding):
    """Encoding by added noise: z = s (x + u - K / 2) with u in (0, 1), and s = sqrt(12) / K.

    A baseline, since the order that it gives the categories is meaningless (Lippe & Gavves 2021,
    section 5.2). The mass of p(z) below the first and above the last interval is lost, see
    `overflow`.

    Args:
        categories: Number of categories K.
        variational: False for uniform u; True for a learned density of u for each category (Ho et
            al. 2019, arXiv 1902.00275).
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
        encoded = Encoded.of_variables(
            z, torch.zeros_like(log_scale), -log_scale, self.decode(z) == x, mask
        )
        return replace(encoded, log_encoder=encoded.log_encoder - log_term)

    def _point(self, z: Tensor) -> Tensor:
        """Return x + u, (...) float64, for latents z = s (x + u - K / 2), (..., 1)."""
        return z[..., 0].double() / self.scale + self.cardinalities / 2

    def overflow(self, z: Tensor) -> Tensor:
        """Find latents below or above all intervals, (...) bool."""
        point = self._point(z)
        return (point < 0) | (point >= self.cardinalities)

    def decode(self, z, context=Context(), *, sample=False):
        x = self._point(masked(z, context.mask)).floor().long().clamp(0, self.cardinalities - 1)
        return masked(x, context.mask)


class CategoryEmbedding(nn.Module):
    """Embedding of categories x given as (2 x + 1) / K - 1 by `VariationalDequantization`."""

    def __init__(self, categories: int, channels: int):
        super().__init__()
        self.table = nn.Embedding(categories, channels)

    def forward(self, known: Tensor) -> Tensor:
        """Return embeddings, (B, L, channels)."""
        categories = len(self.table.weight)
        index = ((known[..., 0] + 1) * categories / 2).floor().long()
        return self.table(index.clamp(0, categories - 1))


VARIATIONAL_DEQUANTIZATION = partial(DequantizationEncoding, variational=True)
"""Constructor of a `DequantizationEncoding` whose noise is learned."""


ENCODINGS = Registry(
    "encodings",
    {
        "mixture": f"{__name__}:MixtureEncoding",
        "linear": f"{__name__}:LinearFlowEncoding",
        "variational": f"{__name__}:VariationalEncoding",
        "argmax": f"{__name__}:ArgmaxEncoding",
        "interval": "graphcnf.categorical.encoding:IntervalEncoding",
        "uniform-dequantization": f"{__name__}:DequantizationEncoding",
        "variational-dequantization": f"{__name__}:VARIATIONAL_DEQUANTIZATION",
    },
)
"""Encodings by name, called as `ENCODINGS[name](categories, **options)`."""


def make_encoding(name: str, categories: int, latent_dim: int | None = None, **options) -> Encoding:
    """Build an encoding by its name, for categories x (B, L) with one variable per position.

    Args:
        name: A name in `ENCODINGS`: "mixture", "linear", "variational", "argmax", "interval", or,
            as baselines, "uniform-dequantization" or "variational-dequantization".
        categories: Number of categories.
        latent_dim: Latents of a position; None for max(2, ceil(log2 categories)). "argmax",
            "interval" and the baselines determine the number themselves: leave it out.
        **options: Further arguments of the class of this encoding, such as `separation`.

    Examples:
        >>> make_encoding("argmax", 5).latent_dim
        3
    """
    kind = ENCODINGS.find(name, "encoding")
    if categories < 1:
        raise UserError(f"encoding {name!r}: categories must be at least 1, got {categories}")
    if "latent_dim" in signature(kind).parameters:
        default = max(2, math.ceil(math.log2(categories)))
        options["latent_dim"] = default if latent_dim is None else latent_dim
    try:
        encoding = kind(categories, **options)
    except (TypeError, ValueError) as error:
        # "MixtureEncoding.__init__() got an unexpected ...": the user knows no such function.
        raise UserError(f"encoding {name!r}: {str(error).split('() ')[-1]}") from None
    if latent_dim not in (None, encoding.latent_dim):
        raise UserError(
            f"encoding {name!r}: {categories} categories take {encoding.latent_dim} "
            f"latents, got {latent_dim}; leave latent_dim out"
        )
    return encoding
