"""Graph convolution with weights for each kind of edge."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def relations(bonds: Tensor, kinds: int, dtype: torch.dtype) -> Tensor:
    """Adjacency of each kind of edge side by side, (B, N, R N), for bonds (B, N, N) long."""
    one_hot = F.one_hot(bonds, kinds + 1)[..., 1:].to(dtype)
    return one_hot.movedim(-1, 2).flatten(2)


class RelationalConvolution(nn.Module):
    """``h_i <- h_i + relu(W_0 h_i + sum over kinds r and neighbours j in N_r(i) of W_r h_j)``.

    The sum of h_i itself lets several layers be trained without normalisation.

    References:
        Schlichtkrull et al. 2018, arXiv 1703.06103.

    Args:
        width: Channels.
        kinds: Kinds of edges R.
    """

    def __init__(self, width: int, kinds: int):
        super().__init__()
        self.kinds = kinds
        self.own = nn.Linear(width, width)
        # Without a constant: nodes whose state is 0 are not there, and send nothing.
        self.send = nn.Linear(width, kinds * width, bias=False)

    def forward(self, h: Tensor, adjacency: Tensor) -> Tensor:
        """For h (B, N, ..., width) and `relations` (B, N, R N).

        Axes between nodes and channels hold several states of the same graph.
        """
        own = self.own(h)
        sent = torch.stack(self.send(h).chunk(self.kinds, -1), 1)  # (B, R, N, ..., width)
        received = adjacency.to(sent.dtype) @ sent.flatten(1, 2).flatten(2)
        return h + F.relu(own + received.view_as(own))
