"""Labels of nodes, and what is known of partly decided graphs."""

import networkx as nx
import numpy as np
import pytest
import torch

from graphcnf.errors import UserError
from graphcnf.graphs import GraphBatch, PackedGraphs
from graphcnf.graphs.unordered.labels import RINGS, NodeLabels, ring_classes
from graphcnf.graphs.unordered.partial import FAR, PartialGraph


def as_networkx(batch, b):
    graph = nx.from_numpy_array(batch.adjacency[b].numpy())
    graph.remove_nodes_from([v for v in graph if not batch.mask[b, v]])
    return graph


def test_ring_classes_are_those_of_a_search(random_graphs):
    batch = GraphBatch.collate(random_graphs, np.arange(200))
    found = ring_classes(batch.adjacency)
    assert not found[~batch.adjacency].any()
    seen = set()
    for b in range(len(batch)):
        graph = as_networkx(batch, b)
        for i, j in list(graph.edges):
            graph.remove_edge(i, j)
            try:
                size = min(nx.shortest_path_length(graph, i, j) + 1, RINGS[-1])
            except nx.NetworkXNoPath:
                size = 0
            graph.add_edge(i, j)
            assert RINGS[found[b, i, j]] == RINGS[found[b, j, i]] == size
            seen.add(size)
    assert seen == set(RINGS)


def test_labels_come_back_and_follow_the_nodes(random_graphs):
    table = NodeLabels(**NodeLabels.measure(random_graphs))
    batch = GraphBatch.collate(random_graphs, np.arange(500))
    labels, kinds = table.encode(batch)
    again = table.decode(labels, kinds, batch.mask)
    assert again.to_packed() == batch.to_packed()
    steps = torch.arange(1, len(table.kinds) + 1)
    assert (table.ends[labels] == (kinds[..., None] == steps).sum(2)).all()
    order = torch.stack([torch.randperm(s) for s in [batch.mask.shape[1]] * 500])
    moved = table.encode(batch.permute(order))[0]
    assert (moved == labels.gather(1, order)).all()


def test_nodes_that_no_label_fits_are_refused(random_graphs):
    path = PackedGraphs.from_lists([([0, 1, 0], [(0, 1), (1, 2)], [0, 0])])
    table = NodeLabels(**NodeLabels.measure(path))
    other = PackedGraphs.from_lists([([0, 1, 1], [(0, 1), (1, 2)], [0, 0])])
    with pytest.raises(ValueError, match="node 2 of graph 0 has a category and edges"):
        table.encode(GraphBatch.collate(other))
    with pytest.raises(ValueError, match="has a category and edges"):
        table.encode(GraphBatch.collate(random_graphs, np.arange(50)))


@pytest.mark.parametrize(
    ("kinds", "labels", "message"),
    [
        ([[0, 0]], [[0, 1, 1]], "a number for each of edge_kinds"),
        ([[0, 9]], [[0, 1]], "ring classes are 0 to 5"),
        ([[0, 0]], [[0, 1], [0, 1]], "every row once"),
        ([[0, 0]], [[0, -1]], "from 0 on"),
    ],
)
def test_tables_that_do_not_fit_are_refused(kinds, labels, message):
    with pytest.raises(UserError, match=message):
        NodeLabels(kinds, labels)


def test_what_is_known_is_what_networkx_says(random_graphs):
    table = NodeLabels(**NodeLabels.measure(random_graphs))
    batch = GraphBatch.collate(random_graphs, np.arange(150))
    labels, kinds = table.encode(batch)
    done = torch.rand(labels.shape) < 0.4
    decided = done[:, :, None] | done[:, None]
    steps = torch.arange(1, len(table.kinds) + 1)
    free = table.ends[labels] - ((kinds * decided)[..., None] == steps).sum(2)
    known = PartialGraph(table, kinds * decided, done, done, free).look(batch.mask)
    waiting = ~decided & batch.mask[:, :, None] & batch.mask[:, None]
    index = torch.arange(batch.mask.shape[1])
    waiting[:, index, index] = False
    assert not known.possible[~waiting].any()
    # What the graph has is never impossible, and what must be an edge is one.
    own = (kinds - 1).clamp(min=0)[..., None]
    assert known.possible.gather(-1, own)[..., 0][waiting & (kinds > 0)].all()
    assert (kinds > 0)[known.needed].all()
    assert known.needed.any()
    for b in range(len(batch)):
        graph = as_networkx(batch, b)
        graph.remove_edges_from([e for e in graph.edges if not decided[b][e]])
        assert known.whole[b, 0] == nx.number_connected_components(graph)
        assert (known.whole[b] >= 0).all()
        lengths = dict(nx.all_pairs_shortest_path_length(graph))
        for i in graph:
            part = nx.node_connected_component(graph, i)
            assert known.parts[b, i, 0] == len(part)
            places = free[b, list(part)]
            assert known.parts[b, i, 1] == places[:, table.bridges].sum()
            assert known.parts[b, i, 2] == places[:, ~table.bridges].sum()
            for j in graph:
                far = min(lengths[i].get(j, 0), FAR + 1)
                assert known.distance[b, i, j] == far
                if not waiting[b, i, j]:
                    continue
                cut = free[b, i] * free[b, j] * (1 if j not in part else ~table.bridges)
                assert not known.possible[b, i, j][cut == 0].any()


def test_a_place_takes_the_nearest_that_there_is():
    kinds = [[0, 0], [0, 4], [1, 0], [1, 4], [2, 0]]
    table = NodeLabels(kinds, [[0, 1, 1, 1, 1, 1]], edge_weights=[1, 1, 3])
    free = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 1, 1, 1], [0, 0, 1, 1, 1], [0, 0, 0, 1, 1],
                         [0, 0, 0, 0, 1]])  # fmt: skip
    # The kind itself; its category in a ring; another category of its weight; the rest.
    assert table.nearest(torch.zeros(5, dtype=torch.long), free).tolist() == [0, 1, 2, 3, 4]
    assert table.lighter(torch.tensor([4, 0, 2]), torch.tensor([0, 4, 0])).tolist() == [0, 0, 2]
