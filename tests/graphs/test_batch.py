"""Sets of graphs, padded batches of them, and batches of like size."""

import numpy as np
import pytest
import torch
from torch_geometric.data import Data

from graphcnf.exchange.pyg import from_pyg, to_pyg
from graphcnf.graphs import GraphBatch, PackedGraphs
from graphcnf.graphs.training_batches import size_bucketed_batches


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
    assert batch.node_counts.tolist() == packed.node_counts[:20].tolist()
    assert batch.mask.shape[1] == packed.node_counts[:20].max()
    assert torch.equal(batch.edge_labels, batch.edge_labels.transpose(1, 2))
    assert not batch.edge_labels.diagonal(dim1=1, dim2=2).any()
    assert not batch.node_types[~batch.mask].any() and not batch.edge_labels[~batch.mask].any()
    for k in range(20):
        types, edges, bonds = (array.astype(int) for array in packed.graph(k))
        assert batch.node_types[k, : len(types)].tolist() == types.tolist()
        assert batch.edge_labels[k, edges[:, 0], edges[:, 1]].tolist() == (bonds + 1).tolist()
        assert batch.adjacency[k].sum() == 2 * len(edges)


def test_permute_renumbers(packed):
    batch = GraphBatch.collate(packed, range(30))
    torch.manual_seed(0)
    order = torch.rand(batch.mask.shape).masked_fill(~batch.mask, 2).argsort(1)
    other = batch.permute(order)
    k, i, j = 7, 1, 3
    assert other.node_types[k, i] == batch.node_types[k, order[k, i]]
    assert other.edge_labels[k, i, j] == batch.edge_labels[k, order[k, i], order[k, j]]
    assert torch.equal(other.mask, batch.mask)
    assert other.permute(order.argsort(1)).to_packed() == batch.to_packed()


def some_graphs(count, seed=0):
    random = np.random.default_rng(seed)
    graphs = []
    for _ in range(count):
        n = int(random.integers(0, 12))
        pairs = np.argwhere(np.tril(random.random((n, n)) < 0.3, -1))
        graphs.append((random.integers(0, 5, n), pairs, random.integers(0, 3, len(pairs))))
    return graphs


def test_graphs_come_back_with_edges_in_order():
    graphs = some_graphs(50)
    packed = PackedGraphs.from_lists(graphs)
    assert len(packed) == 50 and packed.edges.dtype == packed.node_types.dtype == np.uint8
    for k, (types, edges, bonds) in enumerate(graphs):
        got_types, got_edges, got_bonds = packed.graph(k)
        assert got_types.tolist() == types.tolist()
        rows = got_edges.tolist()
        assert rows == sorted(rows, key=lambda e: (e[0], -e[1])) and all(j < i for i, j in rows)
        got, given = zip(map(tuple, rows), got_bonds), zip(map(tuple, edges.tolist()), bonds)  # noqa: B905
        assert dict(got) == dict(given)
    assert np.shares_memory(packed.graph(0)[0], packed.node_types)
    with pytest.raises(IndexError):
        packed.graph(50)


def test_subset_and_concatenate():
    packed = PackedGraphs.from_lists(some_graphs(30))
    chosen = np.array([7, 0, 7, 29, -1])
    part = packed.subset(chosen)
    for k, source in enumerate(chosen):
        for a, b in zip(part.graph(k), packed.graph(source), strict=True):
            np.testing.assert_array_equal(a, b)
    mask = np.arange(30) % 3 == 0
    assert packed.subset(mask) == packed.subset(np.flatnonzero(mask))
    parts = [packed.subset(range(9)), packed.subset(range(9, 30))]
    assert PackedGraphs.concatenate(parts) == packed
    assert len(packed.subset([])) == len(PackedGraphs.concatenate([])) == 0
    assert packed != part


def test_data_and_arrays_round_trip(tmp_path):
    packed = PackedGraphs.from_lists(some_graphs(20))
    data = to_pyg(packed)
    assert data[5].edge_index.shape == (2, 2 * packed.edge_counts[5])
    assert data[5].edge_attr.dtype == data[5].x.dtype == torch.long
    assert from_pyg(data) == packed
    np.savez(tmp_path / "x.npz", **packed.to_arrays())
    with np.load(tmp_path / "x.npz") as file:
        assert PackedGraphs.from_arrays(file) == packed
    # Edges in one direction, without types.
    one = Data(x=torch.tensor([[1], [0], [2]]), edge_index=torch.tensor([[0, 2], [1, 1]]))
    types, edges, bonds = from_pyg([one]).graph(0)
    assert types.tolist() == [1, 0, 2]
    assert edges.tolist() == [[1, 0], [2, 1]] and bonds.tolist() == [0, 0]


def test_what_does_not_fit_together_is_refused():
    arrays = PackedGraphs.from_lists(some_graphs(5)).to_arrays()
    for name in arrays:
        with pytest.raises(ValueError):
            PackedGraphs(**{**arrays, name: arrays[name][1:]})
    edge_index = torch.tensor([[0, 1], [1, 2]])
    for x, message in ((torch.ones(3, 2), "one-hot rows, got shape"), (None, "x is missing")):
        with pytest.raises(ValueError, match=message):
            from_pyg([Data(x=x, edge_index=edge_index)])


SIZES = np.random.default_rng(0).normal(23, 4.5, 10_007).round().clip(6, 38).astype(int)


def test_every_graph_once_with_little_padding():
    numbers, batches = zip(*size_bucketed_batches(SIZES, 32, seed=1, epoch=0), strict=True)
    assert numbers == tuple(range(len(batches)))
    assert sorted(np.concatenate(batches)) == list(range(len(SIZES)))
    assert sorted(map(len, batches))[1:] == [32] * (len(batches) - 1)
    padded = sum(len(b) * SIZES[b].max() for b in batches)
    assert padded / SIZES.sum() < 1.05
    means = np.array([SIZES[b].mean() for b in batches])
    # Batches come in random order of size, others for another seed or epoch.
    assert abs(np.corrcoef(means[1:], means[:-1])[0, 1]) < 0.2
    for seed, epoch, same in ((1, 0, True), (1, 1, False), (2, 0, False)):
        again = [batch for _, batch in size_bucketed_batches(SIZES, 32, seed, epoch)]
        assert np.array_equal(np.concatenate(again), np.concatenate(batches)) == same
