r"""Split a molecule into its graph without stereo and its stereo marks, and join them again.

It is used to train and draw the stereo of molecules (`graphcnf.stereo.stereo_flow`), and to keep
the stereo of a given molecule or fragment. It does not need torch. The nouns:

- *Stereo mark*: a chirality tag of an atom (`@`, `@@` in SMILES), or the stereo of a double bond,
  cis or trans (`/`, `\`).
- *Constitution* (`Constitution`): the molecule without stereo marks, its atoms numbered as in its
  canonical SMILES.
- *Stereo element* (`StereoElement`): an atom or double bond of the constitution that can have a
  stereo mark according to RDKit's `FindPotentialStereo`. Allenes, cumulenes, amines and metals are
  none; `dropped_marks` names the marks that are lost there. Elements are numbered from 0 in
  ascending order of their atoms.
- *Parity*: 1 or 2, the stereo mark of an element, relative to the numbers of the atoms. The parity
  of an atom is 1 if RDKit's tag is `CHI_TETRAHEDRAL_CCW` once its heavy neighbours stand in
  ascending order of their numbers (hydrogens and lone pairs are not listed), else 2. That of a
  double bond is 1 if the lowest-numbered heavy neighbours of its two atoms are cis, 2 if they are
  trans.
- *Configuration* (`Configuration`): a tuple with a category for each stereo element: 0 without a
  mark, else its parity.
- *Symmetry* (`Symmetry`): what an automorphism of the constitution does to configurations. It
  permutes stereo elements, and swaps the parities 1 and 2 of some.
- *Canonical configuration*: several configurations can be one molecule, since symmetries relate
  them, or since RDKit drops a mark that says nothing without another one (a single mark on
  1,4-dimethylcyclohexane). The canonical one is the smallest without such marks: equal molecules
  have equal constitutions and equal canonical configurations.
- *Template* (`StereoTemplate`): a molecule or fragment whose stereo marks other molecules keep.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, combinations_with_replacement, pairwise, product
from typing import Any, NamedTuple

import numpy as np
from rdkit import Chem

from graphcnf.molecules.codec import (
    MoleculeNotRepresentable,
    bond_ends,
    parse,
    quiet,
    without_stereo,
)

CENTRES = frozenset({6, 7, 14, 15, 16, 34})
"""Atomic numbers of tetrahedral stereo elements: C, N (of four neighbours), Si, P, S, Se."""

MOST_AUTOMORPHISMS = 10_000
"""Number of automorphisms from which on a constitution has too many."""

MOST_CONFIGURATIONS = 1 << 12
"""Largest number of configurations of a molecule that are compared."""

_TETRAHEDRAL = Chem.ChiralType.CHI_TETRAHEDRAL_CCW, Chem.ChiralType.CHI_TETRAHEDRAL_CW
_CIS = Chem.BondStereo.STEREOZ, Chem.BondStereo.STEREOCIS
_TRANS = Chem.BondStereo.STEREOE, Chem.BondStereo.STEREOTRANS
_UP, _DOWN = Chem.BondDir.ENDUPRIGHT, Chem.BondDir.ENDDOWNRIGHT

SMALL_BRIDGED = 11
"""Largest number of bonds of a bridged ring system whose bridgeheads must point outwards."""

_FUSED = list(combinations_with_replacement(range(4, 8), 2))
FORCED, RELATIONS = 1, 2 + len(_FUSED)
"""Kind of `RingRelation` that geometry forces, and number of kinds, with 0 for no relation."""

Configuration = tuple[int, ...]
"""Category of each stereo element of a constitution: 0 without a mark, else parity 1 or 2."""

Symmetry = tuple[tuple[int, bool], ...]
"""For each stereo element the number of its image, and True where parities 1 and 2 are swapped."""

Matches = Callable[[Chem.Mol], Iterable[Mapping[int, int]]]
"""Function that returns the matches of a template in a molecule without stereo marks, each as
`{atom of the template: atom of the molecule}`; atoms of the template may be missing."""


class StereoElement(NamedTuple):
    """An atom or double bond of a constitution that can have a stereo mark.

    Attributes:
        atoms: Number of the atom, or of both atoms of the double bond in ascending order.
        references: Neighbours by which a parity is defined: all heavy neighbours of the atom in
            ascending order, or the lowest-numbered heavy neighbour of each atom of the double bond.
    """

    atoms: tuple[int, ...]
    references: tuple[int, ...]

    @property
    def is_double(self) -> bool:
        """True for a double bond."""
        return len(self.atoms) == 2


class RingRelation(NamedTuple):
    """Relation of a bridgehead to an earlier one, where two rings meet at both.

    A *bridgehead* is one of the two atoms at which two rings meet. Each has one neighbour outside
    both rings, its outer neighbour, perhaps a hydrogen. In small bridged ring systems and beside a
    ring of three atoms, geometry forces the two outer neighbours to one side, so the parities are
    not independent.

    Attributes:
        element: Number of the stereo element that is the earlier bridgehead.
        kind: 1 (`FORCED`) where geometry decides, else a number from 2 on that stands for the sizes
            of the two rings.
        equal: True if the outer neighbours are on one side when the parities of the two bridgeheads
            are equal; False if they are on one side when the parities differ.
    """

    element: int
    kind: int
    equal: bool


@dataclass(frozen=True)
class StereoTemplate:
    """A molecule or fragment whose stereo marks are kept in the molecules that it matches.

    Attributes:
        matches: Finds `mol` in a molecule without stereo marks: `{atom in mol: atom in the
            molecule}` for each match.
        strict: True to allow only molecules that can have all marks: in at least one match, each
            marked atom or double bond of `mol` is matched to a stereo element of the molecule. If
            False, a mark is lost where it is matched to an atom or bond that cannot have one.
    """

    mol: Chem.Mol
    matches: Matches
    strict: bool = True

    @classmethod
    def of(cls, mol: Chem.Mol, matches: Matches, strict: bool = True) -> StereoTemplate | None:
        """Return the template of a molecule or fragment, or None if it has no stereo marks."""
        atoms = [atom for atom in mol.GetAtoms() if _may_be_centre(atom)]
        marked = any(atom.GetChiralTag() in _TETRAHEDRAL for atom in atoms)
        marked = marked or any(bond.GetStereo() in _CIS + _TRANS for bond in mol.GetBonds())
        return cls(mol, matches, strict) if marked else None


@dataclass(frozen=True)
class Constitution:
    """A molecule without stereo marks, and its stereo elements; `split_stereo` makes it.

    Attributes:
        elements: Stereo elements in ascending order of their atoms. Configurations have this order.
    """

    smiles: str
    mol: Chem.Mol
    elements: tuple[StereoElement, ...]

    @cached_property
    def symmetry_classes(self) -> list[int]:
        """RDKit's symmetry class of each atom, an integer; automorphisms keep the class."""
        return list(Chem.CanonicalRankAtoms(self.mol, breakTies=False, includeChirality=False))

    @cached_property
    def kinds(self) -> list[str]:
        """Kind of each stereo element: "chain" or "ring" for atoms, "double" for double bonds."""
        atoms = self.mol.GetAtomWithIdx
        return [
            "double" if e.is_double else "ring" if atoms(e.atoms[0]).IsInRing() else "chain"
            for e in self.elements
        ]

    @cached_property
    def symmetries(self) -> tuple[Symmetry, ...]:
        """All distinct symmetries of the configurations, without the identity.

        A symmetry is a tuple with a pair for each stereo element: the number of the element to
        which it is mapped, and True if the parities 1 and 2 are swapped.

        Raises:
            MoleculeNotRepresentable: There are 10,000 (`MOST_AUTOMORPHISMS`) or more automorphisms.
        """
        # Also the images of references, which need not be the lowest neighbours of their atoms.
        classes = self.symmetry_classes
        needed = {classes[a] for e in self.elements for a in e.atoms + e.references}
        relevant = {k for k, its_class in enumerate(classes) if its_class in needed}
        if len(relevant) == len(needed):
            return ()
        kept = _without_branches(self.mol, relevant)
        numbers = {old: new for new, old in enumerate(kept)}
        part = Chem.RWMol(self.mol)
        for k in reversed(range(part.GetNumAtoms())):
            part.GetAtomWithIdx(k).SetIsotope(classes[k] + 1)  # which matching compares
            if k not in numbers:
                part.RemoveAtom(k)
        matches = part.GetSubstructMatches(part, uniquify=False, maxMatches=MOST_AUTOMORPHISMS)
        if len(matches) == MOST_AUTOMORPHISMS:
            raise MoleculeNotRepresentable(f"{MOST_AUTOMORPHISMS:,} symmetries or more")
        number_of = {e.atoms: k for k, e in enumerate(self.elements)}
        found: dict[Symmetry, None] = {}
        for match in matches:
            image = {old: kept[match[new]] for old, new in numbers.items()}
            symmetry = []
            for e in self.elements:
                k = number_of[tuple(sorted(image[a] for a in e.atoms))]
                references = [image[r] for r in e.references]
                moved = sum(r not in self.elements[k].references for r in references)
                swaps = moved % 2 == 1 if e.is_double else _is_odd(references)
                symmetry.append((k, swaps))
            found[tuple(symmetry)] = None
        identity = tuple((k, False) for k in range(len(self.elements)))
        return tuple(symmetry for symmetry in found if symmetry != identity)

    @cached_property
    def dependent(self) -> list[int]:
        """Numbers of the stereo elements whose marks RDKit keeps only beside other marks."""
        mol = Chem.Mol(self.mol)
        with legacy_perception():
            Chem.AssignStereochemistry(mol, force=True, flagPossibleStereoCenters=True)
        # Atoms are not ranked where none of them can be marked.
        ranks = [a.GetProp("_CIPRank") if a.HasProp("_CIPRank") else "" for a in mol.GetAtoms()]

        def tied(atom: int, partner: int = -1) -> bool:
            neighbours = self.mol.GetAtomWithIdx(atom).GetNeighbors()
            near = [ranks[a.GetIdx()] for a in neighbours if a.GetIdx() != partner]
            return len(set(near)) < len(near)

        ends = [(e.atoms, e.atoms[::-1]) if e.is_double else (e.atoms,) for e in self.elements]
        return [k for k, sides in enumerate(ends) if any(tied(*side) for side in sides)]

    @property
    def ambiguous(self) -> bool:
        """True if several configurations may be one molecule, so that they have to be compared."""
        return bool(self.symmetries or self.dependent)

    @cached_property
    def along_rings(self) -> dict[int, tuple[int, int]]:
        """Return `{ring atom: (atom before it, after it)}` along its smallest ring; see `flips`."""
        return _ring_neighbours(self.mol) if "ring" in self.kinds else {}

    @cached_property
    def flips(self) -> list[bool]:
        """For each stereo element, True where its parity and its *drawing parity* differ.

        A parity depends on the numbers of atoms, so a network cannot learn from it. The drawing
        parity says up or down as in a drawing, whatever the numbering: it is the parity with the
        neighbours in another order.

        - At an atom in a ring: the neighbour before it in its smallest ring, the one after it, the
          others. Rings that share a bond run alike (all clockwise, in the plane).
        - At other atoms and double bonds: by atomic number, then by degree, the largest first. Only
          where both are equal, by the numbers of the atoms.
        """

        def rank(k: int) -> tuple[int, int, int]:
            atom = self.mol.GetAtomWithIdx(k)
            return -atom.GetAtomicNum(), -atom.GetDegree(), k

        flips = []
        for e in self.elements:
            if e.is_double:
                near = [
                    [a.GetIdx() for a in self.mol.GetAtomWithIdx(end).GetNeighbors()]
                    for end in e.atoms
                ]
                first = [min(set(neighbours) - set(e.atoms), key=rank) for neighbours in near]
                flips.append(sum(r not in e.references for r in first) % 2 == 1)
            else:
                in_ring = self.along_rings.get(e.atoms[0], ())
                others = sorted(set(e.references) - set(in_ring), key=rank)
                flips.append(_is_odd([*in_ring, *others]))
        return flips

    @cached_property
    def relations(self) -> list[RingRelation | None]:
        """For each stereo element its `RingRelation` to an earlier element, or None.

        It is None unless both are bridgeheads of the same two rings. Of several relations the one
        of the lowest `kind` is taken.
        """
        found: list[RingRelation | None] = [None] * len(self.elements)
        rings = self.mol.GetRingInfo()
        numbers = {
            e.atoms[0]: k
            for k, e in enumerate(self.elements)
            if not e.is_double and rings.NumAtomRings(e.atoms[0]) > 1
        }
        if len(numbers) < 2:
            return found
        bonds = bond_ends(self.mol)
        for first, second in combinations(map(set, rings.BondRings()), 2):
            paths = first & second, first - second, second - first
            met = Counter(atom for bond in paths[0] for atom in bonds[bond])
            ends = sorted(numbers.get(a, -1) for a, count in met.items() if count == 1)
            if len(ends) != 2 or ends[0] < 0:
                continue
            equal = False
            for k in ends:
                (atom,), references = self.elements[k]
                near = [sum(bonds[b]) - atom for path in paths for b in path if atom in bonds[b]]
                equal ^= _is_odd([*near, *(a for a in references if a not in near)])
            shortest, *lengths = sorted(map(len, paths))
            if shortest == 1 and lengths[0] > 2:
                sizes = [min(length + 1, _FUSED[-1][0]) for length in lengths]
                kind = 2 + _FUSED.index((sizes[0], sizes[1]))
            elif shortest + sum(lengths) <= SMALL_BRIDGED or lengths[0] == 2:
                kind = FORCED
            else:
                continue
            before = found[ends[1]]
            if before is None or kind < before.kind:
                found[ends[1]] = RingRelation(ends[0], kind, equal)
        return found

    def configuration(self, mol: Chem.Mol, atoms: Sequence[int]) -> Configuration:
        """Read the configuration of this constitution from a molecule with stereo marks.

        Marks at anything but a stereo element are ignored. Atom k of the constitution is `atoms[k]`
        in `mol`.
        """
        parities = self._parities(mol, {a: k for k, a in enumerate(atoms)})
        return tuple(parities.get(e.atoms, (0,))[0] for e in self.elements)

    def kept_marks(self, template: StereoTemplate) -> list[Configuration]:
        """Find which marks of this constitution are given by a template, for each way to match it.

        It is a list of alternatives, of which a molecule must have one: configurations with 0 where
        no mark is given. Where two neighbours of a marked atom lie outside the template, both
        parities are listed. For a strict template only matches count in which each mark falls on a
        stereo element, and the list may be empty.
        """
        known = {e.atoms for e in self.elements}
        found: dict[Configuration, None] = {}
        for match in template.matches(self.mol):
            parities = self._parities(template.mol, match)
            if template.strict and not parities.keys() <= known:
                continue
            found |= dict.fromkeys(product(*(parities.get(e.atoms, (0,)) for e in self.elements)))
        return list(found) or ([] if template.strict else [(0,) * len(self.elements)])

    def _parities(
        self, mol: Chem.Mol, number: Mapping[int, int]
    ) -> dict[tuple[int, ...], tuple[int, ...]]:
        """Translate the stereo marks of a molecule to parities of atoms of the constitution."""
        found: dict[tuple[int, ...], tuple[int, ...]] = {}
        for atom in mol.GetAtoms():
            tag, here = atom.GetChiralTag(), number.get(atom.GetIdx())
            if tag not in _TETRAHEDRAL or here is None or not _may_be_centre(atom):
                continue
            near = [number.get(b.GetOtherAtomIdx(atom.GetIdx())) for b in atom.GetBonds()]
            odd = self._sorts_odd(near, here)
            clockwise = tag == _TETRAHEDRAL[1]
            found[(here,)] = (1, 2) if odd is None else (1 + (clockwise ^ odd),)
        for bond in mol.GetBonds():
            if bond.GetStereo() not in _CIS + _TRANS:
                continue
            ends = bond.GetBeginAtom(), bond.GetEndAtom()
            here, there = (number.get(end.GetIdx()) for end in ends)
            if here is None or there is None:
                continue
            flips: list[bool | None] = [bond.GetStereo() in _TRANS]
            for end, first, k, other in zip(
                ends, bond.GetStereoAtoms(), (here, there), (there, here), strict=True
            ):
                rest = [a.GetIdx() for a in end.GetNeighbors()]
                rest.sort(key=lambda a: a != first)
                rest.remove(bond.GetOtherAtomIdx(end.GetIdx()))
                flips.append(self._sorts_odd([number.get(a) for a in rest], k, other))
            pair = (here, there) if here < there else (there, here)
            found[pair] = (1, 2) if None in flips else (1 + flips.count(True) % 2,)
        return found

    def _sorts_odd(self, neighbours: list[int | None], atom: int, partner: int = -1) -> bool | None:
        """Return True if it takes an odd number of exchanges to sort the neighbours of an atom."""
        here = [a.GetIdx() for a in self.mol.GetAtomWithIdx(atom).GetNeighbors()]
        here = [a for a in here if a != partner]
        places, hydrogen = 4 if partner < 0 else 2, self.mol.GetNumAtoms()
        near = neighbours + [hydrogen] * (places - len(neighbours))
        here += [hydrogen] * (places - len(here))
        new = [a for a in here if a not in near]
        if len(new) > 1 or len(near) != len({*here}):
            return None
        return _is_odd([a if a is not None and a in here else new[0] for a in near])

    def with_marks(self, configuration: Configuration) -> Chem.Mol:
        """Return the molecule with the stereo marks of a configuration.

        Marks that RDKit drops, since they say nothing, are missing.
        """
        mol = Chem.Mol(self.mol)
        for e, category in zip(self.elements, configuration, strict=True):
            if category and e.is_double:
                bond = mol.GetBondBetweenAtoms(*e.atoms)
                same = bond.GetBeginAtomIdx() == e.atoms[0]
                bond.SetStereoAtoms(*(e.references if same else e.references[::-1]))
                bond.SetStereo(_CIS[1] if category == 1 else _TRANS[1])
            elif category:
                atom = mol.GetAtomWithIdx(e.atoms[0])
                near = [b.GetOtherAtomIdx(e.atoms[0]) for b in atom.GetBonds()]
                atom.SetChiralTag(_TETRAHEDRAL[(category == 2) ^ _is_odd(near)])
                if hydrogens := atom.GetTotalNumHs():
                    # An atom with an implicit one is inverted where RDKit writes it first.
                    atom.SetNumExplicitHs(hydrogens)
                    atom.SetNoImplicit(True)
        with legacy_perception():
            # It reads double bonds from the directions of their neighbours alone.
            Chem.SetDoubleBondNeighborDirections(mol)
            Chem.AssignStereochemistry(mol, cleanIt=True, force=True)
        return mol

    def canonical(self, configuration: Configuration) -> Configuration:
        """Return the canonical configuration of the same molecule.

        Configurations with the same isomeric SMILES have the same canonical one, but for some with
        too few marks of a few cages (`CC12C3CC1CC2C3`), of which RDKit writes several SMILES.
        """
        if not any(configuration) or not self.ambiguous:
            return configuration
        seen: list[Configuration] = []
        known = self._canonical
        lowest = self.orbit(configuration)[0]
        while lowest not in seen and lowest not in known:
            seen.append(lowest)
            lowest = self.orbit(self._read_again(lowest))[0]
        if lowest in seen:
            # In cages of tied atoms, RDKit reads its own SMILES as another one, and that as the
            # first.
            known[lowest] = min(seen[seen.index(lowest) :])
        known.update(dict.fromkeys(seen, known[lowest]))
        return known[lowest]

    @cached_property
    def _canonical(self) -> dict[Configuration, Configuration]:
        """Return the cache of `canonical`, empty at first."""
        return {}

    def orbit(self, configuration: Configuration) -> list[Configuration]:
        """Return a configuration with its images under all symmetries: all are one molecule."""
        orbit = {configuration}
        for symmetry in self.symmetries:
            pairs = zip(configuration, symmetry, strict=True)
            image = {k: 3 - c if c and swaps else c for c, (k, swaps) in pairs}
            orbit.add(tuple(image[k] for k in range(len(configuration))))
        return sorted(orbit)

    def _read_again(self, configuration: Configuration) -> Configuration:
        """Write the isomeric SMILES of a configuration with RDKit, and read it again."""
        mol = self.with_marks(configuration)
        smiles = Chem.MolToSmiles(mol)
        written = json.loads(mol.GetProp("_smilesAtomOutputOrder"))
        with legacy_perception(), quiet():
            mol = Chem.MolFromSmiles(smiles)
        return self.configuration(mol, sorted(range(len(written)), key=written.__getitem__))

    def equivalents(self, canonical: Configuration) -> list[Configuration] | None:
        """Return all configurations that are the same molecule, to add up their probabilities.

        None where more than 4,096 (`MOST_CONFIGURATIONS`) would have to be compared.
        """
        if not self.ambiguous:
            return [canonical]
        free, orbit = set(self.dependent), self.orbit(canonical)
        fixed = {tuple(-1 if k in free else c for k, c in enumerate(image)) for image in orbit}
        if len(fixed) * 3 ** len(free) > MOST_CONFIGURATIONS:
            return None
        choices = ([(0, 1, 2) if c < 0 else (c,) for c in image] for image in fixed)
        candidates = (c for choice in choices for c in product(*choice))
        return sorted(c for c in candidates if self.canonical(c) == canonical)

    def matching(
        self, given: Configuration, values: Sequence[int] = (0, 1, 2)
    ) -> list[Configuration] | None:
        """Return all configurations of the molecules that have the given marks, and perhaps more.

        With symmetries, the marks may stand at other stereo elements than they are given. Elements
        without a given mark have one of `values`. None where more than 4,096
        (`MOST_CONFIGURATIONS`) would have to be compared.
        """
        choices = [values if self.ambiguous or not c else (c,) for c in given]
        if math.prod(map(len, choices)) > MOST_CONFIGURATIONS:
            return None
        if not self.ambiguous:
            return list(product(*choices))
        wanted = self.canonical(given)

        def fits(configuration: Configuration) -> bool:
            orbit = self.orbit(self.canonical(configuration))
            return any(has_marks_of(image, wanted) for image in orbit)

        return [configuration for configuration in product(*choices) if fits(configuration)]


def has_marks_of(configuration: Configuration, given: Configuration) -> bool:
    """Return True if a configuration has all given marks, at the same stereo elements."""
    return all(not mark or mark == c for mark, c in zip(given, configuration, strict=True))


@contextmanager
def legacy_perception() -> Iterator[None]:
    """Return a context in which RDKit perceives stereo in its legacy way, which is its default.

    The newer way lists some stereo elements twice. The setting of before is restored at the end.
    """
    before = Chem.GetUseLegacyStereoPerception()
    Chem.SetUseLegacyStereoPerception(True)
    try:
        yield
    finally:
        Chem.SetUseLegacyStereoPerception(before)


def constitution_as_written(smiles: str, plain: Chem.Mol) -> tuple[Constitution, list[int]]:
    """Return the constitution of a molecule whose SMILES has just been written.

    This saves writing it again. The order of the atoms in the SMILES is read from the property
    `_smilesAtomOutputOrder` of `plain`, which `Chem.MolToSmiles(plain)` sets. So call that directly
    before.

    Args:
        smiles: Result of the last call of `Chem.MolToSmiles(plain)`.
        plain: A sanitized molecule without stereo marks and hydrogens.

    Returns:
        - The constitution.
        - For each of its atoms the number in `plain`.
    """
    order = json.loads(plain.GetProp("_smilesAtomOutputOrder"))
    plain = Chem.RenumberAtoms(plain, order)
    return Constitution(smiles, plain, _stereo_elements(plain)), order


def split_stereo(mol: Chem.Mol) -> tuple[Constitution, Configuration]:
    """Split a molecule into its constitution and its canonical configuration.

    `constitution.with_marks(configuration)` is the inverse. Marks at anything but a stereo element
    are lost.

    Args:
        mol: A sanitized molecule.

    Returns:
        - The constitution.
        - The configuration; () if there are no stereo elements.

    Raises:
        MoleculeNotRepresentable: There are too many automorphisms to compare configurations.
    """
    mol = without_hydrogens(mol)
    plain = without_stereo(mol)
    constitution, atoms = constitution_as_written(Chem.MolToSmiles(plain), plain)
    return constitution, constitution.canonical(constitution.configuration(mol, atoms))


def split_renumbered(
    mol: Chem.Mol, random: np.random.Generator
) -> tuple[Constitution, Configuration]:
    """Split a molecule like `split_stereo`, with its atoms in random order, as training data.

    Args:
        mol: A sanitized molecule.
        random: Random number generator that chooses the order of the atoms, a depth-first one.

    Returns:
        - The constitution, whose `smiles` is not canonical.
        - The configuration of the molecule's marks. Where several configurations are the same
          molecule (`Constitution.ambiguous`), it may be any of them, not the canonical one.
    """
    mol = without_hydrogens(mol)
    order = random.permutation(mol.GetNumAtoms()).tolist()
    plain = Chem.RenumberAtoms(without_stereo(mol), order)
    written = Chem.MolToSmiles(plain, canonical=False)
    constitution, atoms = constitution_as_written(written, plain)
    return constitution, constitution.configuration(mol, [order[k] for k in atoms])


def without_hydrogens(mol: Chem.Mol) -> Chem.Mol:
    """Remove the hydrogens and isotopes of a molecule; its stereo marks stay."""
    mol = Chem.Mol(mol)
    for atom in mol.GetAtoms():
        atom.SetIsotope(0)
    return Chem.RemoveHs(mol) if any(a.GetAtomicNum() == 1 for a in mol.GetAtoms()) else mol


def _ring_neighbours(mol: Chem.Mol) -> dict[int, tuple[int, int]]:
    """Return the neighbours of atoms in rings, along their smallest ring."""
    todo = [_from_lowest(ring) for ring in mol.GetRingInfo().AtomRings()]
    todo.sort(key=lambda ring: (len(ring), ring), reverse=True)
    rings: list[list[int]] = []
    bonds: set[tuple[int, int]] = set()
    while todo:
        place, ring = len(todo) - 1, todo[-1]
        for k in reversed(range(len(todo))):
            pairs = set(pairwise([*todo[k], todo[k][0]]))
            if not pairs.isdisjoint(bonds):
                place, ring = k, todo[k][::-1]
                break
            if any((j, i) in bonds for i, j in pairs):
                place, ring = k, todo[k]
                break
        del todo[place]
        rings.append(ring)
        bonds.update(pairwise([*ring, ring[0]]))
    found: dict[int, tuple[int, int]] = {}
    for ring in sorted(rings, key=lambda ring: (len(ring), sorted(ring))):
        for before, k, after in zip(ring[-1:] + ring, ring, ring[1:] + ring[:1], strict=False):
            found.setdefault(k, (before, after))
    return found


def _from_lowest(ring: Sequence[int]) -> list[int]:
    """Return the atoms of a ring from the lowest one on, towards its lower neighbour."""
    first = min(range(len(ring)), key=ring.__getitem__)
    turned = [*ring[first:], *ring[:first]]
    return turned if turned[1] < turned[-1] else [turned[0], *turned[:0:-1]]


def _is_odd(values: Sequence[int]) -> bool:
    """Return True if sorting the values takes an odd number of exchanges."""
    return sum(a > b for i, a in enumerate(values) for b in values[i + 1 :]) % 2 == 1


def _stereo_elements(mol: Chem.Mol) -> tuple[StereoElement, ...]:
    """Find the stereo elements of a molecule."""
    found = []
    for info in Chem.FindPotentialStereo(mol, False, True):
        if info.type == Chem.StereoType.Atom_Tetrahedral:
            atom = mol.GetAtomWithIdx(info.centeredOn)
            near = tuple(sorted(a.GetIdx() for a in atom.GetNeighbors()))
            if _may_be_centre(atom):
                found.append(StereoElement((info.centeredOn,), near))
        elif info.type == Chem.StereoType.Bond_Double:
            bond = mol.GetBondWithIdx(info.centeredOn)
            ends = tuple(sorted((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())))
            low, high = _lowest_neighbour(mol, *ends), _lowest_neighbour(mol, *ends[::-1])
            if low is not None and high is not None:
                found.append(StereoElement(ends, (low, high)))
    return tuple(sorted(found))


def _may_be_centre(atom: Chem.Atom) -> bool:
    """Return True unless chirality tags at such an atom are ignored: amines, metals."""
    number = atom.GetAtomicNum()
    return number in CENTRES and atom.GetDegree() > (3 if number == 7 else 2)


def _lowest_neighbour(mol: Chem.Mol, atom: int, partner: int) -> int | None:
    """Return the lowest-numbered neighbour of an atom of a double bond."""
    bonds = [b for b in mol.GetAtomWithIdx(atom).GetBonds() if b.GetOtherAtomIdx(atom) != partner]
    if len(bonds) == 1 and bonds[0].GetBondType() == Chem.BondType.DOUBLE:
        return None
    return min((b.GetOtherAtomIdx(atom) for b in bonds), default=None)


def _without_branches(mol: Chem.Mol, relevant: set[int]) -> list[int]:
    """Return the atoms left when branches without relevant atoms are cut off, ascending."""
    kept = set(range(mol.GetNumAtoms()))
    for bond in mol.GetBonds():
        if not bond.IsInRing():
            cut = Chem.FragmentOnBonds(mol, [bond.GetIdx()], addDummies=False)
            kept.difference_update(*filter(relevant.isdisjoint, Chem.GetMolFrags(cut)))
    return sorted(kept)


def isomeric_smiles(smiles: str) -> str:
    """Return the canonical isomeric SMILES of a molecule.

    It is written of the canonical configuration, so that equal molecules have equal SMILES; without
    isotopes and marks that say nothing.

    Raises:
        MoleculeNotRepresentable: RDKit cannot read the SMILES, or there are too many automorphisms.
    """
    with quiet():
        constitution, configuration = split_stereo(parse(smiles))
    return Chem.MolToSmiles(constitution.with_marks(configuration))


def count_marks(smiles: Iterable[str]) -> tuple[Counter[str], list[str]]:
    """Count the stereo elements and stereo marks of molecules, for `mark_figures`.

    Returns:
        - The counts. Of stereo elements: "chain", "ring" and "double", and "marked chain" etc. for
          those with a mark. Of molecules: "3 marks" etc. by their number of marks, "written" if
          their SMILES has marks, and "kept" if none of these is lost.
        - The canonical isomeric SMILES of each molecule, in the given order.
    """
    found: Counter[str] = Counter()
    isomers = []
    for text in smiles:
        isomers.append(text)
        with suppress(MoleculeNotRepresentable), quiet():
            constitution, configuration = split_stereo(parse(text))
            isomers[-1] = Chem.MolToSmiles(constitution.with_marks(configuration))
            kinds = constitution.kinds
            marked = [f"marked {kind}" for kind, c in zip(kinds, configuration, strict=True) if c]
            found.update([*kinds, *marked, f"{len(marked)} marks"])
            if "@" in text or "/" in text or "\\" in text:
                found["written"] += 1
                found["kept"] += not _dropped(text, constitution, configuration)
    return found, isomers


def mark_figures(counts: Mapping[str, int]) -> dict[str, Any]:
    """Return which shares of stereo elements have marks, from the counts of `count_marks`.

    Returns:
        - "chain", "ring", "double": share of the stereo elements of this kind that have a mark, in
          [0, 1]; None without such elements.
        - "marks": list of the shares of molecules with 0, 1, ... marks.
        - "kept": of the molecules written with marks, the share that keeps all of them; None
          without any.
    """
    shares: dict[str, Any] = {
        kind: counts[f"marked {kind}"] / counts[kind] if counts.get(kind) else None
        for kind in ("chain", "ring", "double")
    }
    numbers = {int(key.split()[0]): n for key, n in counts.items() if key.endswith(" marks")}
    every = [numbers.get(k, 0) for k in range(max(numbers, default=-1) + 1)]
    shares["marks"] = [n / sum(every) for n in every]
    written = counts.get("written", 0)
    return {**shares, "kept": counts["kept"] / written if written else None}


def dropped_marks(smiles: str) -> list[str]:
    """Name the kinds of places where a SMILES has stereo marks that are lost in this package.

    These are some of "allene", "amine", "cumulene", "metal" (or another coordination centre), and
    "places without isomers".
    """
    with quiet():
        return _dropped(smiles, *split_stereo(parse(smiles)))


def _dropped(smiles: str, constitution: Constitution, configuration: Configuration) -> list[str]:
    """Name the kinds of places where a SMILES has stereo marks that its configuration lacks."""
    with quiet():
        raw = parse(smiles, sanitize=False)
    Chem.FastFindRings(raw)
    found, atoms, bonds = set(), 0, 0
    used: set[int] = set()
    for bond in raw.GetBonds():
        ends = bond.GetBeginAtom(), bond.GetEndAtom()
        sides = [_directions(end) for end in ends]
        if bond.GetBondType() == Chem.BondType.DOUBLE and all(sides):
            if any(len(side) == 2 and len(set(side.values())) == 1 for side in sides):
                raise MoleculeNotRepresentable(
                    f"marks at a double bond contradict each other: {smiles[:80]}"
                )
            used.update(*sides)
            beyond = [
                raw.GetBondWithIdx(k).GetOtherAtom(end)
                for end, side in zip(ends, sides, strict=True)
                for k in side
            ]
            # In a small ring, marks may be those of the double bonds beside it alone.
            small = any(bond.IsInRingSize(n) for n in range(3, 8))
            bonds += not (small and all(map(_double_bonds, beyond)))
    for atom in raw.GetAtoms():
        tag, near = atom.GetChiralTag(), atom.GetDegree()
        cumulated = near == _double_bonds(atom) == 2
        if cumulated and any(set(_directions(a)) - used for a in atom.GetNeighbors()):
            found.add("cumulene")
        if tag == Chem.ChiralType.CHI_UNSPECIFIED:
            continue
        if atom.GetAtomicNum() not in CENTRES or tag not in _TETRAHEDRAL:
            found.add("metal")
        elif atom.GetAtomicNum() == 7 and near < 4:
            found.add("amine")
        elif cumulated:
            found.add("allene")
        else:
            atoms += 1
    pairs = zip(constitution.kinds, configuration, strict=True)
    held = Counter(kind == "double" for kind, c in pairs if c)
    if held[False] < atoms or held[True] < bonds:
        found.add("places without isomers")
    return sorted(found)


def _double_bonds(atom: Chem.Atom) -> int:
    """Count the double bonds of an atom."""
    return sum(bond.GetBondType() == Chem.BondType.DOUBLE for bond in atom.GetBonds())


def _directions(atom: Chem.Atom) -> dict[int, bool]:
    r"""Return which bonds of an atom have `/` or `\` in a SMILES, and where they lead."""
    return {
        bond.GetIdx(): (bond.GetBondDir() == _UP) == (bond.GetBeginAtomIdx() == atom.GetIdx())
        for bond in atom.GetBonds()
        if bond.GetBondDir() in (_UP, _DOWN)
    }
