"""Connectivity as categories of nodes: offsets measured along the depth-first path.

In a depth-first numbering the neighbours that a node has among the earlier nodes all lie on the
path from the first node to it. A node is therefore known by how many levels the path steps back
before it continues with this node (0: child of the node before), and by the lengths of the edges
that lead from the node further up the path (a ring of size s is closed by length s - 1, whatever
branches its nodes carry). This is the offset coding of an ordered graph with distances counted in
levels of the path instead of node numbers, which makes a ring of one size one category.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class NodeCode:
    """Connectivity of a batch of depth-first numbered graphs.

    Attributes:
        codes: (B, N, K) long. Entry 0: levels stepped back; entries 1 to K-1: lengths of the
            closures, increasing, 0 for none. All 0 for the first node and for padding.
        targets: The neighbour that each entry stands for, (B, N, K) long, -1 for none.
    """

    codes: Tensor
    targets: Tensor


class PathCode:
    """Bijection between connected depth-first numbered graphs and K categories per node.

    Args:
        back: Number of categories of the first entry: the path steps back 0 to back - 1 levels.
        closures: Longest closure, for each of the K - 1 possible closures of a node.
    """

    def __init__(self, back: int, closures: list[int]):
        self.cardinalities = [back, *(length + 1 for length in closures)]

    @property
    def variables(self) -> int:
        """Number K of categories per node."""
        return len(self.cardinalities)

    @staticmethod
    def encode(adjacency: Tensor, mask: Tensor, variables: int) -> NodeCode:
        """Code of depth-first numbered graphs.

        Args:
            adjacency: (B, N, N) bool, symmetric.
            mask: (B, N) bool.
            variables: K.

        Raises:
            ValueError: if a graph is not connected, not numbered depth-first, or has a node with
                more than K earlier neighbours.
        """
        batch, nodes = mask.shape
        device = mask.device
        earlier = adjacency & torch.ones(nodes, nodes, dtype=torch.bool, device=device).tril(-1)
        number = torch.arange(nodes, device=device)
        parent = torch.where(earlier, number, -1).amax(-1) if nodes else number.new_empty(batch, 0)
        if (parent[:, 1:] < 0)[mask[:, 1:]].any():
            raise ValueError("a graph is not connected, or a node has no earlier neighbour")
        if (earlier.sum(-1) > variables).any():
            raise ValueError(f"a node has more than {variables} earlier neighbours")
        depth = torch.zeros(batch, nodes, dtype=torch.long, device=device)
        ancestor = torch.zeros(batch, nodes, nodes, dtype=torch.bool, device=device)
        rows = torch.arange(batch, device=device)
        for i in range(1, nodes):
            above = parent[:, i].clamp(min=0)
            depth[:, i] = depth[rows, above] + 1
            ancestor[:, i] = ancestor[rows, above]
            ancestor[rows, i, above] = True
        # The parent is the node before, or the path has not left it yet.
        above = parent[:, 1:].clamp(min=0)
        on_path = ancestor[:, :-1].gather(2, above[..., None])[..., 0] | (above == number[:-1])
        if (earlier & ~ancestor).any() or (~on_path & mask[:, 1:]).any():
            raise ValueError("a graph is not numbered depth-first: an edge leads off the path")
        # Levels are distinct along a path, so sorting by level sorts the neighbours.
        level = depth[:, :, None] - depth[:, None, :]
        level = torch.where(earlier, level, nodes + 1)
        if nodes < variables:
            level = torch.nn.functional.pad(level, (0, variables - nodes), value=nodes + 1)
        lengths, targets = level.topk(variables, dim=-1, largest=False)
        absent = lengths > nodes
        codes = torch.where(absent, 0, lengths)
        before = torch.cat([depth[:, :1], depth[:, :-1]], 1)
        codes[..., 0] = before - depth + 1
        codes[:, :1] = 0
        keep = mask[..., None]
        return NodeCode(torch.where(keep, codes, 0), torch.where(absent | ~keep, -1, targets))

    @staticmethod
    def decode(codes: Tensor, mask: Tensor) -> NodeCode:
        """Neighbours that the codes (B, N, K) stand for.

        Codes that step back or reach beyond the first node, and closures that are shorter than 2
        or do not increase, stand for no graph of their own: steps are cut off at the first node,
        such closures left out. The result holds the code of the graph that comes out.
        """
        batch, nodes, variables = codes.shape
        device = codes.device
        rows = torch.arange(batch, device=device)
        targets = torch.full_like(codes, -1)
        path = torch.zeros(batch, nodes + 1, dtype=torch.long, device=device)
        depth = torch.zeros(batch, dtype=torch.long, device=device)
        codes = codes.clone()
        codes[:, :1] = 0
        for i in range(1, nodes):
            back = codes[:, i, 0].minimum(depth)
            codes[:, i, 0] = back
            depth = depth - back + 1
            targets[:, i, 0] = path[rows, depth - 1]
            path[rows, depth] = i
            if variables > 1:
                length = codes[:, i, 1:]
                longest = torch.cummax(length, 1).values
                rises = torch.cat([torch.ones_like(back[:, None]), longest[:, :-1].clamp(min=1)], 1)
                fits = (length > rises) & (length <= depth[:, None])
                codes[:, i, 1:] = torch.where(fits, length, 0)
                up = path.gather(1, (depth[:, None] - length).clamp(min=0))
                targets[:, i, 1:] = torch.where(fits, up, -1)
        keep = mask[..., None]
        codes = torch.where(keep, codes, 0)
        # A closure may have been left out before a kept one: kept ones move to the front.
        tail = torch.where(codes[..., 1:] > 0, codes[..., 1:], 2 * nodes)
        order = tail.argsort(stable=True, dim=-1)
        codes = torch.cat([codes[..., :1], codes[..., 1:].gather(-1, order)], -1)
        targets = torch.cat([targets[..., :1], targets[..., 1:].gather(-1, order)], -1)
        return NodeCode(codes, torch.where(keep, targets, -1))

    def allowed(self, variable: int, previous: Tensor, positions: Tensor) -> Tensor | None:
        """Categories that are possible for one variable, given the node's earlier variables.

        Args:
            variable: Index k of the variable.
            previous: Categories of the variables before it, (B, M, k) long.
            positions: Node numbers, (B, M) long.

        Returns:
            (B, M, cardinality) bool. The path is at most as deep as the node's number; steps back
            at earlier nodes make it shorter, so not every code that passes stands for a graph.
        """
        value = torch.arange(self.cardinalities[variable], device=previous.device)
        if variable == 0:
            return value <= (positions - 1).clamp(min=0)[..., None]
        deepest = (positions - previous[..., 0])[..., None]
        fits = (value >= 2) & (value <= deepest)
        if variable > 1:
            last = previous[..., -1:]
            fits = fits & (value > last) & (last > 0)
        return fits | (value == 0)


def bonds_from_targets(targets: Tensor, values: Tensor) -> Tensor:
    """Symmetric (B, N, N) long matrix with `values` (B, N, K) at the pairs (node, target)."""
    batch, nodes, _ = targets.shape
    present = targets >= 0
    lower = torch.zeros(batch, nodes, nodes + 1, dtype=torch.long, device=targets.device)
    lower.scatter_(2, torch.where(present, targets, nodes), torch.where(present, values, 0))
    lower = lower[..., :nodes]
    return lower + lower.transpose(1, 2)
