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
        number = torch.arange(mask.shape[1], device=mask.device)
        # With a round of its own for every node nothing is guessed, and one walk serves all nodes.
        self.sequential = bool((groups == number).all())
        self.walked: tuple[Tensor, _Path] | None = None

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
        batch, nodes, _ = x.shape
        absent = torch.tensor(self.cardinalities, device=x.device)
        codes = torch.where(x >= absent, 0, x)
        if members is None:
            members = torch.arange(nodes, device=x.device).expand(batch, -1)
            if self.sequential:
                return self._features(self._walk_once(codes), members, None)
        elif self.sequential and members.shape[1] == 1:
            return self._features(self._walk_on(codes, int(members.max())), members, None)
        known = self.groups[:, None, :] < self.groups.gather(1, members)[..., None]
        known = (known & self.mask[:, None, :]).flatten(0, 1)
        node = members.flatten()
        code = codes.repeat_interleave(members.shape[1], 0)
        code = torch.where(known[..., None], code, 0)
        path = _Path(len(node), nodes, x.device)
        for j in range(1, int(node.max()) if len(node) else 0):
            path.add(code[:, j], j < node)
        return self._features(path, members, known)

    def _walk_once(self, codes: Tensor) -> _Path:
        """The path before each node, as rows (B * N)."""
        batch, nodes, _ = codes.shape
        path, before = _Path(batch, nodes, codes.device), []
        for j in range(nodes):
            before.append((path.depth, path.degree.clone(), path.ring))
            if j:
                path.add(codes[:, j])
        rows = _Path(0, nodes, codes.device)
        parts = zip(*before, strict=True)
        rows.depth, rows.degree, rows.ring = (torch.stack(p, 1).flatten(0, 1) for p in parts)
        return rows

    def _walk_on(self, codes: Tensor, node: int) -> _Path:
        """The path before one node, from where the walk of the round before ended."""
        walked, path = self.walked or (codes[:, :0], None)
        done = walked.shape[1]
        if path is None or done > node or not torch.equal(walked, codes[:, :done]):
            done, path = 0, _Path(len(codes), codes.shape[1], codes.device)
        for j in range(max(done, 1), node):
            path.add(codes[:, j])
        self.walked = codes[:, :node], path
        return path

    def _features(self, path: _Path, members: Tensor, known: Tensor | None) -> Tensor:
        nodes, node = self.mask.shape[1], members.flatten()
        depth = path.depth
        back = depth[:, None] - torch.arange(LEVELS, device=depth.device)
        exists = (back >= 0) & (node > 0)[:, None]
        back = back.clamp(min=0)
        degree, ring = path.degree.gather(1, back), path.ring.gather(1, back)
        degrees = F.one_hot(degree.clamp(max=MAX_DEGREE), MAX_DEGREE + 1)
        along = torch.cat([degrees, ring[..., None]], -1) * exists[..., None]
        guessed = torch.zeros_like(depth)
        if known is not None:
            before = torch.arange(nodes, device=depth.device) < node[:, None]
            guessed = (before & ~known).sum(1) - (node > 0) * (~known[:, 0]).long()
        scalars = torch.stack([depth / 16, guessed / 8], -1)
        features = torch.cat([along.flatten(1), scalars], -1).float()
        return features.unflatten(0, members.shape)


class _Path:
    """R depth-first paths: number of the last level, and degree and ring membership by level."""

    def __init__(self, rows: int, nodes: int, device: torch.device):
        self.every = torch.arange(rows, device=device)
        self.level = torch.arange(nodes + 1, device=device)
        self.depth = torch.zeros(rows, dtype=torch.long, device=device)
        # Level 0 is the first node; one level more than needed takes what is not to be written.
        self.degree = torch.zeros(rows, nodes + 1, dtype=torch.long, device=device)
        self.ring = torch.zeros(rows, nodes + 1, dtype=torch.bool, device=device)

    def add(self, code: Tensor, here: Tensor | None = None) -> None:
        """Add a node with this code (R, K), in the rows `here` (R,)."""
        every, waste = self.every, len(self.level) - 1
        parent = self.depth - code[:, 0].minimum(self.depth)
        at = parent + 1
        if here is not None:
            self.depth = torch.where(here, at, self.depth)
            parent, at = torch.where(here, parent, waste), torch.where(here, at, waste)
        else:
            self.depth = at
        self.degree[every, parent] += 1
        self.degree[every, at] = 1
        self.ring = self.ring & (self.level != at[:, None])
        for k in range(1, code.shape[1]):
            length = code[:, k]
            closes = (length > 1) & (length <= self.depth)
            if here is not None:
                closes = closes & here
            if not closes.any():
                break
            far = self.depth - length
            self.degree[every, torch.where(closes, self.depth, waste)] += 1
            self.degree[every, torch.where(closes, far, waste)] += 1
            on = (self.level > far[:, None]) & (self.level <= self.depth[:, None])
            self.ring = self.ring | (on & closes[:, None])
