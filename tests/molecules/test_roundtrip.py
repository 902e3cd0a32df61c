"""Molecules to graphs and back: they come back, or are refused with a reason; none changes.

A usual run takes some odd molecules, one with `--roundtrip-all` 2,000 of them, and 40,000 each of
QM9 and MOSES (packages qm9pack and molsets).
"""

from collections import Counter
from random import Random

import pytest
from odd_molecules import odd_molecules
from rdkit import Chem
from rdkit.Chem.rdMolDescriptors import CalcMolFormula

from graphcnf.datasets.published import moses_source, qm9_source
from graphcnf.molecules import codec, validity
from graphcnf.molecules.vocabulary import MoleculeVocabulary

PARTS = 8
SOURCES = {
    "odd": lambda: odd_molecules(2000, 0),
    "QM9": lambda: Random(0).sample(qm9_source().smiles(), 40_000),
    "MOSES": lambda: Random(0).sample(moses_source("train").smiles(), 40_000),
}


def identity(mol):
    """What of a molecule must be the same afterwards: all but stereo, isotopes and atom numbers.

    Canonical SMILES, formula with all hydrogens, unpaired electrons; without the codec, which it
    judges.
    """
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
    mol = codec.parse(smiles)
    codec.check_representable(mol)
    canonical = codec.canonical(codec.canonical_smiles(mol))
    atoms, _, bonds = codec.categories(canonical, marked=True)
    vocabulary = MoleculeVocabulary.from_counts(Counter(atoms), Counter(bonds))
    graph = codec.molecule_to_graph(smiles, vocabulary)
    back = codec.graph_to_molecule(*graph, vocabulary)
    written = validity.strict(back)
    return Chem.MolFromSmiles(written) if written else Chem.Mol()


def judge(smiles):
    """How many come back, and how many are refused for each reason; and those that change."""
    counts, changed = Counter(), []
    with codec.quiet():
        for one in smiles:
            try:
                back = returned(one)
            except codec.MoleculeNotRepresentable as error:
                counts[type(error).__name__] += 1
                continue
            if identity(back) == identity(Chem.MolFromSmiles(one)):
                counts["back"] += 1
            else:
                changed.append(one)
    return counts, changed


def test_odd_molecules_are_a_function_of_the_seed():
    first = odd_molecules(60)
    assert odd_molecules(30) == first[:30] and odd_molecules(60, 1) != first
    assert len(set(first)) == 60
    with codec.quiet():
        assert all(Chem.MolFromSmiles(smiles) for smiles in first)


def test_no_odd_molecule_changes():
    counts, changed = judge(odd_molecules(150, 2))
    assert changed == [] and counts.total() == 150
    # Both happen, or the molecules would not be odd.
    assert 45 < counts["back"] < 135 and counts["HydrogensLost"]


def test_a_change_is_seen(monkeypatch):
    monkeypatch.setattr(codec, "check_roundtrip", lambda mol, smiles=None: None)
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
