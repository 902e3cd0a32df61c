"""Nearest known category of an unknown atom or bond."""

from __future__ import annotations

from collections.abc import Sequence

from rdkit import Chem

from graphcnf.molecules.vocabulary import MARK, AtomCategory, MoleculeVocabulary


def extended(known: MoleculeVocabulary, data: MoleculeVocabulary) -> MoleculeVocabulary:
    """Return the known categories in their order, then what the data have beside them.

    Raises:
        ValueError: There are more than a vocabulary holds.
    """
    atoms = [atom for atom in data.atoms if atom not in known.atom_index]
    bonds = [bond for bond in data.bonds if bond not in known.bond_index]
    return MoleculeVocabulary((*known.atoms, *atoms), (*known.bonds, *bonds))


def atom_sources(known: MoleculeVocabulary, wanted: MoleculeVocabulary) -> list[int]:
    """For each atom of `wanted` the number of the known one that is closest, itself where known."""
    return [
        known.atom_index.get(atom, known.atom_index[closest_atom(atom, known.atoms)])
        for atom in wanted.atoms
    ]


def bond_sources(known: MoleculeVocabulary, wanted: MoleculeVocabulary) -> list[int]:
    """Return the nearest known categories of bonds."""
    return [known.bond_index.get(bond, closest_bond(bond, known)) for bond in wanted.bonds]


def closest_bond(bond: str, known: MoleculeVocabulary) -> int:
    """Return the number of the known bond of the nearest order, marked alike where there is one."""
    (order,) = MoleculeVocabulary((), (bond,)).bond_orders

    def distance(k: int) -> tuple:
        marked = known.bonds[k].startswith(MARK), bond.startswith(MARK)
        return abs(known.bond_orders[k] - order), marked[0] != marked[1], k

    return min(range(len(known.bonds)), key=distance)


def closest_atom(atom: AtomCategory, known: Sequence[AtomCategory]) -> AtomCategory:
    """Return the known category that bonds most alike.

    Atoms with as many outer electrons have as many bonds, whatever their element: N+ like C, Si
    like C, Se like S, B- like C. Aromatic marks count first, then these electrons, the charge, and
    how far apart the elements are.
    """
    table = Chem.GetPeriodicTable()

    def electrons(a: AtomCategory) -> int:
        return table.GetNOuterElecs(a.symbol) - a.charge

    def distance(other: AtomCategory) -> tuple:
        numbers = table.GetAtomicNumber(atom.symbol), table.GetAtomicNumber(other.symbol)
        return (
            atom.aromatic != other.aromatic,
            abs(electrons(atom) - electrons(other)),
            abs(atom.charge - other.charge),
            abs(numbers[0] - numbers[1]),
        )

    return min(known, key=distance)
