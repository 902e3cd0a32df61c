"""Small models of molecules."""

import torch
from couplings import perturb

from graphcnf.graphs.building import model_for_graphs
from graphcnf.molecule_flow import MoleculeFlow
from graphcnf.molecules.vocabulary_building import bond_orders


def small_model(data, metadata=None, **options):
    """A small model of the molecules of a data set, its weights as at the start of a training."""
    torch.manual_seed(0)
    return model_for_graphs(
        data.graphs,
        node_categories=len(data.vocabulary.atoms),
        edge_categories=len(data.vocabulary.bonds),
        metadata={"vocabulary": data.vocabulary.to_dict(), **(metadata or {})},
        **{"width": 16, "layers": 1, "heads": 2, "table_rows": 64, **options},
    )


def small_flow(data):
    """The flow of a small model, away from its initialisation."""
    orders = bond_orders(data.vocabulary)
    model = small_model(data, {"dataset": "zinc250k"}, edge_weights=orders)
    return MoleculeFlow(perturb(model, 0.05))
