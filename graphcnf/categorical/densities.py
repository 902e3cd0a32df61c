"""Encodings with densities q(z|x) on all of space: volumes overlap, less and less in training.

All three draw `z = mean_x + exp(log_scale_x) g_x(e)` with standard logistic noise e:

- `MixtureEncoding`: g is the identity;
- `LinearFlowEncoding`: g_x is a flow of affine maps;
- `VariationalEncoding`: g_x has mixture couplings as well.

The means of the categories start on a grid (digits of the categories in a small base), so that
training begins with distinguishable latents.

References:
    Lippe & Gavves, *Categorical Normalizing Flows via Continuous Transformations*, ICLR 2021,
    arXiv 2006.09790, section 2.2 and appendix A.1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from graphcnf.categorical.encoding import (
    Encoding,
    assemble,
    logistic_log_density,
    logistic_noise,
)
from graphcnf.flows.base import draw_uniform
from graphcnf.flows.coupling import AffineCoupling, MixtureLogisticCoupling, halves
from graphcnf.flows.linear import InvertibleLinear
from graphcnf.flows.modules import zero_init
from graphcnf.flows.transform import Bijection, Context, Sequential, masked

POSTERIORS = ("bayes", "learned")

DRIFT = 0.1
"""Largest move of a mean along a latent, as a share of the distance between neighbours at the
start, and largest relative change of its scale: without a limit the volumes of a mixture creep
together in long trainings."""

HIDDEN = 64
"""Hidden channels of learned posteriors and of conditioners."""

EMBEDDING = 16
"""Channels of the embedding of a category."""


def grid_means(categories: int, latent_dim: int) -> tuple[Tensor, float]:
    """Return points that differ by at least `spacing` in a coordinate, where possible in two.

    Category k gets the digits of k in the smallest base that `latent_dim` digits allow. Where one
    digit less suffices in base 2, the last one is the parity of the others, as in an
    error-detecting code; where still fewer do, the digits repeat.

    The points (K, D), float64, are centred, with standard deviation 1 along a coordinate.
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
    """Independent logistics with a mean and a scale per category and latent.

    Args:
        categories: Number of categories K.
        latent_dim: Latents D of a position.
        posterior: "bayes" inverts the encoding exactly,
            p(x|z) = q(z|x) p(x) / sum_x' q(z|x') p(x'); "learned" is a small network.
        prior: p(x) of the Bayes posterior: K positive weights, or None to learn it.
        separation: Distance at which the means of neighbouring categories start, in units of their
            logistic scale.

    Raises:
        ValueError: if an argument is out of range.
    """

    cardinalities: int
    start: Tensor

    def __init__(
        self,
        categories: int,
        latent_dim: int,
        *,
        posterior: str = "bayes",
        prior: Sequence[float] | None = None,
        separation: float = 26.0,
    ):
        super().__init__()
        if categories < 1 or latent_dim < 1:
            raise ValueError(
                f"categories and latents must be at least 1, got {categories} and {latent_dim}"
            )
        if posterior not in POSTERIORS:
            raise ValueError(f'posterior must be "bayes" or "learned", got {posterior!r}')
        if not separation > 0:
            raise ValueError(f"separation must be greater than 0, got {separation}")
        self.cardinalities, self.latent_dim = int(categories), int(latent_dim)
        self.posterior = posterior
        dtype = torch.get_default_dtype()
        means, self.spacing = grid_means(categories, latent_dim)
        scale = self.spacing / separation
        self.register_buffer("start", means.to(dtype), persistent=False)
        self.start_log_scale = math.log(scale)
        self.shift = nn.Parameter(torch.zeros_like(self.start))
        self.growth = nn.Parameter(torch.zeros_like(self.start))
        if posterior == "learned":
            if prior is not None:
                raise ValueError('prior belongs to posterior="bayes": a learned posterior has none')
            self.decoder = LearnedPosterior(means, scale)
        elif prior is None:
            self.log_prior = nn.Parameter(torch.zeros(categories, dtype=dtype))
        else:
            weights = torch.as_tensor(prior, dtype=torch.float64)
            if weights.shape != (categories,) or not (weights > 0).all():
                raise ValueError(f"prior must be {categories} positive weights")
            self.register_buffer("log_prior", (weights / weights.sum()).log().to(dtype))

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
        if self.posterior == "learned":
            return self.decoder(z.to(self.start.dtype))
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
        if sample:
            u = draw_uniform(
                (*z.shape[:-1], 1),
                mask=context.mask,
                generator=context.generator,
                device=z.device,
                dtype=torch.float64,
            )
            x = (u >= log_p.double().exp().cumsum(-1)[..., :-1]).sum(-1)
        else:
            x = log_p.argmax(-1)
        return masked(x, context.mask)


class LearnedPosterior(nn.Module):
    """Posterior p(x|z) = softmax(W z + b + MLP(z)).

    Starts as a linear classifier of logistic clusters with means (K, D) and a common scale.
    """

    def __init__(self, means: Tensor, scale: float):
        super().__init__()
        categories, latent_dim = means.shape
        self.linear = nn.Linear(latent_dim, categories)
        self.network = nn.Sequential(
            nn.Linear(latent_dim, HIDDEN), nn.GELU(), zero_init(nn.Linear(HIDDEN, categories))
        )
        # The Bayes classifier of normal clusters with the variance of the logistic ones.
        variance = (scale * math.pi) ** 2 / 3
        with torch.no_grad():
            self.linear.weight.copy_(means / variance)
            self.linear.bias.copy_(-means.square().sum(-1) / (2 * variance))

    def forward(self, z: Tensor) -> Tensor:
        """Return log-probabilities (..., K) for latents (..., D)."""
        return (self.linear(z) + self.network(z)).log_softmax(-1)


class LinearFlowEncoding(MixtureEncoding):
    """Affine maps conditioned on the category, `flows` of them, with linear maps between.

    The other arguments are those of `MixtureEncoding`.
    """

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
    """Non-linear flow conditioned on the category; p(x|z) is learned by default.

    A coupling splits the latents, of which there must be two. The couplings are mixtures of
    `mixtures` logistics; the other arguments are those of `LinearFlowEncoding`.
    """

    def __init__(
        self,
        categories: int,
        latent_dim: int,
        *,
        posterior: str = "learned",
        mixtures: int = 4,
        **options,
    ):
        if latent_dim < 2:
            raise ValueError(f"the variational encoding needs at least 2 latents, got {latent_dim}")
        self.mixtures = mixtures
        super().__init__(categories, latent_dim, posterior=posterior, **options)

    def steps(self, number):
        """Return the maps of a linear flow, then a conditional mixture coupling."""
        split, swap, fixed = halves(self.latent_dim, number)
        outputs = (3 * self.mixtures + 2) * (self.latent_dim - fixed)
        network = Conditioner(
            nn.Linear(fixed + EMBEDDING, HIDDEN), nn.GELU(), zero_init(nn.Linear(HIDDEN, outputs))
        )
        coupling = MixtureLogisticCoupling(network, split=split, swap=swap, mixtures=self.mixtures)
        return [*super().steps(number), coupling]


class Conditioner(nn.Module):
    """Network of a coupling: layers over the untransformed latents and the features."""

    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x, context):
        """Return parameters of the coupling, (..., P)."""
        return self.layers(torch.cat([x, context.features], -1))
