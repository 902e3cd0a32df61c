"""The order-agnostic model: its bridges, and the number of evaluations."""

import networkx as nx
import numpy as np
import pytest
import torch
from random_orders import as_networkx, unordered

from graphcnf.errors import UserError
from graphcnf.graphs import GraphBatch, GraphModel, PackedGraphs
from graphcnf.graphs.unordered import bridges


def test_bridges_are_those_of_a_search(random_graphs):
    batch = GraphBatch.collate(random_graphs, np.arange(200))
    found = bridges(batch.adjacency)
    for b in range(len(batch)):
        wanted = {tuple(sorted(edge)) for edge in nx.bridges(as_networkx(batch, b))}
        assert wanted == set(map(tuple, found[b].triu().nonzero().tolist()))


def evaluations(model, sizes):
    """Numbers of nodes in each evaluation of the blocks while graphs are drawn."""
    block, seen = model.network.blocks[0], []
    steps = block.next_positions
    block.next_positions = lambda x, *rest: seen.append(len(x)) or steps(x, *rest)
    model.sample(torch.tensor(sizes))
    return seen


@pytest.mark.parametrize("rounds", [1, 5, 12])
def test_drawing_evaluates_the_blocks_no_more_often_than_said(random_graphs, rounds):
    model = unordered(random_graphs, rounds=rounds)
    seen = evaluations(model, [12, 3])
    assert len(seen) == rounds - (rounds == 5)  # of 3 nodes each: 4 are enough
    assert sum(seen) == 1 + (len(seen) - 1) * model.network.per_round


def test_the_shipped_model_is_evaluated_at_most_16_times():
    assert len(evaluations(GraphModel.from_pretrained("zinc250k-unordered"), [38, 38])) == 13


def test_graphs_of_parts_and_crowded_nodes_are_not_known(random_graphs):
    model = unordered(random_graphs)
    parts = ([0, 0, 0, 0], [(0, 1), (2, 3)], [0, 0])
    most = model.code.entries
    star = ([0] * (most + 2), [(0, k + 1) for k in range(most + 1)], [0] * (most + 1))
    fine = ([0, 0], [(0, 1)], [0])
    batch = GraphBatch.collate(PackedGraphs.from_lists([parts, star, fine]))
    assert model.knows(batch).tolist() == [False, False, True]
    assert model.knows(GraphBatch.collate(random_graphs)).all()
    with pytest.raises(ValueError, match="not connected"):
        model.log_prob(GraphBatch.collate(PackedGraphs.from_lists([parts])))


def test_bad_options_are_named(random_graphs):
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        unordered(random_graphs, rounds=0)
    with pytest.raises(UserError, match='needs order "none"'):
        unordered(random_graphs, order="canonical")
