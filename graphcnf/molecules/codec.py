"""Molecules to typed graphs and back.

A graph holds the heavy atoms, kekulized, without stereo and isotopes; hydrogens are implicit. It is
a function of the molecule, whatever order its atoms came in: the molecule is written as RDKit's
canonical SMILES, and the graph is read off that string. (Very symmetric cages, cubic ones of large
girth, have several such SMILES; no molecule of ZINC250k or QM9 is one.) Atoms are numbered
depth-first from the first one, rings before branches: a ring is closed as soon as it can be, not
after everything that hangs on it. Where the vocabulary has marks, atoms and bonds also say whether
they are aromatic; coming back, the Kekulé structure alone counts.
"""

from __future__ import annotations

from rdkit import Chem

from graphcnf.limits import MAX_NODES
from graphcnf.molecules.smiles import (
    LAST_ELEMENT,
    MoleculeNotRepresentable,
    UnparsableSmiles,
    parse,
    quiet,
)
from graphcnf.molecules.vocabulary import MARK, AtomCategory, MoleculeVocabulary

_NAMES = {bond: bond.name for bond in Chem.BondType.values.values()}

Graph = tuple[list[int], list[tuple[int, int]], list[int]]
"""Node types (n), edges (i, j) with j < i sorted by i and -j (m), bond types (m)."""


class SeveralFragments(MoleculeNotRepresentable):
    """More than one connected component."""


class UnknownAtom(MoleculeNotRepresentable):
    """An (element, charge) outside the vocabulary, or a radical."""


class UnknownBond(MoleculeNotRepresentable):
    """A bond type outside the vocabulary."""


class HydrogensLost(MoleculeNotRepresentable):
    """Heavy atoms and bonds do not say where its hydrogens are."""


class TooLarge(MoleculeNotRepresentable):
    """More atoms than allowed."""


def canonical_smiles(mol: Chem.Mol) -> str:
    """Canonical SMILES of a sanitized molecule without stereo, isotopes and atom numbers."""
    mol = Chem.Mol(mol)
    hydrogens = False
    for atom in mol.GetAtoms():
        atom.SetIsotope(0)
        atom.SetAtomMapNum(0)
        hydrogens |= atom.GetAtomicNum() == 1
    Chem.RemoveStereochemistry(mol)
    mol = Chem.RemoveHs(mol) if hydrogens else mol
    return Chem.MolToSmiles(mol)


def canonical(smiles: str) -> Chem.Mol:
    """Return the molecule of a `canonical_smiles` with canonical atom numbers, kekulized.

    Aromatic flags are kept.

    Raises:
        UnparsableSmiles: Its aromatic atoms have no Kekulé structure.
    """
    # Kekulé structures depend on the order of atoms and bonds, so both come from the string.
    mol = Chem.MolFromSmiles(smiles, sanitize=False)
    try:
        mol.UpdatePropertyCache(strict=False)
        Chem.Kekulize(mol)
        return Chem.RenumberAtoms(mol, _rings_first(mol))
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UnparsableSmiles(f"{smiles[:80]!r} cannot be kekulized: {reason}") from None


def _rings_first(mol: Chem.Mol) -> list[int]:
    """Atoms in a depth-first order that follows bonds in rings before others."""
    Chem.FastFindRings(mol)
    order: dict[int, None] = {}
    ahead = [0]
    while ahead:
        k = ahead.pop()
        if k in order:
            continue
        order[k] = None
        bonds = mol.GetAtomWithIdx(k).GetBonds()
        nearby = sorted((not bond.IsInRing(), bond.GetOtherAtomIdx(k)) for bond in bonds)
        ahead += [j for _, j in reversed(nearby) if j not in order]
    return list(order)


def categories(
    mol: Chem.Mol, marked: bool
) -> tuple[list[AtomCategory], list[tuple[int, int]], list[str]]:
    """Graph of a `canonical` molecule in names: categories of atoms, edges, names of bonds.

    Args:
        mol: The molecule.
        marked: Whether aromatic atoms and bonds are marked.
    """
    atoms = [
        AtomCategory(a.GetSymbol(), a.GetFormalCharge(), marked and a.GetIsAromatic())
        for a in mol.GetAtoms()
    ]
    rows = []
    for bond in mol.GetBonds():
        i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        name = _NAMES[bond.GetBondType()]
        name = MARK + name if marked and bond.GetIsAromatic() else name
        rows.append((i, -j, name) if i > j else (j, -i, name))
    rows.sort(key=lambda row: row[:2])
    return atoms, [(i, -j) for i, j, _ in rows], [name for _, _, name in rows]


def check_representable(mol: Chem.Mol, max_atoms: int = MAX_NODES) -> None:
    """Refuse a sanitized molecule whose graph would not lead back to it, whatever the vocabulary.

    Raises:
        TooLarge: More than `max_atoms` heavy atoms.
        SeveralFragments: It is not connected.
        UnknownAtom: A radical, or an atom that is no element.
    """
    if mol.GetNumHeavyAtoms() > max_atoms:
        raise TooLarge(f"{mol.GetNumHeavyAtoms()} heavy atoms, at most {max_atoms} are allowed")
    fragments = len(Chem.GetMolFrags(mol))
    if fragments > 1:
        raise SeveralFragments(f"{fragments} separate fragments, a molecule needs to be connected")
    for atom in mol.GetAtoms():
        if not atom.GetAtomicNum():
            raise UnknownAtom(f"{atom.GetSymbol()} is no element")
        if atom.GetAtomicNum() > LAST_ELEMENT:
            raise UnknownAtom(f"no element has the atomic number {atom.GetAtomicNum()}")
        if atom.GetNumRadicalElectrons():
            raise UnknownAtom(f"radical at {atom.GetSymbol()}, which implicit hydrogens would fill")


def check_roundtrip(mol: Chem.Mol, smiles: str | None = None) -> None:
    """Refuse a molecule that its graph does not lead back to.

    Hydrogens that RDKit would not put there by itself are what gets lost: at phosphorus and sulfur
    beyond their lowest valence, at metals, at ends of dative bonds.

    Args:
        mol: `canonical` molecule.
        smiles: Its `canonical_smiles`.

    Raises:
        HydrogensLost: It does not come back.
    """
    plain = Chem.RWMol()
    for old in mol.GetAtoms():
        atom = Chem.Atom(old.GetSymbol())
        atom.SetFormalCharge(old.GetFormalCharge())
        plain.AddAtom(atom)
    for bond in mol.GetBonds():
        # A graph knows no direction: that of a dative bond is lost.
        i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        plain.AddBond(max(i, j), min(i, j), bond.GetBondType())
    try:
        Chem.SanitizeMol(plain)
        back = canonical_smiles(plain)
    except (ValueError, RuntimeError):
        back = "no molecule"
    if back != smiles:
        raise HydrogensLost(f"its heavy atoms and bonds alone would be read as {back[:80]}")


def check_vocabulary(atoms, bonds, vocabulary: MoleculeVocabulary) -> None:
    """Refuse `categories` that the vocabulary lacks.

    Raises:
        UnknownAtom: An atom is not among its atoms.
        UnknownBond: A bond is not among its bonds.
    """
    for atom in atoms:
        if atom not in vocabulary.atom_index:
            raise UnknownAtom(f"{atom} is not among the atoms {' '.join(vocabulary.atom_labels)}")
    for bond in bonds:
        if bond not in vocabulary.bond_index:
            raise UnknownBond(f"{bond} bond is not among {' '.join(vocabulary.bonds)}")


def molecule_to_graph(
    mol: Chem.Mol | str, vocabulary: MoleculeVocabulary, max_atoms: int = MAX_NODES
) -> Graph:
    """Graph of a molecule or SMILES: node types, edges, bond types.

    Raises:
        MoleculeNotRepresentable: See its subclasses.

    Examples:
        >>> from graphcnf.molecules.vocabulary import MoleculeVocabulary
        >>> vocabulary = MoleculeVocabulary.from_counts(
        ...     {AtomCategory("C", 0): 2, AtomCategory("O", 0): 1}, {"SINGLE": 2}
        ... )
        >>> molecule_to_graph("OCC", vocabulary)  # the canonical SMILES is CCO
        ([0, 0, 1], [(1, 0), (2, 1)], [0, 0])
    """
    with quiet():
        mol = parse(mol) if isinstance(mol, str) else mol
        if not isinstance(mol, Chem.Mol):
            raise UnparsableSmiles(f"no molecule and no SMILES: {mol!r:.40}")
        check_representable(mol, max_atoms)
        smiles = canonical_smiles(mol)
        mol = canonical(smiles)
        atoms, edges, bonds = categories(mol, vocabulary.marked)
        check_vocabulary(atoms, bonds, vocabulary)
        check_roundtrip(mol, smiles)
    return (
        [vocabulary.atom_index[a] for a in atoms], edges, [vocabulary.bond_index[b] for b in bonds],
    )  # fmt: skip


def graph_to_molecule(node_types, edges, bond_types, vocabulary: MoleculeVocabulary) -> Chem.Mol:
    """Molecule of a graph, valid or not: unsanitized, hydrogens left to RDKit.

    Args:
        node_types: Node categories (n).
        edges: Pairs of node numbers (m, 2), each edge once.
        bond_types: Bond categories (m).
        vocabulary: Meaning of the categories.
    """
    mol = Chem.RWMol()
    for k in node_types:
        category = vocabulary.atoms[k]
        atom = Chem.Atom(category.symbol)
        atom.SetFormalCharge(category.charge)
        mol.AddAtom(atom)
    types = [Chem.BondType.names[name] for name in vocabulary.bond_types]
    for (i, j), k in zip(edges, bond_types, strict=True):
        mol.AddBond(int(i), int(j), types[k])
    return mol.GetMol()
