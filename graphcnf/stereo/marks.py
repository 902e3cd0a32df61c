"""Stereo marks of a molecule as categories over its stereo-free graph, and back; without torch.

The frame of a molecule is its stereo-free molecule with the atom numbers of its canonical SMILES.
Each potential stereo element of the frame has a category: 0 without a mark, else a parity.

- Tetrahedral centre: 1 if RDKit's tag is counterclockwise once the explicit neighbours stand in
  ascending order, else 2. Hydrogens and lone pairs are not listed.
- Double bond: 1 if the lowest heavy neighbours of its two ends are cis, else 2.

Automorphisms of the frame permute elements and exchange parities, and codes in one orbit are one
molecule. `Frame.normal` drops marks that say nothing beside the others, as RDKit does, and returns
the smallest code of the orbit: equal molecules have equal codes. Allenes, cumulenes, amines and
metals have no elements: `dropped_marks` names their marks.
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

from rdkit import Chem

from graphcnf.molecules.codec import (
    MoleculeNotRepresentable,
    bond_ends,
    parse,
    quiet,
    without_stereo,
)

CENTRES = frozenset({6, 7, 14, 15, 16, 34})
"""Atomic numbers of tetrahedral centres: C, N (of four neighbours), Si, P, S, Se."""

MOST_MATCHES = 10_000
"""Automorphisms of a frame, at most."""

MOST_CODES = 1 << 12
"""Codes of a molecule that are looked at, at most."""

_TETRAHEDRAL = Chem.ChiralType.CHI_TETRAHEDRAL_CCW, Chem.ChiralType.CHI_TETRAHEDRAL_CW
_CIS = Chem.BondStereo.STEREOZ, Chem.BondStereo.STEREOCIS
_TRANS = Chem.BondStereo.STEREOE, Chem.BondStereo.STEREOTRANS
_UP, _DOWN = Chem.BondDir.ENDUPRIGHT, Chem.BondDir.ENDDOWNRIGHT

SMALL_BRIDGED = 11
"""Bonds of a bridged system up to which its bridgeheads point outwards."""

_FUSED = list(combinations_with_replacement(range(4, 8), 2))
FORCED, RELATIONS = 1, 2 + len(_FUSED)
"""Kind of relation that geometry forces, and number of kinds, with 0 for no relation."""

Code = tuple[int, ...]
"""Category of each element of a frame."""

Action = tuple[tuple[int, bool], ...]
"""For each element the number of its image, and True where parities are exchanged."""


class Element(NamedTuple):
    """A potential stereo element: an atom, or the two of a double bond in ascending order.

    References are all heavy neighbours of an atom in ascending order, or the lowest heavy neighbour
    of each end of a bond.
    """

    atoms: tuple[int, ...]
    references: tuple[int, ...]

    @property
    def is_double(self) -> bool:
        """True for a double bond."""
        return len(self.atoms) == 2


class Relation(NamedTuple):
    """Relation of a centre to an earlier one that is joined to it by the paths of two rings.

    Geometry forces the outer neighbours of both to one side in small bridged systems and beside a
    ring of three atoms.

    Attributes:
        element: Number of the earlier centre.
        kind: `FORCED`, or a number from 2 on for the sizes of two rings with a common bond.
        equal: True if the outer neighbours are on one side where the parities are equal.
    """

    element: int
    kind: int
    equal: bool


@dataclass(frozen=True)
class MarkedPart:
    """Molecule or fragment whose stereo marks are kept in molecules that contain it.

    Attributes:
        mol: The part with its marks.
        places: Returns the matches in a stereo-free molecule, each the molecule's atoms by the
            part's; atoms of the part may be missing.
        strict: Whether, in at least one match, every mark must be at a stereo element.
    """

    mol: Chem.Mol
    places: Callable[[Chem.Mol], Iterable[Mapping[int, int]]]
    strict: bool = True

    @classmethod
    def of(cls, mol: Chem.Mol, places: Callable, strict: bool = True) -> MarkedPart | None:
        """Return the part with the stereo marks of `mol`, or None if it has no marks."""
        atoms = [atom for atom in mol.GetAtoms() if _may_be_centre(atom)]
        marked = any(atom.GetChiralTag() in _TETRAHEDRAL for atom in atoms)
        marked = marked or any(bond.GetStereo() in _CIS + _TRANS for bond in mol.GetBonds())
        return cls(mol, places, strict) if marked else None


@dataclass(frozen=True)
class Frame:
    """A sanitized stereo-free molecule in canonical numbering, with its elements in this order."""

    smiles: str  # canonical, without stereo
    mol: Chem.Mol
    elements: tuple[Element, ...]

    @cached_property
    def classes(self) -> list[int]:
        """Symmetry class of each atom."""
        return list(Chem.CanonicalRankAtoms(self.mol, breakTies=False, includeChirality=False))

    @cached_property
    def kinds(self) -> list[str]:
        """Kind of each element: "chain" or "ring" for atoms, "double" for bonds."""
        atoms = self.mol.GetAtomWithIdx
        return [
            "double" if e.is_double else "ring" if atoms(e.atoms[0]).IsInRing() else "chain"
            for e in self.elements
        ]

    @cached_property
    def actions(self) -> tuple[Action, ...]:
        """Distinct actions of automorphisms on the stereo elements, without the identity.

        Raises:
            MoleculeNotRepresentable: There are `MOST_MATCHES` automorphisms.
        """
        # Also the images of references, which need not be the lowest neighbours of their atoms.
        kinds = {self.classes[a] for e in self.elements for a in e.atoms + e.references}
        relevant = {k for k, kind in enumerate(self.classes) if kind in kinds}
        if len(relevant) == len(kinds):
            return ()
        kept = _core(self.mol, relevant)
        numbers = {old: new for new, old in enumerate(kept)}
        part = Chem.RWMol(self.mol)
        for k in reversed(range(part.GetNumAtoms())):
            part.GetAtomWithIdx(k).SetIsotope(self.classes[k] + 1)  # which matching compares
            if k not in numbers:
                part.RemoveAtom(k)
        matches = part.GetSubstructMatches(part, uniquify=False, maxMatches=MOST_MATCHES)
        if len(matches) == MOST_MATCHES:
            raise MoleculeNotRepresentable(f"{MOST_MATCHES:,} symmetries or more")
        places = {e.atoms: k for k, e in enumerate(self.elements)}
        found: dict[Action, None] = {}
        for match in matches:
            to = {old: kept[match[new]] for old, new in numbers.items()}
            action = []
            for e in self.elements:
                k = places[tuple(sorted(to[a] for a in e.atoms))]
                images = [to[r] for r in e.references]
                away = sum(r not in self.elements[k].references for r in images)
                action.append((k, away % 2 == 1 if e.is_double else _odd(images)))
            found[tuple(action)] = None
        identity = tuple((k, False) for k in range(len(self.elements)))
        return tuple(action for action in found if action != identity)

    @cached_property
    def dependent(self) -> list[int]:
        """Elements that have two neighbours of the same CIP rank if nothing is marked.

        RDKit keeps a mark of these only beside others. It ranks atoms by what is bound to them and
        not by rings, so two neighbours may have the same rank without any automorphism.
        """
        mol = Chem.Mol(self.mol)
        with legacy_perception():
            Chem.AssignStereochemistry(mol, force=True, flagPossibleStereoCenters=True)
        # Atoms are not ranked where none of them can be marked.
        ranks = [a.GetProp("_CIPRank") if a.HasProp("_CIPRank") else "" for a in mol.GetAtoms()]

        def tied(end: int, other: int = -1) -> bool:
            atoms = self.mol.GetAtomWithIdx(end).GetNeighbors()
            near = [ranks[a.GetIdx()] for a in atoms if a.GetIdx() != other]
            return len(set(near)) < len(near)

        ends = [(e.atoms, e.atoms[::-1]) if e.is_double else (e.atoms,) for e in self.elements]
        return [k for k, sides in enumerate(ends) if any(tied(*side) for side in sides)]

    @property
    def ambiguous(self) -> bool:
        """True if several codes may describe one molecule."""
        return bool(self.actions or self.dependent)

    @cached_property
    def flips(self) -> list[bool]:
        """For each element, True where parities are exchanged to mean up and down in a drawing.

        A centre in a ring is seen along the ring, in which rings that share a bond run alike (all
        clockwise, in the plane); other centres by the elements and degrees of their neighbours,
        double bonds as well. So a code says cis or trans of a ring whatever the numbering.
        """
        around = _neighbours_in_rings(self.mol) if "ring" in self.kinds else {}

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
                first = [min(set(own) - set(e.atoms), key=rank) for own in near]
                flips.append(sum(r not in e.references for r in first) % 2 == 1)
            else:
                own = around.get(e.atoms[0], ())
                rest = sorted(set(e.references) - set(own), key=rank)
                flips.append(_odd([*own, *rest]))
        return flips

    @cached_property
    def relations(self) -> list[Relation | None]:
        """For each element its relation of the lowest kind to an earlier one, if any."""
        found: list[Relation | None] = [None] * len(self.elements)
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
                equal ^= _odd([*near, *(a for a in references if a not in near)])
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
                found[ends[1]] = Relation(ends[0], kind, equal)
        return found

    def read(self, mol: Chem.Mol, order: Sequence[int]) -> Code:
        """Return the categories of a molecule's marks; atom k of the frame is atom `order[k]`."""
        found = self._marks_at(mol, {a: k for k, a in enumerate(order)})
        return tuple(found.get(e.atoms, (0,))[0] for e in self.elements)

    def given(self, part: MarkedPart) -> list[Code]:
        """Return the marks of a part in each of its matches, 0 for elements that it does not mark.

        A centre with two neighbours that the part lacks gives two codes, one for each mark. Without
        a match that has all marks, a strict part gives no code, another part the one without marks.
        """
        known = {e.atoms for e in self.elements}
        codes: dict[Code, None] = {}
        for place in part.places(self.mol):
            found = self._marks_at(part.mol, place)
            if part.strict and not found.keys() <= known:
                continue
            codes |= dict.fromkeys(product(*(found.get(e.atoms, (0,)) for e in self.elements)))
        return list(codes) or ([] if part.strict else [(0,) * len(self.elements)])

    def _marks_at(
        self, mol: Chem.Mol, number: Mapping[int, int]
    ) -> dict[tuple[int, ...], tuple[int, ...]]:
        """Return by atoms of the frame the categories that marks of a molecule may have there.

        Args:
            mol: A molecule with marks.
            number: Atom of the frame for each of its atoms that is there.
        """
        found: dict[tuple[int, ...], tuple[int, ...]] = {}
        for atom in mol.GetAtoms():
            tag, here = atom.GetChiralTag(), number.get(atom.GetIdx())
            if tag not in _TETRAHEDRAL or here is None or not _may_be_centre(atom):
                continue
            near = [number.get(b.GetOtherAtomIdx(atom.GetIdx())) for b in atom.GetBonds()]
            odd = self._is_odd(near, here)
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
                flips.append(self._is_odd([number.get(a) for a in rest], k, other))
            pair = (here, there) if here < there else (there, here)
            found[pair] = (1, 2) if None in flips else (1 + flips.count(True) % 2,)
        return found

    def _is_odd(self, near: list[int | None], atom: int, partner: int = -1) -> bool | None:
        """Return True if it takes an odd number of exchanges to put neighbours in ascending order.

        Args:
            near: Neighbours of an atom in another molecule, None for those that are not here: one
                takes the place of what is new here. A hydrogen or lone pair comes last.
            atom: The atom in the frame.
            partner: Its partner in a double bond, which is left out.

        Returns:
            None where several are new.
        """
        here = [a.GetIdx() for a in self.mol.GetAtomWithIdx(atom).GetNeighbors()]
        here = [a for a in here if a != partner]
        places, hydrogen = 4 if partner < 0 else 2, self.mol.GetNumAtoms()
        near = near + [hydrogen] * (places - len(near))
        here += [hydrogen] * (places - len(here))
        new = [a for a in here if a not in near]
        if len(new) > 1 or len(near) != len({*here}):
            return None
        return _odd([a if a is not None and a in here else new[0] for a in near])

    def decode(self, code: Code) -> Chem.Mol:
        """Return the molecule of a code, without marks that say nothing beside the others."""
        mol = Chem.Mol(self.mol)
        for e, category in zip(self.elements, code, strict=True):
            if category and e.is_double:
                bond = mol.GetBondBetweenAtoms(*e.atoms)
                same = bond.GetBeginAtomIdx() == e.atoms[0]
                bond.SetStereoAtoms(*(e.references if same else e.references[::-1]))
                bond.SetStereo(_CIS[1] if category == 1 else _TRANS[1])
            elif category:
                atom = mol.GetAtomWithIdx(e.atoms[0])
                near = [b.GetOtherAtomIdx(e.atoms[0]) for b in atom.GetBonds()]
                atom.SetChiralTag(_TETRAHEDRAL[(category == 2) ^ _odd(near)])
                if hydrogens := atom.GetTotalNumHs():
                    # A centre with an implicit one is inverted where RDKit writes it first.
                    atom.SetNumExplicitHs(hydrogens)
                    atom.SetNoImplicit(True)
        with legacy_perception():
            # It reads double bonds from the directions of their neighbours alone.
            Chem.SetDoubleBondNeighborDirections(mol)
            Chem.AssignStereochemistry(mol, cleanIt=True, force=True)
        return mol

    def normal(self, code: Code) -> Code:
        """Return the smallest code of the same molecule, without marks that RDKit drops.

        Codes with the same isomeric SMILES have the same normal code, but for partly marked codes
        of a few cages (`CC12C3CC1CC2C3`), of which RDKit writes several SMILES.
        """
        if not any(code) or not self.ambiguous:
            return code
        seen: list[Code] = []
        known = self._normals
        code = self.orbit(code)[0]
        while code not in seen and code not in known:
            seen.append(code)
            code = self.orbit(self._read_again(code))[0]
        if code in seen:
            # In cages of tied atoms, RDKit reads its own SMILES as another one, and that as the
            # first.
            known[code] = min(seen[seen.index(code) :])
        known.update(dict.fromkeys(seen, known[code]))
        return known[code]

    @cached_property
    def _normals(self) -> dict[Code, Code]:
        """Normal codes that are known, by the lowest codes of orbits."""
        return {}

    def orbit(self, code: Code) -> list[Code]:
        """Return the images of a code under the automorphisms of the frame, sorted."""
        orbit = {code}
        for action in self.actions:
            moves = zip(code, action, strict=True)
            moved = {k: 3 - c if c and flip else c for c, (k, flip) in moves}
            orbit.add(tuple(moved[k] for k in range(len(code))))
        return sorted(orbit)

    def _read_again(self, code: Code) -> Code:
        """Return the categories of the isomeric SMILES of a code."""
        mol = self.decode(code)
        smiles = Chem.MolToSmiles(mol)
        written = json.loads(mol.GetProp("_smilesAtomOutputOrder"))
        with legacy_perception(), quiet():
            mol = Chem.MolFromSmiles(smiles)
        return self.read(mol, sorted(range(len(written)), key=written.__getitem__))

    def spellings(self, code: Code) -> list[Code] | None:
        """Return all codes with this normal one; None if over `MOST_CODES` had to be tried."""
        if not self.ambiguous:
            return [code]
        free = set(self.dependent)
        fixed = {tuple(-1 if k in free else c for k, c in enumerate(o)) for o in self.orbit(code)}
        if len(fixed) * 3 ** len(free) > MOST_CODES:
            return None
        options = ([(0, 1, 2) if c < 0 else (c,) for c in own] for own in fixed)
        return sorted(c for own in options for c in product(*own) if self.normal(c) == code)

    def matching(self, given: Code, values: Sequence[int] = (0, 1, 2)) -> list[Code] | None:
        """Return the codes whose molecules have the marks of a given one, and perhaps more.

        Elements without a mark, 0 in `given`, have any of the values. None where more than
        `MOST_CODES` codes had to be tried.
        """
        free = [values if self.ambiguous or not c else (c,) for c in given]
        if math.prod(map(len, free)) > MOST_CODES:
            return None
        if not self.ambiguous:
            return list(product(*free))
        wanted = self.normal(given)

        def fits(code: Code) -> bool:
            pairs = (zip(wanted, c, strict=True) for c in self.orbit(self.normal(code)))
            return any(all(not w or w == c for w, c in pair) for pair in pairs)

        return [code for code in product(*free) if fits(code)]


@contextmanager
def legacy_perception() -> Iterator[None]:
    """Context with RDKit's legacy perception of stereo, the default: the other lists duplicates."""
    before = Chem.GetUseLegacyStereoPerception()
    Chem.SetUseLegacyStereoPerception(True)
    try:
        yield
    finally:
        Chem.SetUseLegacyStereoPerception(before)


def frame_as_written(smiles: str, plain: Chem.Mol) -> tuple[Frame, list[int]]:
    """Return the frame of a sanitized molecule, and `Frame.read`'s order.

    The molecule has no marks and hydrogens, and `smiles` is what RDKit wrote of it last.
    """
    order = json.loads(plain.GetProp("_smilesAtomOutputOrder"))
    plain = Chem.RenumberAtoms(plain, order)
    return Frame(smiles, plain, _find_elements(plain)), order


def encode(mol: Chem.Mol) -> tuple[Frame, Code]:
    """Return the frame of a sanitized molecule, and its normal code."""
    mol = heavy_atoms(mol)
    plain = without_stereo(mol)
    frame, order = frame_as_written(Chem.MolToSmiles(plain), plain)
    return frame, frame.normal(frame.read(mol, order))


def heavy_atoms(mol: Chem.Mol) -> Chem.Mol:
    """Return a copy with its marks, without hydrogens and isotopes."""
    mol = Chem.Mol(mol)
    for atom in mol.GetAtoms():
        atom.SetIsotope(0)
    return Chem.RemoveHs(mol) if any(a.GetAtomicNum() == 1 for a in mol.GetAtoms()) else mol


def _neighbours_in_rings(mol: Chem.Mol) -> dict[int, tuple[int, int]]:
    """Return for each atom in a ring those before and after it in its smallest ring.

    Rings that share a bond run along it in opposite directions, where all of them can.
    """
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


def _odd(values: Sequence[int]) -> bool:
    """Return True if sorting the distinct values takes an odd number of exchanges."""
    return sum(a > b for i, a in enumerate(values) for b in values[i + 1 :]) % 2 == 1


def _find_elements(mol: Chem.Mol) -> tuple[Element, ...]:
    found = []
    for info in Chem.FindPotentialStereo(mol, False, True):
        if info.type == Chem.StereoType.Atom_Tetrahedral:
            atom = mol.GetAtomWithIdx(info.centeredOn)
            near = tuple(sorted(a.GetIdx() for a in atom.GetNeighbors()))
            if _may_be_centre(atom):
                found.append(Element((info.centeredOn,), near))
        elif info.type == Chem.StereoType.Bond_Double:
            bond = mol.GetBondWithIdx(info.centeredOn)
            ends = tuple(sorted((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())))
            low, high = _lowest(mol, *ends), _lowest(mol, *ends[::-1])
            if low is not None and high is not None:
                found.append(Element(ends, (low, high)))
    return tuple(sorted(found))


def _may_be_centre(atom: Chem.Atom) -> bool:
    number = atom.GetAtomicNum()
    return number in CENTRES and atom.GetDegree() > (3 if number == 7 else 2)


def _lowest(mol: Chem.Mol, end: int, other: int) -> int | None:
    """Return the neighbour with the lowest number of an end of a double bond.

    None at =NH and in cumulenes, where no mark is possible.
    """
    bonds = [b for b in mol.GetAtomWithIdx(end).GetBonds() if b.GetOtherAtomIdx(end) != other]
    if len(bonds) == 1 and bonds[0].GetBondType() == Chem.BondType.DOUBLE:
        return None
    return min((b.GetOtherAtomIdx(end) for b in bonds), default=None)


def _core(mol: Chem.Mol, relevant: set[int]) -> list[int]:
    """Return the atoms that are left when branches without relevant ones go."""
    kept = set(range(mol.GetNumAtoms()))
    for bond in mol.GetBonds():
        if not bond.IsInRing():
            cut = Chem.FragmentOnBonds(mol, [bond.GetIdx()], addDummies=False)
            kept.difference_update(*filter(relevant.isdisjoint, Chem.GetMolFrags(cut)))
    return sorted(kept)


def isomeric_smiles(smiles: str) -> str:
    """Return the canonical SMILES of the normal code of a sanitizable SMILES."""
    with quiet():
        frame, code = encode(parse(smiles))
    return Chem.MolToSmiles(frame.decode(code))


def look_at_marks(smiles: Iterable[str]) -> tuple[Counter[str], list[str]]:
    """Count stereo elements and marks of sanitizable SMILES; return their isomeric SMILES, too.

    Elements are counted by kind ("chain", "ring", "double"), and those with a mark as "marked
    chain" etc. as well. Molecules are counted by their number of marks ("3 marks"), as "written" if
    their SMILES has marks, and as "kept" if all of these are read. Molecules with too many
    symmetries are not counted, and their SMILES stay as they are.
    """
    found: Counter[str] = Counter()
    isomers = []
    for text in smiles:
        isomers.append(text)
        with suppress(MoleculeNotRepresentable), quiet():
            mol = parse(text)
            frame, code = encode(mol)
            isomers[-1] = Chem.MolToSmiles(frame.decode(code))
            found.update(frame.kinds)
            marked = [f"marked {kind}" for kind, c in zip(frame.kinds, code, strict=True) if c]
            found.update([*marked, f"{len(marked)} marks"])
            if "@" in text or "/" in text or "\\" in text:
                found["written"] += 1
                found["kept"] += not _dropped(text, mol, frame, code)
    return found, isomers


def mark_figures(counts: Mapping[str, int]) -> dict[str, Any]:
    """Return shares of marked elements and of molecules, from the counts of `look_at_marks`.

    `chain`, `ring` and `double` are the shares of elements that have a mark (None without such an
    element), `marks` the shares of molecules with 0, 1, ... marks, and `kept` the share of "kept"
    molecules among the "written" ones (None without any).
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
    """Return kinds of the stereo marks of a readable SMILES that no code holds, sorted.

    "allene", "amine", "cumulene", "metal" (or another coordination centre), and
    "places without isomers" for marks at something that RDKit takes for no stereo element.

    Raises:
        MoleculeNotRepresentable: The marks at a double bond contradict each other.
    """
    with quiet():
        mol = parse(smiles)
        return _dropped(smiles, mol, *encode(mol))


def _dropped(smiles: str, mol: Chem.Mol, frame: Frame, code: Code) -> list[str]:
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
            bonds += not (small and all(_doubles(atom) for atom in beyond))
    for atom in raw.GetAtoms():
        tag, near = atom.GetChiralTag(), atom.GetDegree()
        cumulated = near == _doubles(atom) == 2
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
    held = Counter(kind == "double" for kind, c in zip(frame.kinds, code, strict=True) if c)
    if held[False] < atoms or held[True] < bonds:
        found.add("places without isomers")
    return sorted(found)


def _doubles(atom: Chem.Atom) -> int:
    """Count the double bonds of an atom."""
    return sum(bond.GetBondType() == Chem.BondType.DOUBLE for bond in atom.GetBonds())


def _directions(end: Chem.Atom) -> dict[int, bool]:
    """Return for each bond of `end` with an up or down mark, by index, True if it leads up."""
    return {
        bond.GetIdx(): (bond.GetBondDir() == _UP) == (bond.GetBeginAtomIdx() == end.GetIdx())
        for bond in end.GetBonds()
        if bond.GetBondDir() in (_UP, _DOWN)
    }
