import pytest
from small_molecules import small_flow

from graphcnf.datasets.molecules import encode


@pytest.fixture(scope="session")
def data(zinc_smiles):
    """300 of them as a data set."""
    return encode("zinc250k", zinc_smiles[:300])


@pytest.fixture(scope="module")
def flow(data):
    """A small model of molecules, away from its initialisation."""
    return small_flow(data)
