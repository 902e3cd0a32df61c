"""Interleaved coupling: G coupling layers over categories, evaluated in one pass.

Position i belongs to group i mod G, or to the group that the context names. Group g is transformed
given the categories of the groups before it, so the map is the composition of G coupling layers
that share one network: sampling takes G rounds, whatever the number of positions. In the density
direction the categories of all groups are known and one pass gives the parameters of every group.

The element-wise map is a categorical coupling: each category owns an interval of the unit line
(`IntervalEncoding`), and a monotone piecewise linear map (Mueller et al. 2019, arXiv 1808.03856)
with its knots at the ends of the intervals gives every interval the conditional probability of its
category as its new width. Its log-det is the log-probability of the category, up to constants.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from graphcnf.categorical.flow import CategoricalFlow
from graphcnf.categorical.intervals import IntervalEncoding, Intervals, expand
from graphcnf.flows.transform import Bijection, Context, log_term_dtype, masked, sum_log_term


@dataclass(frozen=True, eq=False)
class GroupContext(Context):
    """Context with the group of each position.

    Attributes:
        groups: Round in which a position's variables are decided, (B, N) long or None.
    """

    groups: Tensor | None = None


class Rounds(Protocol):
    """A network's state while the groups are decided one after the other."""

    def ask(self, g: int, members: Tensor, known: Tensor) -> Any:
        """What the logits of `members` (B, M) of group g are read out of.

        `known` (B, N, V) holds the categories of the groups before.
        """

    def tell(self, g: int, members: Tensor, real: Tensor, known: Tensor) -> None:
        """Take the categories of group g, now in `known`; `real` (B, M) tells padding apart."""


class ConditionalNetwork(Protocol):
    """Network of an `InterleavedCoupling`: categories given those of earlier groups."""

    @property
    def cardinalities(self) -> Sequence[int]:
        """Number of categories of each of the V variables of a position."""

    def streams_of(self, x: Tensor, context, group: Tensor) -> Any:
        """For all positions in one pass what `Rounds.ask` gives, of categories x (B, N, V)."""

    def rounds(self, context, group: Tensor) -> Rounds:
        """The same group by group."""

    def read_out(self, asked: Any, previous: list[Tensor]) -> Tensor:
        """Logits (B, M, cardinality) of the variable after the `previous` ones of a position."""


class InterleavedCoupling(Bijection):
    """Categorical coupling over groups of positions; see the module's text.

    Latents and output live on the real line, with u = sigmoid(z) on the unit line. With F the
    conditional distribution function of the categories and x the category of z,
    u' = F(x - 1) + p(x) (u - lower(x)) / width(x).

    `forward` is differentiable, `inverse` and `inverse_and_logdet` are not: they decide between
    categories on the way, and keep no graph of it.

    Args:
        network: `CausalAttention` or another module.
        groups: Number G of groups, the number of rounds that sampling takes.
    """

    tempers = True
    # A ConditionalNetwork; what else it offers, those know who know which one it is.
    network: Any

    def __init__(self, network: ConditionalNetwork, *, groups: int = 8):
        super().__init__()
        if groups < 1:
            raise ValueError(f"groups must be positive, got {groups}")
        self.network = network
        self.groups = groups
        self.intervals = Intervals(network.cardinalities)

    def categories(self, z: Tensor, mask: Tensor) -> Tensor:
        """Categories (B, N, V) of latents; the number of categories where masked."""
        absent = torch.tensor(self.network.cardinalities, device=z.device)
        return torch.where(mask, self.intervals.category(torch.sigmoid(z)), absent)

    def group_of(self, context) -> Tensor:
        """Group of each position, (B, N) long: as the context says, or by its number."""
        given = getattr(context, "groups", None)
        if given is not None:
            if given.numel() and int(given.max()) >= self.groups:
                raise ValueError(f"group {int(given.max())}; there are 0 to {self.groups - 1}")
            return given
        mask = context.mask
        group = torch.arange(mask.shape[1], device=mask.device) % self.groups
        return group.expand(len(mask), -1)

    def log_probs(self, x: Tensor, context) -> Tensor:
        """Conditional log-probabilities of all categories given the earlier groups and variables.

        Args:
            x: Categories, (B, N, V) long, the number of categories where a variable is absent.
            context: `Context`, with what the network needs.

        Returns:
            (B, N, V, C), C the largest cardinality; -inf where there is no such category.
        """
        return self._conditionals(self.network.streams_of(x, context, self.group_of(context)), x)

    def _conditionals(self, asked, x: Tensor) -> Tensor:
        values = x.unbind(-1)
        most = max(self.network.cardinalities)
        rows = []
        for k in range(len(values)):
            log_p = self._variable(asked, list(values[:k]))
            rows.append(F.pad(log_p, (0, most - log_p.shape[-1]), value=-math.inf))
        return torch.stack(rows, 2)

    def _variable(self, asked, previous: list[Tensor], temperature: float = 1.0) -> Tensor:
        logits = self.network.read_out(asked, previous)
        return (logits.to(log_term_dtype(logits)) / temperature).log_softmax(-1)

    def forward(self, x, context=Context()):
        """Map latents (B, N, V); the mask is (B, N) or, one variable at a time, (B, N, V)."""
        mask = expand(context.mask, x)
        x = masked(x, mask)
        category = self.categories(x, mask)
        log_p = self.log_probs(category, context)
        known = torch.where(mask, category, 0)
        lower, width = self.intervals.bounds(known)
        own = log_p.gather(-1, known[..., None])[..., 0]
        # Distribution functions in float64: a rare category keeps its interval.
        p = log_p.double().exp()
        start = (p.cumsum(-1) - p).gather(-1, known[..., None])[..., 0]
        u = torch.sigmoid(x.double())
        moved = (start + own.double().exp() * (u - lower) / width).clamp(1e-15, 1 - 1e-15)
        z = torch.where(mask, torch.logit(moved), 0.0)
        jacobian = own - torch.log(width)
        jacobian = jacobian + torch.log(u) + torch.log1p(-u)
        jacobian = jacobian - torch.log(moved) - torch.log1p(-moved)
        return z.to(x.dtype), sum_log_term(jacobian, mask).to(log_term_dtype(x))

    def inverse(self, z, context=Context()):
        """Map back; a temperature below 1 sharpens the conditional probabilities."""
        return self._invert(z, context)[0]

    def inverse_and_logdet(self, z, context=Context()):
        """Return the data-side latents and log|det dx/dz| (B,), both without gradients."""
        return self._invert(z, replace(context, temperature=1.0))

    @torch.no_grad()
    def _invert(self, z, context):
        mask = expand(context.mask, z)
        z = masked(z, mask)
        batch, length, variables = z.shape
        absent = torch.tensor(self.network.cardinalities, device=z.device)
        group = self.group_of(context)
        rounds = self.network.rounds(context, group)
        out = torch.zeros(batch, length + 1, variables, dtype=z.dtype, device=z.device)
        known = absent.expand(z.shape).clone()
        log_det = torch.zeros(batch, dtype=torch.float64, device=z.device)
        u_all = torch.sigmoid(z.double())
        rows = torch.arange(batch, device=z.device)[:, None]
        for g in range(self.groups):
            belongs = (group == g) & mask.any(-1)
            most = int(belongs.sum(1).max()) if batch else 0
            if not most:
                continue
            # Members first; the rest of the row is padding.
            members = belongs.long().argsort(dim=1, descending=True, stable=True)[:, :most]
            real = belongs.gather(1, members)
            asked = rounds.ask(g, members, known)
            previous: list[Tensor] = []
            here = mask[rows, members] & real[..., None]
            for k in range(variables):
                log_p = self._variable(asked, previous, context.temperature)
                x, value, jacobian = self._place(u_all[rows, members, k], log_p, k, z)
                out[rows, torch.where(real, members, length), k] = torch.where(
                    here[..., k], value, 0.0
                ).to(z.dtype)
                log_det = log_det + torch.where(here[..., k], jacobian, 0.0).sum(-1)
                previous.append(torch.where(here[..., k], x, absent[k]))
            values = torch.stack(previous, -1)
            known[rows.expand_as(members)[real], members[real]] = values[real]
            if g < self.groups - 1:
                rounds.tell(g, members, real, known)
        return out[:, :length], log_det.to(log_term_dtype(z))

    def _place(
        self, u: Tensor, log_p: Tensor, variable: int, like: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Category that u falls on, its latent on the data side, log|dx/dz| of the two."""
        edge = 1e-9 if like.dtype == torch.float64 else 1e-5
        p = log_p.double().exp()
        upper = p.cumsum(-1)
        x = (u[..., None] >= upper).sum(-1)
        # The last possible category takes what rounding leaves.
        rank = torch.arange(1, p.shape[-1] + 1, device=p.device)
        x = x.minimum(((p > 0) * rank).amax(-1) - 1)
        new_width = p.gather(-1, x[..., None])[..., 0]
        start = upper.gather(-1, x[..., None])[..., 0] - new_width
        width = 1 / self.network.cardinalities[variable]
        # Far enough from the ends that rounding to the type of `like` keeps the category.
        moved = (x + ((u - start) / new_width).clamp(edge, 1 - edge)) * width
        jacobian = math.log(width) - torch.log(new_width) + torch.log(u) + torch.log1p(-u)
        jacobian = jacobian - torch.log(moved) - torch.log1p(-moved)
        return x, torch.logit(moved), jacobian


class InterleavedFlow(CategoricalFlow):
    """Categorical flow of an interleaved coupling: exact but for the margins of the intervals.

    Args:
        network: See `InterleavedCoupling`.
        groups: See `InterleavedCoupling`.
    """

    flow: InterleavedCoupling

    def __init__(self, network: ConditionalNetwork, *, groups: int):
        encoding = IntervalEncoding(network.cardinalities)
        super().__init__(encoding, InterleavedCoupling(network, groups=groups))

    @property
    def coupling(self) -> InterleavedCoupling:
        """The flow of latents."""
        return self.flow

    @property
    def network(self) -> Any:
        """Gives the conditional probabilities."""
        return self.flow.network
