"""`PairsModel`, with one latent per pair of nodes: exactness, normalisation, invariance."""

import math
from functools import partial

import pytest
import torch
from couplings import perturb
from small_graphs import every_graph, random_batch

from graphcnf.flows import Noise
from graphcnf.graphs import GraphBatch, PairsModel
from graphcnf.graphs.features import GraphContext
from graphcnf.graphs.pairs import GraphLatents, PairNetwork, all_pairs, joint_flow
from graphcnf.testing import assert_gradients_reach_every_parameter, assert_normalised

STEP = {"couplings": 2, "width": 16, "layers": 1, "heads": 2}
JOINT = {**STEP, "pair_width": 8}


def pair_model(order, nodes=2, bonds=2, most=3, seed=0, **options):
    torch.manual_seed(seed)
    sizes = {"node_categories": nodes, "edge_categories": bonds, "max_nodes": most}
    parts = {"nodes": STEP, "edges": JOINT, "adjacency": JOINT}
    model = PairsModel(order=order, **sizes, **parts, **options)
    return perturb(model, 0.1).double()


pytestmark = pytest.mark.usefixtures("double")


@pytest.fixture(params=["canonical", "none"])
def order(request):
    return request.param


def initialised(model, batch):
    """Let the actnorms see a batch."""
    model.train().terms(batch)
    return model.eval()


def same(a: GraphBatch, b: GraphBatch) -> bool:
    return bool((a.node_types == b.node_types).all() and (a.edge_labels == b.edge_labels).all())


def test_reconstruction_is_exact(order):
    batch = random_batch(40, 7, 3, 3)
    # Encodings whose volumes overlap at random weights are no test of the flow: argmax is exact.
    model = initialised(pair_model(order, 3, 3, 7, encoding="argmax"), batch)
    with torch.no_grad():
        latents = model.encode(batch)
        back = model.decode(latents, batch.mask)
    accuracy = model.terms(batch)["adjacency"].correct
    right = accuracy == 1
    assert right.float().mean() > 0.5
    back = back[right]
    assert same(back, batch[right])


def permuted_noise(noise: Noise, batch: GraphBatch, order) -> Noise:
    """The noise of the same nodes, edges and pairs after renumbering."""
    index, _ = all_pairs(batch.mask)
    count = batch.mask.shape[1]
    moved = batch.permute(order)

    def pair_number(i, j):
        i, j = max(i, j), min(i, j)
        return i * (i - 1) // 2 + j

    def edges_of(graph, b):
        present = [tuple(p) for p in index[b].tolist() if graph.edge_labels[b, p[0], p[1]] > 0]
        return {frozenset(p): k for k, p in enumerate(present)}

    result = Noise()
    for draw in noise.draws:
        new = draw.clone()
        for b in range(len(batch)):
            old_of = order[b].tolist()
            if draw.shape[1] == count and draw.shape[-1] == 6:
                new[b] = draw[b, order[b]]
                continue
            everything = draw.shape[1] == index.shape[1] and draw is noise.draws[-1]
            if everything:
                for p, (i, j) in enumerate(index[b].tolist()):
                    new[b, p] = draw[b, pair_number(old_of[i], old_of[j])]
            else:
                before, after = edges_of(batch, b), edges_of(moved, b)
                for pair, k in after.items():
                    i, j = pair
                    new[b, k] = draw[b, before[frozenset((old_of[i], old_of[j]))]]
        result.draws.append(new)
    return result.rewind()


def test_unordered_bound_is_invariant_to_renumbering():
    batch = random_batch(8, 6, 3, 2, seed=1)
    batch.mask[:] = True
    batch.node_types = torch.randint(3, batch.node_types.shape)
    model = initialised(pair_model("none", 3, 2, 6), batch)
    noise = Noise()
    with torch.no_grad():
        first = model.log_prob(batch, noise=noise)
        order = torch.stack([torch.randperm(6) for _ in range(8)])
        second = model.log_prob(batch.permute(order), noise=permuted_noise(noise, batch, order))
        other = model.log_prob(batch.permute(order))
    bits = (first - second).abs() / (6 * math.log(2))
    assert bits.max() < 1e-8
    # Fresh noise does change it: the comparison above is one of more than constants.
    assert (first - other).abs().min() > 1e-4


def every_graph_of_three():
    """Two categories of nodes and one of bonds."""
    return GraphBatch.collate(every_graph(3, types=2))


def fitted(order, space, steps=40, rate=2e-2):
    """A small model fitted to the space: at random weights the estimate is far too noisy."""
    model = pair_model(order, bonds=1, node_dim=2, node_mixtures=3, pair_mixtures=3)
    model = initialised(model, space)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - step / steps)
        loss, _ = model.training_loss(space)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model


def test_probabilities_of_all_graphs_of_three_nodes_sum_to_one(order):
    space = every_graph_of_three()
    model = fitted(order, space)
    assert_normalised(model.log_prob, space, samples=8, repeats=10, max_error=0.1)


def test_more_samples_tighten_the_bound():
    space = every_graph_of_three()
    model = initialised(pair_model("none", bonds=1), space)
    with torch.no_grad():
        means = [
            torch.stack([model.log_prob(space, samples=k) for _ in range(32 // k)]).mean()
            for k in (1, 4, 16)
        ]
    assert means[0] < means[1] < means[2]


def test_gradients_reach_every_parameter(order):
    batch = random_batch(12, 6, 3, 2, seed=3)
    model = initialised(pair_model(order, 3, 2, 6), batch)
    assert_gradients_reach_every_parameter(model, lambda: model.training_loss(batch)[0])


def test_joint_coupling_round_trip_and_log_det():
    torch.manual_seed(0)
    mask = torch.tensor([[True] * 4, [True, True, True, False]])
    index, pair_mask = all_pairs(mask)
    network = partial(PairNetwork, ordered=False, max_nodes=4, width=16, heads=2)
    coupling = joint_flow(network, couplings=1, dims=(6, 2), mixtures=(2, 2))[2]
    for parameter in coupling.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = GraphLatents(
        torch.randn(2, 4, 6) * mask[..., None],
        torch.randn(2, 6, 2) * pair_mask[..., None],
        mask,
        pair_mask,
        index,
    )
    context = GraphContext(mask)
    z, log_det = coupling(x, context)
    back, inverse_log_det = coupling.inverse_and_logdet(z, context)
    assert (back.nodes - x.nodes).abs().max() < 1e-9
    assert (back.pairs - x.pairs).abs().max() < 1e-9
    assert (log_det + inverse_log_det).abs().max() < 1e-9

    def flat(values):
        nodes, pairs = values[:24].reshape(1, 4, 6), values[24:].reshape(1, 6, 2)
        out, _ = coupling(
            GraphLatents(nodes, pairs, mask[:1], pair_mask[:1], index[:1]), GraphContext(mask[:1])
        )
        return torch.cat([out.nodes.flatten(), out.pairs.flatten()])

    jacobian = torch.autograd.functional.jacobian(
        flat, torch.cat([x.nodes[0].flatten(), x.pairs[0].flatten()])
    )
    assert abs(torch.linalg.slogdet(jacobian)[1] - log_det[0]) < 1e-8
