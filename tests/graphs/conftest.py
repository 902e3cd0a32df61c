"""Graphs, small models, and couplings with what they are called with."""

import networkx as nx
import numpy as np
import pytest
import small_graphs
from couplings import Case

from graphcnf.datasets.zinc250k import zinc250k_source
from graphcnf.flows import Context
from graphcnf.graphs import GraphBatch, PackedGraphs
from graphcnf.molecules.codec import MoleculeNotRepresentable, molecule_to_graph
from graphcnf.molecules.vocabulary import MoleculeVocabulary

ATOMS = [*((element, 0) for element in ("C", "N", "O", "S", "F", "Cl", "Br")), ("N", 1), ("O", -1)]


@pytest.fixture(scope="session")
def random_graphs():
    """4,000 random connected graphs of up to 12 nodes, 3 node and 2 edge categories."""
    return small_graphs.random_graphs()


@pytest.fixture(scope="session")
def graphs_in_parts():
    """60 random graphs of up to 9 nodes, some in parts, 3 node and 2 edge categories."""
    random, graphs = np.random.default_rng(1), []
    for seed in range(60):
        graph = nx.gnp_random_graph(int(random.integers(1, 10)), 0.35, seed=seed)
        edges = list(graph.edges)
        graphs.append((random.integers(0, 3, len(graph)), edges, random.integers(0, 2, len(edges))))
    return PackedGraphs.from_lists(graphs)


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


@pytest.fixture(scope="session")
def build_model():
    """Function that builds a small GraphModel for graphs, away from its initialisation."""
    return small_graphs.build_model


@pytest.fixture(params=["path", "path without support", "path with multi-query attention"])
def make_case(request, build_model, random_graphs):
    """Function that gives a path coupling as it is called for some of the random graphs."""

    def make(count, most):
        there = np.flatnonzero(random_graphs.node_counts <= most)[:count]
        batch = GraphBatch.collate(random_graphs, there)
        options = {"multi_query": True} if "multi-query" in request.param else {}
        model = build_model(
            random_graphs, support=request.param != "path without support", **options
        )
        values = model.code.encode(batch)[0]
        return Case.of(model.flow.transform, values, Context(batch.mask))

    return make
