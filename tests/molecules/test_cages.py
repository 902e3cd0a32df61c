"""Very symmetric cages: what a molecule is does not depend on the order of its atoms."""

import random

import networkx as nx
import pytest
from rdkit import Chem

from graphcnf.molecules.cages import is_cage
from graphcnf.molecules.codec import canonical_smiles, graph_to_molecule, molecule_to_graph
from graphcnf.molecules.vocabulary import MoleculeVocabulary

VOCABULARY = MoleculeVocabulary((("C", 0), ("F", 0)))


def subdivided(graph):
    """With a node in every edge."""
    return nx.Graph([(end, edge) for edge in graph.edges for end in edge])


def buckminsterfullerene():
    solid = nx.icosahedral_graph()
    graph = nx.Graph()
    for u in solid:
        for v in solid[u]:
            graph.add_edge((u, v), (v, u), order=2)
            graph.add_edges_from(((u, v), (u, w), {"order": 1}) for w in solid[u] if w in solid[v])
    return graph


CAGES = {
    "Heawood": nx.heawood_graph(),
    "Moebius-Kantor": nx.moebius_kantor_graph(),
    "Pappus": nx.pappus_graph(),
    "F26A": nx.LCF_graph(26, [-7, 7], 13),
    "Tutte-Coxeter": nx.LCF_graph(30, [-13, -9, 7, -7, 9, 13], 5),
    "Dyck": nx.LCF_graph(32, [5, -5, 13, -13], 8),
    "circulant": nx.circulant_graph(13, [1, 5]),
    "lines of Petersen": nx.line_graph(nx.petersen_graph()),
    "Petersen with CH2": subdivided(nx.petersen_graph()),
    "Heawood with CH2": subdivided(nx.heawood_graph()),
}
SOUND = {
    "cubane": nx.cubical_graph(),
    "dodecahedrane": nx.dodecahedral_graph(),
    "Petersen": nx.petersen_graph(),
    "fullerene": buckminsterfullerene(),
}


def shuffled(graph, chance):
    """The molecule of carbon atoms on a graph, numbered at random."""
    nodes, edges = list(graph), list(graph.edges(data="order", default=1))
    chance.shuffle(nodes)
    chance.shuffle(edges)
    place = {node: k for k, node in enumerate(nodes)}
    mol = Chem.RWMol()
    for _ in nodes:
        mol.AddAtom(Chem.Atom(6))
    for a, b, order in edges:
        mol.AddBond(place[a], place[b], Chem.BondType.values[order])
    Chem.SanitizeMol(mol)
    return mol.GetMol()


@pytest.mark.parametrize("name", CAGES | SOUND)
def test_a_function_of_the_molecule(name):
    chance, graph = random.Random(0), (CAGES | SOUND)[name]
    mols = [shuffled(graph, chance) for _ in range(12)]
    (smiles,) = {canonical_smiles(mol) for mol in mols}
    # The SMILES is one of the same molecule, and its own canonical form.
    again = Chem.MolFromSmiles(smiles)
    assert canonical_smiles(again) == smiles
    bonds = nx.Graph((b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in again.GetBonds())
    assert nx.is_isomorphic(bonds, graph)
    packed = [molecule_to_graph(mol, VOCABULARY) for mol in mols[:4]]
    assert all(one == packed[0] for one in packed)
    back = graph_to_molecule(*packed[0], VOCABULARY)
    Chem.SanitizeMol(back)
    assert canonical_smiles(back) == smiles


@pytest.mark.parametrize("name", CAGES)
def test_of_rdkit_it_is_none(name):
    """Once this fails for all of them, RDKit is cured and the module can go."""
    chance = random.Random(0)
    mols = [shuffled(CAGES[name], chance) for _ in range(60)]
    assert len({Chem.MolToSmiles(mol) for mol in mols}) > 1
    assert all(is_cage(mol) for mol in mols)


@pytest.mark.parametrize(
    "smiles",
    [
        "C12C3C4C1C5C2C3C45",
        "CC(C)Cc1ccc(cc1)C(C)C(=O)O",
        "CN1CC[C@]23c4c5ccc(O)c4O[C@H]2[C@@H](O)C=C[C@H]3[C@H]1C5",
        "c1ccc(cc1)C(c1ccccc1)(c1ccccc1)C(c1ccccc1)(c1ccccc1)c1ccccc1",
        "O=C1C[C@@H]2OCC=C3CN4CC[C@]56[C@@H]4C[C@@H]3[C@@H]2[C@@H]5N1c1ccccc61",
        "CO[C@]12CC[C@@]3(C[C@@H]1[C@@](C)(O)C(C)(C)C)[C@H]1Cc4ccc(O)c5c4[C@@]3(CC[NH+]1CC1CC1)[C@H]2O5",
        "C1Cc2nn3c(c2C1)-n1nc2c(c1-n1nc4c(c1-3)CCC4)CCC2",
        "C" * 40,
        "C.C",
    ],
)
def test_other_molecules_keep_rdkits_smiles(smiles):
    mol = Chem.MolFromSmiles(smiles)
    assert not is_cage(mol)
    Chem.RemoveStereochemistry(mol)
    assert canonical_smiles(mol) == Chem.MolToSmiles(mol)
