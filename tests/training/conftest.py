import pytest
import tiny_run


@pytest.fixture(scope="session")
def tiny():
    """A module with a tiny model and its data, which runs as a script, too."""
    return tiny_run
