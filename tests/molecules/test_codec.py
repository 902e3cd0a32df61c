import random
import re
import subprocess
import sys

import networkx as nx
import pytest
from rdkit import Chem

from graphcnf.errors import UserError
from graphcnf.graphs.batch import PackedGraphs
from graphcnf.molecules import codec
from graphcnf.molecules.codec import (
    canonical,
    canonical_smiles,
    categories,
    graph_to_molecule,
    molecule_to_graph,
)
from graphcnf.molecules.smiles import parse, parse_smarts
from graphcnf.molecules.validity import strict
from graphcnf.molecules.vocabulary import BONDS, MARK, AtomCategory, MoleculeVocabulary

PHOSPHINE_OXIDE = "O=[PH2]C(Cc1ccccc1)c1ccccc1"
SMALL = MoleculeVocabulary((("C", 0), ("N", 0), ("O", 0), ("O", -1), ("N", 1)))


@pytest.fixture(scope="module")
def vocabulary(zinc_smiles):
    from collections import Counter

    found = [categories(canonical(canonical_smiles(parse(s))), marked=True) for s in zinc_smiles]
    atoms, bonds = (Counter(x for f in found for x in f[k]) for k in (0, 2))
    return MoleculeVocabulary.from_counts(atoms, bonds)


def test_molecules_come_back(zinc_smiles, vocabulary):
    refused = []
    for smiles in zinc_smiles:
        wanted = canonical_smiles(parse(smiles))
        try:
            graph = molecule_to_graph(smiles, vocabulary)
        except codec.HydrogensLost:
            refused.append(wanted)
            continue
        assert strict(graph_to_molecule(*graph, vocabulary)) == wanted
    # The one molecule of ZINC250k whose hydrogens are not implied by its valences.
    assert set(refused) <= {PHOSPHINE_OXIDE}


@pytest.mark.parametrize(
    "smiles", [PHOSPHINE_OXIDE, "C[SiH2]C", "CP(=O)(O)O", "[NaH]", "C[SnH3]", "CS(C)=O", "CI(C)C",
               "C[SH4]C", "[BH4-]", "C[AsH2]", "CN->[Fe]", "C[Si](C)(C)C", "O=[PH](O)O"],
)  # fmt: skip
def test_odd_molecules_come_back_or_are_refused(smiles):
    mol = parse(smiles)
    atoms = {(a.GetSymbol(), a.GetFormalCharge()) for a in mol.GetAtoms()}
    vocabulary = MoleculeVocabulary(tuple(sorted(atoms)), (*BONDS, "DATIVE"))
    try:
        graph = molecule_to_graph(smiles, vocabulary)
    except codec.HydrogensLost as error:
        assert "would be read as" in str(error)
        assert smiles in (PHOSPHINE_OXIDE, "[NaH]", "C[SnH3]", "C[SH4]C", "O=[PH](O)O", "CN->[Fe]")
    else:
        assert strict(graph_to_molecule(*graph, vocabulary)) == canonical_smiles(mol)


def test_one_molecule_is_one_graph_whatever_its_atom_order(zinc_smiles, vocabulary):
    shuffle = random.Random(1)
    for smiles in zinc_smiles:
        mol = parse(smiles)
        if canonical_smiles(mol) == PHOSPHINE_OXIDE:
            continue
        order = list(range(mol.GetNumAtoms()))
        shuffle.shuffle(order)
        renumbered = Chem.RenumberAtoms(mol, order)
        assert molecule_to_graph(renumbered, vocabulary) == molecule_to_graph(mol, vocabulary)


def test_stereo_isotopes_and_atom_numbers_do_not_matter(vocabulary):
    plain = molecule_to_graph("CC(O)C=CC", vocabulary)
    for same in ("C[C@H](O)/C=C/C", "C[C@@H](O)/C=C\\C", "[13CH3]C(O)C=CC", "[CH3:7]C(O)C=CC"):
        assert molecule_to_graph(same, vocabulary) == plain
    assert molecule_to_graph("[2H]C([2H])C(O)C=CC", vocabulary) == plain


def test_edges_are_in_packed_order_and_every_atom_has_an_earlier_neighbour(zinc_smiles, vocabulary):
    for smiles in zinc_smiles[:300]:
        types, edges, bonds = molecule_to_graph(smiles, vocabulary)
        assert all(j < i for i, j in edges)
        assert edges == sorted(edges, key=lambda e: (e[0], -e[1]))
        assert {i for i, _ in edges} == set(range(1, len(types)))
        assert PackedGraphs.from_lists([(types, edges, bonds)]).graph(0)[1].tolist() == [
            list(e) for e in edges
        ]


def test_numbering_is_depth_first_and_closes_a_ring_before_its_branches(zinc_smiles, vocabulary):
    sizes = set()
    for smiles in zinc_smiles:
        if canonical_smiles(parse(smiles)) == PHOSPHINE_OXIDE:
            continue
        types, edges, _ = molecule_to_graph(smiles, vocabulary)
        graph = nx.Graph([(int(i), int(j)) for i, j in edges])
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
    ("smiles", "error"),
    [
        ("C1CC", codec.UnparsableSmiles),
        ("", codec.UnparsableSmiles),
        ("no molecule", codec.UnparsableSmiles),
        ("(" * 100_000, codec.UnparsableSmiles),
        ("CC.O", codec.SeveralFragments),
        ("CCF", codec.UnknownAtom),
        ("C*", codec.UnknownAtom),
        ("C[CH2]", codec.UnknownAtom),
        ("CN->O", codec.UnknownBond),
        ("C" * 40, codec.TooLarge),
    ],
)
def test_what_has_no_graph_is_refused_in_one_line(smiles, error, capfd):
    with pytest.raises(error) as caught:
        molecule_to_graph(smiles, SMALL, max_atoms=38)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200
    assert isinstance(caught.value, ValueError)
    assert capfd.readouterr() == ("", "")


def test_vocabulary_is_sorted_by_frequency_and_survives_json():
    counts = {("N", 0): 5, ("C", 0): 9, ("O", -1): 5}
    vocabulary = MoleculeVocabulary.from_counts(counts, {"DOUBLE": 3, "SINGLE": 1})
    assert vocabulary.atoms == (("C", 0, False), ("N", 0, False), ("O", -1, False))
    assert vocabulary.bonds == ("DOUBLE", "SINGLE", "TRIPLE")
    assert MoleculeVocabulary.from_dict(vocabulary.to_dict()) == vocabulary
    every = MoleculeVocabulary((("C", 0), ("N", 1), ("O", -1), ("Fe", 2), ("N", 1, True)))
    assert every.atom_labels == ["C", "N+", "O-", "Fe+2", "n+"] and every.marked
    assert MoleculeVocabulary.from_dict(every.to_dict()) == every
    with pytest.raises(ValueError, match="each of them once"):
        MoleculeVocabulary((("C", 0), ("C", 0)))


def test_the_package_and_its_vocabulary_import_no_rdkit():
    code = (
        "import sys, graphcnf, graphcnf.molecules.vocabulary, graphcnf.molecules.hashing,"
        "graphcnf.datasets.smiles_file, graphcnf.datasets.zinc250k\n"
        "assert 'rdkit' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_marks_are_those_of_rdkit_and_change_no_molecule(zinc_smiles):
    marks = (f"{MARK}SINGLE", f"{MARK}DOUBLE")
    elements = [("C", 0), ("N", 0), ("O", 0), ("S", 0), ("N", 1)]
    atoms = tuple(AtomCategory(*e, mark) for e in elements for mark in (False, True))
    marked = MoleculeVocabulary(atoms, (*BONDS, *marks))
    seen = 0
    for smiles in zinc_smiles[:200]:
        try:
            types, edges, bonds = molecule_to_graph(smiles, marked)
        except codec.UnknownAtom:
            continue
        mol = codec.graph_to_molecule(types, edges, bonds, marked)
        mol = Chem.MolFromSmiles(Chem.MolToSmiles(mol))
        assert Chem.MolToSmiles(mol) == codec.canonical_smiles(parse(smiles))
        aromatic = sum(a.GetIsAromatic() for a in mol.GetAtoms())
        assert sum(marked.atoms[t].aromatic for t in types) == aromatic
        assert sum(marked.bonds[b] in marks for b in bonds) == sum(
            b.GetIsAromatic() for b in mol.GetBonds()
        )
        # Decoding takes the Kekulé structure alone: without marks, the same molecule.
        plain = [marked.atom_index[marked.atoms[t]._replace(aromatic=False)] for t in types]
        orders = [marked.bond_index[marked.bonds[b].removeprefix(MARK)] for b in bonds]
        again = codec.graph_to_molecule(plain, edges, orders, marked)
        assert Chem.MolToSmiles(Chem.MolFromSmiles(Chem.MolToSmiles(again))) == Chem.MolToSmiles(
            mol
        )
        seen += aromatic
    assert seen > 500
    assert marked.bond_orders == [1, 2, 3, 1, 2]


FOREIGN = {
    "\u0421CO": "U+0421 CYRILLIC CAPITAL LETTER ES at position 1",
    "CC\u041e": "U+041E CYRILLIC CAPITAL LETTER O at position 3",
    "\u00a0CCO": "U+00A0 NO-BREAK SPACE at position 1",
    "CCO\u200b": "U+200B ZERO WIDTH SPACE at position 4",
    "C\ud800": "U+D800 at position 2",
    "C\x00C": "U+0000 at position 2",
}


@pytest.mark.parametrize(("text", "reason"), FOREIGN.items(), ids=ascii)
def test_characters_outside_printable_ascii_are_named_wherever_a_molecule_is_read(
    flow, text, reason
):
    from graphcnf.molecules.growth import fragment_of
    from graphcnf.molecules.selection import has_pattern
    from graphcnf.molecules.validity import evaluate_records
    from graphcnf.optimization.run import starting_molecules
    from graphcnf.optimization.scores import similarity, smarts

    readers = (
        codec.parse, parse_smarts, has_pattern, smarts, similarity, flow.encode,
        flow.analogs, lambda s: starting_molecules([s]),
        lambda s: fragment_of(s, "scaffold", flow.vocabulary),
    )  # fmt: skip
    for read in readers:
        with pytest.raises((ValueError, UserError), match=re.escape(reason)):
            read(text)
    assert reason in flow.score([text]).reason[0]
    assert evaluate_records([text]).atoms[0] == 0


def test_what_no_element_has_is_no_molecule(flow):
    from graphcnf.molecules.validity import evaluate_records

    assert list(evaluate_records(["[#119]", "CCO"])["strict"]) == [False, True]
    assert flow.score(["[#119]", "C[#200]"]).reason.notna().all()


def test_blanks_and_line_ends_around_a_smiles_do_not_count():
    assert codec.parse(" CCO\r\n").GetNumAtoms() == 3
