import pytest
import torch
from small_molecules import small_model

from graphcnf.datasets.molecules import encode
from graphcnf.molecules.molecule_flow import MoleculeFlow


@pytest.fixture(scope="session")
def data(zinc_smiles):
    """300 of them as a data set."""
    return encode("zinc250k", zinc_smiles[:300])


@pytest.fixture(scope="module")
def flow(data):
    """A small model of molecules, away from its initialisation."""
    orders = data.vocabulary.bond_orders
    model = small_model(data, {"dataset": "zinc250k"}, edge_weights=orders)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return MoleculeFlow(model)
