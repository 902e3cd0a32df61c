from itertools import combinations

import networkx as nx
import pytest
import torch

from graphcnf.graphs import GraphBatch
from graphcnf.graphs.path.data_rules import measured_code
from graphcnf.graphs.path.depth_first import DepthFirstCode, earlier_edges


def encode(edges, nodes, variables=3):
    adjacency = torch.zeros(1, nodes, nodes, dtype=torch.bool)
    for i, j in edges:
        adjacency[0, i, j] = adjacency[0, j, i] = True
    return earlier_edges(adjacency, torch.ones(1, nodes, dtype=torch.bool), variables)


@pytest.fixture(params=["random_graphs", "molecules"])
def batch(request):
    return GraphBatch.collate(request.getfixturevalue(request.param))


def atom_code(packed):
    return DepthFirstCode(**measured_code(packed), node_categories=9, edge_categories=3)


def test_graphs_come_back(batch):
    code = atom_code(batch.to_packed())
    x = code.encode(batch)[0]
    assert x.shape[-1] == len(code.cardinalities)
    assert not x[~batch.mask].any() and not x[:, 0, [0, 1, 3, 4]].any()
    assert (x[:, 1:, 1][batch.mask[:, 1:]] > 0).all(), "every node but the first has a parent"
    back = code.decode(x, batch.mask)
    assert torch.equal(back.edge_labels, batch.edge_labels)
    assert torch.equal(back.node_types, batch.node_types)


def test_more_variables_than_needed_and_padding_change_nothing(batch):
    backtracks, lengths, _ = earlier_edges(batch.adjacency, batch.mask, 3)
    same, wide, _ = earlier_edges(batch.adjacency, batch.mask, 5)
    assert torch.equal(same, backtracks)
    assert torch.equal(wide[..., :3], lengths) and not wide[..., 3:].any()
    n = batch.mask.shape[1]
    padded = earlier_edges(
        torch.nn.functional.pad(batch.adjacency, (0, 2, 0, 2)),
        torch.nn.functional.pad(batch.mask, (0, 2)),
        3,
    )
    for with_padding, without in zip(padded, (backtracks, lengths), strict=False):
        assert torch.equal(with_padding[:, :n], without) and not with_padding[:, n:].any()


def test_measured_cardinalities_are_those_needed(random_graphs):
    code = atom_code(random_graphs)
    batch = GraphBatch.collate(random_graphs)
    most = code.encode(batch)[0].flatten(0, 1).amax(0).tolist()
    assert [c - 1 for c in code.cardinalities[::2][:1] + code.cardinalities[3::2]] == (
        most[:1] + most[3::2]
    )
    back, closures = code.largest_backtrack, code.closures
    for sizes in ((back, closures), (back + 1, [closures[0] - 1, *closures[1:]])):
        short = DepthFirstCode(*sizes, node_categories=9, edge_categories=3)
        known = short.encode(batch)[1]
        assert known.any() and not known.all()
        assert torch.equal(short.encode(batch[known])[0], code.encode(batch[known])[0])


@pytest.mark.parametrize("nodes", [1, 2, 3, 4, 5])
def test_exactly_the_depth_first_numberings_are_accepted(nodes):
    pairs = list(combinations(range(nodes), 2))
    seen = {}
    for bits in range(1 << len(pairs)):
        edges = {pair for k, pair in enumerate(pairs) if bits >> k & 1}
        graph = nx.Graph(edges)
        graph.add_nodes_from(range(nodes))
        # Corneil & Krueger 2008, a unified view of graph searching, theorem 2.1.
        depth_first = nx.is_connected(graph) and all(
            any((d, b) in edges for d in range(a + 1, b))
            for a, b, c in combinations(range(nodes), 3)
            if (a, c) in edges and (a, b) not in edges
        )
        if depth_first:
            backtracks, lengths, _ = encode(edges, nodes, 4)
            code = *backtracks.flatten().tolist(), *lengths.flatten().tolist()
            assert seen.setdefault(code, edges) == edges
        else:
            with pytest.raises(ValueError, match="not connected|not numbered depth-first"):
                encode(edges, nodes, 4)
    assert len(seen) == [1, 1, 3, 17, 171][nodes - 1]


def test_a_ring_is_one_category_whatever_hangs_on_it():
    ring = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 0)]
    assert encode(ring, 6)[1][0, 5].tolist() == [1, 5, 0]
    branched = [(0, 1), (1, 2), (1, 3), (3, 4), (3, 5), (5, 6), (6, 7), (7, 0)]
    backtracks, lengths, numbers = encode(branched, 8)
    assert lengths[0, 7].tolist() == [1, 5, 0]
    assert backtracks[0].tolist() == [0, 0, 0, 1, 0, 1, 0, 0]
    assert numbers[0, 7].tolist() == [6, 0, -1]
    with pytest.raises(ValueError, match="more than 3 earlier neighbours"):
        encode([(i, j) for i in range(5) for j in range(i)], 5)
