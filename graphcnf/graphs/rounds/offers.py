"""What nodes can pick: scores of their partners, and which of them are possible."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

from graphcnf.graphs.rounds.known import Known


@dataclass
class Offers:
    """What the picks of some nodes are read out of.

    Attributes:
        scores: Of every partner for every kind, (..., N, K). Partners come in the order of the
            context's random numbering.
        fits: Which of them are possible, (..., N, K) bool.
        others: Partners that take the place of those that fit where there are none, (..., N) bool.
        kinds: Kind of each pick, K where there is none, (..., M) long.
        fresh: Which partners are no part of the growing graph yet, (..., N) bool.
        budget: How many picks of ring edges may be fresh, and how many not, (..., 2) long.
        own: Places left in the part of the node that picks, its nodes, and the nodes of the graph,
            (..., 3) long.
        part: Number of the part of every partner, 0 for that of the node itself, (..., N) long.
        places: Places left in the part of a partner, (..., N) long.
        sizes: Its nodes, (..., N) long.
        rings: Which kinds are in rings, (K + 1,) bool.
    """

    scores: Tensor
    fits: Tensor
    others: Tensor
    kinds: Tensor
    fresh: Tensor
    budget: Tensor
    own: Tensor
    part: Tensor
    places: Tensor
    sizes: Tensor
    rings: Tensor

    @classmethod
    def of(
        cls,
        known: Known,
        mask: Tensor,
        reached: Tensor,
        rows: tuple[Tensor, Tensor],
        partner: Tensor,
        scores: Tensor,
        kinds: Tensor,
        rings: Tensor,
    ) -> Offers:
        """Offers to the nodes `rows` (graph and node, each (R,) long) by `partner` (R, N) long."""
        graph, node = (part[:, None].expand_as(partner) for part in rows)
        sizes, places = known.parts[..., 0], known.parts[..., 1] + known.parts[..., 2]
        part = known.together.int().argmax(-1)[graph, partner] + 1
        return cls(
            scores=scores,
            fits=known.possible[graph, node, partner],
            others=known.others[graph, node, partner],
            kinds=kinds,
            fresh=~reached[graph, partner],
            budget=known.whole[rows[0], 1:],
            own=torch.stack([places[rows], sizes[rows], mask.sum(1)[rows[0]]], -1),
            part=torch.where(known.together[graph, node, partner], 0, part),
            places=places[graph, partner],
            sizes=sizes[graph, partner],
            rings=rings,
        )

    def with_axis(self) -> Offers:
        """The same with an axis of one round: (B, 1, ...)."""
        return self._each([self], lambda parts: parts[0][:, None])

    @classmethod
    def cat(cls, rounds: Sequence[Offers]) -> Offers:
        """One for several rounds, (B, rounds, ...)."""
        return cls._each(rounds, lambda parts: torch.cat(parts, 1))

    @classmethod
    def _each(cls, offers: Sequence[Offers], join: Callable[[list[Tensor]], Tensor]) -> Offers:
        names = [field.name for field in fields(cls) if field.name != "rings"]
        joined = {name: join([getattr(o, name) for o in offers]) for name in names}
        return cls(rings=offers[0].rings, **joined)

    def logits(self, previous: list[Tensor]) -> Tensor:
        """Of the pick after `previous` ones, each (...,) long: (..., N), -inf where impossible."""
        nodes = self.fresh.shape[-1]
        kind = self.kinds[..., len(previous)]
        at = kind.clamp(max=self.scores.shape[-1] - 1)[..., None, None]
        at = at.expand(*self.scores.shape[:-1], 1)
        own, fits = self.scores.gather(-1, at)[..., 0], self.fits.gather(-1, at)[..., 0]
        taken = torch.zeros_like(self.fresh)
        spent = torch.zeros_like(self.budget)
        picks = [F.one_hot(v.clamp(max=nodes), nodes + 1)[..., :-1].bool() for v in previous]
        for before, here in enumerate(picks):
            taken = taken | here
            ring = self.rings[self.kinds[..., before]] & here.any(-1)
            new = (here & self.fresh).any(-1)
            spent = spent + torch.stack([ring & new, ring & ~new], -1)
        left = self.budget > spent
        within = torch.where(self.fresh, left[..., :1], left[..., 1:])
        within = within | ~self.rings[kind][..., None]
        allowed = ~taken & ~self._completing(picks)
        allowed = allowed & (kind < self.scores.shape[-1])[..., None]
        fits = fits & within & allowed
        possible = torch.where(fits.any(-1, keepdim=True), fits, self.others & allowed)
        return own.masked_fill(~possible, -math.inf)

    def _completing(self, picks: list[Tensor]) -> Tensor:
        """Whether a partner completes the part while nodes are outside, after `picks`, (..., N)."""
        (left, size, nodes), joined = self.own.unbind(-1), self.part == 0
        for here in picks:
            new = here & ~joined
            left = left + (self.places * new).sum(-1) - 2 * here.any(-1)
            size = size + (self.sizes * new).sum(-1)
            joined = joined | (self.part == (self.part * here).sum(-1, keepdim=True))
        left = left[..., None] + self.places.masked_fill(joined, 0)
        size = size[..., None] + self.sizes.masked_fill(joined, 0)
        return (left <= 2) & (size < nodes[..., None])
