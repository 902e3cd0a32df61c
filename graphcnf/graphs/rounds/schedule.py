"""In which round a node or a pair of nodes comes: random groups, the same number for every graph.

Nodes are numbered at random and cut into groups of like size. For the pairs, the nodes take random
slots, and the pairs of slots fall into rounds as in a tournament (the circle method): in a round
every node is part of at most one pair, so that what a round decides never concerns one node twice.
The order of the rounds is random, too. Both are latents with a uniform density, the same for
encoding and sampling, so they cost no bits and leave the model invariant to the order of nodes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from graphcnf.categorical.encoding import take
from graphcnf.flows.transform import Noise


@dataclass
class Schedule:
    """When the nodes and pairs of a batch come.

    Attributes:
        nodes: Round of each node, (B, N) long.
        pairs: Round of each pair of nodes, (B, N, N) long.
    """

    nodes: Tensor
    pairs: Tensor


class Tournament(nn.Module):
    """Makes schedules for graphs of up to `max_nodes` nodes.

    Args:
        max_nodes: Largest number of nodes.
        node_rounds: Rounds for the nodes.
    """

    def __init__(self, max_nodes: int, node_rounds: int):
        super().__init__()
        self.node_rounds = node_rounds
        slots = max(max_nodes + max_nodes % 2, 2)
        self.pair_rounds = slots - 1
        number = torch.arange(slots - 1)
        rounds = torch.zeros(slots, slots, dtype=torch.long)
        rounds[:-1, :-1] = (number[:, None] + number) % (slots - 1)
        # The last slot meets each other one in the round in which that one would meet itself.
        rounds[-1, :-1] = rounds[:-1, -1] = 2 * number % (slots - 1)
        self.register_buffer("rounds", rounds, persistent=False)

    def draw(self, mask: Tensor, noise: Noise | None = None) -> tuple[Tensor, Tensor]:
        """Uniform numbers that a schedule is made of: (B, N, 2) of the nodes, (B, pair rounds)."""
        kind = {"dtype": torch.float64, "device": mask.device}
        shape = len(mask), self.pair_rounds
        return (
            take(noise, lambda: torch.rand(*mask.shape, 2, **kind)),
            take(noise, lambda: torch.rand(shape, **kind)),
        )

    def schedule(self, mask: Tensor, of_nodes: Tensor, of_rounds: Tensor) -> Schedule:
        """The schedule for real nodes `mask` (B, N) that uniform numbers stand for; see `draw`."""
        ranks = of_nodes.masked_fill(~mask[..., None], 2.0).argsort(1).argsort(1)
        # Rounds of q + 1 nodes first, then those of q: the last ones decide as little as possible.
        sizes = mask.sum(1, keepdim=True)
        q, more = sizes // self.node_rounds, sizes % self.node_rounds
        late = (ranks[..., 0] - more * (q + 1)).clamp(min=0) // q.clamp(min=1)
        nodes = torch.where(ranks[..., 0] < more * (q + 1), ranks[..., 0] // (q + 1), more + late)
        nodes = nodes.clamp(max=self.node_rounds - 1)
        slot = ranks[..., 1]
        pairs = self.rounds[slot[:, :, None], slot[:, None]]
        place = of_rounds.argsort(1).argsort(1)
        pairs = place.gather(1, pairs.flatten(1)).view_as(pairs)
        return Schedule(nodes, pairs)
