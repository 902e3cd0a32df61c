"""Count and limit what a molecule has beside the fragment that it contains.

It is used when molecules are grown from a fragment (`graphcnf.design.growing`). The nouns:

- *New atoms*: all heavy atoms of the molecule that do not belong to the fragment.
- *New bonds*: all bonds with at least one new atom.
- *New rings*: rings of the molecule minus rings of the fragment. Rings are counted as bonds - atoms
  + connected parts, the number of rings in the smallest set of smallest rings.
- *Linker*: new atoms that form one connected part, at all attachment points of the fragment. Its
  rings are those of the new atoms alone, not those that it closes over the fragment.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields
from functools import cache

from rdkit import Chem

from graphcnf.errors import UserError
from graphcnf.limits import check_low_and_high
from graphcnf.molecules.codec import bond_ends

# Neither terminal nor beside a triple bond, nor a symmetric top.
_END = "!$(*#*)&!D1&!$(C(F)(F)F)&!$(C(Cl)(Cl)Cl)&!$(C(Br)(Br)Br)&!$(C([CH3])([CH3])[CH3])"
_AMIDE = (
    "&!$([CD3](=[N,O,S])-!@[#7,O,S!D1])&!$([#7,O,S!D1]-!@[CD3]=[N,O,S])"
    "&!$([CD3](=[N+])-!@[#7!D1])&!$([#7!D1]-!@[CD3]=[N+])"
)
ROTATABLE = f"[{_END}{_AMIDE}]-,:;!@[{_END}]"
"""SMARTS of RDKit's strict definition of a rotatable bond, of which RDKit only gives the number."""

Range = tuple[int, int]
"""Lowest and highest number, both included."""


@dataclass(frozen=True)
class AddedLimits:
    """Lowest and highest numbers of what is added to a fragment; None for no limit."""

    atoms: Range | None = None
    rings: Range | None = None
    rotatable: Range | None = None

    def __post_init__(self):
        for name, limit in self.given().items():
            check_low_and_high(f"added_{name}", limit)
            if limit[0] < 0:
                raise UserError(f"added_{name} must be numbers from 0 on, got {limit!r}")

    def given(self) -> dict[str, Range]:
        """Return the limits that are set, without those that are None."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: limit for name, limit in values.items() if limit is not None}

    def hold(self, molecule: Chem.Mol, place: Collection[int], *, linked: bool) -> bool:
        """Return True if what a molecule has beside a fragment is within all limits.

        `place` has the atoms of the fragment. With `linked`, rings are those of the linker alone.
        """
        given = self.given()
        if not given:
            return True
        found = added(molecule, place, linked=linked)
        return all(low <= found[name] <= high for name, (low, high) in given.items())


NO_LIMITS = AddedLimits()


def added(molecule: Chem.Mol, place: Collection[int], *, linked: bool) -> dict[str, int]:
    """Count the new heavy atoms, new rings and new rotatable bonds beside a fragment.

    The result has the keys "atoms", "rings" and "rotatable". For the arguments see
    `AddedLimits.hold`.

    Examples:
        >>> added(Chem.MolFromSmiles("c1ccccc1CCC2CC2"), {0, 1, 2, 3, 4, 5}, linked=False)
        {'atoms': 5, 'rings': 1, 'rotatable': 3}
    """
    inside = set(place)
    ends = [{i, j} for i, j in bond_ends(molecule)]
    bonds = sum(not pair <= inside for pair in ends)
    atoms = molecule.GetNumAtoms() - len(inside)
    rings = bonds - atoms
    if linked:
        rings = sum(not pair & inside for pair in ends) - atoms + 1
    turns = molecule.GetSubstructMatches(_rotatable())
    return {
        "atoms": atoms,
        "rings": rings,
        "rotatable": sum(not inside.issuperset(pair) for pair in turns),
    }


def parts_beside(molecule: Chem.Mol, place: Collection[int]) -> int:
    """Return the number of connected parts that the new atoms of a molecule form.

    It is 0 without new atoms, and 1 for a linker; `place` has the atoms of the fragment.
    """
    left = set(range(molecule.GetNumAtoms())) - set(place)
    parts = 0
    while left:
        parts, near = parts + 1, [left.pop()]
        while near:
            around = {a.GetIdx() for a in molecule.GetAtomWithIdx(near.pop()).GetNeighbors()} & left
            left -= around
            near += around
    return parts


@cache
def _rotatable() -> Chem.Mol:
    return Chem.MolFromSmarts(ROTATABLE)
