"""Fragments of molecules, as SMILES with attachment points or as SMARTS, for `growth`.

An attachment point is a dummy atom, `*`, `[*:1]` or `[1*]`: in its place comes a new atom with the
same bond. Elsewhere a new bond takes the place of a hydrogen, where the fragment is open. Aromatic
rings may have any of their Kekule structures, all bonds together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from rdkit import Chem

from graphcnf.errors import UserError
from graphcnf.graphs.constrained.placement import Fragment
from graphcnf.molecules.smarts import atom_could_be, bond_could_be
from graphcnf.molecules.smiles import UnparsableSmiles, parse, parse_smarts, quiet
from graphcnf.molecules.vocabulary import MARK, AtomCategory, MoleculeVocabulary

FORMS = 256
"""Kekule structures that are looked at, at most."""

MATCHES = 1000
"""Places of a fragment in a molecule that are counted, at most."""


@dataclass
class MoleculeFragment:
    """Atoms and bonds that a molecule has to hold.

    Attributes:
        text: As it was given.
        fragment: What the model is told.
        query: Matches a molecule exactly where it holds the fragment as asked for.
        atoms: Heavy atoms, without attachment points.
    """

    text: str
    fragment: Fragment
    query: Chem.Mol
    atoms: int

    def substituents(self, molecule: Chem.Mol) -> dict[int, list[str]]:
        """Return SMILES of the parts at each atom with attachment points, by the atom's number.

        One place of the fragment is taken, the first that RDKit finds. A part that is bonded to two
        atoms of the fragment stands at both; dummy atoms are labelled by those atoms' numbers.
        """
        atoms = self.fragment.sockets.nonzero()[:, 0].tolist()
        found: dict[int, list[str]] = {k: [] for k in atoms}
        rest = Chem.ReplaceCore(molecule, self.query, labelByIndex=True)
        for part in Chem.GetMolFrags(rest, asMols=True, sanitizeFrags=False):
            for atom in part.GetAtoms():
                if not atom.GetAtomicNum():
                    found.setdefault(atom.GetIsotope(), []).append(Chem.MolToSmiles(part))
        return found

    def places(self, molecule: Chem.Mol) -> int:
        """Ways to find it in a molecule, symmetric ones included, 0 if it is not there."""
        return len(molecule.GetSubstructMatches(self.query, uniquify=False, maxMatches=MATCHES))


def read_fragment(
    text: str,
    vocabulary: MoleculeVocabulary,
    *,
    is_open: bool,
    rings: bool,
    attachments: tuple[int, int] = (0, 38),
    parts: int = 1,
) -> MoleculeFragment:
    """Read a fragment.

    Args:
        text: SMILES, or SMARTS where it is no SMILES. Stereo does not count.
        vocabulary: What the model knows.
        is_open: Whether every hydrogen may be replaced, not only attachment points.
        rings: Whether new atoms may close rings over atoms of the fragment.
        attachments: Fewest and most attachment points of each part.
        parts: Number of parts, separated by a dot.

    Raises:
        UserError: It is no such fragment, or the model does not know an atom or a bond of it.
    """
    try:
        with quiet():
            given, smarts = parse(text), False
    except UnparsableSmiles:
        given, smarts = parse_smarts(text, kind="SMILES or SMARTS"), True
    found = len(Chem.GetMolFrags(given))
    if found != parts:
        raise UserError(f"{text[:80]!r} has {found} parts, {parts} needed")
    with quiet():
        return (
            _of_smarts(text, given, vocabulary, is_open, rings)
            if smarts
            else _of_smiles(text, given, vocabulary, is_open, rings, attachments)
        )


def _of_smiles(text, given, vocabulary, is_open, rings, attachments) -> MoleculeFragment:
    Chem.RemoveStereochemistry(given)
    for atom in given.GetAtoms():
        atom.SetAtomMapNum(0)
        atom.SetIsotope(0)
        if atom.GetNumRadicalElectrons():
            raise UserError(f"{text[:80]!r}: radical at {atom.GetSymbol()}")
    dummies = {a.GetIdx() for a in given.GetAtoms() if not a.GetAtomicNum()}
    for part in Chem.GetMolFrags(given):
        count = sum(k in dummies for k in part)
        low, high = attachments
        if not low <= count <= high:
            wanted = f"{low}" if low == high else f"{low} or more"
            raise UserError(
                f"{text[:80]!r}: {count} attachment points in a part, {wanted} needed, as in "
                "[*:1]c1ccccc1"
            )
        if count == len(part):
            raise UserError(f"{text[:80]!r}: no atoms beside attachment points")
    kept = [a.GetIdx() for a in given.GetAtoms() if a.GetIdx() not in dummies]
    number = {old: new for new, old in enumerate(kept)}
    sockets = [0] * len(kept)
    for k in dummies:
        bonds = given.GetAtomWithIdx(k).GetBonds()
        if len(bonds) != 1 or bonds[0].GetBondType() != Chem.BondType.SINGLE:
            raise UserError(f"{text[:80]!r}: an attachment point has one single bond")
        other = bonds[0].GetOtherAtomIdx(k)
        if other in dummies:
            raise UserError(f"{text[:80]!r}: two attachment points in a row")
        sockets[number[other]] += 1
    atoms = [given.GetAtomWithIdx(k) for k in kept]
    kinds = torch.zeros(len(kept), len(vocabulary.atoms), dtype=torch.bool)
    for new, atom in enumerate(atoms):
        category = AtomCategory(
            atom.GetSymbol(), atom.GetFormalCharge(), vocabulary.marked and atom.GetIsAromatic()
        )
        if category not in vocabulary.atom_index:
            labels = " ".join(vocabulary.atom_labels)
            raise UserError(f"{text[:80]!r}: {category} is not among the atoms {labels}")
        kinds[new, vocabulary.atom_index[category]] = True
    inner = [
        bond for bond in given.GetBonds()
        if bond.GetBeginAtomIdx() in number and bond.GetEndAtomIdx() in number
    ]  # fmt: skip
    edges = [(number[b.GetBeginAtomIdx()], number[b.GetEndAtomIdx()]) for b in inner]
    rows = []
    for structure in _kekule_structures(given):
        row = torch.zeros(len(edges), len(vocabulary.bonds) + 1, dtype=torch.bool)
        for place, bond in enumerate(inner):
            name = structure.GetBondWithIdx(bond.GetIdx()).GetBondType().name
            name = MARK + name if vocabulary.marked and bond.GetIsAromatic() else name
            if name not in vocabulary.bond_index:
                raise UserError(f"{text[:80]!r}: the model knows no {name} bonds")
            row[place, vocabulary.bond_index[name] + 1] = True
        rows.append(row)
    forms = torch.stack(rows)
    room = [atom.GetTotalNumHs() if is_open else 0 for atom in atoms]
    if not sum(room) and not sum(sockets):
        raise UserError(f"{text[:80]!r} has no hydrogen to replace and no attachment point")
    fragment = make_fragment(kinds, edges, forms, room, sockets, vocabulary, rings=rings)
    return MoleculeFragment(text, fragment, _query(given, is_open), len(kept))


def _kekule_structures(mol: Chem.Mol) -> list[Chem.Mol]:
    """All Kekule structures of a molecule, distinct, with bond numbers as they were."""
    if not any(bond.GetIsAromatic() for bond in mol.GetBonds()):
        return [mol]
    charges = [atom.GetFormalCharge() for atom in mol.GetAtoms()]
    found: dict[tuple, Chem.Mol] = {}
    for structure in Chem.ResonanceMolSupplier(mol, Chem.KEKULE_ALL, FORMS):
        if structure is None:
            continue
        kinds = tuple(bond.GetBondType() for bond in structure.GetBonds())
        # Resonance moves charges as well: only the forms that keep them are the same fragment.
        same = [atom.GetFormalCharge() for atom in structure.GetAtoms()] == charges
        fixed = all(
            new != Chem.BondType.AROMATIC if old.GetIsAromatic() else new == old.GetBondType()
            for new, old in zip(kinds, mol.GetBonds(), strict=True)
        )
        if same and fixed:
            found.setdefault(kinds, structure)
    if not found:
        plain = Chem.Mol(mol)
        Chem.Kekulize(plain, clearAromaticFlags=True)
        return [plain]
    return list(found.values())


def _query(mol: Chem.Mol, is_open: bool) -> Chem.Mol:
    """Find the fragment in a molecule; where it is closed, with no other neighbours."""
    parameters: Any = Chem.AdjustQueryParameters.NoAdjustments()
    parameters.makeDummiesQueries = True
    if not is_open:
        parameters.adjustDegree = True
        parameters.adjustDegreeFlags = Chem.ADJUST_IGNOREDUMMIES
    query = Chem.RWMol(Chem.AdjustQueryProperties(mol, parameters))
    if not is_open:
        # Degrees say it all, and one new atom may be at two attachment points.
        for k in sorted((a.GetIdx() for a in mol.GetAtoms() if not a.GetAtomicNum()), reverse=True):
            query.RemoveAtom(k)
    return query.GetMol()


def _of_smarts(text, pattern, vocabulary, is_open, rings) -> MoleculeFragment:
    """Each atom may be what its element, charge and aromaticity say; the query settles the rest."""
    if not is_open:
        raise UserError(
            f"{text[:80]!r}: attachment points go with a SMILES; leave * out of a SMARTS, which "
            "grows at every hydrogen"
        )
    kinds = torch.zeros(pattern.GetNumAtoms(), len(vocabulary.atoms), dtype=torch.bool)
    for new, atom in enumerate(pattern.GetAtoms()):
        for k, category in enumerate(vocabulary.atoms):
            kinds[new, k] = atom_could_be(atom, category, vocabulary.marked)
    for new, row in enumerate(kinds):
        if not row.any():
            symbol = pattern.GetAtomWithIdx(new).GetSmarts()
            raise UserError(f"{text[:80]!r}: the model knows no atom like {symbol}")
    edges, rows = [], []
    for bond in pattern.GetBonds():
        row = torch.zeros(len(vocabulary.bonds) + 1, dtype=torch.bool)
        for k, name in enumerate(vocabulary.bonds):
            row[k + 1] = bond_could_be(bond, name, vocabulary.marked)
        if not row.any():
            raise UserError(f"{text[:80]!r}: the model knows no bond like {bond.GetSmarts()}")
        rows.append(row)
        edges.append((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()))
    bonds = len(vocabulary.bonds) + 1
    forms = torch.stack(rows)[None] if rows else torch.zeros(1, 0, bonds, dtype=torch.bool)
    room = [6 if is_open else 0] * len(kinds)
    none = [0] * len(kinds)
    fragment = make_fragment(kinds, edges, forms, room, none, vocabulary, rings=rings)
    return MoleculeFragment(text, fragment, pattern, len(kinds))


def make_fragment(
    kinds, edges, forms, room, sockets, vocabulary: MoleculeVocabulary, *, rings: bool
) -> Fragment:
    """Return a `Fragment` of these attributes, edges and numbers as lists."""
    plain = [False, *(not name.startswith(MARK) for name in vocabulary.bonds)]
    return Fragment(
        kinds=kinds,
        edges=torch.tensor(edges, dtype=torch.long).reshape(-1, 2),
        forms=forms,
        room=torch.tensor(room),
        sockets=torch.tensor(sockets),
        plain=torch.tensor(plain),
        rings=rings,
    )
