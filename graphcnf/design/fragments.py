"""Fragments of molecules, read from a SMILES or SMARTS.

An *attachment point* of a fragment is a dummy atom `*`, `[*:1]` or `[1*]`, which a new atom with
the same bond replaces. In the task "decorate", an atom with a map number, `[cH:1]`, is one as well:
new atoms may replace its hydrogens. A *place* is where a fragment lies in a molecule: for each of
its atoms the number of the atom in the molecule. A fragment is *open* if new atoms may replace the
hydrogens of any atom, else new atoms are only at its attachment points.
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
from graphcnf.design.linked import LinkedFragment
from graphcnf.design.particles import MANY_RINGS, GraphFragment
from graphcnf.errors import UserError
from graphcnf.molecules import codec
from graphcnf.molecules.vocabulary import AROMATIC, AtomCategory, MoleculeVocabulary
from graphcnf.stereo.marks import StereoTemplate, dropped_marks
from graphcnf.torch_state import default_type

STRUCTURES, MATCHES = 256, 1000
"""Limits on the Kekulé structures and on the symmetries of a fragment, and on its matches in a
molecule."""

MOST_VALENCE = 6
"""Free degree of an atom of a SMARTS that is open to growth."""

MANY = 255
"""In place of a limit on parts or attachment points where there is none."""


class Task(NamedTuple):
    """A way to complete a fragment, with what it asks of the fragment.

    Attributes:
        parts: Fewest and most connected parts of the fragment.
        points: Fewest and most attachment points of each part.
        linked: True if all new atoms are one connected part, a linker, at all attachment points.
    """

    parts: tuple[int, int]
    points: tuple[int, int]
    linked: bool = False


TASKS = {
    "scaffold": Task((1, 1), (0, MANY)),
    "grow": Task((1, 1), (0, MANY)),
    "decorate": Task((1, 1), (1, MANY)),
    "link": Task((2, MANY), (1, MANY), linked=True),
    "close": Task((1, 1), (2, MANY), linked=True),
}
"""Tasks by name."""


@dataclass
class MoleculeFragment:
    """Atoms and bonds that a molecule has to contain; `read_fragment` makes it of a text.

    Atom numbers below skip dummy atoms.

    Attributes:
        text: SMILES or SMARTS, as given.
        fragment: Its graph, with the categories that each atom and bond may have, as the sampler of
            `graphcnf.design.particles` takes it.
        query: Pattern that matches the molecules with the fragment, without stereo.
        points: Name (R1 for [*:1]) and number of the atom of each attachment point; empty for an
            open fragment.
        marked: What keeps its stereo marks (`graphcnf.stereo.marks.StereoTemplate`); None if it has
            no marks.
        open_part: The molecule of the SMILES, if the fragment is open and given as SMILES; else
            None.
        added: Limits on what is added to it, `NO_LIMITS` by default.
        linked: True if all new atoms are required to be one connected part that is at all
            attachment points.
        mapped: Atoms with a map number, whose hydrogens new atoms may replace.
        before: If `mapped` has atoms, the pattern as it was given. (In `query` these atoms match
            any atom, since they get neighbours.) None without such atoms.
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
        """Find the fragment in a molecule.

        Of several matches it is the first that has the fragment's stereo marks, else RDKit's first.

        Args:
            molecule: A sanitized molecule.

        Returns:
            For each atom of the fragment the number of the atom in the molecule; () without match.
        """
        marked = self._marked_matches(molecule)
        every = self.matches(molecule)
        return next((place for place in every if place in marked), every[0] if every else ())

    def kept_atoms(self, molecule: Chem.Mol) -> list[tuple[int, ...]]:
        """Find all places of the fragment in a molecule.

        Unlike in `matches`, atoms that stand for a dummy atom are left out: they are new.

        Args:
            molecule: A sanitized molecule.

        Returns:
            For each place the numbers of the fragment's atoms in the molecule; [] if it has none.
        """
        return [self._atoms(place) for place in self.matches(molecule)]

    def matches(self, molecule: Chem.Mol) -> list[tuple[int, ...]]:
        """Find the fragment in a molecule that may have grown from it.

        Args:
            molecule: A sanitized molecule.

        Returns:
            Each place: for each atom of the `query` the number of the atom in the molecule. Places
            are left out beside which the molecule has something that may not be added to the
            fragment. [] if none is left.
        """
        every = molecule.GetSubstructMatches(self.query, uniquify=False, maxMatches=MATCHES)
        return [place for place in every if self._allows(molecule, place)]

    def _allows(self, molecule: Chem.Mol, place: tuple[int, ...]) -> bool:
        """Return True if what a molecule has beside a place may be added to the fragment.

        Args:
            molecule: The molecule.
            place: A match of the `query`.
        """
        atoms = self._atoms(place)
        if self.linked and parts_beside(molecule, atoms) != 1:
            return False
        if self.points and not self._has_single_bonds(molecule, place):
            return False
        if self.before is not None and not self._grew_at(self.before, molecule, place):
            return False
        return self.added.hold(molecule, atoms, linked=self.linked)

    def _has_single_bonds(self, molecule: Chem.Mol, place: tuple[int, ...]) -> bool:
        """Return True if new atoms at dummy atoms have single bonds, which may be aromatic.

        Args:
            molecule: The molecule.
            place: A match of the `query`.
        """
        atoms = [molecule.GetAtomWithIdx(n) for k, n in enumerate(place) if k not in self.mapped]
        return all(
            bond.GetBondType() in (Chem.BondType.SINGLE, Chem.BondType.AROMATIC)
            for atom in atoms
            for bond in atom.GetBonds()
            if bond.GetOtherAtomIdx(atom.GetIdx()) not in place
        )

    def _grew_at(self, before: Chem.Mol, molecule: Chem.Mol, place: tuple[int, ...]) -> bool:
        """Return True if a fragment is at a place once hydrogens replace new atoms at mapped atoms.

        So it was there before new atoms replaced these hydrogens.

        Args:
            before: Pattern of the fragment.
            molecule: The molecule.
            place: The place.
        """
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
        """Return the matches in a molecule that have the fragment's stereo marks.

        Where one new atom is at two attachment points, no match is found.

        Args:
            molecule: The molecule.

        Returns:
            Places as in `matches`; none if the fragment has no marks.
        """
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
        """Find what was grown at the attachment points, in the `match` of a molecule.

        Args:
            molecule: A sanitized molecule.

        Returns:
            `{name of the attachment point, such as "R1": SMILES of the substituent}`; {} without
            match. A substituent that is bonded to two atoms is listed at both, with [*:1] at the
            first one.
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
        """Return the number of places of the fragment from which a molecule can grow.

        Symmetric places count each: benzene is in toluene at twelve. The weight of a particle is
        divided by their number, since it could have been drawn from each. Two atoms of the fragment
        have no other bond between them, and around an open fragment new atoms only replace
        hydrogens: pyridine is in quinoline, but not in pyridone.

        Args:
            molecule: A sanitized molecule.

        Returns:
            Number of places; 0 if the molecule cannot have grown from the fragment.
        """
        every = self.matches(molecule)
        return len({self._atoms(place) for place in every if self._grows(molecule, place)})

    def _atoms(self, place: tuple[int, ...]) -> tuple[int, ...]:
        """Return the atoms of a match that belong to the fragment.

        Args:
            place: A match of the `query`. In an open fragment it has an atom for each dummy atom,
                too, which is new.

        Returns:
            Numbers of the atoms in the molecule.
        """
        if self.open_part is None:
            return place
        return tuple(k for k, a in zip(place, self.open_part.GetAtoms(), strict=True)
                     if a.GetAtomicNum())  # fmt: skip

    def _grows(self, molecule: Chem.Mol, place: tuple[int, ...]) -> bool:
        """Return True if a molecule can grow from the fragment at a match.

        Args:
            molecule: The molecule.
            place: A match of the `query`, see `places` for the conditions.
        """
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
    """Return numbers of an atom that stay the same if new atoms replace its hydrogens.

    Args:
        atom: The atom.

    Returns:
        The formal charge; and the number of neighbours, hydrogens among them, of an aromatic atom,
        or the valence of another one.
    """
    own = atom.GetTotalDegree() if atom.GetIsAromatic() else atom.GetTotalValence()
    return atom.GetFormalCharge(), own


@default_type()
def read_fragment(
    text: str, task: str, vocabulary: MoleculeVocabulary, added: AddedLimits = NO_LIMITS
) -> MoleculeFragment:
    """Return the fragment of a SMILES or SMARTS for one of the `TASKS`.

    In the task "scaffold", and in "grow" without attachment points, new atoms may replace any
    hydrogen; in "scaffold", new rings may also contain fragment atoms. The graph and the pattern
    ignore stereo marks, which are in `marked`.

    Text that RDKit reads as SMILES is a SMILES, unless "~" is in it; else it is a SMARTS.

    Args:
        text: The SMILES or SMARTS.
        task: Name of the task.
        vocabulary: Vocabulary of the model.
        added: Limits on what is added.

    Returns:
        The fragment, with its graph for the sampler and its pattern for RDKit.

    Raises:
        UserError: There is no such task, the text is unreadable or does not suit the task, or the
            vocabulary lacks an atom or bond.
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
    """Return the stereo marks of a fragment, without those at atoms with two attachment points.

    These have no meaning, since it is open which new neighbour is at which attachment point.

    Args:
        part: The SMILES or SMARTS, with its marks and attachment points.
        fragment: The fragment that was read from it.
    """
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
    """Attachment points of a fragment, as numbers of atoms of the SMILES or SMARTS.

    Attributes:
        dummies: Dummy atoms, each of which a new atom must replace.
        mapped: Other atoms with a map number, whose hydrogens new atoms may replace.
    """

    dummies: list[int]
    mapped: list[int]


def _parsed(text: str) -> tuple[Chem.Mol, bool]:
    """Read a SMILES, or if that fails a SMARTS.

    Args:
        text: The text; one with "~", which stands for any bond, is a SMARTS.

    Returns:
        The molecule of the SMILES and False, or the pattern of the SMARTS and True.

    Raises:
        UserError: The text is neither, or its stereo marks contradict each other.
    """
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
    """Return the attachment points of a fragment.

    Args:
        shown: The fragment as messages name it.
        given: Its molecule, or the pattern of a SMARTS.
        task: Name of the task.
        smarts: True for a SMARTS.

    Raises:
        UserError: One is bad, or the fragment has too few or too many parts or attachment points.
    """
    frags, (parts, (low, high), _) = Chem.GetMolFrags(given), TASKS[task]
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
    """Return True for a dummy atom: `*`, which needs a map number in a SMARTS.

    Args:
        shown: The fragment as messages name it.
        atom: An atom of its molecule or pattern.
        smarts: True for a SMARTS.

    Raises:
        UserError: An atom of a SMARTS is `*` at the end of a chain, which would be any atom.
    """
    if not smarts:
        return not atom.GetAtomicNum()
    if atom.DescribeQuery().strip() != "AtomNull" or atom.GetDegree() > 1:
        return False
    if not atom.GetAtomMapNum():
        raise UserError(f"{shown}: write [*:1] for an attachment point in a SMARTS, not *")
    return True


def _named_points(given: Chem.Mol, points: Points, linked: bool) -> list[tuple[str, int]]:
    """Name the attachment points.

    Args:
        given: Molecule or pattern of the fragment.
        points: Its attachment points.
        linked: True to call all of them "linker", since one part is at all of them.

    Returns:
        For each, sorted by its map number or isotope, the name ("R1" for 1) and the atom beside it,
        whose number skips dummy atoms. They are numbered 1, 2, ... if numbers are missing or
        repeated.
    """
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
    """Read a fragment from the molecule of a SMILES.

    Args:
        shown: The fragment as messages name it.
        given: The molecule, which loses its stereo marks, map numbers and isotopes.
        vocabulary: Vocabulary of the model.
        is_open: True if new atoms may replace any hydrogen.
        points: The attachment points.

    Returns:
        `categories`, `edges`, `structures`, `valence` and `attachments` of `make_fragment`, where
        each Kekulé structure is one of the structures; and the pattern that matches molecules with
        the fragment.

    Raises:
        UserError: It has a radical, or an atom or bond that the vocabulary lacks, or there is no
            place where new atoms could be.
    """
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
    """Return the symmetries of a fragment that is a SMILES, for `GraphFragment.symmetries`.

    Args:
        given: Molecule of the SMILES.
        fragment: The fragment of it, with U nodes.

    Returns:
        (G, U) long; None if there are too many.
    """
    atoms = [atom.GetIdx() for atom in given.GetAtoms() if atom.GetAtomicNum()]
    every = given.GetSubstructMatches(given, uniquify=False, maxMatches=STRUCTURES)
    found = {tuple(atoms.index(place[k]) for k in atoms) for place in every}
    images = torch.tensor(sorted(found))
    # RDKit compares no hydrogens.
    open_to = fragment.valence + MATCHES * fragment.attachments
    images = images[(open_to[images] == open_to).all(1)]
    return images if len(every) < STRUCTURES else None


def _kekule_structures(mol: Chem.Mol) -> list[tuple[Chem.BondType, ...]]:
    """Return the Kekulé structures of a molecule, at most `STRUCTURES`.

    Args:
        mol: The molecule.

    Returns:
        Of each structure the RDKit type of each bond, in the order of the molecule's bonds.
    """
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
    """Return a pattern that matches molecules with the fragment of a SMILES.

    Args:
        mol: Molecule of the SMILES.
        is_open: True if its atoms may have further neighbours.
    """
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
    """Return a pattern that matches a fragment after growth at its mapped atoms.

    Args:
        query: Pattern of the fragment before.
        mapped: Numbers of the atoms with a map number, which may be any atoms afterwards.
    """
    grown = Chem.RWMol(query)
    for k in mapped:
        grown.ReplaceAtom(k, Chem.AtomFromSmarts("*"))
    return grown.GetMol() if mapped else query


def _of_smarts(
    shown: str, given: Chem.Mol, vocabulary: MoleculeVocabulary, is_open: bool, points: Points
) -> tuple[tuple[Any, ...], Chem.Mol]:
    """Read a fragment from the pattern of a SMARTS.

    Categories are restricted by element, charge, aromaticity and bond order; molecules are checked
    against the whole pattern later.

    Args:
        shown: The fragment as messages name it.
        given: The pattern.
        vocabulary: Vocabulary of the model.
        is_open: True if atoms beside those of the pattern may be anywhere.
        points: The attachment points.

    Returns:
        `categories`, `edges`, `structures`, `valence` and `attachments` of `make_fragment`; and the
        pattern without dummy atoms.

    Raises:
        UserError: No atom or bond of the vocabulary matches one of the pattern.
    """
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
    """Build the graph of a fragment of U atoms and E bonds.

    Args:
        vocabulary: Vocabulary of the model.
        categories: Possible categories of each atom, (U, atom categories) bool.
        edges: Pairs of atom numbers, one for each of the E bonds.
        structures: Possible bond categories plus 1 in each of S structures, (S, E, bond categories
            + 1) bool.
        valence: Number of hydrogens of each atom that new atoms may replace, U integers.
        attachments: Number of attachment points at each atom, U integers.
        rings: True if new atoms may close rings over the fragment.
        linked: True if one connected part of new atoms is at all attachment points.
        new_rings: Fewest and most rings that are added; None for no limit.

    Returns:
        A `GraphFragment`; a `LinkedFragment` if `linked`.
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
    """Return the fragment, now without aromatic atoms among those that are added to it.

    It is for a fragment to which no rings are added. Otherwise the model begins aromatic rings,
    which it may not close, and which stay open as polyenes.

    Args:
        fragment: The fragment.
        vocabulary: Vocabulary of the model, which tells aromatic atoms. If it does not, no
            atom is excluded.
    """
    free = torch.tensor([not category.aromatic for category in vocabulary.atoms])
    return replace(fragment, free_nodes=free, free_edges=fragment.plain)


def atom_could_be(atom: Chem.Atom, category: AtomCategory, marked: bool) -> bool:
    """Return True if an atom of a SMARTS may match atoms of a category.

    Conditions on rings, neighbours and hydrogens cannot be decided by a category, and may hold.

    Args:
        atom: Atom of the pattern.
        category: The category.
        marked: True if the categories of the vocabulary tell aromatic atoms from others.
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

    Args:
        bond: Bond of the pattern.
        name: Name of the category, such as "SINGLE".
        marked: True if the categories of the vocabulary tell aromatic bonds from others. If False,
            any single or double bond may be aromatic.
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
    """Return the truth value of the first query in RDKit's description of an atom or bond.

    Conditions on rings, neighbours and hydrogens depend on the molecule, not on a category, and
    stay undecided.

    Args:
        lines: Lines of the description, which are taken out as they are read.
        leaf: Function that decides a single condition from its name and value; None if undecided.

    Returns:
        The truth value; None if undecided.
    """
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
