"""Linkers at all attachments of a fragment, with known environments or without any.

The fragment is there, most particles arrive, and the weights undo the force.
"""

from itertools import permutations

import numpy as np
import pytest
import torch
from couplings import perturb
from node_fragments import assert_proper, fragment
from small_graphs import SMALL, build_model, every_code, every_numbered_graph

from graphcnf.design.linked import LinkedFragment
from graphcnf.design.particles import ParticleSampler
from graphcnf.graphs import GraphBatch, PackedGraphs
from graphcnf.graphs.path.data_rules import are_known, with_those_of
from graphcnf.graphs.path.node_states import Environments
from graphcnf.graphs.path.path_model import PathModel

NODES = 6


def probabilities_of(model, batch):
    with torch.no_grad():
        return model.log_prob(batch).double().exp().numpy()


def places(batch, wanted):
    """Ways to find a fragment in each graph, from all choices of its nodes."""
    labels = batch.edge_labels.numpy()
    size = len(wanted)
    category = wanted.categories.int().argmax(1)
    inside = np.zeros((size, size), dtype=int)
    for (i, j), label in zip(wanted.edges, wanted.structures[0].int().argmax(1), strict=True):
        inside[i, j] = inside[j, i] = label
    counts = np.zeros(len(labels), dtype=int)
    for nodes in permutations(range(NODES), size):
        rest = [k for k in range(NODES) if k not in nodes]
        fits = (batch.node_types[:, nodes] == category).all(1).numpy()
        fits &= (labels[:, nodes][:, :, nodes] == inside).all((1, 2))
        if isinstance(wanted, LinkedFragment):
            out, linker = labels[:, nodes][:, :, rest], labels[:, rest][:, :, rest] > 0
            fits &= (out < 2).all((1, 2)) & (out.sum(2) == wanted.attachments.numpy()).all(1)
            reached = np.linalg.matrix_power(linker + np.eye(len(rest), dtype=int), NODES)
            rings = linker.sum((1, 2)) // 2 - len(rest) + 1
            fewest, most = wanted.new_rings
            fits &= (reached > 0).all((1, 2)) & (rings >= fewest) & (rings <= most)
        counts += fits
    return counts


def linked(attachments, edges, **options):
    """A closed fragment of nodes of one category."""
    return fragment([0] * len(attachments), edges, kind=LinkedFragment, nodes=1,
                    attachments=attachments, **options)  # fmt: skip


PLAIN = {
    "two attachments of one node": linked([2, 0, 1], [(0, 1), (1, 2)]),
    "three points of a ring": linked([1, 1, 1], [(0, 1), (1, 2), (0, 2)]),
    "two parts, one of which is in a ring": linked([1, 1, 1], [(0, 1)]),
    "no rings in the linker": linked([1, 1], [(0, 1)], new_rings=(0, 0)),
    "one ring in the linker": linked([1, 1], [(0, 1)], new_rings=(1, 1)),
}


@pytest.fixture(scope="module")
def every():
    """A model of nodes and edges of one category; its graphs, and their probabilities."""
    packed = every_numbered_graph(NODES, closures=2)
    model = build_model(packed, node_categories=1, edge_categories=1)
    batch = GraphBatch.collate(packed)
    probabilities = probabilities_of(model, batch)
    assert probabilities.sum() == pytest.approx(1, abs=1e-3)
    return model, batch, probabilities


@pytest.mark.parametrize("name", PLAIN)
def test_weights_are_proper(every, name):
    """Their mean is the model's mean number of places: every depth-first order can be drawn."""
    model, batch, probabilities = every
    sampler, means = ParticleSampler(model, PLAIN[name]), []
    for seed in range(6):
        drawn = sampler.draw(torch.full((400,), NODES), torch.Generator().manual_seed(seed))
        means.append(float(drawn.log_weights.exp().mean()))
        if seed == 0:
            placed = torch.isfinite(drawn.log_weights)
            assert places(drawn.graphs, PLAIN[name])[placed].all()
            sampler.learn(drawn)
    assert_proper(means, probabilities, places(batch, PLAIN[name]))


def test_smallest_ring_that_a_linker_closes():
    chain = [(0, 1), (1, 2), (2, 3)]
    for attachments, ring in (([1, 0, 0, 1], 5), ([2, 0, 0, 0], 3), ([1, 1, 0, 1], 4)):
        assert linked(attachments, chain).closed_ring == ring, attachments
    assert linked([1, 0, 0, 1], chain[:1] + chain[2:]).closed_ring == 0


# Nodes 1 are ends; nodes 2 have an edge of category 1, of weight 2, and one of category 0.
GRAPHS = [
    ([0, 0, 0, 1], [(0, 1), (1, 2), (2, 3)], [0, 0, 0]),
    ([0, 0, 2, 1], [(0, 1), (1, 2), (2, 3)], [0, 0, 1]),
    ([1, 2, 0, 2, 1], [(0, 1), (1, 2), (2, 3), (3, 4)], [1, 0, 0, 1]),
    ([0, 0, 0, 0, 1], [(0, 1), (1, 2), (0, 2), (2, 3), (3, 4)], [0, 0, 0, 0, 0]),
    ([0, 0, 0, 1], [(0, 1), (1, 2), (1, 3)], [0, 0, 0]),
    ([1, 0, 2, 1], [(0, 1), (1, 2), (2, 3)], [0, 0, 1]),
    ([0, 0, 1, 1], [(0, 1), (1, 2), (1, 3)], [0, 0, 0]),
    ([0, 0, 1, 2, 1], [(0, 1), (1, 2), (1, 3), (3, 4)], [0, 0, 0, 1]),
]
SIZES = {"nodes": 3, "plain": (False, True, True)}
LINKED = {**SIZES, "kind": LinkedFragment}
KNOWN = {
    "two ends are linked": (
        fragment([2, 1, 1], [(0, 1)], labels=2, attachments=[1, 0, 1], **LINKED), 0.6
    ),
    "three parts are linked": (fragment([1, 1, 1], [], attachments=[1, 1, 1], **LINKED), 0.6),
    "a ring is closed": (fragment([0, 0], [(0, 1)], attachments=[1, 1], **LINKED), 0.2),
    "a motif is open": (fragment([0, 1], [(0, 1)], valence=9, **SIZES), 0.95),
}  # fmt: skip
"""Fragments, and the share of particles that must arrive."""


@pytest.fixture(scope="module")
def known():
    """Environments, a model of them, all graphs of these, and their probabilities."""
    torch.manual_seed(0)
    environments = with_those_of(Environments([0, 1, 2], [0, 1]), PackedGraphs.from_lists(GRAPHS))
    model = PathModel(
        node_categories=3, edge_categories=2, edge_weights=[1, 2], max_nodes=NODES, back=4,
        closures=[4], environments=environments.arguments(), **SMALL,
    )  # fmt: skip
    model = perturb(model).eval()
    codes = every_code(model.network.support, model.code.cardinalities, NODES)
    graphs = model.code.decode(codes, torch.ones(codes.shape[:2], dtype=torch.bool)).to_packed()
    batch = GraphBatch.collate(graphs.subset(are_known(environments, graphs).nonzero()[0]))
    return environments, model, batch, probabilities_of(model, batch)


@pytest.mark.parametrize("name", KNOWN)
def test_with_environments_weights_are_proper_and_more_particles_arrive(known, name):
    """If only sums of edge weights are looked at, 48, 49, 19 and 90 % of the particles arrive."""
    environments, model, batch, probabilities = known
    wanted, least = KNOWN[name]
    sampler = ParticleSampler(model, wanted)
    means, arrived = [], []
    for seed in range(6):
        drawn = sampler.draw(torch.full((400,), NODES), torch.Generator().manual_seed(seed))
        # Drawing may leave nodes incomplete where nothing else is possible.
        complete = are_known(environments, drawn.graphs.to_packed())
        means.append(float(drawn.log_weights.exp()[torch.from_numpy(complete)].sum()) / 400)
        arrived.append(float(torch.isfinite(drawn.log_weights).float().mean()))
        if seed == 0:
            sampler.learn(drawn)
    assert_proper(means, probabilities, places(batch, wanted))
    assert np.mean(arrived) > least
