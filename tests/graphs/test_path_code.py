from itertools import combinations

import networkx as nx
import numpy as np
import pytest
import torch

from graphcnf.graphs import GraphBatch
from graphcnf.graphs.offsets import OffsetSteps
from graphcnf.graphs.path_code import PathCode, bonds_from_targets


def encode(edges, nodes, variables=3):
    adjacency = torch.zeros(1, nodes, nodes, dtype=torch.bool)
    for i, j in edges:
        adjacency[0, i, j] = adjacency[0, j, i] = True
    return PathCode.encode(adjacency, torch.ones(1, nodes, dtype=torch.bool), variables)


def adjacency_of(code):
    return bonds_from_targets(code.targets, torch.ones_like(code.targets)) > 0


@pytest.fixture(params=["random_graphs", "molecules"])
def batch(request):
    return GraphBatch.collate(request.getfixturevalue(request.param))


def test_graphs_come_back(batch):
    code = PathCode.encode(batch.adjacency, batch.mask, 3)
    assert torch.equal(adjacency_of(code), batch.adjacency)
    decoded = PathCode.decode(code.codes, batch.mask)
    assert torch.equal(decoded.codes, code.codes)
    assert torch.equal(decoded.targets, code.targets)
    assert not code.codes[:, 0].any() and not code.codes[~batch.mask].any()
    assert (code.targets[~batch.mask] == -1).all() and (code.targets[:, 0] == -1).all()


def test_more_variables_than_needed_and_padding_change_nothing(batch):
    code = PathCode.encode(batch.adjacency, batch.mask, 3)
    wide = PathCode.encode(batch.adjacency, batch.mask, 5)
    assert torch.equal(wide.codes[..., :3], code.codes) and not wide.codes[..., 3:].any()
    n = batch.mask.shape[1]
    padded = PathCode.encode(
        torch.nn.functional.pad(batch.adjacency, (0, 2, 0, 2)),
        torch.nn.functional.pad(batch.mask, (0, 2)),
        3,
    )
    assert torch.equal(padded.codes[:, :n], code.codes) and not padded.codes[:, n:].any()


@pytest.mark.parametrize("nodes", [1, 2, 3, 7, 20])
def test_any_code_decodes_to_a_connected_graph_that_has_the_decoded_code(nodes):
    torch.manual_seed(nodes)
    count = 500
    codes = torch.stack([torch.randint(0, nodes + c, (count, nodes)) for c in (1, 3, 3)], -1)
    # Long steps back leave nothing but stars.
    codes[::2, :, 0] = torch.where(torch.rand(codes[::2, :, 0].shape) < 0.7, 0, codes[::2, :, 0])
    mask = torch.arange(nodes) < torch.randint(1, nodes + 1, (count, 1))
    code = PathCode.decode(codes, mask)
    adjacency = adjacency_of(code)
    for k in range(count):
        size = int(mask[k].sum())
        assert nx.is_connected(nx.from_numpy_array(adjacency[k, :size, :size].numpy()))
    again = PathCode.encode(adjacency, mask, 3)
    assert torch.equal(again.codes, code.codes)
    assert torch.equal(again.targets, code.targets)


def test_allowed_accepts_the_code_of_every_graph(batch):
    code = PathCode.encode(batch.adjacency, batch.mask, 3)
    path_code = PathCode(int(code.codes[..., 0].max()) + 1, code.codes.amax((0, 1))[1:].tolist())
    positions = torch.arange(batch.mask.shape[1]).expand(len(batch), -1)
    for k in range(path_code.variables):
        allowed = path_code.allowed(k, code.codes[..., :k], positions)
        assert allowed.shape[-1] == path_code.cardinalities[k]
        assert allowed.gather(-1, code.codes[..., k, None])[batch.mask].all()
        assert allowed.any(-1).all()
        assert not allowed.all(), "nothing is excluded: the test would be empty"


def test_measured_cardinalities_are_those_needed(random_graphs):
    batch = GraphBatch.collate(random_graphs)
    codes = PathCode.encode(batch.adjacency, batch.mask, 3).codes
    measured = OffsetSteps.measure(random_graphs)
    code = PathCode(**measured)
    assert code.variables == 3
    assert code.cardinalities == (codes.flatten(0, 1).amax(0) + 1).tolist()


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
            codes = encode(edges, nodes, 4).codes.flatten().tolist()
            assert seen.setdefault(tuple(codes), edges) == edges
        else:
            with pytest.raises(ValueError, match="not connected|not numbered depth-first"):
                encode(edges, nodes, 4)
    assert len(seen) == [1, 1, 3, 17, 171][nodes - 1]


def test_a_ring_is_one_category_whatever_hangs_on_it():
    ring = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 0)]
    assert encode(ring, 6).codes[0, 5].tolist() == [0, 5, 0]
    branched = [(0, 1), (1, 2), (1, 3), (3, 4), (3, 5), (5, 6), (6, 7), (7, 0)]
    code = encode(branched, 8)
    assert code.codes[0, 7].tolist() == [0, 5, 0]
    assert code.codes[0, :, 0].tolist() == [0, 0, 0, 1, 0, 1, 0, 0]
    assert code.targets[0, 7].tolist() == [6, 0, -1]


@pytest.mark.parametrize(
    ("edges", "nodes", "message"),
    [
        ([(0, 1), (2, 3)], 4, "not connected"),
        ([(0, 2), (1, 2)], 3, "no earlier neighbour"),
        ([(0, 1), (0, 2), (1, 3), (2, 3)], 4, "not numbered depth-first"),
        # Each node hangs on its parent's path, but the numbering returns to a branch it has left.
        ([(0, 1), (1, 2), (0, 3), (2, 4)], 5, "not numbered depth-first"),
        ([(0, 1), (1, 2), (0, 3), (3, 4), (2, 5)], 6, "not numbered depth-first"),
        ([(i, j) for i in range(5) for j in range(i)], 5, "more than 3 earlier neighbours"),
    ],
)
def test_other_graphs_are_refused(edges, nodes, message):
    with pytest.raises(ValueError, match=message):
        encode(edges, nodes)


def test_values_go_to_their_edges():
    code = encode([(0, 1), (1, 2), (0, 2)], 3, 2)
    values = torch.tensor([[[9, 9], [4, 9], [5, 6]]])
    np.testing.assert_array_equal(
        bonds_from_targets(code.targets, values)[0], [[0, 4, 6], [4, 0, 5], [6, 5, 0]]
    )
