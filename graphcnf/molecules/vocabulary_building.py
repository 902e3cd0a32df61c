"""Vocabularies of data sets: counted, extended by further categories, compared with each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphcnf.molecules.vocabulary import AROMATIC, BONDS, AtomCategory, MoleculeVocabulary

ORDERS = {"SINGLE": 1, "DOUBLE": 2, "TRIPLE": 3, "QUADRUPLE": 4, "QUINTUPLE": 5, "HEXTUPLE": 6}
"""Bond orders of RDKit's bond types that have one."""


def vocabulary_from_counts(
    atoms: Mapping[AtomCategory, int], bonds: Mapping[str, int]
) -> MoleculeVocabulary:
    """Return the vocabulary of counted categories, most frequent first, ties by name.

    Args:
        atoms: Number of atoms of each category.
        bonds: Number of bonds of each name; all of `BONDS` are included, even if not counted.
    """
    names = [*BONDS, *sorted(set(bonds) - set(BONDS))]
    names.sort(key=lambda bond: -bonds.get(bond, 0))
    return MoleculeVocabulary(tuple(sorted(atoms, key=lambda a: (-atoms[a], a))), tuple(names))


def extend_vocabulary(known: MoleculeVocabulary, data: MoleculeVocabulary) -> MoleculeVocabulary:
    """Return a vocabulary with the categories appended that only another one has.

    Args:
        known: The vocabulary, whose categories keep their numbers.
        data: The other one.

    Returns:
        The vocabulary of both; equal to `known` if that has all categories of `data`.
    """
    atoms = [atom for atom in data.atoms if atom not in known.atom_index]
    bonds = [bond for bond in data.bonds if bond not in known.bond_index]
    return MoleculeVocabulary((*known.atoms, *atoms), (*known.bonds, *bonds))


def bond_orders(vocabulary: MoleculeVocabulary) -> list[int]:
    """Return the bond order of each bond category.

    It is 1 for types without an order, such as dative bonds.

    Args:
        vocabulary: The vocabulary.

    Returns:
        A whole number for each bond category, in their order; of aromatic ones the order in the
        Kekulé structure.
    """
    return [ORDERS.get(bond, 1) for bond in vocabulary.bond_types]


def merge_aromatic(vocabulary: MoleculeVocabulary) -> tuple[list[int], list[int]]:
    """Find for each category the first one from which it differs by being aromatic at most.

    By these lists, environments of atoms tell neighbours apart by element and charge, and bonds by
    their type in the Kekulé structure, but not by what is aromatic: `c` is merged with `C`.

    Args:
        vocabulary: The vocabulary; without aromatic categories each one stands for itself.

    Returns:
        A number of an atom category for each atom category, and of a bond category for each bond
        category.
    """
    atoms = [(atom.symbol, atom.charge) for atom in vocabulary.atoms]
    types = vocabulary.bond_types
    return [atoms.index(atom) for atom in atoms], [types.index(bond) for bond in types]


def nearest_atoms(known: MoleculeVocabulary, wanted: MoleculeVocabulary) -> list[int]:
    """Find for each atom of a vocabulary the category of another one that bonds most alike.

    Compared are, in this order: whether it is aromatic, number of valence electrons, charge, atomic
    number. Atoms with equally many valence electrons form equally many bonds: N+, Si and B- are
    like C, Se is like S.

    Args:
        known: The vocabulary that is searched.
        wanted: The vocabulary whose atoms are searched for.

    Returns:
        For each atom category of `wanted`, the number of a category of `known`.
    """
    from rdkit.Chem import GetPeriodicTable

    table = GetPeriodicTable()

    def key(atom: AtomCategory) -> tuple[int, ...]:
        electrons = table.GetNOuterElecs(atom.symbol) - atom.charge
        return atom.aromatic, electrons, atom.charge, table.GetAtomicNumber(atom.symbol)

    return _nearest([*map(key, known.atoms)], [*map(key, wanted.atoms)])


def nearest_bonds(known: MoleculeVocabulary, wanted: MoleculeVocabulary) -> list[int]:
    """Find for each bond of a vocabulary the category of another one that is most like it.

    That is the same bond, if the other vocabulary has it; else one with the nearest bond order and,
    of several, one that is equally aromatic.

    Args:
        known: The vocabulary that is searched.
        wanted: The vocabulary whose bonds are searched for.

    Returns:
        For each bond category of `wanted`, the number of a category of `known`.
    """

    def keys(vocabulary: MoleculeVocabulary) -> list[tuple[int, bool]]:
        aromatic = [bond.startswith(AROMATIC) for bond in vocabulary.bonds]
        return list(zip(bond_orders(vocabulary), aromatic, strict=True))

    nearest = zip(wanted.bonds, _nearest(keys(known), keys(wanted)), strict=True)
    return [known.bond_index.get(bond, k) for bond, k in nearest]


def _nearest(known: Sequence[Sequence[int]], wanted: Sequence[Sequence[int]]) -> list[int]:
    """Return for each wanted key the index of the nearest known key, the first one on ties.

    A key is a sequence of numbers in order of importance: absolute differences are compared entry
    by entry, and later entries decide between keys whose earlier entries are equally near.

    Args:
        known: Keys of the categories to choose from.
        wanted: Keys of the categories to which a near one is looked for.
    """
    nearest = []
    for key in wanted:
        distances = [[abs(x - y) for x, y in zip(key, other, strict=True)] for other in known]
        nearest.append(distances.index(min(distances)))
    return nearest
