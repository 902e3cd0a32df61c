"""Read fragments of molecules from a SMILES or SMARTS, and find them in molecules.

It is the first step of growing molecules (`graphcnf.design.growing`). The nouns:

- *Fragment*: atoms and bonds that every molecule must contain. *New atoms* are all others.
- *Attachment point*: a dummy atom `*`, `[*:1]` or `[1*]` of the SMILES, which a new atom with the
  same bond must replace. In the task "decorate", an atom with a map number such as `[cH:1]` is one
  as well: new atoms may replace its hydrogens.
- *Open* fragment: new atoms may replace the hydrogens of any of its atoms. In other fragments, they
  are only at attachment points.
- *Task*: the way in which a molecule is completed, a key of `TASKS`:
    - "scaffold": new atoms replace any hydrogen, and may close rings over the fragment;
    - "grow": new atoms at the attachment points, or without any at all hydrogens, and no rings over
      the fragment;
    - "decorate": new atoms at dummy atoms and atoms with a map number;
    - "link": new atoms are one connected part that joins several parts of the fragment;
    - "close": new atoms are one connected part that closes a ring over the fragment.
- *Place*: where the fragment lies in a molecule, as a tuple. Entry k is the number of the
  molecule's atom that matches atom k of the fragment.
- *Structure*: the categories that each bond may have. The fragment of a SMILES has a structure for
  each Kekulé structure; that of a SMARTS has one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from rdkit import Chem
from rdkit.Chem import rdqueries
from torch import Tensor
from torch.nn.functional import one_hot

from graphcnf.design.additions import NO_LIMITS, AddedLimits, parts_beside
from graphcnf.design.graph_fragment import MANY_RINGS, GraphFragment
from graphcnf.design.linked import LinkedFragment
from graphcnf.errors import UserError
from graphcnf.limits import LIKELIEST
from graphcnf.molecules import codec
from graphcnf.molecules.vocabulary import AROMATIC, AtomCategory, MoleculeVocabulary
from graphcnf.stereo.marks import StereoTemplate, dropped_marks
from graphcnf.torch_state import default_type

STRUCTURES, MATCHES = 256, 1000
"""`STRUCTURES`: largest number of Kekulé structures of a fragment, and of its symmetries.
`MATCHES`: largest number of its matches in a molecule."""

MOST_VALENCE = 6
"""Largest sum of the orders of an atom's bonds to new atoms, for an atom of a SMARTS at which the
fragment may grow: its hydrogens are not known."""

MANY = 255
"""In place of a limit on parts or attachment points where there is none."""


class Task(NamedTuple):
    """A way to complete a fragment, with what it asks of the fragment; the values of `TASKS`.

    Attributes:
        parts: Fewest and most connected parts that the fragment may have.
        points: Fewest and most attachment points that each part may have.
        likeliest: Default number of molecules that are found for each one that is written.
    """

    parts: tuple[int, int]
    points: tuple[int, int]
    linked: bool = False
    likeliest: int = 1


TASKS = {
    "scaffold": Task((1, 1), (0, MANY)),
    "grow": Task((1, 1), (0, MANY)),
    "decorate": Task((1, 1), (1, MANY)),
    "link": Task((2, MANY), (1, MANY), linked=True, likeliest=LIKELIEST),
    "close": Task((1, 1), (2, MANY), linked=True),
}
"""Tasks by name."""


@dataclass
class MoleculeFragment:
    """Atoms and bonds that a molecule has to contain; `read_fragment` makes it from a text.

    Atom numbers below count the atoms of the SMILES or SMARTS without its dummy atoms.

    Attributes:
        text: SMILES or SMARTS, as given.
        fragment: Its graph, with the categories that each atom and bond may have, for the sampler
            of `graphcnf.design.particles`.
        query: RDKit pattern that matches the molecules with the fragment, without stereo.
        points: Attachment points as pairs of a name ("R1" for [*:1]) and the number of the atom at
            which it is. Empty for an open fragment.
        marked: The fragment with the stereo marks that molecules must keep; None if it has no
            marks.
        open_part: RDKit molecule of the SMILES, dummy atoms included, if the fragment is open and
            was given as SMILES; else None.
        added: Limits on the numbers of new atoms, rings and rotatable bonds; none by default.
        linked: True if all new atoms must be one connected part that is at all attachment points.
        mapped: Numbers of the atoms with a map number, whose hydrogens new atoms may replace.
        before: If `mapped` has atoms, the pattern as it was given. (In `query` these atoms match
            any atom, since they get further neighbours.) None without such atoms.
    """

    text: str
    fragment: GraphFragment
    query: Chem.Mol
    points: Sequence[tuple[str, int]] = ()
    marked: StereoTemplate | None = None
    open_part: Chem.Mol | None = None
    added: AddedLimits = NO_LIMITS
    linked: bool = False
    mapped: Sequence[int] = ()
    before: Chem.Mol | None = None

    def match(self, molecule: Chem.Mol) -> tuple[int, ...]:
        """Find the fragment in a molecule, at one place.

        If there are several, it is the first one that has the fragment's stereo marks, else RDKit's
        first.

        It is a tuple with the molecule's atom for each atom of the `query`, () without the
        fragment.
        """
        marked = self._marked_matches(molecule)
        every = self.matches(molecule)
        return next((place for place in every if place in marked), every[0] if every else ())

    def kept_atoms(self, molecule: Chem.Mol) -> list[tuple[int, ...]]:
        """Find the atoms that belong to the fragment in a molecule, at every place.

        Unlike `matches`, it leaves out atoms that match a dummy atom, since these are new.
        """
        return [self._atoms(place) for place in self.matches(molecule)]

    def matches(self, molecule: Chem.Mol) -> list[tuple[int, ...]]:
        """Find all places from which a molecule may have been completed in the fragment's task.

        A place is left out if the molecule has something beside it that may not be added: more than
        `added` allows, new atoms elsewhere than at attachment points, or several parts instead of
        one linker.
        """
        every = molecule.GetSubstructMatches(self.query, uniquify=False, maxMatches=MATCHES)
        return [place for place in every if self._allows(molecule, place)]

    def _allows(self, molecule: Chem.Mol, place: tuple[int, ...]) -> bool:
        """Return True if what a molecule has beside a place may be added to the fragment."""
        atoms = self._atoms(place)
        if self.linked and parts_beside(molecule, atoms) != 1:
            return False
        if self.points and not self._has_single_bonds(molecule, place):
            return False
        if self.before is not None and not self._grew_at(self.before, molecule, place):
            return False
        return self.added.hold(molecule, atoms, linked=self.linked)

    def _has_single_bonds(self, molecule: Chem.Mol, place: tuple[int, ...]) -> bool:
        """Return True if new atoms at dummy atoms have single bonds, which may be aromatic."""
        atoms = [molecule.GetAtomWithIdx(n) for k, n in enumerate(place) if k not in self.mapped]
        return all(
            bond.GetBondType() in (Chem.BondType.SINGLE, Chem.BondType.AROMATIC)
            for atom in atoms
            for bond in atom.GetBonds()
            if bond.GetOtherAtomIdx(atom.GetIdx()) not in place
        )

    def _grew_at(self, before: Chem.Mol, molecule: Chem.Mol, place: tuple[int, ...]) -> bool:
        """Return True if the fragment was there before new atoms replaced hydrogens."""
        part = Chem.RWMol(molecule)
        for number in (place[k] for k in self.mapped):
            atom = part.GetAtomWithIdx(number)
            for other in atom.GetNeighbors():
                if other.GetIdx() not in place:
                    bond = part.GetBondBetweenAtoms(number, other.GetIdx())
                    hydrogens = round(bond.GetBondTypeAsDouble())
                    part.RemoveBond(number, other.GetIdx())
                    atom.SetNumExplicitHs(atom.GetNumExplicitHs() + hydrogens)
        part.UpdatePropertyCache(strict=False)
        Chem.FastFindRings(part)
        return place in part.GetSubstructMatches(before, uniquify=False, maxMatches=MATCHES)

    def _marked_matches(self, molecule: Chem.Mol) -> set[tuple[int, ...]]:
        """Return the matches in a molecule that have the fragment's stereo marks."""
        if self.marked is None:
            return set()
        part = Chem.Mol(self.marked.mol)
        for atom in part.GetAtoms():
            atom.SetIsotope(0)  # attachment points with an isotope would not match
        how: Any = Chem.AdjustQueryParameters.NoAdjustments()
        how.makeDummiesQueries = True
        part = Chem.AdjustQueryProperties(part, how)
        kept = [k for k, a in enumerate(self.marked.mol.GetAtoms()) if a.GetAtomicNum()]
        kept = kept if self.points else list(range(part.GetNumAtoms()))
        places = molecule.GetSubstructMatches(
            part, useChirality=True, uniquify=False, maxMatches=MATCHES
        )
        return {tuple(place[k] for k in kept) for place in places}

    def groups(self, molecule: Chem.Mol) -> dict[str, str]:
        """Find what was added at each attachment point (an R-group table), at the place of `match`.

        The result is such as {"R1": SMILES of the substituent}, {} for an open fragment. A
        substituent at two attachment points is listed at both, with [*:1] at the first one. Several
        at one atom with a map number are joined by ".".
        """
        if not self.points:
            return {}
        atoms = list(dict.fromkeys(atom for _, atom in self.points))
        parts: dict[int, list[str]] = {atom: [] for atom in atoms}
        rest = Chem.ReplaceCore(molecule, self.query, self.match(molecule), labelByIndex=True)
        for part in Chem.GetMolFrags(rest, asMols=True, sanitizeFrags=False):
            dummies = [atom for atom in part.GetAtoms() if not atom.GetAtomicNum()]
            dummies.sort(key=lambda atom: atoms.index(atom.GetIsotope()))
            ends = [atom.GetIsotope() for atom in dummies]
            for atom, end in zip(dummies, ends, strict=True):
                atom.SetIsotope(0)
                atom.SetAtomMapNum(1 + atoms.index(end) if len(ends) > 1 else 0)
            text = Chem.MolToSmiles(part, rootedAtAtom=dummies[0].GetIdx())
            for end in ends:
                parts[end].append(text)
        left = {atom: iter(sorted(own)) for atom, own in parts.items()}
        return {
            name: ".".join(left[atom]) if atom in self.mapped else next(left[atom], "")
            for name, atom in self.points
        }

    def places(self, molecule: Chem.Mol) -> int:
        """Return the number of places in a molecule from which it can have been drawn.

        A particle could have been drawn from each of these places, so its weight is divided by
        their number. Symmetric places count each: benzene is in toluene at twelve.

        Beside the conditions of `matches`, the molecule has no bond between two atoms of the
        fragment that the fragment lacks. Around an open fragment, new atoms only replace hydrogens:
        pyridine is in quinoline, but not in pyridone.

        Args:
            molecule: A sanitized molecule.
        """
        every = self.matches(molecule)
        return len({self._atoms(place) for place in every if self._grows(molecule, place)})

    def _atoms(self, place: tuple[int, ...]) -> tuple[int, ...]:
        """Return the atoms of a match that belong to the fragment."""
        if self.open_part is None:
            return place
        return tuple(k for k, a in zip(place, self.open_part.GetAtoms(), strict=True)
                     if a.GetAtomicNum())  # fmt: skip

    def _grows(self, molecule: Chem.Mol, place: tuple[int, ...]) -> bool:
        """Return True if a molecule can grow from the fragment at a match."""
        if self.open_part is not None:
            for number, old in zip(place, self.open_part.GetAtoms(), strict=True):
                if old.GetAtomicNum() and _bonding(old) != _bonding(
                    molecule.GetAtomWithIdx(number)
                ):
                    return False
        inside = set(self._atoms(place))
        bonds = sum(i in inside and j in inside for i, j in codec.bond_ends(molecule))
        return bonds == len(self.fragment.edges)


def _bonding(atom: Chem.Atom) -> tuple[int, int]:
    """Return numbers of an atom that stay the same if new atoms replace its hydrogens."""
    own = atom.GetTotalDegree() if atom.GetIsAromatic() else atom.GetTotalValence()
    return atom.GetFormalCharge(), own


@default_type()
def read_fragment(
    text: str, task: str, vocabulary: MoleculeVocabulary, added: AddedLimits = NO_LIMITS
) -> MoleculeFragment:
    """Read a fragment from a SMILES or SMARTS, for one of the `TASKS`.

    In the task "scaffold", and in "grow" without attachment points, the fragment is open: new atoms
    may replace any hydrogen. In "scaffold", new rings may also contain fragment atoms.

    Text that RDKit reads as SMILES is a SMILES, unless "~" is in it; else it is a SMARTS.
    """
    if task not in TASKS:
        raise UserError(f"task must be one of {', '.join(TASKS)}, got {task!r}")
    if not isinstance(text, str):
        raise UserError(f"a fragment is a SMILES or SMARTS, got {text!r}")
    with codec.quiet():
        given, smarts = _parsed(text)
        points = _attachment_points(f"{text[:80]!r}", given, task, smarts)
        is_open = task == "scaffold" or (task == "grow" and not points.dummies)
        marked, linked = Chem.Mol(given), TASKS[task].linked
        names = _named_points(given, points, linked)
        read = _of_smarts if smarts else _of_smiles
        constraint, query = read(f"{text[:80]!r}", given, vocabulary, is_open, points)
    fragment = make_fragment(
        vocabulary, *constraint, rings=task == "scaffold", linked=linked, new_rings=added.rings
    )
    if added.rings is not None and not added.rings[1]:
        fragment = without_new_rings(fragment, vocabulary)
    if not smarts:
        fragment = replace(fragment, symmetries=_symmetries(given, fragment))
    mapped = [k - sum(d < k for d in points.dummies) for k in points.mapped]
    found = MoleculeFragment(
        text,
        fragment,
        _grown(query, mapped),
        [] if is_open else names,
        open_part=Chem.Mol(given) if is_open and not smarts else None,
        added=added,
        linked=linked,
        mapped=mapped,
        before=query if mapped else None,
    )
    return replace(found, marked=_marked(marked, found))


def _marked(part: Chem.Mol, fragment: MoleculeFragment) -> StereoTemplate | None:
    """Return the stereo marks of a fragment, without those at atoms with two attachment points."""
    atoms = list(part.GetAtoms())
    if fragment.query.GetNumAtoms() < len(atoms):
        atoms = [atom for atom in atoms if atom.GetAtomicNum()]
        for atom in atoms:
            if sum(not other.GetAtomicNum() for other in atom.GetNeighbors()) > 1:
                atom.SetChiralTag(Chem.ChiralType.CHI_UNSPECIFIED)
                for bond in atom.GetBonds():
                    bond.SetStereo(Chem.BondStereo.STEREONONE)
    numbers = [atom.GetIdx() for atom in atoms]

    def places(molecule: Chem.Mol) -> list[dict[int, int]]:
        return [dict(zip(numbers, place, strict=True)) for place in fragment.matches(molecule)]

    return StereoTemplate.of(part, places)


class Points(NamedTuple):
    """Attachment points of a fragment, as numbers of atoms of its SMILES or SMARTS."""

    dummies: list[int]
    mapped: list[int]


def _parsed(text: str) -> tuple[Chem.Mol, bool]:
    """Read a SMILES, or if that fails a SMARTS."""
    try:
        given = codec.parse(text)
        dropped_marks(text)
    except codec.UnparsableSmiles:
        return codec.parse_smarts(text, kind="SMILES or SMARTS"), True
    except codec.MoleculeNotRepresentable as error:  # marks that contradict each other
        raise UserError(str(error)) from None
    if "~" in text:  # any bond, which RDKit reads in SMILES
        return codec.parse_smarts(text, kind="SMILES or SMARTS"), True
    return given, False


def _attachment_points(shown: str, given: Chem.Mol, task: str, smarts: bool) -> Points:
    """Return the attachment points of a fragment."""
    frags, (parts, (low, high), *_) = Chem.GetMolFrags(given), TASKS[task]
    if not parts[0] <= len(frags) <= parts[1]:
        raise UserError(f"{shown} has {len(frags)} parts, {_span(*parts)} needed")
    if smarts and task == "scaffold":
        return Points([], [])
    dummies = [atom.GetIdx() for atom in given.GetAtoms() if _is_dummy(shown, atom, smarts)]
    has_map = [a.GetIdx() for a in given.GetAtoms() if a.GetAtomMapNum() and task == "decorate"]
    mapped = sorted(set(has_map) - set(dummies))
    for part in frags:
        found = len({*dummies, *mapped}.intersection(part))
        if not low <= found <= high:
            raise UserError(
                f"{shown}: {found} attachment points in a part, {_span(low, high)} needed, as in "
                "[*:1]c1ccccc1; the task scaffold (--scaffold) needs none"
            )
        if set(dummies).issuperset(part):
            raise UserError(f"{shown}: no atoms beside attachment points")
    for k in dummies:
        bonds = [bond.GetBondType() for bond in given.GetAtomWithIdx(k).GetBonds()]
        # A bond that is not written may also be aromatic in a SMARTS, and is single here.
        if len(bonds) != 1 or (bonds[0] != Chem.BondType.SINGLE and not smarts):
            raise UserError(f"{shown}: an attachment point has one single bond")
    return Points(dummies, mapped)


def _span(low: int, high: int) -> str:
    return f"{low}" if low == high else f"{low} or more"


def _is_dummy(shown: str, atom: Chem.Atom, smarts: bool) -> bool:
    """Return True for a dummy atom: `*`, which needs a map number in a SMARTS."""
    if not smarts:
        return not atom.GetAtomicNum()
    if atom.DescribeQuery().strip() != "AtomNull" or atom.GetDegree() > 1:
        return False
    if not atom.GetAtomMapNum():
        raise UserError(f"{shown}: write [*:1] for an attachment point in a SMARTS, not *")
    return True


def _named_points(given: Chem.Mol, points: Points, linked: bool) -> list[tuple[str, int]]:
    """Name the attachment points."""
    atoms = [k for k in range(given.GetNumAtoms()) if k not in points.dummies]
    both = sorted([*points.dummies, *points.mapped])
    ends = [given.GetAtomWithIdx(k) for k in both]
    labels = [atom.GetAtomMapNum() or atom.GetIsotope() for atom in ends]
    if 0 in labels or len(set(labels)) < len(labels):
        labels = list(range(1, len(labels) + 1))
    places = [
        atoms.index(k if k in points.mapped else atom.GetNeighbors()[0].GetIdx())
        for k, atom in zip(both, ends, strict=True)
    ]
    names = ["linker" if linked else f"R{label}" for label in labels]
    found = sorted(zip(labels, names, places, strict=True))
    return [(name, place) for _, name, place in found]


def _of_smiles(
    shown: str, given: Chem.Mol, vocabulary: MoleculeVocabulary, is_open: bool, points: Points
) -> tuple[tuple[Any, ...], Chem.Mol]:
    """Read a fragment from the molecule of a SMILES."""
    Chem.RemoveStereochemistry(given)
    for atom in given.GetAtoms():
        atom.SetAtomMapNum(0)
        atom.SetIsotope(0)
        if atom.GetNumRadicalElectrons():
            raise UserError(f"{shown}: radical at {atom.GetSymbol()}")
    atoms = [atom for atom in given.GetAtoms() if atom.GetAtomicNum()]
    number = {atom.GetIdx(): new for new, atom in enumerate(atoms)}
    ends = enumerate(codec.bond_ends(given))
    edges = {k: (number[i], number[j]) for k, (i, j) in ends if i in number and j in number}
    aromatic = vocabulary.tells_aromatic
    marks = [AROMATIC if aromatic and bond.GetIsAromatic() else "" for bond in given.GetBonds()]
    kekule = [[marks[k] + types[k].name for k in edges] for types in _kekule_structures(given)]
    found = [AtomCategory.of(atom, aromatic) for atom in atoms]
    try:
        codec.check_vocabulary(found, sum(kekule, []), vocabulary)
    except codec.MoleculeNotRepresentable as error:
        raise UserError(f"{shown}: {error}") from None
    nodes = torch.tensor([vocabulary.atom_index[category] for category in found])
    numbers = [[vocabulary.bond_index[name] + 1 for name in names] for names in kekule]
    bonds = torch.tensor(numbers, dtype=torch.long)
    categories = one_hot(nodes, len(vocabulary.atoms)).bool()
    structures = one_hot(bonds, len(vocabulary.bonds) + 1).bool()
    grows = {atom.GetIdx() for atom in atoms} if is_open else set(points.mapped)
    valence = [atom.GetTotalNumHs() if atom.GetIdx() in grows else 0 for atom in atoms]
    attachments = [sum(not other.GetAtomicNum() for other in a.GetNeighbors()) for a in atoms]
    if not sum(valence) and not sum(attachments):
        raise UserError(f"{shown} has no hydrogen to replace and no attachment point")
    arguments = categories, list(edges.values()), structures, valence, attachments
    return arguments, _query(given, is_open)


def _symmetries(given: Chem.Mol, fragment: GraphFragment) -> Tensor | None:
    """Return the symmetries of a fragment that is a SMILES, for `GraphFragment.symmetries`."""
    atoms = [atom.GetIdx() for atom in given.GetAtoms() if atom.GetAtomicNum()]
    every = given.GetSubstructMatches(given, uniquify=False, maxMatches=STRUCTURES)
    found = {tuple(atoms.index(place[k]) for k in atoms) for place in every}
    images = torch.tensor(sorted(found))
    # RDKit compares no hydrogens.
    open_to = fragment.valence + MATCHES * fragment.attachments
    images = images[(open_to[images] == open_to).all(1)]
    return images if len(every) < STRUCTURES else None


def _kekule_structures(mol: Chem.Mol) -> list[tuple[Chem.BondType, ...]]:
    """Return the Kekulé structures of a molecule, at most 256 (`STRUCTURES`)."""
    charges = [atom.GetFormalCharge() for atom in mol.GetAtoms()]
    found: dict[tuple, None] = {}
    for structure in Chem.ResonanceMolSupplier(mol, Chem.KEKULE_ALL, STRUCTURES):
        if structure is None:
            continue
        types = tuple(bond.GetBondType() for bond in structure.GetBonds())
        # Some resonance structures move charges; these are other fragments.
        same = [atom.GetFormalCharge() for atom in structure.GetAtoms()] == charges
        if same and all(
            new != Chem.BondType.AROMATIC if old.GetIsAromatic() else new == old.GetBondType()
            for new, old in zip(types, mol.GetBonds(), strict=True)
        ):
            found[types] = None
    if not found:
        plain = Chem.Mol(mol)
        Chem.Kekulize(plain, clearAromaticFlags=True)
        found[tuple(bond.GetBondType() for bond in plain.GetBonds())] = None
    return list(found)


def _query(mol: Chem.Mol, is_open: bool) -> Chem.Mol:
    """Return a pattern that matches molecules with the fragment of a SMILES."""
    parameters: Any = Chem.AdjustQueryParameters.NoAdjustments()
    parameters.makeDummiesQueries = True
    if not is_open:
        parameters.adjustDegree = True
        parameters.adjustDegreeFlags = Chem.ADJUST_IGNOREDUMMIES
    query = Chem.RWMol(Chem.AdjustQueryProperties(mol, parameters))
    if not is_open:
        for old, new in zip(mol.GetAtoms(), query.GetAtoms(), strict=True):
            # Fixed numbers of neighbours and hydrogens imply single bonds to new atoms.
            if old.GetAtomicNum():
                new.ExpandQuery(rdqueries.HCountEqualsQueryAtom(old.GetTotalNumHs()))
        # Without dummy atoms: degrees suffice, and one new atom may be at two attachment points.
        for k in sorted((a.GetIdx() for a in mol.GetAtoms() if not a.GetAtomicNum()), reverse=True):
            query.RemoveAtom(k)
    return query.GetMol()


def _grown(query: Chem.Mol, mapped: Sequence[int]) -> Chem.Mol:
    """Return a pattern that matches a fragment after growth at its mapped atoms."""
    grown = Chem.RWMol(query)
    for k in mapped:
        grown.ReplaceAtom(k, Chem.AtomFromSmarts("*"))
    return grown.GetMol() if mapped else query


def _of_smarts(
    shown: str, given: Chem.Mol, vocabulary: MoleculeVocabulary, is_open: bool, points: Points
) -> tuple[tuple[Any, ...], Chem.Mol]:
    """Read a fragment from the pattern of a SMARTS."""
    whole = Chem.RWMol(given)
    if not is_open:
        for atom in whole.GetAtoms():  # no neighbours but those of the pattern
            atom.ExpandQuery(rdqueries.ExplicitDegreeEqualsQueryAtom(atom.GetDegree()))
    ends = [given.GetAtomWithIdx(k).GetNeighbors()[0].GetIdx() for k in points.dummies]
    atoms = [k for k in range(given.GetNumAtoms()) if k not in points.dummies]
    for k in sorted(points.dummies, reverse=True):
        whole.RemoveAtom(k)
    pattern = whole.GetMol()
    valence = [MOST_VALENCE if is_open or k in points.mapped else 0 for k in atoms]
    attachments = [ends.count(k) for k in atoms]
    marked = vocabulary.tells_aromatic
    count, size = pattern.GetNumAtoms(), len(vocabulary.bonds) + 1
    categories = torch.zeros(count, len(vocabulary.atoms), dtype=torch.bool)
    for row, atom in zip(categories, pattern.GetAtoms(), strict=True):
        row[:] = torch.tensor([atom_could_be(atom, c, marked) for c in vocabulary.atoms])
        if not row.any():
            raise UserError(f"{shown}: the model knows no atom like {atom.GetSmarts()}")
    structures = torch.zeros(1, pattern.GetNumBonds(), size, dtype=torch.bool)
    for row, bond in zip(structures[0], pattern.GetBonds(), strict=True):
        row[1:] = torch.tensor([bond_could_be(bond, name, marked) for name in vocabulary.bonds])
        if not row.any():
            smarts = bond.GetSmarts()  # type: ignore[call-arg]  # wrong in the stubs
            raise UserError(f"{shown}: the model knows no bond like {smarts}")
    return (categories, codec.bond_ends(pattern), structures, valence, attachments), pattern


def make_fragment(
    vocabulary: MoleculeVocabulary,
    categories: Tensor,
    edges: Sequence[tuple[int, int]],
    structures: Tensor,
    valence: Sequence[int],
    attachments: Sequence[int],
    *,
    rings: bool,
    linked: bool = False,
    new_rings: tuple[int, int] | None = None,
) -> GraphFragment:
    """Build the graph of a fragment for the sampler, from what each atom and bond may be.

    Args:
        categories: True for the atom categories that each of the U atoms may have, (U, atom
            categories).
        structures: True for the bond categories that each bond may have in each of S structures,
            (S, E, bond categories + 1). Column 0 stands for no bond. A molecule must agree with one
            structure.
        valence: Number of hydrogens of each atom that new atoms may replace.
        attachments: Number of new atoms that must be bonded to each atom.
        rings: True if new atoms may close rings over the fragment.
        new_rings: Fewest and most rings that are added.
    """
    kind = LinkedFragment if linked else GraphFragment
    plain = [False, *(not name.startswith(AROMATIC) for name in vocabulary.bonds)]
    return kind(
        categories=categories,
        edges=torch.tensor(edges, dtype=torch.long).reshape(-1, 2),
        structures=structures,
        valence=torch.tensor(valence),
        attachments=torch.tensor(attachments),
        plain=torch.tensor(plain),
        rings=rings,
        new_rings=new_rings or (0, MANY_RINGS),
    )


def without_new_rings(fragment: GraphFragment, vocabulary: MoleculeVocabulary) -> GraphFragment:
    """Return a copy of a fragment to which no aromatic atoms or bonds may be added.

    Use it for a fragment to which no rings may be added. Otherwise the model would begin aromatic
    rings that it may not close, and they would end as chains of double bonds.

    A vocabulary that does not tell aromatic atoms excludes none.
    """
    free = torch.tensor([not category.aromatic for category in vocabulary.atoms])
    return replace(fragment, free_nodes=free, free_edges=fragment.plain)


def atom_could_be(atom: Chem.Atom, category: AtomCategory, marked: bool) -> bool:
    """Return True if an atom of a SMARTS may match atoms of a category.

    A category decides element, charge and aromaticity. Conditions on rings, neighbours and
    hydrogens depend on the molecule; they are taken to hold.
    """
    number = Chem.GetPeriodicTable().GetAtomicNumber(category.symbol)

    def leaf(name: str, value: int) -> bool | None:
        if name == "AtomAtomicNum":
            return number == value
        if name == "AtomType":  # RDKit adds 1000 to the number of an aromatic atom.
            if number != value % 1000:
                return False
            return (value >= 1000) == category.aromatic if marked else None
        if name in ("AtomFormalCharge", "AtomNegativeFormalCharge"):
            return (category.charge if name == "AtomFormalCharge" else -category.charge) == value
        if name in ("AtomIsAromatic", "AtomIsAliphatic") and marked:
            return (category.aromatic == (name == "AtomIsAromatic")) == bool(value)
        return None

    return _truth(atom.DescribeQuery().splitlines(), leaf) is not False


def bond_could_be(bond: Chem.Bond, name: str, marked: bool) -> bool:
    """Return True if a bond of a SMARTS may match bonds of a category.

    A category decides bond order and aromaticity. Conditions on rings depend on the molecule; they
    are taken to hold.

    If the vocabulary does not tell aromatic bonds (`marked`), any single or double bond may be one.
    """
    aromatic = name.startswith(AROMATIC)
    order = Chem.BondType.AROMATIC if aromatic else Chem.BondType.names[name]
    may_be_aromatic = not marked and name in ("SINGLE", "DOUBLE")

    def leaf(query: str, value: int) -> bool | None:
        if query == "BondOrder":
            if may_be_aromatic and value in (int(order), int(Chem.BondType.AROMATIC)):
                return None
            return int(order) == value
        if query == "SingleOrAromaticBond":
            if aromatic or order == Chem.BondType.SINGLE:
                return True
            return None if may_be_aromatic else False
        return None

    return _truth(bond.DescribeQuery().splitlines(), leaf) is not False


def _truth(lines: list[str], leaf: Callable[[str, int], bool | None]) -> bool | None:
    """Return the truth value of the first query in RDKit's description of an atom or bond."""
    line = lines.pop(0)
    depth = len(line) - len(line.lstrip())
    name, *rest = line.split()
    parts = []
    while lines and len(lines[0]) - len(lines[0].lstrip()) > depth:
        parts.append(_truth(lines, leaf))
    if parts and name.endswith(("And", "Or")):
        deciding = name.endswith("Or")
        value = deciding if deciding in parts else None if None in parts else not deciding
        negated = "!" in rest
    else:
        numbers = [int(word) for word in rest if word.lstrip("-").isdigit()]
        value = leaf(name, numbers[0] if numbers else 1)
        negated = "!=" in rest
    return None if value is None else value != negated
