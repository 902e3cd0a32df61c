"""The order in which the nodes of a graph get their colours."""

import torch

from graphcnf.coloring.network import coloring_context
from graphcnf.coloring.saturation import SaturationOrder, turns
from graphcnf.datasets.coloring import next_node


def test_the_order_is_that_of_the_search(batch):
    x, adjacency, mask = batch.node_types, batch.adjacency, batch.mask
    rank, counts = turns(x, coloring_context(adjacency, mask), 3)
    for b, size in enumerate(batch.sizes.tolist()):
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
    x, context = batch.node_types, coloring_context(batch.adjacency, batch.mask)
    order = SaturationOrder(batch.adjacency, batch.mask, 3, waves=True)
    rounds = torch.zeros_like(batch.sizes)
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
    for b, size in enumerate(batch.sizes.tolist()):
        assert rank[b, :size].sort().values.tolist() == list(range(size))
        # Colours that fit leave every node what the one by one order would leave it.
        for v in range(size):
            before = (rank[b] < rank[b, v]) & batch.adjacency[b, v]
            seen = {int(c) for c in x[b][before]}
            assert seen == {c for c in range(3) if counts[b, rank[b, v], v, c]}
    assert (rounds < batch.sizes).any() and (rounds <= batch.sizes).all()
