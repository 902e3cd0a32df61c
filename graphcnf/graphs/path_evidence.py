"""What the path codes of earlier rounds say about the path that a node continues."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

LEVELS = 16
MAX_DEGREE = 5


class PathEvidence:
    """Degrees and rings along the path up to the node before, as far as they are known.

    A node steps back along the path and closes rings to nodes on it. How many edges these nodes
    have already, and which edges lie on a ring, follows from the codes of all nodes before. Of
    those that are decided in the same or later rounds it is assumed that they continue the path
    (the most frequent code); their number is a feature.

    Args:
        groups: Round of each node, (B, N) long.
        mask: Real nodes, (B, N) bool.
        cardinalities: Number of categories of each code.
    """

    def __init__(self, groups: Tensor, mask: Tensor, cardinalities: list[int]):
        self.groups, self.mask = groups, mask
        self.cardinalities = cardinalities

    @staticmethod
    def channels() -> int:
        """Number of channels."""
        return LEVELS * (MAX_DEGREE + 2) + 2

    def __call__(self, x: Tensor, members: Tensor | None = None) -> Tensor:
        """Features of the nodes `members` (B, M) (all when None) for codes x (B, N, K).

        Args:
            x: Codes, the number of categories where a node has none or is not decided yet.
            members: Node numbers.

        Returns:
            (B, M, channels).
        """
        batch, nodes, variables = x.shape
        device = x.device
        if members is None:
            members = torch.arange(nodes, device=device).expand(batch, -1)
        own_round = self.groups.gather(1, members)
        known = (self.groups[:, None, :] < own_round[..., None]) & self.mask[:, None, :]
        absent = torch.tensor(self.cardinalities, device=device)
        codes = torch.where(x >= absent, 0, x)
        rows = members.numel()
        node = members.flatten()
        known = known.flatten(0, 1)
        every = torch.arange(rows, device=device)
        code = codes.repeat_interleave(members.shape[1], 0)
        code = torch.where(known[..., None], code, 0)
        # Level 0 is the first node; one level more than needed takes what is not to be written.
        waste = nodes
        degree = torch.zeros(rows, nodes + 1, dtype=torch.long, device=device)
        ring = torch.zeros(rows, nodes + 1, dtype=torch.bool, device=device)
        level = torch.arange(nodes + 1, device=device)
        depth = torch.zeros(rows, dtype=torch.long, device=device)
        last = int(node.max()) if rows else 0
        for j in range(1, last):
            here = j < node
            parent = depth - code[:, j, 0].minimum(depth)
            depth = torch.where(here, parent + 1, depth)
            at = torch.where(here, depth, waste)
            degree[every, torch.where(here, parent, waste)] += 1
            degree[every, at] = 1
            ring[every, at] = False
            for k in range(1, variables):
                length = code[:, j, k]
                closes = here & (length > 1) & (length <= depth)
                if not closes.any():
                    break
                far = depth - length
                degree[every, torch.where(closes, depth, waste)] += 1
                degree[every, torch.where(closes, far, waste)] += 1
                on = (level > far[:, None]) & (level <= depth[:, None]) & closes[:, None]
                ring = ring | on
        back = depth[:, None] - torch.arange(LEVELS, device=device)
        exists = (back >= 0) & (node > 0)[:, None]
        back = back.clamp(min=0)
        degrees = F.one_hot(degree.gather(1, back).clamp(max=MAX_DEGREE), MAX_DEGREE + 1)
        along = torch.cat([degrees, ring.gather(1, back)[..., None]], -1) * exists[..., None]
        before = torch.arange(nodes, device=device) < node[:, None]
        guessed = (before & ~known).sum(1) - (node > 0) * (~known[:, 0]).long()
        scalars = torch.stack([depth / 16, guessed / 8], -1)
        features = torch.cat([along.flatten(1), scalars], -1).float()
        return features.unflatten(0, members.shape)
