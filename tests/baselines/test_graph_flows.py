"""GraphNVP and GraphAF: a bound, exact latents, no trace of padding; GraphAF's order and check."""

import math

import networkx as nx
import numpy as np
import pytest
import torch
from small_graphs import every_graph, random_batch
from torch.nn import functional as F

from graphcnf.baselines.graphaf import breadth_first_order
from graphcnf.baselines.graphnvp import NOISE, OneHotDequantization, relations
from graphcnf.errors import UserError
from graphcnf.flows import Context, Noise, record_generators
from graphcnf.graphs import GraphBatch, PackedGraphs
from graphcnf.graphs.building import without_rules
from graphcnf.testing import assert_gradients_reach_every_parameter

SYSTEMS = ["graphnvp", "graphaf"]
PAIRS = GraphBatch.collate(every_graph(2, types=2, bonds=2))
"""Every labelled graph of two nodes, with 2 categories of nodes and of edges."""

# What is compared is the method, not its rounding.
pytestmark = pytest.mark.usefixtures("double")


@pytest.fixture(params=SYSTEMS)
def system(request):
    return request.param


@pytest.mark.parametrize("width", [64, [64], [64, 32, 16]])
def test_graphnvp_needs_two_widths(build, width):
    with pytest.raises(UserError, match="width must be two numbers of channels, got"):
        build("graphnvp", PAIRS, nodes=2, bonds=2, width=width)


def test_one_hot_vectors_lie_in_disjoint_cubes():
    encoding = OneHotDequantization(4)
    x = torch.randint(4, (50, 7))
    mask = torch.rand(50, 7) < 0.8
    encoded = encoding.encode(x, Context(mask))
    assert (encoding.decode(encoded.z, Context(mask)) == torch.where(mask, x, 0)).all()
    inside = encoded.z - F.one_hot(x, 4)
    assert ((inside >= 0) & (inside < NOISE))[mask].all() and not encoded.z[~mask].any()
    # q is uniform on a cube of side 0.9.
    expected = -4 * math.log(NOISE) * mask.sum(1)
    torch.testing.assert_close(encoded.log_encoder, expected.to(encoded.log_encoder))
    assert not encoded.log_posterior.any()


def in_cube(data, kinds):
    """Whether vectors (B, L, K) are in the cubes of categories (B, L), all of a sample, (B,)."""
    inside = data - F.one_hot(kinds, data.shape[-1])
    return ((inside >= 0) & (inside < NOISE)).flatten(1).all(1)


def test_bound_over_all_graphs_sums_to_the_mass_in_their_cubes(build, system):
    """The mean of exp(one draw) is p integrated over the graph's cube: no more, and no less.

    Summed over all graphs it is the share of draws from the density that fall into a cube.
    """
    window = {"window": 1} if system == "graphaf" else {}
    model = build(system, PAIRS, nodes=2, bonds=2, scale=0.1, **window)
    repeats, draws = 700, 70_000
    many = GraphBatch(*(part.repeat_interleave(repeats, 0) for part in parts(PAIRS)))
    with torch.no_grad():
        sums = model.log_prob(many).exp().view(len(PAIRS), repeats).sum(0)
        nodes, pairs = drawn(model, system, draws)
    inside = torch.zeros(draws)
    for types, bonds, _ in zip(*parts(PAIRS), strict=True):
        types, kind = types.expand(draws, -1), bonds[1, 0].expand(draws, 1)
        inside += in_cube(nodes(kind), types) & in_cube(pairs(types), kind)
    mean, share = sums.mean(), inside.mean()
    error = 4 * math.hypot(sums.std() / repeats**0.5, inside.std() / draws**0.5)
    assert share > 0.001 and error < share / 2, "too little of the density is in the cubes"
    assert abs(mean - share) < error


def parts(batch):
    """Its tensors."""
    return batch.node_types, batch.edge_labels, batch.mask


def drawn(model, system, count):
    """Draws of the density over vectors: nodes given an edge, edges given (GraphAF) the nodes."""
    mask = torch.ones(count, 2, dtype=torch.bool)
    latents = model.base_sample(mask)
    if system != "graphaf":
        pairs = model.pairs.inverse(latents["pairs"], Context(mask))[:, 2:3]

        def nodes(kind):
            bonds = torch.zeros(count, 2, 2, dtype=torch.long)
            bonds[:, 0, 1] = bonds[:, 1, 0] = kind[:, 0]
            return model.nodes.inverse(latents["nodes"], model._given(bonds, mask))

        return nodes, lambda types: pairs

    def before(types, row):
        empty = relations(torch.zeros(count, 2, 2, dtype=torch.long), 2, torch.float64)
        rows = torch.full((count, 1), row)
        return model.before(types, empty, mask.sum(1), rows)

    def placed(z, parameters):
        mean, log_scale = parameters
        return mean + log_scale.exp() * z

    def pairs(types):
        state = before(types, 1)
        queries = model.queries(state, types[:, 1:])[:, 0, -1:]
        return placed(latents["edges"][:, 1, -1:], model.of_edge(queries, 0.0))

    first = placed(latents["nodes"][:, :1], model.of_node(before(mask.long(), 0)))
    types = torch.stack([first.argmax(-1)[:, 0], torch.zeros(count, dtype=torch.long)], 1)
    second = placed(latents["nodes"][:, 1:], model.of_node(before(types, 1)))
    both = torch.cat([first, second], 1)
    return lambda kind: both, pairs


def test_log_density_matches_the_jacobian(build, system):
    """log p(x + u) is the base density of the latents plus log|det dz/du| - d log c."""
    batch = random_batch(1, 4)
    model = build(system, batch, nodes=3, bonds=2)
    noise = Noise()
    value = sum(b.log_prob() for b in model.terms(batch, noise).values())
    draws = [draw.double() for draw in noise.draws]
    names = ("pairs", "nodes") if system != "graphaf" else ("nodes", "edges")

    def latents(u):
        tape, start = Noise(), 0
        for draw in draws:
            tape.draws.append(u[start : start + draw.numel()].view_as(draw))
            start += draw.numel()
        z = model.to_latents(batch, tape)
        return torch.cat([z[name].flatten() for name in names])

    u = torch.cat([draw.flatten() for draw in draws])
    z, jacobian = latents(u), torch.autograd.functional.jacobian(latents, u)
    real = jacobian.abs().sum(1) > 0
    assert real.sum() == 4 * 3 + 6 * 3
    square = jacobian[real][:, jacobian.abs().sum(0) > 0]
    base = (-0.5 * z[real].square() - 0.5 * math.log(2 * math.pi)).sum()
    torch.testing.assert_close(value[0], base + torch.linalg.slogdet(square)[1])


def test_latents_lead_back_to_every_graph(build, system):
    batch = random_batch(60, 9)
    model = build(system, batch, nodes=3, bonds=2)
    back = model.decode(model.encode(batch), batch.mask)
    assert (back.node_types == batch.node_types).all() and (
        back.edge_labels == batch.edge_labels
    ).all()
    # Nothing is hidden beside the latents: others lead elsewhere.
    other = {**model.encode(batch), "nodes": torch.randn_like(model.encode(batch)["nodes"])}
    assert (model.decode(other, batch.mask).node_types != batch.node_types).any()


def test_padding_changes_nothing(build, system):
    batch = random_batch(20, 7)
    model = build(system, random_batch(20, 9), nodes=3, bonds=2)
    for k, size in enumerate(batch.node_counts.tolist()):
        alone = GraphBatch(*(part[k : k + 1] for part in parts(batch)))
        small = GraphBatch(
            alone.node_types[:, :size], alone.edge_labels[:, :size, :size], alone.mask[:, :size]
        )
        noise = Noise()
        expected = model.log_prob(small, noise=noise)
        tape = Noise()
        model.terms(alone, tape)
        for draw, short in zip(tape.draws, noise.draws, strict=True):
            # Padding comes last, and has noise of its own.
            if draw.shape[1] == 49:  # ordered pairs
                draw.unflatten(1, (7, 7))[:, :size, :size] = short.unflatten(1, (size, size))
            else:
                draw[:, : short.shape[1]] = short
        tape.rewind()
        torch.testing.assert_close(model.log_prob(alone, noise=tape), expected)


def test_gradients_reach_every_parameter(build, system):
    batch = random_batch(40, 6)
    model = build(system, batch, nodes=3, bonds=2)
    assert_gradients_reach_every_parameter(model, lambda: model.training_loss(batch)[0])


def test_order_is_breadth_first():
    batch = random_batch(60, 12)
    order = breadth_first_order(batch)
    assert (order.sort(1).values == torch.arange(12)).all()
    ordered = batch.permute(order)
    assert (ordered.mask == batch.mask).all()
    for k, size in enumerate(batch.node_counts.tolist()):
        graph = nx.from_numpy_array(batch.adjacency[k, :size, :size].numpy())
        expected, left = [], set(range(size))
        while left:
            piece = [min(left)]
            piece += [v for _, v in nx.bfs_edges(graph, piece[0], sort_neighbors=sorted)]
            expected += piece
            left -= set(piece)
        assert order[k, :size].tolist() == expected


def test_edges_beyond_the_window_are_not_known(build):
    star = ([0] * 6, [(k, 0) for k in range(1, 6)], [0] * 5)
    ring = ([0] * 6, [(k, (k + 1) % 6) for k in range(6)], [0] * 6)
    batch = GraphBatch.collate(PackedGraphs.from_lists([star, ring]))
    model = build("graphaf", batch, nodes=1, bonds=1, window=4)
    assert model.knows(batch).tolist() == [False, True]


@pytest.mark.parametrize("rows", [1, 2])
def test_terms_of_random_rows_have_no_bias(build, rows):
    batch, repeats = random_batch(8, 6), 1000
    model = build("graphaf", batch, nodes=3, bonds=2, rows=rows, window=5)
    many = GraphBatch(*(part.repeat(repeats, *[1] * (part.dim() - 1)) for part in
                        (batch.node_types, batch.edge_labels, batch.mask)))  # fmt: skip
    with torch.no_grad():
        exact, drawn = model.terms(many), model._terms_of_random_rows(many)
    for name in ("nodes", "edges"):
        ours, theirs = (b[name].log_prob().view(repeats, len(batch)) for b in (drawn, exact))
        error = ((ours.var(0) + theirs.var(0)) / repeats).sqrt()
        # 4.5 standard errors; graphs of one node have no edges, and no error.
        assert ((ours.mean(0) - theirs.mean(0)).abs() <= 4.5 * error + 1e-9).all()
        assert ours.std(0)[0] > 1.5 * theirs.std(0)[0], "all nodes were computed"


SUMS = [1, 2, 4]


@pytest.fixture
def checked(build):
    return build("graphaf", random_batch(40, 9), nodes=3, bonds=2, largest_sums=SUMS,
                 edge_weights=[1, 2])  # fmt: skip


def sums_of(graphs):
    return torch.tensor([0, 1, 2])[graphs.edge_labels].sum(-1)


def test_check_keeps_sums_and_pieces_together(checked):
    sizes = torch.full((300,), 9)
    generators = record_generators(0, 0, 300)
    graphs = checked.sample(sizes, generator=generators)
    most = torch.tensor(SUMS)[graphs.node_types]
    assert (sums_of(graphs) <= most).all()
    for k, size in enumerate(graphs.node_counts.tolist()):
        real = graphs.adjacency[k, :size, :size].numpy()
        assert nx.is_connected(nx.from_numpy_array(real))
    assert 1 < graphs.node_counts.float().mean() < 9
    # Without it, the same weights break the sums, and all nodes are there.
    raw = without_rules(checked).sample(sizes, generator=record_generators(0, 0, 300))
    assert (sums_of(raw) > torch.tensor(SUMS)[raw.node_types]).any()
    assert (raw.node_counts == 9).all()


@pytest.mark.parametrize("table", [{"largest_sums": [4]}, {"edge_weights": [1]}])
def test_tables_that_do_not_fit_are_refused(build, table):
    with pytest.raises(UserError, match=next(iter(table))):
        build("graphaf", random_batch(2, 3), nodes=3, bonds=2, **table)


def test_edges_without_free_valence_are_drawn_again_and_then_left_out(build):
    tables = {"edge_weights": [1, 2, 3], "largest_sums": [1, 4]}
    model = build("graphaf", random_batch(2, 3, nodes=2), nodes=2, bonds=3, **tables)
    mean = torch.zeros(2000, 4)
    category, free = torch.full((2000,), 3), torch.arange(2000) % 4
    drawn = model.redraw(category, free, mean, mean, torch.Generator().manual_seed(0))
    assert (model.weights[drawn] <= free).all()
    # All categories are equally likely, so those that fit come out alike; what fitted stays.
    assert (drawn[free == 3] == 3).all()
    shares = np.bincount(drawn[free == 1], minlength=4) / 500
    assert abs(shares[0] - 0.5) < 0.1 and abs(shares[1] - 0.5) < 0.1
    never = model.redraw(category, free * 0, mean + torch.tensor([-99.0, 0, 0, 0]), mean * 0, None)
    assert not never.any()
