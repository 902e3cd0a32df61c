"""JT-VAE: junction trees and back, the bound, and what samples keep to."""

import networkx as nx
import numpy as np
import pytest
import torch
from couplings import perturb
from graphs.conftest import molecules  # noqa: F401
from small_graphs import every_graph, random_graph

from graphcnf.baselines.junction_tree import (
    ClusterVocabulary,
    PartialGraph,
    junction_tree,
    neighbours_of,
    rebuild,
    rings,
)
from graphcnf.errors import UserError
from graphcnf.graphs import GraphBatch, PackedGraphs
from graphcnf.graphs.building import model_for_graphs, without_rules
from graphcnf.graphs.isomorphism import isomorphic
from graphcnf.graphs.path.data_rules import measured_sums
from graphcnf.graphs.records import sample_records
from graphcnf.testing import assert_gradients_reach_every_parameter, assert_lower_bound

SMALL = {"tree_dim": 3, "graph_dim": 2, "width": 12, "node_width": 8, "layers": 1}
ORDERS = [1, 2, 3]
BENZENE = ([0] * 6, [(k + 1, k) for k in range(5)] + [(5, 0)], [0, 1] * 3)


def vocabulary_of(graphs, node_categories, weights):
    sizes = {"node_categories": node_categories, "edge_categories": len(weights)}
    sums = measured_sums(graphs, **sizes, edge_weights=weights)["largest_sums"]
    return ClusterVocabulary(ClusterVocabulary.measure(graphs, weights, sums), weights, sums)


@pytest.fixture(scope="module")
def random_graphs():
    """500 random connected graphs of up to 12 nodes."""
    random = np.random.default_rng(0)
    return PackedGraphs.from_lists(random_graph(random) for _ in range(500))


def packed(graph):
    return PackedGraphs.from_lists([(graph.types, list(graph.edges), list(graph.edges.values()))])


def build(graphs, nodes=3, bonds=2, weights=None, **options):
    torch.manual_seed(0)
    model = model_for_graphs(
        graphs, node_categories=nodes, edge_categories=bonds, architecture="jtvae",
        edge_weights=weights, **{**SMALL, **options},
    )  # fmt: skip
    return perturb(model, 0.1)


def rebuilt(vocabulary, record):
    """The graph of the choices that `rebuild` recorded."""
    graph = PartialGraph(vocabulary, record.remaining[0])
    graph.add(record.labels[0])
    attached = zip(record.choices, record.labels[1:], record.parents[1:], strict=True)
    for (options, chosen, _), label, parent in attached:
        graph.add(label, parent, *options[chosen])
    return graph


def assert_round_trip(graphs, node_categories, weights):
    vocabulary = vocabulary_of(graphs, node_categories, weights)
    batch = GraphBatch.collate(graphs)
    for k, graph in enumerate(neighbours_of(batch)):
        record = rebuild(vocabulary, *graph)
        back = packed(rebuilt(vocabulary, record))
        assert isomorphic(graphs.graph(k), back.graph(0))
        size = graphs.node_counts[k]
        before = size - len(vocabulary.clusters[record.labels[0]].types)
        assert record.remaining[:2] in ([size], [size, before])


def test_molecules_come_back_from_their_trees(molecules):  # noqa: F811
    assert_round_trip(molecules, 9, ORDERS)


def test_random_graphs_come_back_from_their_trees(random_graphs):
    assert_round_trip(random_graphs, 3, [1, 2])
    # Several shortest rings lead through some of the edges.
    edges = [(3, 4), (1, 2), (0, 4), (3, 5), (1, 3), (1, 4), (2, 3), (4, 5), (0, 2)]
    graph = ([1, 1, 0, 1, 0, 0], edges, [1, 1, 1, 0, 0, 1, 1, 1, 0])
    assert_round_trip(PackedGraphs.from_lists([graph]), 2, [1, 2])


@pytest.mark.parametrize(
    "graph",
    [nx.complete_graph(4), nx.petersen_graph(), nx.cubical_graph(), nx.wheel_graph(7),
     nx.complete_bipartite_graph(2, 4), nx.star_graph(5), nx.path_graph(1),
     nx.windmill_graph(3, 3), nx.triangular_lattice_graph(2, 3)],
)  # fmt: skip
def test_every_connected_graph_has_a_junction_tree(graph):
    graph = nx.convert_node_labels_to_integers(graph)
    neighbours = [dict.fromkeys(graph[v], 0) for v in graph]
    clusters, parents = junction_tree(neighbours)
    assert set().union(*clusters) == set(graph)
    inside = {frozenset(e) for c in clusters for e in graph.subgraph(c).edges}
    assert inside == {frozenset(e) for e in graph.edges}
    for k, (cluster, parent) in enumerate(zip(clusters, parents, strict=True)):
        # Running intersection: what came before and is shared is shared with the parent.
        before = set().union(*clusters[:k]) if k else set()
        above = set(clusters[parent]) if k else set()
        assert set(cluster) & before == set(cluster) & above
        assert k == 0 or 1 <= len(above & set(cluster)) <= 2
    graphs = PackedGraphs.from_lists([([0] * len(graph), list(graph.edges), [0] * graph.size())])
    assert_round_trip(graphs, 1, [1])


def test_rings_are_those_of_a_cycle_basis(random_graphs):
    for types, neighbours in neighbours_of(GraphBatch.collate(random_graphs, range(200))):
        edges = sum(map(len, neighbours)) // 2
        assert len(rings(neighbours)) == edges - len(types) + 1


def test_clusters_of_a_molecule_are_bonds_rings_and_branch_points():
    # Toluene with a methyl more: two bonds and a ring; neopentane: four bonds and their middle.
    xylene = BENZENE[0] + [0, 0], BENZENE[1] + [(6, 0), (7, 2)], BENZENE[2] + [0, 0]
    neopentane = [0] * 5, [(k, 0) for k in range(1, 5)], [0] * 4
    vocabulary = vocabulary_of(PackedGraphs.from_lists([xylene, neopentane]), 1, ORDERS)
    assert sorted(len(c.types) for c in vocabulary.clusters) == [1, 2, 6]


def test_equivalent_attachments_are_one_option():
    graphs = PackedGraphs.from_lists([BENZENE, ([0, 0], [(1, 0)], [0])])
    vocabulary = ClusterVocabulary(ClusterVocabulary.measure(graphs, ORDERS, [4]), ORDERS, [4])
    graph = PartialGraph(vocabulary, 20)
    graph.add(0)
    # A ring without substituents has one place for a bond; one ring edge of each kind for a ring.
    (place,) = graph.attachments(0, 1)
    graph.add(1, 0, *place)
    # Ortho twice (next to the double and to the single bond), meta and para: Kekule's ring has no
    # mirror that keeps the substituted node.
    assert len(graph.attachments(0, 1)) == 5


def test_samples_are_connected_and_keep_the_largest_sums(molecules):  # noqa: F811
    model = build(molecules, 9, 3, ORDERS).eval()
    graphs = sample_records(model, range(60), seed=1)
    again = sample_records(model, range(20, 30), seed=1)
    assert again == graphs.subset(range(20, 30))
    sizes = {"node_categories": 9, "edge_categories": 3, "edge_weights": ORDERS}
    sums = measured_sums(graphs, **sizes)["largest_sums"]
    largest = model.config["largest_sums"]
    assert all(mine <= most for mine, most in zip(sums, largest, strict=True))
    # An untrained model walks into dead ends, but not most of the time.
    sizes = GraphBatch.collate(molecules).node_counts
    assert (graphs.node_counts >= int(sizes.min())).mean() > 0.5
    for k in range(len(graphs)):
        types, edges, _ = graphs.graph(k)
        graph = nx.Graph(edges.tolist())
        graph.add_nodes_from(range(len(types)))
        assert nx.is_connected(graph)
    free = without_rules(model)
    assert min(free.vocabulary.largest_sums) > max(largest)
    assert free.log_prob(GraphBatch.collate(molecules, range(4))).isfinite().all()


def test_graphs_may_leave_no_attachment_to_choose():
    graphs = PackedGraphs.from_lists([([0], [], []), ([0, 1], [(1, 0)], [0])])
    bounds = build(graphs, 2, 1).terms(GraphBatch.collate(graphs))
    assert bounds["attachments"].log_prob().tolist() == [0, 0]
    assert all(bound.log_prob().isfinite().all() for bound in bounds.values())


def test_too_symmetric_clusters_are_refused():
    everything = nx.complete_graph(9)
    graphs = PackedGraphs.from_lists([([0] * 9, list(everything.edges), [0] * 36)])
    with pytest.raises(UserError, match="more than 10,000 ways"):
        build(graphs, 1, 1)


def test_drawn_graphs_depend_on_their_own_generators_only(molecules):  # noqa: F811
    model = build(molecules, 9, 3, ORDERS).eval()
    masks = [torch.ones(count, 9).bool() for count in (4, 2)]
    found = []
    for mask in masks:
        generators = [np.random.default_rng(k) for k in range(len(mask))]
        z = model.base_sample(mask, generators)
        found.append(model.decode(z, mask).to_packed())
    assert found[0].subset([0, 1]) == found[1]
    colder = model.decode({k: 2 * v for k, v in z.items()}, mask, temperature=0.5).to_packed()
    assert colder == model.decode(z, mask).to_packed()


def every_kind_of_graph():
    """All connected graphs of 3 nodes with 2 node categories and one edge category, once each."""
    graphs, kept = every_graph(3, types=2, connected=True), []
    for k in range(len(graphs)):
        if not any(isomorphic(graphs.graph(k), graphs.graph(other)) for other in kept):
            kept.append(k)
    return graphs.subset(kept)


def test_importance_weighted_bounds_rise_and_sum_to_at_most_one():
    graphs = every_kind_of_graph()
    model = build(graphs, 2, 1).eval()
    batch = GraphBatch.collate(graphs)
    # Posteriors that are wider than the prior: bounded weights, so that averages converge.
    with torch.no_grad():
        for last in (model.tree_posterior[-1], model.graph_posterior[-1]):
            half = len(last.bias) // 2
            last.weight *= 0.1
            last.bias[:half], last.bias[half:] = 0.0, 2.6
    assert_lower_bound(model.log_prob, batch, samples=(1, 4), repeats=10)
    with torch.no_grad():
        total = torch.stack([model.log_prob(batch, samples=8).exp().sum() for _ in range(16)])
    error = 4 * total.std() / len(total) ** 0.5
    assert error < 0.2 and total.mean() <= 1 + error
    assert total.mean() > 0.02


def test_gradients_reach_every_parameter(molecules):  # noqa: F811
    some = molecules.subset(range(60))
    model = build(some, 9, 3, ORDERS).train()
    batch = GraphBatch.collate(some)
    model.kl_free = 0
    # Rows of tables that no choice of these graphs needs get none, but every table does.
    assert_gradients_reach_every_parameter(model, lambda: model.training_loss(batch)[0])


def test_the_divergence_counts_after_the_first_molecules(molecules):  # noqa: F811
    model = build(molecules, 9, 3, ORDERS, kl_free=10, kl_weight=0.01).train()
    batch = GraphBatch.collate(molecules, range(8))
    found = [model.training_loss(batch)[1]["bits_tree"][0] for _ in range(3)]
    assert found[0] == found[1] == 0 and found[2] > 0
    exact = model.eval().training_loss(batch)[1]["bits_tree"][0]
    assert exact > found[2]


def test_likelihoods_and_latents_do_not_see_padding(molecules):  # noqa: F811
    model = build(molecules, 9, 3, ORDERS).eval()
    order = np.argsort(molecules.node_counts)
    small, both = (GraphBatch.collate(molecules, rows) for rows in (order[:2], order[[0, 1, -1]]))
    for name, z in model.encode(small).items():
        torch.testing.assert_close(model.encode(both)[name][:2], z)
    z = model.encode(both)
    alone = model.decode(model.encode(small), small.mask).to_packed()
    assert model.decode(z, both.mask).to_packed().subset([0, 1]) == alone


def test_unknown_graphs_have_the_probability_0(molecules):  # noqa: F811
    model = build(molecules, 9, 3, ORDERS).eval()
    strange = PackedGraphs.from_lists([([0] * 3, [(1, 0)], [0]), ([8, 8], [(1, 0)], [2]),
                                       ([0, 0], [(1, 0)], [0]), ([0, 0], [], [])])  # fmt: skip
    batch = GraphBatch.collate(strange)
    assert model.knows(batch).tolist() == [False, False, True, False]
    assert model.log_prob(batch).isfinite().tolist() == [False, False, True, False]
