"""Draw analogues of a molecule: part of it is retained, and the model draws the rest.

It is used by `MoleculeFlow.analogs` and the command `graphcnf analogs`. The nouns:

- *Core*: the part of the molecule that every analogue has. It is chosen by `keep`:
    - "skeleton": which atoms are bonded, whatever the elements and bond orders;
    - "bonds": the skeleton with its bond orders (aromatic is one of them);
    - "scaffold": the Bemis-Murcko scaffold, i.e. all rings and the chains between them.
- *Substituent*: a connected group of atoms that hangs from the scaffold.
- *Analogue*: another valid molecule with the same core. It is *similar* if the Tanimoto similarity
  of its ECFP4 fingerprint to that of the molecule is at least a number that the user gives.
- *Candidate*: a valid molecule with the core that a sampler has drawn. It may be too dissimilar, or
  the molecule itself.

There are two samplers, and `analogs_of` chooses between them:

- `RedrawnAnalogs` retains the core and draws everything else from the model, by importance
  sampling (`graphcnf.design.growing`).
- `NearAnalogs` starts from the molecule itself and changes a few atoms and bonds at a time. It is
  used for similar molecules with the same skeleton. These are so rare among all molecules with
  that skeleton that drawing from the model would hardly find one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import compress
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from rdkit import Chem
from rdkit.Chem import rdFMCS
from rdkit.Chem.Scaffolds import MurckoScaffold

from graphcnf.chemistry.alerts import Given
from graphcnf.chemistry.filters import NO_FILTERS, Filters, Funnel
from graphcnf.chemistry.properties import conditions_of, similarity_to
from graphcnf.chemistry.standardize import protonation_hash
from graphcnf.design import fragments
from graphcnf.design import growing as growth
from graphcnf.errors import UserError
from graphcnf.graphs.batch import PackedGraphs
from graphcnf.graphs.records import condition_row, one_thread
from graphcnf.limits import PARTICLES, SIMILAR, check_integer, check_seed, check_temperature
from graphcnf.molecules import codec
from graphcnf.molecules.validity import strict
from graphcnf.molecules.vocabulary import AROMATIC, AtomCategory, MoleculeVocabulary
from graphcnf.stereo.marks import StereoTemplate, dropped_marks, without_hydrogens

if TYPE_CHECKING:
    from graphcnf.molecules.molecule_model import MoleculeModel

KEEP = ("skeleton", "bonds", "scaffold")
"""Cores to retain: which atoms are bonded ("skeleton"); that and the bond orders, aromatic being
one of them ("bonds"); the Bemis-Murcko scaffold."""

NEAR = 3
"""Largest difference in the number of atoms from the molecule, with the scaffold retained."""

FEW, MANY = 0.2, 0.5
"""If the share of similar analogues is below FEW, less is redrawn; if above MANY, more."""

PARENTS, PROPOSALS, TRIES, PATIENCE = 16, 96, 40, 6
"""Of `NearAnalogs`: parents and proposals in a round, attempts for each proposal, and consecutive
rounds without a new analogue after which the search ends."""

RINGS, LARGEST_RING = 0.25, 7
"""Share of the substitutions that change all bonds of a ring, and size limit of such a ring."""

_ORDERS = (Chem.BondType.SINGLE, Chem.BondType.DOUBLE, Chem.BondType.TRIPLE)
_SMARTS = {"SINGLE": "-", "DOUBLE": "=", "TRIPLE": "#", "AROMATIC": ":"}


class Origin:
    """The molecule whose analogues are drawn, with counts of the candidates seen so far.

    A sampler asks `accepts` for every candidate, which counts it. The counts are the basis of
    `advice` if the search ends without enough analogues.

    Attributes:
        smiles: Canonical SMILES without stereo.
        mol: RDKit molecule of `smiles`, with its atoms in the order of that SMILES.
        given: The molecule, for structural alerts: an analogue is not refused for a reactive group
            that the molecule has as well.
        marked: Stereo marks of the molecule, which analogues inherit; None if it has none.
        similar: Lowest similarity of an analogue.
        similarity: Function from an RDKit molecule to its similarity to this one, 0 to 1.
        query: RDKit pattern of all atoms of the molecule, with "skeleton" and "bonds". None with
            "scaffold". The sampler sets it.
        others: Number of candidates so far, without the molecule itself.
        similar_ones: Number of these `others` that were similar enough.
        highest: Largest similarity among these `others`. It stays 0 if `similar` is 0, since no
            similarity is computed then.
    """

    def __init__(
        self, molecule: str | Chem.Mol, vocabulary: MoleculeVocabulary, most: int, similar: float
    ):
        if not 0 <= similar <= 1:
            raise UserError(f"similar: a Tanimoto similarity from 0 to 1, not {similar}")
        try:
            with codec.quiet():
                given = codec.parse(molecule) if isinstance(molecule, str) else molecule
                if isinstance(molecule, str):
                    dropped_marks(molecule)
                codec.molecule_to_graph(given, vocabulary, max_atoms=most)
        except codec.MoleculeNotRepresentable as error:
            raise UserError(str(error)) from None
        plain = codec.without_stereo(given)
        self.smiles = Chem.MolToSmiles(plain)
        self.mol, self._key = codec.parse(self.smiles), protonation_hash(self.smiles)
        order = json.loads(plain.GetProp("_smilesAtomOutputOrder"))
        marked = Chem.RenumberAtoms(without_hydrogens(given), order)
        self.marked = StereoTemplate.of(marked, self.places, strict=False)
        self.similar, self.similarity = similar, similarity_to(self.mol)
        self.given = Given.of([self.smiles])
        self.query: Chem.Mol | None = None
        self.others = self.similar_ones = 0
        self.highest = 0.0

    @property
    def advice(self) -> str:
        """What the user could change to get more analogues: a clause for the error message."""
        if not self.similar:
            return "ask for fewer, or keep less of it"
        if self.similar_ones or not self.others:
            return "ask for fewer, for less similar ones, or keep less of it"
        return (
            f"none of {self.others:,} valid ones has a similarity of {self.similar:g}, the highest "
            f"is {self.highest:.2f}: ask for less similar ones, or keep less of it"
        )

    def accepts(self, smiles: str, molecule: Chem.Mol) -> bool:
        """Count a candidate, and return True if it is an analogue: different and similar enough.

        The same molecule in another protonation state is not different; it returns False and is not
        counted. Any other candidate is counted in `others`, and in `similar_ones` if it is similar
        enough. `highest` is updated.
        """
        if smiles == self.smiles or protonation_hash(smiles) == self._key:
            return False
        self.others += 1
        similarity = self.similarity(molecule) if self.similar else 0.0
        self.highest = max(self.highest, similarity)
        self.similar_ones += similarity >= self.similar
        return similarity >= self.similar

    def changed(self, analogue: Chem.Mol) -> list[int]:
        """Return the atoms of an analogue that differ from the molecule.

        With "skeleton" and "bonds", the molecule is matched with the analogue so that the fewest
        atoms differ. An atom differs in its element, in its charge or in the type of one of its
        bonds. With "scaffold", the atoms outside the largest common substructure are returned.
        """
        place = self.places(analogue)[0]
        if self.query is None:
            return sorted({*range(analogue.GetNumAtoms())} - {*place.values()})
        return self._changed_at(analogue, place)

    def places(self, analogue: Chem.Mol) -> list[dict[int, int]]:
        """Match the molecule with an analogue, so that as few atoms and bonds as possible differ.

        With "scaffold", the largest common substructure is matched instead, see `common_places`.

        Each match is `{atom of the molecule: atom of the analogue}`; there may be several equally
        good ones. [] if the analogue lacks the core, or, with "scaffold", [{}] without common
        atoms.
        """
        if self.query is None:
            return common_places(self.mol, analogue)
        found = analogue.GetSubstructMatches(
            self.query, uniquify=False, maxMatches=fragments.MATCHES
        )
        places = [dict(enumerate(place)) for place in found]
        changes = [len(self._changed_at(analogue, place)) for place in places]
        return list(compress(places, [n == min(changes) for n in changes]))

    def _changed_at(self, analogue: Chem.Mol, place: Mapping[int, int]) -> list[int]:
        """Return the atoms of an analogue that differ from those of the molecule."""
        found = {
            place[atom.GetIdx()]
            for atom in self.mol.GetAtoms()
            if AtomCategory.of(atom)
            != AtomCategory.of(analogue.GetAtomWithIdx(place[atom.GetIdx()]))
        }
        for i, j in codec.bond_ends(self.mol):
            old = self.mol.GetBondBetweenAtoms(i, j).GetBondType()
            if analogue.GetBondBetweenAtoms(place[i], place[j]).GetBondType() != old:
                found |= {place[i], place[j]}
        return sorted(found)


def common_places(first: Chem.Mol, second: Chem.Mol) -> list[dict[int, int]]:
    """Match two molecules by their largest common substructure (RDKit's MCS, up to 10 seconds).

    Each match is `{atom of first: atom of second}`; [{}] if the molecules have nothing in common.
    """
    found = rdFMCS.FindMCS([first, second], timeout=10, ringMatchesRingOnly=True)
    query = Chem.MolFromSmarts(found.smartsString)
    own = first.GetSubstructMatch(query)
    others = second.GetSubstructMatches(query, uniquify=False, maxMatches=fragments.MATCHES)
    return [dict(zip(own, place, strict=True)) for place in others] or [{}]


class RedrawnAnalogs(growth.Growth):
    """Sampler of analogues that retains the core and draws all other atoms from the model.

    Make it by `analogs_of`; its `molecules()` yields the analogues, see `Growth.molecules`. With
    "scaffold" and a lowest similarity, it adapts while it runs. If less than 20 % (`FEW`) of the
    candidates of a round are similar, the next rounds retain half of the substituents as well, then
    three quarters, and so on. If 50 % (`MANY`) or more are similar, they retain fewer again.

    Args:
        flow: A model that draws atom by atom.
        origin: The molecule whose analogues are drawn.
        keep: The core to retain, one of `KEEP`: "skeleton", "bonds" or "scaffold".
        **options: Arguments of `graphcnf.design.growing.Growth`, without model, vocabulary,
            fragment and given.
    """

    checks_samples = False  # too few of the model's samples contain a molecule's core

    def __init__(self, flow: MoleculeModel, origin: Origin, keep: str, **options: Any):
        model, vocabulary, mol = flow.model, flow.vocabulary, origin.mol
        self.origin, self.keep = origin, keep
        if keep == "scaffold":
            count = mol.GetNumAtoms()
            near = max(1, count - NEAR), min(model.max_nodes, count + NEAR)
            options["atoms"] = options.get("atoms") or near
            self._murcko = MurckoScaffold.MurckoScaffoldSmiles(mol=mol)
            self._scaffold, self._hanging = scaffold_and_rest(mol)
            fragment = _around(mol, vocabulary, self._scaffold)
        else:
            fragment = _bare(mol, vocabulary, orders=keep == "bonds")
            origin.query = fragment.query
        self._atoms = options.get("atoms")
        super().__init__(model, vocabulary, fragment, given=origin.given, **options)
        if keep != "scaffold":
            self._whole.sampler.prefer_order()
        self.text, self.marked = origin.smiles, origin.marked
        self._halvings = 0
        self._with: dict[frozenset[int], growth.Part] = {}

    def _part_of(self, number: int) -> growth.Part:
        """Return the core of a round with its sampler; with "scaffold", it varies."""
        if self.keep != "scaffold" or not self._halvings:
            return self._whole
        random = np.random.default_rng((self.seed, number, 2))
        order = random.permutation(len(self._hanging)).tolist()
        kept = frozenset(order[len(order) >> self._halvings :])
        if kept not in self._with:
            atoms = self._scaffold.union(*(self._hanging[k] for k in kept))
            try:
                fragment = _around(self.origin.mol, self.vocabulary, atoms)
                self._with[kept] = self._part(fragment, self._atoms)
            except UserError:  # no hydrogen is left to replace, or no atom may be added
                self._with[kept] = self._whole
        return self._with[kept]

    def _accepts(self, smiles: str, molecule: Chem.Mol) -> bool:
        if self.keep == "scaffold":
            if MurckoScaffold.MurckoScaffoldSmiles(mol=molecule) != self._murcko:
                return False
        return self.origin.accepts(smiles, molecule)

    def _round(self, number: int) -> dict[str, growth.Result]:
        """Draw a round, then adapt how many substituents the next rounds retain."""
        others, similar_ones = self.origin.others, self.origin.similar_ones
        found = super()._round(number)
        others = self.origin.others - others
        similar_ones = self.origin.similar_ones - similar_ones
        self.advice = self.origin.advice
        if self.keep == "scaffold" and self.origin.similar:
            if similar_ones < FEW * others:
                self._halvings = min(self._halvings + 1, len(self._hanging).bit_length())
            elif similar_ones >= MANY * others:
                self._halvings = max(self._halvings - 1, 0)
        return found


def _bare(
    mol: Chem.Mol, vocabulary: MoleculeVocabulary, *, orders: bool
) -> fragments.MoleculeFragment:
    """Return the fragment of a molecule's skeleton, all of whose atoms may change."""
    # Only atoms and bonds in rings can be aromatic.
    on_ring = torch.tensor([atom.IsInRing() for atom in mol.GetAtoms()])
    categories = on_ring[:, None] | ~torch.tensor([c.aromatic for c in vocabulary.atoms])
    edges = codec.bond_ends(mol)
    allowed = torch.zeros(1, len(edges), len(vocabulary.bonds) + 1, dtype=torch.bool)
    for row, bond in zip(allowed[0], mol.GetBonds(), strict=True):
        own = {bond.GetBondType().name}
        if own == {"AROMATIC"}:
            mark = AROMATIC if vocabulary.tells_aromatic else ""
            own = {mark + "SINGLE", mark + "DOUBLE"}
        for k, name in enumerate(vocabulary.bonds, 1):
            possible = bond.IsInRing() or not name.startswith(AROMATIC)
            row[k] = possible and (name in own or not orders)
    none = [0] * len(categories)
    fragment = fragments.make_fragment(
        vocabulary, categories, edges, allowed, none, none, rings=False
    )
    query = Chem.RWMol()
    for _ in mol.GetAtoms():
        query.AddAtom(Chem.AtomFromSmarts("*"))
    for number, (ends, bond) in enumerate(zip(edges, mol.GetBonds(), strict=True)):
        smarts = _SMARTS.get(bond.GetBondType().name, "~") if orders else "~"
        query.AddBond(*ends)
        query.ReplaceBond(number, Chem.BondFromSmarts(smarts))
    return fragments.MoleculeFragment(Chem.MolToSmiles(mol), fragment, query.GetMol())


def scaffold_and_rest(mol: Chem.Mol) -> tuple[set[int], list[set[int]]]:
    """Split the atoms of a molecule into its Bemis-Murcko scaffold and its substituents.

    Args:
        mol: A sanitized molecule.

    Returns:
        - Numbers of the atoms of the scaffold.
        - For each substituent the numbers of its atoms; [] if the molecule is its own scaffold.

    Examples:
        >>> scaffold_and_rest(Chem.MolFromSmiles("c1ccccc1CO"))
        ({0, 1, 2, 3, 4, 5}, [{6, 7}])
    """
    numbered = Chem.Mol(mol)
    for atom in numbered.GetAtoms():
        atom.SetIntProp("number", atom.GetIdx())
    core = MurckoScaffold.GetScaffoldForMol(numbered)
    inside = {atom.GetIntProp("number") for atom in core.GetAtoms()}
    if not inside:
        raise UserError(
            f"{Chem.MolToSmiles(mol)[:80]!r} has no ring, so no scaffold: keep the skeleton or the "
            "bonds instead"
        )
    rest = Chem.RWMol(numbered)
    for number in sorted(inside, reverse=True):
        rest.RemoveAtom(number)
    left = [atom.GetIntProp("number") for atom in rest.GetAtoms()]
    return inside, [{left[k] for k in part} for part in Chem.GetMolFrags(rest)]


def _around(
    mol: Chem.Mol, vocabulary: MoleculeVocabulary, core: set[int]
) -> fragments.MoleculeFragment:
    """Return the fragment that some atoms of a molecule form, whose hydrogens may be replaced."""
    part = Chem.RWMol(mol)
    for i, j in codec.bond_ends(mol):
        if (i in core) != (j in core):
            # A hydrogen replaces the neighbour outside the core.
            new = part.AddAtom(Chem.Atom(1))
            part.AddBond(i if i in core else j, new, Chem.BondType.SINGLE)
    for number in sorted(set(range(mol.GetNumAtoms())) - core, reverse=True):
        part.RemoveAtom(number)
    Chem.SanitizeMol(part)
    found = fragments.read_fragment(Chem.MolToSmiles(Chem.RemoveHs(part)), "grow", vocabulary)
    acyclic = fragments.without_new_rings(replace(found.fragment, acyclic=True), vocabulary)
    return replace(found, fragment=acyclic)


class Substituted(NamedTuple):
    """A molecule on the skeleton of the original one, as `NearAnalogs` makes it.

    Its atoms and bonds have the numbers that they have in the original molecule.

    Attributes:
        atoms: Element and charge of each atom, as an index in `NearAnalogs._elements`.
        bonds: Order of each bond in a Kekulé structure: 0 single, 1 double, 2 triple.
        smiles: Canonical SMILES of the molecule, without stereo.
    """

    atoms: tuple[int, ...]
    bonds: tuple[int, ...]
    smiles: str


class NearAnalogs:
    """Sampler of similar analogues with the same skeleton, by random substitutions.

    Make it by `analogs_of`. It works in rounds, like an evolutionary search:

    1. *Parents* are chosen: the original molecule, and up to 15 (`PARENTS` - 1) of the molecules
       found so far. More probable ones are chosen more often.
    2. One to three neighbouring atoms and bonds of a parent are replaced at random, or all bonds of
       a ring (a *substitution*). Results that are invalid, known or too dissimilar are discarded,
       up to 40 in a row (`TRIES`). A round ends with at most 96 new molecules (`PROPOSALS`).
    3. The model gives the log-probability of each new molecule. For every `particles` new molecules
       one is yielded, probable ones first.

    Attributes:
        outcomes: Number of similar molecules by `Filters.refusal`; the key "" counts those that
            pass.
    """

    def __init__(
        self,
        flow: MoleculeModel,
        origin: Origin,
        keep: str,
        *,
        seed: int,
        temperature: float,
        particles: int,
        filters: Filters,
        properties: Mapping[str, float] | None = None,
    ):
        check_temperature(temperature)
        check_seed(seed)
        check_integer("particles", particles, 1, PROPOSALS)
        filters.check_sizes(origin.mol.GetNumAtoms())
        self.flow, self.origin, self.particles = flow, origin, particles
        self.condition_values = conditions_of(flow.model, properties or {})
        self.seed, self.marked = seed, origin.marked
        self._funnel = Funnel(filters, PATIENCE, origin.given)
        self.outcomes = self._funnel.outcomes
        self.temperature, self._random = temperature, np.random.default_rng((seed, 3))
        orders = keep == "bonds"
        self._query = origin.query = _bare(origin.mol, flow.vocabulary, orders=orders).query
        unmarked = (atom._replace(aromatic=False) for atom in flow.vocabulary.atoms)
        self._elements = list(dict.fromkeys(unmarked))
        # The vocabulary is sorted by frequency, so frequent elements are proposed more often.
        share = 1 / np.arange(1, len(self._elements) + 1)
        self._chances = share / share.sum()
        plain = Chem.Mol(origin.mol)
        Chem.Kekulize(plain, clearAromaticFlags=True)
        types = [bond.GetBondType() for bond in plain.GetBonds()]
        if others := [str(kind) for kind in types if kind not in _ORDERS]:
            raise UserError(f"bonds must be single, double or triple, got {others[0]}")
        self._size, self._ends = plain.GetNumAtoms(), codec.bond_ends(plain)
        self._highest = 2 if orders else len(_ORDERS)
        free = [not orders or bond.GetIsAromatic() for bond in origin.mol.GetBonds()]
        self._rings = [
            list(ring)
            for ring in origin.mol.GetRingInfo().BondRings()
            if len(ring) <= LARGEST_RING and all(free[bond] for bond in ring)
        ]
        # Each atom with its neighbours and the bonds to them, which are numbered after all atoms.
        self._stars = [[k] for k in range(self._size)]
        for number, (i, j) in enumerate(self._ends):
            bond = [self._size + number] if free[number] else []
            self._stars[i] += [j, *bond]
            self._stars[j] += [i, *bond]
        atoms = [self._elements.index(AtomCategory.of(atom)) for atom in plain.GetAtoms()]
        start = Substituted(tuple(atoms), tuple(map(_ORDERS.index, types)), origin.smiles)
        self._pool, self._seen = [(start, 0.0)], {origin.smiles}

    def molecules(self) -> Generator[growth.Result]:
        """Yield distinct analogues as found; their `log_weight` is log p(graph) in nats."""
        yield from self._funnel.distinct(self._rounds())
        ending = self._funnel.ending("analogues", PROPOSALS * TRIES)
        raise UserError(f"{self.origin.smiles[:80]!r}: {ending}; {self.origin.advice}")

    def _rounds(self) -> Iterator[list[tuple[int, growth.Result]]]:
        """Yield the analogues of each round: about one of `particles` that were found."""
        waiting: list[tuple[float, growth.Result]] = []
        while True:
            with one_thread(self.flow.model.device), codec.quiet():
                found = self._round()
            for state, nats in found:
                graph = codec.molecule_to_graph(state.smiles, self.flow.vocabulary)
                # Taking the largest sums of log p and Gumbel noise samples by p without repeats.
                rank = nats / self.temperature + self._random.gumbel()
                waiting.append((rank, growth.Result(state.smiles, graph, nats)))
            waiting.sort(key=lambda one: -one[0])
            # Yield one of `particles` molecules found, or all waiting ones if none was found.
            count = -(-len(found) // self.particles) if found else len(waiting)
            taken, waiting = waiting[:count], waiting[count:]
            yield [(protonation_hash(one.smiles), one) for _, one in taken]

    def _round(self) -> list[tuple[Substituted, float]]:
        """Add up to 96 new molecules (`PROPOSALS`) to the pool, from which parents are drawn."""
        # Parents: the molecule itself, and others sampled by p without repeats, as above.
        noise = self._random.gumbel(size=len(self._pool) - 1)
        nats = np.array([value for _, value in self._pool[1:]])
        ranked = np.argsort(-(nats / self.temperature + noise))
        parents = [self._pool[k][0] for k in [0, *(1 + ranked[: PARENTS - 1])]]
        new: list[Substituted] = []
        refusals: list[str] = []
        for k in range(PROPOSALS):
            for _ in range(TRIES):
                state = self._substituted(parents[k % len(parents)])
                if state is None or state.smiles in self._seen:
                    continue
                self._seen.add(state.smiles)
                molecule = Chem.MolFromSmiles(state.smiles)
                if not molecule.HasSubstructMatch(self._query):
                    continue
                if self.origin.accepts(state.smiles, molecule):
                    new.append(state)
                    refusals.append(self._funnel.filters.refusal(molecule, self.origin.given))
                    break
        values = self._log_probs([state.smiles for state in new]).tolist()
        known = np.isfinite(values).tolist()
        found = list(compress(zip(new, values, strict=True), known))
        self._pool += found
        refusals = list(compress(refusals, known))
        self.outcomes.update(refusals)
        return [pair for pair, refusal in zip(found, refusals, strict=True) if not refusal]

    def _log_probs(self, smiles: list[str]) -> np.ndarray:
        """Return log p(molecule | target values)."""
        if self.condition_values is None:
            return self.flow.log_prob(smiles)
        graphs, reasons = self.flow.graphs(smiles)
        nats = np.full(len(smiles), -math.inf)
        known = [k for k, reason in enumerate(reasons) if reason is None]
        # All analogues have the same number of atoms, whose probability therefore does not matter.
        row = condition_row(self.condition_values).expand(len(graphs), -1)
        nats[known] = self.flow.model.log_prob(graphs, condition_values=row).numpy()
        return nats

    def _substituted(self, state: Substituted) -> Substituted | None:
        """Substitute a few neighbouring atoms and bonds of a molecule at random."""
        random, atoms, bonds, most = (self._random, [*state.atoms], [*state.bonds], self._highest)
        if self._rings and random.random() < RINGS:
            ring = self._rings[int(random.integers(len(self._rings)))]
            ends = sorted({end for bond in ring for end in self._ends[bond]})
            sites = [self._size + bond for bond in ring]
            sites += random.permutation(ends)[: int(random.integers(3))].tolist()
            most = 2
        else:
            star = self._stars[int(random.integers(self._size))]
            sites = random.permutation(star)[: int(random.integers(1, 4))].tolist()
        for site in sites:
            if site < self._size:
                atoms[site] = int(random.choice(len(self._chances), p=self._chances))
            else:
                bonds[site - self._size] = int(random.integers(most))
        if (*atoms,) == state.atoms and (*bonds,) == state.bonds:
            return None
        elements, orders = ([self._elements[k] for k in atoms], [_ORDERS[k] for k in bonds])
        smiles = strict(codec.plain_molecule(elements, self._ends, orders))
        return Substituted(tuple(atoms), tuple(bonds), smiles) if smiles else None


def analogs_of(
    flow: MoleculeModel,
    molecule: str | Chem.Mol,
    *,
    keep: str = "skeleton",
    similar: float = SIMILAR,
    seed: int = 0,
    temperature: float = 1.0,
    atoms: tuple[int, int] | None = None,
    particles: int = PARTICLES,
    filters: Filters = NO_FILTERS,
    properties: Mapping[str, float] | None = None,
) -> RedrawnAnalogs | NearAnalogs:
    """Return a sampler of analogues of a molecule; its `molecules()` yields them one by one.

    The molecule itself is never among them. For a fixed number of analogues see
    `MoleculeFlow.analogs`.

    The sampler is `NearAnalogs` if `similar` is above 0 and `keep` is "skeleton" or "bonds".

    Args:
        keep: The core to retain: "skeleton", "bonds" or "scaffold".
        similar: Lowest Tanimoto similarity to the molecule (ECFP4), 0 to 1; 0 for any.
        atoms: Range of the number of heavy atoms, with "scaffold" only; None for up to 3 (`NEAR`)
            more or fewer than the molecule has.
        particles: Candidates drawn for each analogue: with more, analogues follow the model's
            probabilities more closely, and take longer.
        properties: Target values such as `{"logp": 2.5}` of the model's conditions.
    """
    if keep not in KEEP:
        raise UserError(f"keep must be one of {', '.join(KEEP)}, got {keep!r}")
    growth.check_grows(flow.model)
    if atoms is not None and keep != "scaffold":
        raise UserError(
            f"--size: analogues with the same {keep} have the same number of atoms as the molecule"
        )
    origin = Origin(molecule, flow.vocabulary, flow.model.max_nodes, similar)
    options: dict[str, Any] = {
        "seed": seed,
        "temperature": temperature,
        "particles": particles,
        "filters": filters,
        "properties": properties,
    }
    if similar and keep != "scaffold":
        return NearAnalogs(flow, origin, keep, **options)
    return RedrawnAnalogs(flow, origin, keep, atoms=atoms, **options)


def draw_analogues(
    flow: MoleculeModel,
    molecule: str | Chem.Mol,
    n: int,
    *,
    stereo: bool,
    alerts: str | Sequence[str] | None = None,
    filters: Filters = NO_FILTERS,
    **options: Any,
) -> tuple[PackedGraphs, list[str | None]]:
    """Draw n distinct analogues of a molecule; it does the work of `MoleculeFlow.analogs`.

    With `stereo`, marks of the molecule are kept and the others drawn; analogues that cannot have
    the kept marks are left out. For `alerts` see `Filters.with_alerts`, for `options` `analogs_of`.
    """
    options["filters"] = filters.with_alerts(alerts)
    return growth.first_found(flow, analogs_of(flow, molecule, **options), n, stereo)
