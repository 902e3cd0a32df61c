from itertools import pairwise

import networkx as nx
import pytest
import torch

from graphcnf.graphs import GraphBatch
from graphcnf.graphs.path_code import PathCode
from graphcnf.graphs.path_evidence import LEVELS, MAX_DEGREE, PathEvidence

VARIABLES, LIMIT = 4, 64


@pytest.fixture(params=["random_graphs", "molecules"])
def batch(request):
    return GraphBatch.collate(request.getfixturevalue(request.param), range(60))


def codes_of(batch):
    codes = PathCode.encode(batch.adjacency, batch.mask, VARIABLES).codes
    return torch.where(batch.mask[..., None], codes, LIMIT)


def evidence(batch, groups):
    numbers = torch.arange(batch.mask.shape[1])
    group = (numbers % groups).expand(batch.mask.shape)
    return PathEvidence(group, batch.mask, [LIMIT] * VARIABLES)


def test_it_is_degree_depth_and_rings_of_the_graph_that_is_known(batch):
    features = evidence(batch, batch.mask.shape[1])(codes_of(batch))
    for k, size in enumerate(batch.sizes.tolist()):
        for node in range(1, size):
            path = [node - 1]
            while path[-1]:
                path.append(int(batch.adjacency[k, path[-1], : path[-1]].nonzero().max()))
            degree = batch.adjacency[k, path, :node].sum(1).clamp(max=MAX_DEGREE)
            own = features[k, node, :-2].reshape(LEVELS, MAX_DEGREE + 2)
            for step in range(min(len(path), LEVELS)):
                assert own[step, : MAX_DEGREE + 1].argmax() == degree[step]
            known = nx.from_numpy_array(batch.adjacency[k, :node, :node].numpy())
            bridges = {frozenset(edge) for edge in nx.bridges(known)}
            in_ring = [frozenset(edge) not in bridges for edge in pairwise(path)]
            assert own[: len(in_ring), -1].bool().tolist() == in_ring[:LEVELS]
            assert not own[len(path) :].any()
            assert features[k, node, -2] * 16 == len(path) - 1 and features[k, node, -1] == 0


def test_one_walk_and_a_walk_per_node_agree(batch):
    nodes, x = batch.mask.shape[1], codes_of(batch)
    quick, slow = evidence(batch, nodes), evidence(batch, nodes)
    assert quick.sequential
    slow.sequential = False
    whole, real = quick(x), batch.mask[..., None]
    assert torch.equal(whole * real, slow(x) * real)
    # Round by round, what is not decided yet is not read; a walk that went wrong starts again.
    for garbage in (LIMIT, 1):
        for node in range(nodes):
            seen = torch.where((torch.arange(nodes) < node)[:, None], x, garbage)
            got = quick(seen, torch.full((len(x), 1), node))[:, 0]
            assert torch.equal(got * real[:, node], whole[:, node] * real[:, node])
    other = torch.where(x == 1, 0, x)
    last = torch.full((len(x), 1), nodes - 1)
    fresh = evidence(batch, nodes)
    assert torch.equal(quick(other, last), fresh(other, last))


def test_with_few_rounds_the_rest_is_guessed_and_counted(batch):
    features = evidence(batch, 4)(codes_of(batch))
    numbers = torch.arange(batch.mask.shape[1])
    for k, size in enumerate(batch.sizes.tolist()):
        for node in range(1, size):
            decided = (numbers[1:node] % 4 < node % 4).sum()
            assert features[k, node, -1] * 8 == node - 1 - decided
