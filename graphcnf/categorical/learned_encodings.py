"""Encodings that are learned, or that only some models use; `make_encoding` builds one by name.

- An *encoding* draws *latents* z, real numbers (..., D), of a *category* x from 0 to K - 1. Its
  density is q(z|x). The *posterior* p(x|z) maps latents back (`graphcnf.categorical.encoding`).
- In `MixtureEncoding`, `LinearFlowEncoding` and `VariationalEncoding`, latents are z = mean_x +
  exp(log_scale_x) g_x(e), with standard logistic noise e. g_x is a flow that depends on the
  category x; in `MixtureEncoding` it is the identity. So q(z|x) covers the whole latent space, and
  the densities of different categories overlap, less and less in training (Lippe & Gavves,
  *Categorical Normalizing Flows via Continuous Transformations*, ICLR 2021, arXiv 2006.09790,
  section 2.2 and appendix A.1).
- In `ArgmaxEncoding` and `DequantizationEncoding`, each category has a *volume* of latents of its
  own: p(x|z) is 0 or 1. Latents between or beside these volumes belong to no category (`overflow`).
- A *context* (`graphcnf.flows.transform.Context`) holds the mask of real positions, and what random
  numbers come from: the *tape* `noise` of encoders, which can repeat a draw, and the `generator` of
  decoders.
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
    """Draw standard logistic numbers.

    Args:
        shape: Shape of the result.
        like: Tensor that gives the result's type and device.
        noise: Tape that records the uniform numbers of the draw, or replays them; None for no tape.

    Returns:
        Independent numbers of mean 0 and scale 1 (standard deviation pi / sqrt(3)).
    """
    return logistic_quantile(draw_noise(noise, shape, device=like.device)).to(like.dtype)


def grid_means(categories: int, latent_dim: int) -> tuple[Tensor, float]:
    """Place K categories on the points of a grid with D coordinates, so that no two coincide.

    The coordinates of category k are its digits in the smallest base in which D digits suffice.
    For K = 4 and D = 2 this is base 2, and category 3 is the point (1, 1). If base 2 needs fewer
    than D digits, the next coordinate is the parity of the digits: any two points then differ in
    at least two coordinates. Further coordinates repeat the first ones. In the end points are
    centred and scaled to standard deviation 1 along each coordinate.

    Args:
        categories: Number of categories K.
        latent_dim: Number of coordinates D.

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

    The noise e is standard logistic; g_x is the identity here and a flow in subclasses. Means and
    scales are learned. The means start on a grid, so that training begins with distinguishable
    latents, and training moves them little: no further than 0.1 of a step of the grid. The
    posterior is that of Bayes, p(x|z) = q(z|x) p(x) / sum_x' q(z|x') p(x'), with a learned prior
    p(x).

    Args:
        categories: Number of categories K.
        latent_dim: Latents D of a position.
        separation: Step of the grid of means at the start, in units of the logistic scale of the
            categories: the larger, the less the categories overlap.

    Attributes:
        start: Means at the start, (K, D).
        spacing: Step of the grid of these means, along the coordinate where it is smallest.
        shift: Parameter that moves the means, (K, D), see `mean`.
        growth: Parameter that changes the scales, (K, D), see `log_scale`.
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
        """Create the parameters of p(x|z); the constructor calls it last.

        Here they are the logits `log_prior` (K,) of p(x). A subclass that overrides `log_posterior`
        creates its own instead.

        Args:
            means: Means of the categories at the start, (K, D).
            scale: Logistic scale of all categories at the start.
        """
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
        """Map noise by the flow of its category: u = g_x(e), the identity here.

        `encode` calls it. A subclass with a flow overrides it, together with `recover_noise`.

        Args:
            e: Standard logistic noise, (M, D).
            x: Categories, (M,) long.

        Returns:
            u, (M, D), and log|det dg_x/de|, (M,) nats.
        """
        return e, torch.zeros_like(e[..., 0])

    def recover_noise(self, u: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Invert `shape_noise`: e = g_x^-1(u).

        Args:
            u: Output of `shape_noise`, (M, D): latents (z - mean_x) / exp(log_scale_x).
            x: Categories, (M,) long.

        Returns:
            e, (M, D), and log|det dg_x^-1/du|, (M,) nats.
        """
        return u, torch.zeros_like(u[..., 0])

    def log_density(self, z: Tensor) -> Tensor:
        """Return the log-density log q(z|x) of latents under each of the K categories x.

        Args:
            z: Latents, (..., D).

        Returns:
            (..., K) nats; the last axis is the category.
        """
        mean, log_scale = self.mean, self.log_scale
        u = (z.to(mean.dtype).unsqueeze(-2) - mean) * torch.exp(-log_scale)
        x = torch.arange(self.cardinalities, device=z.device).expand(u.shape[:-1])
        e, log_det = self.recover_noise(u.reshape(-1, self.latent_dim), x.reshape(-1))
        log_q = logistic_log_density(e).sum(-1) + log_det
        return log_q.reshape(u.shape[:-1]) - log_scale.sum(-1)

    def log_posterior(self, z: Tensor) -> Tensor:
        """Return the log-probability log p(x|z) of each of the K categories x, given latents.

        `encode` and `decode` call it.

        Args:
            z: Latents, (..., D).

        Returns:
            (..., K) nats; the last axis is the category, over which probabilities sum to 1.
        """
        return (self.log_density(z) + self.log_prior.log_softmax(0)).log_softmax(-1)

    def encode(self, x, context=Context()):
        """Draw latents mean_x + exp(log_scale_x) g_x(e), (B, L, D), of categories x (B, L) long.

        Arguments and result are those of `Encoding.encode`.
        """
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
        """Return the most probable categories (B, L) long of latents z (B, L, D), or draw them.

        Arguments and result are those of `Encoding.decode`; p(x|z) is `log_posterior`.
        """
        log_p = self.log_posterior(z)
        if not sample:
            return masked(log_p.argmax(-1), context.mask)
        draw = {"mask": context.mask, "generator": context.generator, "device": z.device}
        u = draw_uniform((*z.shape[:-1], 1), dtype=torch.float64, **draw)
        return masked((u >= log_p.double().exp().cumsum(-1)[..., :-1]).sum(-1), context.mask)


class LearnedPosterior(nn.Module):
    """Posterior given by a network, p(x|z) = softmax(W z + b + MLP(z)), for `VariationalEncoding`.

    The MLP starts with outputs of 0, and W and b as the Bayes classifier of K normal clusters, one
    for each category. Their means and variances are those of the latents at the start.

    Args:
        means: Means of the clusters, (K, D).
        scale: Logistic scale of the latents of a category; the variance is (scale pi)^2 / 3.
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

    The flow has `flows` parts. Each scales and shifts the noise by numbers that depend on the
    category x, and then mixes the D coordinates by an invertible matrix that all categories share.

    Args:
        categories: Number of categories K.
        latent_dim: Latents D of a position.
        flows: Number of parts of the flow.
        **options: Further arguments of `MixtureEncoding`.
    """

    def __init__(self, categories: int, latent_dim: int, *, flows: int = 4, **options):
        super().__init__(categories, latent_dim, **options)
        if flows < 1:
            raise ValueError(f"flows must be at least 1, got {flows}")
        self.embedding = nn.Embedding(categories, EMBEDDING)
        self.flow = SequentialBijection(*(step for k in range(flows) for step in self.steps(k)))

    def steps(self, number: int) -> list[Bijection]:
        """Build one part of the flow g_x; the constructor calls it for each.

        Args:
            number: Number of the part, from 0.

        Returns:
            An affine map conditioned on x, then a linear map of the D coordinates; with a single
            latent only the affine map.
        """
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

    Each part of the flow ends in a mixture-of-logistics coupling. A network stands for p(x|z)
    instead of Bayes' rule (`LearnedPosterior`), so that the densities of categories may overlap,
    and the bound on log p(x) is not exact. The arguments are those of `LinearFlowEncoding`.
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
    """Network of a coupling whose parameters depend on features, here those of a category.

    The layers read the untransformed latents and `context.features`, concatenated.

    Args:
        *layers: Layers from (..., A + F) to (..., P) channels, for A untransformed latents, F
            features and P parameters of the coupling.
    """

    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x, context):
        """Return the parameters of the coupling.

        Args:
            x: Untransformed latents, (..., A).
            context: Context with `features`, (..., F).

        Returns:
            Parameters, (..., P).
        """
        return self.layers(torch.cat([x, context.features], -1))


class ArgmaxEncoding(Encoding):
    """Encoding by signs: z_m = +-softplus(a_m), with + if binary digit m of category x is 1.

    Digit 0 is the lowest. There are M = max(1, ceil(log2 K)) latents for K categories, and the
    volume of a category is an orthant. a_m is logistic noise, whose location and scale are learned
    for each category and digit.

    If K is no power of two, 2^M - K orthants belong to no category. The bound on log p(x) remains a
    lower bound. The probabilities of all x sum to 1 minus the mass of p(z) in these orthants.
    `overflow` finds latents there; `decode` drops their highest digit, which gives a category.

    Args:
        categories: Number of categories K.

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
        """Draw latents (B, L, M) of categories x (B, L) long, whose signs are the digits of x.

        Arguments and result are those of `Encoding.encode`; log p(x|z) is 0.
        """
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
        """Read the signs of latents as the binary digits of a number.

        Args:
            z: Latents, (..., M). The first of the M gives the lowest digit; a positive one is 1.

        Returns:
            Numbers from 0 to 2^M - 1, (...) long: the category, if it is below K.
        """
        powers = 2 ** torch.arange(self.latent_dim, device=z.device)
        return ((z > 0) * powers).sum(-1)

    def overflow(self, z: Tensor) -> Tensor:
        """Find latents that belong to no category: the number that their signs give is K or more.

        Args:
            z: Latents, (..., M).

        Returns:
            (...) bool, True where there is no category; False everywhere if K is 2^M.
        """
        return self.code(z) >= self.cardinalities

    def decode(self, z, context=Context(), *, sample=False):
        """Return the categories (B, L) long of latents z (B, L, M); 0 where masked.

        `sample` changes nothing, since p(x|z) is 0 or 1.
        """
        code = self.code(z)
        code = torch.where(self.overflow(z), code - 2 ** (self.latent_dim - 1), code)
        # A single category still has a digit, which may be 1.
        return masked(code.clamp(max=self.cardinalities - 1), context.mask)


class DequantizationEncoding(Encoding):
    """Encoding by added noise: z = s (x + u - K / 2) with u in (0, 1), and s = sqrt(12) / K.

    This is dequantization as for ordinal data, with one latent. It is a baseline, since the order
    that it gives the K categories is meaningless (Lippe & Gavves 2021, section 5.2). The volume of
    a category is an interval. The mass of p(z) below the first and above the last interval is lost,
    see `overflow`.

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
        """Draw latents s (x + u - K / 2), (B, L, 1), of categories x (B, L) long.

        Arguments and result are those of `Encoding.encode`; log p(x|z) is 0.
        """
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
        """Find latents that belong to no category: they lie below or above all intervals.

        Args:
            z: Latents, (..., 1).

        Returns:
            (...) bool, True where there is no category.
        """
        point = self._point(z)
        return (point < 0) | (point >= self.cardinalities)

    def decode(self, z, context=Context(), *, sample=False):
        """Return the categories (B, L) long of latents z (B, L, 1); 0 where masked.

        `sample` changes nothing, since p(x|z) is 0 or 1.
        """
        x = self._point(masked(z, context.mask)).floor().long().clamp(0, self.cardinalities - 1)
        return masked(x, context.mask)


class CategoryEmbedding(nn.Module):
    """Embedding of categories that are given as numbers in (-1, 1).

    `VariationalDequantization` passes category x as the number (2 x + 1) / K - 1 to its encoder.

    Args:
        categories: Number of categories K.
        channels: Channels of the embedding.
    """

    def __init__(self, categories: int, channels: int):
        super().__init__()
        self.table = nn.Embedding(categories, channels)

    def forward(self, known: Tensor) -> Tensor:
        """Return the embeddings of categories.

        Args:
            known: Categories x as numbers (2 x + 1) / K - 1, (B, L, 1).

        Returns:
            Embeddings, (B, L, channels).
        """
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

    Returns:
        The untrained encoding. Its attribute `latent_dim` is the number of latents of a position.

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
