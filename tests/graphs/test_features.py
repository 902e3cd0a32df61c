import networkx as nx
import numpy as np
import pytest
import torch

from graphcnf.graphs import GraphBatch
from graphcnf.graphs.features import (
    MAX_COUNT,
    MAX_DEGREE,
    MAX_DISTANCE,
    NODE_FEATURES,
    PAIR_FEATURES,
    WALK_LENGTHS,
    graph_context,
)


@pytest.fixture(params=["random_graphs", "molecules"])
def batch(request, double):
    return GraphBatch.collate(request.getfixturevalue(request.param), range(1, 60))


def networkx_graphs(batch):
    for k, n in enumerate(batch.node_counts.tolist()):
        yield k, n, nx.from_numpy_array(batch.adjacency[k, :n, :n].numpy())


def test_structure_features_are_those_of_networkx(batch):
    context = graph_context(batch.adjacency, batch.mask, 0, torch.float64)
    assert context.features.shape[-1] == NODE_FEATURES
    assert context.adjacency.shape[-1] == PAIR_FEATURES
    for k, n, graph in networkx_graphs(batch):
        degree = [graph.degree[i] for i in range(n)]
        one_hot = context.features[k, :n, : MAX_DEGREE + 1]
        assert one_hot.argmax(-1).tolist() == [min(d, MAX_DEGREE) for d in degree]
        step = nx.to_numpy_array(graph) / np.maximum(degree, 1)[:, None]
        returns = [np.diag(np.linalg.matrix_power(step, t + 1)) for t in range(WALK_LENGTHS)]
        got = context.features[k, :n, MAX_DEGREE + 1 :] / 2
        np.testing.assert_allclose(got, np.stack(returns, -1), atol=1e-12)

        far = context.adjacency[k, :n, :n, : MAX_DISTANCE + 1]
        assert torch.equal(far.sum(-1), 1 - torch.eye(n))
        for i, lengths in nx.all_pairs_shortest_path_length(graph):
            for j, length in lengths.items():
                if i != j:
                    assert far[i, j].argmax() == min(length, MAX_DISTANCE + 1) - 1
        before = context.adjacency[k, :n, :n, MAX_DISTANCE + 1]
        np.testing.assert_array_equal(before, np.tril(nx.to_numpy_array(graph)))
    without = graph_context(batch.adjacency, batch.mask, 0, torch.float64, ordered=False)
    assert torch.equal(without.adjacency, context.adjacency[..., : PAIR_FEATURES - 1])


def test_typed_features_count_the_edges_of_each_category(batch):
    categories = int(batch.edge_labels.max())
    context = graph_context(batch.edge_labels, batch.mask, categories, torch.float64)
    plain = graph_context(batch.adjacency, batch.mask, 0, torch.float64)
    start, pair_start = NODE_FEATURES, PAIR_FEATURES
    assert torch.equal(context.features[..., :start], plain.features)
    assert torch.equal(context.adjacency[..., :pair_start], plain.adjacency)
    counts = context.features[..., start:].unflatten(-1, (categories, MAX_COUNT + 1))
    for c in range(categories):
        here = batch.edge_labels == c + 1
        assert torch.equal(counts[..., c, :].argmax(-1), here.sum(-1).clamp(max=MAX_COUNT))
        assert torch.equal(context.adjacency[..., pair_start + c], here.double())
    assert (counts.sum(-1) == 1).all()
