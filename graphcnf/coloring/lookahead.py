"""Look-ahead scores of colours: message passing over the nodes that have no colour yet."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LookAhead(nn.Module):
    """Look-ahead score of every colour that is left to a node, as if the node had it.

    For one colour after the other the node is said to have it. Then every node without a colour
    keeps a state for every colour, which starts with whether a neighbour has that colour, and the
    states are passed along the edges between such nodes for some rounds, all with the same weights:
    what a colour forces upon the neighbours, what that forces upon theirs, and so on. Nodes that
    have their colour are not needed beside which colours they leave to the others.

    Colours are treated alike: permuting them permutes the scores. In training, memory grows with
    the graphs, the colours left to each node, the nodes that wait and the colours.

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
        # Whether a neighbour has the colour; whether the node is the one that is scored.
        self.marks = nn.Linear(2, width, bias=False)
        self.norm = nn.LayerNorm(width)
        # Of one colour, and of all of them together.
        self.send_one, self.send_all = nn.Linear(width, width), nn.Linear(width, width)
        self.receive_one, self.receive_all = (
            nn.Linear(2 * width, width),
            nn.Linear(2 * width, width),
        )
        self.out = nn.Linear(width, width)
        self.leave = nn.Sequential(nn.Linear(3 * width, width), nn.GELU(), nn.Linear(width, 1))

    def forward(
        self, adjacency: Tensor, blocked: Tensor, waiting: Tensor, h: Tensor, scored: Tensor
    ) -> Tensor:
        """Scores (D, K) of the colours of one node in each of D graphs, 0 of those blocked to it.

        Args:
            adjacency: (D, M, M) bool.
            blocked: Colours that a neighbour has, (D, M, K) bool.
            waiting: Nodes without a colour, (D, M) bool, among them the scored one.
            h: What is known of the nodes, (D, M, features).
            scored: Number of the scored node, (D,) long.
        """
        colors = blocked.shape[-1]
        rows = torch.arange(len(scored), device=scored.device)
        row, color = (~blocked[rows, scored]).nonzero(as_tuple=True)
        cases = torch.arange(len(row), device=row.device)
        node = scored[row]
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
            sent = F.gelu(self.send_one(own) + self.send_all(own.sum(2, keepdim=True)))
            near = (links @ sent.flatten(2)).view_as(own)
            both = torch.cat([own, near], -1)
            received = F.gelu(self.receive_one(both) + self.receive_all(both.sum(2, keepdim=True)))
            s = s + self.out(received)
        s = self.norm(s) * here
        # A contradiction shows wherever it is.
        far = s.masked_fill(~open_[..., None, None], -torch.inf).amax((1, 2))
        near = s[cases, node]
        found = self.leave(torch.cat([near[cases, color], near.sum(1), far], -1))[:, 0].to(h.dtype)
        return h.new_zeros(len(scored), colors).index_put((row, color), found)
