"""Molecules to graphs and back: they come back, or are refused with a reason; none changes.

A usual run draws 150 odd molecules, one with `--roundtrip-all` 2,000 of them, and takes 40,000 each
of QM9 and MOSES (packages qm9pack and molsets).
"""

import random
import re
from collections import Counter

import networkx as nx
import pytest
from hypothesis import given, settings
from odd_molecules import ODD
from rdkit import Chem
from rdkit.Chem.rdMolDescriptors import CalcMolFormula

from graphcnf.chemistry.properties import has_pattern
from graphcnf.datasets.published import moses_source, qm9_source
from graphcnf.errors import UserError
from graphcnf.graphs.batch import PackedGraphs
from graphcnf.molecules import codec
from graphcnf.molecules.codec import (
    canonical_smiles,
    graph_to_molecule,
    molecule_to_graph,
    named_graph,
    parse,
    parse_smarts,
)
from graphcnf.molecules.conventions import evaluate_records
from graphcnf.molecules.validity import strict
from graphcnf.molecules.vocabulary import (
    AROMATIC,
    BOND_TYPES,
    BONDS,
    ELEMENTS,
    AtomCategory,
    MoleculeVocabulary,
)
from graphcnf.molecules.vocabulary_building import (
    bond_orders,
    extend_vocabulary,
    nearest_atoms,
    nearest_bonds,
    vocabulary_from_counts,
)
from graphcnf.optimization.objectives import similarity, smarts
from graphcnf.optimization.run import starting_molecules

PHOSPHINE_OXIDE = "O=[PH2]C(Cc1ccccc1)c1ccccc1"
SMALL = MoleculeVocabulary((("C", 0), ("N", 0), ("O", 0), ("O", -1), ("N", 1)))


@pytest.fixture(scope="module")
def vocabulary(zinc_smiles):
    found = [named_graph(parse(s), tell_aromatic=True, exact=False) for s in zinc_smiles]
    atoms, bonds = (Counter(x for f in found for x in f[k]) for k in (1, 3))
    return vocabulary_from_counts(atoms, bonds)


def test_molecules_come_back(zinc_smiles, vocabulary):
    refused = []
    for smiles in zinc_smiles:
        wanted = canonical_smiles(parse(smiles))
        try:
            graph = molecule_to_graph(smiles, vocabulary)
        except codec.MoleculeNotRepresentable:
            refused.append(wanted)
            continue
        assert strict(graph_to_molecule(*graph, vocabulary)) == wanted
    # The one molecule of ZINC250k whose hydrogens are not implied by its valences.
    assert set(refused) <= {PHOSPHINE_OXIDE}


def test_one_molecule_is_one_graph_whatever_its_atom_order(zinc_smiles, vocabulary):
    shuffle = random.Random(1)
    for smiles in zinc_smiles[::3]:
        mol = parse(smiles)
        if canonical_smiles(mol) == PHOSPHINE_OXIDE:
            continue
        order = list(range(mol.GetNumAtoms()))
        shuffle.shuffle(order)
        renumbered = Chem.RenumberAtoms(mol, order)
        assert molecule_to_graph(renumbered, vocabulary) == molecule_to_graph(mol, vocabulary)


def test_stereo_isotopes_and_atom_numbers_do_not_matter(vocabulary):
    plain = molecule_to_graph("CC(O)C=CC", vocabulary)
    for same in ("C[C@H](O)/C=C/C", "[13CH3]C(O)C=CC", "[CH3:7]C(O)C=CC", "[2H]C([2H])C(O)C=CC"):
        assert molecule_to_graph(same, vocabulary) == plain


def test_numbering_is_depth_first_and_closes_a_ring_before_its_branches(zinc_smiles, vocabulary):
    sizes = set()
    for smiles in zinc_smiles[::2]:
        if canonical_smiles(parse(smiles)) == PHOSPHINE_OXIDE:
            continue
        types, edges, bonds = molecule_to_graph(smiles, vocabulary)
        assert all(j < i for i, j in edges) and edges == sorted(edges, key=lambda e: (e[0], -e[1]))
        packed = PackedGraphs.from_lists([(types, edges, bonds)]).graph(0)
        assert packed[1].tolist() == [list(e) for e in edges]
        graph = nx.Graph(edges)
        graph.add_nodes_from(range(len(types)))
        above = {0: set()}
        for j in range(1, len(types)):
            parent = max(i for i in graph[j] if i < j)
            above[j] = above[parent] | {parent}
        assert all(min(edge) in above[max(edge)] for edge in graph.edges)
        rings = nx.Graph(graph)
        rings.remove_edges_from(list(nx.bridges(graph)))
        for system in nx.connected_components(rings):
            # In fused rings a path can come to an end before it has been everywhere.
            if rings.subgraph(system).number_of_edges() == len(system):
                assert max(system) - min(system) + 1 == len(system)
                sizes.add(len(system))
    assert {3, 5, 6, 7} <= sizes


@pytest.mark.parametrize(
    ("smiles", "message"),
    [
        ("C1CC", "not a SMILES"),
        ("", "no atoms"),
        ("(" * 100_000, "not a SMILES"),
        ("CC.O", "2 separate fragments"),
        ("CCF", "F is not among the atoms"),
        ("C*", "is no element"),
        ("C[CH2]", "radical at C"),
        ("CN->O", "DATIVE bond is not among"),
        ("C" * 40, "40 heavy atoms, at most 38"),
    ],
)
def test_what_has_no_graph_is_refused_in_one_line(smiles, message, capfd):
    with pytest.raises(codec.MoleculeNotRepresentable, match=message) as caught:
        molecule_to_graph(smiles, SMALL, max_atoms=38)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200
    assert capfd.readouterr() == ("", "")


def test_vocabulary_is_sorted_by_frequency_and_survives_json():
    counts = {("N", 0): 5, ("C", 0): 9, ("O", -1): 5}
    vocabulary = vocabulary_from_counts(counts, {"DOUBLE": 3, "SINGLE": 1})
    assert vocabulary.atoms == (("C", 0, False), ("N", 0, False), ("O", -1, False))
    assert vocabulary.bonds == ("DOUBLE", "SINGLE", "TRIPLE")
    assert MoleculeVocabulary.from_dict(vocabulary.to_dict()) == vocabulary
    every = MoleculeVocabulary((("C", 0), ("N", 1), ("O", -1), ("Fe", 2), ("N", 1, True)))
    assert every.atom_labels == ["C", "N+", "O-", "Fe+2", "n+"] and every.tells_aromatic
    assert MoleculeVocabulary.from_dict(every.to_dict()) == every
    with pytest.raises(ValueError, match="atoms, each once"):
        MoleculeVocabulary((("C", 0), ("C", 0)))


def test_vocabularies_hold_what_rdkit_has():
    table = Chem.GetPeriodicTable()
    assert {table.GetElementSymbol(number) for number in range(1, 119)} == ELEMENTS
    assert set(Chem.BondType.names) == BOND_TYPES
    for atoms, bonds, message in (
        ((("Xx", 0),), BONDS, "atoms must be chemical elements, got 'Xx'"),
        ((("*", 0),), BONDS, "atoms must be chemical elements, got '*'"),
        ((("C", 99),), BONDS, "charges must lie within ±15, got 99"),
        ((("C", 0.5),), BONDS, "charges must lie within ±15, got 0.5"),
        ((("C", 0),), ("SINGEL",), "bonds must be named as in RDKit, got 'SINGEL'"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            MoleculeVocabulary(atoms, bonds)


def test_marks_are_those_of_rdkit_and_change_no_molecule(zinc_smiles):
    marks = (f"{AROMATIC}SINGLE", f"{AROMATIC}DOUBLE")
    elements = [("C", 0), ("N", 0), ("O", 0), ("S", 0), ("N", 1)]
    atoms = tuple(AtomCategory(*e, mark) for e in elements for mark in (False, True))
    marked = MoleculeVocabulary(atoms, (*BONDS, *marks))
    seen = 0
    for smiles in zinc_smiles[:200]:
        try:
            types, edges, bonds = molecule_to_graph(smiles, marked)
        except codec.MoleculeNotRepresentable:
            continue
        mol = parse(strict(graph_to_molecule(types, edges, bonds, marked)))
        assert Chem.MolToSmiles(mol) == canonical_smiles(parse(smiles))
        aromatic = sum(a.GetIsAromatic() for a in mol.GetAtoms())
        assert sum(marked.atoms[t].aromatic for t in types) == aromatic
        of_rings = sum(bond.GetIsAromatic() for bond in mol.GetBonds())
        assert sum(marked.bonds[b] in marks for b in bonds) == of_rings
        # Decoding takes the Kekulé structure alone: without marks, the same molecule.
        plain = [marked.atom_index[marked.atoms[t]._replace(aromatic=False)] for t in types]
        orders = [marked.bond_index[marked.bonds[b].removeprefix(AROMATIC)] for b in bonds]
        assert strict(graph_to_molecule(plain, edges, orders, marked)) == Chem.MolToSmiles(mol)
        seen += aromatic
    assert seen > 500
    assert bond_orders(marked) == [1, 2, 3, 1, 2]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("\u0421CO", "U+0421 CYRILLIC CAPITAL LETTER ES at position 1"),
        ("CCO\u200b", "U+200B ZERO WIDTH SPACE at position 4"),
        ("C\ud800", "U+D800 at position 2"),
        ("C\x00C", "U+0000 at position 2"),
    ],
    ids=ascii,
)
def test_characters_outside_printable_ascii_are_named_wherever_a_molecule_is_read(
    flow, text, reason
):
    readers = (
        parse, parse_smarts, has_pattern, flow.encode, flow.analogs, flow.grow,
        lambda s: smarts(pattern=s), lambda s: similarity(to=s), lambda s: starting_molecules([s]),
    )  # fmt: skip
    for read in readers:
        with pytest.raises((ValueError, UserError), match=re.escape(reason)):
            read(text)
    assert reason in flow.score([text]).reason[0]
    assert evaluate_records([text]).atoms[0] == 0


def test_what_no_element_has_is_no_molecule(flow):
    assert codec.parse(" CCO\r\n").GetNumAtoms() == 3  # blanks at its ends do not count
    assert list(evaluate_records(["[#119]", "CCO"])["strict"]) == [False, True]
    assert flow.score(["[#119]", "C[#200]"]).reason.notna().all()


KNOWN = MoleculeVocabulary(
    (("C", 0), ("C", 0, True), ("N", 0), ("N", 1), ("O", 0), ("O", -1), ("S", 0), ("S", 0, True),
     ("Cl", 0)),
    ("SINGLE", "DOUBLE", "AROMATIC_SINGLE", "TRIPLE"),
)  # fmt: skip


def test_nearest_atoms_bond_alike():
    nearest = {
        ("Si", 0): ("C", 0), ("B", 0): ("C", 0), ("B", -1): ("C", 0), ("P", 0): ("N", 0),
        ("P", 1): ("N", 1), ("Se", 0): ("S", 0), ("Se", 0, True): ("S", 0, True),
        ("S", -1): ("O", -1), ("I", 0): ("Cl", 0),
    }  # fmt: skip
    found = nearest_atoms(KNOWN, MoleculeVocabulary(tuple(nearest)))
    assert [KNOWN.atoms[k] for k in found] == [AtomCategory(*a) for a in nearest.values()]


def test_known_categories_keep_their_numbers():
    data = MoleculeVocabulary((("Si", 0), ("O", 0)), ("AROMATIC_DOUBLE", "SINGLE", "QUADRUPLE"))
    both = extend_vocabulary(KNOWN, data)
    assert both.atoms == (*KNOWN.atoms, ("Si", 0, False))
    assert both.bonds == (*KNOWN.bonds, "AROMATIC_DOUBLE", "QUADRUPLE")
    assert nearest_atoms(KNOWN, both) == [*range(9), 0]
    assert nearest_bonds(KNOWN, both) == [0, 1, 2, 3, 1, 3]


PARTS = 8
SOURCES = {
    "QM9": lambda: random.Random(0).sample(qm9_source().smiles(), 40_000),
    "MOSES": lambda: random.Random(0).sample(moses_source("train").smiles(), 40_000),
}


def identity(mol):
    """Canonical SMILES without stereo, formula, unpaired electrons; without the codec."""
    mol = Chem.AddHs(mol)
    for atom in mol.GetAtoms():
        atom.SetIsotope(0)
        atom.SetAtomMapNum(0)
    Chem.RemoveStereochemistry(mol)
    electrons = sum(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms())
    # Read once more: RDKit's SMILES of what is kept in a molecule may differ from that of its own.
    plain = Chem.MolFromSmiles(Chem.MolToSmiles(Chem.RemoveHs(mol)))
    return Chem.MolToSmiles(plain), CalcMolFormula(mol), electrons


def returned(smiles):
    """The molecule that the graph of another one leads to, in categories of its own."""
    _, atoms, _, bonds = named_graph(parse(smiles), tell_aromatic=True, exact=False)
    vocabulary = vocabulary_from_counts(Counter(atoms), Counter(bonds))
    graph = molecule_to_graph(smiles, vocabulary)
    written = strict(graph_to_molecule(*graph, vocabulary))
    return Chem.MolFromSmiles(written) if written else Chem.Mol()


def judge(smiles):
    """How many come back, and how many are refused for each reason; and those that change."""
    counts, changed = Counter(), []
    with codec.quiet():
        for one in smiles:
            try:
                back = returned(one)
            except codec.MoleculeNotRepresentable as error:
                counts["hydrogens lost" if "would be read as" in str(error) else "refused"] += 1
                continue
            if identity(back) == identity(Chem.MolFromSmiles(one)):
                counts["back"] += 1
            else:
                changed.append(one)
    return counts, changed


def test_no_odd_molecule_changes(pytestconfig):
    counts = Counter()

    @settings(max_examples=2000 if pytestconfig.getoption("roundtrip_all") else 150)
    @given(ODD)
    def changes(smiles):
        outcome, changed = judge([smiles])
        counts.update(outcome)
        assert changed == []

    changes()
    print(dict(counts))
    # Both happen, or the molecules would not be odd.
    assert counts["back"] > 0.2 * counts.total() and counts["hydrogens lost"]


def test_a_change_is_seen(monkeypatch):
    monkeypatch.setattr(codec, "check_roundtrip", lambda *_: None)
    # Phosphorus(V) with two hydrogens would be read as phosphorus(III).
    _, changed = judge(["CCO", "C[PH2](F)F", "C[SH](=O)=O"])
    assert changed and "CCO" not in changed


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("source", SOURCES)
def test_none_of_many_molecules_changes(pytestconfig, source, part):
    if not pytestconfig.getoption("roundtrip_all"):
        pytest.skip("takes minutes: --roundtrip-all")
    counts, changed = judge(SOURCES[source]()[part::PARTS])
    print(source, dict(counts))
    assert changed == []
