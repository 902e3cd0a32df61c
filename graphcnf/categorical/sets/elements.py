"""Coupling over the elements of a set, in the random order that a latent channel gives them.

A set has no order to condition along, and a coupling that splits the channels transforms all
elements in parallel, so that it needs many layers to learn that elements exclude each other. Here
every element gets one more latent, pure noise that the flow leaves alone (the encoder and the base
density give it the same density, so it costs no bits). Sorted by it, the elements are transformed
one after the other, each given the ones before it. Since the order is a latent of the elements
themselves, the map stays equivariant under permutations of the set.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphcnf.categorical.encoding import (
    Encoded,
    Encoding,
    logistic_log_density,
    logistic_noise,
)
from graphcnf.categorical.sets.attention import CausalSetNetwork
from graphcnf.flows.logistic_mixture import (
    bounded_log_scale,
    logistic_mixture,
    logistic_mixture_inverse,
)
from graphcnf.flows.transform import Bijection, Context, masked, prepare, sum_log_term


class OrderedEncoding(Encoding):
    """Another encoding with a standard logistic latent in front that knows nothing of x.

    Args:
        encoding: What gives the other latents.
    """

    def __init__(self, encoding: Encoding):
        super().__init__()
        self.encoding = encoding
        self.cardinalities = encoding.cardinalities
        self.latent_dim = 1 + encoding.latent_dim

    def encode(self, x, context=Context()):
        """Draw z (B, L, 1 + D)."""
        inner = self.encoding.encode(x, context)
        order = logistic_noise((*inner.z.shape[:-1], 1), inner.z, context.noise)
        order = masked(order, context.mask)
        log_q = inner.log_encoder + sum_log_term(logistic_log_density(order), context.mask)
        return Encoded(torch.cat([order, inner.z], -1), inner.log_posterior, log_q, inner.correct)

    def decode(self, z, context=Context(), *, sample=False):
        """Categories of the latents but the first."""
        return self.encoding.decode(z[..., 1:], context, sample=sample)


def ranking(key: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Elements by ascending key (B, L), padding last; their places (B, L) and number (B,)."""
    if mask is None:
        sizes = torch.full((len(key),), key.shape[1], device=key.device)
    else:
        key, sizes = key.masked_fill(~mask, torch.inf), mask.sum(1)
    return key.argsort(dim=1, stable=True), sizes


class ElementCoupling(Bijection):
    """Elements, in the order of their first latent, through a mixture given the ones before.

    The other D latents of an element map such that a standard logistic base density gives them the
    density `sum_c w_c prod_d Logistic(x_d; m_cd, s_cd)`, whose parameters come from a causal
    attention network: latent d goes through the distribution function of its conditional density
    given the latents before it, which is again a mixture of logistics, with the weights
    `w_c prod_{e<d} Logistic(x_e; m_ce, s_ce)` (the triangular map of Rosenblatt 1952).

    Args:
        means: Where the components start, (C, D).
        log_scales: Log-scales at which they start, (C, D).
        elements: Largest number of elements.
        reverse: Go through the elements in descending instead of ascending order.
        **network: `width`, `layers` and `heads` of the attention network.
    """

    def __init__(
        self, means: Tensor, log_scales: Tensor, *, elements: int, reverse: bool = False, **network
    ):
        super().__init__()
        self.reverse = reverse
        self.means = nn.Parameter(means.clone())
        self.log_scales = nn.Parameter(log_scales.clone())
        components, latents = means.shape
        self.network = CausalSetNetwork(
            latents + components,
            components * (1 + 2 * latents),
            elements=elements,
            **network,
        )

    def forward(self, x, context=Context()):
        """Map x (B, L, 1 + D); the order channel stays as it is."""
        x, mask = prepare(x, context.mask), context.mask
        index, sizes = self._order(x, mask)
        v = x.gather(1, index)[..., 1:]
        logits, means, log_scales = self._mixtures(v[:, :-1], sizes)
        moved, slopes = [], []
        for d, value in enumerate(v.unbind(-1)):
            y, log_slope = logistic_mixture(value, logits, means[d], log_scales[d])
            logits = logits + self._log_densities(value, means[d], log_scales[d])
            moved.append(y)
            slopes.append(log_slope)
        return self._finish(x, index, mask, moved, slopes)

    def inverse_and_logdet(self, z, context=Context()):
        """Map back, element by element."""
        z, mask = prepare(z, context.mask), context.mask
        index, sizes = self._order(z, mask)
        y = z.gather(1, index)[..., 1:]
        known = y[:, :0]
        all_slopes = []
        for k in range(z.shape[1]):
            logits, means, log_scales = (
                part[..., -1].double() for part in self._mixtures(known, sizes)
            )
            values, slopes = [], []
            for d in range(y.shape[-1]):
                mixture = logits, means[d], log_scales[d]
                value = logistic_mixture_inverse(y[:, k, d].double(), *mixture)
                log_slope = -logistic_mixture(value, *mixture)[1]
                logits = logits + self._log_densities(value, means[d], log_scales[d])
                values.append(value.to(z.dtype))
                slopes.append(log_slope.to(z.dtype))
            known = torch.cat([known, torch.stack(values, -1)[:, None]], 1)
            all_slopes.append(torch.stack(slopes, -1))
        slopes = torch.stack(all_slopes, 1).unbind(-1)
        return self._finish(z, index, mask, known.unbind(-1), slopes)

    def _order(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Positions in the order of the first channel, (B, L, 1 + D), and sizes (B,)."""
        if x.shape[1] > self.network.elements:
            raise ValueError(
                f"sets of {x.shape[1]} elements, but the model knows up to {self.network.elements}"
            )
        index, sizes = ranking(-x[..., 0] if self.reverse else x[..., 0], mask)
        return index.unsqueeze(-1).expand_as(x), sizes

    def _finish(self, x, index, mask, moved, slopes) -> tuple[Tensor, Tensor]:
        """Back to the order of the input, with the log term."""
        sums = sum(slopes)
        if mask is not None:
            sums = sums.masked_fill(~mask.gather(1, index[..., 0]), 0)
        moved = torch.stack(list(moved), -1)
        moved = torch.zeros_like(moved).scatter(1, index[..., 1:], moved)
        return masked(torch.cat([x[..., :1], moved], -1), mask), sum_log_term(sums)

    def _mixtures(self, known: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Parameters of one more element than known (B, K, D), components first.

        Returns:
            Logits (C, B, K + 1), means and log-scales (D, C, B, K + 1).
        """
        components, latents = self.means.shape
        # Which component an element lies on tells more than where it lies.
        nearness = self._log_densities(
            known.movedim(-1, 0)[:, None],
            self.means.t()[..., None, None],
            self.log_scales.t()[..., None, None],
        ).sum(0)
        features = torch.cat([known, nearness.softmax(0).movedim(0, -1)], -1)
        out = self.network(features, sizes).to(known.dtype)
        out = out.permute(2, 0, 1).contiguous()
        logits, means, log_scales = out.split([components, *[components * latents] * 2])
        shape = (latents, components)
        means = self.means.t()[..., None, None] + means.unflatten(0, shape)
        bounded = bounded_log_scale(log_scales.unflatten(0, shape))
        return logits, means, self.log_scales.t()[..., None, None] + bounded

    @staticmethod
    def _log_densities(x: Tensor, means: Tensor, log_scales: Tensor) -> Tensor:
        return logistic_log_density((x - means) * torch.exp(-log_scales)) - log_scales
