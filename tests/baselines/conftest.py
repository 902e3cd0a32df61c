"""Small models of the other systems, and graphs for them."""

import pytest
import torch
from couplings import perturb

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
        model.terms(batch)
        return model.eval()

    return build
