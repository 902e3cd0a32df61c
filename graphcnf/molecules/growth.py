"""Molecules that hold a fragment, drawn from the model given it.

Walks with the fragment forced into them are drawn in rounds of a fixed number, and each has a
weight. A molecule is taken with the probability min(1, weight / threshold): rejection control (Liu,
Chen & Wong 1998). The threshold is that of all rounds, so that a round without likely molecules
gives none. With one walk per molecule all of them are taken as they come, with many the choice
approaches the model's distribution given the fragment.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rdkit import Chem

from graphcnf.errors import UserError
from graphcnf.graphs import GraphCNF
from graphcnf.graphs.constrained.particles import ConditionalWalk, Experience, Walks
from graphcnf.graphs.record_blocks import one_thread
from graphcnf.limits import check_seed, check_temperature
from graphcnf.molecules import codec
from graphcnf.molecules.fragments import MoleculeFragment, read_fragment
from graphcnf.molecules.standardize import protonation_hash
from graphcnf.molecules.validity import strict

if TYPE_CHECKING:
    from graphcnf.molecules.vocabulary import MoleculeVocabulary

ROUND = 256
"""Walks in a round."""

ROUNDS = 16
"""Rounds whose weights say which molecules are taken, the present one and those before."""

GOLDEN = (math.sqrt(5) - 1) / 2
"""Multiples of it, modulo 1, fill the unit interval evenly at every count."""

TRIAL = 64
"""Walks before the first round, which only show in which orders the model knows the fragment."""

PATIENCE = 8
"""Rounds in a row without a further molecule after which the search is given up."""

WAYS: dict[str, dict[str, Any]] = {
    "scaffold": {"is_open": True, "rings": True},
    "grow": {"is_open": True, "rings": False},
    "decorate": {"is_open": False, "rings": False, "attachments": (1, 38)},
    "link": {"is_open": False, "rings": False, "attachments": (1, 1), "parts": 2},
}
"""What `read_fragment` is told, by the name of a task. "grow" is closed where it has attachment
points."""


def fragment_of(text: str, way: str, vocabulary: MoleculeVocabulary) -> MoleculeFragment:
    """Read a fragment for one of the tasks in `WAYS`.

    Raises:
        UserError: see `read_fragment`.
    """
    options = dict(WAYS[way])
    if way == "grow" and "*" in text:
        options["is_open"] = False
    return read_fragment(text, vocabulary, **options)


def check_grows(model: GraphCNF) -> None:
    """Raise `UserError` where a model does not draw atom by atom, and so takes no fragments."""
    if not model.steps.supports_fragments:
        raise UserError('only a model that draws atom by atom ("path") takes fragments')


@dataclass
class Found:
    """A molecule with the fragment.

    Attributes:
        smiles: Canonical SMILES.
        graph: Node types, edges, edge types.
        log_weight: Of the molecule, comparable between rounds.
        ancestor: Of the walks in a round, the one that it shares free atoms with.
    """

    smiles: str
    graph: tuple
    log_weight: float
    ancestor: int = 0


@dataclass
class Aim:
    """Goal of the walks of a round: the fragment, sizes and proposal.

    Attributes:
        fragment: Atoms and bonds.
        sizes: Probabilities of the numbers of atoms, from 0 on.
        walk: Draws them.
        experience: Of earlier walks.
        tried: Whether there were any.
    """

    fragment: MoleculeFragment
    sizes: np.ndarray
    walk: ConditionalWalk
    experience: Experience
    tried: bool = False


class Growth:
    """Draws molecules with a fragment.

    Args:
        model: Atom by atom.
        vocabulary: Of the model.
        fragment: What every molecule has to hold.
        seed: Of the draws.
        temperature: Below 1 for more probable molecules.
        atoms: Lowest and highest number of heavy atoms; as in the training data when None.
        particles: Walks for each molecule that is taken.

    Attributes:
        walks: Number of walks so far.
        ended: Number of them that placed the whole fragment; the others came to a dead end.
        valid: Number of them that are valid molecules with the fragment.
        substituents: Distinct parts of the molecules given so far at each atom of the fragment with
            attachment points, see `MoleculeFragment.substituents`.

    Raises:
        UserError: The model draws no graphs atom by atom, or none that is large enough, or a number
            is out of range.
    """

    def __init__(
        self,
        model: GraphCNF,
        vocabulary: MoleculeVocabulary,
        fragment: MoleculeFragment,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        atoms: tuple[int, int] | None = None,
        particles: int = 8,
    ):
        check_grows(model)
        if not 1 <= particles <= ROUND:
            raise UserError(f"particles: 1 to {ROUND}, not {particles}")
        check_temperature(temperature)
        check_seed(seed)
        self.model, self.vocabulary = model, vocabulary
        self.seed, self.temperature, self.particles = seed, temperature, particles
        self.walks = self.ended = self.valid = 0
        self.text = fragment.text
        self.substituents: dict[int, set[str]] = {}
        self._whole = self._aim(fragment, atoms)
        self._weights: deque[np.ndarray] = deque(maxlen=ROUNDS)

    def molecules(self) -> Iterator[Found]:
        """Distinct molecules without end, the same ones for the same seed.

        Protonation states of one molecule are one.

        Raises:
            UserError: No further ones are found.
        """
        seen: set[int] = set()
        idle, number = 0, 0
        while idle < PATIENCE:
            before = len(seen)
            found = self._round(number)
            new = [one for one in found.values() if protonation_hash(one.smiles) not in seen]
            for one in self._choose(new, number):
                key = protonation_hash(one.smiles)
                if key not in seen:
                    seen.add(key)
                    self._note_substituents(one)
                    yield one
            idle = idle + 1 if len(seen) == before else 0
            number += 1
        raise UserError(
            f"{self.text[:80]!r}: {len(seen)} molecules found and no further one in "
            f"{PATIENCE * ROUND:,} tries; {self._advice(len(seen))}"
        )

    def _note_substituents(self, one: Found) -> None:
        fragment = self._whole.fragment
        if bool(fragment.fragment.sockets.any()):
            for atom, parts in fragment.substituents(codec.parse(one.smiles)).items():
                self.substituents.setdefault(atom, set()).update(parts)

    def _advice(self, found: int) -> str:
        return "ask for fewer or for other sizes" if found else "the model cannot grow from it"

    def _aim(self, fragment: MoleculeFragment, atoms: tuple[int, int] | None) -> Aim:
        part, most = fragment.fragment, self.model.max_nodes
        grows = bool((part.room + part.sockets).any())
        least = fragment.atoms + max(part.fewest_free, int(grows))
        low, high = atoms or (least, most if grows else least)
        low = max(low, least)
        if low > min(high, most):
            raise UserError(
                f"{fragment.text[:80]!r} has {fragment.atoms} atoms and needs {least} or more in "
                f"all, but molecules of up to {min(high, most)} are drawn"
            )
        sizes = self.model.size_probabilities((low, high))
        part = part.to(self.model.device)
        walk = ConditionalWalk(self.model.steps, part, temperature=self.temperature)
        return Aim(fragment, sizes, walk, Experience(fragment.atoms, self.model.device))

    def _aim_of(self, number: int) -> Aim:
        """Return the goal of a round."""
        return self._whole

    def _accepts(self, smiles: str, molecule: Chem.Mol) -> bool:
        """Return whether a molecule with the fragment is wanted."""
        return True

    def _round(self, number: int) -> dict[str, Found]:
        """Molecules of a round by SMILES, with the summed weights of their walks."""
        aim = self._aim_of(number)
        if not aim.tried:
            aim.tried = True
            self._draw(aim, 0, TRIAL)
        walks = self._draw(aim, number + 1, ROUND)
        graphs = walks.graphs.to_packed()
        found: dict[str, Found] = {}
        log_weights, ancestor = walks.log_weights.cpu().numpy(), walks.ancestor.tolist()
        self.walks += len(log_weights)
        self.ended += int(np.isfinite(log_weights).sum())
        with codec.quiet():
            for k in np.flatnonzero(np.isfinite(log_weights)):
                graph = graphs.graph(int(k))
                smiles = strict(codec.graph_to_molecule(*graph, self.vocabulary))
                if smiles is None:
                    continue
                molecule = codec.parse(smiles)
                places = aim.fragment.places(molecule)
                if not places:
                    continue
                self.valid += 1
                if not self._accepts(smiles, molecule):
                    continue
                weight = float(log_weights[k]) - math.log(places)
                if smiles in found:
                    weight = np.logaddexp(weight, found[smiles].log_weight)
                found[smiles] = Found(smiles, graph, float(weight), ancestor[k])
        return found

    def _draw(self, aim: Aim, number: int, count: int) -> Walks:
        random = np.random.default_rng((self.seed, number))
        generator = torch.Generator().manual_seed(int(random.integers(1 << 62)))
        sizes = torch.from_numpy(self._sizes(aim, number, count))
        with one_thread(self.model.device):
            walks = aim.walk.draw(sizes, aim.experience, generator)
        aim.experience.learn(walks)
        return walks

    def _sizes(self, aim: Aim, number: int, count: int) -> np.ndarray:
        """Numbers of atoms of the walks of a round, spread over their distribution, (count,)."""
        start = np.random.default_rng((self.seed, 0, 3)).random()
        places = (start + (number * ROUND + np.arange(count)) * GOLDEN) % 1
        cumulative = np.cumsum(aim.sizes)
        return np.searchsorted(cumulative, places * cumulative[-1], side="right")

    def _choose(self, found: list[Found], number: int) -> list[Found]:
        """Return the molecules of a round that are taken, in any order."""
        random = np.random.default_rng((self.seed, number + 1, 1))
        # Of those that share free atoms one at most, so that all are independent.
        groups: dict[int, list[Found]] = {}
        for one in found:
            groups.setdefault(one.ancestor, []).append(one)
        if self.particles == 1:
            return found
        taken = []
        sums = np.array([
            np.logaddexp.reduce([one.log_weight for one in group]) for group in groups.values()
        ])  # fmt: skip
        self._weights.append(sums)
        threshold = log_threshold(
            np.concatenate(self._weights), len(self._weights) * ROUND / self.particles
        )
        for group, weight in zip(groups.values(), sums, strict=True):
            if math.log(random.random()) < weight - threshold:
                ranks = [one.log_weight + random.gumbel() for one in group]
                taken.append(group[int(np.argmax(ranks))])
        return [taken[k] for k in random.permutation(len(taken))]


def log_threshold(log_weights: np.ndarray, count: float) -> float:
    """Return c with sum of min(1, weight / exp(c)) = `count`; -inf where all are taken."""
    if count >= len(log_weights):
        return -math.inf
    w = np.sort(log_weights)
    # With the n largest at 1, the rest has to sum up to count - n.
    below = np.logaddexp.accumulate(w)[::-1]
    n = np.arange(min(len(w), math.ceil(count)))
    c = below[n] - np.log(count - n)
    return float(c[np.argmax(w[::-1][n] <= c)])


def take(growth: Growth, n: int) -> list[Found]:
    """Return the first n molecules.

    Raises:
        UserError: n is negative.
    """
    if n < 0:
        raise UserError(f"n is a number of molecules, not {n}")
    return list(islice(growth.molecules(), n))
