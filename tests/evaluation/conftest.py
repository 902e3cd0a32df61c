import random

import pytest

from graphcnf.datasets.zinc250k import zinc250k_source


@pytest.fixture(scope="session")
def zinc_smiles():
    """300 molecules of ZINC250k as the file writes them, and all of the rare categories."""
    lines = zinc250k_source().read_text().split()
    rare = [s for s in lines if "P" in s or "[O+]" in s or "[S+]" in s or "[o+]" in s]
    return random.Random(0).sample(lines, 300) + rare[:50]


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    """A cache of its own: no test reads or writes the user's."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("GRAPHCNF_CACHE", str(folder))
    return folder
