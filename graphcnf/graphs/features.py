"""What a network may know of a graph whose structure is given: node and pair features.

Nothing here is chemistry: degrees, random walks, distances, and counts of edge categories.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_DEGREE = 6
MAX_COUNT = 4
WALK_LENGTHS = 8
MAX_DISTANCE = 6
EDGE_RELATIONS = 6


@dataclass
class GraphContext:
    """Context of a step's networks.

    Attributes:
        mask: Real nodes, (B, N) bool.
        node_features: (B, N, F) or None.
        pair_features: (B, N, N, P) or None; entry [i, j] is what node i knows of node j.
        adjacency: Edges as far as they are known, (B, N, N) bool or None.
        bonds: Edge categories plus 1 as far as they are known, (B, N, N) long or None.
        groups: Round in which a node's variables are decided, (B, N) long or None.
        evidence: What follows for the nodes `members` (B, M) from the categories (B, N, V) of
            earlier rounds, (B, M, E), or None.
    """

    mask: Tensor
    node_features: Tensor | None = None
    pair_features: Tensor | None = None
    adjacency: Tensor | None = None
    bonds: Tensor | None = None
    groups: Tensor | None = None
    evidence: Callable[[Tensor, Tensor | None], Tensor] | None = None


def structure_node_features() -> int:
    """Channels of the node features of a graph without types."""
    return MAX_DEGREE + 1 + WALK_LENGTHS


def structure_pair_features() -> int:
    """Channels of the pair features of a graph without types."""
    return MAX_DISTANCE + 2


def walk_features(adjacency: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Node features (B, N, F) of the connectivity (B, N, N) bool, whatever the nodes' numbers.

    One-hot degree (capped at 6), and the probabilities that a random walk returns after 1 to 8
    steps (Dwivedi et al. 2022, arXiv 2110.07875), which tell ring membership and size.
    """
    a = adjacency.to(dtype)
    degree = a.sum(-1)
    walk = a / degree.clamp(min=1)[..., None]
    returns, power = [], walk
    for _ in range(WALK_LENGTHS):
        returns.append(power.diagonal(dim1=1, dim2=2))
        power = power @ walk
    degrees = F.one_hot(degree.long().clamp(max=MAX_DEGREE), MAX_DEGREE + 1).to(dtype)
    return torch.cat([degrees, 2 * torch.stack(returns, -1)], -1)


def structure_context(
    adjacency: Tensor, mask: Tensor, dtype: torch.dtype = torch.float32
) -> GraphContext:
    """Features of the connectivity (B, N, N) bool.

    Node features: those of `walk_features`. Pair features: one-hot distance (1 to 6, farther; all 0
    for i = j), and on edges whether j is numbered before i.
    """
    node = walk_features(adjacency, dtype)
    a = adjacency.to(dtype)
    nodes = mask.shape[1]
    eye = torch.eye(nodes, device=mask.device, dtype=dtype)
    near = (a + eye).clamp(max=1)
    reached, shells = near, []
    distance_zero = eye.expand_as(a)
    previous = distance_zero
    for _ in range(MAX_DISTANCE):
        shells.append(reached - previous)
        previous, reached = reached, ((reached @ near) > 0).to(dtype)
    shells.append(1 - previous)
    before = a * torch.ones_like(eye).tril(-1)
    pair = torch.stack([*shells, before], -1)
    return GraphContext(mask, node, pair, adjacency=adjacency)


def typed_context(
    bonds: Tensor, mask: Tensor, categories: int, dtype: torch.dtype = torch.float32
) -> GraphContext:
    """Features of a graph whose edge categories are known, bonds (B, N, N) long.

    Besides those of `structure_context`: for every edge category the one-hot count of such edges
    at a node (capped at 4), and the one-hot category of a pair's edge.
    """
    context = structure_context(bonds > 0, mask, dtype)
    kinds = F.one_hot(bonds, categories + 1)[..., 1:]
    counts = F.one_hot(kinds.sum(2).clamp(max=MAX_COUNT), MAX_COUNT + 1).flatten(2).to(dtype)
    return GraphContext(
        mask,
        torch.cat([context.node_features, counts], -1),
        torch.cat([context.pair_features, kinds.to(dtype)], -1),
        adjacency=context.adjacency,
        bonds=bonds,
    )


def edge_relations(targets: Tensor) -> Tensor:
    """How the edges that two nodes own touch each other, (B, N, N, 6).

    A node owns the edges to its earlier neighbours, `targets` (B, N, K), -1 for none. Channels:
    j is i's parent (first target), j's parent is i, j is another target of i, i is another target
    of j, i and j have the same parent, their edges share an atom in any other way.
    """
    parent = bonds_mask(targets[..., :1])
    other = bonds_mask(targets[..., 1:])
    siblings = parent @ parent.transpose(1, 2)
    eye = torch.eye(targets.shape[1], device=targets.device, dtype=parent.dtype)
    touched = parent + other + eye
    share = ((touched @ touched.transpose(1, 2)) > 0).to(parent.dtype)
    rest = share - parent - parent.transpose(1, 2) - other - other.transpose(1, 2) - siblings
    return torch.stack(
        [
            parent,
            parent.transpose(1, 2),
            other,
            other.transpose(1, 2),
            siblings * (1 - eye),
            rest.clamp(min=0) * (1 - eye),
        ],
        -1,
    )


def bonds_mask(targets: Tensor) -> Tensor:
    """(B, N, N), 1 where j is a target of i; `targets` (B, N, K), -1 for none."""
    batch, nodes, _ = targets.shape
    out = torch.zeros(batch, nodes, nodes + 1, device=targets.device, dtype=torch.float32)
    return out.scatter(2, torch.where(targets < 0, nodes, targets), 1.0)[..., :nodes]


class BondEvidence:
    """Edge categories that earlier rounds have put on the atoms of a node's own edges.

    Args:
        targets: Earlier neighbours, (B, N, K) long, -1 for none.
        groups: Round of each node, (B, N) long.
        categories: Number of edge categories.
    """

    def __init__(self, targets: Tensor, groups: Tensor, categories: int):
        batch, nodes, variables = targets.shape
        self.categories = categories
        self.targets = targets
        rows = torch.arange(batch, device=targets.device)[:, None, None]
        self.rows = rows
        itself = torch.arange(nodes, device=targets.device).expand(batch, -1)[..., None]
        atoms = torch.cat([itself, targets], -1)
        self.present = atoms >= 0
        self.atoms = atoms.clamp(min=0)
        # An edge is decided together with the later of its two nodes.
        number = torch.arange(nodes, device=targets.device)
        owner = torch.maximum(number[:, None], number)
        edge_round = groups[:, owner]
        linked = bonds_mask(targets) > 0
        linked = linked | linked.transpose(1, 2)
        at_atoms = linked[rows, self.atoms] & self.present[..., None]
        self.earlier = at_atoms & (edge_round[rows, self.atoms] < groups[:, :, None, None])
        open_edges = (at_atoms & ~self.earlier).sum(-1)
        self.open = F.one_hot(open_edges.clamp(max=MAX_COUNT), MAX_COUNT + 1)

    @staticmethod
    def channels(variables: int, categories: int) -> int:
        """Number of channels for K variables per node."""
        return (variables + 1) * (categories + 1) * (MAX_COUNT + 1)

    def __call__(self, x: Tensor, members: Tensor | None = None) -> Tensor:
        """One-hot counts for categories x (B, N, K), at `members` (B, M); (B, M, channels)."""
        batch, nodes, _ = x.shape
        value = torch.where(self.targets < 0, 0, x + 1)
        placed = torch.zeros(batch, nodes, nodes + 1, dtype=torch.long, device=x.device)
        placed.scatter_(2, torch.where(self.targets < 0, nodes, self.targets), value)
        placed = placed[..., :nodes]
        placed = placed + placed.transpose(1, 2)
        own = [self.atoms, self.earlier, self.open, self.present]
        if members is not None:
            own = [part[self.rows[..., 0], members] for part in own]
        atoms, earlier, open_edges, present = own
        seen = torch.where(earlier, placed[self.rows, atoms], 0)
        counts = torch.stack([(seen == c + 1).sum(-1) for c in range(self.categories)], -1)
        counts = F.one_hot(counts.clamp(max=MAX_COUNT), MAX_COUNT + 1)
        both = torch.cat([counts.flatten(-2), open_edges], -1) * present[..., None]
        return both.flatten(2).float()


def spread_groups(adjacency: Tensor, mask: Tensor, groups: int) -> Tensor:
    """Deal the nodes of each graph into groups whose members lie far apart.

    A greedy colouring in node order: a node joins the group to whose members it is least close,
    closeness falling by a factor of about 8 with every edge of distance. So what is decided in one
    round has few neighbours in common. Neighbours never share a group where degrees are at most 3
    and there are 4 groups, or degrees at most 4 and 7 groups; of the nodes at distance 2 in
    ZINC250k, 0.3 % share one of 8 groups and none one of 12.

    Args:
        adjacency: (B, N, N) bool.
        mask: (B, N) bool.
        groups: Number of groups.

    Returns:
        (B, N) long.
    """
    batch, nodes = mask.shape
    near = (adjacency | torch.eye(nodes, dtype=torch.bool, device=mask.device)).float()
    reached, closeness = near, near
    for _ in range(3):
        reached = ((reached @ near) > 0).float()
        closeness = reached + 8 * closeness
    # Ties, as at the first node, go to the lowest group.
    load = near.new_zeros(batch, groups, nodes)
    group = torch.zeros(batch, nodes, dtype=torch.long, device=mask.device)
    rows = torch.arange(batch, device=mask.device)
    for i in range(nodes):
        group[:, i] = load[:, :, i].argmin(1)
        load[rows, group[:, i]] += closeness[:, i]
    return group
