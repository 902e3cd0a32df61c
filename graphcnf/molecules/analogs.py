"""Analogues of a molecule: some of its categories drawn from the model given the others.

Two ways. Without a least similarity, or around a scaffold, walks of `growth` with what is kept
forced into them. Similar ones with the same skeleton are few among all of its molecules: there,
the `substitution` of single atoms and bonds begins with the molecule itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from rdkit import Chem

from graphcnf.errors import UserError
from graphcnf.graphs import GraphCNF
from graphcnf.graphs.record_blocks import one_thread
from graphcnf.limits import check_seed, check_temperature
from graphcnf.molecules import codec
from graphcnf.molecules.growth import Aim, Found, Growth
from graphcnf.molecules.kept import around, bare, bare_query, murcko, scaffold_and_rest
from graphcnf.molecules.properties import similarity_to
from graphcnf.molecules.standardize import protonation_hash
from graphcnf.molecules.substitution import (
    PROPOSALS,
    TRIES,
    Neighbours,
    Skeleton,
    State,
)
from graphcnf.molecules.vocabulary import MoleculeVocabulary

if TYPE_CHECKING:
    from graphcnf.molecules.flow import MoleculeFlow

KEEP = ("skeleton", "bonds", "scaffold")
"""What every analogue shares with its molecule: which atoms are bonded; that and the orders of the
bonds, where aromatic is one; the Bemis-Murcko scaffold."""

NEAR = 3
"""Atoms more or less than the molecule has, at most, where their number may change."""

FEW, MANY = 0.2, 0.5
"""Shares of similar ones below and above which less and more of a molecule is redrawn."""

PATIENCE = 6
"""Rounds of substitutions in a row without a further molecule after which the search ends."""


class Origin:
    """The molecule that analogues are of, and which of them are wanted.

    Args:
        molecule: SMILES or RDKit molecule. Stereo and isotopes do not count.
        vocabulary: Of the model.
        most: Largest number of atoms that the model draws.
        similar: Least Tanimoto similarity (ECFP4, see `similarity_to`).

    Attributes:
        smiles: Canonical SMILES.
        mol: Its molecule.
        others: Number of valid molecules so far that share what is kept and are not this one.
        similar_ones: Number of these that are similar enough.

    Raises:
        UserError: The model does not know the molecule, or the similarity is out of range.
    """

    def __init__(
        self, molecule: str | Chem.Mol, vocabulary: MoleculeVocabulary, most: int, similar: float
    ):
        if not 0 <= similar <= 1:
            raise UserError(f"similar: a Tanimoto similarity from 0 to 1, not {similar}")
        try:
            with codec.quiet():
                given = codec.parse(molecule) if isinstance(molecule, str) else molecule
                codec.molecule_to_graph(given, vocabulary, max_atoms=most)
        except codec.MoleculeNotRepresentable as error:
            raise UserError(str(error)) from None
        self.smiles = codec.canonical_smiles(given)
        self.mol, self._key = codec.parse(self.smiles), protonation_hash(self.smiles)
        self.similar, self.similarity = similar, similarity_to(self.mol)
        self.others = self.similar_ones = 0

    @property
    def acceptance(self) -> float:
        """Share of the others that are similar enough."""
        return self.similar_ones / max(self.others, 1)

    def accepts(self, smiles: str, molecule: Chem.Mol) -> bool:
        """Return True for another molecule that is similar enough."""
        if smiles == self.smiles or protonation_hash(smiles) == self._key:
            return False
        self.others += 1
        enough = not self.similar or self.similarity(molecule) >= self.similar
        self.similar_ones += enough
        return enough

    def advice(self) -> str:
        """Return the advice where there are too few."""
        less = ", for less similar ones" if self.similar else ""
        return f"ask for fewer{less}, or keep less of it"


class RedrawnAnalogs(Growth):
    """Analogues from walks of the model with what is kept forced into them.

    Args:
        model: Atom by atom.
        vocabulary: Of the model.
        origin: The molecule.
        keep: One of `KEEP`.
        **options: Of `Growth`.

    Raises:
        UserError: See `Growth`; or the molecule has no scaffold.
    """

    def __init__(
        self,
        model: GraphCNF,
        vocabulary: MoleculeVocabulary,
        origin: Origin,
        keep: str,
        **options: Any,
    ):
        self.origin, self.keep = origin, keep
        self._known = vocabulary
        if keep == "scaffold":
            count = origin.mol.GetNumAtoms()
            near = max(1, count - NEAR), min(model.max_nodes, count + NEAR)
            options["atoms"] = options.get("atoms") or near
            self._murcko = murcko(origin.mol)
            self._scaffold, self._parts = scaffold_and_rest(origin.mol)
            fragment = around(origin.mol, vocabulary, self._scaffold)
        else:
            fragment = bare(origin.mol, vocabulary, orders=keep == "bonds")
        self._atoms = options.get("atoms")
        super().__init__(model, vocabulary, fragment, **options)
        if keep != "scaffold":
            self._whole.experience.prefer_order()
        self.text = origin.smiles
        self._halvings = 0
        self._aims: dict[frozenset[int], Aim] = {}

    def _aim_of(self, number: int) -> Aim:
        """Return the scaffold, with the more of what hangs on it the fewer were similar enough."""
        if self.keep != "scaffold" or not self._halvings:
            return self._whole
        random = np.random.default_rng((self.seed, number, 2))
        order = random.permutation(len(self._parts)).tolist()
        kept = frozenset(order[len(order) >> self._halvings :])
        if kept not in self._aims:
            atoms = self._scaffold.union(*(self._parts[k] for k in kept))
            try:
                fragment = around(self.origin.mol, self._known, atoms)
                self._aims[kept] = self._aim(fragment, self._atoms)
            except UserError:  # No hydrogen is left, or no room for a further atom.
                self._aims[kept] = self._whole
        return self._aims[kept]

    def _accepts(self, smiles: str, molecule: Chem.Mol) -> bool:
        if self.keep == "scaffold" and murcko(molecule) != self._murcko:
            return False
        return self.origin.accepts(smiles, molecule)

    def _round(self, number: int) -> dict[str, Found]:
        others, similar_ones = self.origin.others, self.origin.similar_ones
        found = super()._round(number)
        others, similar_ones = self.origin.others - others, self.origin.similar_ones - similar_ones
        if self.keep == "scaffold" and self.origin.similar:
            if similar_ones < FEW * others:
                self._halvings = min(self._halvings + 1, len(self._parts).bit_length())
            elif similar_ones >= MANY * others:
                self._halvings = max(self._halvings - 1, 0)
        return found

    def _advice(self, found: int) -> str:
        return self.origin.advice()


class NearAnalogs:
    """Similar analogues with the same skeleton, by substitutions that begin with the molecule.

    Args:
        flow: Density of molecules.
        origin: The molecule.
        keep: "skeleton" or "bonds".
        seed: Of the draws.
        temperature: Below 1 for more probable analogues.
        particles: Molecules that are found for each one that is taken.

    Raises:
        UserError: A number is out of range.
    """

    def __init__(
        self,
        flow: MoleculeFlow,
        origin: Origin,
        keep: str,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        particles: int = 4,
    ):
        check_temperature(temperature)
        check_seed(seed)
        if not 1 <= particles <= PROPOSALS:
            raise UserError(f"particles: 1 to {PROPOSALS}, not {particles}")
        self.origin, self.device, self.particles = origin, flow.model.device, particles
        self.temperature, self.random = temperature, np.random.default_rng((seed, 3))
        self._vocabulary = flow.vocabulary
        with codec.quiet():
            skeleton = Skeleton(origin.mol, flow.vocabulary, orders=keep == "bonds")
        self._query = bare_query(origin.mol, orders=keep == "bonds")
        self._neighbours = Neighbours(
            skeleton, self._wanted, flow.log_prob, temperature=temperature, random=self.random
        )

    def _wanted(self, state: State) -> bool:
        molecule = codec.parse(state.smiles)
        if not molecule.HasSubstructMatch(self._query):
            return False
        return self.origin.accepts(state.smiles, molecule)

    def molecules(self) -> Iterator[Found]:
        """Distinct molecules, the same ones for the same seed.

        Raises:
            UserError: No further ones are found.
        """
        waiting: list[tuple[float, Found]] = []
        seen: set[int] = set()
        given, idle = 0, 0
        while idle < PATIENCE:
            with one_thread(self.device), codec.quiet():
                found = self._neighbours.grow()
            for state, nats in found:
                graph = codec.molecule_to_graph(state.smiles, self._vocabulary)
                # The largest sums of log p and Gumbel noise: drawn by p without repeats.
                rank = nats / self.temperature + self.random.gumbel()
                waiting.append((rank, Found(state.smiles, graph, nats)))
            waiting.sort(key=lambda one: -one[0])
            idle = 0 if found else idle + 1
            # The share that is due, or what is left where there are no further ones.
            count = -(-len(found) // self.particles) if found else len(waiting)
            taken, waiting = waiting[:count], waiting[count:]
            for _, one in taken:
                key = protonation_hash(one.smiles)
                if key not in seen:
                    seen.add(key)
                    given += 1
                    yield one
        raise UserError(
            f"{self.origin.smiles[:80]!r}: {given} analogues found and no further one in "
            f"{PATIENCE * PROPOSALS * TRIES:,} tries; {self.origin.advice()}"
        )


def analogs_of(
    flow: MoleculeFlow,
    molecule: str | Chem.Mol,
    *,
    keep: str = "skeleton",
    similar: float = 0.0,
    seed: int = 0,
    temperature: float = 1.0,
    atoms: tuple[int, int] | None = None,
    particles: int = 4,
) -> RedrawnAnalogs | NearAnalogs:
    """Return a sampler of analogues of a molecule, never the molecule itself.

    Args:
        flow: Density of molecules, drawn atom by atom.
        molecule: SMILES or RDKit molecule. Stereo and isotopes do not count.
        keep: One of `KEEP`.
        similar: Least Tanimoto similarity to the molecule (ECFP4, see `similarity_to`).
        seed: Of the draws.
        temperature: Below 1 for more probable analogues.
        atoms: Lowest and highest number of heavy atoms, with the scaffold kept; that of the
            molecule, `NEAR` more or less, when None.
        particles: Walks, or molecules that substitutions find, for each analogue that is taken.

    Raises:
        UserError: The model does not know the molecule, or draws no graphs atom by atom, or an
            argument is out of range.
    """
    if keep not in KEEP:
        raise UserError(f"keep is one of {', '.join(KEEP)}, not {keep!r}")
    model, vocabulary = flow.model, flow.vocabulary
    if not model.steps.supports_fragments:
        raise UserError('only a model that draws atom by atom ("path") draws analogues')
    if atoms is not None and keep != "scaffold":
        raise UserError(
            f"--size: analogues with the same {keep} have the same number of atoms as the molecule"
        )
    origin = Origin(molecule, vocabulary, model.max_nodes, similar)
    if similar and keep != "scaffold":
        return NearAnalogs(
            flow, origin, keep, seed=seed, temperature=temperature,
            particles=particles,
        )  # fmt: skip
    return RedrawnAnalogs(
        model, vocabulary, origin, keep, seed=seed, temperature=temperature, atoms=atoms,
        particles=particles,
    )  # fmt: skip
