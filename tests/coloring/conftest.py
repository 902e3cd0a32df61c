import pytest

from graphcnf.datasets.coloring import load_coloring
from graphcnf.graphs.batch import GraphBatch


@pytest.fixture(scope="session")
def data():
    return load_coloring(nodes=[4, 9], edge_probability=[0.3, 0.5], graphs=400, use_cache=False)


@pytest.fixture
def batch(data):
    return GraphBatch.collate(data.graphs, range(12))
