"""What follows from giving a node a colour: message passing over what has no colour yet."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Prospects(nn.Module):
    """Scores of the colours that are left to a node, each from a look ahead as if it were taken.

    For one colour after the other the node is said to have it. Then every node without a colour
    keeps a state for every colour, which starts with whether a neighbour has that colour, and the
    states are passed along the edges between such nodes for some rounds, all with the same weights:
    what a colour forces upon the neighbours, what that forces upon theirs, and so on. Nodes that
    have their colour are not needed beside which colours they leave to the others.

    Colours are treated alike: permuting them permutes the scores. In training, memory grows with
    the graphs, the colours left to each asked node, the nodes that wait and the colours.

    Args:
        features: Channels of what is known of a node beforehand.
        width: Channels of a state.
        rounds: How often states are passed on. A score depends on the states of the node and on the
            largest one anywhere; each of them on what is so many edges around it.
    """

    def __init__(self, features: int, width: int, rounds: int):
        super().__init__()
        self.rounds = rounds
        self.enter = nn.Linear(features, width)
        # Whether a neighbour has the colour; whether the node is the asked one.
        self.marks = nn.Linear(2, width, bias=False)
        self.norm = nn.LayerNorm(width)
        # Of one colour, and of all of them together.
        self.tell_one, self.tell_all = nn.Linear(width, width), nn.Linear(width, width)
        self.hear_one, self.hear_all = nn.Linear(2 * width, width), nn.Linear(2 * width, width)
        self.out = nn.Linear(width, width)
        self.leave = nn.Sequential(nn.Linear(3 * width, width), nn.GELU(), nn.Linear(width, 1))

    def forward(
        self, adjacency: Tensor, blocked: Tensor, waiting: Tensor, h: Tensor, asked: Tensor
    ) -> Tensor:
        """Scores (D, K) of the colours of one node in each of D graphs, 0 of those blocked to it.

        Args:
            adjacency: (D, M, M) bool.
            blocked: Colours that a neighbour has, (D, M, K) bool.
            waiting: Nodes without a colour, (D, M) bool, among them the asked one.
            h: What is known of the nodes, (D, M, features).
            asked: Number of the node, (D,) long.
        """
        colors = blocked.shape[-1]
        rows = torch.arange(len(asked), device=asked.device)
        row, color = (~blocked[rows, asked]).nonzero(as_tuple=True)
        cases = torch.arange(len(row), device=row.device)
        node = asked[row]
        blocked = blocked[row]
        blocked[cases, node] = ~F.one_hot(color, colors).bool()
        chosen = torch.zeros_like(blocked)
        chosen[cases, node] = True
        marks = torch.stack([blocked, chosen], -1).to(h.dtype)
        s = self.enter(h)[row].unsqueeze(2) + self.marks(marks)
        open_ = waiting[row]
        links = (adjacency & waiting[:, :, None] & waiting[:, None, :]).to(h.dtype)[row]
        here = open_[..., None, None].to(h.dtype)
        for _ in range(self.rounds):
            own = self.norm(s) * here
            told = F.gelu(self.tell_one(own) + self.tell_all(own.sum(2, keepdim=True)))
            near = (links @ told.flatten(2)).view_as(own)
            both = torch.cat([own, near], -1)
            heard = F.gelu(self.hear_one(both) + self.hear_all(both.sum(2, keepdim=True)))
            s = s + self.out(heard)
        s = self.norm(s) * here
        # A contradiction shows wherever it is.
        far = s.masked_fill(~open_[..., None, None], -torch.inf).amax((1, 2))
        near = s[cases, node]
        found = self.leave(torch.cat([near[cases, color], near.sum(1), far], -1))[:, 0].to(h.dtype)
        return h.new_zeros(len(asked), colors).index_put((row, color), found)
