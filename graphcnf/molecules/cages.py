"""Canonical SMILES of very symmetric cages, for which RDKit's depends on the order of the atoms.

RDKit breaks ties between alike atoms without looking whether it matters which of them it takes.
For cubic cages of large girth it does: C-H cages on the graphs of Heawood, Moebius and Kantor,
Pappus or Dyck have 2 to 6 "canonical" SMILES, and so have some of them with a CH2 in every edge.
Here the package's own canonical order takes over.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from rdkit import Chem

RINGS = 6
"""Independent rings in one ring system; with fewer of them no molecule was found to be affected."""

ALIKE = 8
"""Ring atoms that RDKit cannot tell apart before it breaks ties; with fewer of them likewise. No
molecule of ZINC250k or QM9 has as many in as many rings."""

LEAVES = 200
"""Numberings to compare, see `canonical_order`; a second for a large molecule. Cages need ten."""


def is_cage(mol: Chem.Mol) -> bool:
    """Whether a sanitized, connected molecule is so symmetric that RDKit's order is in doubt."""
    if mol.GetNumBonds() - mol.GetNumAtoms() + 1 < RINGS:
        return False
    bonds = [b for b in mol.GetBonds() if b.IsInRing()]
    system = {a.GetIdx(): a.GetIdx() for a in mol.GetAtoms()}

    def find(i: int) -> int:
        while system[i] != i:
            i = system[i]
        return i

    for bond in bonds:
        system[find(bond.GetBeginAtomIdx())] = find(bond.GetEndAtomIdx())
    rings = Counter(find(b.GetBeginAtomIdx()) for b in bonds)
    rings.subtract(find(a.GetIdx()) for a in mol.GetAtoms() if a.IsInRing())
    if max(rings.values(), default=0) + 1 < RINGS:
        return False
    ranks = Chem.CanonicalRankAtoms(mol, breakTies=False)
    alike = Counter(ranks[atom.GetIdx()] for atom in mol.GetAtoms() if atom.IsInRing())
    return max(alike.values()) >= ALIKE and len(Chem.GetMolFrags(mol)) == 1


def cage_smiles(mol: Chem.Mol) -> str:
    """SMILES of a sanitized molecule without stereo, written in the package's canonical order.

    Where the search for that order takes too long (strongly regular graphs), RDKit's SMILES.
    """
    from graphcnf.graphs.orderings import canonical_order

    atoms = [
        (a.GetSymbol(), a.GetFormalCharge(), a.GetTotalNumHs(), a.GetNumRadicalElectrons(),
         a.GetIsAromatic())
        for a in mol.GetAtoms()
    ]  # fmt: skip
    bonds = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx(), int(b.GetBondType())) for b in mol.GetBonds()]
    kinds = {kind: k for k, kind in enumerate(sorted(set(atoms)))}
    try:
        order = canonical_order(
            [kinds[atom] for atom in atoms],
            [b[:2] for b in bonds],
            [b[2] for b in bonds],
            max_leaves=LEAVES,
        )
    except ValueError:
        return Chem.MolToSmiles(mol)
    place = {int(old): new for new, old in enumerate(order)}
    # Built anew, since what RDKit writes also depends on the order of the bonds.
    ordered = Chem.RWMol()
    for old in order:
        ordered.AddAtom(mol.GetAtomWithIdx(int(old)))
    rows: list[Any] = sorted(
        (*sorted((place[b.GetBeginAtomIdx()], place[b.GetEndAtomIdx()])), b.GetBondType())
        for b in mol.GetBonds()
    )
    for i, j, kind in rows:
        ordered.AddBond(i, j, kind)
    for bond in ordered.GetBonds():
        bond.SetIsAromatic(bond.GetBondType() == Chem.BondType.AROMATIC)
    ordered.UpdatePropertyCache(strict=False)
    return Chem.MolToSmiles(ordered, canonical=False)
