"""What unknown categories start from, and what shares of molecules have a feature."""

import math

import pytest
from rdkit import Chem, rdBase

from graphcnf.errors import UserError
from graphcnf.molecules.codec import UnparsableSmiles
from graphcnf.molecules.enrichment import has_element, has_pattern, has_property
from graphcnf.molecules.kinship import atom_sources, bond_sources, closest_atom, extended
from graphcnf.molecules.standardize import parse_standardized
from graphcnf.molecules.vocabulary import AtomCategory, MoleculeVocabulary

KNOWN = MoleculeVocabulary(
    (("C", 0), ("C", 0, True), ("N", 0), ("N", 1), ("O", 0), ("O", -1), ("S", 0), ("S", 0, True),
     ("Cl", 0)),
    ("SINGLE", "DOUBLE", "AROMATIC_SINGLE", "TRIPLE"),
)  # fmt: skip


@pytest.mark.parametrize(
    "new, wanted",
    [
        (("Si", 0), ("C", 0)),
        (("B", 0), ("C", 0)),
        (("B", -1), ("C", 0)),
        (("P", 0), ("N", 0)),
        (("P", 1), ("N", 1)),
        (("Se", 0), ("S", 0)),
        (("Se", 0, True), ("S", 0, True)),
        (("S", -1), ("O", -1)),
        (("I", 0), ("Cl", 0)),
    ],
)
def test_closest_atoms_bond_alike(new, wanted):
    assert closest_atom(AtomCategory(*new), KNOWN.atoms) == AtomCategory(*wanted)


def test_known_categories_keep_their_numbers():
    data = MoleculeVocabulary((("Si", 0), ("O", 0)), ("AROMATIC_DOUBLE", "SINGLE", "QUADRUPLE"))
    both = extended(KNOWN, data)
    assert both.atoms == (*KNOWN.atoms, ("Si", 0, False))
    assert both.bonds == (*KNOWN.bonds, "AROMATIC_DOUBLE", "QUADRUPLE")
    assert atom_sources(KNOWN, both) == [*range(9), 0]
    assert bond_sources(KNOWN, both) == [0, 1, 2, 3, 1, 3]


def test_means_and_shares():
    smiles = ["CCO", "CS(=O)(=O)NC", "C[Si](C)(C)C", "c1ccccc1"]
    assert has_pattern("S(=O)(=O)N").mean(smiles) == 0.25
    assert has_element("Si").mean(smiles) == 0.25 and has_element("S").mean(smiles[:1]) == 0
    assert has_property("atoms").mean(smiles) == pytest.approx((3 + 6 + 5 + 6) / 4)
    assert has_property("atoms >= 5").mean(smiles) == 0.75
    assert not has_property("qed").share and has_property("qed<2").mean(smiles) == 1
    assert math.isnan(has_property("logp").mean([]))
    for text, message in (("C(", "not a SMARTS"), ("", "not a SMARTS")):
        with pytest.raises(UserError, match=message):
            has_pattern(text)
    for text in ("taste", "qed=>1", "qed>much", "qed>=nan", ""):
        with pytest.raises(UserError, match="no property|is no comparison"):
            has_property(text)


@pytest.mark.parametrize(
    "smiles, wanted",
    [
        ("CC(=O)[O-].[Na+]", "CC(=O)O"),
        ("CC(=O)O[Na]", "CC(=O)O"),
        ("C[NH3+].[Cl-]", "CN"),
        ("[NH3+]CC(=O)[O-]", "NCC(=O)O"),
        ("C[N+](=O)[O-]", "C[N+](=O)[O-]"),
        ("C[N+](C)(C)C.[Br-]", "C[N+](C)(C)C"),
        ("CO.OP(=O)(O)OP(=O)(O)O", "CO"),
    ],
)
def test_standardized(smiles, wanted):
    with rdBase.BlockLogs():
        assert Chem.MolToSmiles(parse_standardized(smiles)) == wanted
        with pytest.raises(UnparsableSmiles):
            parse_standardized("C1CC")
