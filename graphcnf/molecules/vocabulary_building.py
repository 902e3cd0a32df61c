"""Vocabularies of data sets: counted, extended by further categories, compared with each other.

Loading a data set counts its vocabulary. Fine-tuning extends the vocabulary of a model by what its
new molecules contain; the weights of a new category start from those of the *nearest* old one, the
atom or bond that is most like it.

A *vocabulary* lists atoms and bonds, entry k being category k (`graphcnf.molecules.vocabulary`);
the *name* of a bond is "SINGLE", "DOUBLE", ... or, if aromatic, "AROMATIC_SINGLE", ...
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphcnf.molecules.vocabulary import AROMATIC, BONDS, AtomCategory, MoleculeVocabulary

ORDERS = {"SINGLE": 1, "DOUBLE": 2, "TRIPLE": 3, "QUADRUPLE": 4, "QUINTUPLE": 5, "HEXTUPLE": 6}
"""Bond orders of RDKit's bond types that have one."""


def vocabulary_from_counts(
    atoms: Mapping[AtomCategory, int], bonds: Mapping[str, int]
) -> MoleculeVocabulary:
    """Return the vocabulary of counted atoms and bonds, the most frequent first.

    Equally frequent atoms are sorted by symbol and charge, so that the result does not depend on
    the order of the counts.

    Single, double and triple bonds are included even if there are none.
    """
    names = [*BONDS, *sorted(set(bonds) - set(BONDS))]
    names.sort(key=lambda bond: -bonds.get(bond, 0))
    return MoleculeVocabulary(tuple(sorted(atoms, key=lambda a: (-atoms[a], a))), tuple(names))


def extend_vocabulary(known: MoleculeVocabulary, data: MoleculeVocabulary) -> MoleculeVocabulary:
    """Return a vocabulary with the atoms and bonds appended that only new data have."""
    atoms = [atom for atom in data.atoms if atom not in known.atom_index]
    bonds = [bond for bond in data.bonds if bond not in known.bond_index]
    return MoleculeVocabulary((*known.atoms, *atoms), (*known.bonds, *bonds))


def bond_orders(vocabulary: MoleculeVocabulary) -> list[int]:
    """Return the bond order (1, 2, 3, ...) of each bond category.

    That of an aromatic bond is 1 or 2, as in the Kekulé structure; 1 for bonds without an order.
    """
    return [ORDERS.get(bond, 1) for bond in vocabulary.bond_types]


def merge_aromatic(vocabulary: MoleculeVocabulary) -> tuple[list[int], list[int]]:
    """Map each category to the first one that is equal but for being aromatic.

    With these maps, environments of atoms (an atom's bonds and neighbours) are compared regardless
    of what is aromatic: aromatic `c` counts as `C`, "AROMATIC_DOUBLE" as "DOUBLE".
    """
    atoms = [(atom.symbol, atom.charge) for atom in vocabulary.atoms]
    types = vocabulary.bond_types
    return [atoms.index(atom) for atom in atoms], [types.index(bond) for bond in types]


def nearest_atoms(known: MoleculeVocabulary, wanted: MoleculeVocabulary) -> list[int]:
    """Find for each atom of one vocabulary the atom of another that bonds most alike.

    Compared are, in this order of importance: whether the atom is aromatic, its number of valence
    electrons (less the charge), its charge, its atomic number. Atoms with equally many valence
    electrons form equally many bonds: N+, Si and B- are like C, Se is like S.

    The result has for each atom of `wanted` the number of the nearest one of `known`.
    """
    from rdkit.Chem import GetPeriodicTable

    table = GetPeriodicTable()

    def key(atom: AtomCategory) -> tuple[int, ...]:
        electrons = table.GetNOuterElecs(atom.symbol) - atom.charge
        return atom.aromatic, electrons, atom.charge, table.GetAtomicNumber(atom.symbol)

    return _nearest([*map(key, known.atoms)], [*map(key, wanted.atoms)])


def nearest_bonds(known: MoleculeVocabulary, wanted: MoleculeVocabulary) -> list[int]:
    """Find for each bond of one vocabulary the bond of another that is most like it.

    That is the same bond, if the other vocabulary has it; else the one with the nearest bond order
    and, of several, one that is aromatic exactly if the bond looked for is.
    """

    def keys(vocabulary: MoleculeVocabulary) -> list[tuple[int, bool]]:
        aromatic = [bond.startswith(AROMATIC) for bond in vocabulary.bonds]
        return list(zip(bond_orders(vocabulary), aromatic, strict=True))

    nearest = zip(wanted.bonds, _nearest(keys(known), keys(wanted)), strict=True)
    return [known.bond_index.get(bond, k) for bond, k in nearest]


def _nearest(known: Sequence[Sequence[int]], wanted: Sequence[Sequence[int]]) -> list[int]:
    """Return for each wanted key the index of the nearest known key, the first one on ties."""
    nearest = []
    for key in wanted:
        distances = [[abs(x - y) for x, y in zip(key, other, strict=True)] for other in known]
        nearest.append(distances.index(min(distances)))
    return nearest
