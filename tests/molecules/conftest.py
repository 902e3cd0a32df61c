import pytest
import torch

from graphcnf.datasets.molecules import encode
from graphcnf.graphs import GraphCNF
from graphcnf.molecules.flow import MoleculeFlow


@pytest.fixture(scope="session")
def data(zinc_smiles):
    """300 of them as a data set."""
    return encode("zinc250k", zinc_smiles[:300])


@pytest.fixture(scope="module")
def flow(data):
    """A small model of molecules, away from its initialisation."""
    torch.manual_seed(0)
    model = GraphCNF.for_graphs(
        data.graphs,
        node_categories=len(data.vocabulary.atoms),
        bond_categories=len(data.vocabulary.bonds),
        edge_weights=data.vocabulary.bond_orders,
        metadata={"vocabulary": data.vocabulary.to_dict(), "dataset": "zinc250k"},
        width=16,
        layers=1,
        heads=2,
        table_rows=64,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return MoleculeFlow(model)
