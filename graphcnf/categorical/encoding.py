"""Encodings of categories as continuous latents, with factorized posteriors.

`MixtureEncoding`, `LinearFlowEncoding` and `VariationalEncoding` have densities on all of space:
volumes overlap, less and less in training (Lippe & Gavves, *Categorical Normalizing Flows via
Continuous Transformations*, ICLR 2021, arXiv 2006.09790, section 2.2 and appendix A.1). The volumes
of all others are disjoint: log p(x|z) = 0, and reconstruction is exact.
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

# Largest move of a mean along a latent, as a share of the distance between neighbours at the start,
# and largest relative change of its scale: without a limit the volumes of a mixture creep together
# in long trainings.
DRIFT = 0.1
HIDDEN = 64  # hidden channels of learned posteriors and of conditioners
EMBEDDING = 16  # channels of the embedding of a category
MIXTURES = 4  # logistics of a conditional coupling
# Share of an interval that stays free at either end: rounding never moves a latent into the
# neighbouring category. It costs -log2(1 - 2 MARGIN) = 0.0003 bits per variable.
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
        """Raise ValueError unless `encode` takes `x`, where it is not masked, and `mask`."""
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
        """Return categories of latents `z` (B, L, D): argmax of p(x|z), or a draw if `sample`.

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


def assemble(
    z: Tensor, log_p: Tensor, log_q: Tensor, correct: Tensor, mask: Tensor | None
) -> Encoded:
    """Sum log p(x_i|z_i) and log q(z_i|x_i), (B, L) or (B, L, V), over the real variables.

    `correct` is True where the most probable category is the encoded one.
    """
    real = torch.ones_like(correct) if mask is None else expand(mask, correct)
    wrong = (real & ~correct).flatten(1).sum(1) / real.flatten(1).sum(1).clamp(min=1)
    p, q = (sum_log_term(part, mask).to(log_term_dtype(z)) for part in (log_p, log_q))
    return Encoded(masked(z, mask), p, q, (1 - wrong).to(z))


def grid_means(categories: int, latent_dim: int) -> tuple[Tensor, float]:
    """Return points of K categories, (K, D) float64, and the least distance along a coordinate.

    Two points differ in at least one coordinate, where possible in two.
    Category k gets the digits of k in the smallest base that `latent_dim` digits allow. Where one
    digit less suffices in base 2, the last one is the parity of the others, as in an
    error-detecting code; where still fewer do, the digits repeat. The points are centred, with
    standard deviation 1 along a coordinate.
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
    """Independent logistics per category and latent: `z = mean_x + exp(log_scale_x) g_x(e)`.

    Here g is the identity, and e standard logistic noise. The means start on a grid, so that
    training begins with distinguishable latents. The posterior inverts the encoding exactly:
    p(x|z) = q(z|x) p(x) / sum_x' q(z|x') p(x') with a learned prior p(x).

    Args:
        categories: Number of categories K.
        latent_dim: Latents D of a position.
        separation: Distance at which the means of neighbouring categories start, in units of their
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
        """Make the parameters of the posterior, for these means and this scale of the clusters."""
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
        """Return g_x(e) and log|det dg_x/de|; e (M, D), x (M,) long -> (M, D), (M,)."""
        return e, torch.zeros_like(e[..., 0])

    def recover_noise(self, u: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Invert `shape_noise`: g_x^-1(u) and its log|det|."""
        return u, torch.zeros_like(u[..., 0])

    def log_density(self, z: Tensor) -> Tensor:
        """Return log q(z|x) of every category x, (..., D) -> (..., K)."""
        mean, log_scale = self.mean, self.log_scale
        u = (z.to(mean.dtype).unsqueeze(-2) - mean) * torch.exp(-log_scale)
        x = torch.arange(self.cardinalities, device=z.device).expand(u.shape[:-1])
        e, log_det = self.recover_noise(u.reshape(-1, self.latent_dim), x.reshape(-1))
        log_q = logistic_log_density(e).sum(-1) + log_det
        return log_q.reshape(u.shape[:-1]) - log_scale.sum(-1)

    def log_posterior(self, z: Tensor) -> Tensor:
        """Return log p(x|z) of every category x, (..., D) -> (..., K)."""
        return (self.log_density(z) + self.log_prior.log_softmax(0)).log_softmax(-1)

    def encode(self, x, context=Context()):
        """Draw z (B, L, D) for categories x (B, L) long."""
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
        """Return categories (B, L) of latents (B, L, D)."""
        log_p = self.log_posterior(z)
        if not sample:
            return masked(log_p.argmax(-1), context.mask)
        draw = {"mask": context.mask, "generator": context.generator, "device": z.device}
        u = draw_uniform((*z.shape[:-1], 1), dtype=torch.float64, **draw)
        return masked((u >= log_p.double().exp().cumsum(-1)[..., :-1]).sum(-1), context.mask)


class LearnedPosterior(nn.Module):
    """Posterior p(x|z) = softmax(W z + b + MLP(z)).

    Starts as the Bayes classifier of normal clusters with means (K, D) and the variance of logistic
    ones of a common scale.
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
    """Mixture whose g_x is `flows` affine maps conditioned on x, with linear maps between."""

    def __init__(self, categories: int, latent_dim: int, *, flows: int = 4, **options):
        super().__init__(categories, latent_dim, **options)
        if flows < 1:
            raise ValueError(f"flows must be at least 1, got {flows}")
        self.embedding = nn.Embedding(categories, EMBEDDING)
        self.flow = Sequential(*(step for k in range(flows) for step in self.steps(k)))

    def steps(self, number: int) -> list[Bijection]:
        """Return a conditional affine map, then an invertible linear map."""
        network = Conditioner(zero_init(nn.Linear(EMBEDDING, 2 * self.latent_dim)))
        affine = AffineCoupling(network, split=0)
        return [affine, InvertibleLinear(self.latent_dim)] if self.latent_dim > 1 else [affine]

    def shape_noise(self, e, x):
        """Return the flow's output and log-det."""
        return self.flow(e, Context(features=self.embedding(x)))

    def recover_noise(self, u, x):
        """Return the flow's inverse and log-det."""
        return self.flow.inverse_and_logdet(u, Context(features=self.embedding(x)))


class VariationalEncoding(LinearFlowEncoding):
    """Mixture whose g_x has couplings of mixtures of logistics as well; p(x|z) is a network.

    A coupling splits the latents, of which there must be two.
    """

    def __init__(self, categories: int, latent_dim: int, **options):
        if latent_dim < 2:
            raise ValueError(f"the variational encoding needs at least 2 latents, got {latent_dim}")
        super().__init__(categories, latent_dim, **options)

    def start_posterior(self, means, scale):
        """Make the network of the posterior."""
        self.decoder = LearnedPosterior(means, scale)

    def log_posterior(self, z):
        """Return log p(x|z) of every category x, (..., D) -> (..., K)."""
        return self.decoder(z.to(self.start.dtype))

    def steps(self, number):
        """Return the maps of a linear flow, then a conditional mixture coupling."""
        split, swap, fixed = halves(self.latent_dim, number)
        outputs = (3 * MIXTURES + 2) * (self.latent_dim - fixed)
        network = Conditioner(
            nn.Linear(fixed + EMBEDDING, HIDDEN), nn.GELU(), zero_init(nn.Linear(HIDDEN, outputs))
        )
        coupling = MixtureLogisticCoupling(network, split=split, swap=swap, mixtures=MIXTURES)
        return [*super().steps(number), coupling]


class Conditioner(nn.Module):
    """Network of a coupling: layers over the untransformed latents and the features."""

    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x, context):
        """Return parameters of the coupling, (..., P)."""
        return self.layers(torch.cat([x, context.features], -1))


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
        >>> encoded = encoding.encode(torch.tensor([[0, 1, 2, 3]]))
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
        log_q = (logistic_log_density(e) - log_scale - F.logsigmoid(a)).sum(-1)
        return assemble(z, torch.zeros_like(log_q), log_q, self.decode(z) == x, context.mask)

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
    without meaning (Lippe & Gavves 2021, section 5.2). The mass of p(z) beyond the first and the
    last cell is lost, as with `ArgmaxEncoding`: see `overflow`. `variational` learns a distribution
    of u for each category (Ho et al. 2019, arXiv 1902.00275).
    """

    cardinalities: int
    like: Tensor

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

    def _point(self, z: Tensor) -> Tensor:
        return z[..., 0].double() / self.scale + self.cardinalities / 2

    def overflow(self, z: Tensor) -> Tensor:
        """Return True where latents stand for no category, (..., 1) -> (...) bool."""
        point = self._point(z)
        return (point < 0) | (point >= self.cardinalities)

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
    """Build the encoding `name` (of `ENCODINGS`) of one variable per position, x (B, L).

    Args:
        name: "mixture", "linear", "variational", "argmax", "interval", or, as baselines,
            "uniform-dequantization" or "variational-dequantization".
        categories: Number of categories.
        latent_dim: Latents of a position; None for max(2, ceil(log2 categories)). From "argmax" on
            the encoding determines it.
        **options: Further arguments of the encoding's class.

    Raises:
        UserError: if there is no such encoding, or it does not take these arguments.

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
