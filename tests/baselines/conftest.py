"""Small models of the other systems, and graphs for them."""

import itertools

import pytest
import torch
from couplings import perturb

from graphcnf.graphs import GraphBatch
from graphcnf.graphs.building import model_class

SIZES = {
    "graphnvp": {"width": [16, 12], "node_width": 8, "layers": 2},
    "graphaf": {"width": 16, "layers": 2, "window": 12},
}


@pytest.fixture
def build():
    """Function that builds a small model away from its initialisation, its actnorms set."""

    def build(name, batch, *, nodes, bonds, scale=0.2, **options):
        torch.manual_seed(0)
        config = {"node_categories": nodes, "edge_categories": bonds} | SIZES[name] | options
        config["max_nodes"] = batch.mask.shape[1]
        model = perturb(model_class(name.split()[0])(**config), scale).train()
        model.bounds(batch)
        return model.eval()

    return build


@pytest.fixture
def random_batch():
    """Function that draws graphs of all sizes up to `most`, connected or not."""

    def draw(count, most, nodes=3, bonds=2, seed=0):
        generator = torch.Generator().manual_seed(seed)
        sizes = torch.randint(1, most + 1, (count,), generator=generator)
        sizes[0] = most
        mask = torch.arange(most) < sizes[:, None]
        types = torch.randint(nodes, (count, most), generator=generator)
        lower = torch.randint(bonds + 1, (count, most, most), generator=generator)
        lower = lower * (torch.rand(count, most, most, generator=generator) < 0.6)
        lower = lower.tril(-1)
        return GraphBatch(types, lower + lower.transpose(1, 2), mask).clear_padding()

    return draw


@pytest.fixture
def pairs_of_nodes():
    """Every labelled graph of two nodes, with 2 categories of nodes and of edges."""
    types = torch.tensor(list(itertools.product(range(2), repeat=2))).repeat_interleave(3, 0)
    kinds = torch.arange(3).repeat(4)
    bonds = torch.zeros(12, 2, 2, dtype=torch.long)
    bonds[:, 0, 1] = bonds[:, 1, 0] = kinds
    return GraphBatch(types, bonds, torch.ones(12, 2, dtype=torch.bool))
