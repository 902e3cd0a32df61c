"""Choices of nodes among their partners: edge logits, and which choices are possible."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from graphcnf.graphs.unordered.known import Known


@dataclass
class EdgeChoices:
    """Hidden states of M nodes that choose their partners one after the other.

    Attributes:
        scores: Logits of every partner for every kind, (M, N, K). Partners come in the order of the
            context's random numbering.
        fits: Possible partners for every kind, (M, N, K) bool.
        others: Partners that take the place of those that fit where there are none, (M, N) bool.
        kinds: Kind of each choice, K where there is none, (M, V) long.
        fresh: Partners that are no part of the partial graph yet, (M, N) bool.
        budget: Number of ring edges that may still lead to fresh partners, and of those that may
            not, (M, 2) long.
        own: Places left in the part of the node, its nodes, and the nodes of the graph, (M, 3)
            long.
        part: Number of the part of every partner, 0 for that of the node itself, (M, N) long.
        places: Places left in the part of a partner, (M, N) long.
        sizes: Its nodes, (M, N) long.
        taken: Partners that are chosen already, (M, N) bool.
        joined: Partners in the part of the node, by the choices so far, (M, N) bool.
        rings: Whether each kind is in rings, (K + 1,) bool.
        number: Number of choices so far.
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
    taken: Tensor
    joined: Tensor
    rings: Tensor
    number: int = 0

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
    ) -> EdgeChoices:
        """Return the choices of nodes `rows` (graph and node, (M,) long) by `partner` (M, N)."""
        graph, node = (part[:, None].expand_as(partner) for part in rows)
        sizes, places = known.parts[..., 0], known.parts[..., 1] + known.parts[..., 2]
        part = known.together.int().argmax(-1)[graph, partner] + 1
        joined = known.together[graph, node, partner]
        return cls(
            scores=scores,
            fits=known.possible[graph, node, partner],
            others=known.others[graph, node, partner],
            kinds=kinds,
            fresh=~reached[graph, partner],
            budget=known.whole[rows[0], 1:],
            own=torch.stack([places[rows], sizes[rows], mask.sum(1)[rows[0]]], -1),
            part=torch.where(joined, 0, part),
            places=places[graph, partner],
            sizes=sizes[graph, partner],
            taken=torch.zeros_like(joined),
            joined=joined,
            rings=rings,
        )

    def spread(self, real: Tensor) -> EdgeChoices:
        """Return the choices of nodes `real` (R,) bool, M of them; the others have none to make."""
        if real.all():
            return self
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, part in parts.items():
            if name not in ("rings", "number"):
                none = self.scores.shape[-1] if name == "kinds" else 0
                whole = part.new_full((len(real), *part.shape[1:]), none)
                parts[name] = whole.index_put((real.nonzero()[:, 0],), part)
        return EdgeChoices(**parts)

    def logits(self) -> Tensor:
        """Return the logits (M, N) of the next choice, -inf where impossible."""
        kind = self.kinds[:, self.number]
        at = kind.clamp(max=self.scores.shape[-1] - 1)[:, None, None]
        at = at.expand(*self.scores.shape[:-1], 1)
        own, fits = self.scores.gather(-1, at)[..., 0], self.fits.gather(-1, at)[..., 0]
        left = self.budget > 0
        within = torch.where(self.fresh, left[:, :1], left[:, 1:]) | ~self.rings[kind][:, None]
        allowed = ~self.taken & ~self._completing() & (kind < self.scores.shape[-1])[:, None]
        fits = fits & within & allowed
        possible = torch.where(fits.any(-1, keepdim=True), fits, self.others & allowed)
        return own.masked_fill(~possible, -math.inf)

    def _completing(self) -> Tensor:
        """Return whether a partner completes the part while nodes are outside, (M, N) bool."""
        left, size, nodes = self.own[..., None].unbind(1)
        left = left + self.places.masked_fill(self.joined, 0)
        size = size + self.sizes.masked_fill(self.joined, 0)
        return (left <= 2) & (size < nodes)

    def add(self, x: Tensor) -> EdgeChoices:
        """Return the choices after the next, x (M,): numbers of partners, N or more for none."""
        nodes = self.fresh.shape[-1]
        here = F.one_hot(x.clamp(max=nodes), nodes + 1)[..., :-1].bool()
        any_, new = here.any(-1), here & ~self.joined
        ring = self.rings[self.kinds[:, self.number]] & any_
        fresh = (here & self.fresh).any(-1)
        left, size, all_nodes = self.own.unbind(-1)
        left = left + (self.places * new).sum(-1) - 2 * any_.long()
        size = size + (self.sizes * new).sum(-1)
        return replace(
            self,
            budget=self.budget - torch.stack([ring & fresh, ring & ~fresh], -1).long(),
            own=torch.stack([left, size, all_nodes], -1),
            taken=self.taken | here,
            joined=self.joined | (self.part == (self.part * here).sum(-1, keepdim=True)),
            number=self.number + 1,
        )
