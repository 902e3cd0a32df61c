"""Graphs, small models, and couplings with what they are called with."""

from dataclasses import dataclass

import networkx as nx
import numpy as np
import pytest
import torch
from torch import nn

from graphcnf.categorical import IntervalEncoding
from graphcnf.categorical.interleaved import InterleavedCoupling
from graphcnf.categorical.two_streams import InterleavedAttention
from graphcnf.datasets.zinc250k import zinc250k_source
from graphcnf.flows.transform import Bijection
from graphcnf.graphs import GraphBatch, GraphCNF, PackedGraphs
from graphcnf.graphs.features import (
    GraphContext,
    structure_context,
    structure_node_features,
    structure_pair_features,
)
from graphcnf.molecules.codec import MoleculeNotRepresentable, molecule_to_graph
from graphcnf.molecules.vocabulary import MoleculeVocabulary

ATOMS = (
    ("C", 0),
    ("N", 0),
    ("O", 0),
    ("S", 0),
    ("F", 0),
    ("N", 1),
    ("Cl", 0),
    ("O", -1),
    ("Br", 0),
)


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


@pytest.fixture
def double():
    """Everything in float64, and reproducible."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def perturb(module, scale=0.3):
    """Move a module away from its initialisation, which ignores most of the input."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return module


SMALL = {"width": 16, "layers": 2, "heads": 2, "head_width": 8, "level_width": 4, "table_rows": 64}


@pytest.fixture(scope="session")
def build_model():
    """Function that builds a small GraphCNF for graphs, away from its initialisation."""

    def build(graphs, *, node_categories=3, bond_categories=2, **extra):
        torch.manual_seed(0)
        model = GraphCNF.for_graphs(
            graphs,
            node_categories=node_categories,
            bond_categories=bond_categories,
            **SMALL,
            **extra,
        )
        return perturb(model).eval()

    return build


class Flat(Bijection):
    """A coupling with its nodes' variables as one set of scalars, (B, N * V, 1)."""

    def __init__(self, coupling, shape):
        super().__init__()
        self.coupling, self.shape = coupling, tuple(shape)

    def forward(self, x, *, mask=None, context=None, noise=None, discarded=None):
        mask = mask.unflatten(1, self.shape)
        z, log_term = self.coupling(x.unflatten(1, self.shape)[..., 0], mask=mask, context=context)
        return z.flatten(1)[..., None], log_term

    def inverse_and_logdet(self, z, *, mask=None, context=None):
        mask = mask.unflatten(1, self.shape)
        z = z.unflatten(1, self.shape)[..., 0]
        x, log_det = self.coupling.inverse_and_logdet(z, mask=mask, context=context)
        return x.flatten(1)[..., None], log_det


@dataclass
class Case:
    """A coupling, and what it is called with for a batch of graphs."""

    coupling: InterleavedCoupling
    x: torch.Tensor
    mask: torch.Tensor
    context: object

    @property
    def flat(self) -> tuple[nn.Module, dict]:
        """The coupling for the assertions of `graphcnf.testing`, and their arguments."""
        mask = self.mask.flatten(1)
        arguments = {"mask": mask, "context": self.context}
        arguments["x"] = self.x.flatten(1)[..., None]
        return Flat(self.coupling, self.x.shape[1:]), arguments

    @property
    def categories(self) -> torch.Tensor:
        return self.coupling.categories(self.x, self.mask)


@pytest.fixture(params=["path", "path without support", "groups"])
def make_case(request, build_model, random_graphs):
    """Function that gives a coupling as it is called for some of the random graphs.

    "groups" decides node categories in three rounds, given the connectivity.
    """

    def make(indices):
        batch = GraphBatch.collate(random_graphs, indices)
        if request.param == "groups":
            torch.manual_seed(0)
            network = InterleavedAttention(
                [3],
                features=structure_node_features(),
                pair_features=structure_pair_features(),
                positions=12,
                width=16,
                layers=2,
                heads=2,
            )
            coupling = InterleavedCoupling(perturb(network), groups=3).eval()
            context = structure_context(batch.adjacency, batch.mask, torch.get_default_dtype())
            values = batch.node_types[..., None]
        else:
            model = build_model(random_graphs, support=request.param == "path")
            coupling, context = model.steps.flow.flow, GraphContext(batch.mask)
            values = model.steps.code.encode(batch)
        torch.manual_seed(1)
        mask = batch.mask[..., None].expand_as(values)
        encoding = IntervalEncoding(coupling.network.cardinalities)
        return Case(coupling, encoding.encode(values, mask=mask).z, mask, context)

    return make
