"""Small data of every kind, and models that have hardly learned from them."""

import networkx as nx
import numpy as np
import pandas as pd
import pytest
import torch
from couplings import perturb
from torch_geometric.data import Data

from graphcnf import CategoricalModel
from graphcnf.datasets.coloring import load_coloring
from graphcnf.graphs.batch import GraphBatch

SMALL = {"width": 16, "layers": 1, "heads": 2}


def table(rows=60):
    """Columns of every type that may come."""
    random = np.random.default_rng(0)
    colour = random.choice(["red", "green", "blue"], rows).astype(object)
    like = colour.copy()
    like[::7] = None
    size = pd.Categorical(random.choice(["s", "m"], rows), ["s", "m", "l"], ordered=True)
    grades = pd.array(random.integers(1, 4, rows), dtype="Int64")
    grades[::5] = pd.NA
    return pd.DataFrame(
        {
            "colour": colour,
            ("two", 1): pd.Series(like, dtype=object),
            "size": size,
            "yes": random.random(rows) < 0.3,
            "grade": grades.astype(object),
            "code": pd.Series(random.integers(0, 3, rows) * 10).astype("category"),
            "cut": pd.cut(random.normal(size=rows), [-9, 0, 1, 9]),
            "when": pd.Series(pd.to_datetime(["2026-01-01", "2026-02-01"] * (rows // 2))).astype(
                "category"
            ),
        }
    )


def labelled(number):
    """A labelled tree or ring."""
    random = np.random.default_rng(number)
    size = int(random.integers(1, 7))
    graph = (
        nx.cycle_graph(size) if size > 2 and number % 2 else nx.random_labeled_tree(size, seed=1)
    )
    nx.set_node_attributes(graph, {v: str(random.choice(["C", "N"])) for v in graph}, "element")
    nx.set_edge_attributes(graph, {e: int(random.integers(1, 3)) for e in graph.edges}, "order")
    return graph


def as_data(graph):
    """A networkx graph as torch-geometric has it."""
    pairs = torch.tensor(list(graph.edges), dtype=torch.long).reshape(-1, 2)
    orders = torch.tensor([o for _, _, o in graph.edges(data="order")], dtype=torch.long)
    return Data(
        x=torch.tensor([[6 if e == "C" else 7] for _, e in graph.nodes(data="element")]),
        edge_index=torch.cat([pairs, pairs.flip(1)]).T.contiguous(),
        edge_attr=torch.cat([orders, orders]),
    )


GRAPHS = [labelled(k) for k in range(40)]
NUMBERS = np.random.default_rng(1).integers(-2, 2, (50, 3)).astype(np.int16)
DATA = {
    "table": table(),
    "strings": ["", "anna", "otto", "hannah", "ada"] * 12,
    "lists": [[1, "a"], [("t", 2), 1], [1, 1, 1]] * 10,
    "tuples": [(True, False), (False,), (True,)] * 10,
    "array": NUMBERS,
    "tensor": torch.from_numpy(NUMBERS),
    "networkx": GRAPHS,
    "unlabelled": [nx.path_graph(4), nx.star_graph(3), nx.cycle_graph(3), nx.path_graph(1)] * 5,
    "data": [as_data(graph) for graph in GRAPHS],
}


OF_GRAPHS = ("networkx", "unlabelled", "data")
OF_TABLES = ("table", "array", "tensor")


@pytest.fixture(params=DATA)
def kind(request):
    """Name of a kind of data."""
    return request.param


@pytest.fixture
def data(kind):
    return DATA[kind]


@pytest.fixture
def model(kind, data):
    """An untrained model, away from its initialisation."""
    options = {"width": 16} if kind in OF_TABLES else SMALL
    options = options | ({"head_width": 8, "table_rows": 16} if kind in OF_GRAPHS else {})
    return perturb(CategoricalModel.for_data(data, **options), 0.1)


@pytest.fixture(scope="session")
def colorings():
    """400 graphs of four and nine nodes with proper colourings."""
    return load_coloring(nodes=[4, 9], edge_probability=[0.3, 0.5], graphs=400, use_cache=False)


@pytest.fixture
def batch(colorings):
    """Twelve of them."""
    return GraphBatch.collate(colorings.graphs, range(12))
