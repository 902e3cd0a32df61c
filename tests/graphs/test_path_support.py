"""Possible categories: all graphs and nothing else, and no dead ends."""

import math

import couplings
import networkx as nx
import pytest
import torch
from couplings import perturb
from small_graphs import every_code

from graphcnf.graphs import GraphBatch
from graphcnf.graphs.path.data_rules import measured_code, measured_sums
from graphcnf.graphs.path.depth_first import DepthFirstCode
from graphcnf.graphs.path.path_model import PathModel, support_with_rules
from graphcnf.graphs.path.paths import Path

SIZES = {"node_categories": 3, "edge_categories": 2}


def make(nodes, *, weights, sums, categories, back=None, closures=(9, 9)):
    code = DepthFirstCode(
        back or nodes, list(closures), node_categories=categories, edge_categories=len(weights)
    )
    return code, support_with_rules(code, weights, sums)


@pytest.mark.parametrize("nodes", [1, 2, 3, 4, 5])
def test_without_sums_the_codes_are_exactly_the_depth_first_numberings(nodes):
    code, support = make(nodes, weights=[1], sums=None, categories=1, closures=[nodes] * 3)
    codes = every_code(support, code.cardinalities, nodes)
    # Counted by another test over all labelled graphs.
    assert len(codes) == len(codes.unique(dim=0)) == [1, 1, 3, 17, 171][nodes - 1]
    batch = code.decode(codes, torch.ones(codes.shape[:2], dtype=torch.bool))
    assert torch.equal(code.encode(batch)[0], codes)


@pytest.mark.parametrize(
    ("weights", "sums", "back"),
    [
        ([1], [2], None),
        ([1], [1, 2], None),
        ([1], [1, 3], 2),
        ([1], [2, 3], 1),
        ([1, 2], [1, 2, 4], None),
        ([1, 2], [3, 1], 2),
    ],
)
@pytest.mark.parametrize("nodes", [2, 3, 4])
def test_with_sums_the_codes_are_the_graphs_that_keep_them(nodes, weights, sums, back):
    options = {"weights": weights, "categories": len(sums), "back": back}
    code, support = make(nodes, sums=sums, **options)
    codes = every_code(support, code.cardinalities, nodes)
    _, free = make(nodes, sums=None, **options)
    every = every_code(free, code.cardinalities, nodes)
    batch = code.decode(every, torch.ones(every.shape[:2], dtype=torch.bool))
    used = torch.tensor([0, *weights])[batch.edge_labels].sum(-1)
    kept = (used <= torch.tensor(sums)[batch.node_types]).all(1)
    assert 0 < kept.sum() < len(every) + (nodes < 4)
    assert {tuple(c) for c in codes.flatten(1).tolist()} == {
        tuple(c) for c in every[kept].flatten(1).tolist()
    }


@pytest.mark.parametrize("support", [True, False], ids=["support", "no support"])
@pytest.mark.parametrize("nodes", [3, 4, 5, 6])
def test_random_weights_are_a_normalised_density(double, nodes, support):
    code, limit = make(
        nodes, weights=[1], sums=[3] if support else None, categories=1, closures=[nodes, nodes]
    )
    codes = every_code(limit, code.cardinalities, nodes)
    steps = PathModel(
        node_categories=1, edge_categories=1, max_nodes=nodes, back=nodes, closures=[nodes, nodes],
        largest_sums=[3] if support else None, width=8, layers=1, heads=2, head_width=8,
    )  # fmt: skip
    perturb(steps, 1.0)
    with torch.no_grad():
        log_p = []
        for part in codes.split(4096):
            batch = code.decode(part, torch.ones(part.shape[:2], dtype=torch.bool))
            log_p.append(sum(b.log_prob() for b in steps.terms(batch).values()))
    total = torch.cat(log_p)
    assert len(total) > 2 and total.std() > 1, "too uniform for the test to mean something"
    assert abs(math.log(total.exp().sum())) < 1e-9


def test_every_graph_lies_in_its_support(random_graphs):
    code = DepthFirstCode(**measured_code(random_graphs), **SIZES)
    weights = [1, 2]
    limits = measured_sums(random_graphs, **SIZES, edge_weights=weights)
    support = support_with_rules(code, weights, limits["largest_sums"])
    batch = GraphBatch.collate(random_graphs)
    x, nodes = code.encode(batch)[0], batch.mask.shape[1]
    path = Path.before_each(x, support.states, support.pad)
    to_come = batch.node_counts[:, None] - torch.arange(nodes) - 1
    new = support.new_nodes(path.levels.state, path.depth, to_come.flatten())
    values = x.flatten(0, 1)
    for k in range(x.shape[-1]):
        right = new.possible.gather(1, values[:, k : k + 1])[:, 0]
        assert right[batch.mask.flatten()].all()
        assert k == 2 or not new.possible.all(), "nothing is excluded: the test would be empty"
        new = support.add(new, values[:, k])


def test_the_walk_is_that_of_networkx(random_graphs):
    code = DepthFirstCode(**measured_code(random_graphs), **SIZES)
    batch = GraphBatch.collate(random_graphs, range(0, 600, 3))
    support = support_with_rules(code, [1, 2], None)
    weights = support.states.weights
    x, nodes = code.encode(batch)[0], batch.mask.shape[1]
    at_once, step = (
        Path.before_each(x, support.states, support.pad),
        Path.start(len(x), nodes, support.pad),
    )
    for number in range(nodes):
        here = at_once.select(torch.arange(len(x)) * nodes + number)
        for b in batch.mask[:, number].nonzero()[:, 0].tolist():
            types, edges = batch.node_types[b].tolist(), batch.edge_labels[b, :number, :number]
            graph = nx.from_numpy_array(edges.numpy())
            for path in (here, step):
                depth, tables = int(path.depth[b]), path.table[:, b]
                assert not tables[:, : path.pad].any()
                nodes_at, category, used, degree, ring, _ = tables[:, path.pad :]
                if not number:
                    assert depth == -1
                    continue
                levels = range(depth + 1)
                chain = [int(nodes_at[level]) - 1 for level in levels]
                assert chain[-1] == number - 1
                assert all(graph.has_edge(i, j) for i, j in zip(chain, chain[1:], strict=False))
                for level, node in zip(levels, chain, strict=True):
                    around = sorted(graph[node])
                    assert category[level] == types[node]
                    assert degree[level] == len(around)
                    assert used[level] == weights[edges[node]].sum()
                    found = sorted(
                        c for c in path.neighbours[b, path.pad + level, :5].tolist() if c
                    )
                    wanted = sorted(int(edges[node, j]) * 256 + types[j] for j in around)
                    assert found == wanted or len(around) > len(found) == 5
                    if level:
                        bridge = (chain[level - 1], node)
                        on_ring = bridge not in nx.bridges(graph) and bridge[::-1] not in set(
                            nx.bridges(graph)
                        )
                        assert ring[level] == on_ring
        step.add(number, x[:, number], support.states)


@pytest.mark.parametrize("check", couplings.IN_FLOAT64)
def test_in_float64(double, make_case, check):
    check(make_case)


@pytest.mark.parametrize("check", couplings.IN_FLOAT32)
def test_in_float32(make_case, check):
    check(make_case)
