import pytest


@pytest.fixture(autouse=True)
def _own_cache(cache_folder):
    pass
