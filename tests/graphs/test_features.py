import networkx as nx
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from graphcnf.graphs import GraphBatch, PackedGraphs
from graphcnf.graphs.features import (
    MAX_COUNT,
    MAX_DEGREE,
    MAX_DISTANCE,
    WALK_LENGTHS,
    BondEvidence,
    bonds_mask,
    edge_relations,
    spread_groups,
    structure_context,
    structure_node_features,
    structure_pair_features,
    typed_context,
)
from graphcnf.graphs.path_code import PathCode


@pytest.fixture(params=["random_graphs", "molecules"])
def batch(request, double):
    return GraphBatch.collate(request.getfixturevalue(request.param), range(1, 60))


def networkx_graphs(batch):
    for k, n in enumerate(batch.sizes.tolist()):
        yield k, n, nx.from_numpy_array(batch.adjacency[k, :n, :n].numpy())


def test_structure_features_are_those_of_networkx(batch):
    context = structure_context(batch.adjacency, batch.mask, torch.float64)
    assert context.node_features.shape[-1] == structure_node_features()
    assert context.pair_features.shape[-1] == structure_pair_features()
    for k, n, graph in networkx_graphs(batch):
        degree = [graph.degree[i] for i in range(n)]
        one_hot = context.node_features[k, :n, : MAX_DEGREE + 1]
        assert one_hot.argmax(-1).tolist() == [min(d, MAX_DEGREE) for d in degree]
        step = nx.to_numpy_array(graph) / np.maximum(degree, 1)[:, None]
        returns = [np.diag(np.linalg.matrix_power(step, t + 1)) for t in range(WALK_LENGTHS)]
        got = context.node_features[k, :n, MAX_DEGREE + 1 :] / 2
        np.testing.assert_allclose(got, np.stack(returns, -1), atol=1e-12)

        far = context.pair_features[k, :n, :n, : MAX_DISTANCE + 1]
        assert torch.equal(far.sum(-1), 1 - torch.eye(n))
        for i, lengths in nx.all_pairs_shortest_path_length(graph):
            for j, length in lengths.items():
                if i != j:
                    assert far[i, j].argmax() == min(length, MAX_DISTANCE + 1) - 1
        before = context.pair_features[k, :n, :n, MAX_DISTANCE + 1]
        np.testing.assert_array_equal(before, np.tril(nx.to_numpy_array(graph)))


def test_typed_features_count_the_edges_of_each_category(batch):
    categories = int(batch.bonds.max())
    context = typed_context(batch.bonds, batch.mask, categories, torch.float64)
    plain = structure_context(batch.adjacency, batch.mask, torch.float64)
    start, pair_start = structure_node_features(), structure_pair_features()
    assert torch.equal(context.node_features[..., :start], plain.node_features)
    assert torch.equal(context.pair_features[..., :pair_start], plain.pair_features)
    counts = context.node_features[..., start:].unflatten(-1, (categories, MAX_COUNT + 1))
    for c in range(categories):
        here = batch.bonds == c + 1
        assert torch.equal(counts[..., c, :].argmax(-1), here.sum(-1).clamp(max=MAX_COUNT))
        assert torch.equal(context.pair_features[..., pair_start + c], here.double())
    assert (counts.sum(-1) == 1).all()


def test_edge_relations_by_hand(batch):
    targets = PathCode.encode(batch.adjacency, batch.mask, 3).targets
    got = edge_relations(targets)
    for k in range(0, len(batch), 7):
        n = int(batch.sizes[k])
        own = [[t for t in row if t >= 0] for row in targets[k].tolist()]
        for i in range(n):
            for j in range(n):
                parents = [set(own[i][:1]), set(own[j][:1])]
                closures = [set(own[i][1:]), set(own[j][1:])]
                first = [
                    j in parents[0], i in parents[1], j in closures[0], i in closures[1],
                    i != j and bool(parents[0] & parents[1]),
                ]  # fmt: skip
                share = bool(({i} | set(own[i])) & ({j} | set(own[j]))) and i != j
                assert got[k, i, j, :5].tolist() == first
                assert got[k, i, j, 5] == max(0, share - sum(first))


def test_bonds_mask_marks_the_targets():
    got = bonds_mask(torch.tensor([[[-1, -1], [0, -1], [1, 0]]]))
    assert got[0].tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0]]


@pytest.mark.parametrize(("degree", "groups"), [(2, 3), (3, 4), (4, 7), (4, 8)])
def test_neighbours_never_share_a_group(degree, groups):
    random = np.random.default_rng(degree)
    graphs = []
    for seed in range(40):
        n = int(random.integers(degree + 1, 30))
        n += n * degree % 2
        graph = nx.random_regular_graph(degree, n, seed=seed)
        graph.remove_edges_from(list(graph.edges)[:: int(random.integers(2, 9))])
        graph = nx.convert_node_labels_to_integers(graph, ordering="sorted")
        graphs.append(([0] * n, list(graph.edges), [0] * len(graph.edges)))
    batch = GraphBatch.collate(PackedGraphs.from_lists(graphs))
    group = spread_groups(batch.adjacency, batch.mask, groups)
    assert 0 <= group.min() and group.max() < groups
    same = group[:, :, None] == group[:, None, :]
    assert not (same & batch.adjacency).any()


def test_groups_of_molecules_lie_apart_and_are_of_like_size(molecules):
    batch = GraphBatch.collate(molecules)
    near = batch.adjacency.float()
    others = ~torch.eye(near.shape[1], dtype=torch.bool)
    two = (near @ near > 0) & ~batch.adjacency & others
    for groups, share in ((8, 0.01), (12, 0)):
        group = spread_groups(batch.adjacency, batch.mask, groups)
        same = (group[:, :, None] == group[:, None, :]) & others
        assert not (same & batch.adjacency).any()
        assert (same & two).sum() <= share * two.sum()
        sizes = F.one_hot(group, groups).masked_fill(~batch.mask[..., None], 0).sum(1)
        assert (sizes.amax(1) <= 2 + 2 * batch.sizes / groups).all()


def test_padding_and_batch_change_no_feature_and_no_group(batch):
    alone = [GraphBatch.collate(batch.to_packed(), [k]) for k in range(len(batch))]
    together = structure_context(batch.adjacency, batch.mask, torch.float64)
    groups = spread_groups(batch.adjacency, batch.mask, 5)
    for k, single in enumerate(alone):
        n = int(batch.sizes[k])
        context = structure_context(single.adjacency, single.mask, torch.float64)
        torch.testing.assert_close(context.node_features[0], together.node_features[k, :n])
        torch.testing.assert_close(context.pair_features[0], together.pair_features[k, :n, :n])
        assert torch.equal(spread_groups(single.adjacency, single.mask, 5)[0], groups[k, :n])


def brute_force_evidence(targets, group, x, categories):
    """Counts of edge categories at the atoms of a node's edges, from edges decided before."""
    variables = len(targets[0])
    edges = {}
    for i, row in enumerate(targets):
        for k, j in enumerate(row):
            if j >= 0:
                edges[i, j] = edges[j, i] = (max(i, j), x[i][k])
    out = []
    for i, row in enumerate(targets):
        channels = []
        for atom in [i, *row]:
            seen, still_open = [0] * categories, 0
            for (a, _), (owner, category) in edges.items():
                if a == atom and group[owner] < group[i]:
                    seen[category] += 1
                elif a == atom:
                    still_open += 1
            for count in [*seen, still_open]:
                channels += [float(atom >= 0 and min(count, MAX_COUNT) == c) for c in range(5)]
        out.append(channels)
    assert len(out[0]) == BondEvidence.channels(variables, categories)
    return torch.tensor(out)


@pytest.mark.parametrize("groups", [1, 3, 8])
def test_bond_evidence_is_what_earlier_rounds_decided(batch, groups):
    torch.manual_seed(0)
    categories = 3
    targets = PathCode.encode(batch.adjacency, batch.mask, 3).targets
    group = torch.randint(0, groups, batch.mask.shape)
    evidence = BondEvidence(targets, group, categories)
    x = torch.randint(0, categories, targets.shape)
    got = evidence(x)
    for k in range(0, len(batch), 5):
        n = int(batch.sizes[k])
        part = (t[k, :n].tolist() for t in (targets, group, x))
        assert torch.equal(got[k, :n], brute_force_evidence(*part, categories))
    # Categories of the same or later rounds may be unknown.
    for g in range(groups):
        known = torch.where((group < g)[..., None], x, categories)
        here = group == g
        assert torch.equal(evidence(known)[here], got[here])
    members = torch.rand(batch.mask.shape).argsort(1)[:, :2]
    rows = torch.arange(len(batch))[:, None]
    assert torch.equal(evidence(x, members), got[rows, members])
