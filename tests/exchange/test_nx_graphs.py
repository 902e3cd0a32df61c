"""Graphs of networkx: in, out, and the same again."""

import networkx as nx
import numpy as np
import pytest
from small_graphs import random_graph

from graphcnf import MoleculeFlow, PackedGraphs
from graphcnf.errors import UserError
from graphcnf.exchange.nx_graphs import from_networkx, to_networkx
from graphcnf.molecules.validity import strict_smiles
from graphcnf.molecules.vocabulary import MoleculeVocabulary

RANDOM = np.random.default_rng(0)
VOCABULARY = MoleculeVocabulary((("C", 0), ("N", 1), ("O", -1), ("C", 0, True)))


def test_graphs_come_back():
    packed = PackedGraphs.from_lists(random_graph(RANDOM) for _ in range(12))
    assert from_networkx(to_networkx(packed)) == packed
    plain = from_networkx([nx.path_graph(3), nx.Graph()])
    assert plain.node_counts.tolist() == [3, 0] and plain.edge_types.tolist() == [0, 0]


def test_molecules_have_names():
    flow = MoleculeFlow.from_pretrained("zinc250k")
    graphs, _ = flow.graphs(["C[NH+](C)CC(=O)[O-]", "c1ccccc1"])
    zwitterion, ring = to_networkx(graphs, flow.vocabulary)
    names = sorted(name for _, name in zwitterion.nodes(data="label"))
    assert names == ["C", "C", "C", "C", "N+", "O", "O-"]
    assert {name for _, _, name in ring.edges(data="label")} == {
        "AROMATIC_SINGLE", "AROMATIC_DOUBLE",
    }  # fmt: skip
    again = from_networkx([zwitterion, ring], flow.vocabulary)
    assert again == graphs
    assert strict_smiles(again, flow.vocabulary) == ["C[NH+](C)CC(=O)[O-]", "c1ccccc1"]


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (nx.DiGraph([(0, 1)]), "graph 1 must be a nx.Graph, got a DiGraph"),
        (nx.MultiGraph([(0, 1)]), "got a MultiGraph"),
        (nx.path_graph(2), "graph 1 has the label 0; known are C, N"),
    ],
)
def test_what_is_none_is_refused(graph, message):
    with pytest.raises(UserError, match=message):
        from_networkx([nx.Graph(), graph], VOCABULARY)
