"""What counts as a valid molecule, under several conventions; see `metrics` for the figures."""

from __future__ import annotations

from rdkit import Chem

from graphcnf.graphs.packed import PackedGraphs
from graphcnf.molecules.codec import canonical_smiles, graph_to_molecule
from graphcnf.molecules.smiles import quiet
from graphcnf.molecules.vocabulary import MoleculeVocabulary

_LOWER = {
    Chem.BondType.TRIPLE: Chem.BondType.DOUBLE,
    Chem.BondType.DOUBLE: Chem.BondType.SINGLE,
}
_OVERFULL = {"N": 4, "O": 3, "S": 3}
"""Valence of an uncharged atom that the literature reads as N+, O+ or S+."""


def sanitized(mol: Chem.Mol) -> Chem.Mol | None:
    """A sanitized copy, None where RDKit refuses."""
    mol = Chem.Mol(mol)
    with quiet():
        try:
            Chem.SanitizeMol(mol)
        except (ValueError, RuntimeError):  # sanitization errors derive from ValueError
            return None
    return mol


def strict(mol: Chem.Mol) -> str | None:
    """Canonical SMILES without stereo where the molecule sanitizes as it is and is connected.

    RDKit's sanitization reads a few uncharged spellings as their charged form, N(=O)=O as
    `[N+](=O)[O-]` for one.

    Examples:
        >>> strict(Chem.MolFromSmiles("OCC", sanitize=False))
        'CCO'
        >>> strict(Chem.MolFromSmiles("C(C)(C)(C)(C)C", sanitize=False)) is None
        True
    """
    if not mol.GetNumAtoms() or len(Chem.GetMolFrags(mol)) != 1:
        return None
    clean = sanitized(mol)
    return None if clean is None else canonical_smiles(clean)


def strict_smiles(graphs: PackedGraphs, vocabulary: MoleculeVocabulary) -> list[str | None]:
    """`strict` of every graph."""
    with quiet():
        return [strict(graph_to_molecule(*graphs.graph(k), vocabulary)) for k in range(len(graphs))]


def largest_fragment(mol: Chem.Mol) -> tuple[str | None, float]:
    """The fragment with most atoms, if it sanitizes, and the share of atoms that it holds.

    Returns:
        Canonical SMILES without stereo or None, and the share in [0, 1] (0 without atoms).
    """
    atoms = mol.GetNumAtoms()
    if not atoms:
        return None, 0.0
    part = _largest(mol)
    return strict(part), part.GetNumAtoms() / atoms


def valence_only(mol: Chem.Mol) -> str | None:
    """SMILES where the molecule sanitizes after automatic N+, O+ and S+, fragments allowed.

    The convention of GDSS, DiGress and DeFoG: an uncharged nitrogen with four bonds becomes N+, an
    oxygen or sulfur with three O+ or S+.
    """
    if not mol.GetNumAtoms():
        return None
    mol = _kekulized(mol)
    for atom in mol.GetAtoms():
        bonds = sum(bond.GetBondTypeAsDouble() for bond in atom.GetBonds())
        if not atom.GetFormalCharge() and bonds == _OVERFULL.get(atom.GetSymbol()):
            atom.SetFormalCharge(1)
    clean = sanitized(mol)
    return None if clean is None else canonical_smiles(clean)


def _kekulized(mol: Chem.Mol) -> Chem.Mol:
    """A copy with single and double bonds; with aromatic ones where RDKit finds no such form."""
    plain = Chem.Mol(mol)
    if any(bond.GetIsAromatic() for bond in mol.GetBonds()):
        with quiet():
            try:
                plain.UpdatePropertyCache(strict=False)
                Chem.Kekulize(plain, clearAromaticFlags=True)
            except (ValueError, RuntimeError):
                return Chem.Mol(mol)
    return plain


def repaired(mol: Chem.Mol) -> str | None:
    """`strict` of the largest fragment after `repair_valence`: says nothing about a model."""
    return strict(_largest(repair_valence(mol))) if mol.GetNumAtoms() else None


def repair_valence(mol: Chem.Mol) -> Chem.Mol:
    """Lower or remove bonds at atoms whose valence is exceeded, until none is left.

    At each step the first such atom loses one order of its highest bond (the last one where
    several are equal). This is a repair: call what comes out of it that.
    """
    mol = Chem.RWMol(mol)
    with quiet():
        while True:
            problems = [
                problem.GetAtomIdx()
                for problem in Chem.DetectChemistryProblems(mol)
                if problem.GetType() == "AtomValenceException"
            ]
            bonds = mol.GetAtomWithIdx(problems[0]).GetBonds() if problems else ()
            if not bonds:
                return mol.GetMol()
            bond = max(bonds, key=lambda b: (b.GetBondTypeAsDouble(), b.GetIdx()))
            if bond.GetBondType() in _LOWER:
                bond.SetBondType(_LOWER[bond.GetBondType()])
            else:
                mol.RemoveBond(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())


def _largest(mol: Chem.Mol) -> Chem.Mol:
    """The fragment with most atoms, unsanitized; the first of several."""
    if len(Chem.GetMolFrags(mol)) == 1:
        return mol
    fragments = Chem.GetMolFrags(mol, asMols=True, sanitizeFrags=False)
    return max(fragments, key=Chem.Mol.GetNumAtoms)
