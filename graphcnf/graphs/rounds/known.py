"""What is known of a graph when some of its pairs are decided: places, parts, distances, support.

What is impossible for a pair has probability 0 in the density, which stays normalised:

- an edge of a kind that one of its nodes has no place left for,
- an edge that is in no ring, between two nodes that are connected already,
- an edge that would complete a part of the graph while nodes are outside of it,
- no edge, where a node has as many places as open pairs to fill them, or where the last open pair
  leads out of a part.

The last is no certainty for what comes later, and conflicting demands leave everything possible: a
graph may still end with open places or in several parts. Nothing is drawn twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from graphcnf.graphs.rounds.labels import NodeLabels

FAR = 10
"""Largest distance that is told apart."""


@dataclass
class Known:
    """Of B graphs with N nodes and K kinds of edges.

    Attributes:
        open: Places left at each node for each kind, (B, N, K) long.
        candidates: Open pairs that could fill them, (B, N, K) long.
        size: Nodes of the part that a node belongs to, (B, N) long.
        places: Places left in that part, (B, N) long.
        exits: Open pairs that lead out of it, counted at all its nodes, (B, N) long.
        distance: Steps between two nodes, 0 for none, `FAR` + 1 for more, (B, N, N) long.
        possible: Kinds that are possible for an open pair, (B, N, N, K) bool.
        needed: Whether an open pair must be an edge, (B, N, N) bool.
    """

    open: Tensor
    candidates: Tensor
    size: Tensor
    places: Tensor
    exits: Tensor
    distance: Tensor
    possible: Tensor
    needed: Tensor


@torch.autocast("cpu", enabled=False)
@torch.no_grad()
def known_of(
    table: NodeLabels, labels: Tensor, mask: Tensor, kinds: Tensor, decided: Tensor
) -> Known:
    """Look at partly decided graphs.

    Args:
        table: Meaning of the labels.
        labels: (B, N) long.
        mask: Real nodes, (B, N) bool.
        kinds: 1 + kind of each edge, 0 for none, (B, N, N) long; looked at where `decided`.
        decided: Pairs that are decided, (B, N, N) bool, symmetric.
    """
    itself = torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
    shown = torch.where(decided & ~itself, kinds, 0)
    steps = torch.arange(1, len(table.kinds) + 1, device=mask.device)
    free = table.ends[labels] - (shown[..., None] == steps).sum(2)
    distance, together = _distances(shown > 0, itself)
    waiting = ~decided & ~itself & mask[:, :, None] & mask[:, None, :]
    fits = (free > 0)[:, :, None] & (free > 0)[:, None] & waiting[..., None]
    fits = fits & ~(together[..., None] & table.bridges)
    inside = together.float()
    places = (inside @ free.sum(-1, keepdim=True).float())[..., 0]
    size = (together & mask[:, None]).sum(2)

    def joined(value: Tensor) -> Tensor:
        both = value[:, :, None] + value[:, None]
        return torch.where(together, value[:, :, None], both)

    complete = (joined(places) <= 2) & (joined(size) < mask.sum(1)[:, None, None])
    fits = fits & ~complete[..., None]
    candidates = fits.sum(2)
    short = (free >= candidates) & (free > 0)
    demanded = fits & (short[:, :, None] | short[:, None])
    leaves = fits.any(-1) & ~together
    exits = (inside @ leaves.sum(2, keepdim=True).float())[..., 0]
    last = (exits == 1) & (size < mask.sum(1, keepdim=True))
    demanded = demanded | (fits & (leaves & (last[:, :, None] | last[:, None]))[..., None])
    needed = demanded.any(-1)
    possible = torch.where(needed[..., None], demanded, fits)
    return Known(
        free, candidates, size, places.long(), exits.long(), distance, possible, needed
    )  # fmt: skip


def _distances(adjacency: Tensor, itself: Tensor) -> tuple[Tensor, Tensor]:
    """Distances as in `Known`, and whether two nodes are connected, (B, N, N) bool."""
    steps = adjacency.float()
    reached = itself.float().expand_as(steps)
    distance = torch.zeros_like(adjacency, dtype=torch.long)
    for length in range(1, FAR + 1):
        further = (reached @ steps > 0) | (reached > 0)
        distance = torch.where(further & (reached == 0), length, distance)
        reached = further.float()
    covered = FAR
    while covered < adjacency.shape[1] - 1:
        reached = (reached @ reached > 0).float()
        covered *= 2
    together = reached > 0
    return torch.where(together & (distance == 0) & ~itself, FAR + 1, distance), together
