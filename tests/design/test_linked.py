"""One linker at all attachments of a fragment: it is there, and the weights undo the force."""

from itertools import permutations

import numpy as np
import pytest
import torch
from small_graphs import build_model, every_numbered_graph

from graphcnf.design.linked import LinkedFragment
from graphcnf.design.particles import MANY_RINGS, ParticleSampler
from graphcnf.graphs import GraphBatch

NODES = 6


@pytest.fixture(scope="module")
def every():
    """A model of nodes and edges of one category; its graphs, and their probabilities."""
    packed = every_numbered_graph(NODES, closures=2)
    model = build_model(packed, node_categories=1, edge_categories=1)
    batch = GraphBatch.collate(packed)
    with torch.no_grad():
        probabilities = model.log_prob(batch).double().exp().numpy()
    assert probabilities.sum() == pytest.approx(1, abs=1e-3)
    return model, batch.adjacency.int().numpy(), probabilities


def linked(attachments, edges, rings):
    """A closed fragment of nodes of one category."""
    return LinkedFragment(
        categories=torch.ones(len(attachments), 1, dtype=torch.bool),
        edges=torch.tensor(edges, dtype=torch.long).reshape(-1, 2),
        structures=torch.tensor([[[False, True]] * len(edges)]).reshape(1, -1, 2),
        valence=torch.zeros(len(attachments), dtype=torch.long),
        attachments=torch.tensor(attachments),
        plain=torch.tensor([False, True]),
        new_rings=rings,
    )


def places(graphs, attachments, edges, rings):
    """Ways to find a fragment in each graph, from all choices of its nodes."""
    wanted = np.zeros((len(attachments), len(attachments)), dtype=int)
    for i, j in edges:
        wanted[i, j] = wanted[j, i] = 1
    counts = np.zeros(len(graphs), dtype=int)
    for place in permutations(range(NODES), len(attachments)):
        rest = [node for node in range(NODES) if node not in place]
        inside, linker = graphs[:, place][:, :, place], graphs[:, rest][:, :, rest]
        fits = (inside == wanted).all((1, 2))
        fits &= (graphs[:, place].sum(2) - wanted.sum(1) == attachments).all(1)
        reached = np.linalg.matrix_power(linker + np.eye(len(rest), dtype=int), NODES)
        cycles = linker.sum((1, 2)) // 2 - len(rest) + 1
        counts += fits & (reached > 0).all((1, 2)) & (cycles >= rings[0]) & (cycles <= rings[1])
    return counts


ANY = (0, MANY_RINGS)
CASES = {
    "two attachments of one node": ([2, 0, 1], [(0, 1), (1, 2)], ANY),
    "three points of a ring": ([1, 1, 1], [(0, 1), (1, 2), (0, 2)], ANY),
    "two parts, one of which is in a ring": ([1, 1, 1], [(0, 1)], ANY),
    "no rings in the linker": ([1, 1], [(0, 1)], (0, 0)),
    "one ring in the linker": ([1, 1], [(0, 1)], (1, 1)),
}


@pytest.mark.parametrize("name", CASES)
def test_weights_are_proper(every, name):
    """Their mean is the model's mean number of places: every depth-first order can be drawn."""
    model, graphs, probabilities = every
    wanted = places(graphs, *CASES[name])
    sampler, means = ParticleSampler(model, linked(*CASES[name])), []
    for seed in range(6):
        drawn = sampler.draw(torch.full((400,), NODES), torch.Generator().manual_seed(seed))
        means.append(float(drawn.log_weights.exp().mean()))
        if seed == 0:
            placed = torch.isfinite(drawn.log_weights)
            assert places(drawn.graphs.adjacency[placed].int().numpy(), *CASES[name]).all()
            sampler.learn(drawn)
    exact, error = float(probabilities @ wanted), np.std(means) / len(means) ** 0.5
    # Four standard errors; a third of the graphs that is missing would show.
    assert abs(np.mean(means) - exact) < 4 * error < 0.3 * exact


def test_smallest_ring_that_a_linker_closes():
    chain = [(0, 1), (1, 2), (2, 3)]
    for attachments, ring in (([1, 0, 0, 1], 5), ([2, 0, 0, 0], 3), ([1, 1, 0, 1], 4)):
        assert linked(attachments, chain, ANY).closed_ring == ring, attachments
    assert linked([1, 0, 0, 1], chain[:1] + chain[2:], ANY).closed_ring == 0
