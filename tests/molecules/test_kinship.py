"""What unknown categories start from, and what shares of molecules have a feature."""

import math

import pytest
from rdkit import Chem, rdBase

from graphcnf.errors import UserError
from graphcnf.molecules.enrichment import has_element, has_pattern, has_property
from graphcnf.molecules.kinship import atom_sources, bond_sources, closest_atom, extended
from graphcnf.molecules.smiles import UnparsableSmiles
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


@pytest.mark.parametrize(
    "states, wanted",
    [
        (["CC(=O)O", "CC(=O)O.[Na+]", "CC(=O)O[Na]", "CC(=O)[O-]"], "CC(=O)[O-]"),
        (["CCN", "CC[NH3+]", "CCN.Cl"], "CC[NH3+]"),
        (["NCC(=O)O", "[NH3+]CC(=O)[O-]", "[NH3+]CC(=O)O"], "[NH3+]CC(=O)[O-]"),
        (["NC(=N)N", "NC(N)=[NH2+]"], "NC(N)=[NH2+]"),
        (["OP(=O)(O)C"], "CP(=O)([O-])[O-]"),
        (["CCCc1nnn[nH]1"], "CCCc1nnn[n-]1"),
        # One of two nitrogens that are near each other, the stronger base.
        (["CN1CCN(c2ccccc2)CC1"], "C[NH+]1CCN(c2ccccc2)CC1"),
        (["C1CNCCN1Cc1ccccc1", "C1C[NH2+]CCN1Cc1ccccc1"], "c1ccc(CN2CC[NH2+]CC2)cc1"),
        (["NCCCCCCN"], "[NH3+]CCCCCC[NH3+]"),
        # What ZINC250k writes neutral.
        (["CN1CCOCC1"], "CN1CCOCC1"),
        (["Oc1ccccc1", "[O-]c1ccccc1"], "Oc1ccccc1"),
        (["CS(C)=O", "C[S+](C)[O-]"], "CS(C)=O"),
        (["Nc1ccccc1"], "Nc1ccccc1"),
    ],
)
def test_charge_states_are_those_of_the_data(states, wanted):
    from graphcnf.molecules.standardize import charge_states

    known = charge_states(["CCC(=O)[O-]", "CC[NH+](C)C", "CC(=O)O", "CCC(=O)[O-]", "CN(C)C",
                           "CC[NH+](C)C"])  # fmt: skip
    assert known == {"acid", "amine"} and charge_states(["CC(=O)O", "CCN"]) == set()
    for smiles in states:
        with rdBase.BlockLogs():
            assert Chem.MolToSmiles(parse_standardized(smiles, known)) == wanted, smiles


def test_protonation_states_share_a_hash_and_other_molecules_do_not():
    from graphcnf.molecules.standardize import protonation_hash

    groups = [
        ["CC(=O)O", "CC(=O)[O-]"], ["NCC(=O)O", "[NH3+]CC(=O)[O-]", "NCC(=O)[O-]"],
        ["C[N+](C)(C)CC(=O)[O-]", "C[N+](C)(C)CC(=O)O"], ["c1c[nH]cn1", "c1c[nH]c[nH+]1"],
        ["C[N+](=O)[O-]"], ["CC"], ["CCO"],
    ]  # fmt: skip
    hashes = [{protonation_hash(Chem.CanonSmiles(s)) for s in group} for group in groups]
    assert all(len(found) == 1 for found in hashes) and len(set.union(*hashes)) == len(groups)
