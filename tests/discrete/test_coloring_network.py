"""The order in which nodes get their colours, and the look ahead."""

import networkx as nx
import pytest
import torch
from couplings import perturb

from graphcnf.datasets.coloring import next_node
from graphcnf.discrete import from_networkx
from graphcnf.discrete.coloring_network import LookAhead, SaturationOrder, turns
from graphcnf.graphs.features import GraphContext


def test_the_order_is_that_of_the_search(batch):
    x, adjacency, mask = batch.node_types, batch.adjacency, batch.mask
    rank, counts = turns(x, GraphContext(mask, adjacency=adjacency), 3)
    for b, size in enumerate(batch.node_counts.tolist()):
        neighbours = [adjacency[b, v].nonzero()[:, 0].tolist() for v in range(size)]
        partial, allowed = [-1] * size, [7] * size
        for turn in range(size):
            seen = [sum(partial[v] == 1 for v in neighbours[w]) for w in range(size)]
            assert counts[b, turn, :size, 1].tolist() == seen
            node = next_node(neighbours, partial, allowed)
            assert rank[b, node] == turn
            partial[node] = int(x[b, node])
            for v in neighbours[node]:
                allowed[v] &= ~(1 << partial[node])
        assert (rank[b, size:] == x.shape[1]).all()


def test_finished_graphs_stay_finished():
    mask = torch.tensor([[True, False], [True, True]])
    adjacency = torch.tensor([[[False, False], [False, False]], [[False, True], [True, False]]])
    order = SaturationOrder(adjacency, mask, 3)
    for colors in ([2, 0], [1]):
        order.settle(*order.next(), torch.tensor(colors))
    assert order.rank.tolist() == [[0, 2], [0, 1]] and not len(order.next()[0])
    assert not order.counts[0].any()


def test_nodes_without_a_choice_share_a_round(batch):
    x, context = batch.node_types, GraphContext(batch.mask, adjacency=batch.adjacency)
    order = SaturationOrder(batch.adjacency, batch.mask, 3, waves=True)
    rounds = torch.zeros_like(batch.node_counts)
    while len((found := order.next())[0]):
        graph, node = found
        saturation = (order.counts > 0).sum(-1)
        forced = order.open & (saturation >= 2)
        here = torch.zeros_like(forced)
        here[graph, node] = True
        rounds += here.any(1)
        some = forced.any(1)
        assert torch.equal(here[some], forced[some])
        alone = ~some & order.open.any(1)
        assert (here[alone].sum(1) == 1).all() and not here[~some & ~alone].any()
        order.settle(graph, node, x[graph, node])
    rank, counts = turns(x, context, 3, waves=True)
    assert torch.equal(rank, order.rank)
    for b, size in enumerate(batch.node_counts.tolist()):
        assert rank[b, :size].sort().values.tolist() == list(range(size))
        # Colours that fit leave every node what the one by one order would leave it.
        for v in range(size):
            before = (rank[b] < rank[b, v]) & batch.adjacency[b, v]
            seen = {int(c) for c in x[b][before]}
            assert seen == {c for c in range(3) if counts[b, rank[b, v], v, c]}
    assert (rounds < batch.node_counts).any() and (rounds <= batch.node_counts).all()


@pytest.mark.parametrize(
    "rounds, between, told", [(2, True, False), (3, True, True), (3, False, False)]
)
def test_scores_reach_along_nodes_that_wait(double, rounds, between, told):
    batch = from_networkx([nx.path_graph(5)] * 2)
    # Node 0 is asked. What differs is whether a neighbour of node 3 has a colour.
    blocked = torch.zeros(2, 5, 3, dtype=torch.bool)
    blocked[1, 3, 0] = True
    waiting = batch.mask.clone()
    waiting[:, 2] = between
    lookahead = perturb(LookAhead(4, 8, rounds))
    with torch.no_grad():
        # The largest state anywhere would tell.
        lookahead.leave[0].weight[:, 16:] = 0
        h = torch.randn(1, 5, 4).expand(2, -1, -1)
        first, second = lookahead(batch.adjacency, blocked, waiting, h, torch.zeros(2).long())
    assert torch.allclose(first, second) != told


def test_blocked_colours_have_no_score():
    batch = from_networkx([nx.wheel_graph(6), nx.path_graph(4), nx.petersen_graph()])
    lookahead = perturb(LookAhead(4, 8, 2))
    blocked = torch.rand(*batch.mask.shape, 3) < 0.5
    asked = torch.zeros(len(batch), dtype=torch.long)
    h = torch.randn(*batch.mask.shape, 4)
    scores = lookahead(batch.adjacency, blocked, batch.mask, h, asked)
    assert torch.equal(scores == 0, blocked[:, 0])
