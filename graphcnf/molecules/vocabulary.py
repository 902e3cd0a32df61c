"""Categories of atoms and bonds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

CODEC_VERSION = 1
"""Raised when the same molecule would give another graph, so that caches are rebuilt."""

BONDS = ("SINGLE", "DOUBLE", "TRIPLE")
"""Bond types of a Kekulé structure, named as in RDKit."""


@dataclass(frozen=True)
class MoleculeVocabulary:
    """Which atoms and bonds a category number stands for.

    Charges are part of an atom's category: without them, a third of ZINC250k could not be
    written down as it is.

    Attributes:
        atoms: (element symbol, formal charge) of each node category.
        bonds: RDKit name of each bond category.
    """

    atoms: tuple[tuple[str, int], ...]
    bonds: tuple[str, ...] = BONDS

    def __post_init__(self) -> None:
        for name, entries in (("atoms", self.atoms), ("bonds", self.bonds)):
            if not len(set(entries)) == len(entries) <= 256:
                raise ValueError(f"a vocabulary holds at most 256 {name}, each of them once")

    @cached_property
    def atom_index(self) -> dict[tuple[str, int], int]:
        """Category of an (element symbol, formal charge)."""
        return {atom: k for k, atom in enumerate(self.atoms)}

    @cached_property
    def bond_index(self) -> dict[str, int]:
        """Category of a bond name."""
        return {bond: k for k, bond in enumerate(self.bonds)}

    @property
    def atom_labels(self) -> list[str]:
        """Readable names of the node categories: C, N+, O-, Fe+2."""
        return [atom_label(atom) for atom in self.atoms]

    @classmethod
    def from_counts(
        cls, atoms: Mapping[tuple[str, int], int], bonds: Mapping[str, int] | None = None
    ) -> MoleculeVocabulary:
        """Categories by falling frequency (ties by name), all bonds of `BONDS` included."""
        bonds = bonds or {}
        names = [*BONDS, *sorted(set(bonds) - set(BONDS))]
        names.sort(key=lambda b: -bonds.get(b, 0))
        return cls(tuple(sorted(atoms, key=lambda a: (-atoms[a], a))), tuple(names))

    def to_dict(self) -> dict[str, list]:
        """JSON form: {"atoms": [["C", 0], ...], "bonds": ["SINGLE", ...]}."""
        return {"atoms": [list(a) for a in self.atoms], "bonds": list(self.bonds)}

    @classmethod
    def from_dict(cls, data: Mapping) -> MoleculeVocabulary:
        """Inverse of `to_dict`."""
        return cls(tuple((str(s), int(c)) for s, c in data["atoms"]), tuple(data["bonds"]))


def atom_label(atom: tuple[str, int]) -> str:
    """C, N+, O- or Fe+2."""
    symbol, charge = atom
    sign = "" if not charge else "+" if charge > 0 else "-"
    return f"{symbol}{sign}{abs(charge) if abs(charge) > 1 else ''}"
