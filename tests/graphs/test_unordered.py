"""Graphs in a fixed number of rounds: exactness, normalisation, invariance, what is possible."""

import math
from itertools import product

import couplings
import networkx as nx
import numpy as np
import pytest
import torch
from couplings import perturb

from graphcnf.categorical.encoding import MARGIN
from graphcnf.errors import UserError
from graphcnf.flows import Noise
from graphcnf.graphs import GraphBatch, GraphCNF, PackedGraphs
from graphcnf.graphs.unordered.labels import (
    FAR,
    RINGS,
    NodeLabels,
    PartialGraph,
    UnorderedContext,
    draw_uniforms,
    exactly,
    ring_classes,
)
from graphcnf.graphs.unordered.model import Parity
from graphcnf.testing import assert_gradients_reach_every_parameter

SMALL = {
    "nodes": {"width": 16, "layers": 1},
    "pairs": {"width": 16, "layers": 2, "heads": 2, "pair_width": 8},
}


@pytest.fixture(scope="module")
def build():
    """Function that builds a small model for graphs, away from its initialisation."""

    def make(graphs, **options):
        torch.manual_seed(0)
        model = GraphCNF.for_graphs(
            graphs,
            node_categories=3,
            bond_categories=2,
            architecture="unordered",
            order="none",
            **{**SMALL, **options},
        )
        return perturb(model).eval()

    return make


def test_graphs_grow_from_one_node_and_every_edge_is_chosen_once(random_graphs):
    table = NodeLabels(**NodeLabels.measure(random_graphs))
    batch = GraphBatch.collate(random_graphs, np.arange(200))
    labels, kinds = table.encode(batch)
    context = UnorderedContext(batch.mask, uniforms=draw_uniforms(batch.mask, batch.mask.shape[1]))
    partial, at = PartialGraph.start(table, labels), torch.arange(len(batch))
    for g in range(batch.mask.shape[1]):
        node, real = partial.next_node(context, g)
        if g:
            assert partial.reached[at, node][real].all(), "the frontier is in the partial graph"
        row = torch.where(partial.done, 0, kinds[at, node])
        assert (row > 0).any(1)[real].all()
        partial = partial.add(node, real, row)
    assert (partial.kinds == kinds).all()
    assert not partial.free.any()
    assert not partial.frontier(batch.mask).any()


def test_the_first_frontier_node_is_every_node_equally_often(random_graphs):
    table = NodeLabels(**NodeLabels.measure(random_graphs))
    one = np.flatnonzero(random_graphs.node_counts == 6)[0]
    batch = GraphBatch.collate(random_graphs, np.repeat(one, 3000))
    labels, _ = table.encode(batch)
    context = UnorderedContext(batch.mask, uniforms=draw_uniforms(batch.mask, 6))
    node, _ = PartialGraph.start(table, labels).next_node(context, 0)
    counts = torch.bincount(node, minlength=6)
    # 4.5 standard deviations of a count.
    assert (counts - 500).abs().max() < 4.5 * (3000 * 5 / 36) ** 0.5


def test_choices_come_by_kind_and_at_random_within_a_kind(build, random_graphs):
    network = build(random_graphs).steps.pairs.network
    row, ranks = torch.tensor([[2, 0, 1, 2, 2]]).expand(3000, -1), torch.arange(5)
    partner, log_orders = network.as_choices(row, torch.rand(3000, 5), ranks.expand(3000, -1))
    assert (partner[:, 0] == 2).all() and (partner[:, 4:] == network.max_nodes).all()
    orders, counts = partner[:, 1:4].unique(dim=0, return_counts=True)
    assert len(orders) == 6 and (counts - 500).abs().max() < 4.5 * (3000 * 5 / 36) ** 0.5
    assert log_orders[0].exp().round() == 6


def test_labels_come_in_groups_of_like_size_the_smaller_ones_last(build, random_graphs):
    model = build(random_graphs, node_rounds=5)
    mask = torch.arange(12) < torch.tensor([[12], [3]])
    context = UnorderedContext(mask, uniforms=draw_uniforms(mask, model.max_nodes))
    groups = model.steps.nodes.network.groups(context)
    assert torch.bincount(groups[0], minlength=5).tolist() == [3, 3, 2, 2, 2]
    assert sorted(groups[1][:3].tolist()) == [0, 1, 2]


def triples():
    """All connected graphs of 3 nodes with 3 node and 2 edge categories, in every labelling."""
    skeletons = [[(0, 1), (1, 2)], [(0, 1), (0, 2)], [(0, 2), (1, 2)], [(0, 1), (1, 2), (0, 2)]]
    return PackedGraphs.from_lists(
        (types, edges, bonds)
        for edges in skeletons
        for types in product(range(3), repeat=3)
        for bonds in product(range(2), repeat=len(edges))
    )


def test_probabilities_of_labels_sum_to_one(build, double):
    model = build(triples().subset(np.arange(0, 540, 37)))
    steps, mask = model.steps, torch.ones(1, 3, dtype=torch.bool)
    labels = torch.cartesian_prod(*[torch.arange(steps.table.count)] * 3)
    many = mask.expand(len(labels), -1)
    uniforms = draw_uniforms(mask, steps.max_nodes).expand(len(labels), -1, -1)
    with torch.no_grad():
        total = steps.nodes.flow.log_prob(
            labels[..., None], UnorderedContext(many, uniforms=uniforms)
        ).exp()
    assert total.std() > 0.1 / len(labels)
    assert abs(total.sum() - 1) < 1e-9


def test_probabilities_of_choices_sum_to_one(build, double):
    """Given labels and uniforms, over all ways in which three nodes can choose each other."""
    model = build(triples().subset(np.arange(0, 540, 37)))
    steps, mask = model.steps, torch.ones(1, 3, dtype=torch.bool)
    uniforms, network = draw_uniforms(mask, steps.max_nodes), steps.pairs.network
    most = network.choices
    assert most == 2
    # Nodes 0, 1, 2 or none, for each choice of the first two rounds; what follows is decided.
    values = torch.cartesian_prod(*[torch.arange(4)] * (2 * most)).unflatten(-1, (2, most))
    values = torch.cat([values, torch.full((len(values), 1, most), 3)], 1)
    labels = torch.cartesian_prod(*[torch.arange(steps.table.count)] * 3)
    seen = 0
    for chosen in labels[:: len(labels) // 40]:
        many = [
            part.expand(len(values), *part.shape[1:]) for part in (mask, uniforms, chosen[None])
        ]
        with torch.no_grad():
            context = UnorderedContext(many[0], uniforms=many[1], labels=many[2])
            own = steps.pairs.flow.log_prob(values, context).exp()
        assert abs(own.sum() - 1) < 1e-9
        seen = max(seen, int((own > 1e-6).sum()))
    assert seen > 1, "nothing was left to choose"


def test_reconstruction_is_exact(build, random_graphs, double):
    model = build(random_graphs)
    batch = GraphBatch.collate(random_graphs, np.arange(100))
    latents = model.encode(batch)
    assert model.decode(latents, batch.mask).to_packed() == batch.to_packed()


def test_the_flow_agrees_with_the_sum_of_its_rounds(build, random_graphs, double):
    """Latents in the base space: u of a category is uniform on an interval as long as p."""
    model = build(random_graphs)
    batch = GraphBatch.collate(random_graphs, np.arange(40))
    noise = Noise()
    exact = model.log_prob(batch, noise=noise)
    steps = model.steps
    labels, choices, context, orders = steps._encoded(batch, noise.draws[0])
    parts = model.bounds(batch, noise.rewind())
    for flow, value, part, more in (
        (steps.nodes, labels, "nodes", 0),
        (steps.pairs, choices, "bonds", orders),
    ):
        bound = flow.bound(value, context).value() + more
        variables = batch.sizes * value.shape[-1]
        # The margins of the intervals are all that is lost.
        torch.testing.assert_close(bound, parts[part].value() + variables * math.log1p(-2 * MARGIN))
    torch.testing.assert_close(sum(p.value() for p in parts.values()), exact)


@pytest.mark.parametrize("name", ["nodes", "pairs"])
@pytest.mark.parametrize(
    "check", [couplings.stepping_equals_all_at_once, couplings.round_trips_and_log_dets_cancel]
)
def test_the_couplings(build, random_graphs, double, name, check):
    def make(count, most):
        model = build(random_graphs, node_rounds=5)
        there = np.flatnonzero(random_graphs.node_counts <= most)[:count]
        batch = GraphBatch.collate(random_graphs, there)
        uniforms = draw_uniforms(batch.mask, model.max_nodes)
        labels, choices, context, _ = model.steps._encoded(batch, uniforms)
        flow = getattr(model.steps, name)
        values = labels if name == "nodes" else choices
        return couplings.Case.of(flow.flow, values, context)

    check(make)


def test_one_round_estimates_all_of_them(build, random_graphs, double):
    model = build(random_graphs, node_rounds=3)
    chosen = np.flatnonzero(random_graphs.node_counts == 4)[:4]
    batch = GraphBatch.collate(random_graphs, np.repeat(chosen, 900))
    with torch.no_grad():
        draws = [
            torch.stack([part.value() for part in make(batch).values()], 1).view(4, 900, 2)
            for make in (model.bounds, model.steps.estimate)
        ]
    difference = (draws[0].mean(1) - draws[1].mean(1)).abs()
    error = sum(part.var(1) / 900 for part in draws).sqrt()
    # Eight comparisons at 4 standard errors; a weight that is off by a quarter would show.
    assert (difference <= 4 * error + 1e-9).all()
    assert (4 * error.mean(0) < 0.25 * draws[0].mean((0, 1)).abs()).all()


def test_log_prob_is_invariant_to_renumbering(build, random_graphs, double):
    model = build(random_graphs)
    chosen = np.flatnonzero(random_graphs.node_counts == 9)[:20]
    batch = GraphBatch.collate(random_graphs, chosen)
    order = torch.stack([torch.randperm(9) for _ in chosen])
    noise, moved = Noise(), Noise()
    with torch.no_grad():
        first = model.log_prob(batch, noise=noise)
        (uniforms,) = noise.draws
        moved.draws += [uniforms.gather(1, order[..., None].expand(-1, -1, uniforms.shape[-1]))]
        second = model.log_prob(batch.permute(order), noise=moved.rewind())
        other = model.log_prob(batch.permute(order))
    torch.testing.assert_close(first, second, atol=1e-8, rtol=0)
    # Fresh noise does change it: the comparison above is one of more than constants.
    assert (first - other).abs().min() > 1e-4


def test_sampled_graphs_have_their_probability(build, double):
    graphs = triples()
    model = build(graphs)
    steps, draws = model.steps, 100
    batch = GraphBatch.collate(graphs)
    with torch.no_grad():
        p = torch.stack([model.log_prob(batch).exp() for _ in range(draws)])
    mask = torch.ones(6000, 3, dtype=torch.bool)
    found = steps.decode_labels(steps.base_sample(mask), mask)
    # Only where the edges are those that the labels say: nothing else counts to a graph.
    every = torch.cat([found[0], found[1].flatten(1)], 1)
    wanted = steps.table.encode(batch)
    wanted = torch.cat([wanted[0], wanted[1].flatten(1)], 1)
    share = (every == wanted[:, None]).all(-1).double().mean(1)
    error = (p.var(0) / draws + p.mean(0) / len(mask)).sqrt()
    common = p.mean(0) * len(mask) > 20
    assert common.sum() > 10
    assert ((share - p.mean(0)).abs() < 5 * error)[common].all()
    total, error = p.sum(1).mean(), (p.sum(1).var() / draws + p.sum(1).mean() / len(mask)).sqrt()
    assert total > 0.02, "too little for the test to mean something"
    assert 8 * error < total
    assert (share.sum() - total).abs() < 4 * error


def test_samples_are_in_one_piece_where_the_labels_have_places_enough(build, random_graphs):
    model = build(random_graphs)
    mask = torch.arange(12) < torch.randint(2, 13, (400, 1))
    latents = model.steps.base_sample(mask)
    shares = []
    for each in (model, model.without_rules()):
        labels, kinds = each.steps.decode_labels(latents, mask)
        places = each.steps.table.ends[labels].sum(-1)
        enough = (places.sum(1) >= 2 * (mask.sum(1) - 1)) & ((places > 0) | ~mask).all(1)
        assert enough.sum() > 100
        graphs = (nx.from_numpy_array(k[m][:, m].numpy()) for k, m in zip(kinds, mask, strict=True))
        whole = torch.tensor([nx.is_connected(graph) for graph in graphs])
        shares.append(whole[enough].double().mean())
        # No node has more edges of any weight than its label has places.
        assert ((kinds > 0).sum(-1) <= places).all()
    assert shares[0] == 1 and shares[1] < 0.9, "places of another kind connect what is left"


def test_parity_excludes_nothing_that_graphs_have(random_graphs):
    table = NodeLabels(**NodeLabels.measure(random_graphs))
    parity = Parity(table)
    batch = GraphBatch.collate(random_graphs, np.arange(300))
    labels, _ = table.encode(batch)
    before = table.ends[labels].cumsum(1) - table.ends[labels]
    to_come = batch.sizes[:, None] - torch.arange(batch.mask.shape[1])
    possible = parity.possible(before, to_come.clamp(min=1))
    assert possible.gather(-1, labels.clamp(max=table.count - 1)[..., None])[..., 0][
        batch.mask
    ].all()
    assert not possible[batch.mask].all()


def test_counts_are_exact_whatever_the_autocast_type():
    ones = torch.ones(301, 301, dtype=torch.long)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (exactly(ones, ones) == 301).all()


def test_training_reaches_every_parameter(build, random_graphs):
    model = build(random_graphs).train()
    batch = GraphBatch.collate(random_graphs, np.arange(200))
    assert_gradients_reach_every_parameter(model, lambda: model.training_loss(batch)[0])


def test_single_nodes_have_no_edges_to_learn(build, random_graphs):
    model = build(random_graphs).train()
    single = GraphBatch.collate(random_graphs, np.flatnonzero(random_graphs.node_counts == 1)[:5])
    with torch.no_grad():
        assert (model.steps.estimate(single)["bonds"].value() == 0).all()
        assert (model.bounds(single)["bonds"].value() == 0).all()


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
