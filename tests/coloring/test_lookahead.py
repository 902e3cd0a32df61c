"""The look ahead of the colouring model."""

import networkx as nx
import pytest
import torch

from graphcnf.coloring import from_networkx
from graphcnf.coloring.network import LookAhead


def lookahead_of(rounds):
    torch.manual_seed(0)
    lookahead = LookAhead(4, 8, rounds)
    with torch.no_grad():
        for parameter in lookahead.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return lookahead


@pytest.mark.parametrize(
    "rounds, between, told", [(2, True, False), (3, True, True), (3, False, False)]
)
def test_lookahead_reach_along_nodes_that_wait(double, rounds, between, told):
    batch = from_networkx([nx.path_graph(5)] * 2)
    # Node 0 is asked. What differs is whether a neighbour of node 3 has a colour.
    blocked = torch.zeros(2, 5, 3, dtype=torch.bool)
    blocked[1, 3, 0] = True
    waiting = batch.mask.clone()
    waiting[:, 2] = between
    lookahead = lookahead_of(rounds)
    with torch.no_grad():
        # The largest state anywhere would tell.
        lookahead.leave[0].weight[:, 16:] = 0
        h = torch.randn(1, 5, 4).expand(2, -1, -1)
        first, second = lookahead(batch.adjacency, blocked, waiting, h, torch.zeros(2).long())
    assert torch.allclose(first, second) != told


def test_lookahead_of_blocked_colours_are_none():
    batch = from_networkx([nx.wheel_graph(6), nx.path_graph(4), nx.petersen_graph()])
    lookahead = lookahead_of(2)
    blocked = torch.rand(*batch.mask.shape, 3) < 0.5
    asked = torch.zeros(len(batch), dtype=torch.long)
    h = torch.randn(*batch.mask.shape, 4)
    scores = lookahead(batch.adjacency, blocked, batch.mask, h, asked)
    assert torch.equal(scores == 0, blocked[:, 0])
