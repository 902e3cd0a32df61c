"""The flow that has the probabilities of an autoregressive network, over intervals of categories.

`IntervalEncoding` gives the categories of a variable equal intervals of (0, 1).
`AutoregressiveCoupling` stretches each to the conditional probability that an
`AutoregressiveNetwork` gives the category. Its log-det is therefore the log-probability of the
categories, up to constants:

    categories --IntervalEncoding--> latents --AutoregressiveCoupling--> base latents

So `AutoregressiveFlow` need not evaluate the coupling to score and to draw: it uses the network
alone. What it draws has these probabilities, unless the network corrects drawn categories by a rule
of which they know nothing (`AutoregressiveNetwork.settle`), such as that graphs stay planar.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Generic, TypeVar

import torch
from torch import Tensor

from graphcnf.categorical.autoregressive import LEAST, AutoregressiveNetwork, Intervals
from graphcnf.categorical.categorical_flow import Bound, CategoricalFlow
from graphcnf.categorical.encoding import (
    IntervalEncoding,
    interval_bounds,
    interval_category,
    mask_of_variables,
)
from graphcnf.flows.transform import (
    Bijection,
    Context,
    log_term_dtype,
    masked,
    sum_log_term,
    with_mask,
)
from graphcnf.limits import check_temperature
from graphcnf.torch_state import evaluated

FREE_SHARES = {torch.float64: 1e-9, torch.float32: 1e-5}
"""Share of an interval that latents keep free at either end once they are mapped back, by their
type: enough that rounding does not change the category."""

AnyNetwork = TypeVar("AnyNetwork", bound=AutoregressiveNetwork)


class AutoregressiveCoupling(Bijection, Generic[AnyNetwork]):
    """Bijection that makes the interval of each category as wide as its conditional probability.

    `IntervalEncoding` gives category x an interval [lower(x), lower(x) + width(x)), which contains
    u = sigmoid(z). The coupling maps u to u' = F(x - 1) + p(x) (u - lower(x)) / width(x), and z to
    logit(u'); p are the conditional probabilities, F their cumulative sums. The map of u is
    monotone and piecewise linear (Mueller et al. 2019, arXiv 1808.03856).
    """

    tempers = True

    def __init__(self, network: AnyNetwork):
        super().__init__()
        self.network: AnyNetwork = network

    def categories(self, z: Tensor, mask: Tensor) -> Tensor:
        """Return the categories that latents of `IntervalEncoding` stand for."""
        return masked(interval_category(torch.sigmoid(z), self.network.cardinalities), mask)

    def forward(self, z, context=Context()):
        """Map latents of `IntervalEncoding` to base latents.

        The mask of the context may be (B, N, V), if masked variables of real positions are omitted
        ones.
        """
        context = with_mask(z, context)
        z = masked(z, context.mask)
        category = self.categories(z, context.mask)
        source = self._intervals_of_encoding(category)
        target = self.network.intervals(category, _with_mask_of_positions(context))
        return _map_intervals(z, source, target, mask_of_variables(context.mask, z))

    @torch.no_grad()
    def inverse_and_logdet(self, z, context=Context()):
        """Map base latents to latents of `IntervalEncoding`, step by step and without gradients."""
        context = with_mask(z, context)
        z = masked(z, context.mask)
        u = torch.sigmoid(z.double())
        category, source = self.network.invert(u, _with_mask_of_positions(context))
        target = self._intervals_of_encoding(category)
        margin = FREE_SHARES.get(z.dtype, FREE_SHARES[torch.float32])
        return _map_intervals(z, source, target, mask_of_variables(context.mask, z), margin)

    def _intervals_of_encoding(self, category: Tensor) -> Intervals:
        """Return the intervals of `IntervalEncoding` of categories (B, N, V) long."""
        lower, width = interval_bounds(category, self.network.cardinalities)
        return Intervals(lower, width.log())


def _map_intervals(
    z: Tensor, source: Intervals, target: Intervals, mask: Tensor, margin: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Map sigmoid(z) linearly from one interval to another."""
    u = torch.sigmoid(z.double())
    share = ((u - source.lower) / source.log_width.exp()).clamp(margin, 1 - margin)
    moved = target.lower + target.log_width.double().exp() * share
    moved = moved.clamp(LEAST, 1 - LEAST)
    # du'/du, du/dz = u (1 - u), dz'/du' = 1 / (u' (1 - u'))
    log_det = target.log_width - source.log_width + torch.log(u) + torch.log1p(-u)
    log_det = log_det - torch.log(moved) - torch.log1p(-moved)
    out = torch.where(mask, torch.logit(moved), 0.0).to(z.dtype)
    return out, sum_log_term(log_det, mask).to(log_term_dtype(z))


def _with_mask_of_positions(context: Context) -> Context:
    """Return the context with a mask of positions (B, N), real if one of their variables is."""
    return context if context.mask.dim() == 2 else replace(context, mask=context.mask.any(-1))


class AutoregressiveFlow(CategoricalFlow, Generic[AnyNetwork]):
    """Categorical flow with exact probabilities: `IntervalEncoding` and autoregressive coupling.

    `bound` and `log_prob` do not draw latents: they are the log-probability of the network. The
    flow gives the same number, up to the margins that `IntervalEncoding` keeps free at the ends of
    intervals. With `single`, positions have one variable and categories are (B, N), else (B, N, V).
    """

    exact = True
    encoding: IntervalEncoding
    transform: AutoregressiveCoupling[AnyNetwork]

    def __init__(self, network: AnyNetwork, *, single: bool = False):
        cardinalities = network.cardinalities
        encoding = IntervalEncoding(cardinalities[0] if single else cardinalities)
        super().__init__(encoding, AutoregressiveCoupling(network))

    @property
    def network(self) -> AnyNetwork:
        """Autoregressive distribution of the categories, the argument `network`."""
        return self.transform.network

    def bound(self, x, context: Context = Context()) -> Bound:
        """Return log p(x) of the network, in the form of a bound that is exact."""
        self.encoding.check(x, context.mask)
        x = x.long()
        if self.encoding.single:
            x = x.unsqueeze(-1)
        return Bound.exact(self.network.log_prob(x, with_mask(x, context)))

    @evaluated
    def decode(self, z, context: Context = Context(), *, sample: bool = False) -> Tensor:
        """Decode base latents by `AutoregressiveNetwork.draw`, which applies its `settle`."""
        check_temperature(context.temperature)
        context = with_mask(z, context)
        u = torch.sigmoid(masked(z, context.mask).double())
        x = self.network.draw(u, context)
        return x[..., 0] if self.encoding.single else x
