import numpy as np
import pytest
import torch

from graphcnf.graphs import GraphBatch, PackedGraphs


@pytest.fixture(params=["random_graphs", "molecules"])
def packed(request):
    return request.getfixturevalue(request.param)


def test_collate_and_to_packed_are_inverse(packed):
    assert GraphBatch.collate(packed).to_packed() == packed
    chosen = [5, 3, 3, 100]
    assert GraphBatch.collate(packed, chosen).to_packed() == packed.subset(chosen)


def test_entries_are_the_graphs(packed):
    batch = GraphBatch.collate(packed, range(20))
    assert len(batch) == 20
    assert batch.sizes.tolist() == packed.node_counts[:20].tolist()
    assert batch.mask.shape[1] == packed.node_counts[:20].max()
    assert torch.equal(batch.bonds, batch.bonds.transpose(1, 2))
    assert not batch.bonds.diagonal(dim1=1, dim2=2).any()
    assert not batch.node_types[~batch.mask].any() and not batch.bonds[~batch.mask].any()
    for k in range(20):
        types, edges, bonds = (array.astype(int) for array in packed.graph(k))
        assert batch.node_types[k, : len(types)].tolist() == types.tolist()
        assert batch.bonds[k, edges[:, 0], edges[:, 1]].tolist() == (bonds + 1).tolist()
        assert batch.adjacency[k].sum() == 2 * len(edges)


def test_permute_renumbers(packed):
    batch = GraphBatch.collate(packed, range(30))
    torch.manual_seed(0)
    order = torch.rand(batch.mask.shape).masked_fill(~batch.mask, 2).argsort(1)
    other = batch.permute(order)
    k, i, j = 7, 1, 3
    assert other.node_types[k, i] == batch.node_types[k, order[k, i]]
    assert other.bonds[k, i, j] == batch.bonds[k, order[k, i], order[k, j]]
    assert torch.equal(other.mask, batch.mask)
    assert other.permute(order.argsort(1)).to_packed() == batch.to_packed()


def test_edge_cases():
    empty = GraphBatch.collate(PackedGraphs.from_lists([]))
    assert len(empty) == 0 and len(empty.to_packed()) == 0
    single = PackedGraphs.from_lists([([2], [], [])])
    assert GraphBatch.collate(single).to_packed() == single
    moved = GraphBatch.collate(single).to("cpu")
    assert isinstance(moved, GraphBatch) and moved.to_packed() == single
    most = PackedGraphs.from_lists(
        [(np.zeros(255), [(i, i - 1) for i in range(1, 255)], [1] * 254)]
    )
    assert GraphBatch.collate(most).to_packed() == most


def test_torch_geometric_batches_come_back(random_graphs):
    data = [random_graphs[k] for k in range(20)]
    expected = GraphBatch.collate(random_graphs, range(20))
    batch = GraphBatch.collate(PackedGraphs.from_data(data))
    assert (batch.node_types == expected.node_types).all()
    assert (batch.bonds == expected.bonds).all()
    assert (batch.mask == expected.mask).all()
