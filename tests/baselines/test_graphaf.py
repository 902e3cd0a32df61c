"""GraphAF's own: the order, the estimate of training, and the valency check."""

import networkx as nx
import numpy as np
import pytest
import torch

from graphcnf.baselines.graphaf import ValencyCheck, breadth_first_order
from graphcnf.errors import UserError
from graphcnf.flows import record_generators
from graphcnf.graphs import GraphBatch, PackedGraphs

# What is compared is the method, not its rounding.
pytestmark = pytest.mark.usefixtures("double")


def test_order_is_breadth_first(random_batch):
    batch = random_batch(60, 12)
    order = breadth_first_order(batch)
    assert (order.sort(1).values == torch.arange(12)).all()
    ordered = batch.permute(order)
    assert (ordered.mask == batch.mask).all()
    for k, size in enumerate(batch.sizes.tolist()):
        graph = nx.from_numpy_array(batch.adjacency[k, :size, :size].numpy())
        expected, left = [], set(range(size))
        while left:
            piece = [min(left)]
            piece += [v for _, v in nx.bfs_edges(graph, piece[0], sort_neighbors=sorted)]
            expected += piece
            left -= set(piece)
        assert order[k, :size].tolist() == expected


def test_edges_beyond_the_window_are_not_known(build, random_batch):
    star = ([0] * 6, [(k, 0) for k in range(1, 6)], [0] * 5)
    ring = ([0] * 6, [(k, (k + 1) % 6) for k in range(6)], [0] * 6)
    batch = GraphBatch.collate(PackedGraphs.from_lists([star, ring]))
    model = build("graphaf", batch, nodes=1, bonds=1, window=4)
    assert model.steps.knows(batch).tolist() == [False, True]


@pytest.mark.parametrize("rows", [1, 2])
def test_estimate_has_no_bias(build, random_batch, rows):
    batch, repeats = random_batch(8, 6), 1000
    model = build("graphaf", batch, nodes=3, bonds=2, rows=rows, window=5)
    many = GraphBatch(*(part.repeat(repeats, *[1] * (part.dim() - 1)) for part in
                        (batch.node_types, batch.bonds, batch.mask)))  # fmt: skip
    with torch.no_grad():
        exact, drawn = model.bounds(many), model.steps.estimate(many)
    for name in ("nodes", "bonds"):
        ours, theirs = (b[name].value().view(repeats, len(batch)) for b in (drawn, exact))
        error = ((ours.var(0) + theirs.var(0)) / repeats).sqrt()
        # 4.5 standard errors; graphs of one node have no edges, and no error.
        assert ((ours.mean(0) - theirs.mean(0)).abs() <= 4.5 * error + 1e-9).all()
        assert ours.std(0)[0] > 1.5 * theirs.std(0)[0], "all nodes were computed"


SUMS = [1, 2, 4]


@pytest.fixture
def checked(build, random_batch):
    return build("graphaf", random_batch(40, 9), nodes=3, bonds=2, largest_sums=SUMS,
                 edge_weights=[1, 2])  # fmt: skip


def sums_of(graphs):
    return torch.tensor([0, 1, 2])[graphs.bonds].sum(-1)


def test_check_keeps_sums_and_pieces_together(checked):
    sizes = torch.full((300,), 9)
    generators = record_generators(0, 0, 300)
    graphs = checked.sample(sizes, generator=generators)
    most = torch.tensor(SUMS)[graphs.node_types]
    assert (sums_of(graphs) <= most).all()
    for k, size in enumerate(graphs.sizes.tolist()):
        real = graphs.adjacency[k, :size, :size].numpy()
        assert nx.is_connected(nx.from_numpy_array(real))
    assert 1 < graphs.sizes.float().mean() < 9
    # Without it, the same weights break the sums, and all nodes are there.
    raw = checked.without_rules().sample(sizes, generator=record_generators(0, 0, 300))
    assert (sums_of(raw) > torch.tensor(SUMS)[raw.node_types]).any()
    assert (raw.sizes == 9).all()


@pytest.mark.parametrize("table", [{"largest_sums": [4]}, {"edge_weights": [1]}])
def test_tables_that_do_not_fit_are_refused(build, random_batch, table):
    with pytest.raises(UserError, match=next(iter(table))):
        build("graphaf", random_batch(2, 3), nodes=3, bonds=2, **table)


def test_check_draws_nothing_where_all_fits(build, random_batch):
    batch = random_batch(40, 9)
    free = build("graphaf", batch, nodes=3, bonds=2, largest_sums=[99] * 3, edge_weights=[1, 2])
    one, raw = (
        m.sample(torch.full((40,), 9), generator=record_generators(1, 0, 40))
        for m in (free, free.without_rules())
    )
    real = one.mask[:, :, None] & one.mask[:, None]
    assert torch.equal(torch.where(one.mask, raw.node_types, 0), one.node_types)
    assert torch.equal(torch.where(real, raw.bonds, 0), one.bonds)


def test_edges_without_free_valence_are_drawn_again_and_then_left_out():
    check = ValencyCheck([1, 2, 3], [1, 4])
    free = check.free(
        torch.tensor([[0, 1], [1, 1]]), torch.tensor([[[0, 0], [0, 2]], [[2, 0], [0, 3]]])
    )
    assert free.tolist() == [1, 1]
    mean = torch.zeros(2000, 4)
    category, free = torch.full((2000,), 3), torch.arange(2000) % 4
    drawn = check.redraw(category, free, mean, mean, torch.Generator().manual_seed(0))
    assert (check.weights[drawn] <= free).all()
    # All categories are equally likely, so those that fit come out alike; what fitted stays.
    assert (drawn[free == 3] == 3).all()
    shares = np.bincount(drawn[free == 1], minlength=4) / 500
    assert abs(shares[0] - 0.5) < 0.1 and abs(shares[1] - 0.5) < 0.1
    never = check.redraw(category, free * 0, mean + torch.tensor([-99.0, 0, 0, 0]), mean * 0, None)
    assert not never.any()
