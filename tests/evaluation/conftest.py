import pytest


@pytest.fixture(scope="session")
def zinc_smiles(zinc_smiles):
    """350 of them, the rare ones included."""
    return zinc_smiles[:300] + zinc_smiles[-50:]


@pytest.fixture(autouse=True)
def _own_cache(cache_folder):
    pass
