"""Molecules that contain a fragment, drawn from the model given the fragment.

A fragment is a SMARTS, or a SMILES with attachment points: dummy atoms `*`, `[*:1]` or `[1*]`, each
of which a new atom with the same bond replaces. If the fragment is open, new atoms may also replace
its hydrogens.

If a fragment is common in the model's own samples, the molecules are those samples that contain it.
Otherwise the sampler is sequential importance sampling with rejection control (Liu, Chen & Wong
1998). Particles that contain the fragment are drawn in rounds, each with a weight, and a molecule
is accepted with the probability min(1, weight / threshold). All rounds share the threshold, so a
round without probable molecules gives none. Molecules whose weight exceeds the threshold come too
seldom; these are the larger ones, so the weights are first multiplied by a factor per atom, which
gives the accepted molecules the mean number of atoms of all weighted particles.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import Any, NamedTuple

import numpy as np
import torch
from rdkit import Chem
from rdkit.Chem import rdqueries
from torch import Tensor
from torch.nn.functional import one_hot

from graphcnf.design.particles import GraphFragment, Particles, ParticleSampler
from graphcnf.errors import UserError
from graphcnf.flows.modules import evaluation_mode
from graphcnf.graphs.batch import PackedGraphs
from graphcnf.graphs.graph_model import GraphModel
from graphcnf.graphs.record_blocks import one_thread
from graphcnf.limits import PARTICLES, check_integer, check_seed, check_temperature
from graphcnf.molecules import codec
from graphcnf.molecules.filters import NO_FILTERS, Filters, Funnel
from graphcnf.molecules.molecule_flow import MoleculeFlow
from graphcnf.molecules.standardize import protonation_hash
from graphcnf.molecules.validity import strict
from graphcnf.molecules.vocabulary import MARK, AtomCategory, MoleculeVocabulary
from graphcnf.stereo.marks import StereoTemplate, dropped_marks
from graphcnf.torch_state import default_type

STRUCTURES, MATCHES = 256, 1000
"""Limits on the Kekulé structures and on the symmetries of a fragment, and on its matches in a
molecule."""

TASKS = {"scaffold": (1, 0, 38), "grow": (1, 0, 38), "decorate": (1, 1, 38), "link": (2, 1, 1)}
"""By task: number of fragments, and fewest and most attachment points of each."""

ROUND, TRIAL, LARGEST = 256, 64, 2048
"""Particles in a round, and samples of the model in the first one; particles in a trial round,
which learns in which orders of its atoms the model draws the fragment; samples of the model in the
largest round: more at once take less time each."""

ROUNDS, PATIENCE = 16, 8
"""Last rounds that determine the threshold; consecutive rounds without a new molecule after which
the search ends."""

MOST_LEFT_OUT = 1000
"""Consecutive molecules that cannot have a fragment's stereo marks after which a search ends."""

CHECKED, COST = 128, 5
"""Samples of the model that are searched for the fragment; samples of the model that are drawn
rather than a particle. They take up to 1.5 times as long, but are exact."""

TILT = 0.5
"""Largest factor for the weight of a molecule per atom, in nats; see `size_tilt`."""

GOLDEN = (math.sqrt(5) - 1) / 2
"""Golden ratio: its first n multiples, modulo 1, are spread evenly over [0, 1) for every n."""


@dataclass
class MoleculeFragment:
    """Atoms and bonds that a molecule has to contain."""

    text: str  # SMILES or SMARTS, as given
    fragment: GraphFragment
    query: Chem.Mol  # pattern that matches the molecules with the fragment, without stereo
    points: Sequence[tuple[str, int]] = ()  # name (R1 for [*:1]) and atom of attachment points
    marked: StereoTemplate | None = None  # stereo marks
    open_part: Chem.Mol | None = None  # the fragment, if new atoms replace hydrogens of a SMILES

    def match(self, molecule: Chem.Mol) -> tuple[int, ...]:
        """Find the fragment in a molecule.

        Of several matches it is the first that has the fragment's stereo marks, else RDKit's first.

        Returns:
            For each atom of the fragment the number of the atom in the molecule; () without match.
        """
        marked = self._marked_matches(molecule)
        every = molecule.GetSubstructMatches(self.query, uniquify=False, maxMatches=MATCHES)
        return next((place for place in every if place in marked), every[0] if every else ())

    def _marked_matches(self, molecule: Chem.Mol) -> set[tuple[int, ...]]:
        """Return the matches in a molecule that have the stereo marks; none if there are no marks.

        Where one new atom is at two attachment points, no match is found.
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

        Returns:
            SMILES of the substituent by the name of the attachment point, such as "R1". A
            substituent that is bonded to two atoms is listed at both, with [*:1] at the first one.
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
        return {name: next(left[atom], "") for name, atom in self.points}

    def places(self, molecule: Chem.Mol) -> int:
        """Return the number of matches from which a molecule can grow, including symmetric ones.

        Two atoms of the fragment have no other bond between them, and around an open fragment new
        atoms only replace hydrogens: pyridine is in quinoline, but not in pyridone.
        """
        every = molecule.GetSubstructMatches(self.query, uniquify=False, maxMatches=MATCHES)
        return len({self._atoms(place) for place in every if self._grows(molecule, place)})

    def _atoms(self, place: tuple[int, ...]) -> tuple[int, ...]:
        """Return the atoms of a match without those at dummy atoms of an open fragment."""
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
    """Return an atom's charge, and what stays if others replace its hydrogens.

    This is the number of neighbours with hydrogens of an aromatic atom, otherwise the valence.
    """
    own = atom.GetTotalDegree() if atom.GetIsAromatic() else atom.GetTotalValence()
    return atom.GetFormalCharge(), own


@default_type()
def read_fragment(text: str, task: str, vocabulary: MoleculeVocabulary) -> MoleculeFragment:
    """Return the fragment of a SMILES or SMARTS for one of the `TASKS`.

    In the task "scaffold", and in "grow" without attachment points, new atoms may replace any
    hydrogen; in "scaffold", new rings may also contain fragment atoms. The graph and the pattern
    ignore stereo marks, which are in `marked`. Raises `UserError` if the text does not suit the
    task, or the vocabulary lacks an atom or bond.
    """
    if task not in TASKS:
        raise UserError(f"task must be one of {', '.join(TASKS)}, got {task!r}")
    if not isinstance(text, str):
        raise UserError(f"a fragment is a SMILES or SMARTS, got {text!r}")
    shown = f"{text[:80]!r}"
    is_open = task == "scaffold" or (task == "grow" and "*" not in text)
    points: list[tuple[str, int]] = []
    with codec.quiet():
        try:
            given, smarts = codec.parse(text), "~" in text  # any bond, which RDKit reads in SMILES
            dropped_marks(text)
        except codec.UnparsableSmiles:
            smarts = True
        except codec.MoleculeNotRepresentable as error:  # marks that contradict each other
            raise UserError(str(error)) from None
        if smarts:
            given = codec.parse_smarts(text, kind="SMILES or SMARTS")
        found = len(Chem.GetMolFrags(given))
        parts, low, high = TASKS[task]
        if found != parts:
            raise UserError(f"{shown} has {found} parts, {parts} needed")
        if smarts and not is_open:
            raise UserError(
                f"{shown}: attachment points go with a SMILES; leave * out of a SMARTS, which "
                "grows at every hydrogen"
            )
        marked, query, open_part = Chem.Mol(given), given, None
        if smarts:
            constraint = _of_smarts(shown, given, vocabulary)
        else:
            _check_attachments(shown, given, low, high)
            points = [] if is_open else _points(given, task)
            open_part = Chem.Mol(given) if is_open else None
            constraint = _of_smiles(shown, given, vocabulary, is_open)
            query = _query(given, is_open)
    fragment = make_fragment(vocabulary, *constraint, rings=task == "scaffold")
    if not smarts:
        fragment = replace(fragment, symmetries=_symmetries(given, fragment))
    return MoleculeFragment(text, fragment, query, points, _marked(marked, query), open_part)


def _marked(part: Chem.Mol, query: Chem.Mol) -> StereoTemplate | None:
    """Return the stereo marks of a fragment, without those at atoms with two attachment points.

    These have no meaning, since it is open which new neighbour is at which attachment point.
    """
    atoms = list(part.GetAtoms())
    if query.GetNumAtoms() < len(atoms):
        atoms = [atom for atom in atoms if atom.GetAtomicNum()]
        for atom in atoms:
            if sum(not other.GetAtomicNum() for other in atom.GetNeighbors()) > 1:
                atom.SetChiralTag(Chem.ChiralType.CHI_UNSPECIFIED)
                for bond in atom.GetBonds():
                    bond.SetStereo(Chem.BondStereo.STEREONONE)
    numbers = [atom.GetIdx() for atom in atoms]

    def places(molecule: Chem.Mol) -> list[dict[int, int]]:
        found = molecule.GetSubstructMatches(query, uniquify=False, maxMatches=MATCHES)
        return [dict(zip(numbers, place, strict=True)) for place in found]

    return StereoTemplate.of(part, places)


def _check_attachments(shown: str, given: Chem.Mol, low: int, high: int) -> None:
    """Raise `UserError` for a bad attachment point, or for too few or many in a fragment."""
    for part in Chem.GetMolFrags(given):
        dummies = [k for k in part if not given.GetAtomWithIdx(k).GetAtomicNum()]
        if not low <= len(dummies) <= high:
            wanted = f"{low}" if low == high else f"{low} or more"
            raise UserError(
                f"{shown}: {len(dummies)} attachment points in a part, {wanted} needed, as in "
                "[*:1]c1ccccc1; the task scaffold (--scaffold) needs none"
            )
        if len(dummies) == len(part):
            raise UserError(f"{shown}: no atoms beside attachment points")
        for k in dummies:
            bonds = [bond.GetBondType() for bond in given.GetAtomWithIdx(k).GetBonds()]
            if bonds != [Chem.BondType.SINGLE]:
                raise UserError(f"{shown}: an attachment point has one single bond")


def _points(given: Chem.Mol, task: str) -> list[tuple[str, int]]:
    """Return name and atom of each attachment point; atom numbers skip attachment points."""
    atoms = [atom.GetIdx() for atom in given.GetAtoms() if atom.GetAtomicNum()]
    dummies = [atom for atom in given.GetAtoms() if not atom.GetAtomicNum()]
    labels = [atom.GetAtomMapNum() or atom.GetIsotope() for atom in dummies]
    if 0 in labels or len(set(labels)) < len(labels):
        labels = list(range(1, len(labels) + 1))
    places = [atoms.index(atom.GetNeighbors()[0].GetIdx()) for atom in dummies]
    names = ["linker" if task == "link" else f"R{label}" for label in labels]
    found = sorted(zip(labels, names, places, strict=True))
    return [(name, place) for _, name, place in found]


def _of_smiles(shown: str, given: Chem.Mol, vocabulary: MoleculeVocabulary, is_open: bool):
    """Return the arguments of `make_fragment` for a SMILES, from its Kekulé structures."""
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
    marks = [MARK if vocabulary.marked and b.GetIsAromatic() else "" for b in given.GetBonds()]
    kekule = [[marks[k] + types[k].name for k in edges] for types in _kekule_structures(given)]
    found = [AtomCategory.of(atom, vocabulary.marked) for atom in atoms]
    try:
        codec.check_vocabulary(found, sum(kekule, []), vocabulary)
    except codec.MoleculeNotRepresentable as error:
        raise UserError(f"{shown}: {error}") from None
    nodes = torch.tensor([vocabulary.atom_index[category] for category in found])
    numbers = [[vocabulary.bond_index[name] + 1 for name in names] for names in kekule]
    bonds = torch.tensor(numbers, dtype=torch.long)
    categories = one_hot(nodes, len(vocabulary.atoms)).bool()
    structures = one_hot(bonds, len(vocabulary.bonds) + 1).bool()
    valence = [atom.GetTotalNumHs() if is_open else 0 for atom in atoms]
    attachments = [sum(not other.GetAtomicNum() for other in a.GetNeighbors()) for a in atoms]
    if not sum(valence) and not sum(attachments):
        raise UserError(f"{shown} has no hydrogen to replace and no attachment point")
    return categories, list(edges.values()), structures, valence, attachments


def _symmetries(given: Chem.Mol, fragment: GraphFragment) -> Tensor | None:
    """Return the `GraphFragment.symmetries` of a SMILES; None if there are too many."""
    atoms = [atom.GetIdx() for atom in given.GetAtoms() if atom.GetAtomicNum()]
    every = given.GetSubstructMatches(given, uniquify=False, maxMatches=STRUCTURES)
    found = {tuple(atoms.index(place[k]) for k in atoms) for place in every}
    images = torch.tensor(sorted(found))
    # RDKit compares no hydrogens.
    open_to = fragment.valence + MATCHES * fragment.attachments
    images = images[(open_to[images] == open_to).all(1)]
    return images if len(every) < STRUCTURES else None


def _kekule_structures(mol: Chem.Mol) -> list[tuple]:
    """Return the types of the bonds in each Kekulé structure of a molecule."""
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
    """Return a pattern that matches the fragment and, unless open, allows no other neighbours."""
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


def _of_smarts(shown: str, pattern: Chem.Mol, vocabulary: MoleculeVocabulary):
    """Return the arguments of `make_fragment` for a SMARTS.

    Categories are restricted by element, charge, aromaticity and bond order; molecules are checked
    against the whole pattern later.
    """
    marked, count, size = (vocabulary.marked, pattern.GetNumAtoms(), len(vocabulary.bonds) + 1)
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
    return categories, codec.bond_ends(pattern), structures, [6] * count, [0] * count


def make_fragment(
    vocabulary: MoleculeVocabulary,
    categories,
    edges,
    structures,
    valence,
    attachments,
    *,
    rings: bool,
) -> GraphFragment:
    """Return the `GraphFragment` of categories, structures (bool tensors) and lists."""
    plain = [False, *(not name.startswith(MARK) for name in vocabulary.bonds)]
    return GraphFragment(
        categories=categories,
        edges=torch.tensor(edges, dtype=torch.long).reshape(-1, 2),
        structures=structures,
        valence=torch.tensor(valence),
        attachments=torch.tensor(attachments),
        plain=torch.tensor(plain),
        rings=rings,
    )


def atom_could_be(atom: Chem.Atom, category: AtomCategory, marked: bool) -> bool:
    """Return True if a pattern's atom may match a category.

    `marked` says whether the vocabulary has aromatic marks.
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
    """Return True if a pattern's bond may match a bond name.

    `marked` says whether the vocabulary has aromatic marks; without these, any single or double
    bond may be aromatic.
    """
    aromatic = name.startswith(MARK)
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
    """Return the truth value of the first query in RDKit's description, None if undecided.

    `leaf` decides single conditions. Those on rings, neighbours and hydrogens depend on the
    molecule, not on a category, and stay undecided.
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


def check_grows(model: GraphModel) -> None:
    """Raise `UserError` unless a model draws atom by atom."""
    if not model.supports_fragments:
        raise UserError(
            'growing, analogues and optimisation need a model that draws atom by atom ("path")'
        )


class Result(NamedTuple):
    """A molecule that was found."""

    smiles: str
    graph: tuple
    log_weight: float
    ancestor: int = 0  # results of a round with the same ancestor share new atoms


class Part(NamedTuple):
    """The fragment of a round, with its sampler."""

    fragment: MoleculeFragment
    sizes: np.ndarray  # probabilities of 0, 1, ... atoms
    sampler: ParticleSampler


class Growth:
    """Sampler of molecules with a fragment.

    Args:
        model: Model that draws atom by atom.
        vocabulary: Vocabulary of the model.
        fragment: Atoms and bonds that every molecule contains.
        seed: See `MoleculeFlow.sample`.
        temperature: See `MoleculeFlow.sample`.
        atoms: See `MoleculeFlow.sample`.
        particles: Particles per accepted molecule.
        filters: Filters that every molecule passes.

    Attributes:
        drawn: Number of particles drawn so far.
        placed: Number of particles that contain the whole fragment.
        valid: Number of valid molecules among these.
        outcomes: Number of valid molecules by `Filters.refusal`.
        common: True if enough samples of the model contain the fragment by themselves. These are
            taken instead of particles, and all have the same weight. None before the first round.
    """

    checks_samples = True  # whether samples of the model may contain the fragment by themselves
    advice = "ask for fewer or for other sizes"

    def __init__(
        self,
        model: GraphModel,
        vocabulary: MoleculeVocabulary,
        fragment: MoleculeFragment,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        atoms: tuple[int, int] | None = None,
        particles: int = PARTICLES,
        filters: Filters = NO_FILTERS,
    ):
        check_grows(model)
        check_integer("particles", particles, 1, ROUND)
        check_temperature(temperature)
        check_seed(seed)
        self.model, self.vocabulary = model, vocabulary
        self.seed, self.temperature, self.particles = seed, temperature, particles
        filters.check_sizes(model.max_nodes)
        self._funnel = Funnel(filters, PATIENCE)
        self.outcomes = self._funnel.outcomes
        self.drawn = self.placed = self.valid = 0
        self.text, self.marked = fragment.text, fragment.marked
        self._whole = self._part(fragment, atoms)
        self.common: bool | None = None if self.checks_samples else False
        self._yielded: list[int] = []  # numbers of atoms
        # By round: log-weights and mean numbers of atoms of groups of molecules that share new
        # atoms, (2, groups).
        self._groups: list[np.ndarray] = []

    def molecules(self) -> Generator[Result]:
        """Yield distinct molecules (up to protonation); raise `UserError` once no new are found."""
        for one in self._funnel.distinct(map(self._accepted, count())):
            self._yielded.append(len(one.graph[0]))
            yield one
        advice = self.advice if self.valid else "the model cannot grow from it"
        raise UserError(f"{self.text[:80]!r}: {self._funnel.ending(size=ROUND)}; {advice}")

    def _accepted(self, number: int) -> list[tuple[int, Result]]:
        """Draw a round; return hash and result of each accepted molecule."""
        seen, found = self._funnel.seen, self._round(number).values()
        new = [one for one in found if protonation_hash(one.smiles) not in seen]
        return [(protonation_hash(one.smiles), one) for one in self._choose(new, number)]

    def accuracy(self) -> dict[str, float]:
        """Return how well the molecules represent the model given the fragment.

        Empty if they are samples of the model, or before any was found. Otherwise:

        - `effective`: number of independent molecules with equal weights that determine means as
          well as all weighted particles so far,
        - `atoms`: mean number of atoms of the molecules yielded,
        - `atoms_weighted`: that of all particles by weight, which estimates the model's.
        """
        if not self._groups or not self._yielded:
            return {}
        weights, mean = self._weighted()
        return {
            "effective": float(weights.sum() ** 2 / (weights**2).sum()),
            "atoms": float(np.mean(self._yielded)),
            "atoms_weighted": mean,
        }

    def _weighted(self) -> tuple[np.ndarray, float]:
        """Return the weights of all groups relative to the largest, and their mean atoms."""
        log_weights, atoms = np.concatenate(self._groups, 1)
        weights = np.exp(log_weights - log_weights.max())
        return weights, float(weights @ atoms / weights.sum())

    def _part(self, fragment: MoleculeFragment, atoms: tuple[int, int] | None) -> Part:
        """Return a fragment with its sampler; raise `UserError` if it does not fit the sizes."""
        part, count, most = (fragment.fragment, len(fragment.fragment), self.model.max_nodes)
        grows = bool((part.valence + part.attachments).any())
        least = count + max(part.fewest_free, int(grows))
        low, high = atoms or (least, most if grows else least)
        if atoms is not None:
            self.model.size_probabilities(atoms)  # raises for sizes that the model lacks
        low = max(low, least)
        if low > min(high, most):
            raise UserError(
                f"{fragment.text[:80]!r} has {count} atoms and needs {least} or more in all, but "
                f"molecules of up to {min(high, most)} are drawn"
            )
        sizes = self.model.size_probabilities((low, high))
        part = part.to(self.model.device)
        sampler = ParticleSampler(self.model, part, temperature=self.temperature)
        return Part(fragment, sizes, sampler)

    def _part_of(self, number: int) -> Part:
        """Return the part for a round; subclasses may vary it."""
        return self._whole

    def _accepts(self, smiles: str, molecule: Chem.Mol) -> bool:
        """Return True if a molecule with the fragment is wanted; subclasses may restrict it."""
        return True

    def _round(self, number: int) -> dict[str, Result]:
        """Draw a round; return the molecules by SMILES, with summed weights of equal molecules."""
        part = self._part_of(number)
        if self.common is None:
            checked = self._samples(part, 0, CHECKED)
            holding = [self._molecule(part, graph) for graph in checked]
            self.common = sum(map(bool, holding)) * self.particles * COST >= CHECKED
        if not self.common and not part.sampler.seen:
            self._draw(part, 0, TRIAL)
        found: dict[str, Result] = {}
        count = min(ROUND << min(number, 20), LARGEST) if self.common else ROUND
        self.drawn += count
        if self.common:
            graphs = self._samples(part, number + 1, count)
            log_weights, ancestor = np.zeros(count), list(range(count))
            placed = np.arange(count)
        else:
            particles = self._draw(part, number + 1, ROUND)
            packed = particles.graphs.to_packed()
            graphs = [packed.graph(k) for k in range(ROUND)]
            log_weights, ancestor = particles.log_weights.cpu().numpy(), particles.ancestor.tolist()
            placed = np.flatnonzero(np.isfinite(log_weights))
            self.placed += len(placed)
        with codec.quiet():
            for k in placed:
                graph = graphs[k]
                known = self._molecule(part, graph)
                if known is None:
                    continue
                smiles, molecule, places = known
                self.valid += 1
                self.placed += self.common
                if not self._accepts(smiles, molecule):
                    continue
                if not self._funnel.passes(molecule):
                    continue
                weight = float(log_weights[k]) - (0.0 if self.common else math.log(places))
                if smiles in found:
                    weight = float(np.logaddexp(weight, found[smiles].log_weight))
                found[smiles] = Result(smiles, graph, weight, ancestor[k])
        return found

    def _molecule(
        self, part: Part, graph: tuple[Any, Any, Any]
    ) -> tuple[str, Chem.Mol, int] | None:
        """Return SMILES, molecule and `places` of a graph; None if invalid or without fragment."""
        with codec.quiet():
            smiles = strict(codec.graph_to_molecule(*graph, self.vocabulary))
            if smiles is None:
                return None
            molecule = Chem.MolFromSmiles(smiles)
            places = part.fragment.places(molecule)
        return (smiles, molecule, places) if places else None

    def _samples(self, part: Part, number: int, count: int) -> list[tuple[Any, Any, Any]]:
        """Return `count` graphs that the model draws, whether or not they contain the fragment."""
        random = np.random.default_rng((self.seed, number, 4))
        generator = torch.Generator().manual_seed(int(random.integers(1 << 62)))
        sizes = torch.from_numpy(self._sizes(part, number, count))
        with one_thread(self.model.device):
            drawn = self.model.sample(sizes, temperature=self.temperature, generator=generator)
        packed = drawn.to_packed()
        return [packed.graph(k) for k in range(count)]

    def _draw(self, part: Part, number: int, count: int) -> Particles:
        """Draw `count` particles, and let the sampler learn from them."""
        random = np.random.default_rng((self.seed, number))
        generator = torch.Generator().manual_seed(int(random.integers(1 << 62)))
        sizes = self._sizes(part, number, count)
        with one_thread(self.model.device):
            particles = part.sampler.draw(torch.from_numpy(sizes), generator)
        part.sampler.learn(particles)
        return particles

    def _sizes(self, part: Part, number: int, count: int) -> np.ndarray:
        """Return quasi-random numbers of atoms with the part's size distribution, (count,)."""
        start = np.random.default_rng((self.seed, 0, 3)).random()
        places = (start + (number * count + np.arange(count)) * GOLDEN) % 1
        cumulative = np.cumsum(part.sizes)
        return np.searchsorted(cumulative, places * cumulative[-1], side="right")

    def _choose(self, found: list[Result], number: int) -> list[Result]:
        """Return the accepted molecules of a round, in random order."""
        random = np.random.default_rng((self.seed, number + 1, 1))
        if self.common:
            return [found[k] for k in random.permutation(len(found))]
        if self.particles == 1 or not found:
            return found
        # At most one of the molecules that share new atoms, so that all are independent.
        groups: dict[int, list[Result]] = {}
        for one in found:
            groups.setdefault(one.ancestor, []).append(one)
        weights = [np.array([one.log_weight for one in group]) for group in groups.values()]
        sums = np.array([np.logaddexp.reduce(own) for own in weights])
        atoms = np.array([
            np.exp(own - total) @ [len(one.graph[0]) for one in group]
            for own, total, group in zip(weights, sums, groups.values(), strict=True)
        ])  # fmt: skip
        self._groups.append(np.stack([sums, atoms]))
        # Accept one of `particles` particles, counting only the share that passes the filters.
        recent = self._groups[-ROUNDS:]
        passed = self.outcomes[""] / max(self.outcomes.total(), 1)
        count = passed * len(recent) * ROUND / self.particles
        log_weights, sizes = np.concatenate(recent, 1)
        tilt = size_tilt(log_weights, sizes, count, self._weighted()[1])
        threshold = log_threshold(log_weights + tilt * sizes, count)
        taken = []
        for group, weight in zip(groups.values(), sums + tilt * atoms, strict=True):
            if math.log(random.random()) < weight - threshold:
                ranks = [one.log_weight + random.gumbel() for one in group]
                taken.append(group[int(np.argmax(ranks))])
        return [taken[k] for k in random.permutation(len(taken))]


def log_threshold(log_weights: np.ndarray, count: float) -> float:
    """Return c for which the sum of min(1, weight / exp(c)) is `count`; -inf to accept all.

    Args:
        log_weights: Log-weights, (G,).
        count: Mean number of molecules accepted.
    """
    if count >= len(log_weights):
        return -math.inf
    w = np.sort(log_weights)
    # If the n largest terms are 1, the others have to sum to count - n.
    below = np.logaddexp.accumulate(w)[::-1]
    n = np.arange(min(len(w), math.ceil(count)))
    c = below[n] - np.log(count - n)
    return float(c[np.argmax(w[::-1][n] <= c)])


def size_tilt(log_weights: np.ndarray, atoms: np.ndarray, count: float, mean: float) -> float:
    """Return b for which molecules accepted by weight * exp(b * atoms) have a given mean size.

    As nearly as a b from -`TILT` to `TILT` permits.

    Args:
        log_weights: Log-weights, (G,).
        atoms: Numbers of atoms, (G,).
        count: Number of molecules accepted, see `log_threshold`.
        mean: Wanted mean number of atoms.
    """
    low, high = -TILT, TILT
    for _ in range(12):
        middle = (low + high) / 2
        tilted = log_weights + middle * atoms
        taken = np.exp(np.minimum(tilted - log_threshold(tilted, count), 0))
        below = taken @ atoms < mean * taken.sum()
        low, high = (middle, high) if below else (low, middle)
    return middle


def grow(
    flow: MoleculeFlow, fragment: str, n: int, *, task: str, stereo: bool, **options: Any
) -> tuple[PackedGraphs, list[str | None]]:
    """Draw n distinct molecules that contain a fragment; see `MoleculeFlow.grow`.

    Returns:
        The graphs of the molecules, and their SMILES.
    """
    part = read_fragment(fragment, task, flow.vocabulary)
    return first_found(flow, Growth(flow.model, flow.vocabulary, part, **options), n, stereo)


def first_found(
    flow: MoleculeFlow, search: Any, n: int, stereo: bool
) -> tuple[PackedGraphs, list[str | None]]:
    """Draw the first n molecules of a search.

    Args:
        flow: The model, which is in evaluation mode meanwhile.
        search: A `Growth` or a sampler of analogues.
        n: Number of molecules.
        stereo: True to draw stereo marks if the model has stereo.

    Returns:
        The graphs, and their SMILES, n of each.

    Raises:
        UserError: `n` is no whole number, or the search finds nothing new for long.
    """
    check_integer("n", n)
    with evaluation_mode(flow.model):
        first = list(islice(found(flow, search, stereo), n))
    return PackedGraphs.from_lists([one.graph for one in first]), [one.smiles for one in first]


def found(flow: MoleculeFlow, search: Any, stereo: bool = True) -> Iterator[Result]:
    """Yield the molecules of a search; with `stereo`, draw marks if the model has stereo.

    Marks of the search's `marked` part are kept, and the others drawn given these. Molecules
    that cannot have the kept marks are left out.

    Args:
        flow: Model of the marks.
        search: A `Growth`, or another search with `molecules()`, `seed`, `temperature` and
            `marked`.
        stereo: False to draw no marks.

    Raises:
        UserError: if `MOST_LEFT_OUT` molecules in a row cannot have the kept marks.
    """
    if not stereo or flow.stereo is None:
        yield from search.molecules()
        return
    left_out = 0
    for number, one in enumerate(search.molecules()):
        molecule = Chem.MolFromSmiles(one.smiles)
        (smiles,) = flow.stereo.marked(
            [Chem.MolToSmiles(molecule)],
            [molecule],
            seed=search.seed,
            first=number,
            temperature=search.temperature,
            template=search.marked,
        )
        if smiles is not None:
            yield one._replace(smiles=smiles)
        left_out = 0 if smiles is not None else left_out + 1
        if left_out == MOST_LEFT_OUT:
            raise UserError(
                f"{left_out:,} molecules in a row cannot have the stereo marks: leave some out"
            )
