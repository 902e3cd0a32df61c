"""Molecules without salts, in the charge states of the data."""

import pytest
from rdkit import Chem, rdBase

from graphcnf.chemistry.standardize import charge_states, parse_standardized, protonation_hash
from graphcnf.molecules.codec import UnparsableSmiles


@pytest.mark.parametrize(
    "smiles, wanted",
    [
        ("CC(=O)[O-].[Na+]", "CC(=O)O"),
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
        (["CCCc1nnn[nH]1"], "CCCc1nnn[n-]1"),
        # One of two nitrogens that are near each other, the stronger base.
        (["CN1CCN(c2ccccc2)CC1"], "C[NH+]1CCN(c2ccccc2)CC1"),
        (["C1CNCCN1Cc1ccccc1", "C1C[NH2+]CCN1Cc1ccccc1"], "c1ccc(CN2CC[NH2+]CC2)cc1"),
        (["NCCCCCCN"], "[NH3+]CCCCCC[NH3+]"),
        # What ZINC250k writes neutral.
        (["CN1CCOCC1"], "CN1CCOCC1"),
        (["Oc1ccccc1", "[O-]c1ccccc1"], "Oc1ccccc1"),
        (["CS(C)=O", "C[S+](C)[O-]"], "CS(C)=O"),
    ],
)
def test_charge_states_are_those_of_the_data(states, wanted):
    known = charge_states(["CCC(=O)[O-]", "CC[NH+](C)C", "CC(=O)O", "CCC(=O)[O-]", "CN(C)C",
                           "CC[NH+](C)C"])  # fmt: skip
    assert known == {"acid", "amine"} and charge_states(["CC(=O)O", "CCN"]) == set()
    for smiles in states:
        with rdBase.BlockLogs():
            assert Chem.MolToSmiles(parse_standardized(smiles, known)) == wanted, smiles


def test_protonation_states_share_a_hash_and_other_molecules_do_not():
    groups = [
        ["CC(=O)O", "CC(=O)[O-]"], ["NCC(=O)O", "[NH3+]CC(=O)[O-]", "NCC(=O)[O-]"],
        ["C[N+](C)(C)CC(=O)[O-]", "C[N+](C)(C)CC(=O)O"], ["c1c[nH]cn1", "c1c[nH]c[nH+]1"],
        ["C[N+](=O)[O-]"], ["CC"], ["CCO"],
    ]  # fmt: skip
    hashes = [{protonation_hash(Chem.CanonSmiles(s)) for s in group} for group in groups]
    assert all(len(found) == 1 for found in hashes) and len(set.union(*hashes)) == len(groups)
