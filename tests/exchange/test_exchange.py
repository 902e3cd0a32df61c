"""Graphs of PyTorch Geometric and of networkx: in, out, and the same again."""

import networkx as nx
import numpy as np
import pytest
import torch
from small_graphs import random_graph
from torch_geometric.data import Batch, Data
from torch_geometric.datasets import ExplainerDataset
from torch_geometric.datasets.graph_generator import TreeGraph
from torch_geometric.utils import from_smiles

from graphcnf import CategoricalModel, GraphBatch, MoleculeFlow, PackedGraphs
from graphcnf.errors import UserError
from graphcnf.exchange.nx_graphs import from_networkx, to_networkx
from graphcnf.exchange.pyg import from_pyg, smiles_of, to_pyg
from graphcnf.molecules.validity import strict_smiles
from graphcnf.molecules.vocabulary import MoleculeVocabulary

RANDOM = np.random.default_rng(0)
VOCABULARY = MoleculeVocabulary((("C", 0), ("N", 1), ("O", -1), ("C", 0, True)))
MOLECULES = ["CCO", "CC(=O)Nc1ccc(O)cc1", "C[N+](C)(C)CC([O-])=O", "N#Cc1ccccc1", "C"]


@pytest.fixture(scope="module")
def flow():
    return MoleculeFlow.from_pretrained("zinc250k")


def test_lists_batches_and_one_hot_rows_are_the_same_graphs():
    packed = PackedGraphs.from_lists(random_graph(RANDOM) for _ in range(12))
    data = to_pyg(packed)
    assert from_pyg(data) == from_pyg(Batch.from_data_list(data)) == packed
    vectors = [d.clone() for d in data]
    for d in vectors:
        d.x = torch.nn.functional.one_hot(d.x, 9).float()
        d.edge_attr = torch.nn.functional.one_hot(d.edge_attr, 9)
    assert from_pyg(vectors) == packed
    batch = GraphBatch.collate(packed)
    assert from_pyg(to_pyg(batch.to_packed())) == packed


def test_a_sample_is_data_and_comes_back(flow):
    sample = flow.sample(4, seed=1, stereo=False)
    data = sample.to_pyg()
    assert smiles_of(data) == sample.smiles
    for d in data:
        del d.smiles
    assert smiles_of(Batch.from_data_list(data), flow.vocabulary) == sample.smiles
    with pytest.raises(UserError, match="graph 0 has no attribute smiles"):
        smiles_of(data)


@pytest.mark.parametrize("kekulize", [False, True])
def test_features_of_from_smiles_are_recognised(flow, kekulize):
    data = [from_smiles(text, kekulize=kekulize) for text in MOLECULES]
    assert smiles_of(data) == MOLECULES
    for d in data:
        del d.smiles
    assert (flow.log_prob(smiles_of(data)) == flow.log_prob(MOLECULES)).all()


def test_what_is_no_molecule_is_none_or_says_which_graph():
    odd = from_smiles("CCO")
    del odd.smiles
    odd.x[1, 0] = 9  # fluorine with two bonds
    assert smiles_of([from_smiles("C"), odd]) == ["C", None]
    odd.edge_attr[:, 0] = 99
    with pytest.raises(UserError, match="graph 1 is no molecule"):
        smiles_of([from_smiles("C"), odd])


def test_a_model_learns_a_dataset_and_gives_its_type_back():
    dataset = ExplainerDataset(TreeGraph(1, 3), "house", num_motifs=1, num_graphs=12)
    for d in (items := list(dataset)):
        d.x = torch.nn.functional.one_hot(d.y, 4).float()
    model = CategoricalModel.fit(Batch.from_data_list(items), steps=1, held_out=0.1)
    drawn = model.sample(2)
    assert all(isinstance(d, Data) and d.x.shape == (d.num_nodes, 4) for d in drawn)
    assert all((d.x.sum(1) == 1).all() and d.edge_attr is None for d in drawn)
    nats = model.log_prob(items)
    assert (model.log_prob(Batch.from_data_list(items)) == nats).all() and (nats < 0).all()
    # The data set itself has no x: graphs without labels.
    plain = CategoricalModel.for_data(dataset)
    assert plain.sample(1)[0].x is None and len(plain.log_prob(dataset)) == 12


def test_graphs_of_networkx_come_back():
    packed = PackedGraphs.from_lists(random_graph(RANDOM) for _ in range(12))
    assert from_networkx(to_networkx(packed)) == packed
    plain = from_networkx([nx.path_graph(3), nx.Graph()])
    assert plain.node_counts.tolist() == [3, 0] and plain.edge_types.tolist() == [0, 0]


def test_molecules_have_names(flow):
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
        (nx.DiGraph([(0, 1)]), "graph 1 must be an nx.Graph, got a DiGraph"),
        (nx.MultiGraph([(0, 1)]), "got a MultiGraph"),
        (nx.path_graph(2), "graph 1 has the label 0; known are C, N"),
    ],
)
def test_what_is_no_graph_of_networkx_is_refused(graph, message):
    with pytest.raises(UserError, match=message):
        from_networkx([nx.Graph(), graph], VOCABULARY)
