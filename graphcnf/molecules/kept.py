"""Retained cores of a molecule, as fragments for `growth`.

With the skeleton or the bonds kept, a fragment is the whole molecule, whose atoms may be anything;
with the scaffold kept, it is the scaffold with some of what hangs on it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import networkx as nx
import torch
from rdkit import Chem
from rdkit.Chem.Scaffolds import MurckoScaffold

from graphcnf.errors import UserError
from graphcnf.molecules.fragments import MoleculeFragment, make_fragment, read_fragment
from graphcnf.molecules.vocabulary import MARK, MoleculeVocabulary

_SMARTS = {"SINGLE": "-", "DOUBLE": "=", "TRIPLE": "#", "AROMATIC": ":"}


def bare(mol: Chem.Mol, vocabulary: MoleculeVocabulary, *, orders: bool) -> MoleculeFragment:
    """Return a molecule without the categories of its atoms.

    Args:
        mol: A sanitized molecule, all of whose atoms and bonds are in the vocabulary.
        vocabulary: Of the model.
        orders: Whether bonds keep their orders, where aromatic is one; any order otherwise.
    """
    kinds = torch.zeros(mol.GetNumAtoms(), len(vocabulary.atoms), dtype=torch.bool)
    for atom in mol.GetAtoms():
        for k, category in enumerate(vocabulary.atoms):
            # Only what lies on a ring can be aromatic.
            kinds[atom.GetIdx(), k] = atom.IsInRing() or not category.aromatic
    forms = torch.zeros(1, mol.GetNumBonds(), len(vocabulary.bonds) + 1, dtype=torch.bool)
    edges: list[tuple[int, int]] = []
    for bond in mol.GetBonds():
        own = {bond.GetBondType().name}
        if own == {"AROMATIC"}:
            mark = MARK if vocabulary.marked else ""
            own = {mark + "SINGLE", mark + "DOUBLE"}
        for k, name in enumerate(vocabulary.bonds):
            possible = bond.IsInRing() or not name.startswith(MARK)
            forms[0, len(edges), k + 1] = possible and (name in own or not orders)
        edges.append((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()))
    none = [0] * len(kinds)
    fragment = make_fragment(kinds, edges, forms, none, none, vocabulary, rings=False)
    return MoleculeFragment(
        Chem.MolToSmiles(mol), fragment, bare_query(mol, orders=orders), len(kinds)
    )


def bare_query(mol: Chem.Mol, *, orders: bool) -> Chem.Mol:
    """Find the bonds of a molecule between any atoms, with their orders or with any."""
    query = Chem.RWMol()
    for _ in mol.GetAtoms():
        query.AddAtom(Chem.AtomFromSmarts("*"))
    for number, bond in enumerate(mol.GetBonds()):
        smarts = _SMARTS.get(bond.GetBondType().name, "~") if orders else "~"
        query.AddBond(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())
        query.ReplaceBond(number, Chem.BondFromSmarts(smarts))
    return query.GetMol()


def murcko(mol: Chem.Mol) -> str:
    """SMILES of the Bemis-Murcko scaffold, with atoms doubly bonded to it; empty without rings."""
    return Chem.MolToSmiles(MurckoScaffold.GetScaffoldForMol(mol))


def scaffold_and_rest(mol: Chem.Mol) -> tuple[set[int], list[set[int]]]:
    """Numbers of the atoms of the Bemis-Murcko scaffold, and of each part that hangs on it.

    Raises:
        UserError: The molecule has no ring.
    """
    numbered = Chem.Mol(mol)
    for atom in numbered.GetAtoms():
        atom.SetIntProp("number", atom.GetIdx())
    core = MurckoScaffold.GetScaffoldForMol(numbered)
    inside = {atom.GetIntProp("number") for atom in core.GetAtoms()}
    if not inside:
        raise UserError(
            f"{Chem.MolToSmiles(mol)[:80]!r} has no ring, so no scaffold: keep the skeleton or the "
            "bonds instead"
        )
    rest = nx.Graph((b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in mol.GetBonds())
    rest.remove_nodes_from(inside)
    return inside, sorted(nx.connected_components(rest), key=min)


def around(
    mol: Chem.Mol, vocabulary: MoleculeVocabulary, kept: Collection[int]
) -> MoleculeFragment:
    """Atoms of a molecule that may get new ones for their hydrogens, but no new rings.

    Args:
        mol: A sanitized molecule.
        vocabulary: Of the model.
        kept: Numbers of the atoms; bonds from them to others are single.

    Raises:
        UserError: See `read_fragment`.
    """
    part = Chem.RWMol(mol)
    for bond in mol.GetBonds():
        ends = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        for inner, outer in (ends, ends[::-1]):
            if inner in kept and outer not in kept:
                # A hydrogen takes the place of what is left out.
                new = part.AddAtom(Chem.Atom(1))
                part.AddBond(inner, new, Chem.BondType.SINGLE)
    for number in sorted(set(range(mol.GetNumAtoms())) - set(kept), reverse=True):
        part.RemoveAtom(number)
    Chem.SanitizeMol(part)
    text = Chem.MolToSmiles(Chem.RemoveHs(part))
    found = read_fragment(text, vocabulary, is_open=True, rings=False)
    return replace(found, fragment=replace(found.fragment, acyclic=True))
