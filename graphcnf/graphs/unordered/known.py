"""State of a partly decided graph: free places, parts, distances and support.

What is impossible for a pair has probability 0 in the density, which stays normalised:

- an edge of a kind that one of its nodes has no place left for;
- an edge that is in no ring, between two nodes that are connected already;
- an edge of a ring, between two nodes that only edges outside of rings connect: those would be in a
  ring, too; or between nodes so near that the ring would be smaller than the edge's;
- an edge of a ring that connects two parts, where the edges in no ring are as many as it takes to
  connect all parts; or that closes a ring, where all edges are needed to connect parts;
- an edge that would complete a part of the graph while nodes are outside of it;
- no edge, where a node has as many places as open pairs to fill them, or where the last open pair
  leads out of a part.

No graph is excluded by that. It is no look ahead either: a sample may come to places that nothing
fits. Such a place may take a place of another kind in another part (`EdgeChoices.logits`), which
never happens in a graph that exists: its probability stays as it is. Where there is no place of any
kind, a sample ends in several parts. Nothing is drawn twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from graphcnf.graphs.unordered.label_network import exactly
from graphcnf.graphs.unordered.labels import NodeLabels

FAR = 10
"""Largest distance that is told apart."""


@dataclass
class Known:
    """State of B partly decided graphs with N nodes and K kinds of edges.

    Attributes:
        open: Places left at each node for each kind, (B, N, K) long.
        candidates: Open pairs that could fill them, (B, N, K) long.
        parts: Of the part that a node belongs to: its nodes, its places in no ring, its places in
            rings, the open pairs that lead out of it; and the nodes and places of what edges of
            rings connect the node with, (B, N, 6) long.
        whole: Of the graph: its parts, the edges of rings that must still connect parts, and those
            that must close a ring, (B, 3) long.
        distance: Steps between two nodes, 0 for none, `FAR` + 1 for more, (B, N, N) long.
        together: Whether two nodes are of the same part, (B, N, N) bool.
        in_ring: Whether edges of rings connect two nodes, (B, N, N) bool.
        possible: Kinds that are possible for an open pair, (B, N, N, K) bool.
        needed: Whether an open pair must be an edge, (B, N, N) bool.
        others: Open pairs of two parts with places of any kind, (B, N, N) bool.
    """

    open: Tensor
    candidates: Tensor
    parts: Tensor
    whole: Tensor
    distance: Tensor
    together: Tensor
    in_ring: Tensor
    possible: Tensor
    needed: Tensor
    others: Tensor


@torch.autocast("cpu", enabled=False)
@torch.no_grad()
def known_of(
    table: NodeLabels,
    free: Tensor,
    mask: Tensor,
    kinds: Tensor,
    decided: Tensor,
) -> Known:
    """Look at partly decided graphs.

    Args:
        table: Meaning of the labels.
        free: Places left at each node for each kind, (B, N, K) long.
        mask: Real nodes, (B, N) bool.
        kinds: 1 + kind of each edge, 0 for none, (B, N, N) long; looked at where `decided`.
        decided: Pairs that are decided, (B, N, N) bool, symmetric.
    """
    itself = torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
    shown = torch.where(decided & ~itself, kinds, 0)
    outside = F.pad(table.bridges, (1, 0))[shown]
    distance, together = _distances(shown > 0, itself)
    in_ring = _connected(((shown > 0) & ~outside).float() + itself)

    chains, rings = free[..., table.bridges].sum(-1), free[..., ~table.bridges].sum(-1)
    size = (together & mask[:, None]).sum(2)
    count = (mask / size.clamp(min=1)).sum(1).round().long()
    connecting = count - 1 - chains.sum(1) // 2
    closing = rings.sum(1) // 2 - connecting

    undecided = ~decided & ~itself & mask[:, :, None] & mask[:, None, :]
    fits = (free > 0)[:, :, None] & (free > 0)[:, None] & undecided[..., None]
    near = in_ring[..., None] & (distance[..., None] + 1 >= table.sizes)
    near = near & (closing > 0)[:, None, None, None]
    apart = ~together[..., None] & (table.bridges | (connecting > 0)[:, None, None, None])
    fits = fits & (apart | (near & ~table.bridges))

    def joined(value: Tensor) -> Tensor:
        return value[:, :, None] + torch.where(together, 0, value[:, None])

    of_chains, of_rings = _sums(together, chains), _sums(together, rings)
    complete = (joined(of_chains + of_rings) <= 2) & (joined(size) < mask.sum(1)[:, None, None])
    fits = fits & ~complete[..., None]

    candidates = fits.sum(2)
    short = (free >= candidates) & (free > 0)
    demanded = fits & (short[:, :, None] | short[:, None])
    leaves = fits.any(-1) & ~together
    exits = _sums(together, leaves.sum(2))
    last = (exits == 1) & (size < mask.sum(1, keepdim=True))
    demanded = demanded | (fits & (leaves & (last[:, :, None] | last[:, None]))[..., None])
    needed = demanded.any(-1)
    anywhere = (free > 0).any(-1)
    others = undecided & ~together & anywhere[:, :, None] & anywhere[:, None]
    around = (in_ring & mask[:, None]).sum(2)
    parts = [size, of_chains, of_rings, exits, around, _sums(in_ring, rings)]
    return Known(
        open=free,
        candidates=candidates,
        parts=torch.stack(parts, -1),
        whole=torch.stack([count, connecting, closing], -1),
        distance=distance,
        together=together,
        in_ring=in_ring,
        possible=torch.where(needed[..., None], demanded, fits),
        needed=needed,
        others=others,
    )


def _sums(together: Tensor, value: Tensor) -> Tensor:
    """Return sums of integers (B, N) over the nodes of the same part, (B, N) long."""
    return exactly(together.long(), value[..., None])[..., 0]


def _distances(adjacency: Tensor, itself: Tensor) -> tuple[Tensor, Tensor]:
    """Distances as in `Known`, and whether two nodes are connected, (B, N, N) bool."""
    steps = adjacency.float()
    reached = itself.float().expand_as(steps)
    distance = torch.zeros_like(adjacency, dtype=torch.long)
    for length in range(1, FAR + 1):
        further = (reached @ steps > 0) | (reached > 0)
        distance = torch.where(further & (reached == 0), length, distance)
        reached = further.float()
    together = _connected(reached, FAR)
    return torch.where(together & (distance == 0) & ~itself, FAR + 1, distance), together


def _connected(reached: Tensor, covered: int = 1) -> Tensor:
    """Closure of what is reached in up to `covered` steps, itself included, (B, N, N) bool."""
    while covered < reached.shape[1] - 1:
        reached = (reached @ reached > 0).float()
        covered *= 2
    return reached > 0
