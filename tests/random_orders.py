"""Properties of every graph model whose order of nodes is a latent."""

from itertools import combinations

import torch

from graphcnf.flows import Noise
from graphcnf.graphs import GraphBatch, PackedGraphs


def noise_of(uniforms):
    """A tape with these uniforms of the order as its first draw."""
    noise = Noise()
    noise.draws.append(uniforms)
    return noise


@torch.no_grad()
def numbering_does_not_count(model, batch):
    """Graphs of one size, renumbered together with the uniforms of their order."""
    noise = Noise()
    order = torch.stack([torch.randperm(batch.mask.shape[1]) for _ in range(len(batch))])
    first = model.log_prob(batch, noise=noise)
    uniforms = noise.draws[0].gather(1, order[..., None].expand_as(noise.draws[0]))
    second = model.log_prob(batch.permute(order), noise=noise_of(uniforms))
    other = model.log_prob(batch.permute(order))
    torch.testing.assert_close(first, second, atol=1e-8, rtol=0)
    # Fresh noise does change it: the comparison above is one of more than constants.
    assert (first - other).abs().max() > 1e-3


def latents_lead_back(model, batch):
    assert model.decode(model.encode(batch), batch.mask).to_packed() == batch.to_packed()


@torch.no_grad()
def equal_nodes_have_equal_orders(model, nodes):
    """In a complete graph of equal nodes every order has the probability 1/n!, to float64."""
    edges = list(combinations(range(nodes), 2))
    graph = [0] * nodes, edges, [0] * len(edges)
    term = model.bounds(GraphBatch.collate(PackedGraphs.from_lists([graph])))["order"].value()
    assert term.dtype == torch.float64 and term.abs().max() < 1e-12
