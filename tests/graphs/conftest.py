"""Graphs, small models, and couplings with what they are called with."""

import networkx as nx
import numpy as np
import pytest
import torch
from couplings import Case, perturb

from graphcnf.datasets.zinc250k import zinc250k_source
from graphcnf.flows import Context
from graphcnf.graphs import GraphBatch, GraphModel, PackedGraphs
from graphcnf.molecules.codec import MoleculeNotRepresentable, molecule_to_graph
from graphcnf.molecules.vocabulary import MoleculeVocabulary

ATOMS = [*((element, 0) for element in ("C", "N", "O", "S", "F", "Cl", "Br")), ("N", 1), ("O", -1)]


def random_graph(random, most=12):
    """A random connected graph, numbered depth-first, with random categories."""
    n = int(random.integers(1, most + 1))
    graph = nx.random_labeled_tree(n, seed=int(random.integers(1 << 30)))
    for i, j in random.integers(0, n, (int(random.integers(0, 2 + n // 2)), 2)):
        if i != j:
            graph.add_edge(int(i), int(j))
    # Neighbours in random order: depth-first numberings of every kind.
    nodes = random.permutation(n).tolist()
    shuffled = nx.Graph()
    shuffled.add_nodes_from(nodes)
    shuffled.add_edges_from(random.permutation(np.array(graph.edges).reshape(-1, 2)).tolist())
    number = {v: k for k, v in enumerate(nx.dfs_preorder_nodes(shuffled, nodes[0]))}
    edges = [(number[i], number[j]) for i, j in shuffled.edges]
    return random.integers(0, 3, n), edges, random.integers(0, 2, len(edges))


@pytest.fixture(scope="session")
def random_graphs():
    """4,000 random connected graphs of up to 12 nodes, 3 node and 2 edge categories."""
    random = np.random.default_rng(0)
    packed = PackedGraphs.from_lists(random_graph(random) for _ in range(4400))
    # Few have a node with more than three earlier neighbours: too few to test with.
    lower = GraphBatch.collate(packed).adjacency.tril(-1)
    usable = np.flatnonzero(lower.sum(-1).amax(-1).numpy() <= 3)
    return packed.subset(usable[:4000])


@pytest.fixture(scope="session")
def molecules():
    """300 molecules of ZINC250k."""
    vocabulary, graphs = MoleculeVocabulary(ATOMS), []
    for smiles in zinc250k_source().read_text().split()[::800]:
        try:
            graphs.append(molecule_to_graph(smiles, vocabulary))
        except MoleculeNotRepresentable:
            continue
    assert len(graphs) > 300
    return PackedGraphs.from_lists(graphs[:300])


SMALL = {"width": 16, "layers": 2, "heads": 2, "head_width": 8, "level_width": 4, "table_rows": 64}


@pytest.fixture(scope="session")
def build_model():
    """Function that builds a small GraphModel for graphs, away from its initialisation."""

    def build(graphs, *, node_categories=3, bond_categories=2, **extra):
        torch.manual_seed(0)
        model = GraphModel.for_graphs(
            graphs,
            node_categories=node_categories,
            bond_categories=bond_categories,
            **SMALL,
            **extra,
        )
        return perturb(model).eval()

    return build


@pytest.fixture(params=["path", "path without support"])
def make_case(request, build_model, random_graphs):
    """Function that gives a path coupling as it is called for some of the random graphs."""

    def make(count, most):
        there = np.flatnonzero(random_graphs.node_counts <= most)[:count]
        batch = GraphBatch.collate(random_graphs, there)
        model = build_model(random_graphs, support=request.param == "path")
        values = model.code.encode(batch)
        return Case.of(model.flow.transform, values, Context(batch.mask))

    return make
